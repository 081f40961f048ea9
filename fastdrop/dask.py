"""Dropout and Gaussian noise on Dask arrays: lazy, the same bits however the array is chunked.

The members of the family that share decisions along axes, such as `fastdrop.dropout2d`, are
`dropout` with a noise shape: the same bits.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any, Literal, overload

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.layers import ArrayBlockwiseDep
from numpy.typing import ArrayLike

from fastdrop import rules
from fastdrop.arrays import Array, as_input
from fastdrop.mask import Decisions, Mask
from fastdrop.noise import Noise

__all__ = [
    "alpha_dropout",
    "apply",
    "backward",
    "drop_path",
    "dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "gaussian_noise",
]


@overload
def dropout(
    x: da.Array,
    p: ArrayLike = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    mode: str = ...,
    return_mask: Literal[False] = ...,
) -> da.Array: ...
@overload
def dropout(
    x: da.Array,
    p: ArrayLike = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    mode: str = ...,
    return_mask: Literal[True],
) -> tuple[da.Array, Mask]: ...
def dropout(
    x: da.Array,
    p: ArrayLike = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    noise_shape: int | Sequence[int | None] | None = None,
    mode: str = "upscale_in_train",
    return_mask: bool = False,
) -> da.Array | tuple[da.Array, Mask]:
    """Dropout of a Dask array, as `fastdrop.dropout` of the array that it stands for.

    With ``training=False`` the result is **x itself**.

    Parameters
    ----------
    x : dask.array.Array
        Of NumPy blocks of float16, bfloat16, float32 or float64, of known shape.
    p : float or array_like, optional
        Probability of **dropping**, in ``[0, 1]``; or an array of such that broadcasts to x.
    training : bool, optional
        Whether to drop.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Where the mask comes from, see `fastdrop.dropout`. It is asked here, once, when the graph is
        built: workers need no generator, and None is the default generator of *this* process.
    noise_shape : int or sequence of (int or None), optional
        Shape of the decisions, see `fastdrop.dropout`: of the whole array, not of a block.
    mode : {"upscale_in_train", "downscale_in_infer"}, optional
        See `fastdrop.dropout`.
    return_mask : bool, optional
        Whether to return the `Mask` of the whole array too, for `backward`.

    Returns
    -------
    y : dask.array.Array
        Of x's shape, dtype (in the machine's byte order) and chunks; lazy.
    mask : Mask
        Only with ``return_mask=True``. In inference it keeps everything.

    Raises
    ------
    TypeError
        If x is no Dask array or not of NumPy blocks, and as `fastdrop.dropout`.
    ValueError
        If sizes of x's chunks are unknown, and as `fastdrop.dropout`.
    OverflowError
        If the generator has used all its ``2**64`` positions.

    See Also
    --------
    apply, backward : a recipe by hand.
    gaussian_dropout, gaussian_noise : Gaussian noise, likewise.
    fastdrop.dropout : the function on NumPy arrays.

    Notes
    -----
    Each block's task is one window of one mask: ``mask[window].apply(block)``. The task holds
    nothing else, so a block that Dask computes again, on another worker too, is the same again.
    There are no tasks between blocks, and rechunking before or after gives the same values.

    A call that raises takes no position.

    **Compatibility guarantee.** The result has the bits of ``fastdrop.dropout(x.compute(), ...)``
    with the same generator state, whatever the chunks, the scheduler and the number of workers.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> import fastdrop as fd
    >>> from fastdrop.dask import dropout
    >>> x = np.arange(8, dtype=np.float32)
    >>> y = dropout(da.from_array(x, chunks=3), 0.5, rng=fd.Generator(0))
    >>> y.compute()
    array([ 0.,  0.,  4.,  0.,  8.,  0., 12., 14.], dtype=float32)
    >>> bool((y == fd.dropout(x, 0.5, rng=fd.Generator(0))).all())
    True
    """
    return _drop("dropout", rules.rates(p, noise_shape, mode), x, training, rng, return_mask)


def alpha_dropout(
    x: da.Array,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    noise_shape: int | Sequence[int | None] | None = None,
    return_mask: bool = False,
) -> Any:
    """Alpha dropout of a Dask array, as `fastdrop.alpha_dropout` of what it stands for.

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
    >>> import dask.array as da, numpy as np
    >>> import fastdrop as fd
    >>> from fastdrop.dask import alpha_dropout
    >>> y = alpha_dropout(da.ones((20, 30), chunks=(7, 8)), 0.2, rng=0)
    >>> bool((y == fd.alpha_dropout(np.ones((20, 30)), 0.2, rng=0)).all())
    True
    """
    return _drop("alpha_dropout", rules.alpha(p, noise_shape), x, training, rng, return_mask)


def feature_alpha_dropout(
    x: da.Array,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    return_mask: bool = False,
) -> Any:
    """Alpha dropout of whole channels, as `fastdrop.feature_alpha_dropout` of what x stands for.

    Parameters
    ----------
    x : dask.array.Array
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
    >>> import dask.array as da, numpy as np
    >>> import fastdrop as fd
    >>> from fastdrop.dask import feature_alpha_dropout
    >>> y = feature_alpha_dropout(da.ones((20, 30), chunks=(7, 8)), 0.2, rng=0)
    >>> bool((y == fd.feature_alpha_dropout(np.ones((20, 30)), 0.2, rng=0)).all())
    True
    """
    return _drop("feature_alpha_dropout", rules.alpha_features(p), x, training, rng, return_mask)


def drop_path(
    x: da.Array,
    p: float = 0.0,
    *,
    training: bool = True,
    rng: Any = None,
    scale_by_keep: bool = True,
    return_mask: bool = False,
) -> Any:
    """Drop whole examples, as `fastdrop.drop_path` of the array that x stands for.

    Parameters
    ----------
    x : dask.array.Array
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
    >>> import dask.array as da, numpy as np
    >>> import fastdrop as fd
    >>> from fastdrop.dask import drop_path
    >>> y = drop_path(da.ones((20, 30), chunks=(7, 8)), 0.5, rng=0)
    >>> bool((y == fd.drop_path(np.ones((20, 30)), 0.5, rng=0)).all())
    True
    """
    return _drop("drop_path", rules.examples(p, scale_by_keep), x, training, rng, return_mask)


def gaussian_dropout(
    x: da.Array,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    return_mask: bool = False,
) -> Any:
    """Gaussian dropout of a Dask array, as `fastdrop.gaussian_dropout` of what it stands for.

    Parameters
    ----------
    x : dask.array.Array
        As in `dropout`.
    p : float, optional
        Rate in ``[0, 1)``: x is multiplied by noise of mean 1 and standard deviation
        ``sqrt(p / (1-p))``.
    training : bool, optional
        Whether to multiply; if not, the result is **x itself**.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Where the noise comes from, asked once, when the graph is built, as in `dropout`.
    return_mask : bool, optional
        Whether to return the `Noise` of the whole array too, for `backward`.

    Returns
    -------
    y : dask.array.Array
        As of `dropout`.
    noise : Noise
        Only with ``return_mask=True``. In inference its standard deviation is 0.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout` for x, and as `fastdrop.gaussian_dropout`.

    Notes
    -----
    Each block's task is one window of one noise, as in `dropout`. Rows of blocks much shorter than
    64 elements cost more than their size, see `Noise`.

    **Compatibility guarantee.** The result has the bits of
    ``fastdrop.gaussian_dropout(x.compute(), ...)`` with the same generator state, whatever the
    chunks, the scheduler and the number of workers.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> import fastdrop as fd
    >>> from fastdrop.dask import backward, gaussian_dropout
    >>> x = da.ones((100, 80), chunks=(30, 25))
    >>> y, noise = gaussian_dropout(x, 0.2, rng=0, return_mask=True)
    >>> bool((y == fd.gaussian_dropout(np.ones((100, 80)), 0.2, rng=0)).all())
    True
    >>> bool((backward(noise, x) == y).all())
    True
    """
    return _drop("gaussian_dropout", rules.gaussian(p), x, training, rng, return_mask)


def gaussian_noise(
    x: da.Array,
    stddev: float,
    *,
    training: bool = True,
    rng: Any = None,
    return_mask: bool = False,
) -> Any:
    """Add Gaussian noise to a Dask array, as `fastdrop.gaussian_noise` to what it stands for.

    Parameters
    ----------
    x : dask.array.Array
        As in `dropout`.
    stddev : float
        Standard deviation of the noise, in units of x.
    training, rng, return_mask : as in `gaussian_dropout`

    Returns
    -------
    y, noise : as in `gaussian_dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout` for x, and as `fastdrop.gaussian_noise`.

    Notes
    -----
    **Compatibility guarantee.** As for `gaussian_dropout`.

    Examples
    --------
    >>> import dask.array as da, numpy as np
    >>> import fastdrop as fd
    >>> from fastdrop.dask import gaussian_noise
    >>> y = gaussian_noise(da.full((100, 80), 7.0, chunks=(30, 25)), 0.1, rng=0)
    >>> bool((y == fd.gaussian_noise(np.full((100, 80), 7.0), 0.1, rng=0)).all())
    True
    """
    return _drop("gaussian_noise", rules.additive(stddev), x, training, rng, return_mask)


def apply(mask: Mask | Noise, x: da.Array) -> da.Array:
    """Apply a recipe of the whole array's shape, as `Mask.apply` and `Noise.apply` do, lazily.

    Parameters
    ----------
    mask : Mask or Noise
        Of x's shape: of the functions here, of `Generator.mask`, or of another member of the
        family, with its shift and fill.
    x : dask.array.Array
        As in `dropout`.

    Returns
    -------
    dask.array.Array
        Of x's shape, dtype and chunks; lazy.

    Raises
    ------
    TypeError, ValueError
        As `dropout` for x; ValueError also where the shapes differ.

    Notes
    -----
    **Compatibility guarantee.** As for `dropout`.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd
    >>> from fastdrop.dask import apply
    >>> mask = fd.Generator(0).mask((2, 4), 0.5)
    >>> apply(mask, da.ones((2, 4), chunks=(1, 2))).compute()
    array([[2., 0., 2., 0.],
           [2., 0., 2., 2.]])
    """
    _check_fits(mask, "apply", x, "x")
    return _map(_apply, mask, x)


def backward(mask: Mask | Noise, grad: da.Array) -> da.Array:
    """Gradient of `apply` and of the functions here: as `Mask.backward`, lazily.

    Parameters
    ----------
    mask : Mask or Noise
        Of grad's shape, as it was returned or given to `apply`.
    grad : dask.array.Array
        Gradient by the output; its dtype and chunks need not be those of x.

    Returns
    -------
    dask.array.Array
        Gradient by the input, of grad's dtype and chunks; lazy.

    Raises
    ------
    TypeError, ValueError
        As `apply`.

    Notes
    -----
    **Compatibility guarantee.** As for `dropout`.

    Examples
    --------
    >>> import dask.array as da, fastdrop as fd
    >>> from fastdrop.dask import backward, dropout
    >>> y, mask = dropout(da.ones(8, chunks=3), 0.5, rng=0, return_mask=True)
    >>> backward(mask, da.ones(8, chunks=5)).compute()
    array([2., 0., 2., 0., 2., 0., 2., 2.])
    """
    _check_fits(mask, "backward", grad, "grad")
    return _map(_backward, mask, grad)


class _Windows(ArrayBlockwiseDep):  # type: ignore[misc]  # of no known type where Dask is not installed
    """What Dask asks for a block's argument: the window of the recipe that the block lies in."""

    def __init__(self, recipe: Decisions | Noise, chunks: tuple[tuple[int, ...], ...]) -> None:
        super().__init__(chunks)
        self.recipe = recipe
        self.starts = [tuple(accumulate(sizes, initial=0)) for sizes in chunks]

    def __getitem__(self, block: tuple[int, ...]) -> Decisions | Noise:
        at = zip(block, self.starts, strict=True)
        return self.recipe[tuple(slice(starts[i], starts[i + 1]) for i, starts in at)]

    def __dask_tokenize__(self) -> Any:
        return "fastdrop", self.recipe.__reduce__()[1], self.chunks


def _apply(block: Array, window: Decisions | Noise) -> Array:
    return window.apply(block)


def _backward(block: Array, window: Decisions | Noise) -> Array:
    return window.backward(block)


def _drop(
    function: str, rule: rules.Rule, x: Any, training: bool, rng: Any, return_mask: bool
) -> Any:
    """Do a call: every one of the family, whose rule says what is done."""
    shape = _known_shape(x, "x", f"fastdrop.{function}")
    recipe = rule.mask(shape, training, rng)
    # of the recipes of inference only the mask of "downscale_in_infer" does anything
    unchanged = not training and np.all(getattr(recipe, "scale", 1.0) == 1.0)
    y = x if unchanged else _map(_apply, recipe, x)
    return (y, recipe) if return_mask else y


def _map(task: Any, recipe: Decisions | Noise, x: da.Array) -> da.Array:
    axes = tuple(range(x.ndim))
    return da.blockwise(
        task,
        axes,
        x,
        axes,
        _Windows(recipe, x.chunks),
        axes,
        token=type(recipe).__name__.lower() + task.__name__,
        meta=np.empty((0,) * x.ndim, x.dtype.newbyteorder("=")),  # as the kernels return them
        align_arrays=False,
    )


def _known_shape(x: Any, name: str, plain: str) -> tuple[int, ...]:
    """Shape of a Dask array that the kernels take, or an error, which names the plain function."""
    if not isinstance(x, da.Array):
        raise TypeError(
            f"{name} must be a dask.array.Array, not {type(x).__name__}; {plain} takes "
            "NumPy arrays, and dask.array.from_array makes a Dask array of one"
        )
    as_input(meta_from_array(x), name)
    shape = tuple(x.shape)
    if any(math.isnan(n) for n in shape):
        raise ValueError(
            f"{name} has shape {shape}, with chunks of unknown sizes: where a block's elements lie "
            "in the whole decides what becomes of them; call "
            f"{name}.compute_chunk_sizes() first"
        )
    return shape


def _check_fits(recipe: Any, method: str, x: Any, name: str) -> None:
    if not isinstance(recipe, Decisions | Noise):
        raise TypeError(
            f"mask must be a fastdrop.Mask or fastdrop.Noise, not {type(recipe).__name__}"
        )
    kind = type(recipe).__name__
    shape = _known_shape(x, name, f"fastdrop.{kind}.{method}")
    if shape != recipe.shape:
        raise ValueError(f"{name} has shape {shape}; the {kind.lower()} is for {recipe.shape}")
