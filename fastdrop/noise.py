"""Gaussian noise as a recipe, and its application to arrays."""

from __future__ import annotations

import math
import numbers
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fastdrop import _core, parallel
from fastdrop.arrays import Array, as_bits, as_input, finish, pair
from fastdrop.recipe import Recipe, as_int, as_shape, read_window, whole_strides

__all__ = ["Noise"]


_LARGEST_SD = float(np.finfo(np.float32).max)  # in which all but float64 are worked out


class Fields(NamedTuple):
    """All that a noise is."""

    seed: int
    position: int
    sd: float
    additive: bool
    first: int  # index of the first element's number
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class Noise(Recipe):
    """Gaussian noise: not the numbers, but the recipe that they are regenerated from.

    Returned by `gaussian_dropout` and `gaussian_noise`; immutable; pickles like a `Mask`, and is
    indexed like one for the noise of a shard or a chunk.

    Parameters
    ----------
    seed : int
        The generator's seed, in ``[0, 2**64)``.
    position : int
        Which of the seed's positions, in ``[0, 2**64)``.
    shape : int or sequence of int
        Shape of the arrays that it applies to; at most ``2**58`` elements.
    sd : float, optional
        Standard deviation of the noise, from 0 to the largest float32. It is rounded to float32
        for arrays of any dtype but float64.
    additive : bool, optional
        Whether it is added, ``x + sd*z``; by default it multiplies, ``x * (1 + sd*z)``.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of the wrong kind or out of range.

    Notes
    -----
    ``z`` is standard normal: the inverse of the distribution function [1]_ at one of ``2**32``
    equally likely points symmetric about its centre, so that ``|z|`` is between 2.9e-10 and 6.34.
    It is a float32, right to 5e-7 of itself, tails included, and the same number in each dtype:
    **float64 noise has no finer resolution**. They are made 64 at a time: the noise of a window
    whose rows are much shorter than that costs accordingly.

    **Compatibility guarantee.** As for `Generator`: element ``i``'s number is a function of seed,
    position and ``i`` alone, the same bits on every processor and in every release, made by IEEE
    additions, multiplications and divisions of float32 only.

    References
    ----------
    .. [1] M. J. Wichura, "Algorithm AS 241: the percentage points of the normal distribution",
       Applied Statistics 37 (1988) 477-484: the way the line is parted; the approximations are our
       own.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> y, noise = fd.gaussian_noise(np.zeros(3), 1.0, rng=0, return_mask=True)
    >>> noise
    Noise(seed=0, position=0, shape=(3,), sd=1.0, additive=True)
    >>> bool((noise.normals() == y).all())
    True
    >>> bool((noise[1:].normals() == y[1:]).all())
    True
    """

    __slots__ = ()

    _fields = Fields
    _recipe: Fields

    def __init__(
        self, seed: int, position: int, shape: Any, sd: float = 1.0, *, additive: bool = False
    ) -> None:
        shape = as_shape(shape)
        strides = whole_strides(shape)
        sd = check_sd(sd, "sd")
        seed, position = as_int(seed, "seed"), as_int(position, "position")
        object.__setattr__(
            self, "_recipe", Fields(seed, position, sd, bool(additive), 0, shape, strides)
        )

    @property
    def sd(self) -> float:
        """Standard deviation of the noise."""
        return self._recipe.sd

    @property
    def additive(self) -> bool:
        """Whether the noise is added; else it multiplies."""
        return self._recipe.additive

    def apply(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Return ``x * (1 + sd*z)``, or ``x + sd*z`` where the noise is additive.

        Parameters
        ----------
        x : array_like
            float16, bfloat16, float32 or float64, of the noise's shape.
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
        """
        return self._apply(x, out, "x", self.sd)

    def backward(self, grad: ArrayLike, out: Array | None = None) -> Array:
        """Gradient of `apply`: the same factors, regenerated; of additive noise ``grad``, copied.

        Parameters
        ----------
        grad : array_like
            Gradient by the output, of the noise's shape; its dtype need not be that of ``x``.
        out : ndarray, optional
            As in `apply`.

        Returns
        -------
        ndarray
            Gradient by the input.

        Raises
        ------
        TypeError, ValueError
            As `apply`.
        """
        return self._apply(grad, out, "grad", 0.0 if self.additive else self.sd)

    def _apply(self, x: ArrayLike, out: Array | None, name: str, sd: float) -> Array:
        source, dtype = as_input(x, name)
        if source.shape != self.shape:
            raise ValueError(f"{name} has shape {source.shape}; the noise is for {self.shape}")
        source, target = pair(source, out)
        if sd == 0.0:
            np.copyto(target, source)
        else:
            self._run(target, source, dtype, sd)
        return finish(target, out)

    def _run(self, y: Array, x: Array, dtype: str, sd: float) -> None:
        y, x = as_bits(y, x) or (y, x)
        stream, additive, window = self._recipe[:2], self.additive, self._window
        parallel.run(
            lambda begin, n: _core.noise(y, x, dtype, stream, sd, additive, window, begin, n),
            y.size,
            y.itemsize,
        )

    def normals(self) -> NDArray[np.float32]:
        """Return the standard normal numbers ``z`` themselves, of the noise's shape.

        Returns
        -------
        ndarray of float32
        """
        z = np.zeros(self.shape, np.float32)
        fields = self._recipe._replace(additive=True)
        Noise._of(fields)._run(z, z, "f32", 1.0)
        return z

    @classmethod
    def from_dict(cls, d: dict[str, Any]) -> Self:
        """Return the noise that `to_dict` saved.

        Parameters
        ----------
        d : dict
            What `to_dict` returned.

        Returns
        -------
        Noise

        Raises
        ------
        TypeError, ValueError
            If ``d`` is not such a dict, or is of an unknown stream.
        """
        first, shape, strides = read_window(d, Fields._fields, "noise")
        if any(n > 1 and step == 0 for n, step in zip(shape, strides, strict=True)):
            raise ValueError(f"strides {strides} share numbers: a noise has one for each element")
        if not isinstance(d["additive"], bool):
            raise TypeError(f"additive must be a bool, not {d['additive']!r}")
        noise = cls(d["seed"], d["position"], 0, d["sd"], additive=d["additive"])
        return cls._of(noise._recipe._replace(first=first, shape=shape, strides=strides))

    def __repr__(self) -> str:
        text = f"Noise(seed={self.seed}, position={self.position}, shape={self.shape}, sd={self.sd}"
        if self.additive:
            text += ", additive=True"
        if self._recipe.first:
            text += f", first={self._recipe.first}"
        return text + ")"


def check_sd(sd: Any, name: str) -> float:
    """Return a standard deviation as a float, or say what is wrong with it."""
    if isinstance(sd, bool | np.bool_) or not isinstance(sd, numbers.Real):
        raise TypeError(f"{name} must be a real number, not {type(sd).__name__}: {name}={sd!r}")
    try:
        value = float(sd)
    except OverflowError:  # a huge integer
        value = math.inf
    if not 0.0 <= value <= _LARGEST_SD:
        raise ValueError(f"{name}={sd!r} must be from 0 to {_LARGEST_SD:.3g}")
    return value
