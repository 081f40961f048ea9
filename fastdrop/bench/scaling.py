"""The scaling over threads of arrays of several sizes, next to copies in as many threads."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypedDict

import numpy as np

import fastdrop as fd
from fastdrop.bench.contenders import (
    COPY,
    FORWARD,
    Case,
    Contender,
    Names,
    installed,
    threaded_copy,
)
from fastdrop.bench.environment import in_bytes
from fastdrop.bench.measure import Effort, Stopwatch, measure

SIZES = tuple(n << 20 for n in (1, 4, 16, 64, 256))
RATES = (0.5, 0.1)
STEPS = len(SIZES)


class Point(TypedDict):
    """One curve at one size and number of threads, as in the JSON."""

    curve: str
    threads: int
    n_bytes: int
    median_s: float
    mad_s: float
    min_s: float
    gb_per_s: float
    speedup: float  # over the same curve in one thread
    noisy: bool


def run(cpus: int, effort: Effort, step: Callable[[str], None] = lambda what: None) -> list[Point]:
    """Measure the curves at each size, and at 1, 2, 4, ... and all processors."""
    counts = sorted({1 << k for k in range(cpus.bit_length()) if 1 << k <= cpus} | {cpus})
    copies = {n: COPY if n == 1 else threaded_copy(n) for n in counts}
    before = fd.get_num_threads()
    points = []
    for n_bytes in SIZES:
        step(f"scaling over {cpus} threads: {in_bytes(n_bytes)}")
        points += _at_size(n_bytes, copies, effort)
    fd.set_num_threads(before)
    return points


def _at_size(n_bytes: int, copies: dict[int, Contender], effort: Effort) -> list[Point]:
    cases = [Case.make("float32", p, n_bytes // 4) for p in RATES]
    curves: list[tuple[str, int, Stopwatch]] = []
    for threads, copy in copies.items():
        curves.append(("copy", threads, Stopwatch(copy, cases[0])))
        if installed("torch"):
            curves.append(("torch copy", threads, Stopwatch(_torch_copy(threads), cases[0])))
        forward = replace(FORWARD, setup=f"fd.set_num_threads({threads})")
        for case in cases:
            curves.append((f"fastdrop p={case.p:g}", threads, Stopwatch(forward, case)))
    return _points(n_bytes, curves, effort)


def _points(
    n_bytes: int, curves: Sequence[tuple[str, int, Stopwatch]], effort: Effort
) -> list[Point]:
    timings = measure([watch for _, _, watch in curves], effort)
    alone = {
        curve: timing.median
        for (curve, threads, _), timing in zip(curves, timings, strict=True)
        if threads == 1
    }
    return [
        {
            "curve": curve,
            "threads": threads,
            "n_bytes": n_bytes,
            "median_s": timing.median,
            "mad_s": timing.mad,
            "min_s": timing.minimum,
            "gb_per_s": 2 * n_bytes / timing.median / 1e9,
            "speedup": alone[curve] / timing.median,
            "noisy": timing.noisy,
        }
        for (curve, threads, _), timing in zip(curves, timings, strict=True)
    ]


def _torch_copy(threads: int) -> Contender:
    """Return PyTorch's copy, over its own pool of so many threads."""
    torch = importlib.import_module("torch")

    def names(case: Case) -> Names:
        x, y = torch.from_numpy(case.x), torch.from_numpy(case.y)
        return {"torch": torch, "x": x, "y": y}

    def as_array(value: Any, case: Case) -> np.ndarray[Any, Any]:
        return case.y

    return Contender(
        f"torch-copy-{threads}",
        f"torch copy, {threads} threads",
        "y.copy_(x)",
        names,
        "copy",
        setup=f"torch.set_num_threads({threads})",
        as_array=as_array,
    )
