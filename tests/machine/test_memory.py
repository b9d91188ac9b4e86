"""Available memory under control groups of both versions, with and without their own namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from wisesr_cli.machine import memory

GB = 10**9


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Set up a machine with 64 GB free and no control groups."""
    monkeypatch.setattr(memory, "PROC", tmp_path / "proc")
    monkeypatch.setattr(memory, "MOUNT", tmp_path / "cgroup")
    write(tmp_path / "proc" / "meminfo", f"MemTotal: 1 kB\nMemAvailable: {64 * GB // 1024} kB\n")
    return tmp_path


def limit(group: Path, version: int, most: int | str, used: int, droppable: int | None = None) -> None:
    limit_name, used_name, stat = memory._VERSIONS[version]
    write(group / limit_name, f"{most}\n")
    write(group / used_name, f"{used}\n")
    if droppable is not None:
        write(group / "memory.stat", f"anon 1\n{stat} {droppable}\n")


def test_without_groups_the_memory_of_the_machine_is_available(machine: Path) -> None:
    assert memory.available_memory_bytes() == pytest.approx(64 * GB, rel=1e-6)


@pytest.mark.reliability(50)
@pytest.mark.parametrize(
    ("lines", "folder", "version"),
    [
        ("0::/", "", 2),  # a container with its own namespace
        ("0::/system.slice/job.scope", "system.slice/job.scope", 2),
        ("0::/system.slice/job.scope", "system.slice", 2),  # the limit of an enclosing group
        ("0::/../elsewhere", "", 2),
        ("9:memory:/slurm/uid_1/job_2", "memory/slurm/uid_1/job_2", 1),
        ("9:cpu,memory:/slurm/uid_1/job_2", "memory/slurm", 1),
        ("9:memory:/docker/0123", "memory", 1),
        ("10:cpuset:/a\n9:memory:/job\n0::/", "memory/job", 1),
    ],
)
def test_the_limit_is_read_from_the_groups_of_the_process(machine: Path, lines: str, folder: str, version: int) -> None:
    write(machine / "proc" / "self" / "cgroup", lines + "\n")
    limit(machine / "cgroup" / folder, version, 2 * GB, GB)
    assert memory.available_memory_bytes() == GB


def test_the_smallest_of_several_limits_applies_and_reclaimable_memory_is_free(machine: Path) -> None:
    write(machine / "proc" / "self" / "cgroup", "0::/a/b\n")
    limit(machine / "cgroup" / "a", 2, "max", 3 * GB)
    limit(machine / "cgroup" / "a" / "b", 2, 4 * GB, 3 * GB, droppable=2 * GB)
    assert memory.available_memory_bytes() == 3 * GB
    limit(machine / "cgroup" / "a", 2, 5 * GB, 4 * GB)
    assert memory.available_memory_bytes() == GB
    limit(machine / "cgroup" / "a", 2, 4 * GB, 5 * GB)
    assert memory.available_memory_bytes() == 0


@pytest.mark.parametrize("text", ["", "max", "many"])
def test_a_limit_that_is_not_a_number_is_ignored(machine: Path, text: str) -> None:
    limit(machine / "cgroup", 2, text, GB)
    assert memory.available_memory_bytes() == pytest.approx(64 * GB, rel=1e-6)
