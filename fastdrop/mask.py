"""The mask as a recipe, and its application to arrays."""

from __future__ import annotations

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from fastdrop import _core, parallel
from fastdrop.arrays import Array, as_bits, as_input, finish, kernel_dtype, pair
from fastdrop.recipe import (
    Recipe,
    Window,
    as_int,
    as_shape,
    read_window,
    strides_of,
    whole_strides,
)

__all__ = ["Mask"]


class Fields(NamedTuple):
    """All that a mask is."""

    seed: int
    position: int
    p: float
    scale: float
    shift: float
    fill: float
    first: int  # index of the first element's decision
    shape: tuple[int, ...]
    strides: tuple[int, ...]  # steps of that index along each axis; 0: shared


class Mask(Recipe):
    """A dropout mask: not the decisions, but the recipe that they are regenerated from.

    Made by `Generator.mask` or returned by `dropout`; immutable; pickles to less than 300 bytes for
    arrays of up to four axes, whatever their size.

    Parameters
    ----------
    seed : int
        The generator's seed, in ``[0, 2**64)``.
    position : int
        Which of the seed's masks, in ``[0, 2**64)``.
    shape : int or sequence of int
        Shape of the arrays that it applies to.
    p : float, optional
        Probability of dropping, in ``[0, 1]``.
    noise_shape : int or sequence of (int or None), optional
        Shape of the decisions: each axis 1 (one decision shared along it) or the size of `shape`'s
        (None means that). At most ``2**58`` decisions.
    scale : float, optional
        What kept elements are multiplied by; ``1/(1-p)`` unless given.
    shift : float, optional
        What is then added to kept elements.
    fill : float, optional
        What dropped elements become.

    Raises
    ------
    TypeError, ValueError
        As `dropout` for ``p`` and ``noise_shape``.

    Notes
    -----
    Element ``i``, in C order of the noise shape, is dropped iff its 40-bit uniform number is less
    than ``round(p * 2**40)``. The number does not depend on ``p``: raising it only drops more.

    **Compatibility guarantee.** As for `Generator`.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> x = np.ones((2, 4), np.float32)
    >>> y, mask = fd.dropout(x, 0.5, rng=0, return_mask=True)
    >>> mask
    Mask(seed=0, position=0, shape=(2, 4), p=0.5)
    >>> bool((mask.backward(x) == y).all())
    True
    >>> mask[:, 2:].keep()
    array([[ True, False],
           [ True,  True]])
    """

    __slots__ = ()

    _fields = Fields
    _recipe: Fields

    def __init__(
        self,
        seed: int,
        position: int,
        shape: int | Sequence[int],
        p: float = 0.5,
        *,
        noise_shape: int | Sequence[int | None] | None = None,
        scale: float | None = None,
        shift: float = 0.0,
        fill: float = 0.0,
    ) -> None:
        p = check_p(p)
        shape = as_shape(shape)
        if scale is None:
            scale = scale_of(p)
        if not all(map(math.isfinite, (scale, shift, fill))):
            raise ValueError(f"scale={scale}, shift={shift} and fill={fill} must be finite")
        strides = strides_of(shape, noise_shape)
        seed, position = as_int(seed, "seed"), as_int(position, "position")
        values = float(scale), float(shift), float(fill)
        object.__setattr__(self, "_recipe", Fields(seed, position, p, *values, 0, shape, strides))

    def _at(self, seed: int, position: int) -> Mask:
        return Mask._of(self._recipe._replace(seed=seed, position=position))

    @property
    def p(self) -> float:
        """Probability of dropping."""
        return self._recipe.p

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by, before rounding to the array's dtype."""
        return self._recipe.scale

    @property
    def shift(self) -> float:
        """What is added to kept elements, after scaling; 0 in plain dropout."""
        return self._recipe.shift

    @property
    def fill(self) -> float:
        """What dropped elements become; 0 in plain dropout."""
        return self._recipe.fill

    @property
    def noise_shape(self) -> tuple[int, ...]:
        """Shape of the decisions; 1 along shared axes."""
        pairs = zip(self.shape, self._recipe.strides, strict=True)
        return tuple(n if stride else min(n, 1) for n, stride in pairs)

    @property
    def _stream(self) -> tuple[int, int, int]:
        return self.seed, self.position, drop_threshold(self.p)

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Scale (and shift) kept elements and set dropped ones to +0.0 (or to the fill).

        Parameters
        ----------
        x : array_like
            float16, bfloat16, float32 or float64, of the mask's shape.
        out : ndarray, optional
            Where to put the result: exact shape and dtype; ``x`` itself works in place.

        Returns
        -------
        ndarray
            ``out``, or a new C-contiguous array.

        Raises
        ------
        TypeError, ValueError
            As `dropout`; ValueError also where the shapes differ. Nothing is written then.

        Examples
        --------
        >>> import numpy as np, fastdrop as fd
        >>> fd.Generator(0).mask(8, 0.5).apply(np.arange(8.0))
        array([ 0.,  0.,  4.,  0.,  8.,  0., 12., 14.])
        """
        scale, shift, fill = self._recipe[3:6]
        plain = shift == 0.0 and fill == 0.0
        return self._apply(x, out, "x", (scale,) if plain else (scale, shift, fill))

    def backward(self, grad: ArrayLike, out: Array | None = None) -> Array:
        """Gradient of `apply`: scale or +0.0, by the same decisions, regenerated.

        Parameters
        ----------
        grad : array_like
            Gradient by the output, of the mask's shape; its dtype need not be that of ``x``.
        out : ndarray, optional
            As in `apply`.

        Returns
        -------
        ndarray
            Gradient by the input; +0.0 where the element was dropped, even where ``grad`` is NaN.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self._apply(grad, out, "grad", (self.scale,))

    def _apply(
        self, x: ArrayLike, out: Array | None, name: str, values: tuple[float, ...]
    ) -> Array:
        seed, position, p, *_, first, shape, strides = self._recipe
        if (  # the usual call, in one step
            len(values) == 1
            and type(x) is np.ndarray
            and x.shape == shape
            and (out is None or type(out) is np.ndarray)
        ):
            y = np.empty(x.shape, x.dtype) if out is None else out
            bits = as_bits(y, x)
            raw_y, raw_x = bits or (y, x)
            whole = first == 0 and strides == whole_strides(shape)
            if _core.apply_small(
                raw_y,
                raw_x,
                bits is not None,
                (seed, position),
                rate_of(p)[0],
                values[0],
                None if whole else (first, shape, strides),
                parallel.PARALLEL_FROM_BYTES,
            ):
                return y
            del y, raw_y, raw_x, bits  # a large array would otherwise be allocated twice
        source, dtype = as_input(x, name)
        if source.shape != shape:
            raise ValueError(f"{name} has shape {source.shape}; the mask is for {shape}")
        source, target = pair(source, out)
        run(target, source, dtype, self._stream, values, self._window)
        return finish(target, out)

    def multiplier(self, dtype: DTypeLike = np.float32) -> Array:
        """Return what `backward` multiplies by, as an array: for libraries that want one.

        Parameters
        ----------
        dtype : dtype, optional
            float16, bfloat16, float32 or float64.

        Returns
        -------
        ndarray
            Of the mask's shape and of dtype: the scale where kept, +0.0 where dropped.

        Raises
        ------
        TypeError
            If dtype is another one.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Generator(0).mask((2, 4), 0.5).multiplier()
        array([[2., 0., 2., 0.],
               [2., 0., 2., 2.]], dtype=float32)
        """
        kind = np.dtype(dtype).newbyteorder("=")
        name = kernel_dtype(kind)
        if name is None:
            raise TypeError(f"dtype={kind} is none of float16, bfloat16, float32 and float64")
        y = np.empty(self.shape, kind)
        run(y, None, name, self._stream, (self.scale,), self._window)
        return y

    def keep(self) -> NDArray[np.bool_]:
        """Return the decisions as a bool array of the mask's shape, True where kept.

        Returns
        -------
        ndarray of bool
        """
        n = math.prod(self.shape)
        bits = np.unpackbits(self.packbits(), count=n, bitorder="little")
        return bits.view(np.bool_).reshape(self.shape)

    def packbits(self) -> NDArray[np.uint8]:
        """Return the decisions as bits, 1 where kept, in C order of the mask's shape.

        Returns
        -------
        ndarray of uint8, shape (ceil(n / 8),)
            Little bit order: element ``8k + j`` is bit ``j`` of byte ``k``. Unused bits are 0.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Generator(0).mask(8, 0.5).packbits()
        array([213], dtype=uint8)
        """
        n = math.prod(self.shape)
        bits = np.zeros((n + 7) // 8, np.uint8)
        stream, window = self._stream, self._window
        parallel.run(lambda begin, count: _core.bits(bits, stream, window, begin, count), n, 1 / 8)
        return bits

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("a Mask holds no array: it cannot be read without making one")
        keep = self.keep()
        return keep if dtype is None else keep.astype(dtype, copy=False)

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        """Return the mask that `to_dict` saved.

        Parameters
        ----------
        d : dict
            What `to_dict` returned.

        Returns
        -------
        Mask

        Raises
        ------
        TypeError, ValueError
            If ``d`` is not such a dict, or is of an unknown stream.

        Examples
        --------
        >>> import fastdrop as fd
        >>> mask = fd.Generator(0).mask((2, 3), 0.1)[1:]
        >>> fd.Mask.from_dict(mask.to_dict()) == mask
        True
        """
        first, shape, strides = read_window(d, Fields._fields, "mask")
        shared = (1,) * len(shape)
        values = {name: float(d[name]) for name in ("scale", "shift", "fill")}
        mask = cls(d["seed"], d["position"], shape, d["p"], noise_shape=shared, **values)
        return cls._of(mask._recipe._replace(first=first, strides=strides))

    def __repr__(self) -> str:
        text = f"Mask(seed={self.seed}, position={self.position}, shape={self.shape}, p={self.p}"
        if self.noise_shape != self.shape:
            text += f", noise_shape={self.noise_shape}"
        if self._recipe.first:
            text += f", first={self._recipe.first}"
        if self.scale != scale_of(self.p):
            text += f", scale={self.scale}"
        if self.shift or self.fill:
            text += f", shift={self.shift}, fill={self.fill}"
        return text + ")"


def identity(shape: tuple[int, ...], scale: float = 1.0) -> Mask:
    """Return the mask of inference: it keeps everything."""
    return Mask(0, 0, shape, 0.0, scale=scale)


# ---- numbers -------------------------------------------------------------------------------------


def check_p(p: Any, name: str = "p") -> float:
    """Return a probability as a float, or say what is wrong with it."""
    if type(p) is float and 0.0 <= p <= 1.0:
        return p
    if isinstance(p, bool | np.bool_) or not isinstance(p, numbers.Real):
        raise TypeError(
            f"{name} must be a real number in [0, 1], not {type(p).__name__}: {name}={p!r}"
        )
    try:
        value = float(p)
    except OverflowError:  # a huge integer
        value = math.inf
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{name}={p!r} is not a probability: it must be in [0, 1]")
    return value


def drop_threshold(p: float) -> int:
    """``round_half_even(p * 2**40)``; the product is exact."""
    return round(p * 2.0**40)


def scale_of(p: float) -> float:
    """``1 / (1-p)``; 0 where no element is kept and none is ever scaled."""
    return 1.0 / (1.0 - p) if drop_threshold(p) < 2**40 else 0.0


@functools.lru_cache(maxsize=256)
def rate_of(p: float) -> tuple[int, float]:
    """Return `drop_threshold` and `scale_of`, which a small call cannot afford to work out anew."""
    return drop_threshold(p), scale_of(p)


# ---- the kernels -------------------------------------------------------------------------------


def run(
    y: Array,
    x: Array | None,
    dtype: str,
    recipe: tuple[int, int, int],
    values: tuple[float, ...],
    window: Window,
) -> None:
    """Apply a recipe to plain arrays (None: to ones), over threads where they are large."""
    bits = as_bits(y, y if x is None else x)
    if bits:
        y, x = bits[0], None if x is None else bits[1]
    parallel.run(
        lambda begin, n: _core.apply(y, x, dtype, recipe, values, window, begin, n),
        y.size,
        y.itemsize,
    )


def multiplier(shape: Any, p: float, take: Callable[[], tuple[int, int]]) -> Array:
    """Return ``Mask(*take(), shape, p).multiplier()``, in less time where it is small."""
    y = np.empty(shape, np.float32)
    threshold, scale = rate_of(p)
    limit = parallel.PARALLEL_FROM_BYTES
    if not _core.apply_small(y, None, False, take, threshold, scale, None, limit):
        run(y, None, "f32", (*take(), threshold), (scale,), (0, (y.size,), (1,)))
    return y


def run_residual(y: Array, x: Array, dtype: str, mask: Mask, residual: Array, bias: Array) -> None:
    """Set y to ``residual + mask.apply(x + bias)``: plain arrays, a mask of whole rows.

    The bias is `periodic`.
    """
    y, x = as_bits(y, x) or (y, x)
    residual, bias = as_bits(residual, bias) or (residual, bias)
    stream, scale, first = mask._stream, mask.scale, mask._window[0]
    parallel.run(
        lambda begin, n: _core.fused(y, x, dtype, stream, scale, residual, bias, first, begin, n),
        y.size,
        y.itemsize,
    )


def run_bias_grad(y: Array, x: Array, dtype: str, mask: Mask) -> Array:
    """Set y to ``mask.backward(x)``, likewise, and return the sum of its rows, of y's dtype.

    Rows are summed in their order within parts of SUMMED elements, and those in theirs.
    """
    kind, columns = y.dtype, y.shape[-1] if y.ndim else 1
    period = _period(columns)
    n, unit = y.size, max(SUMMED, -(-32 * columns // parallel.TILE) * parallel.TILE)
    real = np.float64 if dtype == "f64" else np.float32
    y, x = as_bits(y, x) or (y, x)
    stream, scale, first = mask._stream, mask.scale, mask._window[0]
    sums = np.zeros((-(-n // unit), columns))

    def kernel(begin: int, count: int) -> None:
        for at in range(begin, begin + count, unit):
            part = _sums(period + _MAX_STEP, real, y)
            here = min(unit, begin + count - at)
            _core.fused(y, x, dtype, stream, scale, None, part, first, at, here)
            rows = part[:period].reshape(-1, columns)
            with np.errstate(all="ignore"):  # here, for a worker has an errstate of its own
                # not rows.sum(0), whose order NumPy does not promise
                sums[at // unit] = np.add.accumulate(rows, axis=0, dtype=np.float64)[-1]

    if n:
        parallel.run(kernel, n, y.itemsize, unit)
    total = np.zeros(columns)
    with np.errstate(all="ignore"):
        for row in sums:
            total += row
        return total.astype(kind)


def _sums(n: int, dtype: type[np.floating[Any]], y: Array) -> Array:
    """Return zeros that lie to a line of the cache as y does: 15 % of a backward pass within it."""
    size = np.dtype(dtype).itemsize
    sums = np.zeros(n + 64 // size, dtype)
    start = (y.ctypes.data * size // y.itemsize - sums.ctypes.data) % 64 // size
    return sums[start : start + n]


SUMMED = 64 * parallel.TILE  # elements, at least: fixed, for the bits of the sums hang on it
_MAX_STEP = 64  # FD_MAX_STEP of fastdrop.h


def periodic(bias: Array) -> Array:
    """Return a row as often as the kernels want it; see fd_fused."""
    n = _period(bias.size) + _MAX_STEP
    row = bias.astype(bias.dtype.newbyteorder("="), copy=False)
    return np.resize(row, n) if bias.size < _MAX_STEP else np.concatenate([row, row[:_MAX_STEP]])


def _period(columns: int) -> int:
    """Return the least multiple of the row that the kernels take as one; see fd_fused."""
    return columns * -(-_MAX_STEP // max(1, columns)) or _MAX_STEP
