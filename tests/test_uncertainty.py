"""The Monte-Carlo dropout example: its gradients, its likelihood, its samples, and bad input."""

import math
from pathlib import Path

import numpy as np
import pytest
from conftest import imported_example

import fastdrop as fd

SMALL = ["--hidden", "8,8", "--epochs", "3", "--samples", "20", "--splits", "2"]


@pytest.fixture(scope="module")
def uncertainty():
    with imported_example("uncertainty") as module:
        yield module


@pytest.fixture
def net(uncertainty):
    """A network as the example builds it, untrained."""
    args = uncertainty.read_arguments(SMALL)
    return uncertainty.build(args, np.random.default_rng(1), 2)


def test_gradients_are_those_of_finite_differences(uncertainty, net):
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((2, 16, 1))
    masks = net.generator.state

    def loss_and_grad():
        net.generator.state = masks  # the same masks each time
        return uncertainty.squared_error(net.forward(x), y)

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


def test_the_likelihood_is_that_of_the_mixture(uncertainty):
    samples, tau = np.array([[1.0], [4.0], [4.5]]), 0.7
    y = np.linspace(-20, 30, 5001)
    normals = np.sqrt(tau / (2 * math.pi)) * np.exp(-tau / 2 * (y - samples) ** 2)
    got = uncertainty.log_likelihood(samples, y, tau)
    near = np.abs(y - 3) < 8
    np.testing.assert_allclose(np.exp(got[near]), normals.mean(axis=0)[near])
    assert np.exp(got).sum() * (y[1] - y[0]) == pytest.approx(1)
    far = uncertainty.log_likelihood(samples, np.array([1e4]), tau)  # where exp gives 0
    assert far == pytest.approx(-tau / 2 * (1e4 - 4.5) ** 2, rel=1e-6)


def test_tau_is_that_of_the_noise(uncertainty):
    y = np.random.default_rng(0).normal(20, 3, 2000)
    assert uncertainty.best_tau(np.full((1, 2000), 20.0), y) ** -0.5 == pytest.approx(y.std(), 0.02)
    spread = np.random.default_rng(1).normal(20, 2, (100, 1))  # explains a part of it
    rest = math.sqrt(y.var() - spread.var())
    assert uncertainty.best_tau(spread, y) ** -0.5 == pytest.approx(rest, 0.03)


def test_the_interval_covers_what_it_says(uncertainty):
    errors = np.random.default_rng(0).normal(0, math.hypot(1.5, 2), 20_000)
    assert abs(uncertainty.covered(errors, 1.5, 2.0**-2) - 0.95) < 0.005
    assert uncertainty.covered(errors, 0, 2.0**-2) < 0.9


def test_a_sample_is_one_function(uncertainty, net):
    x = np.array([0.3, -1.0, 0.3, 2.0, 0.3])[:, np.newaxis]
    samples = uncertainty.sample(net, x, 30)
    assert samples.shape == (30, 5)
    # BLAS may add in another order for another row
    np.testing.assert_allclose(samples[:, [2, 4]], samples[:, [0, 0]], rtol=1e-12, atol=1e-14)
    assert len(np.unique(samples[:, 0].round(9))) > 10
    layers = net.of_kind(fd.nn.Dropout)
    assert [layer.mask.keep().shape for layer in layers] == [(5, 8), (5, 8)]
    assert all((layer.mask.keep() == layer.mask.keep()[0]).all() for layer in layers)


def test_no_car_left_out_is_trained_on_or_sets_tau(uncertainty):
    args = uncertainty.read_arguments(SMALL)
    cars = uncertainty.load(args.gap, args.beyond)
    assert np.bincount(cars.region).tolist() == [227, 128, 37]
    grid = np.linspace(50, 230, 9)
    first = uncertainty.run(cars, grid, args, np.random.SeedSequence(5))
    assert (cars.region[first.trained] == 0).all()
    assert len(np.unique(first.trained)) == 227 - 2 * (227 // 5)

    spoilt = cars._replace(mpg=np.where(cars.region == 0, cars.mpg, 99.0))
    second = uncertainty.run(spoilt, grid, args, np.random.SeedSequence(5))
    np.testing.assert_array_equal(second.samples, first.samples)
    assert second.tau == first.tau
    for label, values in first.figures.items():
        assert values[0] == second.figures[label][0]
    rmse = "RMSE, mean of the samples"
    assert second.figures[rmse][1] > first.figures[rmse][1]


def test_the_spread_widens_beyond_the_cars_and_not_in_the_gap(uncertainty):
    args = uncertainty.read_arguments(["--epochs", "200", "--samples", "100"])
    cars = uncertainty.load(args.gap, args.beyond)
    seeds = np.random.SeedSequence(3).spawn(2)
    results = [uncertainty.run(cars, cars.power[:1], args, each) for each in seeds]
    trained, gap, beyond = np.mean([r.figures["std of the samples"] for r in results], axis=0)
    assert gap < trained < beyond / 1.5
    rmse, _, _ = np.mean([r.figures["RMSE, mean of the samples"] for r in results], axis=0)
    assert rmse < 0.8 * cars.mpg[cars.region == 0].std()


def test_output_repeats(uncertainty, tmp_path, capsys):
    outs = []
    for name in ("a.png", "b.png"):
        assert uncertainty.main([*SMALL, "--out", str(tmp_path / name)]) == 0
        out, err = capsys.readouterr()
        assert err == ""
        outs.append(out.splitlines())
        assert outs[-1].pop() == f"picture: {(tmp_path / name).resolve()}"
    assert outs[0] == outs[1]
    assert outs[0][:2] == [
        "1-8-8-1 with ReLU, dropout 0.2, weight decay 0.01, 20 samples, seed 0",
        "137 cars to train on, 45 for tau",
    ]
    assert outs[0][3].split() == ["trained", "on", "gap", "beyond"]
    assert outs[0][4].split() == ["cars", "tested", "45", "128", "37"]
    assert [line[:34].rstrip() for line in outs[0][5:13]] == [
        "RMSE, mean of the samples",
        "RMSE, dropout off",
        "log-likelihood, samples",
        "log-likelihood, dropout off",
        "95 % interval covers, samples",
        "95 % interval covers, dropout off",
        "std of the samples",
        "std between the splits' networks",
    ]
    a, b = ((tmp_path / name).read_bytes() for name in ("a.png", "b.png"))
    assert a == b
    assert a.startswith(b"\x89PNG")
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(
    "option",
    ["--seed=1", "--rate=.3", "--hidden=8", "--lr=.01", "--weight-decay=9", "--samples=21",
     "--epochs=4", "--batch-size=16", "--beyond=150", "--gap=90,120"],
)  # fmt: skip
def test_every_option_counts(uncertainty, option):
    results = []
    for argv in (SMALL, [*SMALL, option]):
        args = uncertainty.read_arguments(argv)
        cars = uncertainty.load(args.gap, args.beyond)
        seeds = np.random.SeedSequence(args.seed)
        results.append(uncertainty.run(cars, cars.power[:2], args, seeds).figures)
    assert results[0] != results[1]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--gap", "100"),
        ("--gap", "140,100"),
        ("--gap", "90,nan"),
        ("--gap", "300,400"),
        ("--gap", "90,170"),  # into what is beyond
        ("--gap", "40,165"),  # leaves nobody
        ("--beyond", "231"),
        ("--beyond", "120"),
        ("--rate", "0"),
        ("--rate", "1"),
        ("--hidden", "0"),
        ("--samples", "0"),
        ("--splits", "-1"),
        ("--epochs", "many"),
        ("--batch-size", "0"),
        ("--lr", "1e30"),
        ("--weight-decay", "-1"),
        ("--seed", "-1"),
        ("--out", "nowhere/picture.png"),
        ("--out", "folder"),
        ("--what", "ever"),
    ],
)
def test_a_bad_option_is_refused_by_name(uncertainty, option, value, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    assert uncertainty.main([*SMALL, option, value]) == 2
    _, err = capsys.readouterr()
    assert err.startswith("uncertainty.py: error: ")
    assert err.count("\n") == 1
    assert option in err or (option, value) == ("--out", "folder")
    assert [p.name for p in tmp_path.iterdir()] == ["folder"]


@pytest.mark.parametrize("content", [b"", b"not gzip"])
def test_a_spoilt_file_is_refused_by_name(uncertainty, content, tmp_path, capsys, monkeypatch):
    from mlxtend.data import autompg

    path = tmp_path / "autompg.csv.gz"
    path.write_bytes(content)
    monkeypatch.setattr(autompg, "DATA_PATH", str(path))
    assert uncertainty.main(["--out", str(tmp_path / "picture.png")]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("uncertainty.py: error: ")
    assert err.count("\n") == 1
    assert str(path) in err
