"""Caches shared by runs: `KEY.pixels.users` next to each lists its runs; it is freed with the last of them.

A cache can be recreated at any time, so a lost record costs time but no results.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path

from wisesr_cli.machine.caches import cache_dir
from wisesr_cli.machine.locks import take

USERS = ".users"
_RUN: ContextVar[Path | None] = ContextVar("_RUN", default=None)


def shared_folder() -> Path:
    """Return the folder of shared caches."""
    return cache_dir() / "pixels"


@contextlib.contextmanager
def used_by(run: Path) -> Iterator[None]:
    """Attribute the caches that the block uses to a run."""
    token = _RUN.set(run.resolve())
    try:
        yield
    finally:
        _RUN.reset(token)


def note_use(cache: Path) -> None:
    """Record the current run as a user of a cache; does nothing without a run or if the record cannot be written."""
    run = _RUN.get()
    with contextlib.suppress(OSError):
        if run is not None and run not in _users(cache):
            descriptor = os.open(_users_path(cache), os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "a", encoding="ascii") as file:
                file.write(json.dumps(str(run)) + "\n")


def free_caches(run: Path, exists: Callable[[Path], bool]) -> int:
    """Remove the caches that this run used and no other run that `exists` uses; return the bytes freed."""
    freed, run = 0, run.resolve()
    for path in sorted(shared_folder().glob(f"*{USERS}")):
        cache = path.with_suffix("")
        with contextlib.suppress(OSError):
            users = _users(cache)
            if run in users and not any(user != run and exists(user) for user in users):
                size = cache.stat().st_size if cache.exists() else 0
                freed += size if remove_unused(cache) else 0
    return freed


def remove_unused(path: Path) -> bool:
    """Remove a cache, and the record of its users, unless a live process holds a lock on it."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        if not take(descriptor):
            return False
        path.unlink()
        _users_path(path).unlink(missing_ok=True)
        return True
    except OSError:
        return False
    finally:
        os.close(descriptor)


def _users_path(cache: Path) -> Path:
    return cache.with_name(cache.name + USERS)


def _users(cache: Path) -> list[Path]:
    """Return the runs that use a cache; if the record is damaged, those that can be read."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in _users_path(cache).read_bytes().splitlines():
            with contextlib.suppress(ValueError):
                if isinstance(name := json.loads(line), str):
                    found.append(Path(name))
    return found
