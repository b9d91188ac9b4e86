"""Orders and selects records in bounded memory, by merging sorted parts on the disk.

To add an order: a row in `SORTS`, and its name in `SortName` of `requests`.
"""

from __future__ import annotations

import heapq
import json
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

from wisesr_cli.display.grid import to_json
from wisesr_cli.errors import UsageError
from wisesr_cli.machine.files import naming
from wisesr_cli.prediction.journal import prediction_from_json
from wisesr_cli.results.streams import Prediction
from wisesr_cli.text import joined, visible

PART_BYTES = 8 << 20  # of records that are sorted in memory
MERGED = 64  # parts that are merged at a time, each an open file
HELD = 1000  # records; up to this many are selected in memory

Key = Callable[[Prediction], tuple[Any, ...]]


def check_order(sort: str | None, only: str | None) -> int | None:
    """Return the number of uncertain images requested, or None for all; raises a `UsageError`."""
    if sort is not None and sort not in SORTS:
        raise UsageError(f"--sort {visible(sort)} is not known; allowed: {joined(SORTS)}")
    if only is None:
        return None
    found = re.fullmatch(r"uncertain=(0*[1-9][0-9]{0,17})", only, re.ASCII)
    if found is None:
        raise UsageError(f"--only takes uncertain=N, the N most uncertain images; received: '{visible(only)}'")
    return int(found[1])


def in_order(
    records: Iterable[Prediction], *, sort: str | None, most: int | None, folder: Path | None
) -> Iterator[Prediction]:
    """Yield records in an order of `SORTS`; with `most`, only this many, the most uncertain of the readable images.

    Those come most uncertain first unless another order is given. The sort is stable. `folder` is where unnamed
    temporary files are made; None is the system's.
    """
    uncertain = SORTS["uncertain"]
    if most is not None:
        readable = (record for record in records if record.error is None)
        if most <= HELD:
            records = heapq.nsmallest(most, readable, key=uncertain)
        else:
            records = islice(_sorted(readable, uncertain, folder), most)
        sort = None if sort == "uncertain" else sort
    yield from records if sort is None else _sorted(records, SORTS[sort], folder)


def _sorted(records: Iterable[Prediction], key: Key, folder: Path | None) -> Iterator[Prediction]:
    with ExitStack() as files:
        parts = _Parts(key, folder, files)
        for record in records:
            parts.add(record)
        yield from parts.merged()


class _Parts:
    """Sorted parts: the last in memory, earlier ones in files; `MERGED` files become one of the next level."""

    def __init__(self, key: Key, folder: Path | None, files: ExitStack) -> None:
        self.key, self.files = key, files
        self.folder = Path(tempfile.gettempdir()) if folder is None else folder
        self._levels: list[list[IO[bytes]]] = []
        self._waiting: list[tuple[Any, bytes]] = []
        self._bytes = 0

    def add(self, record: Prediction) -> None:
        line = to_json(record.to_json()).encode("ascii") + b"\n"
        self._waiting.append((self.key(record), line))
        self._bytes += len(line)
        if self._bytes >= PART_BYTES:
            self._put(self._take(), level=0)

    def merged(self) -> Iterator[Prediction]:
        """Yield all records, sorted; equal ones keep the order in which they were added."""
        last = map(_record, self._take())
        earlier = (file for level in reversed(self._levels) for file in level)
        return heapq.merge(*map(_read, earlier), last, key=self.key)

    def _take(self) -> Iterator[bytes]:
        """Return the lines held in memory, sorted, and clear them."""
        waiting, self._waiting, self._bytes = self._waiting, [], 0
        waiting.sort(key=lambda each: each[0])
        return (line for _, line in waiting)

    def _put(self, lines: Iterable[bytes], level: int) -> None:
        """Write a sorted part to a level, and merge the level into the next one when it is full."""
        with naming(self.folder):
            file = self.files.enter_context(tempfile.TemporaryFile(dir=self.folder))  # noqa: SIM115
            file.writelines(lines)
            file.flush()
        if level == len(self._levels):
            self._levels.append([])
        self._levels[level].append(file)
        if len(self._levels[level]) == MERGED:
            files, self._levels[level] = self._levels[level], []
            merged = heapq.merge(*map(_read, files), key=self.key)
            self._put((to_json(record.to_json()).encode("ascii") + b"\n" for record in merged), level + 1)
            for done in files:
                done.close()


def _read(file: IO[bytes]) -> Iterator[Prediction]:
    file.seek(0)
    return map(_record, file)


def _record(line: bytes) -> Prediction:
    return prediction_from_json(json.loads(line))


# Unreadable images, and those without a label, come last.
SORTS: dict[str, Key] = {
    "uncertain": lambda record: (record.margin is None, record.margin or 0.0, -(record.entropy or 0.0)),
    "path": lambda record: (record.path,),
    "label": lambda record: (
        record.error is not None,
        record.label is None,
        record.label or "",
        -(record.score or 0.0),
    ),
    "score": lambda record: (record.score is None, -(record.score or 0.0)),
}
