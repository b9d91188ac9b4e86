"""Runs predictions in separate processes or interrupts them at a chosen moment, and makes many images for them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import environment, make_photo

from wisesr_cli.prediction import output

FORMATS = ("table", "json", "jsonl", "csv", "markdown")


def spread(folder: Path, count: int, *, unreadable: int = 0) -> Path:
    """Make a folder of `count` links to a few images, about `unreadable` of them to a truncated one."""
    sources = [make_photo(folder.with_name(f"{folder.name} sources") / f"{n}.png", n % 3, n, (8, 8)) for n in range(12)]
    broken = sources[0].with_name("broken.png")
    broken.write_bytes(sources[0].read_bytes()[:-20])
    folder.mkdir()
    for number in range(count):
        is_broken = unreadable and number % (count // unreadable) == 1
        os.link(broken if is_broken else sources[number % 12], folder / f"{number:06}.png")
    return folder


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start(*arguments: object, cwd: Path, program: Sequence[str] = ("-m", "wisesr_cli"), **options: Any) -> Any:
    """Start a fresh `wisesr` and return the process."""
    command = [sys.executable, *program, *map(str, arguments)]
    options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, **options}
    return subprocess.Popen(command, cwd=cwd, env=environment(cwd), **options)


def end(process: Any, rest: str = "") -> tuple[int, str]:
    """Write the rest of a process's input, wait for its end, and return exit code and standard error."""
    error = process.communicate(rest.encode() or None, timeout=120)[1]
    return process.returncode, error.decode()


def wait_until(condition: Callable[[], bool], process: Any) -> bool:
    """Wait until a condition holds; return whether it did before the process ended."""
    while not condition():
        if process.poll() is not None:
            return condition()
        time.sleep(0.001)
    return True


def journal_records(journal: Path) -> int:
    return max(0, journal.read_bytes().count(b"\n") - 2) if journal.exists() else 0


@contextmanager
def stopping_after(count: int) -> Iterator[None]:
    """Interrupt a prediction into a file, as from the keyboard, after `count` more records."""
    write, written = output.FileOutput.write, 0

    def write_or_stop(self: output.FileOutput, record: Any) -> None:
        nonlocal written
        if written == count:
            raise KeyboardInterrupt
        written += 1
        write(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output.FileOutput, "write", write_or_stop)
        yield
