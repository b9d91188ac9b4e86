"""Rebuilds a Keras model from copies of its layers, with nested models flattened.

The result has the requested precision and image size.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

import keras

from wisesr_cli.errors import RunError
from wisesr_cli.model_files.loading import copy_weights
from wisesr_cli.text import counted, visible

# Layers that change images only in training.
AUGMENTATION = (
    *("AugMix", "RandAugment", "RandomBrightness", "RandomColorDegeneration", "RandomColorJitter"),
    *("RandomContrast", "RandomElasticTransform", "RandomErasing", "RandomFlip", "RandomGaussianBlur"),
    *("RandomGrayscale", "RandomHue", "RandomInvert", "RandomPerspective", "RandomRotation", "RandomSaturation"),
    *("RandomSharpness", "RandomShear", "RandomTranslation", "RandomZoom"),
)


@dataclass(frozen=True)
class Call:
    """A layer or operation of the new model, with its input tensors and its output."""

    layer: Any
    inputs: tuple[Any, ...]
    output: Any

    @property
    def kind(self) -> str:
        """The name of the layer's class."""
        return type(self.layer).__name__


@dataclass
class Rebuilt:
    """The calls of a model in topological order. Copies have the weights of the originals.

    `precisions` are the dtype policies of the originals. `left_out` names the augmentation layers, which are not
    copied, and `resizing` the skipped layers that resize images to the size they already have. `regularized` tells
    whether any original had a regularizer, which the copies lack; `frozen` names the copies of frozen layers, which are
    trainable.
    """

    pixels: Any
    calls: list[Call] = field(default_factory=list)
    precisions: set[str] = field(default_factory=set)
    left_out: list[str] = field(default_factory=list)
    resizing: list[str] = field(default_factory=list)
    regularized: bool = False
    frozen: list[str] = field(default_factory=list)
    output: Any = None
    _names: set[str] = field(default_factory=set)
    _last: Any = None

    def model_up_to(self, tensor: Any, name: str) -> Any:
        """Return a Keras model from the pixels to a tensor."""
        return keras.Model(self.pixels, tensor, name=name)

    def run(self, model: Any, tensor: Any, precision: str) -> Any:
        """Call copies of the layers of a model on a tensor; return the output.

        Raises `RunError` when the model has several inputs or outputs.
        """
        if len(model.inputs) != 1 or len(model.outputs) != 1:
            raise RunError(
                f"'{visible(model.name)}' has {counted(len(model.inputs), 'input')} and "
                f"{counted(len(model.outputs), 'output')}; a classifier has one of each"
            )

        def call(layer: Any, *inputs: Any, **options: Any) -> Any:
            if hasattr(layer, "layers"):
                self._last = self.run(layer, inputs[0], precision)
            elif type(layer).__name__ in AUGMENTATION:
                self.left_out.append(layer.name)
                self._last = inputs[0]
            elif type(layer).__name__ == "Resizing" and (layer.height, layer.width) == tuple(inputs[0].shape[1:3]):
                self.resizing.append(layer.name)  # it does not change images of this size
                self._last = inputs[0]
            else:
                self._last = self._call(layer, inputs, options, precision)
            return self._last

        if isinstance(model, keras.Sequential):
            for layer in model.layers:
                tensor = call(layer, tensor)
            return tensor
        self._last = tensor
        inputs = keras.tree.map_structure(lambda _: tensor, model.input)
        keras.models.clone_model(model, input_tensors=inputs, clone_function=lambda layer: layer, call_function=call)
        return self._last  # the last layer's output is the model's

    def _call(self, layer: Any, inputs: tuple[Any, ...], options: dict[str, Any], precision: str) -> Any:
        copy = self._copy(layer, precision)
        options.pop("training", None)  # the caller of the new model decides
        output = copy(*inputs, **options)
        if getattr(layer, "weights", None):
            copy_weights(copy, layer)
        tensors = filter(keras.utils.is_keras_tensor, keras.tree.flatten((inputs, options)))
        self.calls.append(Call(copy, tuple(tensors), output))
        return output

    def _copy(self, layer: Any, precision: str) -> Any:
        config = layer.get_config()
        config["name"] = self._free_name(config["name"])
        if isinstance(layer, keras.Layer):  # operations have neither precision nor weights
            self.precisions.add(layer.dtype_policy.name)
            config |= {"dtype": precision, "trainable": True}
            if layer.weights and not layer.trainable:
                self.frozen.append(config["name"])
            for key in [key for key in config if key.endswith("_regularizer") and config[key] is not None]:
                config[key], self.regularized = None, True
        return type(layer).from_config(config)

    def _free_name(self, name: str) -> str:
        free, number = name, 1
        while free in self._names:
            free, number = f"{name}_{number}", number + 1
        self._names.add(free)
        return free


def rebuild(model: Any, image_size: tuple[int, int], *, precision: str = "float32") -> Rebuilt:
    """Return the calls of a model's layers on pixels (batch, height, width, channels) of that size.

    `model` is functional or sequential, and is not changed. `precision` is the dtype policy of every layer. Raises
    `RunError` when the model has several inputs or outputs.
    """
    rebuilt = Rebuilt(keras.Input((*image_size, model.inputs[0].shape[-1]), name="scaled_pixels"))
    with warnings.catch_warnings(action="ignore"):  # about the names of the original inputs
        rebuilt.output = rebuilt.run(model, rebuilt.pixels, precision)
    return rebuilt
