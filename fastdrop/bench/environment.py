"""What was measured on what: the first thing that is printed, and the first part of the JSON."""

from __future__ import annotations

import math
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from fastdrop import config, kernels
from fastdrop.threads import chosen_by, cpu_quota, get_num_threads

BUSY = 0.3  # load a processor from which others disturb the measurement
ASSUMED_CACHES = [("L1", 32 << 10), ("L2", 1 << 20), ("L3", 32 << 20)]  # where nothing says


def describe(threads: int, libraries: list[str]) -> dict[str, Any]:
    """Return the environment as a dict that JSON can hold.

    Parameters
    ----------
    threads : int
        Threads that the contenders are given.
    libraries : list of str
        Distributions whose versions are wanted; None is noted for one that is not installed.

    Returns
    -------
    dict
    """
    return {
        "fastdrop": config.version(),
        "stream": kernels.STREAM,
        "isa": config.get_isa(),
        "isas": config.available_isas(),
        "cpu": cpu_model(),
        "cpus": available_cpus(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "caches": caches(),
        "threads": threads,
        "default_threads": get_num_threads(),
        "default_threads_why": chosen_by(),
        "load": _load(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "platform": platform.platform(),
        "libraries": {name: _version(name) for name in libraries},
    }


def text(environment: dict[str, Any]) -> str:
    """Return the environment as it is printed."""
    e = environment
    sizes = ", ".join(f"{name} {in_bytes(size)}" for name, size in e["caches"])
    installed = [f"{name} {v}" for name, v in e["libraries"].items() if v]
    absent = [name for name, v in e["libraries"].items() if not v]
    lines = [
        f"fastdrop  {e['fastdrop']} (stream {e['stream']}), ISA {e['isa']} "
        f"(available: {', '.join(e['isas'])})",
        f"CPU       {e['cpu']}, {e['cpus']} to be used, governor {e['governor'] or 'unknown'}",
        f"caches    {sizes}",
        f"threads   {e['threads']} for each contender that can use them (--threads); "
        f"fastdrop's own choice is {e['default_threads']} ({e['default_threads_why']})",
        f"versions  Python {e['python']}, NumPy {e['numpy']}, {', '.join(installed) or 'no others'}"
        + (f"; not installed: {', '.join(absent)}" if absent else ""),
        f"system    {e['platform']}",
    ]
    if e["load"] is not None and e["load"] > BUSY * e["cpus"]:
        lines.append(f"load      {e['load']:.1f}: others are at work here, mind the marks (~)")
    return "\n".join(lines)


def available_cpus() -> int:
    """Return how many processors this process may keep busy."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cpus = os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, min(cpus, math.ceil(quota) if quota < cpus else cpus))


def cpu_model() -> str:
    """Return the processor's name."""
    for line in _read("/proc/cpuinfo").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def caches() -> list[tuple[str, int]]:
    """Return name and bytes of each level's data cache as one processor sees it, smallest first."""
    found = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = (_read(str(index / part)) for part in ("type", "level", "size"))
        if kind in ("Data", "Unified") and size.endswith("K"):
            found.append((f"L{level}", int(size[:-1]) << 10))
    return sorted(found, key=lambda cache: cache[1]) or ASSUMED_CACHES


def last_level() -> int:
    """Return the bytes of the last-level cache."""
    return caches()[-1][1]


def memory() -> int:
    """Return the bytes of main memory that are free to use; 4 GiB where the system does not say."""
    for line in _read("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) << 10
    return 4 << 30


def in_bytes(n: float) -> str:
    """Return a number of bytes, as in ``1.5 MiB``."""
    return _scaled(n, ["B", "KiB", "MiB", "GiB", "TiB"])


def in_elements(n: int) -> str:
    """Return a number of elements, as in ``16 Ki``; exact where it is not a multiple of 1024."""
    return str(n) if n % 1024 else _scaled(n, ["", "Ki", "Mi", "Gi"]).strip()


def _scaled(n: float, units: list[str]) -> str:
    step = 0
    while n >= 1024 and step < len(units) - 1:
        n, step = n / 1024, step + 1
    return f"{n:.4g} {units[step]}"


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _load() -> float | None:
    try:
        return os.getloadavg()[0]
    except (AttributeError, OSError):  # Windows
        return None


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""
