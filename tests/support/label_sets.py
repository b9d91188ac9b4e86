"""Images with any number of drawn shapes and the table of their labels, which a multi-label model can learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

SHAPES = ("blue", "green", "red", "yellow")  # colours of a square, a triangle, a disc and a bar
COLORS = {"blue": "#2050D0", "green": "#20A040", "red": "#D03030", "yellow": "#E0C020"}


def draw_shapes(names: Sequence[str], random: np.random.Generator, *, side: int = 32) -> Image.Image:
    """Return an image with these shapes, each in a quarter of its own."""
    image = Image.fromarray(random.integers(90, 130, (side, side, 3), np.uint8))
    draw, half = ImageDraw.Draw(image), side // 2
    for quarter, name in zip(random.permutation(4).tolist(), names, strict=False):
        left, top = (quarter % 2) * half + 1, (quarter // 2) * half + 1
        box = (left, top, left + half - 3, top + half - 3)
        if name == "red":
            draw.ellipse(box, COLORS[name])
        elif name == "green":
            draw.polygon([(left, box[3]), (box[2], box[3]), ((left + box[2]) // 2, top)], COLORS[name])
        elif name == "yellow":
            draw.rectangle((left, top + half // 3, box[2], top + half // 2), COLORS[name])
        else:
            draw.rectangle(box, COLORS[name])
    return image


def write_label_sets(
    folder: Path, *, count: int = 120, seed: int = 0, separator: str = "|", splits: bool = False, side: int = 32
) -> Path:
    """Write images with 0 to 3 shapes into a folder, and return the path of its `labels.csv`."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["path,label,split" if splits else "path,label"]
    for number in range(count):
        chosen = [name for name in SHAPES if random.random() < 0.4][:3]
        draw_shapes(chosen, random, side=side).save(folder / f"{number:04d}.png")
        split = ("train", "train", "train", "validation", "test")[number % 5]
        lines.append(f"{number:04d}.png,{separator.join(chosen)}" + (f",{split}" if splits else ""))
    table = folder / "labels.csv"
    table.write_text("\n".join(lines) + "\n")
    return table
