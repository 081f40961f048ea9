"""From tensors to the kernels: the memory of a tensor, and the mask in the order of it."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from fastdrop.kernels import DTYPES
from fastdrop.mask import Mask
from fastdrop.rates import alpha_values

KERNELS = {getattr(torch, name): number for number, name in enumerate(DTYPES)}
CPU = torch.device("cpu")


class Recipe(NamedTuple):
    """All that backward needs."""

    seed: int
    p: float
    kind: str  # "plain", "alpha", or "alpha gradient"
    shared: int  # how many of the last axes share one decision

    def derivative(self) -> Recipe:
        """Return the linear map that has the same decisions."""
        return self._replace(kind=DERIVATIVES.get(self.kind, self.kind))


DERIVATIVES = {"alpha": "alpha gradient"}  # the others are linear


@functools.lru_cache(maxsize=1024)
def mask_in_memory(
    shape: tuple[int, ...], strides: tuple[int, ...], shared: int, p: float, kind: str
) -> Mask | None:
    """Return the mask of a tensor as the kernels go through it, in the order of its memory.

    Its axes are in the order that makes the tensor contiguous; its seed stands for any. Returns
    None for a tensor with holes or overlaps, and for one whose neighbours in memory are no
    neighbours in the mask: run by run that takes several times as long as two copies.
    """
    axes = len(shape)
    order = sorted(range(axes), key=lambda axis: (shape[axis] > 1, -strides[axis]))
    size = 1
    for axis in reversed(order):
        if shape[axis] > 1 and strides[axis] != size:
            return None
        size *= shape[axis]
    values: dict[str, float] = {}
    if kind != "plain":
        values = dict(zip(("scale", "shift", "fill"), alpha_values(p), strict=True))
    if kind == "alpha gradient":
        values = {"scale": values["scale"]}
    noise_shape = (*shape[: axes - shared], *(1,) * shared)
    fields = Mask(0, 0, shape, p, noise_shape=noise_shape, **values).to_dict()
    if order and shape[order[-1]] > 1 and fields["strides"][order[-1]] > 1:
        return None
    for name in ("shape", "strides"):
        fields[name] = [fields[name][axis] for axis in order]
    return Mask.from_dict(fields)


def fill(y: Tensor, x: Tensor, recipe: Recipe) -> None:
    """Write the result of a recipe to y, which is x or overlaps it nowhere; unseen by autograd."""
    in_place = y is x
    if x.requires_grad:
        x = x.detach()
    if x._is_zerotensor():  # PyTorch's for a tangent of zeros, which has no memory
        x = x.clone()
    if in_place:
        y = x
    if (in_place or x.stride() == y.stride()) and _run(y, x, recipe):
        return
    if not in_place:  # there may be a way through y where there is none through x
        y.copy_(x)
        if _run(y, y, recipe):
            return
    work = torch.empty(x.shape, dtype=x.dtype, device=CPU)
    work.copy_(x)
    done = _run(work, work, recipe)
    assert done  # it is contiguous
    y.copy_(work)


def _run(y: Tensor, x: Tensor, recipe: Recipe) -> bool:
    """Run the kernels on tensors of equal strides; False where they cannot work on x as it lies."""
    if x.is_neg():  # a view that says that the numbers in memory are to be negated
        return False
    seed, p, kind, shared = recipe
    mask = mask_in_memory(x.shape, x.stride(), shared, p, kind)
    if mask is None:
        return False
    to, source, item = y.data_ptr(), x.data_ptr(), x.element_size()
    if to % item or source % item:
        return False
    mask.apply_to_memory(seed, to, source, KERNELS[x.dtype])
    return True
