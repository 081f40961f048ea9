"""One call over several threads: same bits, no thread before it is needed, fork, interrupts."""

import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import fastdrop as fd
from fastdrop import kernels

ROOT = Path(__file__).resolve().parents[1]
TILE = kernels.TILE
LARGE = (4 << 20) // 4 + 12345  # float32 elements: enough for 2 threads, and for 8


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


def test_ranges_cover_each_element_once(split_small_calls):
    # in place: what nobody did stays 1, what was done twice is scaled twice
    for n in (0, 1, 2047, 2048, 2049, 16 * TILE, LARGE):
        fd.set_num_threads(1)
        want = fd.dropout(np.ones(n, np.float32), 0.1, rng=1)
        for threads in (2, 3, 7, 16):
            fd.set_num_threads(threads)
            y = np.ones(n, np.float32)
            fd.dropout(y, 0.1, rng=1, out=y)
            np.testing.assert_array_equal(y, want)


def test_a_call_uses_its_workers():
    fd.set_num_threads(2)
    x = np.ones(16 << 20, np.float32)
    fd.dropout(x, 0.1, rng=1, out=x)
    all_threads, this_one = time.process_time(), time.thread_time()
    for seed in range(20):
        fd.dropout(x, 0.1, rng=seed, out=x)
    this_one = time.thread_time() - this_one
    all_threads = time.process_time() - all_threads
    assert all_threads - this_one > 0.2 * this_one


AFFINITY = """
import os, time
given = {given}
os.sched_setaffinity(0, given)
import numpy as np, fastdrop as fd
fd.set_num_threads(4)
x = np.ones(1 << 20, np.float32)
want = fd.dropout(x, .5, rng=0)
for _ in range(300):
    assert (fd.dropout(x, .5, rng=0) == want).all()
time.sleep(.1)  # they are at rest
of_all = [os.sched_getaffinity(int(task)) for task in os.listdir("/proc/self/task")]
assert os.sched_getaffinity(0) == given
assert len(of_all) > 3
print(all(cpus == given for cpus in of_all))
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs CPU affinity")
def test_workers_stay_on_the_processors_of_the_process():
    mine = os.sched_getaffinity(0)
    for given in (mine, {min(mine)}):
        run = run_python(AFFINITY.format(given=given))
        assert run.stdout.strip() == "True", run.stderr


def test_many_callers(split_small_calls):
    x = np.random.default_rng(0).standard_normal(100_000)
    want = fd.dropout(x, 0.1, rng=1)
    fd.set_num_threads(3)
    with ThreadPoolExecutor(8) as pool:
        for y in pool.map(lambda _: fd.dropout(x, 0.1, rng=1), range(100)):
            np.testing.assert_array_equal(y, want)


INTERRUPTS = """
import faulthandler, random, signal, time
import numpy as np, fastdrop as fd
import numpy.ma  # which NumPy imports late: Python may swallow an interrupt within an import
fd.set_num_threads(3)
fd.kernels.set_grain(1)
# so many elements that the GIL is given up: until it is taken CPython 3.11 may overlook a signal
x = np.ones(1 << 18, np.float32)
want = fd.dropout(x, .5, rng=0)
y = np.empty_like(x)
class Alarm(Exception): pass
def interrupt(*_):
    raise {error}
signal.signal(signal.SIGALRM, interrupt)
random = random.Random(0)
interrupts, end = 0, time.time() + 4
faulthandler.dump_traceback_later(30, exit=True)
while time.time() < end:
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
assert (fd.dropout(x, .5, rng=0) == want).all()
print(interrupts > 100)
"""


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("error", ["KeyboardInterrupt", "Alarm"])
def test_interrupts_at_any_moment_neither_hang_nor_leave_work_behind(error):
    run = run_python(INTERRUPTS.format(error=error))
    assert run.stdout.strip() == "True", run.stderr


UNSTARTED = """
import threading, weakref
import numpy as np, fastdrop as fd
fd.set_num_threads(3)
x = np.ones({large}, np.float32)
alive = weakref.ref(x)
start = threading.Thread.start
def refuse(self):
    raise {error}
threading.Thread.start = refuse
try:
    y = fd.dropout(x, .5, rng=1)
except KeyboardInterrupt:
    print("interrupted", end=" ")
    y = None
del x
print(alive() is None, threading.active_count(), end=" ")
threading.Thread.start = start
x = np.ones({large}, np.float32)
z = fd.dropout(x, .5, rng=1)
print(threading.active_count(), y is None or (y == z).all(), end=" ")
fd.set_num_threads(1)
print((fd.dropout(x, .5, rng=1) == z).all())
"""


@pytest.mark.parametrize(
    ("error", "first"),
    [
        ('RuntimeError("can\'t start new thread")', ""),
        ("MemoryError", ""),
        ("KeyboardInterrupt", "interrupted "),
    ],
)
def test_where_no_thread_can_be_started(error, first):
    run = run_python(UNSTARTED.format(large=LARGE, error=error))
    assert (run.stdout.strip(), run.stderr) == (f"{first}True 1 3 True True", "")


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


C_FORK = """
import ctypes, os
import numpy as np, fastdrop as fd
fd.set_num_threads(2)
x = np.ones({large}, np.float32)
want = fd.dropout(x, .1, rng=1)
pid = ctypes.PyDLL(None).fork()  # nothing of Python's that follows a fork is called
if pid == 0:
    os._exit(int(not (fd.dropout(x, .1, rng=1) == want).all()))
print(os.waitpid(pid, 0)[1])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs fork in the C library")
def test_fork_by_c_code():
    run = run_python(C_FORK.format(large=LARGE))
    assert (run.stdout.strip(), run.stderr) == ("0", "")


BUSY = """
import threading, time
import numpy as np, fastdrop as fd
fd.set_num_threads(2)
fd.kernels.set_grain(1)
x = np.ones({large}, np.float32)
small = np.ones(8 * fd.kernels.TILE, np.float32)
want = fd.dropout(small, .1, rng=1)
end = time.time() + 2
def hammer(a):
    while time.time() < end:
        fd.dropout(a, .1, rng=1)
others = [threading.Thread(target=hammer, args=[a]) for a in (x, x, small)]
for t in others:
    t.start()
while time.time() < end:
    assert (fd.dropout(small, .1, rng=1) == want).all()
for t in others:
    t.join()
print(threading.active_count())  # this one and one worker
"""


def test_one_call_has_the_workers_and_the_others_do_their_own():
    run = run_python(BUSY.format(large=LARGE))
    assert (run.stdout.strip(), run.stderr) == ("2", "")


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


@pytest.mark.parametrize("waiting", ["as here", "by POSIX alone"])
def test_the_pool_under_load(waiting, tmp_path):
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None or sys.platform == "win32" or not (ROOT / "fastdrop" / "pool.h").exists():
        pytest.skip("needs a compiler, POSIX threads and a checkout")
    header = (ROOT / "fastdrop" / "pool.h").read_text()
    if waiting != "as here":
        header = header.replace("__linux__", "__no_system__")
    (tmp_path / "pool.h").write_text(header)
    program = tmp_path / "pool"
    build = [compiler, "-O1", "-g", "-D_GNU_SOURCE", f"-I{tmp_path}"]
    build += [str(ROOT / "tests" / "c" / "pool.c"), "-o", str(program), "-pthread"]
    # addresses in their usual places, where the sanitizer expects them
    run = [*(["setarch", "-R"] if shutil.which("setarch") else []), str(program)]
    for sanitizer in (["-fsanitize=thread"], []):
        if subprocess.run([*build, *sanitizer], capture_output=True).returncode == 0:
            done = subprocess.run(run, capture_output=True, text=True, timeout=300)
            if "unexpected memory mapping" not in done.stderr:
                break
    assert (done.stdout, done.stderr) == ("ok\n", "")
