"""Zoneout: units that keep the state they had."""

import copy
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from conftest import bits_of

import fastdrop as fd
from fastdrop import _reference, nn

SHAPES = [(), (5,), (7, 3), (33, 77), (2, 3, 64), (0, 4)]


def states(shape, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal((2, *shape)).astype(dtype)


def expectation(new, old, p):
    """``p*old + (1-p)*new``; 16-bit types in float32, rounded at the end."""
    real = np.float64 if new.dtype == np.float64 else np.float32
    y = new.astype(real) * real(1 - p) + old.astype(real) * real(1 - (1 - p))
    return np.asarray(y).astype(new.dtype)


# ---- the function --------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
def test_training_selects(isa, dtype, shape, p):
    new, old = states(shape, dtype)
    gen = fd.Generator(9, position=4)
    y, mask = fd.zoneout(new, old, p, rng=gen, return_mask=True)
    keep = _reference.keep_array(9, 4, shape, p)
    assert y.dtype == dtype
    np.testing.assert_array_equal(bits_of(y), bits_of(np.where(keep, new, old)))
    np.testing.assert_array_equal(mask.keep(), keep)
    assert (gen.position, mask.scale) == (5, 1.0)
    dnew, dold = fd.zoneout_backward(new, mask)
    assert dnew.dtype == dold.dtype == dtype
    zero = np.zeros(shape, dtype)
    np.testing.assert_array_equal(bits_of(dnew), bits_of(np.where(keep, new, zero)))
    np.testing.assert_array_equal(bits_of(dold), bits_of(np.where(keep, zero, new)))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("p", [0.0, 0.05, 0.3, 0.5, 0.9, 1.0])
def test_evaluation_is_the_expectation(dtype, shape, p):
    new, old = states(shape, dtype)
    gen = fd.Generator(0)
    y, mask = fd.zoneout(new, old, p, training=False, rng=gen, return_mask=True)
    assert gen.position == 0
    assert y.dtype == dtype
    assert y is not new
    np.testing.assert_array_equal(y, expectation(new, old, p))
    assert mask.keep().all()
    dnew, dold = fd.zoneout_backward(new, mask)
    eps = {2: 8e-3, 4: 1e-6, 8: 1e-15}[dtype.itemsize]
    wide = new.astype(np.float64)
    np.testing.assert_allclose(dnew.astype(np.float64), (1 - p) * wide, rtol=eps, atol=1e-6)
    np.testing.assert_allclose(dold.astype(np.float64), p * wide, rtol=2 * eps, atol=1e-6)
    assert dnew.dtype == dold.dtype == dtype


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("p", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, ml_dtypes.bfloat16])
def test_what_is_not_chosen_does_not_leak(training, p, dtype):
    fine, wild = np.ones((50, 40), dtype), np.full((50, 40), np.nan, dtype)
    for new, old in ((fine, wild), (wild, fine)):
        y, mask = fd.zoneout(new, old, p, training=training, rng=1, return_mask=True)
        if training or p in (0.0, 1.0):
            keep = mask.keep() if training else np.full(y.shape, p == 0.0)
            chosen = keep if new is wild else ~keep
            np.testing.assert_array_equal(np.isnan(y), chosen)
    dnew, dold = fd.zoneout_backward(wild, mask)
    if training:
        np.testing.assert_array_equal(np.isnan(dnew), mask.keep())
        np.testing.assert_array_equal(np.isnan(dold), ~mask.keep())
    else:
        assert np.isnan(dnew).any() == (p < 1)
        assert np.isnan(dold).any() == (p > 0)


def test_gradients_are_those_of_finite_differences():
    new, old = states((4, 5), np.float64)
    grad = np.random.default_rng(1).standard_normal(new.shape)
    for training in (True, False):

        def loss(new, old, training=training):
            return (grad * fd.zoneout(new, old, 0.3, training=training, rng=2)).sum()

        _, mask = fd.zoneout(new, old, 0.3, training=training, rng=2, return_mask=True)
        dnew, dold = fd.zoneout_backward(grad, mask)
        assert dold.any()
        for at in np.ndindex(new.shape):
            step = np.zeros_like(new)
            step[at] = 1e-6
            slope = (loss(new + step, old) - loss(new - step, old)) / 2e-6
            assert slope == pytest.approx(dnew[at], abs=1e-8)
            slope = (loss(new, old + step) - loss(new, old - step)) / 2e-6
            assert slope == pytest.approx(dold[at], abs=1e-8)


@pytest.mark.parametrize("p", [0.05, 0.5])
def test_a_unit_is_old_with_probability_p(p):
    n = 400_000
    y = fd.zoneout(np.ones(n), np.zeros(n), p, rng=0)
    assert abs((1 - y).mean() - p) < 4 * (p * (1 - p) / n) ** 0.5
    draws = [fd.zoneout(np.ones(50), np.zeros(50), p, rng=k) for k in range(4000)]
    want = fd.zoneout(np.ones(50), np.zeros(50), p, training=False)
    np.testing.assert_allclose(np.mean(draws, axis=0), want, atol=5 * (p * (1 - p) / 4000) ** 0.5)


@pytest.mark.parametrize("training", [True, False])
def test_in_place_and_layouts(dtype, training):
    new, old = states((30, 40), dtype)
    want = fd.zoneout(new, old, 0.3, training=training, rng=0)
    for name in ("new", "old"):
        a, b = new.copy(), old.copy()
        out = a if name == "new" else b
        assert fd.zoneout(a, b, 0.3, training=training, rng=0, out=out) is out
        np.testing.assert_array_equal(out, want)
    both = new.copy()
    fd.zoneout(both, both, 0.3, training=training, rng=0, out=both)
    np.testing.assert_array_equal(both, fd.zoneout(new, new, 0.3, training=training, rng=0))
    room = np.zeros(new.size + 40, dtype)  # out overlaps old by all but a row
    room[: new.size] = old.ravel()
    out = room[40:].reshape(new.shape)
    before = room[: new.size].reshape(new.shape)
    fd.zoneout(new, before, 0.3, training=training, rng=0, out=out)
    np.testing.assert_array_equal(out, want)
    wide = np.zeros((30, 80), dtype)
    odd = np.asfortranarray(new), old[::-1][::-1]
    fd.zoneout(*odd, 0.3, training=training, rng=0, out=wide[:, ::2])
    np.testing.assert_array_equal(wide[:, ::2], want)
    assert not wide[:, 1::2].any()
    if dtype in (np.float32, np.float64):
        swapped = [a.astype(dtype.newbyteorder(">")) for a in (new, old)]
        for pair in ((swapped[0], swapped[1]), (new, swapped[1]), (swapped[0], old)):
            y = fd.zoneout(*pair, 0.3, training=training, rng=0)
            np.testing.assert_array_equal(y, want)
            assert y.dtype.isnative
    _, mask = fd.zoneout(new, old, 0.3, training=training, rng=0, return_mask=True)
    dnew, dold = fd.zoneout_backward(new, mask)
    grad = new.copy()
    in_place = fd.zoneout_backward(grad, mask, out=grad)
    assert in_place[0] is grad
    np.testing.assert_array_equal(in_place[0], dnew)
    np.testing.assert_array_equal(in_place[1], dold)


@pytest.mark.parametrize("training", [True, False])
def test_a_shard_has_the_masks_of_the_whole(training):
    new, old = states((20, 30), np.float64)
    _, mask = fd.zoneout(new, old, 0.3, training=training, rng=0, return_mask=True)
    part = fd.zoneout_backward(new[5:9], mask[5:9])
    whole = fd.zoneout_backward(new, mask)
    for a, b in zip(part, whole, strict=True):
        np.testing.assert_array_equal(a, b[5:9])


def test_overflow_does_not_warn():
    huge = np.full((3, 4), np.finfo(np.float16).max, np.float16)
    with np.errstate(all="raise"):
        for training in (True, False):
            y = fd.zoneout(huge, huge, 0.3, training=training, rng=0)
            np.testing.assert_array_equal(y, huge)
        fd.zoneout(np.full(3, 1e-45, np.float32), np.ones(3, np.float32), 0.3, training=False)


def test_bad_input_takes_no_position_and_leaves_out_alone():
    new, old = states((3, 4), np.float32)
    gen, out = fd.Generator(0), np.full((3, 4), 7, np.float32)
    frozen = np.zeros((3, 4), np.float32)
    frozen.flags.writeable = False
    for bad, error, match in (
        ({"old": old[:2]}, ValueError, r"old has shape \(2, 4\).*\(3, 4\)"),
        ({"old": old.astype(float)}, TypeError, "old has dtype float64.*float32"),
        ({"old": np.arange(12).reshape(3, 4)}, TypeError, "old has dtype int64"),
        ({"new": np.arange(12).reshape(3, 4)}, TypeError, "new has dtype int64"),
        ({"p": 1.5}, ValueError, r"p=1\.5 is not a probability"),
        ({"p": np.nan}, ValueError, "p=nan"),
        ({"p": None}, TypeError, "p must be a real number"),
        ({"p": np.full(4, 0.5)}, TypeError, "p must be a real number"),
        ({"rng": "0"}, TypeError, "rng must be"),
        ({"training": None}, TypeError, "training must be"),
        ({"out": np.ones((3, 5), np.float32)}, ValueError, "out has shape"),
        ({"out": np.ones((3, 4))}, TypeError, "out has dtype"),
        ({"out": True}, TypeError, "out must be"),
        ({"out": frozen}, ValueError, "read-only"),
    ):
        for training in (True, False):
            arguments = {"new": new, "old": old, "rng": gen, "training": training, "out": out}
            with pytest.raises(error, match=match):
                fd.zoneout(**arguments | bad)
    assert gen.position == 0
    assert (out == 7).all()
    mask = gen.mask((3, 4), 0.5, mode="downscale_in_infer")
    with pytest.raises(ValueError, match=r"grad has shape \(4,\).*\(3, 4\)"):
        fd.zoneout_backward(new[0], mask)
    with pytest.raises(TypeError, match="mask must be a Mask"):
        fd.zoneout_backward(new, 0.5)
    with pytest.raises(TypeError, match="grad has dtype"):
        fd.zoneout_backward(new.astype(int), mask)
    for other in (gen.mask((3, 4), 0.5), fd.Mask(0, 0, (3, 4), 0.5, scale=1.0, fill=2.0)):
        with pytest.raises(ValueError, match="none that zoneout returned"):
            fd.zoneout_backward(new, other)


# ---- the layer -----------------------------------------------------------------------------------


def test_hidden_and_cell_states_have_their_own_rates_and_masks():
    h, h_before = states((200, 100), np.float64)
    c, c_before = states((200, 100), np.float64, seed=1)
    layer = nn.Zoneout(0.05, p_cell=0.5, rng=3)
    y, y_cell = layer(h, h_before, c, c_before)
    gen = fd.Generator(3)
    np.testing.assert_array_equal(y, fd.zoneout(h, h_before, 0.05, rng=gen))
    np.testing.assert_array_equal(y_cell, fd.zoneout(c, c_before, 0.5, rng=gen))
    np.testing.assert_array_equal(layer.mask[1].keep(), y_cell == c)
    got = layer.backward(h, c)
    want = (
        *fd.zoneout_backward(h, layer.mask[0]),
        *fd.zoneout_backward(c, layer.mask[1]),
    )
    for a, b in zip(got, want, strict=True):
        np.testing.assert_array_equal(a, b)
    # the cells' rate is the hidden states' unless it is given; the positions are two all the same
    one = nn.Zoneout(0.5, rng=3)
    np.testing.assert_array_equal(one(h, h_before, c, c_before)[1], y_cell)
    one.p = 0.1
    assert (one(h, h_before, c, c_before)[1] == c_before).mean() == pytest.approx(0.1, abs=0.02)
    one.p_cell = 0.9
    y, y_cell = one(h, h_before, c, c_before)
    assert (y == h_before).mean() == pytest.approx(0.1, abs=0.02)
    assert (y_cell == c_before).mean() == pytest.approx(0.9, abs=0.02)
    y, y_cell = one.eval()(h, h_before, c, c_before)
    np.testing.assert_array_equal(y, expectation(h, h_before, 0.1))
    np.testing.assert_array_equal(y_cell, expectation(c, c_before, 0.9))


def test_through_time_as_finite_differences():
    """A small recurrent net with cells, unrolled: the gradient by its weights."""
    rng = np.random.default_rng(0)
    weight, x = rng.standard_normal((3, 3)) / 2, rng.standard_normal((6, 4, 3))
    layer = nn.Zoneout(0.3, p_cell=0.4, rng=5)

    def run(weight):
        layer.load_state_dict(state)
        h = c = np.zeros((4, 3))
        steps = []
        for x_t in x:
            c_new = 0.9 * c + np.tanh(x_t + h @ weight)
            (h_new, c_next), masks = layer(np.tanh(c_new), h, c_new, c, return_mask=True)
            steps.append((h, c_new, masks))
            h, c = h_new, c_next
        return (h**2).sum() + c.sum(), h, steps

    state = layer.state_dict()
    _, h, steps = run(weight)
    dweight, dh, dc = np.zeros_like(weight), 2 * h, np.ones((4, 3))
    for t in range(5, -1, -1):
        h, c_new, masks = steps[t]
        dh_new, dh, dc_new, dc = layer.backward(dh, dc, mask=masks)
        dc_new = dc_new + dh_new * (1 - np.tanh(c_new) ** 2)
        inner = dc_new * (1 - np.tanh(x[t] + h @ weight) ** 2)
        dc = dc + 0.9 * dc_new
        dh = dh + inner @ weight.T
        dweight += h.T @ inner
    for at in np.ndindex(3, 3):
        step = np.zeros_like(weight)
        step[at] = 1e-6
        slope = (run(weight + step)[0] - run(weight - step)[0]) / 2e-6
        assert slope == pytest.approx(dweight[at], abs=1e-6)


def test_state_copies_and_repr():
    h, h_before = states((20, 30), np.float64)
    layer = nn.Zoneout(0.1, p_cell=np.float32(0.25), rng=8)
    assert repr(nn.Zoneout(0.1)) == "Zoneout(p=0.1)"
    assert repr(nn.Zoneout(0.1, p_cell=0.5)) == "Zoneout(p=0.1, p_cell=0.5)"
    layer(h, h_before)
    layer.p = 0.6
    saved = json.loads(json.dumps(layer.state_dict()))
    assert saved["p_cell"] == 0.25
    copies = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), nn.Zoneout(rng=0)]
    copies[2].load_state_dict(saved)
    for other in copies[:2]:
        assert other.mask == layer.mask
    want = layer(h, h_before, h, h_before)
    for other in copies:
        assert (other.p, other.p_cell) == (0.6, 0.25)
        for a, b in zip(other(h, h_before, h, h_before), want, strict=True):
            np.testing.assert_array_equal(a, b)
    assert copy.deepcopy(layer).mask == pickle.loads(pickle.dumps(layer)).mask == layer.mask
    none = nn.Zoneout(0.5, rng=0)
    copies[2].load_state_dict(none.state_dict())
    assert copies[2].p_cell is None


@pytest.mark.parametrize(
    "change",
    [
        {"p_cell": 1.5},
        {"p_cell": "a"},
        {"p": 2.0},
        {"generator": None},
        {"stream": 9},
        {"p_cell": ...},
    ],
    ids=str,
)
def test_a_refused_state_changes_nothing(change):
    layer = nn.Zoneout(0.5, p_cell=0.25, rng=4)
    before = layer.state_dict()
    state = {k: v for k, v in (before | {"p": 0.1, "p_cell": 0.9} | change).items() if v is not ...}
    with pytest.raises((TypeError, ValueError)):
        layer.load_state_dict(state)
    with pytest.raises(TypeError, match="must be a dict"):
        layer.load_state_dict(None)
    assert layer.state_dict() == before


def test_the_layer_refuses():
    h, h_before = states((3, 4), np.float32)
    gen = fd.Generator(0)
    layer = nn.Zoneout(0.5, rng=gen)
    with pytest.raises(RuntimeError, match="before the first forward"):
        layer.backward(h)
    for arguments, error, match in (
        ((h,), TypeError, "h_before"),
        ((h, h_before[:2]), ValueError, r"h_before has shape \(2, 4\).*that of h"),
        ((h.astype(int), h_before), TypeError, "h has dtype"),
        ((h, h_before, h), TypeError, "c_before is missing"),
        ((h, h_before, None, h), TypeError, "c is missing"),
        ((h, h_before, h, h_before[:, :2]), ValueError, "c_before has shape"),
        ((h, h_before, h, h_before.astype(float)), TypeError, "c_before has dtype"),
    ):
        with pytest.raises(error, match=match):
            layer(*arguments)
    assert gen.position == 0
    assert layer.mask is None
    layer(h, h_before)
    with pytest.raises(TypeError, match="grad_cell is given"):
        layer.backward(h, h)
    layer(h, h_before, h, h_before)
    with pytest.raises(TypeError, match="grad_cell is missing"):
        layer.backward(h)
    for wrong in (1.5, -0.1, np.nan, "a", True, np.full(4, 0.5)):
        for name in ("p", "p_cell"):
            with pytest.raises((TypeError, ValueError), match=f"{name}(=| must be)"):
                nn.Zoneout(**{name: wrong})
            with pytest.raises((TypeError, ValueError), match=f"{name}(=| must be)"):
                setattr(layer, name, wrong)
    assert (layer.p, layer.p_cell) == (0.5, None)


def test_backward_wants_the_masks_of_both_states():
    layer, h = nn.Zoneout(0.5, rng=0), np.ones((2, 2))
    layer(h, h, h, h)
    with pytest.raises(ValueError, match="mask has 1 items; it must be a Mask, or"):
        layer.backward(h, h, mask=layer.mask[:1])
