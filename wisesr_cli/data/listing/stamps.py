"""Identifies the state of a file by its metadata: while none of it changes, the file counts as unchanged.

Size and modification time are not enough: programs set times, and two files may share both. A file that replaces
another has a different inode, and no program can set the time of the last change (ctime).
"""

from __future__ import annotations

import os
from array import array

import numpy as np
import numpy.typing as npt

STAMP = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("inode", "<i8"), ("ctime_ns", "<i8")])
FIELDS: tuple[str, ...] = STAMP.names or ()
_MOST = 2**63 - 1  # ns; in the year 2262. Later dates, which file systems may store, count as this one

Stamp = tuple[int, int, int, int]


def stamp_of(status: os.stat_result) -> Stamp:
    """Return size (bytes), modification time (ns), inode, and time of the last change of any kind (ns)."""
    return status.st_size, _within(status.st_mtime_ns), status.st_ino & _MOST, _within(status.st_ctime_ns)


class Stamps:
    """The stamps of many files, in the order added; 32 bytes each."""

    def __init__(self) -> None:
        self._values = array("q")

    def add(self, status: os.stat_result) -> None:
        """Add the stamp of one more file."""
        self._values.extend(stamp_of(status))

    def array(self) -> npt.NDArray[np.void]:
        """Return the stamps as an array of `STAMP`: (files,)."""
        return np.array(self._values, np.int64).view(STAMP)


def _within(date: int) -> int:
    return min(max(date, -_MOST), _MOST)
