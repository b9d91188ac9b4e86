"""Splits the inputs of a prediction into shards, so that several processes or machines each label one part.

Shard I of N takes every N-th input, starting at number I, counted from 0. Sizes differ by at most one input, shards
depend only on the list, and interleaving the lines of their outputs gives the output of a single run.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from hashlib import blake2b

from wisesr_cli.errors import DataError, UsageError
from wisesr_cli.listening import Listener
from wisesr_cli.text import counted, visible

MOST_SHARDS = 1_000_000
NO_INPUT = "no image to label: the given folders, patterns and lists contain none"


@dataclass(frozen=True)
class Shard:
    """Part `index`, from 0, of `count` parts of the inputs."""

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def parse_shard(text: str) -> Shard:
    """Parse the shard of `--shard I/N`; raises `UsageError` for any other text."""
    found = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
    if found is None:
        raise UsageError(f"--shard {visible(text)}: expected I/N, for instance 0/4, the first of four shards")
    index, count = int(found[1]), int(found[2])
    if not 1 <= count <= MOST_SHARDS:
        raise UsageError(f"--shard {visible(text)}: {count:,} shards; allowed: 1 to {MOST_SHARDS:,}")
    if index >= count:
        raise UsageError(f"--shard {visible(text)}: shards count from 0; allowed: 0/{count} to {count - 1}/{count}")
    return Shard(index, count)


class ShardInputs(Iterator[str]):
    """The inputs of a shard, in order; `ready` tells whether the next path of the whole list is available."""

    def __init__(self, paths: Iterator[str], ready: Callable[[], bool], shard: Shard) -> None:
        self._paths, self._ready, self.shard = paths, ready, shard
        self._ahead: deque[str] = deque()  # at most one path, read by `ready`
        self._hash = blake2b(digest_size=4)
        self.read = self.yielded = 0

    def __next__(self) -> str:
        """Return the next path; raises `DataError` if the whole list, not only this shard, is empty."""
        while not self._ahead:
            self._take()
        self.yielded += 1
        return self._ahead.popleft()

    def ready(self) -> bool:
        """Return whether the next path, or the end, is available without waiting for the writer of the list."""
        while not self._ahead:
            if not self._ready():
                return False
            try:
                self._take()
            except StopIteration:
                break
        return True

    def _take(self) -> None:
        """Read the next path of the whole list."""
        try:
            path = next(self._paths)
        except StopIteration:
            if not self.read:
                raise DataError(NO_INPUT) from None
            raise
        if self.read % self.shard.count == self.shard.index:
            self._ahead.append(path)
        self._hash.update(os.fsencode(path) + b"\0")
        self.read += 1

    def tell(self, listener: Listener) -> None:
        """Report the counts, and a hash that identifies the whole list."""
        listener.note(
            f"shard {self.shard}: {self.yielded:,} of {counted(self.read, 'input')}; list {self._hash.hexdigest()}, "
            "which must be the same for every shard"
        )
