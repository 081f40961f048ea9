"""An array of rates: dropout with a rate for each row, channel, unit or element."""

import copy
import json
import pickle

import numpy as np
import pytest
from conftest import bits_of

import fastdrop as fd
from fastdrop import _reference, nn

SHAPES = [(), (5,), (6, 10), (40, 700), (3, 4097), (3, 4, 50), (2, 3, 20, 20), (0, 4), (4, 0)]


def numbers_of(seed, position, shape):
    """The stream's 40-bit numbers of a whole mask, by the reference."""
    index = np.arange(np.prod(shape, dtype=int), dtype=np.uint64)
    return _reference.uniform(seed, position, index).reshape(shape)


def some_rates(shape, seed=0):
    """Any rates, 0 and 1 and such of few planes among them."""
    rng = np.random.default_rng(seed)
    return np.where(
        rng.random(shape) < 0.4, rng.choice([0, 1, 0.5, 0.25], shape), rng.random(shape)
    )


def shapes_of_rates(shape):
    """What broadcasts against a shape: an element, unit, row, channel each."""
    found = {shape, shape[-1:], shape[:1] + (1,) * (len(shape) - 1)}
    if len(shape) > 2:
        found |= {(shape[1],) + (1,) * (len(shape) - 2), (shape[0], 1, *shape[2:])}
    return sorted(s for s in found if s)


def wanted(x, keep, p):
    """Ten lines of NumPy: the scale rounded once to the compute type, the product, the dtype."""
    real = np.float64 if x.dtype == np.float64 else np.float32
    with np.errstate(divide="ignore"):
        scale = np.where(p < 1, 1 / (1 - p), 0).astype(real)
    return np.where(keep, x.astype(real) * scale, real(0)).astype(x.dtype).reshape(x.shape)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_numpy_on_the_stream(isa, dtype, shape):
    x = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    numbers = numbers_of(7, 3, shape) / 2**40
    for rates_shape in shapes_of_rates(shape):
        p = some_rates(rates_shape)
        gen = fd.Generator(7, position=3)
        y, mask = fd.dropout(x, p, rng=gen, return_mask=True)
        keep = numbers >= np.rint(p * 2**40) / 2**40
        np.testing.assert_array_equal(bits_of(y), bits_of(wanted(x, keep, p)))
        assert gen.position == 4
        assert mask.shape == shape
        np.testing.assert_array_equal(mask.keep(), keep)
        np.testing.assert_array_equal(mask.backward(x), y)
        np.testing.assert_array_equal(mask.uniform(), numbers)
        ones = np.ones(shape, dtype)
        np.testing.assert_array_equal(mask.multiplier(dtype), wanted(ones, keep, p))


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.5, 1.0])
@pytest.mark.parametrize("rates_shape", [(30, 50), (50,), (30, 1), (1, 1), (1,)], ids=str)
def test_equal_rates_are_one_rate(dtype, rate, rates_shape):
    x = np.random.default_rng(1).standard_normal((30, 50)).astype(dtype)
    y = fd.dropout(x, np.full(rates_shape, rate), rng=1)
    np.testing.assert_array_equal(bits_of(y), bits_of(fd.dropout(x, rate, rng=1)))


def test_raising_a_rate_only_drops_more():
    shape, low = (50, 60), some_rates((50, 60))
    high = np.minimum(1, low + np.random.default_rng(2).random(shape) * 0.3)
    kept = [fd.Generator(0).mask(shape, p).keep() for p in (low, high)]
    assert not (kept[1] & ~kept[0]).any()


def test_a_rate_next_to_the_elements_number():
    """Thresholds at the numbers themselves, where only the lower 32 bits decide."""
    numbers = fd.Mask(0, 0, 5000, 0.5).uniform()
    for more, kept in ((0, True), (2.0**-40, False)):
        assert (fd.Mask(0, 0, 5000, 0.5).uniform() == numbers).all()
        keep = fd.RatesMask(0, 0, 5000, numbers + more).keep()
        assert (keep == kept).all()


@pytest.mark.parametrize("shape", [(40, 700), (6, 10)], ids=str)
@pytest.mark.parametrize("by", ["element", "unit", "row"])
def test_windows(shape, by):
    p = some_rates({"element": shape, "unit": shape[-1:], "row": (shape[0], 1)}[by])
    x = np.random.default_rng(1).standard_normal(shape)
    y, mask = fd.dropout(x, p, rng=5, return_mask=True)
    for key in (
        np.s_[1:3],
        np.s_[:, 1:4],
        np.s_[2],
        np.s_[::2, ::3],
        np.s_[..., -1],
        np.s_[3, 4],
        np.s_[2:2],
    ):
        window = mask[key]
        np.testing.assert_array_equal(window.apply(np.asarray(x[key])), y[key])
        np.testing.assert_array_equal(window.keep(), mask.keep()[key])
        assert window.p.size <= p.size
        for again in (
            pickle.loads(pickle.dumps(window)),
            fd.RatesMask.from_dict(json.loads(json.dumps(window.to_dict()))),
        ):
            assert again == window
            assert hash(again) == hash(window)
    np.testing.assert_array_equal(mask[1:, 2:][1:].apply(x[2:, 2:]), y[2:, 2:])
    assert mask != mask[1:]


def test_shared_decisions():
    x, p = np.ones((6, 3, 400)), some_rates((3, 1))
    y, mask = fd.dropout(x, p, rng=2, noise_shape=(None, None, 1), return_mask=True)
    assert mask.noise_shape == (6, 3, 1)
    numbers = numbers_of(2, 0, (6, 3, 1)) / 2**40
    keep = np.broadcast_to(numbers >= np.rint(p * 2**40) / 2**40, x.shape)
    np.testing.assert_array_equal(y, wanted(x, keep, p))
    y = fd.dropout(x[:, :, :7], some_rates(7), rng=2, noise_shape=(1, 1, None))
    assert (y == y[:1, :1]).all()
    with pytest.raises(
        ValueError, match=r"p has shape \(400,\), but along axis 2 noise_shape shares"
    ):
        fd.dropout(x, some_rates(400), noise_shape=(None, None, 1))


def test_threads_and_sizes_around_the_caches(split_small_calls):
    x = np.random.default_rng(0).standard_normal((700, 3001)).astype(np.float32)
    for p in (some_rates((700, 1)), some_rates(3001), some_rates((700, 3001))):
        results = []
        for threads in (1, 2, 3):
            fd.set_num_threads(threads)
            y, mask = fd.dropout(x, p, rng=0, return_mask=True)
            results.append((y, mask.keep()))
        for y, keep in results[1:]:
            np.testing.assert_array_equal(bits_of(y), bits_of(results[0][0]))
            np.testing.assert_array_equal(keep, results[0][1])


def test_layouts_and_in_place():
    x, p = np.random.default_rng(0).standard_normal((30, 40)), some_rates(40)
    want, mask = fd.dropout(x, p, rng=0, return_mask=True)
    own = x.copy()
    assert fd.dropout(own, p, rng=0, out=own) is own
    np.testing.assert_array_equal(own, want)
    odd = np.asfortranarray(x).astype(">f8")
    np.testing.assert_array_equal(
        fd.dropout(odd, p.astype(">f4").astype(">f8"), rng=0).shape, (30, 40)
    )
    np.testing.assert_array_equal(fd.dropout(odd, np.repeat(p, 2)[::2], rng=0), want)
    np.testing.assert_array_equal(fd.dropout(x, p.tolist(), rng=0), want)
    np.testing.assert_array_equal(x * mask, want)
    before = mask.p.copy()
    p[:] = 0.5  # which the mask does not see
    np.testing.assert_array_equal(mask.p, before)
    with pytest.raises(ValueError, match="read-only"):
        mask.p[...] = 0


def test_inference_and_modes():
    x, p = np.arange(12.0).reshape(3, 4), np.array([0.0, 0.25, 0.5, 1.0])
    assert fd.dropout(x, p, training=False) is x
    y, mask = fd.dropout(x, p, training=False, return_mask=True, out=x.copy())
    np.testing.assert_array_equal(y, x)
    down = {"mode": "downscale_in_infer"}
    y, mask = fd.dropout(x, p, training=False, return_mask=True, **down)
    np.testing.assert_array_equal(y, x * (1 - p))
    np.testing.assert_array_equal(mask.backward(x), x * (1 - p))
    y, mask = fd.dropout(x, p, rng=0, return_mask=True, **down)
    np.testing.assert_array_equal(y, np.where(mask.keep(), x, 0))
    with pytest.raises(ValueError, match="does not broadcast"):
        fd.dropout(x, [0.1, 0.2], training=False)


def test_statistics():
    p = np.array([0.01, 0.1, 0.3, 0.5, 0.9, 0.99])
    keep = fd.Generator(0).mask((100_000, 6), p).keep()
    sigma = np.sqrt(p * (1 - p) / 100_000)
    assert (abs(1 - keep.mean(0) - p) < 5 * sigma).all()


@pytest.mark.parametrize(
    ("p", "error", "match"),
    [
        ([0.1, 0.2], ValueError, r"p has shape \(2,\); it does not broadcast against \(2, 3\)"),
        (np.full((1, 2, 3), 0.1), ValueError, r"p has shape \(1, 2, 3\); it does not broadcast"),
        ([0.1, np.nan, 0.2], ValueError, r"p\[1\]=nan is not a probability"),
        ([[0.1], [1.5]], ValueError, r"p\[1, 0\]=1\.5 is not a probability"),
        ([-0.1, 0.2, 0.3], ValueError, r"p\[0\]=-0\.1 is not a probability"),
        ([True, False, True], TypeError, "p has dtype bool"),
        ([0.1j, 0.2, 0.3], TypeError, "p has dtype complex128"),
        (["a", "b", "c"], TypeError, "p has dtype <U1"),
        ([[0.1], [0.2, 0.3]], TypeError, "p cannot be read as a NumPy array"),
        (np.ma.array([0.1] * 3, mask=[0, 1, 0]), TypeError, "p is a MaskedArray, whose mask"),
        (np.array([0.1] * 3, object), TypeError, r"p has dtype object.*p\.astype"),
        ([None] * 3, TypeError, "p has dtype object"),
    ],
)
def test_refuses(p, error, match):
    gen, out = fd.Generator(0), np.full((2, 3), 7.0)
    with pytest.raises(error, match=match):
        fd.dropout(np.ones((2, 3)), p, rng=gen, out=out)
    with pytest.raises(error, match=match):
        gen.mask((2, 3), p)
    assert gen.position == 0
    assert (out == 7).all()


def test_refused_where_only_one_rate_is_known():
    x, p, gen = np.ones((2, 3)), np.array([0.1, 0.2, 0.3]), fd.Generator(0)
    for call in (
        fd.drop_path,
        fd.dropout1d,
        fd.alpha_dropout,
        fd.gaussian_dropout,
        fd.relu_dropout,
    ):
        with pytest.raises(TypeError, match="p must be a real number"):
            call(x, p, rng=gen)
    mask = gen.mask((2, 3), p)
    with pytest.raises(TypeError, match="mask must be a Mask, not RatesMask"):
        fd.dropout_add_backward(x, mask)
    with pytest.raises(AttributeError, match="cannot be changed"):
        mask.p = p
    with pytest.raises(ValueError, match="scale must be finite"):
        gen.mask((2, 3), p, scale=np.inf)
    assert gen.mask((2, 3), p, scale=1.0).multiplier().max() == 1


def test_layer():
    p, x = np.array([0.1, 0.2, 0.9]), np.ones((40, 3))
    layer = nn.Dropout(p, rng=3)
    y = layer(x)
    np.testing.assert_array_equal(y, fd.dropout(x, p, rng=3))
    np.testing.assert_array_equal(layer.backward(x), y)
    np.testing.assert_array_equal(layer.p, p)
    other = nn.Dropout(0.5, rng=0)
    other.load_state_dict(json.loads(json.dumps(layer.state_dict())))
    copies = [other, pickle.loads(pickle.dumps(layer)), copy.deepcopy(layer)]
    again = layer(x)
    for one in copies:
        np.testing.assert_array_equal(one(x), again)
    assert layer.eval()(x) is x
    layer.p = 0.5
    assert layer.p == 0.5
    layer.mode, layer.p = "downscale_in_infer", p.tolist()
    np.testing.assert_allclose(layer(x)[0], 1 - p)
    with pytest.raises(ValueError, match=r"p\[0\]=2\.0"):
        layer.p = [2.0, 0.1, 0.1]
    np.testing.assert_array_equal(layer.p, p)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("mode", ["upscale_in_train", "downscale_in_infer"])
def test_in_dask_and_autograd(training, mode):
    x, p = np.random.default_rng(0).standard_normal((20, 30)), some_rates(30)
    options = {"training": training, "mode": mode}
    want, mask = fd.dropout(x, p, rng=1, return_mask=True, **options)
    da = pytest.importorskip("dask.array")
    import fastdrop.dask

    lazy = fastdrop.dask.dropout(da.from_array(x, chunks=(7, 11)), p, rng=1, **options)
    np.testing.assert_array_equal(lazy.compute(), want)
    autograd = pytest.importorskip("autograd")
    import fastdrop.autograd

    def loss(x):
        return (fastdrop.autograd.dropout(x, p, rng=1, **options) ** 2).sum()

    np.testing.assert_allclose(autograd.grad(loss)(x), 2 * mask.backward(want))


# ---- found by review -----------------------------------------------------------------------------


def test_windows_by_0d_ints_and_of_huge_masks():
    mask = fd.Generator(1).mask((4, 3, 5), [[0.1], [0.5], [0.9]], noise_shape=(None, None, 1))
    for at in (1, np.array(1), np.int8(-3)):
        window = mask[at]
        assert window.p.shape == (3, 1)
        assert pickle.loads(pickle.dumps(window)) == window == mask[1]
    huge = fd.RatesMask(0, 0, (2**40, 2**40), [0.5], noise_shape=(1, None))
    assert huge[:2, :2].p.shape == (1, 1)
    with pytest.raises(IndexError, match="positive step"):
        mask[::-1]


def test_what_holds_an_array_is_one():
    class Series:
        ndim = 1

        def __array__(self, dtype=None, copy=None):
            return np.array([0.1, 0.2, 0.9])

    x = np.ones((5, 3))
    want = fd.dropout(x, [0.1, 0.2, 0.9], rng=0)
    np.testing.assert_array_equal(fd.dropout(x, Series(), rng=0), want)
    np.testing.assert_array_equal(fd.RatesMask(0, 0, (5, 3), Series()).apply(x), want)
    np.testing.assert_array_equal(
        fd.dropout(x, 0.5, rng=0), fd.RatesMask(0, 0, (5, 3), 0.5).apply(x)
    )


@pytest.mark.parametrize("scale", ["2", True, [1, "a", 2], [1j, 1, 1], [[1], [1, 2]], {}, np.nan])
def test_scales_are_checked(scale):
    with pytest.raises((TypeError, ValueError), match="scale"):
        fd.Generator(0).mask((2, 3), [0.1, 0.2, 0.3], scale=scale)


def test_a_saved_mask_of_another_kind():
    alpha = fd.alpha_dropout(np.ones(3), 0.5, rng=0, return_mask=True)[1]
    with pytest.raises(ValueError, match="the mask is a Mask"):
        fd.RatesMask.from_dict(alpha.to_dict())
    with pytest.raises(ValueError, match="lacks"):
        fd.Mask.from_dict(fd.RatesMask(0, 0, 3, 0.5).to_dict())


def test_zeros_are_one_rate_and_rates_stay():
    a, b = fd.RatesMask(0, 0, 3, [0.0, 0.1, 0.2]), fd.RatesMask(0, 0, 3, [-0.0, 0.1, 0.2])
    assert a == b
    assert hash(a) == hash(b)
    layer = nn.Dropout([0.1, 0.5, 0.9], rng=0)
    for array in (a.p, layer.p, a[1:].p):
        with pytest.raises(ValueError, match="WRITEABLE"):
            array.flags.writeable = True


# ---- the numbers themselves ----------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_uniform_is_the_streams(isa, shape):
    mask = fd.Mask(5, 2, shape, 0.3)
    numbers = mask.uniform()
    assert numbers.dtype == np.float64
    np.testing.assert_array_equal(numbers * 2**40, numbers_of(5, 2, shape))
    np.testing.assert_array_equal(numbers >= round(0.3 * 2**40) / 2**40, mask.keep())


def test_uniform_of_windows_and_shared_axes():
    mask = fd.Mask(5, 2, (40, 50), 0.3)
    np.testing.assert_array_equal(mask[::3, 7:].uniform(), mask.uniform()[::3, 7:])
    shared = fd.Mask(5, 2, (4, 5), 0.3, noise_shape=(4, 1)).uniform()
    np.testing.assert_array_equal(shared, np.repeat(mask.uniform()[0, :4, None], 5, 1))
