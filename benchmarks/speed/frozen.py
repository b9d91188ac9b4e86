"""How much faster is an epoch of a head when the frozen backbone runs only once, and what does that run cost?

    python -m benchmarks.speed.frozen [--quick]

MobileNet at 224 px with the Wise head, batch 32, no augmentation, and random weights, which cost as much as trained
ones. An epoch is its steps and the validation, as in history.csv: the median of those after the first, for whole
`wisesr train` processes run alternately with `train.feature_cache` auto and none. Computing the feature maps of all
images, decoding included, is compared with `wisesr predict --engine keras` on the same images, alternately in one
process after a warm-up round of each.
"""

from __future__ import annotations

import csv
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from benchmarks.measuring import Answer, Question, Settings, alternate, main, run_process, wisesr_command
from benchmarks.speed.epochs import after_the_first, image_folders

SIDE, QUICK_SIDE = 224, 64
EPOCHS = {"auto": 6, "none": 2}


def measure(settings: Settings) -> Iterator[Answer]:
    """Yield the two answers."""
    side = QUICK_SIDE if settings.quick else SIDE
    train, validation = image_folders(settings)
    config = settings.folder / "config.yaml"
    config.write_text(
        f"schema_version: 1\ndata: {{train_dir: {train}, validation_dir: {validation}, image_size: {side}}}\n"
        "model: {backbone: MobileNet}\naugment: none\n",
        encoding="utf-8",
    )
    numbers = count()

    def epoch(feature_cache: str) -> float:
        name = f"{feature_cache}{next(numbers)}"
        phases = f"train.phases=[{{epochs: {EPOCHS[feature_cache]}, freeze: backbone, learning_rate: 0.01}}]"
        options = ["-s", phases, "-s", f"train.feature_cache={feature_cache}", "-o", str(settings.folder), "-q"]
        run_process([wisesr_command(), "train", str(config), *options, "--name", name])
        with (settings.folder / name / "history.csv").open(encoding="utf-8") as file:
            return after_the_first([float(row["epoch_seconds"]) for row in csv.DictReader(file)])

    question = Question(
        f"an epoch with a frozen backbone, MobileNet at {side} px",
        "through the backbone (train.feature_cache: none)",
        "seconds",
        None if settings.quick else 1 / 30,
    )
    yield Answer(
        question,
        *alternate(lambda: epoch("auto"), lambda: epoch("none"), repetitions=settings.repetitions),
        note=f"median of epochs 2 to {EPOCHS['auto']} of each process, and epoch 2 of the baseline",
    )
    yield features_beside_prediction(settings, config, settings.folder / "auto0", [train, validation])


def features_beside_prediction(settings: Settings, config_file: Path, run: Path, folders: list[Path]) -> Answer:
    """Return the answer about computing the feature maps once."""
    from wisesr_cli.api import predict
    from wisesr_cli.config.reader import Override, load_config
    from wisesr_cli.listening import Silent
    from wisesr_cli.machine import keras_start
    from wisesr_cli.training.examples import open_examples

    phases = [{"epochs": 1, "freeze": "backbone"}]
    given = {("data", "cache"): "none", ("train", "phases"): phases}
    config = load_config(config_file, [Override(key, value, "a benchmark") for key, value in given.items()]).config
    examples = open_examples(config, Silent())
    device = keras_start.start("cpu")
    from wisesr_cli.training.trainer import Trainer

    trainer = Trainer(config, examples, device)

    def features() -> float:
        started = time.perf_counter()
        if trainer.frozen_features(config.phases[0], 0, Silent()) is None:
            raise SystemExit("no room for the feature maps")
        return time.perf_counter() - started

    def prediction() -> float:
        started = time.perf_counter()
        for _ in predict(str(run), [str(folder) for folder in folders], engine="keras", device="cpu"):
            pass
        return time.perf_counter() - started

    features(), prediction()
    images = len(examples.train) + len(examples.validation or ())
    question = Question(
        f"feature maps of {images:,} images, once",
        "wisesr predict --engine keras",
        "seconds",
        None if settings.quick else 1.1,
    )
    return Answer(question, *alternate(features, prediction, repetitions=settings.repetitions))


if __name__ == "__main__":
    main(__doc__, measure)
