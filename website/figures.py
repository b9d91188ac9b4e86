"""Draws the figure of the page on how heads work: one channel of a 7x7 feature map under every head.

    python -m website.figures

The shades are made up; the tiles, parameters and order of heads come from the code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from wisesr_cli.layers import tile_bounds, tile_of_position
from wisesr_cli.machine.files import replacing
from wisesr_cli.models.heads import HEADS, FeatureMap, grid_size, head_parameters

FIGURE = Path(__file__).parents[1] / "docs" / "how-heads-work.svg"
MAP: FeatureMap = (7, 7, 2048)
CLASSES = 70
ABOUT = {
    "gap": "the mean: every position counts alike",
    "gmp": "the maximum: one position decides",
    "depthwise": "a learned weight for every position",
    "wise": "a learned weight for every tile",
    "flatten": "every position, for each class separately",
    "fc": "the same, into two layers of 4,096 units",
}


def shades(head: str) -> Any:
    """Return the weight of each position under a head, (height, width), in 0..1."""
    height, width, _ = MAP
    drawn = np.random.default_rng(4).random((height, width))
    smooth = 0.15 + 0.7 * drawn
    if head == "gap":
        return np.full((height, width), 0.5)
    if head == "gmp":
        return np.where(np.arange(height * width).reshape(height, width) == 16, 0.95, 0.06)
    if head != "wise":
        return smooth
    rows, columns = map(tile_of_position, MAP, grid_size(MAP, HEADS[head].options()))
    return smooth[np.ix_(rows, columns)]


def draw() -> None:
    """Draw the figure into docs/."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    plt.rcParams |= {"svg.hashsalt": "wisesr", "svg.fonttype": "path", "font.size": 9}
    figure, axes = plt.subplots(2, 3, figsize=(8.4, 6.2), layout="constrained")
    for axis, head in zip(axes.flat, HEADS, strict=True):
        shown = shades(head)
        axis.imshow(shown, cmap="Oranges", vmin=0, vmax=1)
        grid = grid_size(MAP, HEADS[head].options()) if head == "wise" else MAP
        for draw_line, side, tiles in zip((axis.axhline, axis.axvline), MAP, grid, strict=False):
            for edge in range(side + 1):
                is_tile = edge in tile_bounds(side, tiles)
                draw_line(edge - 0.5, color="#444" if is_tile else "white", linewidth=1.2 if is_tile else 0.3)
        axis.set(xticks=[], yticks=[])
        axis.set_title(head, fontweight="bold", fontsize=12)
        parameters = head_parameters(MAP, CLASSES, HEADS[head].options())
        axis.set_xlabel(f"{ABOUT[head]}\n{parameters:,} parameters")
    with replacing(FIGURE) as temporary:
        figure.savefig(temporary, format="svg", metadata={"Date": None}, facecolor="white")
    plt.close(figure)


if __name__ == "__main__":
    draw()
