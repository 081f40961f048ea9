"""HIPS autograd: forward and backward by one recipe, derivatives of any order."""

import doctest
import tracemalloc

import numpy as np
import pytest
import test_docs
from conftest import bits_of

import fastdrop as fd

autograd = pytest.importorskip("autograd", reason="needs: pip install autograd")
anp = pytest.importorskip("autograd.numpy")
fda = pytest.importorskip("fastdrop.autograd")

from autograd.core import make_vjp  # noqa: E402
from autograd.test_util import check_grads  # noqa: E402

FLOATS = [np.float16, np.float32, np.float64]  # autograd knows no bfloat16


def normal(shape, dtype=np.float64):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def same(y, want):
    assert type(y) is np.ndarray
    assert y.dtype == want.dtype
    np.testing.assert_array_equal(bits_of(y), bits_of(want))


ARGUMENTS = [
    {},
    {"noise_shape": (30, 1)},
    {"mode": "downscale_in_infer"},
    {"mode": "downscale_in_infer", "training": False},
    {"training": False},
]


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
def test_value_and_gradient_are_those_of_the_plain_call(dtype, arguments):
    x = normal((30, 40), dtype)
    want, mask = fd.dropout(x, 0.3, rng=5, return_mask=True, **arguments)
    same(fda.dropout(x, 0.3, rng=5, **arguments), want)
    pullback, y = make_vjp(lambda x: fda.dropout(x, 0.3, rng=5, **arguments), x)
    same(y, want)
    same(pullback(want), mask.backward(want))


def test_the_mask_is_that_of_the_plain_call():
    gen = fd.Generator(5)
    y, mask = fda.dropout(normal(99), 0.3, rng=gen, return_mask=True)
    assert mask == fd.Generator(5).mask(99, 0.3)
    assert gen.position == 1
    same(fda.apply(mask, normal(99)), y)
    _, mask = fda.dropout(normal(99), 0.3, rng=gen, training=False, return_mask=True)
    assert mask.keep().all()
    assert gen.position == 1


def test_what_is_dropped_leaves_nothing_behind():
    x = np.full(999, np.nan)
    mask = fd.Generator(5).mask(999)
    gradient = autograd.elementwise_grad(lambda x: fda.apply(mask, x))(x)
    np.testing.assert_array_equal(gradient, 2.0 * mask.keep())
    pullback, y = make_vjp(lambda x: fda.apply(mask, x), x)
    assert (bits_of(y)[~mask.keep()] == 0).all()
    assert (bits_of(pullback(x))[~mask.keep()] == 0).all()


@pytest.mark.parametrize("shape", [(), (7,), (3, 4)])
def test_gradients_of_both_modes_and_two_orders(shape):
    x = normal(shape)
    w = 1.5 + normal(shape)
    mask = fd.Generator(5).mask(shape, 0.4)

    def loss(x, w):
        hidden = anp.tanh(x * w)
        return anp.sum(fda.dropout(hidden, 0.4, rng=5) ** 3 + fda.apply(mask, x * anp.exp(w)))

    check_grads(loss, modes=["fwd", "rev"], order=2)(x, w)


def test_second_derivatives_are_exact():
    x = normal(50)
    mask = fd.Generator(5).mask(50, 0.4)
    hessian = autograd.hessian(lambda x: anp.sum(fda.apply(mask, x) ** 3))(x)
    np.testing.assert_allclose(hessian, np.diag(6 * mask.scale**3 * x * mask.keep()), rtol=1e-14)
    third = autograd.elementwise_grad(
        autograd.elementwise_grad(autograd.elementwise_grad(lambda x: fda.apply(mask, x) ** 3))
    )(x)
    np.testing.assert_allclose(third, 6 * mask.scale**3 * mask.keep(), rtol=1e-14)


def test_other_members_of_the_family_by_their_mask():
    x = normal((20, 30))
    want, mask = fd.alpha_dropout(x, 0.3, rng=5, return_mask=True)
    same(fda.apply(mask, x), want)
    check_grads(lambda x: fda.apply(mask, x) ** 2, modes=["fwd", "rev"], order=2)(x)
    gradient = autograd.elementwise_grad(lambda x: fda.apply(mask, x))(x)
    same(gradient, mask.backward(np.ones_like(x)))


def test_a_network_and_its_weights():
    x, w, v = normal((8, 5)), normal((5, 6)), normal((6, 2))

    def loss(w, v):
        hidden = fda.dropout(anp.tanh(anp.dot(x, w)), 0.5, rng=5)
        return anp.mean((anp.dot(hidden, v) - 1) ** 2)

    check_grads(loss, modes=["rev"], order=2)(w, v)


def test_scalars_and_lists():
    gradient = autograd.grad(lambda x: fda.dropout(x, 0.5, rng=0) * 3.0)(2.0)
    assert gradient == 6.0
    same(fda.dropout([1.0, 2.0], 0.0), np.array([1.0, 2.0]))
    same(fda.dropout([1.0, 2.0], 0.5, training=False), np.array([1.0, 2.0]))


def test_inference_returns_x_itself():
    x = normal(9)
    assert fda.dropout(x, 0.5, training=False) is x
    boxes = []

    def f(x):
        boxes.extend([x, fda.dropout(x, 0.5, training=False)])
        return anp.sum(boxes[1])

    autograd.grad(f)(x)
    assert boxes[0] is boxes[1]


def test_the_graph_keeps_a_recipe():
    x = normal(2**20)

    def chain(x):
        for _ in range(5):
            x = fda.dropout(x, 0.1, rng=gen)
        return x

    gen = fd.Generator(5)
    make_vjp(chain, x)  # what is imported or cached, once
    tracemalloc.start()
    try:
        pullback, y = make_vjp(chain, x)
        with_result = tracemalloc.get_traced_memory()[0]
        del y
        alone = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert x.nbytes < with_result < 1.1 * x.nbytes
    assert alone < 20_000
    assert gen.position == 10
    same(pullback(x), pullback(x))


@pytest.mark.parametrize(
    ("error", "message", "x", "arguments"),
    [
        (ValueError, r"^p=1\.5 is not a probability", normal(3), {"p": 1.5}),
        (TypeError, r"^x has dtype int64", np.arange(3), {}),
        (TypeError, r"^x has dtype complex128", normal(3) + 1j, {}),
        (ValueError, r"^mode='both' is unknown", normal(3), {"mode": "both"}),
        (ValueError, r"^noise_shape \(2,\) does not fit", normal(3), {"noise_shape": 2}),
        (TypeError, r"^rng must be", normal(3), {"rng": "5"}),
    ],
)
def test_refused(error, message, x, arguments):
    gen = fd.Generator(5)
    with pytest.raises(error, match=message):
        fda.dropout(x, **{"rng": gen, **arguments})
    assert gen.position == 0


def test_a_function_called_again_for_its_gradient_takes_its_mask_from_outside():
    mask = fd.Generator(5).mask(8, 0.5)

    def f(x):
        return anp.sum(fda.apply(mask, x) ** 2)

    x = normal(8)
    same(autograd.grad(autograd.checkpoint(f))(x), autograd.grad(f)(x))


def test_boxes_in_the_plain_function_are_sent_here():
    with pytest.raises(TypeError, match=r"^x has dtype object; .*fastdrop\.autograd\.dropout\(x\)"):
        autograd.grad(lambda x: anp.sum(fd.dropout(x)))(normal(3))


def test_masks_that_do_not_fit():
    mask = fd.Generator(5).mask(4)
    with pytest.raises(ValueError, match=r"^x has shape \(5,\); the mask is for \(4,\)"):
        autograd.grad(lambda x: anp.sum(fda.apply(mask, x)))(normal(5))
    with pytest.raises(TypeError, match=r"^mask must be a fastdrop\.Mask, not ndarray"):
        fda.apply(mask.keep(), normal(4))


# ---- documentation -------------------------------------------------------------------------------


def test_docstrings():
    result = doctest.testmod(fda)
    assert result.attempted > 0
    assert result.failed == 0
    for name in fda.__all__:
        test_docs.test_sections(name, getattr(fda, name))
