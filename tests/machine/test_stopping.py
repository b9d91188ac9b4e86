"""A signal that arrives while the main thread waits for others leaves no lock held, and is not lost."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import fresh

from wisesr_cli.errors import Interrupted
from wisesr_cli.machine.stopping import signals_held, stop_on_signals

# Exits with 0 if a signal at each moment at which Python could run a handler while waiting for threads ends them all.
PROGRAM = """
import faulthandler, signal, sys, threading, time
from contextlib import closing
from wisesr_cli.machine.threads import for_each, map_in_batches

HANG = 20  # seconds
WAITING = ("threading.py", "_base.py", "thread.py", "threads.py")

def all_at_once():
    for_each(lambda item: time.sleep(0.001), range(6), workers=2, finished=lambda count: None)

def in_batches():
    with closing(map_in_batches(lambda item: time.sleep(0.001), range(6), batch_size=3, workers=2)) as batches:
        list(batches)

class Stopped(BaseException):
    pass

def stop(*_):
    raise Stopped

signal.signal(signal.SIGTERM, stop)

def signal_before(last):
    seen = 0
    def profile(frame, event, argument):
        nonlocal seen
        if event in ("call", "c_return") and frame.f_code.co_filename.endswith(WAITING):
            seen += 1
            if seen == last:
                sys.setprofile(None)
                signal.raise_signal(signal.SIGTERM)
    faulthandler.dump_traceback_later(HANG, exit=True)
    try:
        sys.setprofile(profile)
        {"for_each": all_at_once, "map_in_batches": in_batches}[sys.argv[1]]()
    except Stopped:
        pass
    finally:
        sys.setprofile(None)
    while threading.active_count() > 1:
        time.sleep(0.001)
    faulthandler.cancel_dump_traceback_later()
    return seen >= last

last = 1
while signal_before(last):
    last += 1
print(last)
"""


@pytest.fixture
def handlers() -> Iterator[None]:
    """Restore the signal handlers after a test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("function", ["for_each", "map_in_batches"])
def test_a_signal_at_any_moment_leaves_no_thread_waiting_forever(function: str, tmp_path: Path) -> None:
    ended = fresh(function, cwd=tmp_path, program=("-c", PROGRAM)).worked()
    assert int(ended.out) > 100


def test_a_held_signal_is_handled_when_delivered_or_at_the_end(handlers: None) -> None:
    seen: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: seen.append(number))
    with signals_held() as deliver:
        signal.raise_signal(signal.SIGTERM)
        assert seen == []
        deliver()
        assert seen == [signal.SIGTERM]
        deliver()
        signal.raise_signal(signal.SIGTERM)
        assert len(seen) == 1
    assert len(seen) == 2


def test_a_signal_is_not_lost_when_the_block_fails(handlers: None) -> None:
    def fail() -> None:
        with stop_on_signals(), signals_held():
            signal.raise_signal(signal.SIGTERM)
            raise ValueError

    with pytest.raises(Interrupted, match="stopped by SIGTERM"):
        fail()


def test_a_signal_in_a_deferring_block_waits_for_its_check(handlers: None) -> None:
    with stop_on_signals() as request:
        request.deferring = True
        with signals_held() as deliver:
            signal.raise_signal(signal.SIGINT)
            assert request.signal_number is None
            deliver()
            assert request.signal_number == signal.SIGINT
        with pytest.raises(Interrupted, match="between steps"):
            request.check("between steps")


def test_ignored_signals_stay_ignored_and_other_threads_change_nothing(handlers: None) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with signals_held():
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        signal.raise_signal(signal.SIGINT)
    found: list[object] = []

    def other() -> None:
        with signals_held():
            found.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert found == [before]


def test_the_default_action_is_not_held() -> None:
    program = """
import os, signal
from wisesr_cli.machine.stopping import signals_held
with signals_held():
    os.kill(os.getpid(), signal.SIGTERM)
    print("not reached", flush=True)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stdout) == (-signal.SIGTERM, "")
