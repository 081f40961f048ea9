"""One call over several threads: same bits, no thread before it is needed, fork, interrupts."""

import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import fastdrop as fd
from fastdrop import kernels, parallel

TILE = kernels.TILE
LARGE = kernels.SPLIT_FROM_BYTES // 4 + 12345  # float32 elements


def run_python(code, *options):
    return subprocess.run(
        [sys.executable, "-W", "error", *options, "-c", code],
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.parametrize("threads", [2, 3, 5, 7, 16])
def test_results_do_not_depend_on_the_number_of_threads(threads):
    x = np.random.default_rng(0).standard_normal(LARGE).astype(np.float32)
    fd.set_num_threads(1)
    want, mask = fd.dropout(x, 0.1, rng=1, return_mask=True)
    bits = mask.packbits()
    fd.set_num_threads(threads)
    np.testing.assert_array_equal(fd.dropout(x, 0.1, rng=1), want)
    np.testing.assert_array_equal(mask.backward(x), want)
    np.testing.assert_array_equal(mask.packbits(), bits)
    fd.dropout(x, 0.1, rng=1, out=x)
    np.testing.assert_array_equal(x, want)


@pytest.mark.parametrize("noise_shape", [(300, 1, 41), (1, 70, 41), (300, 70, 1), None])
def test_windows_over_threads(noise_shape, split_small_calls):
    x = np.random.default_rng(0).standard_normal((300, 70, 41))
    mask = fd.Generator(1).mask((301, 70, 41), 0.3, noise_shape=noise_shape and (1, 70, 1))[1:]
    fd.set_num_threads(1)
    want = mask.apply(x)
    for threads in (2, 3, 7):
        fd.set_num_threads(threads)
        np.testing.assert_array_equal(mask.apply(x), want)
        np.testing.assert_array_equal(mask.keep(), want != 0)


def test_ranges_cover_each_element_once():
    lock = threading.Lock()
    for n in (0, 1, 2047, 2048, 2049, LARGE):
        for threads in (1, 2, 3, 7):
            fd.set_num_threads(threads)
            ranges = []

            def kernel(begin, count, ranges=ranges):
                with lock:
                    ranges.append((begin, count))

            parallel.run(kernel, n, 4, TILE)
            ranges.sort()
            at = 0
            for begin, count in ranges:
                assert begin == at
                assert begin % TILE == 0
                at += count
            assert at == n


def test_a_call_uses_its_workers():
    fd.set_num_threads(2)
    met = threading.Barrier(2, timeout=30)
    names = set()

    def kernel(begin, count):
        if begin < 2 * TILE and len(names) < 2:
            names.add(threading.current_thread().name)
            met.wait()

    parallel.run(kernel, 2 * TILE, 1 << 20, TILE)
    assert len(names) == 2


def test_nested_and_concurrent_calls_run_inline():
    fd.set_num_threads(2)
    pairs = []

    def kernel(begin, count):
        outer = threading.current_thread()
        parallel.run(
            lambda b, c: pairs.append((outer, threading.current_thread(), b, c)), LARGE, 4, TILE
        )

    parallel.run(kernel, LARGE, 4, TILE)
    assert len(pairs) > 1
    for outer, inner, begin, count in pairs:
        assert inner is outer
        assert (begin, count) == (0, LARGE)


def test_many_callers(split_small_calls):
    x = np.random.default_rng(0).standard_normal(100_000)
    want = fd.dropout(x, 0.1, rng=1)
    fd.set_num_threads(3)
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: fd.dropout(x, 0.1, rng=1), range(100)):
            np.testing.assert_array_equal(y, want)


def test_an_error_reaches_the_caller_when_all_are_done():
    fd.set_num_threads(4)
    at_work = []

    def kernel(begin, count):
        at_work.append(begin)
        try:
            if begin == 0:
                raise KeyError("first range")
            time.sleep(0.05)
        finally:
            at_work.remove(begin)

    with pytest.raises(KeyError, match="first range"):
        parallel.run(kernel, LARGE, 4, TILE)
    assert at_work == []
    parallel.run(lambda begin, count: None, LARGE, 4, TILE)  # the pool is free again


INTERRUPT = """
import _thread, threading, time
import fastdrop as fd
from fastdrop import parallel
fd.set_num_threads(2)
at_work = []
main = threading.current_thread()
def kernel(begin, count):
    at_work.append(begin)
    started.set()
    try:
        if threading.current_thread() is main:
            started.clear(); started.wait(10)  # until the worker has a range
            _thread.interrupt_main(); time.sleep(.1)
        else:
            time.sleep(.5)
    finally:
        at_work.remove(begin)
        done.append(threading.current_thread() is main)
started, done = threading.Event(), []
try:
    parallel.run(kernel, 1 << 22, 4, 2048)
except KeyboardInterrupt:
    print(at_work, sorted(set(done)))
"""


def test_keyboard_interrupt_waits_for_the_workers():
    run = run_python(INTERRUPT)
    assert run.stdout.strip() == "[] [False, True]", run.stderr


INTERRUPTS = """
import faulthandler, random, signal, time
import numpy as np, fastdrop as fd
import numpy.ma  # which NumPy imports late: Python may swallow an interrupt within an import
from fastdrop import parallel
fd.set_num_threads(3)
parallel.RANGE_BYTES = fd.kernels.split_from(1) and 1
x = np.ones(1 << 17, np.float32)
want = fd.dropout(x, .5, rng=0)
y = np.empty_like(x)
class Alarm(Exception): pass
def interrupt(*_):
    raise {error}
signal.signal(signal.SIGALRM, interrupt)
random = random.Random(0)
interrupts, end = 0, time.time() + 4
while time.time() < end:
    faulthandler.dump_traceback_later(20, exit=True)
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-4 + 1e-3 * random.random())
        while True:
            fd.dropout(x, .5, rng=0, out=y)
    except {error}:
        interrupts += 1
        y[:] = 7  # a worker that still wrote would spoil it
        time.sleep(2e-4)
        assert (y == 7).all()
signal.setitimer(signal.ITIMER_REAL, 0)
assert parallel._owner is None
assert (fd.dropout(x, .5, rng=0) == want).all()
print(interrupts > 100)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "Alarm"])
def test_interrupts_at_any_moment_neither_hang_nor_leave_work_behind(error):
    run = run_python(INTERRUPTS.format(error=error))
    assert run.stdout.strip() == "True", run.stderr


def test_where_no_thread_can_be_started(monkeypatch):
    fd.set_num_threads(2)
    monkeypatch.setattr(parallel, "_workers", [])

    def refuse(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    x = np.ones(LARGE, np.float32)
    alive = weakref.ref(x)
    y = fd.dropout(x, 0.5, rng=1)
    del x
    assert alive() is None  # nothing waits with the arrays for a thread that never comes
    x = np.ones(LARGE, np.float32)
    monkeypatch.undo()
    fd.set_num_threads(1)
    np.testing.assert_array_equal(y, fd.dropout(x, 0.5, rng=1))


COUNT = """
import threading
import numpy as np, fastdrop as fd
fd.set_num_threads(4)
fd.dropout(np.ones(1000, np.float32))
print(threading.active_count(), end=" ")
fd.dropout(np.ones({large}, np.float32))
print(threading.active_count() > 1)
"""


def test_no_thread_before_the_first_large_call():
    run = run_python(COUNT.format(large=LARGE))
    assert (run.stdout.strip(), run.stderr) == ("1 True", "")


FORK = """
import os, sys, threading, warnings
import numpy as np, fastdrop as fd
warnings.simplefilter("ignore", DeprecationWarning)  # 3.12: fork with threads
fd.set_num_threads(2)
x = np.ones({large}, np.float32)
want = fd.dropout(x, .1, rng=1)
stop = threading.Event()
def hammer():
    while not stop.is_set():
        fd.dropout(x, .1, rng=1)
busy = threading.Thread(target=hammer)
busy.start()
codes = []
for _ in range(10):
    pid = os.fork()
    if pid == 0:
        ok = (fd.dropout(x, .1, rng=1) == want).all()
        grandchild = os.fork()
        if grandchild == 0:
            os._exit(int(not (fd.dropout(x, .1, rng=1) == want).all()))
        ok &= os.waitpid(grandchild, 0)[1] == 0
        os._exit(int(not ok))
    codes.append(os.waitpid(pid, 0)[1])
stop.set()
busy.join()
print(codes)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_fork_while_the_pool_is_at_work():
    run = run_python(FORK.format(large=LARGE))
    assert run.stdout.strip() == str([0] * 10), run.stderr


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_multiprocessing(method, tmp_path):
    script = tmp_path / "main.py"
    script.write_text(
        "import multiprocessing, warnings\n"
        "import numpy as np, fastdrop as fd\n"
        "warnings.simplefilter('ignore', DeprecationWarning)\n"
        f"x = np.ones({LARGE}, np.float32)\n"
        "def work(seed):\n"
        "    fd.set_num_threads(2)\n"
        "    return float(fd.dropout(x, .1, rng=seed).sum())\n"
        "if __name__ == '__main__':\n"
        "    here = [work(s) for s in range(3)]\n"
        f"    with multiprocessing.get_context('{method}').Pool(2) as pool:\n"
        "        print(pool.map(work, range(3)) == here)\n"
    )
    run = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=120)
    assert run.stdout.strip() == "True", run.stderr
