"""Carries position weights over to a map of another size, with their sums kept.

Each weight stands for a cell, a part of a map's side, and is taken to be spread evenly over it, as a tile spreads its
weight over the positions that it covers. A cell of the new map gets what lies on it of every old one, both sides laid
over each other. So no weight is lost, none changes its sign, the weights of a head that is GAP are again those of GAP,
and cells that cover the same parts as before keep their weights.

Interpolating between cells and scaling the sum back would keep the sum as well, but would take weight from one end of
the image to the other, and blur edges that were learned. NumPy only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Bounds = Sequence[int]  # of the cells of a side, in positions, from 0 up to the side: 0 2 5 7


def overlaps(before: Bounds, after: Bounds) -> NDArray[np.float64]:
    """Return which part of each old cell lies on each new one, (new cells, old cells); every column sums to 1.

    Both sides are measured in whole numbers, old side times new side long, so that equal cells get equal parts.
    """
    old, new = np.asarray(before) * after[-1], np.asarray(after) * before[-1]
    common = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    found: NDArray[np.float64] = np.maximum(common, 0) / np.diff(old)
    return found


def resample_weights(
    weights: NDArray[Any], before: tuple[Bounds, Bounds], after: tuple[Bounds, Bounds]
) -> NDArray[np.float32]:
    """Return weights (rows, columns, channels) of cells for others, float32; each channel's sum is what it was.

    Args:
        weights: a weight for each cell and channel.
        before: bounds of the cells' rows and columns.
        after: bounds of the new rows and columns.
    """
    rows, columns = (overlaps(*bounds) for bounds in zip(before, after, strict=True))
    found: NDArray[np.float64] = np.einsum("yr,xc,rcd->yxd", rows, columns, weights.astype(np.float64), optimize=True)
    return found.astype(np.float32)
