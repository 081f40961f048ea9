"""HIPS autograd: forward and backward by one recipe, derivatives of any order."""

import doctest
import re
import tracemalloc

import numpy as np
import pytest
import test_docs
from conftest import bits_of

import fastdrop as fd

autograd = pytest.importorskip("autograd", reason="needs: pip install autograd")
anp = pytest.importorskip("autograd.numpy")
fda = pytest.importorskip("fastdrop.autograd")

from autograd import make_jvp  # noqa: E402
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


GAUSSIAN = {"gaussian_dropout": 0.3, "gaussian_noise": 0.7}  # and a rate


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("function", list(GAUSSIAN))
@pytest.mark.parametrize("training", [True, False])
def test_noise_and_its_gradient_are_those_of_the_plain_call(dtype, function, training):
    x = normal((30, 40), dtype)
    call, rate = getattr(fda, function), GAUSSIAN[function]
    want, noise = getattr(fd, function)(x, rate, rng=5, training=training, return_mask=True)
    gen = fd.Generator(5)
    y, recipe = call(x, rate, rng=gen, training=training, return_mask=True)
    assert gen.position == training
    assert recipe == noise
    same(y, want)
    for f in (lambda x: call(x, rate, rng=5, training=training), lambda x: fda.apply(noise, x)):
        pullback, y = make_vjp(f, x)
        same(y, want)
        same(pullback(want), noise.backward(want))
        y, tangent = make_jvp(f)(x)(want)
        same(y, want)
        same(tangent, noise.backward(want))


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


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        ("alpha_dropout", {"p": 0.3}),
        ("alpha_dropout", {"p": 0.3, "noise_shape": (30, 1)}),
        ("alpha_dropout", {"p": 1.0}),
        ("feature_alpha_dropout", {"p": 0.3}),
        ("drop_path", {"p": 0.3}),
        ("drop_path", {"p": 0.3, "scale_by_keep": False}),
        ("drop_path", {}),
    ],
)
def test_members_of_the_family(function, arguments, training):
    x, gen = normal((30, 40)), fd.Generator(5)
    call, arguments = getattr(fda, function), {"training": training, **arguments}
    want, mask = getattr(fd, function)(x, rng=5, return_mask=True, **arguments)
    y, recipe = call(x, rng=gen, return_mask=True, **arguments)
    same(y, want)
    assert recipe == mask
    assert gen.position == training
    pullback, y = make_vjp(lambda x: call(x, rng=5, **arguments), x)
    same(y, want)
    same(pullback(x), mask.backward(x))
    check_grads(lambda x: call(x, rng=5, **arguments) ** 2, modes=["fwd", "rev"], order=2)(x)
    for refused in (np.arange(30), np.ones((30, 40), complex), np.ones(())):
        if function == "alpha_dropout" and refused.ndim == 0 and "noise_shape" not in arguments:
            continue  # of a scalar too
        with pytest.raises((TypeError, ValueError)) as plain:
            getattr(fd, function)(refused, **arguments)
        with pytest.raises(plain.type, match=f"^{re.escape(str(plain.value))}$"):
            call(refused, rng=gen, **arguments)
    assert gen.position == training


@pytest.mark.parametrize("shape", [(), (7,), (3, 4)])
def test_gradients_of_noise_and_two_orders(shape):
    x = normal(shape)
    w = 1.5 + normal(shape)
    noise = fd.Noise(5, 1, shape, 0.4)

    def loss(x, w):
        hidden = anp.tanh(fda.gaussian_noise(x * w, 0.5, rng=5))
        dropped = fda.gaussian_dropout(hidden, 0.4, rng=5)
        return anp.sum(dropped**3 + fda.apply(noise, x * anp.exp(w)))

    check_grads(loss, modes=["fwd", "rev"], order=2)(x, w)


@pytest.mark.parametrize("additive", [False, True])
def test_higher_derivatives_of_noise_are_exact(additive):
    x = normal(50)
    noise = fd.Noise(5, 0, 50, 0.7, additive=additive)
    y, factor = noise.apply(x), noise.backward(np.ones(50))

    def cubed(x):
        return fda.apply(noise, x) ** 3

    hessian = autograd.hessian(lambda x: anp.sum(cubed(x)))(x)
    np.testing.assert_allclose(hessian, np.diag(6 * factor**2 * y), rtol=1e-13)
    third = cubed
    for _ in range(3):
        third = autograd.elementwise_grad(third)
    np.testing.assert_allclose(third(x), 6 * factor**3, rtol=1e-13)


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
    gradient = autograd.grad(lambda x: fda.gaussian_dropout(x, 0.3, rng=5))(2.0)
    assert gradient == fd.gaussian_dropout(1.0, 0.3, rng=5)
    assert autograd.grad(lambda x: fda.gaussian_noise(x, 0.3) * 3.0)(2.0) == 3.0
    same(fda.gaussian_noise([1.0, 2.0], 0.0), np.array([1.0, 2.0]))


@pytest.mark.parametrize("function", ["dropout", *GAUSSIAN])
def test_inference_returns_x_itself(function):
    x = normal(9)
    call = getattr(fda, function)
    assert call(x, 0.5, training=False) is x
    same(call([1.0, 2.0], 0.5, training=False), np.array([1.0, 2.0]))
    boxes = []

    def f(x):
        boxes.extend([x, call(x, 0.5, training=False)])
        return anp.sum(boxes[1])

    autograd.grad(f)(x)
    assert boxes[0] is boxes[1]


@pytest.mark.parametrize("function", ["dropout", *GAUSSIAN])
def test_the_graph_keeps_a_recipe(function):
    x = normal(2**20)

    def chain(x):
        for _ in range(5):
            x = getattr(fda, function)(x, 0.1, rng=gen)
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


@pytest.mark.parametrize("function", list(GAUSSIAN))
@pytest.mark.parametrize("training", [True, False])
def test_noise_refused(function, training):
    """All that the plain function refuses, in its words."""
    gen = fd.Generator(5)
    for x, given in (
        (normal(3), {"rate": -0.1}),
        (normal(3), {"rate": np.nan}),
        (normal(3), {"rate": 1.0 if function == "gaussian_dropout" else 1e39}),
        (normal(3), {"rate": "5"}),
        (np.arange(3), {}),
        (normal(3) + 1j, {}),
        (normal(3), {"rng": "5"}),
    ):
        arguments = {"rng": gen, "training": training, **given}
        rate = arguments.pop("rate", GAUSSIAN[function])
        with pytest.raises((TypeError, ValueError)) as plain:
            getattr(fd, function)(x, rate, **arguments)
        with pytest.raises(plain.type, match=f"^{re.escape(str(plain.value))}$"):
            getattr(fda, function)(x, rate, **arguments)
    assert gen.position == 0


def test_a_function_called_again_for_its_gradient_takes_its_mask_from_outside():
    mask = fd.Generator(5).mask(8, 0.5)

    def f(x):
        return anp.sum(fda.apply(mask, x) ** 2)

    x = normal(8)
    same(autograd.grad(autograd.checkpoint(f))(x), autograd.grad(f)(x))


def test_boxes_in_the_plain_function_are_sent_here():
    with pytest.raises(TypeError, match=r"^x has dtype object; .*fastdrop\.autograd.*apply"):
        autograd.grad(lambda x: anp.sum(fd.dropout(x)))(normal(3))


@pytest.mark.parametrize(
    ("kind", "recipe"), [("mask", fd.Generator(5).mask(4)), ("noise", fd.Noise(5, 0, 4))]
)
def test_recipes_that_do_not_fit(kind, recipe):
    with pytest.raises(ValueError, match=rf"^x has shape \(5,\); the {kind} is for \(4,\)"):
        autograd.grad(lambda x: anp.sum(fda.apply(recipe, x)))(normal(5))


def test_what_is_no_recipe():
    keep = fd.Generator(5).mask(4).keep()
    with pytest.raises(TypeError, match=r"^mask must be a fastdrop\.Mask or fastdrop\.Noise, not "):
        fda.apply(keep, normal(4))


# ---- documentation -------------------------------------------------------------------------------


def test_docstrings():
    result = doctest.testmod(fda)
    assert result.attempted > 0
    assert result.failed == 0
    for name in fda.__all__:
        test_docs.test_sections(name, getattr(fda, name))
