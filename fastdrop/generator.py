"""Where masks come from: a seed, and the position of the next mask in its stream."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from fastdrop import _core
from fastdrop.config import STREAM
from fastdrop.mask import Mask
from fastdrop.recipe import as_int

__all__ = ["Generator", "seed"]

POSITIONS = 2**64
_TAG_SPAWN = 9  # fd_stream.h
_CHILDREN = 2**56  # of one position: block numbers have 56 bits

# Guards every generator's position. One for all, so that a forked child can replace it.
_lock = threading.Lock()


class Generator:
    """A source of dropout masks: a 64-bit seed and the position of its next mask.

    Each training call that is given a generator takes exactly one position, whatever its size and
    rate; equal seed and position give equal masks. May be shared between threads: no two calls
    get the same position.

    Parameters
    ----------
    seed : None, int, numpy.random.SeedSequence or numpy.random.Generator, optional
        An int in ``[0, 2**64)`` is the Philox key itself. A ``SeedSequence`` gives
        ``generate_state(1, np.uint64)[0]``. From a ``numpy.random.Generator`` 64 bits are drawn:
        the low 32 bits of each of two raw draws, the first draw low. None takes 64 bits from the
        operating system.
    position : int, optional
        Position of the next mask, in ``[0, 2**64]``; ``2**64`` means that none is left.

    Raises
    ------
    TypeError
        If the seed is of another type: bool and ``numpy.random.RandomState`` among them.
    ValueError
        If the seed or the position is out of range.

    See Also
    --------
    dropout : takes a generator as ``rng``.
    Mask : what a generator makes.

    Notes
    -----
    **Compatibility guarantee.** The mask of a seed and a position is the same on every processor,
    operating system and thread count, for every dtype and memory layout, in every release: stream
    v1, specified in ``docs/stream.md``, is fixed. It is Philox4x32-10 [1]_: statistically strong,
    not for cryptography.

    References
    ----------
    .. [1] J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers: as easy
       as 1, 2, 3", SC 2011.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> gen = fd.Generator(seed=0)
    >>> fd.dropout(np.ones(8, np.float32), 0.5, rng=gen)
    array([2., 0., 2., 0., 2., 0., 2., 2.], dtype=float32)
    >>> gen
    Generator(seed=0, position=1)
    """

    __slots__ = ("__weakref__", "_position", "_seed")

    def __init__(self, seed: Any = None, *, position: int = 0) -> None:
        self._seed = _as_seed(seed)
        self._position = _as_position(position)

    @property
    def seed(self) -> int:
        """The Philox key, in ``[0, 2**64)``."""
        return self._seed

    @property
    def position(self) -> int:
        """Position of the next mask, in ``[0, 2**64]``."""
        return self._position

    @property
    def state(self) -> dict[str, int]:
        """All there is to save: a dict of ints that JSON holds exactly. Settable.

        Raises
        ------
        ValueError, TypeError
            On setting what is not such a dict, or one of an unknown stream; the generator is then
            left as it was.
        """
        with _lock:
            return {"stream": STREAM, "seed": self._seed, "position": self._position}

    @state.setter
    def state(self, state: dict[str, int]) -> None:
        seed, position = _read_state(state)
        with _lock:
            self._seed, self._position = seed, position

    def _take(self) -> tuple[int, int]:
        """Seed and position of one mask, which no other call gets."""
        with _lock:
            position = self._position
            if position >= POSITIONS:
                raise OverflowError(
                    f"Generator(seed={self._seed}) has used all its 2**64 positions; "
                    "positions never wrap: take another seed"
                )
            self._position = position + 1
            return self._seed, position

    def mask(
        self,
        shape: int | Sequence[int],
        p: float = 0.5,
        *,
        noise_shape: int | Sequence[int | None] | None = None,
    ) -> Mask:
        """Take one position and return its mask; nothing of its size is allocated.

        Parameters
        ----------
        shape : int or sequence of int
            Shape of the arrays to apply it to. Up to ``2**58`` decisions cost nothing.
        p : float, optional
            Probability of dropping, in ``[0, 1]``.
        noise_shape : int or sequence of (int or None), optional
            Shape of the decisions: each axis 1 (shared) or the array's size (None means that).

        Returns
        -------
        Mask

        Raises
        ------
        TypeError, ValueError
            As `dropout` for ``p`` and ``noise_shape``. No position is taken then.
        OverflowError
            If the generator has used all its ``2**64`` positions.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Generator(0).mask((2, 4), 0.5).keep()
        array([[ True, False,  True, False],
               [ True, False,  True,  True]])
        """
        checked = Mask(0, 0, shape, p, noise_shape=noise_shape)
        return checked._at(*self._take())

    def spawn(self, n: int) -> list[Generator]:
        """Return `n` independent generators, one for each worker; takes one position.

        Parameters
        ----------
        n : int
            Number of children.

        Returns
        -------
        list of Generator
            Child ``j`` has its own seed, a function of this seed, the position taken and ``j``
            alone, and starts at position 0.

        Raises
        ------
        TypeError, ValueError
            If ``n`` is not an int, or is negative.
        OverflowError
            If the generator has used all its ``2**64`` positions.

        Examples
        --------
        >>> import fastdrop as fd
        >>> [child.seed for child in fd.Generator(0).spawn(2)]
        [27122583055308173, 3195378543308105678]
        """
        n = as_int(n, "n", _CHILDREN)
        seed, position = self._take()
        words = (_core.block(seed, position, _TAG_SPAWN, child) for child in range(n))
        return [Generator(w[0] | w[1] << 32) for w in words]

    def __repr__(self) -> str:
        return f"Generator(seed={self._seed}, position={self._position})"

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_state, (self.state,)


def _from_state(state: dict[str, int]) -> Generator:
    seed, position = _read_state(state)
    return Generator(seed, position=position)


def _read_state(state: Any) -> tuple[int, int]:
    if not isinstance(state, dict):
        raise TypeError(f"state must be a dict, not {type(state).__name__}")
    if state.get("stream") != STREAM:
        raise ValueError(
            f"state has stream {state.get('stream')!r}; this version of fastdrop knows {STREAM}"
        )
    if not {"seed", "position"} <= state.keys():
        raise ValueError(f"state needs 'seed' and 'position'; it has {sorted(state)}")
    return as_int(state["seed"], "seed", POSITIONS - 1), _as_position(state["position"])


def _as_position(position: Any) -> int:
    return as_int(position, "position", POSITIONS)


def _as_seed(seed: Any, name: str = "seed") -> int:
    if seed is None:
        return secrets.randbits(64)
    if isinstance(seed, np.random.SeedSequence):
        return int(seed.generate_state(1, np.uint64)[0])
    if isinstance(seed, np.random.Generator):
        return draw_seed(seed.bit_generator)
    if isinstance(seed, bool | np.bool_) or not isinstance(seed, int | np.integer):
        raise TypeError(_wrong_rng(name, seed))
    return as_int(seed, name, POSITIONS - 1)


def draw_seed(bits: np.random.BitGenerator) -> int:
    """Return a seed from NumPy's random bits: the low halves of two raw draws."""
    draw: Any = bits.random_raw  # twice: an array of two draws takes four times as long
    low = draw() & 0xFFFFFFFF
    seed: int = low | (draw() & 0xFFFFFFFF) << 32
    return seed


def _wrong_rng(name: str, value: Any) -> str:
    remedy = ""
    if isinstance(value, np.random.RandomState):
        remedy = "; make a numpy.random.Generator of it, or give an int"
    elif isinstance(value, np.random.BitGenerator):
        remedy = "; wrap it as numpy.random.Generator(...)"
    kind = type(value).__name__
    if kind == "Generator":  # of another library
        kind = f"{type(value).__module__}.{kind}"
    return (
        f"{name} must be a fastdrop.Generator, an int, a SeedSequence, a numpy.random.Generator or "
        f"None, not {kind}: {value!r}{remedy}"
    )


def check_rng(rng: Any) -> Generator | np.random.Generator:
    """Return a source of positions for an ``rng`` argument, drawing nothing yet."""
    if rng is None:
        return _default
    if isinstance(rng, Generator | np.random.Generator):
        return rng
    return Generator(_as_seed(rng, "rng"))


def take(source: Generator | np.random.Generator) -> tuple[int, int]:
    """Seed and position for one mask; from a NumPy generator a fresh seed at position 0."""
    return source._take() if isinstance(source, Generator) else (_as_seed(source), 0)


def seed(value: Any = None) -> None:
    """Seed the process's default generator, which serves every call without ``rng``.

    It starts again at position 0. At import the operating system seeds it. In a forked child it is
    seeded afresh only if the operating system had seeded it; after ``seed(n)`` child and parent go
    on from the same state, as with ``numpy.random.seed``: give each worker its own
    ``gen.spawn(k)[i]``.

    Parameters
    ----------
    value : None, int, numpy.random.SeedSequence or numpy.random.Generator, optional
        As for `Generator`; None seeds from the operating system.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.seed(0)
    >>> fd.dropout(np.ones(8, np.float32))
    array([2., 0., 2., 0., 2., 0., 2., 2.], dtype=float32)
    """
    global _default, _seeded_by_system
    _default, _seeded_by_system = Generator(value), value is None


_default = Generator()
_seeded_by_system = True


def _after_fork_in_child() -> None:
    global _lock, _default
    _lock = threading.Lock()  # another thread of the parent may have held it
    if _seeded_by_system:
        _default = Generator()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
