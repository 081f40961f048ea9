"""Dropout for PyTorch on CPUs: functions, modules, and `replace` for the models that there are.

A drop-in for `torch.nn.functional.dropout` and its siblings: the kernels and the masks are those of
`fastdrop.dropout`, the random numbers are torch's. Every call that drops draws one 64-bit seed from
torch's default CPU generator, and the mask is that of this seed at position 0. Autograd keeps the
seed, not the mask.

Two ways lead to the kernels. Plain tensors in eager mode go straight to them, through an
`autograd.Function` (eager.py). Whatever PyTorch must be able to see (`torch.compile`,
`torch.export`, fake tensors, `torch.func`, dispatch modes) goes through the operator
``fastdrop::drop`` (operator.py), a pure function of a tensor and a seed, which may be run again at
will. The seed is drawn before it, by ``randint`` as in eager mode.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.fx
from torch import Tensor
from torch.nn import functional as stock
from torch.overrides import handle_torch_function, has_torch_function_unary

from fastdrop.rates import as_bool, check_p
from fastdrop.torch import operator
from fastdrop.torch.attention import MultiheadAttention, scaled_dot_product_attention
from fastdrop.torch.eager import apply, apply_inplace, check_inplace
from fastdrop.torch.memory import KERNELS, Recipe

__all__ = [
    "AlphaDropout",
    "Dropout",
    "Dropout1d",
    "Dropout2d",
    "Dropout3d",
    "FeatureAlphaDropout",
    "MultiheadAttention",
    "alpha_dropout",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "feature_alpha_dropout",
    "replace",
    "replaced",
    "restore",
    "scaled_dot_product_attention",
]


# ---- functions -----------------------------------------------------------------------------------


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set each element to +0.0 with probability `p`, scale the others by ``1/(1-p)``.

    As in `torch.nn.functional.dropout`, the result is **x itself** with ``training=False``, with
    ``p=0`` and where x is empty; and no random numbers are used there, nor with ``p=1``.

    Parameters
    ----------
    x : Tensor
        On the CPU, dense, of dtype float16, bfloat16, float32 or float64; of any shape and strides.
    p : float or Tensor, optional
        Probability of **dropping**, in ``[0, 1]``; exact to ``2**-41``. A tensor must have no axes,
        be on the CPU and not require grad: its number is read at once.
    training : bool, optional
        Whether to drop. If False, no random numbers are used.
    inplace : bool, optional
        Whether to write the result into x and return x.

    Returns
    -------
    Tensor
        Of x's shape, dtype and memory format, as `torch.empty_like` gives them.

    Raises
    ------
    TypeError
        If x is no tensor, on another device, sparse, nested or quantized, or of another dtype; if p
        is not a real number, or a tensor that requires grad.
    ValueError
        If p is outside ``[0, 1]`` or NaN.
    RuntimeError
        If ``inplace=True`` and autograd forbids it, or x overlaps itself. Nothing is written then.

    See Also
    --------
    Dropout : the same as a module.
    replace : puts these modules in the place of PyTorch's.
    fastdrop.dropout : the same for NumPy arrays.

    Notes
    -----
    The mask is that of ``fastdrop.Mask(seed, 0, x.shape, p)``, where seed is one draw of
    ``torch.randint(-(2**63), 2**63 - 1, ())``, modulo ``2**64``. So `torch.manual_seed` decides
    the masks, and whatever restores the state of torch's CPU generator, as `torch.utils.checkpoint`
    does, replays them. Autograd saves the seed and no tensor; derivatives of any order and forward
    mode are there.

    Unlike in PyTorch, elements are *selected*: a dropped NaN, infinity or negative number gives
    +0.0, and so does its gradient. Kept ones are ``x * scale`` in one rounding; 16-bit types are
    multiplied as float32 and rounded to nearest even.

    Safe to call from several threads; the GIL is released in calls of 256 Ki elements or more.
    Large tensors are split over `fastdrop.get_num_threads` threads, not over torch's.

    **Compatibility guarantee.** Which elements are dropped is a pure function of the seed, the
    element's C-order index and p, as for `fastdrop.dropout`: it does not depend on strides, dtype,
    threads or processor, and is the same in every release. Which seed a call draws is PyTorch's
    to promise: in eager mode always the same after the same `torch.manual_seed`, under
    `torch.compile` where ``torch._inductor.config.fallback_random`` is set, too.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a
       simple way to prevent neural networks from overfitting", JMLR 15 (2014) 1929-1958.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> _ = torch.manual_seed(0)
    >>> x = torch.ones(8, requires_grad=True)
    >>> y = fdt.dropout(x, 0.5)
    >>> y.sum().backward()
    >>> torch.equal(x.grad, y)
    True
    >>> _ = torch.manual_seed(0)
    >>> torch.equal(fdt.dropout(x, 0.5), y)
    True
    """
    if has_torch_function_unary(x):
        return _overridden(dropout, x, p, training, inplace)
    p, training = _rate(p), _flag(training)
    if not training:
        return _tensor(x)
    return _drop(stock.dropout, x, p, "plain", None, inplace)


def alpha_dropout(
    x: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Drop to SELU's negative saturation, keeping mean 0 and variance 1.

    Parameters
    ----------
    x : Tensor
        As in `dropout`.
    training : bool, optional
        Whether to drop; False by default, as in `torch.nn.functional.alpha_dropout`.
    p, inplace : as in `dropout`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `dropout`.

    See Also
    --------
    fastdrop.alpha_dropout : the same for NumPy arrays, with its formula and reference.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> y = fdt.alpha_dropout(torch.randn(100_000), 0.2, training=True)
    >>> bool(y.mean().abs() < 0.02 and (y.std() - 1).abs() < 0.02)
    True
    """
    if has_torch_function_unary(x):
        return _overridden(alpha_dropout, x, p, training, inplace)
    p, training = _rate(p), _flag(training)
    if not training:
        return _tensor(x)
    return _drop(stock.alpha_dropout, x, p, "alpha", None, inplace)


def feature_alpha_dropout(
    x: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Alpha dropout of whole channels.

    Parameters
    ----------
    x : Tensor
        Shape (N, C, ...), at least two axes; otherwise as in `dropout`.
    training : bool, optional
        Whether to drop; False by default, as in `torch.nn.functional.feature_alpha_dropout`.
    p, inplace : as in `dropout`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `dropout`; RuntimeError also where x has fewer axes and there are decisions to make:
        with p neither 0 nor 1, and x not empty.

    See Also
    --------
    fastdrop.feature_alpha_dropout : the same for NumPy arrays.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> y = fdt.feature_alpha_dropout(torch.zeros(2, 3, 4), 0.5, training=True)
    >>> bool((y == y[..., :1]).all())
    True
    """
    if has_torch_function_unary(x):
        return _overridden(feature_alpha_dropout, x, p, training, inplace)
    p, training = _rate(p), _flag(training)
    if not training:
        return _tensor(x)
    return _drop(stock.feature_alpha_dropout, x, p, "alpha", 2, inplace)


def dropout1d(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of sequences.

    Parameters
    ----------
    x : Tensor
        Shape (C, L) or (N, C, L); otherwise as in `dropout`.
    p, training, inplace : as in `dropout`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `dropout`; RuntimeError also where x has another number of axes.

    See Also
    --------
    fastdrop.dropout1d : the same for NumPy arrays, with the reference.

    Notes
    -----
    The mask is that of ``fastdrop.Mask(seed, 0, x.shape, p, noise_shape=(N, C, 1))``.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> y = fdt.dropout1d(torch.ones(3, 2))
    >>> bool((y[:, 0] == y[:, 1]).all())
    True
    """
    if has_torch_function_unary(x):
        return _overridden(dropout1d, x, p, training, inplace)
    p, training = _rate(p), _flag(training)
    axes = _tensor(x).ndim
    if axes not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {axes}D input: x must be (C, L) "
            "or (N, C, L)"
        )
    if not training:
        return x
    return _drop(stock.dropout1d, x, p, "plain", axes - 1, inplace)


def dropout2d(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of images.

    Parameters
    ----------
    x : Tensor
        Shape (N, C, H, W), or (N, C, L) with a warning, as in PyTorch; otherwise as in `dropout`.
    p, training, inplace : as in `dropout`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `dropout`; RuntimeError also where x has fewer than two axes and there are decisions to
        make: with p neither 0 nor 1, and x not empty.

    Warns
    -----
    UserWarning
        Where x has not four axes. It is then taken as (N, C, ...), as in PyTorch: one image without
        a batch axis is ``x[None]``.

    See Also
    --------
    fastdrop.dropout2d : the same for NumPy arrays, with the reference.

    Notes
    -----
    The mask is that of ``fastdrop.Mask(seed, 0, x.shape, p, noise_shape=(N, C, 1, 1))``.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> y = fdt.dropout2d(torch.ones(1, 3, 2, 2))
    >>> bool((y == y[:, :, :1, :1]).all())
    True
    """
    if has_torch_function_unary(x):
        return _overridden(dropout2d, x, p, training, inplace)
    p, training = _rate(p), _flag(training)
    axes = _tensor(x).ndim
    if axes == 3:
        _warn(
            f"dropout2d: x of shape {tuple(x.shape)} is taken as a batch (N, C, L), assuming that "
            "channel-wise 1D dropout behavior is desired; give x[None] for one image, or use "
            "dropout1d"
        )
    elif axes != 4:
        _warn_of_axes("dropout2d", axes, "(N, C, ...)")
    return _drop(stock.dropout2d, x, p, "plain", 2, inplace) if training else x


def dropout3d(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of volumes.

    Parameters
    ----------
    x : Tensor
        Shape (C, D, H, W) or (N, C, D, H, W); otherwise as in `dropout`.
    p, training, inplace : as in `dropout`

    Raises
    ------
    TypeError, ValueError, RuntimeError
        As `dropout`; RuntimeError also where x has no axes, and p is neither 0 nor 1.

    Warns
    -----
    UserWarning
        Where x has neither four axes nor five. It is then taken as (C, ...), one decision for each
        ``x[i]``, as in PyTorch.

    See Also
    --------
    fastdrop.dropout3d : the same for NumPy arrays, with the reference.

    Notes
    -----
    The mask is that of ``fastdrop.Mask(seed, 0, x.shape, p, noise_shape=(N, C, 1, 1, 1))``, and of
    ``noise_shape=(C, 1, ...)`` where x has not five axes.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> y = fdt.dropout3d(torch.ones(3, 2, 2, 2))
    >>> bool((y == y[:, :1, :1, :1]).all())
    True
    """
    if has_torch_function_unary(x):
        return _overridden(dropout3d, x, p, training, inplace)
    p, training = _rate(p), _flag(training)
    axes = _tensor(x).ndim
    if axes not in (4, 5):
        _warn_of_axes("dropout3d", axes, "(C, ...)")
    own = 2 if axes == 5 else 1
    return _drop(stock.dropout3d, x, p, "plain", own, inplace) if training else x


def _overridden(function: Any, x: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    """Leave a call to a tensor subclass or a mode that asks for it."""
    return handle_torch_function(function, (x,), x, p=p, training=training, inplace=inplace)


def _rate(p: Any) -> float:
    """Return a probability; what is one goes no further, for torch.compile follows no further."""
    if type(p) is float and 0.0 <= p <= 1.0:
        return p
    if type(p) is int and 0 <= p <= 1:
        return float(p)
    return check_p(_number_in(p) if isinstance(p, Tensor) else p)


def _flag(training: Any) -> bool:
    """Return a bool, or 0 or 1, as one; what is one goes no further, as in `_rate`."""
    if training is True or training is False:
        return bool(training)
    if type(training) is int and training in (0, 1):
        return training == 1
    return as_bool(training, "training")


def _number_in(p: Tensor) -> Any:
    """Return the number in a tensor without axes, as PyTorch's own functions read it."""
    if p.requires_grad:
        raise TypeError(
            "p is a tensor that requires grad, but no gradient goes through a probability: give "
            "p.detach()"
        )
    if p.ndim != 0 or not p.is_cpu or p.dtype is torch.bool or p.is_complex():
        raise TypeError(
            f"p is a tensor of shape {tuple(p.shape)} and dtype {p.dtype} on {p.device}; it must "
            "be a real number in [0, 1], or such a number in a tensor without axes on the CPU: "
            "give p.item()"
        )
    return p.item()


def _tensor(x: Any) -> Tensor:
    if not isinstance(x, Tensor):
        raise _refusal(x)
    return x


def _warn_of_axes(name: str, axes: int, taken_as: str) -> None:
    _warn(
        f"{name}: Received a {axes}-D input to {name}, which PyTorch deprecates; it is taken as "
        f"{taken_as}: use dropout for decisions of each element",
        stacklevel=4,
    )


def _warn(message: str, stacklevel: int = 3) -> None:
    if not torch.compiler.is_compiling():  # there it would break the graph
        warnings.warn(message, UserWarning, stacklevel)


# ---- modules -------------------------------------------------------------------------------------


def _forward(module: Any, function: Any, x: Tensor, inplace: bool = False) -> Tensor:
    plain = type(x) is Tensor
    if not plain and isinstance(x, torch.fx.Proxy):  # a trace, which knows PyTorch's own as modules
        path = x.tracer.path_of_module(module)
        if path:  # there is none to the root, whose forward is what is traced
            return x.tracer.create_proxy("call_module", path, (x,), {})
    p, training = module.p, module.training
    if type(p) is not float:
        p = _rate_of_stock(p)
    if (
        training
        and not (_takes(x) and (plain or not operator.is_wrapper(x)))
        and isinstance(x, Tensor)
    ):
        return getattr(stock, function.__name__)(x, p, True, inplace)
    return function(x, p, training, inplace)


def _rate_of_stock(p: Any) -> Any:
    """Return p as a float where PyTorch's modules, but not our functions, take it for a number."""
    if isinstance(p, Tensor) and p.ndim == 0 and not p.requires_grad:
        return float(p)
    return float(p) if isinstance(p, (bool, np.bool_)) else p


class Dropout(torch.nn.Dropout):
    """`torch.nn.Dropout` on fastdrop's kernels.

    Parameters
    ----------
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``. May be set at any time, for a schedule.
    inplace : bool, optional
        Whether to write results into the inputs.

    Raises
    ------
    ValueError
        If p is outside ``[0, 1]``.

    See Also
    --------
    dropout : the function, with all that is to be said.
    replace : puts these modules in the place of PyTorch's.

    Notes
    -----
    A subclass of PyTorch's module, with its constructor, repr and ``state_dict``. It takes what
    that takes: a tensor that `dropout` refuses (on a GPU, nested, quantized) or that wraps others
    (a DTensor) is handed to PyTorch's own function, whose masks are then PyTorch's; and p may be a
    bool.

    **Compatibility guarantee.** As for `dropout`.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 8), fdt.Dropout(0.1))
    >>> model[1]
    Dropout(p=0.1, inplace=False)
    >>> x = torch.ones(2, 8)
    >>> torch.equal(model.eval()(x), model[0](x))
    True
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply `dropout`."""
        return _forward(self, dropout, input, self.inplace)


class Dropout1d(torch.nn.Dropout1d):
    """`torch.nn.Dropout1d` on fastdrop's kernels.

    Parameters
    ----------
    p, inplace : as in `Dropout`

    See Also
    --------
    dropout1d : the function. Dropout : what holds for all modules.

    Examples
    --------
    >>> import fastdrop.torch as fdt
    >>> fdt.Dropout1d(0.1)
    Dropout1d(p=0.1, inplace=False)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply `dropout1d`."""
        return _forward(self, dropout1d, input, self.inplace)


class Dropout2d(torch.nn.Dropout2d):
    """`torch.nn.Dropout2d` on fastdrop's kernels.

    Parameters
    ----------
    p, inplace : as in `Dropout`

    See Also
    --------
    dropout2d : the function. Dropout : what holds for all modules.

    Examples
    --------
    >>> import fastdrop.torch as fdt
    >>> fdt.Dropout2d(0.1)
    Dropout2d(p=0.1, inplace=False)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply `dropout2d`."""
        return _forward(self, dropout2d, input, self.inplace)


class Dropout3d(torch.nn.Dropout3d):
    """`torch.nn.Dropout3d` on fastdrop's kernels.

    Parameters
    ----------
    p, inplace : as in `Dropout`

    See Also
    --------
    dropout3d : the function. Dropout : what holds for all modules.

    Examples
    --------
    >>> import fastdrop.torch as fdt
    >>> fdt.Dropout3d(0.1)
    Dropout3d(p=0.1, inplace=False)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply `dropout3d`."""
        return _forward(self, dropout3d, input, self.inplace)


class AlphaDropout(torch.nn.AlphaDropout):
    """`torch.nn.AlphaDropout` on fastdrop's kernels.

    Parameters
    ----------
    inplace : bool, optional
        Ignored, as PyTorch's module ignores it; the function works in place.
    p : as in `Dropout`

    See Also
    --------
    alpha_dropout : the function. Dropout : what holds for all modules.

    Examples
    --------
    >>> import fastdrop.torch as fdt
    >>> fdt.AlphaDropout(0.1)
    AlphaDropout(p=0.1, inplace=False)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply `alpha_dropout`."""
        return _forward(self, alpha_dropout, input)


class FeatureAlphaDropout(torch.nn.FeatureAlphaDropout):
    """`torch.nn.FeatureAlphaDropout` on fastdrop's kernels.

    Parameters
    ----------
    inplace : bool, optional
        Ignored, as PyTorch's module ignores it; the function works in place.
    p : as in `Dropout`

    See Also
    --------
    feature_alpha_dropout : the function. Dropout : what holds for all modules.

    Examples
    --------
    >>> import fastdrop.torch as fdt
    >>> fdt.FeatureAlphaDropout(0.1)
    FeatureAlphaDropout(p=0.1, inplace=False)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Apply `feature_alpha_dropout`."""
        return _forward(self, feature_alpha_dropout, input)


_SUCCESSORS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.Dropout: Dropout,
    torch.nn.Dropout1d: Dropout1d,
    torch.nn.Dropout2d: Dropout2d,
    torch.nn.Dropout3d: Dropout3d,
    torch.nn.AlphaDropout: AlphaDropout,
    torch.nn.FeatureAlphaDropout: FeatureAlphaDropout,
    torch.nn.MultiheadAttention: MultiheadAttention,
}


_STOCK = {ours: theirs for theirs, ours in _SUCCESSORS.items()}


def replace(model: torch.nn.Module) -> int:
    """Turn every module of PyTorch's in a model that drops into fastdrop's, and say how many.

    Parameters
    ----------
    model : torch.nn.Module
        Any model, or a dropout module itself.

    Returns
    -------
    int
        How many modules were replaced, one that is used in several places counted once.

    Raises
    ------
    TypeError
        If model is no module.

    See Also
    --------
    restore : the way back.
    replaced : both, around a block.

    Notes
    -----
    Each module stays the object that it was, with its p and its hooks, and wherever it is referred
    to; only its class changes, to a subclass of the one it had. Subclasses of PyTorch's modules are
    left alone: what they do is not known.

    Those are the dropout modules and `torch.nn.MultiheadAttention`, which drops weights. What is no
    module is not replaced: ``dropout=`` of `torch.nn.LSTM` and its like, and calls of
    `torch.nn.functional.dropout` and of `torch.nn.functional.scaled_dot_product_attention`, for
    which there are `dropout` and `scaled_dot_product_attention`.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> layer = torch.nn.TransformerEncoderLayer(16, 2, batch_first=True)
    >>> fdt.replace(layer)
    4
    >>> type(layer.dropout1).__module__
    'fastdrop.torch'
    """
    return len(_change(model, _SUCCESSORS))


def restore(model: torch.nn.Module) -> int:
    """Turn every module of fastdrop's in a model into PyTorch's, and say how many.

    Parameters
    ----------
    model : torch.nn.Module
        Any model, or a dropout module itself.

    Returns
    -------
    int
        How many modules were changed, one that is used in several places counted once.

    Raises
    ------
    TypeError
        If model is no module.

    See Also
    --------
    replace : the other way. replaced : both, around a block.

    Notes
    -----
    For what goes by a module's exact type: quantization, `torch.jit.script`, a file that is to be
    read without fastdrop. Modules that were made as fastdrop's become PyTorch's too. Subclasses of
    fastdrop's modules are left alone.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> layer = torch.nn.TransformerEncoderLayer(16, 2, batch_first=True)
    >>> fdt.replace(layer), fdt.restore(layer)
    (4, 4)
    >>> type(layer.dropout1) is torch.nn.Dropout
    True
    """
    return len(_change(model, _STOCK))


@contextlib.contextmanager
def replaced(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    """Replace a model's modules that drop for the length of a ``with`` block.

    Parameters
    ----------
    model : torch.nn.Module
        As in `replace`.

    Yields
    ------
    torch.nn.Module
        The model.

    Raises
    ------
    TypeError
        If model is no module.

    See Also
    --------
    replace, restore : the two halves.

    Notes
    -----
    At the end, however it comes, those modules that it changed are PyTorch's again. What was
    fastdrop's before stays fastdrop's, so blocks may be nested.

    Examples
    --------
    >>> import torch
    >>> import fastdrop.torch as fdt
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.1))
    >>> with fdt.replaced(model):
    ...     type(model[1]) is fdt.Dropout
    True
    >>> type(model[1]) is torch.nn.Dropout
    True
    """
    changed = _change(model, _SUCCESSORS)
    try:
        yield model
    finally:
        for module in changed:
            module.__class__ = _STOCK.get(type(module), type(module))


def _change(model: Any, classes: dict[Any, Any]) -> list[Any]:
    """Change the class of each module in a model whose class is in a table; return them."""
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, not {type(model).__name__}")
    found = [module for module in model.modules() if type(module) in classes]
    for module in found:
        module.__class__ = classes[type(module)]
    return found


# ---- which way to go -----------------------------------------------------------------------------


def _drop(pytorchs: Any, x: Tensor, p: float, kind: str, own: int | None, inplace: bool) -> Tensor:
    """Drop in training: check x, draw a seed, apply.

    The first `own` axes have decisions of their own, which the others share; None: all have.
    """
    if p == 0.0:
        return _tensor(x)
    if not _takes(x):
        raise _refusal(x)
    compiling = torch.compiler.is_compiling()
    watched = compiling or operator.is_watched(x)
    if watched and operator.is_in_onnx_export():  # ONNX has a Dropout, whose masks are nobody's
        return pytorchs(x, p, True, inplace)
    if not compiling and (operator.is_empty(x) if watched else x.numel() == 0):
        return x
    shared = 0
    if own is not None and p < 1.0:
        shared = x.ndim - own
        if shared < 0:
            raise RuntimeError(
                f"{pytorchs.__name__}: x has shape {tuple(x.shape)}; it must have at least "
                f"{own} axes, which have decisions of their own"
            )
    if watched:
        seed = operator.draw_seed() if p < 1.0 else operator.no_seed()
        y = torch.ops.fastdrop.drop(x, seed, p, kind, shared)
        return x.copy_(y) if inplace else y
    if inplace:
        check_inplace(x)
    bits = operator.seed_bits(operator.draw_seed()) if p < 1.0 else 0
    recipe = Recipe(bits, p, kind, shared)
    return apply_inplace(x, recipe) if inplace else apply(x, recipe)


def _takes(x: Any) -> bool:
    """Whether the kernels, or those who look on in their place, can work on x."""
    return (
        isinstance(x, Tensor)
        and x.dtype in KERNELS
        and x.layout is torch.strided
        and not x.is_nested
        and (x.is_cpu or x.is_meta)
    )


def _refusal(x: Any) -> TypeError:
    """Say why x is not taken, and what to use instead."""
    if not isinstance(x, Tensor):
        kind = type(x).__name__
        return TypeError(
            f"x must be a torch.Tensor, not {kind}: give torch.as_tensor(x); fastdrop.dropout "
            "takes NumPy arrays"
        )
    if x.is_nested:
        return TypeError(
            "x is a nested tensor; fastdrop.torch takes dense ones: use "
            "torch.nn.functional.dropout, or drop each part of x.unbind()"
        )
    if x.device.type not in ("cpu", "meta"):
        return TypeError(
            f"x is on {x.device}; fastdrop.torch works on the CPU: use "
            "torch.nn.functional.dropout there, or x.cpu()"
        )
    if x.layout is not torch.strided:
        return TypeError(
            f"x has layout {x.layout}; fastdrop.torch takes dense tensors: drop its values() and "
            "build it again, or give x.to_dense()"
        )
    remedy = "x.dequantize()" if x.is_quantized else "x.float()"
    if x.is_complex():
        remedy = "x * dropout(torch.ones_like(x.real), p)"
    return TypeError(
        f"x has dtype {x.dtype}; dropout takes torch.float16, bfloat16, float32 and float64: "
        f"convert it, as in {remedy}"
    )
