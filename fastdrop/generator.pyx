"""Where masks come from: a seed, and the position of the next mask in its stream."""

import os
import secrets

import numpy as np

cimport cython

from fastdrop.kernels import STREAM, TAG_SPAWN, block
from fastdrop.mask import Mask as _Mask
from fastdrop.ratesmask cimport is_array
from fastdrop.ratesmask import RatesMask as _RatesMask
from fastdrop.rates cimport check_mode
from fastdrop.recipe cimport as_int, check_stream

cdef object POSITIONS = 0x10000000000000000
cdef object CHILDREN = 0x100000000000000  # of one position: block numbers have 56 bits


cdef class Generator:
    """Generator(seed=None, *, position=0)
--

    A source of dropout masks: a 64-bit seed and the position of its next mask.

    Each training call that is given a generator takes exactly one position, whatever its size and
    rate; equal seed and position give equal masks. May be shared between threads: no two calls
    get the same position.

    Parameters
    ----------
    seed : None, int, SeedSequence, Generator or RandomState of numpy.random, or numpy.random, optional
        An int in ``[0, 2**64)`` is the Philox key itself. A ``SeedSequence`` gives
        ``generate_state(1, np.uint64)[0]``. From a ``numpy.random.Generator`` 64 bits are drawn:
        the low 32 bits of each of two raw draws, the first draw low. From a ``RandomState``, or the
        legacy global one, which is ``numpy.random`` itself, the 8 bytes of ``bytes(8)``, little
        end first. None takes 64 bits from the operating system.
    position : int, optional
        Position of the next mask, in ``[0, 2**64]``; ``2**64`` means that none is left.

    Raises
    ------
    TypeError
        If the seed is of another type, bool among them.
    ValueError
        If the seed or the position is out of range.

    See Also
    --------
    dropout : takes a generator as ``rng``.
    Mask : what a generator makes.
    default_generator : the one that serves calls without ``rng``.

    Notes
    -----
    **Copies.** A copy goes on from the same state: layers that were copied with their generator
    (``copy.deepcopy``, pickles one by one) drop the same elements. Give them generators anew with
    `fastdrop.nn.reseed`, of ``gen.spawn(n)`` for n that are to differ.

    **Forks.** So does a forked child, seeded or not: give worker i ``gen.spawn(k)[i]``, or set
    ``gen.state = Generator().state`` in the child. (The default generator alone, where nobody
    seeded it, is seeded afresh there.)

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

    def __cinit__(self):
        self.exhausted = True  # until it is seeded

    def __init__(self, seed=None, *, position=0):
        key, place = as_seed(seed, "seed"), as_position(position)
        self.set_state(key, place)

    cdef int set_state(self, seed, position) except -1:
        cdef uint64_t key = seed, place = position % POSITIONS
        with cython.critical_section(self):
            self.seed_, self.position_, self.exhausted = key, place, position == POSITIONS
            self.seeded = True
        return 0

    @property
    def seed(self):
        """The Philox key, in ``[0, 2**64)``."""
        return self.seed_

    @property
    def position(self):
        """Position of the next mask, in ``[0, 2**64]``."""
        return self.state["position"]

    @property
    def state(self):
        """All there is to save: a dict of ints that JSON holds exactly. Settable.

        Raises
        ------
        ValueError, TypeError
            On setting what is not such a dict, or one of an unknown stream; the generator is then
            left as it was.
        """
        cdef uint64_t seed, position
        cdef bint exhausted
        with cython.critical_section(self):
            seed, position, exhausted = self.seed_, self.position_, self.exhausted
        return {"stream": STREAM, "seed": seed, "position": POSITIONS if exhausted else position}

    @state.setter
    def state(self, state):
        seed, position = read_state(state)
        self.set_state(seed, position)

    cdef int take(self, uint64_t *seed, uint64_t *position) except -1:
        """Seed and position of one mask, which no other call gets."""
        cdef bint exhausted
        with cython.critical_section(self):  # for builds without the GIL; elsewhere it is nothing
            exhausted = self.exhausted
            seed[0], position[0] = self.seed_, self.position_
            if not exhausted:
                self.position_ += 1
                self.exhausted = self.position_ == 0
        if exhausted and not self.seeded:
            raise AttributeError("the Generator has no seed: its __init__ was not called")
        if exhausted:
            raise OverflowError(
                f"Generator(seed={self.seed_}) has used all its 2**64 positions; "
                "positions never wrap: take another seed"
            )
        return 0

    def mask(self, shape, p=0.5, *, noise_shape=None, scale=None, mode="upscale_in_train"):
        """Take one position and return its mask; nothing of its size is allocated.

        Parameters
        ----------
        shape : int or sequence of int
            Shape of the arrays to apply it to. Up to ``2**58`` decisions cost nothing.
        p : float or array_like, optional
            Probability of dropping, in ``[0, 1]``; or an array of such that broadcasts to `shape`.
        noise_shape : int or sequence of (int or None), optional
            Shape of the decisions: each axis 1 (shared) or the array's size (None means that).
        scale : float, optional
            What kept elements are multiplied by, for trainers that have a factor of their own.
        mode : {"upscale_in_train", "downscale_in_infer"}, optional
            Where no scale is given: ``1/(1-p)``, or 1, see `dropout`.

        Returns
        -------
        Mask or RatesMask
            RatesMask where p is an array.

        Raises
        ------
        TypeError, ValueError
            As `dropout` for ``p``, ``noise_shape`` and ``mode``; also for a scale that is not finite
            or is given together with ``downscale_in_infer``. No position is taken then.
        OverflowError
            If the generator has used all its ``2**64`` positions.

        Examples
        --------
        >>> import fastdrop as fd
        >>> fd.Generator(0).mask((2, 4), 0.5).keep()
        array([[ True, False,  True, False],
               [ True, False,  True,  True]])
        """
        if not check_mode(mode):
            if scale is not None:
                raise ValueError(f"scale={scale!r} is given, and mode={mode!r}, whose scale is 1")
            scale = 1.0
        kind = _RatesMask if is_array(p) else _Mask
        cdef Recipe mask = kind(0, 0, shape, p, noise_shape=noise_shape, scale=scale)
        self.take(&mask.seed_, &mask.position_)
        return mask

    def spawn(self, n):
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
        cdef uint64_t seed, position
        children = [None] * as_int(n, "n", CHILDREN)  # before a position is taken
        self.take(&seed, &position)
        for child in range(len(children)):
            words = block(seed, position, TAG_SPAWN, child)
            children[child] = Generator(words[0] | words[1] << 32)
        return children

    def __repr__(self):
        return f"Generator(seed={self.seed}, position={self.position})"

    def __reduce__(self):
        return _from_state, (self.state,)


def _from_state(state):
    """Return a generator of a state. Pickles name this function."""
    seed, position = read_state(state)
    return Generator(seed, position=position)


cdef tuple read_state(state):
    check_stream(state, "state")
    if not {"seed", "position"} <= state.keys():
        raise ValueError(f"state needs 'seed' and 'position'; it has {sorted(state)}")
    return as_int(state["seed"], "seed"), as_position(state["position"])


cdef object as_position(position):
    return as_int(position, "position", POSITIONS)


cdef object as_seed(seed, str name):
    if seed is None:
        return secrets.randbits(64)
    if isinstance(seed, np.random.SeedSequence):
        return int(seed.generate_state(1, np.uint64)[0])
    if isinstance(seed, np.random.Generator):
        return draw_seed(seed.bit_generator)
    if seed is np.random:
        seed = numpy_global
    if isinstance(seed, LEGACY):
        return draw_legacy_seed(seed)
    try:
        return as_int(seed, name)
    except TypeError:
        raise TypeError(wrong_rng(name, seed)) from None


class _NumPyGlobal:
    """NumPy's legacy global generator, whoever seeds it: what ``numpy.random`` is as an ``rng``."""

    def bytes(self, n):
        return np.random.bytes(n)

    def __reduce__(self):
        return "numpy_global"  # copies and pickles are itself

    def __repr__(self):
        return "numpy.random"


numpy_global = _NumPyGlobal()
LEGACY = (np.random.RandomState, _NumPyGlobal)


cdef object draw_legacy_seed(source):
    """Return a seed from a legacy generator of NumPy's."""
    return int.from_bytes(source.bytes(8), "little")


cdef uint64_t draw_seed(bit_generator) except? 0:
    """Return a seed from NumPy's random bits: the low halves of two raw draws."""
    draw = bit_generator.random_raw  # twice: an array of two draws takes four times as long
    cdef uint64_t low = draw() & 0xFFFFFFFF
    return low | <uint64_t>(draw() & 0xFFFFFFFF) << 32


cdef str wrong_rng(str name, value):
    remedy = ""
    if isinstance(value, np.random.BitGenerator):
        remedy = "; wrap it as numpy.random.Generator(...)"
    kind = type(value).__name__
    if kind == "Generator":  # of another library
        kind = f"{type(value).__module__}.{kind}"
    return (
        f"{name} must be a fastdrop.Generator, an int, a SeedSequence, a numpy.random.Generator or "
        f"RandomState, numpy.random itself or None, not {kind}: {value!r}{remedy}"
    )


cpdef object as_source(rng):
    """Return what an ``rng`` argument takes positions from, drawing nothing yet."""
    if type(rng) is Generator:
        return rng
    if rng is None:
        return default
    if isinstance(rng, (Generator, np.random.Generator, *LEGACY)):
        return rng
    if rng is np.random:
        return numpy_global
    return Generator(as_seed(rng, "rng"))


cdef int take_from(source, Recipe recipe) except -1:
    """Give a recipe its seed and position; from a NumPy generator a fresh seed, at position 0."""
    if isinstance(source, Generator):
        return (<Generator>source).take(&recipe.seed_, &recipe.position_)
    if isinstance(source, LEGACY):
        recipe.seed_, recipe.position_ = draw_legacy_seed(source), 0
    else:
        recipe.seed_, recipe.position_ = draw_seed(source.bit_generator), 0
    return 0


def default_generator():
    """Return the process's default generator, which serves every call without ``rng``.

    It is one object for ever: `seed` seeds it in place. Save and restore its ``state``, or give it to
    what wants a generator, such as `fastdrop.nn.mc_samples`.

    Returns
    -------
    Generator

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.seed(0)
    >>> y = fd.dropout(np.ones(8))
    >>> fd.default_generator().state
    {'stream': 1, 'seed': 0, 'position': 1}
    """
    return default


def seed(value=None):
    """Seed the process's default generator, which serves every call without ``rng``.

    It starts again at position 0. At import the operating system seeds it. In a forked child it is
    seeded afresh only if the operating system had seeded it; after ``seed(n)`` child and parent go
    on from the same state, as with ``numpy.random.seed``: give each worker its own
    ``gen.spawn(k)[i]``.

    Parameters
    ----------
    value : None, int or what else `Generator` takes, optional
        None seeds from the operating system.

    See Also
    --------
    default_generator : what it seeds.

    Examples
    --------
    >>> import numpy as np, fastdrop as fd
    >>> fd.seed(0)
    >>> fd.dropout(np.ones(8, np.float32))
    array([2., 0., 2., 0., 2., 0., 2., 2.], dtype=float32)
    """
    global seeded_by_system
    default.set_state(as_seed(value, "seed"), 0)
    seeded_by_system = value is None


# One for ever, reseeded in place: no thread meets another that goes.
cdef Generator default = Generator()
cdef bint seeded_by_system = True


def _after_fork_in_child():
    if seeded_by_system:
        default.set_state(secrets.randbits(64), 0)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
