"""Recipes: a place in the stream, and the window of it that an array sees."""

from __future__ import annotations

import functools
import operator
from typing import Any, Self

import numpy as np

from fastdrop.config import STREAM

LARGEST = 2**58  # elements of one recipe
Window = tuple[int, tuple[int, ...], tuple[int, ...]]  # first index, shape, steps along the axes

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
    if not np.iterable(d["strides"]):
        raise TypeError(f"strides must be a sequence of ints, not {d['strides']!r}")
    strides = tuple(as_int(s, "strides") for s in d["strides"])
    if len(strides) != len(shape):
        raise ValueError(f"strides {strides} do not fit shape {shape}")
    axes = zip(shape, strides, strict=True)
    if 0 not in shape and first + sum((n - 1) * s for n, s in axes) >= LARGEST:
        raise ValueError(f"the {what} reaches past 2**58 elements")
    return first, shape, strides


def _unpickle(kind: Any, stream: int, *fields: Any) -> Any:
    """Return a recipe by its kind's ``from_dict``, which checks it."""
    names = kind._fields._fields
    return kind.from_dict({"stream": stream, **dict(zip(names, fields, strict=True))})


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
        raise IndexError(f"axis {axis}: only slices, ints and Ellipsis are taken, not {k!r}")
    if not -n <= at < n:
        raise IndexError(f"index {at} is out of bounds for axis {axis} of size {n}")
    return at % n


def as_shape(shape: Any) -> tuple[int, ...]:
    """Return a shape as a tuple of ints, or say what is wrong with it."""
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
