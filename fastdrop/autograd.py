"""Dropout and noise for HIPS autograd: differentiable any number of times, by the recipe.

The members of the family that share decisions along axes, such as `fastdrop.dropout2d`, are
`dropout` with a noise shape: the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from autograd.extend import defjvp, defvjp, primitive
from autograd.tracer import getval, isbox
from numpy.typing import ArrayLike

from fastdrop import rules
from fastdrop.arrays import Array, as_input
from fastdrop.mask import Decisions, Mask
from fastdrop.noise import Noise

__all__ = [
    "alpha_dropout",
    "apply",
    "drop_path",
    "dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "gaussian_noise",
]


@overload
def dropout(
    x: Any,
    p: ArrayLike = ...,
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
    p: ArrayLike = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    mode: str = ...,
    return_mask: Literal[True],
) -> tuple[Any, Mask]: ...
def dropout(
    x: Any,
    p: ArrayLike = 0.5,
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
    p : float or array_like, optional
        Probability of **dropping**, in ``[0, 1]``; or an array of such that broadcasts to x.
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
    gaussian_dropout, gaussian_noise : Gaussian noise, likewise.

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
    return _drop(rules.rates(p, noise_shape, mode), x, training, rng, return_mask)


def alpha_dropout(
    x: Any,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    noise_shape: int | Sequence[int | None] | None = None,
    return_mask: bool = False,
) -> Any:
    """Alpha dropout that autograd differentiates, as `fastdrop.alpha_dropout` otherwise.

    Parameters
    ----------
    x, p, training, rng, noise_shape, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`.

    Notes
    -----
    **Compatibility guarantee.** As for `dropout`, with `fastdrop.alpha_dropout` in its place.

    Examples
    --------
    >>> import autograd.numpy as np, fastdrop as fd
    >>> from autograd import elementwise_grad
    >>> from fastdrop.autograd import alpha_dropout
    >>> ones = np.ones((20, 30))
    >>> y, mask = fd.alpha_dropout(ones, 0.2, rng=0, return_mask=True)
    >>> dx = elementwise_grad(lambda x: alpha_dropout(x, 0.2, rng=0))(ones)
    >>> bool((dx == mask.backward(ones)).all())
    True
    """
    return _drop(rules.alpha(p, noise_shape), x, training, rng, return_mask)


def feature_alpha_dropout(
    x: Any,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    return_mask: bool = False,
) -> Any:
    """Alpha dropout of whole channels, as `fastdrop.feature_alpha_dropout`, differentiable.

    Parameters
    ----------
    x : array_like or autograd's box of one
        Shape (N, C, ...), at least two axes.
    p, training, rng, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x has fewer axes.

    Notes
    -----
    **Compatibility guarantee.** As for `dropout`, with `fastdrop.feature_alpha_dropout` in its
    place.

    Examples
    --------
    >>> import autograd.numpy as np, fastdrop as fd
    >>> from autograd import elementwise_grad
    >>> from fastdrop.autograd import feature_alpha_dropout
    >>> ones = np.ones((20, 30))
    >>> y, mask = fd.feature_alpha_dropout(ones, 0.2, rng=0, return_mask=True)
    >>> dx = elementwise_grad(lambda x: feature_alpha_dropout(x, 0.2, rng=0))(ones)
    >>> bool((dx == mask.backward(ones)).all())
    True
    """
    return _drop(rules.alpha_features(p), x, training, rng, return_mask)


def drop_path(
    x: Any,
    p: float = 0.0,
    *,
    training: bool = True,
    rng: Any = None,
    scale_by_keep: bool = True,
    return_mask: bool = False,
) -> Any:
    """Drop whole examples, as `fastdrop.drop_path`, and differentiate through it.

    Parameters
    ----------
    x : array_like or autograd's box of one
        Shape (N, ...), at least one axis.
    scale_by_keep : bool, optional
        Whether to multiply what is kept by ``1/(1-p)``.
    p, training, rng, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x is 0-d.

    Notes
    -----
    **Compatibility guarantee.** As for `dropout`, with `fastdrop.drop_path` in its place.

    Examples
    --------
    >>> import autograd.numpy as np, fastdrop as fd
    >>> from autograd import elementwise_grad
    >>> from fastdrop.autograd import drop_path
    >>> ones = np.ones((20, 30))
    >>> y, mask = fd.drop_path(ones, 0.5, rng=0, return_mask=True)
    >>> dx = elementwise_grad(lambda x: drop_path(x, 0.5, rng=0))(ones)
    >>> bool((dx == mask.backward(ones)).all())
    True
    """
    return _drop(rules.examples(p, scale_by_keep), x, training, rng, return_mask)


def gaussian_dropout(
    x: Any,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    return_mask: bool = False,
) -> Any:
    """Gaussian dropout that autograd differentiates, as `fastdrop.gaussian_dropout` otherwise.

    Parameters
    ----------
    x : array_like or autograd's box of one
        As in `dropout`.
    p : float, optional
        Rate in ``[0, 1)``: x is multiplied by noise of mean 1 and standard deviation
        ``sqrt(p / (1-p))``.
    training : bool, optional
        Whether to multiply; if not, the result is **x itself**.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Where the noise comes from, see `fastdrop.dropout`.
    return_mask : bool, optional
        Whether to return the `Noise` too, for `apply`.

    Returns
    -------
    y : ndarray, or a box where x is one
        Of x's shape and dtype.
    noise : Noise
        Only with ``return_mask=True``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `fastdrop.gaussian_dropout`.

    Notes
    -----
    As for `dropout`: the graph holds the recipe, the factors are made again for each derivative,
    and a function that is to be called again takes its `Noise` from outside, for `apply`.

    **Compatibility guarantee.** As for `fastdrop.gaussian_dropout`.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import elementwise_grad
    >>> from fastdrop.autograd import gaussian_dropout
    >>> def f(x):
    ...     return gaussian_dropout(x, 0.5, rng=0)
    >>> x = np.ones(1000)
    >>> bool((elementwise_grad(f)(x) == f(x)).all())
    True
    """
    return _drop(rules.gaussian(p), x, training, rng, return_mask)


def gaussian_noise(
    x: Any,
    stddev: float,
    *,
    training: bool = True,
    rng: Any = None,
    return_mask: bool = False,
) -> Any:
    """Add Gaussian noise, and differentiate through it, as `fastdrop.gaussian_noise` otherwise.

    Parameters
    ----------
    x : array_like or autograd's box of one
        As in `dropout`.
    stddev : float
        Standard deviation of the noise, in units of x; a constant to autograd.
    training, rng, return_mask : as in `gaussian_dropout`

    Returns
    -------
    y, noise : as in `gaussian_dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `fastdrop.gaussian_noise`.

    Notes
    -----
    As for `gaussian_dropout`; the derivative by x is 1.

    **Compatibility guarantee.** As for `fastdrop.gaussian_noise`.

    Examples
    --------
    >>> import autograd.numpy as np
    >>> from autograd import elementwise_grad
    >>> from fastdrop.autograd import gaussian_noise
    >>> elementwise_grad(lambda x: gaussian_noise(x, 0.1, rng=0) ** 0)(np.ones(3))
    array([0., 0., 0.])
    >>> elementwise_grad(lambda x: 3 * gaussian_noise(x, 0.1, rng=0))(np.ones(3))
    array([3., 3., 3.])
    """
    return _drop(rules.additive(stddev), x, training, rng, return_mask)


def apply(mask: Mask | Noise, x: Any) -> Any:
    """Apply a recipe, as `Mask.apply` and `Noise.apply` do, and differentiate through it.

    Parameters
    ----------
    mask : Mask or Noise
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
    if not isinstance(mask, Decisions | Noise):
        raise TypeError(
            f"mask must be a fastdrop.Mask or fastdrop.Noise, not {type(mask).__name__}"
        )
    return _apply(x, mask)


def _drop(rule: rules.Rule, x: Any, training: bool, rng: Any, return_mask: bool) -> Any:
    """Do a call: every one of the family, whose rule says what is done."""
    array = as_input(getval(x), "x")
    recipe = rule.mask(array.shape, training, rng)
    # of the recipes of inference only the mask of "downscale_in_infer" does anything
    if training or np.any(getattr(recipe, "scale", 1.0) != 1.0):
        y = _apply(x, recipe)
    else:
        y = x if isbox(x) else array
    return (y, recipe) if return_mask else y


@primitive  # type: ignore[untyped-decorator]  # of no known type where autograd is not installed
def _apply(x: Any, recipe: Decisions | Noise) -> Array:
    return recipe.apply(x)


@primitive  # type: ignore[untyped-decorator]
def _backward(grad: Any, recipe: Decisions | Noise) -> Array:
    return recipe.backward(grad)


# The map is linear but for a shift or the noise added, and its matrix is diagonal: its derivative
# in either direction is _backward, whose own derivative is _backward again.
for _function in (_apply, _backward):
    defvjp(_function, lambda y, x, recipe: lambda grad: _backward(grad, recipe), argnums=(0,))
    defjvp(_function, lambda grad, y, x, recipe: _backward(grad, recipe), argnums=(0,))
