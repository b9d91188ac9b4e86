"""One connection between two processes of a training: messages of a JSON header and bytes, and when the last one came.

No pickle: what comes from the network is JSON, and arrays as NumPy writes them. Nobody is asked who they are, as JAX's
own coordinator asks nobody either: the network between the machines of a training must be a trusted one.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import threading
import time
from contextlib import suppress
from typing import Any

MOST_HEADER_BYTES = 1 << 28
MOST_PAYLOAD_BYTES = 1 << 36
CHUNK_BYTES = 1 << 20

_SIZES = struct.Struct("!8sIQ")
_MARK = b"wisesr 1"


class Connection:
    """A socket that carries whole messages; they may be sent from several threads, and are received in one.

    Args:
        connected: the socket.
        timeout_seconds: how long a part of a message may take to be sent.
    """

    def __init__(self, connected: socket.socket, timeout_seconds: float) -> None:
        self.heard = time.monotonic()
        self._socket = connected
        self._socket.settimeout(timeout_seconds)
        with suppress(OSError):  # no TCP
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sending = threading.Lock()

    def send(self, header: dict[str, Any], payload: bytes = b"") -> None:
        """Send a message; raises `OSError` when the other end is gone or takes nothing any more."""
        with self._sending:
            self._send(header, payload)

    def send_if_idle(self, header: dict[str, Any]) -> None:
        """Send a message unless one is just being sent, which says as well that this process lives."""
        if self._sending.acquire(blocking=False):
            try:
                self._send(header, b"")
            finally:
                self._sending.release()

    def _send(self, header: dict[str, Any], payload: bytes) -> None:
        text = json.dumps(header).encode("ascii")
        self._socket.sendall(_SIZES.pack(_MARK, len(text), len(payload)) + text)
        for start in range(0, len(payload), CHUNK_BYTES):  # the timeout holds for each
            self._socket.sendall(memoryview(payload)[start : start + CHUNK_BYTES])

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Return the next message; raises `OSError` when the other end is gone, `ValueError` when it sends nonsense."""
        mark, header_bytes, payload_bytes = _SIZES.unpack(self._read(_SIZES.size))
        if mark != _MARK or header_bytes > MOST_HEADER_BYTES or payload_bytes > MOST_PAYLOAD_BYTES:
            raise ValueError("it sends what no wisesr of this version would")
        header = json.loads(self._read(header_bytes))
        if not isinstance(header, dict):
            raise ValueError("it sends what no wisesr of this version would")
        return header, bytes(self._read(payload_bytes))

    def _read(self, size: int) -> bytearray:
        content = bytearray()
        while len(content) < size:
            try:
                part = self._socket.recv(min(size - len(content), CHUNK_BYTES))
            except TimeoutError:
                continue  # whether that is too long is not decided here
            if not part:
                raise ConnectionResetError("its connection was closed")
            self.heard = time.monotonic()
            content += part
        return content

    def receive_within(self, seconds: float) -> dict[str, Any]:
        """Return the header of a first message that comes soon; raises `OSError` or `ValueError` otherwise."""
        before = self._socket.gettimeout()
        closing = threading.Timer(seconds, self.close)
        closing.daemon = True
        closing.start()
        try:
            self._socket.settimeout(seconds)
            return self.receive()[0]
        finally:
            closing.cancel()
            with suppress(OSError):
                self._socket.settimeout(before)

    def is_open(self) -> bool:
        """Return whether the other end has not hung up, as far as is known here; takes nothing of what it sent."""
        waiting = select.poll()  # a socket with a timeout would wait for as long
        waiting.register(self._socket, select.POLLIN)
        if not waiting.poll(0):
            return True
        try:
            return self._socket.recv(1, socket.MSG_PEEK) != b""
        except OSError:
            return False

    def finish(self) -> None:
        """Say nothing more; what was sent still arrives, and the other end is still heard until it finishes, too."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """End the connection, also for a thread that is just receiving."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
