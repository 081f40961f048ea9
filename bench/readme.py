"""Writes the README's tables and pictures from the committed results.

    python bench/readme.py            # README.md, and bench/results/*.png and *.svg
    python bench/readme.py --check    # exits with 1 where the README's text is not up to date

full.json goes between <!-- bench:begin --> and <!-- bench:end -->, trainer.json likewise.
"""

import argparse
import sys
from pathlib import Path

from fastdrop.bench import plots, report
from fastdrop.bench.environment import in_bytes
from fastdrop.bench.trainer import step_us

TOP = Path(__file__).resolve().parent.parent
README = TOP / "README.md"
RESULTS = TOP / "bench" / "results"
LIBRARIES = ("torch", "jax", "numba", "thinc")
DTYPE = "float32"
COLUMNS = {64: "16 elements", 1 << 20: "1 MiB", 64 << 20: "64 MiB", 256 << 20: "256 MiB"}
NAMES = {
    "copy": "`np.copyto`",
    "copy-around": "copy with non-temporal stores",
    "fastdrop": "**fastdrop**, `out=y`",
    "fastdrop-new": "**fastdrop**, new result",
    "fastdrop-inplace": "**fastdrop**, in place",
    "fastdrop-backward": "**fastdrop**, backward",
    "fastdrop-bits": "**fastdrop**, mask alone",
    "numpy": "NumPy as people write it",
    "numpy-best": "NumPy, floats drawn at its best",
    "numpy-bits": "NumPy by random bits",
    "torch": "torch `F.dropout`",
    "jax": "JAX, jit",
    "numba": "numba",
    "thinc": "thinc",
}


SHAPES = ("(64, 128)", "(64, 512)", "(64, 2048)", "LSTM (32, 256)")
CALLS = {
    "h * 2": "`h * 2`, what any pass costs there",
    "layer": "**fastdrop**, `nn.Dropout`",
    "NumPy by random bits": "NumPy by random bits",
    "NumPy": "NumPy as people write it",
}


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", nargs="?", type=Path, default=RESULTS)
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    text = readme = README.read_text()
    drawn = []
    for name, make in (("bench", section), ("trainer", trainer)):
        try:
            results = report.load(
                args.folder / ("full.json" if name == "bench" else f"{name}.json")
            )
        except (OSError, ValueError) as error:
            sys.exit(f"readme.py: {error}")
        results["tables"] = [row for row in results["tables"] if row["dtype"] == DTYPE]
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, found, rest = text.partition(begin)
        _, found_too, after = rest.partition(end)
        if not found or not found_too:
            sys.exit(f"readme.py: {README} lacks {begin} and {end}")
        text = f"{before}{begin}\n{make(results)}\n{end}{after}"
        drawn.append(results)
    if args.check:
        return int(text != readme)
    RESULTS.mkdir(exist_ok=True)
    for results in drawn:
        for path in plots.draw(results, RESULTS):
            print(path)
    README.write_text(text)
    return 0


def environment(results):
    """What was measured on what."""
    e = results["environment"]
    names = [name for name in e["libraries"] if name in LIBRARIES]
    libraries = "".join(
        f", {name} {e['libraries'][name]}" for name in names if e["libraries"][name]
    )
    caches = ", ".join(f"{name} {in_bytes(size)}" for name, size in e["caches"])
    return (
        f"{e['cpu']} ({caches}), {e['isa']}; fastdrop {e['fastdrop']}, Python {e['python']}, NumPy "
        f"{e['numpy']}{libraries}."
    )


def trainer(results):
    """Forward and backward inside a training step: a line a contender, a column a shape."""
    rows = results["trainer"]["rows"]
    lines = [
        "float32, p = 0.5, one thread: microseconds for forward and backward together, and in "
        f"brackets times fastdrop's.\n{environment(results)}",
        "",
        f"| inside a training step | {' | '.join(SHAPES)} |",
        "|---|" + "--:|" * len(SHAPES),
    ]
    for call, label in CALLS.items():
        cells = []
        for shape in SHAPES:
            taken, ours = (step_us(rows, shape, name) for name in (call, "layer"))
            ratio = "" if call == "layer" else f" ({report.times(taken / ours)})"
            cells.append(f"{report.figure(taken)}{ratio}")
        lines.append(f"| {label} | {' | '.join(cells)} |")
    torch = [s for s in dict.fromkeys(r["shape"] for r in rows) if step_us(rows, s, "F.dropout")]
    if torch:
        text = "; ".join(
            f"{shape} {report.figure(step_us(rows, shape, 'F.dropout'))} and "
            f"{report.figure(step_us(rows, shape, 'fastdrop.torch'))}"
            for shape in torch
        )
        lines += ["", f"In PyTorch, with autograd, `F.dropout` and `fastdrop.torch`: {text}."]
    lines += ["", "![Dropout inside a training step](bench/results/trainer.png)"]
    return "\n".join(lines)


def section(results):
    """The text between the markers."""
    threads = results["environment"]["threads"]
    threads = "one thread" if threads == 1 else f"{threads} threads"
    parts = [
        f"{DTYPE}, {threads}: nanoseconds an element, and in brackets times `np.copyto` in the "
        f"same run.\n{environment(results)}"
    ]
    parts += [table(results, p) for p in dict.fromkeys(row["p"] for row in results["tables"])]
    if any(row["noisy"] for row in results["tables"]):
        parts.append("~ marks a figure whose samples differed by more than 10 %.")
    parts.append("![Time an element against the size of x](bench/results/time-float32.png)")
    return "\n\n".join(parts)


def table(results, p):
    """The table of one rate: a line a contender, a column a size."""
    cells = {(r["contender"], r["n_bytes"]): r for r in results["tables"] if r["p"] == p}
    sizes = [size for size in COLUMNS if ("copy", size) in cells]
    lines = [f"| p = {p:g} | {' | '.join(COLUMNS[size] for size in sizes)} |"]
    lines.append("|---|" + "--:|" * len(sizes))
    for name, label in NAMES.items():
        if any((name, size) in cells for size in sizes):
            row = " | ".join(cell(cells.get((name, size))) for size in sizes)
            lines.append(f"| {label} | {row} |")
    return "\n".join(lines)


def cell(row):
    if row is None:
        return ""
    mark = "~" if row["noisy"] else ""
    text = f"{mark}{report.figure(row['ns_per_element'])}"
    return text if row["contender"] == "copy" else f"{text} ({report.times(row['ratio_to_copy'])})"


if __name__ == "__main__":
    sys.exit(main())
