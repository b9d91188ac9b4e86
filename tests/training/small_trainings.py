"""Small trainings on generated images, their settings, and a listener that records their reports."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from image_folders import Heard
from run_states import load_engine

from wisesr_cli.config.reader import LoadedConfig, Override, load_config
from wisesr_cli.listening import Silent, TrainingPlan
from wisesr_cli.machine import keras_start
from wisesr_cli.results.training import EpochResult, TrainingResult
from wisesr_cli.training.examples import open_examples
from wisesr_cli.training.train import TrainingOptions, train
from wisesr_cli.training.trainer import Trainer

CLASSES = ("a", "b", "c")
STEPS = 5  # per epoch: 36 images in batches of 8, the last one of 4
EVERYTHING_RANDOM = {
    "augment": "paper",
    "model.head": {"name": "wise", "dropout": 0.5},
    "train.label_smoothing": 0.1,
    "train.class_weights": {"a": 2.0},
    "train.early_stopping": {"monitor": "val_loss", "patience": 20},
    "train.gradient_clip_norm": 1.0,
    "train.phases": [
        {"epochs": 2, "freeze": "backbone"},
        {"epochs": 3, "learning_rate": 1e-3, "schedule": {"name": "plateau", "patience": 1, "min_delta": 100.0}},
    ],
    "train.epochs": 5,
}


@dataclass
class HeardTraining(Heard):
    """Records the plan and the epochs that a training reports."""

    rows: list[EpochResult] = field(default_factory=list)
    plan: TrainingPlan | None = None

    def prepared(self, plan: TrainingPlan) -> None:
        self.plan = plan

    def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
        self.rows.append(row)


def load(images: Path, folder: Path, settings: dict[str, Any] | None = None) -> LoadedConfig:
    values = {
        "name": "run",
        "output_dir": str(folder),
        "data.image_size": 32,
        "model.backbone": "compact_small",
        "train.epochs": 2,
        "train.batch_size": 8,
        **(settings or {}),
    }
    return load_config(images, [Override(tuple(key.split(".")), value, key) for key, value in values.items()])


def train_on(
    images: Path, folder: Path, settings: dict[str, Any] | None = None, listener: Any = None, **options: Any
) -> TrainingResult:
    return train(load(images, folder, settings), TrainingOptions(**options), listener)


def build_trainer(images: Path, folder: Path, settings: dict[str, Any] | None = None) -> Trainer:
    config = load(images, folder, settings).config
    device = keras_start.start("cpu", precision=config.train.precision)
    return Trainer(config, open_examples(config, Silent()), device)


def best_weights(run: Path) -> list[Any]:
    return load_engine(run).model.get_weights()


def backbone_arrays(classifier: Any) -> list[Any]:
    return classifier.get_layer("backbone").get_weights()
