"""Resampling of position weights to feature maps of another size, against a slow loop; runs on every backend."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from slow_layers import CHANNELS, cells_of, close, make_layer, make_map, to_numpy

from wisesr_cli.layers import PositionWeightedPooling2D

OTHER_MAPS = [  # height, width, grid, pool; height, width, grid
    (7, 7, (3, 3), None, 8, 5, (3, 3)),
    (4, 9, (2, 4), None, 8, 18, (2, 4)),
    (7, 5, (7, 5), None, 4, 9, (4, 9)),
    (3, 3, (3, 3), None, 1, 10, (1, 10)),
    (7, 7, (3, 3), (2, 2), 9, 4, (4, 2)),
    (11, 6, (2, 3), (4, 2), 4, 13, (1, 6)),
]


def bounds_of(side: int, tiles: int, pool: int | None) -> list[float]:
    """Return the boundaries of the cells along a side, as fractions of the length that they cover."""
    ends = [cells_of(tile, side, tiles, pool)[-1] + 1 for tile in range(tiles)]
    return [0.0, *(end / ends[-1] for end in ends)]


def slow_share(before: list[float], after: list[float], old: int, new: int) -> float:
    """Return the fraction of an old cell that lies on a new one."""
    begin, end = max(before[old], after[new]), min(before[old + 1], after[new + 1])
    return max(0.0, end - begin) / (before[old + 1] - before[old])


def resampled(layer: PositionWeightedPooling2D, before: Any, after: Any, grid: Any) -> PositionWeightedPooling2D:
    """Return a layer for another map with the resampled weights of `layer`."""
    new = PositionWeightedPooling2D.from_config({**layer.get_config(), "grid_size": grid})
    new.build((None, *after, CHANNELS))
    new.resample_from(layer, before, after)
    return new


@pytest.mark.parametrize(("height", "width", "grid", "pool", "new_height", "new_width", "new_grid"), OTHER_MAPS)
def test_weights_on_another_map_follow_the_overlap_of_old_and_new_cells(
    height: int, width: int, grid: Any, pool: Any, new_height: int, new_width: int, new_grid: Any
) -> None:
    layer = make_layer(height, width, grid, pool)
    new = resampled(layer, (height, width), (new_height, new_width), new_grid)
    old, bias = layer.get_weights()
    rows = [bounds_of(side, tiles, pool and pool[0]) for side, tiles in ((height, grid[0]), (new_height, new_grid[0]))]
    columns = [bounds_of(side, tiles, pool and pool[1]) for side, tiles in ((width, grid[1]), (new_width, new_grid[1]))]
    expected = np.zeros((*new_grid, CHANNELS))
    for y, x in np.ndindex(*new_grid):
        for r, c in np.ndindex(*grid):
            expected[y, x] += old[r, c] * slow_share(*rows, r, y) * slow_share(*columns, c, x)
    close(new.kernel, expected, 1e-6)
    close(to_numpy(new.kernel).sum(axis=(0, 1)), old.sum(axis=(0, 1)), 1e-6)
    assert np.array_equal(new.get_weights()[1], bias)


@pytest.mark.parametrize(("height", "width", "grid", "pool", "new_height", "new_width", "new_grid"), OTHER_MAPS)
@pytest.mark.parametrize("constraint", PositionWeightedPooling2D.CONSTRAINTS)
def test_layer_equal_to_gap_stays_gap_on_another_map(
    height: int, width: int, grid: Any, pool: Any, new_height: int, new_width: int, new_grid: Any, constraint: str
) -> None:
    layer = PositionWeightedPooling2D(grid, pool_size=pool, constraint=constraint)
    layer.build((None, height, width, CHANNELS))
    new = resampled(layer, (height, width), (new_height, new_width), new_grid)
    feature_map = make_map(new_height, new_width, seed=3)
    rows, columns = (side * window for side, window in zip(new_grid, pool or (1, 1), strict=True))
    kept = feature_map if pool is None else feature_map[:, :rows, :columns]  # `valid` drops the rest at any size
    close(new(feature_map), kept.astype("float64").mean(axis=(1, 2)), 1e-6)


def test_equal_weights_stay_bit_identical_on_any_other_map() -> None:
    for before in range(1, 12):
        layer = PositionWeightedPooling2D((before, 3))
        layer.build((None, before, 3, CHANNELS))
        for after in range(1, 12):
            kernel = resampled(layer, (before, 3), (after, 7), (after, 7)).get_weights()[0]
            assert len(np.unique(kernel)) == 1


def test_weights_keep_their_signs_and_their_values_if_cells_cover_the_same_parts() -> None:
    layer = make_layer(6, 9, (3, 3), None)
    layer.set_weights([np.abs(layer.get_weights()[0]), layer.get_weights()[1]])
    assert np.all(resampled(layer, (6, 9), (7, 4), (3, 3)).get_weights()[0] > 0)
    close(resampled(layer, (6, 9), (12, 18), (3, 3)).kernel, layer.get_weights()[0], 1e-7)
    back = resampled(resampled(layer, (6, 9), (60, 3), (3, 3)), (60, 3), (6, 9), (3, 3))
    close(back.kernel, layer.get_weights()[0], 1e-6)


def test_negative_unit_sum_weights_do_not_reduce_their_neighbours_on_another_map() -> None:
    layer = PositionWeightedPooling2D((4, 1), constraint="unit_sum")
    layer.build((None, 4, 1, 1))
    layer.set_weights([np.array([-5.0, 1.0, 3.0, -2.0]).reshape(4, 1, 1), np.zeros(1)])
    new = PositionWeightedPooling2D((2, 1), constraint="unit_sum")
    new.build((None, 2, 1, 1))
    new.resample_from(layer, (4, 1), (2, 1))
    close(to_numpy(new.effective_kernel()).ravel(), [0.25, 0.75], 1e-6)
    assert new.get_weights()[0].sum() == 4  # so that optimizer steps keep their relative size
