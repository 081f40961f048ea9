"""Attention whose weights are dropped by fastdrop: softmax and dropout in one pass."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.fx
from torch import Tensor
from torch.nn import functional as stock

import fastdrop as fd
from fastdrop.torch import operator
from fastdrop.torch.eager import apply
from fastdrop.torch.memory import CPU, Recipe


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attend: ``dropout(softmax(query @ key.T * scale + attn_mask)) @ value``.

    Parameters
    ----------
    query : Tensor
        Shape (..., L, E).
    key : Tensor
        Shape (..., S, E).
    value : Tensor
        Shape (..., S, V).
    attn_mask : Tensor, optional
        Broadcastable to (..., L, S): added to the scores, or bool, True where a key is looked at.
    dropout_p : float, optional
        Probability of **dropping** a weight, in ``[0, 1]``.
    is_causal : bool, optional
        Whether no query looks at later keys; then there is no attn_mask.
    scale : float, optional
        ``1/sqrt(E)`` unless given.
    enable_gqa : bool, optional
        As in PyTorch.

    Returns
    -------
    Tensor
        Shape (..., L, V).

    Raises
    ------
    TypeError
        If dropout_p is no number.
    ValueError
        If dropout_p is outside ``[0, 1]`` or NaN.
    RuntimeError
        As `torch.nn.functional.scaled_dot_product_attention`, of which this is a drop-in.

    See Also
    --------
    MultiheadAttention : the module.
    fastdrop.softmax_dropout : what is done to the scores, with its errors.

    Notes
    -----
    PyTorch's own function is called with ``dropout_p=0``, and with tensors that are not float32 or
    float64 on the CPU, ``enable_gqa``, `torch.autocast`, `torch.compile` and its kin, `torch.func`
    and forward mode: the masks are then PyTorch's. A row whose keys are all masked gives zeros.
    Autograd keeps the scores and a seed; derivatives of any order are there.

    **Compatibility guarantee.** As for `dropout`: the mask of the weights, of shape (..., L, S), is
    that of ``fastdrop.Mask(seed, 0, shape, dropout_p)``.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> q, k, v = torch.randn(3, 2, 4, 8)
    >>> _ = torch.manual_seed(0)
    >>> y = fdt.scaled_dot_product_attention(q, k, v, dropout_p=0.5, is_causal=True)
    >>> _ = torch.manual_seed(0)
    >>> torch.equal(fdt.scaled_dot_product_attention(q, k, v, None, 0.5, True), y)
    True
    """
    p = _rate(dropout_p, "dropout_p")
    given = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    if (
        p == 0.0
        or enable_gqa
        or not takes(*given)
        or not _fit(query, key, value, attn_mask)
        or not isinstance(is_causal, bool)
        or (is_causal and attn_mask is not None)  # an error
    ):
        return stock.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask,
            dropout_p,
            is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
        )
    if is_causal:
        length, keys = query.shape[-2], key.shape[-2]
        attn_mask = torch.ones(length, keys, dtype=torch.bool, device=CPU).tril()
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return weights(scores, p) @ value


class MultiheadAttention(torch.nn.MultiheadAttention):
    """`torch.nn.MultiheadAttention` whose weights are dropped by fastdrop's kernels.

    Parameters
    ----------
    embed_dim, num_heads, dropout, bias, add_bias_kv, add_zero_attn, kdim, vdim, batch_first, \
device, dtype
        As in PyTorch; `dropout` is the probability of **dropping** a weight.

    See Also
    --------
    scaled_dot_product_attention : the function, which says when PyTorch's own is called.
    replace : puts this module, too, in the place of PyTorch's.

    Notes
    -----
    A subclass of PyTorch's module, with its parameters and ``state_dict``. In evaluation, without
    dropout, and with ``kdim``, ``vdim``, ``add_bias_kv``, ``add_zero_attn`` or inputs without a
    batch axis, its own forward pass is run. Weights that are returned are the dropped ones, as in
    PyTorch. A query that may look at no key gets zeros from its weights, also where they are
    returned; ``is_causal`` is a hint that is not needed: attn_mask counts.

    **Compatibility guarantee.** As for `scaled_dot_product_attention`.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> attention = fdt.MultiheadAttention(16, 2, dropout=0.1, batch_first=True)
    >>> x = torch.randn(3, 5, 16)
    >>> y, weights = attention(x, x, x)
    >>> y.shape, weights.shape
    (torch.Size([3, 5, 16]), torch.Size([3, 5, 5]))
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend, and drop weights in training."""
        rest = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
        if isinstance(query, torch.fx.Proxy):  # a trace, which knows PyTorch's own as modules
            path = query.tracer.path_of_module(self)
            if path:  # there is none to the root
                args = (query, key, value, *rest)
                proxy: Any = query.tracer.create_proxy("call_module", path, args, {})
                return proxy
        p = float(self.dropout)  # as PyTorch takes bools and tensors
        given = [t for t in (query, key, value, key_padding_mask, attn_mask) if t is not None]
        if (
            not self.training
            or not 0.0 < p <= 1.0
            or self.in_proj_weight is None
            or self.bias_k is not None
            or self.add_zero_attn
            or not takes(*given)
            or not self._fits(query, key, value, key_padding_mask, attn_mask)
            or (is_causal and attn_mask is None)  # an error
        ):
            return super().forward(query, key, value, *rest)
        q, k, v = self._projected(query, key, value)
        scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
        n, heads, _, keys = scores.shape
        if attn_mask is not None:
            scores = _masked(
                scores, attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (n, heads))
            )
        if key_padding_mask is not None:
            scores = _masked(scores, key_padding_mask.view(n, 1, 1, keys))
        dropped = weights(scores, p)
        y = self.out_proj((dropped @ v).permute(2, 0, 1, 3).flatten(2))  # strides as PyTorch's
        if self.batch_first:
            y = y.transpose(0, 1)
        if not need_weights:
            return y, None
        return y, dropped.mean(1) if average_attn_weights else dropped

    def _fits(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None,
        attn_mask: Tensor | None,
    ) -> bool:
        """Whether shapes are as they must be; what PyTorch says of others is its to say."""
        if query.dim() != 3 or key.dim() != 3 or key.shape != value.shape:
            return False
        batch, time = (0, 1) if self.batch_first else (1, 0)
        n, length, keys = query.shape[batch], query.shape[time], key.shape[time]
        masks = [(length, keys), (n * self.num_heads, length, keys)]
        return (
            query.shape[-1] == key.shape[-1] == self.embed_dim
            and key.shape[batch] == n
            and (key_padding_mask is None or key_padding_mask.shape == (n, keys))
            and (attn_mask is None or attn_mask.shape in masks)
        )

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> list[Tensor]:
        """Return queries, keys and values of each head, shape (N, heads, length, E)."""
        if query is key is value:
            parts = stock.linear(query, self.in_proj_weight, self.in_proj_bias).chunk(3, -1)
        else:
            weight = self.in_proj_weight.chunk(3)
            bias = (None,) * 3 if self.in_proj_bias is None else self.in_proj_bias.chunk(3)
            parts = tuple(map(stock.linear, (query, key, value), weight, bias))
        if not self.batch_first:
            parts = tuple(part.transpose(0, 1) for part in parts)
        return [part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts]


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """Return scores with a mask of the module's: added, or bool, True where nobody looks."""
    if mask.dtype is torch.bool:
        return scores.masked_fill(mask, -math.inf)
    return scores + mask


def _rate(p: Any, name: str) -> float:
    """Return a probability as a float; PyTorch takes bools and tensors."""
    try:
        value = float(p)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{name} must be a real number in [0, 1]: {name}={p!r}") from None
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={p!r} is not a probability: it must be in [0, 1]")
    return value


def _fit(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether shapes are as is usual; others are PyTorch's to take or refuse."""
    if min(query.dim(), key.dim(), value.dim()) < 2:
        return False
    shape = (*query.shape[:-1], key.shape[-2])
    return (
        query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
        and query.shape[-1] == key.shape[-1] > 0
        and key.shape[-2] == value.shape[-2]
        and (mask is None or len(mask.shape) <= len(shape))
        and (
            mask is None
            or all(m in (1, n) for m, n in zip(mask.shape[::-1], shape[::-1], strict=False))
        )
    )


def takes(*tensors: Tensor) -> bool:
    """Whether the kernels can work on what is made of these: scores of one dtype, in eager mode."""
    real = tensors[0].dtype if isinstance(tensors[0], Tensor) else None
    return (
        real in (torch.float32, torch.float64)
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled("cpu")
        and not operator.is_in_onnx_export()
        and not operator.is_forward_mode()
        and all(
            isinstance(t, Tensor)
            and t.dtype in (real, torch.bool)
            and t.layout is torch.strided
            and not t.is_nested
            and t.is_cpu
            and not operator.is_watched(t)
            for t in tensors
        )
    )


def weights(scores: Tensor, p: float) -> Tensor:
    """Return ``dropout(softmax(scores))`` along the last axis, with a seed of torch's generator."""
    seed = operator.seed_bits(operator.draw_seed()) if p < 1.0 else 0
    y: Tensor = _Weights.apply(scores, seed, p)
    return y


class _Weights(torch.autograd.Function):
    """Dropout of a softmax, which keeps its input and the seed."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, seed: int, p: float) -> Tensor:
        ctx.save_for_backward(scores)
        ctx.seed, ctx.p = seed, p
        y = torch.empty(scores.shape, dtype=scores.dtype, device=CPU)
        fd.softmax_dropout(scores.detach().numpy(), p, rng=fd.Generator(seed), out=y.numpy())
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (scores,) = ctx.saved_tensors
        if (
            torch.is_grad_enabled()  # to be differentiated again
            or torch.compiler.is_compiling()
            or operator.is_watched(grad)
            or operator.is_watched(scores)
        ):
            return _gradient(grad, scores, Recipe(ctx.seed, ctx.p, "plain", 0)), None, None
        mask = fd.Mask(ctx.seed, 0, tuple(scores.shape), ctx.p)
        dx = torch.empty(scores.shape, dtype=scores.dtype, device=CPU)
        fd.softmax_dropout_backward(
            grad.numpy(force=True), scores.detach().numpy(), mask, out=dx.numpy()
        )
        return dx, None, None


def _gradient(grad: Tensor, scores: Tensor, recipe: Recipe) -> Tensor:
    """Return the gradient by the scores, of operations that PyTorch sees."""
    nothing = scores.isneginf().all(-1, keepdim=True)
    soft = torch.softmax(scores.masked_fill(nothing, 0.0), -1).masked_fill(nothing, 0.0)
    g = apply(grad, recipe)
    return soft * (g - (soft * g).sum(-1, keepdim=True))
