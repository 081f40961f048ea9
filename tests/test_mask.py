"""Mask: windows, saving, being an array, being immutable."""

import copy
import itertools
import json
import pickle

import numpy as np
import pytest
from conftest import bits_of

import fastdrop as fd
from fastdrop import _reference

WINDOWS = [
    np.s_[3:17],
    np.s_[:, 4:9],
    np.s_[2, :, 3],
    np.s_[..., 1],
    np.s_[5:6, ..., 2:],
    np.s_[-3],
    np.s_[:, -4:-1],
    np.s_[1:1],
    np.s_[20:5],
    np.s_[...],
    np.s_[0, 0, 0],
    np.s_[:100],
]


@pytest.mark.parametrize("noise_shape", [None, (20, 1, 7), (1, 11, 7), (20, 11, 1), (1, 1, 7)])
@pytest.mark.parametrize("window", WINDOWS, ids=str)
def test_windows_are_slices(isa, window, noise_shape):
    mask = fd.Generator(1).mask((20, 11, 7), 0.4, noise_shape=noise_shape)
    whole = mask.keep()
    part = mask[window]
    want = whole[window]
    assert part.shape == want.shape
    np.testing.assert_array_equal(part.keep(), want)
    np.testing.assert_array_equal(part.packbits(), np.packbits(want, bitorder="little"))
    np.testing.assert_array_equal(part.apply(np.ones(want.shape)) != 0, want)
    if part.shape:
        np.testing.assert_array_equal(part[1:].keep(), want[1:])


@pytest.mark.parametrize("start", [2**32, 2**40, 2**57])
def test_windows_far_out(isa, start):
    """Rows of a mask of 2^58 decisions, around the carries of the counter."""
    columns = 2**20
    mask = fd.Generator(9).mask((2**38, columns), 0.3)
    row = start // columns
    window = mask[row - 1 : row + 2, columns - 40 :]
    want = [
        _reference.keep_range(9, 0, r * columns + columns - 40, 40, 0.3)
        for r in (row - 1, row, row + 1)
    ]
    np.testing.assert_array_equal(window.keep(), want)
    across = mask[row - 1 : row + 1].shape
    assert across == (2, columns)
    flat = fd.Generator(9).mask(2**58, 0.3)[start - 100 : start + 100]
    np.testing.assert_array_equal(flat.keep(), _reference.keep_range(9, 0, start - 100, 200, 0.3))


@pytest.mark.parametrize(
    "key",
    [
        np.s_[::-1],
        np.s_["a":],
        np.s_[1.5:],
        np.s_[::0],
        None,
        True,
        [0, 1],
        1.5,
        np.array([True]),
        (0, 0, 0, 0),
        20,
    ],
)
def test_other_indices(key):
    with pytest.raises(IndexError):
        fd.Generator(1).mask((20, 11, 7))[key]


def test_two_ellipses():
    with pytest.raises(IndexError):
        fd.Generator(1).mask((20, 11, 7))[..., ...]


@pytest.mark.parametrize("p", [0.1, 0.5])
@pytest.mark.parametrize("columns", [128, 1280, 4096])
def test_windows_of_whole_blocks(isa, p, columns):
    """Rows of a wider mask that begin and end with blocks of the stream."""
    rows = 5 * 2**20 // columns  # 20 MiB of float32, stored around the caches
    window = fd.Generator(4).mask((rows + 2, 8192), p)[1:-1, 1024 : 1024 + columns]
    keep = window.keep()
    for row in (0, 1, rows // 2, rows - 1):
        want = _reference.keep_range(4, 0, (row + 1) * 8192 + 1024, columns, p)
        np.testing.assert_array_equal(keep[row], want)
    x = np.ones((rows, columns), np.float32)
    for threads, shift in ((1, 0), (1, 3), (3, 3)):
        fd.set_num_threads(threads)
        y = np.zeros(x.size + 16, np.float32)
        window.apply(x, out=y[shift:][: x.size].reshape(x.shape))
        assert not y[:shift].any()
        assert not y[shift + x.size :].any()
        np.testing.assert_array_equal(y[shift:][: x.size].reshape(x.shape) != 0, keep)


@pytest.mark.parametrize("power", [34, 39, 41, 57])
def test_short_rows_across_a_carry(isa, power):
    """Rows of 100 decisions, one of which has blocks whose high counter words differ."""
    columns = 1000
    row = 2**power // columns
    start = 2**power - row * columns  # column at which the carry comes
    mask = fd.Generator(9).mask((2**58 // columns, columns), 0.02)
    lo = max(0, min(start - 50, columns - 300))
    window = mask[row - 3 : row + 4, lo : lo + 300]
    want = [
        _reference.keep_range(9, 0, r * columns + lo, 300, 0.02) for r in range(row - 3, row + 4)
    ]
    np.testing.assert_array_equal(window.keep(), want)
    np.testing.assert_array_equal(window.apply(np.ones(window.shape)) != 0, want)
    np.testing.assert_array_equal(window[:, 7].keep(), np.array(want)[:, 7])


def test_shards_equal_the_whole():
    """What data-parallel training relies on: any chunking gives the single-machine bits."""
    x = np.random.default_rng(0).standard_normal((64, 33))
    y, mask = fd.dropout(x, 0.3, rng=1, return_mask=True)
    for shards in (2, 3, 5):
        bounds = np.linspace(0, 64, shards + 1).astype(int)
        parts = [mask[a:b].apply(x[a:b]) for a, b in itertools.pairwise(bounds)]
        np.testing.assert_array_equal(np.concatenate(parts), y)
    np.testing.assert_array_equal(
        np.hstack([mask[:, :10].apply(x[:, :10]), mask[:, 10:].apply(x[:, 10:])]), y
    )


def test_apply_is_linear_and_its_own_adjoint():
    rng = np.random.default_rng(0)
    x, g = rng.standard_normal((2, 500))
    mask = fd.Generator(2).mask(500, 0.3)
    assert np.dot(mask.apply(x), g) == pytest.approx(np.dot(x, mask.backward(g)), rel=1e-12)


def test_shape_of_the_argument():
    mask = fd.Generator(1).mask((3, 4))
    with pytest.raises(ValueError, match=r"grad has shape \(4, 3\); the mask is for \(3, 4\)"):
        mask.backward(np.ones((4, 3)))
    with pytest.raises(ValueError, match=r"x has shape \(12,\)"):
        mask.apply(np.ones(12))


def test_array():
    mask = fd.Generator(1).mask((3, 4))
    assert np.asarray(mask).dtype == bool
    np.testing.assert_array_equal(np.asarray(mask, dtype=np.float32), mask.keep())
    with pytest.raises(ValueError, match="holds no array"):
        np.asarray(mask, copy=False)


def test_immutable():
    mask = fd.Generator(1).mask(3)
    with pytest.raises(AttributeError, match="cannot be changed"):
        mask.p = 0.1
    with pytest.raises(AttributeError):
        mask.other = 1
    with pytest.raises(AttributeError):
        del mask._seed


def masks():
    gen = fd.Generator(2**64 - 1, position=2**64 - 9)
    yield gen.mask(7, 0.1)
    yield gen.mask((3, 4, 5, 2**40), 1 / 3, noise_shape=(3, 1, 5, None))
    yield gen.mask((2**20, 2**19, 2**19), 0.123456789012345)[2**19 :, 5, 77:1000]
    yield gen.mask((2**40, 2**40), noise_shape=(1, 2**40))[2**39 :]
    yield gen.mask((0, 2**60))
    yield gen.mask((0, 2**60, 2**60), noise_shape=(0, 2**60, 1))


@pytest.mark.parametrize("mask", list(masks()), ids=str)
def test_saved_and_restored(mask):
    for other in (
        pickle.loads(pickle.dumps(mask)),
        copy.copy(mask),
        copy.deepcopy(mask),
        fd.Mask.from_dict(json.loads(json.dumps(mask.to_dict()))),
    ):
        assert other == mask
        assert hash(other) == hash(mask)
        assert repr(other) == repr(mask)
    assert len(pickle.dumps(mask)) < 300
    assert mask.to_dict()["stream"] == 1


def test_refused_dicts():
    good = fd.Generator(1).mask((3, 4)).to_dict()
    for change, error in (
        ({"stream": 2}, ValueError),
        ({"stream": None}, ValueError),
        ({"p": 1.5}, ValueError),
        ({"seed": -1}, ValueError),
        ({"seed": True}, TypeError),
        ({"seed": 2**64}, ValueError),
        ({"first": 2**58}, ValueError),
        ({"strides": [1]}, ValueError),
        ({"shift": "x"}, TypeError),
        ({"strides": [2**60, 1]}, ValueError),
        ({"shape": [3, -4]}, ValueError),
        ({"shape": [3, 4.5]}, TypeError),
    ):
        with pytest.raises(error):
            fd.Mask.from_dict(good | change)
    for missing in good:
        with pytest.raises(ValueError):  # noqa: PT011 - each names another key
            fd.Mask.from_dict({k: v for k, v in good.items() if k != missing})
    with pytest.raises(TypeError):
        fd.Mask.from_dict([1])


def test_equality():
    mask = fd.Mask(1, 2, (3, 4), 0.5)
    assert mask == fd.Mask(1, 2, (3, 4), 0.5)
    assert mask != fd.Mask(1, 3, (3, 4), 0.5)
    assert mask != mask[:2]
    assert mask != 1


@pytest.mark.parametrize("p", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("window", [slice(None), (slice(3, 90), slice(7, 41))])
@pytest.mark.parametrize("noise_shape", [(None, None), (None, 1)])
def test_multiplier_is_what_ones_become(isa, dtype, p, window, noise_shape):
    mask = fd.Mask(5, 3, (100, 60), p, noise_shape=noise_shape, shift=0.5, fill=-1.0)[window]
    got, want = mask.multiplier(dtype), mask.backward(np.ones(mask.shape, dtype))
    assert got.dtype == dtype
    np.testing.assert_array_equal(bits_of(got), bits_of(want))
    assert mask.multiplier().dtype == np.float32


@pytest.mark.parametrize("shape", [(), (0, 3), (5 << 20,), (2049, 2051)])
def test_multiplier_of_any_size(shape, split_small_calls):
    """Around the caches, and by several threads."""
    fd.set_num_threads(3)
    mask = fd.Generator(5).mask(shape, 0.1)
    np.testing.assert_array_equal(mask.multiplier(), mask.apply(np.ones(shape, np.float32)))


def test_multiplier_refuses_other_dtypes():
    mask = fd.Generator(5).mask(3)
    with pytest.raises(TypeError, match=r"^dtype=int32 is none of float16, bfloat16, float32"):
        mask.multiplier(np.int32)
    assert mask.multiplier(">f4").dtype == np.float32  # native


def test_a_large_mask_costs_nothing():
    import tracemalloc

    tracemalloc.start()
    gen = fd.Generator(0)
    masks = [gen.mask((2**20, 2**20))[5:-5, 7:] for _ in range(10)]
    assert tracemalloc.get_traced_memory()[1] < 20_000
    tracemalloc.stop()
    assert masks[0].shape == (2**20 - 10, 2**20 - 7)
