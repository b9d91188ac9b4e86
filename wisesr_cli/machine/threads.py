"""Processes many items in threads, with results in order and a bounded number in progress.

Decoders release Python's global lock, so threads suffice for images. Standard library only.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_REPORT_SECONDS = 0.1
_TOGETHER, _ALONE = 2, 2  # reports for which all threads, and one alone, are tried
_SMALL_ITEMS = 1000  # per second; fewer are large enough for all threads


_most_workers: int | None = None  # set in a process that shares its processors with others like it


def limit_worker_count(most: int) -> None:
    """Limit the processors that this process uses from now on."""
    global _most_workers
    _most_workers = most


def worker_count() -> int:
    """Return the number of processors that this process may use."""
    if _most_workers is not None:
        return _most_workers
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def has_shared_locks() -> bool:
    """Return whether locks shared between processes work: in containers, /dev/shm may be missing or unwritable."""
    try:
        multiprocessing.Lock()
    except OSError:
        return False
    return True


def for_each(function: Callable[[Item], object], items: Sequence[Item], *, finished: Callable[[int], object]) -> None:
    """Call `function(item)` for every item, in the number of threads that is faster.

    That is one per processor, or a single one where items are so small that threads mostly wait for Python's global
    lock, as for thumbnails. Both are tried for a moment, unless items are too large for it to matter.

    `finished(count)` is called repeatedly, in the calling thread, with the number of newly finished items. Exceptions
    of both propagate; all threads have ended when this returns or raises.
    """
    workers = min(worker_count(), len(items)) or 1
    rest = iter(items)
    done = [0] * workers
    stopping = threading.Event()
    pace = _Pace()

    def work(worker: int) -> None:
        while not stopping.is_set() and (worker == 0 or pace.may_go_on()):
            try:
                item = next(rest)
            except StopIteration:
                break
            function(item)
            done[worker] += 1
        pace.release()

    reported = 0
    executor = ThreadPoolExecutor(workers, thread_name_prefix="wisesr")
    try:
        pending = {executor.submit(work, worker) for worker in range(workers)}
        while pending:
            ended, pending = wait(pending, _REPORT_SECONDS, FIRST_COMPLETED)
            while ended:
                ended.pop().result()  # no variable: a traceback would keep the future, and `function`, alive
            count = sum(done)
            finished(count - reported)
            if workers > 1:
                pace.report(count)
            reported = count
    finally:
        stopping.set()
        pace.release()
        executor.shutdown(wait=True, cancel_futures=True)


class _Pace:
    """Finds out whether all threads, or the first one alone, finish more items per second."""

    def __init__(self) -> None:
        self._others = threading.Event()
        self._others.set()
        self._lock = threading.Lock()
        self._is_over = False
        self._reports: list[tuple[float, int]] = []  # time in seconds, items finished

    def may_go_on(self) -> bool:
        """Wait while the first thread works alone; return True."""
        return self._others.is_set() or self._others.wait()

    def release(self) -> None:
        """Let all threads go on, from now to the end."""
        with self._lock:
            self._is_over = True
            self._others.set()

    def report(self, finished: int) -> None:
        """Take the number of items that are finished by now, and decide."""
        with self._lock:
            if self._is_over:
                return
            self._reports.append((time.perf_counter(), finished))
            number = len(self._reports) - 1
            if number == _TOGETHER and self._rate(0, _TOGETHER) >= _SMALL_ITEMS:
                self._others.clear()
                return
            go_on = number == _TOGETHER
            if number == _TOGETHER + _ALONE:
                go_on = self._rate(0, _TOGETHER) >= self._rate(_TOGETHER, number)
            elif number > _TOGETHER + _ALONE:
                go_on = self._rate(number - 1, number) < _SMALL_ITEMS  # larger ones follow
        if go_on:
            self.release()

    def _rate(self, first: int, last: int) -> float:
        """Return the items per second between two reports."""
        (began, before), (ended, after) = self._reports[first], self._reports[last]
        return (after - before) / max(ended - began, 1e-9)


def always() -> bool:
    """Return True: the next item is available without waiting, as for items from a list or the disk."""
    return True


def map_in_batches(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    batch_size: int,
    workers: int | None = None,
    ready: Callable[[], bool] = always,
) -> Generator[list[Result], None, None]:
    """Yield `function(item)` for every item, in order, in lists of at most `batch_size`.

    While the caller uses a list, two items per worker of the next list are in progress. When `ready` returns False, the
    results so far are yielded as a shorter list, so that a slow source never delays results. Closing the generator
    early stops the threads, as does an exception of `function` or `items`, which propagates. An exception in the code
    that uses the results does not: use `contextlib.closing`.
    """
    workers = workers or worker_count()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="wisesr")
    waiting: deque[Future[Result]] = deque()
    rest = iter(items)
    ended = False
    try:
        while True:
            while not ended and len(waiting) < batch_size + 2 * workers and (not waiting or ready()):
                taken = [executor.submit(function, item) for item in islice(rest, 1)]
                waiting.extend(taken)
                ended = not taken
            if not waiting:
                return
            yield [waiting.popleft().result() for _ in range(min(batch_size, len(waiting)))]
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
