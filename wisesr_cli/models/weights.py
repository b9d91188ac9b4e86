"""Loads weights into a backbone, and verifies that every tensor was loaded.

Sources: `imagenet` (a file that `at_hand` finds), a `.keras`, `.weights.h5` or older `.h5` file of any model that
contains the backbone, or a run directory.
The backbone `from_weights` takes both layers and weights from a run; the head may be loaded from one, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wisesr_cli.errors import RunError, WisesrError
from wisesr_cli.images.preparation import IN_RGB, RGB, Channels
from wisesr_cli.model_files.archive import CheckedModel, check_weights_file, checked_tensors
from wisesr_cli.model_files.info import check_same_channels, weights_file
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.models.at_hand import find_weights, missing_weights
from wisesr_cli.models.backbones import FROM_WEIGHTS, build_backbone, check_backbone, cut_backbone
from wisesr_cli.models.channels import channel_scaling, with_channels
from wisesr_cli.models.saved import SavedClassifier, saved_scaling
from wisesr_cli.models.scaling import Scaling, checked_scaling, scaling_of_backbone, scaling_of_file
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.models.stored_tensors import DoesNotFitError, Source, fill
from wisesr_cli.text import on_one_line, visible


@dataclass(frozen=True)
class Start:
    """The initial state of a classifier.

    `scaling` is that of pixels before the backbone. `tensors` counts the weights loaded into the backbone; None for
    random ones; `origin` says where they came from. `saved` is the classifier of the run that they come from, for its
    head; None if there is none, or its head is not used.
    """

    backbone: Any
    tensors: int | None
    scaling: Scaling
    saved: SavedClassifier | None = None
    origin: str | None = None

    def initialize_head(self, model: Any, class_names: Sequence[str] | None, wanted: bool | str) -> str | None:
        """Copy the weights of the saved head if they are wanted and fit; return a note for the user, or None.

        Raises `RunError` when they are required, but do not exist or do not fit.
        """
        if wanted is False or (wanted == "auto" and (self.saved is None or not self.saved.info.is_upgraded)):
            return None
        if self.saved is None:
            raise RunError("model.load_head is true, but model.weights is not a run or its .keras file")
        reason = self.saved.copy_head(model, class_names)
        if reason is None:
            unnamed = (
                "" if self.saved.info.has_named_classes else ", assuming its classes are in the order of the folders"
            )
            return f"the head's weights are those of {visible(self.saved.path)}{unnamed}"
        if wanted is True:
            raise RunError(
                f"model.load_head is true, but the head of {visible(self.saved.path)} does not fit: {reason}; --set "
                "model.load_head=false starts with a new one"
            )
        return f"the head is reinitialized: {reason}"


def load_start(
    config: ModelConfig, image_size: tuple[int, int], scaling: Scaling | None = None, channels: Channels = IN_RGB
) -> Start:
    """Return the backbone of a config with its weights, and the source of its head's weights.

    RGB weights are adapted to other channels. Raises `ConfigError` if a run's weights are for different channels, and
    as `check_backbone`, `scaling_of_file` and `load_backbone` do.
    """
    check_backbone(config.backbone, image_size, config.weights)
    path = _file_of(config)
    checked = None if path is None else check_weights_file(path, whole=config.backbone == FROM_WEIGHTS)
    stored = RGB
    if path is not None and checked is not None and checked.record is not None:
        stored = check_same_channels(checked.info, channels.count, path)
    start = _load_start(config, image_size, scaling, path, checked)
    if stored == channels.count:
        return start
    known = channels if config.preprocessing == "auto" else Channels(channels.count)
    return replace(
        start,
        backbone=with_channels(start.backbone, channels.count, keeps_kernel=start.tensors is not None),
        scaling=scaling or channel_scaling(start.scaling, start.backbone, known),
    )


def _load_start(
    config: ModelConfig,
    image_size: tuple[int, int],
    scaling: Scaling | None,
    path: Path | None,
    checked: CheckedModel | None,
) -> Start:
    """Return the start for pixels with the channels of the file, or for RGB.

    `scaling`: that of a model that is being rebuilt; None determines it. Raises `ConfigError` as `check_backbone` and
    `scaling_of_file` do, `MachineError` for ImageNet weights that are not on this machine, and otherwise as
    `load_backbone`.
    """
    name, asked = config.backbone, config.preprocessing
    saved, channels = None, RGB
    if path is not None and checked is not None and checked.record is not None:
        channels = checked.info.preparation.channels
        if channels != RGB:
            scaling = scaling or checked_scaling(saved_scaling(path), asked, path)
    if checked is not None and (name == FROM_WEIGHTS or _may_give_head(checked, config.load_head)):
        saved = SavedClassifier(checked, image_size)
    if name == FROM_WEIGHTS and saved is not None:
        backbone = saved.backbone()
        if config.feature_layer is not None:
            backbone = cut_backbone(backbone, config.feature_layer)
        scaling = scaling or checked_scaling(saved.scaling, asked, saved.path)
        head = None if config.load_head is False else saved
        return Start(backbone, len(backbone.weights), scaling, head, visible(saved.path))
    backbone, source = load_backbone(name, image_size, path, config.feature_layer, channels)
    if scaling is None and path is not None and checked is not None:
        model = _loaded(checked) if saved is None else saved.model
        scaling = scaling_of_file(name, asked, path, model, backbone, is_ours=checked.record is not None)
    unknown = None if config.weights == "imagenet" else path
    scaling = scaling or scaling_of_backbone(name, asked, path=unknown)
    if source is None:
        return Start(backbone, None, scaling, saved)
    return Start(backbone, source.used, scaling, saved, source.described(visible(path)))


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
    """Return whether weights come from a model of wisesr whose head is required, or that was just upgraded."""
    return wanted is not False and checked.record is not None and (wanted is True or checked.info.is_upgraded)


def load_backbone(
    name: str,
    image_size: tuple[int, int],
    path: str | Path | None,
    feature_layer: str | None = None,
    channels: int = RGB,
) -> tuple[Any, Source | None]:
    """Return a backbone of `BACKBONES`, cut at `feature_layer`, and the source of its tensors (None: random ones).

    `path` is a file or a run, whose backbone takes that many `channels`. Raises `RunError` when it is missing or
    unsafe, or a tensor is missing or does not fit.
    """
    whole = build_backbone(name, image_size)
    if channels != RGB:
        whole = with_channels(whole, channels, keeps_kernel=False)
    backbone = whole if feature_layer is None else cut_backbone(whole, feature_layer)
    if path is None:
        return backbone, None
    source = _load_file(whole, backbone, weights_file(str(path)))
    return backbone, replace(source, used=len(backbone.weights))


def _load_file(whole: Any, cut: Any, path: Path) -> Source:
    """Fill the whole backbone, or only the cut one if the file contains no more."""
    try:
        with checked_tensors(path) as file:
            try:
                return fill(whole, file)
            except DoesNotFitError:
                if cut is whole:
                    raise
                return fill(cut, file)
    except DoesNotFitError as error:
        raise RunError(f"model.weights: {visible(path)}: does not fit the backbone: {error}") from None
    except WisesrError:
        raise
    except Exception as error:  # Keras and HDF5 raise any exception on a damaged file
        raise RunError(f"model.weights: {visible(path)}: cannot be loaded: {on_one_line(error)}") from error


def _loaded(checked: CheckedModel) -> Any:
    try:
        return load_model(checked)
    except RunError as error:
        raise RunError(f"model.weights: {error}") from None
