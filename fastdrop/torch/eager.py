"""Plain tensors in eager mode, which go straight to the kernels: what autograd needs to know."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fastdrop.torch.memory import CPU, Recipe, fill
from fastdrop.torch.operator import bare_apply, base_of, is_forward_mode, is_recorded, is_watched


def apply(x: Tensor, recipe: Recipe) -> Tensor:
    """Apply a recipe to x, to be differentiated."""
    if is_watched(x) or torch.compiler.is_compiling():  # in a backward that is itself traced
        seed, p, kind, shared = recipe
        signed = seed - (seed >> 63 << 64)
        return torch.ops.fastdrop.drop(x, torch.tensor(signed, device=CPU), p, kind, shared)
    if is_recorded(x):
        return _recorded(x, recipe, False)
    y = torch.empty_like(x)
    fill(y, x, recipe)
    return y


def apply_inplace(x: Tensor, recipe: Recipe) -> Tensor:
    """Write the result into x, with autograd's knowledge."""
    base = base_of(x)
    if is_forward_mode() or (base is not None and is_recorded(base)):
        return x.copy_(apply(x, recipe))  # checks, before it writes, whether this view may change
    if is_recorded(x):
        return _recorded(x, recipe, True)
    if not x.is_inference():
        torch.autograd.graph.increment_version(x)
    fill(x, x, recipe)
    return x


class _Drop(torch.autograd.Function):
    """The map of a recipe. Its derivative is linear and diagonal: such a map again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, recipe: Recipe, inplace: bool) -> Tensor:
        ctx.recipe = recipe
        if inplace:
            ctx.mark_dirty(x)
            y = x
        else:
            y = torch.empty_like(x)
        fill(y, x, recipe)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        return apply(grad, ctx.recipe.derivative()), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        return apply(tangent, ctx.recipe.derivative())


_recorded = bare_apply(_Drop)


def check_inplace(x: Tensor) -> None:
    """Raise what PyTorch would, before anything is written, where x must not be."""
    if any(n > 1 and step == 0 for n, step in zip(x.shape, x.stride(), strict=True)):
        raise RuntimeError(
            "inplace=True: elements of x share memory, as those of an expanded tensor do; give "
            "x.clone(), or inplace=False"
        )
    if x.is_inference() and not torch.is_inference_mode_enabled():
        raise RuntimeError(
            "inplace=True: x was made in inference mode and must not change outside it; give "
            "x.clone(), or inplace=False"
        )
    if x.requires_grad and x.is_leaf and torch.is_grad_enabled():
        raise RuntimeError(
            "inplace=True: x is a leaf that requires grad, whose value autograd needs; use "
            "inplace=False"
        )
