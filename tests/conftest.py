"""What every test file shares: the ISAs that run here, and settings put back after each test."""

import importlib
import os
import sys
from contextlib import contextmanager
from pathlib import Path

# The examples' matrices are small: two BLAS threads gain nothing on idle cores, and on busy ones
# wait for each other. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import ml_dtypes
import numpy as np
import pytest

import fastdrop as fd

PACKAGE = Path(fd.__file__).parent
STALE = [
    source.name
    for compiled in (*PACKAGE.glob("*.so"), *PACKAGE.glob("*.pyd"))
    for source in PACKAGE.glob(f"{compiled.name.split('.')[0]}.p*")
    if source.suffix in (".py", ".pyx", ".pxd")
    and source.stat().st_mtime > compiled.stat().st_mtime
]
if STALE and PACKAGE.parent.joinpath("setup.py").exists():  # not where a wheel is installed
    pytest.exit(f"{', '.join(STALE)}: changed since they were compiled; run pip install -e .")

ISAS = fd.available_isas()
DTYPES = [np.dtype(t) for t in (np.float16, ml_dtypes.bfloat16, np.float32, np.float64)]


def pytest_report_header(config):
    return f"fastdrop: ISAs exercised: {', '.join(ISAS)}; default {fd.get_isa()}"


@contextmanager
def imported_example(name):
    """Import a program of examples/, which finds its neighbours as when it is run."""
    examples = str(Path(__file__).resolve().parents[1] / "examples")
    sys.path.insert(0, examples)
    try:
        yield importlib.import_module(name)
    finally:
        sys.path.remove(examples)


@pytest.fixture(autouse=True)
def _settings():
    """Put back the ISA and the number of threads."""
    isa, threads = fd.get_isa(), fd.get_num_threads()
    yield
    fd.set_isa(isa)
    fd.set_num_threads(threads)


@pytest.fixture(params=ISAS)
def isa(request):
    """Each ISA that runs here in turn, in use."""
    fd.set_isa(request.param)
    return request.param


@pytest.fixture(params=DTYPES, ids=str)
def dtype(request):
    return request.param


@pytest.fixture
def split_small_calls():
    """Split even calls of a few tiles over threads."""
    before = fd.kernels.set_grain(1)
    yield
    fd.kernels.set_grain(before)


def bits_of(a):
    """An array's bit patterns: equality that tells +0 from -0 and one NaN from another."""
    return np.ascontiguousarray(a).view(f"u{a.dtype.itemsize}")
