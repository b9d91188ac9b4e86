"""Measures how long it takes to count the parameters and FLOPs of many models.

    python -m benchmarks.speed.summary    # an hour, and 20 GiB of memory: the baseline builds 240 models every time

Compares `wisesr summarize` with every head to a plain Keras script that builds each of the models and counts its
parameters (`baselines/count_parameters.py`). Both are whole processes, and must produce the same numbers.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from benchmarks.measuring import Answer, Question, Settings, alternate, main, run_process, wisesr_command
from wisesr_cli.models.backbones import BACKBONES

SIDE, CLASSES = 224, 10
SCRIPT = Path(__file__).parent / "baselines" / "count_parameters.py"
BASELINE = "building the models in Keras"
ONE = Question("wisesr summarize: all heads on Xception", BASELINE, "seconds", reach=0.10, aim=0.04)
ALL = Question("wisesr summarize: all heads on all backbones", BASELINE, "seconds", reach=0.05, aim=0.01)
# The script knows what `keras.applications` has.
APPLICATIONS = tuple(name for name in BACKBONES if not name.startswith("compact"))
QUICK = ("MobileNet", "MobileNetV2", "VGG16")


def measure(settings: Settings) -> Iterable[Answer]:
    """Answer both questions."""
    yield answer(ONE, ("Xception",), settings)
    backbones = QUICK if settings.quick else APPLICATIONS
    yield answer(ALL, backbones, settings, note=f"{len(backbones)} backbones, {6 * len(backbones)} models")


def answer(question: Question, backbones: Sequence[str], settings: Settings, *, note: str = "") -> Answer:
    """Measure both ways of getting the same numbers."""
    chosen = [word for name in backbones for word in ("--backbone", name)]
    ours = [wisesr_command(), "summarize", *chosen, "--classes", str(CLASSES), "--image-size", str(SIDE)]
    theirs = [sys.executable, str(SCRIPT), str(SIDE), str(CLASSES), *backbones]
    expected = run_process([*ours, "--format", "json"]).stdout

    def build() -> float:
        cost = run_process(theirs)
        check_that_they_agree(expected, cost.stdout)
        return cost.seconds

    return Answer(
        question, *alternate(lambda: run_process(ours).seconds, build, repetitions=settings.repetitions), note=note
    )


def check_that_they_agree(ours: str, theirs: str) -> None:
    """Exit if the two counts differ."""
    counted = {f"{row['backbone']} {row['head']} {row['total_parameters']}" for row in json.loads(ours)["rows"]}
    if different := counted.symmetric_difference(theirs.splitlines()):
        raise SystemExit(f"counted differently: {', '.join(sorted(different))}")


if __name__ == "__main__":
    main(__doc__, measure)
