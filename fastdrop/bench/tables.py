"""The tables: every contender over sizes from 16 elements to four times the last-level cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypedDict

from fastdrop.bench import environment
from fastdrop.bench.contenders import Case, Contender, dtype_of
from fastdrop.bench.measure import Effort, Stopwatch, Timing, measure

SMALLEST = 16
STEP = 4


class Row(TypedDict):
    """One contender at one case, as in the JSON. Times are of one call."""

    contender: str
    dtype: str
    p: float
    n: int
    n_bytes: int
    median_s: float
    mad_s: float
    min_s: float
    rounds: int
    repeats: int
    ns_per_element: float
    gb_per_s: float
    ratio_to_copy: float
    noisy: bool


def default_sizes(dtype: str) -> list[int]:
    """Return numbers of elements up to four times the last-level cache, as memory permits."""
    itemsize = dtype_of(dtype).itemsize
    sizes = [SMALLEST]
    while sizes[-1] * itemsize < 4 * environment.last_level():
        sizes.append(sizes[-1] * STEP)
    return [n for n in sizes if n * itemsize <= environment.memory() // 16]


def run(
    dtype: str,
    p: float,
    sizes: Sequence[int],
    contenders: Sequence[Contender],
    effort: Effort,
    step: Callable[[str], None] = lambda what: None,
) -> list[Row]:
    """Measure one table.

    Parameters
    ----------
    dtype, p, sizes
        The cases.
    contenders : sequence of Contender
        The first is the copy that the others are compared with.
    effort : Effort
        How long.
    step : callable, optional
        Told, before each size, what is measured.

    Returns
    -------
    list of Row
    """
    rows = []
    for n in sizes:
        step(f"{dtype} p={p:g} {environment.in_elements(n)}")
        case = Case.make(dtype, p, n)
        who = [contender for contender in contenders if contender.takes(case)]
        timings = measure([Stopwatch(contender, case) for contender in who], effort)
        rows += [
            _row(contender, case, timing, timings[0])
            for contender, timing in zip(who, timings, strict=True)
        ]
    return rows


def _row(contender: Contender, case: Case, timing: Timing, copy: Timing) -> Row:
    return {
        "contender": contender.name,
        "dtype": case.dtype,
        "p": case.p,
        "n": case.n,
        "n_bytes": case.n_bytes,
        "median_s": timing.median,
        "mad_s": timing.mad,
        "min_s": timing.minimum,
        "rounds": timing.rounds,
        "repeats": timing.repeats,
        "ns_per_element": timing.median * 1e9 / case.n,
        "gb_per_s": contender.bytes_moved(case) / timing.median / 1e9,
        "ratio_to_copy": timing.median / copy.median,
        "noisy": timing.noisy,
    }
