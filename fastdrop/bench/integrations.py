"""What fastdrop costs where it is called from other libraries: PyTorch, thinc, Dask."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

import fastdrop as fd
from fastdrop.bench.contenders import Case, Contender, Names, installed, library, wrong_rate
from fastdrop.bench.measure import Effort, Timing, measure_case
from fastdrop.bench.targets import Target

RATES = (0.5, 0.1)
MIB = 1 << 20
SMALL = 16  # elements
GRADIENTS = 10  # in a row: of one alone, what the contender before left in the caches is half
GRADIENT_MUST = {0.5: 20.0, 0.1: 12.0}  # times as fast as PyTorch, forward and backward
OVERHEAD_MUST = 15.0  # microseconds that a call of fastdrop.torch may take over one on the array
MASKS = ((30, 96), (100, 96), (2000, 96), (1024, 1024))  # words of a batch by width, and 4 MiB
MASKS_MUST = 8.0  # times as fast as thinc
# of 4 MiB: shape of the whole, where the block starts, its shape; at most so many plain calls
BLOCKS = (
    ((65536, 1024), (1024, 0), (1024, 1024), 1.1),
    ((8192, 8192), (1024, 4096), (256, 4096), 1.1),
    ((8192, 8192), (1024, 3072), (1024, 1024), 1.15),
)
STEPS = 3 * len(RATES)  # that `run` tells of

EXPRESSIONS = {
    "torch, gradient": "steps(F.dropout)",
    "fastdrop.torch, gradient": "steps(fdt.dropout)",
    "on the array": "fd.dropout(x, p, rng=gen)",
    "fastdrop.torch": "fdt.dropout(t, p)",
    "fastdrop.torch, recorded": "fdt.dropout(leaf, p)",
    "operator": "torch.ops.fastdrop.drop(t, seed, p, 'plain', 0)",
    "thinc": "stock.get_dropout_mask(shape, p)",
    "FastdropOps": "ops.get_dropout_mask(shape, p)",
    "FastdropOps, rng=": "ops_rng.get_dropout_mask(shape, p)",
    "copy": "x.copy()",
    "block": "whole[block].apply(x)",
}


class Figure(Target):
    """One figure, as in the JSON: None where the library is not installed."""

    by_minimum: float | None  # what is measured, of the minima
    unit: str  # "x", or "us" where it is a difference
    microseconds: float | None  # of fastdrop, a call


def run(effort: Effort, step: Callable[[str], None] = lambda what: None) -> list[Figure]:
    """Measure every figure on one thread."""
    found: list[Figure] = []
    for p in RATES:
        step(f"integrations: PyTorch p={p}")
        found += _torch(p, effort)
    for p in RATES:
        step(f"integrations: thinc p={p}")
        found += _thinc(p, effort)
    for p in RATES:
        step(f"integrations: Dask p={p}")
        found += _dask(p, effort)
    return found


Wrong = Callable[[Any, Case], str]


def _contender(title: str, names: Names, wrong: Wrong) -> Contender:
    return Contender(
        f"fastdrop-{title}", title, EXPRESSIONS[title], lambda _: dict(names), wrong=wrong
    )


def _time(who: list[Contender], case: Case, effort: Effort) -> dict[str, Timing]:
    return measure_case({contender.title: contender for contender in who}, case, effort)


def _figure(
    case: str,
    timings: dict[str, Timing],
    above: str,
    below: str,
    must: float | None,
    *,
    at_least: bool = False,
    unit: str = "x",
) -> Figure:
    """Return one time over another, or their difference; of nothing, where nothing was timed."""
    a, b = timings.get(above), timings.get(below)
    if a is None or b is None:
        measured = by_minimum = microseconds = None
    else:
        measured, by_minimum = (
            1e6 * (x - y) if unit == "us" else x / y
            for x, y in ((a.median, b.median), (a.minimum, b.minimum))
        )
        microseconds = 1e6 * (b if at_least else a).median
    return {
        "case": case,
        "measured": measured,
        "by_minimum": by_minimum,
        "must": must,
        "goal": None,
        "at_least": at_least,
        "noisy": any(t is not None and t.noisy for t in (a, b)),
        "unit": unit,
        "microseconds": microseconds,
    }


def wrong_multiples(value: Any, case: Case, of: Any = 1) -> str:
    """Say what is wrong with what should be ``of * scale`` where kept and 0 elsewhere."""
    value = np.asarray(value)
    kept = value != 0
    if not np.allclose(value, np.where(kept, of * case.scale, 0), rtol=1e-6, atol=0):
        return f"kept elements are not {case.scale:.6g} times what they were"
    return wrong_rate(kept, case.p)


def _dropped(value: Any, case: Case) -> str:
    return wrong_multiples(value, case, case.x)


# ---- PyTorch -------------------------------------------------------------------------------------


def _torch(p: float, effort: Effort) -> list[Figure]:
    n = MIB // 4
    gradient, forward = {}, {}
    if installed("torch"):
        torch, fdt = library("torch"), library("fastdrop.torch")
        torch.set_num_threads(1)
        gradient = _time(_gradients(torch, fdt, p, n), Case.make("float32", p, n), effort)
        forward = {size: _forward(torch, fdt, p, size, effort) for size in (SMALL, n)}
    found = [
        _figure(
            f"p={p}: 1 MiB, {GRADIENTS} gradients, torch / fastdrop.torch",
            gradient,
            "torch, gradient",
            "fastdrop.torch, gradient",
            GRADIENT_MUST[p],
            at_least=True,
        )
    ]
    for size, at in ((SMALL, f"{SMALL} elements"), (n, "1 MiB")):
        for who, must in (
            ("fastdrop.torch", OVERHEAD_MUST),
            ("fastdrop.torch, recorded", OVERHEAD_MUST),
            ("operator", None),
        ):
            label, timings = f"p={p}: {at}, {who} - on the array", forward.get(size, {})
            found.append(_figure(label, timings, who, "on the array", must, unit="us"))
    return found


def _gradients(torch: Any, fdt: Any, p: float, n: int) -> list[Contender]:
    t, ones = torch.ones(n, requires_grad=True), torch.ones(n)

    def steps(dropout: Any) -> Any:
        for _ in range(GRADIENTS):
            t.grad = None
            dropout(t, p).backward(ones)
        return t.grad

    names = {"steps": steps, "F": library("torch.nn.functional"), "fdt": fdt}
    titles = ("torch, gradient", "fastdrop.torch, gradient")
    return [_contender(title, names, wrong_multiples) for title in titles]


def _forward(torch: Any, fdt: Any, p: float, n: int, effort: Effort) -> dict[str, Timing]:
    case = Case.make("float32", p, n)
    t = torch.from_numpy(case.x)
    names = {
        "fd": fd,
        "fdt": fdt,
        "torch": torch,
        "x": case.x,
        "t": t,
        "leaf": t.clone().requires_grad_(),
        "p": p,
        "gen": fd.Generator(0),
        "seed": torch.tensor(1),
    }
    titles = ("on the array", "fastdrop.torch", "fastdrop.torch, recorded", "operator")

    def wrong(value: Any, case: Case) -> str:
        return _dropped(value.detach() if hasattr(value, "detach") else value, case)

    return _time([_contender(title, names, wrong) for title in titles], case, effort)


# ---- thinc ---------------------------------------------------------------------------------------


def _thinc(p: float, effort: Effort) -> list[Figure]:
    found = []
    for shape in MASKS:
        timings = _masks(shape, p, effort) if installed("thinc") else {}
        for ours in ("FastdropOps", "FastdropOps, rng="):
            label = f"p={p}: mask {shape}, thinc / {ours}"
            found.append(_figure(label, timings, "thinc", ours, MASKS_MUST, at_least=True))
        label = f"p={p}: mask {shape}, FastdropOps, rng= / copy"
        found.append(_figure(label, timings, "FastdropOps, rng=", "copy", None))
    return found


def _masks(shape: tuple[int, int], p: float, effort: Effort) -> dict[str, Timing]:
    case = Case.make("float32", p, shape[0] * shape[1])
    own = library("fastdrop.thinc").FastdropOps
    names = {
        "stock": library("thinc.api").NumpyOps(),
        "ops": own(),
        "ops_rng": own(rng=fd.Generator(0)),
        "shape": shape,
        "p": p,
        "x": case.x,
    }
    who = [
        _contender(title, names, wrong_multiples)
        for title in ("thinc", "FastdropOps", "FastdropOps, rng=")
    ]
    return _time([*who, _contender("copy", names, lambda value, case: "")], case, effort)


# ---- Dask ----------------------------------------------------------------------------------------


def _dask(p: float, effort: Effort) -> list[Figure]:
    """Measure what the task of a block does, which needs no Dask, against the plain call."""
    found = []
    for shape, start, size, must in BLOCKS:
        case = Case.make("float32", p, size[0] * size[1])
        gen = fd.Generator(0)
        names = {
            "fd": fd,
            "x": case.x.reshape(size),
            "p": p,
            "gen": gen,
            "whole": gen.mask(shape, p),
            "block": tuple(slice(a, a + n) for a, n in zip(start, size, strict=True)),
        }

        def wrong(value: Any, case: Case) -> str:
            return _dropped(value.ravel(), case)

        who = [_contender(title, names, wrong) for title in ("on the array", "block")]
        timings = _time(who, case, effort)
        label = f"p={p}: block {size} of {shape} / plain call"
        found.append(_figure(label, timings, "block", "on the array", must))
    return found
