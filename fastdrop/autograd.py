"""Dropout for HIPS autograd: differentiable as often as you like, backward by the recipe."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from autograd.extend import defjvp, defvjp, primitive
from autograd.tracer import getval, isbox

from fastdrop import rules
from fastdrop.arrays import Array, as_input
from fastdrop.mask import Mask

__all__ = ["apply", "dropout"]


@overload
def dropout(
    x: Any,
    p: float = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    mode: str = ...,
    return_mask: Literal[False] = ...,
) -> Any: ...
@overload
def dropout(
    x: Any,
    p: float = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    mode: str = ...,
    return_mask: Literal[True],
) -> tuple[Any, Mask]: ...
def dropout(
    x: Any,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    noise_shape: int | Sequence[int | None] | None = None,
    mode: str = "upscale_in_train",
    return_mask: bool = False,
) -> Any:
    """Dropout that autograd differentiates, as `fastdrop.dropout` otherwise.

    With ``training=False`` the result is **x itself**.

    Parameters
    ----------
    x : array_like or autograd's box of one
        float16, float32 or float64, of any shape.
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``.
    training : bool, optional
        Whether to drop.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Where the mask comes from, see `fastdrop.dropout`.
    noise_shape : int or sequence of (int or None), optional
        Shape of the decisions, see `fastdrop.dropout`.
    mode : {"upscale_in_train", "downscale_in_infer"}, optional
        See `fastdrop.dropout`.
    return_mask : bool, optional
        Whether to return the `Mask` too, for `apply`.

    Returns
    -------
    y : ndarray, or a box where x is one
        Of x's shape and dtype.
    mask : Mask
        Only with ``return_mask=True``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `fastdrop.dropout`.

    See Also
    --------
    apply : the same mask at each call, as numerical checks of a gradient need it.

    Notes
    -----
    The graph holds the recipe, a few dozen bytes, and neither x nor the decisions. Reverse and
    forward mode are defined, and derivatives of any order: dropout is linear, so its second
    derivative is zero, while what is around it is differentiated through the same mask.

    Every call takes a position of its generator: a function that calls dropout is another function
    each time, unless its rng is an int. Where a function is called again for its gradient, inside
    `autograd.checkpoint` and in numerical checks, take the mask outside it and call `apply`.

    **Compatibility guarantee.** As for `fastdrop.dropout`.

    References
    ----------
    .. [1] D. Maclaurin, D. Duvenaud and R. P. Adams, "Autograd: effortless gradients in NumPy",
       ICML 2015 AutoML workshop.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import grad
    >>> from fastdrop.autograd import dropout
    >>> def loss(w):
    ...     return np.sum(dropout(w**2, 0.5, rng=0))
    >>> grad(loss)(np.arange(8.0))
    array([ 0.,  0.,  8.,  0., 16.,  0., 24., 28.])
    >>> grad(lambda w: np.sum(grad(loss)(w)))(np.arange(8.0))
    array([4., 0., 4., 0., 4., 0., 4., 4.])
    """
    array = as_input(getval(x), "x")
    mask = rules.elements(p, noise_shape, mode).mask(array.shape, training, rng)
    if training or mask.scale != 1.0:
        y = _apply(x, mask)
    else:
        y = x if isbox(x) or isinstance(x, np.ndarray) else array
    return (y, mask) if return_mask else y


def apply(mask: Mask, x: Any) -> Any:
    """Apply a mask, as `Mask.apply` does, and differentiate through it.

    Parameters
    ----------
    mask : Mask
        Of x's shape, of any member of the family; a constant to autograd.
    x : array_like or autograd's box of one
        As in `dropout`.

    Returns
    -------
    ndarray, or a box where x is one
        Of x's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        As `Mask.apply`.

    Notes
    -----
    **Compatibility guarantee.** As for `fastdrop.dropout`.

    Examples
    --------
    >>> import autograd.numpy as np, fastdrop as fd
    >>> from autograd import elementwise_grad
    >>> from fastdrop.autograd import apply
    >>> mask = fd.Generator(0).mask(8, 0.5)
    >>> elementwise_grad(lambda x: apply(mask, x))(np.ones(8))
    array([2., 0., 2., 0., 2., 0., 2., 2.])
    """
    if not isinstance(mask, Mask):
        raise TypeError(f"mask must be a fastdrop.Mask, not {type(mask).__name__}")
    return _apply(x, mask)


@primitive  # type: ignore[untyped-decorator]  # of no known type where autograd is not installed
def _apply(x: Any, mask: Mask) -> Array:
    return mask.apply(x)


@primitive  # type: ignore[untyped-decorator]
def _backward(grad: Any, mask: Mask) -> Array:
    return mask.backward(grad)


# The map is linear but for a shift, and its matrix is diagonal: its derivative in either direction
# is _backward, whose own derivative is _backward again.
for _function in (_apply, _backward):
    defvjp(_function, lambda y, x, mask: lambda grad: _backward(grad, mask), argnums=(0,))
    defjvp(_function, lambda grad, y, x, mask: _backward(grad, mask), argnums=(0,))
