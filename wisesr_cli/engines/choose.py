"""Chooses the engine that runs a saved model, and starts it.

To add one: a class with `info`, `full_batches` and `logits`, and its case in `choose_engine`. Frameworks, and modules
that only Keras models need, are imported inside methods: LiteRT should label its first image in a fraction of a second.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from wisesr_cli.engines.engine import Engine
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.engines.litert import LiteRtEngine, UnusableError, read_litert
from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.keras_start import DeviceChoice
from wisesr_cli.requests import AnySize, EngineChoice
from wisesr_cli.run.located import Located
from wisesr_cli.run.names import LITERT
from wisesr_cli.run.run import litert_path
from wisesr_cli.text import joined, size_text, typed

if TYPE_CHECKING:
    from wisesr_cli.model_files.archive import CheckedModel
    from wisesr_cli.model_files.info import ModelInfo
    from wisesr_cli.models.image_sizes import ImageSize


EngineName = Literal["litert", "keras"]


@dataclass(frozen=True)
class ChosenEngine:
    """The engine for a model file, chosen before anything slow is started.

    `name`: litert or keras; `identity`: what the scores depend on besides the model file; `checked`: the checked model
    file, if Keras runs it.
    """

    path: Path
    name: EngineName
    identity: str
    device: DeviceChoice
    precision: str
    litert: LiteRtEngine | None = None
    checked: CheckedModel | None = None
    image_size: ImageSize | None = None  # if it differs from the one in training

    @property
    def info(self) -> ModelInfo:
        """The model's record, with the image size at which it is used."""
        info = self.litert.info if self.litert else self.check().info
        return info if self.image_size is None else replace(info, image_size=self.image_size)

    def start(self, listener: Listener) -> Engine:
        """Return the engine, ready to compute, and report its device."""
        device = self.litert.device if self.litert else keras_start.start(self.device, precision=self.precision)
        listener.note(f"device: {device}")
        return self.litert or KerasEngine(self.check(), self.precision, self.image_size)

    def check(self) -> CheckedModel:
        """Return the model file for Keras, checked if it was not yet; raises a `RunError` if it is rejected."""
        from wisesr_cli.model_files.archive import check_model  # imports h5py, which LiteRT does not need

        return self.checked or check_model(self.path)


def choose_engine(
    run: Located,
    choice: EngineChoice = "auto",
    *,
    device: DeviceChoice = "auto",
    precision: str = "float32",
    image_size: AnySize | None = None,
    features: bool = False,
    listener: Listener,
) -> ChosenEngine:
    """Return the engine for a model: LiteRT if it can run it, unless another one is requested.

    LiteRT starts in a fraction of the time and is faster than Keras on a CPU; it supports no GPU, only float32, and
    only the image size of training. With `features`, the engine must also be able to compute feature vectors.

    Raises:
        UsageError: an unknown engine, LiteRT with something that it does not support, or an image size that the model
            cannot be used at, as far as that is known without Keras.
        RunError: the model file is rejected, or LiteRT was requested and there is no model for it.
        MachineError: LiteRT was requested and is not installed.
    """
    if choice not in get_args(EngineChoice):
        raise UsageError(f"engine {choice!r} is not one of {joined(get_args(EngineChoice))}")
    if choice == "keras":
        run.checked  # noqa: B018  (rejected here, or read once for all later uses)
    size = None
    if image_size is not None:
        from wisesr_cli.config.reader import parse_image_size

        size = parse_image_size(image_size)
        size = None if run.info.image_size == size else size
    if choice != "keras":
        try:
            chosen = _on_litert(run.model, device, precision, size)
            if features and chosen.litert is not None:
                chosen.litert.check_features()
            return chosen
        except UnusableError as error:
            if choice == "litert":
                raise error.kind(f"--engine litert: {error}{_remedy(error, run, size)}") from None
            listener.note(f"engine: Keras, as {error}")
    return _on_keras(run, device, precision, size)


def _on_litert(path: Path, device: DeviceChoice, precision: str, image_size: ImageSize | None) -> ChosenEngine:
    """Return LiteRT for a model file, or raise an `UnusableError` that says what it does not support."""
    if image_size is not None:
        given = size_text(image_size)
        reason = f"{LITERT} is for the image size used in training, and --image-size {given} was given"
        raise UnusableError(reason, UsageError)
    if device == "gpu":
        raise UnusableError("LiteRT computes on the CPU, and --device gpu was given", UsageError)
    if precision != "float32":
        raise UnusableError(f"LiteRT computes in float32, and --precision {precision} was given", UsageError)
    model = read_litert(litert_path(path), path)
    return ChosenEngine(path, "litert", f"litert {model.sha256[:12]}", device, precision, LiteRtEngine(model))


def _remedy(error: UnusableError, run: Located, image_size: ImageSize | None) -> str:
    """Return the advice for when LiteRT was requested and cannot run the model."""
    if error.kind is RunError:
        return "; use --engine keras, or write the run's best.tflite with the command that trained it and --resume"
    if image_size is None:
        return ""
    command = f"wisesr export {typed(run.given)} --to litert --image-size {size_text(image_size)}"
    return f"; use --engine keras, or export a LiteRT model of that size: {command}"


def _on_keras(run: Located, device: DeviceChoice, precision: str, image_size: ImageSize | None) -> ChosenEngine:
    """Return Keras for a model file, after checking the image size."""
    from wisesr_cli.models.image_sizes import check_image_size

    identity, checked = "keras", run.checked
    if image_size is not None:
        check_image_size(checked.config, checked.info, image_size)
        identity = f"keras at {size_text(image_size)}"
    return ChosenEngine(run.model, "keras", identity, device, precision, checked=checked, image_size=image_size)
