"""Loads weights into a backbone, and makes sure that every tensor really arrived.

Sources: `imagenet` (Keras downloads them), a `.keras` file, a `.weights.h5` or older `.h5` file, or a run directory.
The backbone `from_weights` is built as well as filled from a run; the head may be filled from one, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from wisesr_cli.errors import MachineError, RunError, WisesrError
from wisesr_cli.model_files.archive import check_weights_file
from wisesr_cli.model_files.info import weights_file
from wisesr_cli.model_files.info_file import has_model_info, read_model_info
from wisesr_cli.model_files.loading import copy_weights, load_model
from wisesr_cli.models.backbones import (
    FROM_WEIGHTS,
    Preprocessing,
    build_backbone,
    check_backbone,
    cut_backbone,
    resolve_preprocessing,
)
from wisesr_cli.models.saved import SavedClassifier
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.text import on_one_line, visible


@dataclass(frozen=True)
class Start:
    """What a classifier starts from.

    `tensors` counts the weights that were loaded into the backbone; None where it starts at random. `saved` is the
    classifier of the run that they come from, for its head; None where there is none, or it is not wanted.
    """

    backbone: Any
    tensors: int | None
    preprocessing: Preprocessing
    saved: SavedClassifier | None = None

    def give_head(self, model: Any, class_names: Sequence[str] | None, wanted: bool | str) -> str | None:
        """Give the head of a model the weights of the saved one, where they are wanted and fit; return what to say.

        Raises:
            RunError: they are asked for and do not fit, or there are none.
        """
        if wanted is False or (wanted == "auto" and (self.saved is None or not self.saved.info.is_upgraded)):
            return None
        if self.saved is None:
            raise RunError("model.load_head is true, but model.weights is no run and no .keras file of one")
        reason = self.saved.give_head(model, class_names)
        if reason is None:
            unnamed = "" if self.saved.info.has_named_classes else ", its classes taken in the order of the folders"
            return f"the head's weights are those of {visible(self.saved.path)}{unnamed}"
        if wanted is True:
            raise RunError(
                f"model.load_head is true, but the head of {visible(self.saved.path)} does not fit: {reason}; "
                "--set model.load_head=false begins with a new one"
            )
        return f"the head starts anew: {reason}"


def load_start(config: ModelConfig, image_size: tuple[int, int]) -> Start:
    """Return the backbone of a config with its weights, and what its head may start from.

    Raises:
        ConfigError: the backbone is too small for the images, or has no such weights.
        RunError: the file is missing or damaged, or a tensor of it does not fit; the message names the layer.
        MachineError: ImageNet weights could not be downloaded.
    """
    name, source = config.backbone, config.weights
    saved = None
    if name == FROM_WEIGHTS or _may_give_head(source, config.load_head):
        check_backbone(name, image_size, source)
        saved = SavedClassifier(weights_file(str(source)), image_size)
    if name != FROM_WEIGHTS or saved is None:
        backbone, tensors = load_backbone(name, image_size, source, config.feature_layer)
        return Start(backbone, tensors, resolve_preprocessing(name, config.preprocessing), saved)
    backbone = saved.backbone()
    if config.feature_layer is not None:
        backbone = cut_backbone(backbone, config.feature_layer)
    preprocessing = saved.preprocessing if config.preprocessing == "auto" else config.preprocessing
    return Start(backbone, len(backbone.weights), preprocessing, None if config.load_head is False else saved)


def _may_give_head(source: str | None, wanted: bool | str) -> bool:
    """Return whether weights come from a model of wisesr whose head is asked for, or was just upgraded."""
    if wanted is False or source is None or source == "imagenet":
        return False
    path = weights_file(source)
    return path.suffix == ".keras" and has_model_info(path) and (wanted is True or read_model_info(path).is_upgraded)


def load_backbone(
    name: str, image_size: tuple[int, int], source: str | None, feature_layer: str | None = None
) -> tuple[Any, int | None]:
    """Return a backbone of `BACKBONES`, cut at `feature_layer`, and how many of its tensors were loaded (None: none).

    Raises:
        RunError: the file is missing or damaged, or a tensor of it does not fit; the message names the layer.
        MachineError: ImageNet weights could not be downloaded.
    """
    build = _with_imagenet_weights if source == "imagenet" else build_backbone
    whole = build(name, image_size)
    backbone = whole if feature_layer is None else cut_backbone(whole, feature_layer)
    if source is None:
        return backbone, None
    if source != "imagenet":
        _load_file(whole, backbone, weights_file(source))
    return backbone, len(backbone.weights)


def _load_file(whole: Any, cut: Any, path: Path) -> None:
    """Fill the whole backbone, or only what is left of it where the file holds no more."""
    try:
        with warnings.catch_warnings(action="ignore"):  # what did not arrive is an error here
            if path.suffix == ".keras":
                _copy_from_model(whole, cut, path)
            else:
                _load_h5(whole, path)
    except WisesrError:
        raise
    except Exception as error:  # Keras and HDF5 raise whatever they like on a damaged file
        raise RunError(f"model.weights: {visible(path)}: cannot be loaded: {on_one_line(error)}") from error


def _with_imagenet_weights(name: str, image_size: tuple[int, int]) -> Any:
    try:
        with warnings.catch_warnings(action="ignore"):  # of sizes that need the same weights
            return build_backbone(name, image_size, weights="imagenet")
    except WisesrError:
        raise
    except Exception as error:
        raise MachineError(
            f"model.weights: the ImageNet weights of {name} could not be downloaded: "
            f"{on_one_line(error, whole=True)}; "
            "without a network give a file or null"
        ) from error


def _copy_from_model(whole: Any, cut: Any, path: Path) -> None:
    """Copy layer by layer, in order, from a saved model, which may have more layers after the backbone.

    A run whose backbone was cut at the same layer fills the cut one.
    """
    try:
        source = load_model(path)
    except RunError as error:
        raise RunError(f"model.weights: {error}") from None
    nested = [layer for layer in source.layers if layer.name == whole.name and hasattr(layer, "layers")]
    source_layers = [layer for layer in _flat_layers(nested[0] if nested else source) if layer.weights]
    target_layers = [layer for layer in _flat_layers(whole) if layer.weights]
    in_cut = [layer for layer in _flat_layers(cut) if layer.weights]
    if nested and len(source_layers) == len(in_cut):
        target_layers = in_cut
    for target, origin in zip(target_layers, source_layers, strict=False):
        _copy_layer(target, origin, path)
    if len(source_layers) < len(target_layers):
        raise RunError(
            f"model.weights: {visible(path)}: has {len(source_layers)} layers with weights, but the backbone has "
            f"{len(target_layers)}; the first one without any is '{target_layers[len(source_layers)].name}'"
        )


def _copy_layer(target: Any, origin: Any, path: Path) -> None:
    expected = [tuple(weight.shape) for weight in target.weights]
    found = [tuple(weight.shape) for weight in origin.weights]
    if type(target) is not type(origin) or expected != found:
        raise RunError(
            f"model.weights: {visible(path)}: the layer '{visible(origin.name)}' ({type(origin).__name__} {found}) "
            f"does not fit the backbone's '{target.name}' ({type(target).__name__} {expected})"
        )
    copy_weights(target, origin)


def _flat_layers(model: Any) -> list[Any]:
    layers: list[Any] = []
    for layer in model.layers:
        layers.extend(_flat_layers(layer) if hasattr(layer, "layers") else [layer])
    return layers


def _load_h5(backbone: Any, path: Path) -> None:
    """Load an HDF5 file of weights; a tensor that the file did not set keeps the mark it was given before."""
    check_weights_file(path)
    for weight in backbone.weights:
        weight.assign(np.full(weight.shape, np.nan, dtype="float32").astype(weight.dtype))
    backbone.load_weights(path)
    for layer in _flat_layers(backbone):
        for weight in layer.weights:
            if np.isnan(keras.ops.convert_to_numpy(weight)).any():
                raise RunError(
                    f"model.weights: {visible(path)}: no values for '{weight.name}' of the layer '{layer.name}'"
                )
