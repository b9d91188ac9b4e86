"""A download is complete or absent, and a missing network is detected within a deadline."""

from __future__ import annotations

import hashlib
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from served import Short, served

from wisesr_cli.errors import MachineError
from wisesr_cli.listening import Silent
from wisesr_cli.machine import download as module
from wisesr_cli.machine.download import DownloadError, download, has_checksum, is_reachable

CONTENT = bytes(range(256)) * 10_000  # 2.56 MB


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "weights.h5").write_bytes(CONTENT)
    return tmp_path / "there"


class Counting(Silent):
    def __init__(self) -> None:
        self.announced: tuple[str, int | None] | None = None
        self.steps = 0

    def progress(self, label: str, total: int | None) -> Any:
        self.announced = (label, total)
        return super().progress(label, total)

    def advance(self, steps: int = 1) -> None:
        self.steps += steps


@pytest.mark.parametrize("kind", ["sha256", "md5"])
def test_a_download_reports_megabytes_and_verifies_its_checksum(folder: Path, tmp_path: Path, kind: str) -> None:
    target, listener = tmp_path / "new" / "weights.h5", Counting()
    checksum = hashlib.new(kind, CONTENT).hexdigest()
    with served(folder) as url:
        download(f"{url}weights.h5", target, checksum=checksum, label="getting it", listener=listener)
    assert target.read_bytes() == CONTENT
    assert (listener.announced, listener.steps) == (("getting it, MB", 3), 2)
    assert [path.name for path in target.parent.iterdir()] == ["weights.h5"]


def test_a_wrong_checksum_keeps_the_old_file_and_leaves_nothing_else(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "weights.h5"
    target.write_bytes(b"before")
    with served(folder) as url, pytest.raises(DownloadError, match=r"weights\.h5: .*not have the checksum 00.*again"):
        download(f"{url}weights.h5", target, checksum="00" * 16, label="x", listener=Silent())
    assert target.read_bytes() == b"before"
    assert {path.name for path in tmp_path.iterdir()} == {"there", "weights.h5"}


def test_a_connection_that_ends_early_leaves_nothing_even_without_a_checksum(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "weights.h5"
    with served(folder, Short) as url, pytest.raises(DownloadError, match="2,560,000 of 2,560,005 bytes"):
        download(f"{url}weights.h5", target, checksum=None, label="x", listener=Silent())
    assert list(target.parent.iterdir()) == []


def test_an_interrupted_download_leaves_nothing(folder: Path, tmp_path: Path) -> None:
    class Stopping(Silent):
        def advance(self, steps: int = 1) -> None:
            raise KeyboardInterrupt

    target = tmp_path / "new" / "weights.h5"
    with served(folder) as url, pytest.raises(KeyboardInterrupt):
        download(f"{url}weights.h5", target, checksum=None, label="x", listener=Stopping())
    assert list(target.parent.iterdir()) == []


def test_a_file_missing_on_the_server_raises_machine_error_with_its_address(folder: Path, tmp_path: Path) -> None:
    with served(folder) as url, pytest.raises(MachineError, match=r"127\.0\.0\.1:\d+/nothing\.h5: .*404"):
        download(f"{url}nothing.h5", tmp_path / "x.h5", checksum=None, label="x", listener=Silent())


def test_a_checksum_covers_the_whole_file(folder: Path) -> None:
    path = folder / "weights.h5"
    assert has_checksum(path, hashlib.sha256(CONTENT).hexdigest())
    assert not has_checksum(path, hashlib.sha256(CONTENT[:-1]).hexdigest())


# --- without a network ---


def test_a_server_is_reachable_while_it_runs_and_not_afterwards(folder: Path) -> None:
    with served(folder) as url:
        assert is_reachable(url, seconds=60)
    assert not is_reachable(url)


def test_only_the_proxy_must_be_reachable_if_there_is_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(folder) as url:
        monkeypatch.setenv("http_proxy", url)
        assert is_reachable("http://nowhere.invalid/x.h5")
        monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
        assert not is_reachable("http://nowhere.invalid/x.h5")


def test_a_hanging_lookup_is_abandoned_at_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float | None] = []
    release = threading.Event()

    class Watched(threading.Thread):
        def join(self, timeout: float | None = None) -> None:
            waited.append(timeout)
            super().join(0 if timeout is not None else None)

    def hang(*arguments: Any, **options: Any) -> Any:
        release.wait()
        raise OSError("no name server answered")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    monkeypatch.setattr(module.threading, "Thread", Watched)
    try:
        assert not is_reachable("https://nowhere.invalid/x.h5", 1.5)
    finally:
        release.set()
    assert waited == [1.5]
    assert module.CONNECT_SECONDS < 3


def test_a_hanging_lookup_does_not_keep_the_program_from_ending() -> None:
    program = (
        "import socket, threading\n"
        "socket.getaddrinfo = lambda *a, **k: threading.Event().wait()\n"
        "from wisesr_cli.machine.download import is_reachable\n"
        "print(is_reachable('https://nowhere.invalid/', 0.05))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "False\n"
