"""The rest of the family: shared axes, dropout with its neighbours, and Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

import fastdrop as fd
from fastdrop.bench.contenders import (
    CHECKED,
    COPY,
    Array,
    Case,
    Contender,
    Names,
    random_bits,
    wrong_rate,
)
from fastdrop.bench.measure import Effort, Timing, measure_case
from fastdrop.bench.targets import Target, from_memory

RATES = (0.5, 0.1)
MIB = 1 << 20
IMAGES = (64, 64, 56, 56)  # N, C, H, W
SEQUENCE = (70, 80, 1150)  # T, B, F
ROW = 512  # elements of a row of dropout_add, relu_dropout and softmax_dropout
MANY = 1 << 10  # decisions that are not all the same
ADD_MIB = (1, 8, 64, 256)
RELU_MIB = (64, 256)
SOFTMAX_MIB = (1, 8, 64)  # of rows of ROW
NOISE_MIB = (1, 64)
RATES_MIB, RATES_ROWS = (1, 64), (64, 512, 4096)  # elements of a row of one rate
ONE_RATE = 0.3  # that arrays of rates are held to: of as many binary digits as theirs
NOISE_P, STDDEV = 0.5, 0.1  # of gaussian_dropout, of gaussian_noise
STEPS = (
    (2 + len(ADD_MIB) + len(RELU_MIB) + len(SOFTMAX_MIB)) * len(RATES)
    + len(NOISE_MIB)
    + len(RATES_MIB)
)  # that `run` tells of

# What is timed. In place, y is x.
EXPRESSIONS = {
    "dropout2d, channels first": "fd.dropout2d(x, p, rng=gen, out=y)",
    "dropout2d, channels last": "fd.dropout2d(x, p, rng=gen, data_format='channels_last', out=y)",
    "dropout, noise (N, 1, 1, 1)": "fd.dropout(x, p, rng=gen, noise_shape=noise, out=y)",
    "drop_path": "fd.drop_path(x, p, rng=gen, out=y)",
    "locked_dropout": "fd.locked_dropout(x, p, rng=gen, out=y)",
    "dropout_add": "fd.dropout_add(x, residual, p, bias=bias, rng=gen, out=y)",
    "dropout_add, NumPy": "np.add(residual, fd.dropout(np.add(x, bias, out=y), p, rng=gen, out=y), "
    "out=y)",
    "dropout_add, float16 x": "fd.dropout_add(x16, residual, p, bias=bias, rng=gen, out=y)",
    "dropout_add_backward": "fd.dropout_add_backward(x, mask, out=y)[1]",
    "dropout_add_backward, NumPy": "mask.backward(x, out=y).sum(0, out=dbias)",
    "relu_dropout": "fd.relu_dropout(x, p, bias=bias, rng=gen, out=y)",
    "relu_dropout, NumPy": "fd.dropout(np.maximum(np.add(x, bias, out=y), 0, out=y), p, rng=gen, "
    "out=y)",
    "relu_dropout_backward": "fd.relu_dropout_backward(x, h, p, out=y)[1]",
    "relu_dropout_backward, NumPy": "np.multiply(mask.backward(x, out=y), h > 0, out=y)"
    ".sum(0, out=dbias)",
    "softmax_dropout": "fd.softmax_dropout(x, p, rng=gen, out=y)",
    "softmax_dropout, NumPy": "np.multiply(np.multiply(np.multiply(np.exp(np.subtract(x, "
    "x.max(-1, keepdims=True), out=s), out=s), 1 / s.sum(-1, keepdims=True), out=s), keep(), "
    "out=y), scale, out=y)",
    "softmax_dropout_backward": "fd.softmax_dropout_backward(g, x, mask, out=dx)",
    "softmax_dropout_backward, NumPy": "np.subtract(np.multiply(g, kept, out=dx), np.multiply("
    "dx.sum(-1, keepdims=True), soft, out=t), out=dx)",
    "dropout": "fd.dropout(x, p, rng=gen, out=y)",
    "dropout, rates": "fd.dropout(x, rates, rng=gen, out=y)",
    "dropout, rates, NumPy": "np.multiply(x, (rng.random(x.shape, np.float32) >= rates) / "
    "(1 - rates), out=y)",
    "gaussian_dropout": "fd.gaussian_dropout(x, p, rng=gen, out=y)",
    "gaussian_dropout, NumPy": "np.multiply(np.add(np.multiply(rng.standard_normal("
    "dtype=np.float32, out=y), sd, out=y), 1, out=y), x, out=y)",
    "gaussian_noise": "fd.gaussian_noise(x, sd, rng=gen, out=y)",
    "gaussian_noise, NumPy": "np.add(np.multiply(rng.standard_normal("
    "dtype=np.float32, out=y), sd, out=y), x, out=y)",
}

SHARED_MUST = 1.3  # times copying
ADD_MUST = {64: 1.0, 256: 1.25}  # by MiB: times its bytes at the speed of copying
MIXED_MUST = 1.0  # of a float16 x: times float32
RELU_MUST = 1.25  # times copying, or what dropout alone is allowed from memory
RELU_BACKWARD_MUST = 1.1  # times its bytes at the speed of copying
NOISE_MUST = 3.0  # times as fast as NumPy
SOFTMAX_MUST = 5.0  # likewise


class Figure(Target):
    """One figure, as in the JSON: one time over another of the same run."""

    by_minimum: float  # what is measured, of the minima
    ns_per_element: float  # of fastdrop
    numpy: float | None  # what NumPy has in its place


def run(effort: Effort, step: Callable[[str], None] = lambda what: None) -> list[Figure]:
    """Measure every figure on one thread; Gaussian noise with each ISA that is usable."""
    found: list[Figure] = []
    for p in RATES:
        step(f"family: images p={p}")
        found += _images(p, effort)
    for p in RATES:
        step(f"family: sequences p={p}")
        found += _sequences(p, effort)
    for mib in ADD_MIB:
        for p in RATES:
            step(f"family: dropout_add {mib} MiB p={p}")
            found += _dropout_add(mib, p, effort)
    for mib in RELU_MIB:
        for p in RATES:
            step(f"family: relu_dropout {mib} MiB p={p}")
            found += _relu_dropout(mib, p, effort)
    for mib in SOFTMAX_MIB:
        for p in RATES:
            step(f"family: softmax_dropout {mib} MiB p={p}")
            found += _softmax_dropout(mib, p, effort)
    for mib in RATES_MIB:
        step(f"family: arrays of rates {mib} MiB")
        found += _rates(mib, effort)
    chosen = fd.get_isa()
    try:
        for mib in NOISE_MIB:
            step(f"family: Gaussian noise {mib} MiB")
            found += _gaussian(mib, effort)
    finally:
        fd.set_isa(chosen)
    return found


def _figure(
    case: str,
    n: int,
    above: Timing,
    below: Timing,
    must: float | None,
    *,
    at_least: bool = False,
    copies: float = 1.0,
    numpy: Timing | None = None,
) -> Figure:
    """Return what one took as a multiple of `copies` times what another did."""
    unit = copies * below.median
    return {
        "case": case,
        "measured": above.median / unit,
        "by_minimum": above.minimum / (copies * below.minimum),
        "must": must,
        "goal": None,
        "at_least": at_least,
        "noisy": above.noisy or below.noisy,
        "ns_per_element": (below if at_least else above).median * 1e9 / n,
        "numpy": None if numpy is None else numpy.median / unit,
    }


# ---- shared axes ---------------------------------------------------------------------------------


def _images(p: float, effort: Effort) -> list[Figure]:
    n, c, h, w = IMAGES
    ways = [
        _way("dropout2d, channels first", IMAGES, (n, c, 1, 1)),
        _way("dropout2d, channels last", (n, h, w, c), (n, 1, 1, c)),
        _way("dropout, noise (N, 1, 1, 1)", IMAGES, (n, 1, 1, 1)),
        _way("drop_path", IMAGES, (n, 1, 1, 1)),
    ]
    return _shared_axes(ways, math.prod(IMAGES), p, effort)


def _sequences(p: float, effort: Effort) -> list[Figure]:
    way = _way("locked_dropout", SEQUENCE, (1, *SEQUENCE[1:]))
    return _shared_axes([way], math.prod(SEQUENCE), p, effort)


def _shared_axes(ways: list[Contender], n: int, p: float, effort: Effort) -> list[Figure]:
    case = Case.make("float32", p, n)
    who = {"copy": COPY}
    for way in ways:
        who[way.title] = way
        who[f"{way.title}, in place"] = replace(way, names=_in_place(way.names))
    timings = measure_case(who, case, effort)
    copy = timings.pop("copy")
    return [
        _figure(f"p={p}: {title} / copy", n, ours, copy, SHARED_MUST)
        for title, ours in timings.items()
    ]


def _way(title: str, shape: tuple[int, ...], noise: tuple[int, ...]) -> Contender:
    """Return the contender that makes one decision for each element of `noise`."""

    def names(case: Case) -> Names:
        x, y = (a.reshape(shape) for a in (case.x, case.y))
        return {"fd": fd, "x": x, "y": y, "p": case.p, "gen": fd.Generator(0), "noise": noise}

    def wrong(value: Any, case: Case) -> str:
        if value.shape != shape:
            return f"the result's shape is {value.shape}"
        return wrong_shared(value, case.x.reshape(shape), noise, case)

    return Contender("fastdrop-shared", title, EXPRESSIONS[title], names, wrong=wrong)


def wrong_shared(y: Array, x: Array, noise: tuple[int, ...], case: Case) -> str:
    """Say what is wrong with a result whose decisions are of the shape `noise`."""
    shared = tuple(axis for axis, size in enumerate(noise) if size == 1)
    kept = (y != 0).any(shared, keepdims=True)
    rest = x * np.float32(case.scale)
    rest *= kept
    rest -= y
    if not max(rest.max(), -rest.min()) <= 1e-6 * case.scale:
        return f"the result is not x * {case.scale:.6g} by decisions of shape {noise}"
    axes = [axis for axis, size in enumerate(noise) if size > 1]
    if kept.size >= MANY and not all(np.diff(kept, axis=axis).any() for axis in axes):
        return f"the decisions are not of shape {noise} but shared along more axes"
    return wrong_rate(kept, case.p)


def _in_place(names: Callable[[Case], Names]) -> Callable[[Case], Names]:
    def same(case: Case) -> Names:
        z = case.x.copy()
        return names(replace(case, x=z, y=z))

    return same


# ---- dropout_add ---------------------------------------------------------------------------------


def _dropout_add(mib: int, p: float, effort: Effort) -> list[Figure]:
    case = Case.make("float32", p, mib * MIB // 4)
    x, y = case.x.reshape(-1, ROW), case.y.reshape(-1, ROW)
    gen = fd.Generator(0)
    shared: Names = {
        "np": np,
        "fd": fd,
        "x": x,
        "x16": x.astype(np.float16),
        "y": y,
        "p": p,
        "gen": gen,
        "mask": gen.mask(x.shape, p),
        "bias": np.linspace(1, 2, ROW, dtype=np.float32),
        "residual": np.ascontiguousarray(x[::-1]),
        "dbias": np.empty(ROW, np.float32),
    }

    def contender(title: str, wrong: Callable[[Any, Case], str]) -> Contender:
        made = EXPRESSIONS[title]
        return Contender("fastdrop-add", title, made, lambda _: dict(shared), wrong=wrong)

    def wrong(y: Any, case: Case) -> str:
        return wrong_sum(y, x, shared["bias"], shared["residual"], case)

    def wrong_mixed(y: Any, case: Case) -> str:
        return wrong_sum(y, shared["x16"], shared["bias"], shared["residual"], case)

    who = {
        "copy": COPY,
        "forward": contender("dropout_add", wrong),
        "numpy forward": contender("dropout_add, NumPy", wrong),
        "mixed": contender("dropout_add, float16 x", wrong_mixed),
        "backward": contender("dropout_add_backward", wrong_gradients),
        "numpy backward": contender("dropout_add_backward, NumPy", wrong_gradients),
    }
    t = measure_case(who, case, effort)
    copy, n = t["copy"], case.n
    must = ADD_MUST.get(mib)  # within the caches it is bound by arithmetic
    at = f"{mib} MiB p={p}:"
    return [
        _figure(
            f"{at} dropout_add / 1.5 copies",  # for it reads two arrays
            n,
            t["forward"],
            copy,
            must,
            copies=1.5,
            numpy=t["numpy forward"],
        ),
        _figure(
            f"{at} dropout_add, float16 x / float32",
            n,
            t["mixed"],
            t["forward"],
            MIXED_MUST,
        ),
        _figure(
            f"{at} dropout_add_backward / copy",
            n,
            t["backward"],
            copy,
            must,
            numpy=t["numpy backward"],
        ),
    ]


def wrong_sum(y: Array, x: Array, bias: Array, residual: Array, case: Case) -> str:
    """Say what is wrong with ``residual + dropout(x + bias)``, at either end."""
    if y.shape != x.shape:
        return f"the result's shape is {y.shape}"
    x, y, residual = (_ends(a) for a in (x, y, residual))
    branch = (x + bias) * case.scale
    kept = y - residual > branch / 2
    if not np.allclose(y, residual + branch * kept, rtol=1e-6, atol=0):
        return "the result is not the residual and, where kept, (x + bias) * scale"
    return wrong_rate(kept, case.p)


def wrong_gradients(dbias: Array, case: Case) -> str:
    """Say what is wrong with the gradients, that by x in the case's y."""
    dx = case.y.reshape(-1, ROW)
    x, y = _ends(case.x.reshape(-1, ROW)), _ends(dx)
    kept = y != 0
    if not np.allclose(y, x * case.scale * kept, rtol=1e-6, atol=0):
        return "the gradient by x is not that of dropout"
    return wrong_bias_gradient(dbias, dx) or wrong_rate(kept, case.p)


def wrong_bias_gradient(dbias: Array, dx: Array) -> str:
    """Say if the gradient by the bias is not the sum over the rows of that by x."""
    if np.allclose(dbias, dx.sum(0, dtype=np.float64), rtol=1e-3, atol=0):
        return ""
    return "the gradient by the bias is not the sum of that by x"


def _ends(a: Array) -> Array:
    """Return the first and the last rows, as float64."""
    rows = -(-CHECKED // ROW)
    few = a if len(a) <= 2 * rows else np.concatenate([a[:rows], a[-rows:]])
    return few.astype(np.float64)


# ---- relu_dropout --------------------------------------------------------------------------------


def _relu_dropout(mib: int, p: float, effort: Effort) -> list[Figure]:
    case = Case.make("float32", p, mib * MIB // 4)
    x, y = case.x.reshape(-1, ROW), case.y.reshape(-1, ROW)
    gen = fd.Generator(0)
    bias = np.linspace(-2, -1, ROW, dtype=np.float32)  # x is in [1, 2): about half is active
    h, mask = fd.relu_dropout(x, p, bias=bias, rng=gen, return_mask=True)
    shared: Names = {
        "np": np,
        "fd": fd,
        "x": x,
        "y": y,
        "p": p,
        "gen": gen,
        "h": h,
        "mask": mask,
        "bias": bias,
        "dbias": np.empty(ROW, np.float32),
    }

    def contender(title: str, wrong: Callable[[Any, Case], str]) -> Contender:
        made = EXPRESSIONS[title]
        return Contender("fastdrop-relu", title, made, lambda _: dict(shared), wrong=wrong)

    def wrong(y: Any, case: Case) -> str:
        return wrong_relu(y, x, bias, case)

    def wrong_backward(dbias: Any, case: Case) -> str:
        return wrong_relu_gradients(dbias, h, case)

    who = {
        "copy": COPY,
        "forward": contender("relu_dropout", wrong),
        "numpy forward": contender("relu_dropout, NumPy", wrong),
        "backward": contender("relu_dropout_backward", wrong_backward),
        "numpy backward": contender("relu_dropout_backward, NumPy", wrong_backward),
    }
    t = measure_case(who, case, effort)
    copy, n = t["copy"], case.n
    at = f"{mib} MiB p={p}:"
    return [
        _figure(
            f"{at} relu_dropout / copy",
            n,
            t["forward"],
            copy,
            max(RELU_MUST, from_memory(p)) if mib == 256 else RELU_MUST,
            numpy=t["numpy forward"],
        ),
        _figure(
            f"{at} relu_dropout_backward / 1.5 copies",  # for it reads two arrays
            n,
            t["backward"],
            copy,
            RELU_BACKWARD_MUST,
            copies=1.5,
            numpy=t["numpy backward"],
        ),
    ]


def wrong_relu(y: Array, x: Array, bias: Array, case: Case) -> str:
    """Say what is wrong with ``dropout(max(x + bias, 0))``, at either end."""
    if y.shape != x.shape:
        return f"the result's shape is {y.shape}"
    x, y = _ends(x), _ends(y)
    active, kept = np.maximum(x + bias, 0), y != 0
    if not np.allclose(y, active * case.scale * kept, rtol=1e-6, atol=0):
        return "the result is not, where kept, max(x + bias, 0) * scale"
    return wrong_rate(kept[active > 0], case.p)


def wrong_relu_gradients(dbias: Array, h: Array, case: Case) -> str:
    """Say what is wrong with the gradients of what gave h, that by x in the case's y."""
    dx = case.y.reshape(-1, ROW)
    grad, y, on = _ends(case.x.reshape(-1, ROW)), _ends(dx), _ends(h) > 0
    if not np.allclose(y, grad * case.scale * on, rtol=1e-6, atol=0):
        return "the gradient by x is not grad * scale where the output is above 0, elsewhere 0"
    return wrong_bias_gradient(dbias, dx)


# ---- softmax_dropout -----------------------------------------------------------------------------


def _softmax_dropout(mib: int, p: float, effort: Effort) -> list[Figure]:
    """Against what an expert writes, who draws raw bits, and keeps the softmax and the result."""
    case = Case.make("float32", p, mib * MIB // 4)
    x, y = case.x.reshape(-1, ROW), case.y.reshape(-1, ROW)
    grad, gen, draw = np.ascontiguousarray(x[::-1]), fd.Generator(0), random_bits(p)
    kept, mask = fd.softmax_dropout(x, p, rng=gen, return_mask=True)
    shared: Names = {
        "np": np,
        "fd": fd,
        "x": x,
        "y": y,
        "g": grad,
        "p": p,
        "gen": gen,
        "mask": mask,
        "keep": lambda: draw(case.n).reshape(x.shape),
        "scale": np.float32(case.scale),
        "s": np.empty_like(x),
        "soft": fd.softmax_dropout(x, training=False),
        "kept": kept,
        "dx": np.empty_like(x),
        "t": np.empty_like(x),
    }

    def contender(title: str, wrong: Callable[[Any, Case], str]) -> Contender:
        made = EXPRESSIONS[title]
        return Contender("fastdrop-softmax", title, made, lambda _: dict(shared), wrong=wrong)

    def wrong(y: Any, case: Case) -> str:
        return wrong_softmax(y, x, case)

    def wrong_backward(dx: Any, case: Case) -> str:
        return wrong_softmax_gradient(dx, grad, shared["soft"], kept)

    names = ("softmax_dropout", "softmax_dropout_backward")
    who = {}
    for name, check in zip(names, (wrong, wrong_backward), strict=True):
        who[name] = contender(name, check)
        who[f"{name}, NumPy"] = contender(f"{name}, NumPy", check)
    t = measure_case(who, case, effort)
    return [
        _figure(
            f"{mib} MiB p={p}: {name}, NumPy / fastdrop",
            case.n,
            t[f"{name}, NumPy"],
            t[name],
            SOFTMAX_MUST,
            at_least=True,
        )
        for name in names
    ]


def wrong_softmax(y: Array, x: Array, case: Case) -> str:
    """Say what is wrong with ``dropout(softmax(x))``, at either end."""
    if y.shape != x.shape:
        return f"the result's shape is {y.shape}"
    x, y = _ends(x), _ends(y)
    e, kept = np.exp(x), y != 0
    if not np.allclose(y, e / e.sum(-1, keepdims=True) * case.scale * kept, rtol=1e-5, atol=0):
        return "the result is not, where kept, softmax(x) * scale"
    return wrong_rate(kept, case.p)


def wrong_softmax_gradient(dx: Array, grad: Array, soft: Array, kept: Array) -> str:
    """Say if a gradient is not that by the scores, of a softmax and what was kept of it."""
    if dx.shape != soft.shape:
        return f"the result's shape is {dx.shape}"
    dx, grad, soft, kept = (_ends(a) for a in (dx, grad, soft, kept))
    want = grad * kept - soft * (grad * kept).sum(-1, keepdims=True)
    if not np.allclose(dx, want, rtol=1e-4, atol=1e-5 * abs(want).max()):
        return "the gradient is not softmax * (g - sum(softmax * g))"
    return ""


# ---- arrays of rates -----------------------------------------------------------------------------


def _rates(mib: int, effort: Effort) -> list[Figure]:
    case = Case.make("float32", ONE_RATE, mib * MIB // 4)
    rows = {f"a row of {n}": min(n, case.n) for n in RATES_ROWS}
    shapes: dict[str, tuple[int, ...]] = {name: (case.n // n, 1) for name, n in rows.items()}
    shapes |= {"a unit": (ROW,), "an element": (case.n // ROW, ROW)}
    who = {"one": _at_rates("dropout", (case.n // ROW, ROW), (1,))}
    for name, shape in shapes.items():
        whole = (case.n // rows.get(name, ROW), rows.get(name, ROW))
        who[name] = _at_rates("dropout, rates", whole, shape)
        who[f"{name}, NumPy"] = _at_rates("dropout, rates, NumPy", whole, shape)
    t = measure_case(who, case, effort)
    return [
        _figure(
            f"{mib} MiB: dropout, a rate {name} / p={ONE_RATE}",
            case.n,
            t[name],
            t["one"],
            None,
            numpy=t[f"{name}, NumPy"],
        )
        for name in shapes
    ]


def _at_rates(title: str, shape: tuple[int, ...], rates_shape: tuple[int, ...]) -> Contender:
    """Return the contender that drops elements of a shape at rates of another."""
    rng = np.random.default_rng(0)
    rates = rng.random(rates_shape, np.float32)

    def names(case: Case) -> Names:
        x, y = case.x.reshape(shape), case.y.reshape(shape)
        numbers = {"p": case.p, "rates": rates, "gen": fd.Generator(0), "rng": rng}
        return {"np": np, "fd": fd, "x": x, "y": y, **numbers}

    def wrong(value: Any, case: Case) -> str:
        at = np.full(1, case.p) if title == "dropout" else rates.astype(np.float64)
        return wrong_at_rates(value, case.x.reshape(shape), at)

    return Contender("fastdrop-rates", title, EXPRESSIONS[title], names, wrong=wrong)


def wrong_at_rates(y: Array, x: Array, rates: Array) -> str:
    """Say what is wrong with dropout of x at an array of rates."""
    if y.shape != x.shape:
        return f"the result's shape is {y.shape}"
    kept = y != 0
    if not np.allclose(y, x / (1 - rates) * kept, rtol=1e-6, atol=0):
        return "the result is not, where kept, x / (1 - p)"
    return wrong_rate(kept, float(np.broadcast_to(rates, x.shape).mean()))


# ---- Gaussian noise ------------------------------------------------------------------------------


def _gaussian(mib: int, effort: Effort) -> list[Figure]:
    case = Case.make("float32", NOISE_P, mib * MIB // 4)
    ways = [("gaussian_dropout", math.sqrt(case.p / (1 - case.p))), ("gaussian_noise", STDDEV)]
    sources = {"PCG64": np.random.PCG64, "SFC64": np.random.SFC64}
    isas = fd.available_isas()
    who = {"copy": COPY}
    for way, sd in ways:
        for isa in isas:
            ours = _noise(way, way, sd, fd.Generator(0))
            who[f"{way} {isa}"] = replace(ours, setup=f"fd.set_isa({isa!r})")
        for source, bits in sources.items():
            rng = np.random.Generator(bits(0))
            who[f"{way} {source}"] = _noise(f"{way}, NumPy", way, sd, rng)
    t = measure_case(who, case, effort)

    found = []
    for way, _ in ways:
        at = f"{mib} MiB: {way},"
        best = min((t[f"{way} {source}"] for source in sources), key=lambda t: t.median)
        for isa in isas:
            ours_t = t[f"{way} {isa}"]
            for source in sources:
                label, theirs = f"{at} NumPy {source} / {isa}", t[f"{way} {source}"]
                found.append(_figure(label, case.n, theirs, ours_t, NOISE_MUST, at_least=True))
            label = f"{at} {isa} / copy"
            found.append(_figure(label, case.n, ours_t, t["copy"], None, numpy=best))
    return found


def _noise(title: str, way: str, sd: float, rng: Any) -> Contender:
    def names(case: Case) -> Names:
        numbers = {"p": case.p, "sd": sd, "gen": rng, "rng": rng}
        return {"np": np, "fd": fd, "x": case.x, "y": case.y, **numbers}

    def wrong(value: Any, case: Case) -> str:
        if value.shape != case.x.shape:
            return f"the result's shape is {value.shape}"
        return wrong_noise(value, case.x, sd, way == "gaussian_noise")

    return Contender("fastdrop-noise", title, EXPRESSIONS[title], names, wrong=wrong)


def wrong_noise(y: Array, x: Array, sd: float, additive: bool) -> str:
    """Say what is wrong with Gaussian noise: its mean, its variance, or how much is beyond them."""
    x, y = (np.concatenate([a[:CHECKED], a[-CHECKED:]]).astype(np.float64) for a in (x, y))
    z = (y - x if additive else y / x - 1) / sd
    beyond = math.erfc(math.sqrt(0.5))  # of a normal distribution, one standard deviation
    for what, values, mean, deviation in [
        ("mean", z, 0.0, 1.0),
        ("variance", z * z, 1.0, math.sqrt(2)),
        ("share beyond one deviation", abs(z) > 1, beyond, math.sqrt(beyond * (1 - beyond))),
    ]:
        if not abs(values.mean() - mean) <= 6 * deviation / math.sqrt(min(z.size, x.size)):
            return f"the noise has {what} {values.mean():.4g} instead of {mean:.4g}"
    return ""
