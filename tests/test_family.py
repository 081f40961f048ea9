"""The dropout family: each member against its definition in a few lines of NumPy."""

import json

import numpy as np
import pytest

import fastdrop as fd
from fastdrop import _reference, nn

P = 0.4


def keep_of(shape, noise_shape):
    """The decisions of seed 7, position 0."""
    return _reference.keep_array(7, 0, shape, P, noise_shape)


def alpha(x, keep, p):
    """Klambauer et al. 2017, section on alpha dropout, in double."""
    a1, q = -1.0507009873554805 * 1.6732632423543772, 1 - p
    a = (q + a1**2 * q * (1 - q)) ** -0.5
    b = -a * (1 - q) * a1
    return a * np.where(keep, x, a1) + b, a


# name, arguments, shape of x, shape of the decisions, whether kept elements are scaled
SHARED = [
    ("dropout1d", {}, (5, 8), (5, 1)),
    ("dropout1d", {}, (3, 5, 8), (3, 5, 1)),
    ("dropout1d", {"data_format": "channels_last"}, (8, 5), (1, 5)),
    ("dropout1d", {"data_format": "channels_last"}, (3, 8, 5), (3, 1, 5)),
    ("dropout2d", {}, (3, 5, 8, 6), (3, 5, 1, 1)),
    ("dropout2d", {"data_format": "channels_last"}, (3, 8, 6, 5), (3, 1, 1, 5)),
    ("dropout3d", {}, (5, 2, 8, 6), (5, 1, 1, 1)),
    ("dropout3d", {}, (3, 5, 2, 8, 6), (3, 5, 1, 1, 1)),
    ("dropout3d", {"data_format": "channels_last"}, (2, 8, 6, 5), (1, 1, 1, 5)),
    ("dropout3d", {"data_format": "channels_last"}, (3, 2, 8, 6, 5), (3, 1, 1, 1, 5)),
    ("drop_path", {}, (9, 4, 5), (9, 1, 1)),
    ("drop_path", {}, (9,), (9,)),
    ("locked_dropout", {}, (6, 3, 5), (1, 3, 5)),
    ("locked_dropout", {"time_axis": 1}, (3, 6, 5), (3, 1, 5)),
    ("locked_dropout", {"time_axis": -2}, (3, 6, 5), (3, 1, 5)),
    ("embedding_dropout", {}, (50, 7), (50, 1)),
]
LAYERS = {
    "dropout1d": nn.Dropout1d,
    "dropout2d": nn.Dropout2d,
    "dropout3d": nn.Dropout3d,
    "drop_path": nn.DropPath,
    "locked_dropout": nn.LockedDropout,
    "embedding_dropout": nn.EmbeddingDropout,
    "alpha_dropout": nn.AlphaDropout,
    "feature_alpha_dropout": nn.FeatureAlphaDropout,
}


@pytest.mark.parametrize(("name", "arguments", "shape", "noise_shape"), SHARED)
def test_shared_decisions(isa, dtype, name, arguments, shape, noise_shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    keep = keep_of(shape, noise_shape)
    want = _reference.dropout(x, keep, 1 / (1 - P))
    y, mask = getattr(fd, name)(x, P, rng=7, return_mask=True, **arguments)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(mask.keep(), keep)
    np.testing.assert_array_equal(mask.backward(x), want)
    layer = LAYERS[name](P, rng=7, **arguments)
    np.testing.assert_array_equal(layer(x), want)
    np.testing.assert_array_equal(layer.backward(x), want)
    out = x.copy()
    assert getattr(fd, name)(out, P, rng=7, out=out, **arguments) is out
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("p", [0.05, 0.2, 0.5, 0.9])
@pytest.mark.parametrize(
    ("name", "shape", "noise_shape"),
    [
        ("alpha_dropout", (40, 60), (40, 60)),
        ("alpha_dropout", (5000,), (5000,)),
        ("feature_alpha_dropout", (6, 5, 7, 8), (6, 5, 1, 1)),
        ("feature_alpha_dropout", (30, 50), (30, 50)),
    ],
)
def test_alpha(isa, name, shape, noise_shape, p):
    x = np.random.default_rng(0).standard_normal(shape)
    keep = _reference.keep_array(7, 0, shape, p, noise_shape)
    want, a = alpha(x, keep, p)
    y, mask = getattr(fd, name)(x, p, rng=7, return_mask=True)
    np.testing.assert_allclose(y, want, rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(mask.backward(x), np.where(keep, a * x, 0), rtol=1e-14)
    layer = LAYERS[name](p, rng=7)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(mask.apply(x), y)
    for small in (np.float32, np.float16):
        z = getattr(fd, name)(x.astype(small), p, rng=7)
        assert z.dtype == small
        np.testing.assert_allclose(z, want, rtol=8 * np.finfo(small).eps, atol=8e-3)


@pytest.mark.parametrize("name", ["alpha_dropout", "feature_alpha_dropout"])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_alpha_keeps_mean_and_variance(name, p):
    x = np.random.default_rng(0).standard_normal((400, 500, 5))
    y = getattr(fd, name)(x, p, rng=3)
    assert abs(y.mean()) < 0.02
    assert abs(y.std() - 1) < 0.02


@pytest.mark.parametrize("name", ["alpha_dropout", "feature_alpha_dropout"])
def test_alpha_at_its_ends(name):
    x = np.array([[1.0, -2.0, np.nan, np.inf]])
    assert (getattr(fd, name)(x, 1.0, rng=0) == 0).all()
    np.testing.assert_array_equal(getattr(fd, name)(x, 0.0, rng=0), x)


def test_drop_path_expectation_and_scale():
    x = np.ones((20_000, 3))
    assert fd.drop_path(x, 0.3, rng=0).mean() == pytest.approx(1, abs=0.02)
    y = fd.drop_path(x, 0.3, rng=0, scale_by_keep=False)
    assert set(np.unique(y)) == {0.0, 1.0}
    assert y.mean() == pytest.approx(0.7, abs=0.02)
    np.testing.assert_array_equal(fd.drop_path(x, rng=0), x)  # p = 0 by default, as in timm
    layer = nn.DropPath(0.3, rng=0, scale_by_keep=False)
    np.testing.assert_array_equal(layer(x), y)
    np.testing.assert_array_equal(layer.backward(x), y)


def test_a_locked_mask_is_one_for_all_time_steps():
    y = fd.locked_dropout(np.ones((10, 4, 30)), 0.5, rng=0)
    assert (y == y[:1]).all()
    assert (y[0, 0] != y[0, 1]).any()


def test_dropout2d_takes_three_axes_as_sequences():
    x = np.ones((3, 5, 8))
    with pytest.warns(UserWarning, match=r"batch of sequences.*x\[None\]"):
        y = fd.dropout2d(x, P, rng=7)
    np.testing.assert_array_equal(y, fd.dropout1d(x, P, rng=7))
    with pytest.warns(UserWarning, match="batch of sequences"):
        nn.Dropout2d(P, rng=7)(x)


def test_no_batch_equals_a_batch_of_one():
    for name, shape in (("dropout1d", (5, 8)), ("dropout3d", (5, 2, 3, 4))):
        x = np.random.default_rng(0).standard_normal(shape)
        y = getattr(fd, name)(x, P, rng=7)
        np.testing.assert_array_equal(getattr(fd, name)(x[None], P, rng=7)[0], y)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("dropout1d", (8,)),
        ("dropout1d", (2, 3, 4, 5)),
        ("dropout2d", (3, 4)),
        ("dropout2d", (2, 3, 4, 5, 6)),
        ("dropout3d", (2, 3, 4)),
        ("dropout3d", (1, 2, 3, 4, 5, 6)),
        ("feature_alpha_dropout", (5,)),
        ("drop_path", ()),
        ("embedding_dropout", (5,)),
        ("embedding_dropout", (5, 6, 7)),
        ("locked_dropout", ()),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_wrong_rank(name, shape, training):
    gen = fd.Generator(0)
    x = np.ones(shape)
    with pytest.raises(ValueError, match=r"shape (is )?\(|0-d"):
        getattr(fd, name)(x, P, rng=gen, out=x, training=training)
    assert gen.position == 0
    assert (x == 1).all()
    layer = LAYERS[name](P, rng=gen).train(training)
    with pytest.raises(ValueError, match=r"shape (is )?\(|0-d"):
        layer(x)
    assert layer.mask is None


def test_other_bad_input():
    with pytest.raises(ValueError, match=r"data_format='NCHW' is unknown"):
        fd.dropout2d(np.ones((1, 2, 3, 4)), data_format="NCHW")
    with pytest.raises(ValueError, match=r"time_axis=3 is none of the axes"):
        fd.locked_dropout(np.ones((1, 2, 3)), time_axis=3)
    with pytest.raises(TypeError, match=r"weight has dtype int64"):
        fd.embedding_dropout(np.ones((3, 4), np.int64))


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_every_layer_and_function(name):
    """What holds for all: p at its bounds, evaluation, state, repr."""
    function, layer = getattr(fd, name), LAYERS[name](0.25, rng=5)
    x = np.random.default_rng(0).standard_normal((6, 5, 4, 3))
    x = x.reshape({"embedding_dropout": (30, 12), "dropout1d": (6, 5, 12)}.get(name, x.shape))
    for p in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match="p="):
            function(x, p)
        with pytest.raises(ValueError, match="p="):
            LAYERS[name](p)
    assert function(x, 0.3, training=False) is x
    _, mask = function(x, 0.3, training=False, return_mask=True)
    assert mask.keep().all()
    np.testing.assert_array_equal(function(x, 0.0, rng=1), x)
    assert (function(x, 1.0, rng=1) == 0).all()
    layer(x)
    saved = json.loads(json.dumps(layer.state_dict()))
    want = layer(x)
    other = LAYERS[name](0.0, rng=0)
    other.load_state_dict(saved)
    np.testing.assert_array_equal(other(x), want)
    assert layer.eval()(x) is x
    np.testing.assert_array_equal(layer.backward(x), x)
    assert repr(layer) == f"{type(layer).__name__}(p=0.25)"


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_gradient_against_finite_differences(name):
    layer = LAYERS[name](0.3, rng=5)
    rng = np.random.default_rng(0)
    x = rng.standard_normal((4, 3, 2, 5))
    x = x.reshape({"embedding_dropout": (12, 10), "dropout1d": (4, 3, 10)}.get(name, x.shape))
    g = rng.standard_normal(x.shape)
    layer(x)
    mask = layer.mask
    dx = layer.backward(g)
    eps = 1e-6
    for at in [tuple(rng.integers(x.shape)) for _ in range(25)]:
        step = np.zeros_like(x)
        step[at] = eps
        slope = ((mask.apply(x + step) - mask.apply(x - step)) * g).sum() / (2 * eps)
        assert slope == pytest.approx(dx[at], abs=1e-7)
    np.testing.assert_array_equal(mask.backward(np.full_like(x, np.nan))[~mask.keep()], 0)


def test_repr_shows_what_is_not_the_default():
    assert repr(nn.Dropout2d(data_format="channels_last")) == (
        "Dropout2d(p=0.5, data_format='channels_last')"
    )
    assert repr(nn.DropPath(0.1, scale_by_keep=False)) == "DropPath(p=0.1, scale_by_keep=False)"
    assert repr(nn.LockedDropout(0.1, time_axis=1)) == "LockedDropout(p=0.1, time_axis=1)"
