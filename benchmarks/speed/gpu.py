"""How close does `wisesr train` come to what a GPU can do, and does the input side keep up?

    pip install "jax[cuda13]"
    KERAS_BACKEND=jax python -m benchmarks.speed.gpu

ResNet50 and EfficientNetV2B0 at 224 px in mixed_bfloat16, batch 128. Needs a CUDA GPU: on a CPU, only `--quick` ends
within minutes, and its figures say nothing about a GPU; the device is named below the table. Runs with JAX, without
TensorFlow, or with TensorFlow. The images are generated: JPEGs of 400x534 pixels.

The figures are images per second, absolute and relative to a bare loop of steps on one batch that stays on the device:
for the epochs of `wisesr train` after the first (including augmentation, the check of every loss, validation on one
batch, states and the best model), and for the input side alone, from memory and with decoding. Feature maps of a frozen
backbone are compared with a bare loop of forward steps.
"""

from __future__ import annotations

import csv
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import Answer, Question, Settings, alternate, main, run_process

BASELINES = Path(__file__).with_name("baselines")
BACKBONES, QUICK_BACKBONES = ("ResNet50", "EfficientNetV2B0"), ("MobileNetV2",)
CLASSES = 10
FEATURE_BATCH = 32  # as in training/features.py
CONFIG = """\
schema_version: 1
data: {{dir: {images}, image_size: [{side}, {side}]}}
model: {{backbone: {backbone}, weights: none, head: {{name: gap}}}}
train: {{epochs: {epochs}, batch_size: {batch}, precision: {precision}}}
"""


def measure(settings: Settings) -> Iterator[Answer]:
    """Yield four answers for every backbone."""
    side, batch, precision = (32, 8, "float32") if settings.quick else (224, 128, "mixed_bfloat16")
    steps, epochs, repetitions = (4, 2, 1) if settings.quick else (50, 4, settings.repetitions)
    images = settings.folder / "images"
    make_images(images / "train", steps * batch)
    make_images(images / "validation", batch)
    for backbone in QUICK_BACKBONES if settings.quick else BACKBONES:
        config = settings.folder / f"{backbone}.yaml"
        text = CONFIG.format(
            images=images, side=side, backbone=backbone, batch=batch, precision=precision, epochs=epochs
        )
        config.write_text(text, encoding="utf-8")
        command = [sys.executable, str(BASELINES / "bare_steps.py"), backbone, str(side), str(batch), precision]
        devices: set[str] = set()
        bare = partial(bare_speed, [*command, str(steps)], devices)
        sides = {
            "wisesr train": partial(training_speed, config, steps * batch, settings.folder / backbone, count()),
            "input side, from memory": partial(input_speed, config, "memory", 20),
            "input side, decoding": partial(input_speed, config, "none", 1),
        }
        of = f"{backbone}, {side} px, {precision}"
        for name, ours in sides.items():
            question = Question(f"{name}, {of}", "bare steps on the device", "images/s")
            figures = alternate(ours, bare, repetitions=repetitions)
            yield Answer(question, *figures, note=f"device: {', '.join(sorted(devices))}")
        bare_forward = [*command[:-2], str(FEATURE_BATCH), precision, str(steps * batch // FEATURE_BATCH), "forward"]
        forward = partial(bare_speed, bare_forward, devices)
        question = Question(f"feature maps of a frozen {of}", "bare forward steps on the device", "images/s")
        features = partial(printed_speed, [sys.executable, str(BASELINES / "feature_maps.py"), str(config)])
        yield Answer(question, *alternate(features, forward, repetitions=repetitions))


def make_images(folder: Path, number: int) -> None:
    """Write photos of smooth noise, of a size usual on web pages, into a folder for every class."""
    random = np.random.default_rng(number)
    for index in range(number):
        target = folder / f"class{index % CLASSES}" / f"{index:05d}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(random.integers(0, 256, (40, 53, 3), np.uint8))
        coarse.resize((534, 400), Image.Resampling.BICUBIC).save(target, quality=85)


def training_speed(config: Path, images: int, folder: Path, numbers: Iterator[int]) -> float:
    """Return the images per second of the epochs of `wisesr train` after the first."""
    name = f"run{next(numbers)}"
    command = [sys.executable, "-m", "wisesr_cli", "train", str(config), "--output-dir", str(folder), "--name", name]
    run_process([*command, "-q"])
    with (folder / name / "history.csv").open(encoding="utf-8") as file:
        seconds = [float(row["epoch_seconds"]) for row in csv.DictReader(file)]
    return images / statistics.median(seconds[1:])


def input_speed(config: Path, cache: str, epochs: int) -> float:
    """Return the images per second of the input side alone."""
    return printed_speed([sys.executable, str(BASELINES / "input_side.py"), str(config), cache, str(epochs)])


def printed_speed(command: list[str]) -> float:
    """Return the images per second that a program prints."""
    return float(run_process(command).stdout.split()[1])


def bare_speed(command: list[str], devices: set[str]) -> float:
    """Return the images per second of the bare loop, and note which device it ran on."""
    said = dict(line.split(maxsplit=1) for line in run_process(command).stdout.splitlines())
    devices.add(said["device"])
    return float(said["images_per_second"])


if __name__ == "__main__":
    main(__doc__, measure)
