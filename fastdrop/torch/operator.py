"""The operator ``fastdrop::drop``, for all that must see what is done with a tensor.

That is `torch.compile`, `torch.export`, fake tensors, `torch.func` and dispatch modes. The operator
is a pure function of a tensor and a seed, which may be run again at will. What PyTorch does not
call public is used here alone.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.fx
from torch import Tensor
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import ProxyTorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy

from fastdrop.torch.memory import CPU, DERIVATIVES, Recipe, fill

_LOWEST, _HIGHEST = -(2**63), 2**63 - 1  # of an int64, whose bits are the seed
_SEED_BITS = 2**64 - 1

# ---- who looks on --------------------------------------------------------------------------------


def is_watched(x: Tensor) -> bool:
    """Whether something other than autograd must see what is done with x, as an operator."""
    return (
        type(x) not in (Tensor, torch.nn.Parameter)
        or x.is_meta
        or not torch._C._has_storage(x)
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._are_functorch_transforms_active()
        or torch._C._get_tracing_state() is not None
    )


def is_recorded(x: Tensor) -> bool:
    """Whether autograd takes note of what is done with x, in either mode."""
    return (x.requires_grad and torch.is_grad_enabled()) or is_forward_mode()


def is_forward_mode() -> bool:
    """Whether autograd is in forward mode."""
    return forward_ad._current_level >= 0


def base_of(view: Tensor) -> Tensor | None:
    """Return the tensor of which this is a view, where it is one."""
    return view._base


def bare_apply(function: type[torch.autograd.Function]) -> Any:
    """Return ``function.apply`` without the Python around it, which takes as long again.

    That looks for `torch.func`, which does not come here, and binds default arguments, of which
    there must be none.
    """
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


# ---- seeds ---------------------------------------------------------------------------------------


def draw_seed() -> Tensor:
    """Draw the seed of one mask from torch's default CPU generator."""
    if torch.compiler.is_compiling() and not torch._C._are_functorch_transforms_active():
        return torch.ops.fastdrop.seed()
    return _randint()


def _randint() -> Tensor:
    return torch.randint(_LOWEST, _HIGHEST, (), device=CPU)


def seed_bits(seed: Tensor) -> int:
    """Return a seed as fastdrop knows it."""
    return int(seed.item()) & _SEED_BITS


# ---- the operator --------------------------------------------------------------------------------

torch.library.define(
    "fastdrop::drop",
    "(Tensor x, Tensor seed, float p, str kind, int shared) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag, torch.Tag.needs_exact_strides),
)


@torch.library.impl("fastdrop::drop", "CPU")
def _op(x: Tensor, seed: Tensor, p: float, kind: str, shared: int) -> Tensor:
    y = torch.empty_like(x)
    if x.numel():
        fill(y, x, Recipe(seed_bits(seed), p, kind, shared))
    return y


@torch.library.register_fake("fastdrop::drop")
def _op_fake(x: Tensor, seed: Tensor, p: float, kind: str, shared: int) -> Tensor:
    return torch.empty_like(x)


class _Op(torch.autograd.Function):
    """The operator's derivatives. torch.library.register_autograd knows no forward mode."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *rest: Any) -> Tensor:
        _Op.keep(ctx, *rest)
        with torch._C._AutoDispatchBelowAutograd():
            return torch.ops.fastdrop.drop(x, *rest)

    @staticmethod
    def keep(ctx: Any, seed: Tensor, p: float, kind: str, shared: int) -> None:
        ctx.save_for_backward(seed)
        ctx.save_for_forward(seed)
        ctx.rest = p, DERIVATIVES.get(kind, kind), shared

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return _Op.jvp(ctx, grad), None, None, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        return call(tangent, *ctx.saved_tensors, *ctx.rest)


_with_derivatives = bare_apply(_Op)


@torch.library.impl("fastdrop::drop", "Autograd")
def _op_autograd(*args: Any) -> Tensor:
    return _with_derivatives(*args)


class _Transformed(torch.autograd.Function):
    """The operator once more, for torch.func, which asks for it in this form."""

    @staticmethod
    def forward(*args: Any) -> Tensor:
        return torch.ops.fastdrop.drop(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _Op.keep(ctx, *inputs[1:])

    backward = _Op.backward
    jvp = _Op.jvp

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, seed: Tensor, *rest: Any) -> tuple[Tensor, int]:
        n = info.batch_size
        if n == 0:
            return torch.empty_like(x), in_dims[0] or 0
        xs = [x] * n if in_dims[0] is None else x.unbind(in_dims[0])
        seeds = [seed] * n if in_dims[1] is None else seed.unbind(in_dims[1])
        pairs = zip(xs, seeds, strict=True)
        return torch.stack([_Transformed.apply(a, b, *rest) for a, b in pairs]), 0


def call(x: Tensor, seed: Tensor, p: float, kind: str, shared: int) -> Tensor:
    """Call the operator, in the form that is asked for here."""
    if torch._C._are_functorch_transforms_active():
        return _Transformed.apply(x, seed, p, kind, shared)
    return torch.ops.fastdrop.drop(x, seed, p, kind, shared)


# The draw of a seed, for torch.compile. Calls of it are equal expressions to the compiler, whatever
# its tags, and two layers would drop alike. So a graph gets ``aten::randint`` instead, known to be
# random, and that marked as what backward must not do again.

torch.library.define("fastdrop::seed", "() -> Tensor", tags=torch.Tag.nondeterministic_seeded)
torch.library.impl("fastdrop::seed", "CompositeExplicitAutograd", _randint)


@torch.library.register_fake("fastdrop::seed")
def _seed_fake() -> Tensor:
    return torch.empty((), dtype=torch.int64, device=CPU)


@torch.library.register_torch_dispatch("fastdrop::seed", ProxyTorchDispatchMode)
def _seed_traced(mode: Any, *_: Any) -> Tensor:
    if torch.is_grad_enabled() and torch._functorch.config.activation_memory_budget == 0:
        raise RuntimeError(
            "torch._functorch.config.activation_memory_budget = 0 makes backward draw its random "
            "numbers again, those of PyTorch's own dropout too, and gradients wrong: give a number "
            "above 0, such as 0.01"
        )
    before = torch.fx.traceback.current_meta
    torch.fx.traceback.current_meta = before | {"recompute": CheckpointPolicy.MUST_SAVE}
    try:
        with mode, torch.fx.traceback.preserve_node_meta():
            return _randint()
    finally:
        torch.fx.traceback.current_meta = before
