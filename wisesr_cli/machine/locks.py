"""Locks: one process at a time in a folder."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

from wisesr_cli.errors import MachineError, RunError
from wisesr_cli.machine.files import make_folder, naming
from wisesr_cli.text import visible

TRIES = 100


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file at `path`, made with its folder; a lock whose process died does not block.

    The holder may take both away: whoever opened them meanwhile makes them again.

    Raises:
        MachineError: another live process holds it, which is named by its pid, or it cannot be written.
    """
    with naming(path):
        descriptor = _hold(path)
    try:
        with naming(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keep other processes that ask for it out of a folder, without a file in it.

    Raises:
        MachineError: another live process is in it, or it cannot be opened.
    """
    with naming(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # file systems that know no locks
            if not take(descriptor):
                raise MachineError(f"{visible(folder)}: in use by another wisesr; wait for it or stop it")
        yield
    finally:
        os.close(descriptor)


def take(file: int | FileIO, *, shared: bool = False, wait: bool = False) -> bool:
    """Take the lock of an open file, which holds until it is closed; return False where another process has it.

    `shared`: others may share it. `wait`: until no other process has it.

    Raises:
        OSError: the file system knows no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def lies_at(path: Path, file: int | FileIO) -> bool:
    """Return whether an open file is still the one at `path`."""
    try:
        return os.path.samestat(os.fstat(file if isinstance(file, int) else file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _hold(path: Path) -> int:
    """Return an open descriptor of the file at `path` that no other process holds."""
    for _ in range(TRIES):
        make_folder(path.parent)
        with suppress(FileNotFoundError):  # taken away by another process between two of these lines
            descriptor = _open_own(path)
            try:
                if not take(descriptor):
                    holder = visible(os.read(descriptor, 32).decode(errors="replace").strip() or "unknown")
                    raise MachineError(
                        f"{visible(path.parent)}: in use by another wisesr (pid {holder}); wait for it or stop it"
                    )
                if lies_at(path, descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    raise MachineError(f"{visible(path)}: is taken away again and again by other processes; repeat the command")


def _open_own(path: Path) -> int:
    """Open the lock file, which must be a file of its own: what a link leads to would be overwritten.

    Raises:
        RunError: something else lies there.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise RunError(f"{visible(path)}: is no lock file; take it away") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise RunError(f"{visible(path)}: is no lock file; take it away")
    return descriptor
