"""Monte-Carlo dropout: what nn.mc_samples promises."""

import ml_dtypes
import numpy as np
import pytest

import fastdrop as fd
from fastdrop import nn


def network(noise_shape=None):
    """A generator and a layer with one hidden dropout on it."""
    gen = fd.Generator(3)
    layer = nn.Dropout(0.4, noise_shape=noise_shape, rng=gen)
    weight = np.random.default_rng(0).standard_normal((6, 2))
    return gen, layer, lambda x: np.maximum(layer(x), 0) @ weight


X = np.random.default_rng(1).standard_normal((10, 6))


def test_it_is_a_loop_over_children():
    gen, _, model = network()
    mean, std, samples = nn.mc_samples(model, X, 5, rng=gen)
    assert samples.shape == (5, 10, 2)
    assert gen.state == {"stream": 1, "seed": 3, "position": 1}
    for child, sample in zip(fd.Generator(3).spawn(5), samples, strict=True):
        gen.state = child.state
        np.testing.assert_array_equal(model(X), sample)
    np.testing.assert_allclose(mean, samples.mean(0))
    np.testing.assert_allclose(std, samples.std(0))


def test_masks_are_the_same_for_every_batch():
    gen, layer, model = network()
    masks = []

    def watched(batch):
        y = model(batch)
        masks.append(layer.mask.keep())
        return y

    nn.mc_samples(watched, X, 2, rng=gen, batch_size=4)
    first, second, last = masks[:3]
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(first[:2], last)
    assert (first != masks[3]).any()  # the other sample


def test_one_network_a_sample_whatever_the_batches():
    gen, _, model = network((1, None))
    whole = nn.mc_samples(model, X, 4, rng=gen)
    gen.state = fd.Generator(3).state
    parts = nn.mc_samples(model, X, 4, rng=gen, batch_size=3)
    np.testing.assert_allclose(parts.samples, whole.samples)
    one_row = np.repeat(X[:1], 10, axis=0)
    samples = nn.mc_samples(model, one_row, 4, rng=gen).samples
    np.testing.assert_allclose(samples, np.broadcast_to(samples[:, :1], samples.shape))


def test_mean_and_spread_of_a_sum():
    """y = mean of n kept ones of scale 1/(1-p): variance p / (1-p) / n."""
    gen = fd.Generator(0)
    layer = nn.Dropout(0.3, rng=gen)
    mean, std, _ = nn.mc_samples(lambda x: layer(x).mean(1), np.ones((4, 50)), 4000, rng=gen)
    np.testing.assert_allclose(mean, 1, atol=0.01)
    np.testing.assert_allclose(std, np.sqrt(0.3 / 0.7 / 50), rtol=0.05)


def test_dtypes():
    gen = fd.Generator(0)
    half = nn.mc_samples(lambda x: fd.dropout(x, rng=gen), np.ones((2, 3), np.float16), 3, rng=gen)
    assert half.mean.dtype == half.std.dtype == half.samples.dtype == np.float16
    labels = nn.mc_samples(lambda x: fd.dropout(x, rng=gen).argmax(1), X, 3, rng=gen)
    assert labels.samples.dtype.kind == "i"
    assert labels.mean.dtype == np.float64


def test_bad_input():
    gen, layer, model = network()
    for value, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="T"):
            nn.mc_samples(model, X, value, rng=gen)
        with pytest.raises(error, match="batch_size"):
            nn.mc_samples(model, X, 2, rng=gen, batch_size=value)
    with pytest.raises(TypeError, match=r"rng must be the fastdrop\.Generator"):
        nn.mc_samples(model, X, 2, rng=3)
    for x in (np.float64(1.0), X[:0]):
        with pytest.raises(ValueError, match="x has shape"):
            nn.mc_samples(model, x, 2, rng=gen)
    assert gen.position == 0
    layer.eval()
    with pytest.raises(ValueError, match=r"took no mask from rng.*layer\.train"):
        nn.mc_samples(model, X, 2, rng=gen)
    assert gen.state == {"stream": 1, "seed": 3, "position": 1}
    layer.train()
    with pytest.raises(ValueError, match=r"returned shape \(\) for 10 rows"):
        nn.mc_samples(lambda x: model(x).sum(), X, 2, rng=gen)


def test_batches_must_agree():
    gen = fd.Generator(0)
    with pytest.raises(TypeError, match="model_fn must be callable"):
        nn.mc_samples(None, X, 2, rng=gen)
    assert gen.position == 0

    def narrower(x):
        y = fd.dropout(x, rng=gen)
        return y if len(x) == 8 else y[:, :1]

    with pytest.raises(ValueError, match=r"rows of shape \(1,\).*after rows of \(6,\)"):
        nn.mc_samples(narrower, X, 2, rng=gen, batch_size=8)
    half = X.astype(ml_dtypes.bfloat16)
    result = nn.mc_samples(lambda x: fd.dropout(x, rng=gen), half, 3, rng=gen)
    assert result.mean.dtype == result.std.dtype == half.dtype
