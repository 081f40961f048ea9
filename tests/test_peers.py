"""What the test suites of other libraries assert of their dropout, asserted of fastdrop.

By library, in their order; what NumPy has no counterpart to (tracing, devices) is left out.
"""

import itertools
import math

import numpy as np
import pytest

import fastdrop as fd
from fastdrop import nn

FLOATS = [np.float16, np.float32, np.float64]
LAYERS = [
    (nn.Dropout, (4, 6)),
    (nn.Dropout1d, (4, 3, 5)),
    (nn.Dropout2d, (4, 3, 5, 2)),
    (nn.Dropout3d, (4, 3, 5, 2, 2)),
    (nn.AlphaDropout, (4, 6)),
    (nn.FeatureAlphaDropout, (4, 3, 5)),
    (nn.DropPath, (4, 6)),
    (nn.LockedDropout, (7, 4, 6)),
    (nn.EmbeddingDropout, (9, 6)),
    (nn.WeightDropout, (9, 6)),
    (nn.GaussianDropout, (4, 6)),
    (nn.GaussianNoise, (4, 6)),
]


# ---- Keras: layers/regularization, random --------------------------------------------------------


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_keras_basics(layer, shape):
    for dtype in FLOATS:
        y = layer(0.5, rng=0)(np.ones(shape, dtype))
        assert (y.shape, y.dtype) == (shape, dtype)


def test_keras_rescaling():
    y = fd.dropout(np.ones((20, 500)), 0.5, rng=1337)
    assert y.mean() == pytest.approx(1, abs=0.02)
    assert y.max() == 2
    assert (fd.dropout(np.ones((20, 500)), 0.0, rng=1) == 1).all()
    assert (fd.dropout(np.ones((20, 500)), 1.0, rng=1) == 0).all()


@pytest.mark.parametrize("noise_shape", [(None, 1, None), (20, 1, 10), [20, 1, None]])
@pytest.mark.parametrize("function", [fd.dropout, fd.alpha_dropout])
def test_keras_partial_noise_shape(function, noise_shape):
    y = function(np.ones((20, 5, 10)), 0.5, rng=1, noise_shape=noise_shape)
    np.testing.assert_array_equal(y[:, 0], y[:, 1])
    assert (y[0] != y[1]).any()
    layer = {fd.dropout: nn.Dropout, fd.alpha_dropout: nn.AlphaDropout}[function]
    np.testing.assert_array_equal(
        layer(0.5, rng=1, noise_shape=noise_shape)(np.ones((20, 5, 10))), y
    )


@pytest.mark.parametrize("function", [fd.dropout, fd.alpha_dropout])
@pytest.mark.parametrize(
    ("noise_shape", "error"),
    [("ab", TypeError), ((2, 1.5), TypeError), ((2, -1), ValueError), ((2, 0), ValueError)],
)
def test_keras_noise_shape_is_validated(function, noise_shape, error):
    with pytest.raises(error, match="noise_shape"):
        function(np.ones((2, 3)), 0.5, rng=1, noise_shape=noise_shape)


@pytest.mark.parametrize("layer", [layer for layer, _ in LAYERS])
@pytest.mark.parametrize("rate", [-0.5, 1.5])
def test_keras_rates_out_of_range(layer, rate):
    if layer is nn.GaussianNoise and rate > 1:
        return  # a standard deviation may be
    with pytest.raises(ValueError, match=r"p=|stddev="):
        layer(rate)


def test_keras_spreads():
    x = np.random.default_rng(0).standard_normal((20, 500))
    assert fd.alpha_dropout(x, 0.2, rng=1).std() == pytest.approx(1, abs=0.1)
    y = fd.gaussian_dropout(np.ones((20, 500)), 0.3, rng=1)
    assert y.std() == pytest.approx(math.sqrt(0.3 / 0.7), abs=0.02)
    y = fd.gaussian_noise(np.ones((20, 500)), 0.3, rng=1)
    assert y.std() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("axes", [1, 2, 3])
@pytest.mark.parametrize("data_format", ["channels_first", "channels_last"])
def test_keras_spatial_dropout_takes_whole_maps(axes, data_format):
    function = getattr(fd, f"dropout{axes}d")
    y = function(np.ones((2, 4, *(4,) * axes)), 0.5, rng=5, data_format=data_format)
    channels = np.moveaxis(y, -1, 1) if data_format == "channels_last" else y
    maps = channels.reshape(2, 4, -1)
    assert (maps == maps[..., :1]).all()
    assert set(np.unique(y)) == {0.0, 2.0}


# ---- PyTorch: test/nn/test_dropout.py ------------------------------------------------------------


@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_pytorch_mean_of_output_and_gradient(p):
    x = np.full((1000,), 0.6)
    layer = nn.Dropout(p, rng=1)
    assert layer(x).mean() == pytest.approx(0.6, abs=0.05)
    assert layer.backward(x).mean() == pytest.approx(0.6, abs=0.05)
    assert layer.eval()(x) is x
    assert repr(layer) == f"Dropout(p={p})"


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.AlphaDropout, (50_000,)), (nn.FeatureAlphaDropout, (5000, 10, 2))]
)
@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_pytorch_alpha(layer, shape, p):
    x = np.random.default_rng(0).standard_normal(shape)
    made = layer(p, rng=0)
    y = made(x)
    assert y.mean() == pytest.approx(x.mean(), abs=0.1)
    assert y.std() == pytest.approx(x.std(), abs=0.1)
    assert made.backward(y).shape == shape


def test_pytorch_discontiguous():
    close = np.ones((10, 20), np.float32)[::2, ::-3]
    np.testing.assert_array_equal(fd.dropout(close, 0.0, rng=1), fd.dropout(close, 1e-10, rng=1))
    assert fd.dropout(close, 0.0, rng=1).flags.c_contiguous


def test_pytorch_stride_mean_preserve():
    x = np.ones((10, 10, 10, 10, 10))
    for axes in itertools.permutations(range(4)):
        for offset in (0, 1):
            view = x[offset:, 0].transpose(axes)
            y = fd.dropout(view, 0.5, rng=0)
            assert y.mean() == pytest.approx(1, abs=0.05)
            np.testing.assert_array_equal(y, fd.dropout(view.copy(), 0.5, rng=0))


@pytest.mark.parametrize("p", [0.0, 1.0])
@pytest.mark.parametrize("training", [True, False])
def test_pytorch_corner_cases(p, training):
    x = np.random.default_rng(0).standard_normal((10, 20))
    y, mask = fd.dropout(x, p, training=training, rng=0, return_mask=True)
    want = np.zeros_like(x) if p and training else x
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(mask.backward(x), want)


@pytest.mark.parametrize(("layer", "shape"), LAYERS)
def test_pytorch_empty_input(layer, shape):
    x = np.ones((0, *shape[1:]))
    made = layer(0.5, rng=0)
    assert made(x).shape == x.shape
    assert made.backward(x).shape == x.shape


# ---- flax, equinox, haiku ------------------------------------------------------------------------


def test_flax_keys_differ():
    x = np.ones((20, 20))
    assert (fd.dropout(x, rng=0) != fd.dropout(x, rng=1)).any()
    np.testing.assert_array_equal(fd.dropout(x, rng=0), fd.dropout(x, rng=0))


@pytest.mark.parametrize("p", np.arange(0.1, 1, 0.1).round(1).tolist())
def test_flax_rates_within_three_sigma(p):
    x = np.ones((100, 100))
    kept = [np.count_nonzero(fd.dropout(x, p, rng=seed)) for seed in range(10)]
    sigma = math.sqrt(x.size * p * (1 - p))
    assert all(abs(n - x.size * (1 - p)) < 3.5 * sigma for n in kept)  # ten draws of nine rates
    assert abs(np.mean(kept) - x.size * (1 - p)) < 3 * sigma / math.sqrt(10)


def test_equinox_values():
    y = fd.dropout(np.ones(100), 0.5, rng=0)
    assert ((y == 0) | (y == 2)).all()


def test_haiku_fraction_and_mean():
    y = fd.dropout(np.ones((1000, 1000), np.float32), 0.3, rng=0)
    assert (y == 0).mean() == pytest.approx(0.3, abs=0.002)
    assert y.mean(dtype=float) == pytest.approx(1, abs=0.01)


# ---- TensorFlow: DropoutTest ---------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.8])
def test_tensorflow_two_values_and_count(keep):
    y = fd.dropout(np.ones((40, 30)), 1 - keep, rng=0)
    values = np.unique(y)
    assert len(values) == 2
    assert values[1] == pytest.approx(1 / keep)
    assert np.count_nonzero(y) == pytest.approx(1200 * keep, rel=0.15)


def test_tensorflow_shaped_correlation():
    y = fd.dropout(np.ones((40, 30)), 0.5, rng=0, noise_shape=(40, 1))
    assert (np.isin(y.sum(1), [0, 60])).all()
    assert 0 < y.sum() < 2400


def test_tensorflow_errors():
    with pytest.raises(ValueError, match="noise_shape"):
        fd.dropout(np.ones((40, 30)), 0.5, noise_shape=(40, 10))
    with pytest.raises(ValueError, match="noise_shape"):
        fd.dropout(np.ones((40, 30)), 0.5, noise_shape=(30,))
    with pytest.raises(TypeError, match="int64"):
        fd.dropout(np.ones((4, 3), np.int64))


# ---- Paddle: test_dropout_op ---------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(), (32,), (32, 64), (32, 64, 2)])
def test_paddle_infer_modes(shape):
    x = np.random.default_rng(0).random(shape)
    np.testing.assert_array_equal(
        fd.dropout(x, 0.35, training=False, mode="downscale_in_infer"), x * (1 - 0.35)
    )
    np.testing.assert_array_equal(fd.dropout(x, 0.35, training=False), x)
    for p in (0.0, 1.0):
        y, mask = fd.dropout(x, p, rng=0, return_mask=True)
        np.testing.assert_array_equal(y, x * (1 - p))
        assert mask.keep().shape == shape
        assert (mask.keep() == (p == 0)).all()


# ---- Chainer: noise_tests ------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("p", [0.0, 0.1, 0.3, 0.5])
def test_chainer_forward_backward_immutable(dtype, p):
    x, g = np.random.default_rng(0).uniform(-1, 1, (2, 2, 3, 4)).astype(dtype)
    y, mask = fd.dropout(x, p, rng=0, return_mask=True)
    real = np.float64 if dtype == np.float64 else np.float32
    factor = np.where(mask.keep(), real(1 / (1 - p)), real(0))
    np.testing.assert_array_equal(y, (x.astype(real) * factor).astype(dtype))
    np.testing.assert_array_equal(mask.backward(g), (g.astype(real) * factor).astype(dtype))
    np.testing.assert_array_equal(mask.backward(x), y)  # linear: so is the second derivative
    np.testing.assert_array_equal(mask.apply(x), y)  # called again, the same


def test_chainer_dropconnect_batchwise_mask():
    """One mask for the batch, or one an example."""
    x, weight = np.ones((6, 8)), np.ones((8, 5))
    own = fd.drop_connect(x, weight, 0.5, rng=0)
    assert (own != own[0]).any()
    one = x @ nn.WeightDropout(0.5, rng=0)(weight)
    assert (one == one[0]).all()
