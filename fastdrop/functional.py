"""Dropout as functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core, generator, parallel
from fastdrop.generator import Generator
from fastdrop.mask import (
    Mask,
    as_input,
    check_p,
    drop_threshold,
    finish,
    identity,
    pair,
    rate_of,
    run,
    scale_of,
    strides_of,
)

__all__ = ["dropout"]

Array = NDArray[Any]
Mode = Literal["upscale_in_train", "downscale_in_infer"]
MODES = ("upscale_in_train", "downscale_in_infer")


@overload
def dropout(
    x: ArrayLike,
    p: float = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    mode: str = ...,
    out: Array | None = ...,
    return_mask: Literal[False] = ...,
) -> Array: ...
@overload
def dropout(
    x: ArrayLike,
    p: float = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    mode: str = ...,
    out: Array | None = ...,
    return_mask: Literal[True],
) -> tuple[Array, Mask]: ...
@overload
def dropout(
    x: ArrayLike,
    p: float = ...,
    *,
    training: bool = ...,
    rng: Any = ...,
    noise_shape: int | Sequence[int | None] | None = ...,
    mode: str = ...,
    out: Array | None = ...,
    return_mask: bool,
) -> Array | tuple[Array, Mask]: ...
def dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    noise_shape: int | Sequence[int | None] | None = None,
    mode: str = "upscale_in_train",
    out: Array | None = None,
    return_mask: bool = False,
) -> Array | tuple[Array, Mask]:
    """Set each element to +0.0 with probability `p`, scale the others by ``1/(1-p)``.

    In training the result is always a new array (or `out`), at ``p=0`` too. With
    ``training=False`` it is **x itself** if x is an ndarray, as in PyTorch and Keras: write into
    the result and you write into x.

    Parameters
    ----------
    x : array_like
        float16, bfloat16 (of ``ml_dtypes``), float32 or float64, of any shape and memory layout.
    p : float, optional
        Probability of **dropping**, in ``[0, 1]``; exact to ``2**-41``.
    training : bool, optional
        Whether to drop. If False, no random numbers are used.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Where the mask comes from. A `Generator` gives its next position. An int or a
        ``SeedSequence`` is a fresh generator at position 0: the same int, the same mask. From a
        ``numpy.random.Generator`` a seed is drawn at each call. None is the process's default
        generator, see `seed`.
    noise_shape : int or sequence of (int or None), optional
        Shape of the decisions, as in Keras and TensorFlow: for each axis of x its size (or None,
        which means that), or 1 for one decision shared along the axis. By default the shape of x.
    mode : {"upscale_in_train", "downscale_in_infer"}, optional
        When to make up for the dropped. ``"downscale_in_infer"`` is the original formulation [1]_,
        named as in Paddle: kept elements stay as they are in training, and in inference y is
        ``x * (1-p)``, a new array.
    out : ndarray, optional
        Where to put the result: exact shape and dtype, any layout. ``out=x`` works in place.
    return_mask : bool, optional
        Whether to return the `Mask` too, for `Mask.backward`.

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, C-contiguous unless it is `out` (or x); 0-d where x is a scalar.
    mask : Mask
        Only with ``return_mask=True``. In inference it keeps everything.

    Raises
    ------
    TypeError
        If x has another dtype or is a masked array or a tensor that NumPy cannot read, if p is not
        a real number, if rng is of an unknown kind (bool and RandomState are refused), or if `out`
        is no array or of another dtype.
    ValueError
        If p is outside ``[0, 1]`` or NaN, if noise_shape does not fit, if mode is unknown, or if
        `out` has another shape, is read-only or overlaps itself.
    OverflowError
        If the generator has used all its ``2**64`` positions.

    See Also
    --------
    Generator, Mask
    fastdrop.nn.Dropout : the same as a layer.

    Notes
    -----
    Every training call takes exactly one position of its generator, whatever p and the size; a
    call that raises takes none and leaves `out` as it was.

    Elements are *selected*: a dropped NaN, infinity or negative number gives +0.0. Kept ones are
    ``x * scale`` in one rounding; 16-bit types are multiplied as float32 and rounded to nearest
    even.

    Safe to call from several threads; the GIL is released meanwhile. Large arrays are split over
    `get_num_threads` threads.

    **Compatibility guarantee.** Which elements are dropped is a pure function of the generator's
    seed and position, the element's C-order index in the noise shape and p: the same on every
    processor, operating system, thread count, dtype and memory layout, in every release. Values are
    the same bits everywhere in the default floating-point environment.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a
       simple way to prevent neural networks from overfitting", JMLR 15 (2014) 1929-1958.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> gen = fd.Generator(seed=0)
    >>> x = np.arange(8, dtype=np.float32)
    >>> y, mask = fd.dropout(x, 0.5, rng=gen, return_mask=True)
    >>> y
    array([ 0.,  0.,  4.,  0.,  8.,  0., 12., 14.], dtype=float32)
    >>> mask.backward(np.ones(8, np.float32))
    array([2., 0., 2., 0., 2., 0., 2., 2.], dtype=float32)
    >>> fd.dropout(np.ones((2, 3)), 0.5, rng=gen, noise_shape=(2, 1))
    array([[2., 2., 2.],
           [0., 0., 0.]])
    """
    # the call that trainers make most, in one step; whatever is unusual takes the way below
    if (
        type(x) is np.ndarray
        and (out is None or type(out) is np.ndarray)
        and type(p) is float
        and 0.0 <= p <= 1.0
        and type(rng) is Generator
        and noise_shape is None
        and training
        and mode == "upscale_in_train"
    ):
        y = np.empty(x.shape, x.dtype) if out is None else out
        threshold, scale = rate_of(p)
        taken = _core.apply_small(
            y, x, rng._take, threshold, scale, None, parallel.PARALLEL_FROM_BYTES
        )
        if taken is not None:
            return (y, Mask._flat(*taken, p, scale, x.shape)) if return_mask else y

    p = check_p(p)
    check_mode(mode)
    source = generator.check_rng(rng)
    array, dtype = as_input(x, "x")
    strides = strides_of(array.shape, noise_shape)
    if not training:
        y, mask = _infer(x, array, p, mode, out)
        return (y, mask) if return_mask else y

    array, target = pair(array, out)
    scale = scale_of(p) if mode == "upscale_in_train" else 1.0
    seed, position = generator.take(source)
    recipe = seed, position, drop_threshold(p)
    run(target, array, dtype, recipe, (scale,), (0, array.shape, strides))
    y = finish(target, out)
    if not return_mask:
        return y
    return y, Mask(seed, position, y.shape, p, noise_shape=noise_shape, scale=scale)


def check_mode(mode: Any) -> None:
    """Raise ValueError unless the mode is known."""
    if mode not in MODES:
        raise ValueError(f"mode={mode!r} is unknown; it must be one of {', '.join(MODES)}")


def _infer(x: Any, array: Array, p: float, mode: str, out: Array | None) -> tuple[Array, Mask]:
    """Inference: nothing is dropped; x itself where nothing is scaled either."""
    mask = identity(array.shape, 1.0 if mode == "upscale_in_train" else 1.0 - p)
    if out is None and mode == "upscale_in_train":
        return (x if isinstance(x, np.ndarray) else array), mask
    return mask.apply(array, out), mask
