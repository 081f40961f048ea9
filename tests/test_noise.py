"""Gaussian noise: the numbers to the bit, their distribution, and what is done with them."""

import json
import math
import pickle
from decimal import Decimal, localcontext

import ml_dtypes
import numpy as np
import pytest
from conftest import bits_of

import fastdrop as fd
from fastdrop import _reference, nn
from fastdrop.selftest import known_answers

SEED, POSITION = 2**63 + 11, 5


def noise_of(n, sd=0.7, additive=False, first=0):
    whole = fd.Noise(SEED, POSITION, first + n, sd, additive=additive)
    return whole[first:]


# ---- the numbers ---------------------------------------------------------------------------------

VECTORS = known_answers("normal_v1")


@pytest.mark.parametrize("kind", ["runs", "words"])
def test_known_answers(isa, kind):
    """Made in rational arithmetic, from Philox words of another library."""
    for v in VECTORS[kind]:
        want = np.array([int(bits, 16) for bits in v["normals"].split()], np.uint32)
        z = fd.Noise(v["seed"], v["position"], 2**58)[v["start"] : v["start"] + v["n"]].normals()
        np.testing.assert_array_equal(bits_of(z), want)
        if kind == "words":
            of_word = _reference.normal_of(np.array([int(v["word"], 16)]))
            np.testing.assert_array_equal(bits_of(of_word), want)


@pytest.mark.parametrize("first", [0, 1, 63, 64, 1000, 2**34 - 70, 2**58 - 300])
@pytest.mark.parametrize("n", [1, 3, 64, 65, 300])
def test_numbers_are_those_of_the_stream(isa, first, n):
    want = _reference.normal(SEED, POSITION, np.uint64(first) + np.arange(n, dtype=np.uint64))
    np.testing.assert_array_equal(bits_of(noise_of(n, first=first).normals()), bits_of(want))


@pytest.mark.parametrize("additive", [False, True])
@pytest.mark.parametrize("n", [1, 7, 64, 1000])
def test_values(isa, dtype, n, additive):
    x = np.random.default_rng(n).standard_normal(n).astype(dtype)
    noise = noise_of(n, additive=additive)
    want = _reference.noisy(x, noise.normals(), 0.7, additive)
    np.testing.assert_array_equal(bits_of(noise.apply(x)), bits_of(want))
    y = x.copy()
    assert noise.apply(y, out=y) is y
    np.testing.assert_array_equal(bits_of(y), bits_of(want))
    grad = x if additive else want
    np.testing.assert_array_equal(bits_of(noise.backward(x)), bits_of(grad))


def quantile_error(words):
    """Relative errors of the normal numbers of words with bit 31 clear, to 25 digits."""
    errors = []
    with localcontext() as context:
        context.prec = 40
        pi = Decimal("3.141592653589793238462643383279502884197")
        for word, z in zip(words, _reference.normal_of(words).tolist(), strict=True):
            z = Decimal(z)
            # the distance from the centre by the series of the integral; from the end likewise
            term, total, n = z, z, 0
            while abs(term) > Decimal(10) ** -36:
                n += 1
                term *= -z * z / (2 * n)
                total += term / (2 * n + 1)
            centre = total / (2 * pi).sqrt()
            wanted = Decimal(2**32 - 2 * word - 1) / 2**33
            density = (-z * z / 2).exp() / (2 * pi).sqrt()
            step = (wanted - centre) / density
            errors.append(abs(float(step / (z + step))))
    return np.array(errors)


def test_error_of_the_numbers_tails_included():
    """Relative error below 5e-7 everywhere; the exhaustive maximum was 4.37e-7."""
    rng = np.random.default_rng(0)
    ends = [*range(40), *(2**30 + k for k in range(-20, 20)), *(2**31 - 1 - k for k in range(40))]
    powers = [2**k + j for k in range(2, 30) for j in (-1, 0, 1)]
    words = [*ends, *powers, 3590244, 139843, 2130681842, *rng.integers(0, 2**31, 600).tolist()]
    errors = quantile_error(words)
    assert errors.max() < 5e-7
    assert errors.max() > 4.3e-7  # that the worst words are among them: the test can see an error
    assert np.sqrt(np.square(errors).mean()) < 1.5e-7


def test_numbers_are_symmetric_and_bounded():
    words = np.random.default_rng(1).integers(0, 2**31, 10_000)
    z = _reference.normal_of(words)
    np.testing.assert_array_equal(_reference.normal_of(words + 2**31), -z)
    ends = _reference.normal_of(np.array([0, 2**31 - 1]))
    np.testing.assert_allclose(ends, [6.3379577545537895, 2.9180993728805335e-10], rtol=5e-7)


def test_distribution():
    n = 1 << 20
    z = np.sort(fd.Noise(0, 0, n).normals()).astype(float)
    # Kolmogorov-Smirnov against the normal distribution function
    cdf = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])
    distance = max(abs(cdf - np.arange(n) / n).max(), abs(cdf - np.arange(1, n + 1) / n).max())
    assert distance < 1.95 / math.sqrt(n)  # p = .001
    for power, moment in ((1, 0), (2, 1), (3, 0), (4, 3), (6, 15)):
        spread = math.sqrt(math.prod(range(2 * power - 1, 0, -2)) / n)
        assert abs((z**power).mean() - moment) < 4 * spread


def test_elements_and_positions_are_independent():
    n = 1 << 18
    z = fd.Noise(1, 0, n).normals()
    others = [z[1:], z[2:], z[4:], z[64:], fd.Noise(1, 1, n).normals(), fd.Noise(2, 0, n).normals()]
    for other in others:
        for f in (lambda v: v, np.square, np.sign):
            assert abs(np.corrcoef(f(z[: len(other)]), f(other))[0, 1]) < 4.5 / math.sqrt(n)
    kept = fd.Generator(1).mask(n, 0.5).keep()
    assert abs(np.corrcoef(kept, z)[0, 1]) < 4.5 / math.sqrt(n)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_any_split_gives_the_whole(split_small_calls, threads):
    fd.set_num_threads(threads)
    x = np.random.default_rng(0).standard_normal((9, 1500))
    noise = fd.Noise(SEED, POSITION, x.shape, 0.3)
    want = _reference.noisy(
        x.ravel(), _reference.normal(SEED, POSITION, np.arange(x.size)), 0.3, False
    )
    np.testing.assert_array_equal(noise.apply(x).ravel(), want)
    for key in (np.s_[2:5], np.s_[:, 7:900], np.s_[3, 100:], np.s_[:, 4], np.s_[1:1]):
        np.testing.assert_array_equal(noise[key].apply(x[key]), noise.apply(x)[key])


# ---- the functions -------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.1, 0.2, 0.5, 0.8])
def test_gaussian_dropout_has_the_spread_of_dropout(p):
    y = fd.gaussian_dropout(np.ones((400, 500)), p, rng=0)
    assert y.std() == pytest.approx(math.sqrt(p / (1 - p)), rel=0.01)
    assert y.mean() == pytest.approx(1, abs=0.01)


def test_gaussian_noise_has_its_spread():
    y = fd.gaussian_noise(np.full((400, 500), 3.0), 0.3, rng=0)
    assert y.std() == pytest.approx(0.3, abs=0.003)
    assert y.mean() == pytest.approx(3, abs=0.003)


CALLS = [
    (fd.gaussian_dropout, nn.GaussianDropout, 0.3),
    (fd.gaussian_noise, nn.GaussianNoise, 0.3),
]


@pytest.mark.parametrize(("function", "layer", "rate"), CALLS)
def test_function_and_layer(function, layer, rate, dtype):
    x = np.random.default_rng(0).standard_normal((5, 6)).astype(dtype)
    gen = fd.Generator(4)
    y, noise = function(x, rate, rng=gen, return_mask=True)
    assert (noise.seed, noise.position, gen.position) == (4, 0, 1)
    assert y.dtype == dtype
    np.testing.assert_array_equal(bits_of(noise.apply(x)), bits_of(y))
    made = layer(rate, rng=4)
    np.testing.assert_array_equal(bits_of(made(x)), bits_of(y))
    np.testing.assert_array_equal(bits_of(made.backward(x)), bits_of(noise.backward(x)))
    assert function(x, rate, training=False) is x
    out = np.empty_like(x)
    assert function(x, rate, training=False, out=out) is out
    np.testing.assert_array_equal(bits_of(out), bits_of(x))
    y, noise = function(x, rate, training=False, return_mask=True)
    np.testing.assert_array_equal(bits_of(noise.backward(x)), bits_of(x))
    out = np.asfortranarray(x)
    assert function(out, rate, rng=4, out=out) is out
    np.testing.assert_array_equal(bits_of(out), bits_of(made.mask.apply(x)))
    assert made.eval()(x) is x
    np.testing.assert_array_equal(bits_of(function(x, 0.0, rng=1)), bits_of(x))


@pytest.mark.parametrize(("function", "layer", "rate"), CALLS)
def test_state_and_bad_input(function, layer, rate):
    x = np.ones(10)
    made = layer(rate, rng=3)
    made(x)
    saved = json.loads(json.dumps(made.state_dict()))
    other = layer(0.0, rng=0)
    other.load_state_dict(saved)
    np.testing.assert_array_equal(other(x), made(x))
    gen = fd.Generator(0)
    for bad, error in ((-0.1, ValueError), (math.nan, ValueError), (math.inf, ValueError)):
        with pytest.raises(error, match=r"p=|stddev="):
            function(x, bad, rng=gen)
        with pytest.raises(error, match=r"p=|stddev="):
            layer(bad)
    for bad in (True, "0.5", None, Decimal(1)):
        with pytest.raises(TypeError, match=r"p must|stddev must"):
            function(x, bad, rng=gen)
    with pytest.raises(TypeError, match="x has dtype int64"):
        function(np.arange(3), rate, rng=gen)
    with pytest.raises(ValueError, match="out has shape"):
        function(x, rate, rng=gen, out=np.ones(3))
    assert gen.position == 0
    with pytest.raises(RuntimeError, match="backward before the first forward"):
        layer(rate).backward(x)


def test_rates_that_have_no_noise():
    with pytest.raises(ValueError, match=r"p=1\.0.*\[0, 1\)"):
        fd.gaussian_dropout(np.ones(3), 1.0)
    with pytest.raises(ValueError, match=r"p=1\.0"):
        nn.GaussianDropout(1)
    layer = nn.GaussianNoise(2)
    assert repr(layer) == "GaussianNoise(stddev=2.0)"
    with pytest.raises(AttributeError, match="has stddev, not p"):
        layer.p = 0.5
    with pytest.raises(AttributeError, match="has stddev, not p"):
        layer.p  # noqa: B018
    layer.stddev = 0.5
    assert layer.stddev == 0.5


@pytest.mark.parametrize("name", ["gaussian_dropout", "gaussian_noise"])
def test_gradient_against_finite_differences(name):
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 30))
    _, noise = getattr(fd, name)(x, 0.3, rng=0, return_mask=True)
    dx = noise.backward(g)
    eps = 1e-6
    for i in range(30):
        step = np.zeros(30)
        step[i] = eps
        slope = ((noise.apply(x + step) - noise.apply(x - step)) * g).sum() / (2 * eps)
        assert slope == pytest.approx(dx[i], abs=1e-7)


# ---- the recipe ----------------------------------------------------------------------------------


def test_a_noise_is_a_small_value():
    noise = fd.Noise(SEED, POSITION, (3, 4, 5), 0.5, additive=True)[1:, :, 2]
    assert len(pickle.dumps(noise)) < 300
    for copy in (
        pickle.loads(pickle.dumps(noise)),
        fd.Noise.from_dict(json.loads(json.dumps(noise.to_dict()))),
    ):
        assert copy == noise
        assert hash(copy) == hash(noise)
        np.testing.assert_array_equal(copy.normals(), noise.normals())
    assert noise != fd.Noise(SEED, POSITION, (2, 4), 0.5, additive=True)
    assert noise != "noise"
    assert (noise.sd, noise.additive, noise.shape) == (0.5, True, (2, 4))
    assert repr(noise) == (
        f"Noise(seed={SEED}, position=5, shape=(2, 4), sd=0.5, additive=True, first=22)"
    )
    with pytest.raises(AttributeError, match="a Noise cannot be changed"):
        noise.sd = 1.0


def test_bad_recipes():
    with pytest.raises(ValueError, match="sd=-1"):
        fd.Noise(0, 0, 3, -1)
    with pytest.raises(ValueError, match=r"sd=1e\+39 must be from 0 to 3\.4e\+38"):
        fd.Noise(0, 0, 3, 1e39)
    with pytest.raises(ValueError, match=r"2\*\*58"):
        fd.Noise(0, 0, 2**59)
    with pytest.raises(ValueError, match="x has shape"):
        fd.Noise(0, 0, 3).apply(np.ones(4))
    good = fd.Noise(0, 0, 3).to_dict()
    for change, error in (({"stream": 2}, ValueError), ({"strides": [1, 1]}, ValueError)):
        with pytest.raises(error):
            fd.Noise.from_dict(good | change)
    with pytest.raises(ValueError, match="one for each element"):
        fd.Noise.from_dict(good | {"strides": [0]})
    with pytest.raises(TypeError, match="strides must be"):
        fd.Noise.from_dict(good | {"strides": 5})
    with pytest.raises(TypeError, match="additive must be"):
        fd.Noise.from_dict(good | {"additive": "no"})
    with pytest.raises(ValueError, match="reaches past"):
        fd.Noise.from_dict(good | {"first": 2**58})
    with pytest.raises(TypeError, match="noise must be a dict"):
        fd.Noise.from_dict([1])
    with pytest.raises(ValueError, match="lacks"):
        fd.Noise.from_dict({"stream": 1})


def test_special_values(isa):
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-310])
    for dtype in (np.float64, np.float32, np.float16, ml_dtypes.bfloat16):
        y = fd.Noise(0, 0, 6, 0.25).apply(x.astype(dtype)).astype(np.float64)
        assert np.isnan(y[0])
        np.testing.assert_array_equal(np.sign(y[1:5]), [1, -1, 0, 0])
        np.testing.assert_array_equal(np.isinf(y[1:5]), [1, 1, 0, 0])
