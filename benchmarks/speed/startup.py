"""Measures how soon the program answers when nothing has to be computed.

    python -m benchmarks.speed.startup

Compares `wisesr --help` with importing its command-line library, and reporting a typo in a config with importing
TensorFlow, which a program that checks its config too late does first. Each runs in a separate process.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.measuring import (
    Answer,
    Question,
    Settings,
    alternate,
    main,
    plain_environment,
    run_process,
    wisesr_command,
)

HELP = Question("wisesr --help", "importing Typer", "seconds", reach=1.3, aim=1.15)
TYPO = Question("wisesr train: a typo in the config", "importing TensorFlow", "seconds", reach=0.12, aim=0.08)

CONFIG = "model:\n  head: {name: wise, prepool: 2}\n"
HELP_RUNS = 5  # per repetition: a single one is within the noise of a machine


def measure(settings: Settings) -> Iterable[Answer]:
    """Answer both questions."""
    yield Answer(
        HELP,
        *alternate(
            lambda: seconds([wisesr_command(), "--help"], runs=HELP_RUNS),
            lambda: seconds([sys.executable, "-c", "import typer"], runs=HELP_RUNS),
            repetitions=settings.repetitions,
        ),
        note=f"each figure is the shortest of {HELP_RUNS} runs",
    )
    config = settings.folder / "config.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    yield Answer(
        TYPO,
        *alternate(
            lambda: seconds_to_refuse(config),
            lambda: run_process([sys.executable, "-c", "import tensorflow"]).seconds,
            repetitions=settings.repetitions,
        ),
    )


def seconds(command: Sequence[str], *, runs: int) -> float:
    """Return the shortest wall-clock time of several runs."""
    return min(run_process(command).seconds for _ in range(runs))


def seconds_to_refuse(config: Path) -> float:
    """Return how long `wisesr train` takes to name the mistake in a config."""
    started = time.perf_counter()
    done = subprocess.run(
        [wisesr_command(), "train", str(config)], capture_output=True, text=True, check=False, env=plain_environment()
    )
    took = time.perf_counter() - started
    if done.returncode != 2 or "Did you mean 'pre_pool'?" not in done.stderr:
        raise SystemExit(f"the typo was not named, but ended with {done.returncode}: {done.stderr}")
    return took


if __name__ == "__main__":
    main(__doc__, measure)
