"""Locks: one process at a time in a folder."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import FileIO
from pathlib import Path

from wisesr_cli.errors import ON_WINDOWS, InUseError, MachineError, RunError
from wisesr_cli.machine.files import make_folder, naming
from wisesr_cli.text import visible

try:
    import fcntl
except ImportError:
    raise MachineError(ON_WINDOWS) from None

TRIES = 100
NO_LOCKS = (errno.ENOTSUP, errno.ENOSYS)  # Lustre and others; ENOLCK may be temporary, and stays an error


@dataclass(frozen=True)
class Lock:
    """A lock file that is held."""

    path: Path
    descriptor: int

    def check(self) -> None:
        """Raise `MachineError` if its folder was moved or removed meanwhile; nothing may be written in its place."""
        with naming(self.path):
            is_there = lies_at(self.path, self.descriptor)
        if not is_there:
            raise MachineError(
                f"{visible(self.path.parent)}: was moved or removed meanwhile; its files are complete, and nothing "
                "more is written: repeat the command with its new path"
            )


@contextmanager
def locked(path: Path) -> Iterator[Lock]:
    """Hold the lock file at `path`, created with its folder; the lock of a dead process does not block.

    The holder may remove both; a process that waits then creates them again. Raises `MachineError` when another live
    process holds the lock (naming its pid), or the file cannot be written.
    """
    with naming(path):
        descriptor = _hold(path)
    try:
        with naming(path):
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield Lock(path, descriptor)
    finally:
        os.close(descriptor)
        with suppress(OSError):
            _holder_of(path).unlink()  # where the file system has no locks


@contextmanager
def alone_in(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Lock a folder without a file in it; raises a `MachineError` if another process holds it or it cannot be opened.

    `shared`: other processes may hold shared locks, too.
    """
    with naming(folder):
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with suppress(OSError):  # file systems without locks
            if not take(descriptor, shared=shared):
                raise InUseError(f"{visible(folder)}: in use by another wisesr; wait for it or stop it")
        yield
    finally:
        os.close(descriptor)


@contextmanager
def unused(folder: Path) -> Iterator[bool]:
    """Yield whether the lock of a folder was free, and hold it if so; False if that cannot be known."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:  # none, or a link
        yield False
        return
    try:
        is_free = False
        with suppress(OSError):  # file systems without locks
            is_free = take(descriptor)
        yield is_free
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Return whether another process holds the lock file at `path`, as far as that can be known."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return not take(descriptor)
    except OSError:  # a file system without locks
        return _holder_of(path).exists()
    finally:
        os.close(descriptor)


def take(file: int | FileIO, *, shared: bool = False, wait: bool = False) -> bool:
    """Take the lock of an open file until it is closed; return False where another process holds it.

    `shared` takes a shared lock; `wait` blocks until the lock is free. Raises `OSError` on file systems without locks.
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
    """Return an open descriptor of the locked file at `path`."""
    for _ in range(TRIES):
        make_folder(path.parent)
        with suppress(FileNotFoundError):  # removed by another process meanwhile
            descriptor = _open_own(path)
            try:
                try:
                    is_taken = take(descriptor)
                except OSError as error:
                    if error.errno not in NO_LOCKS:
                        raise
                    _create_holder(_holder_of(path))
                    is_taken = True
                if not is_taken:
                    holder = visible(os.read(descriptor, 32).decode(errors="replace").strip() or "unknown")
                    raise InUseError(
                        f"{visible(path.parent)}: in use by another wisesr (pid {holder}); wait for it or stop it"
                    )
                if lies_at(path, descriptor):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)
    raise MachineError(f"{visible(path)}: keeps being removed by other processes; repeat the command")


def _holder_of(path: Path) -> Path:
    return path.with_name(f"{path.name}-holder")


def _create_holder(path: Path) -> None:
    """Create a file as the lock on file systems without locks; exclusive creation works on all of them.

    It holds host and pid; that of a dead process on this host does not block. Raises `InUseError` if another holds it.
    """
    own = f"{socket.gethostname()} {os.getpid()}\n"
    for _ in range(TRIES):
        with suppress(FileExistsError):
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
            os.write(descriptor, own.encode())
            os.close(descriptor)
            return
        with suppress(FileNotFoundError):  # removed meanwhile
            host, _, pid = path.read_text(encoding="utf-8", errors="replace").strip().partition(" ")
            if host == socket.gethostname() and pid.isdecimal() and not _is_alive(int(pid)):
                path.unlink()
                continue
            raise InUseError(
                f"{visible(path.parent)}: in use by another wisesr (host {visible(host)}, pid {visible(pid)}); wait "
                f"for it or stop it; if that has ended, remove {visible(path)}"
            )


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def can_lock(folder: Path) -> bool:
    """Return whether the file system of a folder has locks, as far as that can be known."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        take(descriptor, shared=True)
    except OSError as error:
        return error.errno not in NO_LOCKS
    finally:
        os.close(descriptor)
    return True


def _open_own(path: Path) -> int:
    """Open the lock file; raises `RunError` for a link or anything else whose target would be overwritten."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO, errno.EISDIR):
            raise RunError(f"{visible(path)}: is not a lock file; remove it") from None
        raise
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        os.close(descriptor)
        raise RunError(f"{visible(path)}: is not a lock file; remove it")
    return descriptor
