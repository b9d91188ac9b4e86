"""Chooses the recipe for an image folder: model, augmentation and phases, from its images and the available weights.

`train FOLDER`, `init`, `check` and `compare` share `choose`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from wisesr_cli.config.yaml_reader import KeyPath
from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.index import DEEP
from wisesr_cli.data.listing.layouts import SPLITS
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.errors import MachineError, WisesrError
from wisesr_cli.listening import Listener
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.model_files.info import weights_file
from wisesr_cli.models.at_hand import backbones_at_hand, check_reachable, missing_weights
from wisesr_cli.models.backbones import canonical_name
from wisesr_cli.models.released import RELEASES
from wisesr_cli.text import counted

SMALL_IMAGES = 96  # median shorter side in pixels; below it, a network is trained from scratch at that size
WEIGHTED_IMBALANCE = 3.0  # largest class divided by smallest; classes are weighted from here on
PHOTO_SIZE = 224  # pixels; the size that the backbones were trained at
SCRATCH_SIZE = 64  # pixels, for photos without weights: a small network learns more from more passes
FROZEN_RATE, GENTLE_RATE = 1e-2, 3e-5
# By ImageNet accuracy (keras.io/api/applications) relative to CPU time: the first one is downloaded, the others are
# used only if their weights are already on this machine.
PREFERRED = (
    "MobileNetV2", "EfficientNetV2B0", "EfficientNetB0", "MobileNet", "MobileNetV3Large", "NASNetMobile", "ResNet50V2",
    "DenseNet121", "Xception",
)  # fmt: skip
STRONG = {
    "horizontal_flip": True, "rotation": 10.0, "zoom": 0.15, "shift": 0.1, "brightness": [0.7, 1.3], "contrast": 0.2,
}  # fmt: skip


@dataclass(frozen=True)
class FolderFacts:
    """The properties of an image folder that decide its recipe."""

    folder: Path  # the paths of a manifest are relative to it
    class_names: tuple[str, ...]
    counts: tuple[int, ...]  # training images per class, before or after splitting off validation
    splits: tuple[str, ...]
    median_height: int
    median_width: int
    deep: int  # images with more than 8 bits per channel
    manifest: Path | None = None
    has_groups: bool = False  # named in the manifest
    separator: str | None = None  # of labels, if an image may have several
    labelled_images: int = 0  # training images; one may count for several classes

    @property
    def images(self) -> int:
        """Training images."""
        return sum(self.counts) if self.separator is None else self.labelled_images

    @property
    def small(self) -> bool:
        """Whether the images are too small for a network trained on photos."""
        return min(self.median_height, self.median_width) < SMALL_IMAGES

    @property
    def image_size(self) -> int:
        """Side in pixels for training at the images' own size."""
        return max(16, 8 * round(min(self.median_height, self.median_width) / 8))

    @property
    def imbalance(self) -> float:
        """The number of images of the largest class divided by that of the smallest."""
        return max(self.counts) / max(1, min(self.counts))

    @property
    def can_be_set_aside(self) -> bool:
        """Whether validation images can be split off from the training images."""
        return self.separator is not None or min(self.counts) > 1

    @property
    def weighs_classes(self) -> bool:
        """Whether classes are weighted; with several labels per image, thresholds compensate for rare ones instead."""
        return self.separator is None and self.imbalance >= WEIGHTED_IMBALANCE

    @property
    def splits_by_group(self) -> bool:
        """Whether validation is split off in groups named in the manifest."""
        return self.has_groups and "validation" not in self.splits

    @property
    def resize(self) -> str:
        """How images are resized; squashing distorts those that are far from square."""
        return "squash" if 0.6 <= self.median_width / self.median_height <= 1.67 else "pad"


@dataclass(frozen=True)
class Wanted:
    """The command-line values that the recipe depends on."""

    backbone: str | None = None
    weights: str | None = "auto"
    weights_dir: Path | None = None
    epochs: int | None = None
    has_phases: bool = False
    has_validation: bool = True  # False if no validation is to be split off


@dataclass(frozen=True)
class Recipe:
    """Settings for a folder, the reasons for them, and a warning if they are second best."""

    settings: dict[str, Any]
    reasons: tuple[str, ...]
    warning: str | None = None


@dataclass
class _Start:
    """The network that training starts from, and why."""

    backbone: str
    weights: str | None
    reason: str
    image_size: int = PHOTO_SIZE
    warning: str | None = None
    notes: list[str] = field(default_factory=list)


def wanted_of(values: Mapping[KeyPath, Any]) -> Wanted:
    """Return the relevant command-line values, given by key; mistakes in them are found later."""
    backbone, epochs = values.get(("model", "backbone")), values.get(("train", "epochs"))
    weights, folder = values.get(("model", "weights"), "auto"), values.get(("model", "weights_dir"))
    try:
        backbone = None if backbone is None else canonical_name(str(backbone))
    except ValueError:
        backbone = None
    return Wanted(
        backbone=backbone,
        weights=None if weights in (None, "none") else str(weights),
        weights_dir=None if folder is None else Path(str(folder)),
        epochs=epochs if isinstance(epochs, int) and epochs > 0 else None,
        has_phases=("train", "phases") in values,
        has_validation=values.get(("data", "validation_split")) != 0,
    )


def describe(data: DataConfig, listener: Listener) -> FolderFacts:
    """Return the properties of image folders; unreadable images are skipped with a warning. Raises `DataError`."""
    assert data.source is not None, "whoever asks for a recipe has images"
    settled = data.model_copy(update={"validation_split": 0.0, "on_error": "skip"})
    index = build_index(settled, seed=0, listener=listener)
    train = index.splits["train"]
    assert train.facts is not None
    return FolderFacts(
        folder=data.dir or data.train_dir or Path(index.root),
        class_names=index.class_names,
        counts=tuple(index.counts("train").tolist()),
        splits=tuple(split for split in SPLITS if split in index.folders),
        median_height=int(np.median(train.facts["height"])),
        median_width=int(np.median(train.facts["width"])),
        deep=int(np.count_nonzero(train.facts["flags"] & DEEP)),
        manifest=data.manifest,
        has_groups=train.groups is not None,
        separator=index.separator,
        labelled_images=len(train),
    )


def choose(facts: FolderFacts, wanted: Wanted) -> Recipe:
    """Return the recipe for a folder."""
    start = _start(facts, wanted)
    settings: dict[str, Any] = {
        "data": {"image_size": [start.image_size] * 2, "resize": facts.resize},
        "augment": "light",
        "model": {
            "backbone": start.backbone,
            "weights": start.weights,
            "head": {"name": "wise", "classifier_initializer": "paper", "dropout": 0.2},
        },
        "train": {
            "batch_size": 32 if facts.images >= 320 else 16,
            "optimizer": {"name": "adamw", "learning_rate": 1e-3, "weight_decay": 1e-4},
            "schedule": {"name": "cosine", "warmup_epochs": 1},
            **_length(facts, start, wanted),
            "class_weights": "balanced" if facts.weighs_classes else "none",
            "best_by": "top1_accuracy" if facts.separator is None else "loss",
        },
    }
    if facts.splits_by_group:
        settings["data"]["split_strategy"] = "group"
    if start.weights is None and not facts.small:
        settings["augment"] = STRONG
    if "validation" in facts.splits or (wanted.has_validation and facts.can_be_set_aside):
        settings["train"]["early_stopping"] = {"monitor": "val_loss", "patience": 10}
    return Recipe(settings, (*_observations(facts, start), *_notes(facts)), start.warning)


def _start(facts: FolderFacts, wanted: Wanted) -> _Start:
    """Return the network to start from: the requested one, else the best with available weights."""
    random_size = facts.image_size if facts.small else SCRATCH_SIZE
    if wanted.weights is None:
        return _Start(wanted.backbone or "compact", None, "random weights, as requested", random_size)
    if wanted.weights != "auto":
        name = wanted.backbone or _backbone_in(wanted.weights) or PREFERRED[0]
        return _Start(name, wanted.weights, "the requested weights")
    if wanted.backbone is not None and wanted.backbone not in RELEASES:
        return _Start(wanted.backbone, None, "from scratch", random_size)
    if wanted.backbone is None and facts.small:
        return _Start("compact", None, "small images, trained from scratch", facts.image_size)
    names = PREFERRED if wanted.backbone is None else (wanted.backbone,)
    at_hand = backbones_at_hand(wanted.weights_dir)
    if names[0] in at_hand:
        return _Start(names[0], "imagenet", "ImageNet weights on this machine")
    try:
        check_reachable(names[0])
        return _Start(names[0], "imagenet", "ImageNet weights, downloaded once")
    except MachineError as error:
        missing = missing_weights(names[0], wanted.weights_dir, error)
    others = [name for name in names if name in at_hand]
    if others:
        reason = f"the best of those whose ImageNet weights are on this machine ({', '.join(sorted(at_hand))})"
        return _Start(others[0], "imagenet", reason)
    name = wanted.backbone or "compact"
    warning = f"{name} starts from random weights, which takes far more images and epochs: {missing}"
    return _Start(name, None, "random weights", random_size, warning)


def _backbone_in(weights: str) -> str | None:
    """Return the backbone recorded in a run or a model file, None for other weights."""
    if weights == "imagenet":
        return None
    try:
        return canonical_name(read_model_info(weights_file(weights)).backbone)
    except (WisesrError, ValueError):
        return None  # the error is reported when the weights are loaded


def _length(facts: FolderFacts, start: _Start, wanted: Wanted) -> dict[str, Any]:
    """Return epochs, or phases if weights were loaded: first the head alone, then all layers at a low learning rate."""
    if wanted.has_phases:
        return {}
    if start.weights is None:
        return {"epochs": wanted.epochs or (80 if facts.images < 1_000 else 30 if facts.images < 20_000 else 15)}
    total = wanted.epochs or (14 if facts.images < 20_000 else 6)
    first = max(1, round(0.7 * total))
    # A head learns less from a few fixed augmented views than from the images themselves.
    phases: list[dict[str, Any]] = [
        {"epochs": first, "freeze": "backbone", "augment": "none", "learning_rate": FROZEN_RATE}
    ]
    if total > first:
        phases.append({"epochs": total - first, "learning_rate": GENTLE_RATE})
    return {"phases": phases}


def _observations(facts: FolderFacts, start: _Start) -> list[str]:
    fewest, most = min(facts.counts), max(facts.counts)
    per_class = f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"
    return [
        f"{counted(len(facts.class_names), 'class', 'classes')}, {counted(facts.images, 'training image')}, "
        f"{per_class} per class",
        f"typical image {facts.median_height}x{facts.median_width} (height x width): training at {start.image_size}, "
        f"resize: {facts.resize}",
        f"backbone {start.backbone}: {start.reason}"
        + ("; the head first, then all layers at a low learning rate" if start.weights is not None else ""),
    ]


def _notes(facts: FolderFacts) -> Iterable[str]:
    if facts.weighs_classes:
        yield f"the largest class is {facts.imbalance:.1f} times the smallest: class_weights balanced"
    if facts.splits_by_group:
        yield "groups of the manifest stay together: split_strategy group"
    if facts.deep:
        yield f"{counted(facts.deep, 'image')} with 16 bits: scaled to 8, not clipped"
