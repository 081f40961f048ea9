"""Stream v1: the C kernels and the oracle against known answers made by neither of them."""

import hashlib

import numpy as np
import pytest

import fastdrop as fd
from fastdrop import _reference, kernels
from fastdrop.selftest import known_answers

VECTORS = known_answers("stream_v1")


def digest(mask):
    return hashlib.sha256(mask.packbits().tobytes()).hexdigest()


def mask_of(v):
    whole = fd.Mask(v["seed"], v["position"], 2**58, v["p"])
    return whole[v["start"] : v["start"] + v["n"]]


def window_of(v):
    mask = fd.Mask(v["seed"], v["position"], v["shape"], v["p"], noise_shape=v["noise_shape"])
    return mask[tuple(slice(*bounds) for bounds in v["window"])]


def test_vectors_are_whole():
    assert VECTORS["stream"] == 1
    assert len(VECTORS["masks"]) == 283
    assert len(VECTORS["windows"]) == 40


@pytest.mark.parametrize("v", VECTORS["philox4x32_10"])
def test_philox_known_answers(v):
    c = [int(word, 16) for word in v["ctr"]]
    k = [int(word, 16) for word in v["key"]]
    want = tuple(int(word, 16) for word in v["out"])
    seed, position = k[0] | k[1] << 32, c[2] | c[3] << 32
    assert kernels.block(seed, position, c[1] >> 24, c[0] | (c[1] & 0xFFFFFF) << 32) == want
    assert tuple(int(word) for word in _reference.philox4x32(c, k)) == want


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_masks(isa, threads, split_small_calls):
    fd.set_num_threads(threads)
    for v in VECTORS["masks"]:
        mask = mask_of(v)
        assert digest(mask) == v["sha256"], v
        assert mask.keep().sum() == v["kept"], v


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_windows(isa, threads, split_small_calls):
    fd.set_num_threads(threads)
    for v in VECTORS["windows"]:
        mask = window_of(v)
        assert digest(mask) == v["sha256"], v
        assert mask.keep().sum() == v["kept"], v


def test_kernels_that_apply_see_the_same_masks(isa, dtype):
    for v in VECTORS["masks"][::3] + VECTORS["windows"]:
        mask = window_of(v) if "window" in v else mask_of(v)
        kept = mask.apply(np.ones(mask.shape, dtype)) != 0
        bits = np.packbits(kept, bitorder="little")
        assert hashlib.sha256(bits.tobytes()).hexdigest() == v["sha256"], v


def test_oracle_agrees():
    for v in VECTORS["masks"][::4]:
        keep = _reference.keep_range(v["seed"], v["position"], v["start"], v["n"], v["p"])
        bits = np.packbits(keep, bitorder="little").tobytes()
        assert hashlib.sha256(bits).hexdigest() == v["sha256"], v
    for v in VECTORS["windows"]:
        keep = _reference.keep_array(
            v["seed"], v["position"], v["shape"], v["p"], v["noise_shape"]
        )[tuple(slice(*bounds) for bounds in v["window"])]
        bits = np.packbits(keep.ravel(), bitorder="little").tobytes()
        assert hashlib.sha256(bits).hexdigest() == v["sha256"], v


@pytest.mark.parametrize("v", VECTORS["spawn"])
def test_spawn(v):
    gen = fd.Generator(v["seed"], position=v["position"])
    children = gen.spawn(v["child"] + 1)
    assert children[-1].seed == v["child_seed"]
    assert children[-1].position == 0
    assert gen.position == v["position"] + 1
    assert _reference.spawn_seed(v["seed"], v["position"], v["child"]) == v["child_seed"]


@pytest.mark.parametrize("v", VECTORS["seed_sequence"])
def test_seed_sequence(v):
    assert fd.Generator(np.random.SeedSequence(v["entropy"])).seed == v["seed"]


def test_numpy_generator_gives_two_low_words():
    for bit_generator in (np.random.PCG64, np.random.MT19937, np.random.SFC64):
        raw = bit_generator(7).random_raw(2)
        want = int(raw[0]) % 2**32 | int(raw[1]) % 2**32 << 32
        assert fd.Generator(np.random.Generator(bit_generator(7))).seed == want


def test_masks_are_nested():
    previous = np.ones(5000, bool)
    for p in [0.0, 2**-40, 1e-9, 0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 1 - 2**-40, 1.0]:
        keep = fd.Mask(3, 4, 5000, p).keep()
        assert not (keep & ~previous).any()
        previous = keep
    assert not previous.any()


@pytest.mark.parametrize("p", [2**-40, 2**-41, 3 * 2**-41, 2**-42, 1 - 2**-41, 0.1, 5e-324])
def test_drop_threshold_is_rounded_half_even_and_exact(p):
    from fastdrop.rates import drop_threshold

    assert drop_threshold(p) == _reference.drop_threshold(p)
