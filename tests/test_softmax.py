"""softmax_dropout: its definition, its gradient, its bits and its bounds."""

import copy
import pickle

import numpy as np
import pytest
from conftest import ISAS, bits_of

import fastdrop as fd
from fastdrop import _reference, nn

SHAPES = [
    (1,), (7,), (64,), (3, 1), (5, 16), (7, 65), (2, 3, 100), (4, 2, 64, 64),
    (3, 1000), (3, 2048), (2, 2049), (2, 6200), (0, 4), (4, 0), (2, 0, 3),
]  # fmt: skip


def arrays(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    return 3 * rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)


def real_of(dtype):
    return np.dtype(np.float64 if dtype == np.float64 else np.float32)


def softmax(scores, axis=-1):
    """Of the numbers given, in extended precision; of nothing but -infinity zeros."""
    x = np.asarray(scores).astype(np.longdouble)
    top = x.max(axis, keepdims=True, initial=-np.inf)
    e = np.exp(x - np.where(np.isinf(top), 0, top))
    return e / np.where(e.sum(axis, keepdims=True) == 0, 1, e.sum(axis, keepdims=True))


def gradient(grad, scores, keep, scale, axis=-1):
    s, g = softmax(scores, axis), np.where(keep, np.asarray(grad).astype(np.longdouble) * scale, 0)
    return s * (g - (s * g).sum(axis, keepdims=True))


def roundoff(dtype):
    return np.finfo(real_of(dtype)).eps / 2


def distance(scores, axis=-1):
    """From the row's maximum, where that is finite."""
    x = np.asarray(scores).astype(np.float64)
    with np.errstate(invalid="ignore"):
        d = x.max(axis, keepdims=True, initial=-np.inf) - x
    return np.where(np.isfinite(d), d, 0)


@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_definition(isa, kind, shape, p):
    """Dropout of a softmax, and its gradient, within the bounds that are stated."""
    x, grad = arrays(shape, kind)
    gen = fd.Generator(9, position=4)
    y, mask = fd.softmax_dropout(x, p, rng=gen, return_mask=True)
    assert (gen.position, mask.p, mask.shape, y.dtype) == (5, p, shape, x.dtype)
    keep, scale = _reference.keep_array(9, 4, shape, p).reshape(shape), 1 / (1 - p) if p < 1 else 0
    np.testing.assert_array_equal(mask.keep(), keep)
    want, u = np.where(keep, softmax(x) * scale, 0), roundoff(kind)
    assert (abs(y - want) <= (2.3 * distance(x) + 12) * u * want).all()
    assert (y[~keep].view(f"u{y.itemsize}") == 0).all()  # +0

    # the sum cancels, so the error is one of the row's largest terms
    dx = fd.softmax_dropout_backward(grad, x, mask)
    assert (dx.shape, dx.dtype) == (shape, x.dtype)
    unit = np.max(softmax(x) * scale * np.max(abs(grad), -1, keepdims=True, initial=0), -1,
                  keepdims=True, initial=0)  # fmt: skip
    assert (abs(dx - gradient(grad, x, keep, scale)) <= 60 * u * unit).all()


@pytest.mark.parametrize("shape", [(7, 65), (5, 64), (2, 2049)], ids=str)
def test_is_dropout_of_its_own_softmax(isa, dtype, shape):
    """Bit for bit; 16-bit types are float32, rounded at the end."""
    x, grad = arrays(shape, dtype)
    wide, above = x.astype(real_of(dtype)), grad.astype(real_of(dtype))
    soft = fd.softmax_dropout(wide, training=False)
    y, mask = fd.softmax_dropout(x, 0.3, rng=1, return_mask=True)
    np.testing.assert_array_equal(bits_of(y), bits_of(mask.apply(soft).astype(dtype)))
    narrow = fd.softmax_dropout(x, 0.9, training=False)
    np.testing.assert_array_equal(bits_of(narrow), bits_of(soft.astype(dtype)))
    dx = fd.softmax_dropout_backward(grad, x, mask)
    want = fd.softmax_dropout_backward(above, wide, mask).astype(dtype)
    np.testing.assert_array_equal(bits_of(dx), bits_of(want))


@pytest.mark.parametrize("n", [1, 31, 64, 100, 2048, 2050, 9000])
def test_the_same_bits_on_every_isa(dtype, n):
    x, grad = arrays((9, n), dtype)
    x[1, ::3], x[2], x[3, -1], x[4, 0] = -np.inf, -np.inf, np.nan, np.inf
    x[5] *= 40  # most underflow
    mask, found = fd.Generator(5).mask(x.shape, 0.4), []
    for name in ISAS:
        fd.set_isa(name)
        y, dx = fd.softmax_dropout(x, 0.4, rng=5), fd.softmax_dropout_backward(grad, x, mask)
        found.append([np.where(np.isnan(a), 7, a).astype(dtype) for a in (y, dx)])
    for y, dx in found[1:]:
        np.testing.assert_array_equal(bits_of(y), bits_of(found[0][0]))
        np.testing.assert_array_equal(bits_of(dx), bits_of(found[0][1]))


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_error_of_the_exponential(isa, kind):
    """Of rows of two: e / (1 + e), whose error is the exponential's and three roundings more."""
    least = -87 if kind == np.float32 else -708
    x = np.zeros((100_000, 2), kind)
    x[:, 1] = -np.random.default_rng(0).uniform(0, 1, len(x)) * np.where(
        np.arange(len(x)) % 2, 1, -least
    )
    y = fd.softmax_dropout(x, training=False)
    bound = (1.3 * distance(x) + 3.5 + 3) * roundoff(kind)
    assert (abs(y / softmax(x) - 1) <= bound).all()
    x[:, 1] = least - 1.0  # below the normal numbers
    assert (fd.softmax_dropout(x, training=False)[:, 1] < np.finfo(kind).tiny * 1.01).all()
    x[:, 1] = 2 * least
    assert (fd.softmax_dropout(x, training=False) == [1, 0]).all()


def test_rows_with_nothing_to_look_at(isa, dtype):
    x, grad = arrays((6, 70), dtype)
    x[0] = x[3] = -np.inf
    x[1, 5:] = -np.inf
    y, mask = fd.softmax_dropout(x, 0.5, rng=0, return_mask=True)
    assert (bits_of(y[[0, 3]]) == 0).all()
    assert (bits_of(y[1, 5:]) == 0).all()
    assert y[1, :5].any()
    dx = fd.softmax_dropout_backward(grad, x, mask)
    assert (dx[[0, 3]] == 0).all()
    assert (dx[1, 5:] == 0).all()
    assert np.isfinite(dx.astype(np.float32)).all()
    long = np.full((2, 5000), -np.inf, dtype)  # the first blocks have nothing either
    long[1, -1] = 3
    assert (fd.softmax_dropout(long, training=False) == [[0] * 5000, [0] * 4999 + [1]]).all()


def test_rows_with_nan_and_infinity(isa, dtype):
    x = np.zeros((5, 66), dtype)
    x[0, 60], x[1, 3], x[2, 0] = np.nan, np.inf, -np.inf
    x[3], x[3, 7] = -np.inf, np.nan
    y, mask = fd.softmax_dropout(x, 0.5, rng=0, return_mask=True)
    keep = mask.keep()
    np.testing.assert_array_equal(np.isnan(y[[0, 1, 3]]), keep[[0, 1, 3]])
    assert (bits_of(y)[~keep] == 0).all()
    assert np.isfinite(y[[2, 4]].astype(np.float32)).all()
    dx = fd.softmax_dropout_backward(np.ones_like(x), x, mask)
    assert np.isnan(dx[[0, 1, 3]]).all()
    assert np.isfinite(dx[[2, 4]].astype(np.float32)).all()
    grad = np.where(
        keep, np.ones_like(x), np.array(np.nan, dtype)
    )  # a dropped NaN is not looked at
    np.testing.assert_array_equal(
        bits_of(fd.softmax_dropout_backward(grad, x, mask)[4]), bits_of(dx[4])
    )


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_largest_scores(isa, kind):
    big = np.finfo(kind).max
    x = np.array([[big, big, -big, 0], [-big, -big, -big, -big], [big, -1, -np.inf, 0]], kind)
    want = [[0.5, 0.5, 0, 0], [0.25] * 4, [1, 0, 0, 0]]
    assert (fd.softmax_dropout(x, training=False) == want).all()


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -2, -4])
def test_axes(isa, dtype, axis):
    x, grad = arrays((3, 5, 2, 4), dtype)
    y, mask = fd.softmax_dropout(x, 0.3, axis, rng=2, return_mask=True)
    moved, above = (np.moveaxis(a, axis, -1) for a in (x, grad))
    soft = fd.softmax_dropout(moved.astype(real_of(dtype)), training=False)
    want = mask.apply(np.moveaxis(soft, -1, axis)).astype(dtype)
    np.testing.assert_array_equal(bits_of(y), bits_of(want))
    assert y.flags.c_contiguous
    dx = fd.softmax_dropout_backward(grad, x, mask, axis)
    want = gradient(above, moved, np.moveaxis(mask.keep(), axis, -1), mask.scale)
    want = np.moveaxis(want, -1, axis)
    assert np.allclose(dx.astype(float), want.astype(float), atol=0.02)
    wide = [a.astype(real_of(dtype)) for a in (grad, x)]
    exact = fd.softmax_dropout_backward(*wide, mask, axis)
    np.testing.assert_array_equal(bits_of(dx), bits_of(exact.astype(dtype)))
    assert (abs(exact - want) <= 60 * roundoff(dtype)).all() or dtype.itemsize == 2
    for out in (np.empty_like(x), np.empty((4, 2, 5, 3), dtype).T):
        assert fd.softmax_dropout(x, 0.3, axis, rng=2, out=out) is out
        np.testing.assert_array_equal(bits_of(out), bits_of(y))
        assert fd.softmax_dropout_backward(grad, x, mask, axis, out=out) is out
        np.testing.assert_array_equal(bits_of(out), bits_of(dx))
    own, above = x.copy(), grad.copy()
    assert fd.softmax_dropout(own, 0.3, axis, rng=2, out=own) is own
    np.testing.assert_array_equal(bits_of(own), bits_of(y))
    assert fd.softmax_dropout_backward(above, x, mask, axis, out=above) is above
    np.testing.assert_array_equal(bits_of(above), bits_of(dx))


@pytest.mark.parametrize("axis", [-1, 0])
def test_finite_differences(axis):
    x, weight = arrays((4, 9), np.float64)
    mask = fd.Generator(3).mask(x.shape, 0.4)

    def loss(scores):
        return (fd.softmax_dropout(scores, 0.4, axis, rng=3) * weight).sum()

    dx, h = fd.softmax_dropout_backward(weight, x, mask, axis), 1e-6
    for index in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[index] = h
        assert abs((loss(x + step) - loss(x - step)) / (2 * h) - dx[index]) < 1e-8


def test_the_expectation_is_the_softmax():
    x, _ = arrays((4, 64), np.float64)
    gen, n = fd.Generator(0), 4000
    mean = sum(fd.softmax_dropout(x, 0.25, rng=gen) for _ in range(n)) / n
    soft = softmax(x).astype(float)
    assert (abs(mean - soft) < 5 * soft * np.sqrt(0.25 / 0.75 / n)).all()


def test_layouts_and_in_place():
    x, grad = arrays((30, 70), np.float32)
    y, mask = fd.softmax_dropout(x, 0.3, rng=0, return_mask=True)
    dx = fd.softmax_dropout_backward(grad, x, mask)
    for odd in (np.asfortranarray(x), x.astype(">f4"), x[::-1][::-1], np.repeat(x, 2, 1)[:, ::2]):
        np.testing.assert_array_equal(fd.softmax_dropout(odd, 0.3, rng=0), y)
        np.testing.assert_array_equal(fd.softmax_dropout_backward(grad, odd, mask), dx)
        np.testing.assert_array_equal(
            fd.softmax_dropout_backward(np.asfortranarray(grad).astype(">f4"), odd, mask), dx
        )
    np.testing.assert_array_equal(
        fd.softmax_dropout(x.tolist(), 0.3, rng=0).astype("f4").shape, y.shape
    )
    own = x.copy()
    assert fd.softmax_dropout(own, 0.3, rng=0, out=own) is own
    np.testing.assert_array_equal(own, y)
    for name in ("grad", "scores"):
        g, s = grad.copy(), x.copy()
        out = g if name == "grad" else s
        assert fd.softmax_dropout_backward(g, s, mask, out=out) is out
        np.testing.assert_array_equal(out, dx)
    base = np.zeros((31, 70), np.float32)  # out overlaps the scores, but is not they
    base[:30] = x
    np.testing.assert_array_equal(fd.softmax_dropout(base[:30], 0.3, rng=0, out=base[1:]), y)


@pytest.mark.parametrize("shape", [(300, 70), (40, 2048), (9, 5000)], ids=str)
def test_does_not_depend_on_threads(split_small_calls, shape):
    x, grad = arrays(shape, np.float32)
    found = []
    for threads in (1, 2, 3):
        fd.set_num_threads(threads)
        y, mask = fd.softmax_dropout(x, 0.1, rng=0, return_mask=True)
        found.append((y, fd.softmax_dropout_backward(grad, x, mask)))
    for y, dx in found[1:]:
        np.testing.assert_array_equal(bits_of(y), bits_of(found[0][0]))
        np.testing.assert_array_equal(bits_of(dx), bits_of(found[0][1]))


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_large_arrays_are_as_their_parts(isa, kind):
    """Those that are written around the caches, in rows that end anywhere."""
    rows = 17 * 2**20 // (2001 * np.dtype(kind).itemsize)
    x, grad = (np.resize(a, (rows, 2001)) for a in arrays((7, 2001), kind))
    y, mask = fd.softmax_dropout(x, 0.3, rng=0, return_mask=True)
    dx = fd.softmax_dropout_backward(grad, x, mask)
    for at in (0, 1, rows // 2, rows - 3):
        part = np.s_[at : at + 3]
        np.testing.assert_array_equal(
            dx[part], fd.softmax_dropout_backward(grad[part], x[part], mask[part])
        )
        soft = fd.softmax_dropout(x[part].astype(real_of(kind)), training=False)
        np.testing.assert_array_equal(y[part], mask[part].apply(soft).astype(kind))
    own = x.copy()
    assert fd.softmax_dropout(own, 0.3, rng=0, out=own) is own
    np.testing.assert_array_equal(own, y)


def test_shards_and_other_masks():
    x, grad = arrays((8, 6, 50), np.float32)
    _, mask = fd.softmax_dropout(x, 0.3, rng=0, return_mask=True)
    dx = fd.softmax_dropout_backward(grad, x, mask)
    for key in (np.s_[3:], np.s_[1::2], np.s_[:, 2:5], np.s_[4]):
        part = fd.softmax_dropout_backward(grad[key], x[key], mask[key])
        np.testing.assert_array_equal(part, dx[key])
    shared = fd.Generator(1).mask(x.shape, 0.5, noise_shape=(8, 1, 50))
    want = gradient(grad, x, shared.keep(), 2)
    found = fd.softmax_dropout_backward(grad, x, shared)
    assert np.allclose(found, want.astype(float), atol=1e-6)


def test_evaluation_takes_no_position():
    x, _ = arrays((3, 4), np.float32)
    gen = fd.Generator(0)
    y, mask = fd.softmax_dropout(x, 0.5, training=False, rng=gen, return_mask=True)
    assert gen.position == 0
    assert y is not x
    assert mask.keep().all()
    assert mask.scale == 1
    assert (y == fd.softmax_dropout(x, 0.0, rng=gen)).all()
    assert gen.position == 1


def test_bad_input_is_refused():
    x, grad = arrays((3, 4), np.float32)
    gen, out = fd.Generator(0), np.full((3, 4), 7, np.float32)
    good = {"scores": x, "p": 0.5, "rng": gen, "out": out}
    for bad, error, match in (
        ({"scores": x.astype(int)}, TypeError, "scores has dtype int"),
        ({"scores": np.float32(3)}, ValueError, r"axis=-1 is none of the axes.*\(\)"),
        ({"axis": 2}, ValueError, r"axis=2 is none of the axes of scores.*\(3, 4\)"),
        ({"axis": -3}, ValueError, "axis=-3"),
        ({"axis": 2**80}, ValueError, "axis=1208"),
        ({"axis": None}, TypeError, "axis must be an int, not None"),
        ({"axis": (0, 1)}, TypeError, "axis must be an int"),
        ({"axis": True}, TypeError, "axis must be an int, not True"),
        ({"axis": 0.0}, TypeError, "axis must be an int"),
        ({"p": 1.5}, ValueError, r"p=1\.5"),
        ({"p": np.full(4, 0.5)}, TypeError, "p must be a real number"),
        ({"training": "yes"}, TypeError, "training"),
        ({"out": np.ones((4, 3), np.float32)}, ValueError, "out has shape"),
        ({"out": np.ones((3, 4))}, TypeError, "out has dtype"),
        ({"out": x.copy().view(), "rng": "seed"}, TypeError, "rng"),
    ):
        with pytest.raises(error, match=match):
            fd.softmax_dropout(**good | bad)
    assert gen.position == 0
    mask = gen.mask(x.shape, 0.5)
    good = {"grad": grad, "scores": x, "mask": mask, "out": out}
    for bad, error, match in (
        ({"grad": grad[:2]}, ValueError, r"grad has shape \(2, 4\); scores have \(3, 4\)"),
        ({"grad": grad.astype(float)}, TypeError, "grad has dtype float64.*float32"),
        ({"mask": gen.mask((3, 5), 0.5)}, ValueError, r"scores have shape \(3, 4\).*\(3, 5\)"),
        ({"mask": mask.keep()}, TypeError, "mask must be a Mask, not ndarray"),
        ({"mask": None}, TypeError, "mask must be a Mask, not NoneType"),
        ({"axis": 5}, ValueError, "axis=5"),
        ({"out": out[:2]}, ValueError, "out has shape"),
        ({"scores": "text"}, TypeError, "scores"),
    ):
        with pytest.raises(error, match=match):
            fd.softmax_dropout_backward(**good | bad)
    out.flags.writeable = False
    with pytest.raises(ValueError, match="out is read-only"):
        fd.softmax_dropout(x, 0.5, rng=gen, out=out)
    assert (out == 7).all()
    assert gen.position == 2  # of the two masks


def test_layer():
    x, grad = arrays((2, 3, 8), np.float32)
    layer = nn.SoftmaxDropout(0.5, rng=3)
    with pytest.raises(RuntimeError, match="no scores"):
        layer.backward(grad)
    y, mask = layer(x, return_mask=True)
    np.testing.assert_array_equal(y, fd.softmax_dropout(x, 0.5, rng=3))
    dx = fd.softmax_dropout_backward(grad, x, mask)
    np.testing.assert_array_equal(layer.backward(grad), dx)
    own = grad.copy()
    assert layer.backward(own, out=own) is own
    np.testing.assert_array_equal(own, dx)
    assert layer.scores is x
    with pytest.raises(ValueError, match="may share memory with scores"):
        layer(x, out=x)
    assert layer.mask is mask
    assert layer._rng.position == 1
    out = np.empty_like(x)
    assert layer(x, out=out) is out
    layer.eval()
    np.testing.assert_array_equal(layer(x), fd.softmax_dropout(x, training=False))
    want = gradient(grad, x, True, 1)
    assert np.allclose(layer.backward(grad), want.astype(float), atol=1e-6)
    assert layer(x, training=True).shape == x.shape


def test_layer_along_another_axis_and_its_copies():
    x, grad = arrays((5, 6), np.float64)
    layer = nn.SoftmaxDropout(0.25, axis=0, rng=1)
    assert repr(layer) == "SoftmaxDropout(p=0.25, axis=0)"
    y = layer(x)
    np.testing.assert_array_equal(y, fd.softmax_dropout(x, 0.25, 0, rng=1))
    dx = layer.backward(grad)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), copy.copy(layer)):
        assert other.axis == 0
        assert other.scores is None
        with pytest.raises(RuntimeError, match="in a copy"):
            other.backward(grad)
        np.testing.assert_array_equal(fd.softmax_dropout_backward(grad, x, other.mask, 0), dx)
    for axis in (None, True, "0", 1.5):
        with pytest.raises(TypeError, match="axis must be an int"):
            nn.SoftmaxDropout(axis=axis)
        with pytest.raises(TypeError, match="axis must be an int"):
            layer.axis = axis
    assert layer.axis == 0
    layer.axis = 1  # for the next forward pass
    np.testing.assert_array_equal(layer.backward(grad), dx)
    layer.axis = 7
    with pytest.raises(ValueError, match="axis=7"):
        layer(x)
    assert layer._rng.position == 1
