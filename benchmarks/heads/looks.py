"""Draws where GAP and Wise look: exact `explain` maps over a picture, a row per regime, with frozen ImageNet weights.

    python -m benchmarks.heads.looks --weights-dir FOLDER                   # the harbour: docs/heads-looks.png
    python -m benchmarks.heads.looks --weights-dir FOLDER --data PHOTOS --figure FILE.png

A regime is a backbone and an image size: cut where a position sees little, whole, and whole at 512 pixels. PHOTOS has
train/ and test/ with class folders.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from benchmarks.heads.pictures import made_harbour
from benchmarks.pages import DOCS
from wisesr_cli import api
from wisesr_cli.display.plots import new_figure, save_figure, with_default_style
from wisesr_cli.explanation.overlays import overlay
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.models.at_hand import WEIGHTS_FOLDER
from wisesr_cli.results.streams import Explanation
from wisesr_cli.training.train import TrainingOptions

HEADS = ("gap", "wise")
REGIMES: dict[str, dict[str, Any]] = {
    "conv_pw_5_relu, 224 px\na position sees 43 px": {"model.feature_layer": "conv_pw_5_relu", "data.image_size": 224},
    "whole MobileNet, 224 px\na position sees most of it": {"data.image_size": 224},
    "whole MobileNet, 512 px\na position sees 315 px": {"data.image_size": 512},
}
EPOCHS, RATE = 20, 3e-3
COLORS = 128  # of the figure, whose file is a quarter as large with so few


def main() -> None:
    """Train both heads in every regime and draw where they look in a test picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights-dir", type=Path, help="folder with MobileNet's ImageNet weights")
    parser.add_argument("--data", type=Path, metavar="PHOTOS")
    parser.add_argument("--figure", type=Path, default=DOCS / "heads-looks.png")
    parser.add_argument("--picture", help="test picture to draw, relative to test/; default: the middle one")
    parser.add_argument("--quick", action="store_true", help="small, from random weights; the figure is discarded")
    arguments = parser.parse_args()
    if arguments.weights_dir is not None:
        os.environ[WEIGHTS_FOLDER] = str(arguments.weights_dir.absolute())
    with tempfile.TemporaryDirectory() as folder:
        data = arguments.data or made_harbour(Path(folder), *((6, 2) if arguments.quick else (40, 4)))
        pictures = sorted(path for path in (data / "test").glob("*/*") if path.is_file())
        picture = data / "test" / arguments.picture if arguments.picture else pictures[len(pictures) // 2]
        found = {
            title: looks(data, picture, settings, Path(folder), quick=arguments.quick)
            for title, settings in REGIMES.items()
        }
        draw(found, picture, Path(folder) / "quick.png" if arguments.quick else arguments.figure)
        for title, pair in found.items():
            said = (_said(head, each) for head, each in zip(HEADS, pair, strict=True))
            print(f"| {' '.join(title.split())} | {' | '.join(said)} |")


def looks(data: Path, picture: Path, settings: dict[str, Any], folder: Path, *, quick: bool) -> list[Explanation]:
    """Return the explanation of a picture by each head, trained on the frozen backbone."""
    maps: dict[str, Any] = {}  # the second head trains on the feature maps computed for the first
    found = []
    for head in HEADS:
        phase = {"epochs": 1 if quick else EPOCHS, "freeze": "backbone", "learning_rate": RATE, "augment": "none"}
        common = {
            "model.backbone": "MobileNet",
            "model.weights": "none" if quick else "imagenet",
            "model.head.name": head,
        }
        place = {"output_dir": str(folder / "runs"), "train.phases": [phase], "train.epochs": phase["epochs"]}
        small = {"data.image_size": 32} if quick else {}
        chosen = {**common, **place, **settings, **small, "augment": "none"}
        run = api.train(data.absolute(), chosen, options=TrainingOptions(shared_maps=maps)).run_dir
        found += list(api.explain(run, [picture]))
    return found


@with_default_style
def draw(found: dict[str, Sequence[Explanation]], picture: Path, path: Path) -> None:
    """Draw a row per regime: the picture, then every head's evidence for its class and against it."""
    image = decode_image(picture, image_size=None)
    photo = Image.fromarray(image)
    photo = photo.resize((2 * 96, 2 * 96 * photo.height // photo.width), Image.Resampling.LANCZOS)
    figure = new_figure(7.0, 2.5 * len(found))
    for row, (title, pair) in enumerate(found.items()):
        panels = [
            (photo, title),
            *((overlay(photo, each.decision), _said(head, each)) for head, each in zip(HEADS, pair, strict=True)),
        ]
        for column, (panel, said) in enumerate(panels):
            axes = figure.add_subplot(len(found), len(panels), row * len(panels) + column + 1)
            axes.imshow(panel)
            axes.set_title(said, fontsize=8)
            axes.set_axis_off()
    save_figure(figure, path)
    with Image.open(path) as drawn:
        small = drawn.convert("RGB").quantize(COLORS)
    small.save(path, optimize=True)


def _said(head: str, explanation: Explanation) -> str:
    label = "" if explanation.predicted is None else explanation.predicted.label
    return f"{head}: {label}, probability {explanation.score:.2f}"


if __name__ == "__main__":
    main()
