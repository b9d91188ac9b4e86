"""How long does an epoch of `wisesr train` take, against Keras' own loop on arrays in memory?

    python -m benchmarks.speed.epochs

MobileNetV2 at 96 px with the Wise head and light augmentation, batch 32. An epoch includes its steps and the
validation. The figure is the median of the epochs after the first, for whole processes run alternately; ours come from
history.csv, which leaves out the files that are written after an epoch. The baseline is `fit` with ModelCheckpoint,
whose files count; `python -m benchmarks.peers` counts them on both sides.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.measuring import Answer, Question, Settings, alternate, main, run_process, wisesr_command
from wisesr_cli.demo.harbour import make_harbour
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.listening import Silent

SCRIPT = Path(__file__).with_name("baselines") / "train_epochs.py"
SIDE, QUICK_SIDE = 96, 32
EPOCHS, QUICK_EPOCHS = 6, 2


def measure(settings: Settings) -> Iterator[Answer]:
    """Yield the one answer."""
    side, epochs = (QUICK_SIDE, QUICK_EPOCHS) if settings.quick else (SIDE, EPOCHS)
    train, validation = image_folders(settings)
    arrays = settings.folder / "arrays.npz"
    np.savez(arrays, **decoded("train", train, side), **decoded("validation", validation, side))
    config = settings.folder / "config.yaml"
    config.write_text(
        f"schema_version: 1\ndata: {{train_dir: {train}, validation_dir: {validation}}}\n", encoding="utf-8"
    )
    numbers = count()

    def ours() -> float:
        runs = settings.folder / f"runs{next(numbers)}"
        options = ["--weights", "none", "--image-size", str(side), "--epochs", str(epochs), "--name", "run"]
        run_process([wisesr_command(), "train", str(config), *options, "--output-dir", str(runs), "-q"])
        with (runs / "run" / "history.csv").open(encoding="utf-8") as file:
            return after_the_first([float(row["epoch_seconds"]) for row in csv.DictReader(file)])

    def baseline() -> float:
        best = settings.folder / "best.keras"
        cost = run_process([sys.executable, str(SCRIPT), str(arrays), str(epochs), str(best)])
        lines = [line.split() for line in cost.stdout.splitlines() if line.startswith("epoch_seconds ")]
        return after_the_first([float(seconds) for _, seconds in lines])

    question = Question(
        f"an epoch after the first, MobileNetV2 at {side} px",
        "Keras' fit with ModelCheckpoint",
        "seconds",
        None if settings.quick else 1.05,
        None if settings.quick else 1.0,
    )
    note = f"median of epochs 2 to {epochs} of each process; wisesr's leave out the files written after an epoch"
    yield Answer(question, *alternate(ours, baseline, repetitions=settings.repetitions), note=note)


def after_the_first(seconds: list[float]) -> float:
    """Return the median time of the epochs after the first."""
    return statistics.median(seconds[1:])


def image_folders(settings: Settings) -> tuple[Path, Path]:
    """Return the folders of the training and validation images: real photos, or the demo's harbour."""
    if settings.images is not None and not settings.quick:
        return settings.images, settings.images.with_name("validation")
    each = 4 if settings.quick else 60
    make_harbour(settings.folder / "harbour", train_per_class=each, test_per_class=each, seed=0, listener=Silent())
    return settings.folder / "harbour" / "train", settings.folder / "harbour" / "test"


def decoded(split: str, folder: Path, side: int) -> dict[str, np.ndarray]:
    """Return the images and labels of a folder of class folders."""
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    paths = [(path, label) for label, one in enumerate(classes) for path in sorted(one.iterdir())]
    images = np.stack([decode_image(path, image_size=(side, side)) for path, _ in paths])
    return {split: images, f"{split}_labels": np.array([label for _, label in paths])}


if __name__ == "__main__":
    main(__doc__, measure)
