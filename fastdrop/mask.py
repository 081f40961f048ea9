"""The mask as a recipe, and its application to arrays."""

from __future__ import annotations

import functools
import math
import numbers
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core, parallel
from fastdrop.config import STREAM

__all__ = ["Mask"]

LARGEST = 2**58  # decisions in one mask

Array = NDArray[Any]
Window = tuple[int, tuple[int, ...], tuple[int, ...]]


_put = object.__setattr__


class Recipe:
    """What a mask and a noise have in common: immutable fields, of which the last are a window.

    The first fields are ``seed`` and ``position``, the last ``first``, ``shape``, ``strides``: the
    index of the first element in the stream, and the steps of that index along each axis.
    """

    __slots__ = ("_recipe",)

    _recipe: Any  # a NamedTuple

    @classmethod
    def _of(cls, fields: Any) -> Self:
        """Return a recipe of fields that were checked."""
        recipe = object.__new__(cls)
        _put(recipe, "_recipe", fields)
        return recipe

    def __setattr__(self, name: str, value: Any) -> None:
        kind = type(self).__name__
        raise AttributeError(f"a {kind} cannot be changed; make another to set {name}")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"a {type(self).__name__} cannot be changed; {name} stays")

    @property
    def seed(self) -> int:
        """The generator's seed."""
        seed: int = self._recipe.seed
        return seed

    @property
    def position(self) -> int:
        """Which of the seed's positions this is."""
        position: int = self._recipe.position
        return position

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the arrays that it applies to."""
        shape: tuple[int, ...] = self._recipe.shape
        return shape

    @property
    def _window(self) -> Window:
        window: Window = self._recipe[-3:]
        return window

    def __getitem__(self, key: Any) -> Self:
        """Return the recipe of a window: the same decisions or numbers, for a shard or a chunk.

        Parameters
        ----------
        key : slice, int, Ellipsis or a tuple of them
            Slices of step 1; an int takes its axis away. What it leaves out is whole.

        Returns
        -------
        Mask or Noise
            Of its own kind.

        Raises
        ------
        IndexError
            For any other index, or an int out of range.
        """
        first, old_shape, old_strides = self._window
        keys = key if isinstance(key, tuple) else (key,)
        given = len([k for k in keys if k is not Ellipsis])
        if given > len(old_shape) or len(keys) > given + 1:
            raise IndexError(f"{key!r} has too many indices for shape {old_shape}")
        at = next((i for i, k in enumerate(keys) if k is Ellipsis), len(keys))
        whole = (slice(None),) * (len(old_shape) - given)
        keys = keys[:at] + whole + keys[at + 1 :]
        shape, strides = [], []
        for axis, (k, n, stride) in enumerate(zip(keys, old_shape, old_strides, strict=True)):
            if isinstance(k, slice):
                try:
                    start, stop, step = k.indices(n)
                except (TypeError, ValueError) as error:
                    raise IndexError(f"axis {axis}: {k!r}: {error}") from None
                if step != 1:
                    raise IndexError(f"axis {axis}: slices must have step 1, not {step}")
                shape.append(max(0, stop - start))
                strides.append(stride)
                start = min(start, max(0, n - 1))  # of an empty slice; stays within the array
            else:
                start = _as_index(k, axis, n)
            first += start * stride
        fields = self._recipe._replace(first=first, shape=tuple(shape), strides=tuple(strides))
        return self._of(fields)

    def to_dict(self) -> dict[str, Any]:
        """Return all there is to save: ints, floats and lists, which JSON holds exactly."""
        fields = {
            k: list(v) if isinstance(v, tuple) else v for k, v in self._recipe._asdict().items()
        }
        return {"stream": STREAM, **fields}

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        """Return what `to_dict` saved."""
        raise NotImplementedError

    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        same: bool = self._recipe == other._recipe
        return same

    def __hash__(self) -> int:
        return hash(self._recipe)

    def __reduce__(self) -> tuple[Any, ...]:
        return _unpickle, (type(self), STREAM, *self._recipe)


def read_window(d: Any, fields: tuple[str, ...], what: str) -> Window:
    """Check a dict for `Recipe.from_dict`, and return its window."""
    if not isinstance(d, dict):
        raise TypeError(f"a {what} is made from a dict, not {type(d).__name__}")
    if d.get("stream") != STREAM:
        raise ValueError(
            f"the {what} has stream {d.get('stream')!r}; this version of fastdrop knows {STREAM}"
        )
    missing = set(fields) - d.keys()
    if missing:
        raise ValueError(f"the {what} lacks {sorted(missing)}")
    shape = as_shape(d["shape"])
    first = as_int(d["first"], "first")
    strides = tuple(as_int(s, "strides") for s in d["strides"])
    if len(strides) != len(shape):
        raise ValueError(f"strides {strides} do not fit shape {shape}")
    axes = zip(shape, strides, strict=True)
    if 0 not in shape and first + sum((n - 1) * s for n, s in axes) >= LARGEST:
        raise ValueError(f"the {what} reaches past 2**58 elements")
    return first, shape, strides


def _unpickle(kind: type[Recipe], stream: int, *fields: Any) -> Recipe:
    names = kind._fields._fields  # type: ignore[attr-defined]
    return kind.from_dict({"stream": stream, **dict(zip(names, fields, strict=True))})


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
        _put(self, "_recipe", Fields(seed, position, p, *values, 0, shape, strides))

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


def as_int(value: Any, name: str, largest: int = 2**64 - 1) -> int:
    """Return an int in ``[0, largest]``, or say what is wrong with it."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, int | np.integer):
        raise TypeError(f"{name} must be an int, not {type(value).__name__}")
    if not 0 <= value <= largest:
        raise ValueError(f"{name}={value} is outside [0, {largest}]")
    return int(value)


def _as_index(k: Any, axis: int, n: int) -> int:
    try:
        at = operator.index(k)
    except TypeError:
        at = None
    if at is None or isinstance(k, bool | np.bool_):
        raise IndexError(f"axis {axis}: a mask takes slices, ints and Ellipsis, not {k!r}")
    if not -n <= at < n:
        raise IndexError(f"index {at} is out of bounds for axis {axis} of size {n}")
    return at % n


def as_shape(shape: Any) -> tuple[int, ...]:
    try:
        sizes = (
            tuple(map(operator.index, shape)) if np.iterable(shape) else (operator.index(shape),)
        )
    except TypeError:
        raise TypeError(f"shape must be an int or a sequence of ints, not {shape!r}") from None
    if isinstance(shape, bool):
        raise TypeError(f"shape must be an int or a sequence of ints, not {shape!r}")
    if any(n < 0 for n in sizes):
        raise ValueError(f"shape={sizes} has a negative size")
    if len(sizes) > 64:
        raise ValueError(f"shape has {len(sizes)} axes; at most 64 are supported")
    return sizes


@functools.lru_cache(maxsize=256)
def whole_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return what `strides_of` does where no axis is shared."""
    return strides_of(shape, shape)


def strides_of(shape: tuple[int, ...], noise_shape: Any = None) -> tuple[int, ...]:
    """Return the steps of the decisions' index along each axis; 0 along shared axes."""
    if noise_shape is None:
        return whole_strides(shape)
    given = noise_shape if np.iterable(noise_shape) else (noise_shape,)
    try:
        sizes = [None if n is None else operator.index(n) for n in given]
    except TypeError:
        raise TypeError(f"noise_shape must hold ints and None, not {noise_shape!r}") from None
    if len(sizes) != len(shape):
        raise ValueError(
            f"noise_shape {tuple(sizes)} has {len(sizes)} axes; shape {shape} has {len(shape)}"
        )
    noise = tuple(n if m is None else m for m, n in zip(sizes, shape, strict=True))
    if any(m not in (1, n) for m, n in zip(noise, shape, strict=True)):
        raise ValueError(
            f"noise_shape {tuple(sizes)} does not fit shape {shape}: each size must be 1, "
            "None or that of the array"
        )
    if 0 in shape:  # nothing to decide, and no index that could run out of bounds
        return tuple(0 if m == 1 and n != 1 else 1 for m, n in zip(noise, shape, strict=True))
    strides, size = [], 1
    for m, n in zip(reversed(noise), reversed(shape), strict=True):
        strides.append(0 if m == 1 and n != 1 else size)
        size *= m
    if size > LARGEST:
        raise ValueError(f"{size} decisions (shape {noise}); one mask has at most 2**58")
    return tuple(reversed(strides))


# ---- arrays --------------------------------------------------------------------------------------

_DTYPES = {np.dtype(np.float32): "f32", np.dtype(np.float64): "f64", np.dtype(np.float16): "f16"}
_NAMES = {"float16": "f16", "bfloat16": "bf16", "float32": "f32", "float64": "f64"}


def _kernel_dtype(dtype: np.dtype[Any], name: str) -> str:
    """Return the kernels' name of a dtype, in either byte order; bfloat16 is known by its name."""
    kernels = _DTYPES.get(dtype) or _NAMES.get(dtype.name)
    if kernels is None:
        raise TypeError(
            f"{name} has dtype {dtype}; dropout takes float16, bfloat16, float32 and float64: "
            f"convert it, as in {name}.astype(np.float32)"
        )
    return kernels


def as_input(x: Any, name: str) -> tuple[Array, str]:
    """Return an input as a plain array, with its kernels' dtype; its layout is left as it is."""
    if type(x) is not np.ndarray:
        if isinstance(x, np.ma.MaskedArray):
            raise TypeError(
                f"{name} is a MaskedArray, whose mask would be lost: give {name}.filled(value), or "
                f"{name}.data and keep {name}.mask"
            )
        try:
            x = np.asarray(x)
        except MemoryError:
            raise
        except Exception as error:
            remedy = ""
            if hasattr(x, "detach") or hasattr(x, "device"):
                remedy = (
                    "; a tensor on a device or one that requires grad must be brought over first, "
                    f"as in {name}.detach().cpu().numpy()"
                )
            raise TypeError(
                f"{name} cannot be read as a NumPy array ({type(error).__name__}: {error}){remedy}"
            ) from error
    return x, _kernel_dtype(x.dtype, name)


def _is_plain(a: Array) -> bool:
    """Whether the kernels can work on the array as it lies."""
    flags = a.flags
    return flags.c_contiguous and flags.aligned and a.dtype.isnative


def pair(x: Array, out: Any) -> tuple[Array, Array]:
    """Check ``out`` and return plain arrays to read from and to write to.

    They do not overlap unless they are the same. Nothing is written to ``out``.
    """
    source = x if _is_plain(x) else x.astype(x.dtype.newbyteorder("="), order="C", copy=True)
    if out is None:
        return source, np.empty(source.shape, source.dtype)
    if not isinstance(out, np.ndarray) or isinstance(out, np.ma.MaskedArray):
        raise TypeError(f"out must be a numpy.ndarray, not {type(out).__name__}")
    if out.shape != x.shape:
        raise ValueError(f"out has shape {out.shape}; the result has {x.shape}")
    if out.dtype.newbyteorder("=") != source.dtype:
        raise TypeError(f"out has dtype {out.dtype}; the result has {source.dtype}")
    if not out.flags.writeable:
        raise ValueError("out is read-only")
    if not _is_plain(out):
        if _overlaps_itself(out):
            raise ValueError("out overlaps itself: some of its elements share memory")
        return source, np.empty(source.shape, source.dtype)
    if (
        source is not out
        and np.may_share_memory(source, out)
        and source.__array_interface__["data"][0] != out.__array_interface__["data"][0]
    ):
        source = source.copy()
    return source, out


def _overlaps_itself(a: Array) -> bool:
    """Whether two elements of a strided array share a byte."""
    axes = sorted((abs(s), n) for s, n in zip(a.strides, a.shape, strict=True) if n > 1)
    if a.size == 0:
        return False
    if any(stride == 0 for stride, _ in axes):
        return True
    reach = a.itemsize  # bytes that the axes so far span
    for stride, n in axes:
        if stride < reach:
            break
        reach += stride * (n - 1)
    else:
        return False
    # axes may still interleave without meeting: look at the addresses
    offsets = np.zeros(1, np.int64)
    for stride, n in axes:
        offsets = (offsets[:, None] + stride * np.arange(n)).ravel()
    offsets.sort()
    return bool((np.diff(offsets) < a.itemsize).any())


def as_bits(y: Array, x: Array) -> tuple[Array, Array] | None:
    """Return bfloat16 arrays as the uint16 that the kernels take; None for any other dtype."""
    if x.dtype.kind != "V" or x.dtype != y.dtype or _NAMES.get(x.dtype.name) != "bf16":
        return None
    if not (x.dtype.isnative and y.dtype.isnative):
        return None
    return y.view(np.uint16), x.view(np.uint16)


def run(
    y: Array,
    x: Array,
    dtype: str,
    recipe: tuple[int, int, int],
    values: tuple[float, ...],
    window: Window,
) -> None:
    """Apply a recipe to plain arrays, over threads where they are large."""
    y, x = as_bits(y, x) or (y, x)
    parallel.run(
        lambda begin, n: _core.apply(y, x, dtype, recipe, values, window, begin, n),
        y.size,
        y.itemsize,
    )


def run_residual(y: Array, x: Array, dtype: str, mask: Mask, residual: Array, bias: Array) -> None:
    """Set y to ``residual + mask.apply(x + bias)``: plain arrays, a mask of whole rows.

    The bias has one element, or one for each column.
    """
    period = _period(bias.size)
    bias = np.resize(bias.astype(bias.dtype.newbyteorder("=")), period + _MAX_STEP)
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
            part = np.zeros(period + _MAX_STEP, real)
            here = min(unit, begin + count - at)
            _core.fused(y, x, dtype, stream, scale, None, part, first, at, here)
            for row in part[:period].reshape(-1, columns):
                sums[at // unit] += row

    if n:
        parallel.run(kernel, n, y.itemsize, unit)
    total = np.zeros(columns)
    for row in sums:  # not sums.sum(0), whose order NumPy does not promise
        total += row
    return total.astype(kind)


SUMMED = 64 * parallel.TILE  # elements, at least: fixed, for the bits of the sums hang on it
_MAX_STEP = 64  # FD_MAX_STEP of fastdrop.h


def _period(columns: int) -> int:
    """Return the least multiple of the row that the kernels take as one; see fd_fused."""
    return columns * -(-_MAX_STEP // max(1, columns)) or _MAX_STEP


def finish(target: Array, out: Array | None) -> Array:
    """Return ``out``, filled where the kernels could not work on it, or the new array."""
    if out is None:
        return target
    if target is not out:
        out[...] = target
    return out
