"""The operator ``fastdrop::drop``, for all that must see what is done with a tensor.

That is `torch.compile`, `torch.export`, fake tensors, `torch.func` and dispatch modes. The operator
is a pure function of a tensor and a seed, which may be run again at will. What PyTorch does not
call public is used here alone.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

import torch
import torch.fx
from torch import Tensor
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import (
    ProxyTorchDispatchMode,
    get_proxy_mode,
    get_proxy_slot,
)
from torch.utils._python_dispatch import is_traceable_wrapper_subclass
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


def is_wrapper(x: Tensor) -> bool:
    """Whether x wraps other tensors, as a DTensor does: it knows operators of PyTorch, not ours."""
    return type(x) not in (Tensor, torch.nn.Parameter) and is_traceable_wrapper_subclass(x)


def base_of(view: Tensor) -> Tensor | None:
    """Return the tensor of which this is a view, where it is one."""
    return view._base


def is_empty(x: Tensor) -> bool:
    """Whether x is known to have no elements; a size that data decide is not known."""
    none = x.numel() == 0
    if not isinstance(none, torch.SymBool):
        return bool(none)
    # where there are symbols this is loaded; elsewhere it would take half a second
    from torch.fx.experimental.symbolic_shapes import guard_or_false

    return guard_or_false(none)


def is_in_onnx_export() -> bool:
    """Whether an ONNX export is under way; what does it is loaded then, and slow to load."""
    onnx = None if torch.compiler.is_dynamo_compiling() else sys.modules.get("torch.onnx")
    return onnx is not None and onnx.is_in_onnx_export()


def bare_apply(function: type[torch.autograd.Function]) -> Any:
    """Return ``function.apply`` without the Python around it, which takes as long again.

    That looks for `torch.func`, which does not come here, and binds default arguments, of which
    there must be none.
    """
    return super(torch.autograd.Function, function).apply  # type: ignore[misc]


# ---- seeds ---------------------------------------------------------------------------------------


def draw_seed() -> Tensor:
    """Draw the seed of one mask from torch's default CPU generator."""
    return torch.randint(_LOWEST, _HIGHEST, (), device=CPU)


def no_seed() -> Tensor:
    """Return what stands for a seed where all is dropped, whatever it is."""
    return torch.zeros((), dtype=torch.int64, device=CPU)


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
        with contextlib.ExitStack() as stack:
            if torch._C._are_functorch_transforms_active():
                # transforms outside this one differentiate too, but in here autograd is off
                stack.enter_context(torch.enable_grad())
                stack.enter_context(forward_ad._set_fwd_grad_enabled(True))
            stack.enter_context(torch._C._AutoDispatchBelowAutograd())
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
        return torch.ops.fastdrop.drop(tangent, *ctx.saved_tensors, *ctx.rest)


_with_derivatives = bare_apply(_Op)


@torch.library.impl("fastdrop::drop", "Autograd")
def _op_autograd(x: Tensor, *rest: Any) -> Tensor:
    if (
        x.requires_grad
        and torch.is_grad_enabled()
        and get_proxy_mode() is not None
        and torch._functorch.config.activation_memory_budget == 0
    ):
        raise RuntimeError(
            "torch._functorch.config.activation_memory_budget = 0 makes backward draw its random "
            "numbers again, those of PyTorch's own dropout too, and gradients wrong: give a number "
            "above 0, such as 0.01"
        )
    if torch._C._are_functorch_transforms_active():
        # the dispatcher has come down to the level of one transform, which is all that this knows
        with enable_single_level_autograd_function():
            return _with_derivatives(x, *rest)
    return _with_derivatives(x, *rest)


@torch.library.register_vmap("fastdrop::drop")
def _op_vmap(
    info: Any, in_dims: Any, x: Tensor, seed: Tensor, p: float, kind: str, shared: int
) -> tuple[Tensor, int]:
    n = info.batch_size
    if n == 0:
        return (x.new_empty((0, *x.shape)), 0) if in_dims[0] is None else (x, in_dims[0])
    xs = [x] * n if in_dims[0] is None else x.unbind(in_dims[0])
    seeds = [seed] * n if in_dims[1] is None else seed.unbind(in_dims[1])
    drop = torch.ops.fastdrop.drop
    pairs = zip(xs, seeds, strict=True)
    return torch.stack([drop(a, b, p, kind, shared) for a, b in pairs]), 0


# Backward calls the operator with the seed that forward drew: a compiler must keep it and not draw
# anew. So the node that a seed comes from is marked, in every trace of the operator. The draw is
# ``aten::randint``: two calls of an operator of our own would be equal to a compiler, whatever its
# tags, and two layers would drop alike.


@torch.library.register_torch_dispatch("fastdrop::drop", ProxyTorchDispatchMode)
def _op_traced(mode: Any, op: Any, types: Any, args: Any, kwargs: Any) -> Tensor:
    seed = get_proxy_slot(args[1], mode.tracer, None, lambda slot: slot.proxy.node)
    if seed is not None and seed.op == "call_function":
        seed.meta["recompute"] = CheckpointPolicy.MUST_SAVE
    return mode.__torch_dispatch__(op, types, args, kwargs)
