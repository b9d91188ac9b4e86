"""Opens image files: regular files only, without blocking on pipes or devices."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from wisesr_cli.errors import ImageError
from wisesr_cli.images import ordinary

Source = str | os.PathLike[str] | bytes | IO[bytes]

WHOLE_LIMIT = 16 << 20  # bytes of a file read at once: few JPEGs of less than `LARGE` pixels are larger
PREFIX_BYTES = 1 << 16  # read first: all of most small files, the header of most others


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading; raises `ImageError` for anything else, without blocking on pipes or devices."""
    descriptor, _ = open_descriptor(path)
    with os.fdopen(descriptor, "rb") as file:
        yield file


@contextmanager
def opened(source: Source) -> Iterator[IO[bytes]]:
    """Open a path, bytes or an open file as a seekable file; raises as `open_regular` does."""
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        with open_regular(source) as file:
            yield file
    else:
        yield source if source.seekable() else io.BytesIO(source.read())


def open_descriptor(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return the descriptor (the caller closes it) and size of a regular file; raises as `open_regular` does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(_OPEN_ERRORS.get(error.errno or 0, error.strerror or "cannot be opened")) from error
    except ValueError as error:  # an invalid file name
        raise ImageError("no such file") from error
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise ImageError("not a regular file")
    return descriptor, status.st_size


def read_whole(source: Source) -> bytes | None:
    """Return the content of a path that may be an ordinary image; None for other formats, large or open files.

    Bytes are returned as they are.
    """
    if isinstance(source, bytes):
        return source
    if not isinstance(source, str | os.PathLike):
        return None
    descriptor, size = open_descriptor(source)
    try:
        if size > WHOLE_LIMIT:
            return None
        content = os.read(descriptor, PREFIX_BYTES)
        if not content.startswith(ordinary.STARTS):
            return None
        return content if len(content) == size else os.pread(descriptor, size, 0)
    except OSError:  # reported when the file is opened again
        return None
    finally:
        os.close(descriptor)


_OPEN_ERRORS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "a symbolic link that points to itself",
    errno.ENAMETOOLONG: "file name too long",
    errno.ENXIO: "not a regular file",
    errno.ENODEV: "not a regular file",
}
