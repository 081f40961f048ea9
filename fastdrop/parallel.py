"""One call split over threads.

C knows no threads: a kernel does one range. Here a large call is cut into ranges, which the caller
and the workers of a standard-library pool claim from one counter until none is left. A worker that
comes late finds nothing, and where no thread can be started the caller does it all.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from fastdrop import config

TILE = 2048  # elements; fd_stream.h. Ranges start at multiples of it
PARALLEL_FROM_BYTES = 4 << 20  # of output; a smaller call stays in its thread
RANGE_BYTES = 512 << 10  # of output; the least that one claim is worth

_owner = threading.Lock()  # held by the one call that uses the pool
_pool: ThreadPoolExecutor | None = None
_pool_size = 0


def run(kernel: Callable[[int, int], None], n: int, item_bytes: float) -> None:
    """Call ``kernel(begin, count)`` on ranges that cover ``0 .. n-1``, each exactly once.

    Parameters
    ----------
    kernel : callable
        Does elements begin .. begin+count-1; releases the GIL; may run in several threads at once.
    n : int
        Number of elements.
    item_bytes : float
        Bytes of output an element.

    Notes
    -----
    Returns or raises only when no thread works on a range any more, KeyboardInterrupt included. One
    call owns the pool at a time; any other, and a nested one, does its work in its own thread.
    """
    threads = config.get_num_threads()
    if threads == 1 or n * item_bytes < PARALLEL_FROM_BYTES or not _owner.acquire(blocking=False):
        kernel(0, n)
        return
    try:
        tiles = -(-n // TILE)
        least = max(1, int(RANGE_BYTES / (TILE * item_bytes)))
        size = TILE * max(least, -(-tiles // (4 * threads)))
        job = _Job(kernel, n, size)
        try:
            pool = _workers(threads - 1)
            for _ in range(min(threads, -(-n // size)) - 1):
                pool.submit(job.work)
        except RuntimeError:  # no thread to be had, or the interpreter is shutting down
            pass
        try:
            job.work()
        finally:
            job.finish()
        if job.error is not None:
            raise job.error
    finally:
        _owner.release()


class _Job:
    """One call: its counter, and who is at work."""

    def __init__(self, kernel: Callable[[int, int], None], n: int, size: int) -> None:
        self.kernel = kernel
        self.n = n
        self.size = size
        self.next = 0  # first element that nobody has claimed
        self.active = 0  # ranges claimed and not done
        self.error: BaseException | None = None
        self.changed = threading.Condition()

    def work(self) -> None:
        while True:
            with self.changed:
                begin = self.next
                if begin >= self.n:
                    return
                self.next = begin + self.size
                self.active += 1
            try:
                self.kernel(begin, min(self.size, self.n - begin))
            except BaseException as error:
                self.error = error
                self.next = self.n
            finally:
                with self.changed:
                    self.active -= 1
                    self.changed.notify_all()

    def finish(self) -> None:
        """Wait until no range is being worked on; an interrupt meanwhile is raised after that."""
        interrupt = None
        while True:
            try:
                with self.changed:
                    self.next = self.n
                    while self.active:
                        self.changed.wait()
                break
            except KeyboardInterrupt as error:
                interrupt = error
        if interrupt is not None:
            raise interrupt


def _workers(size: int) -> ThreadPoolExecutor:
    global _pool, _pool_size
    if _pool is None or _pool_size != size:
        if _pool is not None:
            _pool.shutdown(wait=False)
        _pool = ThreadPoolExecutor(size, thread_name_prefix="fastdrop")
        _pool_size = size
    return _pool


def _after_fork_in_child() -> None:
    """Forget the pool, whose threads are not here, and any lock that was held."""
    global _owner, _pool
    _owner = threading.Lock()
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
