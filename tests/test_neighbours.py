"""Dropout fused with its neighbours: dropout_add, relu_dropout, drop_connect against NumPy."""

import copy

import ml_dtypes
import numpy as np
import pytest
from conftest import bits_of

import fastdrop as fd
from fastdrop import _reference, nn
from fastdrop.fused import SUMMED

SHAPES = [(), (5,), (3, 1), (7, 3), (2, 3, 64), (40, 100), (33, 777), (0, 4), (4, 0)]


def arrays(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x, residual = rng.standard_normal((2, *shape)).astype(dtype)
    bias = rng.standard_normal(shape[-1:] or (1,)).astype(dtype)
    return x, residual, bias


def added(x, residual, bias, keep, scale):
    """``residual + dropout(x + bias)``; 16-bit types by way of float32, rounded at the end."""
    real = np.float64 if x.dtype == np.float64 else np.float32
    wide = x.astype(real) + (0 if bias is None else bias.astype(real))
    dropped = np.where(keep, (wide * real(scale)).astype(real), real(0))
    return np.asarray(residual.astype(real) + dropped).astype(x.dtype).reshape(x.shape)


def column_sums(v, columns):
    """Rows in their order in v's dtype, by parts of SUMMED elements; the parts in float64."""
    total = np.zeros(columns)
    flat, period = v.ravel(), columns * -(-64 // max(1, columns))
    unit = max(SUMMED, -(-32 * columns // 2048) * 2048)
    for at in range(0, flat.size, unit):
        part = np.zeros(period, v.dtype)
        here = flat[at : at + unit]
        phase = at % period
        padded = np.concatenate([np.zeros(phase, v.dtype), here])
        padded = np.concatenate([padded, np.zeros(-len(padded) % period, v.dtype)])
        for row in padded.reshape(-1, period):
            part += row
        sub = np.zeros(columns)
        for row in part.reshape(-1, columns):
            sub += row
        total += sub
    return total


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_dropout_add(isa, dtype, shape, p, with_bias):
    x, residual, bias = arrays(shape, dtype)
    bias = bias if with_bias else None
    gen = fd.Generator(9, position=4)
    y, mask = fd.dropout_add(x, residual, p, bias=bias, rng=gen, return_mask=True)
    keep = _reference.keep_array(9, 4, shape, p)
    scale = 1 / (1 - p) if p < 1 else 0
    want = added(x, residual, bias, keep, scale)
    np.testing.assert_array_equal(bits_of(y), bits_of(want))
    assert gen.position == 5
    np.testing.assert_array_equal(mask.keep(), keep)

    dx, dbias = fd.dropout_add_backward(residual, mask)
    np.testing.assert_array_equal(bits_of(dx), bits_of(mask.backward(residual)))
    real = np.float64 if dtype == np.float64 else np.float32
    v = np.where(keep, (residual.astype(real) * real(scale)).astype(real), real(0))
    columns = shape[-1] if shape else 1
    want = column_sums(np.asarray(v, real), columns).astype(dtype)
    np.testing.assert_array_equal(bits_of(dbias), bits_of(want))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout_add_is_numpy_on_dropout(dtype):
    """Bit for bit, signs of zero included."""
    x, residual, bias = arrays((50, 60), dtype)
    residual[0] = -0.0
    x[:, 3], bias[3] = -0.0, -0.0
    y = fd.dropout_add(x, residual, 0.4, bias=bias, rng=2)
    np.testing.assert_array_equal(bits_of(y), bits_of(residual + fd.dropout(x + bias, 0.4, rng=2)))
    y = fd.dropout_add(x, residual, 0.4, rng=2)
    np.testing.assert_array_equal(bits_of(y), bits_of(residual + fd.dropout(x, 0.4, rng=2)))
    y = fd.dropout_add(x, residual, 0.4, bias=bias, training=False)
    np.testing.assert_array_equal(bits_of(y), bits_of(residual + (x + bias)))


@pytest.mark.parametrize("columns", [1, 5, 64, 100, 512, 3000, 70_001])
def test_bias_gradient_does_not_depend_on_isa_or_threads(columns, split_small_calls):
    rows = 3 * SUMMED // columns + 5
    grad = np.random.default_rng(0).standard_normal((rows, columns), np.float32)
    mask = fd.Generator(0).mask(grad.shape, 0.1)
    results = []
    for isa in fd.available_isas():
        fd.set_isa(isa)
        for threads in (1, 2, 3):
            fd.set_num_threads(threads)
            results.append(fd.dropout_add_backward(grad, mask))
    for dx, dbias in results[1:]:
        np.testing.assert_array_equal(bits_of(dx), bits_of(results[0][0]))
        np.testing.assert_array_equal(bits_of(dbias), bits_of(results[0][1]))
    exact = mask.backward(grad).sum(0, dtype=np.float64)
    np.testing.assert_allclose(results[0][1], exact, atol=2e-6 * rows**0.5 * 20)


def test_large_calls_go_around_the_caches_with_the_same_bits(monkeypatch):
    x, residual, bias = arrays((4500, 1000), np.float32)  # 17 MiB
    fd.set_num_threads(1)
    y, mask = fd.dropout_add(x, residual, 0.1, bias=bias, rng=0, return_mask=True)
    np.testing.assert_array_equal(bits_of(y), bits_of(residual + fd.dropout(x + bias, 0.1, rng=0)))
    dx, dbias = fd.dropout_add_backward(residual, mask)
    np.testing.assert_array_equal(bits_of(dx), bits_of(mask.backward(residual)))
    np.testing.assert_array_equal(
        dbias, column_sums(mask.backward(residual), 1000).astype(np.float32)
    )


def test_in_place_and_layouts():
    x, residual, bias = arrays((30, 40), np.float32)
    want = fd.dropout_add(x, residual, 0.3, bias=bias, rng=0)
    for name in ("x", "residual"):
        a, r = x.copy(), residual.copy()
        out = a if name == "x" else r
        assert fd.dropout_add(a, r, 0.3, bias=bias, rng=0, out=out) is out
        np.testing.assert_array_equal(out, want)
    both = x.copy()
    fd.dropout_add(both, both, 0.3, rng=0, out=both)
    np.testing.assert_array_equal(both, x + fd.dropout(x, 0.3, rng=0))
    odd = np.asfortranarray(x), residual[::-1][::-1], np.repeat(bias, 2)[::2]
    np.testing.assert_array_equal(fd.dropout_add(odd[0], odd[1], 0.3, bias=odd[2], rng=0), want)
    swapped = [a.astype(">f4") for a in (x, residual, bias)]
    y = fd.dropout_add(swapped[0], swapped[1], 0.3, bias=swapped[2], rng=0)
    np.testing.assert_array_equal(y, want)
    room = np.zeros(x.size + 40, np.float32)  # out overlaps the residual by all but a row
    room[: x.size] = residual.ravel()
    out = room[40:].reshape(x.shape)
    fd.dropout_add(x, room[: x.size].reshape(x.shape), 0.3, bias=bias, rng=0, out=out)
    np.testing.assert_array_equal(out, want)


def test_a_shard_of_rows():
    grad = np.random.default_rng(0).standard_normal((20, 30))
    mask = fd.Generator(0).mask(grad.shape, 0.3)
    dx, dbias = fd.dropout_add_backward(grad[5:9], mask[5:9])
    np.testing.assert_array_equal(dx, mask.backward(grad)[5:9])
    np.testing.assert_allclose(dbias, dx.sum(0))
    with pytest.raises(ValueError, match="whole, consecutive rows"):
        fd.dropout_add_backward(grad[:, 5:9].copy(), mask[:, 5:9])


def test_dropout_add_refuses():
    x, residual, bias = arrays((3, 4), np.float32)
    gen = fd.Generator(0)
    for bad, error, match in (
        ({"residual": residual[:2]}, ValueError, r"residual has shape \(2, 4\).*\(3, 4\)"),
        ({"residual": residual.astype(float)}, TypeError, "residual has dtype float64"),
        ({"bias": bias[:3]}, ValueError, r"bias has shape \(3,\).*\(4,\)"),
        ({"bias": bias.astype(float)}, TypeError, "bias has dtype float64"),
        ({"bias": np.arange(4)}, TypeError, "bias has dtype int64"),
        ({"p": 1.5}, ValueError, r"p=1\.5"),
        ({"rng": True}, TypeError, "rng must be"),
        ({"out": np.ones((3, 5), np.float32)}, ValueError, "out has shape"),
    ):
        arguments = {"x": x, "residual": residual, "bias": bias, "rng": gen} | bad
        with pytest.raises(error, match=match):
            fd.dropout_add(**arguments)
    assert gen.position == 0
    mask = gen.mask((3, 4), 0.5)
    with pytest.raises(ValueError, match="grad has shape"):
        fd.dropout_add_backward(bias, mask)
    with pytest.raises(TypeError, match="mask must be a Mask"):
        fd.dropout_add_backward(x, 0.5)


def test_dropout_add_layer():
    x, residual, bias = arrays((6, 5), np.float64)
    layer = nn.DropoutAdd(0.4, rng=3)
    with pytest.raises(RuntimeError, match="before the first forward"):
        layer.backward(x)
    y = layer(x, residual, bias)
    np.testing.assert_array_equal(y, fd.dropout_add(x, residual, 0.4, bias=bias, rng=3))
    grad = np.random.default_rng(1).standard_normal(x.shape)
    dx, dbias = layer.backward(grad)
    mask = layer.mask
    eps = 1e-6

    def loss(x, bias):
        return (grad * (residual + mask.apply(x + bias))).sum()

    for j in range(5):
        step = eps * (np.arange(5) == j)
        slope = (loss(x, bias + step) - loss(x, bias - step)) / (2 * eps)
        assert slope == pytest.approx(dbias[j], abs=1e-7)
        slope = (loss(x + step, bias) - loss(x - step, bias)) / (2 * eps)
        assert slope == pytest.approx(dx[:, j].sum(), abs=1e-7)
    other = nn.DropoutAdd(0.0, rng=0)
    other.load_state_dict(layer.state_dict())
    np.testing.assert_array_equal(other(x, residual), layer(x, residual))
    np.testing.assert_array_equal(layer.eval()(x, residual, bias), residual + (x + bias))
    assert repr(layer) == "DropoutAdd(p=0.4)"


# ---- mixed precision -----------------------------------------------------------------------------

HALVES = [np.float16, ml_dtypes.bfloat16]


@pytest.mark.parametrize("half", HALVES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("bias_dtype", [None, "half", "float32"])
def test_16_bit_x_and_float32_residual(isa, half, shape, bias_dtype):
    """The float32 bits of ``residual + dropout(x + bias)``, x and bias widened exactly."""
    x, residual, bias = arrays(shape, np.float32)
    x = x.astype(half)
    bias = {None: None, "half": bias.astype(half), "float32": bias}[bias_dtype]
    y, mask = fd.dropout_add(x, residual, 0.3, bias=bias, rng=5, return_mask=True)
    wide = x.astype(np.float32) + np.float32(-0.0 if bias is None else bias.astype(np.float32))
    assert y.dtype == np.float32
    want = residual + mask.apply(wide.reshape(shape))
    np.testing.assert_array_equal(bits_of(y), bits_of(want))

    dx, dbias = fd.dropout_add_backward(residual, mask, dtype=half)
    plain = fd.dropout_add_backward(residual, mask)
    assert dx.dtype == half
    assert dbias.dtype == np.float32
    np.testing.assert_array_equal(bits_of(dx), bits_of(plain[0].astype(half)))
    np.testing.assert_array_equal(bits_of(dbias), bits_of(plain[1]))  # summed before rounding
    out = np.empty(shape, half)
    assert fd.dropout_add_backward(residual, mask, out=out)[0] is out
    np.testing.assert_array_equal(bits_of(out), bits_of(dx))


@pytest.mark.parametrize("half", HALVES)
def test_narrowing_keeps_nans_and_rounds_to_even(isa, half):
    """A float32 NaN may have all bits set, which an integer rounding would carry into the sign."""
    bits = np.random.default_rng(0).integers(0, 1 << 32, 100_000, np.uint32)
    bits[:4] = 0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0xFFC00000
    grad = bits.view(np.float32)
    dx, _ = fd.dropout_add_backward(grad, fd.Mask(0, 0, grad.shape, 0.0), dtype=half)
    with np.errstate(all="ignore"):
        want = grad.astype(half)
    np.testing.assert_array_equal(np.isnan(dx), np.isnan(grad))
    np.testing.assert_array_equal(bits_of(dx)[~np.isnan(dx)], bits_of(want)[~np.isnan(dx)])


@pytest.mark.parametrize("half", HALVES)
def test_mixed_precision_in_shared_memory_and_other_layouts(half):
    x, residual, bias = arrays((30, 40), np.float32)
    x = x.astype(half)
    want = fd.dropout_add(x, residual, 0.3, bias=bias, rng=0)
    out = residual.copy()
    assert fd.dropout_add(x, out, 0.3, bias=bias, rng=0, out=out) is out
    np.testing.assert_array_equal(out, want)
    out = np.zeros((30, 40), np.float32)
    for begin in (0, 600, 1200):  # x lies in out
        inside = out.view(half).ravel()[begin : begin + 1200].reshape(30, 40)
        inside[:] = x
        fd.dropout_add(inside, residual, 0.3, bias=bias, rng=0, out=out)
        np.testing.assert_array_equal(out, want)
    swapped = residual.astype(">f4"), bias.astype(">f4")
    y = fd.dropout_add(np.asfortranarray(x), swapped[0], 0.3, bias=swapped[1], rng=0)
    np.testing.assert_array_equal(y, want)
    mask = fd.Mask(0, 0, x.shape, 0.3)
    dx, _ = fd.dropout_add_backward(residual, mask, dtype=half)
    grad = residual.copy()  # the result lies in it
    out = grad.view(half).ravel()[:1200].reshape(30, 40)
    fd.dropout_add_backward(grad, mask, out=out)
    np.testing.assert_array_equal(bits_of(out), bits_of(dx))


@pytest.mark.parametrize("half", HALVES)
def test_mixed_precision_around_the_caches_and_in_threads(half, split_small_calls):
    x, residual, bias = arrays((2500, 1000), np.float32)
    x = x.astype(half)
    results = []
    for threads in (1, 3):
        fd.set_num_threads(threads)
        y, mask = fd.dropout_add(x, residual, 0.1, bias=bias, rng=0, return_mask=True)
        results.append((y, *fd.dropout_add_backward(residual, mask, dtype=half)))
    wide = mask.apply(x.astype(np.float32) + bias)
    np.testing.assert_array_equal(bits_of(results[0][0]), bits_of(residual + wide))
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(bits_of(a), bits_of(b))


def test_mixed_precision_refuses():
    x, residual, bias = arrays((3, 4), np.float32)
    half, gen = x.astype(np.float16), fd.Generator(0)
    for bad, match in (
        ({"residual": residual.astype(float)}, "residual has dtype float64.*float16, or float32"),
        ({"x": x, "residual": half}, "residual has dtype float16; it must be that of x, float32$"),
        ({"residual": half}, "bias has dtype float32; it must be that of x, float16$"),
        ({"bias": bias.astype(float)}, "bias has dtype float64.*float16, or float32"),
        ({"out": half.copy()}, "out has dtype float16; the result has float32"),
    ):
        arguments = {"x": half, "residual": residual, "bias": bias, "rng": gen} | bad
        with pytest.raises(TypeError, match=match):
            fd.dropout_add(**arguments)
    assert gen.position == 0
    mask = gen.mask((3, 4), 0.5)
    for grad, dtype, match in (
        (residual, np.float64, "dtype is float64.*that of grad, float32, or a narrower one"),
        (residual, np.int16, "dtype is int16"),
        (half, np.float32, "dtype is float32.*that of grad, float16$"),
    ):
        with pytest.raises(TypeError, match=match):
            fd.dropout_add_backward(grad, mask, dtype=dtype)
    with pytest.raises(TypeError, match="out has dtype float64; the result has float32"):
        fd.dropout_add_backward(residual, mask, out=np.ones((3, 4)))
    with pytest.raises(TypeError, match="out has dtype float32; the result has float16"):
        fd.dropout_add_backward(residual, mask, out=residual, dtype=np.float16)


def test_mixed_precision_layer():
    x, residual, bias = arrays((6, 5), np.float32)
    layer = nn.DropoutAdd(0.4, rng=3)
    y = layer(x.astype(np.float16), residual, bias)
    dx, dbias = layer.backward(y, dtype=np.float16)
    assert (y.dtype, dx.dtype, dbias.dtype) == (np.float32, np.float16, np.float32)
    np.testing.assert_array_equal(dx, layer.mask.backward(y).astype(np.float16))


# ---- relu_dropout --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_relu_dropout(isa, dtype, shape, p, with_bias):
    """Ten lines of NumPy on the same mask, bit for bit; the gradient from the output alone."""
    x, grad, bias = arrays(shape, dtype)
    bias = bias if with_bias else None
    gen = fd.Generator(9, position=4)
    y, mask = fd.relu_dropout(x, p, bias=bias, rng=gen, return_mask=True)
    assert (gen.position, mask.p, mask.shape) == (5, p, shape)
    keep = _reference.keep_array(9, 4, shape, p)
    real = np.float64 if dtype == np.float64 else np.float32
    scale = real(1 / (1 - p) if p < 1 else 0)
    wide = x.astype(real) + real(-0.0 if bias is None else bias.astype(real))
    active = np.maximum(wide, real(0)) + real(0)  # +0 of -0
    want = np.where(keep, active * scale, real(0)).astype(dtype).reshape(shape)
    np.testing.assert_array_equal(bits_of(y), bits_of(want))

    dx, dbias = fd.relu_dropout_backward(grad, y, p)
    v = np.where(y > 0, grad.astype(real) * scale, real(0)).astype(real).reshape(shape)
    np.testing.assert_array_equal(bits_of(dx), bits_of(v.astype(dtype)))
    want = column_sums(v, shape[-1] if shape else 1).astype(dtype)
    np.testing.assert_array_equal(bits_of(dbias), bits_of(want))
    y = fd.relu_dropout(x, p, bias=bias, training=False)
    np.testing.assert_array_equal(bits_of(y), bits_of(active.astype(dtype).reshape(shape)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_dropout_is_numpy_on_dropout(dtype):
    x, _, bias = arrays((50, 60), dtype)
    y, mask = fd.relu_dropout(x, 0.4, bias=bias, rng=2, return_mask=True)
    want = fd.dropout(np.maximum(x + bias, 0), 0.4, rng=2)
    np.testing.assert_array_equal(bits_of(y), bits_of(want))
    # and its gradient is the chain's
    grad = np.random.default_rng(1).standard_normal(x.shape).astype(dtype)
    dx, _ = fd.relu_dropout_backward(grad, y, 0.4)
    np.testing.assert_array_equal(dx, mask.backward(grad) * (x + bias > 0))


def test_relu_of_special_values(isa, dtype):
    x = np.array([-0.0, 0.0, np.nan, -np.nan, np.inf, -np.inf, 1.0, -1.0], dtype)
    y = fd.relu_dropout(x, 0.0)
    assert np.isnan(y[2:4]).all()
    np.testing.assert_array_equal(
        bits_of(y[[0, 1, 4, 5, 6, 7]]), bits_of(np.array([0, 0, np.inf, 0, 1, 0], dtype))
    )
    np.testing.assert_array_equal(bits_of(fd.relu_dropout(x, 1.0)), 0)
    grad = np.array([3, -np.inf, 1, 1, np.nan, np.nan, -0.0, np.nan], dtype)
    dx, _ = fd.relu_dropout_backward(grad, y, 0.5)
    want = np.array([0, 0, 0, 0, np.nan, 0, -0.0, 0], dtype)  # a NaN was not above 0
    np.testing.assert_array_equal(np.isnan(dx), np.isnan(want))
    np.testing.assert_array_equal(bits_of(dx)[~np.isnan(dx)], bits_of(want)[~np.isnan(dx)])
    dx, _ = fd.relu_dropout_backward(grad, fd.relu_dropout(x, 1.0), 1.0)
    np.testing.assert_array_equal(bits_of(dx), 0)


def test_relu_dropout_that_left_the_dtypes_range(isa):
    """What underflowed counts as inactive, what overflowed as active."""
    x = np.array([2.0**-24, 60000.0], np.float16)
    up = fd.relu_dropout(
        x, 0.5, rng=next(s for s in range(99) if fd.Mask(s, 0, 2, 0.5).keep().all())
    )
    assert up.tolist() == [2.0**-23, np.inf]
    assert fd.relu_dropout_backward(np.ones(2, np.float16), up, 0.5)[0].tolist() == [2, 2]
    tiny = np.array([2.0**-25, 60000.0], np.float16)
    assert fd.relu_dropout(tiny, 0.0).tolist()[0] == 0
    bias = np.array([-1.0], np.float16)
    close = np.nextafter(np.float16(1), np.float16(2)) * np.ones(1, np.float16)
    assert fd.relu_dropout(close, 0.0, bias=bias).tolist() == [2.0**-10]


def test_relu_dropout_in_place_and_layouts():
    x, grad, bias = arrays((30, 40), np.float32)
    want = fd.relu_dropout(x, 0.3, bias=bias, rng=0)
    own = x.copy()
    assert fd.relu_dropout(own, 0.3, bias=bias, rng=0, out=own) is own
    np.testing.assert_array_equal(own, want)
    odd = fd.relu_dropout(
        np.asfortranarray(x).astype(">f4"), 0.3, bias=np.repeat(bias, 2)[::2], rng=0
    )
    np.testing.assert_array_equal(odd, want)
    dx, dbias = fd.relu_dropout_backward(grad, want, 0.3)
    for name in ("grad", "y"):
        g, y = grad.copy(), want.copy()
        out = g if name == "grad" else y
        assert fd.relu_dropout_backward(g, y, 0.3, out=out)[0] is out
        np.testing.assert_array_equal(out, dx)
    odd = fd.relu_dropout_backward(grad[::-1][::-1], np.asfortranarray(want), 0.3)
    np.testing.assert_array_equal(odd[0], dx)
    np.testing.assert_array_equal(odd[1], dbias)


def test_relu_dropout_does_not_depend_on_threads(split_small_calls):
    x, grad, bias = arrays((3000, 700), np.float32)
    results = []
    for threads in (1, 2, 3):
        fd.set_num_threads(threads)
        y = fd.relu_dropout(x, 0.1, bias=bias, rng=0)
        results.append((y, *fd.relu_dropout_backward(grad, y, 0.1)))
    for result in results[1:]:
        for a, b in zip(result, results[0], strict=True):
            np.testing.assert_array_equal(bits_of(a), bits_of(b))


def test_relu_dropout_refuses():
    x, grad, bias = arrays((3, 4), np.float32)
    gen = fd.Generator(0)
    for bad, error, match in (
        ({"bias": bias[:3]}, ValueError, r"bias has shape \(3,\).*\(4,\)"),
        ({"bias": bias.astype(float)}, TypeError, "bias has dtype float64"),
        ({"x": x.astype(np.float16)}, TypeError, "bias has dtype float32; .* float16$"),
        ({"p": np.nan}, ValueError, "p=nan"),
        ({"training": "test"}, TypeError, "training"),
        ({"out": np.ones((3, 5), np.float32)}, ValueError, "out has shape"),
    ):
        with pytest.raises(error, match=match):
            fd.relu_dropout(**{"x": x, "bias": bias, "rng": gen} | bad)
    assert gen.position == 0
    out = np.full((3, 4), 7, np.float32)
    for bad, error, match in (
        ({"y": x[:2]}, ValueError, r"y has shape \(2, 4\); grad has \(3, 4\)"),
        ({"y": x.astype(float)}, TypeError, "y has dtype float64"),
        ({"y": x > 0}, TypeError, "y has dtype bool"),
        ({"p": -0.1}, ValueError, r"p=-0\.1"),
        ({"training": 0.5}, TypeError, "training"),
    ):
        with pytest.raises(error, match=match):
            fd.relu_dropout_backward(**{"grad": grad, "y": x, "out": out} | bad)
    np.testing.assert_array_equal(out, 7)


def test_relu_dropout_layer():
    x, grad, bias = arrays((6, 5), np.float64)
    layer = nn.ReLUDropout(0.4, rng=3)
    with pytest.raises(RuntimeError, match="before the first forward"):
        layer.backward(x)
    y = layer(x, bias)
    np.testing.assert_array_equal(y, fd.relu_dropout(x, 0.4, bias=bias, rng=3))
    assert layer.y is y
    dx, dbias = layer.backward(grad)
    mask, eps = layer.mask, 1e-6

    def loss(x, bias):
        return (grad * mask.apply(np.maximum(x + bias, 0))).sum()

    for j in range(5):
        step = eps * (np.arange(5) == j)
        slope = (loss(x, bias + step) - loss(x, bias - step)) / (2 * eps)
        assert slope == pytest.approx(dbias[j], abs=1e-7)
        slope = (loss(x + step, bias) - loss(x - step, bias)) / (2 * eps)
        assert slope == pytest.approx(dx[:, j].sum(), abs=1e-7)
    other = layer(x[:3])
    np.testing.assert_array_equal(layer.backward(grad, y=y)[0], dx)
    np.testing.assert_array_equal(layer.y, other)
    with pytest.raises(RuntimeError, match="in a copy"):
        copy.deepcopy(layer).backward(grad[:3])
    assert layer.eval()(x, bias, out=x) is x
    np.testing.assert_array_equal(layer.backward(grad)[0], grad * (x > 0))
    assert repr(layer) == "ReLUDropout(p=0.4)"


# ---- drop_connect --------------------------------------------------------------------------------


def connected(x, weight, keep, scale):
    """Wan et al. 2013 with inverted scaling: each example has its own mask."""
    return np.einsum("ni,nio->no", x, np.where(keep, weight * scale, 0))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("p", [0.0, 0.4, 1.0])
def test_drop_connect(isa, dtype, p):
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((7, 5)).astype(dtype), rng.standard_normal((5, 9)).astype(dtype)
    bias, grad = rng.standard_normal(9).astype(dtype), rng.standard_normal((7, 9)).astype(dtype)
    y, mask = fd.drop_connect(x, weight, p, bias=bias, rng=2, return_mask=True)
    keep = _reference.keep_array(2, 0, (7, 5, 9), p)
    scale = dtype(1 / (1 - p) if p < 1 else 0)
    close = {"rtol": 1e-5, "atol": 1e-5} if dtype == np.float32 else {"rtol": 1e-12, "atol": 1e-12}
    np.testing.assert_allclose(y, connected(x, weight, keep, scale) + bias, **close)
    assert y.dtype == dtype
    dx, dweight = fd.drop_connect_backward(grad, x, weight, mask)
    thinned = np.where(keep, weight * scale, 0)
    np.testing.assert_allclose(dx, np.einsum("no,nio->ni", grad, thinned), **close)
    want = np.einsum("ni,no,nio->io", x, grad, np.where(keep, scale, 0))
    np.testing.assert_allclose(dweight, want, **close)

    layer = nn.DropConnect(p, rng=2)
    np.testing.assert_array_equal(layer(x, weight, bias), y)
    got = layer.backward(grad)
    for a, b in zip(got, (dx, dweight, grad.sum(0)), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(layer.eval()(x, weight, bias), x @ weight + bias)
    got = layer.backward(grad)
    for a, b in zip(got, (grad @ weight.T, x.T @ grad, grad.sum(0)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_drop_connect_expectation():
    x, weight = np.ones((4000, 3)), np.arange(6.0).reshape(3, 2)
    y = fd.drop_connect(x, weight, 0.3, rng=0)
    np.testing.assert_allclose(y.mean(0), (x @ weight)[0], rtol=0.03)
    variance = 0.3 / 0.7 * np.square(weight).sum(0)  # of the paper, with weights scaled by 1/(1-p)
    np.testing.assert_allclose(y.var(0), variance, rtol=0.08)


def test_drop_connect_refuses():
    x, weight = np.ones((3, 4)), np.ones((4, 2))
    gen = fd.Generator(0)
    for arguments, error, match in (
        ((x[0], weight), ValueError, r"x has shape \(4,\)"),
        ((x, weight.T), ValueError, r"weight has shape \(2, 4\)"),
        ((x, weight.astype(int)), TypeError, "weight has dtype int64"),
        ((x.astype(int), weight), TypeError, "x has dtype int64"),
    ):
        with pytest.raises(error, match=match):
            fd.drop_connect(*arguments, rng=gen)
    with pytest.raises(ValueError, match="bias has shape"):
        fd.drop_connect(x, weight, bias=np.ones(3), rng=gen)
    assert gen.position == 0
    _, mask = fd.drop_connect(x, weight, rng=gen, return_mask=True)
    with pytest.raises(ValueError, match="grad has shape"):
        fd.drop_connect_backward(np.ones((3, 3)), x, weight, mask)
    with pytest.raises(ValueError, match="mask has shape"):
        fd.drop_connect_backward(np.ones((3, 2)), x, weight, mask[1:])
    with pytest.raises(RuntimeError, match="before the first forward"):
        nn.DropConnect().backward(x)


def test_weight_dropout_leaves_the_weights():
    weight = np.ones((30, 40))
    layer = nn.WeightDropout(0.5, rng=0)
    np.testing.assert_array_equal(layer(weight), fd.dropout(weight, 0.5, rng=0))
    np.testing.assert_array_equal(layer.backward(weight), layer.mask.apply(weight))
    assert (weight == 1).all()  # none is ever zeroed for good
    assert layer.eval()(weight) is weight
    assert repr(layer) == "WeightDropout(p=0.5)"


# ---- found by review -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_16_bit_sums_do_not_stick(dtype):
    """Where ones are added up in 16 bits, bfloat16 stops at 256."""
    x, weight, grad = np.ones((4096, 1), dtype), np.ones((1, 2), dtype), np.ones((4096, 2), dtype)
    layer = nn.DropConnect(0.5, rng=0)
    layer(x, weight, weight[0])
    dx, dweight, dbias = layer.backward(grad)
    assert dx.dtype == dweight.dtype == dbias.dtype == dtype
    np.testing.assert_array_equal(dbias.astype(float), 4096)
    np.testing.assert_allclose(dweight.astype(float), 4096, rtol=0.05)
    _, dbias = fd.dropout_add_backward(grad, fd.Generator(0).mask(grad.shape, 0.0))
    np.testing.assert_array_equal(dbias.astype(float), 4096)


def test_windows_that_are_whole_rows():
    grad = np.random.default_rng(0).standard_normal((1, 8, 3))
    mask = fd.Generator(0).mask((1, 8, 3), 0.3)
    dx, dbias = fd.dropout_add_backward(grad[:, 2:4], mask[:, 2:4])
    np.testing.assert_array_equal(dx, mask.backward(grad)[:, 2:4])
    np.testing.assert_allclose(dbias, dx.sum((0, 1)))
    dx, dbias = fd.dropout_add_backward(grad[0, 4:4], mask[0, 4:4])
    assert dx.shape == (0, 3)
    assert (dbias == 0).all()


@pytest.mark.parametrize("threads", [1, 2])
def test_overflowing_sums_do_not_warn(split_small_calls, threads):
    fd.set_num_threads(threads)
    grad = np.full((4000, 4), 100, np.float16)
    mask = fd.Generator(0).mask(grad.shape, 0.0)
    with np.errstate(all="raise"):
        _, dbias = fd.dropout_add_backward(grad, mask)
    assert np.isinf(dbias).all()
    wild = np.array([[np.inf, np.nan], [-np.inf, 1.0]])
    with np.errstate(all="raise"):
        _, dbias = fd.dropout_add_backward(wild, fd.Generator(0).mask(wild.shape, 0.0))
    assert np.isnan(dbias).all()


def test_layouts_of_drop_connect():
    x, weight = np.ones((3, 4)).astype(">f8"), np.asfortranarray(np.ones((4, 5))).astype(">f8")
    for training in (True, False):
        y, mask = fd.drop_connect(x, weight, 0.5, training=training, rng=0, return_mask=True)
        dx, dweight = fd.drop_connect_backward(y, x, weight, mask)
        for a in (y, dx, dweight):
            assert a.dtype.isnative
            assert a.flags.c_contiguous


def test_nothing_is_taken_where_there_is_no_memory():
    gen = fd.Generator(0)
    x, weight = np.ones((2**23, 1), np.float32), np.ones((1, 2**24), np.float32)
    with pytest.raises(MemoryError):  # half a petabyte
        fd.drop_connect(x, weight, 0.5, rng=gen)
    assert gen.position == 0
