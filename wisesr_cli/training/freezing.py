"""Which layers of a backbone a phase trains, and with which statistics its batch norm computes.

Of the normalization layers that backbones have, batch norm alone keeps statistics over batches; layer norm takes those
of one example, and `Normalization` has constants.
"""

from __future__ import annotations

from typing import Any

import keras

from wisesr_cli.config.training import FreezePart, PhaseConfig
from wisesr_cli.errors import ConfigError
from wisesr_cli.model_files.loading import layers_of
from wisesr_cli.text import counted, joined, nearest, visible


def batch_norms(model: Any) -> list[Any]:
    """Return the batch-norm layers of a model, including nested models."""
    return [layer for layer in layers_of(model) if isinstance(layer, keras.layers.BatchNormalization)]


def freeze_layers(backbone: Any, phase: PhaseConfig, *, is_loaded: bool) -> None:
    """Make a backbone train the layers of a phase, and no others, whatever it trained before.

    With `batch_norm: frozen`, batch norm computes with its stored statistics, as at inference, and leaves them as they
    are; its scale and offset are trained in the layers that are, as in a Keras model called with `training=False`.
    `is_loaded`: whether the backbone's weights were loaded, which decides `batch_norm: null`.
    """
    backbone.trainable = phase.freeze != "backbone"
    if phase.freeze == "backbone":
        return
    for layer in _frozen(backbone, phase.freeze):
        layer.trainable = False
    if keeps_statistics(phase, is_loaded=is_loaded):
        for layer in batch_norms(backbone):
            trained = layer.trainable_variables
            layer.trainable = False  # which is Keras' only switch of a layer to its stored statistics
            for variable in trained:
                variable.trainable = True


def keeps_statistics(phase: PhaseConfig, *, is_loaded: bool) -> bool:
    """Return whether batch norm computes with its stored statistics in a phase."""
    return is_loaded if phase.batch_norm is None else phase.batch_norm == "frozen"


def check_layers(backbone: Any, phases: tuple[PhaseConfig, ...]) -> None:
    """Raise a `ConfigError` when a phase names a layer that the backbone does not have."""
    names = [layer.name for layer in backbone.layers]
    for number, phase in enumerate(phases):
        below = phase.freeze.below if isinstance(phase.freeze, FreezePart) else None
        if below is not None and below not in names:
            raise ConfigError(
                f"train.phases.{number}.freeze.below is '{visible(below)}', which the backbone does not have."
                f"{nearest(below, names)} Its last layers are {joined(names[-8:])}"
            )


def _frozen(backbone: Any, freeze: str | FreezePart) -> list[Any]:
    """Return the first layers of a backbone that stay as they are."""
    if not isinstance(freeze, FreezePart):
        return []
    if freeze.below is not None:
        layers: list[Any] = backbone.layers
        return layers[: [layer.name for layer in layers].index(freeze.below)]
    with_weights = [layer for layer in backbone.layers if layer.weights]
    assert freeze.fraction is not None, "checked by the config"
    return with_weights[: round(freeze.fraction * len(with_weights))]


def trained_parts(backbone: Any, phases: tuple[PhaseConfig, ...], *, is_loaded: bool) -> tuple[str, ...]:
    """Return what each phase trains, for people."""
    return tuple(_trained_part(backbone, phase, is_loaded=is_loaded) for phase in phases)


def _trained_part(backbone: Any, phase: PhaseConfig, *, is_loaded: bool) -> str:
    if phase.freeze == "backbone":
        return "the head"
    frozen, norms = _frozen(backbone, phase.freeze), batch_norms(backbone)
    below = sum(1 for layer in frozen if layer.weights)
    rest = sum(1 for layer in backbone.layers if layer.weights) - below
    part = f"the head and {counted(rest, 'layer')} of the backbone, {below:,} frozen" if frozen else "everything"
    if not norms:
        return part
    kept = keeps_statistics(phase, is_loaded=is_loaded)
    return f"{part}; batch norm {'keeps its statistics' if kept else 'takes those of each batch'}"
