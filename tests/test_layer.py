"""nn.Dropout: the layer protocol."""

import json

import numpy as np
import pytest

import fastdrop as fd
from fastdrop import nn


@pytest.fixture
def layer():
    return nn.Dropout(0.4, rng=fd.Generator(3))


def test_forward_and_backward_share_the_mask(layer, dtype):
    x = np.random.default_rng(0).standard_normal((50, 30)).astype(dtype)
    y = layer(x)
    keep = layer.mask.keep()
    assert 0 < keep.sum() < keep.size
    np.testing.assert_array_equal(y, layer.mask.apply(x))
    dx = layer.backward(np.ones_like(x))
    np.testing.assert_array_equal(dx != 0, keep)
    np.testing.assert_array_equal(layer.backward(np.ones_like(x)), dx)  # as often as you like


def test_call_is_forward():
    class Doubled(nn.Dropout):
        def forward(self, x, out=None, return_mask=False):
            return 2 * super().forward(x)

    for kind, factor in ((nn.Dropout, 1), (Doubled, 2)):
        y = kind(0.0, rng=1)(np.ones(3))
        np.testing.assert_array_equal(y, [factor] * 3)


def test_shared_weights_over_three_time_steps(layer):
    x = np.ones((3, 200))
    steps = [layer(x[t], return_mask=True) for t in range(3)]
    outputs = [y for y, _ in steps]
    for y, mask in reversed(steps):
        np.testing.assert_array_equal(layer.backward(np.ones(200), mask=mask), y)
    assert (outputs[0] != outputs[1]).any()
    assert (outputs[1] != outputs[2]).any()
    assert layer.mask is steps[2][1]


def test_four_micro_batches(layer):
    """Their gradients add up to that of the batch whose mask is cut into four."""
    x = np.random.default_rng(0).standard_normal((40, 25))
    whole, mask = fd.dropout(x, 0.4, rng=fd.Generator(3), return_mask=True)
    total = np.zeros((40, 25))
    for k in range(4):
        rows = slice(10 * k, 10 * k + 10)
        part = mask[rows]
        np.testing.assert_array_equal(part.apply(x[rows]), whole[rows])
        total[rows] = layer.backward(np.ones((10, 25)), mask=part)
    np.testing.assert_array_equal(total, mask.backward(np.ones((40, 25))))
    # and through the layer: forward, backward, forward, backward ...
    for k in range(4):
        y = layer(x[10 * k : 10 * k + 10])
        np.testing.assert_array_equal(layer.backward(x[10 * k : 10 * k + 10]), y)


def test_validation_between_forward_and_backward(layer):
    x = np.ones(300)
    y, mask = layer(x, return_mask=True)
    layer.eval()
    assert layer(x) is x
    assert layer.mask.keep().all()
    np.testing.assert_array_equal(layer.backward(x), x)
    layer.train()
    np.testing.assert_array_equal(layer.backward(x, mask=mask), y)


def test_backward_before_forward(layer):
    with pytest.raises(RuntimeError, match="before the first forward"):
        layer.backward(np.ones(3))


def test_backward_of_another_shape(layer):
    layer(np.ones((3, 4)))
    with pytest.raises(ValueError, match=r"grad has shape \(4, 3\)"):
        layer.backward(np.ones((4, 3)))


def test_out(layer):
    x = np.ones(100)
    out = np.empty(100)
    assert layer(x, out=out) is out
    grad = np.ones(100)
    assert layer.backward(grad, out=grad) is grad
    np.testing.assert_array_equal(grad, out)


def test_a_refused_forward_changes_nothing(layer):
    layer(np.ones(3))
    mask, position = layer.mask, layer._rng.position
    with pytest.raises(TypeError):
        layer(np.ones(3, int))
    assert layer.mask is mask
    assert layer._rng.position == position


def test_train_and_eval(layer):
    assert layer.training
    assert layer.eval() is layer
    assert not layer.training
    assert layer.train() is layer
    assert layer.training
    assert not layer.train(False).training


def test_p_is_settable(layer):
    x = np.ones(10_000)
    for p in (0.0, 0.1, 0.9, 1.0):
        layer.p = p
        assert (layer(x) == 0).mean() == pytest.approx(p, abs=0.02)
    with pytest.raises(ValueError, match=r"p=1\.5"):
        layer.p = 1.5
    assert layer.p == 1.0


@pytest.mark.parametrize("p", [0.3, 0.0])
def test_downscale_in_infer(p):
    layer = nn.Dropout(p, rng=1, mode="downscale_in_infer")
    x = np.arange(1.0, 101.0)
    y = layer(x)
    np.testing.assert_array_equal(y, np.where(layer.mask.keep(), x, 0))
    layer.eval()
    np.testing.assert_array_equal(layer(x), x * (1 - p))
    np.testing.assert_array_equal(layer.backward(x), x * (1 - p))


def test_noise_shape():
    layer = nn.Dropout(0.5, rng=1, noise_shape=(None, 1))
    for rows in (5, 9):  # None follows the input
        y = layer(np.ones((rows, 40)))
        assert (y == y[:, :1]).all()
    with pytest.raises(ValueError, match="noise_shape"):
        layer(np.ones(3))


def test_repr():
    assert repr(nn.Dropout(0.3)) == "Dropout(p=0.3)"
    layer = nn.Dropout(0.3, noise_shape=(None, 1), mode="downscale_in_infer")
    assert repr(layer) == "Dropout(p=0.3, noise_shape=(None, 1), mode='downscale_in_infer')"


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"p": -0.1}, ValueError),
        ({"p": "0.5"}, TypeError),
        ({"mode": "upscale"}, ValueError),
        ({"rng": True}, TypeError),
        ({"rng": 2**64}, ValueError),
    ],
)
def test_refused_arguments(arguments, error):
    with pytest.raises(error):
        nn.Dropout(**arguments)


def test_whose_generator_it_is():
    gen = fd.Generator(1)
    a, b = nn.Dropout(rng=gen), nn.Dropout(rng=gen)
    x = np.ones(500)
    assert (a(x) != b(x)).any()
    assert gen.position == 2
    c, d = nn.Dropout(rng=1), nn.Dropout(rng=1)
    np.testing.assert_array_equal(c(x), d(x))
    assert (c(x) != fd.dropout(x, rng=1)).any()  # its second call
    rng = np.random.default_rng(0)
    e = nn.Dropout(rng=rng)
    state = rng.bit_generator.state
    e(x)
    assert rng.bit_generator.state == state  # drawn from once, at construction


def test_none_looks_the_default_up_at_each_call():
    layer = nn.Dropout()
    fd.seed(5)
    a = layer(np.ones(500))
    fd.seed(5)
    np.testing.assert_array_equal(layer(np.ones(500)), a)


def test_state_continues_bit_for_bit():
    x = np.ones(300)
    layer = nn.Dropout(0.3, rng=8)
    layer(x)
    layer.p = 0.6
    saved = json.loads(json.dumps(layer.state_dict()))
    want = [layer(x) for _ in range(3)]
    other = nn.Dropout(0.1, rng=0)
    other.load_state_dict(saved)
    assert other.p == 0.6
    for y in want:
        np.testing.assert_array_equal(other(x), y)


def test_state_of_a_shared_generator_is_not_the_layers():
    gen = fd.Generator(1)
    layer = nn.Dropout(0.3, rng=gen)
    state = layer.state_dict()
    assert state == {"stream": 1, "p": 0.3, "generator": None}
    gen.mask(1)
    layer.load_state_dict(state)
    assert gen.position == 1
    assert nn.Dropout().state_dict()["generator"] is None


@pytest.mark.parametrize(
    "state",
    [
        None,
        {},
        {"stream": 2, "p": 0.1, "generator": None},
        {"stream": 1, "p": 0.1},
        {"stream": 1, "p": 1.1, "generator": {"stream": 1, "seed": 0, "position": 0}},
        {"stream": 1, "p": 0.1, "generator": {"stream": 9, "seed": 0, "position": 0}},
        {"stream": 1, "p": 0.1, "generator": None},
    ],
)
def test_refused_state(state):
    layer = nn.Dropout(0.5, rng=4)
    layer(np.ones(3))
    before = layer.state_dict()
    with pytest.raises((ValueError, TypeError)):
        layer.load_state_dict(state)
    assert layer.state_dict() == before


def test_a_generator_for_a_layer_that_shares_one():
    saved = nn.Dropout(rng=4).state_dict()
    with pytest.raises(ValueError, match="shares its own"):
        nn.Dropout(rng=fd.Generator(4)).load_state_dict(saved)
