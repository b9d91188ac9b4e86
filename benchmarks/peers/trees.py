"""Runs a command on some cores, and measures it with all processes that it starts."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import plain_environment

SETTINGS = {"CUDA_VISIBLE_DEVICES": "-1", "YOLO_OFFLINE": "true", "PYTHONUNBUFFERED": "1"}


@dataclass(frozen=True)
class TreeCost:
    """What a command took with its processes.

    Args:
        seconds: wall clock, of the whole command.
        peak_mebibytes: highest memory of all its processes together, shared pages counted once; 0 if not sampled.
        lines: what it printed, each line with the seconds since its start.
    """

    seconds: float
    peak_mebibytes: float
    lines: list[tuple[float, str]]

    def seconds_until(self, text: str) -> float:
        """Return when the first line with a text was printed; raises `SystemExit` if none was."""
        for seconds, line in self.lines:
            if text in line:
                return seconds
        raise SystemExit(f"error: no line with {text}:\n{self.end()}")

    def end(self) -> str:
        """Return the last lines."""
        return "".join(line for _, line in self.lines[-40:])


def run_tree(
    command: Sequence[str], *, cores: int, sample_seconds: float | None = None, timeout: float = 1200
) -> TreeCost:
    """Run a command on the first `cores` processors to its end; sampling its memory takes a little of their time.

    Raises:
        SystemExit: it failed, with the last lines that it printed.
    """
    started = time.perf_counter()
    process = _started(command, cores)
    peak = _Peak(process.pid, sample_seconds)
    timer = threading.Timer(timeout, _end_group, [process.pid])
    timer.daemon = True
    timer.start()
    lines = []
    assert process.stdout is not None
    try:
        for line in process.stdout:
            lines.append((time.perf_counter() - started, line))
        code = process.wait()
        seconds = time.perf_counter() - started
    finally:
        timer.cancel()
        _end_group(process.pid)
        highest = peak.end()
    cost = TreeCost(seconds, highest, lines)
    if code != 0 or seconds >= timeout:
        raise SystemExit(f"{' '.join(command)[:500]} ended with {code}:\n{cost.end()}")
    return cost


def _started(command: Sequence[str], cores: int) -> subprocess.Popen[str]:
    """Start a process in a group of its own; it inherits the processors that this one has for that moment."""
    mine = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(mine)[:cores])
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=plain_environment(SETTINGS),
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
    finally:
        os.sched_setaffinity(0, mine)


def _end_group(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process, signal.SIGKILL)


class _Peak:
    """Samples the memory of a process and its descendants in a thread."""

    def __init__(self, root: int, seconds: float | None) -> None:
        self._root, self._seconds, self._highest, self._ended = root, seconds, 0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def end(self) -> float:
        """Return the highest sum seen, in MiB."""
        self._ended.set()
        self._thread.join()
        return self._highest / 1024

    def _sample(self) -> None:
        while self._seconds is not None and not self._ended.wait(self._seconds):
            self._highest = max(self._highest, sum(map(_kibibytes, _descendants(self._root))))


def _descendants(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            children.setdefault(int(fields[1]), []).append(int(folder.name))
    found = [root]
    for process in found:
        found.extend(children.get(process, ()))
    return found


def _kibibytes(process: int) -> int:
    """Return the memory of a process, each shared page divided by the number of processes that share it."""
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)
