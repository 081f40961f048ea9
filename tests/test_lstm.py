"""The LSTM example: its gradients, its masks, its text, its output, and bad input."""

import math
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import imported_example

SMALL = ["--characters", "6000", "--hidden", "12", "--embedding", "6", "--epochs", "2"]
SMALL += ["--batch-size", "8", "--steps", "20"]
NAMES = ["no dropout", "plain masks", "locked masks"]


@pytest.fixture(scope="module")
def lstm():
    with imported_example("lstm") as module:
        yield module


def build(lstm, *, locked, rates=(0.2, 0.3, 0.4), dtype="float64"):
    rng = np.random.default_rng(1)
    options = {"locked": locked, "dropout_rng": 2, "dtype": dtype}
    return lstm.Network(7, 4, 5, rng, rates=lstm.Rates(*rates), **options)


def without_seconds(out):
    return [line for line in out.splitlines() if not line.startswith("seconds")]


# ---- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("locked", [False, True])
def test_gradients_are_those_of_finite_differences(lstm, locked):
    net = build(lstm, locked=locked)
    rng = np.random.default_rng(0)
    chars, following = rng.integers(7, size=(2, 6, 3))
    state = tuple(rng.standard_normal((2, 3, 5)))
    masks = net.generator.state

    def loss_and_grad():
        net.generator.state = masks  # the same masks each time
        scores, _ = net.forward(chars, state)
        return lstm.mnist.softmax_cross_entropy(scores, following.ravel())

    _, grad = loss_and_grad()
    net.backward(grad)
    step = 1e-6
    for weight, gradient in zip(net.weights(), net.gradients(), strict=True):
        differences = np.empty_like(weight)
        for index in np.ndindex(weight.shape):
            saved = weight[index]
            weight[index] = saved + step
            above, _ = loss_and_grad()
            weight[index] = saved - step
            below, _ = loss_and_grad()
            weight[index] = saved
            differences[index] = (above - below) / (2 * step)
        assert np.any(differences)
        np.testing.assert_allclose(gradient, differences, rtol=1e-5, atol=1e-8)


def test_the_state_is_that_of_the_textbook_equations(lstm):
    net = build(lstm, locked=False, rates=(0, 0, 0)).lstm
    rng = np.random.default_rng(0)
    x, (h, cells) = rng.standard_normal((3, 2, 4)), rng.standard_normal((2, 2, 5))
    outputs, state = net.forward(x, (h, cells))
    for x_t, output in zip(x, outputs, strict=True):
        sums = x_t @ net.inputs.weight + net.inputs.bias + h @ net.weight
        i, f, o = (1 / (1 + np.exp(-sums[:, 5 * k : 5 * (k + 1)])) for k in range(3))
        cells = f * cells + i * np.tanh(sums[:, 15:])
        h = o * np.tanh(cells)
        np.testing.assert_allclose(output, h, rtol=1e-12)
    np.testing.assert_allclose(state, (h, cells), rtol=1e-12)


@pytest.mark.parametrize("locked", [False, True])
def test_masks_are_kept_over_time_where_locked_and_nowhere_else(lstm, locked):
    net = build(lstm, locked=locked, rates=(0.5, 0.5, 0.5))
    chars = np.zeros((30, 2), int)
    sequences = []
    for _ in range(2):
        net.forward(chars, net.first_state(2))
        recurrent = np.array([step[0].keep() for step in net.lstm.steps])
        sequences.append([net.drop_inputs.mask.keep(), recurrent, net.drop_outputs.mask.keep()])
    for first, second in zip(*sequences, strict=True):
        assert (first[0] == first).all() == locked
        assert (first != second).any()
        assert 0.2 < first.mean() < 0.8
    # one position for each mask: 30 steps, or one for all of them, between inputs and outputs
    assert net.generator.position == 2 * (1 + (1 if locked else 30) + 1)
    h = np.stack([step[1] for step in net.lstm.steps])  # as it goes into the product
    assert not h[~recurrent].any()
    assert h[1:][recurrent[1:]].all()


def test_nothing_is_dropped_and_no_mask_taken_in_evaluation(lstm):
    args = lstm.read_arguments(SMALL)
    _, parts, _ = lstm.load(args)
    losses = []
    for locked, rates in ((False, (0, 0, 0)), (False, (0.5,) * 3), (True, (0.5,) * 3)):
        net = build(lstm, locked=locked, rates=rates)
        codes = parts[1] % 7
        losses.append(lstm.mean_loss(net, codes, args))
        assert net.generator.position == 0
        assert net.drop_outputs.training
    assert losses[0] == losses[1] == losses[2]


def test_blind_guessing_has_the_perplexity_of_the_alphabet(lstm):
    net = build(lstm, locked=False)
    net.scores.weight[...] = 0
    codes = np.arange(1000) % 7
    loss = lstm.mean_loss(net, codes, lstm.read_arguments(SMALL))
    assert math.exp(loss) == pytest.approx(7)


def test_windows_read_each_stream_to_its_end_and_carry_the_state(lstm):
    codes = np.random.default_rng(0).integers(7, size=302)
    whole = list(lstm.windows(codes, 3, 1000))
    assert len(whole) == 1
    chars, following = whole[0]
    assert chars.shape == following.shape == (100, 3)
    np.testing.assert_array_equal(chars.T.ravel(), codes[:300])
    np.testing.assert_array_equal(following.T.ravel(), codes[1:301])

    net = build(lstm, locked=False).train(False)
    scores, last = net.forward(chars, net.first_state(3))
    state, pieces = net.first_state(3), []
    for part, _ in lstm.windows(codes, 3, 32):
        piece, state = net.forward(part, state)
        pieces.append(piece)
    assert [len(piece) for piece in pieces] == [96, 96, 96, 12]
    np.testing.assert_allclose(np.concatenate(pieces), scores, rtol=1e-12)
    np.testing.assert_allclose(state, last, rtol=1e-12)


def test_gradients_are_clipped_by_their_common_norm(lstm):
    class Kept:
        def step(self, gradients):
            self.gradients = gradients

    net, optimizer = build(lstm, locked=True), Kept()
    chars, following = np.random.default_rng(0).integers(7, size=(2, 6, 3))
    lstm.train_step(net, optimizer, chars, following, net.first_state(3), 1e-3)
    norm = math.sqrt(sum(np.square(g).sum() for g in optimizer.gradients))
    assert norm == pytest.approx(1e-3)
    clipped, whole = (
        np.concatenate([g.ravel() for g in gradients])
        for gradients in (optimizer.gradients, net.gradients())
    )
    np.testing.assert_allclose(clipped / norm, whole / np.linalg.norm(whole))


def test_all_three_start_from_the_same_weights_and_see_the_same_text(lstm):
    args = lstm.read_arguments([*SMALL, "--epochs", "1"])
    _, parts, n_chars = lstm.load(args)
    tiny = lstm.Rates(*[1e-300] * 3)
    nets = [
        lstm.run("", parts, n_chars, args, **options)[0]
        for options in ({}, {"rates": tiny}, {"rates": tiny, "locked": True})
    ]
    for weights in zip(*(net.weights() for net in nets), strict=True):
        np.testing.assert_array_equal(weights[0], weights[1])
        np.testing.assert_array_equal(weights[0], weights[2])


def test_it_learns(lstm):
    args = lstm.read_arguments([*SMALL, "--epochs", "6", "--lr", "0.02"])
    codes = np.tile(
        np.random.default_rng(0).permutation(30), 60
    )  # each follows from the one before
    parts = lstm.split(codes)
    for options in ({}, {"rates": lstm.Rates(0.1, 0.1, 0.1), "locked": True}):
        _, curves, _ = lstm.run("", parts, 30, args, **options)
        assert np.exp(curves[0, 2]) > 5
        assert np.exp(curves[-1, 2]) < 2


# ---- text ----------------------------------------------------------------------------------------


def test_the_text_is_prose_and_says_nothing_twice(lstm):
    text = lstm.prose()
    assert len(text) > 150_000
    paragraphs = text.split("\n")
    assert len(set(paragraphs)) == len(paragraphs)
    assert sum(text.count(word) for word in (" the ", " of ", " a ", " is ")) > len(text) / 100


def test_the_parts_are_disjoint_and_whole(lstm):
    parts = lstm.split(np.arange(10_007))
    assert sorted(np.concatenate(parts)) == list(range(10_007))
    assert [round(len(part) / 10_007, 2) for part in parts] == [0.7, 0.15, 0.15]


# ---- from end to end -----------------------------------------------------------------------------


def test_output_repeats_and_adds_up(lstm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    outs, pictures = [], []
    for _ in range(2):
        assert lstm.main(SMALL) == 0
        out, err = capsys.readouterr()
        assert err == ""
        outs.append(without_seconds(out))
        pictures.append((tmp_path / lstm.PICTURE).read_bytes())
    assert outs[0] == outs[1]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert [p.name for p in tmp_path.iterdir()] == [lstm.PICTURE]

    lines = outs[0]
    assert lines[0].startswith("6,000 characters of pydoc_data.topics of Python 3.")
    assert lines[1] == "4,200 to train on, 900 for validation, 900 for test"
    assert re.split(r"\s{2,}", lines[4].strip()) == NAMES
    perplexities = [float(cell) for cell in lines[6].split()[-3:]]
    bits = [float(cell) for cell in lines[7].split()[-3:]]
    np.testing.assert_allclose(np.log2(perplexities), bits, atol=1e-3)
    assert lines[-1] == f"learning curves: {(tmp_path / lstm.PICTURE).resolve()}"


def test_seed_and_every_option_count(lstm, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lstm, "draw", lambda *results: None)  # it takes longest
    monkeypatch.setattr(lstm.mnist, "save", lambda figure, path: None)
    text = tmp_path / "own.txt"
    text.write_text(lstm.prose()[50_000:60_000], encoding="utf-8")
    options = [
        [],
        ["--seed", "1"],
        ["--text", str(text)],
        ["--characters", "3500"],
        ["--input-rate", "0.5"],
        ["--recurrent-rate", "0.5"],
        ["--output-rate", "0.5"],
        ["--hidden", "13"],
        ["--embedding", "7"],
        ["--batch-size", "7"],
        ["--steps", "21"],
        ["--max-norm", "0.01"],
        ["--lr", "0.01"],
        ["--epochs", "2"],
    ]
    tables = set()
    for option in options:
        assert lstm.main([*SMALL, "--characters", "3000", "--epochs", "1", *option]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        tables.add("\n".join(without_seconds(out)[4:-1]))
    assert len(tables) == len(options)


def test_the_best_epoch_is_chosen_by_validation(lstm):
    curves = np.log([[5.0, 6.0, 7.0], [4.0, 5.0, 8.0], [3.0, 5.5, 6.5]])
    result = lstm.Result(curves, 1.0)
    assert result.best == 1
    lines = lstm.table(dict.fromkeys(NAMES, result)).splitlines()
    assert lines[1].split()[-3:] == ["2"] * 3
    assert lines[2].split()[-3:] == ["8.000"] * 3
    assert lines[3].split()[-3:] == ["3.000"] * 3
    assert lines[5].split()[-3:] == ["6.500"] * 3
    assert lines[7].split()[-3:] == ["3.000"] * 3


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--input-rate", "1"),
        ("--recurrent-rate", "-0.1"),
        ("--output-rate", "nan"),
        ("--hidden", "0"),
        ("--embedding", "many"),
        ("--epochs", "0"),
        ("--steps", "-1"),
        ("--characters", "0"),
        ("--characters", "20"),
        ("--batch-size", "1000000"),
        ("--lr", "inf"),
        ("--max-norm", "0"),
        ("--seed", "-1"),
        ("--text", "nowhere.txt"),
        ("--out", "nowhere/lstm.png"),
        ("--what", "ever"),
    ],
)
def test_a_bad_option_is_refused_by_name(lstm, option, value, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert lstm.main([option, value]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("lstm.py: error: ")
    assert option in err
    assert str(Path(value).parent if option == "--out" else value) in err
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("content", "word"), [(b"\xff\xfe\x00", "UTF-8"), (b"", "0 characters"), (b"short", "longer")]
)
def test_an_unusable_text_is_refused_by_name(lstm, content, word, tmp_path, capsys):
    text = tmp_path / "own.txt"
    text.write_bytes(content)
    assert lstm.main(["--text", str(text), "--out", str(tmp_path / "p.png")]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert str(text) in err
    assert word in err
    assert [p.name for p in tmp_path.iterdir()] == ["own.txt"]


def test_a_python_without_the_text_says_so(lstm, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    assert lstm.main([*SMALL, "--out", str(tmp_path / "p.png")]) == 2
    _, err = capsys.readouterr()
    assert "--text FILE" in err


@pytest.mark.parametrize("lr", ["1e3", "1e30"])
def test_a_loss_that_diverges_is_refused(lstm, lr, tmp_path, capsys):
    assert lstm.main([*SMALL, "--lr", lr, "--out", str(tmp_path / "p.png")]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert f"--lr than {float(lr):g}" in err
    assert not any(tmp_path.iterdir())
