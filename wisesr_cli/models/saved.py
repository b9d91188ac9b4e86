"""Extracts the backbone, the scaling and the weights of the head from a saved classifier of wisesr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np

from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.layers import PositionWeightedPooling2D
from wisesr_cli.model_files.archive import CheckedModel, read_config
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.models.backbones import BACKBONE_LAYER, AnyScaling, Preprocessing
from wisesr_cli.models.hidden import is_hidden
from wisesr_cli.models.other_size import at_size
from wisesr_cli.models.rebuilding import rebuild
from wisesr_cli.models.scaling import Scaling
from wisesr_cli.text import joined, typed, visible

_OF_HIDDEN = ("activation", "alpha", "epsilon", "negative_slope", "units")  # options that decide what is computed
_SAME_HEAD = ("grid_size", "pool_size", "constraint")  # options that must agree for weights to be reusable


class SavedClassifier:
    """A model file of wisesr, used at `image_size` (height, width), which may differ from its own.

    Raises `RunError` when the file is damaged, or not a model of wisesr.
    """

    def __init__(self, checked: CheckedModel, image_size: tuple[int, int]) -> None:
        path = checked.path
        if checked.record is None:
            raise RunError(
                f"model.weights: {visible(path)}: is not a model of wisesr, so it does not say where its backbone "
                f"ends; make a run of it: wisesr upgrade {typed(path)}"
            )
        self.path, self.info, self.image_size = path, checked.info, image_size
        try:
            self.model = load_model(checked)
            self._backbone = self.model.get_layer(BACKBONE_LAYER)
        except RunError as error:
            raise RunError(f"model.weights: {error}") from None
        except ValueError:
            raise RunError(f"model.weights: {visible(path)}: has no layer '{BACKBONE_LAYER}'") from None

    def backbone(self) -> Any:
        """Return the backbone as a new Keras model, in the precision of this process and with nothing frozen.

        Raises `RunError` when it does not support the image size.
        """
        backbone = self._sized(self._backbone)
        rebuilt = rebuild(backbone, self.image_size, precision=keras.config.dtype_policy().name)
        return rebuilt.model_up_to(rebuilt.output, BACKBONE_LAYER)

    def _sized(self, model: Any) -> Any:
        """Return the model, or its backbone, for the image size."""
        try:
            return model if self.image_size == self.info.image_size else at_size(model, self.image_size)
        except (RunError, UsageError) as error:
            raise RunError(f"model.weights: {visible(self.path)}: {error}") from None

    @property
    def scaling(self) -> Scaling:
        """The scaling of pixels before the backbone."""
        return _scaling_among({layer.name: layer.get_config() for layer in self.model.layers})

    def copy_head(self, model: Any, class_names: Sequence[str] | None) -> str | None:
        """Copy the weights of the head to the head of another classifier; return why that is impossible, or None.

        `class_names` are the classes of the logits of `model`, in order; None: the same as here.
        """
        try:
            ours, theirs = _head_layers(self._sized(self.model)), _head_layers(model)
        except RunError as error:
            return str(error)
        if (found := _hidden_layers(self.model)) != (expected := _hidden_layers(model)):
            return f"its hidden layers are {joined(found) or 'none'}, and here {joined(expected) or 'none'}"
        if [type(layer) for layer in ours] != [type(layer) for layer in theirs]:
            return f"the file has a different head, '{visible(self.info.head)}'"
        order = self._order(class_names)
        if isinstance(order, str):
            return order
        for origin, target in zip(ours, theirs, strict=True):
            if reason := _difference(origin, target):
                return reason
        for origin, target in zip(ours[:-1], theirs[:-1], strict=True):
            target.set_weights(origin.get_weights())
        theirs[-1].set_weights([np.take(weight, order, axis=-1) for weight in ours[-1].get_weights()])
        return None

    def _order(self, class_names: Sequence[str] | None) -> list[int] | str:
        """Return the index in the file of each class, or the reason if they do not match."""
        known = self.info.class_names
        if class_names is None or (not self.info.has_named_classes and len(class_names) == len(known)):
            return list(range(len(known)))
        if sorted(class_names) != sorted(known):
            return f"the file has the classes {_few(known)}, and the images {_few(class_names)}"
        return [known.index(name) for name in class_names]


def saved_scaling(path: Path) -> Scaling:
    """Return the scaling of pixels in a model file of wisesr, from its config alone; `RunError` when it is damaged.

    No Keras model is built.
    """
    config = read_config(path)
    try:
        return _scaling_among({layer["config"]["name"]: layer["config"] for layer in config["config"]["layers"]})
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{visible(path)}: is not a model of wisesr") from None


def _scaling_among(layers: Mapping[str, Mapping[str, Any]]) -> Scaling:
    """Return the scaling among layers, whose options are given by name."""
    names: tuple[AnyScaling, ...] = (*get_args(Preprocessing), "measured")
    name: AnyScaling = next((scaling for scaling in names if f"{scaling}_scaling" in layers), "none")
    if name != "measured":
        return Scaling(name)
    options = layers["measured_scaling"]
    return Scaling(name, "", *(tuple(map(float, options[key])) for key in ("scale", "offset")))


def _head_layers(model: Any) -> list[Any]:
    """Return the layers with weights after the backbone; the classifier layer is the last one."""
    return [layer for layer in model.layers if layer.weights and layer.name != BACKBONE_LAYER]


def _hidden_layers(model: Any) -> list[str]:
    """Return what the hidden layers of a head compute, apart from their weights: `Dense units=256`, and so on."""
    found = []
    for layer in filter(is_hidden, model.layers):
        options = {key: value for key, value in layer.get_config().items() if key in _OF_HIDDEN}
        if not isinstance(layer, keras.layers.Dropout):
            found.append(" ".join((type(layer).__name__, *(f"{key}={value}" for key, value in options.items()))))
    return found


def _difference(origin: Any, target: Any) -> str | None:
    if isinstance(origin, PositionWeightedPooling2D):
        for name in _SAME_HEAD:
            found, expected = getattr(origin, name), getattr(target, name)
            if found != expected:
                return f"{name} of its '{origin.name}' is {found}, and here {expected}"
    found_shapes, shapes = ([tuple(weight.shape) for weight in layer.weights] for layer in (origin, target))
    return None if found_shapes == shapes else f"its '{origin.name}' has weights {found_shapes}, and here {shapes}"


def _few(names: Sequence[str]) -> str:
    return joined(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
