"""Ends this process when another one of the same training fails or is lost, wherever it is by then.

The main thread may be in a step that waits for the lost process for ever, or in a library that ends the process with a
message of its own. So a thread says what happened, and ends the process when the main thread does not do so itself.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass

from wisesr_cli.errors import EndedElsewhere
from wisesr_cli.text import visible

GRACE_SECONDS = 3.0  # for a main thread that can end by itself

SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it


@dataclass(frozen=True)
class Verdict:
    """Why the training has ended: what happened to which process, and with which exit code all of them end."""

    message: str
    exit_code: int


class Watchdog:
    """Holds the verdict on this training, once there is one.

    Args:
        name: how this process is called in messages: `process 1 of 4`; empty for the main process.
        exit_process: ends the process at once.
    """

    def __init__(self, name: str, exit_process: Callable[[int], object] = os._exit) -> None:
        self.name = name
        self.verdict: Verdict | None = None
        self.standing = "no epoch has finished; repeat the command"  # what is left of the training, and what to do
        self.spoken = threading.Event()
        self._left = threading.Event()
        self._lock = threading.Lock()
        self._exit_process = exit_process
        self._stderr = 2

    def keep_stderr(self) -> None:
        """Remember standard error as it is now: it is turned elsewhere while libraries start."""
        self._stderr = os.dup(2)

    def pronounce(self, verdict: Verdict, *, grace_seconds: float = GRACE_SECONDS) -> bool:
        """Let a verdict hold, unless there is one; return whether it does. The process ends soon."""
        with self._lock:
            if self.verdict is not None or self._left.is_set():
                return False
            self.verdict = verdict
        self.spoken.set()
        threading.Thread(target=self._end, args=(verdict, grace_seconds), name="wisesr-end", daemon=True).start()
        return True

    def check(self) -> None:
        """Raise an `EndedElsewhere` when there is a verdict."""
        if self.verdict is not None:
            raise self.error(self.verdict)

    def error(self, verdict: Verdict) -> EndedElsewhere:
        """Return the verdict as the error that the main thread ends with."""
        prefix = f"{self.name}: " if self.name else ""
        return EndedElsewhere(prefix + verdict.message, verdict.exit_code)

    def leave(self) -> None:
        """Let the main thread end the process, or go on without the others: there is nothing to watch any more."""
        self._left.set()

    def end_with(self, exit_code: int) -> None:
        """Make sure that the end of Python does not wait for processes that no longer answer."""

        def end() -> None:
            sys.stdout.flush()
            sys.stderr.flush()
            self._exit_process(exit_code)

        atexit.register(end)

    def _end(self, verdict: Verdict, grace_seconds: float) -> None:
        if self._left.wait(grace_seconds):
            return
        cursor = SHOW_CURSOR if sys.stderr.isatty() else ""
        # One write, past Python's own buffer, whose lock the main thread may hold.
        os.write(self._stderr, f"{cursor}wisesr: {visible(self.error(verdict))}\n".encode(errors="backslashreplace"))
        self._exit_process(verdict.exit_code)
