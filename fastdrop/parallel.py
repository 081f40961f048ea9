"""One call split over threads.

C knows no threads: a kernel does one range. Here a call that kernels.run finds large is cut into
ranges, which the caller and a few workers claim from one counter until none is left. A worker that
comes late finds nothing, and where no thread can be started the caller does it all.

The workers are plain threads on a queue, not a ThreadPoolExecutor: that one, like anything built
on Condition, can be left locked for ever by a KeyboardInterrupt. Whatever must not be torn here
happens under a threading.Lock, which is held for a few bytecodes, and calls nothing meanwhile.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from fastdrop import threads

RANGE_BYTES = 512 << 10  # of output; the least that one claim is worth

_lock = threading.Lock()  # guards _owner
_owner: _Job | None = None  # the one call that uses the workers
_tasks: queue.SimpleQueue[_Job] = queue.SimpleQueue()
_workers: list[threading.Thread] = []


def run(kernel: Callable[[int, int], None], n: int, item_bytes: float, unit: int) -> None:
    """Call ``kernel(begin, count)`` on ranges that cover ``0 .. n-1``, each exactly once.

    Parameters
    ----------
    kernel : callable
        Does elements begin .. begin+count-1; releases the GIL; may run in several threads at once.
    n : int
        Number of elements.
    item_bytes : float
        Bytes of output an element.
    unit : int
        Elements of which each range but the last has a multiple.

    Notes
    -----
    Returns or raises only when no worker works on a range any more, KeyboardInterrupt included. One
    call owns the workers at a time; any other, and a nested one, does its work in its own thread.
    """
    global _owner
    workers = threads.get_num_threads()
    if workers == 1:
        kernel(0, n)
        return
    units = -(-n // unit)
    least = max(1, int(RANGE_BYTES / (unit * item_bytes)))
    job = _Job(kernel, n, unit * max(least, -(-units // (4 * workers))))
    interrupt: BaseException | None = None
    try:
        with _lock:
            if _owner is None:
                _owner = job
        if _owner is job:
            for _ in range(_start_workers(min(workers, -(-n // job.size)) - 1)):
                _tasks.put(job)
        else:
            job.size = n
        job.do_ranges()
    finally:
        while (
            True
        ):  # until it succeeds: what a signal handler raises meanwhile is raised after that
            try:
                job.finish()
                with _lock:
                    if _owner is job:
                        _owner = None
                break
            except BaseException as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt
    if job.error is not None:
        raise job.error


class _Job:
    """One call: its counter, and how many workers are at it."""

    def __init__(self, kernel: Callable[[int, int], None], n: int, size: int) -> None:
        self.kernel: Callable[[int, int], None] | None = kernel
        self.n = n
        self.size = size  # of a range
        self.lock = threading.Lock()
        self.next = 0  # first element that nobody has claimed
        self.working = 0  # workers, the caller not counted
        self.left: queue.SimpleQueue[None] = queue.SimpleQueue()  # gets one item from each
        self.error: BaseException | None = None

    def claim(self) -> int:
        """Return the start of a range that is now the caller's, n or more where none is left."""
        with self.lock:
            begin = self.next
            self.next = begin + self.size
        return begin

    def do_ranges(self) -> None:
        kernel = self.kernel
        while kernel is not None and (begin := self.claim()) < self.n:
            kernel(begin, min(self.size, self.n - begin))

    def work(self) -> None:
        """Do what a worker does: nothing where it comes late."""
        with self.lock:
            if self.next >= self.n:
                return
            self.working += 1
        try:
            self.do_ranges()
        except BaseException as error:
            self.error = error
        with self.lock:
            if self.error is not None:
                self.next = self.n
            self.working -= 1
        self.left.put(None)

    def finish(self) -> None:
        """Let no range be claimed any more and wait for those that are; may be called again."""
        with self.lock:
            self.next = self.n
        while self.working:
            self.left.get()
        self.kernel = None  # and the arrays with it


def _serve(tasks: queue.SimpleQueue[_Job]) -> None:
    while True:
        tasks.get().work()


def _start_workers(n: int) -> int:
    """Start workers until there are n, and return how many of the n there are."""
    try:
        while len(_workers) < n:
            name = f"fastdrop-{len(_workers)}"
            worker = threading.Thread(target=_serve, args=(_tasks,), name=name, daemon=True)
            worker.start()
            _workers.append(worker)
    except RuntimeError:  # no thread can be started, or the interpreter is shutting down
        pass
    return min(n, len(_workers))


def _after_fork_in_child() -> None:
    """Forget the workers, who are not here, and any lock that was held."""
    global _lock, _owner, _tasks, _workers
    _lock = threading.Lock()
    _owner = None
    _tasks = queue.SimpleQueue()
    _workers = []


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
