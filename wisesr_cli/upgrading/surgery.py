"""Finds where the backbone of a classifier ends: its global average pooling, and the layers after it.

Keras classifiers are built in many ways: a plain model of `keras.applications`, one inside a `Sequential`, or its
layers one by one. `rebuilding` turns all of them into the same sequence of calls.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wisesr_cli.errors import RunError
from wisesr_cli.models.backbones import BACKBONE_LAYER
from wisesr_cli.models.rebuilding import Call, rebuild
from wisesr_cli.models.scaling import ARITHMETIC, SCALING
from wisesr_cli.text import joined, visible
from wisesr_cli.upgrading.folding import TAIL, Folded, fold, two_classes

_OTHER_ENDS = {
    "Flatten": "flattens it, so that every position already has its own weights",
    "GlobalMaxPooling2D": "takes the largest value of each channel, not the mean",
    "MaxPooling2D": "takes the largest values of it, not the mean",
    "Reshape": "flattens its positions",
}


@dataclass(frozen=True)
class Parts:
    """A classifier in two parts: `backbone` maps scaled pixels to the feature map, `folded` the map's mean to logits.

    `pooling` and `tail` name the layers after the backbone, `scaling` the pixel-scaling layers inside it; `precisions`
    are the original's dtype policies; `frozen` names the layers of the backbone that were not trainable.
    """

    backbone: Any
    pooling: str
    tail: tuple[str, ...]
    folded: Folded
    scaling: tuple[str, ...]
    layers: int
    layer_names: frozenset[str]
    augmentation: tuple[str, ...]
    resizing: tuple[str, ...]
    precisions: frozenset[str]
    regularized: bool
    frozen: frozenset[str]

    @property
    def feature_map(self) -> tuple[int, int, int]:
        """Height, width and channels of the feature map."""
        height, width, channels = self.backbone.output_shape[1:]
        return height, width, channels


def take_apart(model: Any, image_size: tuple[int, int], *, gives_logit: bool = False) -> Parts:
    """Split a Keras classifier that ends in global average pooling and dense layers, leaving it unchanged.

    A linear 1x1 convolution right before the pooling counts as the classifier layer, because it commutes with the mean.
    `gives_logit`: a model with one output was compiled for logits.

    Raises `RunError`, naming the layer and the reason, for any other classifier.
    """
    rebuilt = rebuild(model, image_size)
    if len(rebuilt.output.shape) == 4 and rebuilt.output.shape[1:3] != (1, 1):
        raise RunError(f"it gives a feature map of {'x'.join(map(str, rebuilt.output.shape[1:]))}, not classes")
    by_output = {id(call.output): call for call in rebuilt.calls}
    for each in rebuilt.calls:
        if getattr(each.layer, "data_format", None) == "channels_first":
            raise RunError(f"'{visible(each.layer.name)}' takes its channels first; wisesr keeps them last")
    tail: list[Call] = []
    tensor = rebuilt.output
    while not _is_mean_over_positions(call := _call_before(tensor, by_output)):
        _check_in_tail(call)
        tail.append(call)
        tensor = call.inputs[0]
    pooling, feature_map = call, call.inputs[0]
    if not any(each.kind in ("Conv2D", "Dense") for each in tail):
        while _is_linear_at_positions(before := by_output.get(id(feature_map))):
            assert before is not None
            tail.append(before)
            feature_map = before.inputs[0]
    backbone = rebuilt.model_up_to(feature_map, BACKBONE_LAYER)
    folded = fold([call.layer for call in reversed(tail)], feature_map.shape[-1])
    return Parts(
        backbone=backbone,
        pooling=pooling.layer.name,
        tail=tuple(_described(each) for each in reversed(tail)),
        folded=_checked(folded, gives_logit=gives_logit),
        scaling=_scaling_inside(rebuilt.calls),
        layers=len(backbone.layers) - 1,
        layer_names=frozenset(layer.name for layer in backbone.layers),
        augmentation=tuple(rebuilt.left_out),
        resizing=tuple(rebuilt.resizing),
        precisions=frozenset(rebuilt.precisions),
        regularized=rebuilt.regularized,
        frozen=frozenset(rebuilt.frozen) & {layer.name for layer in backbone.layers},
    )


def _call_before(tensor: Any, by_output: dict[int, Call]) -> Call:
    call = by_output.get(id(tensor))
    if call is None:
        raise RunError("it has no global average pooling: dense layers come right after the pixels")
    return call


def _check_in_tail(call: Call) -> None:
    """Raise a `RunError` for a layer after the feature map that no head has."""
    name, shape = visible(call.layer.name), call.inputs[0].shape
    if len(call.inputs) != 1:
        raise RunError(
            f"'{name}' ({call.kind}) joins {len(call.inputs)} tensors after the feature map; a head has only one "
            "pooling"
        )
    if len(shape) == 4 and shape[1:3] != (1, 1):
        height, width, channels = shape[1:]
        reason = _OTHER_ENDS.get(call.kind, "is not global average pooling")
        raise RunError(
            f"the layer after the feature map of {height}x{width}x{channels} is '{name}' ({call.kind}), which {reason}"
        )
    if call.kind not in TAIL:
        raise RunError(
            f"between the pooling and the classes is '{name}' ({call.kind}), which no wisesr head has; allowed: "
            f"{joined(sorted(TAIL))}"
        )


def _is_mean_over_positions(call: Call) -> bool:
    """Return whether a layer averages every channel over the whole map."""
    if call.kind == "GlobalAveragePooling2D":
        return True
    if call.kind == "Mean":  # keras.ops.mean
        return len(call.inputs[0].shape) == 4 and sorted(axis % 4 for axis in _axes(call.layer)) == [1, 2]
    if call.kind != "AveragePooling2D":
        return False
    return tuple(call.layer.pool_size) == tuple(call.inputs[0].shape[1:3]) != (1, 1)


def _axes(operation: Any) -> list[int]:
    axis = operation.axis
    return [0, 1, 2, 3] if axis is None else [axis] if isinstance(axis, int) else list(axis)


def _is_linear_at_positions(call: Call | None) -> bool:
    """Return whether a layer before the pooling could as well follow it: a linear 1x1 convolution, or dropout."""
    if call is None or call.kind not in ("Conv2D", "Dense", "Dropout", "SpatialDropout2D"):
        return False
    if getattr(getattr(call.layer, "activation", None), "__name__", "linear") != "linear":
        return False
    if call.kind != "Conv2D":
        return True
    layer = call.layer
    return tuple(layer.kernel_size) == tuple(layer.strides) == (1, 1) and layer.groups == 1


def _checked(folded: Folded, *, gives_logit: bool) -> Folded:
    """Return the classifier layer with one output per class; a single unit becomes two classes."""
    if folded.classes > 1:
        return folded
    if folded.activation != "sigmoid" and not gives_logit:
        raise RunError(
            "its one output has no sigmoid, and was not compiled with BinaryCrossentropy(from_logits=True): it may be "
            "any number, and says nothing about classes; compile it that way, and save it again"
        )
    return two_classes(folded)


def _scaling_inside(calls: list[Call]) -> tuple[str, ...]:
    """Return the names of the pixel-scaling layers before the first layer that combines pixels."""
    found = []
    for call in calls:
        if call.kind not in (*SCALING, *ARITHMETIC, "Identity", "ZeroPadding2D"):
            break
        if call.kind in (*SCALING, *ARITHMETIC):
            found.append(call.layer.name)
    return tuple(found)


def _described(call: Call) -> str:
    """Describe a layer of the tail for people: its kind and main options."""
    layer = call.layer
    if hasattr(layer, "rate"):
        return f"{call.kind} {layer.rate:g}"
    if hasattr(layer, "units"):
        activation = getattr(layer.activation, "__name__", "linear")
        return f"Dense {layer.units}" + ("" if activation == "linear" else f" {activation}")
    if call.kind == "Activation":
        return f"Activation {layer.activation.__name__}"
    return call.kind
