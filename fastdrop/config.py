"""Choice of ISA and of the number of threads, and what the choice was."""

from __future__ import annotations

import math
import os
import platform
import warnings
from importlib import metadata
from pathlib import Path

import numpy as np

from fastdrop import _core

__all__ = [
    "available_isas",
    "get_isa",
    "get_num_threads",
    "set_isa",
    "set_num_threads",
    "show_config",
]

STREAM = 1
MAX_DEFAULT_THREADS = 16


def available_isas() -> list[str]:
    """Names of the instruction sets whose kernels can run here, widest first.

    Returns
    -------
    list of str
        Some of ``"avx512"``, ``"avx2"``, ``"neon"``, and always ``"baseline"``.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.available_isas()[-1]
    'baseline'
    """
    return [name for name, _, usable in _core.isas() if usable]


def get_isa() -> str:
    """Name of the instruction set whose kernels are in use.

    Returns
    -------
    str
        The widest of `available_isas`, unless ``FASTDROP_ISA`` or `set_isa` chose another.
    """
    return _core.get_isa()


def set_isa(name: str) -> None:
    """Use the kernels of one instruction set, in all threads, from the next call on.

    For tests and benchmarks: results do not depend on it. The environment variable
    ``FASTDROP_ISA`` does the same at import.

    Parameters
    ----------
    name : str
        One of `available_isas`.

    Raises
    ------
    ValueError
        If the name is unknown, or the build or the processor lacks it.

    Examples
    --------
    >>> import fastdrop as fd
    >>> before = fd.get_isa()
    >>> fd.set_isa("baseline")
    >>> fd.get_isa()
    'baseline'
    >>> fd.set_isa(before)
    """
    _select_isa(name, "name", "set_isa")


def _select_isa(name: str, argument: str, chosen_by: str) -> None:
    global _isa_chosen_by
    if not isinstance(name, str):
        raise TypeError(f"{argument} must be a str, not {type(name).__name__}")
    if not _core.set_isa(name):
        known = [isa for isa, _, _ in _core.isas()]
        why = "is not usable on this machine" if name in known else "is unknown"
        raise ValueError(f"{argument}={name!r} {why}; choose from {', '.join(available_isas())}")
    _isa_chosen_by = chosen_by


def set_num_threads(n: int) -> None:
    """Set the number of threads that one large call may use.

    Results never depend on it. No thread is started before the first call that is large enough.

    Parameters
    ----------
    n : int
        At least 1; 1 means that the calling thread does all the work.

    Raises
    ------
    TypeError, ValueError
        If ``n`` is not an integer, or is less than 1.

    Examples
    --------
    >>> import fastdrop as fd
    >>> before = fd.get_num_threads()
    >>> fd.set_num_threads(2)
    >>> fd.get_num_threads()
    2
    >>> fd.set_num_threads(before)
    """
    global _threads
    if isinstance(n, bool) or not isinstance(n, int | np.integer):
        raise TypeError(f"n must be an int, not {type(n).__name__}")
    if n < 1:
        raise ValueError(f"n={n} threads: must be at least 1")
    _threads = int(n), "set_num_threads"


def get_num_threads() -> int:
    """Return the number of threads that one large call may use.

    Returns
    -------
    int
        What `set_num_threads` set; else ``FASTDROP_NUM_THREADS``; else the first entry of
        ``OMP_NUM_THREADS``; else the smallest of the processors that this process may run on, its
        container's CPU quota (rounded up), and 16.
    """
    return _threads[0]


def _threads_from(variable: str) -> int | None:
    text = os.environ.get(variable, "").split(",")[0].strip()
    if not text:
        return None
    if text.isdecimal() and int(text) >= 1:
        return int(text)
    if variable.startswith("FASTDROP"):  # OMP_NUM_THREADS is for others to complain of
        warnings.warn(
            f"{variable}={text!r} is ignored: it must be an integer of at least 1",
            RuntimeWarning,
            stacklevel=2,
        )
    return None


def _cpu_quota() -> float:
    """CPUs that the control group may use; infinite where none says."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            folder = Path("/sys/fs/cgroup/cpu")
            quota = (folder / "cpu.cfs_quota_us").read_text()
            period = (folder / "cpu.cfs_period_us").read_text()
        except OSError:
            return math.inf
    try:
        return int(quota) / int(period) if int(quota) > 0 else math.inf
    except (ValueError, ZeroDivisionError):  # "max"
        return math.inf


def _default_threads() -> tuple[int, str]:
    """Return the number of threads, and why."""
    for variable in ("FASTDROP_NUM_THREADS", "OMP_NUM_THREADS"):
        n = _threads_from(variable)
        if n is not None:
            return n, variable
    try:
        cpus, why = len(os.sched_getaffinity(0)), "CPU affinity"
    except AttributeError:  # not Linux
        cpus, why = os.cpu_count() or 1, "CPU count"
    quota = _cpu_quota()
    if quota < cpus:
        cpus, why = max(1, math.ceil(quota)), "cgroup CPU quota"
    if cpus > MAX_DEFAULT_THREADS:
        cpus, why = MAX_DEFAULT_THREADS, f"at most {MAX_DEFAULT_THREADS} unless asked"
    return cpus, why


def show_config() -> None:
    """Print version, stream, instruction sets and threads: the first thing to quote in a report.

    Examples
    --------
    >>> import fastdrop as fd
    >>> fd.show_config()  # doctest: +ELLIPSIS
    fastdrop ... (stream 1)
    ISA: ... (built: ...; usable: ...)
    threads: ... (...)
    Python ..., NumPy ..., ...
    """
    built = ", ".join(name for name, is_built, _ in _core.isas() if is_built)
    print(f"fastdrop {version()} (stream {STREAM})")
    usable = ", ".join(available_isas())
    print(f"ISA: {get_isa()}, {_isa_chosen_by} (built: {built}; usable: {usable})")
    print(f"threads: {_threads[0]} ({_threads[1]})")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}")


def version() -> str:
    """Return the version of the installed distribution."""
    return metadata.version("fastdrop-numpy")


_isa_chosen_by = "widest usable"
_threads = _default_threads()
if os.environ.get("FASTDROP_ISA"):
    _select_isa(os.environ["FASTDROP_ISA"], "FASTDROP_ISA", "FASTDROP_ISA")
