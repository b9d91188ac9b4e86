"""Work on many items in threads, results in the order of the items, with a bounded number under way.

Decoders let go of Python's lock, so threads are enough for images. Standard library only.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_TOLD_EVERY_SECONDS = 0.1


_most_workers: int | None = None  # in a process that shares its processors with others of its kind


def limit_worker_count(most: int) -> None:
    """Let this process use no more than so many processors from now on."""
    global _most_workers
    _most_workers = most


def worker_count() -> int:
    """Return the number of processors that this process may use."""
    if _most_workers is not None:
        return _most_workers
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def for_each(
    function: Callable[[Item], object],
    items: Sequence[Item],
    *,
    workers: int | None = None,
    finished: Callable[[int], object],
) -> None:
    """Call `function(item)` for every item, in threads that take the next one as soon as they are done with one.

    `finished(count)` is called now and then, in the calling thread, with how many more items are done. An exception of
    either passes through; no thread is left when this returns or raises.
    """
    workers = min(workers or worker_count(), len(items)) or 1
    rest = iter(items)
    done = [0] * workers
    stopping = threading.Event()

    def work(worker: int) -> None:
        for item in rest:
            if stopping.is_set():
                return
            function(item)
            done[worker] += 1

    told = 0
    executor = ThreadPoolExecutor(workers, thread_name_prefix="wisesr")
    try:
        pending = {executor.submit(work, worker) for worker in range(workers)}
        while pending:
            ended, pending = wait(pending, _TOLD_EVERY_SECONDS, FIRST_COMPLETED)
            while ended:
                ended.pop().result()  # in no variable: its error's traceback would keep it, and `function`, alive
            count = sum(done)
            finished(count - told)
            told = count
    finally:
        stopping.set()
        executor.shutdown(wait=True, cancel_futures=True)


def always() -> bool:
    """Say that the next item is there without waiting: the rule for items that come from a list or the disk."""
    return True


def map_in_batches(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    batch_size: int,
    workers: int | None = None,
    ready: Callable[[], bool] = always,
) -> Generator[list[Result], None, None]:
    """Give `function(item)` for every item, in order, in lists of at most `batch_size`.

    While one list is used, two items per worker of the next are under way. Where `ready` says that the next item is yet
    to come, what is there is given first, as a shorter list: a slow source never holds back results. Closing the
    generator early stops the threads; an exception of `function` or of `items` passes through and stops them, too. One
    raised where the results are used does not: use it within `contextlib.closing`.
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
