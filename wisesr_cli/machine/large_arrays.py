"""Arrays that may not fit in memory, backed by a temporary file."""

from __future__ import annotations

import mmap
import os
import tempfile
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALL_BYTES = 256 << 20  # arrays up to this size stay in memory


def large_array(shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return an uninitialized float32 array, in a temporary file if it is large and the disk has room.

    The file has no name, so it disappears with the array, however the process ends.
    """
    size = prod(shape) * np.dtype(np.float32).itemsize
    if size <= SMALL_BYTES:
        return np.empty(shape, np.float32)
    try:
        with tempfile.TemporaryFile() as file:
            os.posix_fallocate(file.fileno(), 0, size)  # writing to a hole on a full disk would kill the process
            return np.frombuffer(mmap.mmap(file.fileno(), size), np.float32).reshape(shape)
    except OSError:
        return np.empty(shape, np.float32)


def release(array: NDArray[Any]) -> None:
    """Free the memory of an array from `large_array`, whose values stay in its file; no effect on other arrays."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview) and isinstance(base.obj, mmap.mmap):
        base.obj.madvise(mmap.MADV_DONTNEED)
