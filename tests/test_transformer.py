"""The transformer example: what it compares, its output, and bad input."""

from pathlib import Path

import pytest
from conftest import imported_example

torch = pytest.importorskip("torch")
pytest.importorskip("tqdm")
pytest.importorskip("matplotlib")

import fastdrop.torch as fdt  # noqa: E402

SMALL = {"steps": 4, "layers": 1, "width": 16, "heads": 2, "batch-size": 2, "length": 8}
TINY = [f"--{option}={value}" for option, value in {**SMALL, "threads": 1}.items()]


@pytest.fixture(scope="module")
def example():
    with imported_example("transformer") as module:
        yield module


@pytest.fixture(autouse=True)
def _threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def arguments(example, *more):
    return example.read_arguments([*TINY, *more])


def trained(example, name, *more):
    args = arguments(example, *more)
    run = example.Run(name, args)
    for batch in example.batches(args):
        run.step(batch)
    return run


def test_the_text_is_english(example):
    text = bytes(example.read_text().astype("u1")).decode()
    assert len(text) > 300_000
    assert text.count(" the ") > 2000


def test_batches_are_pieces_of_the_text(example):
    args = arguments(example)
    text = bytes(example.read_text().astype("u1"))
    first, again = (list(example.batches(args)) for _ in range(2))
    assert len(first) == 4
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert first[0].shape == (2, 9)
    assert all(bytes(row.tolist()) in text for batch in first for row in batch)


def test_without_dropout_all_runs_are_the_same(example):
    names = (example.STOCK, example.OTHER, example.FAST)
    runs = {name: trained(example, name, "--rate", "0") for name in names}
    assert runs[example.STOCK].losses == runs[example.OTHER].losses == runs[example.FAST].losses
    assert set(example.differences(runs).values()) == {(0.0, 0.0)}


def test_with_dropout_only_the_masks_differ(example):
    names = (example.STOCK, example.OTHER, example.FAST)
    runs = {name: trained(example, name, "--rate", "0.5") for name in names}
    losses = [tuple(run.losses) for run in runs.values()]
    assert len(set(losses)) == 3
    assert losses[2] == tuple(trained(example, example.FAST, "--rate", "0.5").losses)
    assert [run.replaced for run in runs.values()] == [0, 0, 4]
    kinds = [type(m) for m in runs[example.FAST].model.modules()]
    assert kinds.count(fdt.Dropout) == 3
    assert kinds.count(fdt.MultiheadAttention) == 1
    assert not {torch.nn.Dropout, torch.nn.MultiheadAttention} & set(kinds)


def test_the_loss_falls(example):
    losses = trained(example, example.FAST, "--steps", "60", "--lr", "0.01").losses
    assert losses[0] > 7.5  # nearly log2(256): nothing is known of the bytes yet
    assert sum(losses[-10:]) / 10 < 6


def test_the_command(example, tmp_path, capsys):
    assert example.main([*TINY, "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    for expected in (
        "1 layers of 16, 2 x 8 bytes, p = 0.1, 4 steps, seed 0, threads: 1; 4 modules replaced",
        "seconds a step, median",
        "loss at the end, mean of 1, bits",
        "peak memory, MiB" if Path("/proc/self/status").exists() else "",
        str(tmp_path / "transformer.png"),
    ):
        assert expected in out
    assert (tmp_path / "transformer.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--heads", "3"], "--width 16 is not a multiple of --heads 3"),
        (["--rate", "1"], "'1' is not a rate in [0, 1)"),
        (["--length", "99999999"], "--length 99999999 is more than the text has"),
        (["--out", "nowhere"], "--out nowhere: no such folder"),
        (["--lr", "1e30", "--steps", "9"], "take a smaller --lr"),
    ],
)
def test_bad_input_is_one_line(example, options, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(example, "memory_of", lambda name, args: [1.0, 2.0])
    assert example.main([*TINY, *options]) == 2
    captured = capsys.readouterr()
    error = [line for line in captured.err.splitlines() if "it/s" not in line]
    assert len(error) == 1
    assert message in error[0]
    assert not list(tmp_path.iterdir())
