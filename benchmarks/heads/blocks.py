"""What is compared: kinds of pictures, backbones with growing receptive fields, heads, and their recipe.

To add a block: a row in `PICTURES` or `BACKBONES` where it needs one, and a row in `BLOCKS`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.measuring import PHOTOS
from wisesr_cli.demo import harbour

SEEDS = 5
FOLDER = Path("runs") / "benchmark-heads"

MAIN = ("gap", "wise", "depthwise", "flatten", "gmp")
VARIANTS = (
    "wise:pooling=valid:initializer=paper:classifier_initializer=paper",  # as published
    "wise:pooling=valid",
    "wise:initializer=paper",
    "wise:constraint=unit_sum",
    "wise:constraint=none",
    "wise:pre_pool=1:constraint=unit_sum",
)
ALL = (*MAIN, *VARIANTS)
FEW = ("gap", "wise", "flatten")
STARTS = ("gap", "wise", "wise:initializer=paper")
LONG = ("gap", "wise", "depthwise", "flatten", VARIANTS[0])  # does only training speed explain the order?


# The defaults when this was first measured; a head may set others.
HEAD_OPTIONS = {"model.head.classifier_initializer": "default", "model.head.constraint": "non_negative"}


@dataclass(frozen=True)
class Pictures:
    """A kind of pictures: where they come from, and the settings that depend on them.

    `typed` is their folder as a user types it. `make` takes a folder to draw into and returns where the pictures are,
    or None if this machine does not have them.
    """

    title: str
    typed: str
    make: Callable[[Path], Path | None]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Backbone:
    """A backbone, its learning rate, and its epochs for each kind of pictures; by default, those for clothing."""

    settings: dict[str, Any]
    epochs: dict[str, int]


@dataclass(frozen=True)
class Block:
    """One comparison: heads on pictures with a backbone; `grows`: belongs to the series of growing receptive fields."""

    pictures: str
    backbone: str
    heads: tuple[str, ...]
    grows: bool = True
    seeds: int = SEEDS

    @property
    def name(self) -> str:
        """Its name in docs/heads.json and in the folder of its runs."""
        return f"{self.pictures}-{self.backbone}"


def _drawing(name: str, train_per_class: int, test_per_class: int) -> Callable[[Path], Path]:
    """Return a function that draws a harbour into a folder, only once: a resumed comparison needs the same files."""

    def draw(folder: Path) -> Path:
        drawn, unfinished = folder / name, folder / f"{name}.part"
        if not drawn.is_dir():
            harbour.make_harbour(unfinished, train_per_class=train_per_class, test_per_class=test_per_class)
            unfinished.rename(drawn)
        return drawn

    return draw


def _find_photos(folder: Path) -> Path | None:
    return PHOTOS if PHOTOS.is_dir() else None


def harbour_of(train_per_class: int, name: str, test_per_class: int = 60) -> Pictures:
    """Return the demo's harbour with more or fewer training pictures."""
    training, test = (len(harbour.CLASS_NAMES) * per_class for per_class in (train_per_class, test_per_class))
    return Pictures(
        f"The harbour of `wisesr demo`, in which only position tells: 9 classes, {training} training and {test} test "
        "pictures",
        str(FOLDER / name),
        _drawing(name, train_per_class, test_per_class),
        {"data.image_size": 88, "data.validation_split": 0.0, "augment": "none"},
    )


PICTURES: dict[str, Pictures] = {
    "harbour": harbour_of(80, "harbour"),
    "harbour_few": harbour_of(20, "harbour_few"),
    "harbour_fewest": harbour_of(6, "harbour_fewest"),
    "clothing": Pictures(
        "Photos of clothing: 10 classes, 600 training, 186 validation and 179 test photos",
        "../shared/data/clothing",
        _find_photos,
        {"data.image_size": 56, "augment": "light"},
    ),
}


def _mobilenet(stage: int, harbour_epochs: int, clothing_epochs: int) -> Backbone:
    """Return MobileNet from random weights, cut behind one of its 13 pairs of convolutions."""
    settings = {"model.backbone": "MobileNet", "model.weights": "none", "model.feature_layer": f"conv_pw_{stage}_relu"}
    settings["train.optimizer.learning_rate"] = 3e-3
    return Backbone(settings, {"harbour": harbour_epochs, "clothing": clothing_epochs})


# In the order of the receptive field: 12 pixels, 19, 43 and 219.
BACKBONES: dict[str, Backbone] = {
    "compact_small": Backbone(
        {"model.backbone": "compact_small", "train.optimizer.learning_rate": 5e-3},
        {"harbour": 8, "harbour_few": 16, "harbour_fewest": 30, "clothing": 30},
    ),
    "compact_small_long": Backbone(
        {"model.backbone": "compact_small", "train.optimizer.learning_rate": 5e-3},
        {"clothing": 60},
    ),
    "compact_small_sgd": Backbone(
        {
            "model.backbone": "compact_small",
            "train.optimizer.name": "sgd",
            "train.optimizer.learning_rate": 0.045,  # as published
        },
        {"clothing": 30},
    ),
    "mobilenet_3": _mobilenet(3, 8, 20),
    "mobilenet_5": _mobilenet(5, 8, 20),
    "mobilenet_11": _mobilenet(11, 8, 20),
}

BLOCKS = (
    Block("harbour", "compact_small", MAIN),
    Block("harbour", "mobilenet_3", FEW),
    Block("harbour", "mobilenet_5", MAIN),
    Block("harbour", "mobilenet_11", FEW),
    Block("harbour_few", "compact_small", ALL, grows=False),
    Block("harbour_fewest", "compact_small", ALL, grows=False),
    Block("clothing", "compact_small", ALL),
    Block("clothing", "mobilenet_3", FEW),
    Block("clothing", "mobilenet_5", ALL),
    Block("clothing", "mobilenet_11", FEW),
    Block("clothing", "compact_small_long", LONG, grows=False),
    Block("clothing", "compact_small_sgd", STARTS, grows=False),
)


def recipe(block: Block, pictures: Pictures) -> dict[str, Any]:
    """Return the settings of a block, which all its heads share."""
    backbone = BACKBONES[block.backbone]
    epochs = backbone.epochs.get(block.pictures, backbone.epochs["clothing"])
    return {**backbone.settings, "train.epochs": epochs, **pictures.settings, **HEAD_OPTIONS}


def command_line(settings: dict[str, Any], pictures: Pictures, block: Block) -> str:
    """Return the command that makes the same comparison."""
    chosen = [part for key, value in settings.items() for part in ("-s", f"{key}={value}")]
    typed = ["wisesr", "compare", pictures.typed, "--heads", ",".join(block.heads), "--seeds", str(block.seeds)]
    return shlex.join([*typed, *chosen])
