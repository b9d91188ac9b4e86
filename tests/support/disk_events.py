"""Intercepts everything that this process is about to write below a folder, through Python's audit events."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

Listener = Callable[[str, str], None]  # called with the event that is about to happen, and its path

# Event -> position of the path in its arguments.
_CHANGES = {"os.rename": 1, "os.mkdir": 0, "os.remove": 0, "os.rmdir": 0, "os.truncate": 0, "shutil.rmtree": 0}
_TAKES_ROOM = {"open", "os.rename", "os.mkdir"}
_listeners: list[tuple[str, Listener]] = []
_hooked = False


@contextmanager
def hearing(folder: Path, listener: Listener) -> Iterator[None]:
    """Call `listener` before every change below `folder`; if it raises, the change fails with that exception."""
    global _hooked  # an audit hook cannot be removed
    if not _hooked:
        sys.addaudithook(_hear)
        _hooked = True
    entry = (f"{folder.absolute()}/", listener)
    _listeners.append(entry)
    try:
        yield
    finally:
        _listeners.remove(entry)


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if not _listeners or (event != "open" and event not in _CHANGES):
        return
    if event == "open" and not _writes(arguments[1], arguments[2]):
        return
    path = arguments[0 if event == "open" else _CHANGES[event]]
    if isinstance(path, int):
        return
    name = os.fsdecode(path)
    for folder, listener in list(_listeners):
        if f"{name}/".startswith(folder):
            listener(event, name)


def _writes(mode: str | None, flags: int) -> bool:
    """Return whether a file is opened for writing."""
    return bool(set(mode or "") & set("wax+")) or bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


class FullDisk:
    """Fails every event that takes disk space, after the first `after` ones."""

    def __init__(self, after: int) -> None:
        self.after, self.heard = after, 0
        self.refused: str | None = None

    def __call__(self, event: str, path: str) -> None:
        if event not in _TAKES_ROOM:
            return
        self.heard += 1
        if self.heard > self.after:
            self.refused = self.refused or f"{event} {Path(path).name}"
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
