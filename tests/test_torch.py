"""fastdrop.torch: against fastdrop's own masks, and against what PyTorch's own tests assert."""

import copy
import doctest
import functools
import gc
import itertools
import pickle
import re
import shutil
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.autograd import forward_ad  # noqa: E402
from torch.nn import functional as stock  # noqa: E402
from torch.utils.checkpoint import checkpoint  # noqa: E402

import fastdrop as fd  # noqa: E402
import fastdrop.torch as fdt  # noqa: E402
from fastdrop.torch.memory import mask_in_memory  # noqa: E402

# PyTorch's own, of modules that it imports when it first needs them
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
BY_CHANNEL = {"dropout1d": (3, 2, 5), "dropout2d": (3, 2, 4, 2), "dropout3d": (3, 2, 2, 2, 2)}
SHAPES = {**BY_CHANNEL, "dropout": (3, 2, 5), "alpha_dropout": (3, 2, 5)}
SHAPES["feature_alpha_dropout"] = (3, 2, 5)
MODULES = {
    "Dropout": "dropout",
    "Dropout1d": "dropout1d",
    "Dropout2d": "dropout2d",
    "Dropout3d": "dropout3d",
    "AlphaDropout": "alpha_dropout",
    "FeatureAlphaDropout": "feature_alpha_dropout",
}


def compiled(f, **options):
    """Compile to one graph, by all of the compiler but its last step."""
    torch._dynamo.reset()
    return torch.compile(f, backend="aot_eager_decomp_partition", fullgraph=True, **options)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(params=sorted(SHAPES))
def function(request):
    """Each function in turn, in training by default."""
    return functools.partial(getattr(fdt, request.param), training=True)


def shape_for(function):
    return SHAPES[function.func.__name__]


def seed_of_next():
    """Seed of the next call; the generator stays where it is."""
    with torch.random.fork_rng(devices=[]):
        return int(torch.randint(-(2**63), 2**63 - 1, ())) % 2**64


def state():
    return torch.get_rng_state()


def seeded(f, *args, seed=1, **options):
    torch.manual_seed(seed)
    return f(*args, **options)


def bits(x):
    """Bit patterns: equality that tells +0 from -0."""
    kind = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    return x.detach().contiguous().resolve_neg().view(kind)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(bits(a), bits(b))


def by_numpy(method, x, recipe):
    """What the core makes of a tensor's values, by a recipe, in float32 or wider."""
    ml_dtypes = pytest.importorskip("ml_dtypes")
    if x.dtype is torch.bfloat16:
        array = x.detach().contiguous().view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
        return torch.from_numpy(method(recipe, array).view(np.uint16)).view(torch.bfloat16)
    return torch.from_numpy(method(recipe, x.detach().contiguous().numpy()))


# ---- masks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("torch_dtype", DTYPES, ids=str)
@pytest.mark.parametrize("p", [0.5, 0.1, 1.0])
@pytest.mark.parametrize("grad", [False, True])
def test_the_mask_is_that_of_the_seed_at_position_0(torch_dtype, p, grad):
    x = torch.randn(33, 70).to(torch_dtype).requires_grad_(grad)
    mask = fd.Mask(seed_of_next(), 0, (33, 70), p)
    y = fdt.dropout(x, p)
    assert same_bits(y, by_numpy(fd.Mask.apply, x, mask))
    if grad:
        upstream = torch.randn(33, 70).to(torch_dtype)
        y.backward(upstream)
        assert same_bits(x.grad, by_numpy(fd.Mask.backward, upstream, mask))


@pytest.mark.parametrize("name", sorted(BY_CHANNEL))
def test_channels_share_their_decisions(name):
    shape = BY_CHANNEL[name]
    x = torch.randn(shape)
    seed = seed_of_next()
    noise_shape = (*shape[:2], *(1,) * (len(shape) - 2))
    mask = fd.Mask(seed, 0, shape, 0.5, noise_shape=noise_shape)
    assert same_bits(getattr(fdt, name)(x), by_numpy(fd.Mask.apply, x, mask))


@pytest.mark.parametrize("torch_dtype", DTYPES, ids=str)
def test_alpha_dropout_is_fastdrops(torch_dtype):
    x = torch.randn(1000).to(torch_dtype)
    seed = seed_of_next()
    y = fdt.alpha_dropout(x, 0.2, training=True)
    assert same_bits(y, by_numpy(lambda _, a: fd.alpha_dropout(a, 0.2, rng=seed), x, None))


def test_isa_and_threads_change_nothing(isa, split_small_calls):
    x = torch.randn(50_000)
    mask = fd.Mask(seed_of_next(), 0, x.shape, 0.1)
    fd.set_num_threads(3)
    assert same_bits(fdt.dropout(x, 0.1), by_numpy(fd.Mask.apply, x, mask))


def test_a_dropped_nan_leaves_nothing():
    x = torch.full((1000,), float("nan"), requires_grad=True)
    y = fdt.dropout(x)
    y.backward(torch.full((1000,), float("-inf")))
    assert bool((bits(y)[~y.isnan()] == 0).all())
    assert int(y.isnan().sum()) == int(x.grad.isinf().sum()) > 400
    assert bool((bits(x.grad)[~x.grad.isinf()] == 0).all())


# ---- strides -------------------------------------------------------------------------------------


def odd_tensors():
    yield "0-d", torch.tensor(3.0)
    yield "one axis of size 1", torch.randn(5, 1, 7).transpose(0, 1)
    yield "transposed", torch.randn(70, 40).t()
    yield "steps", torch.randn(6, 80)[::2, ::3]
    yield "transposed steps", torch.randn(6, 80).t()[::2]
    yield "expanded", torch.randn(5, 1).expand(5, 6)
    yield "expanded scalar", torch.randn(()).expand(5, 6)
    yield "channels last", torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    yield "heads", torch.randn(2, 7, 3, 4).transpose(1, 2)
    yield "time first", torch.randn(7, 2, 5).transpose(0, 1)
    yield "offset", torch.randn(100)[3:]
    buffer = bytearray(4 * 50 + 1)
    misaligned = torch.frombuffer(buffer, dtype=torch.float32, offset=1, count=50)
    yield "misaligned", misaligned.copy_(torch.randn(50))
    yield "negated", torch._neg_view(torch.randn(50))
    complex_ones = torch.complex(torch.randn(50), torch.randn(50))
    yield "negated view", complex_ones.conj().imag


ODD = dict(odd_tensors())


@pytest.mark.parametrize("name", sorted(ODD))
@pytest.mark.parametrize("p", [0.5, 0.1])
def test_any_strides_same_mask_same_format(name, p):
    x = ODD[name]
    y = seeded(fdt.dropout, x, p)
    expected = seeded(fdt.dropout, x.contiguous().clone(), p)
    assert same_bits(y, expected)
    axes = [axis for axis in range(x.ndim) if x.shape[axis] > 1]
    theirs = stock.dropout(x, p)
    assert [y.stride(axis) for axis in axes] == [theirs.stride(axis) for axis in axes]
    leaf = x.detach().requires_grad_()
    z = seeded(fdt.dropout, leaf, p)
    assert same_bits(z, expected)
    (grad,) = torch.autograd.grad(z, leaf, torch.ones(()).expand(x.shape))
    assert same_bits(grad, seeded(fdt.dropout, torch.ones(x.shape), p))


@pytest.mark.parametrize("name", sorted(set(ODD) - {"expanded", "expanded scalar"}))
def test_in_place_any_strides(name):
    x = dict(odd_tensors())[name]  # anew: it is written to
    expected = seeded(fdt.dropout, x.contiguous().clone())
    assert seeded(fdt.dropout, x, inplace=True) is x
    assert same_bits(x, expected)


def test_every_permutation_keeps_its_format(function):
    shape = shape_for(function)
    for order in itertools.permutations(range(len(shape))):
        inverse = tuple(np.argsort(order))
        x = torch.randn(shape).permute(order).contiguous().permute(inverse)
        y = seeded(function, x, 0.4)
        assert same_bits(y, seeded(function, x.contiguous(), 0.4))
        assert y.stride() == x.stride()


def test_no_copy_of_the_memory():
    for dtype in DTYPES:
        x = torch.ones(8, 9, dtype=dtype)
        for y in (x, x[2:5], x.view(2, 4, 9)):  # the kernels work on these as they lie
            assert mask_in_memory(y.shape, y.stride(), 0, 0.5, "plain") is not None


# ---- what PyTorch's own tests assert -------------------------------------------------------------


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
@pytest.mark.parametrize("p", [0.2, 0.5, 0.8])
def test_alpha_keeps_mean_and_variance(name, p):
    x = torch.randn(5000) if name == "AlphaDropout" else torch.randn(1000, 5, 2, 4)
    leaf = x.clone().requires_grad_()
    y = getattr(fdt, name)(p)(leaf)
    assert abs(y.mean() - x.mean()) < 0.1
    assert abs(y.std() - x.std()) < 0.1
    y.backward(x)
    assert leaf.grad.shape == x.shape


@pytest.mark.parametrize("name", ["Dropout", "Dropout1d", "Dropout2d", "Dropout3d"])
@pytest.mark.parametrize("inplace", [False, True])
def test_mean_is_kept_forward_and_backward(name, inplace):
    p = 0.2
    shapes = {"Dropout": (1000,), "Dropout1d": (40, 30, 5)}
    x = torch.full(shapes.get(name, (1000, 3, 2, 2, 2)[: 4 + (name == "Dropout3d")]), 1 - p)
    leaf = x.clone().requires_grad_()
    module = getattr(fdt, name)(p, inplace)
    y = module(leaf + 0)
    assert abs(y.mean() - (1 - p)) < 0.05
    y.backward(x)
    assert abs(leaf.grad.mean() - (1 - p)) < 0.05
    assert torch.equal(module.eval()(x), x)


@pytest.mark.parametrize("name", sorted(MODULES))
@pytest.mark.parametrize("p", [-0.1, 1.1])
def test_p_outside_its_range(name, p):
    with pytest.raises(ValueError, match=r"-0\.1|1\.1"):
        getattr(fdt, name)(p)
    with pytest.raises(ValueError, match="p="):
        getattr(fdt, MODULES[name])(torch.ones(2, 2, 2, 2), p)


def test_p_is_a_real_number(function):
    x = torch.ones(shape_for(function))
    with pytest.raises(ValueError, match="p=nan"):
        function(x, float("nan"))
    with pytest.raises(TypeError, match="p must be a real number"):
        function(x, "0.5")
    with pytest.raises(TypeError, match="p must be a real number"):
        function(x, True)


@pytest.mark.parametrize("kind", [*DTYPES, torch.int64], ids=str)
def test_p_may_be_a_number_in_a_tensor(function, kind):
    """As PyTorch's own functions read it; a schedule's rate may be a buffer."""
    x = torch.randn(shape_for(function))
    p = torch.tensor(1 if kind is torch.int64 else 0.3, dtype=kind)
    theirs = getattr(stock, function.func.__name__)
    assert theirs(x, p, training=True).shape == x.shape
    assert same_bits(seeded(function, x, p), seeded(function, x, p.item()))
    assert function(x, torch.tensor(0.0)) is x
    with pytest.raises(ValueError, match="p=2"):
        function(x, torch.tensor(2))


@pytest.mark.parametrize("training", [False, True])
def test_tensors_that_are_no_p(function, training):
    x, f = torch.ones(shape_for(function)), function.func
    theirs = getattr(stock, f.__name__)
    for p in (torch.tensor(0.5, requires_grad=True), nn.Parameter(torch.tensor(0.5))):
        with pytest.raises(TypeError, match=r"p is a tensor that requires grad.*p\.detach\(\)"):
            f(x, p, training)
        with pytest.raises(TypeError):
            theirs(x, p, training)
    for p in (torch.tensor([0.5]), torch.tensor(0.5, device="meta"), torch.tensor(True)):
        with pytest.raises(TypeError, match=r"p is a tensor of shape .*give p\.item\(\)"):
            f(x, p, training)


@pytest.mark.parametrize("name", sorted(MODULES))
@pytest.mark.parametrize(
    "p",
    [True, False, np.True_, np.float32(0.5), torch.tensor(0.5), torch.tensor(True), 1, 0],
    ids=repr,
)
def test_a_replaced_module_takes_every_p_that_it_took(name, p):
    module = getattr(nn, name)(p)
    x = torch.ones(SHAPES[MODULES[name]])
    assert module(x).shape == x.shape
    fdt.replace(module)
    assert module.p is p
    expected = seeded(getattr(fdt, MODULES[name]), x, float(p), training=True)
    assert same_bits(seeded(module, x), expected)
    module.p = torch.tensor(0.5, requires_grad=True)
    with pytest.raises(TypeError, match="requires grad"):
        module(x)


@pytest.mark.parametrize("p", [0, 1])
def test_compiled_with_p_an_integer(function, p):
    x = torch.ones(shape_for(function))
    assert torch.equal(compiled(lambda x: function(x, p) + 1)(x), x * (1 - p) + 1)


def test_p_at_its_ends(function):
    x = torch.randn(shape_for(function), requires_grad=True)
    assert function(x, 0.0) is x
    assert function(x, 0) is x
    y = function(x, 1.0)
    y.sum().backward()
    assert not y.any()
    assert not x.grad.any()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("p", [0, 1e-12])
def test_holes_are_closed(memory_format, p):
    holes = torch.ones(2, 3, 3, 6).to(memory_format=memory_format)[..., ::2]
    y = fdt.dropout(holes, p)
    assert torch.equal(y, holes)
    assert p == 0 or y.is_contiguous(memory_format=memory_format)


@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("p", [1e-12, 0.3, 0.5, 0.7])
def test_permuted_and_cut_tensors_come_out_dense(shift, p):
    ones = torch.ones(2, 3, 4, 5)
    for order in itertools.permutations(range(4)):
        x = ones.permute(order).contiguous().permute(tuple(np.argsort(order)))
        x = x[shift[0] :, shift[1] :]
        y = fdt.dropout(x, p)
        assert y.permute(order).is_contiguous()
        assert abs(y.mean() - 1) < 0.5
        assert torch.equal(x, y) == (p == 1e-12)


@pytest.mark.parametrize(("name", "shape"), [("dropout1d", (50, 2)), ("dropout3d", (50, 2, 2, 2))])
@pytest.mark.parametrize("inplace", [False, True])
def test_no_batch_equals_batched(name, shape, inplace):
    x = torch.rand(shape)
    batch = x.clone()[None]
    f = functools.partial(getattr(fdt, name), inplace=inplace)
    assert torch.equal(seeded(f, x), seeded(f, batch)[0])


@pytest.mark.parametrize("name", sorted(BY_CHANNEL))
@pytest.mark.parametrize("inplace", [False, True])
def test_channels_are_dropped_whole(name, inplace):
    shape = (10, *BY_CHANNEL[name][1:])
    kept = getattr(fdt, name)(torch.ones(shape), inplace=inplace).flatten(2).count_nonzero(2)
    assert set(kept.flatten().tolist()) == {0, int(np.prod(shape[2:]))}


def test_ranks():
    with pytest.raises(RuntimeError, match="Expected 2D or 3D input, but received a 4D input"):
        fdt.Dropout1d()(torch.ones(1, 2, 2, 2))
    with pytest.raises(RuntimeError, match="Expected 2D or 3D input, but received a 1D input"):
        fdt.Dropout1d()(torch.ones(2))
    with pytest.warns(UserWarning, match="Received a 5-D input to dropout2d"):
        fdt.Dropout2d()(torch.ones(1, 2, 2, 2, 2))
    with pytest.warns(UserWarning, match="Received a 2-D input to dropout2d"):
        fdt.Dropout2d()(torch.ones(1, 2))
    with pytest.warns(UserWarning, match="channel-wise 1D dropout behavior is desired"):
        y = fdt.Dropout2d()(torch.ones(5, 4, 3))
    assert bool((y == y[..., :1]).all())
    with pytest.warns(UserWarning, match="Received a 6-D input to dropout3d"):
        fdt.Dropout3d()(torch.ones(1, 2, 2, 2, 2, 2))
    with pytest.warns(UserWarning, match="Received a 3-D input to dropout3d"):
        fdt.Dropout3d()(torch.ones(1, 2, 2))
    for name, shape, axes in (
        ("dropout2d", (3,), 2),
        ("feature_alpha_dropout", (3,), 2),
        ("dropout3d", (), 1),
    ):
        message = rf"^{name}: x has shape {re.escape(str(shape))}; it must have at least {axes} ax"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with pytest.raises(RuntimeError, match=message):
                getattr(fdt, name)(torch.ones(shape), training=True)


def outcome(f, x, p, training, inplace):
    """What a call does, but for its random numbers and its words."""
    x, before = x.clone(), state()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            y = f(x, p, training, inplace)
        except RuntimeError as error:
            result = type(error)
        else:
            varies = [bool((y != y.narrow(i, 0, 1)).any()) for i in range(y.ndim) if y.numel()]
            mean = float(y.mean()) if p != 0.5 and y.numel() else None
            result = y.shape, varies, mean, y is x
    return result, len(seen), torch.equal(state(), before)


@pytest.mark.parametrize("name", sorted(SHAPES))
@pytest.mark.parametrize("rank", range(8))
def test_as_pytorch_at_every_rank(name, rank):
    """Which axes share decisions, errors, warnings, and whether random numbers are drawn."""
    full = torch.ones((20, 9, 3, 3, 2, 2, 2)[:rank])
    for x in (full, full[:0]) if rank else (full,):
        choices = itertools.product((0.0, 0.5, 1.0), (True, False), (True, False))
        for p, training, inplace in choices:
            ours, theirs = (
                outcome(getattr(where, name), x, p, training, inplace) for where in (fdt, stock)
            )
            if not training or p == 0.0 or not x.numel():  # x itself, where theirs may be a view
                ours, theirs = (
                    (result[:3] if isinstance(result, tuple) else result, *rest)
                    for result, *rest in (ours, theirs)
                )
            assert ours == theirs, (p, training, inplace, x.shape)


def test_tensors_of_zeros_without_memory(function):
    x = torch._efficientzerotensor(shape_for(function))
    for p in (0.0, 0.5, 1.0):
        torch.manual_seed(1)
        y = function(x, p)
        alpha = "alpha" in function.func.__name__ and p == 0.5
        assert bool(y.any()) == alpha
        assert same_bits(y + 0, seeded(function, torch.zeros(x.shape), p))


def test_warnings_name_the_caller():
    for f, shape in ((fdt.dropout2d, (5, 4, 3)), (fdt.dropout2d, (3, 3)), (fdt.dropout3d, (3, 3))):
        with pytest.warns(UserWarning, match="dropout") as seen:
            f(torch.ones(shape))
        assert [w.filename for w in seen] == [__file__]


@pytest.mark.filterwarnings("ignore:dropout")
def test_what_pytorch_passes_through():
    """Whatever it is, where nothing is to be dropped from it."""
    for name in ("dropout2d", "dropout3d", "feature_alpha_dropout"):
        x = torch.ones(())
        assert getattr(fdt, name)(x, training=False) is x
        assert getattr(fdt, name)(x, 0.0, training=True) is x
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=torch.jagged)
    for x in (torch.ones(3, dtype=torch.int64), nested):
        assert fdt.dropout(x, 0.0) is x
        assert stock.dropout(x, 0.0) is not None


def test_empty(function):
    x = torch.ones(0, *shape_for(function)[1:])
    before = state()
    assert function(x) is x
    assert torch.equal(state(), before)


def test_evaluation_returns_its_input(function):
    x = torch.ones(shape_for(function))
    before = state()
    assert function(x, training=False) is x
    assert torch.equal(state(), before)


def test_signatures_are_pytorchs():
    import inspect

    for name in MODULES.values():
        ours = inspect.signature(getattr(fdt, name)).parameters
        theirs = inspect.signature(getattr(stock, name)).parameters
        assert list(ours)[1:] == list(theirs)[1:] == ["p", "training", "inplace"]
        assert [p.default for p in ours.values()] == [p.default for p in theirs.values()]


# ---- autograd ------------------------------------------------------------------------------------


def test_gradients_of_every_order(function):
    x = torch.randn(shape_for(function), dtype=torch.float64, requires_grad=True)

    def f(x):
        return seeded(function, x, 0.4)

    assert torch.autograd.gradcheck(f, (x,), check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradgradcheck(f, (x,), check_fwd_over_rev=True, check_batched_grad=True)
    turned = x.detach().transpose(0, -1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: f(x.transpose(0, -1)), (turned,))


def test_no_tensor_is_saved(function):
    saved = []
    x = torch.randn(shape_for(function), requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(saved.append, lambda x: x):
        y = function(x)
        stock.dropout(x)
    assert len(saved) == 1  # stock's
    assert not y.grad_fn.saved_tensors
    kept = [v for v in vars(y.grad_fn).values() if v is not None]
    assert not any(isinstance(v, torch.Tensor) for r in kept for v in r)
    assert len(pickle.dumps([tuple(r) for r in kept])) < 200


def test_nothing_of_x_lives_on():
    x = torch.randn(1000, requires_grad=True)
    y = fdt.dropout(x * 1)
    gc.collect()
    sizes = [t.numel() for t in gc.get_objects() if type(t) is torch.Tensor and t.numel() == 1000]
    assert len(sizes) <= 2  # x and y
    assert y.numel() == 1000


def test_a_gradient_with_holes():
    x = torch.randn(6, 10, requires_grad=True)
    upstream = torch.randn(10, 12).t()[::2]
    (grad,) = torch.autograd.grad(seeded(fdt.dropout, x), x, upstream)
    (expected,) = torch.autograd.grad(seeded(fdt.dropout, x), x, upstream.contiguous())
    assert same_bits(grad, expected)


def test_a_gradient_of_zeros_without_memory():
    x = torch.randn(4, requires_grad=True)
    (grad,) = torch.autograd.grad(fdt.dropout(x), x, torch._efficientzerotensor(4))
    assert same_bits(grad, torch.zeros(4))


def test_torch_func(function):
    x = torch.randn(shape_for(function), dtype=torch.float64)

    def linear(x):
        return function(x, 0.4).sum()

    def cubed(x):
        return (function(x, 0.4) ** 3).sum()

    leaf = x.clone().requires_grad_()
    seeded(linear, leaf).backward()
    assert same_bits(seeded(torch.func.grad(linear), x), leaf.grad)
    f, ones = functools.partial(function, p=0.4), torch.ones_like(x)
    assert same_bits(seeded(torch.func.jvp, f, (x,), (ones,))[1], leaf.grad)
    second = seeded(torch.func.grad(lambda x: torch.func.grad(cubed)(x).sum()), x)
    assert torch.allclose(second, 6 * seeded(f, x) * leaf.grad**2)


TRANSFORMS = {
    "grad": lambda f: torch.func.grad(lambda x: (f(x) ** 3).sum()),
    "jvp": lambda f: lambda x: torch.func.jvp(f, (x,), (x,))[1] ** 3,
    "vmap": lambda f: lambda x: torch.func.vmap(lambda x: f(x) ** 3, randomness="same")(x),
    "functionalize": lambda f: torch.func.functionalize(lambda x: f(x) ** 3),
}


ORDERS = [  # functionalize does not go around itself, in PyTorch
    names for names in itertools.product(TRANSFORMS, repeat=3) if names.count("functionalize") < 2
]


@pytest.mark.parametrize("names", ORDERS, ids="-".join)
@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
def test_transforms_of_transforms(name, names):
    """Against multiplication and addition of the same numbers, which PyTorch differentiates."""
    x = torch.randn(3, 2, 4, dtype=torch.float64)
    f = functools.partial(getattr(fdt, name), p=0.4, training=True)
    cell = x  # what f sees
    for _ in range(names.count("vmap")):
        cell = cell[0]
    shift = seeded(f, torch.zeros_like(cell))
    scale = seeded(f, torch.ones_like(cell)) - shift

    def formula(x):
        return x * scale + shift

    for transform in names:
        f, formula = TRANSFORMS[transform](f), TRANSFORMS[transform](formula)
    assert torch.allclose(seeded(f, x), formula(x))


@pytest.mark.parametrize("names", list(itertools.product(("grad", "jvp", "vmap"), repeat=2)))
def test_compiled_transforms(names):
    x = torch.randn(3, 2, 4)
    f = fdt.dropout
    for transform in names:
        f = TRANSFORMS[transform](f)
    assert torch.allclose(seeded(compiled(f), x), seeded(f, x))


def test_vmap_has_pytorchs_randomness():
    x = torch.ones(5, 100)
    with pytest.raises(RuntimeError, match="random"):
        torch.func.vmap(fdt.dropout)(x)
    same = torch.func.vmap(fdt.dropout, randomness="same")(x)
    assert bool((same == same[0]).all())
    for axis in (0, 1):
        different = torch.func.vmap(fdt.dropout, axis, axis, randomness="different")(
            x.movedim(0, axis)
        )
        different = different.movedim(axis, 0)
        assert len({tuple(row.tolist()) for row in different}) == 5
    one = torch.func.vmap(lambda _: fdt.dropout(torch.ones(100)), randomness="different")(x)
    assert len({tuple(row.tolist()) for row in one}) == 5
    assert torch.func.vmap(fdt.dropout, randomness="different")(x[:0]).shape == (0, 100)
    whole = torch.func.vmap(lambda _: fdt.dropout(torch.ones(100)), randomness="different")
    assert whole(x[:0]).shape == (0, 100)
    assert torch.func.vmap(fdt.dropout)(x[:, :0]).shape == (5, 0)  # nothing to draw for
    grads = torch.func.vmap(
        torch.func.grad(lambda x: fdt.dropout(x).sum()), randomness="different"
    )(x)
    assert set(grads.flatten().tolist()) == {0.0, 2.0}


def test_forward_mode_of_the_operator():
    """Called by itself, compiled, and compiled around torch.func, as PyTorch's own dropout."""
    seed = torch.tensor(1)
    x = torch.randn(40, dtype=torch.float64, requires_grad=True)
    for kind in ("plain", "alpha"):

        def f(x, kind=kind):
            return torch.ops.fastdrop.drop(x, seed, 0.4, kind, 0)

        assert torch.autograd.gradcheck(f, (x,), check_forward_ad=True)
        assert torch.autograd.gradgradcheck(f, (x,), check_fwd_over_rev=True)
    g = torch.compile(lambda x: fdt.dropout(x) * 2, backend="aot_eager")
    with forward_ad.dual_level():
        y = forward_ad.unpack_dual(g(forward_ad.make_dual(torch.ones(40), torch.ones(40))))
    assert same_bits(y.primal, y.tangent)


# ---- in place ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
def test_alpha_modules_ignore_in_place_as_pytorchs(name):
    for module in (getattr(nn, name)(0.1, inplace=True), getattr(fdt, name)(0.1, inplace=True)):
        leaf = torch.randn(5, 4, requires_grad=True)
        x = leaf.sigmoid()  # keeps its result for backward
        before = x.detach().clone()
        module(x).sum().backward()
        assert same_bits(x, before)


def test_in_place_gives_what_a_new_tensor_does(function):
    leaf = torch.randn(shape_for(function), requires_grad=True)
    for target in (lambda: leaf * 1, lambda: (leaf * 1).transpose(0, 1), lambda: (leaf * 1)[1:]):
        expected = seeded(function, target(), 0.4)
        (grad,) = torch.autograd.grad(expected.sum(), leaf)
        x = target()
        y = seeded(function, x, 0.4, inplace=True)
        assert y is x
        assert same_bits(y, expected)
        assert same_bits(torch.autograd.grad(y.sum(), leaf)[0], grad)


def test_in_place_tells_autograd():
    leaf = torch.randn(20, requires_grad=True)
    y = leaf.exp()  # keeps its result for backward
    fdt.dropout(y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    y = leaf.exp()
    with torch.no_grad():
        fdt.dropout(y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def refused_in_place():
    def leaf():
        return torch.ones(4, requires_grad=True)

    def under_no_grad():
        with torch.no_grad():
            return leaf()[:2]

    with torch.inference_mode():
        inference = torch.ones(4)
    yield "leaf", leaf(), "leaf"
    yield "view of a leaf", leaf()[:2], "leaf"
    yield "one of several views", (leaf() * 1).unbind(0)[0], "multiple views"
    yield "view made without grad", under_no_grad(), "leaf"
    yield "expanded", torch.ones(1).expand(4), "share memory"
    yield "inference", inference, "inference"


@pytest.mark.parametrize("case", range(6), ids=[name for name, *_ in refused_in_place()])
def test_in_place_refused_leaves_x(case):
    _, x, message = list(refused_in_place())[case]
    with pytest.raises(RuntimeError, match=message):
        fdt.dropout(x, inplace=True)
    assert bool((x == 1).all())
    with pytest.raises(RuntimeError):
        stock.dropout(x, inplace=True)


def test_in_place_without_grad():
    leaf = torch.ones(100, requires_grad=True)
    with torch.no_grad():
        assert fdt.dropout(leaf, inplace=True) is leaf
    assert set(leaf.tolist()) == {0.0, 2.0}


def test_in_place_in_forward_mode():
    for target in (lambda x: x, lambda x: x[10:]):
        with forward_ad.dual_level():
            x = forward_ad.make_dual(torch.ones(50), torch.full((50,), 3.0))
            y, tangent = forward_ad.unpack_dual(fdt.dropout(target(x), inplace=True))
        assert torch.equal(tangent, 3 * y)


# ---- random numbers ------------------------------------------------------------------------------


def test_manual_seed_decides(function):
    x = torch.ones(shape_for(function))
    torch.manual_seed(7)
    a, b = function(x), function(x)
    torch.manual_seed(7)
    assert same_bits(function(x), a)
    assert same_bits(function(x), b)
    assert not same_bits(a, b)


def test_one_draw_a_call(function):
    """Whatever the size and p, with grad and without."""
    after = []
    for n, p, grad in ((1, 0.5, False), (7, 0.1, True), (3, 0.9999, False)):
        torch.manual_seed(7)
        function(torch.ones(n, *shape_for(function)[1:], requires_grad=grad), p)
        after.append(state())
    torch.manual_seed(7)
    torch.randint(-(2**63), 2**63 - 1, ())
    assert all(torch.equal(s, state()) for s in after)


def test_where_all_is_dropped_nothing_is_drawn(function):
    """As in PyTorch, whose generator stays and whose vmap does not ask for randomness."""
    leaf = torch.full(shape_for(function), float("nan"), requires_grad=True)
    before = state()
    y = function(leaf, 1.0)
    y.sum().backward()
    assert same_bits(y, torch.zeros(y.shape))
    assert same_bits(leaf.grad, y)
    x = torch.ones(5, *shape_for(function))
    assert not torch.func.vmap(functools.partial(function, p=1.0))(x).any()
    assert not torch.func.grad(lambda x: function(x, 1.0).sum())(x[0]).any()
    assert function(x[0], 1.0, inplace=True) is not None
    assert not x[0].any()
    assert torch.equal(state(), before)


def test_a_refused_call_draws_nothing():
    before = state()
    for x in (torch.ones(3, dtype=torch.int64), torch.eye(3).to_sparse(), np.ones(3)):
        with pytest.raises(TypeError):
            fdt.dropout(x)
    with pytest.raises(RuntimeError):
        fdt.dropout(torch.ones(3, requires_grad=True), inplace=True)
    assert torch.equal(state(), before)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpoint_replays_the_mask(use_reentrant, function):
    x = torch.randn(shape_for(function), requires_grad=True)

    def block(x):
        return function(x.exp(), 0.4).sin()

    (expected,) = torch.autograd.grad(seeded(block, x).sum(), x)
    y = seeded(checkpoint, block, x, use_reentrant=use_reentrant)
    torch.rand(10)  # the generator goes on in between
    y.sum().backward()
    assert same_bits(x.grad, expected)


def test_threads_may_call_at_once():
    x, results = torch.ones(5000), []

    def work():
        results.extend(fdt.dropout(x) for _ in range(50))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.manual_seed(0)  # as the fixture does
    expected = {fdt.dropout(x).numpy().tobytes() for _ in range(200)}
    assert {y.numpy().tobytes() for y in results} == expected


FORK = """
import torch, fastdrop as fd, fastdrop.torch as fdt

class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 8
    def __getitem__(self, i):
        return fdt.dropout(torch.ones(1 << 22))[:64]  # large enough for threads

fd.set_num_threads(2)
fdt.dropout(torch.ones(1 << 22))  # in the parent too, before it forks
def epoch():
    torch.manual_seed(5)
    loader = torch.utils.data.DataLoader(
        Data(), 1, num_workers=2, multiprocessing_context="fork", timeout=60
    )
    return torch.cat(list(loader))
a, b = epoch(), epoch()
assert torch.equal(a, b)
assert len({tuple(row.tolist()) for row in a}) == 8
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork")
def test_workers_after_a_fork():
    command = [sys.executable, "-c", FORK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_without_grad(mode, function):
    x = torch.randn(shape_for(function))
    expected = seeded(function, x)
    with mode():
        y = seeded(function, x)
        assert y.is_inference() == (mode is torch.inference_mode)
        z = x.clone()
        assert function(z, inplace=True) is z
    assert same_bits(y, expected)


# ---- torch.compile -------------------------------------------------------------------------------


def test_compiled_without_a_break_and_equal_to_eager(function):
    x = torch.randn(shape_for(function), requires_grad=True)
    f = compiled(lambda x: function(x.exp(), 0.4).sin())
    y = seeded(lambda: function(x.exp(), 0.4).sin())
    assert torch.allclose(seeded(f, x), y)
    (grad,) = torch.autograd.grad(seeded(f, x).sum(), x)
    assert torch.allclose(grad, torch.autograd.grad(y.sum(), x)[0])


def test_compiled_layers_drop_differently():
    """The compiler may merge equal expressions; two draws are none."""
    a, b = compiled(lambda x: (fdt.dropout(x), fdt.dropout(x)))(torch.ones(100, requires_grad=True))
    assert not torch.equal(a, b)


COMPUTE_AGAIN = [{"activation_memory_budget": b} for b in (0.7, 0.5, 0.3, 0.01)]
COMPUTE_AGAIN.append({"aggressive_recomputation": True})


@pytest.mark.parametrize("option", COMPUTE_AGAIN, ids=str)
def test_backward_draws_no_seed_however_much_it_computes_again(option):
    from torch._functorch import config

    x = torch.randn(1000, requires_grad=True)
    with config.patch(option):
        y = compiled(lambda x: fdt.dropout(x.exp()).exp())(x)
        torch.rand(3)
        (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad != 0, y != 1)


@pytest.mark.parametrize("option", COMPUTE_AGAIN, ids=str)
def test_nor_does_that_of_a_graph_that_was_exported(option):
    from torch._functorch import config

    x = torch.randn(1000, requires_grad=True)
    exported = torch.export.export(nn.Sequential(fdt.Dropout()).train(), (torch.ones(1000),))
    module = exported.module()
    with config.patch(option):
        y = compiled(lambda x: module(x.exp()).exp())(x)
        torch.rand(3)
        (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad != 0, y != 1)


def test_where_pytorch_would_draw_again_it_is_refused():
    from torch._functorch import config

    x = torch.randn(1000, requires_grad=True)
    with (
        config.patch(activation_memory_budget=0.0),
        pytest.raises(Exception, match=r"activation_memory_budget = 0 .*give a number above 0"),
    ):
        compiled(lambda x: fdt.dropout(x.exp()).exp())(x)


def test_compiled_checkpoint():
    def block(x):
        return fdt.dropout(x.exp()).exp()

    x = torch.randn(1000, requires_grad=True)
    y = compiled(lambda x: checkpoint(block, x, use_reentrant=False))(x)
    torch.rand(10)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad != 0, y != 1)


def test_compiled_in_place_and_with_another_p():
    module = compiled(fdt.Dropout(0.5, inplace=True))
    for p in (0.5, 0.2, 0.75, 0.0, 1.0):
        module.p = p
        x = torch.ones(1000)
        assert module(x) is x
        assert float(x.max()) == pytest.approx(1 / (1 - p) if p < 1 else 0.0)


@pytest.mark.parametrize("name", ["AlphaDropout", "FeatureAlphaDropout"])
def test_compiled_alpha_with_another_p(name):
    module = compiled(getattr(fdt, name)())
    for p in (0.1, 0.2, 0.3, 0.5, 0.75, 0.0, 1.0):
        module.p = p
        x = torch.ones(20, 30)
        expected = seeded(getattr(fdt, MODULES[name]), x, p, training=True)
        assert torch.equal(seeded(module, x), expected)


def test_compiled_for_data_dependent_shapes():
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        f = compiled(lambda x: fdt.dropout(x[x > 0]))
        for n in (0, 5):
            assert f(torch.ones(n)).shape == (n,)


@pytest.mark.filterwarnings("error")
def test_compiled_where_eager_mode_warns():
    f = compiled(fdt.dropout2d)
    assert f(torch.ones(2, 3, 4)).shape == (2, 3, 4)
    assert compiled(fdt.dropout3d)(torch.ones(2, 3, 4)).shape == (2, 3, 4)


def test_compiled_for_any_shape():
    f = compiled(fdt.dropout, dynamic=True)
    for n in (3, 4, 50):
        assert set(f(torch.ones(n, 30)).flatten().tolist()) == {0.0, 2.0}


@pytest.mark.skipif(not shutil.which("g++"), reason="Inductor needs a C++ compiler")
@pytest.mark.filterwarnings("default")
def test_inductor():
    def layer(x):
        return fdt.dropout(x.exp()).exp()

    x = torch.randn(40, 50, requires_grad=True)
    torch._dynamo.reset()
    f = torch.compile(lambda x: (layer(x), layer(x)), fullgraph=True)
    y, z = seeded(f, x)
    assert not torch.equal(y, z)
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad != 0, y != 1)
    assert torch.equal(seeded(f, x)[0], y)


def test_the_operator_passes_opcheck():
    seed = torch.tensor(-3)
    for x in (torch.randn(4, 5), torch.randn(5, 4).t(), torch.randn(4, 5, requires_grad=True)):
        for kind in ("plain", "alpha", "alpha gradient"):
            for shared in (0, 1):
                torch.library.opcheck(torch.ops.fastdrop.drop, (x, seed, 0.5, kind, shared))
    assert torch.ops.fastdrop.drop(torch.ones(0), seed, 0.5, "plain", 0).shape == (0,)


def test_export_and_symbolic_traces():
    model = nn.Sequential(nn.Linear(3, 3), fdt.Dropout())
    program = torch.export.export(model.train(), (torch.ones(2, 3),))
    targets = [str(node.target) for node in program.graph.nodes]
    assert "fastdrop.drop.default" in targets
    assert "aten.randint.low" in targets  # which passes know to be random
    traced = torch.fx.symbolic_trace(model)
    x = torch.ones(2, 3)
    assert same_bits(seeded(model, x), seeded(traced, x))
    assert torch.equal(traced.eval()(x), model[0](x))  # its mode is not part of the trace
    root = torch.fx.symbolic_trace(model[1].train())
    assert same_bits(seeded(root, x), seeded(model[1], x))
    assert set(root.eval()(torch.ones(99)).tolist()) == {0.0, 2.0}  # as a trace of PyTorch's own


@pytest.mark.filterwarnings("ignore:.*:torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_traces_of_torch_jit():
    x = torch.randn(50)
    traced = torch.jit.trace(lambda x: fdt.dropout(x) * 2, x, check_trace=False)
    assert "fastdrop::drop" in str(traced.graph)
    assert same_bits(seeded(traced, x), 2 * seeded(fdt.dropout, x))
    assert not torch.equal(traced(x), traced(x))  # the seed is no constant of it


def test_backward_in_compiled_autograd():
    x = torch.randn(30, requires_grad=True)
    y = fdt.dropout(x)
    compiler = functools.partial(torch.compile, backend="aot_eager")
    with torch._dynamo.compiled_autograd._enable(compiler()):
        y.sum().backward()
    assert torch.equal(x.grad != 0, y != 0)


# ---- tensors in the functions for NumPy ----------------------------------------------------------


def test_tensors_go_into_the_core_without_a_copy():
    from fastdrop.arrays import as_input

    ml_dtypes = pytest.importorskip("ml_dtypes")
    kinds = [np.float16, ml_dtypes.bfloat16, np.float32, np.float64]
    for torch_dtype, kind in zip(DTYPES, kinds, strict=True):
        x = torch.randn(30, 40).to(torch_dtype)
        for view in (x, x.t(), x[::2, 3:]):
            array = as_input(view, "x")
            assert array.dtype == kind
            assert array.ctypes.data == view.data_ptr()
            assert array.shape == view.shape
        want = by_numpy(fd.Mask.apply, x, fd.Mask(5, 0, (30, 40), 0.3))
        y = fd.dropout(x, 0.3, rng=5)
        assert y.dtype == kind
        assert (y.view(f"u{y.itemsize}") == bits(want).numpy().view(f"u{y.itemsize}")).all()


def test_tensors_that_numpy_could_not_read_rightly():
    x = torch.ones(1000)
    view = fd.dropout(x, training=False)
    with pytest.raises(RuntimeError, match="resiz"):
        x.resize_(10**6)  # its memory is lent
    assert (view == 1).all()
    with pytest.raises(TypeError, match="negative bit"):
        fd.dropout(torch._neg_view(torch.ones(3)))
    for kind in (torch.float32, torch.bfloat16):
        with pytest.raises(TypeError, match=r"requires.grad.*x\.detach\(\)\.cpu\(\)\.numpy\(\)"):
            fd.dropout(torch.ones(3, dtype=kind, requires_grad=True))
    with pytest.raises(TypeError, match=r"x cannot be read.*detach"):
        fd.dropout(torch.ones(3, device="meta"))


# ---- tensors of other kinds ----------------------------------------------------------------------


def other_tensors():
    from torch._subclasses import FakeTensorMode

    yield "sparse", torch.eye(3).to_sparse(), "layout torch.sparse_coo.*to_dense"
    yield "compressed", torch.eye(3).to_mkldnn(), "layout torch._mkldnn.*to_dense"
    pair = [torch.ones(2), torch.ones(3)]
    jagged = torch.nested.nested_tensor(pair, layout=torch.jagged)
    yield "nested", jagged, r"nested.*torch\.nn\.functional\.dropout.*unbind"
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield "gpu", torch.ones(3, device="cuda"), r"cuda:0.*torch\.nn\.functional\.dropout"
    yield "int", torch.ones(3, dtype=torch.int64), r"torch\.int64.*x\.float\(\)"
    yield "complex", torch.ones(3, dtype=torch.complex64), r"torch\.complex64"
    yield "float8", torch.ones(3).to(torch.float8_e4m3fn), "float8_e4m3fn"
    yield "array", np.ones(3), r"not ndarray: give torch\.as_tensor\(x\); fastdrop\.dropout"
    yield "list", [1.0], r"must be a torch\.Tensor, not list"


@pytest.mark.parametrize("name", ["dropout", "alpha_dropout"])
def test_other_tensors_are_refused_with_a_remedy(name):
    for kind, x, message in other_tensors():
        with pytest.raises(TypeError, match=message):
            getattr(fdt, name)(x, training=True)
        if kind not in ("array", "list"):
            assert getattr(fdt, name)(x, training=False) is x
            continue
        with pytest.raises(TypeError, match=message):
            getattr(fdt, name)(x, training=False)


@pytest.mark.parametrize("name", sorted(MODULES.values()))
def test_no_tensor_is_refused(name):
    for x in (np.ones((2, 2, 2)), [1.0]):
        with pytest.raises(TypeError, match=r"must be a torch\.Tensor, not"):
            getattr(fdt, name)(x, training=True)


def test_a_quantized_tensor_is_refused():
    with pytest.warns(match=".*"):
        x = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(TypeError, match=r"qint8.*x\.dequantize\(\)"):
        fdt.dropout(x)


def test_tensors_without_memory(function):
    from torch._subclasses import FakeTensorMode

    shape = shape_for(function)
    y = function(torch.ones(shape, device="meta"))
    assert y.is_meta
    assert y.shape == shape
    with FakeTensorMode():
        y = function(torch.ones(shape).transpose(0, 1))
    assert y.stride() == torch.ones(shape).transpose(0, 1).stride()


def test_subclasses_and_default_devices():
    class Sub(torch.Tensor):
        pass

    x = torch.ones(20)
    y = seeded(fdt.dropout, x)
    z = seeded(fdt.dropout, x.as_subclass(Sub))
    assert type(z) is Sub
    assert torch.equal(z, y)
    with torch.device("meta"):
        assert torch.equal(seeded(fdt.dropout, x), y)


def test_a_dispatch_mode_sees_the_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = torch.ones(20)
    y = seeded(fdt.dropout, x)
    with Watch():
        z = seeded(fdt.dropout, x)
    assert same_bits(y, z)
    assert "fastdrop.drop.default" in seen


# ---- modules -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(MODULES))
def test_modules_are_their_functions(name):
    ours, theirs = getattr(fdt, name), getattr(nn, name)
    assert repr(ours(0.25, True)) == repr(theirs(0.25, True))
    assert issubclass(ours, theirs)
    module = ours(0.25)
    assert not module.state_dict()
    f = getattr(fdt, MODULES[name])
    x = torch.randn(SHAPES[MODULES[name]])
    assert same_bits(seeded(f, x, 0.25, training=True), seeded(module, x))
    assert module.eval()(x) is x
    for other in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert type(other) is ours
        assert other.p == 0.25
        assert not other.training


def test_replace_counts_and_keeps():
    class Mine(nn.Dropout):
        def forward(self, x):
            return x

    shared, mine, calls = nn.Dropout(0.3, inplace=True), Mine(), []
    shared.register_forward_hook(lambda *_: calls.append(1))
    model = nn.ModuleDict(
        {
            "a": nn.Sequential(nn.Linear(2, 2), shared, nn.AlphaDropout(0.1)),
            "b": nn.ModuleList([shared, nn.Dropout1d(), nn.Dropout2d(), nn.Dropout3d(), mine]),
            "c": nn.FeatureAlphaDropout(),
        }
    ).eval()
    assert fdt.replace(model) == 6
    assert fdt.replace(model) == 0
    assert model["a"][1] is model["b"][0] is shared
    assert (type(shared), type(mine)) == (fdt.Dropout, Mine)
    assert repr(shared) == "Dropout(p=0.3, inplace=True)"
    kinds = {type(m) for m in model.modules() if "drop" in type(m).__name__.lower()}
    assert kinds == {getattr(fdt, name) for name in MODULES}
    assert not shared.training
    model["a"](torch.ones(1, 2))
    assert calls == [1]
    root = nn.Dropout()
    assert fdt.replace(root) == 1
    assert type(root) is fdt.Dropout
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, not int"):
        fdt.replace(3)


def encoder(layers=2):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, 0.5, batch_first=True)
    return nn.TransformerEncoder(layer, layers)


def test_replace_in_a_transformer(monkeypatch):
    model, plain = encoder(), encoder()
    assert fdt.replace(model) == 8
    x = torch.randn(3, 5, 16)
    assert same_bits(seeded(model, x), seeded(model, x))
    assert not same_bits(seeded(model, x), seeded(plain, x))
    calls, fast = [], torch._transformer_encoder_layer_fwd

    def record(*args):
        calls.append(1)
        return fast(*args)

    monkeypatch.setattr(torch, "_transformer_encoder_layer_fwd", record)
    with torch.inference_mode():
        assert torch.equal(model.eval()(x), plain.eval()(x))
    assert len(calls) == 4  # two layers each: PyTorch's fused path is still taken


def test_a_compiled_transformer():
    model = encoder(1)
    fdt.replace(model)
    for layer in model.layers:
        layer.self_attn.dropout = 0.0  # PyTorch's own, which draws otherwise when compiled
    x = torch.randn(3, 5, 16)
    assert torch.allclose(seeded(compiled(model), x), seeded(model, x), atol=1e-5)


# ---- documentation -------------------------------------------------------------------------------


def test_docstrings():
    result = doctest.testmod(fdt)
    assert result.attempted > 20
    assert result.failed == 0
    for name in fdt.__all__:
        text = getattr(fdt, name).__doc__
        for section in ("Parameters", "Examples"):
            assert f"{section}\n    {'-' * len(section)}" in text, name
    assert sorted(fdt.__all__) == fdt.__all__


def test_the_page_runs():
    text = (Path(__file__).parents[1] / "docs" / "torch.md").read_text()
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(blocks) > 1
    for block in blocks:
        exec(compile(block, "torch.md", "exec"), names)


def test_importing_is_quick():
    """What PyTorch itself loads when it is first needed is left to it."""
    code = "import torch, fastdrop.torch, sys; assert not {'torch.onnx', 'sympy'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_importing_fastdrop_does_not_import_torch():
    command = [sys.executable, "-c", "import fastdrop, sys; assert 'torch' not in sys.modules"]
    subprocess.run(command, check=True, timeout=60)


@pytest.mark.parametrize("training", ["test", "", None, 2, 0.5, []])
@pytest.mark.parametrize("name", [n for n in fdt.__all__ if "dropout" in n])
def test_what_is_no_bool_is_not_training(name, training):
    before = torch.get_rng_state()
    with pytest.raises(TypeError, match="training must be True or False"):
        getattr(fdt, name)(torch.ones(2, 3, 4, 5), 0.5, training)
    assert torch.equal(torch.get_rng_state(), before)
