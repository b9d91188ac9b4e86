"""A way to an address that stays open on this side when the other side is gone.

JAX ends a process with messages of its own as soon as the connection to its coordinator is closed, from a thread that
nobody can stop. Through this way it only hears nothing any more, and the watchdog says first what happened.
"""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

CONNECT_SECONDS = 30.0
PART_BYTES = 1 << 16


def forward_to(host: str, port: int) -> int:
    """Return a port of this machine whose connections threads hand on to `host` and `port`, until they end."""
    listening = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listening, (host, port)), name="wisesr-forward", daemon=True).start()
    return int(listening.getsockname()[1])


def _accept(listening: socket.socket, target: tuple[str, int]) -> None:
    while True:
        near = listening.accept()[0]
        try:
            far = socket.create_connection(target, timeout=CONNECT_SECONDS)
        except OSError:
            near.close()  # the caller tries again
            continue
        for end in (near, far):
            end.settimeout(None)
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=_hand_on, args=(near, far), daemon=True).start()
        threading.Thread(target=_hand_back, args=(far, near), daemon=True).start()


def _hand_on(near: socket.socket, far: socket.socket) -> None:
    """Hand on what this side says; when it hangs up, so does this."""
    with suppress(OSError):
        while part := near.recv(PART_BYTES):
            far.sendall(part)
    if not _is_open(near):
        with suppress(OSError):
            far.shutdown(socket.SHUT_RDWR)


def _is_open(connected: socket.socket) -> bool:
    try:
        return connected.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except OSError:
        return False


def _hand_back(far: socket.socket, near: socket.socket) -> None:
    """Hand back what the other side says; when it hangs up, this side is not told."""
    with suppress(OSError):
        while part := far.recv(PART_BYTES):
            near.sendall(part)
