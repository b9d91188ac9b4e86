"""Atomic file writes: to a temporary name in the same folder, flushed, then renamed."""

from __future__ import annotations

import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from wisesr_cli.errors import writing_error

TEMPORARY_PREFIX = ".wisesr-"
LONGEST_SUFFIX = 32  # bytes

Observer = Callable[[Path, Path], None]
_OBSERVER: ContextVar[Observer | None] = ContextVar("observer", default=None)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn any `OSError` in the block into a `MachineError` that names `path`."""
    try:
        yield
    except OSError as error:
        raise writing_error(error, path) from error


@contextmanager
def replacing(
    path: Path, *, begin: str = TEMPORARY_PREFIX, end: str | None = None, flush: bool = True
) -> Iterator[Path]:
    """Yield an empty temporary file, which replaces `path` when the block ends without error.

    Its name cannot be guessed, and no existing file is opened, as others may write to the same folder. The name begins
    with `begin` and ends with `end`, by default the suffix of `path`. Without `flush`, which takes milliseconds, the
    caller must ensure that the file survives a power loss. Raises `MachineError` if it cannot be written.
    """
    if end is None:  # libraries depend on it
        end = path.suffix if len(os.fsencode(path.suffix)) <= LONGEST_SUFFIX else ""
    temporary = path.with_name(f"{begin}{secrets.token_hex(6)}{end}")
    with naming(path):
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
        try:
            yield temporary
            if flush:
                flush_to_disk(temporary)
            if (observer := _OBSERVER.get()) is not None:
                observer(path, temporary)
            temporary.replace(path)
            if flush:
                flush_to_disk(path.parent)
        finally:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Call `observer` with the path and content of every file in the block just before `replacing` renames it."""
    token = _OBSERVER.set(observer)
    try:
        yield
    finally:
        _OBSERVER.reset(token)


def is_link_of_another(path: Path) -> bool:
    """Return whether a path is a link made by neither this user nor root, whose target may not be intended."""
    with naming(path):
        return path.is_symlink() and path.lstat().st_uid not in (os.geteuid(), 0)


def make_private(folder: Path) -> bool:
    """Create a folder that only this user can enter; return False if it is a link, another user's or not private."""
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    status = folder.lstat()
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o077


def make_folder(path: Path, *, inside: Path | None = None) -> None:
    """Create a folder and its parents unless it exists; raises `MachineError`.

    `inside` is a parent that is not created, so that a folder that was moved away is not recreated.
    """
    with naming(path):
        if inside is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            for folder in (*(parent for parent in reversed(path.parents) if inside in parent.parents), path):
                folder.mkdir(exist_ok=True)


def remove(path: Path) -> None:
    """Remove a folder with its content, or a file; for a link, only the link."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def read_text(path: Path, most_bytes: int) -> str:
    """Return the UTF-8 text of a regular file.

    Raises `OSError` when it cannot be read, and `ValueError` when it is not a regular file, too large, or not UTF-8.
    """
    if not path.is_file() and path.exists():
        raise ValueError("not a regular file")
    if path.stat().st_size > most_bytes:
        raise ValueError(f"more than {most_bytes:,} bytes")
    return path.read_text(encoding="utf-8")


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def flush_to_disk(path: Path) -> None:
    """Flush a file, or the names in a folder, so that they survive a power loss."""
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
