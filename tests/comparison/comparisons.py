"""A small comparison: its options, its settings, and its result without timings."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from command_line import QUICK

HEADS = ("gap", "wise")
SEEDS = (0, 1)
OPTIONS = (*QUICK, "--heads", "gap,wise", "--seeds", "2", "--epochs", "2")


@dataclass(frozen=True)
class Compared:
    """A finished comparison, the images it used, and its result as JSON."""

    folder: Path
    photos: Path
    answer: dict[str, Any]

    def copy_to(self, folder: Path) -> Path:
        """Copy the whole comparison."""
        return Path(shutil.copytree(self.folder, folder, ignore=shutil.ignore_patterns(".lock")))

    def line(self, folder: Path, *more: object) -> list[object]:
        """Return the command line that starts or resumes this comparison in another folder."""
        return ["compare", self.photos, *OPTIONS, "-o", folder.parent, "--name", folder.name, *more]


def settings_of(folder: Path) -> dict[str, Any]:
    """Return `OPTIONS` as settings."""
    return {
        "output_dir": str(folder.parent),
        "name": folder.name,
        "model.backbone": "compact_small",
        "model.head.dropout": 0.0,
        "data.image_size": 32,
        "train.batch_size": 12,
        "train.optimizer.learning_rate": 0.01,
        "train.schedule.name": "constant",
        "train.epochs": 2,
    }


def without_seconds(value: Any) -> Any:
    """Return a result without its timings."""
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if "seconds" not in key}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value
