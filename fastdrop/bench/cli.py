"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import fastdrop as fd
from fastdrop.bench import (
    contenders,
    environment,
    family,
    integrations,
    odd,
    plots,
    report,
    scaling,
    tables,
    targets,
    trainer,
)
from fastdrop.bench.contenders import DTYPES, RIVALS, WrongResult
from fastdrop.bench.measure import FULL, QUICK

PLAIN_WIDTH = 120  # where the output is no terminal
QUICK_SIZES = [16, 1 << 12, 1 << 18, 1 << 23]
QUICK_DTYPES = ["float32"]
RATES = [0.5, 0.1]
SECTIONS = ("tables", "scaling", "odd", "targets", "family", "integrations", "trainer")

T = TypeVar("T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments; those of the process by default.

    Returns
    -------
    int
        0; 1 if a contender's result was wrong, or if rows became slower than ``--fail-slower``
        permits; 130 if interrupted. Bad arguments exit with 2.
    """
    parser = _parser()
    args = parser.parse_args(argv)
    try:
        return _run(args, parser)
    except WrongResult as error:
        print(f"fastdrop.bench: wrong result: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fastdrop.bench: interrupted", file=sys.stderr)
        return 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"fastdrop.bench: {message}\n")


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m fastdrop.bench",
        description="Time dropout against copying and against others.",
        epilog="By default: the tables, and the scaling over threads unless --quick. "
        "Each of --tables --scaling --odd --targets --family --integrations --trainer runs that "
        "part alone; they may be combined.",
    )
    add = parser.add_argument
    add("--tables", action="store_true", help="contenders over sizes, a table a dtype and p")
    add("--scaling", action="store_true", help="1 to 256 MiB over 1, 2, 4, ... threads")
    add("--odd", action="store_true", help="odd shapes against an aligned contiguous one")
    add("--targets", action="store_true", help="the figures that fastdrop is held to")
    rest = "those of shared axes, dropout_add, relu_dropout and Gaussian noise"
    add("--family", action="store_true", help=rest)
    of_others = "those of fastdrop called from PyTorch, thinc and Dask"
    add("--integrations", action="store_true", help=of_others)
    in_a_step = "calls inside a training step, caches cold, and of 16 elements"
    add("--trainer", action="store_true", help=in_a_step)
    sizes = "elements, as 4096 or 64Ki, or bytes of input, as 1MiB; default: 16 elements to 4 times"
    sizes += " the last-level cache"
    add("--sizes", type=_list_of(_size), metavar="N,...", help=sizes)
    add("--dtypes", type=_list_of(_dtype), metavar="T,...", help=f"of {', '.join(DTYPES)}")
    add("--p", type=_list_of(_rate), metavar="P,...", help="rates of dropping; default: 0.5,0.1")
    threads = "for each contender that can use them; default: 1"
    add("--threads", type=_threads, default=1, metavar="N", help=threads)
    add("--isa", help=f"of {', '.join(fd.available_isas())}; default: {fd.get_isa()}")
    against = f"of {', '.join(RIVALS)}, or none; default: all that are installed"
    add("--against", type=_list_of(_rival), metavar="NAME,...", help=against)
    add("--quick", action="store_true", help="few sizes, float32, short samples: < 30 s")
    add("--json", type=Path, metavar="FILE", help="write all figures")
    add("--compare", type=Path, metavar="OLD.json", help="say what changed since")
    slower = "with --compare: exit with 1 if a row of fastdrop is slower by more, as 10%%"
    add("--fail-slower", type=_percent, metavar="PERCENT", help=slower)
    add("--plot", type=Path, metavar="DIR", help="draw PNG and SVG")
    return parser


def _run(args: argparse.Namespace, parser: _Parser) -> int:
    sections = [name for name in SECTIONS if getattr(args, name)]
    if not sections:
        sections = ["tables"] if args.quick else ["tables", "scaling"]
    old = _check(args, parser, sections)
    if args.isa is not None:
        try:
            fd.set_isa(args.isa)
        except ValueError as error:
            parser.error(str(error))
    about = environment.describe(args.threads, [*RIVALS[1:], "ml_dtypes"])
    fd.set_num_threads(args.threads)
    try:
        field = contenders.field(_against(args, parser), args.threads)
    except ImportError as error:
        parser.error(f"--against: {error}")

    results: report.Results = {
        "schema": report.SCHEMA,
        "environment": about,
        "titles": {contender.name: contender.title for contender in field},
        "tables": [],
        "scaling": [],
        "odd": [],
        "targets": [],
        "family": [],
        "integrations": [],
        "trainer": {"rows": [], "figures": []},
    }
    print(environment.text(about), flush=True)
    _measure(args, sections, field, results)

    if args.json is not None:
        report.save(results, args.json)
    if args.plot is not None:
        for path in plots.draw(results, args.plot):
            print(f"wrote {path}", file=sys.stderr)
    if old is None:
        return 0
    try:
        text, failed = report.compare(results, old, args.fail_slower)
    except ValueError as error:
        parser.error(f"--compare: {error}")
    print(f"\nChange since {args.compare}\n\n{text}")
    return 1 if failed else 0


def _measure(
    args: argparse.Namespace,
    sections: list[str],
    field: list[contenders.Contender],
    results: report.Results,
) -> None:
    """Run the sections, and print each as soon as it is known."""
    effort = QUICK if args.quick else FULL
    cases = [(dtype, p, _sizes(args, dtype)) for dtype in _dtypes(args) for p in args.p or RATES]
    steps = {
        "tables": sum(len(c[2]) for c in cases),
        "scaling": scaling.STEPS,
        "odd": 2,
        "targets": 8,
    }
    steps |= {"family": family.STEPS, "integrations": integrations.STEPS}
    steps |= {"trainer": trainer.STEPS}
    with _Progress(sum(steps[name] for name in sections)) as progress:
        if "tables" in sections:
            progress.say(report.legend(field))
            width = _width()
            for dtype, p, sizes in cases:
                rows = tables.run(dtype, p, sizes, field, effort, progress.step)
                results["tables"] += rows
                head = f"{dtype}, p = {p:g}, {args.threads} thread{'s'[: args.threads > 1]}"
                body = report.table(rows, results["titles"], width)
                progress.say(f"{head}, {fd.get_isa()}\n\n{body}")
        if "scaling" in sections:
            cpus = max(args.threads, environment.available_cpus())
            results["scaling"] = scaling.run(cpus, effort, progress.step)
            body = report.scaling(results["scaling"])
            progress.say(f"Over threads: float32, out=; GB/s, and times one thread\n\n{body}")
        fd.set_num_threads(1)
        if "odd" in sections:
            results["odd"] = odd.run(effort, progress.step)
            progress.say(f"Odd shapes: float32, 1 thread\n\n{report.odd(results['odd'])}")
        if "targets" in sections:
            results["targets"] = targets.run(effort, progress.step)
            progress.say(
                f"Targets: float32 unless said, 1 thread, {fd.get_isa()}; times an element\n\n"
                f"{report.targets(results['targets'])}"
            )
        if "family" in sections:
            results["family"] = family.run(effort, progress.step)
            progress.say(
                f"Family: float32, 1 thread, {fd.get_isa()} unless said\n\n"
                f"{report.family(results['family'])}"
            )
        if "integrations" in sections:
            results["integrations"] = integrations.run(effort, progress.step)
            progress.say(
                f"Integrations: float32, 1 thread, {fd.get_isa()}\n\n"
                f"{report.integrations(results['integrations'])}"
            )
        if "trainer" in sections:
            results["trainer"] = trainer.run(effort, progress.step)
            progress.say(
                f"Inside a training step: float32, p = {trainer.P}, 1 thread, {fd.get_isa()}\n\n"
                f"{report.trainer(results['trainer'])}"
            )
        fd.set_num_threads(args.threads)


class _Progress:
    """A bar on standard error, where that is a terminal and tqdm is installed."""

    def __init__(self, total: int) -> None:
        self._bar: Any = None
        if sys.stderr.isatty() and contenders.installed("tqdm"):
            tqdm = contenders.library("tqdm").tqdm
            form = "{l_bar}{bar}| {n}/{total} [{elapsed}]"
            self._bar = tqdm(total=total, file=sys.stderr, leave=False, bar_format=form)
            self._begun = False

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def step(self, what: str) -> None:
        """Say what is measured next."""
        if self._bar is not None:
            if self._begun:
                self._bar.update()
            self._begun = True
            self._bar.set_description_str(what)

    def say(self, text: str) -> None:
        """Print results without leaving pieces of the bar in them."""
        if self._bar is not None:
            self._bar.clear()
        print(f"\n{text}", flush=True)
        if self._bar is not None:
            self._bar.refresh()


# ---- arguments -----------------------------------------------------------------------------------


def _check(args: argparse.Namespace, parser: _Parser, sections: list[str]) -> report.Results | None:
    """Refuse, before hours of measuring, what would fail after them."""
    if args.fail_slower is not None and args.compare is None:
        parser.error("--fail-slower needs --compare")
    if args.compare is not None and not {"tables", "family", "trainer"} & {*sections}:
        parser.error("--compare needs --tables, --family or --trainer")
    old = None
    try:
        if args.compare is not None:
            old = report.load(args.compare)
    except (OSError, ValueError) as error:
        parser.error(f"--compare: {error}")
    if args.json is not None and not args.json.absolute().parent.is_dir():
        parser.error(f"--json: there is no directory {args.json.parent}")
    if args.plot is not None:
        try:
            contenders.library("matplotlib")
        except ImportError as error:
            parser.error(f"--plot: {error}")
        try:
            args.plot.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            parser.error(f"--plot: {error}")
    if "trainer" in sections:
        try:
            trainer.blas_limits()
        except ImportError as error:
            parser.error(f"--trainer: {error}")
    if "bfloat16" in (args.dtypes or ()) and not contenders.installed("ml_dtypes"):
        parser.error("--dtypes: bfloat16 needs ml_dtypes: pip install ml_dtypes")
    return old


def _against(args: argparse.Namespace, parser: _Parser) -> list[str]:
    if args.against is None:
        return [name for name in RIVALS if contenders.installed(name)]
    names = [name for name in args.against if name != "none"]
    for name in names:
        if not contenders.installed(name):
            parser.error(f"--against: {name} is not installed")
    return names


def _dtypes(args: argparse.Namespace) -> list[str]:
    if args.dtypes is not None:
        return list(args.dtypes)
    if args.quick:
        return QUICK_DTYPES
    return [name for name in DTYPES if name != "bfloat16" or contenders.installed("ml_dtypes")]


def _sizes(args: argparse.Namespace, dtype: str) -> list[int]:
    if args.sizes is None:
        return QUICK_SIZES if args.quick else tables.default_sizes(dtype)
    itemsize = contenders.dtype_of(dtype).itemsize
    sizes = (max(1, n // itemsize) if unit == "bytes" else n for n, unit in args.sizes)
    return sorted(set(sizes))


def _width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else PLAIN_WIDTH


def _list_of(parse: Callable[[str], T]) -> Callable[[str], list[T]]:
    """Return a parser of a comma-separated list without repetitions."""
    return lambda text: list(dict.fromkeys(parse(part.strip()) for part in text.split(",")))


_POWERS = {"": 0, "K": 10, "M": 20, "G": 30}


def _size(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+)(?:([KMG])i)?(B?)", text)
    if match is None or int(match[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no size such as 4096, 64Ki or 1MiB")
    return int(match[1]) << _POWERS[match[2] or ""], "bytes" if match[3] else "elements"


def _dtype(text: str) -> str:
    if text not in DTYPES:
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(DTYPES)}")
    return text


def _rival(text: str) -> str:
    if text not in (*RIVALS, "none"):
        raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(RIVALS)}, none")
    return text


def _rate(text: str) -> float:
    try:
        p = float(text)
    except ValueError:
        p = -1.0
    if not 0 <= p < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no rate: 0 <= p < 1")
    return p


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of threads: at least 1")
    return int(text)


def _percent(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)%?", text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no percentage such as 10%")
    return float(match[1]) / 100
