"""Which backbone layers a phase trains, and which statistics its batch norm uses.

Of the normalization layers in backbones, only batch norm keeps statistics over batches; layer norm uses those of one
example, and `Normalization` has constants.
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
    """Make exactly the layers of a phase trainable, whatever was trainable before.

    With `batch_norm: frozen`, batch norm uses its stored statistics, as at inference, and does not update them; in
    trainable layers, its scale and offset are trained, as in a Keras model called with `training=False`. `is_loaded`:
    whether the backbone's weights were loaded, which decides `batch_norm: null`.
    """
    backbone.trainable = phase.freeze != "backbone"
    if phase.freeze == "backbone":
        return
    for layer in _frozen(backbone, phase.freeze):
        layer.trainable = False
    if keeps_statistics(phase, is_loaded=is_loaded):
        for layer in batch_norms(backbone):
            trained = layer.trainable_variables
            layer.trainable = False  # Keras' only way to make a layer use its stored statistics
            for variable in trained:
                variable.trainable = True


def keeps_statistics(phase: PhaseConfig, *, is_loaded: bool) -> bool:
    """Return whether batch norm uses its stored statistics in a phase."""
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
    """Return the first layers of a backbone, which stay frozen."""
    if not isinstance(freeze, FreezePart):
        return []
    if freeze.below is not None:
        layers: list[Any] = backbone.layers
        return layers[: [layer.name for layer in layers].index(freeze.below)]
    with_weights = [layer for layer in backbone.layers if layer.weights]
    assert freeze.fraction is not None, "checked by the config"
    return with_weights[: round(freeze.fraction * len(with_weights))]


def trained_parts(backbone: Any, phases: tuple[PhaseConfig, ...], *, is_loaded: bool) -> tuple[str, ...]:
    """Return a readable description of what each phase trains."""
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
    return f"{part}; batch norm {'keeps its statistics' if kept else 'uses those of each batch'}"
