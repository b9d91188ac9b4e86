"""Work on many items in threads, results in the order of the items, with a bounded number under way.

Decoders let go of Python's lock, so threads are enough for images. Standard library only.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def worker_count() -> int:
    """Return the number of processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return max(1, len(os.sched_getaffinity(0)))
    return os.cpu_count() or 1


def map_in_order(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    workers: int | None = None,
    look_ahead: int | None = None,
) -> Generator[Result, None, None]:
    """Give `function(item)` for every item, in order; items are taken only as results are used.

    At most `look_ahead` items (default: four per worker) are under way or waiting to be used. Closing the generator
    early stops the threads; an exception of `function` or of `items` passes through and stops them, too. One raised
    where the results are used does not: use it within `contextlib.closing`.
    """
    workers = workers or worker_count()
    ahead = look_ahead or 4 * workers
    executor = ThreadPoolExecutor(workers, thread_name_prefix="wisesr")
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(executor.submit(function, item))
            if len(waiting) >= ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
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
