"""Writes a first config for an image folder from its classes, image sizes and class balance, with reasons.

The text is a template that is read back and validated like any config.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml

from wisesr_cli.config.mistakes import validate
from wisesr_cli.config.yaml_reader import read_yaml
from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.folders import SPLITS
from wisesr_cli.data.index import DEEP
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.listening import Listener
from wisesr_cli.text import counted, visible

SMALL_IMAGES = 96  # median shorter side in pixels; below it, a network is trained from scratch at that size
WEIGHTED_IMBALANCE = 3.0  # largest class by smallest class; from here on classes are weighted


@dataclass(frozen=True)
class FolderFacts:
    """The properties of an image folder that decide its config."""

    folder: Path
    class_names: tuple[str, ...]
    counts: tuple[int, ...]  # training images per class, validation set aside or not
    splits: tuple[str, ...]
    median_height: int
    median_width: int
    deep: int  # images with more than 8 bits per channel

    @property
    def images(self) -> int:
        """Training images."""
        return sum(self.counts)

    @property
    def small(self) -> bool:
        """Whether the images are too small for a network trained on photos."""
        return min(self.median_height, self.median_width) < SMALL_IMAGES

    @property
    def image_size(self) -> int:
        """Side in pixels to train at."""
        if self.small:
            return max(16, 8 * round(min(self.median_height, self.median_width) / 8))
        return 224

    @property
    def imbalance(self) -> float:
        """The number of images of the largest class divided by that of the smallest."""
        return max(self.counts) / max(1, min(self.counts))

    @property
    def aspect(self) -> float:
        """Width divided by height of a typical image."""
        return self.median_width / self.median_height

    @property
    def resize(self) -> str:
        """How images are resized; squashing distorts those that are far from square."""
        return "squash" if 0.6 <= self.aspect <= 1.67 else "pad"

    @property
    def epochs(self) -> int:
        """Passes over the images, more for smaller folders."""
        return 60 if self.images < 1_000 else 30 if self.images < 20_000 else 15

    def _images_per_class(self) -> str:
        fewest, most = min(self.counts), max(self.counts)
        return f"{fewest:,}" if fewest == most else f"{fewest:,} to {most:,}"

    def choices(self) -> list[str]:
        """Return the observations and choices, one per line."""
        lines = [
            f"{counted(len(self.class_names), 'class', 'classes')}, {counted(self.images, 'training image')}, "
            f"{self._images_per_class()} per class",
            f"typical image {self.median_height}x{self.median_width} (height x width): training at {self.image_size}, "
            f"resize: {self.resize}",
        ]
        if self.small:
            lines.append("small images: backbone compact, from scratch")
        else:
            lines.append("photos: MobileNetV2 with ImageNet weights, the head first, then everything")
        if self.imbalance >= WEIGHTED_IMBALANCE:
            lines.append(f"the largest class is {self.imbalance:.1f} times the smallest: class_weights balanced")
        if self.deep:
            lines.append(f"{counted(self.deep, 'image')} with 16 bits: scaled to 8, not clipped")
        return lines


def describe(folder: str | Path, listener: Listener) -> FolderFacts:
    """Return the properties of an image folder; unreadable images are skipped with a warning. Raises `DataError`."""
    path = Path(folder).absolute()
    index = build_index(DataConfig(dir=path, validation_split=0.0, on_error="skip"), seed=0, listener=listener)
    train = index.splits["train"]
    assert train.facts is not None
    return FolderFacts(
        folder=path,
        class_names=index.class_names,
        counts=tuple(index.counts("train").tolist()),
        splits=tuple(split for split in SPLITS if split in index.folders),
        median_height=int(np.median(train.facts["height"])),
        median_width=int(np.median(train.facts["width"])),
        deep=int(np.count_nonzero(train.facts["flags"] & DEEP)),
    )


def write_starter(facts: FolderFacts) -> str:
    """Return the text of the config, read back and validated."""
    text = "\n".join((*_header(facts), *_data(facts), *_model(facts), *_train(facts), ""))
    validate(read_yaml(text, origin="config.yaml"))
    return text


def _header(facts: FolderFacts) -> list[str]:
    shown = ", ".join(visible(name) for name in facts.class_names[:12])
    more = f", and {len(facts.class_names) - 12} more" if len(facts.class_names) > 12 else ""
    return [
        "# A config for `wisesr train`; `wisesr config schema` describes every key.",
        f"# Classes ({len(facts.class_names)}): {shown}{more}",
        *(f"# {visible(choice)}" for choice in facts.choices()),
        "schema_version: 1",
        "seed: 0",
        "",
    ]


def _data(facts: FolderFacts) -> list[str]:
    lines = ["data:", f"  dir: {_scalar(str(facts.folder))}"]
    if "validation" in facts.splits:
        lines.append(f"  # its folders are used as they are: {', '.join(facts.splits)}")
    elif min(facts.counts) < 2:
        lines.append("  validation_split: 0           # a class has one image only: nothing can be set aside")
    else:
        lines += [
            "  validation_split: 0.2         # of every class; there is no validation folder",
            "  # split_strategy: group       # when several images show the same patient, scene or object:",
            "  # group_regex: '([^/]+)_'     # the part of the path that must not straddle the splits",
        ]
    return [
        *lines,
        f"  image_size: [{facts.image_size}, {facts.image_size}]        # height, width",
        f"  resize: {facts.resize}                # squash | crop | pad",
        "  on_error: fail                # skip leaves unreadable images out",
        "",
        "augment: light                  # none | light | paper; flips would take away what `wise` learns",
        "",
    ]


def _model(facts: FolderFacts) -> list[str]:
    if facts.small:
        backbone = ["  backbone: compact             # trained from scratch"]
    else:
        backbone = [
            "  backbone: MobileNetV2         # any of keras.applications; compare: wisesr summarize --backbone all",
            "  weights: imagenet             # downloaded once by Keras; null starts at random",
        ]
    return [
        "model:",
        *backbone,
        "  head:",
        "    name: wise                  # gap | gmp | depthwise | wise | flatten | fc",
        "    dropout: 0.2",
        "",
    ]


def _train(facts: FolderFacts) -> list[str]:
    balanced = facts.imbalance >= WEIGHTED_IMBALANCE
    lines = [
        "train:",
        f"  batch_size: {32 if facts.images >= 320 else 16}",
        "  optimizer: {name: adamw, learning_rate: 1e-3, weight_decay: 1e-4}",
        "  schedule: {name: cosine, warmup_epochs: 1}",
    ]
    if facts.small:
        lines.append(f"  epochs: {facts.epochs}")
    else:
        first = max(3, facts.epochs // 6)
        lines += [
            "  phases:",
            f"    - {{epochs: {first}, freeze: backbone}}              # the head alone",
            f"    - {{epochs: {facts.epochs - first}, learning_rate: 1e-4}}         # then everything, gently",
        ]
    return [
        *lines,
        f"  class_weights: {'balanced' if balanced else 'none'}           # balanced weighs every class alike",
        "  early_stopping: {monitor: val_loss, patience: 10}",
        "  best_by: top1_accuracy",
    ]


def _scalar(text: str) -> str:
    """Return text as YAML on one line, quoted where necessary."""
    if re.fullmatch(r"/[\w./-]*", text):
        return text
    # Not JSON: it writes characters beyond U+FFFF as two escapes, which YAML reads as two characters.
    return str(yaml.safe_dump(text, default_style='"', width=math.inf)).strip()
