"""Decoded images and their feature maps on disk: one file per list of images, shared by all runs.

A file `KEY.pixels` contains a byte per image (1: readable), then every image as uint8 (height, width, channels); a file
`KEY.maps` the same for feature maps. The key covers the files, their stamps and all options that affect the values, so
a cache never goes stale; it is removed with the last run that used it, or when others need its space. A process locks
the file while using it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import math
import os
import secrets
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from wisesr_cli.data.verified import Keys
from wisesr_cli.images.decoding import DECODER_VERSION
from wisesr_cli.images.preparation import RGB, Preparation
from wisesr_cli.images.resizing import resizer_name
from wisesr_cli.machine import caches
from wisesr_cli.machine.locks import take
from wisesr_cli.machine.shared_caches import note_use, remove_unused, shared_folder

DISK_LIMIT_BYTES = 20 * 10**9  # total of all caches
SPARE_BYTES = 10**9  # left free on the disk

Shape = tuple[int, int, int, int]  # (images, height, width, channels)
Rows = npt.NDArray[Any]


class DiskCache:
    """An array of `shape` and `dtype` on disk, one row per image; call `close` to let others remove the file.

    Rows are read, not memory-mapped: mapped pages count as memory of the process until the machine runs short, and a
    truncated file would kill the process instead of raising an error.
    """

    def __init__(self, path: Path, file: _Descriptor, shape: Shape, dtype: npt.DTypeLike) -> None:
        self.path = path
        self._file: _Descriptor | None = file
        self._count, self._row_bytes = shape[0], _row_bytes(shape, dtype)
        flags = np.empty(shape[0], np.uint8)
        _read_all(file.number, flags, 0)
        self.readable: npt.NDArray[np.bool_] = flags != 0

    def read(self, positions: npt.NDArray[np.int64], batch: Rows) -> None:
        """Fill `batch`, (positions, height, width, channels), with the rows at `positions`; from any thread.

        Raises `OSError` when the file was truncated, `ValueError` once it is closed.
        """
        file = self._file  # this reference keeps the file open while it is read
        if file is None:
            raise ValueError("the cache is closed")
        for row, position in enumerate(positions.tolist()):
            _read_all(file.number, batch[row], self._count + position * self._row_bytes)

    def close(self) -> None:
        """Release the lock as soon as no thread is reading."""
        self._file = None


class _Descriptor:
    """A file descriptor, closed when the last reference to this object is gone."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __del__(self) -> None:
        os.close(self.number)


class CacheWriter:
    """Writes the rows of a new cache, in any order and from any thread, until it is closed."""

    def __init__(self, descriptor: int, shape: Shape, dtype: npt.DTypeLike) -> None:
        self._descriptor = descriptor
        # The system reuses the number of a closed descriptor: no write may be running or start after closing.
        self._lock = threading.Lock()
        self._count, self._row_bytes = shape[0], _row_bytes(shape, dtype)

    def write(self, position: int, row: Rows) -> None:
        """Store the row of one image and mark it readable; raises `ValueError` once the cache is closed."""
        data = np.ascontiguousarray(row).data.cast("B")
        with self._lock:
            if self._descriptor < 0:
                raise ValueError("the cache is closed")
            _write_all(self._descriptor, data, self._count + position * self._row_bytes)
            _write_all(self._descriptor, memoryview(b"\1"), position)

    def close(self) -> None:
        """Close the file as soon as no thread is writing to it."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)


def cache_path(key: str, kind: Literal["pixels", "maps"]) -> Path:
    """Return the path of the cache of a key."""
    return shared_folder() / f"{key}.{kind}"


def pixels_key(keys: Keys, image_size: tuple[int, int], preparation: Preparation) -> str:
    """Return the key of the decoded images of files with these keys (see `verified.file_keys`)."""
    more = "" if preparation.channels == RGB else f" {preparation.channels} channels"
    more += "" if resizer_name() == "cykooz-resizer" else f" {resizer_name()}"  # its pixels may differ by 1
    digest = hashlib.blake2b(f"{DECODER_VERSION} {image_size} {preparation}{more}".encode(), digest_size=16)
    digest.update(keys.tobytes())
    return digest.hexdigest()


def open_cache(path: Path, shape: Shape, dtype: npt.DTypeLike = np.uint8) -> DiskCache | None:
    """Return a complete cache and update its time of use, or None if there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    file = _Descriptor(descriptor)
    try:
        take(descriptor, shared=True, wait=True)
        if os.fstat(descriptor).st_size != _total_bytes(shape, dtype):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        note_use(path)
        return DiskCache(path, file, shape, dtype)
    except OSError:
        return None


@contextlib.contextmanager
def new_cache(path: Path, shape: Shape, dtype: npt.DTypeLike = np.uint8) -> Iterator[CacheWriter]:
    """Write a cache that gets its name if the block succeeds, else is removed; raises `OSError` without space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{secrets.token_hex(8)}.tmp")  # containers that share the folder share process ids
    _make_room(path.parent, _total_bytes(shape, dtype))
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    writer = CacheWriter(descriptor, shape, dtype)
    try:
        take(descriptor, wait=True)
        if hasattr(os, "posix_fallocate"):  # allocates the blocks now, so that a full disk is an error here
            os.posix_fallocate(descriptor, 0, _total_bytes(shape, dtype))
        else:
            os.ftruncate(descriptor, _total_bytes(shape, dtype))
        yield writer
        os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        writer.close()


def has_room(shape: Shape, dtype: npt.DTypeLike = np.uint8) -> bool:
    """Return whether a cache of this shape fits within the limit and on the disk."""
    needed = _total_bytes(shape, dtype)
    folder = caches.cache_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return needed <= DISK_LIMIT_BYTES and needed + SPARE_BYTES <= shutil.disk_usage(folder).free
    except OSError:
        return False


def _total_bytes(shape: Shape, dtype: npt.DTypeLike) -> int:
    return shape[0] * (1 + _row_bytes(shape, dtype))


def _row_bytes(shape: Shape, dtype: npt.DTypeLike) -> int:
    return math.prod(shape[1:]) * np.dtype(dtype).itemsize


def _make_room(folder: Path, needed: int) -> None:
    """Remove files of killed processes, then the least recently used caches, until `needed` more bytes fit."""
    for left_over in sorted(folder.glob("*.tmp")):
        remove_unused(left_over)
    ages = []
    for path in (*folder.glob("*.pixels"), *folder.glob("*.maps")):
        with contextlib.suppress(OSError):
            status = path.stat()
            ages.append((status.st_mtime_ns, path, status.st_size))
    total = sum(size for _, _, size in ages)
    for _, path, size in sorted(ages):
        if total + needed <= DISK_LIMIT_BYTES:
            return
        if remove_unused(path):
            total -= size
    if total + needed > DISK_LIMIT_BYTES:
        raise OSError(errno.ENOSPC, "the limit of all caches is reached", str(folder))


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_all(descriptor: int, values: Rows, offset: int) -> None:
    view = values.data.cast("B")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise OSError(errno.EIO, "the file was cut short")
        view, offset = view[count:], offset + count
