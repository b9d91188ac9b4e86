"""Signals: a stop that loses nothing."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from wisesr_cli.errors import Interrupted


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
