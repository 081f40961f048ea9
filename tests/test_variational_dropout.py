"""Variational dropout: samples against their definition, gradients against finite differences."""

import copy
import json
import math
import pickle
import warnings

import numpy as np
import pytest

import fastdrop as fd
from fastdrop import _reference, nn

SHAPES = [(), (1,), (3,), (5, 1), (1, 3), (5, 3)]  # of log_alpha, for weights of (5, 3)


def arrays(dtype=np.float64, seed=0):
    """x, the weights, the bias and a gradient by the output."""
    rng = np.random.default_rng(seed)
    shapes = (7, 5), (5, 3), (3,), (7, 3)
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


def normals(shape, seed, position=0):
    index = np.arange(math.prod(shape), dtype=np.uint64)
    return _reference.normal(seed, position, index).reshape(shape)


def sampled(x, weight, log_alpha, bias, z):
    """Kingma, Salimans and Welling 2015, equation 6, with the posterior of section 3."""
    mean = np.einsum("ni,io->no", x, weight)
    variance = np.einsum("ni,io->no", x**2, np.exp(log_alpha) * weight**2)
    return mean + np.sqrt(variance) * z + bias


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_definition(dtype, shape):
    x, weight, bias, _ = arrays(dtype)
    log_alpha = np.random.default_rng(1).standard_normal(shape)
    gen = fd.Generator(7, position=2)
    y, noise = fd.variational_dropout(x, weight, log_alpha, bias=bias, rng=gen, return_mask=True)
    assert (y.dtype, y.shape, gen.position) == (dtype, (7, 3), 3)
    assert (noise.seed, noise.position, noise.shape, noise.sd) == (7, 2, (7, 3), 1)
    wide = [a.astype(float) for a in (x, weight, bias)]
    want = sampled(*wide[:2], log_alpha, wide[2], normals((7, 3), 7, 2))
    close = {8: 1e-12, 4: 1e-5}.get(dtype.itemsize, 0.05 if dtype.name == "bfloat16" else 0.01)
    np.testing.assert_allclose(y.astype(float), want, rtol=close, atol=close)
    again = fd.variational_dropout(x, weight, log_alpha, bias=bias, rng=fd.Generator(7, position=2))
    np.testing.assert_array_equal(again, y)


def test_outputs_have_the_distribution_of_noisy_weights():
    """The local reparametrisation: mean and variance of x @ w, for w drawn for each example."""
    n, (x, weight, _, _) = 40_000, arrays()
    x, log_alpha = x[:1], np.random.default_rng(1).standard_normal((5, 3))
    y = fd.variational_dropout(np.repeat(x, n, 0), weight, log_alpha, rng=0)
    z = np.random.default_rng(2).standard_normal((n, 5, 3))
    drawn = np.einsum("i,nio->no", x[0], weight * (1 + np.exp(log_alpha / 2) * z))
    sd = np.sqrt(np.square(x) @ (np.exp(log_alpha) * weight**2))[0]
    for sample in (y, drawn):
        assert (abs(sample.mean(0) - (x @ weight)[0]) < 4.5 * sd / np.sqrt(n)).all()
        assert (abs(sample.std(0) / sd - 1) < 4.5 / np.sqrt(2 * n)).all()
    assert (abs(np.corrcoef(y.T) - np.eye(3)) < 4.5 / np.sqrt(n)).all()


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients_against_finite_differences(shape):
    x, weight, bias, grad = arrays()
    log_alpha = np.random.default_rng(1).standard_normal(shape)
    layer = nn.VariationalDropout(shape=shape, rng=9)
    layer.log_alpha = log_alpha

    def loss(x, weight, bias, log_alpha):
        return (grad * fd.variational_dropout(x, weight, log_alpha, bias=bias, rng=9)).sum()

    layer(x, weight, bias)
    given = x, weight, bias, log_alpha
    gradients = layer.backward(grad)
    of_function = fd.variational_dropout_backward(grad, x, weight, layer.mask, log_alpha)
    for got, want in zip(of_function, (gradients[0], gradients[1], gradients[3]), strict=True):
        np.testing.assert_array_equal(got, want)
    eps = 1e-6
    for k, gradient in enumerate(gradients):
        assert gradient.shape == given[k].shape
        for at in np.ndindex(gradient.shape):
            step = np.zeros(gradient.shape)
            step[at] = eps
            up, down = (
                loss(*(a + s if i == k else a for i, a in enumerate(given))) for s in (step, -step)
            )
            assert (up - down) / (2 * eps) == pytest.approx(gradient[at], rel=1e-6, abs=1e-7)


def test_gradients_by_additive_noise():
    """The sparse paper's parametrisation, by the formula in the docstring."""
    x, weight, _, grad = arrays()
    log_sigma2 = np.random.default_rng(1).standard_normal((5, 3))

    def forward(w):
        log_alpha = log_sigma2 - np.log(w**2)
        y, noise = fd.variational_dropout(x, w, log_alpha, rng=9, return_mask=True)
        return (grad * y).sum(), noise, log_alpha

    _, noise, log_alpha = forward(weight)
    _, dw, da = fd.variational_dropout_backward(grad, x, weight, noise, log_alpha)
    np.testing.assert_allclose(dw - 2 * da / weight, x.T @ grad, rtol=1e-9)  # noise has no part
    step = np.zeros((5, 3))
    step[1, 2] = 1e-6
    slope = (forward(weight + step)[0] - forward(weight - step)[0]) / 2e-6
    assert slope == pytest.approx((dw - 2 * da / weight)[1, 2], rel=1e-6)


def test_gradients_keep_dtypes(dtype):
    x, weight, bias, grad = arrays(dtype)
    layer = nn.VariationalDropout(0.3, shape=(5, 3), rng=2)
    layer(x, weight, bias)
    *gradients, dlog_alpha = layer.backward(grad)
    assert {g.dtype for g in gradients} == {dtype}
    assert dlog_alpha.dtype == np.float64
    wide = nn.VariationalDropout(0.3, shape=(5, 3), rng=2)
    wide(*(a.astype(float) for a in (x, weight, bias)))
    close = {8: 1e-12, 4: 1e-4}.get(dtype.itemsize, 0.02)
    for got, want in zip((*gradients, dlog_alpha), wide.backward(grad.astype(float)), strict=True):
        np.testing.assert_allclose(got.astype(float), want, rtol=close, atol=close)


def test_outputs_without_variance_have_no_gradient_by_it():
    x, weight, _, grad = arrays()
    x[2] = 0
    with np.errstate(all="raise"):
        y, noise = fd.variational_dropout(x, weight, 0.0, rng=0, return_mask=True)
        dx, dweight, dlog_alpha = fd.variational_dropout_backward(grad, x, weight, noise, 0.0)
    assert (y[2] == 0).all()
    np.testing.assert_array_equal(dx[2], (grad @ weight.T)[2])
    assert np.isfinite(dweight).all()
    assert np.isfinite(dlog_alpha)


def test_inference_leaves_weights_out():
    x, weight, bias, grad = arrays()
    log_alpha = np.random.default_rng(1).normal(3, 1, (5, 3))
    log_alpha[0, 0] = 3.0  # no longer below
    kept = weight * (log_alpha < 3)
    y, noise = fd.variational_dropout(
        x, weight, log_alpha, bias=bias, training=False, return_mask=True
    )
    np.testing.assert_array_equal(y, x @ kept + bias)
    dx, dweight, dlog_alpha = fd.variational_dropout_backward(grad, x, weight, noise, log_alpha)
    np.testing.assert_array_equal(dx, grad @ kept.T)
    np.testing.assert_array_equal(dweight, (x.T @ grad) * (log_alpha < 3))
    np.testing.assert_array_equal(dlog_alpha, np.zeros((5, 3)))

    layer = nn.VariationalDropout(shape=(5, 3), rng=0).eval()
    layer.log_alpha = log_alpha
    np.testing.assert_array_equal(layer(x, weight, bias), y)
    np.testing.assert_array_equal(layer.backward(grad)[1], dweight)
    assert layer.sparsity() == np.mean(log_alpha >= 3) > 0
    assert layer.sparsity(-99) == 1
    assert layer.sparsity(math.inf) == 0
    layer.threshold = math.inf
    np.testing.assert_array_equal(layer(x, weight), x @ weight)
    assert layer.sparsity() == 0
    assert repr(layer).endswith("shape=(5, 3), threshold=inf)")


def test_layouts_and_two_types():
    x, weight, _, grad = arrays()
    y, noise = fd.variational_dropout(x, weight, 0.0, rng=0, return_mask=True)
    want = fd.variational_dropout_backward(grad, x, weight, noise, 0.0)
    for a, w in (
        (np.asfortranarray(x), weight.astype(">f8")),
        (x.tolist(), weight[:, ::-1][:, ::-1]),
    ):
        np.testing.assert_array_equal(fd.variational_dropout(a, w, 0, rng=0), y)
        got = fd.variational_dropout_backward(grad, a, w, noise, 0)
        for g, h in zip(got, want, strict=True):
            np.testing.assert_array_equal(g, h)
            assert g.dtype.isnative
    x = x.astype(np.float32)
    got = fd.variational_dropout(x, weight, 0.0, rng=0)
    np.testing.assert_array_equal(got, fd.variational_dropout(x.astype(float), weight, 0.0, rng=0))


def test_what_is_refused():
    x, weight, bias, grad = arrays()
    gen = fd.Generator(0)
    for bad, error, match in (
        ({"x": x[0]}, ValueError, r"x has shape \(5,\)"),
        ({"weight": weight.T}, ValueError, r"weight has shape \(3, 5\)"),
        ({"x": x.astype(int)}, TypeError, "x has dtype int64"),
        ({"log_alpha": np.zeros(5)}, ValueError, r"log_alpha has shape \(5,\).*to weight's"),
        ({"log_alpha": np.zeros((7, 5, 3))}, ValueError, "log_alpha has shape"),
        ({"log_alpha": np.nan}, ValueError, "log_alpha must be finite; it holds nan"),
        ({"log_alpha": "a"}, TypeError, "log_alpha"),
        ({"bias": bias[:2]}, ValueError, "bias has shape"),
        ({"bias": bias.astype(np.float32)}, TypeError, "bias has dtype float32"),
        ({"threshold": np.nan}, ValueError, "threshold=nan"),
        ({"threshold": None}, TypeError, "threshold must be a real number"),
        ({"training": "yes"}, TypeError, "training"),
        ({"rng": "0"}, TypeError, "rng"),
    ):
        with pytest.raises(error, match=match):
            fd.variational_dropout(**{"x": x, "weight": weight, "log_alpha": 0.0, "rng": gen} | bad)
    huge = np.ones((2**23, 1), np.float32), np.ones((1, 2**24), np.float32)
    with pytest.raises(MemoryError):  # half a petabyte
        fd.variational_dropout(*huge, 0.0, rng=gen)
    assert gen.position == 0
    _, noise = fd.variational_dropout(x, weight, 0.0, rng=gen, return_mask=True)
    given = {"grad": grad, "x": x, "weight": weight, "mask": noise, "log_alpha": 0.0}
    for bad, error, match in (
        ({"grad": grad[1:]}, ValueError, "grad has shape"),
        ({"grad": grad.astype(np.float32)}, TypeError, "grad has dtype float32"),
        ({"mask": noise[1:]}, ValueError, r"mask has shape \(6, 3\); it must be \(7, 3\)"),
        ({"mask": fd.Mask(0, 0, (7, 3))}, TypeError, "mask must be a Noise, not Mask"),
        ({"threshold": "a"}, TypeError, "threshold"),
        ({"log_alpha": np.inf}, ValueError, "log_alpha must be finite"),
    ):
        with pytest.raises(error, match=match):
            fd.variational_dropout_backward(**given | bad)
    layer = nn.VariationalDropout(rng=0)
    with pytest.raises(RuntimeError, match="before the first forward"):
        layer.backward(grad)
    for name, wrong, error in (
        ("threshold", np.nan, ValueError),
        ("threshold", "a", TypeError),
        ("log_alpha", [0.0], ValueError),
        ("log_alpha", np.inf, ValueError),
        ("p", 1.0, ValueError),
    ):
        with pytest.raises(error, match=name):
            setattr(layer, name, wrong)
    with pytest.raises(ValueError, match="threshold=nan"):
        nn.VariationalDropout(threshold=np.nan)
    with pytest.raises(ValueError, match=r"log_alpha has shape \(3,\)"):
        nn.VariationalDropout(shape=3).kl(np.ones((3, 5)))


def test_p_and_log_alpha_are_one_parameter():
    """alpha = p / (1-p), as in Gaussian dropout."""
    layer = nn.VariationalDropout(0.2, rng=0)
    assert np.exp(layer.log_alpha) == pytest.approx(0.25, rel=1e-15)
    _, noise = fd.gaussian_dropout(np.ones(3), layer.p, rng=0, return_mask=True)
    assert noise.sd**2 == pytest.approx(np.exp(layer.log_alpha), rel=1e-14)
    held = layer.log_alpha
    layer.p = 0.5
    layer.log_alpha += 3.0
    assert held == 3
    assert layer.p == pytest.approx(0.9526, abs=1e-4)  # the paper's 0.95
    assert repr(layer) == "VariationalDropout(p=0.9526)"


def test_state_is_saved_to_the_bit():
    x, weight, _, grad = arrays()
    layer = nn.VariationalDropout(0.3, shape=(5, 3), rng=4)
    layer.log_alpha -= np.random.default_rng(0).standard_normal((5, 3))
    layer(x, weight)
    saved = json.loads(json.dumps(layer.state_dict()))
    assert saved["log_alpha"] == layer.log_alpha.tolist()
    copies = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    want = layer(x, weight)
    other = nn.VariationalDropout(shape=(5, 3), rng=0)
    other.load_state_dict(saved)
    for one in (other, *copies):
        np.testing.assert_array_equal(one.log_alpha, layer.log_alpha)
        with pytest.raises(RuntimeError, match="before the first forward"):
            one.backward(grad)
        np.testing.assert_array_equal(one(x, weight), want)
    with pytest.raises(ValueError, match=r"log_alpha has shape \(\); this layer's has \(5, 3\)"):
        other.load_state_dict(saved | {"log_alpha": 0.0})
    with pytest.raises(ValueError, match="state needs 'log_alpha'"):
        other.load_state_dict(nn.ConcreteDropout(rng=0).state_dict())


# ---- the divergence ------------------------------------------------------------------------------

GRID = np.linspace(-10, 12, 2201)


def exact_kl(log_alpha):
    """E log|e| for e ~ N(1, alpha), minus log(alpha)/2, plus the constant that makes it end at 0.

    e**2 / alpha is noncentral chi-square, a Poisson mixture of chi-squares whose logarithms have
    the mean digamma(1/2 + j) + log 2.
    """
    half = np.exp(-log_alpha) / 2
    j = np.arange(int(half + 40 * np.sqrt(half) + 60))
    log_factorials = np.concatenate([[0], np.cumsum(np.log(j[1:]))])
    weights = np.exp(j * np.log(half) - half - log_factorials)
    digammas = -np.euler_gamma - 2 * np.log(2)
    digammas = digammas + np.concatenate([[0], np.cumsum(2 / (2 * j[1:] - 1))])
    mean_log = 0.5 * (log_alpha + (weights * (digammas + np.log(2))).sum())
    return mean_log - 0.5 * log_alpha + (np.euler_gamma + np.log(2)) / 2


@pytest.mark.parametrize("log_alpha", [-3.0, -1.0, 0.0, 1.0, 3.0])
def test_the_exact_divergence_by_integration(log_alpha):
    """Midpoints, which step over the logarithm's pole."""
    h = 1e-5
    z = np.arange(-9 + h / 2, 9, h)
    values = np.log(np.abs(1 + np.exp(log_alpha / 2) * z)) * np.exp(-0.5 * z * z)
    mean_log = values.sum() * h / np.sqrt(2 * np.pi)
    want = mean_log - 0.5 * log_alpha + (np.euler_gamma + np.log(2)) / 2
    assert exact_kl(log_alpha) == pytest.approx(want, abs=2e-5)


def test_the_published_approximation_is_as_close_as_the_docstring_says():
    kl, _ = fd.variational_kl(GRID)
    errors = kl - [exact_kl(a) for a in GRID]
    assert 0.0093 < abs(errors).max() <= 0.0094
    assert GRID[abs(errors).argmax()] == pytest.approx(-3.5, abs=0.05)
    assert abs(errors[GRID >= -2.5]).max() <= 0.0054
    constant = (errors.max() + errors.min()) / 2
    assert abs(errors - constant).max() < 0.009  # the paper's figure
    assert abs(errors[-1]) < 1e-5
    for said in ("0.009", "0.0094", "-3.5", "0.0054"):
        assert said in fd.variational_kl.__doc__


def test_the_divergence_falls_and_its_derivative_is_right():
    kl, dkl = fd.variational_kl(GRID)
    assert (dkl < 0).all()
    assert (np.diff(kl) < 0).all()
    eps = 1e-5
    slopes = (fd.variational_kl(GRID + eps)[0] - fd.variational_kl(GRID - eps)[0]) / (2 * eps)
    np.testing.assert_allclose(dkl, slopes, rtol=1e-5, atol=1e-9)
    with np.errstate(all="raise"):
        kl, dkl = fd.variational_kl([-1e4, 1e4])
    assert kl.tolist() == [5e3 + 0.63576, 0]
    assert dkl.tolist() == [-0.5, 0]
    assert fd.variational_kl(0)[0].shape == ()
    with pytest.raises(ValueError, match="log_alpha must be finite"):
        fd.variational_kl(np.nan)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_layers_divergence_counts_every_weight(shape):
    weight = np.ones((5, 3))
    layer = nn.VariationalDropout(shape=shape, rng=0)
    layer.log_alpha = np.random.default_rng(1).standard_normal(shape)
    value, dlog_alpha = layer.kl(weight)
    whole = np.broadcast_to(layer.log_alpha, (5, 3))
    assert type(value) is float
    assert value == pytest.approx(fd.variational_kl(whole)[0].sum(), rel=1e-14)
    eps, before = 1e-6, layer.log_alpha.copy()
    for at in np.ndindex(shape):
        values = []
        for step in (eps, -eps):
            layer.log_alpha = before
            layer.log_alpha[at] += step
            values.append(layer.kl(weight)[0])
        assert (values[0] - values[1]) / (2 * eps) == pytest.approx(dlog_alpha[at], rel=1e-6)


def test_useless_weights_are_found():
    """Regression on eight inputs of which two matter: the other six are left out."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 8))
    target = x[:, :2] @ np.array([[2.0], [-3.0]]) + 0.5 * rng.standard_normal((400, 1))
    layer = nn.VariationalDropout(0.1, shape=(8, 1), threshold=1.0, rng=0)
    weight = 0.1 * np.ones((8, 1))
    for step in range(1500):
        y = layer(x, weight)
        _, dweight, _, dlog_alpha = layer.backward((y - target) / 0.25 / len(x))
        _, more = layer.kl(weight)
        weight -= 0.02 * dweight
        layer.log_alpha -= 10 * (dlog_alpha + min(1, step / 500) * more / len(x))
        np.clip(layer.log_alpha, -8, 8, out=layer.log_alpha)
    assert (layer.log_alpha[:2] < -6).all()
    assert (layer.log_alpha[2:] >= 1).all()
    assert layer.sparsity() == 0.75
    error = layer.eval()(x, weight) - target
    assert np.square(error).mean() == pytest.approx(0.25, rel=0.15)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("log_alpha", [89.0, 800.0])
def test_a_weight_of_zero_has_no_noise_however_large_alpha(dtype, log_alpha):
    weight, log_alphas = np.array([[0], [1]], dtype), np.array([[log_alpha], [0.0]])
    x = np.ones((3, 2), dtype)
    y, mask = fd.variational_dropout(x, weight, log_alphas, rng=0, return_mask=True)
    assert np.isfinite(y).all()
    assert y.dtype == dtype
    dx, dweight, dlog_alpha = fd.variational_dropout_backward(
        np.ones((3, 1), dtype), x, weight, mask, log_alphas
    )
    assert np.isfinite(dweight).all()
    assert np.isfinite(dlog_alpha).all()
    assert np.isfinite(dx).all()
    assert dlog_alpha[0, 0] == 0.0 != dlog_alpha[1, 0]


@pytest.mark.parametrize("kind", [nn.VariationalDropout, nn.DropConnect])
@pytest.mark.parametrize(("dtype", "large"), [(np.float16, 3e4), (np.float32, 3e38)])
def test_a_bias_gradient_overflows_in_silence(kind, dtype, large):
    layer = kind(0.1, rng=0)
    x, weight, grad = np.ones((4, 3), dtype), np.ones((3, 2), dtype), np.full((4, 2), large, dtype)
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(x, weight)
        gradients = layer.backward(grad)
    assert np.isinf(gradients[2]).all()
    assert gradients[2].dtype == dtype
