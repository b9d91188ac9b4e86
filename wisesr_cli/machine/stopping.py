"""Stops on signals without losing work."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType
from typing import Any

from wisesr_cli.errors import Interrupted


class _StopNow(BaseException):
    """Ends a block immediately. It is not an `Exception`: decoders and Keras catch those, and an `Exception` while a
    thread starts leaves `threading` inconsistent.
    """


class StopRequest:
    """A request to stop by a signal. Loops that must finish a step defer it and call `check`."""

    def __init__(self, hint: str = "no epoch was under way; continue with --resume") -> None:
        self.hint = hint  # for an immediate stop
        self.signal_number: int | None = None
        self.deferring = False

    def receive(self, signal_number: int, frame: FrameType | None) -> None:
        """Record the first signal; a second one ends the process at once, which leaves all files complete."""
        if self.signal_number is not None:
            os._exit(128 + signal_number)
        self.signal_number = signal_number
        if not self.deferring:
            raise _StopNow

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer stops to calls of `check` in the block, or to its end.

        Imports belong in such a block: an interrupted one would leave partial modules in `sys.modules`.
        """
        self.deferring = True
        try:
            yield
        finally:
            self.deferring = False
        self.check(self.hint)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Let a signal stop this block at once, within a deferring block."""
        self.check(self.hint)
        self.deferring = False
        try:
            yield
        finally:
            self.deferring = True

    def check(self, hint: str) -> None:
        """Raise `Interrupted` with `hint` when a stop is pending."""
        if self.signal_number is not None:
            raise interrupted(self.signal_number, hint)


def interrupted(signal_number: int, hint: str) -> Interrupted:
    """Return the error for a signal that requested a stop."""
    return Interrupted(f"stopped by {signal.Signals(signal_number).name}; {hint}", signal_number)


@dataclass(frozen=True)
class Limits:
    """Limits of one call of `train`: steps and seconds count from its start."""

    stop: StopRequest
    started: float
    max_steps: int | None = None
    time_limit_seconds: float | None = None


@contextmanager
def stop_on_signals(request: StopRequest | None = None) -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request to stop during the block (main thread only).

    Raises `Interrupted` after a signal, unless the block deferred the stop.
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


@contextmanager
def signals_held() -> Iterator[Callable[[], None]]:
    """Hold SIGINT and SIGTERM during a block that waits for threads; yields a function that delivers them.

    Python runs the handler of a signal between any two instructions. If it raises while `threading` holds a lock, the
    lock is never released, and other threads wait forever. Signals still held at the end are delivered there. Only
    handlers in Python are replaced, and only in the main thread, where they run.
    """
    handlers: dict[int, Any] = {}
    held: list[int] = []
    ended = False

    def hold(number: int, frame: FrameType | None) -> None:
        held.append(number)
        if ended:
            deliver()

    def deliver() -> None:
        while held:
            number = held.pop(0)
            handlers[number](number, None)

    try:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                handler = signal.getsignal(number)
                if callable(handler):  # one in C, and the default action, take no Python lock
                    handlers[number] = handler
                    signal.signal(number, hold)
        yield deliver
    finally:
        ended = True  # a handler may raise before all are restored
        for replaced, handler in handlers.items():
            signal.signal(replaced, handler)
        deliver()
