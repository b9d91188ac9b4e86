"""The engine that runs a model with Keras, on either backend."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import RunError
from wisesr_cli.machine.keras_start import is_out_of_memory
from wisesr_cli.text import on_one_line, visible

if TYPE_CHECKING:
    from wisesr_cli.model_files.archive import CheckedModel
    from wisesr_cli.models.image_sizes import ImageSize


class KerasEngine:
    """Runs a `.keras` file on the backend and device that `keras_start.start` chose.

    `precision` replaces the file's float32; `image_size` (height, width) rebuilds the model for another size.

    Raises:
        RunError: the file is damaged, or is not a model of wisesr train.
        UsageError: its head cannot be used at that image size.
    """

    full_batches = True  # each new batch size is traced or compiled again

    def __init__(self, checked: CheckedModel, precision: str = "float32", image_size: ImageSize | None = None) -> None:
        from wisesr_cli.model_files.loading import load_model

        self.path, self.info = checked.path, checked.info
        self.model: Any = load_model(checked, runs=True)
        expected = (None, *self.info.image_size, self.info.preparation.channels), (None, len(self.info.class_names))
        found = getattr(self.model, "input_shape", None), getattr(self.model, "output_shape", None)
        if found != expected:
            raise RunError(f"{visible(self.path)}: damaged: the model does not have the shapes that its record says")
        if image_size is not None and image_size != self.info.image_size:
            from wisesr_cli.models.other_size import at_size

            self.model, self.info = at_size(self.model, image_size), replace(self.info, image_size=image_size)
        if precision != "float32":
            self.model = _in_precision(self.model, precision)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (batch, classes) for uint8 pixels (batch, height, width, channels); raises as `outputs`."""
        return self.outputs(self.model, pixels)[0]

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the input of the classifier layer, float32 (batch, features); raises as `outputs`."""
        return self.outputs(self._features_model, pixels)[0]

    @cached_property
    def _features_model(self) -> Any:
        import keras

        return keras.Model(self.model.inputs, classifier_input(self.model))

    def outputs(self, model: Any, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return every output of a Keras model built from this one's layers, float32 (batch, ...), for uint8 pixels.

        Raises:
            RunError: they cannot be computed, although the model loaded.
            MemoryError: the batch does not fit.
        """
        try:
            return numpy_outputs(model, pixels)
        except MemoryError:
            raise
        except Exception as error:  # backends raise exceptions of any type
            raise RunError(f"{visible(self.path)}: the model cannot be run: {on_one_line(error)}") from error


def classifier_input(model: Any) -> Any:
    """Return the symbolic input (batch, features) of a Keras classifier's classifier layer."""
    from wisesr_cli.models.heads import CLASSIFIER_LAYER

    return model.get_layer(CLASSIFIER_LAYER).input


def classified(model: Any, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the logits (batch, classes) that a Keras classifier's classifier layer gives for (batch, features)."""
    from wisesr_cli.models.heads import CLASSIFIER_LAYER

    kernel, bias = model.get_layer(CLASSIFIER_LAYER).get_weights()
    return np.asarray(features @ kernel + bias, np.float32)


def _in_precision(model: Any, precision: str) -> Any:
    """Return the same model with another dtype policy; the classifier layer stays in float32, as in training."""
    import keras

    from wisesr_cli.model_files.loading import copy_weights
    from wisesr_cli.models.heads import CLASSIFIER_LAYER

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.Layer) and layer.name != CLASSIFIER_LAYER:  # operations have no dtype policy
            config["dtype"] = precision
        return layer.__class__.from_config(config)

    cloned = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy_weights(cloned, model)
    return cloned


def numpy_logits(model: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the logits of a Keras classifier for uint8 pixels, float32 (batch, classes)."""
    return numpy_outputs(model, pixels)[0]


def numpy_outputs(model: Any, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return every output of a Keras model for uint8 pixels (batch, height, width, channels), float32 (batch, ...)."""
    try:
        outputs = model.predict_on_batch(pixels.astype("float32"))
    except Exception as error:  # every backend has its own exceptions
        if is_out_of_memory(error):
            raise MemoryError("the model does not fit; a smaller --batch-size may help") from error
        raise
    return [np.asarray(output, dtype="float32") for output in (outputs if isinstance(outputs, list) else [outputs])]
