"""A signal stops a block cleanly, at once or when the block allows it; only live processes hold locks."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from wisesr_cli.errors import Interrupted, InUseError, MachineError, RunError
from wisesr_cli.machine.locks import can_lock, is_held, locked
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


@pytest.mark.parametrize(("looks", "said"), [(True, "between steps"), (False, "go on later")])
def test_a_deferring_block_is_stopped_at_its_check_or_at_its_end(looks: bool, said: str) -> None:
    done = []

    def block(stop: StopRequest) -> None:
        with stop.deferred():
            send(signal.SIGTERM)
            done.append("a step")
            if looks:
                stop.check("between steps")
                done.append("more")
        done.append("the rest")

    with pytest.raises(Interrupted, match=said):
        run_guarded(block)
    assert done == ["a step"]


def test_the_previous_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stop_on_signals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "folder", "pipe"])
def test_a_lock_that_is_not_a_plain_file_is_rejected_and_nothing_is_written(tmp_path: Path, kind: str) -> None:
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
    with pytest.raises(RunError, match=r"\.lock: is not a lock file; remove it"), locked(lock):
        pass
    assert precious.read_text(encoding="utf-8") == "precious"
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("taken", ["the lock", "its folder"])
def test_a_lock_removed_while_it_is_opened_is_recreated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, taken: str
) -> None:
    path, flock, calls = tmp_path / "run" / ".lock", fcntl.flock, []

    def finished_meanwhile(file: Any, operation: int) -> None:
        calls.append(operation)
        if len(calls) == 1:
            path.unlink()
            if taken == "its folder":
                path.parent.rmdir()
        flock(file, operation)

    monkeypatch.setattr(fcntl, "flock", finished_meanwhile)
    with locked(path):
        assert path.read_text(encoding="ascii") == f"{os.getpid()}\n"
        with pytest.raises(MachineError, match="in use by another"), locked(path):
            pass


def test_a_folder_removed_before_its_lock_is_created_is_recreated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, calls = tmp_path / "run" / ".lock", []

    def made_and_gone(folder: Path) -> None:
        calls.append(folder)
        if len(calls) > 1:
            folder.mkdir()

    monkeypatch.setattr("wisesr_cli.machine.locks.make_folder", made_and_gone)
    with locked(path):
        assert path.exists()
    assert len(calls) == 2


def test_a_lock_that_keeps_being_removed_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    monkeypatch.setattr(fcntl, "flock", lambda file, operation: path.unlink())
    with pytest.raises(MachineError, match=r"\.lock: keeps being removed"), locked(path):
        pass


def test_a_lock_that_the_system_cannot_provide_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(file: Any, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", unknown)
    with (
        pytest.raises(MachineError, match=r"\.lock: cannot be written: No locks available"),
        locked(tmp_path / ".lock"),
    ):
        pass


def test_a_lock_of_a_live_process_blocks_and_that_of_a_killed_one_does_not(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    program = (
        "import sys, time; from pathlib import Path; from wisesr_cli.machine.locks import locked\n"
        f"with locked(Path({str(lock)!r})):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(MachineError, match=rf"\(pid {holder.pid}\)"), locked(lock):
            pass
        holder.kill()
    assert lock.read_text(encoding="ascii") == f"{holder.pid}\n"
    with locked(lock):
        assert lock.read_text(encoding="ascii") == f"{os.getpid()}\n"


def test_a_stale_lock_with_any_content_does_not_block_but_a_held_one_does(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    lock.write_bytes(b"\xff\x1b[31m" * 100)
    with locked(lock):
        with pytest.raises(MachineError, match=rf"in use by another wisesr \(pid {os.getpid()}\)"), locked(lock):
            pass
        assert lock.read_bytes() == f"{os.getpid()}\n".encode()
    lock.write_bytes(b"\xff\x1b[31m")
    with lock.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(MachineError) as caught, locked(lock):
            pass
    assert "\x1b" not in str(caught.value)


@pytest.fixture
def without_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.reliability(30)
def test_a_file_with_host_and_pid_replaces_locks_the_file_system_lacks(tmp_path: Path, without_locks: None) -> None:
    lock, holder = tmp_path / ".lock", tmp_path / ".lock-holder"
    assert not can_lock(tmp_path)
    with locked(lock):
        assert holder.read_text(encoding="utf-8") == f"{socket.gethostname()} {os.getpid()}\n"
        with pytest.raises(InUseError, match=rf"host .*, pid {os.getpid()}\).*remove .*lock-holder"), locked(lock):
            pass
        assert is_held(lock)
    assert not holder.exists()
    holder.write_text(f"{socket.gethostname()} {2**22 - 1}\n", encoding="utf-8")  # of a process that has ended
    with locked(lock):
        assert str(os.getpid()) in holder.read_text(encoding="utf-8")
    holder.write_text("elsewhere 1\n", encoding="utf-8")
    with pytest.raises(InUseError, match="host elsewhere, pid 1"), locked(lock):
        pass
    assert holder.read_text(encoding="utf-8") == "elsewhere 1\n"
