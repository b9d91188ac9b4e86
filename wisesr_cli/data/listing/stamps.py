"""What the file system says of a file: while none of it changes, the file is taken for unchanged.

Size and date of modification alone are not enough: programs set dates, and two files may have both in common. A file
put in the place of another has another inode, and no program can set the date of its last change (ctime).
"""

from __future__ import annotations

import os
from array import array

import numpy as np
import numpy.typing as npt

STAMP = np.dtype([("size", "<i8"), ("mtime_ns", "<i8"), ("inode", "<i8"), ("ctime_ns", "<i8")])
FIELDS: tuple[str, ...] = STAMP.names or ()
_MOST = 2**63 - 1  # ns; in the year 2262. File systems keep later dates, which count as this one

Stamp = tuple[int, int, int, int]


def stamp_of(status: os.stat_result) -> Stamp:
    """Return size (bytes), date of modification (ns), inode, and date of the last change of any kind (ns)."""
    return status.st_size, _within(status.st_mtime_ns), status.st_ino & _MOST, _within(status.st_ctime_ns)


class Stamps:
    """The stamps of many files, in the order in which they were added; 32 bytes each."""

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
