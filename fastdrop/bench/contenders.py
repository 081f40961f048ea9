"""Who is measured: each contender is one Python expression and the names that it uses.

The expression is printed in the legend and timed as it stands, so that what was measured is there
to read. Libraries other than NumPy are imported only when they are asked for.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastdrop as fd

Array = NDArray[Any]
Names = dict[str, Any]

DTYPES = ("float32", "float64", "float16", "bfloat16")
RIVALS = ("numpy", "torch", "jax", "numba", "thinc")
CHECKED = 1 << 16  # elements that are checked, at either end of a large array

# Bytes of output from which fastdrop writes around the caches (BYPASS_FROM of src/fd_window.c).
NON_TEMPORAL_FROM = 16 << 20


class WrongResult(Exception):
    """A contender did not do what it was to be timed for."""


@dataclass(frozen=True)
class Case:
    """What is worked on: the arrays that all contenders share."""

    dtype: str
    p: float
    n: int
    x: Array  # in [1, 2): what is 0 in a result was dropped
    y: Array

    @classmethod
    def make(cls, dtype: str, p: float, n: int) -> Case:
        """Make the arrays and touch each of their pages."""
        few = np.random.default_rng(0).random(min(n, 1 << 16), np.float32) + np.float32(1)
        x = np.resize(np.minimum(few, np.float32(1.98)).astype(dtype_of(dtype)), n)
        return cls(dtype, p, n, x, np.full_like(x, 3))

    @property
    def n_bytes(self) -> int:
        """Bytes of the input."""
        return self.x.nbytes

    @property
    def scale(self) -> float:
        """What kept elements are multiplied by."""
        return 1 / (1 - self.p)


@dataclass(frozen=True)
class Contender:
    """One way to do the work.

    Parameters
    ----------
    name : str
        In the JSON; the part before a hyphen is what ``--against`` knows it by.
    title : str
        Head of its column.
    expression : str
        What is timed.
    names : callable
        Returns what the expression uses, for one case.
    makes : {"dropout", "copy", "double", "bits"}, optional
        What the expression's value is, for `check`.
    note : str, optional
        For the legend.
    dtypes : tuple of str, optional
        What it can do.
    from_bytes : int, optional
        Size of input from which it is what its title says.
    setup : str, optional
        Run, untimed, before each sample.
    as_array : callable, optional
        Makes an array of the expression's value; None is taken to mean `y`.
    wrong : callable, optional
        Says what is wrong with the expression's value, nothing where nothing is; by default `check`
        knows from `makes`.
    """

    name: str
    title: str
    expression: str
    names: Callable[[Case], Names]
    makes: str = "dropout"
    note: str = ""
    dtypes: tuple[str, ...] = DTYPES
    from_bytes: int = 0
    setup: str = "pass"
    as_array: Callable[[Any, Case], Array] = lambda value, case: (
        case.y if value is None else np.asarray(value)
    )
    wrong: Callable[[Any, Case], str] | None = None

    def takes(self, case: Case) -> bool:
        """Whether it can do a case."""
        return case.dtype in self.dtypes and case.n_bytes >= self.from_bytes

    def bytes_moved(self, case: Case) -> float:
        """Bytes that the expression is asked to read and to write, the convention of STREAM."""
        return case.n / 8 if self.makes == "bits" else 2 * case.n_bytes


def dtype_of(name: str) -> np.dtype[Any]:
    """Return a dtype by name; bfloat16 is that of ml_dtypes."""
    scalar = importlib.import_module("ml_dtypes").bfloat16 if name == "bfloat16" else name
    dtype: np.dtype[Any] = np.dtype(scalar)
    return dtype


def installed(name: str) -> bool:
    """Whether a library is there to import."""
    return importlib.util.find_spec(name) is not None


def check(contender: Contender, value: Any, case: Case) -> None:
    """Raise `WrongResult` unless a contender's value is what it should be.

    Drop rate within six standard deviations; dropped elements 0, the others ``x * scale`` to a few
    roundings of the dtype. A contender that makes something else has its own check.
    """
    if contender.wrong is not None:
        _refuse(contender, contender.wrong(value, case))
        return
    y = contender.as_array(value, case)
    n = case.n
    p, scale = {"copy": (0.0, 1.0), "double": (0.0, 2.0)}.get(contender.makes, (case.p, case.scale))
    if contender.makes == "bits":
        kept = np.unpackbits(y, count=n, bitorder="little")[-2 * CHECKED :].astype(bool)
    else:
        if y.shape != case.x.shape:
            _refuse(contender, f"the result's shape is {y.shape}")
        ends = [slice(None)] if n <= 2 * CHECKED else [slice(CHECKED), slice(-CHECKED, None)]
        x, y = (np.concatenate([a[end] for end in ends]).astype(np.float64) for a in (case.x, y))
        kept = y != 0
        limit = 4 * 2.0 ** -_precision(case.dtype) * scale
        if not np.allclose(y[kept], x[kept] * scale, rtol=limit, atol=0):
            _refuse(contender, f"kept elements are not x * {scale:.6g}")
    _refuse(contender, wrong_rate(kept, p))


def wrong_rate(kept: Array, p: float) -> str:
    """Say if more or fewer decisions are False than six standard deviations permit."""
    dropped, expected = kept.size - np.count_nonzero(kept), kept.size * p
    if abs(dropped - expected) <= 6 * math.sqrt(expected * (1 - p)):
        return ""
    return f"{dropped} of {kept.size} are dropped at p={p}"


def _refuse(contender: Contender, wrong: str) -> None:
    if wrong:
        raise WrongResult(f"{contender.title}: {wrong}")


def _precision(dtype: str) -> int:
    return {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[dtype]


# ---- copying and fastdrop ------------------------------------------------------------------------


def _shared(case: Case) -> Names:
    gen = fd.Generator(0)
    mask = gen.mask(case.n, case.p)
    return {"np": np, "fd": fd, "x": case.x, "y": case.y, "p": case.p, "gen": gen, "mask": mask}


COPY = Contender("copy", "np.copyto", "np.copyto(y, x)", _shared, "copy")
COPY_AROUND = Contender(
    "copy-around",
    "non-temp. copy",
    "nothing.apply(x, out=y)",
    lambda case: _shared(case) | {"nothing": fd.Generator(0).mask(case.n, 0.0)},
    "copy",
    "fastdrop at p = 0, which writes around the caches from 16 MiB on",
    from_bytes=NON_TEMPORAL_FROM,
)
FORWARD = Contender("fastdrop", "fastdrop out=", "fd.dropout(x, p, rng=gen, out=y)", _shared)
IN_PLACE = Contender(
    "fastdrop-inplace",
    "fastdrop in place",
    "fd.dropout(z, p, rng=gen, out=z)",
    lambda case: _shared(case) | {"z": case.x.copy()},
)
BACKWARD = Contender("fastdrop-backward", "fastdrop backward", "mask.backward(x, out=y)", _shared)
BITS = Contender(
    "fastdrop-bits",
    "fastdrop bits",
    "mask.packbits()",
    _shared,
    "bits",
    "1 bit an element; GB/s written",
)
FASTDROP = [
    FORWARD,
    Contender("fastdrop-new", "fastdrop", "fd.dropout(x, p, rng=gen)", _shared),
    IN_PLACE,
    BACKWARD,
    BITS,
]


def threaded_copy(threads: int) -> Contender:
    """Return the copy of equal pieces in as many threads; each in turn where there are too few."""
    pool = ThreadPoolExecutor(threads)

    def names(case: Case) -> Names:
        pieces = {a: np.array_split(getattr(case, a), threads) for a in "xy"}
        return {"np": np, "pool": pool, **pieces}

    return Contender(
        f"copy-{threads}threads",
        f"copy, {threads} threads",
        "list(pool.map(np.copyto, y, x))",
        names,
        "copy",
        "x and y are lists of as many pieces",
        from_bytes=16 * fd.kernels.GRAIN,  # below which fastdrop uses one, too
        as_array=lambda value, case: case.y,
    )


# ---- the others ----------------------------------------------------------------------------------


def _numpy_idiom(case: Case) -> Names:
    draws = np.float64 if case.dtype == "float64" else np.float32
    return {
        "x": case.x,
        "p": case.p,
        "rng": np.random.default_rng(0),
        "draws": draws,
        "scale": case.x.dtype.type(case.scale),
    }


def _numpy_best(case: Case) -> Names:
    rng = np.random.Generator(np.random.SFC64(0))
    u, keep = np.empty(case.n, np.float32), np.empty(case.n, np.bool_)
    scale = case.x.dtype.type(case.scale)
    x, y, p = case.x, case.y, np.float32(case.p)

    def best() -> Array:
        rng.random(out=u, dtype=np.float32)
        np.greater_equal(u, p, out=keep)
        np.multiply(x, scale, out=y)
        return np.multiply(y, keep, out=y)

    return {"best": best}


def random_bits(p: float) -> Callable[[int], Array]:
    """Return a function that draws n decisions, True where kept, from as few random bits as do.

    At p = 0.5 one bit an element, otherwise 16, to which p is rounded.
    """
    draw: Any = np.random.SFC64(0).random_raw
    if p == 0.5:
        return lambda n: np.unpackbits(draw(-(-n // 64)).view(np.uint8), count=n).view(np.bool_)
    threshold = np.uint16(round(p * 2**16))

    def decisions(n: int) -> Array:
        kept: Array = draw(-(-n // 4)).view(np.uint16)[:n] >= threshold
        return kept

    return decisions


def _numpy_bits(case: Case) -> Names:
    draw, scale = random_bits(case.p), case.x.dtype.type(case.scale)
    x, y, n = case.x, case.y, case.n

    def bits() -> Array:
        np.multiply(x, draw(n), out=y)
        np.multiply(y, scale, out=y)
        return y

    return {"bits": bits}


NUMPY = Contender(
    "numpy",
    "NumPy",
    "x * (rng.random(x.shape, dtype=draws) >= p) * scale",
    _numpy_idiom,
    note="rng = default_rng(); draws: float64 for float64, else float32",
)
NUMPY_BEST = Contender(
    "numpy-best",
    "NumPy at its best",
    "best()",
    _numpy_best,
    note="float32 draws of SFC64 into a buffer, >=, *, *, all with out=",
)
NUMPY_BITS = Contender(
    "numpy-bits",
    "NumPy, raw bits",
    "bits()",
    _numpy_bits,
    note="raw words of SFC64, one bit an element at p = 0.5, else 16 and p to 2**-16; *, *, out=",
)


def _torch(threads: int) -> Contender:
    torch = importlib.import_module("torch")
    torch.set_num_threads(threads)
    functional = importlib.import_module("torch.nn.functional")

    def names(case: Case) -> Names:
        if case.dtype == "bfloat16":
            t = torch.from_numpy(case.x.view(np.int16)).view(torch.bfloat16)
        else:
            t = torch.from_numpy(case.x)
        return {"F": functional, "t": t, "p": case.p}

    def as_array(value: Any, case: Case) -> Array:
        bits = value.view(torch.int16) if case.dtype == "bfloat16" else value
        return np.asarray(bits.numpy()).view(case.x.dtype)

    return Contender("torch", "torch", "F.dropout(t, p)", names, as_array=as_array)


def _jax(threads: int) -> Contender:
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax = importlib.import_module("jax")
    jax.config.update("jax_enable_x64", True)

    def names(case: Case) -> Names:
        keep_p = np.float32(1 - case.p)

        def dropout(key: Any, x: Any) -> Any:
            keep = jax.random.bernoulli(key, keep_p, x.shape)
            return jax.numpy.where(keep, x * case.scale, 0)

        return {"f": jax.jit(dropout), "key": jax.random.key(0), "x": jax.device_put(case.x)}

    note = "where(bernoulli(key, keep, x.shape), x * scale, 0); x on its device"
    if threads > 1:
        note += "; takes as many threads as it likes"
    return Contender("jax", "JAX jit", "f(key, x).block_until_ready()", names, note=note)


def _numba(threads: int) -> Contender:
    numba = importlib.import_module("numba")

    def dropout(x: Any, p: Any, scale: Any, zero: Any, y: Any) -> Any:
        for i in range(x.size):
            y[i] = x[i] * scale if np.random.random() >= p else zero  # noqa: NPY002
        return y

    compiled = numba.njit(dropout)

    def names(case: Case) -> Names:
        scale, zero = case.x.dtype.type(case.scale), case.x.dtype.type(0)
        return {"f": compiled, "x": case.x, "y": case.y, "p": case.p, "scale": scale, "zero": zero}

    return Contender(
        "numba",
        "numba",
        "f(x, p, scale, zero, y)",
        names,
        note="@njit loop over np.random.random(), one thread always",
        dtypes=("float32", "float64"),
    )


def _thinc(threads: int) -> Contender:
    ops = importlib.import_module("thinc.api").NumpyOps()
    return Contender(
        "thinc",
        "thinc",
        "x * ops.get_dropout_mask(x.shape, p)",
        lambda case: {"x": case.x, "p": case.p, "ops": ops},
        note="its mask is float32; one thread always",
        dtypes=("float32",),
    )


@functools.cache
def rivals(name: str, threads: int) -> tuple[Contender, ...]:
    """Return the contenders of one of `RIVALS`.

    Raises
    ------
    ImportError
        If its library is not installed, or broken.
    """
    if name == "numpy":
        return NUMPY, NUMPY_BEST, NUMPY_BITS
    makers = {"torch": _torch, "jax": _jax, "numba": _numba, "thinc": _thinc}
    return (makers[name](threads),)


def field(against: Sequence[str], threads: int) -> list[Contender]:
    """Return all who run, the copies first."""
    copies = [COPY, COPY_AROUND]
    if threads > 1:
        copies.insert(1, threaded_copy(threads))
    others = [contender for name in against for contender in rivals(name, threads)]
    return [*copies, *FASTDROP, *others]


def library(name: str) -> ModuleType:
    """Import a library that the benchmark can do without, or say how to get it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise ImportError(
            f'{package} is not installed; it comes with: pip install "fastdrop-numpy[bench]"'
        ) from error
