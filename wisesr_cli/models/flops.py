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


def _window(layer: Any) -> int:
    return int(prod(layer.pool_size if hasattr(layer, "pool_size") else layer.kernel_size))


def _separable(layer: Any, inputs: tuple[int, ...], outputs: tuple[int, ...]) -> int:
    positions, channels = prod(outputs[:-1]), inputs[-1] * int(layer.depth_multiplier)
    return 2 * positions * channels * (_window(layer) + outputs[-1])


# Each takes the layer and the shapes of its input and its output.
COUNTS: dict[str, Callable[[Any, tuple[int, ...], tuple[int, ...]], int]] = {
    "Conv2D": lambda layer, inputs, outputs: 2 * _window(layer) * (inputs[-1] // int(layer.groups)) * prod(outputs),
    "DepthwiseConv2D": lambda layer, inputs, outputs: 2 * _window(layer) * prod(outputs),
    "SeparableConv2D": _separable,
    "Dense": lambda layer, inputs, outputs: 2 * inputs[-1] * prod(outputs),
    **dict.fromkeys(
        ("AveragePooling2D", "MaxPooling2D"), lambda layer, inputs, outputs: _window(layer) * prod(outputs)
    ),
    **dict.fromkeys(("GlobalAveragePooling2D", "GlobalMaxPooling2D"), lambda layer, inputs, outputs: prod(inputs)),
}
