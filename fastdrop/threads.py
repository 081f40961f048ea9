"""How many threads one large call may use."""

from __future__ import annotations

import math
import os
import warnings
from pathlib import Path

import numpy as np

from fastdrop.rates import number_in

__all__ = ["get_num_threads", "set_num_threads"]

MAX_DEFAULT_THREADS = 16


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

    Notes
    -----
    On Linux a worker that is woken on the calling thread's processor leaves it for the call, so
    that it helps also where the threads of OpenBLAS or OpenMP spin on all the others. It does so by
    ``sched_setaffinity``, and has its processors back afterwards; a sandbox that kills for this
    system call wants ``set_num_threads(1)``. Workers may use what the thread may that starts them.

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
    n = number_in(n)
    if isinstance(n, bool | np.bool_) or not isinstance(n, int | np.integer):
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


def cpu_quota() -> float:
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
    quota = cpu_quota()
    if quota < cpus:
        cpus, why = max(1, math.ceil(quota)), "cgroup CPU quota"
    if cpus > MAX_DEFAULT_THREADS:
        cpus, why = MAX_DEFAULT_THREADS, f"at most {MAX_DEFAULT_THREADS} unless asked"
    return cpus, why


def chosen_by() -> str:
    """Return what the number comes from."""
    return _threads[1]


_threads = _default_threads()
