"""Stream v1 in plain NumPy: the oracle of the tests, readable first.

Nothing here is fast, and nothing in the package imports it. The specification is in docs/stream.md;
the generator is Philox4x32-10 of Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy
as 1, 2, 3", SC 2011.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

TAIL, SPAWN, NORMAL = 8, 9, 10

_LOW = np.uint64(0xFFFFFFFF)
_32 = np.uint64(32)


def philox4x32(counter, key):
    """Ten rounds of Philox4x32.

    Parameters
    ----------
    counter : sequence of 4 array_like of int
        32-bit words, broadcast against each other.
    key : tuple of 2 int
        32-bit words.

    Returns
    -------
    tuple of 4 ndarray of uint64
        The 32-bit words of each block.
    """
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    k0, k1 = key
    for _ in range(10):
        p0 = np.uint64(0xD2511F53) * c0
        p1 = np.uint64(0xCD9E8D57) * c2
        c0 = (p1 >> _32) ^ c1 ^ np.uint64(k0)
        c1 = p1 & _LOW
        c2 = (p0 >> _32) ^ c3 ^ np.uint64(k1)
        c3 = p0 & _LOW
        k0 = (k0 + 0x9E3779B9) % 2**32
        k1 = (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


def block(seed, position, tag, number):
    """Words of the blocks ``number`` (array of uint64) of one tag; shape (4, ...)."""
    number = np.asarray(number, np.uint64)
    counter = (
        number & _LOW,
        np.uint64(tag << 24) | (number >> _32),
        position % 2**32,
        position // 2**32,
    )
    return np.stack(philox4x32(counter, (seed % 2**32, seed // 2**32)))


def uniform(seed, position, index):
    """Return the 40-bit uniform numbers of the elements ``index`` (array of uint64)."""
    index = np.asarray(index, np.uint64)
    lanes = np.arange(index.size)
    u = np.zeros(index.size, np.uint64)
    for plane in range(8):
        words = block(seed, position, plane, index // np.uint64(128))
        bit = index % np.uint64(128)
        word = words[(bit // np.uint64(32)).astype(int), lanes]
        u = u << np.uint64(1) | (word >> bit % np.uint64(32) & np.uint64(1))
    words = block(seed, position, TAIL, index // np.uint64(4))
    return u << _32 | words[(index % np.uint64(4)).astype(int), lanes]


def drop_threshold(p):
    """``round_half_even(p * 2**40)``, exact from the double."""
    return round(Fraction(float(p)) * 2**40)


def keep(seed, position, index, p):
    """Whether each of the elements ``index`` is kept."""
    return uniform(seed, position, index) >= np.uint64(drop_threshold(p))


def keep_range(seed, position, start, n, p):
    """Whether elements start .. start+n-1 are kept."""
    return keep(seed, position, np.uint64(start) + np.arange(n, dtype=np.uint64), p)


def keep_array(seed, position, shape, p, noise_shape=None):
    """Keep bits of a whole mask, broadcast to ``shape``."""
    noise_shape = shape if noise_shape is None else noise_shape
    bits = keep_range(seed, position, 0, int(np.prod(noise_shape, dtype=object)), p)
    return np.broadcast_to(bits.reshape(noise_shape), shape)


def dropout(x, kept, scale):
    """``x * scale`` where kept and +0.0 elsewhere; 16-bit types by way of float32."""
    real = np.float64 if x.dtype == np.float64 else np.float32
    with np.errstate(all="ignore"):
        return np.where(kept, x.astype(real) * real(scale), real(0)).astype(x.dtype)


def spawn_seed(seed, position, child):
    """Seed of the child of a generator that spawned at ``position``."""
    words = block(seed, position, SPAWN, child)
    return int(words[0]) | int(words[1]) << 32


def _polynomial(x, coefficients):
    """Horner's rule in float32, coefficients from the highest on."""
    total = np.float32(coefficients[0])
    for c in coefficients[1:]:
        total = total * x + np.float32(c)
    return total


def normal_of(words):
    """Return the standard normal numbers, float32, of 32-bit words; see docs/stream.md."""
    w = np.asarray(words, np.uint64).astype(np.uint32)
    inner = (w >> np.uint32(30) & np.uint32(1)).astype(bool)
    k = np.where(inner, ~w, w) & np.uint32(0x3FFFFFFF)
    v = (k.astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-32)

    centre = (298.655151, 34.9834328, 16.0876293, 5.76608944, 2.62497067, 2.50662827)
    z_inner = _polynomial(v * v, centre) * v

    bits = v.view(np.uint32).astype(np.int64)
    linear = (0x3E800000 - bits).astype(np.float32) * np.float32(2.0**-23)
    f = ((bits & 0x7FFFFF) | 0x3F800000).astype(np.uint32).view(np.float32) - np.float32(1)
    rest = (
        *(0.00908890367, -0.0511344187, 0.135926902, -0.240410224, 0.346548557),
        *(-0.478464216, 0.721132219, -0.442687601, -4.2314543e-08),
    )
    y = linear + _polynomial(f, rest)
    top = (1.53951023e-05, 0.00213019317, 0.0560035296, 0.4262366, 1.04673743, 0.674489796)
    bottom = (3.86176907e-07, 0.000200097536, 0.0113141797, 0.162408754, 0.743418336, 1.0)
    z_outer = _polynomial(y, top) / _polynomial(y, bottom)

    z = np.where(inner, z_inner, z_outer)
    return np.where(w >> np.uint32(31), -z, z)


def normal(seed, position, index):
    """Return the standard normal numbers of the elements ``index`` (array of uint64)."""
    index = np.asarray(index, np.uint64)
    words = block(seed, position, NORMAL, index // np.uint64(4))
    return normal_of(words[(index % np.uint64(4)).astype(int), np.arange(index.size)])


def noisy(x, z, sd, additive):
    """``x + sd*z`` or ``x * (1 + sd*z)``; 16-bit types by way of float32."""
    real = np.float64 if x.dtype == np.float64 else np.float32
    noise = z.astype(real) * real(sd)
    with np.errstate(all="ignore"):
        wide = x.astype(real)
        return (wide + noise if additive else wide * (real(1) + noise)).astype(x.dtype)
