"""What dropout costs inside a training step, where the caches are cold, and a call at all.

Between any two timed calls stands the work that a trainer does there: a matrix product, an
activation, and the product of a backward pass. Contenders take turns, in an order that is shuffled
anew each round. Beside this "cold" time stands the "hot" one, of the same call in a loop.
"""

from __future__ import annotations

import math
import os
import random
import statistics
import time
import timeit
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np

import fastdrop as fd
from fastdrop.bench.contenders import (
    Array,
    Names,
    WrongResult,
    installed,
    library,
    random_bits,
    wrong_rate,
)
from fastdrop.bench.measure import NOISY, Effort, Timing, repeated
from fastdrop.bench.targets import Target

P = 0.5
LAYERS = {  # batch, inputs, units of a hidden layer
    "(64, 128)": (64, 784, 128),
    "(64, 512)": (64, 784, 512),
    "(64, 2048)": (64, 784, 2048),
}
LSTM = "LSTM (32, 256)"  # a time step: batch, units
TORCH = {"(64, 128)": (64, 784, 128), "(64, 1024)": (64, 784, 1024)}
BOUNDED = ("(64, 128)", "(64, 512)")  # shapes for which there are bounds
SMALL = 16  # elements
ROUNDS = 10  # training steps a round of the effort
TURNS = 5  # of short calls, which take them one after the other
STEPS = len(LAYERS) + 1 + len(TORCH) + 1  # that `run` tells of


class Row(TypedDict):
    """One call at one shape, as in the JSON: microseconds, medians."""

    shape: str
    call: str
    of: str  # "fastdrop", "numpy", "torch"
    cold_us: float
    cold_min_us: float
    hot_us: float | None
    noisy: bool


class Trainer(TypedDict):
    """What one run found."""

    rows: list[Row]
    figures: list[Target]


# What is timed, on the activations h; d is what backward gets.
FORWARD = {
    "h * 2": "h * two",
    "h + residual": "h + residual",
    "layer": "layer(h)",
    "layer without rng": "unseeded(h)",
    "layer in evaluation": "evaluated(h)",
    "fd.dropout, out=": "fd.dropout(h, p, rng=gen, out=y)",
    "fd.dropout": "fd.dropout(h, p, rng=gen)",
    "fd.dropout without rng": "fd.dropout(h, p)",
    "fd.dropout, return_mask": "fd.dropout(h, p, rng=gen, return_mask=True)",
    "fd.dropout, downscale": "fd.dropout(h, p, rng=gen, mode='downscale_in_infer')",
    "nn.DropPath": "path(h)",
    "nn.AlphaDropout": "alpha(h)",
    "nn.LockedDropout": "locked(h)",
    "nn.Dropout2d": "channels(h)",
    "nn.GaussianDropout": "gaussian(h)",
    "nn.DropoutAdd": "add(h, residual)",
    "nn.ReLUDropout": "relu(h, bias)",
    "NumPy": "numpy(h)",
    "NumPy by random bits": "bits(h)",
    "NumPy, ReLU": "numpy_relu(h, bias)",
    "NumPy by random bits, ReLU": "bits_relu(h, bias)",
}
BACKWARD = {
    "h * 2": "d * two",
    "layer": "layer.backward(d)",
    "mask.backward": "mask.backward(d)",
    "nn.ReLUDropout": "relu.backward(d)",
    "NumPy": "numpy.backward(d)",
    "NumPy by random bits": "bits.backward(d)",
    "NumPy, ReLU": "numpy_relu.backward(d)",
    "NumPy by random bits, ReLU": "bits_relu.backward(d)",
}
RELU = "nn.ReLUDropout"  # what does the same: max(h + bias, 0) first, and the bias's gradient
NUMPY_RELU = ("NumPy, ReLU", "NumPy by random bits, ReLU")
TORCH_CALLS = {
    "h * 2": "h * 2",
    "F.dropout": "F.dropout(h, p)",
    "fastdrop.torch": "fdt.dropout(h, p)",
}

# How they may do, must and goal: times h * 2 there.
COLD = {
    "layer, forward": (1.7, 1.25),
    "layer without rng, forward": (1.7, 1.25),
    "layer, backward": (1.3, 1.0),
    "mask.backward, backward": (1.3, 1.0),
    "fd.dropout without rng, forward": (1.6, 1.2),
}
# The same less what the kernel takes longer than that hot, which is not the way to it: times h * 2,
# and for what reads two arrays h + residual.
COLD_BUT_FOR_THE_KERNEL = {
    "nn.DropPath, forward": "h * 2, forward",
    "nn.AlphaDropout, forward": "h * 2, forward",
    "nn.LockedDropout, forward": "h * 2, forward",
    "nn.Dropout2d, forward": "h * 2, forward",
    "nn.GaussianDropout, forward": "h * 2, forward",
    "nn.DropoutAdd, forward": "h + residual, forward",
    "nn.ReLUDropout, forward": "h * 2, forward",
}
FAMILY = (2.2, 1.5)
NUMPY_STEP = {"(64, 128)": (6.0, 8.0), "(64, 512)": (6.0, 8.0)}  # times the layer's
BITS_STEP = {"(64, 128)": (3.0, 4.0), "(64, 512)": (2.7, 4.0)}
TORCH_STEP = {"(64, 128)": (1.3, 2.0), "(64, 1024)": (3.0, 4.0)}

# Of 16 elements, times np.multiply(x, 2.0, out=y): must, goal.
SHORT = {
    "fd.dropout(x, p, rng=gen, out=y)": (0.6, 0.3),
    "fd.dropout(x, p, rng=gen)": (1.0, 0.5),
    "fd.dropout(x, p, rng=gen, return_mask=True)": (1.0, 0.5),
    "fd.dropout(x, p)": (1.0, 0.5),
    "fd.dropout(x, 1, rng=gen)": (1.0, 0.5),
    "fd.dropout(x, np_p, rng=gen)": (1.0, 0.5),
    "fd.dropout(x, p, rng=gen, mode='downscale_in_infer')": (1.0, 0.5),
    "layer(x)": (1.0, 0.5),
    "layer.backward(x)": (1.0, 0.5),
    "mask.backward(x)": (1.0, 0.5),
    "gen.mask(shape, p)": (1.0, 0.5),
    "fd.dropout(x, p, training=False)": (0.25, 0.15),
    "evaluated(x)": (0.25, 0.15),
    "fd.dropout(x, p, rng=numpy_gen)": (3.0, 2.0),
}
SHORT_UNIT = "np.multiply(x, 2.0, out=y)"


class Numpy:
    """What people write: a comparison and two products, with the mask kept for backward."""

    def __init__(self, shape: tuple[int, int]) -> None:
        self.rng, self.scale = np.random.default_rng(1), np.float32(1 / (1 - P))
        self.keep: Array = np.ones(shape, np.bool_)

    def __call__(self, h: Array) -> Array:
        """Drop."""
        self.keep = self.rng.random(h.shape, dtype=h.dtype) >= P
        return h * self.keep * self.scale

    def backward(self, d: Array) -> Array:
        """Return the gradient."""
        return d * self.keep * self.scale


class Bits(Numpy):
    """What one writes who knows NumPy well: a random bit an element, and one pass in place.

    It gives up p (exact to 2**-16 where it is not 0.5), reproducibility by element, and a byte an
    element for the mask.
    """

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__(shape)
        self.draw = random_bits(P)

    def __call__(self, h: Array) -> Array:
        """Drop."""
        self.keep = self.draw(h.size).reshape(h.shape)
        return self.backward(h)

    def backward(self, d: Array) -> Array:
        """Return the gradient."""
        y = d * self.keep
        y *= self.scale
        return y


class NumpyReLU:
    """Bias, ReLU and dropout in four passes, in place from the second on; three passes back.

    `draw` returns the decisions, True where kept.
    """

    def __init__(self, draw: Callable[[tuple[int, int]], Array]) -> None:
        self.draw, self.scale = draw, np.float32(1 / (1 - P))
        self.y: Array = np.zeros(0)
        self.multiplier = self.y

    def __call__(self, h: Array, bias: Array) -> Array:
        """Return ``dropout(max(h + bias, 0))``."""
        y = h + bias
        np.maximum(y, 0, out=y)
        self.multiplier = self.draw(y.shape) * self.scale
        y *= self.multiplier
        self.y = y
        return y

    def backward(self, d: Array) -> tuple[Array, Array]:
        """Return the gradients by h and by the bias."""
        dh = d * self.multiplier
        dh *= self.y > 0
        return dh, dh.sum(0)


@dataclass(frozen=True)
class Call:
    """One call, with the work that comes before it."""

    name: str
    way: str  # "forward", "backward"
    run: Callable[[Array], Any]

    def given(self, h: Array) -> Array:
        """Return h in the shape that the call wants: a view, made before it is timed."""
        return h.reshape(len(h), -1, 4, 4) if self.name == "nn.Dropout2d" else h


def run(effort: Effort, step: Callable[[str], None] = lambda what: None) -> Trainer:
    """Measure on one thread of fastdrop's, of BLAS and of PyTorch."""
    found: Trainer = {"rows": [], "figures": []}
    with one_blas_thread():
        for shape, (batch, inputs, units) in LAYERS.items():
            step(f"trainer: {shape}")
            work = _hidden_layer(batch, inputs, units)
            found["rows"] += _shape(shape, (batch, units), work, effort)
        step(f"trainer: {LSTM}")
        found["rows"] += _shape(LSTM, (32, 256), _time_step(32, 256), effort)
        for shape, sizes in TORCH.items():
            step(f"trainer: PyTorch {shape}")
            if installed("torch"):
                found["rows"] += _torch(shape, sizes, effort)
    step("trainer: 16 elements")
    found["figures"] = figures(found["rows"]) + _short(effort)
    return found


def blas_limits() -> Any:
    """Return threadpoolctl, or None where the environment keeps BLAS to one thread already."""
    if "1" in (os.environ.get(f"{name}_NUM_THREADS") for name in ("OPENBLAS", "OMP", "MKL")):
        return None
    try:
        return library("threadpoolctl")
    except ImportError as error:
        raise ImportError(f"{error}; or set OPENBLAS_NUM_THREADS=1") from None


def one_blas_thread() -> AbstractContextManager[Any]:
    """Keep NumPy's matrix products to one thread; from here on, until the context ends."""
    limits = blas_limits()
    return nullcontext() if limits is None else limits.threadpool_limits(1, "blas")


# ---- the work between ----------------------------------------------------------------------------

Work = Callable[[], Array]


def _hidden_layer(batch: int, inputs: int, units: int) -> Work:
    rng = np.random.default_rng(0)
    x = rng.random((batch, inputs), dtype=np.float32)
    w = rng.standard_normal((inputs, units), dtype=np.float32) * np.float32(0.05)

    def work() -> Array:
        h = np.maximum(x @ w, 0)
        x.T @ h
        return h

    return work


def _time_step(batch: int, units: int) -> Work:
    rng = np.random.default_rng(0)
    x = rng.random((batch, 2 * units), dtype=np.float32)  # the input and the state
    w = rng.standard_normal((2 * units, 4 * units), dtype=np.float32) * np.float32(0.05)

    def work() -> Array:
        gates = x @ w
        h = np.tanh(gates[:, :units])
        x.T @ gates
        return h

    return work


# ---- NumPy ---------------------------------------------------------------------------------------


def _names(shape: tuple[int, int]) -> Names:
    gen = fd.Generator(0)
    y, residual = np.zeros(shape, np.float32), np.ones(shape, np.float32)
    rng, bits = np.random.default_rng(1), random_bits(P)

    names: Names = {
        "fd": fd,
        "np": np,
        "p": P,
        "two": np.float32(2),
        "y": y,
        "residual": residual,
        "gen": gen,
        "layer": fd.nn.Dropout(P, rng=gen),
        "unseeded": fd.nn.Dropout(P),
        "evaluated": fd.nn.Dropout(P, rng=gen).eval(),
        "path": fd.nn.DropPath(P, rng=gen),
        "alpha": fd.nn.AlphaDropout(P, rng=gen),
        "locked": fd.nn.LockedDropout(P, rng=gen),
        "channels": fd.nn.Dropout2d(P, rng=gen),
        "gaussian": fd.nn.GaussianDropout(P, rng=gen),
        "add": fd.nn.DropoutAdd(P, rng=gen),
        "relu": fd.nn.ReLUDropout(P, rng=gen),
        "bias": np.linspace(-0.5, 0.5, shape[1], dtype=np.float32),
        "mask": gen.mask(shape, P),
        "numpy": Numpy(shape),
        "bits": Bits(shape),
        "numpy_relu": NumpyReLU(lambda shape: rng.random(shape, dtype=np.float32) >= P),
        "bits_relu": NumpyReLU(lambda shape: bits(math.prod(shape)).reshape(shape)),
    }
    names["layer"](y)
    for name in ("relu", "numpy_relu", "bits_relu"):
        names[name](y, names["bias"])
    return names


def _calls(names: Names) -> list[Call]:
    return [
        Call(name, way, eval(f"lambda {argument}: {expression}", names))
        for way, argument, expressions in (("forward", "h", FORWARD), ("backward", "d", BACKWARD))
        for name, expression in expressions.items()
    ]


def _shape(shape: str, size: tuple[int, int], work: Work, effort: Effort) -> list[Row]:
    names = _names(size)
    calls = _calls(names)
    _check(calls, size)
    _check_relu(calls, size, names["bias"])
    cold = cold_timings(calls, work, ROUNDS * effort.rounds)
    h = work()
    found = []
    for call, timing in zip(calls, cold, strict=True):
        timer = timeit.Timer("run(h)", globals={"run": call.run, "h": call.given(h)})
        hot = statistics.median(repeated(timer, effort))
        found.append(_row(shape, f"{call.name}, {call.way}", timing, hot))
    return found


def cold_timings(calls: Sequence[Call], work: Work, steps: int) -> list[Timing]:
    """Time calls, one after each piece of work."""
    samples: list[list[float]] = [[] for _ in calls]
    order, shuffle, now = list(range(len(calls))), random.Random(0).shuffle, time.perf_counter
    for _ in range(steps):
        shuffle(order)
        for i in order:
            h = calls[i].given(work())
            call, start = calls[i].run, now()
            call(h)
            samples[i].append(now() - start)
    found = []
    for taken in samples:
        median = statistics.median(taken)
        mad = statistics.median(abs(s - median) for s in taken)
        found.append(Timing(median, mad, min(taken), len(taken), 1))
    return found


def _row(shape: str, call: str, cold: Timing, hot: float | None) -> Row:
    of = "fastdrop"
    if call.startswith(("NumPy", "h ")):
        of = "numpy"
    if call.startswith(("F.", "fastdrop.torch", "torch")):
        of = "torch"
    return {
        "shape": shape,
        "call": call,
        "of": of,
        "cold_us": 1e6 * cold.median,
        "cold_min_us": 1e6 * cold.minimum,
        "hot_us": None if hot is None else 1e6 * hot,
        "noisy": cold.mad > NOISY * cold.median,
    }


def _check(calls: Sequence[Call], size: tuple[int, int]) -> None:
    """Look whether each drops as it should, and whether backward has forward's mask."""
    x = np.random.default_rng(0).random(size, dtype=np.float32) + np.float32(1)
    forward = {
        call.name: np.array(call.run(x))
        for call in calls
        if call.way == "forward" and call.name in ELEMENTS
    }
    for name, y in forward.items():
        kept = y != 0
        scale = np.float32(1 if "downscale" in name else 1 / (1 - P))
        if not np.array_equal(y, np.where(kept, x * scale, 0)):
            raise WrongResult(f"{name}: kept elements are not x * {scale}")
        if wrong := wrong_rate(kept, P):
            raise WrongResult(f"{name}: {wrong}")
    for call in calls:
        wanted = forward.get(call.name) if call.way == "backward" else None
        if wanted is not None and not np.array_equal(np.asarray(call.run(x)), wanted):
            raise WrongResult(f"{call.name}: backward has another mask than forward")


def _check_relu(calls: Sequence[Call], size: tuple[int, int], bias: Array) -> None:
    """Look whether those with ReLU compute the same thing, each with a mask of its own."""
    x, d = np.random.default_rng(0).standard_normal((2, *size), dtype=np.float32)
    scale, active = np.float32(1 / (1 - P)), np.maximum(x + bias, 0)
    at = {(call.name, call.way): call.run for call in calls}
    for name in (RELU, *NUMPY_RELU):
        y = at[name, "forward"](x)
        kept = y != 0
        if not np.array_equal(y, np.where(kept, active * scale, 0)):
            raise WrongResult(f"{name}: kept elements are not max(h + bias, 0) * {scale}")
        if wrong := wrong_rate(kept[active > 0], P):
            raise WrongResult(f"{name}: {wrong}")
        dh, dbias = at[name, "backward"](d)
        if not np.array_equal(dh, np.where(kept, d * scale, 0)):
            raise WrongResult(f"{name}: the gradient by h is not that of forward")
        if not np.allclose(dbias, dh.sum(0, dtype=np.float64), rtol=1e-3, atol=1e-4):
            raise WrongResult(f"{name}: the gradient by the bias is not the sum of that by h")


ELEMENTS = {
    "layer",
    "layer without rng",
    "fd.dropout, out=",
    "fd.dropout",
    "fd.dropout without rng",
    "fd.dropout, downscale",
    "NumPy",
    "NumPy by random bits",
}


# ---- PyTorch -------------------------------------------------------------------------------------


def _torch(shape: str, sizes: tuple[int, int, int], effort: Effort) -> list[Row]:
    torch, fdt = library("torch"), library("fastdrop.torch")
    torch.set_num_threads(1)
    batch, inputs, units = sizes
    x, w = torch.randn(batch, inputs), torch.randn(inputs, units) * 0.05
    names = {"F": library("torch.nn.functional"), "fdt": fdt, "p": P}
    calls = {name: eval(f"lambda h: {e}", names) for name, e in TORCH_CALLS.items()}
    samples: dict[tuple[str, str], list[float]] = {}
    order, shuffle, now = list(calls), random.Random(0).shuffle, time.perf_counter
    for _ in range(ROUNDS * effort.rounds):
        shuffle(order)
        for name in order:
            h = torch.relu(x @ w).requires_grad_()
            x.t() @ h.detach()
            start = now()
            y = calls[name](h)
            between = now()
            d = x @ w
            again = now()
            y.backward(d)
            end = now()
            samples.setdefault((name, "forward"), []).append(between - start)
            samples.setdefault((name, "backward"), []).append(end - again)
    found = []
    for (name, way), taken in samples.items():
        median = statistics.median(taken)
        mad = statistics.median(abs(s - median) for s in taken)
        timing = Timing(median, mad, min(taken), len(taken), 1)
        label = "torch, h * 2" if name == "h * 2" else name
        found.append(_row(shape, f"{label}, {way}", timing, None))
    return found


# ---- what is held to bounds ----------------------------------------------------------------------


def step_us(rows: Sequence[Row], shape: str, call: str) -> float | None:
    """Microseconds of forward and backward together, cold; None where it was not measured."""
    at = {row["call"]: row["cold_us"] for row in rows if row["shape"] == shape}
    ways = at.get(f"{call}, forward"), at.get(f"{call}, backward")
    return None if ways[0] is None or ways[1] is None else ways[0] + ways[1]


def figures(rows: Sequence[Row]) -> list[Target]:
    """Return what the rows say about the bounds."""
    found = []
    for shape in BOUNDED:
        for name, bounds in (("NumPy", NUMPY_STEP), ("NumPy by random bits", BITS_STEP)):
            found.append(
                _target(
                    f"{shape}: a step, {name} / layer",
                    step_us(rows, shape, name),
                    step_us(rows, shape, "layer"),
                    bounds[shape],
                    at_least=True,
                )
            )
        for name in NUMPY_RELU:
            label = f"{shape}: a step, {name} / {RELU}"
            theirs, ours = (step_us(rows, shape, one) for one in (name, RELU))
            found.append(_target(label, theirs, ours, (None, None), at_least=True))
        at = {row["call"]: row for row in rows if row["shape"] == shape}
        for call, bound in COLD.items():
            base = f"h * 2, {call.rpartition(', ')[2]}"
            label = f"{shape}: {call} / h * 2"
            found.append(_target(label, at[call]["cold_us"], at[base]["cold_us"], bound))
        for call, base in COLD_BUT_FOR_THE_KERNEL.items():
            own = max(0.0, (at[call]["hot_us"] or 0.0) - (at[base]["hot_us"] or 0.0))
            label = f"{shape}: {call} / {base.partition(',')[0]}, but for the kernel"
            cold = max(0.0, at[call]["cold_us"] - own)
            found.append(_target(label, cold, at[base]["cold_us"], FAMILY))
    for shape, bound in TORCH_STEP.items():
        label = f"{shape}: a step, F.dropout / fastdrop.torch"
        theirs, ours = (step_us(rows, shape, name) for name in ("F.dropout", "fastdrop.torch"))
        found.append(_target(label, theirs, ours, bound, at_least=True))
    return found


def _target(
    case: str,
    above: float | None,
    below: float | None,
    bounds: tuple[float | None, float | None],
    *,
    at_least: bool = False,
    noisy: bool = False,
) -> Target:
    return {
        "case": case,
        "measured": None if above is None or below is None else above / below,
        "must": bounds[0],
        "goal": bounds[1],
        "at_least": at_least,
        "noisy": noisy,
    }


def _short(effort: Effort) -> list[Target]:
    """Return what calls on 16 elements take, hot, where there is nothing but the call."""
    x = np.ones(SMALL, np.float32)
    gen = fd.Generator(0)
    names: Names = {
        "fd": fd,
        "np": np,
        "x": x,
        "y": np.empty_like(x),
        "p": P,
        "np_p": np.float64(P),
        "shape": x.shape,
        "gen": gen,
        "numpy_gen": np.random.default_rng(0),
        "layer": fd.nn.Dropout(P, rng=gen),
        "evaluated": fd.nn.Dropout(P, rng=gen).eval(),
        "mask": gen.mask(x.shape, P),
    }
    names["layer"](x)
    expressions = [SHORT_UNIT, *SHORT]
    timers = [timeit.Timer(expression, globals=names) for expression in expressions]
    samples: list[list[float]] = [[] for _ in timers]
    for _ in range(TURNS):
        for timer, taken in zip(timers, samples, strict=True):
            taken += repeated(timer, effort)
    unit, *times = (statistics.median(taken) for taken in samples)
    return [
        _target(f"{SMALL} elements: {expression}", taken, unit, SHORT[expression])
        for expression, taken in zip(SHORT, times, strict=True)
    ]
