"""The results as pictures, PNG and SVG: time over size, speed-up over NumPy, scaling over threads.

Colours are those of Okabe and Ito, which the colour-blind tell apart; lines are labelled where they
end. The same results give the same SVG.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fastdrop.bench.contenders import library
from fastdrop.bench.environment import in_bytes
from fastdrop.bench.report import Results
from fastdrop.bench.tables import Row
from fastdrop.bench.trainer import step_us

# Contenders in the pictures: label, colour, width and dashes. Those not listed are in the tables.
STYLES: dict[str, tuple[str, str, float, str]] = {
    "copy": ("np.copyto", "#000000", 1.6, "--"),
    "copy-around": ("non-temporal copy", "#777777", 1.6, ":"),
    "fastdrop": ("fastdrop", "#0072B2", 2.8, "-"),
    "fastdrop-bits": ("fastdrop, mask only", "#56B4E9", 1.6, "-"),
    "numpy": ("NumPy", "#E69F00", 1.6, "-"),
    "numpy-best": ("NumPy at its best", "#E69F00", 1.6, "--"),
    "numpy-bits": ("NumPy by random bits", "#E69F00", 1.6, ":"),
    "torch": ("torch", "#D55E00", 1.6, "-"),
    "jax": ("JAX jit", "#CC79A7", 1.6, "-"),
    "numba": ("numba", "#009E73", 1.6, "-"),
    "thinc": ("thinc", "#8C6D46", 1.6, "-"),
}
End = tuple[float, str, str]  # of a line: value, label, colour
INK, FAINT = "#333333", "#DDDDDD"
FONT = {"font.size": 11, "font.family": "DejaVu Sans", "svg.hashsalt": "fastdrop"}


def draw(results: Results, directory: Path) -> list[Path]:
    """Draw what there are results for.

    Parameters
    ----------
    results : dict
        Of one run.
    directory : Path
        Where to put the files; it exists.

    Returns
    -------
    list of Path
        The files.
    """
    with library("matplotlib").rc_context(FONT):
        figures = {}
        for dtype in dict.fromkeys(row["dtype"] for row in results["tables"]):
            rows = [row for row in results["tables"] if row["dtype"] == dtype]
            if len({row["n"] for row in rows}) < 2:
                continue  # no line through one point
            figures[f"time-{dtype}"] = _time(results, rows, dtype)
            if any(row["contender"] == "numpy" for row in rows):
                figures[f"speedup-{dtype}"] = _speedup(results, rows, dtype)
        if len({point["threads"] for point in results["scaling"]}) > 1:
            figures["scaling"] = _scaling(results)
        if results["trainer"]["rows"]:
            figures["trainer"] = _trainer(results)
        files = []
        for name, figure in figures.items():
            for suffix in ("png", "svg"):
                files.append(directory / f"{name}.{suffix}")
                metadata = {"Date": None} if suffix == "svg" else {}
                figure.savefig(files[-1], dpi=160, metadata=metadata)
    return files


def _time(results: Results, rows: Sequence[Row], dtype: str) -> Any:
    return _over_sizes(
        results,
        rows,
        list(STYLES),
        lambda row: row["ns_per_element"],
        f"Dropout of {dtype}: time an element",
        "nanoseconds an element",
    )


def _speedup(results: Results, rows: Sequence[Row], dtype: str) -> Any:
    numpy = {(row["p"], row["n"]): row for row in rows if row["contender"] == "numpy"}
    names = [name for name in STYLES if not name.startswith(("copy", "fastdrop-"))]
    return _over_sizes(
        results,
        [row for row in rows if (row["p"], row["n"]) in numpy],
        names,
        lambda row: numpy[row["p"], row["n"]]["median_s"] / row["median_s"],
        f"Dropout of {dtype}: speed-up over NumPy as people write it",
        "times as fast as NumPy",
    )


def _over_sizes(
    results: Results,
    rows: Sequence[Row],
    names: Sequence[str],
    value: Callable[[Row], float],
    title: str,
    unit: str,
) -> Any:
    """Draw a panel a rate: bytes across, lines of contenders, caches marked."""
    rates = list(dict.fromkeys(row["p"] for row in rows))
    figure, panels = _figure(title, _subtitle(results), len(rates), shared=True)
    for panel, p in zip(panels, rates, strict=True):
        ends: list[End] = []
        for name in names:
            points = [
                (r["n_bytes"], value(r)) for r in rows if (r["contender"], r["p"]) == (name, p)
            ]
            if not points:
                continue
            label, colour, width, dashes = STYLES[name]
            # a lone point, of a line that begins at the largest size, must be seen too
            marker = "o" if len(points) == 1 else None
            line = dict(color=colour, lw=width, marker=marker, clip_on=marker is None)
            panel.plot(*zip(*points, strict=True), dashes, **line)
            ends.append((points[-1][1], label, colour))
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        panel.set_title(f"p = {p:g}", color=INK, fontsize=12)
        sizes = sorted({row["n_bytes"] for row in rows})
        panel.set_xlim(sizes[0], sizes[-1])
        panel.set_xticks(sizes[::2], [in_bytes(size).replace(" ", "\u2009") for size in sizes[::2]])
        panel.set_xlabel("size of x (dotted: x and y together fill a cache)", color=INK)
        panel.yaxis.set_major_formatter(lambda v, _: f"{v:g}")
        _mark_caches(panel, results, sizes)
    low, high = panels[-1].get_ylim()
    panels[-1].set_ylim(low, high * (high / low) ** 0.12)  # room for the names of the caches
    if high / low < 1e4:
        panels[-1].yaxis.set_major_locator(library("matplotlib.ticker").LogLocator(subs=(1, 2, 5)))
    _label_ends(panels[-1], ends)
    panels[0].set_ylabel(unit, color=INK)
    return figure


def _trainer(results: Results) -> Any:
    """Draw a panel a shape: what forward and backward take within a training step."""
    rows = results["trainer"]["rows"]
    bars = {  # label and colour
        "h * 2": ("h * 2, twice", "#000000"),
        "layer": ("fastdrop", "#0072B2"),
        "NumPy by random bits": ("NumPy by random bits", "#F0C04D"),
        "NumPy": ("NumPy", "#E69F00"),
    }
    shapes = [s for s in dict.fromkeys(row["shape"] for row in rows) if step_us(rows, s, "layer")]
    title = "Dropout inside a training step: forward and backward, caches cold"
    figure, panels = _figure(title, _subtitle(results), len(shapes), labelled=False)
    for panel, shape in zip(panels, shapes, strict=True):
        taken = [step_us(rows, shape, name) or 0.0 for name in bars]
        ours = taken[list(bars).index("layer")]
        panel.bar(range(len(bars)), taken, color=[colour for _, colour in bars.values()], width=0.8)
        for at, us in enumerate(taken):
            text = f"{us:.0f}" if at < 2 else f"{us:.0f}\n{us / ours:.1f}x"
            panel.annotate(
                text, (at, us), (0, 3), textcoords="offset points", ha="center", fontsize=9
            )
        panel.set_title(shape, color=INK, fontsize=12)
        panel.set_xticks([])
        panel.set_ylim(0, 1.15 * max(taken))
    panels[0].set_ylabel("microseconds", color=INK)
    patch = library("matplotlib.patches").Patch
    legend = [patch(color=colour, label=label) for label, colour in bars.values()]
    figure.legend(handles=legend, loc="lower center", ncols=len(legend), frameon=False)
    return figure


def _scaling(results: Results) -> Any:
    points = results["scaling"]
    sizes = sorted({point["n_bytes"] for point in points})
    counts = sorted({point["threads"] for point in points})
    figure, panels = _figure(
        "Dropout of float32 over threads: GB/s read and written",
        _subtitle(results, threads=False),
        len(sizes),
        shared=True,
    )
    curves = {
        "copy": ("np.copyto of pieces", "#000000", "--"),
        "torch copy": ("torch's copy", "#D55E00", "--"),
        "fastdrop p=0.5": ("fastdrop, p = 0.5", "#0072B2", "-"),
        "fastdrop p=0.1": ("fastdrop, p = 0.1", "#56B4E9", "-"),
    }
    ends: list[End] = []
    for panel, n_bytes in zip(panels, sizes, strict=True):
        for name, (label, colour, dashes) in curves.items():
            line = [p for p in points if (p["curve"], p["n_bytes"]) == (name, n_bytes)]
            line.sort(key=lambda p: p["threads"])
            if not line:
                continue
            heights = [point["gb_per_s"] for point in line]
            look: dict[str, Any] = {"color": colour, "lw": 2.2, "marker": "o", "clip_on": False}
            panel.plot(range(len(counts)), heights, dashes, **look)
            if n_bytes == sizes[-1]:
                ends.append((heights[-1], label, colour))
        panel.set_xticks(range(len(counts)), [str(n) for n in counts])
        panel.set_xlim(0, max(1, len(counts) - 1))
        panel.set_xlabel("threads", color=INK)
        panel.set_title(in_bytes(n_bytes), color=INK, fontsize=12)
    panels[0].set_ylim(0, 1.05 * max(point["gb_per_s"] for point in points))
    _label_ends(panels[-1], ends)
    return figure


# ---- parts ---------------------------------------------------------------------------------------


def _figure(
    title: str, subtitle: str, panels: int, shared: bool = False, labelled: bool = True
) -> tuple[Any, Sequence[Any]]:
    """Return a figure of a slide's shape and its panels; at the right, room for labels or none."""
    figure = library("matplotlib.figure").Figure(figsize=(12, 5.6) if panels > 1 else (8, 5.6))
    left, right = (0.07, 0.84) if panels > 1 else (0.1, 0.76)
    sides = {
        "left": left,
        "right": right if labelled else 0.98,
        "wspace": 0.12 if labelled else 0.3,
    }
    grid = figure.add_gridspec(1, panels, top=0.8, bottom=0.12, **sides)
    axes = grid.subplots(sharey=shared, squeeze=False)[0]
    figure.text(left, 0.93, title, fontsize=15, weight="bold", color=INK)
    figure.text(left, 0.885, subtitle, fontsize=10, color="#666666")
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.spines[["left", "bottom"]].set_color("#999999")
        panel.tick_params(colors=INK, which="both", labelsize=10)
        panel.grid(axis="y", color=FAINT, lw=0.8)
        panel.set_axisbelow(True)
    return figure, axes


def _subtitle(results: Results, threads: bool = True) -> str:
    e = results["environment"]
    count = f"{e['threads']} thread{'s'[: e['threads'] > 1]}, " if threads else ""
    return f"{e['cpu']}, {e['isa']}, {count}fastdrop {e['fastdrop']}, NumPy {e['numpy']}"


def _mark_caches(panel: Any, results: Results, sizes: Sequence[int]) -> None:
    """Mark where x and y together fill a cache."""
    for name, size in results["environment"]["caches"]:
        if sizes[0] < size / 2 < sizes[-1]:
            panel.axvline(size / 2, color="#AAAAAA", lw=0.9, ls=(0, (1, 2)), zorder=0)
            panel.annotate(
                f"{name} full",
                (size / 2, 1),
                xycoords=("data", "axes fraction"),
                xytext=(-3, -3),
                textcoords="offset points",
                rotation=90,
                ha="right",
                va="top",
                fontsize=8,
                color="#888888",
            )


def _label_ends(panel: Any, ends: Sequence[End]) -> None:
    """Write each line's name where it ends, moved apart where they would overlap."""
    low, high = panel.get_ylim()
    scale = math.log if panel.get_yscale() == "log" else float
    span = scale(high) - scale(low)
    ends = sorted(ends)
    least = 0.052
    heights = [(scale(value) - scale(low)) / span for value, _, _ in ends]
    for _ in range(200):
        for i in range(len(heights) - 1):
            overlap = heights[i] + least - heights[i + 1]
            if overlap > 1e-9:
                heights[i] -= overlap / 2
                heights[i + 1] += overlap / 2
    for height, (value, label, colour) in zip(heights, ends, strict=True):
        panel.annotate(
            label,
            (1, (scale(value) - scale(low)) / span),
            xycoords="axes fraction",
            xytext=(1.03, height),
            textcoords="axes fraction",
            va="center",
            color=colour,
            fontsize=10,
            weight="bold" if label.startswith("fastdrop") else "normal",
            arrowprops={
                "arrowstyle": "-",
                "color": colour,
                "lw": 0.7,
                "shrinkA": 0,
                "shrinkB": 0,
                "relpos": (0, 0.5),
            },
            annotation_clip=False,
        )
