"""The autograd example: its three runs, its output, and bad input."""

import numpy as np
import pytest
from conftest import imported_example

pytest.importorskip("autograd")

SMALL = ["--hidden", "8,8", "--epochs", "2", "--batch-size", "500"]


@pytest.fixture(scope="module")
def example():
    with imported_example("autograd_mnist") as module:
        yield module


def test_the_command(example, tmp_path, capsys):
    lines = []
    for _ in range(2):
        assert example.main([*SMALL, "--out", str(tmp_path)]) == 0
        out = capsys.readouterr().out
        lines.append([line[:34] for line in out.splitlines() if "%" in line])
        assert (tmp_path / "autograd_mnist.png").read_bytes().startswith(b"\x89PNG")
    assert lines[0] == lines[1]  # test digits that are right
    names = (example.NONE, example.IDIOM, example.FAST)
    assert [line[:24].strip() for line in lines[0]] == list(names)


def test_all_learn_and_differ(example):
    args = example.read_arguments(["--hidden", "64,64", "--lr", "0.01", "--rate", "0.1"])
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500)
    x = np.eye(10, 784, dtype=np.float32)[labels] + rng.random((500, 784), np.float32) / 10
    runs = [example.Run(drop, args) for drop in example.dropouts(args).values()]
    first = [run.weights[0][0].copy() for run in runs]
    assert all((w == first[0]).all() for w in first)
    for run in runs:
        for _ in range(60):
            run.step(x, labels)
        run.test(x, labels)
        assert run.right[-1] > 0.9
    after = [run.weights[0][0] for run in runs]
    assert not np.array_equal(after[1], after[2])
    assert all(w.dtype == np.float32 for w in after)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rate", "1"], "'1' is not a rate in [0, 1)"),
        (["--epochs", "0"], "--epochs: '0' is not a whole number from 1 on"),
        (["--out", "nowhere"], "--out nowhere: no such folder"),
        (["--lr", "1e30"], "take a smaller --lr"),
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid", "ignore:divide")
def test_bad_input_is_one_line(example, options, message, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert example.main([*SMALL, *options]) == 2
    error = capsys.readouterr().err
    assert message in error.splitlines()[-1]
    assert not list(tmp_path.iterdir())
