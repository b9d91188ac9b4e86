"""Contributions as colours: orange for a class, blue against it, the opacity being the strength.

Every position of the feature map is one sharp block without interpolation, as only that is exact. NumPy and Pillow.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from wisesr_cli.results.streams import Contribution

# Okabe and Ito's orange and blue, told apart by colour-blind readers, too.
FOR, AGAINST = (0xE6, 0x9F, 0x00), (0x00, 0x72, 0xB2)
STRONGEST = 216  # of 255: the photo is never completely hidden
DARKEST = 64  # grey of a photo's black, on which colours could not be distinguished
LINE = (255, 255, 255, 72)  # of the grid of positions
SMALLEST_CELL = 5  # pixels; between smaller positions, lines would hide everything else


def scale_of(contributions: Iterable[Contribution]) -> float:
    """Return the value that is drawn at full strength: the largest absolute value of all positions; never 0."""
    largest = (abs(value) for contribution in contributions for row in contribution.map for value in row)
    return max(largest, default=0.0) or 1.0


def tint(contribution: Contribution, scale: float | None = None) -> NDArray[np.uint8]:
    """Return the colours of a contribution, uint8 RGBA (map height, map width, 4): one pixel per position.

    `scale` is the absolute value that is drawn at full strength; None is the largest of this contribution.
    """
    return tint_values(np.asarray(contribution.map, np.float64), scale or scale_of([contribution]))


def tint_values(values: NDArray[np.floating[Any]], scale: float) -> NDArray[np.uint8]:
    """Return the colours of values (map height, map width): orange above zero, blue below; see `tint`."""
    strength = np.clip(np.abs(values) / scale, 0.0, 1.0)
    colors = np.empty((*values.shape, 4), np.uint8)
    colors[..., :3] = np.where(values[..., None] >= 0, FOR, AGAINST)
    colors[..., 3] = np.rint(STRONGEST * strength)
    return colors


def overlay(picture: Image.Image, contribution: Contribution, scale: float | None = None) -> Image.Image:
    """Return a photo overlaid with the tint, RGB, each position a sharp block, with the grid of positions.

    The photo is shown in grey, as its own colours could be mistaken for the tint. It is enlarged if it has fewer pixels
    than the map has positions. `scale` is that of `tint`.
    """
    return lay_over(picture, tint(contribution, scale))


def lay_over(picture: Image.Image, colors: NDArray[np.uint8]) -> Image.Image:
    """Return a photo overlaid with the colours of `tint` or `tint_values`; see `overlay`."""
    grey = picture.convert("L")
    if (size := (max(grey.width, colors.shape[1]), max(grey.height, colors.shape[0]))) != grey.size:
        grey = grey.resize(size, Image.Resampling.NEAREST)
    faded = grey.point([DARKEST + value * (255 - DARKEST) // 255 for value in range(256)]).convert("RGBA")
    rows, columns = (_edges(count, pixels) for count, pixels in zip(colors.shape[:2], grey.size[::-1], strict=True))
    blocks = np.repeat(np.repeat(colors, np.diff(rows), axis=0), np.diff(columns), axis=1)
    tinted = Image.alpha_composite(faded, Image.fromarray(blocks))
    return Image.alpha_composite(tinted, _grid(tinted.size, rows, columns)).convert("RGB")


def _edges(count: int, pixels: int) -> NDArray[np.int64]:
    """Return the edges of `count` positions along a side of `pixels`, which need not be a multiple of it."""
    edges: NDArray[np.int64] = (np.arange(count + 1) * pixels + count // 2) // count
    return edges


def _grid(size: tuple[int, int], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> Image.Image:
    """Return the lines between positions, transparent elsewhere."""
    lines = Image.new("RGBA", size)
    draw = ImageDraw.Draw(lines)
    if min(np.diff(rows).min(), np.diff(columns).min()) < SMALLEST_CELL:
        return lines
    for y in rows[1:-1].tolist():
        draw.line((0, y, size[0], y), fill=LINE)
    for x in columns[1:-1].tolist():
        draw.line((x, 0, x, size[1]), fill=LINE)
    return lines
