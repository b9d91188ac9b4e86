"""The available memory, on this machine and within its container."""

from __future__ import annotations

import os
from pathlib import Path


def available_memory_bytes() -> int:
    """Return the available memory, within the limit of a container; 2 GB where it is unknown."""
    found = (_memory_of_machine(), _memory_of_container())
    return min((each for each in found if each is not None), default=2 * 10**9)


def _memory_of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    except (OSError, ValueError):
        return None


def _memory_of_container() -> int | None:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii")
        used = (group / "memory.current").read_text(encoding="ascii")
        return max(0, int(limit) - int(used))
    except (OSError, ValueError):  # no control groups, or no limit ("max")
        return None
