"""Processes many items in threads, with results in order and a bounded number in progress.

Decoders release Python's global lock, so threads suffice for images. Needs no other package. A signal is handled
while no lock is held.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from wisesr_cli.machine.stopping import signals_held

Item = TypeVar("Item")
Result = TypeVar("Result")

_REPORT_SECONDS = 0.1
TRIAL, HOLD = 0.2, 5.0  # seconds, see `Pace`
SMALL_ITEMS = 1000  # per second; if fewer are finished, they are large enough for all threads
BUSY = 0.75  # of the time of all processors; threads that use more of it do not wait for Python's lock


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


def for_each(
    function: Callable[[Item], object],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    finished: Callable[[int], object],
) -> None:
    """Call `function(item)` for every item, in at most `workers` threads, by default one per processor.

    If items are so small that threads mostly wait for Python's global lock, as for thumbnails, one thread is faster
    than several: see `Pace`.

    `finished(count)` is called repeatedly, in the calling thread, with the number of newly finished items. Exceptions
    of both propagate; all threads have ended when this returns or raises.
    """
    workers = min(workers or worker_count(), len(items)) or 1
    rest = iter(items)
    done = [0] * workers
    stopping = threading.Event()
    pace = Pace(min(workers, worker_count()))

    def work(worker: int) -> None:
        while worker == 0 or pace.may_go_on():
            if stopping.is_set():
                break
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
        with signals_held() as deliver:
            pending = {executor.submit(work, worker) for worker in range(workers)}
            while pending:
                ended, pending = wait(pending, _REPORT_SECONDS, FIRST_COMPLETED)
                while ended:
                    ended.pop().result()  # no variable: a traceback would keep the future, and `function`, alive
                count = sum(done)
                if workers > 1:
                    pace.report(time.perf_counter(), count, time.process_time())
                finished(count - reported)
                reported = count
                deliver()
    finally:
        with signals_held():
            stopping.set()
            pace.release()
        executor.shutdown(wait=True, cancel_futures=True)


@dataclass(frozen=True)
class _Report:
    """What threads have done by a moment: `now` and `computed`, the time of processors, are in seconds."""

    now: float
    finished: int
    computed: float


class Pace:
    """Decides from time to time whether all threads, or the first one alone, finish more small items per second.

    A trial takes `TRIAL` seconds with all threads, then as long with one, unless all were `BUSY` or the items large.
    The next one follows after `HOLD` seconds, twice as many each time, as other items may follow; at once if one thread
    alone meets large ones.
    """

    def __init__(self, processors: int) -> None:
        self._processors = processors  # that all threads together can use
        self._others = threading.Event()
        self._others.set()
        self._lock = threading.Lock()
        self._is_over = False
        self._hold, self._resting_until = HOLD, 0.0
        self._together: list[_Report] = []
        self._alone: list[_Report] = []
        self._resting: list[_Report] = []

    @property
    def is_alone(self) -> bool:
        """Whether only the first thread works at the moment."""
        return not self._others.is_set()

    def may_go_on(self) -> bool:
        """Wait while the first thread works alone; return True."""
        return self._others.is_set() or self._others.wait()

    def release(self) -> None:
        """Let all threads continue until the end."""
        with self._lock:
            self._is_over = True
            self._others.set()

    def report(self, now: float, finished: int, computed: float) -> None:
        """Take the number of items finished, and the processor time used, by a time in seconds; decide who works."""
        report = _Report(now, finished, computed)
        with self._lock:
            if self._is_over:
                return
            if now < self._resting_until:
                self._watch(report)
                return
            if self._alone:
                self._alone.append(report)
                if _seconds(self._alone) >= TRIAL:
                    self._decide(now, is_alone=_rate(self._alone) > _rate(self._together))
            elif self.is_alone and self._together:
                self._alone.append(report)  # what the others had begun is finished
            elif self.is_alone:
                self._others.set()  # a new trial
            else:
                self._together.append(report)
                if _seconds(self._together) < TRIAL:
                    return
                if _rate(self._together) < SMALL_ITEMS or _processors(self._together) >= BUSY * self._processors:
                    self._decide(now, is_alone=False)
                else:
                    self._others.clear()

    def _watch(self, report: _Report) -> None:
        """End the rest of a thread that works alone and finishes few items."""
        self._resting.append(report)
        if _seconds(self._resting) >= TRIAL:
            if self.is_alone and _rate(self._resting) < SMALL_ITEMS:
                self._others.set()
                self._resting_until, self._hold = report.now, HOLD
            self._resting = []

    def _decide(self, now: float, *, is_alone: bool) -> None:
        if not is_alone:
            self._others.set()
        self._together, self._alone = [], []
        self._resting_until, self._hold = now + self._hold, 2 * self._hold


def _seconds(reports: list[_Report]) -> float:
    return reports[-1].now - reports[0].now


def _rate(reports: list[_Report]) -> float:
    return (reports[-1].finished - reports[0].finished) / _seconds(reports)


def _processors(reports: list[_Report]) -> float:
    """Return how many processors the threads used."""
    return (reports[-1].computed - reports[0].computed) / _seconds(reports)


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
            taken: list[Item] = []
            while not ended and len(waiting) + len(taken) < batch_size + 2 * workers:
                if (waiting or taken) and not ready():
                    break
                found = list(islice(rest, 1))
                taken += found
                ended = not found
            with signals_held():
                waiting.extend([executor.submit(function, item) for item in taken])
            if not waiting:
                return
            yield results([waiting.popleft() for _ in range(min(batch_size, len(waiting)))])
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


def results(futures: list[Future[Result]]) -> list[Result]:
    """Return the results of `futures`, which is emptied, in order, once all have finished."""
    with signals_held() as deliver:
        futures.reverse()
        while unfinished := [future for future in futures if not future.done()]:
            wait(unfinished[:1], _REPORT_SECONDS)  # the last one: the others are finished then, or nearly so
            deliver()
        return [futures.pop().result() for _ in range(len(futures))]  # no variable: see `for_each`
