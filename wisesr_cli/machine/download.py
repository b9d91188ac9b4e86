"""Downloads files, complete and with the right checksum or not at all, and fails fast without a network."""

from __future__ import annotations

import hashlib
import http.client
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from wisesr_cli.errors import MachineError
from wisesr_cli.listening import Listener
from wisesr_cli.machine.files import make_folder, replacing
from wisesr_cli.machine.stopping import signals_held
from wisesr_cli.text import on_one_line, visible

CONNECT_SECONDS = 2.0  # a name lookup can take half a minute without a network
SILENT_SECONDS = 30.0  # after which a download without data has failed
MEGABYTE = 1_000_000


class DownloadError(MachineError):
    """A file that cannot be downloaded."""


def is_reachable(url: str, seconds: float = CONNECT_SECONDS) -> bool:
    """Return whether the server of a URL, or the proxy to it, accepts a connection within `seconds`."""
    return within(seconds, lambda: _connect(_server_of(url), seconds)) is True


def within(seconds: float, work: Callable[[], Any]) -> Any:
    """Return the result of `work`, or None if it fails or takes longer; it then continues in the background.

    Uses a thread, as the system's name lookup can neither be interrupted nor given a time limit.
    """
    result: list[Any] = []

    def run() -> None:
        try:
            result.append(work())
        except (OSError, ValueError):  # a proxy's address may be invalid
            result.append(None)

    thread = threading.Thread(target=run, daemon=True)
    with signals_held():
        thread.start()
    thread.join(seconds)
    return result[0] if result else None


def _server_of(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    proxy = urllib.request.getproxies().get(parts.scheme)
    if proxy and not urllib.request.proxy_bypass(parts.hostname or ""):
        parts = urlsplit(proxy if "//" in proxy else f"//{proxy}")
    return parts.hostname or "", parts.port or (443 if parts.scheme == "https" else 80)


def _connect(address: tuple[str, int], seconds: float) -> bool:
    socket.create_connection(address, seconds).close()
    return True


def download(url: str, target: Path, *, checksum: str | None, label: str, listener: Listener) -> None:
    """Download a URL to `target`, which appears only once complete; `checksum` is as in `has_checksum`.

    Raises:
        DownloadError: no answer, less data than announced, or a different checksum.
        MachineError: it cannot be written.
    """
    make_folder(target.parent)
    with replacing(target) as temporary:
        _receive(url, temporary, label, listener)
        if checksum is not None and not has_checksum(temporary, checksum):
            raise DownloadError(f"{visible(url)}: the download does not have the checksum {checksum}; try again")


def _receive(url: str, path: Path, label: str, listener: Listener) -> None:
    with (
        _translated(url, lambda: urllib.request.urlopen(url, timeout=SILENT_SECONDS)) as answer,
        path.open("wb") as file,
    ):
        length = answer.headers.get("Content-Length")
        total, received = (int(length) if length else None), 0
        with listener.progress(f"{label}, MB", None if total is None else max(1, round(total / MEGABYTE))) as progress:
            while block := _translated(url, lambda: answer.read(MEGABYTE)):
                file.write(block)
                progress.advance((received + len(block)) // MEGABYTE - received // MEGABYTE)
                received += len(block)
    if total is not None and received != total:
        raise DownloadError(f"{visible(url)}: the connection ended after {received:,} of {total:,} bytes; try again")


def _translated(url: str, work: Callable[[], Any]) -> Any:
    try:
        return work()
    except (OSError, http.client.HTTPException) as error:
        raise DownloadError(f"{visible(url)}: {on_one_line(error)}") from error


def has_checksum(path: Path, checksum: str) -> bool:
    """Return whether a file matches a hexadecimal checksum: SHA-256, or MD5 if it has 32 digits."""
    kind = "md5" if len(checksum) == 32 else "sha256"
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.new(kind, usedforsecurity=False)).hexdigest() == checksum
