"""DropBlock: squares of feature maps that are dropped together."""

import copy
import json
import pickle

import numpy as np
import pytest
from conftest import bits_of

import fastdrop as fd
from fastdrop import _reference, nn

SHAPE = (3, 2, 9, 11)
FORMATS = ("channels_first", "channels_last")


def images(shape, dtype=np.float64, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def gamma_of(p, height, width, size, border):
    """The area of the map over that of all blocks that may be, counted one by one, times p."""
    area = 0
    for i, j in np.ndindex(height, width):
        rows = i - (size - 1) // 2, i + size // 2
        columns = j - (size - 1) // 2, j + size // 2
        fits = rows[0] >= 0 <= columns[0] and rows[1] < height and columns[1] < width
        if border == "clipped" or fits:
            area += (min(rows[1], height - 1) - max(rows[0], 0) + 1) * (
                min(columns[1], width - 1) - max(columns[0], 0) + 1
            )
    return p * height * width / area


def keep_of(seed, position, shape, p, size, border, channels_last=False, batchwise=False):
    """The definition: a loop over the seeds, each of which takes its block away."""
    rows, columns = (1, 2) if channels_last else (2, 3)
    gamma = gamma_of(p, shape[rows], shape[columns], size, border)
    places = list(shape)
    if border == "whole":
        places[rows] -= size - 1
        places[columns] -= size - 1
    if batchwise:
        places[0] = 1
    seeds = ~_reference.keep_array(seed, position, tuple(places), gamma)
    keep = np.ones((places[0], *shape[1:]), bool)
    before = (size - 1) // 2
    for at in np.argwhere(seeds):
        i, j = at[rows], at[columns]
        if border == "whole":  # places are counted from the first where a block fits
            i, j = i + before, j + before
        block = list(at)
        block[rows] = slice(max(0, i - before), i + size // 2 + 1)
        block[columns] = slice(max(0, j - before), j + size // 2 + 1)
        keep[tuple(block)] = False
    return np.broadcast_to(keep, shape), gamma


# ---- the function --------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 9])
@pytest.mark.parametrize("border", ["whole", "clipped"])
@pytest.mark.parametrize("data_format", FORMATS)
@pytest.mark.parametrize("batchwise", [False, True])
def test_blocks_are_those_of_the_definition(size, border, data_format, batchwise):
    last = data_format == "channels_last"
    shape = (3, 9, 11, 2) if last else SHAPE
    x = images(shape)
    gen, p = fd.Generator(7, position=2), 0.9 if batchwise else 0.4
    options = {"border": border, "batchwise": batchwise, "data_format": data_format}
    y, mask = fd.dropblock2d(x, p, size, rng=gen, return_mask=True, **options)
    assert gen.position == 3
    keep, gamma = keep_of(7, 2, shape, p, size, border, last, batchwise)
    assert 0 < keep.sum() < keep.size
    assert mask.seeds.p == pytest.approx(gamma, rel=1e-14)
    np.testing.assert_array_equal(mask.keep(), keep)
    scale = keep.size / keep.sum()
    assert mask.scale == pytest.approx(scale, rel=1e-15)
    np.testing.assert_array_equal(bits_of(y), bits_of(np.where(keep, x * scale, 0.0)))
    np.testing.assert_array_equal(bits_of(mask.backward(x)), bits_of(y))
    np.testing.assert_array_equal(bits_of(x * mask), bits_of(y))
    np.testing.assert_array_equal(bits_of(mask * x), bits_of(y))


def test_the_papers_gamma():
    _, mask = fd.dropblock2d(np.ones((1, 1, 14, 20)), 0.1, 5, rng=0, return_mask=True)
    assert mask.seeds.p == pytest.approx(0.1 / 25 * 14 * 20 / (10 * 16), rel=1e-14)
    assert mask.seeds.shape == (1, 1, 10, 16)
    assert mask.seeds.scale == 1.0


def test_dtypes_round_once(isa, dtype):
    x = images((4, 3, 12, 10), dtype)
    y, mask = fd.dropblock2d(x, 0.3, 3, rng=5, return_mask=True)
    real = np.float64 if dtype == np.float64 else np.float32
    want = np.where(mask.keep(), (x.astype(real) * real(mask.scale)).astype(dtype), dtype.type(0))
    assert y.dtype == dtype
    np.testing.assert_array_equal(bits_of(y), bits_of(want))
    np.testing.assert_array_equal(bits_of(mask.apply(x)), bits_of(want))


def test_a_block_of_one_element_is_dropout():
    for border in ("whole", "clipped"):
        x = images(SHAPE)
        _, mask = fd.dropblock2d(x, 0.3, 1, border=border, rng=4, return_mask=True)
        _, plain = fd.dropout(x, 0.3, rng=4, return_mask=True)
        np.testing.assert_array_equal(mask.keep(), plain.keep())


@pytest.mark.parametrize(
    ("border", "size", "p", "bounds"),
    [
        ("whole", 7, 0.1, (0.0929, 0.0929)),
        ("clipped", 7, 0.1, (0.0950, 0.0950)),
        ("whole", 3, 0.2, None),
        ("clipped", 4, 0.5, None),
    ],
)
def test_the_share_that_is_dropped(border, size, p, bounds):
    """1 - (1-gamma)**n at each element, n the number of places whose block it is in."""
    n, h, w = 20_000, 14, 14
    gamma = gamma_of(p, h, w, size, border)
    places = [k for k in range(h) if border == "clipped" or 0 <= k - (size - 1) // 2 <= h - size]
    cover = np.zeros(h)
    for k in places:
        cover[max(0, k - (size - 1) // 2) : k + size // 2 + 1] += 1
    want = 1 - (1 - gamma) ** np.outer(cover, cover)
    _, mask = fd.dropblock2d(np.ones((n, 1, h, w)), p, size, border=border, rng=1, return_mask=True)
    got = 1 - mask.keep().mean((0, 1))
    np.testing.assert_array_less(abs(got - want), 5 * np.sqrt(want * (1 - want) / n))
    assert abs(got.mean() - (1 - np.exp(-p))) < 0.03
    if bounds:
        assert got.mean() == pytest.approx(bounds[0], abs=0.002)
    inside = got[size - 1 : h - size + 1, size - 1 : w - size + 1]
    assert got[0, 0] < inside.mean() / 2  # corners are in fewer blocks


def test_the_mean_is_kept():
    y = fd.dropblock2d(np.full((5, 4, 20, 20), 3.0), 0.2, 5, rng=0)
    assert y.mean() == pytest.approx(3, rel=1e-12)
    shared = fd.dropblock2d(np.ones((5, 4, 20, 20)), 0.2, 5, rng=0, batchwise=True)
    assert (shared == shared[:1]).all()
    assert (shared[0, 0] != shared[0, 1]).any()
    assert shared.mean() == pytest.approx(1, rel=1e-12)


@pytest.mark.parametrize("border", ["whole", "clipped"])
def test_ends(border):
    x = images(SHAPE)
    np.testing.assert_array_equal(fd.dropblock2d(x, 0.0, 3, border=border, rng=0), x)
    wild = np.full((2, 3, 5, 5), np.nan)
    y, mask = fd.dropblock2d(wild, 1.0, 1, border=border, rng=0, return_mask=True)
    np.testing.assert_array_equal(bits_of(y), 0)  # all dropped: zeros, and no 0/0
    assert mask.scale == 0.0
    np.testing.assert_array_equal(bits_of(mask.backward(wild)), 0)
    if border == "whole":  # the only block is the map
        assert not fd.dropblock2d(wild, 1.0, 5, rng=0).any()
    assert fd.dropblock2d(x[:0], 0.3, 3, border=border, rng=0).shape == (0, 2, 9, 11)
    assert fd.dropblock2d(x[:0], 0.3, 3, border=border, rng=0, batchwise=True).shape[0] == 0
    assert fd.dropblock2d(x[:, :0], 0.3, 3, border=border, rng=0).shape == (3, 0, 9, 11)


def test_a_dropped_nan_leaves_nothing_behind():
    x = np.full(SHAPE, np.nan)
    y, mask = fd.dropblock2d(x, 0.3, 3, rng=0, return_mask=True)
    np.testing.assert_array_equal(np.isnan(y), mask.keep())
    x = np.full(SHAPE, -np.inf, np.float16)
    with np.errstate(all="raise"):
        y = fd.dropblock2d(x, 0.3, 3, rng=0)
    np.testing.assert_array_equal(np.isinf(y), mask.keep())
    np.testing.assert_array_equal(bits_of(y)[~mask.keep()], 0)


def test_evaluation():
    x = images(SHAPE)
    gen = fd.Generator(0)
    y, mask = fd.dropblock2d(x, 0.3, 3, training=False, rng=gen, return_mask=True)
    assert y is x
    assert gen.position == 0
    assert mask.keep().all()
    assert mask.scale == 1.0
    np.testing.assert_array_equal(mask.backward(x), x)
    out = np.zeros_like(x)
    assert fd.dropblock2d(x, 0.3, 3, training=False, out=out) is out
    np.testing.assert_array_equal(out, x)


def test_in_place_and_layouts(dtype):
    x = images((4, 3, 12, 10), dtype)
    want, mask = fd.dropblock2d(x, 0.3, 3, rng=0, return_mask=True)
    here = x.copy()
    assert fd.dropblock2d(here, 0.3, 3, rng=0, out=here) is here
    np.testing.assert_array_equal(here, want)
    np.testing.assert_array_equal(fd.dropblock2d(np.asfortranarray(x), 0.3, 3, rng=0), want)
    wide = np.ones((4, 3, 12, 20), dtype)
    fd.dropblock2d(x, 0.3, 3, rng=0, out=wide[..., ::2])
    np.testing.assert_array_equal(wide[..., ::2], want)
    assert (wide[..., 1::2] == 1).all()
    grad = x.copy()
    assert mask.backward(grad, out=grad) is grad
    np.testing.assert_array_equal(grad, want)
    if dtype in (np.float32, np.float64):
        swapped = x.astype(dtype.newbyteorder(">"))
        y = fd.dropblock2d(swapped, 0.3, 3, rng=0)
        assert y.dtype.isnative
        np.testing.assert_array_equal(y, want)
        fd.dropblock2d(x, 0.3, 3, rng=0, out=swapped)
        np.testing.assert_array_equal(swapped, want)


def test_gradient_is_that_of_finite_differences():
    x, grad = images((2, 2, 6, 5)), images((2, 2, 6, 5), seed=1)
    _, mask = fd.dropblock2d(x, 0.3, 3, rng=2, return_mask=True)
    dx = mask.backward(grad)
    for at in np.ndindex(x.shape):
        step = np.zeros_like(x)
        step[at] = 1e-6

        def loss(x):
            return (grad * fd.dropblock2d(x, 0.3, 3, rng=2)).sum()

        slope = (loss(x + step) - loss(x - step)) / 2e-6
        assert slope == pytest.approx(dx[at], abs=1e-7)


def test_bad_input_takes_no_position_and_leaves_out_alone():
    x = images(SHAPE, np.float32)
    gen, out = fd.Generator(0), np.full(SHAPE, 7, np.float32)
    for bad, error, match in (
        ({"x": x[0]}, ValueError, r"x has shape \(2, 9, 11\).*\(N, C, H, W\).*x\[None\]"),
        ({"x": x[None]}, ValueError, r"x has shape \(1, 3, 2, 9, 11\)"),
        ({"x": x.astype(int)}, TypeError, "x has dtype int64"),
        ({"block_size": 10}, ValueError, r"block_size=10 is larger.*9 x 11.*at most 9"),
        ({"block_size": 10, "border": "clipped"}, ValueError, r"block_size=10.*at most 9"),
        ({"block_size": 3, "data_format": "channels_last"}, ValueError, r"2 x 9.*at most 2"),
        ({"block_size": 0}, ValueError, "block_size=0"),
        ({"block_size": 2.0}, TypeError, "block_size must be an int, not float"),
        ({"block_size": True}, TypeError, "block_size must be an int"),
        ({"border": "valid"}, ValueError, "border='valid'.*whole or clipped"),
        ({"batchwise": None}, TypeError, "batchwise must be"),
        ({"data_format": "NCHW"}, ValueError, "data_format='NCHW'"),
        ({"p": 1.5}, ValueError, r"p=1\.5 is not a probability"),
        ({"rng": "0"}, TypeError, "rng must be"),
        ({"training": None}, TypeError, "training must be"),
        ({"out": out[:2]}, ValueError, "out has shape"),
        ({"out": out.astype(float)}, TypeError, "out has dtype"),
    ):
        for training in (True, False):
            arguments = {"x": x, "rng": gen, "training": training, "out": out}
            with pytest.raises(error, match=match):
                fd.dropblock2d(**arguments | bad)
    assert gen.position == 0
    assert (out == 7).all()
    assert fd.dropblock2d(x, block_size=np.array(3), rng=0).shape == SHAPE


# ---- its mask ------------------------------------------------------------------------------------


def test_the_mask_is_small_and_compares_by_value():
    _, mask = fd.dropblock2d(np.ones((64, 32, 56, 56), np.float32), 0.1, rng=3, return_mask=True)
    assert len(pickle.dumps(mask)) < 500
    for other in (copy.deepcopy(mask), pickle.loads(pickle.dumps(mask))):
        assert other == mask
        assert hash(other) == hash(mask)
    seeds = fd.Mask.from_dict(json.loads(json.dumps(mask.seeds.to_dict())))
    assert fd.BlockMask(seeds, mask.shape, 7) == mask
    assert fd.BlockMask(seeds, list(mask.shape), np.int64(7)) == mask
    assert mask != fd.dropblock2d(np.ones(mask.shape), 0.1, rng=4, return_mask=True)[1]
    with pytest.raises(AttributeError):
        mask.block_size = 5
    x = np.ones((2, 2, 9, 9))
    _, mask = fd.dropblock2d(x, 0.1, rng=3, return_mask=True)
    with pytest.raises(ValueError, match=r"grad has shape \(2, 9, 9\).*\(2, 2, 9, 9\)"):
        mask.backward(x[0])
    with pytest.raises(TypeError, match="x has dtype int64"):
        mask.apply(x.astype(int))
    for operation in (lambda: x + mask, lambda: mask / x, lambda: mask * mask):
        with pytest.raises(TypeError):
            operation()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"seeds": 3}, TypeError),
        ({"shape": (3, 2, 9, 12)}, ValueError),
        ({"shape": (3, 2, 9)}, ValueError),
        ({"block_size": 4}, ValueError),
        ({"block_size": 99}, ValueError),
        ({"border": "clipped"}, ValueError),
        ({"border": "x"}, ValueError),
        ({"data_format": "channels_last"}, ValueError),
    ],
    ids=str,
)
def test_a_mask_whose_parts_do_not_fit_is_refused(change, error):
    seeds = fd.Mask(0, 0, (3, 2, 7, 9), 0.1, scale=1.0)
    whole = {"seeds": seeds, "shape": SHAPE, "block_size": 3}
    assert fd.BlockMask(**whole).keep().shape == SHAPE
    with pytest.raises(error):
        fd.BlockMask(**whole | change)


# ---- the layer -----------------------------------------------------------------------------------


def test_the_layer():
    x, grad = images((3, 9, 11, 2)), images((3, 9, 11, 2), seed=1)
    settings = {"border": "clipped", "batchwise": True, "data_format": "channels_last"}
    layer = nn.DropBlock2d(0.3, 4, rng=6, **settings)
    with pytest.raises(RuntimeError, match="before the first forward"):
        layer.backward(grad)
    y, mask = layer(x, return_mask=True)
    want, same = fd.dropblock2d(x, 0.3, 4, rng=6, return_mask=True, **settings)
    np.testing.assert_array_equal(y, want)
    assert mask == same == layer.mask
    np.testing.assert_array_equal(layer.backward(grad), mask.backward(grad))
    layer(x)
    np.testing.assert_array_equal(layer.backward(grad, mask=mask), mask.backward(grad))
    assert repr(layer) == (
        "DropBlock2d(p=0.3, block_size=4, border='clipped', batchwise=True, "
        "data_format='channels_last')"
    )
    assert repr(nn.DropBlock2d()) == "DropBlock2d(p=0.1)"
    saved = json.loads(json.dumps(layer.state_dict()))
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))]
    copies.append(nn.DropBlock2d(0.0, 4, rng=0, **settings))
    copies[2].load_state_dict(saved)
    want = layer(x)
    for other in copies:
        np.testing.assert_array_equal(other(x), want)
    assert layer.eval()(x) is x
    np.testing.assert_array_equal(layer.backward(grad), grad)
    layer.train().block_size = 99
    with pytest.raises(ValueError, match="block_size=99 is larger"):
        layer(x)


def test_a_rate_that_rises():
    x = np.ones((8, 8, 16, 16), np.float32)
    layer = nn.DropBlock2d(0.0, 3, rng=0)
    shares = []
    for step in range(5):
        layer.p = 0.5 * min(1, step / 4)
        shares.append((layer(x) == 0).mean())
    assert shares[0] == 0
    assert np.all(np.diff(shares) > 0.03)
    assert shares[-1] == pytest.approx(1 - np.exp(-0.5), abs=0.04)


def test_settings_of_other_types_and_masks_read_as_arrays():
    with pytest.raises(ValueError, match=r"x has shape \(2, 3, 0, 5\): its maps are empty"):
        fd.dropblock2d(np.ones((2, 3, 0, 5)), 0.1, 1)
    for setting in ("border", "data_format"):
        with pytest.raises(ValueError, match=f"{setting}=array"):
            fd.dropblock2d(np.ones((1, 1, 5, 5)), 0.1, 3, **{setting: np.array(["whole", "x"])})
    _, mask = fd.dropblock2d(np.ones((2, 3, 5, 5)), 0.3, 3, rng=0, return_mask=True)
    array = np.asarray(mask)
    assert array.dtype == bool
    assert (array == mask.keep()).all()
    assert np.asarray(mask, np.float32).dtype == np.float32
    with pytest.raises(ValueError, match="holds no array"):
        np.array(mask, copy=False)
    for shape in ((2.9, 3, 5, 5), 5):
        with pytest.raises((TypeError, ValueError), match="shape"):
            fd.BlockMask(mask.seeds, shape, 3)


@pytest.mark.parametrize(
    ("size", "block", "p", "more"),  # more than 1 - exp(-p), as the docstring has it; in points
    [
        (12, 7, 0.5, -3.1),
        (14, 7, 0.5, -3.2),
        (12, 7, 1.0, -7.4),
        (3, 2, 0.5, 2.9),
        (3, 2, 1.0, 8.5),
    ],
)
def test_what_is_dropped_of_small_maps(size, block, p, more):
    _, mask = fd.dropblock2d(
        np.ones((20000, 1, size, size), "f4"), p, block, rng=0, return_mask=True
    )
    assert 100 * (np.exp(-p) - mask.keep().mean()) == pytest.approx(more, abs=0.6)
