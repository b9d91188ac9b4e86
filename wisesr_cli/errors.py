"""All errors that a user can encounter, each with the exit code of the program.

Raise the one that tells a script what to do next. A message says what happened, where, and what to do, in one line.
Errors of other libraries are translated where they are called; any other exception is a bug (exit code 1).
"""

from __future__ import annotations

import errno
import os

from wisesr_cli.text import visible

SOME_UNREADABLE = 6  # finished, but some images could not be read
INTERRUPTED = 130  # stopped from the keyboard
PIPE_CLOSED = 141  # the reader of standard output closed it

# wisesr needs the locks, links, pipes and signals of POSIX, and TensorFlow has no GPU support on Windows.
ON_WINDOWS = (
    "wisesr runs on Linux and macOS; on Windows, use WSL: `wsl --install`, then install wisesr in its terminal and "
    "type the same command there"
)


class WisesrError(Exception):
    """An error that a user can fix: shown as one line, with a traceback only under `--debug`."""

    exit_code = 1


class UsageError(WisesrError):
    """An invalid command line: a wrong option, a name in use, an output that exists."""

    exit_code = 2


class ConfigError(UsageError):
    """One or more mistakes in a config, one line each."""


class DataError(WisesrError):
    """Images or folders that cannot be used, or a loss that is not finite."""

    exit_code = 3


class ImageError(DataError):
    """One image that cannot be decoded; the message is the reason alone, without the path."""


class NotFiniteError(DataError):
    """A loss, or weights, that became NaN or infinite: this training cannot continue, others can."""


class RunError(WisesrError):
    """A run directory or a model file that is missing, damaged, or does not match the request."""

    exit_code = 4


class MachineError(WisesrError):
    """Disk full, no permission, a locked run, a missing GPU or package."""

    exit_code = 5


class InUseError(MachineError):
    """Another process is using a run or a folder, or took its name first."""


class GateMissed(WisesrError):  # noqa: N818  (everything else went well)
    """A missed `--fail-under` gate; everything else succeeded."""

    exit_code = 7


class Interrupted(WisesrError):  # noqa: N818  (it was asked for)
    """Stopped by a signal, with a checkpoint to resume from. `exit_code` is 128 plus the signal's number.

    `run_name` is the value of --name for resuming, where the command cannot derive it.
    """

    run_name: str | None = None

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.exit_code = 128 + signal_number


class EndedElsewhere(WisesrError):  # noqa: N818  (the error is that of another process)
    """Another process of this training failed, was stopped or lost; all end with the same exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


_MACHINE_ERRNOS = {
    errno.ENOSPC: "the disk is full; free some space, then repeat the command (train and predict -o: with --resume)",
    errno.EDQUOT: "the disk quota is used up; free some space, then repeat the command with --resume",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.EROFS: "the file system is read-only",
    errno.EMFILE: "too many open files",
    errno.ENAMETOOLONG: "the name is too long for the file system",
    errno.EIO: "the disk or its connection fails (input/output error); write to another one",
}


def is_short_of_memory(error: OSError | ImportError | RuntimeError) -> bool:
    """Return whether a library failed to load, or a thread to start, for lack of memory."""
    said = str(error).lower()
    return any(words in said for words in ("failed to map segment", "cannot allocate memory", "can't start new thread"))


def machine_error(error: OSError) -> MachineError | None:
    """Translate an `OSError` that is always a fault of the machine; None for others."""
    reason = _MACHINE_ERRNOS.get(error.errno or 0)
    if reason is None:
        return None
    return MachineError(f"{visible(error.filename)}: {reason}" if error.filename else reason)


def writing_error(error: OSError, path: str | os.PathLike[str]) -> MachineError:
    """Translate any `OSError` of writing to `path`; all of them are faults of the machine."""
    reason = _MACHINE_ERRNOS.get(error.errno or 0)
    if reason is None:
        reason = f"cannot be written: {visible(error.strerror or error)}; write to another place"
    return MachineError(f"{visible(path)}: {reason}")
