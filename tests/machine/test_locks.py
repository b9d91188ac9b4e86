"""A signal stops a block wherever it is, in order; a block may put its stop off and look for itself."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from wisesr_cli.errors import Interrupted, RunError
from wisesr_cli.machine.locks import locked
from wisesr_cli.machine.stopping import StopRequest, stop_on_signals


def send(number: signal.Signals) -> None:
    """Send a signal to this process and give Python the time to handle it."""
    os.kill(os.getpid(), number)
    time.sleep(0.05)


def run_guarded(block: Callable[[StopRequest], None]) -> None:
    with stop_on_signals(StopRequest("go on later")) as stop:
        block(stop)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_is_not_swallowed_by_code_that_catches_every_exception(number: signal.Signals, code: int) -> None:
    done = []

    def block(stop: StopRequest) -> None:
        try:
            send(number)
        except Exception:
            done.append("swallowed")
        done.append("more")

    with pytest.raises(Interrupted, match=f"stopped by {number.name}; go on later") as caught:
        run_guarded(block)
    assert caught.value.exit_code == code
    assert done == []


def test_a_block_that_puts_its_stop_off_is_stopped_where_it_looks() -> None:
    done = []

    def block(stop: StopRequest) -> None:
        with stop.deferred():
            send(signal.SIGTERM)
            done.append("a step")
            stop.check("between steps")
            done.append("more")

    with pytest.raises(Interrupted, match="between steps"):
        run_guarded(block)
    assert done == ["a step"]


def test_a_block_that_puts_its_stop_off_and_never_looks_is_stopped_at_its_end() -> None:
    done = []

    def block(stop: StopRequest) -> None:
        with stop.deferred():
            send(signal.SIGTERM)
            done.append("a step")
        done.append("more")

    with pytest.raises(Interrupted, match="go on later"):
        run_guarded(block)
    assert done == ["a step"]


def test_the_handlers_of_before_are_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "folder", "pipe"])
def test_a_lock_that_is_no_file_of_its_own_is_refused_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
    precious, lock = tmp_path / "precious", tmp_path / "run" / ".lock"
    lock.parent.mkdir()
    precious.write_text("precious", encoding="utf-8")
    makers: dict[str, Callable[[], object]] = {
        "link": lambda: lock.symlink_to(precious),
        "dangling link": lambda: lock.symlink_to(tmp_path / "nowhere"),
        "hard link": lambda: lock.hardlink_to(precious),
        "folder": lock.mkdir,
        "pipe": lambda: os.mkfifo(lock),
    }
    makers[kind]()
    with pytest.raises(RunError, match=r"\.lock: is no lock file; take it away"), locked(lock):
        pass
    assert precious.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "nowhere").exists()
