"""What runs a saved model: loads it and turns uint8 batches into logits.

To add one: a class with `info`, `full_batches` and `logits`, and its choice in `choose_engine`. Frameworks are imported
inside methods.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from wisesr_cli import runtime
from wisesr_cli.errors import RunError, UsageError, WisesrError
from wisesr_cli.litert import LiteRtEngine, UnusableError, read_litert
from wisesr_cli.model_info import ModelInfo
from wisesr_cli.results import Listener
from wisesr_cli.runs import litert_path, model_path
from wisesr_cli.runtime import DeviceChoice
from wisesr_cli.text import joined, visible

EngineName = Literal["litert", "keras"]
EngineChoice = Literal["auto", "litert", "keras"]


class Engine(Protocol):
    """A loaded model.

    `full_batches`: whether it is fast only where every batch has as many images as the one before, so that one with
    fewer is filled up.
    """

    info: ModelInfo
    full_batches: bool

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

    full_batches = True  # every other size of a batch is traced or compiled anew

    def __init__(self, path: Path, precision: str = "float32") -> None:
        from wisesr_cli.loading import load_model
        from wisesr_cli.model_file import read_model_info

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
        return self.outputs(self.model, pixels)[0]

    def outputs(self, model: Any, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return every output of a Keras model over the layers of this one, float32 (batch, ...), for uint8 pixels.

        Raises:
            RunError: they cannot be computed, though the model could be loaded.
            MemoryError: the batch does not fit.
        """
        try:
            return numpy_outputs(model, pixels)
        except MemoryError:
            raise
        except Exception as error:  # backends raise whatever they like
            reason = " ".join(str(error).split())[:300]
            raise RunError(f"{visible(self.path)}: the model cannot be run: {visible(reason)}") from error


def _in_precision(model: Any, precision: str) -> Any:
    """Return the same model with another dtype policy; the classifier layer stays in float32, as in training."""
    import keras

    from wisesr_cli.heads import CLASSIFIER_LAYER

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
    return numpy_outputs(model, pixels)[0]


def numpy_outputs(model: Any, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
    """Return every output of a Keras model for uint8 pixels (batch, height, width, 3), float32 (batch, ...)."""
    try:
        outputs = model.predict_on_batch(pixels.astype("float32"))
    except Exception as error:  # every backend has kinds of its own
        if type(error).__name__ == "ResourceExhaustedError" or "RESOURCE_EXHAUSTED" in str(error):
            raise MemoryError("the model does not fit; a smaller --batch-size may help") from error
        raise
    return [np.asarray(output, dtype="float32") for output in (outputs if isinstance(outputs, list) else [outputs])]


@dataclass(frozen=True)
class ChosenEngine:
    """Which engine runs a model file, before anything slow was started.

    `name`: litert or keras; `identity`: what the scores depend on beside the model file.
    """

    path: Path
    name: EngineName
    identity: str
    device: DeviceChoice
    precision: str
    litert: LiteRtEngine | None = None

    def start(self, listener: Listener) -> Engine:
        """Return the engine, ready to compute, and say where it does."""
        device = self.litert.device if self.litert else runtime.start(self.device, precision=self.precision)
        listener.note(f"device: {device}")
        return self.litert or KerasEngine(self.path, self.precision)


def choose_engine(
    run: str | Path,
    choice: EngineChoice = "auto",
    *,
    device: DeviceChoice = "auto",
    precision: str = "float32",
    listener: Listener,
) -> ChosenEngine:
    """Return which engine runs a run directory or a model file: LiteRT where it can, unless another one is asked for.

    LiteRT starts in a fraction of the time and is faster than Keras on a CPU; it has no GPU, and float32 only.

    Raises:
        UsageError: LiteRT was asked for, and also what it cannot do; or something else than an engine.
        RunError: there is no model file, or it is refused, or LiteRT was asked for and there is no model for it.
        MachineError: LiteRT was asked for, and is not installed.
    """
    if choice not in get_args(EngineChoice):
        raise UsageError(f"engine {choice!r} is none of {joined(get_args(EngineChoice))}")
    path = model_path(run)
    try:
        if choice != "keras":
            _check_options(device, precision)
            model = read_litert(litert_path(path), path)
            identity = f"litert {model.sha256[:12]}"
            return ChosenEngine(path, "litert", identity, device, precision, LiteRtEngine(model))
    except UnusableError as error:
        if choice == "litert":
            raise error.kind(f"--engine litert: {error}{_WAYS_OUT.get(error.kind, '')}") from None
        listener.note(f"engine: Keras, as {error}")
    from wisesr_cli.archive import check_archive

    check_archive(path)
    return ChosenEngine(path, "keras", "keras", device, precision)


_WAYS_OUT: dict[type[WisesrError], str] = {
    RunError: "; use --engine keras, or write the run's best.tflite with the command that trained it and --resume"
}


def _check_options(device: DeviceChoice, precision: str) -> None:
    """Raise an `UnusableError` for what LiteRT cannot do."""
    if device == "gpu":
        raise UnusableError("LiteRT computes on the CPU, and --device gpu was given", UsageError)
    if precision != "float32":
        raise UnusableError(f"LiteRT computes in float32, and --precision {precision} was given", UsageError)


def load_engine(run: str | Path, precision: str = "float32") -> KerasEngine:
    """Return what runs a run directory or a model file on Keras; `runtime.start` has been called before."""
    return KerasEngine(model_path(run), precision)


def padded_logits(engine: Engine, pixels: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return the logits of at most `batch_size` images, computed as a full batch where the engine wants one."""
    missing = batch_size - len(pixels)
    if missing <= 0 or not engine.full_batches:
        return engine.logits(pixels)
    filled = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
    return engine.logits(filled)[: len(pixels)]
