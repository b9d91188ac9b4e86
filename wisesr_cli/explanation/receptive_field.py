"""Finds the receptive field of each position of a feature map, from the layers alone. No values are computed.

For every tensor of a Keras graph and both axes, each position has an interval of pixels, propagated from layer to
layer. To add a layer: a rule in `RULES`. A layer without a rule makes the result unknown; it is never guessed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

Interval = tuple[int, int]  # the first pixel, and the one after the last

NOTHING = np.iinfo(np.int64).max  # the first pixel of a padding position, which sees no pixels


@dataclass(frozen=True)
class ReceptiveField:
    """Which pixels of an image the positions of a feature map can see at most.

    `rows` and `columns` contain, for each row and column of the map, the interval of pixels it sees, within the image.
    `size` is the height and width of the receptive field in pixels, not cut off at borders; None if a layer averages
    over the whole image. `stride` is the distance of neighbouring positions in pixels.
    """

    image_size: tuple[int, int]
    rows: tuple[Interval, ...]
    columns: tuple[Interval, ...]
    size: tuple[int, int] | None
    stride: tuple[int, int]

    @property
    def covers_image(self) -> bool:
        """Whether every position sees all of the image."""
        height, width = self.image_size
        return set(self.rows) == {(0, height)} and set(self.columns) == {(0, width)}

    @property
    def most_seen(self) -> tuple[int, int]:
        """The largest height and width in pixels that a position sees within the image."""
        height, width = (max(end - first for first, end in axis) for axis in (self.rows, self.columns))
        return height, width


class UnknownError(Exception):
    """The receptive field of an operation is unknown."""


@dataclass(frozen=True)
class Axis:
    """What the positions along one axis of a tensor see of the same axis of the image.

    Position p sees the pixels `first[p]` to `last[p]`, both included, and none if `last[p]` is smaller. Without image
    borders, it would see `start + p * stride` to `end + p * stride`.
    """

    first: NDArray[np.int64]
    last: NDArray[np.int64]
    start: float
    end: float
    stride: int

    def windows(self, size: int, stride: int, dilation: int, padding: str) -> Axis:
        """Return what windows of positions see, as in a convolution."""
        side, reach = len(self.first), (size - 1) * dilation + 1
        if padding == "same":
            count = -(-side // stride)
            before = max((count - 1) * stride + reach - side, 0) // 2
        elif padding == "valid":
            count, before = (side - reach) // stride + 1, 0
        else:
            raise UnknownError
        seen = np.arange(count)[:, None] * stride - before + np.arange(size) * dilation
        is_padding, seen = (seen < 0) | (seen >= side), seen.clip(0, side - 1)
        first = np.where(is_padding, NOTHING, self.first[seen]).min(axis=1)
        last = np.where(is_padding, -1, self.last[seen]).max(axis=1)
        start = self.start - before * self.stride
        return Axis(first, last, start, self.end + (reach - 1 - before) * self.stride, self.stride * stride)

    def padded(self, before: int, after: int) -> Axis:
        """Return the positions with padding, which sees nothing."""
        first = np.pad(self.first, (before, after), constant_values=NOTHING)
        last = np.pad(self.last, (before, after), constant_values=-1)
        shift = before * self.stride
        return Axis(first, last, self.start - shift, self.end - shift, self.stride)

    def cropped(self, before: int, after: int) -> Axis:
        """Return the positions without those at both ends."""
        kept = slice(before, len(self.first) - after)
        shift = before * self.stride
        return Axis(self.first[kept], self.last[kept], self.start + shift, self.end + shift, self.stride)

    def everything(self) -> Axis:
        """Return one position that sees what all of them see."""
        return Axis(self.first.min(keepdims=True), self.last.max(keepdims=True), -math.inf, math.inf, self.stride)

    def merged(self, other: Axis) -> Axis:
        """Return positions that see what those of both see; a single position is broadcast."""
        if len(self.first) < len(other.first):
            return other.merged(self)
        if len(other.first) not in {1, len(self.first)} or (self.stride != other.stride and len(other.first) > 1):
            raise UnknownError
        return Axis(
            np.minimum(self.first, other.first),
            np.maximum(self.last, other.last),
            min(self.start, other.start),
            max(self.end, other.end),
            self.stride,
        )

    def intervals(self) -> tuple[Interval, ...]:
        """Return the pixels that each position sees."""
        pairs = zip(self.first.tolist(), self.last.tolist(), strict=True)
        return tuple((first, last + 1) if first <= last else (0, 0) for first, last in pairs)


@dataclass(frozen=True)
class Field:
    """What the positions of a tensor see, by row and by column; a vector has one position."""

    rows: Axis
    columns: Axis

    def each(self, change: Callable[[Axis, int], Axis]) -> Field:
        """Return the field with both axes changed; `change` also takes 0 for rows and 1 for columns."""
        return Field(change(self.rows, 0), change(self.columns, 1))


def find_receptive_field(model: Any) -> ReceptiveField | None:
    """Return the receptive field of a functional model from pixels of known size to a feature map; None if unknown."""
    height, width = model.inputs[0].shape[1:3]
    try:
        field = _through(model, Field(_pixels(height), _pixels(width)))
    except UnknownError:
        return None
    rows, columns = field.rows, field.columns
    sides = [axis.end - axis.start + 1 for axis in (rows, columns)]
    size = (int(sides[0]), int(sides[1])) if all(map(math.isfinite, sides)) else None
    return ReceptiveField((height, width), rows.intervals(), columns.intervals(), size, (rows.stride, columns.stride))


def _pixels(side: int) -> Axis:
    return Axis(np.arange(side), np.arange(side), 0, 0, 1)


def _through(model: Any, field: Field) -> Field:
    """Return the field of a functional model's output: Keras traverses its graph and calls `_apply` for each layer."""
    # Private, but no public function traverses a graph with nested models and shared layers without creating new layers
    # or tensors.
    result = model._run_through_graph([field], operation_fn=lambda operation: partial(_apply, operation))
    fields = result if isinstance(result, list | tuple) else [result]
    if len(fields) != 1:
        raise UnknownError
    found: Field = fields[0]
    return found


def _apply(operation: Any, *arguments: Any, **options: Any) -> Field:
    """Return the field of an operation's output."""
    flat = [item for one in arguments for item in (one if isinstance(one, list | tuple) else [one])]
    fields = [item for item in flat if isinstance(item, Field)]
    if hasattr(operation, "layers"):
        return _inside(operation, fields)
    rule = RULES.get(type(operation).__name__)
    if rule is None or not fields:
        raise UnknownError
    return rule(operation, fields, arguments)


def _inside(model: Any, fields: Sequence[Field]) -> Field:
    """Return the field of a nested model's output."""
    if len(fields) != 1:
        raise UnknownError
    if type(model).__name__ == "Functional":
        return _through(model, fields[0])
    if type(model).__name__ != "Sequential":
        raise UnknownError
    field = fields[0]
    for layer in model.layers:
        field = _apply(layer, field)
    return field


def _windows(size: str, operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    """Return the field of a convolution or pooling, whose attribute `size` is the size of its windows."""
    sizes, strides = getattr(operation, size), operation.strides
    dilations = getattr(operation, "dilation_rate", (1, 1))
    return fields[0].each(
        lambda axis, number: axis.windows(sizes[number], strides[number], dilations[number], operation.padding)
    )


def _pad(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    return fields[0].each(lambda axis, number: axis.padded(*operation.padding[number]))


def _crop(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    return fields[0].each(lambda axis, number: axis.cropped(*operation.cropping[number]))


def _everything(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    return fields[0].each(lambda axis, number: axis.everything())


def _merge(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    merged = fields[0]
    for other in fields[1:]:
        merged = Field(merged.rows.merged(other.rows), merged.columns.merged(other.columns))
    return merged


def _concatenate(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    if operation.axis not in {-1, 3}:
        raise UnknownError
    return _merge(operation, fields, arguments)


def _same(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    """Return the field of an operation on single positions."""
    return fields[0]


def _normalize_channels(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    axes = operation.axis if isinstance(operation.axis, list | tuple) else [operation.axis]
    if not set(axes) <= {-1, 3}:
        raise UnknownError
    return fields[0]


def _reshape(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    """Return the field of a vector that becomes one position of a map, or vice versa."""
    positions = len(fields[0].rows.first) * len(fields[0].columns.first)
    if positions != 1 or math.prod(operation.target_shape[:-1]) != 1:
        raise UnknownError
    return fields[0]


def _turn_channels(operation: Any, fields: Sequence[Field], arguments: Any) -> Field:
    """Return the field of `x[..., chosen channels]`."""
    key = arguments[1] if len(arguments) == 2 else None
    if not isinstance(key, list | tuple) or len(key) != 2 or key[0] is not Ellipsis:
        raise UnknownError
    return fields[0]


RULES: dict[str, Callable[[Any, Sequence[Field], Any], Field]] = {
    **dict.fromkeys(("Activation", "BatchNormalization", "Dense", "Dropout", "InputLayer", "LayerScale"), _same),
    **dict.fromkeys(("Normalization", "ReLU", "Rescaling"), _same),
    **dict.fromkeys(("Conv2D", "DepthwiseConv2D", "SeparableConv2D"), partial(_windows, "kernel_size")),
    **dict.fromkeys(("AveragePooling2D", "MaxPooling2D"), partial(_windows, "pool_size")),
    **dict.fromkeys(("GlobalAveragePooling2D", "GlobalMaxPooling2D"), _everything),
    **dict.fromkeys(("Add", "CustomScaleLayer", "Multiply"), _merge),
    "Concatenate": _concatenate,
    "Cropping2D": _crop,
    "GetItem": _turn_channels,
    "LayerNormalization": _normalize_channels,
    "Reshape": _reshape,
    "ZeroPadding2D": _pad,
}
