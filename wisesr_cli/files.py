"""Files that are whole or not there at all: written to a temporary name in the same folder, flushed, then renamed."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

TEMPORARY_PREFIX = ".wisesr-"


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let an error while writing say where: the system names no file when a disk is full."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; what was written there replaces `path` when the block ends without error."""
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}{path.suffix}")
    try:
        with naming(path):
            yield temporary
            flush_to_disk(temporary)
        temporary.replace(path)
        flush_to_disk(path.parent)
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text as a whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def flush_to_disk(path: Path) -> None:
    """Make what was written to a file, or the names in a folder, survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # folders on some network file systems
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
