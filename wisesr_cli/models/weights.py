"""Loads weights into a backbone, and verifies that every tensor was loaded.

Sources: `imagenet` (a file that `at_hand` finds), a `.keras` file, a `.weights.h5` or older `.h5` file, or a run
directory.
The backbone `from_weights` takes both layers and weights from a run; the head may be loaded from one, too.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from wisesr_cli.errors import RunError, WisesrError
from wisesr_cli.model_files.archive import CheckedModel, check_weights_file
from wisesr_cli.model_files.info import weights_file
from wisesr_cli.model_files.loading import copy_weights, layers_of, load_model
from wisesr_cli.models.at_hand import find_weights, missing_weights
from wisesr_cli.models.backbones import FROM_WEIGHTS, build_backbone, check_backbone, cut_backbone
from wisesr_cli.models.saved import SavedClassifier
from wisesr_cli.models.scaling import Scaling, checked_scaling, scaling_of_backbone, scaling_of_file
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.text import on_one_line, visible


@dataclass(frozen=True)
class Start:
    """The initial state of a classifier.

    `scaling` is that of pixels before the backbone. `tensors` counts the weights loaded into the backbone; None for
    random ones. `saved` is the classifier of the run that they come from, for its head; None where there is none, or it
    is not used.
    """

    backbone: Any
    tensors: int | None
    scaling: Scaling
    saved: SavedClassifier | None = None

    def initialize_head(self, model: Any, class_names: Sequence[str] | None, wanted: bool | str) -> str | None:
        """Copy the weights of the saved head where they are wanted and fit; return a note for the user, or None.

        Raises `RunError` when they are required, but do not exist or fit.
        """
        if wanted is False or (wanted == "auto" and (self.saved is None or not self.saved.info.is_upgraded)):
            return None
        if self.saved is None:
            raise RunError("model.load_head is true, but model.weights is no run and no .keras file of one")
        reason = self.saved.copy_head(model, class_names)
        if reason is None:
            unnamed = "" if self.saved.info.has_named_classes else ", its classes taken in the order of the folders"
            return f"the head's weights are those of {visible(self.saved.path)}{unnamed}"
        if wanted is True:
            raise RunError(
                f"model.load_head is true, but the head of {visible(self.saved.path)} does not fit: {reason}; "
                "--set model.load_head=false begins with a new one"
            )
        return f"the head starts anew: {reason}"


def load_start(config: ModelConfig, image_size: tuple[int, int], scaling: Scaling | None = None) -> Start:
    """Return the backbone of a config with its weights, and the source of its head's weights.

    `scaling`: that of a model which is built again; None finds it out. Raises `ConfigError` as `check_backbone` and
    `scaling_of_file` do, `MachineError` for ImageNet weights that are not on this machine, and otherwise as
    `load_backbone`.
    """
    name, asked = config.backbone, config.preprocessing
    check_backbone(name, image_size, config.weights)
    path = _file_of(config)
    checked = None if path is None else check_weights_file(path)
    saved = None
    if checked is not None and (name == FROM_WEIGHTS or _may_give_head(checked, config.load_head)):
        saved = SavedClassifier(checked, image_size)
    if name == FROM_WEIGHTS and saved is not None:
        backbone = saved.backbone()
        if config.feature_layer is not None:
            backbone = cut_backbone(backbone, config.feature_layer)
        scaling = scaling or checked_scaling(saved.preprocessing, asked, saved.path)
        return Start(backbone, len(backbone.weights), scaling, None if config.load_head is False else saved)
    model = saved.model if saved is not None else None if checked is None else _loaded(checked)
    backbone, tensors = load_backbone(name, image_size, path, config.feature_layer, model)
    if scaling is None and path is not None and checked is not None:
        scaling = scaling_of_file(name, asked, path, model, backbone, is_ours=checked.record is not None)
    unknown = None if config.weights == "imagenet" else path
    return Start(backbone, tensors, scaling or scaling_of_backbone(name, asked, path=unknown), saved)


def _file_of(config: ModelConfig) -> Path | None:
    if config.is_random:
        return None
    if config.weights != "imagenet":
        return weights_file(str(config.weights))
    path = find_weights(config.backbone, config.weights_dir)
    if path is None:
        raise missing_weights(config.backbone, config.weights_dir)
    return path


def _may_give_head(checked: CheckedModel, wanted: bool | str) -> bool:
    """Return whether weights come from a model of wisesr whose head is required, or was just upgraded."""
    return wanted is not False and checked.record is not None and (wanted is True or checked.info.is_upgraded)


def load_backbone(
    name: str,
    image_size: tuple[int, int],
    source: str | Path | None,
    feature_layer: str | None = None,
    model: Any = None,
) -> tuple[Any, int | None]:
    """Return a backbone of `BACKBONES`, cut at `feature_layer`, and how many of its tensors were loaded (None: none).

    `source` is a file or a run, `model` the Keras model in it, if already loaded. Raises `RunError` when the file is
    missing or damaged, or a tensor does not fit, naming the layer.
    """
    whole = build_backbone(name, image_size)
    backbone = whole if feature_layer is None else cut_backbone(whole, feature_layer)
    if source is None:
        return backbone, None
    _load_file(whole, backbone, weights_file(str(source)), model)
    return backbone, len(backbone.weights)


def _load_file(whole: Any, cut: Any, path: Path, model: Any) -> None:
    """Fill the whole backbone, or only the cut one where the file contains no more."""
    try:
        with warnings.catch_warnings(action="ignore"):  # missing tensors are an error here
            if model is not None:
                _copy_from_model(whole, cut, model, path)
            elif (checked := check_weights_file(path)) is not None:
                _copy_from_model(whole, cut, _loaded(checked), path)
            else:
                _load_h5(whole, path)
    except WisesrError:
        raise
    except Exception as error:  # Keras and HDF5 raise any exception on a damaged file
        reason = on_one_line(error).partition(" Target variable:")[0]  # which Keras prints with all its values
        raise RunError(f"model.weights: {visible(path)}: cannot be loaded: {reason}") from error


def _loaded(checked: CheckedModel) -> Any:
    try:
        return load_model(checked)
    except RunError as error:
        raise RunError(f"model.weights: {error}") from None


def _copy_from_model(whole: Any, cut: Any, source: Any, path: Path) -> None:
    """Copy layer by layer, in order, from a saved model, which may have more layers after the backbone.

    A run whose backbone was cut at the same layer fills the cut one.
    """
    nested = [layer for layer in source.layers if layer.name == whole.name and hasattr(layer, "layers")]
    source_layers = [layer for layer in layers_of(nested[0] if nested else source) if layer.weights]
    target_layers = [layer for layer in layers_of(whole) if layer.weights]
    in_cut = [layer for layer in layers_of(cut) if layer.weights]
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


def _load_h5(backbone: Any, path: Path) -> None:
    """Load an HDF5 file of weights; tensors are first set to NaN, to detect those that the file does not contain."""
    for weight in backbone.weights:
        weight.assign(np.full(weight.shape, np.nan, dtype="float32").astype(weight.dtype))
    backbone.load_weights(path)
    for layer in layers_of(backbone):
        for weight in layer.weights:
            if np.isnan(keras.ops.convert_to_numpy(weight)).any():
                raise RunError(
                    f"model.weights: {visible(path)}: no values for '{weight.name}' of the layer '{layer.name}'"
                )
