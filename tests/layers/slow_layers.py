"""Slow reference loops for the pooling layers, with random feature maps and weights."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from wisesr_cli.layers import PositionWeightedPooling2D

CHANNELS = 3


def make_map(height: int, width: int, channels: int = CHANNELS, *, batch: int = 2, seed: int = 0) -> Any:
    return np.random.default_rng(seed).normal(size=(batch, height, width, channels)).astype("float32")


def make_layer(height: int, width: int, grid: Any, pool: Any, *, constraint: str = "none") -> PositionWeightedPooling2D:
    """Return a built layer whose weights are all different, some of them negative."""
    layer = PositionWeightedPooling2D(grid, pool_size=pool, constraint=constraint)
    layer.build((None, height, width, CHANNELS))
    draws = np.random.default_rng(1)
    layer.set_weights([draws.normal(size=(*grid, CHANNELS)), draws.normal(size=CHANNELS)])
    return layer


def cells_of(index: int, side: int, tiles: int, pool: int | None) -> list[int]:
    """Return the positions along a side that belong to one tile or window."""
    if pool is not None:
        return [position for position in range(side) if index * pool <= position < (index + 1) * pool]
    first, last = ((2 * number * side + tiles) // (2 * tiles) for number in (index, index + 1))
    return list(range(first, last))


def slow_average(feature_map: Any, grid: tuple[int, int], pool: tuple[int, int] | None) -> Any:
    batch, height, width, channels = feature_map.shape
    result = np.zeros((batch, *grid, channels))
    for row in range(grid[0]):
        for column in range(grid[1]):
            rows = cells_of(row, height, grid[0], pool and pool[0])
            columns = cells_of(column, width, grid[1], pool and pool[1])
            for y in rows:
                for x in columns:
                    result[:, row, column] += feature_map[:, y, x].astype("float64") / (len(rows) * len(columns))
    return result


def slow_pooling(feature_map: Any, kernel: Any, bias: Any, pool: tuple[int, int] | None) -> Any:
    averaged = slow_average(feature_map, kernel.shape[:2], pool)
    result = np.zeros((len(feature_map), feature_map.shape[-1]))
    for image in range(result.shape[0]):
        for channel in range(result.shape[1]):
            result[image, channel] = bias[channel]
            for row in range(kernel.shape[0]):
                for column in range(kernel.shape[1]):
                    result[image, channel] += kernel[row, column, channel] * averaged[image, row, column, channel]
    return result


def to_numpy(tensor: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def close(left: Any, right: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(to_numpy(left), to_numpy(right), rtol=tolerance, atol=tolerance)
