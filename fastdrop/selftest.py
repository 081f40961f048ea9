"""Whether an installed fastdrop works here: ``python -m fastdrop.selftest``.

Needs NumPy and nothing else, neither a checkout nor a compiler. Exit status 0 where everything
passed. The known answers that it checks are those of the test suite, made by other implementations.
"""

from __future__ import annotations

import copy
import hashlib
import json
import pickle
import sys
import time
from collections.abc import Callable
from importlib import resources
from typing import Any

import numpy as np

import fastdrop as fd
from fastdrop.arrays import Array

__all__ = ["main"]


def known_answers(name: str) -> dict[str, Any]:
    """Return one of the files of known answers, by its stem."""
    answers: dict[str, Any] = json.loads(
        (resources.files("fastdrop") / f"data/{name}.json").read_text()
    )
    return answers


def check_masks() -> str:
    """Compare masks of ranges and windows, as bits and as applied in each dtype."""
    answers = known_answers("stream_v1")
    for v in answers["masks"]:
        whole = fd.Mask(v["seed"], v["position"], 2**58, v["p"])
        _check_mask(whole[v["start"] : v["start"] + v["n"]], v)
    for v in answers["windows"]:
        whole = fd.Mask(v["seed"], v["position"], v["shape"], v["p"], noise_shape=v["noise_shape"])
        _check_mask(whole[tuple(slice(*bounds) for bounds in v["window"])], v)
    return f"{len(answers['masks'])} masks and {len(answers['windows'])} windows"


def _check_mask(mask: fd.Mask, v: dict[str, Any]) -> None:
    _equal(_digest(mask.packbits()), v["sha256"], f"bits of {mask}")
    for dtype in (np.float16, np.float32, np.float64):
        kept = mask.apply(np.ones(mask.shape, dtype)) != 0
        bits = np.packbits(kept, bitorder="little")
        _equal(_digest(bits), v["sha256"], f"{np.dtype(dtype)} under {mask}")


def check_normals() -> str:
    """Compare Gaussian noise to the bit."""
    answers = known_answers("normal_v1")
    runs = answers["runs"] + answers["words"]
    for v in runs:
        noise = fd.Noise(v["seed"], v["position"], 2**58)[v["start"] : v["start"] + v["n"]]
        want = [int(bits, 16) for bits in v["normals"].split()]
        _equal(noise.normals().view(np.uint32).tolist(), want, f"normals of {noise}")
    return f"{len(runs)} runs of normal numbers"


def check_threads() -> str:
    """Split a large call over threads: the bits must not depend on how many."""
    x, before = np.ones(5_000_003, np.float32), fd.get_num_threads()
    try:
        digests = set()
        for threads in (1, 2, 3):
            fd.set_num_threads(threads)
            digests.add(_digest(fd.dropout(x, 0.1, rng=7)))
    finally:
        fd.set_num_threads(before)
    _equal(len(digests), 1, "number of different results of 1, 2 and 3 threads")
    return f"1, 2 and 3 threads on {x.nbytes / 2**20:.0f} MiB"


def check_seeds() -> str:
    """Compare seeds of children and of NumPy's SeedSequence."""
    answers = known_answers("stream_v1")
    for v in answers["spawn"]:
        children = fd.Generator(v["seed"], position=v["position"]).spawn(v["child"] + 1)
        _equal(children[-1].seed, v["child_seed"], f"seed of child {v['child']}")
    for v in answers["seed_sequence"]:
        sequence = np.random.SeedSequence(v["entropy"])
        _equal(fd.Generator(sequence).seed, v["seed"], f"seed of {sequence}")
    return f"{len(answers['spawn'])} children, {len(answers['seed_sequence'])} sequences"


def check_layers() -> str:
    """Run each layer forward and backward, in evaluation, and as a copy."""
    x = np.random.default_rng(0).standard_normal((4, 6, 8)).astype(np.float32)
    layers = [
        fd.nn.Dropout(0.5, rng=1),
        fd.nn.Dropout(0.5, rng=1, noise_shape=(None, 1, None), mode="downscale_in_infer"),
        fd.nn.Dropout1d(0.5, rng=1),
        fd.nn.AlphaDropout(0.5, rng=1),
        fd.nn.FeatureAlphaDropout(0.5, rng=1),
        fd.nn.DropPath(0.5, rng=1),
        fd.nn.LockedDropout(0.5, rng=1),
        fd.nn.GaussianDropout(0.5, rng=1),
        fd.nn.GaussianNoise(0.5, rng=1),
    ]
    for layer in layers:
        twin = copy.deepcopy(layer)
        y, mask = layer(x, return_mask=True)
        _equal(twin(x).tolist(), y.tolist(), f"{layer} and its copy")
        again = pickle.loads(pickle.dumps(mask))
        _equal(again.apply(x).tolist(), y.tolist(), f"{layer} and its mask, pickled")
        grad = layer.backward(x)
        step = np.float32(2.0) * x  # each is affine in x: its gradient is what a step changes
        change = mask.apply(x + step).astype(np.float64) - mask.apply(x)
        if not np.allclose(change, mask.backward(step), rtol=1e-4, atol=1e-4):
            raise AssertionError(f"{layer}: backward is not the derivative of forward")
        _equal(grad.shape, x.shape, f"shape of the gradient of {layer}")
        if layer.eval()(x).shape != x.shape:
            raise AssertionError(f"{layer}: evaluation changes the shape")
    y, mask = fd.dropout_add(x, x, 0.5, rng=1, return_mask=True)
    _equal(y.tolist(), (x + fd.dropout(x, 0.5, rng=1)).tolist(), "dropout_add")
    return f"{len(layers)} layers"


def check_refusals() -> str:
    """Give bad input, which must be refused and take no position."""
    gen, x = fd.Generator(0), np.ones(4, np.float32)
    calls: list[tuple[type[Exception], Callable[[], Any]]] = [
        (ValueError, lambda: fd.dropout(x, 1.5, rng=gen)),
        (ValueError, lambda: fd.dropout(x, float("nan"), rng=gen)),
        (TypeError, lambda: fd.dropout(x, "half", rng=gen)),
        (TypeError, lambda: fd.dropout(np.ones(4, int), 0.5, rng=gen)),
        (ValueError, lambda: fd.dropout(x, 0.5, rng=gen, noise_shape=(3,))),
        (ValueError, lambda: fd.dropout(x, 0.5, rng=gen, out=np.ones(5, np.float32))),
    ]
    for error, call in calls:
        try:
            call()
        except error:
            continue
        raise AssertionError("a call that had to be refused was not")
    _equal(gen.position, 0, "position after refused calls")
    return f"{len(calls)} refused calls"


def _digest(a: Array) -> str:
    return hashlib.sha256(a.tobytes()).hexdigest()


def _equal(found: Any, wanted: Any, what: str) -> None:
    if found != wanted:
        raise AssertionError(f"{what}: {found!r:.200}, not {wanted!r:.200}")


def main() -> int:
    """Run every check on every instruction set that is usable here, and report."""
    start, failed = time.perf_counter(), 0
    fd.show_config()
    before = fd.get_isa()
    of_kernels = [check_masks, check_normals, check_threads]
    runs = [(isa, check) for isa in fd.available_isas() for check in of_kernels]
    runs += [(before, check) for check in (check_seeds, check_layers, check_refusals)]
    for isa, check in runs:
        fd.set_isa(isa)
        name = f"{isa:9} {check.__name__.removeprefix('check_'):9}"
        try:
            print(f"{name} ok    {check()}")
        except Exception as error:
            failed += 1
            print(f"{name} FAILED {type(error).__name__}: {error}")
    fd.set_isa(before)
    verdict = (
        f"{failed} of {len(runs)} checks failed" if failed else f"all {len(runs)} checks passed"
    )
    print(f"{verdict} in {time.perf_counter() - start:.1f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
