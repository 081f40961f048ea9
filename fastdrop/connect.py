"""DropConnect: products with weights of which each example drops its own."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastdrop import rules
from fastdrop.arrays import Array, as_input
from fastdrop.mask import Mask
from fastdrop.rates import as_bool

# Whatever np.errstate says, sums that overflow do not raise half-way, as the kernels' do not.
_quiet = np.errstate(all="ignore")


@_quiet
def forward(x: Any, weight: Any, p: Any, bias: Any, training: bool, rng: Any) -> tuple[Array, Mask]:
    """Return ``x[n] @ dropout(weight) + bias`` and the mask: see `drop_connect`."""
    rule = rules.elements(p, None, "upscale_in_train")
    training = as_bool(training, "training")
    x, weight = factors(x, weight)
    if bias is not None:
        bias = as_input(bias, "bias")
        must_fit(bias, "bias", weight.shape[1:], x.dtype)
    shape = (len(x), *weight.shape)
    kind, (x, weight) = x.dtype, widened(x, weight)
    if training:
        y, dropped = np.empty((len(x), weight.shape[1]), x.dtype), np.empty_like(weight)
        mask = rule.mask(shape, True, rng)
        for n in range(len(x)):
            y[n] = x[n] @ mask[n].apply(weight, dropped)
    else:
        mask = rule.mask(shape, False, rng)
        y = x @ weight
    if bias is not None:
        y += bias.astype(y.dtype)
    return y.astype(kind, copy=False), mask


@_quiet
def backward(grad: Any, x: Any, weight: Any, mask: Mask) -> tuple[Array, Array]:
    """Return the gradients by x and by the weights: see `drop_connect_backward`."""
    x, weight = factors(x, weight)
    grad = as_input(grad, "grad")
    must_fit(grad, "grad", (len(x), weight.shape[1]), x.dtype)
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a Mask, not {type(mask).__name__}")
    if mask.shape != (len(x), *weight.shape):
        raise ValueError(f"mask has shape {mask.shape}; it must be {(len(x), *weight.shape)}")
    kind, (x, weight, grad) = x.dtype, widened(x, weight, grad)
    if mask.p == 0.0 and mask.scale == 1.0:  # of inference, or as good
        dx, dweight = grad @ weight.T, x.T @ grad
    else:
        dx, dweight, dropped = np.empty_like(x), np.zeros_like(weight), np.empty_like(weight)
        for n in range(len(x)):
            dx[n] = grad[n] @ mask[n].apply(weight, dropped).T
            np.multiply.outer(x[n], grad[n], out=dropped)
            dweight += mask[n].apply(dropped, dropped)
    return dx.astype(kind, copy=False), dweight.astype(kind, copy=False)


def factors(x: Any, weight: Any) -> tuple[Array, Array]:
    """Check the two factors of a linear layer."""
    x, weight = as_input(x, "x"), as_input(weight, "weight")
    if x.ndim != 2:
        raise ValueError(f"x has shape {x.shape}; it must be (N, F_in)")
    if weight.ndim != 2 or len(weight) != x.shape[1]:
        raise ValueError(
            f"weight has shape {weight.shape}; with this x it must be ({x.shape[1]}, F_out)"
        )
    kind = np.result_type(x.dtype, weight.dtype)  # the wider one, in native order
    return np.ascontiguousarray(x, kind), np.ascontiguousarray(weight, kind)


def widened(*arrays: Array) -> list[Array]:
    """Return arrays in the type to sum products in, C-contiguous and native."""
    real = np.float64 if arrays[0].dtype == np.float64 else np.float32
    return [np.ascontiguousarray(a, real) for a in arrays]


def must_fit(array: Array, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    """Raise unless an array has a dtype and a shape."""
    if array.dtype.newbyteorder("=") != dtype.newbyteorder("="):
        raise TypeError(f"{name} has dtype {array.dtype}; it must be that of x, {dtype}")
    if array.shape != shape:
        raise ValueError(f"{name} has shape {array.shape}; with this x it must be {shape}")


@_quiet
def bias_gradient(grad: Any) -> Array:
    """Return a gradient summed over the examples, shape (F_out,), of its own dtype."""
    array = as_input(grad, "grad")
    kind = array.dtype.newbyteorder("=")
    wide = array.sum(0, dtype=np.float64 if kind == np.float64 else np.float32)
    return np.asarray(wide.astype(kind))
