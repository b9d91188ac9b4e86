"""The available memory, on this machine and within the control groups of this process; and giving some back."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from pathlib import Path

PROC, MOUNT = Path("/proc"), Path("/sys/fs/cgroup")
# Files of a control group: its limit, its use, and the key in memory.stat of what the kernel can drop at once.
_VERSIONS = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    2: ("memory.max", "memory.current", "inactive_file"),
}


def available_memory_bytes() -> int:
    """Return the available memory, within the limits of a container or scheduler; 2 GB if unknown."""
    found = (_memory_of_machine(), *(_left_in(folder, version) for folder, version in _groups()))
    return min((each for each in found if each is not None), default=2 * 10**9)


def return_freed_memory() -> None:
    """Return memory that is no longer used to the system; glibc keeps most of it unless told."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _memory_of_machine() -> int | None:
    try:
        for line in (PROC / "meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError):
        return None


def _groups() -> Iterator[tuple[Path, int]]:
    """Yield the folder and version of the control groups of this process, including parent groups.

    If the groups have their own namespace, the folders named do not exist, and the mount itself is the group.
    """
    try:
        lines = (PROC / "self" / "cgroup").read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        lines = []
    yield MOUNT, 2
    yield MOUNT / "memory", 1
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers in ("", "memory") or "memory" in controllers.split(","):
            root, version = (MOUNT / "memory", 1) if controllers else (MOUNT, 2)
            folder = root / path.lstrip("/")
            if ".." not in folder.parts:
                yield from ((group, version) for group in (folder, *folder.parents) if root in group.parents)


def _left_in(group: Path, version: int) -> int | None:
    """Return the bytes left in a control group; None if it does not exist or has no limit."""
    limit_name, used_name, droppable = _VERSIONS[version]
    try:
        limit = int((group / limit_name).read_text(encoding="ascii"))  # "max" is not a number
        used = int((group / used_name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
    try:
        rows = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        used -= int(rows.get(droppable, 0))
    except (OSError, ValueError):
        pass
    return max(0, limit - used)
