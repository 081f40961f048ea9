"""The benchmark's cases under pytest-benchmark, to find what a change made slower.

    pytest bench --benchmark-autosave
    pytest bench --benchmark-compare --benchmark-compare-fail=min:10%

One thread; the copy of each case is measured beside it.
"""

import pytest

import fastdrop as fd
from fastdrop.bench.contenders import COPY, FASTDROP, Case, check, dtype_of

SIZES = {"16": 16, "4Ki": 1 << 12, "256Ki": 1 << 18, "16Mi": 1 << 24}


@pytest.fixture(autouse=True)
def _one_thread():
    before = fd.get_num_threads()
    fd.set_num_threads(1)
    yield
    fd.set_num_threads(before)


@pytest.mark.parametrize("contender", [COPY, *FASTDROP], ids=lambda contender: contender.name)
@pytest.mark.parametrize("n", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("p", [0.5, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
def test_speed(benchmark, dtype, p, n, contender):
    if dtype == "bfloat16":
        pytest.importorskip("ml_dtypes")
    case = Case.make(dtype, p, n)
    names = contender.names(case)
    check(contender, eval(contender.expression, names), case)
    benchmark.group = f"{dtype} p={p} n={n}"
    benchmark.extra_info.update(isa=fd.get_isa(), itemsize=dtype_of(dtype).itemsize)
    benchmark(eval(f"lambda: {contender.expression}", names))
