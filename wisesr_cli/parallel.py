"""Work on many items in threads, results in the order of the items, with a bounded number under way.

Decoders let go of Python's lock, so threads are enough for images. Standard library only.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
) -> Iterator[Result]:
    """Give `function(item)` for every item, in order; items are taken only as results are used.

    At most `look_ahead` items (default: four per worker) are under way or waiting to be used. Closing the iterator
    early stops the threads; an exception of `function` or of `items` passes through and stops them, too.
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
