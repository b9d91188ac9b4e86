"""Counts the FLOPs of a Keras model without running it: one multiply-add is 2, one addition of a pooling is 1.

Convolutions, dense layers and pooling are counted; batch norm, activations, scaling and elementwise sums are not. To
add a layer: a function and a row in `COUNTS`.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any


def count_flops(model: Any) -> int:
    """Return the FLOPs of one image through a functional model whose shapes are known."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "layers"):
            total += count_flops(layer)
        elif type(layer).__name__ in COUNTS:
            total += COUNTS[type(layer).__name__](layer, _shape(layer.input), _shape(layer.output))
    return total


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(tensor.shape[1:])


def _convolution(layer: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    return 2 * int(prod(layer.kernel_size)) * (inputs[-1] // int(layer.groups)) * prod(outputs)


def _depthwise(layer: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    return 2 * int(prod(layer.kernel_size)) * prod(outputs)


def _separable(layer: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    positions, channels = prod(outputs[:-1]), inputs[-1] * int(layer.depth_multiplier)
    return 2 * positions * channels * (int(prod(layer.kernel_size)) + outputs[-1])


def _dense(layer: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    return 2 * inputs[-1] * prod(outputs)


def _pooling(layer: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    return int(prod(layer.pool_size)) * prod(outputs)


def _global_pooling(layer: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    return prod(inputs)


COUNTS: dict[str, Callable[[Any, tuple[int, ...], tuple[int, ...]], int]] = {
    "Conv2D": _convolution,
    "DepthwiseConv2D": _depthwise,
    "SeparableConv2D": _separable,
    "Dense": _dense,
    "AveragePooling2D": _pooling,
    "MaxPooling2D": _pooling,
    "GlobalAveragePooling2D": _global_pooling,
    "GlobalMaxPooling2D": _global_pooling,
}
