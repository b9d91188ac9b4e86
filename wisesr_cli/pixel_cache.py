"""Decoded images on disk, one file per dataset and image size, shared by all runs.

A file `KEY.pixels` holds a byte per image (1: it was readable), then every image as uint8 (height, width, 3). The key
covers the files, their times and the way of decoding, so a cache never goes stale; it is removed when others need its
room. A lock on the file says that a process is using it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wisesr_cli import caches
from wisesr_cli.images import DECODER_VERSION, Pixels
from wisesr_cli.verified import Keys

DISK_LIMIT_BYTES = 20 * 10**9  # of all caches together
SPARE_BYTES = 10**9  # what caches leave free on the disk


class DiskCache:
    """The pixels of a list of files, mapped from disk; call `close` to let others remove the file."""

    def __init__(self, path: Path, descriptor: int, shape: tuple[int, int, int, int]) -> None:
        self.path = path
        self._descriptor = descriptor
        everything = np.memmap(path, np.uint8, mode="r")
        self.readable: npt.NDArray[np.bool_] = np.asarray(everything[: shape[0]]) != 0
        self.rows: Pixels = np.asarray(everything[shape[0] :]).reshape(shape)

    def close(self) -> None:
        """Give up the lock; the pixels must not be used any more."""
        self.rows = np.zeros((0, 1, 1, 3), np.uint8)
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class CacheWriter:
    """Takes the pixels of a new cache, in any order and from any thread, until it is closed."""

    def __init__(self, descriptor: int, shape: tuple[int, int, int, int]) -> None:
        self._descriptor = descriptor
        # The number of a closed descriptor soon is that of another file: no write may be under way, or begin, by then.
        self._lock = threading.Lock()
        self._count = shape[0]
        self._row_bytes = int(np.prod(shape[1:]))

    def write(self, position: int, pixels: Pixels) -> None:
        """Store one image and mark it readable; raises `ValueError` once the cache is closed."""
        data = np.ascontiguousarray(pixels).tobytes()
        with self._lock:
            if self._descriptor < 0:
                raise ValueError("the cache is closed")
            _write_all(self._descriptor, data, self._count + position * self._row_bytes)
            _write_all(self._descriptor, b"\1", position)

    def close(self) -> None:
        """Close the file as soon as no thread is writing to it."""
        with self._lock:
            descriptor, self._descriptor = self._descriptor, -1
            if descriptor >= 0:
                os.close(descriptor)


def cache_path(keys: Keys, image_size: tuple[int, int], resize: str) -> Path:
    """Return where the pixels of files with these keys (see `verified.file_keys`) are kept."""
    digest = hashlib.blake2b(f"{DECODER_VERSION} {image_size} {resize}".encode(), digest_size=16)
    digest.update(keys.tobytes())
    return caches.cache_dir() / "pixels" / f"{digest.hexdigest()}.pixels"


def open_cache(path: Path, shape: tuple[int, int, int, int]) -> DiskCache | None:
    """Return a complete cache, marked as used now; None when there is none."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if os.fstat(descriptor).st_size == _total_bytes(shape):
            with contextlib.suppress(OSError):
                os.utime(path)
            return DiskCache(path, descriptor, shape)
    except OSError:
        pass
    os.close(descriptor)
    return None


@contextlib.contextmanager
def new_cache(path: Path, shape: tuple[int, int, int, int]) -> Iterator[CacheWriter]:
    """Write a cache; it gets its name when the block ends well, and is removed when it does not.

    Raises `OSError` when there is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    _make_room(path.parent, _total_bytes(shape))
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    writer = CacheWriter(descriptor, shape)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        _reserve(descriptor, _total_bytes(shape))
        yield writer
        os.fsync(descriptor)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
        writer.close()


def has_room(shape: tuple[int, int, int, int]) -> bool:
    """Return whether a cache of this shape may be written: within the limit, and on the disk."""
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
    """Remove what killed processes left, then caches, least recently used first, until `needed` more bytes fit."""
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
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _reserve(descriptor: int, size: int) -> None:
    """Take the disk's blocks now: a full disk is found here, not by a later read of a hole."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _write_all(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
