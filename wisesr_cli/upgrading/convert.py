"""The Keras part of an upgrade: splits a classifier, builds the run's model, and compares both."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
from numpy.typing import NDArray

from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import FreezePart
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.engines.keras import KerasEngine, numpy_outputs
from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.evaluation.probabilities import probabilities_of, sigmoid, softmax
from wisesr_cli.exporting.agreement import EXACT, Images, difference, variation
from wisesr_cli.exporting.best_litert import keep_litert
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import MOST_CHANNELS
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.files import replacing
from wisesr_cli.machine.keras_start import Device
from wisesr_cli.model_files.archive import CheckedModel, check_model
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.model_files.saving import save_model
from wisesr_cli.models.backbones import FROM_WEIGHTS, Preprocessing, preprocess
from wisesr_cli.models.build import assemble, notes_about
from wisesr_cli.models.heads import CLASSIFIER_LAYER
from wisesr_cli.models.hidden import hidden_parts
from wisesr_cli.models.rebuilding import AUGMENTATION, rebuild
from wisesr_cli.models.scaling import SCALING, Scaling
from wisesr_cli.results.models import Upgrade
from wisesr_cli.run.names import CLASSES, ENVIRONMENT, SPLITS
from wisesr_cli.run.records import write_json, write_rows
from wisesr_cli.run.run import Run
from wisesr_cli.run.written import Written
from wisesr_cli.settings import LARGEST_SIDE, SMALLEST_SIDE
from wisesr_cli.text import counted, joined, typed, visible
from wisesr_cli.training.fit import environment
from wisesr_cli.training.freezing import batch_norms
from wisesr_cli.upgrading.families import family_of
from wisesr_cli.upgrading.folding import Affine, Folded
from wisesr_cli.upgrading.surgery import Parts, take_apart

LITTLE_VARIATION = 1e-3  # of probabilities between images; below it, wrong weights might go unnoticed
SMALLEST = 1e-30  # probability to take the logarithm of
BATCH_SIZE = 8
ASSUMED = "assumed to be scaled beforehand"

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Upgraded:
    """A classifier split into parts, with its properties.

    `scaling`: how pixels are scaled before it; `scaling_reason`: how that is known. `class_names` are in the run's
    order; `order` has the model's output index for each.
    """

    path: Path
    model: Any
    parts: Parts
    image_size: tuple[int, int]
    scaling: Preprocessing
    scaling_reason: str
    notes: tuple[str, ...]
    class_names: tuple[str, ...] = ()
    order: tuple[int, ...] = ()
    thresholds: tuple[float, ...] | None = None  # of its outputs, if an image may have several labels

    @property
    def channels(self) -> int:
        """Channels of the pixels that it takes."""
        return int(self.model.inputs[0].shape[-1])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.parts.folded.classes

    def with_classes(self, names: tuple[str, ...], index: DatasetIndex | None) -> Upgraded:
        """Return it with class names, given in the order of its outputs and reordered like the image folders."""
        ordered = names if index is None else index.class_names
        outputs = {name: output for output, name in enumerate(names)}
        return replace(self, class_names=ordered, order=tuple(outputs[name] for name in ordered))

    @property
    def folded(self) -> Folded:
        """The layers after the pooling, folded, with classes in the order of the run."""
        affine, order = self.parts.folded.classifier, list(self.order)
        return replace(self.parts.folded, classifier=Affine(affine.kernel[:, order], affine.bias[order]))


def convert(checked: CheckedModel, config: Config, image_size_given: bool, listener: Listener) -> Upgraded:
    """Split the model in a file into its parts.

    Raises:
        UsageError: its image size or pixel scaling must be given.
        RunError: it is rejected, or is not a convertible classifier; the message gives the reason.
    """
    path = checked.path
    listener.note(f"reading {visible(path)}")
    model = load_model(checked)
    try:
        _check_input(model)
        image_size = _image_size(model, config.data.image_size if image_size_given else None, path)
        parts = take_apart(model, image_size, gives_logit=_gives_logit(checked.config))
    except RunError as error:
        raise RunError(
            f"{visible(path)}: cannot be converted: {error}. Its backbone can be trained with a new head: wisesr train "
            f"FOLDER --backbone NAME --weights {typed(path)}"
        ) from None
    scaling, reason = _scaling(parts, config.model.preprocessing, path)
    if reason.startswith(ASSUMED):
        listener.warn(f"pixels: {reason}")
    notes, thresholds = tuple(_notes(parts, config)), _thresholds(checked, parts)
    return Upgraded(path, model, parts, image_size, scaling, reason, notes, thresholds=thresholds)


def _thresholds(checked: CheckedModel, parts: Parts) -> tuple[float, ...] | None:
    """Return the thresholds of the outputs of a multilabel model; None for other models."""
    folded = parts.folded
    if checked.record is not None:
        return checked.info.thresholds
    is_logit = folded.activation == "linear" and _gives_logit(checked.config)
    if folded.is_one_unit or not (folded.activation == "sigmoid" or is_logit):
        return None
    return (0.5,) * folded.classes


def _check_input(model: Any) -> None:
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise RunError(
            f"it has {counted(len(model.inputs), 'input')} and {counted(len(model.outputs), 'output')}; a classifier "
            "has one of each"
        )
    shape = tuple(model.inputs[0].shape[1:])
    if len(shape) != 3 or shape[-1] not in range(1, MOST_CHANNELS + 1):
        sides = " x ".join("any" if side is None else str(side) for side in shape) or "single"
        raise RunError(f"it takes {sides} numbers; images are height x width x channels, of at most {MOST_CHANNELS}")


def _image_size(model: Any, given: tuple[int, int] | None, path: Path) -> tuple[int, int]:
    """Return the image size of a model, or the given one if it takes any."""
    height, width = model.inputs[0].shape[1:3]
    if (resized := _resized_to(model)) is not None:
        if any(own not in (None, side) for own, side in zip((height, width), resized, strict=True)):
            raise RunError(
                f"it takes images of {height}x{width} and resizes them to {resized[0]}x{resized[1]} itself; build it "
                "again with keras.Input((None, None, 3)), or without Resizing"
            )
        height, width = resized
    if (height is None or width is None) and given is None:
        raise UsageError(f"{visible(path)}: takes images of any size; give the one to use it at: --image-size 224")
    size = given or (height, width)
    if any(own not in (None, side) for own, side in zip((height, width), size, strict=True)):
        raise UsageError(
            f"--image-size {size[0]}x{size[1]}: the model is for {height}x{width} and is upgraded at that size; "
            "evaluate, predict and export take another one later"
        )
    if not all(SMALLEST_SIDE <= side <= LARGEST_SIDE for side in size):
        raise RunError(
            f"it is for images of {size[0]}x{size[1]}; wisesr takes sides of {SMALLEST_SIDE} to {LARGEST_SIDE} pixels"
        )
    return size


def _resized_to(model: Any) -> tuple[int, int] | None:
    """Return the size to which a model first resizes images, or None."""
    for layer in model.layers:
        kind = type(layer).__name__
        if kind == "Resizing":
            return int(layer.height), int(layer.width)
        if kind not in ("InputLayer", *AUGMENTATION, *SCALING):
            return None
    return None


def _gives_logit(config: dict[str, Any]) -> bool:
    """Return whether a model was compiled for logits of two classes: binary cross-entropy, `from_logits=True`."""
    compiled = config.get("compile_config")
    loss = compiled.get("loss") if isinstance(compiled, dict) else None
    options = loss.get("config") if isinstance(loss, dict) and loss.get("class_name") == "BinaryCrossentropy" else None
    return isinstance(options, dict) and options.get("from_logits") is True


def _scaling(parts: Parts, asked: str, path: Path) -> tuple[Preprocessing, str]:
    """Return the scaling of pixels before a model, and how it is known; `UsageError` if it is not."""
    inside = f"the model scales them itself ({joined(parts.scaling[:3])})"
    if asked == "none" and parts.scaling:
        return "none", inside
    if asked != "auto":
        on_top = f"; {inside}, so that both apply" if parts.scaling else ""
        return asked, f"as requested{on_top}"  # type: ignore[return-value]
    if parts.scaling:
        return "none", inside
    family = family_of(parts.layer_names)
    if family is None:
        raise UsageError(
            f"{visible(path)}: does not say how its pixels are scaled before it; give --preprocessing none (0..255 as "
            "they are), unit (0..1), tf (-1..1), torch or caffe (as keras.applications does)"
        )
    return (
        family.scaling,
        f"{ASSUMED}, as keras.applications does for {family.name}; if they were not, give --preprocessing",
    )


def _notes(parts: Parts, config: Config) -> list[str]:
    notes = []
    folded = parts.folded
    if folded.hidden:
        layers = ", ".join(str(hidden.options) for hidden in folded.hidden)
        notes.append(f"kept as {counted(len(folded.hidden), 'hidden layer')} of the head (model.head.hidden): {layers}")
    if folded.is_shorter:
        into = "as few dense layers as give the same" if folded.hidden else "one classifier layer"
        notes.append(f"the layers between pooling and classes are folded into {into}, which is exact")
    if parts.resizing:
        notes.append(
            f"resizing is skipped, as wisesr resizes images itself, with antialiasing: {joined(parts.resizing)}"
        )
    if folded.is_one_unit:
        notes.append("the one unit becomes two classes: the first has the logit 0, the second the unit's")
    if parts.augmentation:
        notes.append(f"augmentation is skipped, as saved models do not include it: {joined(parts.augmentation)}")
    if parts.regularized:
        notes.append("regularizers are skipped: training has train.optimizer.weight_decay")
    if parts.frozen:
        notes.append(_frozen_note(parts, config))
    if odd := sorted(parts.precisions - {"float32"}):
        notes.append(f"the model computes in {joined(odd)}, the run in float32; they are compared in float32")
    return notes + notes_about(config.model, parts.feature_map)


def _frozen_note(parts: Parts, config: Config) -> str:
    frozen = f"the model froze {counted(len(parts.frozen), 'layer')} of its backbone"
    if config.train.phases is not None:
        return f"{frozen}; train.phases decides what is trained here"
    freeze = frozen_part(parts)
    if freeze is None:
        return f"{frozen}, between trainable ones: here all are trained, unless a phase has freeze: {{below: LAYER}}"
    return f"{frozen}, as the run does (train.phases.0.freeze); to train everything: -s train.phases=null"


def frozen_part(parts: Parts) -> FreezePart | Literal["backbone"] | None:
    """Return what a phase must freeze to train the layers that the model trained; None if no leading part fits.

    Batch norm may be frozen anywhere, because loaded weights keep its statistics in any case.
    """
    names = [layer.name for layer in parts.backbone.layers if layer.trainable_weights]
    norms = {layer.name for layer in batch_norms(parts.backbone)}
    trained = [name for name in names if name not in parts.frozen]
    if not trained:
        return "backbone"
    after = names[names.index(trained[0]) :]
    if not parts.frozen.isdisjoint(set(after) - norms) or after == names:
        return None
    return FreezePart(below=trained[0])


def write_model(found: Upgraded, config: Config, path: Path) -> None:
    """Write the run's model, whose head gives the same outputs as the original pooling and classifier."""
    classes = found.class_names
    scaling = Scaling(found.scaling)
    model = assemble(found.parts.backbone, scaling, found.image_size, len(classes), config.model.head)
    fill_head(model, found.folded)
    info = ModelInfo(
        class_names=classes,
        image_size=found.image_size,
        preparation=config.data.preparation,
        background=BACKGROUND,
        backbone=FROM_WEIGHTS,
        head=config.model.head.name,
        epoch=0,
        versions=keras_start.package_versions(),
        thresholds=None if found.thresholds is None else tuple(found.thresholds[output] for output in found.order),
    )
    with replacing(path) as temporary:
        save_model(model, temporary, info)


def fill_head(model: Any, folded: Folded) -> None:
    """Set the weights of a model's hidden layers and classifier layer to those of folded layers."""
    affine = folded.classifier
    weights = [(model.get_layer(CLASSIFIER_LAYER), [affine.kernel, affine.bias])]
    for number, hidden in enumerate(folded.hidden, start=1):
        weights += [(layer, hidden.weights[part]) for part, layer in hidden_parts(model, number).items()]
    for layer, values in weights:
        layer.set_weights([np.asarray(value, np.float32) for value in values])


def compare(found: Upgraded, path: Path, images: Images, images_name: str, listener: Listener) -> Upgrade:
    """Compare the run's saved model with the original on images; `RunError` if they differ by more than `EXACT`."""
    engine = KerasEngine(check_model(path))
    original = _original(found)
    expected, ours = [], []
    with listener.progress("comparing", len(images)) as progress:
        for first in range(0, len(images), BATCH_SIZE):
            pixels = images.batch(np.arange(first, min(first + BATCH_SIZE, len(images))))
            expected.append(_probabilities(numpy_outputs(original, pixels)[0], found))
            ours.append(probabilities_of(engine.logits(pixels), engine.info))
            progress.advance(len(pixels))
    result = _result(found, engine, np.concatenate(expected), np.concatenate(ours), images_name)
    if not result.max_probability_difference <= EXACT:
        raise RunError(
            f"{visible(found.path)}: the run gives different outputs: probabilities differ by "
            f"{result.max_probability_difference:.1e} on {len(images)} {images_name}, and at most {EXACT:g} is "
            "allowed; nothing was made"
        )
    if result.variation < LITTLE_VARIATION:
        listener.warn(
            f"the model gives nearly the same output for all {len(images)} {images_name} (probabilities differ by "
            f"{result.variation:.1e} between them): the agreement says little"
            + ("" if "made" not in images_name else "; compare on photos with --data FOLDER")
        )
    return result


def _original(found: Upgraded) -> Any:
    """Return the original model, preceded by the scaling of pixels; in float32 if its own precision is lower."""
    model = found.model
    if found.parts.precisions - {"float32"}:
        rebuilt = rebuild(model, found.image_size)
        model = rebuilt.model_up_to(rebuilt.output, "original")
    pixels = keras.Input((*found.image_size, found.channels), name="raw_pixels")
    return keras.Model(pixels, model(preprocess(pixels, found.scaling), training=False))


def _probabilities(outputs: NDArray[np.float32], found: Upgraded) -> Numbers:
    """Convert a model's outputs to probabilities (batch, classes), in the order of the run's classes."""
    values = np.asarray(outputs, np.float64).reshape(len(outputs), -1)
    folded = found.parts.folded
    if folded.activation == "linear" and (folded.is_one_unit or found.thresholds is not None):
        values = sigmoid(values)
    elif folded.activation == "linear":
        values = softmax(values)
    if folded.is_one_unit:
        values = np.concatenate([1.0 - values, values], axis=1)
    return values[:, list(found.order)]


def _result(found: Upgraded, engine: KerasEngine, expected: Numbers, ours: Numbers, images_name: str) -> Upgrade:
    logs = np.log(np.maximum(expected, SMALLEST))
    log_difference = difference(logs, np.log(np.maximum(ours, SMALLEST)))
    model, parts = engine.model, found.parts
    in_backbone = int(parts.backbone.count_params())
    return Upgrade(
        run_dir="",
        model=str(found.path),
        image_size=found.image_size,
        layers=parts.layers,
        backbone_parameters=in_backbone,
        scaling=found.scaling,
        scaling_reason=found.scaling_reason,
        feature_map=parts.feature_map,
        pooling=parts.pooling,
        tail=parts.tail,
        activation=parts.folded.activation,
        hidden=tuple(str(hidden.options) for hidden in parts.folded.hidden),
        class_names=found.class_names,
        head=engine.info.head,
        head_parameters=int(model.count_params()) - in_backbone,
        compared_images=len(expected),
        compared_on=images_name,
        max_probability_difference=difference(expected, ours),
        max_log_difference=log_difference / max(float(np.abs(logs).max()), SMALLEST),
        variation=variation(expected),
    )


def write_rest(
    run: Run, config: Config, index: DatasetIndex | None, device: Device, images: Images, listener: Listener
) -> None:
    """Write all other files of a run before its first epoch, and its LiteRT model."""
    Written(run.path).begin()
    with replacing(run.best) as temporary:
        shutil.copyfile(run.upgraded, temporary)
    engine = KerasEngine(check_model(run.best))
    keep_litert(run, engine, images, batch_size=BATCH_SIZE, listener=listener)
    if index is not None:
        write_rows(run.path / SPLITS, ("path", "label", "split"), index.rows())
    write_json(run.path / ENVIRONMENT, environment(device))
    run.write_config(config)
    write_json(run.path / CLASSES, list(engine.info.class_names))
