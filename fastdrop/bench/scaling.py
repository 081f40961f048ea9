"""The scaling over threads of one large array, next to a copy of its pieces in as many threads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict

import fastdrop as fd
from fastdrop.bench.contenders import COPY, FORWARD, Case, threaded_copy
from fastdrop.bench.measure import Effort, Stopwatch, measure

N_BYTES = 256 << 20
RATES = (0.5, 0.1)


class Point(TypedDict):
    """One curve at one number of threads, as in the JSON."""

    curve: str
    threads: int
    n_bytes: int
    median_s: float
    mad_s: float
    min_s: float
    gb_per_s: float
    speedup: float
    noisy: bool


def run(cpus: int, effort: Effort, step: Callable[[str], None] = lambda what: None) -> list[Point]:
    """Measure the curves at 1, 2, 4, ... and all processors."""
    step(f"scaling over {cpus} threads")
    counts = sorted({1 << k for k in range(cpus.bit_length()) if 1 << k <= cpus} | {cpus})
    cases = [Case.make("float32", p, N_BYTES // 4) for p in RATES]
    before = fd.get_num_threads()
    curves: list[tuple[str, int, Stopwatch]] = []
    for threads in counts:
        copy = COPY if threads == 1 else threaded_copy(threads)
        curves.append(("copy", threads, Stopwatch(copy, cases[0])))
        forward = replace(FORWARD, setup=f"fd.set_num_threads({threads})")
        for case in cases:
            curves.append((f"fastdrop p={case.p:g}", threads, Stopwatch(forward, case)))
    timings = measure([watch for _, _, watch in curves], effort)
    fd.set_num_threads(before)
    alone = {
        curve: timing.median
        for (curve, threads, _), timing in zip(curves, timings, strict=True)
        if threads == 1
    }
    return [
        {
            "curve": curve,
            "threads": threads,
            "n_bytes": N_BYTES,
            "median_s": timing.median,
            "mad_s": timing.mad,
            "min_s": timing.minimum,
            "gb_per_s": 2 * N_BYTES / timing.median / 1e9,
            "speedup": alone[curve] / timing.median,
            "noisy": timing.noisy,
        }
        for (curve, threads, _), timing in zip(curves, timings, strict=True)
    ]
