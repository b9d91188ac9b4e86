"""The tools: how each trains on a folder and labels photos, and what it needs. To add one, add a row to `PEERS`."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import wisesr_command

PROGRAMS = Path(__file__).with_name("programs")
PREDICT_KERAS = PROGRAMS.parents[1] / "speed" / "baselines" / "predict_keras.py"
BACKBONES = ("MobileNetV2", "ResNet50")
BATCH = 32


@dataclass(frozen=True)
class Training:
    """What every tool trains: photos in `train` and `val` below `data`, side in pixels, the folder to write to."""

    data: Path
    backbone: str
    side: int
    epochs: int
    folder: Path


@dataclass(frozen=True)
class Tool:
    """A tool.

    Args:
        name: as in the table.
        distribution: what `pip install` gets for it.
        modules: what must be importable.
        train: the command for a training, which prints a line that begins with `epoch` at the end of each epoch.
        predict: the command that labels a photo or a folder of photos with the model of a training, a line each; None
            if the tool is not compared in that.
        backbones: those that it can build.
    """

    name: str
    distribution: str
    modules: tuple[str, ...]
    train: Callable[[Training], list[str]]
    predict: Callable[[Training, Path], list[str]] | None
    backbones: Sequence[str] = BACKBONES

    def missing(self) -> list[str]:
        """Return the modules that are not installed."""
        return [module for module in self.modules if importlib.util.find_spec(module) is None]


def _train_wisesr(training: Training) -> list[str]:
    options = ["--weights", "none", "--epochs", str(training.epochs), "--image-size", str(training.side)]
    options += ["--backbone", training.backbone, "--set", f"train.batch_size={BATCH}", "--device", "cpu"]
    return [wisesr_command(), "train", str(training.data), *options, "-o", str(training.folder), "--name", "run"]


def _predict_wisesr(training: Training, photos: Path) -> list[str]:
    return [wisesr_command(), "predict", str(training.folder / "run"), str(photos), "--format", "jsonl", "--quiet"]


def _train_program(script: str, *kind: str) -> Callable[[Training], list[str]]:
    def command(training: Training) -> list[str]:
        program, numbers = str(PROGRAMS / script), [str(training.side), str(training.epochs), str(BATCH)]
        return [sys.executable, program, str(training.data), training.backbone, *numbers, str(training.folder), *kind]

    return command


def _predict_program(script: Path, model: str) -> Callable[[Training, Path], list[str]]:
    def command(training: Training, photos: Path) -> list[str]:
        return [sys.executable, str(script), str(training.folder / model), str(photos)]

    return command


WISESR = Tool("wisesr", "wisesr", ("wisesr_cli",), _train_wisesr, _predict_wisesr)

PEERS = (
    Tool(
        "Keras script",
        "tensorflow",
        ("keras", "tensorflow"),
        _train_program("keras_train.py"),
        _predict_program(PREDICT_KERAS, "best.keras"),
    ),
    Tool(
        "PyTorch with timm",
        "timm",
        ("torch", "timm"),
        _train_program("timm_train.py"),
        _predict_program(PROGRAMS / "timm_predict.py", "best.pt"),
    ),
    Tool(
        "Ultralytics",
        "ultralytics",
        ("torch", "ultralytics"),
        _train_program("ultralytics_train.py"),
        _predict_program(PROGRAMS / "ultralytics_predict.py", "run/weights/best.pt"),
    ),
    Tool(
        "KerasHub",
        "keras-hub",
        ("keras_hub", "tensorflow"),
        _train_program("keras_train.py", "hub"),
        None,
        backbones=("ResNet50",),  # its MobileNet is the third and fourth version
    ),
)
