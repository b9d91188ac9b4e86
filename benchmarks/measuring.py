"""Shared parts of the benchmarks: alternating repetitions, the cost of a process, and the table of ratios.

A script asks `Question`s and gives an `Answer` to each: one figure per repetition for wisesr, and one for a named
baseline, measured alternately in the same run. Machines are noisy and differ, so what counts is the ratio of the
medians; the spread is the range of the single repetitions' ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from wisesr_cli.display.grid import Column, Grid, to_markdown
from wisesr_cli.errors import Interrupted, WisesrError

REPETITIONS, QUICK_REPETITIONS = 5, 2
PHOTOS = Path(__file__).resolve().parents[2] / "shared" / "data" / "clothing"


@contextmanager
def errors_in_a_line() -> Iterator[None]:
    """End a script that its user stops, or that wisesr refuses, with a one-line message and the exit code."""
    try:
        yield
    except WisesrError as error:
        stopped = isinstance(error, Interrupted)
        print("stopped; the same command continues" if stopped else f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


@dataclass(frozen=True)
class Question:
    """A row of the table.

    Args:
        name: what is measured.
        baseline: what it is compared with.
        unit: of the figures: "seconds", "milliseconds", "MiB", "images/s"; per second, more is better.
        reach: the promised ratio to the baseline; None if nothing is promised.
        aim: the desired ratio.
    """

    name: str
    baseline: str
    unit: str
    reach: float | None = None
    aim: float | None = None

    @property
    def more_is_better(self) -> bool:
        """Whether a higher figure is the better one."""
        return self.unit.endswith("/s")

    def is_met(self, ratio: float, wanted: float | None) -> bool:
        """Return whether a ratio is as good as the wanted one."""
        return wanted is None or (ratio >= wanted if self.more_is_better else ratio <= wanted)


@dataclass(frozen=True)
class Answer:
    """The figures of wisesr and of the baseline, one of each per repetition, and a note on them."""

    question: Question
    ours: list[float]
    baseline: list[float]
    note: str = ""

    @property
    def ratio(self) -> float:
        """The median of wisesr divided by that of the baseline."""
        return statistics.median(self.ours) / statistics.median(self.baseline)

    @property
    def spread(self) -> tuple[float, float]:
        """The lowest and the highest ratio of single repetitions."""
        ratios = [ours / baseline for ours, baseline in zip(self.ours, self.baseline, strict=True)]
        return min(ratios), max(ratios)

    @property
    def verdict(self) -> str:
        """Which of the two ratios was reached."""
        if self.question.reach is None:
            return ""
        if not self.question.is_met(self.ratio, self.question.reach):
            return "missed"
        has_aim = self.question.aim is not None
        return "aim" if has_aim and self.question.is_met(self.ratio, self.question.aim) else "reached"

    def to_json(self) -> dict[str, Any]:
        """Return plain values, from which `from_json` restores the answer."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Answer:
        """Return the answer for values from `to_json`."""
        return cls(**{**values, "question": Question(**values["question"])})


@dataclass(frozen=True)
class ProcessCost:
    """The cost of a process: wall-clock time and peak resident memory, and its output."""

    seconds: float
    peak_mebibytes: float
    stdout: str


@dataclass(frozen=True)
class Settings:
    """How much to measure: `folder` is empty and removed afterwards; `images` are real photos, if there are any."""

    quick: bool
    repetitions: int
    folder: Path
    images: Path | None


def alternate(
    ours: Callable[[], float], baseline: Callable[[], float], *, repetitions: int
) -> tuple[list[float], list[float]]:
    """Return the figures of both functions, called alternately; which one goes first also alternates."""
    figures: dict[Callable[[], float], list[float]] = {ours: [], baseline: []}
    for repetition in range(repetitions):
        for function in (ours, baseline) if repetition % 2 == 0 else (baseline, ours):
            figures[function].append(function())
    return figures[ours], figures[baseline]


def run_process(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    timeout: float = 3600,
) -> ProcessCost:
    """Run a command to its end and return its cost.

    The system also counts the memory of the parent process as the child's: keep this process small.

    Raises:
        SystemExit: the command failed; the message has what it wrote to standard error.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=plain_environment(environment), cwd=cwd
        )
        usage = _wait(process, timeout)
        seconds = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        if process.returncode != 0:
            said = err.read().decode(errors="replace")[-4000:]
            raise SystemExit(f"{' '.join(command)[:500]} ended with {process.returncode}:\n{said}")
        return ProcessCost(seconds, usage.ru_maxrss / 1024, out.read().decode(errors="replace"))


def _wait(process: subprocess.Popen[bytes], timeout: float) -> resource.struct_rusage:
    """Wait for a process, ending it if it takes too long, and return its resource usage."""
    deadline = time.monotonic() + timeout
    while True:
        found, status, usage = os.wait4(process.pid, os.WNOHANG)
        if found:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage
        if time.monotonic() > deadline:
            process.kill()
        time.sleep(0.001)


def plain_environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a measured process: Python keeps its compiled files, TensorFlow logs nothing."""
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**variables, "TF_CPP_MIN_LOG_LEVEL": "3", **(more or {})}


def wisesr_command() -> str:
    """Return the installed program that belongs to this Python."""
    return str(Path(sys.executable).with_name("wisesr"))


def table(answers: Iterable[Answer]) -> Grid:
    """Return the table of ratios."""
    columns = (
        Column("question"),
        Column("baseline"),
        Column("wisesr", True),
        Column("baseline", True),
        Column("ratio", True),
        Column("spread", True),
        Column("n", True),
        Column("reach", True),
        Column("aim", True),
        Column("verdict"),
    )
    return Grid("", columns, tuple(_cells(answer) for answer in answers))


def _cells(answer: Answer) -> tuple[str, ...]:
    question, (low, high) = answer.question, answer.spread
    return (
        question.name,
        question.baseline,
        f"{figure(statistics.median(answer.ours))} {question.unit}",
        f"{figure(statistics.median(answer.baseline))} {question.unit}",
        figure(answer.ratio),
        f"{figure(low)} to {figure(high)}",
        str(len(answer.ours)),
        "" if question.reach is None else f"{question.reach:g}",
        "" if question.aim is None else f"{question.aim:g}",
        answer.verdict,
    )


def figure(value: float) -> str:
    """Return a figure with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def arguments_for(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="little data and few repetitions, to show that it runs")
    parser.add_argument("--repetitions", type=int, help=f"repetitions of each side; default: {REPETITIONS}")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE")
    return parser


def settings_for(arguments: argparse.Namespace, folder: Path) -> Settings:
    """Return the settings that the arguments ask for."""
    repetitions = arguments.repetitions or (QUICK_REPETITIONS if arguments.quick else REPETITIONS)
    return Settings(arguments.quick, repetitions, folder, PHOTOS / "train" if PHOTOS.is_dir() else None)


def main(description: str | None, measure: Callable[[Settings], Iterable[Answer]]) -> None:
    """Measure, print each row as soon as it is known, and write all of them to the file of `--json`."""
    arguments = arguments_for(description).parse_args()
    answers = []
    with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as folder:
        for answer in measure(settings_for(arguments, Path(folder))):
            answers.append(answer)
            print(to_markdown(table([answer])).splitlines()[-1], file=sys.stderr, flush=True)
    print(to_markdown(table(answers)), end="")
    for answer in answers:
        if answer.note:
            print(f"\n{answer.question.name}: {answer.note}")
    if arguments.json:
        text = json.dumps([answer.to_json() for answer in answers], indent=1)
        arguments.json.write_text(f"{text}\n", encoding="utf-8")
