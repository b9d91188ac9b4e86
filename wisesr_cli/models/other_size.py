"""Rebuilds a trained classifier for images of another size: the same layers on larger or smaller maps.

Convolutions do not depend on the size of a map. Three kinds of layer do:

- position weights are resampled (`resample_weights`). The `wise` head keeps its grid, whose tiles scale with the map;
  with `valid` pooling it keeps its windows; `depthwise` has a weight for every position of the new map;
- the padding before a convolution of stride 2, which some families of `keras.applications` choose by the parity of a
  side, becomes the one that they choose for the new size;
- layers with a weight for every position (`flatten`, `fc`) are refused unless the number of positions stays the same.
  The tiles that may precede `flatten` have the same number at any size.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import keras

from wisesr_cli.errors import RunError, UsageError, WisesrError
from wisesr_cli.layers import PositionWeightedPooling2D
from wisesr_cli.model_files.loading import MOST_OUTPUTS, build_without_values, copy_weights, largest_output
from wisesr_cli.models.heads import PRE_POOL
from wisesr_cli.models.image_sizes import (
    ImageSize,
    MapSize,
    every_position_error,
    fits,
    grid_at,
    positions_needed,
    smallest_side,
    too_few_positions_error,
)
from wisesr_cli.text import on_one_line, size_text

# Where Keras calls `correct_pad`: in EfficientNet, MobileNetV2, MobileNetV3, and twice in NASNet.
_PADS_BY_SIZE = re.compile(r"(stem_conv|.*dwconv|.*depthwise|block_\d+)_pad|(separable_conv|reduction)(_\d+)?_pad_.*")


class _TooFewPositionsError(Exception):
    """A map has fewer positions than a layer needs."""

    def __init__(self, found: MapSize, needed: MapSize) -> None:
        super().__init__()
        self.found, self.needed = found, needed


def check_size(model: Any, image_size: ImageSize) -> None:
    """Raise as `at_size` does, without allocating memory for weights."""
    try:
        rebuilt = build_without_values(lambda: _rebuild(model, image_size, copies=False))
    except _TooFewPositionsError as error:
        raise too_few_positions_error(error.found, error.needed, _smallest_size(model)) from None
    except (WisesrError, MemoryError):
        raise
    except Exception as error:  # layers raise any exception
        size = size_text(image_size)
        raise RunError(f"the model cannot be rebuilt for {size} pixels: {on_one_line(error)}") from error
    if (largest := largest_output(rebuilt)) > MOST_OUTPUTS:
        raise UsageError(
            f"at an image size of {size_text(image_size)} a layer of the model gives {largest:,} numbers for one "
            f"image; at most {MOST_OUTPUTS:,} are computed; give a smaller one"
        )


def at_size(model: Any, image_size: ImageSize) -> Any:
    """Return a classifier for images of another size (height, width) with the weights of `model`, which is unchanged.

    Raises `UsageError` when the head does not support that size or a layer's output is too large, and `RunError` when
    another layer does not support it.
    """
    check_size(model, image_size)
    return _rebuild(model, image_size, copies=True)


def _rebuild(model: Any, image_size: ImageSize, *, copies: bool) -> Any:
    """Return the model at another size; with `copies`, with the weights of the old one."""

    def call(layer: Any, *inputs: Any, **options: Any) -> Any:
        if not isinstance(layer, keras.Layer):  # operations have neither weights nor size
            return layer.__class__.from_config(layer.get_config())(*inputs, **options)
        new = _counterpart(layer, inputs, call)
        outputs = new(*inputs, **options)
        if copies and isinstance(layer, PositionWeightedPooling2D):
            new.resample_from(layer, _map_size(layer.input), _map_size(new.input))
        elif copies and (isinstance(layer, keras.Sequential) or not isinstance(layer, keras.Model)):
            copy_weights(new, layer)  # those of a functional model are copied layer by layer
        new.trainable = layer.trainable
        return outputs

    return _on_new_input(model, (*image_size, model.input.shape[-1]), call)


def _on_new_input(model: Any, shape: tuple[int | None, ...], call: Callable[..., Any]) -> Any:
    """Return a functional model with an input of another shape, whose layers are created by `call`."""
    before = model.inputs[0]
    name = next(layer.name for layer in model.layers if isinstance(layer, keras.layers.InputLayer))
    pixels = keras.Input(shape, dtype=before.dtype, name=name)
    inputs = pixels if model.input is before else [pixels]
    return keras.models.clone_model(model, inputs, clone_function=lambda layer: layer, call_function=call)


def _counterpart(layer: Any, inputs: tuple[Any, ...], call: Callable[..., Any]) -> Any:
    """Return a new layer equivalent to the old one for `inputs`."""
    if isinstance(layer, keras.Sequential):
        parts = [part.__class__.from_config(part.get_config()) for part in layer.layers]
        return keras.Sequential(parts, name=layer.name)
    if isinstance(layer, keras.Model):
        return _on_new_input(layer, inputs[0].shape[1:], call)
    options = layer.get_config()
    if layer.name == PRE_POOL or isinstance(layer, PositionWeightedPooling2D):
        feature_map, needed = _map_size(inputs[0]), positions_needed(options)
        if not fits(feature_map, needed):
            raise _TooFewPositionsError(feature_map, needed)
    if isinstance(layer, PositionWeightedPooling2D):
        options["grid_size"] = grid_at(options, _map_size(inputs[0]))
    elif isinstance(layer, keras.layers.Flatten) and layer.input.shape[1:3] != inputs[0].shape[1:3]:
        raise every_position_error(_map_size(layer.input), _map_size(inputs[0]))
    elif isinstance(layer, keras.layers.ZeroPadding2D) and _PADS_BY_SIZE.fullmatch(layer.name):
        options["padding"] = _padding_at(layer, _map_size(inputs[0]))
    return layer.__class__.from_config(options)


def _map_size(tensor: Any) -> MapSize:
    return tensor.shape[1], tensor.shape[2]


def _padding_at(layer: Any, size: MapSize) -> tuple[tuple[int, int], ...]:
    """Return the padding that Keras chooses for a map of another size.

    It adds half a kernel at both ends, and one less at the start of an even side.
    """

    def chosen(sides: MapSize) -> tuple[tuple[int, int], ...]:
        return tuple((after - (side % 2 == 0), after) for (_, after), side in zip(layer.padding, sides, strict=True))

    found: tuple[tuple[int, int], ...] = layer.padding
    return chosen(size) if found == chosen(_map_size(layer.input)) else found


def _smallest_size(model: Any) -> ImageSize:
    """Return the smallest square image for which the model can be rebuilt, by trying."""

    def can_be_rebuilt(side: int) -> bool:
        try:
            build_without_values(lambda: _rebuild(model, (side, side), copies=False))
        except Exception:  # layers raise any exception
            return False
        return True

    side = smallest_side(can_be_rebuilt, max(_map_size(model.input)))
    return side, side
