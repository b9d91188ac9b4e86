"""Signals and locks: one run at a time in a run directory, and a stop that loses nothing."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from wisesr_cli.errors import Interrupted, MachineError, RunError
from wisesr_cli.files import make_folder, naming
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
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise MachineError(f"{visible(folder)}: in use by another wisesr; wait for it or stop it") from None
        yield
    finally:
        os.close(descriptor)


def _hold(path: Path) -> int:
    """Return an open descriptor of the file at `path` that no other process holds."""
    for _ in range(TRIES):
        make_folder(path.parent)
        with suppress(FileNotFoundError):  # taken away by another process between two of these lines
            descriptor = _open_own(path)
            try:
                _take(descriptor, path.parent)
                if os.path.samestat(os.fstat(descriptor), path.stat()):
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


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace").strip() or "unknown"
        raise MachineError(
            f"{visible(folder)}: in use by another wisesr (pid {visible(holder)}); wait for it or stop it"
        ) from None


class _StopNow(BaseException):
    """Ends a block wherever it is. No `Exception`: decoders and Keras catch those, and threads that are just being
    started are left in disorder by them.
    """


class StopRequest:
    """Whether a signal asked to stop. Loops that must reach a step's end defer it and look; else it stops at once."""

    def __init__(self, hint: str = "no epoch was under way; go on with --resume") -> None:
        self.hint = hint  # for a stop at once
        self.signal_number: int | None = None
        self.deferring = False

    def receive(self, signal_number: int, frame: FrameType | None) -> None:
        """Note the first signal; the second ends the process at once, as files are whole at any moment."""
        if self.signal_number is not None:
            os._exit(128 + signal_number)
        self.signal_number = signal_number
        if not self.deferring:
            raise _StopNow

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Let the block decide when to stop, with `check`; one that does not look is stopped at its end.

        An import belongs into such a block: broken off, it would leave halves of a library in `sys.modules`.
        """
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
        self.check(self.hint)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal stop the block wherever it is, within one that puts stops off."""
        self.check(self.hint)
        self.deferring = False
        try:
            yield
        finally:
            self.deferring = True

    def check(self, hint: str) -> None:
        """Raise `Interrupted` with `hint` when a signal came."""
        if self.signal_number is not None:
            raise interrupted(self.signal_number, hint)


def interrupted(signal_number: int, hint: str) -> Interrupted:
    """Return the error that a signal which asked to stop becomes."""
    return Interrupted(f"stopped by {signal.Signals(signal_number).name}; {hint}", signal_number)


@dataclass(frozen=True)
class Limits:
    """When to stop before the last epoch. Steps and seconds are counted from the start of this call of `train`."""

    stop: StopRequest
    started: float
    max_steps: int | None = None
    time_limit_seconds: float | None = None


@contextmanager
def stop_on_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request to stop for as long as the block runs (main thread only).

    Raises:
        Interrupted: a signal came, and the block did not put its stop off.
    """
    request = request or StopRequest()
    previous: dict[signal.Signals, Any] = {}
    with suppress(ValueError):  # not the main thread: a library user handles signals
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, request.receive)
    try:
        yield request
    except _StopNow:
        request.check(request.hint)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
