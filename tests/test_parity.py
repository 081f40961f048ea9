"""Every ISA against the oracle, at every boundary that a kernel has."""

import numpy as np
import pytest
from conftest import bits_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fastdrop as fd
from fastdrop import _reference

# around a lane, a 64-bit word, a block, a tile
AROUND = (0, 8, 16, 32, 64, 128, 2048)
SIZES = sorted({m + d for m in AROUND for d in (-1, 0, 1, 2)} - {-1} | {5000})
RATES = [0.0, 2**-40, 0.001, 0.1, 0.1875, 0.25, 0.5, 0.75, 0.9, 1 - 2**-40, 1.0]
STARTS = [0, 1, 31, 63, 100, 127, 2047, 2**32 - 5, 2**39 - 3, 2**40 + 1, 2**57 - 2048]
STARTS += [2**58 - 5000]


def specials(n, dtype, seed=0):
    """Values of every kind, NaN among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(n).astype(np.float64)
    kinds = [0.0, -0.0, np.inf, -np.inf, np.nan, 1e-40, -1e-40, 6e-8, 1e-308, 65504.0, 3.3e38]
    at = rng.random(n) < 0.3
    x[at] = rng.choice(kinds, at.sum())
    with np.errstate(over="ignore"):
        return x.astype(dtype)


def same(y, want):
    """Equal bits, except that a NaN may be any NaN."""
    assert y.dtype == want.dtype
    nan = np.isnan(want.astype(np.float64))
    assert (np.isnan(y.astype(np.float64)) == nan).all()
    np.testing.assert_array_equal(bits_of(y)[~nan], bits_of(want)[~nan])


@pytest.mark.parametrize("p", RATES)
def test_every_size(isa, dtype, p):
    for n in SIZES:
        x = specials(n, dtype)
        mask = fd.Mask(11, 2, n, p)
        keep = _reference.keep_range(11, 2, 0, n, p)
        np.testing.assert_array_equal(mask.keep(), keep)
        same(mask.apply(x), _reference.dropout(x, keep, mask.scale))


def test_every_misalignment_of_memory(isa, dtype):
    for n in (1, 63, 200, 4500):  # from 4096 on stores are aligned, whatever the start
        for shift in range(0, 64, 1 if n < 4500 else 3):
            x = specials(n + shift, dtype)[shift:]
            y = np.full(n + 64, 7, dtype)
            mask = fd.Mask(5, 1, n, 0.1)
            mask.apply(x, out=y[63 - shift : 63 - shift + n])
            keep = _reference.keep_range(5, 1, 0, n, 0.1)
            same(y[63 - shift : 63 - shift + n], _reference.dropout(x, keep, mask.scale))
            assert (np.delete(y, np.s_[63 - shift : 63 - shift + n]) == 7).all()


def test_an_array_too_large_for_the_caches(isa, dtype):
    """From 16 MiB of output on it is written around them."""
    n = (17 << 20) // dtype.itemsize
    x = (np.arange(n + 3) % 251).astype(dtype)[3:]
    mask = fd.Mask(3, 1, n + 77, 0.1)[77:]
    y = np.zeros(n + 5, dtype)[5:]
    mask.apply(x, out=y)
    step = n // 7 + 1  # each part is small enough for ordinary stores
    for at in range(0, n, step):
        part = mask[at : at + step].apply(x[at : at + step])
        np.testing.assert_array_equal(y[at : at + step], part)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("p", [0.5, 0.1, 0.001])
def test_every_start(isa, dtype, start, p):
    for n in (1, 70, 2300):
        x = specials(n, dtype)
        mask = fd.Mask(2**64 - 1, 2**63, 2**58, p)[start : start + n]
        keep = _reference.keep_range(2**64 - 1, 2**63, start, n, p)
        np.testing.assert_array_equal(mask.keep(), keep)
        same(mask.apply(x), _reference.dropout(x, keep, mask.scale))


def test_every_misalignment_of_the_mask(isa):
    x = np.arange(1, 301, dtype=np.float32)
    whole = _reference.keep_range(1, 0, 0, 600, 0.3)
    for start in range(300):
        mask = fd.Mask(1, 0, 600, 0.3)[start : start + 300]
        np.testing.assert_array_equal(mask.apply(x) != 0, whole[start : start + 300])
        np.testing.assert_array_equal(mask.keep(), whole[start : start + 300])


def test_every_significant_plane(isa):
    """Each number of planes, with and without a set bit in each of them."""
    for bits in range(1, 256, 3):
        keep = _reference.keep_range(9, 9, 100, 400, bits / 256)
        np.testing.assert_array_equal(fd.Mask(9, 9, 600, bits / 256)[100:500].keep(), keep)


def test_affine(isa, dtype):
    """keep ? x * scale + shift : fill, the product rounded before the sum."""
    real = np.float64 if dtype == np.float64 else np.float32
    for n in (1, 31, 64, 2049):
        x = specials(n, dtype)
        values = 1.7, -0.3, 0.77
        scale, shift, fill = values
        mask = fd.Mask(3, 0, n + 5, 0.1, scale=scale, shift=shift, fill=fill)[5:]
        y = mask.apply(x)
        with np.errstate(all="ignore"):
            kept = x.astype(real) * real(values[0]) + real(values[1])
            keep = _reference.keep_range(3, 0, 5, n, 0.1)
            same(y, np.where(keep, kept, real(values[2])).astype(dtype))


@pytest.mark.parametrize("noise_shape", [None, (40, 1, 90), (40, 3, 1)])
def test_affine_windows_and_shared_axes(isa, noise_shape):
    """By way of a mask; 4,096 elements and more, short runs and shared ones."""
    x = specials(40 * 3 * 90, np.dtype(np.float64)).reshape(40, 3, 90)
    mask = fd.Mask(3, 1, x.shape, 0.3, noise_shape=noise_shape, scale=1.7, shift=-0.3, fill=0.77)
    keep = _reference.keep_array(3, 1, x.shape, 0.3, noise_shape)
    with np.errstate(all="ignore"):
        want = np.where(keep, x * 1.7 - 0.3, 0.77)
        grad = np.where(keep, x * 1.7, 0.0)
    same(mask.apply(x), want)
    same(mask.backward(x), grad)
    same(mask[3:, :, 5:50].apply(x[3:, :, 5:50]), np.ascontiguousarray(want[3:, :, 5:50]))


def test_every_value_of_the_16_bit_types(isa):
    """All 65,536 of each, kept and scaled: conversions and rounding in both directions."""
    import ml_dtypes

    for dtype in (np.float16, ml_dtypes.bfloat16):
        x = np.arange(65536, dtype=np.uint16).view(dtype)
        for scale in (1.0, 1 / 0.9, 2.0, 0.001):
            mask = fd.Mask(0, 0, x.size, 0.0, scale=scale)
            same(mask.apply(x), _reference.dropout(x, True, scale))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**64 - 1),
    position=st.integers(0, 2**64 - 1),
    start=st.integers(0, 2**58 - 1),
    n=st.integers(0, 3000),
    p=st.floats(0, 1),
    at=st.integers(0, 3000),
)
def test_any_split_of_any_range(seed, position, start, n, p, at):
    n = min(n, 2**58 - start)
    at = min(at, n)
    keep = _reference.keep_range(seed, position, start, n, p)
    whole = fd.Mask(seed, position, 2**58, p)[start : start + n]
    for isa in fd.available_isas():
        fd.set_isa(isa)
        np.testing.assert_array_equal(whole.keep(), keep)
        np.testing.assert_array_equal(whole[:at].keep(), keep[:at])
        np.testing.assert_array_equal(whole[at:].apply(np.ones(n - at)) != 0, keep[at:])
