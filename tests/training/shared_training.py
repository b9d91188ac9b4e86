"""Script that runs trainings and saves the weights on every device after the last epoch of each one.

    python tests/training/shared_training.py '[["weights.npz", ["train", "photos", ...]], ...]'

Each training is a command line; the saved arrays are named `DEVICE NUMBER PATH`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from wisesr_cli.cli.main import run


def copies_of(variable: Any) -> list[Any]:
    """Return the copy of a Keras variable on each device of this process."""
    if hasattr(variable.value, "addressable_shards"):
        return [shard.data for shard in variable.value.addressable_shards]
    return list(getattr(variable.value, "values", None) or [variable.value])


def write_copies(trainer: Any, file: Path) -> None:
    arrays = {}
    for number, variable in enumerate(trainer.classifier.model.weights):
        for device, copy in enumerate(copies_of(variable)):
            arrays[f"{device} {number:03} {variable.path}".replace("/", ".")] = np.asarray(copy)
    np.savez(file, **arrays)


def train(file: Path, words: list[str]) -> int:
    """Run a command line and save the weights on every device after the last epoch."""
    from wisesr_cli.machine import keras_start

    start = keras_start.start

    def start_and_watch(*arguments: Any, **options: Any) -> Any:
        device = start(*arguments, **options)
        watch(file)
        return device

    keras_start.start = start_and_watch
    try:
        return run(words)
    finally:
        keras_start.start = start


def watch(file: Path) -> None:
    """Make the next trainer save its weights after fitting; its module imports Keras, which must be started by then."""
    from wisesr_cli.training.trainer import Trainer

    fit = Trainer.fit

    def fit_and_write(trainer: Trainer, *arguments: Any, **options: Any) -> None:
        Trainer.fit = fit  # type: ignore[method-assign]
        try:
            fit(trainer, *arguments, **options)
        finally:
            write_copies(trainer, file)

    Trainer.fit = fit_and_write  # type: ignore[method-assign]


if __name__ == "__main__":
    codes = [train(Path(file), words) for file, words in json.loads(sys.argv[1])]
    sys.exit(max(codes))
