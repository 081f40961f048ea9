"""Memory: nothing of the array's size is allocated beyond the result."""

import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

import fastdrop as fd

N_BYTES = 256 << 20
SLACK = 64 << 10


@pytest.fixture(scope="module")
def x():
    return np.ones(N_BYTES // 4, np.float32)


def allocated(call):
    """Bytes that a call holds at its peak; NumPy reports its arrays to tracemalloc."""
    call()  # threads are there, and what the first call of a process imports
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("p", [0.5, 0.1])
def test_forward_and_backward_allocate_the_result_alone(x, p, threads):
    fd.set_num_threads(threads)
    gen = fd.Generator(0)
    mask = gen.mask(x.shape, p)
    calls = [
        lambda: fd.dropout(x, p, rng=gen),
        lambda: fd.dropout(x, p, rng=gen, return_mask=True),
        lambda: mask.apply(x),
        lambda: mask.backward(x),
    ]
    for call in calls:
        assert N_BYTES <= allocated(call) < N_BYTES + SLACK


@pytest.mark.parametrize("threads", [1, 2])
def test_in_place_and_out_allocate_nothing(x, threads):
    fd.set_num_threads(threads)
    gen = fd.Generator(0)
    mask = gen.mask(x.shape, 0.1)
    y = x.copy()
    layer = fd.nn.Dropout(0.1, rng=gen)
    calls = [
        lambda: fd.dropout(y, 0.1, rng=gen, out=y),
        lambda: fd.dropout(x, 0.1, rng=gen, out=y),
        lambda: mask.backward(x, out=y),
        lambda: layer.forward(x, out=y),
        lambda: layer.backward(x, out=y),
    ]
    for call in calls:
        assert allocated(call) < SLACK


def test_packed_bits_are_an_eighth_of_a_byte_each(x):
    mask = fd.Generator(0).mask(x.shape, 0.1)
    assert allocated(mask.packbits) < x.size // 8 + SLACK


RESIDENT = """
import resource
import numpy as np, fastdrop as fd
x, y = np.ones(1 << 26, np.float32), np.ones(1 << 26, np.float32)
gen = fd.Generator(0)
fd.dropout(x[: 1 << 21], 0.1, rng=gen, out=y[: 1 << 21])  # threads and code are there
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
mask = fd.dropout(x, 0.1, rng=gen, out=y, return_mask=True)[1]
mask.backward(x, out=y)
fd.dropout(x, 0.1, rng=gen, out=x)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux")
def test_the_kernels_allocate_nothing_either():
    command = [sys.executable, "-c", RESIDENT]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(run.stdout) < 4096  # KiB; tracemalloc does not see what C allocates
