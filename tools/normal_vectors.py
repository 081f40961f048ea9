"""Make the known answers of the stream's normal numbers, by other hands than src/ and fastdrop/.

    pip install randomgen
    python tools/normal_vectors.py > fastdrop/data/normal_v1.json

The words are randomgen's. The arithmetic is that of src/fd_normal_tpl.h in exact rational numbers,
each result rounded to the nearest float32, ties to even, so that no floating-point unit has a say.

"runs" are consecutive elements. "words" are elements that happen to have chosen words: Philox is
turned round until a counter of the tag has that word.
"""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterator
from fractions import Fraction

from randomgen import Philox

TAG = 10
M0, M1, W0, W1 = 0xD2511F53, 0xCD9E8D57, 0x9E3779B9, 0xBB67AE85
LOW = 2**32 - 1
WORDS_SEED = 20260401

NOTE = (
    "standard normal numbers of elements start..start+n-1, float32 bits in hexadecimal; words: of "
    "single elements, whose 32 bits of the stream are word. Made by tools/normal_vectors.py."
)


# ---- float32 in rational numbers -----------------------------------------------------------------


def rounded(q: Fraction) -> Fraction:
    """To float32. No result here overflows."""
    if q == 0:
        return q
    exponent = abs(q.numerator).bit_length() - q.denominator.bit_length()
    if abs(q) < Fraction(2) ** exponent:
        exponent -= 1
    unit = Fraction(2) ** max(exponent - 23, -149)
    return round(q / unit) * unit  # round() is exact: to the nearest integer, ties to even


def add(a: Fraction, b: Fraction) -> Fraction:
    return rounded(a + b)


def multiply(a: Fraction, b: Fraction) -> Fraction:
    return rounded(a * b)


def divide(a: Fraction, b: Fraction) -> Fraction:
    return rounded(a / b)


def hexadecimal(q: Fraction) -> str:
    value = float(q)
    assert Fraction(value) == q == rounded(q)
    return struct.pack(">f", value).hex()


# ---- the normal number of a word -----------------------------------------------------------------


def coefficients(text: str) -> list[Fraction]:
    """From the highest power on."""
    return [rounded(Fraction(c)) for c in text.split()]


CENTRE = coefficients("298.655151 34.9834328 16.0876293 5.76608944 2.62497067 2.50662827")
REST = coefficients(
    "0.00908890367 -0.0511344187 0.135926902 -0.240410224 0.346548557 -0.478464216"
    " 0.721132219 -0.442687601 -4.2314543e-08"
)
TOP = coefficients("1.53951023e-05 0.00213019317 0.0560035296 0.4262366 1.04673743 0.674489796")
BOTTOM = coefficients("3.86176907e-07 0.000200097536 0.0113141797 0.162408754 0.743418336 1")


def polynomial(c: list[Fraction], x: Fraction) -> Fraction:
    result = c[0]
    for coefficient in c[1:]:
        result = add(multiply(result, x), coefficient)
    return result


def normal(word: int) -> Fraction:
    sign = -1 if word >> 31 else 1
    inner = word >> 30 & 1
    m = word % 2**30
    k = rounded(Fraction(2**30 - 1 - m if inner else m))
    v = multiply(add(k, Fraction(1, 2)), Fraction(1, 2**32))
    if inner:
        return sign * multiply(polynomial(CENTRE, multiply(v, v)), v)
    # 4v = 2^-whole (1 + f), 0 <= f < 1
    whole, f = 0, 4 * v
    while f < 1:
        whole, f = whole + 1, 2 * f
    f -= 1
    linear = rounded(whole - f)
    y = add(linear, polynomial(REST, f))
    return sign * divide(polynomial(TOP, y), polynomial(BOTTOM, y))


# ---- the words of the stream ---------------------------------------------------------------------


def words(seed: int, position: int, start: int, n: int) -> list[int]:
    first = start // 4
    counter = position << 64 | TAG << 56 | first
    blocks = (start + n - 1) // 4 - first + 1
    # it steps before its first block
    source = Philox(key=seed, counter=(counter - 1) % 2**128, number=4, width=32)
    drawn = source.random_raw(4 * blocks)
    return [int(w) for w in drawn[start % 4 : start % 4 + n]]


def counter_of(c: list[int], seed: int) -> list[int]:
    """The counter words whose block is ``c``: Philox backwards."""
    i0, i1 = pow(M0, -1, 2**32), pow(M1, -1, 2**32)
    for step in reversed(range(10)):
        k0, k1 = (seed + step * W0) & LOW, ((seed >> 32) + step * W1) & LOW
        before0, before2 = c[3] * i0 & LOW, c[1] * i1 & LOW
        p0, p1 = M0 * before0, M1 * before2
        c = [before0, p1 >> 32 ^ c[0] ^ k0, before2, p0 >> 32 ^ c[2] ^ k1]
    return c


def place_of(word: int, rng: random.Random) -> tuple[int, int]:
    """Return a position and an element, any, that has this word."""
    lane = rng.randrange(4)
    while True:
        block = [rng.getrandbits(32) for _ in range(4)]
        block[lane] = word
        c = counter_of(block, WORDS_SEED)
        if c[1] >> 24 == TAG:
            return c[2] | c[3] << 32, 4 * (c[0] | (c[1] & 0xFFFFFF) << 32) + lane


# ---- what is in the file -------------------------------------------------------------------------

STREAMS = [
    (0, 0),
    (42, 0),
    (1, 2**32),
    (2**64 - 1, 2**64 - 1),
    (0x9E3779B97F4A7C15, 1),
    (0xA4093822299F31D0, 0x13198A2E03707344),
    (7, 2**32 - 1),
]
CARRY = 2**34  # elements in 2^32 blocks
STARTS = [
    (0, 130),
    (0, 1),
    (1, 64),
    (2, 3),
    (3, 64),
    (31, 65),
    (63, 66),
    (64, 64),
    (1000003, 64),
    (CARRY - 64, 64),
    (CARRY - 33, 64),
    (CARRY - 1, 2),
    (CARRY, 64),
    (5 * CARRY - 31, 64),
    (2**39 - 5, 64),
    (2**50 + 12345, 64),
    (2**57 - 63, 128),
    (2**58 - CARRY - 17, 64),
    (2**58 - 64, 64),
    (2**58 - 61, 61),
    (2**58 - 1, 1),
]


def runs() -> Iterator[dict]:
    for i, (start, n) in enumerate(STARTS):
        for j in (0, 3) if n > 3 else (0,):
            seed, position = STREAMS[(i + j) % len(STREAMS)]
            z = " ".join(hexadecimal(normal(w)) for w in words(seed, position, start, n))
            yield {"seed": seed, "position": position, "start": start, "n": n, "normals": z}


# k, found by search, whose numbers tell each coefficient from its two neighbours among the floats;
# but the logarithm's constant, which no word of all does, from 0
OUTER = "5 7 9 25 33 63 196 216 305 309 994 1567 1943 11551 29723 63823 595038208 595038241"
OUTER += " 595038304 595039521"
INNER = "595038688 595039968 713738785 848518880 942788257 945337440 945339488 950731744"
INNER += " 1024015265 1066095777"


def chosen() -> list[int]:
    """Return words on both sides of every place where the formula changes, of both signs."""
    seam, last = 2**30, 2**31 - 1
    near = [0, 1, 2, 3, 5, 10, 31, 99, 256, 500, 761, 999]
    m = [a for d in near for a in (d, seam - 1 - d, seam + d, last - d)]
    for e in range(2, 30):  # where v changes its exponent
        m += [2**e - 1, 2**e, last - 2**e, last - 2**e + 1]
    # integers halfway between floats, with and without the half that is added
    m += [2**23, 2**23 + 1, 2**24 + 1, 2**24 + 3, 2**25 + 2, 2**25 + 6, 2**29 + 32, 2**29 + 96]
    m += [last - a for a in m[-8:]]
    m += [*map(int, OUTER.split()), *(last - int(k) for k in INNER.split())]
    rng = random.Random(1)
    m += [rng.getrandbits(31) for _ in range(12)]
    words = {a | i % 2 << 31 for i, a in enumerate(dict.fromkeys(m))}
    words |= {a | sign for a in (*near[:4], seam - 1, seam, last) for sign in (0, 2**31)}
    return sorted(words)


def singles() -> Iterator[dict]:
    rng = random.Random(2)
    for word in chosen():
        position, start = place_of(word, rng)
        assert words(WORDS_SEED, position, start, 1) == [word]
        v = {"seed": WORDS_SEED, "position": position, "start": start, "n": 1}
        yield {"word": f"{word:08x}", **v, "normals": hexadecimal(normal(word))}


def lines(vectors: Iterator[dict]) -> str:
    return ",\n".join(map(json.dumps, vectors))


def main() -> None:
    print(f'{{\n"stream": 1,\n"note": {json.dumps(NOTE)},')
    print(f'"runs": [\n{lines(runs())}\n],\n"words": [\n{lines(singles())}\n]\n}}')


if __name__ == "__main__":
    main()
