"""Results as text and as JSON, and the comparison with older ones."""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypedDict

from fastdrop.bench.contenders import Contender
from fastdrop.bench.environment import in_bytes, in_elements
from fastdrop.bench.family import EXPRESSIONS, NOISE_P, STDDEV, Figure
from fastdrop.bench.integrations import EXPRESSIONS as CALLS
from fastdrop.bench.integrations import Figure as Call
from fastdrop.bench.measure import NOISY
from fastdrop.bench.odd import COPY_OF_COLUMNS, LIMIT, Shape
from fastdrop.bench.scaling import Point
from fastdrop.bench.tables import Row
from fastdrop.bench.targets import Target
from fastdrop.bench.trainer import (
    BACKWARD,
    FORWARD,
    NUMPY_RELU,
    RELU,
    SHORT_UNIT,
    TORCH_CALLS,
    Trainer,
    step_us,
)
from fastdrop.bench.trainer import Row as TrainerRow

SCHEMA = 1
WORTH_SAYING = 0.05  # change of a figure from which a comparison lists it


class Results(TypedDict):
    """What one run found: the JSON file."""

    schema: int
    environment: dict[str, Any]
    titles: dict[str, str]  # of the contenders
    tables: list[Row]
    scaling: list[Point]
    odd: list[Shape]
    targets: list[Target]
    family: list[Figure]
    integrations: list[Call]
    trainer: Trainer


def save(results: Results, path: Path) -> None:
    """Write the JSON: all of it, or nothing."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with os.fdopen(handle, "w") as file:
            json.dump(results, file, indent=1)
            file.write("\n")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def load(path: Path) -> Results:
    """Read what `save` wrote.

    Raises
    ------
    OSError, ValueError
        If it cannot be read, or is something else.
    """
    try:
        results: Results = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(results, dict) or results.get("schema") != SCHEMA:
        raise ValueError(f"{path} is not a result of this benchmark, schema {SCHEMA}")
    results.setdefault("family", [])  # which older ones lack
    results.setdefault("integrations", [])
    results.setdefault("trainer", {"rows": [], "figures": []})
    return results


# ---- text ----------------------------------------------------------------------------------------


def figure(value: float) -> str:
    """Return a number in at most five characters, as in ``0.012`` or ``12.3``."""
    return f"{value:.{3 if value < 0.9995 else 2 if value < 9.995 else 1 if value < 99.95 else 0}f}"


def times(value: float) -> str:
    """Return a multiple, as in ``1.25x`` or ``133x``."""
    return f"{value:.{2 if value < 9.995 else 1 if value < 99.95 else 0}f}x"


def legend(contenders: Sequence[Contender]) -> str:
    """Return what is timed under each title."""
    width = max(len(c.title) for c in contenders)
    lines = [
        f"{c.title:{width}}  {c.expression}" + (f"  # {c.note}" if c.note else "")
        for c in contenders
    ]
    lines.append(
        "\nCells: ns an element, GB/s read and written, times np.copyto. Medians of samples of "
        "which the\ncontenders took one in turn; ~ marks what is too noisy to be trusted "
        f"(MAD above {NOISY:.0%} of the\nmedian), before a size that of np.copyto."
    )
    return "\n".join(lines)


def table(rows: Sequence[Row], titles: dict[str, str], width: int) -> str:
    """Return one table: a line a size, a column a contender, cut to the width of the terminal."""
    sizes = list(dict.fromkeys((row["n"], row["n_bytes"]) for row in rows))
    names = [name for name in titles if any(row["contender"] == name for row in rows)]
    at = {(row["n"], row["contender"]): row for row in rows}
    noisy = {n for n, _ in sizes if at[n, names[0]]["noisy"]}
    labels = [
        f"{'~' if n in noisy else ' '}{in_elements(n):>7} {in_bytes(n_bytes):>8}"
        for n, n_bytes in sizes
    ]
    columns = [
        [f"{titles[name]:>18}", *(_cell(at.get((n, name)), name != names[0]) for n, _ in sizes)]
        for name in names
    ]
    parts = []
    per_part = max(1, (width - len(labels[0])) // 20)
    for start in range(0, len(columns), per_part):
        chosen = columns[start : start + per_part]
        lines = zip(["", *labels], *chosen, strict=True)
        parts.append("\n".join(f"{label:17}  {'  '.join(c)}".rstrip() for label, *c in lines))
    return "\n\n".join(parts)


def _cell(row: Row | None, with_ratio: bool) -> str:
    if row is None:
        return f"{'-':>18}"
    ns = ("~" if row["noisy"] else "") + figure(row["ns_per_element"])
    ratio = times(row["ratio_to_copy"]) if with_ratio else ""
    return f"{ns:>6} {figure(row['gb_per_s']):>5} {ratio:>5}"


def scaling(points: Sequence[Point]) -> str:
    """Return the scaling over threads, size by size: GB/s, and times one thread."""
    curves = list(dict.fromkeys(point["curve"] for point in points))
    at = {(point["n_bytes"], point["threads"], point["curve"]): point for point in points}
    lines = [f"{'':10}{'threads':>8}" + "".join(f"{curve:>20}" for curve in curves)]
    for n_bytes, threads in dict.fromkeys((p["n_bytes"], p["threads"]) for p in points):
        cells = []
        for curve in curves:
            point = at[n_bytes, threads, curve]
            mark = "~" if point["noisy"] else ""
            cells.append(f"{mark}{figure(point['gb_per_s'])} GB/s {times(point['speedup']):>6}")
        size = in_bytes(n_bytes) if threads == 1 else ""
        lines.append(f"{size:>10}{threads:>8}" + "".join(f"{cell:>20}" for cell in cells))
    return "\n".join(lines)


def odd(shapes: Sequence[Shape]) -> str:
    """Return the odd shapes: ns an element, and times the plain case."""
    lines = []
    for shape in shapes:
        cliff = shape["ratio_to_plain"] > LIMIT and shape["shape"] != COPY_OF_COLUMNS
        verdict = f"  more than {LIMIT:g}x: a cliff" if cliff else ""
        ns = ("~" if shape["noisy"] else "") + figure(shape["ns_per_element"])
        lines.append(
            f"p={shape['p']:<4g} {shape['shape']:50} {ns:>6} ns"
            f"  {times(shape['ratio_to_plain']):>5}{verdict}"
        )
    return "\n".join(lines)


def targets(found: Sequence[Target]) -> str:
    """Return the figures with what they must not exceed, the goals, and how they fare."""
    lines = [f"{'':48} {'measured':>9} {'must':>7} {'goal':>7}  verdict"]
    for target in found:
        measured, must, goal = _measured(target), _limit(target, "must"), _limit(target, "goal")
        lines.append(f"{target['case']:48} {measured:>9} {must:>7} {goal:>7}  {verdict(target)}")
    return "\n".join(lines)


def family(found: Sequence[Figure]) -> str:
    """Return the family's figures with their bounds, and what was timed."""
    width = max(len(row["case"]) for row in found)
    lines = [f"{'':{width}} {'ns':>5} {'measured':>9} {'must':>7} {'NumPy':>6}  verdict"]
    for row in found:
        numpy = "-" if row["numpy"] is None else times(row["numpy"])
        lines.append(
            f"{row['case']:{width}} {figure(row['ns_per_element']):>5} {_measured(row):>9} "
            f"{_limit(row, 'must'):>7} {numpy:>6}  {verdict(row)}"
        )
    lines.append(
        "\nns: an element, of fastdrop. NumPy: what it takes for the same, in the unit of the line."
        f"\nIn place y is x. Gaussian noise: p = {NOISE_P}, sd = {STDDEV}.\n"
    )
    width = max(len(name) for name in EXPRESSIONS)
    lines += [f"{name:{width}}  {expression}" for name, expression in EXPRESSIONS.items()]
    return "\n".join(lines)


def integrations(found: Sequence[Call]) -> str:
    """Return the integrations' figures with their bounds, and what was timed."""
    width = max(len(row["case"]) for row in found)
    lines = [f"{'':{width}} {'us':>6} {'measured':>9} {'least':>9} {'must':>7}  verdict"]
    for row in found:
        us = "-" if row["microseconds"] is None else figure(row["microseconds"])
        noisy = "~" if row["noisy"] else ""
        median, least = (_in_unit(row[k], row["unit"]) for k in ("measured", "by_minimum"))
        lines.append(
            f"{row['case']:{width}} {us:>6} {noisy + median:>9} {least:>9} "
            f"{_limit(row, 'must'):>7}  {verdict(row)}"
        )
    lines.append(
        "\nus: microseconds a call of fastdrop's, median. least: the same figure of the minima."
        "\nx: times as long, or as fast; us: microseconds more. steps: 10 times t.grad = None and "
        "\nf(t, p).backward(ones). ops, ops_rng: FastdropOps without and with rng=Generator.\n"
    )
    width = max(len(name) for name in CALLS)
    lines += [f"{name:{width}}  {expression}" for name, expression in CALLS.items()]
    return "\n".join(lines)


def trainer(found: Trainer) -> str:
    """Return the calls inside a training step, a step's sums, and the figures with their bounds."""
    rows = found["rows"]
    shapes = list(dict.fromkeys(row["shape"] for row in rows))
    parts = [_trainer_shape([row for row in rows if row["shape"] == shape]) for shape in shapes]
    parts.append(targets(found["figures"]))
    names = FORWARD | {f"{k}, backward": v for k, v in BACKWARD.items()} | TORCH_CALLS
    width = max(map(len, names))
    parts.append(
        "cold: inside a training step. hot: in a loop. Microseconds, medians, and times h * 2 "
        "there.\nstep: forward and backward together, cold; of others also times the layer's, "
        f"where they\nhave a ReLU times that of {RELU}. 16 elements: hot, times {SHORT_UNIT}.\n\n"
        + "\n".join(f"{name:{width}}  {expression}" for name, expression in names.items())
    )
    return "\n\n".join(parts)


def _trainer_shape(rows: Sequence[TrainerRow]) -> str:
    shape = rows[0]["shape"]
    at = {row["call"]: row for row in rows}
    lines = [f"{shape:36} {'cold':>8} {'':>6} {'hot':>8} {'':>6}"]
    for call, row in at.items():
        way = call.rpartition(", ")[2]
        base = at.get(f"h * 2, {way}") or at[f"torch, h * 2, {way}"]
        cells = [f"{'~' if row['noisy'] else ''}{figure(row['cold_us'])}"]
        cells.append(times(row["cold_us"] / base["cold_us"]))
        if row["hot_us"] is not None and base["hot_us"] is not None:
            cells += [figure(row["hot_us"]), times(row["hot_us"] / base["hot_us"])]
        widths = (8, 6, 8, 6)
        text = " ".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=False))
        lines.append(f"{call:36} {text}")
    steps = [call.removesuffix(", forward") for call in at if call.endswith(", forward")]
    ours = step_us(rows, shape, "layer") or step_us(rows, shape, "fastdrop.torch")
    for name in steps:
        taken = step_us(rows, shape, name)
        unit = step_us(rows, shape, RELU) if name in NUMPY_RELU else ours
        if taken is not None and unit is not None:
            lines.append(f"{f'{name}, step':36} {figure(taken):>8} {times(taken / unit):>6}")
    return "\n".join(lines)


def _in_unit(value: float | None, unit: str) -> str:
    if value is None:
        return "-"
    return times(value) if unit == "x" else f"{value:.1f} us"


def _measured(target: Target) -> str:
    if target["measured"] is None:
        return "-"
    return ("~" if target["noisy"] else "") + times(target["measured"])


def _limit(target: Target, which: Literal["must", "goal"]) -> str:
    limit = target[which]
    return "-" if limit is None else f"{'>=' if target['at_least'] else '<='} {limit:g}"


def verdict(target: Target) -> str:
    """Return how a figure fares."""
    measured, must, goal = target["measured"], target["must"], target["goal"]
    if measured is None:
        return "not installed"
    sign = -1 if target["at_least"] else 1
    if goal is not None and sign * measured <= sign * goal:
        return "goal met"
    if must is None:
        return "no bound" if goal is None else "short of the goal"
    return "ok" if sign * measured <= sign * must else "MISSED"


# ---- comparison ----------------------------------------------------------------------------------


def compare(new: Results, old: Results, limit: float | None) -> tuple[str, bool]:
    """Compare fastdrop's rows of two runs, each as a multiple of the copy in its own run.

    Parameters
    ----------
    new, old : dict
        Results.
    limit : float or None
        Share by which a row may be slower.

    Returns
    -------
    text : str
        What changed.
    failed : bool
        Whether a row is slower than the limit by its median and by its minimum both, so that
        noise alone does not do it.

    Raises
    ------
    ValueError
        If the runs have no row in common.
    """
    before, now = _ratios(old), _ratios(new)
    common = [key for key in now if key in before]
    if not common:
        raise ValueError("the two runs have no case in common")
    changes, slower = [], 0
    lines = [
        f"{what}: {old['environment'][what]} then, {new['environment'][what]} now"
        for what in ("cpu", "isa", "threads")
        if old["environment"][what] != new["environment"][what]
    ]
    for key in common:
        by_median, by_minimum = (b / a - 1 for a, b in zip(before[key], now[key], strict=True))
        changes.append(by_median)
        fails = limit is not None and min(by_median, by_minimum) > limit
        slower += fails
        if fails or abs(by_median) > WORTH_SAYING:
            lines.append(
                f"{_label(key):48}  {times(before[key][0]):>5} -> {times(now[key][0]):>5}  "
                f"{by_median:+6.1%}" + ("  SLOWER" if fails else "")
            )
    lines.append(
        f"{len(common)} cases, times np.copyto in the same run: {statistics.median(changes):+.1%} "
        f"in the median" + ("" if limit is None else f"; {slower} slower by more than {limit:.0%}")
    )
    return "\n".join(lines), slower > 0


def _double(rows: Sequence[TrainerRow], row: TrainerRow) -> TrainerRow | None:
    """Return the row of h * 2 beside one."""
    want = f"h * 2, {row['call'].rpartition(', ')[2]}"
    return next((r for r in rows if (r["shape"], r["call"]) == (row["shape"], want)), None)


Key = tuple[str, str, float, int] | tuple[str]  # of a row of the tables, of one of the family


def _label(key: Key) -> str:
    if len(key) == 1:
        return key[0]
    contender, dtype, p, n = key
    return f"{contender:18} {dtype:9} p={p:<5g} {in_elements(n):>7}"


def _ratios(results: Results) -> dict[Key, tuple[float, float]]:
    """Fastdrop's times as multiples of the copy's: median and minimum."""
    rows = results["tables"]
    copies = {(r["dtype"], r["p"], r["n"]): r for r in rows if r["contender"] == "copy"}
    found: dict[Key, tuple[float, float]] = {}
    for row in rows:
        case = row["dtype"], row["p"], row["n"]
        if row["contender"].startswith("fastdrop") and case in copies:
            copy = copies[case]
            found[row["contender"], *case] = (
                row["median_s"] / copy["median_s"],
                row["min_s"] / copy["min_s"],
            )
    for call in results["trainer"]["rows"]:
        base = _double(results["trainer"]["rows"], call)
        if call["of"] == "fastdrop" and base is not None:
            found[(f"{call['shape']}: {call['call']}, times h * 2",)] = (
                call["cold_us"] / base["cold_us"],
                call["cold_min_us"] / base["cold_min_us"],
            )
    for one in results["family"]:
        if one["measured"] is not None and not one["at_least"]:  # those are NumPy's
            found[(one["case"],)] = one["measured"], one["by_minimum"]
    return found
