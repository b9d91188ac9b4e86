"""The Keras layers of this package. Importing this module registers them, so that Keras can load a model.

`keras.models.load_model("RUN/best.keras")` works after `import wisesr_cli.layers`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

PACKAGE = "wisesr"
EVEN_START = 1 / 49  # the mean of uniform weights on a grid of 7x7


def tile_bounds(side: int, tiles: int) -> tuple[int, ...]:
    """Return the `tiles + 1` bounds of tiles of a side, whose sizes differ by at most one: 7, 3 -> 0 2 5 7."""
    return tuple(int(np.floor(index * side / tiles + 0.5)) for index in range(tiles + 1))


def tile_of_position(side: int, tiles: int) -> np.ndarray[Any, np.dtype[np.int32]]:
    """Return the tile of each position of a side: 7, 3 -> 0 0 1 1 1 2 2."""
    sizes = np.diff(tile_bounds(side, tiles))
    return np.repeat(np.arange(tiles, dtype="int32"), sizes)


@keras.saving.register_keras_serializable(package=PACKAGE)
class PositionWeightedPooling2D(keras.layers.Layer):
    """Pools a feature map into a vector with a learned weight for every position of every channel.

    The map is first averaged down to a grid; the output of channel `c` is the sum over the grid of weight times value,
    plus a bias. This is the average pooling and depthwise convolution of Wise-SrNet in one step: the weights of the
    grid are spread over the map, and one multiplication and sum remain, since a convolution with a kernel as large as
    its input is slow, above all to train and under XLA.

    Args:
        grid_size: two positive integers, height and width of the grid. If it is as large as the map, nothing
            is averaged first (the `depthwise` head).
        pool_size: None, or two positive integers. None cuts the map into tiles that cover all of it and differ by at
            most one position. Two integers average windows of that size and drop the positions left over at the
            bottom and right, as published.
        constraint: `"non_negative"` (weights are clamped at zero after every update, as published), `"unit_sum"`
            (weights enter as ReLU divided by their sum over the grid) or `"none"`.
        initializer: `"uniform"` (the layer is global average pooling at the start; with `pool_size`, of the positions
            that are kept), `"even"` (the same; under `unit_sum`, whose weights enter by their ratios, they start at a
            mean of 1/49 on every grid, so that an update of Adam moves them as far as on a grid of 7x7) or `"paper"`
            (normal with standard deviation 0.01).

    Input shape:
        (batch, height, width, channels) with known height, width and channels.

    Output shape:
        (batch, channels). Sums are computed in float32, also under mixed precision.

    Raises:
        ValueError: for an unknown choice, or a map smaller than the grid.

    Example:
        >>> layer = PositionWeightedPooling2D((3, 3))
        >>> layer(np.ones((2, 7, 7, 16), "float32")).shape
        (2, 16)

    Reference:
        Rahimzadeh, Parvin, Safi and Mohammadi, 2021, Wise-SrNet (arXiv 2104.12294), section 3. Tiles, the uniform
        and even starts, and `unit_sum` are ours.
    """

    CONSTRAINTS = ("non_negative", "unit_sum", "none")
    INITIALIZERS = ("uniform", "even", "paper")

    def __init__(
        self,
        grid_size: tuple[int, int],
        *,
        pool_size: tuple[int, int] | None = None,
        constraint: str = "non_negative",
        initializer: str = "uniform",
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.grid_size = _two_sides("grid_size", grid_size)
        self.pool_size = None if pool_size is None else _two_sides("pool_size", pool_size)
        self.constraint = _choice("constraint", constraint, self.CONSTRAINTS)
        self.initializer = _choice("initializer", initializer, self.INITIALIZERS)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights (grid height, grid width, channels) and the bias (channels,)."""
        _, height, width, channels = input_shape
        if height is None or width is None or channels is None:
            raise ValueError(f"height, width and channels must be known. Received: input_shape={input_shape}")
        self._check_map(height, width)
        self.kernel = self.add_weight(
            name="kernel",
            shape=(*self.grid_size, channels),
            initializer=self._kernel_initializer(height, width),
            constraint=keras.constraints.NonNeg() if self.constraint == "non_negative" else None,
            autocast=False,
        )
        self.bias = self.add_weight(name="bias", shape=(channels,), initializer="zeros", autocast=False)

    def _check_map(self, height: int, width: int) -> None:
        """Raise `ValueError` for a map that the grid does not fit."""
        pool_height, pool_width = self.pool_size or (1, 1)
        rows, columns = self.grid_size
        if self.pool_size is None:
            fits = height >= rows and width >= columns
        else:
            fits = (height // pool_height, width // pool_width) == self.grid_size
        if not fits:
            raise ValueError(
                f"a grid of {rows}x{columns} with pool_size={self.pool_size} must fit the feature map. "
                f"Received: a map of {height}x{width}"
            )

    def _kernel_initializer(self, height: int, width: int) -> Any:
        if self.initializer == "paper":
            normal = keras.initializers.RandomNormal(stddev=0.01)
            if self.constraint != "unit_sum":
                return normal
            # Below zero no gradient flows: a channel whose weights all start there would stay dead.
            return lambda shape, dtype=None: ops.absolute(normal(shape, dtype=dtype))
        _, _, cells = self._tiles(height, width)
        uniform = cells / cells.sum()
        if self.initializer == "even" and self.constraint == "unit_sum":
            uniform = cells / cells.mean() * EVEN_START

        def start(shape: tuple[int, ...], dtype: Any = None) -> Any:
            return ops.convert_to_tensor(np.broadcast_to(uniform[:, :, None], shape).astype("float32"), dtype=dtype)

        return start

    def _tiles(self, height: int, width: int) -> tuple[Any, Any, Any]:
        """Return the grid row of each map row, the grid column of each map column, and the cells of each tile."""
        grid_height, grid_width = self.grid_size
        if self.pool_size is None:
            rows, columns = tile_of_position(height, grid_height), tile_of_position(width, grid_width)
        else:
            rows = np.repeat(np.arange(grid_height, dtype="int32"), self.pool_size[0])
            columns = np.repeat(np.arange(grid_width, dtype="int32"), self.pool_size[1])
        cells = np.outer(np.bincount(rows), np.bincount(columns)).astype("float32")
        return rows, columns, cells

    def effective_kernel(self) -> Any:
        """Return the constrained weights of the grid, float32 (grid height, grid width, channels)."""
        kernel = ops.cast(self.kernel, "float32")
        if self.constraint != "unit_sum":
            return kernel
        kernel = ops.relu(kernel)
        return kernel / ops.maximum(ops.sum(kernel, axis=(0, 1), keepdims=True), keras.config.epsilon())

    def position_weights(self, height: int, width: int) -> Any:
        """Return the weight of every position of a map, float32 (height, width, channels); dropped positions have 0.

        The output of the layer is `sum(position_weights * feature_map, axis=(1, 2)) + bias`.
        """
        rows, columns, cells = self._tiles(height, width)
        weights = self.effective_kernel() / cells[:, :, None]
        if len(rows) > self.grid_size[0]:
            weights = ops.take(weights, rows, axis=0)
        if len(columns) > self.grid_size[1]:
            weights = ops.take(weights, columns, axis=1)
        dropped = ((0, height - len(rows)), (0, width - len(columns)), (0, 0))
        return weights if not np.any(dropped) else ops.pad(weights, dropped)

    def call(self, inputs: Any) -> Any:
        """Return (batch, channels) for a feature map (batch, height, width, channels)."""
        _, height, width, channels = inputs.shape
        self._check_map(height, width)
        positions = ops.reshape(ops.cast(inputs, "float32"), (-1, height * width, channels))
        weights = ops.reshape(self.position_weights(height, width), (height * width, channels))
        vector = ops.sum(positions * weights, axis=1) + ops.cast(self.bias, "float32")
        return ops.cast(vector, self.compute_dtype)

    def pull_back(self, coefficients: Any) -> tuple[Any, Any]:
        """Express weighted sums (rows, channels) of the output as sums over the feature map; see `attribution`.

        Returns coefficients (rows, height, width, channels) and the constant remainder (rows, channels).
        """
        _, height, width, _ = self.input.shape
        weights = ops.convert_to_numpy(self.position_weights(height, width)).astype("float64")
        return coefficients[:, None, None, :] * weights, coefficients * ops.convert_to_numpy(self.bias)

    def resample_from(self, layer: PositionWeightedPooling2D, before: tuple[int, int], after: tuple[int, int]) -> None:
        """Set the weights from a layer whose map has another size (height, width); see `resample_weights`.

        Sums over the grid and the signs of weights are preserved; under `unit_sum` only positive weights count.
        `before` is the size of the map of `layer`, `after` that of this one.
        """
        kernel, bias = ops.convert_to_numpy(layer.kernel), ops.convert_to_numpy(layer.bias)
        if self.constraint == "unit_sum":  # negative weights count as zero; they must not reduce others
            kernel = np.maximum(kernel, 0)
        self.set_weights([resample_weights(kernel, layer._bounds(before), self._bounds(after)), bias])

    def _bounds(self, feature_map: tuple[int, int]) -> tuple[Bounds, Bounds]:
        """Return the bounds of the grid's cells, of rows and of columns; windows have one unit each."""
        if self.pool_size is not None:
            return tuple(range(tiles + 1) for tiles in self.grid_size)  # type: ignore[return-value]
        rows, columns = map(tile_bounds, feature_map, self.grid_size)
        return rows, columns

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (batch, channels)."""
        return input_shape[0], input_shape[-1]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {
            **super().get_config(),
            "grid_size": self.grid_size,
            "pool_size": self.pool_size,
            "constraint": self.constraint,
            "initializer": self.initializer,
        }


@keras.saving.register_keras_serializable(package=PACKAGE)
class TileAveragePooling2D(keras.layers.Layer):
    """Averages a feature map down to a grid of tiles that cover all of it.

    Args:
        grid_size: two positive integers, height and width of the result. Tiles differ by at most one position.

    Input shape:
        (batch, height, width, channels) with known height and width.

    Output shape:
        (batch, grid height, grid width, channels).

    Raises:
        ValueError: for a map smaller than the grid.

    Example:
        >>> TileAveragePooling2D((3, 3))(np.ones((2, 7, 7, 16), "float32")).shape
        (2, 3, 3, 16)
    """

    def __init__(self, grid_size: tuple[int, int], **options: Any) -> None:
        super().__init__(**options)
        self.grid_size = _two_sides("grid_size", grid_size)
        self.input_spec = keras.layers.InputSpec(ndim=4)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Check that the grid fits."""
        _averages(input_shape[1], self.grid_size[0])
        _averages(input_shape[2], self.grid_size[1])

    def call(self, inputs: Any) -> Any:
        """Return the means of the tiles, computed in float32."""
        _, height, width, _ = inputs.shape
        rows, columns = _averages(height, self.grid_size[0]), _averages(width, self.grid_size[1])
        pooled = ops.einsum("yh,bhwc->bywc", rows, ops.cast(inputs, "float32"))
        return ops.cast(ops.einsum("xw,bywc->byxc", columns, pooled), self.compute_dtype)

    def pull_back(self, coefficients: Any) -> tuple[Any, Any]:
        """Express weighted sums (rows, grid height, grid width, channels) of the output as sums over the feature map.

        Returns coefficients (rows, height, width, channels), and zeros as the remainder; see `attribution`.
        """
        _, height, width, _ = self.input.shape
        rows, columns = _averages(height, self.grid_size[0]), _averages(width, self.grid_size[1])
        spread = np.einsum("yh,byxc->bhxc", rows, coefficients)
        return np.einsum("xw,bhxc->bhwc", columns, spread), np.zeros(len(coefficients))

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Return (batch, grid height, grid width, channels)."""
        return input_shape[0], *self.grid_size, input_shape[-1]

    def get_config(self) -> dict[str, Any]:
        """Return the arguments of the constructor."""
        return {**super().get_config(), "grid_size": self.grid_size}


def _averages(side: int | None, tiles: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the matrix (tiles, side) that averages the positions of each tile."""
    if side is None or side < tiles:
        raise ValueError(f"a side must have at least a position for each of {tiles} tiles. Received: side={side}")
    member = tile_of_position(side, tiles)[None, :] == np.arange(tiles)[:, None]
    return (member / member.sum(axis=1, keepdims=True)).astype("float32")


def _two_sides(name: str, value: Any) -> tuple[int, int]:
    sides = tuple(value) if isinstance(value, list | tuple) else ()
    if len(sides) != 2 or not all(isinstance(side, int) and side > 0 for side in sides):
        raise ValueError(f"{name} must be two positive integers, height and width. Received: {name}={value!r}")
    return sides[0], sides[1]


def _choice(name: str, value: str, choices: tuple[str, ...]) -> str:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}. Received: {name}={value!r}")
    return value


Bounds = Sequence[int]  # bounds of the cells of a side, in positions: 0 2 5 7


def overlaps(before: Bounds, after: Bounds) -> NDArray[np.float64]:
    """Return the fraction of each old cell that overlaps each new one, (new cells, old cells); columns sum to 1.

    Both sides are scaled to old side times new side, in integers, so that equal cells get equal fractions.
    """
    old, new = np.asarray(before) * after[-1], np.asarray(after) * before[-1]
    common = np.minimum(new[1:, None], old[None, 1:]) - np.maximum(new[:-1, None], old[None, :-1])
    found: NDArray[np.float64] = np.maximum(common, 0) / np.diff(old)
    return found


def resample_weights(
    weights: NDArray[Any], before: tuple[Bounds, Bounds], after: tuple[Bounds, Bounds]
) -> NDArray[np.float32]:
    """Return weights (rows, columns, channels) resampled to other cells, float32, preserving each channel's sum.

    `before` and `after` are the bounds of the old and new rows and columns.
    """
    rows, columns = (overlaps(*bounds) for bounds in zip(before, after, strict=True))
    found: NDArray[np.float64] = np.einsum("yr,xc,rcd->yxd", rows, columns, weights.astype(np.float64), optimize=True)
    return found.astype(np.float32)
