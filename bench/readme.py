"""Writes the README's table and pictures from the committed results of one full run.

    python bench/readme.py            # README.md, and bench/results/*.png and *.svg
    python bench/readme.py --check    # exits with 1 where the README's text is not up to date

The text goes between <!-- bench:begin --> and <!-- bench:end -->.
"""

import argparse
import sys
from pathlib import Path

from fastdrop.bench import plots, report
from fastdrop.bench.environment import in_bytes

TOP = Path(__file__).resolve().parent.parent
README = TOP / "README.md"
RESULTS = TOP / "bench" / "results"
BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
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


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("json", nargs="?", type=Path, default=RESULTS / "full.json")
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args(argv)
    try:
        results = report.load(args.json)
    except (OSError, ValueError) as error:
        sys.exit(f"readme.py: {error}")
    results["tables"] = [row for row in results["tables"] if row["dtype"] == DTYPE]

    readme = README.read_text()
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        sys.exit(f"readme.py: {README} lacks {BEGIN} and {END}")
    text = f"{before}{begin}\n{section(results)}\n{end}{after}"
    if args.check:
        return int(text != readme)
    RESULTS.mkdir(exist_ok=True)
    for path in plots.draw(results, RESULTS):
        print(path)
    README.write_text(text)
    return 0


def section(results):
    """The text between the markers."""
    e = results["environment"]
    libraries = [f"{name} {v}" for name, v in e["libraries"].items() if v and name != "ml_dtypes"]
    caches = ", ".join(f"{name} {in_bytes(size)}" for name, size in e["caches"])
    threads = "one thread" if e["threads"] == 1 else f"{e['threads']} threads"
    parts = [
        f"{DTYPE}, {threads}: nanoseconds an element, and in brackets times `np.copyto` in the "
        f"same run.\n{e['cpu']} ({caches}), {e['isa']}; fastdrop {e['fastdrop']}, Python "
        f"{e['python']}, NumPy {e['numpy']}, {', '.join(libraries)}."
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
