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
from fastdrop.torch.memory import Recipe


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
    if not 0.0 <= dropout_p <= 1.0:
        raise ValueError(f"dropout_p={dropout_p!r} is not a probability: it must be in [0, 1]")
    given = (query, key, value) if attn_mask is None else (query, key, value, attn_mask)
    if dropout_p == 0.0 or enable_gqa or not takes(*given):
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
        if attn_mask is not None:
            raise RuntimeError("is_causal=True: attn_mask must be None, for it would be another")
        attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    scores = (query * factor) @ key.transpose(-2, -1)
    if attn_mask is not None and attn_mask.dtype is torch.bool:
        scores = scores.masked_fill(~attn_mask, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return weights(scores, dropout_p) @ value


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
    PyTorch.

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
        if isinstance(query, torch.fx.Proxy):  # a trace, which knows PyTorch's own as modules
            path = query.tracer.path_of_module(self)
            rest = (key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal)
            proxy: Any = query.tracer.create_proxy(
                "call_module", path, (query, key, value, *rest), {}
            )
            return proxy
        given = [t for t in (query, key, value, key_padding_mask, attn_mask) if t is not None]
        if (
            not self.training
            or not 0.0 < self.dropout <= 1.0
            or self.in_proj_weight is None
            or self.bias_k is not None
            or self.add_zero_attn
            or not takes(*given)
            or query.dim() != 3
            or key.shape != value.shape
            or (is_causal and attn_mask is None)  # an error
        ):
            return super().forward(
                query,
                key,
                value,
                key_padding_mask,
                need_weights,
                attn_mask,
                average_attn_weights,
                is_causal,
            )
        q, k, v = self._projected(query, key, value)
        scores = (q * (1 / math.sqrt(q.shape[-1]))) @ k.transpose(-2, -1)
        n, heads, _, keys = scores.shape
        if attn_mask is not None:
            scores = _masked(
                scores, attn_mask if attn_mask.dim() == 2 else attn_mask.unflatten(0, (n, heads))
            )
        if key_padding_mask is not None:
            scores = _masked(scores, key_padding_mask.view(n, 1, 1, keys))
        dropped = weights(scores, self.dropout)
        y = self.out_proj((dropped @ v).transpose(1, 2).flatten(2))
        if not self.batch_first:
            y = y.transpose(0, 1)
        if not need_weights:
            return y, None
        return y, dropped.mean(1) if average_attn_weights else dropped

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
        y = torch.empty(scores.shape, dtype=scores.dtype)
        fd.softmax_dropout(scores.detach().numpy(), p, rng=fd.Generator(seed), out=y.numpy())
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        (scores,) = ctx.saved_tensors
        if torch.is_grad_enabled():  # to be differentiated again
            soft = _Weights.apply(scores, ctx.seed, 0.0)
            g = apply(grad, Recipe(ctx.seed, ctx.p, "plain", 0))
            return soft * (g - (soft * g).sum(-1, keepdim=True)), None, None
        mask = fd.Mask(ctx.seed, 0, tuple(scores.shape), ctx.p)
        dx = torch.empty(scores.shape, dtype=scores.dtype)
        fd.softmax_dropout_backward(
            grad.numpy(force=True), scores.detach().numpy(), mask, out=dx.numpy()
        )
        return dx, None, None
