"""The masks look like coin tosses. Seeds are fixed: a failure is a bug, never bad luck."""

import math

import numpy as np
import pytest

import fastdrop as fd

N = 1 << 20


def z(successes, n, p):
    """Standard score of a binomial count."""
    return (successes - n * p) / math.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("p", [1e-4, 0.01, 0.1, 0.25, 0.3, 0.5, 0.75, 0.9, 0.999])
def test_drop_rate(p):
    """Within 5 sigma; a rate of 8 bits only would miss .1 by 0.17 %."""
    dropped = sum(N - int(fd.Mask(seed, 0, N, p).keep().sum()) for seed in range(8))
    assert abs(z(dropped, 8 * N, p)) < 5


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("lag", [*range(1, 9), 31, 32, 33, 64, 127, 128, 129, 1000, 2048])
def test_lags(p, lag):
    drop = ~fd.Mask(3, 0, N, p).keep()
    both = int((drop[lag:] & drop[:-lag]).sum())
    assert abs(z(both, N - lag, p * p)) < 5


@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize(
    "other", [(3, 1), (3, 2**32), (3, 2**63), (2, 0), (4, 0), (3 + 2**32, 0), (2**63 + 3, 0)]
)
def test_seeds_and_positions_are_independent(p, other):
    both = ~fd.Mask(3, 0, N, p).keep() & ~fd.Mask(*other, N, p).keep()
    assert abs(z(int(both.sum()), N, p * p)) < 5


def test_children_are_independent():
    gen = fd.Generator(0)
    parent = gen.mask(N).keep()
    drops = [child.mask(N).keep() for child in gen.spawn(4)] + [parent]
    for i in range(5):
        for j in range(i):
            assert abs(z(int((drops[i] & drops[j]).sum()), N, 0.25)) < 5


@pytest.mark.parametrize("p", [0.5, 0.1])
def test_every_byte_is_as_likely_as_it_should_be(p):
    """Chi-square of the packed bytes over all 256 values."""
    counts = np.bincount(fd.Mask(5, 0, 8 * N, p).packbits(), minlength=256)
    ones = np.array([bin(b).count("1") for b in range(256)])
    expected = N * (1 - p) ** ones * p ** (8 - ones)
    few = expected < 10
    counts = np.append(counts[~few], counts[few].sum())
    expected = np.append(expected[~few], expected[few].sum())
    if expected[-1] < 1e-9:
        counts, expected = counts[:-1], expected[:-1]
    chi2 = float(((counts - expected) ** 2 / expected).sum())
    free = len(counts) - 1
    assert abs(chi2 - free) < 5 * math.sqrt(2 * free)


def test_neighbours_do_not_share_decisions():
    """Groups of four with one decision: a bug that a peer shipped."""
    keep = fd.Mask(1, 0, (N // 4, 4), 0.5).keep()
    alike = int((keep == keep[:, :1]).all(axis=1).sum())
    assert abs(z(alike, N // 4, 1 / 8)) < 5
