"""The convolutional example: its gradients, its dropout, its output, and bad input."""

import math

import numpy as np
import pytest
from conftest import imported_example

import fastdrop as fd

TRAIN, TEST = 60, 20


@pytest.fixture(scope="module")
def cnn():
    with imported_example("cnn") as module:
        yield module


def idx(array):
    """An array of bytes as an IDX file."""
    sizes = np.array(array.shape, ">u4").tobytes()
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The four files of a small, easy data set."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    digits = np.kron(rng.integers(0, 2, (10, 4, 4)), np.full((7, 7), 127))
    for part, n in (("train", TRAIN), ("t10k", TEST)):
        labels = np.arange(n) % 10
        noisy = digits[labels] + rng.integers(0, 128, (n, 28, 28))
        (folder / f"{part}-images-idx3-ubyte").write_bytes(idx(noisy))
        (folder / f"{part}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def small(folder, tmp_path, *options):
    defaults = {"--epochs": "2", "--seeds": "2", "--batch-size": "25"}
    defaults |= {"--data": str(folder), "--out": str(tmp_path / "cnn.png")}
    defaults |= dict(zip(options[::2], options[1::2], strict=True))
    return [word for pair in defaults.items() for word in pair]


def refused(cnn, capsys, *argv):
    """The one line that says why `argv` is refused."""
    assert cnn.main([str(word) for word in argv]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("cnn.py: error: ")
    assert err.count("\n") == 1
    return err


# ---- the layers ----------------------------------------------------------------------------------


def test_convolution_is_the_sum_over_each_patch(cnn):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 7, 6, 3))
    layer = cnn.Convolution(3, 4, rng, "float64")
    layer.bias[:] = rng.standard_normal(4)
    y = layer.forward(x)
    assert y.shape == (2, 5, 4, 4)
    weight = layer.weight.reshape(3, 3, 3, 4)
    for i, j in np.ndindex(5, 4):
        want = np.einsum("nhwc,hwck->nk", x[:, i : i + 3, j : j + 3], weight) + layer.bias
        np.testing.assert_allclose(y[:, i, j], want)


def test_pooling_takes_the_largest_and_leaves_odd_edges_out(cnn):
    x = np.zeros((1, 5, 4, 1))
    x[0, :, :, 0] = [[1, 2, 7, 7], [4, 3, 7, 7], [0, 0, -5, -6], [0, 9, -8, -7], [99, 99, 99, 99]]
    pool = cnn.MaxPool()
    np.testing.assert_array_equal(pool.forward(x)[0, :, :, 0], [[4, 7], [9, -5]])
    grad = pool.backward(np.array([[[[1.0], [2.0]], [[3.0], [4.0]]]]))[0, :, :, 0]
    want = [[0, 0, 2, 0], [1, 0, 0, 0], [0, 0, 4, 0], [0, 3, 0, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(grad, want)  # of four 7s one gets it all


def settings_of(cnn, kind):
    return cnn.ORDERS[kind] if kind in cnn.ORDERS else {"dropout": cnn.KINDS[kind]}


KINDS = ["no dropout", "element dropout", "channel dropout"]
ORDERS = [
    "batch norm alone",
    "dropout alone",
    "dropout, norm",
    "norm, dropout",
    "norm, dropout last",
]


@pytest.mark.parametrize("kind", KINDS + ORDERS)
def test_gradients_are_those_of_finite_differences(cnn, kind):
    assert [*cnn.KINDS, *cnn.ORDERS] == KINDS + ORDERS
    rng = np.random.default_rng(1)
    x, labels = rng.random((2, 14, 14, 1)), np.array([3, 8])
    net = cnn.ConvNet(
        rng, **settings_of(cnn, kind), rate=0.5, dropout_rng=2, dtype="float64", size=14
    )
    for norm in net.batch_norms():  # not at the values where they would not be seen
        norm.weight[:] = rng.uniform(0.5, 2, norm.weight.shape)
        norm.bias[:] = rng.standard_normal(norm.bias.shape)
    masks = net.generator.state

    def loss_and_grad():
        net.generator.state = masks  # the same masks each time
        return cnn.mnist.softmax_cross_entropy(net.forward(x), labels)

    _, grad = loss_and_grad()
    net.backward(grad)
    step = 1e-6
    for weight, gradient in zip(net.weights(), net.gradients(), strict=True):
        assert gradient.shape == weight.shape
        chosen = np.unravel_index(
            rng.choice(weight.size, min(weight.size, 40), False), weight.shape
        )
        differences = []
        for index in zip(*chosen, strict=True):
            saved = weight[index]
            weight[index] = saved + step
            above, _ = loss_and_grad()
            weight[index] = saved - step
            below, _ = loss_and_grad()
            weight[index] = saved
            differences.append((above - below) / (2 * step))
        # what batch norm takes away again, the bias of the convolution before it, has no gradient
        taken = bool(net.batch_norms()) and any(weight is b for b in biases(cnn, net))
        if not (taken and np.allclose(differences, 0, atol=1e-8)):
            assert np.any(differences)
        np.testing.assert_allclose(gradient[chosen], differences, rtol=1e-5, atol=1e-8)


def biases(cnn, net):
    return [layer.bias for layer in net.of_kind(cnn.Convolution)]


def test_batch_norm_by_its_definition(cnn):
    rng = np.random.default_rng(0)
    x, grad = rng.normal(3, 2, (6, 4, 5, 3)), rng.standard_normal((6, 4, 5, 3))
    norm = cnn.BatchNorm(3, "float64")
    norm.weight[:], norm.bias[:] = rng.uniform(0.5, 2, 3), rng.standard_normal(3)
    y = norm.forward(x)
    np.testing.assert_allclose(y.mean((0, 1, 2)), norm.bias)
    np.testing.assert_allclose(y.std((0, 1, 2)), norm.weight, rtol=1e-5)
    np.testing.assert_allclose(norm.mean, 0.1 * x.mean((0, 1, 2)))
    np.testing.assert_allclose(norm.variance, 0.9 + 0.1 * x.var((0, 1, 2)))
    dx = norm.backward(grad)
    dweight, dbias = norm.weight_grad, norm.bias_grad

    def loss(x):
        return (grad * norm.forward(x)).sum()

    for at in [tuple(rng.integers(x.shape)) for _ in range(25)]:
        step = np.zeros_like(x)
        step[at] = 1e-5
        slope = (loss(x + step) - loss(x - step)) / 2e-5
        assert slope == pytest.approx(dx[at], abs=1e-7)
    for parameter, gradient in ((norm.weight, dweight), (norm.bias, dbias)):
        for k in range(3):
            saved = parameter[k]
            parameter[k] = saved + 1e-5
            above = loss(x)
            parameter[k] = saved - 1e-5
            below = loss(x)
            parameter[k] = saved
            assert (above - below) / 2e-5 == pytest.approx(gradient[k], abs=1e-6)
    norm.training = False
    mean, variance = norm.mean.copy(), norm.variance.copy()
    want = (x - mean) / np.sqrt(variance + 1e-5) * norm.weight + norm.bias
    np.testing.assert_allclose(norm.forward(x), want)
    np.testing.assert_array_equal(norm.mean, mean)  # evaluation saves nothing
    np.testing.assert_array_equal(norm.variance, variance)


# ---- the kinds of dropout ------------------------------------------------------------------------


def test_each_kind_drops_after_each_block_what_its_name_says(cnn):
    x = np.ones((8, 28, 28, 1), np.float32)
    for kind, decisions in (
        ("element dropout", [(8, 13, 13, 16), (8, 5, 5, 32)]),
        ("channel dropout", [(8, 1, 1, 16), (8, 1, 1, 32)]),
    ):
        net = cnn.ConvNet(np.random.default_rng(0), dropout=cnn.KINDS[kind], rate=0.5)
        net.forward(x)
        assert [layer.mask.noise_shape for layer in net.dropouts()] == decisions
        dropped = [1 - layer.mask.keep().mean() for layer in net.dropouts()]
        np.testing.assert_allclose(dropped, 0.5, atol=0.15)
        before = net.generator.position
        assert before == 2
        np.testing.assert_array_equal(net.train(False).forward(x), net.forward(x))
        assert net.generator.position == before
    assert not cnn.ConvNet(np.random.default_rng(0)).dropouts()


def test_each_order_is_what_its_name_says(cnn):
    before, norm, after = "Dropout", "BatchNorm", "Dropout"
    block = ["Convolution", "ReLU", "MaxPool"]
    normed = [block[0], norm, *block[1:]]
    rest = ["Flatten", "Dense", "ReLU", "Dense"]
    want = {
        "batch norm alone": normed + normed,
        "dropout alone": [*block, after] * 2,
        "dropout, norm": [block[0], before, norm, *block[1:]] * 2,
        "norm, dropout": [*normed, after] * 2,
        "norm, dropout last": [*normed, *normed, after],
    }
    for kind, layers in want.items():
        net = cnn.ConvNet(np.random.default_rng(0), **cnn.ORDERS[kind], rate=0.5, dropout_rng=0)
        assert [type(layer).__name__ for layer in net.layers] == layers + rest
        net.train(False)
        assert not any(layer.training for layer in net.dropouts() + net.batch_norms())


def test_variance_shifts_where_dropout_comes_before_batch_norm(cnn, folder):
    """By about the variance that dropout adds: (1-p) of it where the mean is 0 (Li et al. 2018)."""
    data = cnn.load(folder)
    args = cnn.read_arguments(["--epochs", "10", "--batch-size", "10", "--rate", "0.5"])
    shifts = {}
    for kind in cnn.ORDERS:
        net, _, _, _ = cnn.run(kind, data, args, seed=0)
        shifts[kind] = cnn.variance_shifts(net, data[0])
        assert all(layer.training for layer in net.batch_norms())
    assert shifts["dropout alone"].shape == (0,)
    for kind in ("batch norm alone", "norm, dropout last"):
        np.testing.assert_allclose(shifts[kind], 1, atol=0.15)
    assert np.all(shifts["dropout, norm"] < 0.7)
    first, second = shifts["norm, dropout"]
    assert first == pytest.approx(1, abs=0.15)
    assert second < 0.85  # its own dropout is behind it, but that of the block before is not


def test_all_kinds_start_from_the_same_weights_and_see_the_same_batches(cnn, folder):
    data = cnn.load(folder)
    args = cnn.read_arguments(["--epochs", "1", "--rate", "1e-300"])
    trained = [cnn.run(kind, data, args, seed=3)[0].weights() for kind in cnn.KINDS]
    for weights in zip(*trained, strict=True):
        np.testing.assert_array_equal(weights[0], weights[1])
        np.testing.assert_array_equal(weights[0], weights[2])


# ---- from end to end -----------------------------------------------------------------------------


def test_output_repeats(cnn, folder, tmp_path, capsys):
    outs, pictures = [], []
    for _ in range(2):
        assert cnn.main(small(folder, tmp_path)) == 0
        out, err = capsys.readouterr()
        assert err == ""
        outs.append([line for line in out.splitlines() if not line.startswith("seconds")])
        pictures.append((tmp_path / "cnn.png").read_bytes())
    assert outs[0] == outs[1]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert pictures[0].endswith(b"IEND\xaeB`\x82")
    assert [path.name for path in tmp_path.iterdir()] == ["cnn.png"]
    lines = outs[0]
    assert "60 training and 20 test images, 2 epochs in batches of 25" in lines[0]
    assert lines[0].endswith("seeds 0 to 1")
    assert [line[:26].strip() for line in lines[3:7]] == [
        "train accuracy, mean",
        "test accuracy, mean",
        "lowest to highest seed",
        "gap, in points",
    ]
    assert lines[-1] == f"picture: {(tmp_path / 'cnn.png').resolve()}"


def test_orders_of_batch_norm(cnn, folder, tmp_path, capsys):
    outs = []
    for _ in range(2):
        assert cnn.main([*small(folder, tmp_path, "--seeds", "1"), "--batch-norm"]) == 0
        out, _ = capsys.readouterr()
        outs.append([line for line in out.splitlines() if not line.startswith("seconds")])
    assert outs[0] == outs[1]
    assert "dropout 0.25 and batch norm:" in outs[0][0]
    for name in cnn.ORDERS:
        assert name in outs[0][2]
    first, second = outs[0][7:9]
    assert first.startswith("variance shift, norm 1")
    assert second.startswith("variance shift, norm 2")
    cells = first.split()[4:]
    assert cells[1] == "-"
    assert float(cells[2]) < 1
    assert (tmp_path / "cnn.png").read_bytes().startswith(b"\x89PNG")


def test_seed_and_every_option_count(cnn, folder):
    data = cnn.load(folder)
    weights = set()
    for seed, option in (
        (0, "--rate=0.25"),  # as without it
        (0, "--rate=0.5"),
        (0, "--epochs=1"),
        (0, "--batch-size=20"),
        (0, "--lr=0.001"),
        (1, "--rate=0.25"),
        (0, "--seed=0"),
    ):
        args = cnn.read_arguments(["--epochs", "2", "--batch-size", "30", option])
        net, tests, _, _ = cnn.run("element dropout", data, args, seed)
        assert len(tests) == args.epochs
        weights.add(net.weights()[0].tobytes())
    assert len(weights) == 6


def test_the_table_says_what_was_measured(cnn):
    test = np.array([[0.90, 0.92], [0.93, 0.97], [0.95, 0.95]])
    seconds = (10.0, 0.0), (11.0, 0.5), (12.0, 1.0)
    lines = cnn.table(test, np.ones((3, 2)), seconds, n_test=1000).splitlines()
    assert lines[1].split()[-3:] == ["100.00%"] * 3
    assert lines[2].split()[-3:] == ["91.00%", "95.00%", "95.00%"]
    assert "90.00% to 92.00%  93.00% to 97.00%  95.00% to 95.00%" in lines[3]
    assert lines[4].split()[-3:] == ["9.00", "5.00", "5.00"]
    assert lines[5].split()[-3:] == ["10.0", "11.0", "12.0"]
    assert lines[6].split()[-3:] == ["-", "0.50", "1.00"]
    chance = 100 * math.sqrt(test.mean() * (1 - test.mean()) / 1000)
    assert f"1,000 images is {chance:.2f} points" in lines[-1]


def test_it_learns_and_the_picture_shows_what_is_dropped(cnn, folder):
    data = cnn.load(folder)
    args = cnn.read_arguments(["--epochs", "10", "--batch-size", "10"])
    nets = []
    for kind in cnn.KINDS:
        net, tests, train, _ = cnn.run(kind, data, args, seed=0)
        nets.append(net)
        assert tests[-1] >= 0.8, kind
        assert train >= 0.8, kind
    assert [type(net.dropouts()[0]) for net in nets[1:]] == [fd.nn.Dropout, fd.nn.Dropout2d]
    maps, elements, channels = cnn.feature_maps(nets, data[2][:1])
    assert maps.shape == elements.shape == channels.shape == (13, 13, 16)
    assert (channels == channels[:1, :1]).all()
    assert not (elements == elements[:1, :1]).all()
    mosaic = cnn.mosaic(maps, -1.0)
    assert mosaic.shape == (27, 8 * 14 - 1)
    np.testing.assert_array_equal(mosaic[:13, :13], maps[..., 0])
    np.testing.assert_array_equal(mosaic[14:, 14:27], maps[..., 9])
    assert (mosaic[13] == -1).all()


# ---- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rate", "1"),
        ("--rate", "nan"),
        ("--epochs", "0"),
        ("--batch-size", "-1"),
        ("--lr", "0"),
        ("--seed", "-1"),
        ("--seeds", "0"),
        ("--seeds", "three"),
        ("--data", "nowhere"),
        ("--out", "nowhere/cnn.png"),
        ("--what", "ever"),
    ],
)
def test_a_bad_option_is_refused_by_name(cnn, option, value, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    err = refused(cnn, capsys, option, value)
    assert option in err
    assert value.split("/")[0] in err
    assert not any(tmp_path.iterdir())


def test_a_folder_in_place_of_the_picture_is_refused(cnn, folder, tmp_path, capsys):
    (tmp_path / "cnn.png").mkdir()
    assert str(tmp_path / "cnn.png") in refused(cnn, capsys, *small(folder, tmp_path))


def test_a_loss_that_diverges_is_refused(cnn, folder, tmp_path, capsys):
    err = refused(cnn, capsys, *small(folder, tmp_path, "--lr", "1e30"))
    assert "--lr than 1e+30" in err
    assert not any(tmp_path.iterdir())
