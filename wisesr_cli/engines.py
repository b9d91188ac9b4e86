"""What runs a saved model: loads it and turns uint8 batches into logits.

To add one: a class with `info`, `full_batches` and `logits`, and its choice in `choose_engine`. Frameworks are imported
inside methods, as is what only Keras' models need: LiteRT is to label its first image in a fraction of a second.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from wisesr_cli import runtime
from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.litert import LiteRtEngine, UnusableError, read_litert
from wisesr_cli.model_info import ModelInfo
from wisesr_cli.results import Listener
from wisesr_cli.run_files import LITERT
from wisesr_cli.runs import litert_path, model_path
from wisesr_cli.runtime import DeviceChoice
from wisesr_cli.text import joined, size_text, visible

if TYPE_CHECKING:
    from wisesr_cli.image_sizes import ImageSize

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
        image_size: height and width that the model is rebuilt for; None is the size that it was trained at.

    Raises:
        RunError: the file is damaged, or is not a model of wisesr train.
        UsageError: its head cannot be used at that image size.
    """

    full_batches = True  # every other size of a batch is traced or compiled anew

    def __init__(self, path: Path, precision: str = "float32", image_size: ImageSize | None = None) -> None:
        from wisesr_cli.loading import load_model
        from wisesr_cli.model_file import read_model_info

        self.path, self.info = path, read_model_info(path)
        self.model: Any = load_model(path, runs=True)
        expected = (None, *self.info.image_size, 3), (None, len(self.info.class_names))
        found = getattr(self.model, "input_shape", None), getattr(self.model, "output_shape", None)
        if found != expected:
            raise RunError(f"{visible(path)}: damaged: the model does not have the shapes that its record says")
        if image_size is not None and image_size != self.info.image_size:
            from wisesr_cli.other_size import at_size

            self.model, self.info = at_size(self.model, image_size), replace(self.info, image_size=image_size)
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
    from wisesr_cli.loading import copy_weights

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.Layer) and layer.name != CLASSIFIER_LAYER:  # operations have no precision
            config["dtype"] = precision
        return layer.__class__.from_config(config)

    cloned = keras.models.clone_model(model, clone_function=clone, recursive=True)
    copy_weights(cloned, model)
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
    image_size: ImageSize | None = None  # other than the one that the model was trained at

    def start(self, listener: Listener) -> Engine:
        """Return the engine, ready to compute, and say where it does."""
        device = self.litert.device if self.litert else runtime.start(self.device, precision=self.precision)
        listener.note(f"device: {device}")
        return self.litert or KerasEngine(self.path, self.precision, self.image_size)


def choose_engine(
    run: str | Path,
    choice: EngineChoice = "auto",
    *,
    device: DeviceChoice = "auto",
    precision: str = "float32",
    image_size: ImageSize | None = None,
    listener: Listener,
) -> ChosenEngine:
    """Return which engine runs a run directory or a model file: LiteRT where it can, unless another one is asked for.

    LiteRT starts in a fraction of the time and is faster than Keras on a CPU; it has no GPU, float32 only, and only
    the image size that the model was trained at.

    Raises:
        UsageError: LiteRT was asked for, and also what it cannot do; or something else than an engine; or an image size
            that the model cannot be used at, as far as that can be told without Keras.
        RunError: there is no model file, or it is refused, or LiteRT was asked for and there is no model for it.
        MachineError: LiteRT was asked for, and is not installed.
    """
    if choice not in get_args(EngineChoice):
        raise UsageError(f"engine {choice!r} is none of {joined(get_args(EngineChoice))}")
    path = model_path(run)
    size = None if image_size is None else _other_size(path, image_size)
    if choice != "keras":
        try:
            return _on_litert(path, device, precision, size)
        except UnusableError as error:
            if choice == "litert":
                raise error.kind(f"--engine litert: {error}{_way_out(error, run, size)}") from None
            listener.note(f"engine: Keras, as {error}")
    return _on_keras(path, device, precision, size)


def _other_size(path: Path, image_size: ImageSize) -> ImageSize | None:
    """Return an image size, or None where it is that of the model itself."""
    from wisesr_cli.model_file import read_model_info

    return None if read_model_info(path).image_size == image_size else image_size


def _on_litert(path: Path, device: DeviceChoice, precision: str, image_size: ImageSize | None) -> ChosenEngine:
    """Return LiteRT for a model file, or raise an `UnusableError` for what it cannot do."""
    if image_size is not None:
        given = size_text(image_size)
        reason = f"{LITERT} is for the image size of the training, and --image-size {given} was given"
        raise UnusableError(reason, UsageError)
    if device == "gpu":
        raise UnusableError("LiteRT computes on the CPU, and --device gpu was given", UsageError)
    if precision != "float32":
        raise UnusableError(f"LiteRT computes in float32, and --precision {precision} was given", UsageError)
    model = read_litert(litert_path(path), path)
    return ChosenEngine(path, "litert", f"litert {model.sha256[:12]}", device, precision, LiteRtEngine(model))


def _way_out(error: UnusableError, run: str | Path, image_size: ImageSize | None) -> str:
    """Return what to do where LiteRT was asked for, and cannot run the model."""
    if error.kind is RunError:
        return "; use --engine keras, or write the run's best.tflite with the command that trained it and --resume"
    if image_size is None:
        return ""
    command = f"wisesr export {shlex.quote(visible(run))} --to litert --image-size {size_text(image_size)}"
    return f"; use --engine keras, or make a model for LiteRT of that size: {command}"


def _on_keras(path: Path, device: DeviceChoice, precision: str, image_size: ImageSize | None) -> ChosenEngine:
    """Return Keras for a model file that has been checked, and for an image size that may do."""
    from wisesr_cli.archive import check_archive
    from wisesr_cli.image_sizes import check_image_size
    from wisesr_cli.model_file import read_model_info

    checked = check_archive(path)
    if image_size is None:
        return ChosenEngine(path, "keras", "keras", device, precision)
    check_image_size(checked.config, read_model_info(path), image_size)
    identity = f"keras at {size_text(image_size)}"
    return ChosenEngine(path, "keras", identity, device, precision, image_size=image_size)


def load_engine(run: str | Path, precision: str = "float32", image_size: ImageSize | None = None) -> KerasEngine:
    """Return what runs a run directory or a model file on Keras; `runtime.start` has been called before."""
    return KerasEngine(model_path(run), precision, image_size)


def padded_logits(engine: Engine, pixels: NDArray[np.uint8], batch_size: int) -> NDArray[np.float32]:
    """Return the logits of at most `batch_size` images, computed as a full batch where the engine wants one."""
    missing = batch_size - len(pixels)
    if missing <= 0 or not engine.full_batches:
        return engine.logits(pixels)
    filled = np.concatenate([pixels, np.zeros((missing, *pixels.shape[1:]), np.uint8)])
    return engine.logits(filled)[: len(pixels)]
