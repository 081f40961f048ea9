"""Every row of the table of semantics."""

import array
import ctypes
import mmap
import re
import subprocess
import sys
from decimal import Decimal
from fractions import Fraction

import ml_dtypes
import numpy as np
import pytest
from conftest import bits_of

import fastdrop as fd
from fastdrop import _reference
from fastdrop.arrays import as_input


def gen():
    return fd.Generator(42)


# ---- p -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [Fraction(1, 4), np.float32(0.25), np.float64(0.25), 0.25])
def test_p_may_be_any_real_number(p):
    want = fd.dropout(np.ones(300), 0.25, rng=0)
    np.testing.assert_array_equal(fd.dropout(np.ones(300), p, rng=0), want)


@pytest.mark.parametrize("p", [0, 1, np.int64(1), True + 0])
def test_p_may_be_an_int(p):
    assert (fd.dropout(np.ones(300), p, rng=0) == 1 - p).all()


@pytest.mark.parametrize("p", [-0.1, 1.1, np.nan, np.inf, -np.inf, 2, -1, 10**400, Fraction(3, 2)])
def test_p_out_of_range(p):
    with pytest.raises(ValueError, match=r"^p=.* must be in \[0, 1\]"):
        fd.dropout(np.ones(3), p)


@pytest.mark.parametrize("p", [True, False, np.True_, Decimal("0.5"), "0.5", None, 0.5 + 0j])
def test_p_of_another_type(p):
    with pytest.raises(TypeError, match=r"^p must be a real number"):
        fd.dropout(np.ones(3), p)


# ---- dropped and kept elements -------------------------------------------------------------------


def test_dropped_elements_are_positive_zero(dtype, isa):
    x = np.resize(np.array([np.nan, -np.nan, np.inf, -np.inf, -1.0, -0.0, -1e-40], dtype), 3000)
    y, mask = fd.dropout(x, 0.6, rng=gen(), return_mask=True)
    dropped = ~mask.keep()
    assert 0 < dropped.sum() < 3000
    assert (bits_of(y)[dropped] == 0).all()
    assert (bits_of(mask.backward(x))[dropped] == 0).all()


def test_a_kept_negative_zero_stays(dtype, isa):
    x = np.full(3000, -0.0, dtype)
    for p in (0.0, 0.1, 0.5):
        y, mask = fd.dropout(x, p, rng=gen(), return_mask=True)
        keep = mask.keep()
        np.testing.assert_array_equal(bits_of(y)[keep], bits_of(x)[keep])
        assert (bits_of(y)[~keep] == 0).all()


def test_kept_infinities_and_nans_stay(dtype, isa):
    x = np.resize(np.array([np.nan, np.inf, -np.inf], dtype), 999)
    y, mask = fd.dropout(x, 0.5, rng=gen(), return_mask=True)
    keep = mask.keep()
    np.testing.assert_array_equal(y[keep].astype(float), x[keep].astype(float))


def test_subnormals_are_kept(dtype, isa):
    smallest = np.array(1, f"u{dtype.itemsize}").view(dtype)
    x = np.full(999, smallest)
    y, mask = fd.dropout(x, 0.5, rng=gen(), return_mask=True)
    assert (bits_of(y)[mask.keep()] == 2).all()


def test_one_rounding(dtype, isa):
    x = np.random.default_rng(0).standard_normal(4000).astype(dtype)
    y, mask = fd.dropout(x, 0.3, rng=gen(), return_mask=True)
    np.testing.assert_array_equal(
        bits_of(y), bits_of(_reference.dropout(x, mask.keep(), 1 / (1 - 0.3)))
    )


def test_nothing_is_written_to_x(dtype):
    x = np.arange(5000).astype(dtype)
    before = x.copy()
    x.flags.writeable = False
    y, mask = fd.dropout(x, 0.5, rng=gen(), return_mask=True)
    mask.backward(x)
    np.testing.assert_array_equal(x, before)
    assert y.flags.writeable


# ---- training, p = 0, p = 1 ----------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["upscale_in_train", "downscale_in_infer"])
def test_training_gives_a_new_array_at_p_0_too(mode):
    x = np.arange(10.0)
    y = fd.dropout(x, 0.0, rng=gen(), mode=mode)
    np.testing.assert_array_equal(y, x)
    assert not np.shares_memory(x, y)


def test_inference_returns_x_itself():
    x = np.arange(10.0)
    assert fd.dropout(x, 0.5, training=False) is x
    strided = x[::2]
    assert fd.dropout(strided, 0.5, training=False) is strided
    y, mask = fd.dropout(x, 0.5, training=False, return_mask=True)
    assert y is x
    assert mask.p == 0.0
    assert mask.scale == 1.0
    assert mask.keep().all()
    np.testing.assert_array_equal(mask.backward(x), x)


def test_inference_uses_no_position():
    g = gen()
    fd.dropout(np.ones(3), rng=g, training=False)
    assert g.position == 0


def test_inference_with_out_copies():
    x, out = np.arange(10.0), np.empty(10)
    assert fd.dropout(x, 0.5, training=False, out=out) is out
    np.testing.assert_array_equal(out, x)


def test_inference_of_a_list_gives_an_array():
    y = fd.dropout([1.0, 2.0], training=False)
    assert type(y) is np.ndarray


@pytest.mark.parametrize("training", [True, False])
def test_dtype_is_checked_in_inference_too(training):
    with pytest.raises(TypeError, match="int64"):
        fd.dropout(np.arange(3), training=training)


def test_downscale_in_infer():
    x = np.arange(1.0, 3001.0)
    y, mask = fd.dropout(x, 0.2, rng=gen(), mode="downscale_in_infer", return_mask=True)
    np.testing.assert_array_equal(y, np.where(mask.keep(), x, 0.0))
    np.testing.assert_array_equal(mask.backward(x), y)
    for p in (0.2, 0.0):
        y, mask = fd.dropout(x, p, training=False, mode="downscale_in_infer", return_mask=True)
        np.testing.assert_array_equal(y, x * (1 - p))
        assert not np.shares_memory(x, y)
        np.testing.assert_array_equal(mask.backward(x), x * (1 - p))


def test_unknown_mode():
    with pytest.raises(ValueError, match=r"mode='scaled' is unknown.*upscale_in_train"):
        fd.dropout(np.ones(3), mode="scaled")


def test_p_1_gives_zeros(dtype, isa):
    x = np.full(3000, np.nan, dtype)
    y, mask = fd.dropout(x, 1.0, rng=gen(), return_mask=True)
    assert (bits_of(y) == 0).all()
    assert (bits_of(mask.backward(x)) == 0).all()


# ---- dtypes and kinds of input -------------------------------------------------------------------


@pytest.mark.parametrize(
    "dtype", ["i4", "u1", "?", "c8", "O", "S3", "M8[s]", np.longdouble, ml_dtypes.float8_e5m2]
)
def test_other_dtypes(dtype):
    x = np.zeros(3, dtype)
    with pytest.raises(TypeError, match=re.escape(str(x.dtype)) + r".*(astype|apply one Mask)"):
        fd.dropout(x)


def test_result_has_the_dtype_of_x(dtype):
    y, mask = fd.dropout(np.ones(10, dtype), rng=gen(), return_mask=True)
    assert y.dtype == dtype
    for other in (np.float32, np.float64):  # the gradient's dtype is its own
        assert mask.backward(np.ones(10, other)).dtype == other


def test_the_mask_does_not_depend_on_the_dtype():
    kept = [
        fd.dropout(np.ones(5000, t), 0.3, rng=7) != 0
        for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)
    ]
    for other in kept[1:]:
        np.testing.assert_array_equal(kept[0], other)


def test_0_d():
    y = fd.dropout(np.float32(3), 0.0, rng=gen())
    assert type(y) is np.ndarray
    assert y.shape == ()
    assert y == 3
    y, mask = fd.dropout(np.array(2.0), 0.5, rng=gen(), return_mask=True)
    assert mask.keep().shape == ()
    assert y in (0.0, 4.0)


@pytest.mark.parametrize("shape", [(0,), (3, 0), (0, 5, 2)])
def test_size_0_takes_a_position(shape):
    g = gen()
    y, mask = fd.dropout(np.ones(shape, np.float32), rng=g, return_mask=True)
    assert y.shape == shape
    assert g.position == 1
    assert mask.keep().shape == shape
    assert mask.packbits().shape == (0,)


RNGS = [5, fd.Generator(5)]  # the second takes the way of small calls, where there is one


def fresh(rng):
    """An rng whose next mask is that of seed 5, position 0."""
    return fd.Generator(5) if isinstance(rng, fd.Generator) else rng


def layouts(x):
    """The same values in every layout that NumPy has."""
    swapped = x.astype(x.dtype.newbyteorder(">"))
    raw = bytearray(x.nbytes + 1)
    misaligned = np.frombuffer(raw, x.dtype, x.size, offset=1).reshape(x.shape)
    misaligned[...] = x
    wide = np.zeros((x.shape[0], 2 * x.shape[1]), x.dtype)
    wide[:, ::2] = x
    yield "F order", np.asfortranarray(x)
    yield "transposed", x.T.copy().T
    yield "sliced", wide[:, ::2]
    yield "negative strides", x[::-1, ::-1].copy()[::-1, ::-1]
    yield "byte-swapped", swapped
    yield "misaligned", misaligned
    if x.dtype == np.float64:
        yield "list", x.tolist()
    yield "read-only", np.frombuffer(x.tobytes(), x.dtype).reshape(x.shape)
    yield "subclass", x.view(type("Sub", (np.ndarray,), {}))


@pytest.mark.parametrize("rng", RNGS, ids=str)
def test_layouts_give_the_values_of_their_c_copy(dtype, rng):
    x = np.random.default_rng(1).standard_normal((40, 70)).astype(dtype)
    want, mask = fd.dropout(x, 0.3, rng=5, return_mask=True)
    np.testing.assert_array_equal(want, _reference.dropout(x, mask.keep(), 1 / 0.7))
    for name, other in layouts(x):
        np.testing.assert_array_equal(mask.apply(other), want, err_msg=name)
        y = fd.dropout(other, 0.3, rng=fresh(rng))
        np.testing.assert_array_equal(y, want, err_msg=name)
        assert type(y) is np.ndarray, name
        assert y.flags.c_contiguous, name
        assert y.dtype.isnative, name


def test_zero_strides_decide_each_element():
    x = np.broadcast_to(np.float32(1), (50, 60))
    y = fd.dropout(x, 0.5, rng=5)
    np.testing.assert_array_equal(y, fd.dropout(np.ones((50, 60), np.float32), 0.5, rng=5))


def test_masked_array_is_refused():
    x = np.ma.masked_array([1.0, 2.0], mask=[True, False])
    with pytest.raises(TypeError, match=r"x is a MaskedArray.*filled"):
        fd.dropout(x)
    with pytest.raises(TypeError, match=r"grad is a MaskedArray"):
        fd.Mask(0, 0, 2).backward(x)
    with pytest.raises(TypeError, match=r"out must be a numpy\.ndarray"):
        fd.dropout(np.ones(2), out=x)


def test_what_numpy_cannot_read_is_refused():
    class Tensor:
        def __array__(self, dtype=None, copy=None):
            raise RuntimeError("Can't call numpy() on Tensor that requires grad.")

        def detach(self):
            return self

    with pytest.raises(TypeError, match=r"requires grad.*detach\(\)\.cpu\(\)\.numpy\(\)"):
        fd.dropout(Tensor())
    with pytest.raises(
        TypeError, match=r"^x cannot be read as a NumPy array .*inhomogeneous shape"
    ):
        fd.dropout([[1.0], [1.0, 2.0]])


class Exporter:
    """Something that exports its memory by DLPack alone, as tensors of other libraries do."""

    def __init__(self, array, device=1):
        self.array, self.device = array, device

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.device, 0


class Copying(Exporter):
    """As many tensors are, it is an array by a copy, too."""

    def __array__(self, dtype=None, copy=None):
        return self.array.copy()


def exporters():
    """What shares the memory of an array without being one."""
    a = np.arange(1.0, 301.0)
    for device in (1, 3, 11):  # kDLCPU, kDLCUDAHost, kDLROCMHost
        yield Exporter(a, device), a
    yield Copying(a), a
    yield memoryview(a), a
    items = array.array("d", a)
    yield items, np.frombuffer(items)
    items = (ctypes.c_double * 300)(*a)
    yield items, np.frombuffer(items)
    raw = mmap.mmap(-1, a.nbytes)
    raw.write(a.tobytes())
    yield memoryview(raw).cast("d"), np.frombuffer(raw)


@pytest.mark.parametrize(
    ("x", "memory"), [pytest.param(*e, id=type(e[0]).__name__) for e in exporters()]
)
def test_what_exports_its_memory_goes_in_without_a_copy(x, memory):
    read = as_input(x, "x")
    assert np.shares_memory(read, memory)
    assert np.shares_memory(fd.dropout(x, training=False), memory)
    want, mask = fd.dropout(memory, 0.3, rng=5, return_mask=True)
    np.testing.assert_array_equal(fd.dropout(x, 0.3, rng=5), want)
    np.testing.assert_array_equal(mask.apply(x), want)
    np.testing.assert_array_equal(mask.backward(x), want)
    out = np.empty(300)
    assert fd.dropout(x, 0.3, rng=5, out=out) is out
    np.testing.assert_array_equal(out, want)
    fd.dropout(x, 0.3, rng=5, out=memory)  # in place, by way of the memory that both have
    np.testing.assert_array_equal(np.asarray(read), want)


@pytest.mark.parametrize("layout", ["transposed", "sliced", "read-only"])
def test_dlpack_in_other_layouts(layout):
    x = np.random.default_rng(1).standard_normal((40, 70)).astype(np.float32)
    other = dict(layouts(x))[layout]
    if layout == "read-only":
        try:
            np.from_dlpack(Exporter(other))
        except BufferError:
            pytest.skip("this NumPy exports no read-only array")
    read = as_input(Exporter(other), "x")
    assert np.shares_memory(read, other)
    np.testing.assert_array_equal(
        fd.dropout(Exporter(other), 0.3, rng=5), fd.dropout(x, 0.3, rng=5)
    )


def test_dlpack_of_a_device_is_refused():
    x = Copying(np.ones(3), device=2)  # kDLCUDA; a copy over the bus is for the user to ask for
    for call in (fd.dropout, fd.Generator(0).mask(3).apply):
        with pytest.raises(TypeError, match=r"^x cannot be read .* device.*\.cpu\(\)\.numpy\(\)"):
            call(x)


def test_dlpack_that_fails_leaves_the_other_way():
    class Fails(Copying):
        def __dlpack__(self, **options):
            raise BufferError("this dtype is not in DLPack")

    np.testing.assert_array_equal(
        fd.dropout(Fails(np.ones(9)), rng=5), fd.dropout(np.ones(9), rng=5)
    )

    class HasNone(Exporter):
        __dlpack__ = Fails.__dlpack__

    with pytest.raises(TypeError, match=r"^x cannot be read .*this dtype is not in DLPack"):
        fd.dropout(HasNone(np.ones(9)))

    class KnowsNoDevice(Copying):
        def __dlpack_device__(self):
            raise BufferError("no device is known")

    np.testing.assert_array_equal(
        fd.dropout(KnowsNoDevice(np.ones(9)), rng=5), fd.dropout(np.ones(9), rng=5)
    )


@pytest.mark.parametrize(
    ("x", "remedy"),
    [
        (b"abcd", r"read it, as in np\.frombuffer\(x, np\.float32\)"),
        (bytearray(8), r"read it, as in np\.frombuffer\(x, np\.float32\)"),
        ([None], "give numbers"),
        (["a"], "give numbers"),
        ([1, 2], r"convert it, as in np\.float32\(x\)"),
        (np.arange(3), r"convert it, as in x\.astype\(np\.float32\)"),
        (np.ones(3) + 1j, r"apply one Mask to its parts, as in mask\.apply\(x\.real\) .*x\.imag\)"),
    ],
    ids=["bytes", "bytearray", "None", "words", "list", "array", "complex"],
)
def test_other_dtypes_are_refused_with_a_remedy_that_helps(x, remedy):
    with pytest.raises(TypeError, match=rf"^x has dtype .*float64: {remedy}$"):
        fd.dropout(x)


def test_dlpack_of_other_dtypes_is_refused():
    with pytest.raises(TypeError, match=r"^x has dtype int64"):
        fd.dropout(Exporter(np.arange(3)))


def test_out_is_an_array_even_where_x_is_not():
    x = Exporter(np.ones(3))
    with pytest.raises(TypeError, match=r"out must be a numpy\.ndarray, not Exporter"):
        fd.dropout(x, out=x)


# ---- out -----------------------------------------------------------------------------------------


def test_out_is_returned_and_filled(dtype, isa):
    x = np.arange(1, 4001).astype(dtype)
    want, mask = fd.dropout(x, 0.3, rng=5, return_mask=True)
    out = np.full(4000, 9, dtype)
    assert fd.dropout(x, 0.3, rng=5, out=out) is out
    np.testing.assert_array_equal(out, want)
    out[:] = 9
    assert mask.backward(x, out=out) is out
    np.testing.assert_array_equal(out, want)


def test_in_place(dtype, isa):
    x = np.arange(1, 4001).astype(dtype)
    want = fd.dropout(x, 0.3, rng=5)
    assert fd.dropout(x, 0.3, rng=5, out=x) is x
    np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("shift", [-600, -33, -1, 1, 7, 64, 600])
def test_partial_overlap(isa, shift):
    base = np.arange(1, 6001, dtype=np.float32)
    x, out = base[1000:5000], base[1000 + shift : 5000 + shift]
    want = fd.dropout(x.copy(), 0.3, rng=5)
    fd.dropout(x, 0.3, rng=5, out=out)
    np.testing.assert_array_equal(out, want)


def test_reversed_overlap():
    base = np.arange(1.0, 101.0)
    want = fd.dropout(base[::-1].copy(), 0.3, rng=5)
    fd.dropout(base[::-1], 0.3, rng=5, out=base)
    np.testing.assert_array_equal(base, want)


def out_layouts(dtype):
    yield "F order", np.empty((30, 40), dtype, order="F")
    yield "sliced", np.empty((30, 80), dtype)[:, ::2]
    yield "negative strides", np.empty((30, 40), dtype)[::-1, ::-1]
    yield "byte-swapped", np.empty((30, 40), dtype.newbyteorder(">"))
    raw = bytearray(30 * 40 * dtype.itemsize + 1)
    yield "misaligned", np.frombuffer(raw, dtype, 1200, offset=1).reshape(30, 40)


@pytest.mark.parametrize("rng", RNGS, ids=str)
def test_out_in_every_layout(dtype, rng):
    x = np.random.default_rng(1).standard_normal((30, 40)).astype(dtype)
    want, mask = fd.dropout(x, 0.3, rng=5, return_mask=True)
    for name, out in out_layouts(dtype):
        assert fd.dropout(x, 0.3, rng=fresh(rng), out=out) is out, name
        np.testing.assert_array_equal(out, want, err_msg=name)
        out[...] = 0
        mask.apply(x, out=out)
        np.testing.assert_array_equal(out, want, err_msg=name)


@pytest.mark.parametrize("rng", RNGS, ids=str)
def test_in_place_in_every_layout(dtype, rng):
    x = np.random.default_rng(1).standard_normal((30, 40)).astype(dtype)
    want = fd.dropout(x, 0.3, rng=5)
    for name, out in out_layouts(dtype):
        out[...] = x
        fd.dropout(out, 0.3, rng=fresh(rng), out=out)
        np.testing.assert_array_equal(out, want, err_msg=name)


def refused_outs():
    read_only = np.zeros((30, 40))
    read_only.flags.writeable = False
    strided = np.lib.stride_tricks.as_strided
    yield ValueError, r"out has shape \(30, 41\); the result has \(30, 40\)", np.zeros((30, 41))
    yield ValueError, r"out has shape \(1200,\)", np.zeros(1200)
    yield TypeError, r"out has dtype float32; the result has float64", np.zeros((30, 40), "f4")
    yield ValueError, r"out is read-only", read_only
    yield ValueError, r"out overlaps itself", strided(np.zeros(200), (30, 40), (8, 16))
    yield ValueError, r"out overlaps itself", strided(np.zeros(40), (30, 40), (0, 8))
    yield TypeError, r"out must be a numpy\.ndarray, not list", [[0.0] * 40] * 30
    yield TypeError, r"out must be a numpy\.ndarray, not memoryview", memoryview(np.zeros((30, 40)))


@pytest.mark.parametrize(("error", "message", "out"), list(refused_outs()))
@pytest.mark.parametrize("training", [True, False])
def test_refused_out(error, message, out, training):
    g = gen()
    before = np.array(out)
    with pytest.raises(error, match=message):
        fd.dropout(np.ones((30, 40)), rng=g, out=out, training=training)
    assert g.position == 0
    np.testing.assert_array_equal(np.array(out), before)


def test_interleaved_out_is_no_overlap():
    base = np.zeros(100)
    out = np.lib.stride_tricks.as_strided(base, (3, 4), (8, 24))  # 3 columns, transposed
    x = np.arange(1.0, 13.0).reshape(3, 4)
    fd.dropout(x, 0.0, rng=gen(), out=out)
    np.testing.assert_array_equal(out, x)


# ---- noise_shape ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "noise_shape"),
    [
        ((6, 5), (6, 1)),
        ((6, 5), (1, 5)),
        ((6, 5), (None, 1)),
        ((6, 5), (1, 1)),
        ((6, 5), (6, 5)),
        ((4, 3, 50, 70), (4, 3, 1, 1)),
        ((4, 50, 70, 3), (4, 1, 1, 3)),
        ((9, 40, 30), (1, None, None)),
        ((5, 1, 7), (5, 1, 1)),
        ((300, 200), (300, 1)),
        ((2, 3, 4, 5, 6), (2, 1, 4, 1, 6)),
        ((3000,), (1,)),
        ((), ()),
        ((4, 0), (4, 1)),
        ((0, 4), (1, 4)),
    ],
)
def test_noise_shape(isa, dtype, shape, noise_shape):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    whole = tuple(n if m is None else m for m, n in zip(noise_shape, shape, strict=True))
    keep = _reference.keep_array(42, 0, shape, 0.4, whole)
    y, mask = fd.dropout(x, 0.4, rng=gen(), noise_shape=noise_shape, return_mask=True)
    np.testing.assert_array_equal(mask.keep(), keep)
    np.testing.assert_array_equal(y, _reference.dropout(x, keep, 1 / 0.6))
    np.testing.assert_array_equal(mask.backward(x), y)
    out = x.copy()
    fd.dropout(out, 0.4, rng=gen(), noise_shape=noise_shape, out=out)
    np.testing.assert_array_equal(out, y)


@pytest.mark.parametrize(
    ("noise_shape", "error", "message"),
    [
        ((5,), ValueError, r"noise_shape \(5,\) has 1 axes; shape \(6, 5\) has 2"),
        ((6, 2), ValueError, r"noise_shape \(6, 2\) does not fit shape \(6, 5\)"),
        ((0, 5), ValueError, r"does not fit"),
        ((-1, 5), ValueError, r"negative size"),
        ((6.0, 5), TypeError, r"noise_shape must hold ints and None"),
        ("ab", TypeError, r"noise_shape must hold ints and None"),
    ],
)
def test_refused_noise_shape(noise_shape, error, message):
    g = gen()
    with pytest.raises(error, match=message):
        fd.dropout(np.ones((6, 5)), rng=g, noise_shape=noise_shape)
    assert g.position == 0


# ---- positions -----------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
def test_every_training_call_takes_one_position(p):
    g = gen()
    for n in (0, 1, 10**6):
        fd.dropout(np.ones(n, np.float32), p, rng=g)
    assert g.position == 3


NO_MEMORY = """
import resource
import numpy as np, fastdrop as fd
x = np.ones(1 << 26, np.float32)
gen, layer = fd.Generator(0), fd.nn.Dropout(0.5, rng=1)
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (64 << 20), resource.RLIM_INFINITY))
calls = [
    lambda: fd.dropout(x, rng=gen),
    lambda: fd.dropout(x[::-1], rng=gen),
    lambda: fd.gaussian_noise(x, 1.0, rng=gen),
    lambda: fd.dropout_add(x, x, rng=gen),
    lambda: fd.relu_dropout(x, rng=gen),
    lambda: fd.softmax_dropout(x, rng=gen),
    lambda: layer(x),
]
for call in calls:
    try:
        call()
    except MemoryError:
        print(gen.position, layer._rng.position, layer.mask)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
def test_a_call_that_cannot_allocate_takes_none():
    command = [sys.executable, "-c", NO_MEMORY]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert run.stdout.splitlines() == 7 * ["0 0 None"], run.stderr


def test_positions_give_different_masks():
    g = gen()
    a, b = (fd.dropout(np.ones(1000), rng=g) for _ in range(2))
    assert (a != b).sum() > 400


def test_equal_ints_give_equal_masks_and_prefixes():
    a, b = fd.dropout(np.ones(1000), rng=5), fd.dropout(np.ones(700), rng=5)
    np.testing.assert_array_equal(a[:700], b)


def test_more_than_2_to_the_32_elements():
    """By way of a mask's window, whose arrays need not be that large."""
    n = 2**32 + 2**20
    mask = gen().mask(n, 0.1)
    np.testing.assert_array_equal(
        mask[2**32 - 50 : 2**32 + 50].keep(),
        _reference.keep_range(42, 0, 2**32 - 50, 100, 0.1),
    )


def test_the_largest_mask():
    gen().mask((2**29, 2**29))
    gen().mask((2**40, 2**40), noise_shape=(2**40, 1))
    with pytest.raises(ValueError, match=r"at most 2\*\*58"):
        gen().mask((2**29, 2**29 + 1))
