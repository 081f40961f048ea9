"""Concrete dropout: gates against their definition, gradients against finite differences."""

import copy
import json
import pickle

import ml_dtypes
import numpy as np
import pytest

import fastdrop as fd
from fastdrop import _reference, nn

SHAPES = [(), (5,), (7, 3), (2, 3, 4), (0, 4)]


def logit(p):
    return np.log(p / (1 - p))


def numbers(shape, seed=7, position=0):
    """The uniform numbers of the stream, by its oracle, moved to the middles of their intervals."""
    index = np.arange(np.prod(shape, dtype=int), dtype=np.uint64)
    return (_reference.uniform(seed, position, index).reshape(shape) + 0.5) * 2.0**-40


def relaxed(x, u, p, temperature):
    """Gal, Hron and Kendall 2017, equation 5, with 1-u for u."""
    z = (np.log(p) - np.log(1 - p) + np.log(1 - u) - np.log(u)) / temperature
    keep = 1 / (1 + np.exp(z))  # 1 - sigmoid(z), which would lose digits
    return x * keep / (1 - p)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [0.05, 0.5, 0.8])
@pytest.mark.parametrize("temperature", [0.1, 0.7, 3.0])
def test_the_definition(dtype, shape, p, temperature):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    gen = fd.Generator(7)
    y, mask = fd.concrete_dropout(x, logit(p), temperature, rng=gen, return_mask=True)
    assert (y.dtype, y.shape, gen.position) == (dtype, shape, 1)
    assert (mask.seed, mask.position, mask.shape) == (7, 0, shape)
    assert mask.p == pytest.approx(p, rel=1e-15)
    want = relaxed(x.astype(float), numbers(shape), p, temperature)
    eps = float(ml_dtypes.finfo(dtype).eps)
    np.testing.assert_allclose(
        y.astype(float), want, rtol=max(eps, 1e-12), atol=1e-7 * (eps > 1e-4)
    )
    np.testing.assert_array_equal(fd.concrete_dropout(x, logit(p), temperature, rng=7), y)


@pytest.mark.parametrize("p", [0.001, 0.1, 0.5, 0.9])
def test_gates_tend_to_the_hard_mask_of_their_position(p):
    x = np.random.default_rng(0).random((100, 200)) + 1
    hard, mask = fd.dropout(x, p, rng=fd.Generator(3, position=5), return_mask=True)
    soft = {
        t: fd.concrete_dropout(x, logit(p), t, rng=fd.Generator(3, position=5))
        for t in (1.0, 0.1, 0.01, 1e-9)
    }
    for y in soft.values():  # drop is above one half where the hard mask drops, and only there
        np.testing.assert_array_equal(y > x / (1 - p) / 2, mask.keep())
    np.testing.assert_allclose(soft.pop(1e-9), hard, rtol=1e-13)
    distances = [np.abs(y - hard).mean() for y in soft.values()]
    assert distances == sorted(distances, reverse=True)
    _, relaxed_mask = fd.concrete_dropout(
        x, logit(p), rng=fd.Generator(3, position=5), return_mask=True
    )
    np.testing.assert_array_equal(relaxed_mask.keep(), mask.keep())


def test_a_rate_a_unit_tends_to_an_array_of_rates():
    x, rates = np.ones((300, 5)), np.array([0.01, 0.2, 0.5, 0.8, 0.99])
    soft = fd.concrete_dropout(x, logit(rates), 1e-9, rng=4)
    np.testing.assert_allclose(soft, fd.dropout(x, rates, rng=4), rtol=1e-13)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_decisions_have_the_concrete_distribution(temperature):
    """Maddison et al. 2017: the share of gates with drop < s is a logistic function."""
    n, p = 100_000, 0.3
    drop = 1 - (1 - p) * fd.concrete_dropout(np.ones(n), logit(p), temperature, rng=1)
    for s in (0.01, 0.3, 0.5, 0.9, 0.99):
        share = 1 / (1 + np.exp(logit(p) - temperature * logit(s)))
        sd = np.sqrt(share * (1 - share) / n)
        assert abs((drop < s).mean() - share) < 4.5 * sd


@pytest.mark.parametrize("shape", [(), (5,), (4, 1), (1, 1), (4, 5), (3, 1, 5), (3, 4, 5)])
@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_gradients_against_finite_differences(shape, temperature):
    rng = np.random.default_rng(0)
    x, grad = rng.standard_normal((2, 3, 4, 5))
    logits = rng.standard_normal(shape)

    def loss(x, logits):
        return (grad * fd.concrete_dropout(x, logits, temperature, rng=9)).sum()

    _, mask = fd.concrete_dropout(x, logits, temperature, rng=9, return_mask=True)
    dx, dlogit = fd.concrete_dropout_backward(grad, x, mask, logits, temperature)
    assert dlogit.shape == shape
    assert dlogit.dtype == np.float64
    eps = 1e-6
    for at in np.ndindex(shape):
        step = np.zeros(shape)
        step[at] = eps
        slope = (loss(x, logits + step) - loss(x, logits - step)) / (2 * eps)
        assert slope == pytest.approx(dlogit[at], rel=1e-6, abs=1e-7)
    for at in np.ndindex(x.shape):
        step = np.zeros(x.shape)
        step[at] = eps
        slope = (loss(x + step, logits) - loss(x - step, logits)) / (2 * eps)
        assert slope == pytest.approx(dx[at], rel=1e-6, abs=1e-7)


def test_gradients_where_every_gate_is_shut_or_open():
    """No overflow on the way: p is 0 or 1 but for what a float64 cannot hold."""
    x = np.array([1.0, -2.0, np.inf])
    with np.errstate(all="raise"):
        for logits, y in ((800.0, 0.0), (-800.0, x)):
            got, mask = fd.concrete_dropout(x[:2], logits, rng=0, return_mask=True)
            np.testing.assert_allclose(got, np.broadcast_to(y, 3)[:2], atol=1e-300)
            dx, dlogit = fd.concrete_dropout_backward(x[:2], x[:2], mask, logits)
            np.testing.assert_allclose(dx, np.broadcast_to(y, 3)[:2], atol=1e-300)
            assert dlogit == 0
        assert fd.concrete_dropout(x, -800.0, rng=0)[2] == np.inf


def test_gradients_keep_dtypes(dtype):
    rng = np.random.default_rng(0)
    x, grad = rng.standard_normal((2, 6, 5)).astype(dtype)
    logits = np.linspace(-2, 2, 5).astype(dtype)
    _, mask = fd.concrete_dropout(x, logits, rng=2, return_mask=True)
    dx, dlogit = fd.concrete_dropout_backward(grad, x, mask, logits)
    wide = [a.astype(float) for a in (grad, x)]
    want = fd.concrete_dropout_backward(*wide, mask, logits.astype(float))
    assert dx.dtype == dtype
    np.testing.assert_array_equal(dx, want[0].astype(dtype))
    np.testing.assert_array_equal(dlogit, want[1])
    ones = fd.concrete_dropout_backward(np.ones_like(x), np.ones_like(x), mask, logits)[0]
    np.testing.assert_array_equal(ones, fd.concrete_dropout(np.ones_like(x), logits, rng=2))


def test_shared_decisions_and_layouts():
    x = np.random.default_rng(0).standard_normal((6, 5, 4))
    y = fd.concrete_dropout(x, 0.0, rng=3, noise_shape=(None, None, 1))
    want = relaxed(x, numbers((6, 5, 1), seed=3), 0.5, 0.1)
    np.testing.assert_allclose(y, want, rtol=1e-12)
    whole, mask = fd.concrete_dropout(x, 0.0, rng=3, return_mask=True)
    for other in (np.asfortranarray(x), x.astype(">f8"), x[::-1][::-1], x.tolist()):
        got = fd.concrete_dropout(other, 0.0, rng=3)
        np.testing.assert_array_equal(got, whole)
        assert got.flags.c_contiguous
        assert got.dtype.isnative
    grad = np.ones_like(x)
    total, parts = fd.concrete_dropout_backward(grad, x, mask, 0.0)[1], 0.0
    for rows in (np.s_[:2], np.s_[2:]):  # shards
        part = fd.concrete_dropout_backward(grad[rows], x[rows], mask[rows], 0.0)
        np.testing.assert_allclose(part[0], whole[rows] / x[rows], rtol=1e-14)
        parts += part[1]
    np.testing.assert_allclose(parts, total, rtol=1e-12)


def test_inference():
    x = np.ones((3, 4), np.float32)
    y, mask = fd.concrete_dropout(x, 0.0, training=False, return_mask=True)
    assert y is x
    assert mask.keep().all()
    dx, dlogit = fd.concrete_dropout_backward(x, x, mask, np.zeros(4))
    assert dx is not x
    np.testing.assert_array_equal(dx, x)
    np.testing.assert_array_equal(dlogit, np.zeros(4))


def test_what_is_refused():
    x, gen = np.ones((3, 4)), fd.Generator(0)
    for bad, error, match in (
        ({"x": x.astype(int)}, TypeError, "x has dtype int64"),
        ({"logit": np.zeros(3)}, ValueError, r"logit has shape \(3,\).*broadcast to x's, \(3, 4\)"),
        ({"logit": np.zeros((1, 3, 4))}, ValueError, "logit has shape"),
        ({"logit": np.nan}, ValueError, "logit must be finite; it holds nan"),
        ({"logit": [0.0, 0, -np.inf, 0]}, ValueError, "logit must be finite; it holds -inf"),
        ({"logit": "a"}, TypeError, "logit"),
        ({"logit": True}, TypeError, "logit must be a real number"),
        ({"logit": None}, TypeError, "logit"),
        ({"temperature": 0}, ValueError, "temperature=0 must be above 0"),
        ({"temperature": np.nan}, ValueError, "temperature=nan"),
        ({"temperature": "hot"}, TypeError, "temperature must be a real number"),
        ({"training": "yes"}, TypeError, "training"),
        ({"noise_shape": (1, 2)}, ValueError, "noise_shape"),
        ({"rng": "0"}, TypeError, "rng"),
    ):
        with pytest.raises(error, match=match):
            fd.concrete_dropout(**{"x": x, "logit": 0.0, "rng": gen} | bad)
    with pytest.raises(MemoryError):  # 16 TiB and more
        fd.concrete_dropout(np.broadcast_to(np.float32(1), (1 << 14, 1 << 21, 1 << 10)), 0, rng=gen)
    assert gen.position == 0
    _, mask = fd.concrete_dropout(x, 0, rng=gen, return_mask=True)
    for bad, error, match in (
        ({"grad": x[:2]}, ValueError, r"grad has shape \(2, 4\); x has \(3, 4\)"),
        ({"grad": x.astype(np.float32)}, TypeError, "grad has dtype float32.*float64"),
        ({"mask": mask[1:]}, ValueError, "mask has shape"),
        ({"mask": mask.keep()}, TypeError, "mask must be a Mask, not ndarray"),
        ({"logit": np.inf}, ValueError, "logit must be finite"),
        ({"temperature": -1}, ValueError, "temperature"),
    ):
        with pytest.raises(error, match=match):
            fd.concrete_dropout_backward(**{"grad": x, "x": x, "mask": mask, "logit": 0.0} | bad)


# ---- the layer -----------------------------------------------------------------------------------


def test_layer():
    x, grad = np.random.default_rng(0).standard_normal((2, 6, 5))
    layer = nn.ConcreteDropout(0.3, shape=5, temperature=0.2, rng=4)
    with pytest.raises(RuntimeError, match="before the first forward"):
        layer.backward(grad)
    np.testing.assert_allclose(layer.logit, np.full(5, logit(0.3)), rtol=1e-15)
    np.testing.assert_allclose(layer.p, 0.3, rtol=1e-15)
    y = layer(x)
    np.testing.assert_array_equal(y, fd.concrete_dropout(x, layer.logit, 0.2, rng=4))
    dx, dlogit = layer.backward(grad)
    want = fd.concrete_dropout_backward(grad, x, layer.mask, layer.logit, 0.2)
    np.testing.assert_array_equal(dx, want[0])
    np.testing.assert_array_equal(dlogit, want[1])
    assert layer.eval()(x) is x
    np.testing.assert_array_equal(layer.backward(grad)[0], grad)
    assert repr(layer) == "ConcreteDropout(p=0.3, shape=(5,), temperature=0.2)"
    layer.logit[0] = 0
    assert repr(layer) == "ConcreteDropout(p=0.3 to 0.5, shape=(5,), temperature=0.2)"
    assert repr(nn.ConcreteDropout()) == "ConcreteDropout(p=0.1)"


def test_the_parameter_is_one_array_for_ever():
    layer = nn.ConcreteDropout(0.5, rng=0)
    held = layer.logit
    assert held.shape == ()
    assert layer.p == 0.5
    layer.logit -= 1.0
    layer.p = 0.2
    assert type(layer.p) is float
    assert layer.p == pytest.approx(0.2, rel=1e-15)
    layer.logit = -3
    assert held == -3
    layer.load_state_dict({"stream": 1, "logit": 2.5, "generator": layer.state_dict()["generator"]})
    assert held == 2.5
    assert layer.logit is held
    for wrong, error in (([1.0], ValueError), (np.nan, ValueError), ("a", TypeError)):
        with pytest.raises(error, match="logit"):
            layer.logit = wrong
    for wrong in (0.0, 1.0, -0.1, np.nan):
        with pytest.raises(ValueError, match="p="):
            layer.p = wrong
        with pytest.raises(ValueError, match="p="):
            nn.ConcreteDropout(wrong)
    assert held == 2.5


def test_state_is_saved_to_the_bit():
    x = np.ones((4, 3))
    layer = nn.ConcreteDropout(0.3, shape=3, rng=4)
    layer.logit -= np.random.default_rng(0).standard_normal(3)
    layer(x)
    saved = json.loads(json.dumps(layer.state_dict()))
    assert saved["logit"] == layer.logit.tolist()
    want = layer(x)
    other = nn.ConcreteDropout(shape=3, rng=0)
    other.load_state_dict(saved)
    np.testing.assert_array_equal(other.logit, layer.logit)
    np.testing.assert_array_equal(other(x), want)
    before = other.state_dict()
    for bad, match in (
        ({"logit": [0.0, 0.0]}, r"logit has shape \(2,\); this layer's has \(3,\)"),
        ({"stream": 2}, "stream"),
        ({"generator": None}, "generator"),
        ({"logit": [0.0, 0.0, float("nan")]}, "logit must be finite"),
    ):
        with pytest.raises(ValueError, match=match):
            other.load_state_dict(saved | bad)
        assert other.state_dict() == before
    with pytest.raises(ValueError, match=r"state needs 'logit' and 'generator'; it has \['gen"):
        other.load_state_dict({"p": 0.5, "stream": 1, "generator": None})
    with pytest.raises(TypeError, match="state must be a dict"):
        other.load_state_dict([])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_copies_have_the_parameter_but_not_x(duplicate):
    x = np.ones((200, 300))
    layer = nn.ConcreteDropout(0.3, temperature=0.5, noise_shape=(None, 1), rng=4)
    layer.logit += 1
    layer(x)
    assert len(pickle.dumps(layer)) < 2000
    other = duplicate(layer)
    assert (other.logit, other.temperature, other.noise_shape) == (layer.logit, 0.5, (None, 1))
    other.logit += 1
    assert other.logit != layer.logit
    with pytest.raises(RuntimeError, match="in a copy"):
        other.backward(x)
    other.logit = layer.logit
    np.testing.assert_array_equal(other(x), layer(x))


def test_settings_are_checked():
    layer = nn.ConcreteDropout(rng=0)
    for name, wrong, error in (
        ("temperature", 0.0, ValueError),
        ("temperature", "hot", TypeError),
        ("weight_regularizer", -1.0, ValueError),
        ("dropout_regularizer", np.inf, ValueError),
        ("dropout_regularizer", None, TypeError),
        ("noise_shape", "ab", TypeError),
    ):
        before = getattr(layer, name)
        with pytest.raises(error, match=name):
            setattr(layer, name, wrong)
        with pytest.raises(error, match=name):
            nn.ConcreteDropout(**{name: wrong})
        assert getattr(layer, name) == before
    with pytest.raises(TypeError, match="shape"):
        nn.ConcreteDropout(shape="ab")
    with pytest.raises(ValueError, match="negative"):
        nn.ConcreteDropout(shape=-1)
    with pytest.raises(TypeError, match="takes no rate: it takes p"):
        nn.ConcreteDropout(rate=0.5)


# ---- the regulariser -----------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (1,), (6,), (6, 1)])
def test_regularizer(shape):
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 4, 2))
    layer = nn.ConcreteDropout(shape=shape, weight_regularizer=0.03, dropout_regularizer=0.2, rng=0)
    layer.logit = rng.standard_normal(shape)

    def penalty(weight, logits):
        p = 1 / (1 + np.exp(-logits)).ravel() * np.ones(6)
        norms = np.square(weight).sum((1, 2))
        return sum(0.03 * norms / (1 - p) + 0.2 * (p * np.log(p) + (1 - p) * np.log(1 - p)))

    value, dweight, dlogit = layer.regularizer(weight)
    assert type(value) is float
    assert value == pytest.approx(penalty(weight, layer.logit), rel=1e-13)
    assert (dweight.shape, dlogit.shape) == (weight.shape, shape)
    eps = 1e-6
    for of, gradient in ((weight, dweight), (layer.logit.copy(), dlogit)):
        for at in np.ndindex(of.shape):
            step = np.zeros(of.shape)
            step[at] = eps
            up, down = (
                penalty(*((weight + s, layer.logit) if of is weight else (weight, of + s)))
                for s in (step, -step)
            )
            assert (up - down) / (2 * eps) == pytest.approx(gradient[at], rel=1e-7, abs=1e-9)


def test_the_entropy_alone_draws_p_to_one_half():
    layer = nn.ConcreteDropout(0.1, weight_regularizer=0, dropout_regularizer=1, rng=0)
    for _ in range(200):
        layer.logit -= layer.regularizer(np.ones((3, 2)))[2]
    assert layer.p == pytest.approx(0.5, abs=1e-3)


def test_regularizer_refuses_and_keeps_dtypes(dtype):
    layer = nn.ConcreteDropout(shape=5, rng=0)
    with pytest.raises(ValueError, match=r"logit has shape \(5,\).*1 or 6 elements"):
        layer.regularizer(np.ones((6, 2)))
    with pytest.raises(ValueError, match="weight is 0-d"):
        layer.regularizer(1.0)
    with pytest.raises(TypeError, match="weight has dtype int64"):
        layer.regularizer(np.ones((5, 2), int))
    assert layer.regularizer(np.ones((5, 2), dtype))[1].dtype == dtype
    layer.logit = np.full(5, 800.0)
    with np.errstate(all="raise"):
        assert layer.regularizer(np.ones((5, 2)))[0] == np.inf


def test_a_rate_that_helps_rises_and_one_that_harms_falls():
    """Regression on four inputs of which two are noise: their rates rise, the others' fall."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 4))
    target = x[:, :2] @ np.array([[2.0], [-3.0]]) + 0.1 * rng.standard_normal((400, 1))
    layer = nn.ConcreteDropout(
        0.3, shape=4, weight_regularizer=1e-3, dropout_regularizer=0.5, rng=0
    )
    weight = np.zeros((4, 1))
    for _ in range(400):
        h = layer(x)
        error = 2 * (h @ weight - target) / len(x)
        _, dlogit = layer.backward(error @ weight.T)
        _, dweight, more = layer.regularizer(weight)
        weight -= 0.05 * (h.T @ error + dweight)
        layer.logit -= 0.2 * (dlogit + more)
    assert (layer.p[:2] < 0.1).all()
    assert (layer.p[2:] > 0.4).all()


def test_a_rate_that_underflows_is_not_inference():
    x, logit, temperature = np.ones(4), -800.0, 100.0
    y, mask = fd.concrete_dropout(x, logit, temperature, rng=0, return_mask=True)
    dx, dlogit = fd.concrete_dropout_backward(x, x, mask, logit, temperature)
    assert (dx == y).all()
    assert (y < 1).all()
    assert dlogit < 0


def test_gradients_of_one_number_are_arrays():
    for dtype in (np.float16, np.float32, np.float64):
        x = np.ones((), dtype)
        _, mask = fd.concrete_dropout(x, 0.0, rng=0, return_mask=True)
        dx, dlogit = fd.concrete_dropout_backward(x, x, mask, 0.0)
        assert type(dx) is type(dlogit) is np.ndarray
        assert dx.shape == dlogit.shape == ()


def test_regularizer_of_no_penalty_and_of_no_weights():
    layer = nn.ConcreteDropout(0.5, weight_regularizer=0.0)
    layer.logit = 720.0  # 1 / (1-p) overflows
    value, dweight, dlogit = layer.regularizer(np.ones((3, 2)))
    assert np.isfinite(value)
    assert not dweight.any()
    assert np.isfinite(dlogit)
    layer = nn.ConcreteDropout(0.5, weight_regularizer=1.0)
    assert layer.regularizer(np.ones((0, 5)))[0] == 0.0
    layer.logit = 720.0
    assert np.isfinite(layer.regularizer(np.zeros((3, 2)))[0])


@pytest.mark.parametrize("kind", [nn.ConcreteDropout, nn.VariationalDropout])
def test_states_of_empty_parameters_and_of_none(kind):
    layer = kind(0.5, shape=(0, 3), rng=0)
    state = json.loads(json.dumps(layer.state_dict()))
    layer.load_state_dict(state)
    assert layer.state_dict() == state
    del state["generator"]
    with pytest.raises(ValueError, match=r"state needs '\w+' and 'generator'; it has \['log"):
        layer.load_state_dict(state)
