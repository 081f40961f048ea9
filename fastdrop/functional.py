"""Dropout as functions of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, overload

from numpy.typing import ArrayLike, DTypeLike

from fastdrop import connect, fused, rates, rules
from fastdrop.arrays import Array
from fastdrop.mask import Mask

__all__ = [
    "alpha_dropout",
    "drop_connect",
    "drop_connect_backward",
    "drop_path",
    "dropout",
    "dropout1d",
    "dropout2d",
    "dropout3d",
    "dropout_add",
    "dropout_add_backward",
    "embedding_dropout",
    "feature_alpha_dropout",
    "gaussian_dropout",
    "gaussian_noise",
    "locked_dropout",
    "relu_dropout",
    "relu_dropout_backward",
    "softmax_dropout",
    "softmax_dropout_backward",
]

Mode = Literal["upscale_in_train", "downscale_in_infer"]


@overload
def dropout(
    x: ArrayLike,
    p: ArrayLike = ...,
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
    p: ArrayLike = ...,
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
    p: ArrayLike = ...,
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
    p: ArrayLike = 0.5,
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
    p : float or array_like, optional
        Probability of **dropping**, in ``[0, 1]``; exact to ``2**-41``. Or an array of such that
        broadcasts against x: one rate a row, channel, unit or element, see `RatesMask`.
    training : bool, optional
        Whether to drop. If False, no random numbers are used. What is no bool, nor 0 or 1, is
        refused.
    rng : fastdrop.Generator, int, SeedSequence, numpy.random.Generator or None, optional
        Where the mask comes from. A `Generator` gives its next position. An int or a
        ``SeedSequence`` is a fresh generator at position 0: the same int, the same mask. From a
        ``numpy.random.Generator`` or ``RandomState``, or the legacy global one that
        ``numpy.random.seed`` seeds, which is ``numpy.random`` itself, a seed is drawn at each call.
        None is the process's default generator, see `seed`.
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
        Only with ``return_mask=True``. In inference it keeps everything. Where p is an array, a
        `RatesMask` in training.

    Raises
    ------
    TypeError
        If x has another dtype or is a masked array or a tensor that NumPy cannot read, if p is not
        a real number, if training is no bool, if rng is of an unknown kind, or if `out` is no array
        or of another dtype.
    ValueError
        If p is outside ``[0, 1]`` or NaN, or does not broadcast, if noise_shape does not fit, if
        mode is unknown, or if `out` has another shape, is read-only or overlaps itself.
    OverflowError
        If the generator has used all its ``2**64`` positions.

    See Also
    --------
    Generator, Mask
    fastdrop.nn.Dropout : the same as a layer.

    Notes
    -----
    Every training call takes exactly one position of its generator, whatever p and the size; a
    call that is refused, for its arguments or for want of memory, takes none and leaves `out` as it
    was. One that Ctrl-C stops has its position, and may have written to `out`.

    Elements are *selected*: a dropped NaN, infinity or negative number gives +0.0. Kept ones are
    ``x * scale`` in one rounding; 16-bit types are multiplied as float32 and rounded to nearest
    even.

    Safe to call from several threads; the GIL is released in calls of 256 Ki elements or more.
    Large arrays are split over `get_num_threads` threads.

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
    result: Array | tuple[Array, Mask]
    result = rules.rates(p, noise_shape, mode).drop(x, training, rng, out, return_mask)
    return result


def dropout1d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    data_format: str = "channels_first",
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels of sequences.

    Parameters
    ----------
    x : array_like
        Shape (C, L) or (N, C, L).
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are; "channels_last" as in Keras.
    p, training, rng, out, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x has another number of axes.

    Notes
    -----
    PyTorch's ``dropout1d``; with ``channels_last`` Keras' ``SpatialDropout1D``.

    **Compatibility guarantee.** As for `dropout`.

    References
    ----------
    .. [1] J. Tompson, R. Goroshin, A. Jain, Y. LeCun and C. Bregler, "Efficient object localization
       using convolutional networks", CVPR 2015.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout1d(np.ones((3, 2)), 0.5, rng=0)
    array([[2., 2.],
           [0., 0.],
           [2., 2.]])
    """
    return rules.channels(1, p, data_format).drop(x, training, rng, out, return_mask)


def dropout2d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    data_format: str = "channels_first",
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels of images.

    Parameters
    ----------
    x : array_like
        Shape (N, C, H, W), or (N, C, L), as in PyTorch. An image without a batch axis is
        ``x[None]``.
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are; "channels_last" as in Keras.
    p, training, rng, out, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x has another number of axes.

    Notes
    -----
    As `dropout1d`, with its reference. PyTorch's ``dropout2d``; with ``channels_last`` Keras'
    ``SpatialDropout2D``. Three axes are a batch of sequences, not an image: PyTorch takes them so,
    with a warning; here too.

    **Compatibility guarantee.** As for `dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout2d(np.ones((1, 3, 1, 2)), 0.5, rng=0)
    array([[[[2., 2.]],
    <BLANKLINE>
            [[0., 0.]],
    <BLANKLINE>
            [[2., 2.]]]])
    """
    return rules.channels(2, p, data_format).drop(x, training, rng, out, return_mask)


def dropout3d(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    data_format: str = "channels_first",
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole channels of volumes.

    Parameters
    ----------
    x : array_like
        Shape (C, D, H, W) or (N, C, D, H, W).
    data_format : {"channels_first", "channels_last"}, optional
        Where the channels are; "channels_last" as in Keras.
    p, training, rng, out, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x has another number of axes.

    Notes
    -----
    As `dropout1d`, with its reference. PyTorch's ``dropout3d``; with ``channels_last`` Keras'
    ``SpatialDropout3D``.

    **Compatibility guarantee.** As for `dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.dropout3d(np.ones((3, 1, 1, 2)), 0.5, rng=0).ravel()
    array([2., 2., 0., 0., 2., 2.])
    """
    return rules.channels(3, p, data_format).drop(x, training, rng, out, return_mask)


def alpha_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    noise_shape: int | Sequence[int | None] | None = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop to SELU's negative saturation, keeping mean 0 and variance 1.

    Parameters
    ----------
    x : array_like
        Of any shape.
    p, training, rng, noise_shape, out, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`.

    Notes
    -----
    With ``alpha' = -1.7580993408473766`` and ``q = 1 - p``: a kept element becomes ``a * x + b``, a
    dropped one ``a * alpha' + b``, where ``a = (q + alpha'**2 * q * p) ** -0.5`` and
    ``b = -a * p * alpha'``. All are zero at ``p=1``. `Mask.backward` is exact: ``a`` or 0.

    **Compatibility guarantee.** As for `dropout`.

    References
    ----------
    .. [1] G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural
       networks", NIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.random.default_rng(0).standard_normal(100_000)
    >>> y = fd.alpha_dropout(x, 0.2, rng=0)
    >>> bool(abs(y.mean()) < 0.01 and abs(y.std() - 1) < 0.01)
    True
    """
    return rules.alpha(p, noise_shape).drop(x, training, rng, out, return_mask)


def feature_alpha_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Alpha dropout of whole channels.

    Parameters
    ----------
    x : array_like
        Shape (N, C, ...), at least two axes.
    p, training, rng, out, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x has fewer axes.

    Notes
    -----
    As `alpha_dropout` [1]_, with one decision for each channel of each example.

    **Compatibility guarantee.** As for `dropout`.

    References
    ----------
    .. [1] G. Klambauer, T. Unterthiner, A. Mayr and S. Hochreiter, "Self-normalizing neural
       networks", NIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y = fd.feature_alpha_dropout(np.ones((2, 3, 4)), 0.5, rng=0)
    >>> bool((y == y[..., :1]).all())
    True
    """
    return rules.alpha_features(p).drop(x, training, rng, out, return_mask)


def drop_path(
    x: ArrayLike,
    p: float = 0.0,
    *,
    training: bool = True,
    rng: Any = None,
    scale_by_keep: bool = True,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole examples: stochastic depth, for the branch of a residual block.

    Parameters
    ----------
    x : array_like
        Shape (N, ...), at least one axis.
    scale_by_keep : bool, optional
        Whether to multiply what is kept by ``1/(1-p)``.
    p, training, rng, out, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x is 0-d.

    Notes
    -----
    timm's ``drop_path``, its defaults included.

    **Compatibility guarantee.** As for `dropout`.

    References
    ----------
    .. [1] G. Huang, Y. Sun, Z. Liu, D. Sedra and K. Weinberger, "Deep networks with stochastic
       depth", ECCV 2016.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.drop_path(np.ones((4, 2)), 0.5, rng=0)
    array([[2., 2.],
           [0., 0.],
           [2., 2.],
           [0., 0.]])
    """
    return rules.examples(p, scale_by_keep).drop(x, training, rng, out, return_mask)


def locked_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    time_axis: int = 0,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop the same elements at every time step of a sequence.

    Parameters
    ----------
    x : array_like
        A sequence, by default of shape (T, B, F).
    time_axis : int, optional
        The axis along which decisions are shared; 1 for (B, T, F).
    p, training, rng, out, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where x lacks the time axis.

    Notes
    -----
    AWD-LSTM's ``LockedDropout``, variational dropout of inputs and outputs [1]_.

    **Compatibility guarantee.** As for `dropout`.

    References
    ----------
    .. [1] Y. Gal and Z. Ghahramani, "A theoretically grounded application of dropout in recurrent
       neural networks", NIPS 2016.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.locked_dropout(np.ones((2, 1, 4)), 0.5, rng=0)
    array([[[2., 0., 2., 0.]],
    <BLANKLINE>
           [[2., 0., 2., 0.]]])
    """
    return rules.locked(p, time_axis).drop(x, training, rng, out, return_mask)


def embedding_dropout(
    weight: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Drop whole rows of an embedding matrix, that is whole word types.

    Parameters
    ----------
    weight : array_like
        The embedding, shape (V, D): not the indices of words.
    p, training, rng, out, return_mask : as in `dropout`

    Returns
    -------
    y, mask : as in `dropout`

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where weight has not two axes.

    Notes
    -----
    A dropped word is dropped wherever it occurs in the batch [1]_, as in AWD-LSTM.

    **Compatibility guarantee.** As for `dropout`.

    References
    ----------
    .. [1] Y. Gal and Z. Ghahramani, "A theoretically grounded application of dropout in recurrent
       neural networks", NIPS 2016.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.embedding_dropout(np.ones((3, 2)), 0.5, rng=0)
    array([[2., 2.],
           [0., 0.],
           [2., 2.]])
    """
    return rules.rows(p).drop(weight, training, rng, out, return_mask, "weight")


def gaussian_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    rng: Any = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Multiply by Gaussian noise of mean 1 and the standard deviation that dropout has.

    Parameters
    ----------
    x : array_like
        Of any shape.
    p : float, optional
        Rate in ``[0, 1)``: the noise has standard deviation ``sqrt(p / (1-p))``.
    return_mask : bool, optional
        Whether to return the `Noise` too.
    training, rng, out : as in `dropout`

    Returns
    -------
    y : ndarray
        ``x * (1 + sd*z)``, of x's shape and dtype.
    noise : Noise
        Only with ``return_mask=True``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also for ``p=1``, whose noise would be infinite.

    Notes
    -----
    Keras' ``GaussianDropout``. Each operation is rounded once, in float32 for 16-bit types. Nothing
    of x's size is kept for `Noise.backward`.

    **Compatibility guarantee.** As for `Noise`.

    References
    ----------
    .. [1] N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, "Dropout: a
       simple way to prevent neural networks from overfitting", JMLR 15 (2014), section 10.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y, noise = fd.gaussian_dropout(np.ones(100_000), 0.2, rng=0, return_mask=True)
    >>> round(float(y.std()), 2)
    0.5
    >>> bool((noise.backward(np.ones(100_000)) == y).all())
    True
    """
    return rules.gaussian(p).drop(x, training, rng, out, return_mask)


def gaussian_noise(
    x: ArrayLike,
    stddev: float,
    *,
    training: bool = True,
    rng: Any = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Add Gaussian noise of mean 0.

    Parameters
    ----------
    x : array_like
        Of any shape.
    stddev : float
        Standard deviation of the noise, in units of x.
    return_mask : bool, optional
        Whether to return the `Noise` too.
    training, rng, out : as in `dropout`

    Returns
    -------
    y : ndarray
        ``x + stddev*z``, of x's shape and dtype.
    noise : Noise
        Only with ``return_mask=True``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; ValueError also where stddev is negative or not finite.

    Notes
    -----
    Keras' ``GaussianNoise``. Each operation is rounded once, in float32 for 16-bit types.

    **Compatibility guarantee.** As for `Noise`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y = fd.gaussian_noise(np.full(100_000, 7.0), 0.1, rng=0)
    >>> round(float(y.mean()), 2), round(float(y.std()), 2)
    (7.0, 0.1)
    """
    return rules.additive(stddev).drop(x, training, rng, out, return_mask)


def dropout_add(
    x: ArrayLike,
    residual: ArrayLike,
    p: float = 0.5,
    *,
    bias: ArrayLike | None = None,
    training: bool = True,
    rng: Any = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Add dropout of one branch to the residual: ``residual + dropout(x + bias)``, in one pass.

    Parameters
    ----------
    x : array_like
        Of any shape (..., F).
    residual : array_like
        Of x's shape and dtype; or of float32 where x has a 16-bit dtype, as in training in mixed
        precision.
    bias : array_like, optional
        Shape (F,), of x's dtype or of the residual's: added to each row of x first.
    training : bool, optional
        Whether to drop. If not, the result is ``residual + (x + bias)``, a new array too.
    out : ndarray, optional
        Where to put the result, see `dropout`; ``x`` and ``residual`` work in place.
    return_mask : bool, optional
        Whether to return the `Mask` too, for `dropout_add_backward`.
    p, rng : as in `dropout`

    Returns
    -------
    y : ndarray
        Of the residual's shape and dtype, new or `out`.
    mask : Mask
        Only with ``return_mask=True``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; TypeError also where residual or bias has another dtype than it may,
        ValueError where it has another shape than it must.

    See Also
    --------
    dropout_add_backward : its gradients.

    Notes
    -----
    The line between the blocks of a transformer. Sum, product and sum are rounded once each, 16-bit
    types in float32 with one rounding at the end, or none where the residual is float32; float32
    and float64 give the bits of ``residual + dropout(x + bias)``.

    **Compatibility guarantee.** As for `dropout`, whose mask it has.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, bias = np.zeros((2, 4)), np.array([1.0, 2.0, 3.0, 4.0])
    >>> y, mask = fd.dropout_add(x, np.full((2, 4), 0.5), 0.5, bias=bias, rng=0, return_mask=True)
    >>> y
    array([[2.5, 0.5, 6.5, 0.5],
           [2.5, 0.5, 6.5, 8.5]])
    >>> dx, dbias = fd.dropout_add_backward(np.ones((2, 4)), mask)
    >>> dbias
    array([4., 0., 4., 2.])
    """
    y, mask = fused.add(x, residual, p, bias, training, rng, out)
    return (y, mask) if return_mask else y


def dropout_add_backward(
    grad: ArrayLike, mask: Mask, *, out: Array | None = None, dtype: DTypeLike | None = None
) -> tuple[Array, Array]:
    """Gradients of `dropout_add` by x and by the bias, in one pass.

    Parameters
    ----------
    grad : array_like
        Gradient by the output, shape (..., F); it is itself the gradient by the residual.
    mask : Mask
        What `dropout_add` returned, or the window of it that is grad's shard: of consecutive rows.
    out : ndarray, optional
        Where to put the gradient by x; ``out=grad`` works in place.
    dtype : dtype_like, optional
        That of x, by default the dtype of `out` or else of grad: float16 or bfloat16 where grad is
        float32, since y was.

    Returns
    -------
    dx : ndarray
        Gradient by x: ``mask.backward(grad)``, rounded once.
    dbias : ndarray
        Gradient by the bias, shape (F,) and of grad's dtype: the sum of dx over its rows.

    Raises
    ------
    TypeError, ValueError
        As `Mask.backward`; TypeError also where dtype is none of these, ValueError where the mask
        is not of whole, consecutive rows.

    Notes
    -----
    The gradient is cut into parts of 128 Ki elements, or of 32 rows where those are more, up to a
    multiple of 2048. Within a part rows are summed in their order in float32 (float64 for float64),
    rows of less than 64 elements in ``ceil(64 / F)`` interleaved sums; all these are added in
    float64, in order. What was rounded to a 16-bit dx is summed unrounded. So the bits do not
    depend on the processor or the number of threads.

    **Compatibility guarantee.** As for `dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.ones((3, 2))
    >>> y, mask = fd.dropout_add(x, x, 0.5, rng=0, return_mask=True)
    >>> fd.dropout_add_backward(np.ones((3, 2)), mask)[1]
    array([6., 0.])
    """
    return fused.add_backward(grad, mask, out, dtype)


def relu_dropout(
    x: ArrayLike,
    p: float = 0.5,
    *,
    bias: ArrayLike | None = None,
    training: bool = True,
    rng: Any = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Dropout of a ReLU: ``dropout(max(x + bias, 0))``, in one pass.

    Parameters
    ----------
    x : array_like
        Of any shape (..., F): what the layer's weights make of its input.
    bias : array_like, optional
        Shape (F,), of x's dtype: added to each row of x first.
    training : bool, optional
        Whether to drop. If not, the result is ``max(x + bias, 0)``, a new array too.
    out : ndarray, optional
        Where to put the result, see `dropout`; ``out=x`` works in place.
    p, rng, return_mask : as in `dropout`

    Returns
    -------
    y : ndarray
        Of x's shape and dtype, new or `out`. **Keep it**: it is what `relu_dropout_backward` needs.
    mask : Mask
        Only with ``return_mask=True``; of no use to the backward pass.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; TypeError also where bias has another dtype than x, ValueError where it has
        another shape than (F,).

    See Also
    --------
    relu_dropout_backward : its gradients.
    fastdrop.nn.ReLUDropout : the layer.

    Notes
    -----
    The hidden layer of a perceptron. Sum and product are rounded once each, 16-bit types in float32
    with one rounding at the end; float32 and float64 give the bits of
    ``dropout(np.maximum(x + bias, 0))``. What is 0 or below, -0 too, becomes +0; a NaN that is kept
    stays a NaN, and an infinity stays what it is.

    **Compatibility guarantee.** As for `dropout`, whose mask it has.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.array([[-1.0, 1.0, 2.0, -2.0], [3.0, -3.0, 4.0, 4.0]])
    >>> y = fd.relu_dropout(x, 0.5, bias=np.full(4, 0.5), rng=0)
    >>> y
    array([[0., 0., 5., 0.],
           [7., 0., 9., 9.]])
    >>> dx, dbias = fd.relu_dropout_backward(np.ones((2, 4)), y, 0.5)
    >>> dbias
    array([2., 0., 4., 2.])
    """
    y, mask = fused.relu(x, p, bias, training, rng, out)
    return (y, mask) if return_mask else y


def relu_dropout_backward(
    grad: ArrayLike,
    y: ArrayLike,
    p: float = 0.5,
    *,
    training: bool = True,
    out: Array | None = None,
) -> tuple[Array, Array]:
    """Gradients of `relu_dropout` by x and by the bias, in one pass and without random numbers.

    Parameters
    ----------
    grad : array_like
        Gradient by the output, shape (..., F).
    y : array_like
        That output, of grad's shape and dtype. Whether it is, and whether it was changed since,
        cannot be known.
    p, training
        As in the call that made y.
    out : ndarray, optional
        Where to put the gradient by x; ``out=grad`` and ``out=y`` work in place.

    Returns
    -------
    dx : ndarray
        Gradient by x: ``grad / (1-p)`` where ``y > 0``, otherwise +0.
    dbias : ndarray
        Gradient by the bias, shape (F,) and of grad's dtype: the sum of dx over its rows.

    Raises
    ------
    TypeError, ValueError
        Where grad, y and out are no arrays of one shape and dtype, or p is no probability.

    Notes
    -----
    Where y is above 0 its unit was active and kept; everywhere else the derivative is 0. So the
    mask is not needed. An activation that underflowed to 0 in y counts as inactive, one that
    overflowed to infinity as active, and a NaN as inactive. With p=1 all of y is 0, and so is dx.
    The sums are as in `dropout_add_backward`.

    **Compatibility guarantee.** As for `dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.relu_dropout_backward([1.0, 1.0, 1.0], [0.0, 3.0, 0.5], 0.2)[0]
    array([0.  , 1.25, 1.25])
    """
    rate = rates.check_p(p)
    scale = rates.scale_of(rate) if rates.as_bool(training, "training") else 1.0
    return fused.relu_backward(grad, y, scale, out)


def softmax_dropout(
    scores: ArrayLike,
    p: float = 0.5,
    axis: int = -1,
    *,
    training: bool = True,
    rng: Any = None,
    out: Array | None = None,
    return_mask: bool = False,
) -> Any:
    """Dropout of a softmax: ``dropout(softmax(scores))``, in one pass.

    Parameters
    ----------
    scores : array_like
        Of any shape with at least one axis: (..., queries, keys) in attention. -infinity where a
        key is not to be looked at.
    axis : int, optional
        Along which the softmax sums to 1. For another one than the last, copies are made.
    training : bool, optional
        Whether to drop. If not, the result is ``softmax(scores)``.
    out : ndarray, optional
        Where to put the result, see `dropout`. ``out=scores`` works in place, but the backward pass
        needs the scores.
    return_mask : bool, optional
        Whether to return the `Mask` too, for `softmax_dropout_backward`.
    p, rng : as in `dropout`

    Returns
    -------
    y : ndarray
        Of scores' shape and dtype, new or `out`.
    mask : Mask
        Only with ``return_mask=True``.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; also where axis is no int, or not one of scores' axes.

    See Also
    --------
    softmax_dropout_backward : its gradient.
    fastdrop.nn.SoftmaxDropout : the layer.

    Notes
    -----
    The weights of attention [1]_, whose dropout there follows the softmax. The row's maximum is
    subtracted first. A row that is all -infinity, with nothing to look at, gives zeros; one with a
    NaN or +infinity gives NaN, where it is kept. Rows of up to 2048 elements are read from memory
    once, longer ones twice; nothing is stored but the result.

    With d a score's distance from the maximum and u the unit roundoff, 2**-24 (2**-53 in float64),
    ``exp(-d)`` is off by at most ``(1.3*d + 3.5) * u`` of itself, and 0 below the normal numbers;
    the weights of rows of up to 2048 are off by at most ``(2.3*d + 12) * u`` of themselves. They
    are ``exp(-d) * (1/sum)``, rounded, a normal number where that holds, then multiplied by
    ``1/(1-p)``; 16-bit types are worked in float32, and rounded once more at the end.

    **Compatibility guarantee.** As for `dropout`, whose mask it has. The values are made by IEEE
    additions, multiplications and divisions in a fixed order: the same bits on every processor and
    for any number of threads.

    References
    ----------
    .. [1] A. Vaswani, N. Shazeer, N. Parmar, J. Uszkoreit, L. Jones, A. N. Gomez, L. Kaiser and
       I. Polosukhin, "Attention is all you need", NeurIPS 2017.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> scores = np.log([[1.0, 1.0, 2.0], [3.0, 1.0, 4.0]])
    >>> fd.softmax_dropout(scores, 0.5, training=False)
    array([[0.25 , 0.25 , 0.5  ],
           [0.375, 0.125, 0.5  ]])
    >>> weights, mask = fd.softmax_dropout(scores, 0.5, rng=0, return_mask=True)
    >>> weights
    array([[0.5 , 0.  , 1.  ],
           [0.  , 0.25, 0.  ]])
    >>> fd.softmax_dropout_backward(np.eye(2, 3), scores, mask)
    array([[ 0.375  , -0.125  , -0.25   ],
           [-0.09375,  0.21875, -0.125  ]])
    """
    y, mask = fused.softmax_of(scores, p, axis, training, rng, out)
    return (y, mask) if return_mask else y


def softmax_dropout_backward(
    grad: ArrayLike,
    scores: ArrayLike,
    mask: Mask,
    axis: int = -1,
    *,
    out: Array | None = None,
) -> Array:
    """Gradient of `softmax_dropout` by the scores, in one pass.

    Parameters
    ----------
    grad : array_like
        Gradient by the output, of scores' shape and dtype.
    scores : array_like
        What `softmax_dropout` was given.
    mask : Mask
        What it returned, or the window of it that is these scores' shard.
    axis : int, optional
        As in that call.
    out : ndarray, optional
        Where to put the gradient; ``out=grad`` and ``out=scores`` work in place.

    Returns
    -------
    ndarray
        ``softmax * (g - sum(softmax * g))``, the sum along axis and ``g = mask.backward(grad)``; of
        scores' shape and dtype.

    Raises
    ------
    TypeError, ValueError
        Where grad, scores, mask and out do not fit each other, or axis is none of theirs.

    Notes
    -----
    The softmax is worked out again: beyond the second-level cache that costs less than to store
    and read it. A row of zeros, whose scores are all -infinity, has a gradient of zeros where grad
    is finite. The sum is that of ``exp(-d) * g``, d a score's distance from the maximum, before it
    is divided: it overflows where a row's gradients nearly do. 16-bit types are worked in float32,
    and rounded once at the end.

    **Compatibility guarantee.** As for `softmax_dropout`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> scores = np.zeros((2, 4))
    >>> weights, mask = fd.softmax_dropout(scores, 0.5, rng=0, return_mask=True)
    >>> weights
    array([[0.5, 0. , 0.5, 0. ],
           [0.5, 0. , 0.5, 0.5]])
    >>> fd.softmax_dropout_backward(np.ones((2, 4)), scores, mask)
    array([[ 0.25 , -0.25 ,  0.25 , -0.25 ],
           [ 0.125, -0.375,  0.125,  0.125]])
    """
    return fused.softmax_backward(grad, scores, mask, axis, out)


def drop_connect(
    x: ArrayLike,
    weight: ArrayLike,
    p: float = 0.5,
    *,
    bias: ArrayLike | None = None,
    training: bool = True,
    rng: Any = None,
    return_mask: bool = False,
) -> Any:
    """Multiply by weights of which each example drops its own: ``x[n] @ dropout(weight)``.

    Parameters
    ----------
    x : array_like
        Shape (N, F_in).
    weight : array_like
        Shape (F_in, F_out), of x's dtype.
    p : float, optional
        Probability of **dropping** a weight, in ``[0, 1]``.
    bias : array_like, optional
        Shape (F_out,); is not dropped.
    training : bool, optional
        Whether to drop; if False the result is ``x @ weight + bias``.
    return_mask : bool, optional
        Whether to return the `Mask` too, for `drop_connect_backward`.
    rng : as in `dropout`

    Returns
    -------
    y : ndarray
        Shape (N, F_out), of x's dtype.
    mask : Mask
        Only with ``return_mask=True``: of shape (N, F_in, F_out), which is nowhere in memory.

    Raises
    ------
    TypeError, ValueError, OverflowError
        As `dropout`; also where x, weight and bias do not fit each other.

    See Also
    --------
    drop_connect_backward : its gradients.
    fastdrop.nn.WeightDropout : one mask for all examples of a batch.

    Notes
    -----
    DropConnect [1]_ with weights scaled by ``1/(1-p)`` in training, and their mean in inference,
    where the paper samples activations from a fitted normal distribution. An example costs a pass
    over the weights. 16-bit types are multiplied and summed in float32, and rounded at the end.

    **Compatibility guarantee.** As for `dropout`, for the masks; sums in a matrix product may round
    otherwise on another machine.

    References
    ----------
    .. [1] L. Wan, M. Zeiler, S. Zhang, Y. LeCun and R. Fergus, "Regularization of neural networks
       using DropConnect", ICML 2013.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.drop_connect(np.ones((3, 4)), np.ones((4, 2)), 0.5, rng=0)
    array([[8., 2.],
           [2., 6.],
           [4., 4.]])
    """
    y, mask = connect.forward(x, weight, p, bias, training, rng)
    return (y, mask) if return_mask else y


def drop_connect_backward(
    grad: ArrayLike, x: ArrayLike, weight: ArrayLike, mask: Mask
) -> tuple[Array, Array]:
    """Gradients of `drop_connect` by x and by the weights.

    Parameters
    ----------
    grad : array_like
        Gradient by the output, shape (N, F_out); its sum over N is the gradient by the bias.
    x : array_like
        What `drop_connect` was given.
    weight : array_like
        Likewise.
    mask : Mask
        What it returned.

    Returns
    -------
    dx : ndarray
        Of x's shape and dtype.
    dweight : ndarray
        Of weight's shape and dtype.

    Raises
    ------
    TypeError, ValueError
        Where they do not fit each other.

    Notes
    -----
    **Compatibility guarantee.** As for `drop_connect`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x, weight = np.ones((3, 4)), np.ones((4, 2))
    >>> y, mask = fd.drop_connect(x, weight, 0.5, rng=0, return_mask=True)
    >>> dx, dweight = fd.drop_connect_backward(np.ones((3, 2)), x, weight, mask)
    >>> bool((dweight == mask.apply(np.ones(mask.shape)).sum(0)).all())
    True
    """
    return connect.backward(grad, x, weight, mask)
