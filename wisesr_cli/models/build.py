"""Builds classifiers: pixels -> scaling -> backbone -> head -> logits, as one Keras model that can be saved.

A classifier takes float32 or uint8 pixels (batch, height, width, channels) in 0..255, RGB or others, and returns logits
(batch, classes). Augmentation is never part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras

from wisesr_cli.errors import DataError
from wisesr_cli.images.preparation import IN_RGB, RGB, Channels
from wisesr_cli.machine.keras_start import seed_everything
from wisesr_cli.model_files.loading import build_without_values
from wisesr_cli.models.backbones import (
    BACKBONE_LAYER,
    FROM_WEIGHTS,
    build_backbone,
    cut_backbone,
    limit_momentum,
    row_of,
)
from wisesr_cli.models.channels import with_channels
from wisesr_cli.models.heads import FeatureMap, HeadOptions, build_head, effective_options
from wisesr_cli.models.scaling import Scaling
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.models.weights import load_start


@dataclass(frozen=True)
class Classifier:
    """A Keras model, how it scales pixels, and the origin of its weights.

    `loaded_tensors` counts the weights loaded into the backbone; None for random weights. `head_start` describes the
    origin of the head's weights, or why saved ones were not used; None for new ones. `origin` describes that of the
    backbone's weights.
    """

    model: Any
    scaling: Scaling
    loaded_tensors: int | None
    head_start: str | None = None
    origin: str | None = None

    @property
    def backbone(self) -> Any:
        """The backbone, a Keras model inside the model."""
        return self.model.get_layer(BACKBONE_LAYER)

    @property
    def extractor(self) -> Any:
        """A Keras model from pixels to the feature map, sharing the layers of the classifier."""
        return keras.Model(self.model.input, self._split_map, name="extractor")

    @property
    def head(self) -> Any:
        """A Keras model from the feature map to the logits, sharing the layers of the classifier."""
        return keras.Model(self._split_map, self.model.output, name="head")

    @property
    def _split_map(self) -> Any:
        """The symbolic feature map between the two."""
        operations = self.model.operations
        return operations[operations.index(self.backbone) + 1].input

    @property
    def feature_map(self) -> FeatureMap:
        """Height, width and channels of the feature map."""
        height, width, channels = self.backbone.output_shape[1:]
        return height, width, channels

    @property
    def parameters(self) -> int:
        """All parameters."""
        return int(self.model.count_params())

    @property
    def head_parameters(self) -> int:
        """Parameters of the head, its classifier layer included."""
        return self.parameters - int(self.backbone.count_params())


def build_classifier(
    config: ModelConfig,
    *,
    image_size: tuple[int, int],
    classes: int,
    seed: int = 0,
    steps_per_epoch: int | None = None,
    class_names: Sequence[str] | None = None,
    scaling: Scaling | None = None,
    channels: Channels = IN_RGB,
) -> Classifier:
    """Return a new classifier for images of height and width `image_size`, with `classes` logits.

    Equal values of `seed` give equal random backbones under every head. `steps_per_epoch` of the planned training sets
    the momentum of batch norm (None: unchanged). `class_names` order the logits of a loaded head (None: its own order).
    `scaling`: that of a classifier that is being rebuilt (None: from `model.preprocessing` and the weights file).
    `channels`: those of the pixels.

    Raises `ConfigError` when the image is too small, a layer does not exist, or the file scales pixels differently, and
    `RunError` for weights that do not fit, and `DataError` for fewer than two classes.
    """
    if classes < 2:
        raise DataError(f"a classifier needs at least 2 classes; found {classes}")
    seed_everything(seed)
    start = load_start(config, image_size, scaling, channels)
    model = assemble(start.backbone, start.scaling, image_size, classes, config.head)
    if steps_per_epoch is not None:
        for part in (start.backbone, model):  # a head may have batch norm in its hidden layers
            limit_momentum(part, steps_per_epoch)
    head_start = start.initialize_head(model, class_names, config.load_head)
    return Classifier(model, start.scaling, start.tensors, head_start, start.origin)


def assemble(backbone: Any, scaling: Scaling, image_size: tuple[int, int], classes: int, head: HeadOptions) -> Any:
    """Return the Keras model of a classifier: scaling, backbone and a new head."""
    pixels = keras.Input((*image_size, backbone.inputs[0].shape[-1]), name="pixels")
    feature_map = backbone(scaling.of(pixels))
    return keras.Model(pixels, build_head(feature_map, classes, head), name="classifier")


def feature_map_of(
    config: ModelConfig, image_size: tuple[int, int], channels: Channels = IN_RGB
) -> tuple[FeatureMap, Any]:
    """Return the shape of the feature map and the backbone, without weight values unless it comes from a file."""
    if config.backbone == FROM_WEIGHTS:
        backbone = load_start(config, image_size, None, channels).backbone
        return backbone.output_shape[1:], backbone

    def build() -> Any:
        backbone = build_backbone(config.backbone, image_size)
        if config.feature_layer is not None:
            backbone = cut_backbone(backbone, config.feature_layer)
        return backbone if channels.count == RGB else with_channels(backbone, channels.count, keeps_kernel=False)

    backbone = build_without_values(build)
    height, width, depth = backbone.output_shape[1:]
    return (height, width, depth), backbone


def notes_about(config: ModelConfig, feature_map: FeatureMap, image_size: tuple[int, int] | None = None) -> list[str]:
    """Return notes for the user about a model to be trained."""
    notes = []
    row = row_of(config.backbone)
    if config.weights == "imagenet" and image_size is not None and 2 * max(image_size) < row.native_size:
        size = max(image_size)
        notes.append(f"{config.backbone} was trained at {row.native_size} pixels: at {size} its weights see less")
    head = config.head
    if effective_options(feature_map, head).name != head.name:
        notes.append(f"the feature map has only one position, so the head '{head.name}' equals GAP; use larger images")
    if row.scales_inside and config.preprocessing not in {"auto", "none"}:
        notes.append(
            f"{config.backbone} scales its pixels itself; model.preprocessing {config.preprocessing} is applied on top"
        )
    return notes
