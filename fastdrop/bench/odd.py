"""Odd shapes: time for each element, against an aligned, contiguous array of as many elements."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TypedDict

import numpy as np

import fastdrop as fd
from fastdrop.bench.contenders import COPY, FORWARD, Case, Contender, Names
from fastdrop.bench.measure import Effort, Stopwatch, measure

ROWS, COLUMNS = 1000, 100
N = ROWS * COLUMNS
TILE = fd.kernels.TILE
RATES = (0.5, 0.1)
COPY_OF_COLUMNS = "    of which NumPy needs to copy it"
LIMIT = 2.0  # times the plain case: more is a cliff


class Shape(TypedDict):
    """One odd shape, as in the JSON."""

    shape: str
    p: float
    n: int
    ns_per_element: float
    ratio_to_plain: float
    noisy: bool


def run(effort: Effort, step: Callable[[str], None] = lambda what: None) -> list[Shape]:
    """Measure all odd shapes, float32, with ``out=``."""
    rows: list[Shape] = []
    for p in RATES:
        step(f"odd shapes p={p:g}")
        shapes = _shapes(p)
        timings = measure([Stopwatch(who, case) for _, who, case in shapes], effort)
        plain = timings[0].median / shapes[0][2].n
        for (name, _, case), timing in zip(shapes, timings, strict=True):
            seconds = timing.median / case.n
            rows.append(
                {
                    "shape": name,
                    "p": p,
                    "n": case.n,
                    "ns_per_element": seconds * 1e9,
                    "ratio_to_plain": seconds / plain,
                    "noisy": timing.noisy,
                }
            )
    return rows


def _shapes(p: float) -> list[tuple[str, Contender, Case]]:
    """Return name, contender and case of each; the plain one first."""
    plain = Case.make("float32", p, N)
    tiles = Case.make("float32", p, N // TILE * TILE + 1)
    wide = Case.make("float32", p, N + 1)
    shifted = replace(plain, x=wide.x[1:], y=wide.y[1:])
    rows = replace(plain, x=plain.x.reshape(ROWS, COLUMNS), y=plain.y.reshape(ROWS, COLUMNS))
    columns = replace(rows, x=np.asfortranarray(rows.x))
    gen = fd.Generator(0)
    middle = _window(gen.mask(2 * N, p)[77 : 77 + N])
    wider = _window(gen.mask((ROWS, 4096), p)[:, 37 : 37 + COLUMNS])
    return [
        (f"{N} elements, contiguous and aligned", FORWARD, plain),
        ("x and y one element into their buffers", FORWARD, shifted),
        (f"n = {TILE} k + 1", FORWARD, tiles),
        ("a window from the middle of a block on", middle, plain),
        (f"{ROWS} rows of {COLUMNS} of a mask of 4096 columns", wider, rows),
        (f"x in Fortran order, {ROWS} x {COLUMNS}", FORWARD, columns),
        (COPY_OF_COLUMNS, COPY, columns),
    ]


def _window(mask: fd.Mask) -> Contender:
    def names(case: Case) -> Names:
        return {"mask": mask, "x": case.x, "y": case.y}

    return Contender("fastdrop-window", "window", "mask.apply(x, out=y)", names)
