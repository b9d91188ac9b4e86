"""Rebuilds a classifier from layers that Keras has and every format supports, so that it loads without wisesr.

To add a layer: a function that calls stock layers in place of ours, and a row in `STOCK`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from wisesr_cli.layers import PositionWeightedPooling2D, TileAveragePooling2D, tile_of_position


def with_stock_layers(model: Any) -> Any:
    """Return a classifier with the same outputs and none of our layers; its other layers are those of `model`."""
    return keras.models.clone_model(model, clone_function=lambda layer: layer, call_function=_call)


def _call(layer: Any, *inputs: Any, **options: Any) -> Any:
    """Call a layer, or its replacement; nested models are rebuilt only if a layer in them is replaced."""
    if isinstance(layer, keras.Model) and _has_replaced(layer):
        layer = with_stock_layers(layer)
    rebuild = STOCK.get(type(layer))
    return layer(*inputs, **options) if rebuild is None else rebuild(layer, *inputs)


def _has_replaced(model: Any) -> bool:
    return any(
        _has_replaced(layer) if isinstance(layer, keras.Model) else type(layer) in STOCK and not _is_kept(layer)
        for layer in model.layers
    )


def _is_kept(layer: Any) -> bool:
    """Return whether a layer is a convolution that is not replaced."""
    return isinstance(layer, keras.layers.Conv2D) and not 1 < layer.groups == layer.filters


def _convolution(layer: keras.layers.Conv2D, feature_map: Any) -> Any:
    """Return the output of a convolution; one with a group per channel becomes a depthwise one, which ONNX has.

    Keras compiles grouped convolutions, which ConvNeXt has, as an XLA function that converters to ONNX do not open.
    """
    if _is_kept(layer) or feature_map.shape[-1] != layer.groups:
        return layer(feature_map)
    names = ("strides", "padding", "dilation_rate", "activation", "use_bias", "name")
    depthwise = keras.layers.DepthwiseConv2D(layer.kernel_size, **{name: getattr(layer, name) for name in names})
    output = depthwise(feature_map)
    kernel, *bias = layer.get_weights()  # (height, width, 1, channels)
    depthwise.set_weights([kernel.transpose(0, 1, 3, 2), *bias])
    return output


def _position_weights(layer: PositionWeightedPooling2D, feature_map: Any) -> Any:
    """Return the output of a depthwise convolution with a kernel as large as the map, over which tiles are spread."""
    _, height, width, _ = feature_map.shape
    convolution = keras.layers.DepthwiseConv2D((height, width), name=layer.name)
    vector = convolution(feature_map)  # (batch, 1, 1, channels)
    weights = keras.ops.convert_to_numpy(layer.position_weights(height, width))
    convolution.set_weights([weights[..., None], keras.ops.convert_to_numpy(layer.bias)])
    return keras.layers.Flatten(name=f"{layer.name}_vector")(vector)


def _tile_averages(layer: TileAveragePooling2D, feature_map: Any) -> Any:
    """Return the means of tiles: an average pooling if all have one size, else two products with averaging matrices."""
    (_, height, width, _), (rows, columns) = feature_map.shape, layer.grid_size
    if height % rows == 0 and width % columns == 0:
        return keras.layers.AveragePooling2D((height // rows, width // columns), name=layer.name)(feature_map)
    name = layer.name
    by_row = keras.layers.Permute((1, 3, 2), name=f"{name}_columns_last")(feature_map)  # (batch, h, c, w)
    narrow = _product(by_row, _averages(width, columns), f"{name}_columns")  # (batch, h, c, grid width)
    by_column = keras.layers.Permute((3, 2, 1), name=f"{name}_rows_last")(narrow)  # (batch, grid width, c, h)
    small = _product(by_column, _averages(height, rows), f"{name}_rows")  # (batch, grid width, c, grid height)
    return keras.layers.Permute((3, 1, 2), name=name)(small)  # (batch, grid height, grid width, c)


def _averages(side: int, tiles: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Return the matrix (side, tiles) whose columns average the positions of a tile."""
    member = tile_of_position(side, tiles)[:, None] == np.arange(tiles)
    averages: np.ndarray[Any, np.dtype[np.float32]] = (member / member.sum(axis=0)).astype("float32")
    return averages


def _product(values: Any, averages: np.ndarray[Any, np.dtype[np.float32]], name: str) -> Any:
    """Return the last axis of `values` averaged by a matrix (side, tiles)."""
    layer = keras.layers.Dense(averages.shape[1], use_bias=False, trainable=False, name=name)
    output = layer(values)
    layer.set_weights([averages])
    return output


STOCK: dict[type[Any], Callable[[Any, Any], Any]] = {
    keras.layers.Conv2D: _convolution,
    PositionWeightedPooling2D: _position_weights,
    TileAveragePooling2D: _tile_averages,
}
