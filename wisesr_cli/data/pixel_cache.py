"""Decoded images on disk, one file per dataset and image size, shared by all runs.

A file `KEY.pixels` contains a byte per image (1: readable), then every image as uint8 (height, width, 3). The key
covers the files, their times and the decoding options, so a cache never goes stale; it is removed when others need its
space. A process locks the file while it uses it.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wisesr_cli.data.verified import Keys
from wisesr_cli.images.color import Pixels
from wisesr_cli.images.decoding import DECODER_VERSION
from wisesr_cli.machine import caches
from wisesr_cli.machine.locks import take

DISK_LIMIT_BYTES = 20 * 10**9  # total of all caches
SPARE_BYTES = 10**9  # left free on the disk


class DiskCache:
    """The pixels of a list of files on disk; call `close` to let others remove the file.

    They are read, not mapped: mapped pages count as memory of the process until the machine runs short, and a truncated
    file would kill the process instead of raising an error.
    """

    def __init__(self, path: Path, file: _Descriptor, shape: tuple[int, int, int, int]) -> None:
        self.path = path
        self._file: _Descriptor | None = file
        self._count = shape[0]
        self._row_bytes = int(np.prod(shape[1:]))
        flags = np.empty(shape[0], np.uint8)
        _read_all(file.number, flags, 0)
        self.readable: npt.NDArray[np.bool_] = flags != 0

    def read(self, positions: npt.NDArray[np.int64], batch: Pixels) -> None:
        """Fill `batch`, (positions, height, width, 3), with the images at `positions`; from any thread.

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
    """Writes the pixels of a new cache, in any order and from any thread, until it is closed."""

    def __init__(self, descriptor: int, shape: tuple[int, int, int, int]) -> None:
        self._descriptor = descriptor
        # The system reuses the number of a closed descriptor: no write may be in progress, or start, after closing.
        self._lock = threading.Lock()
        self._count = shape[0]
        self._row_bytes = int(np.prod(shape[1:]))

    def write(self, position: int, pixels: Pixels) -> None:
        """Store one image and mark it readable; raises `ValueError` once the cache is closed."""
        data = np.ascontiguousarray(pixels).data.cast("B")
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


def cache_path(keys: Keys, image_size: tuple[int, int], resize: str) -> Path:
    """Return the path of the cache for files with these keys (see `verified.file_keys`)."""
    digest = hashlib.blake2b(f"{DECODER_VERSION} {image_size} {resize}".encode(), digest_size=16)
    digest.update(keys.tobytes())
    return caches.cache_dir() / "pixels" / f"{digest.hexdigest()}.pixels"


def open_cache(path: Path, shape: tuple[int, int, int, int]) -> DiskCache | None:
    """Return a complete cache and update its time of use; None when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    file = _Descriptor(descriptor)
    try:
        take(descriptor, shared=True, wait=True)
        if os.fstat(descriptor).st_size != _total_bytes(shape):
            return None
        with contextlib.suppress(OSError):
            os.utime(path)
        return DiskCache(path, file, shape)
    except OSError:
        return None


@contextlib.contextmanager
def new_cache(path: Path, shape: tuple[int, int, int, int]) -> Iterator[CacheWriter]:
    """Write a cache, which gets its name when the block succeeds, else is removed; raises `OSError` without space."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    _make_room(path.parent, _total_bytes(shape))
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    writer = CacheWriter(descriptor, shape)
    try:
        take(descriptor, wait=True)
        if hasattr(os, "posix_fallocate"):  # it allocates the disk blocks now, so that a full disk is an error here
            os.posix_fallocate(descriptor, 0, _total_bytes(shape))
        else:
            os.ftruncate(descriptor, _total_bytes(shape))
        yield writer
        os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        writer.close()


def has_room(shape: tuple[int, int, int, int]) -> bool:
    """Return whether a cache of this shape fits within the limit and on the disk."""
    needed = _total_bytes(shape)
    folder = caches.cache_dir()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return needed <= DISK_LIMIT_BYTES and needed + SPARE_BYTES <= shutil.disk_usage(folder).free
    except OSError:
        return False


def _total_bytes(shape: tuple[int, int, int, int]) -> int:
    count, height, width, channels = shape
    return count + count * height * width * channels


def _make_room(folder: Path, needed: int) -> None:
    """Remove files of killed processes, then the least recently used caches, until `needed` more bytes fit."""
    for left_over in sorted(folder.glob("*.tmp")):
        _remove_unused(left_over)
    ages = []
    for path in folder.glob("*.pixels"):
        with contextlib.suppress(OSError):
            status = path.stat()
            ages.append((status.st_mtime_ns, path, status.st_size))
    total = sum(size for _, _, size in ages)
    for _, path, size in sorted(ages):
        if total + needed <= DISK_LIMIT_BYTES:
            return
        if _remove_unused(path):
            total -= size
    if total + needed > DISK_LIMIT_BYTES:
        raise OSError(errno.ENOSPC, "the limit of the pixel cache is reached", str(folder))


def _remove_unused(path: Path) -> bool:
    """Remove a file unless a live process holds a lock on it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not take(descriptor):
            return False
        path.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, view: memoryview, offset: int) -> None:
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written


def _read_all(descriptor: int, values: npt.NDArray[np.uint8], offset: int) -> None:
    view = values.data.cast("B")
    while view:
        count = os.preadv(descriptor, [view], offset)
        if not count:
            raise OSError(errno.EIO, "the file was cut short")
        view, offset = view[count:], offset + count
