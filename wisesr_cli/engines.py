"""What runs a saved model: loads it and turns uint8 batches into logits.

To add one: a class with `info` and `logits`, and its choice in `load_engine`. Frameworks are imported inside methods.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import RunError
from wisesr_cli.heads import CLASSIFIER_LAYER
from wisesr_cli.model_file import ModelInfo, read_model_info
from wisesr_cli.runs import model_path
from wisesr_cli.text import visible


class Engine(Protocol):
    """A loaded model."""

    info: ModelInfo

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (batch, classes) for uint8 pixels (batch, height, width, 3)."""


class KerasEngine:
    """Runs a `.keras` file on the backend and device that `runtime.start` chose.

    Args:
        path: the model file.
        precision: arithmetic; a model file holds float32, other arithmetic is laid over its layers.

    Raises:
        RunError: the file is damaged, or is not a model of wisesr train.
    """

    def __init__(self, path: Path, precision: str = "float32") -> None:
        from wisesr_cli.loading import load_model

        self.path, self.info = path, read_model_info(path)
        self.model: Any = load_model(path, runs=True)
        expected = (None, *self.info.image_size, 3), (None, len(self.info.class_names))
        found = getattr(self.model, "input_shape", None), getattr(self.model, "output_shape", None)
        if found != expected:
            raise RunError(f"{visible(path)}: damaged: the model does not have the shapes that its record says")
        if precision != "float32":
            self.model = _in_precision(self.model, precision)

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (batch, classes) for uint8 pixels (batch, height, width, 3).

        Raises:
            RunError: the model cannot compute them, though it could be loaded.
            MemoryError: the batch does not fit.
        """
        try:
            return numpy_logits(self.model, pixels)
        except MemoryError:
            raise
        except Exception as error:  # backends raise whatever they like
            reason = " ".join(str(error).split())[:300]
            raise RunError(f"{visible(self.path)}: the model cannot be run: {visible(reason)}") from error


def _in_precision(model: Any, precision: str) -> Any:
    """Return the same model with another dtype policy; the classifier layer stays in float32, as in training."""
    import keras

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.Layer) and layer.name != CLASSIFIER_LAYER:  # operations have no precision
            config["dtype"] = precision
        return layer.__class__.from_config(config)

    cloned = keras.models.clone_model(model, clone_function=clone, recursive=True)
    cloned.set_weights(model.get_weights())
    return cloned


def numpy_logits(model: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a Keras classifier says of uint8 pixels, float32 (batch, classes)."""
    try:
        return np.asarray(model.predict_on_batch(pixels.astype("float32")), dtype="float32")
    except Exception as error:  # every backend has kinds of its own
        if type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error):
            raise MemoryError("the model does not fit; a smaller --batch-size may help") from error
        raise


def load_engine(run: str | Path, precision: str = "float32") -> KerasEngine:
    """Return the engine for a run directory or a model file; `runtime.start` has been called before."""
    return KerasEngine(model_path(run), precision)


def padded_logits(engine: Engine, pixels: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return the logits of at most `batch_size` images, computed as a full batch, so that nothing is compiled twice."""
    missing = batch_size - len(pixels)
    if missing > 0:
        pixels = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
    logits = engine.logits(pixels)
    return logits[: batch_size - missing] if missing > 0 else logits
