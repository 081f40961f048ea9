"""The figures that fastdrop is held to: what must not be exceeded, and the goal."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypedDict

import numpy as np

import fastdrop as fd
from fastdrop.bench.contenders import (
    BACKWARD,
    BITS,
    COPY,
    FORWARD,
    IN_PLACE,
    NUMPY,
    Case,
    Contender,
    installed,
    rivals,
)
from fastdrop.bench.environment import cpu_model
from fastdrop.bench.measure import Effort, Stopwatch, Timing, measure

RATES = (0.5, 0.1)
MIB = 1 << 20


class Target(TypedDict):
    """One figure, as in the JSON: at most `must`, where `at_least` says so at least."""

    case: str
    measured: float | None
    must: float | None
    goal: float | None
    at_least: bool
    noisy: bool


DOUBLE = Contender(
    "multiply",
    "np.multiply",
    "np.multiply(x, 2.0, out=y)",
    lambda case: {"np": np, "x": case.x, "y": case.y},
    "double",
)


class _Group:
    """Contenders that were timed against each other, and what they took an element."""

    def __init__(self, who: dict[str, tuple[Contender, Case]], effort: Effort) -> None:
        watches = [Stopwatch(contender, case) for contender, case in who.values()]
        self.timings: dict[str, Timing] = dict(zip(who, measure(watches, effort), strict=True))
        self.sizes = {name: case.n for name, (_, case) in who.items()}

    def target(
        self,
        case: str,
        above: str,
        below: str,
        must: float | None,
        goal: float | None,
        *,
        at_least: bool = False,
    ) -> Target:
        """Return what one took an element as a multiple of what another did."""
        names = [name for pair in (above, below) for name in pair.split("/")]
        known = all(name in self.timings for name in names)
        return {
            "case": case,
            "measured": self._of(above) / self._of(below) if known else None,
            "must": must,
            "goal": goal,
            "at_least": at_least,
            "noisy": known and any(self.timings[name].noisy for name in names),
        }

    def _of(self, name: str) -> float:
        """Seconds an element, or the ratio of two, as in ``forward/copy``."""
        first, _, second = name.partition("/")
        seconds = self.timings[first].median / self.sizes[first]
        return seconds / self._of(second) if second else seconds


def run(effort: Effort, step: Callable[[str], None] = lambda what: None) -> list[Target]:
    """Measure every figure on one thread."""
    step("targets: 16 elements")
    tiny = Case.make("float32", 0.5, 16)
    group = _Group({"forward": (FORWARD, tiny), "multiply": (DOUBLE, tiny)}, effort)
    found = [group.target("16 elements / np.multiply", "forward", "multiply", 2.0, 1.2)]
    step("targets: 64 KiB p=0.1")
    found += _in_cache(effort)
    for p in RATES:
        step(f"targets: 1 MiB p={p}")
        found += _one_mib(p, effort)
    for p in RATES:
        step(f"targets: 64 MiB p={p}")
        found += _out_of_cache(p, effort)
    for p in RATES:
        step(f"targets: 256 MiB p={p}")
        found += _large(p, effort)
    return found


def _on_intel() -> bool:
    """Whether the bounds are those for Intel's processors, whose copies from memory are faster."""
    return "intel" in cpu_model().lower()


def _in_cache_limits() -> tuple[float, float]:
    """Limits of p = 0.1. On Intel AVX2 is held to copies of twice its width."""
    return 3.0 if _on_intel() and fd.get_isa() == "avx2" else 2.2, 1.6


def _in_cache(effort: Effort) -> list[Target]:
    case = Case.make("float32", 0.1, MIB // 16 // 4)
    of = _Group({"copy": (COPY, case), "f32": (FORWARD, case)}, effort).target
    return [of("64 KiB p=0.1: forward / copy", "f32", "copy", *_in_cache_limits())]


def _one_mib(p: float, effort: Effort) -> list[Target]:
    at = f"1 MiB p={p}:"
    case, who = _all_dtypes(p, MIB)
    who["bits"] = BITS, case
    who["numpy"] = NUMPY, case
    if installed("torch"):
        who["torch"] = rivals("torch", 1)[0], case
    of = _Group(who, effort).target
    half = p == 0.5
    return [
        of(f"{at} forward / copy", "f32", "copy", *((1.4, 1.1) if half else _in_cache_limits())),
        of(f"{at} backward / forward", "backward", "f32", 1.05, 1.05),
        of(f"{at} bits alone / forward", "bits", "f32", *((0.3, 0.2) if half else (0.8, 0.6))),
        of(f"{at} float16 / float32", "f16", "f32", 1.5, 1.0),
        of(f"{at} bfloat16 / float32", "bf16", "f32", 1.5, 1.0),
        of(f"{at} float64 / copy, over float32's", "f64/copy64", "f32/copy", 1.3, None),
        of(f"{at} NumPy / fastdrop", "numpy", "f32", 15 if half else 10, None, at_least=True),
        of(f"{at} torch / fastdrop", "torch", "f32", 30, None, at_least=True),
    ]


def _out_of_cache(p: float, effort: Effort) -> list[Target]:
    case = Case.make("float32", p, 64 * MIB // 4)
    group = _Group({"copy": (COPY, case), "f32": (FORWARD, case)}, effort)
    must = {0.5: (0.7, 0.8), 0.1: (0.9, 1.0)}[p][_on_intel()]
    goal = {0.5: 0.6, 0.1: 0.75}[p]
    return [group.target(f"64 MiB p={p}: forward / copy", "f32", "copy", must, goal)]


def from_memory(p: float) -> float:
    """Return the limit of dropout of arrays that no cache holds, times copying."""
    return {0.5: (1.1, 1.15), 0.1: (1.2, 1.3)}[p][_on_intel()]


def _large(p: float, effort: Effort) -> list[Target]:
    at = f"256 MiB p={p}:"
    case, who = _all_dtypes(p, 256 * MIB)
    who["in place"] = IN_PLACE, case
    of = _Group(who, effort).target
    half = p == 0.5
    in_place = {0.5: (1.0, 0.95), 0.1: (1.1, 1.2)}[p][_on_intel()]
    halves = (0.6, 0.5) if half else (0.7, 0.55)
    return [
        of(f"{at} forward / copy", "f32", "copy", from_memory(p), 1.0),
        of(f"{at} in place / copy", "in place", "copy", in_place, 0.85 if half else 0.95),
        of(f"{at} backward / forward", "backward", "f32", 1.05, 1.05),
        of(f"{at} float16 / float32", "f16", "f32", *halves),
        of(f"{at} bfloat16 / float32", "bf16", "f32", *halves),
        of(f"{at} float64 / copy, over float32's", "f64/copy64", "f32/copy", 1.3, None),
    ]


def _all_dtypes(p: float, n_bytes: int) -> tuple[Case, dict[str, tuple[Contender, Case]]]:
    """Return the float32 case and the contenders of arrays of as many bytes in every dtype."""
    case = Case.make("float32", p, n_bytes // 4)
    double = Case.make("float64", p, n_bytes // 8)
    who = {
        "copy": (COPY, case),
        "f32": (FORWARD, case),
        "backward": (BACKWARD, case),
        "copy64": (COPY, double),
        "f64": (FORWARD, double),
        "f16": (FORWARD, Case.make("float16", p, n_bytes // 2)),
    }
    if installed("ml_dtypes"):
        who["bf16"] = FORWARD, Case.make("bfloat16", p, n_bytes // 2)
    return case, who
