"""How long does it take from the command to the end of the first training step?

    python -m benchmarks.speed.first_step

Whole processes, MobileNetV2 at 96 px with AdamW, batch 32, horizontal flips. The baseline is a plain Keras script that
reads the folder with `image_dataset_from_directory` and calls `fit` for one step; ours is `wisesr train --max-steps 1`,
which also decodes every image and writes a state to resume from. Neither validates, draws or saves a model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from benchmarks.measuring import Answer, Question, Settings, alternate, main, run_process, wisesr_command
from wisesr_cli.demo.harbour import make_harbour
from wisesr_cli.listening import Silent

SCRIPT = Path(__file__).with_name("baselines") / "train_first_step.py"
SIDE, QUICK_SIDE = 96, 32
FIXED = ("--weights", "none", "--max-steps", "1", "-q")
SETTINGS = ("--set", "augment={horizontal_flip: true}", "--head", "gap", "--seed", "0")


def measure(settings: Settings) -> Iterator[Answer]:
    """Yield the one answer."""
    side = QUICK_SIDE if settings.quick else SIDE
    folder = image_folder(settings)
    numbers = count()

    def ours() -> float:
        runs = settings.folder / f"runs{next(numbers)}"
        options = ["--image-size", str(side), "--backbone", "MobileNetV2", *FIXED]
        command = [wisesr_command(), "train", str(folder), *options, *SETTINGS, "--output-dir", str(runs)]
        return run_process(command).seconds

    def baseline() -> float:
        return run_process([sys.executable, str(SCRIPT), str(folder), str(side)]).seconds

    question = Question(
        f"time to the first training step, MobileNetV2 at {side} px, AdamW",
        "a plain Keras script",
        "seconds",
        None if settings.quick else 0.75,
        None if settings.quick else 0.5,
    )
    yield Answer(question, *alternate(ours, baseline, repetitions=settings.repetitions), note="whole processes")


def image_folder(settings: Settings) -> Path:
    """Return a folder of class folders: real photos, or the demo's harbour."""
    if settings.images is not None:
        return settings.images
    make_harbour(settings.folder / "harbour", seed=0, listener=Silent())
    return settings.folder / "harbour" / "train"


if __name__ == "__main__":
    main(__doc__, measure)
