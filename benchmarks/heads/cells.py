"""What is compared on frozen features: pictures, backbones, image sizes, and the heads on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SEEDS = 5

GLOROT, EVEN = "gap:classifier_initializer=default", "wise:initializer=even"
MAIN = ("gap", GLOROT, "wise", EVEN, "wise:paper", "gmp")
ALL = (*MAIN, "depthwise:initializer=even", "flatten")
POOLED = (*MAIN, "flatten:pre_pool=3")  # for large maps
CANDIDATES = (
    "wise, step 25",
    "wise, step 100",
    "wise, no unit sum, step 49",
    "wise, decay to uniform",
    "class masks",
    "wise, cosine basis",
    "depthwise, step 9",
)
SOME = ("wise, no unit sum, step 49", "class masks")  # for large maps, or when time was short
# The paper's claims about constraint, pooling and dropout.
PAPER = (
    "gap:dropout=0.5",
    f"{EVEN}:dropout=0.5",
    "wise:constraint=non_negative",
    "wise:constraint=none",
    f"{EVEN}:pooling=valid",
)
FOLDS = 5


@dataclass(frozen=True)
class Cell:
    """Heads on one kind of pictures, through one frozen backbone.

    `layer`: where the backbone is cut; `per_class`: the number of training images per class, None for all. With
    `folds`, all images are tested on in turn, by heads trained on the others; else only the test split is.
    """

    pictures: str
    backbone: str = "MobileNet"
    image_size: int = 224
    layer: str | None = None
    per_class: int | None = None
    folds: int | None = None
    weights: str = "imagenet"
    heads: tuple[str, ...] = MAIN

    @property
    def name(self) -> str:
        """Its name in docs/transfer.json."""
        end = [self.layer] if self.layer else []
        few = [f"few{self.per_class}"] if self.per_class else []
        folds = [f"folds{self.folds}"] if self.folds else []
        return "-".join([self.pictures, self.backbone, str(self.image_size), *end, *few, *folds])


CELLS = (
    Cell("photos", heads=(*ALL, *CANDIDATES, *PAPER)),
    Cell("photos", folds=FOLDS, heads=("gap", GLOROT, "wise", EVEN, "wise:paper")),
    Cell("photos", per_class=10),
    Cell("photos", image_size=128, heads=ALL),
    Cell("photos", image_size=512, heads=(*POOLED, *SOME)),
    Cell("photos", layer="conv_pw_11_relu"),
    Cell("photos", layer="conv_pw_5_relu"),
    Cell("photos", "Xception"),
    Cell("stamps", folds=FOLDS),
    Cell("mirrored", heads=(*ALL, *CANDIDATES)),
    Cell("quarters", heads=(*ALL, *CANDIDATES)),
    Cell("harbour"),
)
QUICK = Cell("harbour", "compact_small", 32, weights="none", heads=("gap", "wise", "wise:paper", "wise, step 25"))

_FROZEN = {"epochs": 20, "freeze": "backbone", "learning_rate": 0.003, "augment": "none"}
_MOBILENET = {"model.backbone": "MobileNet", "model.weights": "imagenet"}
# Comparisons on the photos by `wisesr compare` itself: heads, seeds and settings. `frozen` repeats the first cell.
COMMANDS: dict[str, tuple[tuple[str, ...], int, dict[str, Any]]] = {
    "frozen": (
        ("gap", EVEN),
        2,
        {**_MOBILENET, "data.image_size": 224, "augment": "none", "train.epochs": 20, "train.phases": [_FROZEN]},
    ),
    "finetuned": (("gap", GLOROT, "wise", EVEN), SEEDS, {"model.backbone": "MobileNet", "data.image_size": 96}),
}
ORDER = (*(cell.name for cell in CELLS), *COMMANDS)
