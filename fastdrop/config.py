"""Choice of ISA, and what was chosen: of kernels and of threads."""

from __future__ import annotations

import os
import platform
from importlib import metadata

import numpy as np

from fastdrop import kernels, threads

__all__ = [
    "available_isas",
    "get_isa",
    "set_isa",
    "show_config",
]


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
    return [name for name, _, usable in kernels.isas() if usable]


def get_isa() -> str:
    """Name of the instruction set whose kernels are in use.

    Returns
    -------
    str
        The widest of `available_isas`, unless ``FASTDROP_ISA`` or `set_isa` chose another.
    """
    return kernels.get_isa()


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
    if not kernels.set_isa(name):
        known = [isa for isa, _, _ in kernels.isas()]
        why = "is not usable on this machine" if name in known else "is unknown"
        raise ValueError(f"{argument}={name!r} {why}; choose from {', '.join(available_isas())}")
    _isa_chosen_by = chosen_by


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
    built = ", ".join(name for name, is_built, _ in kernels.isas() if is_built)
    print(f"fastdrop {version()} (stream {kernels.STREAM})")
    usable = ", ".join(available_isas())
    print(f"ISA: {get_isa()}, {_isa_chosen_by} (built: {built}; usable: {usable})")
    print(f"threads: {threads.get_num_threads()} ({threads.chosen_by()})")
    print(f"Python {platform.python_version()}, NumPy {np.__version__}, {platform.platform()}")


def version() -> str:
    """Return the version of the installed distribution; "unknown" where its metadata are not.

    So it is in frozen applications, zip files and vendored copies.
    """
    try:
        return metadata.version("fastdrop-numpy")
    except metadata.PackageNotFoundError:
        return "unknown"


_isa_chosen_by = "widest usable"
if os.environ.get("FASTDROP_ISA"):
    _select_isa(os.environ["FASTDROP_ISA"], "FASTDROP_ISA", "FASTDROP_ISA")
