"""The targets and loss of a training step; if images are mixed, so are their targets.

Mixing uses Keras' `MixUp` and `CutMix`, on augmented images, in the training step only.
"""

from __future__ import annotations

import warnings
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import AugmentConfig, TrainConfig
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.training.batches import positive_weights
from wisesr_cli.training.features import AtInference

SMALLEST_WEIGHT = 1e-12  # of a mixed example, by which its target is divided
MIXUP_SEED, CUTMIX_SEED, CHOICE_SEED = 10, 11, 12  # added to the run's seed; distinct from those in `augmentation`


class Mixing(keras.layers.Layer):
    """Mixes every example with another of its batch, in training only; see `AugmentConfig.mixup` and `cutmix`.

    Takes and returns [images (batch, height, width, channels), targets (batch, any)], float32.
    """

    def __init__(self, config: AugmentConfig, *, seed: int, **options: Any) -> None:
        super().__init__(dtype="float32", **options)
        self.mixers: list[Any] = []
        if config.mixup:
            self.mixers.append(keras.layers.MixUp(config.mixup, seed=seed + MIXUP_SEED, dtype="float32"))
        if config.cutmix:
            # Given a single number, Keras would draw alpha between 0 and that number.
            limits = (config.cutmix, config.cutmix)
            self.mixers.append(keras.layers.CutMix(limits, seed=seed + CUTMIX_SEED, dtype="float32"))
        self.seed_generator = keras.random.SeedGenerator(seed + CHOICE_SEED)
        self.supports_jit = keras.backend.backend() == "jax"  # XLA on TensorFlow has no gamma distribution

    def build(self, shapes: Any) -> None:
        """Build the Keras layers, which have no weights."""
        for mixer in self.mixers:
            mixer.build(shapes[0])

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the mixed images and targets."""
        if not training:
            return list(inputs)
        mixed = [self._mixed(mixer, *inputs) for mixer in self.mixers]
        if len(mixed) == 1:
            return mixed[0]
        is_first = keras.random.uniform((), seed=self.seed_generator) < 0.5
        return [ops.where(is_first, first, second) for first, second in zip(*mixed, strict=True)]

    @staticmethod
    def _mixed(mixer: Any, images: Any, targets: Any) -> list[Any]:
        """Return the output of one Keras layer; an example whose share is 0 / 0, at a small alpha, is left unmixed."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Explicitly requested dtype int64")  # Keras requests it
            found = mixer({"images": images, "labels": targets}, training=True)
        is_number = ops.isfinite(ops.sum(found["labels"], axis=-1))
        return [
            ops.where(is_number[:, None, None, None], found["images"], images),
            ops.where(is_number[:, None], found["labels"], targets),
        ]


class MixedModel(keras.Model):
    """A model from [pixels, targets] to [logits, mixed targets], trained on (pixels, targets[, weights]).

    Targets are mixed twice: unweighted for the accuracy, and times the example weights for the loss: (batch, 2 *
    classes). The loss is thus the sum of both examples' losses by their shares, each with its own weight.
    """

    def train_step(self, *arguments: Any) -> Any:
        """Train on a batch; the last argument is its data, preceded by the state on JAX."""
        return super().train_step(*arguments[:-1], self._with_targets(arguments[-1]))

    def test_step(self, *arguments: Any) -> Any:
        """Evaluate a batch, without mixing."""
        return super().test_step(*arguments[:-1], self._with_targets(arguments[-1]))

    @staticmethod
    def _with_targets(data: Any) -> Any:
        pixels, targets, weights = keras.utils.unpack_x_y_sample_weight(data)
        weighted = targets if weights is None else targets * ops.expand_dims(ops.cast(weights, targets.dtype), -1)
        return (pixels, ops.concatenate([targets, weighted], axis=-1)), targets

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """Return the loss for the mixed, weighted targets."""
        logits, mixed = y_pred
        _, weighted = ops.split(mixed, 2, axis=-1)
        # The gradient of the cross-entropy is only right for targets that sum to 1.
        weights = ops.maximum(ops.sum(weighted, axis=-1), SMALLEST_WEIGHT)
        targets = weighted / ops.expand_dims(weights, -1)
        return super().compute_loss(x, targets, logits, weights, training=training)

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Return the metrics for the mixed targets; the accuracy takes the class with the largest share as true."""
        logits, mixed = y_pred
        targets, _ = ops.split(mixed, 2, axis=-1)
        return super().compute_metrics(x, targets, logits)


def mix(config: AugmentConfig, images: Any, *, classes: int, seed: int, is_plain: bool) -> tuple[Any, Any, Any]:
    """Return symbolic targets to mix, and the mixed images and targets, which are unchanged if `is_plain`.

    The seed generators are the same either way, so that those of all phases agree.
    """
    targets = keras.Input((2 * classes,), name="targets")
    mixing = Mixing(config, seed=seed, name="mixing")
    images, mixed = (AtInference(mixing) if is_plain else mixing)([images, targets])
    return targets, images, mixed


def build_loss_and_metrics(model: Any, targets: Any) -> None:
    """Create the variables of loss and metrics before `fit` does.

    `fit` would create them while tracing, and trace again (TensorFlow), or fetch batches before the epoch's order is
    set, and train on them (JAX). `targets`: (1, classes).
    """
    outputs = [targets, ops.concatenate([targets] * 2, axis=-1)] if isinstance(model, MixedModel) else targets
    model.compute_loss(None, targets, outputs, None)
    model.compute_metrics(None, targets, outputs, None)
    model.reset_metrics()


class SeveralLabels(keras.losses.Loss):
    """The mean over all classes of the binary cross-entropy, or focal loss, of logits (batch, classes).

    `weights` (classes,): the weight of the positive share of each target.
    """

    def __init__(self, weights: NDArray[np.float32] | None, gamma: float | None) -> None:
        super().__init__(name="several_labels")
        self.weights, self.gamma = weights, gamma

    def call(self, y_true: Any, y_pred: Any) -> Any:
        """Return the loss of every example, (batch,)."""
        # Keras averages over the last axis; an additional one keeps a loss for every class.
        pair = ops.expand_dims(y_true, -1), ops.expand_dims(y_pred, -1)
        if self.gamma is None:
            losses = keras.losses.binary_crossentropy(*pair, from_logits=True)
        else:
            losses = keras.losses.binary_focal_crossentropy(*pair, gamma=self.gamma, from_logits=True)
        if self.weights is not None:
            losses = losses * (1 + (ops.convert_to_tensor(self.weights, losses.dtype) - 1) * y_true)
        return ops.mean(losses, axis=-1)


class BestIsLabel(keras.metrics.Mean):
    """The fraction of labelled examples whose top-scoring class is one of their labels."""

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        """Count a batch: targets and logits (batch, classes)."""
        is_label = ops.cast(y_true > 0.5, "float32")  # regardless of label smoothing
        best = ops.expand_dims(ops.argmax(y_pred, axis=-1), -1)
        hits = ops.squeeze(ops.take_along_axis(is_label, best, axis=-1), -1)
        return super().update_state(hits, ops.max(is_label, axis=-1))


def build_metric(index: DatasetIndex) -> Any:
    """Return the accuracy of logits (batch, classes) for the targets of a dataset."""
    several = index.separator is not None
    return (BestIsLabel if several else keras.metrics.CategoricalAccuracy)(name="top1_accuracy")


def build_loss(config: Config, index: DatasetIndex) -> Any:
    """Return the loss of logits (batch, classes) for the targets of a dataset."""
    if index.separator is None:
        return loss_of_one_label(config.train)
    weights = positive_weights(config, index.class_names, index.splits["train"])
    return SeveralLabels(weights, config.train.focal_gamma)


def loss_of_one_label(config: TrainConfig) -> Any:
    """Return the loss of logits (batch, classes) for targets that sum to 1."""
    if (gamma := config.focal_gamma) is None:
        return keras.losses.CategoricalCrossentropy(from_logits=True)
    # Alpha would scale all losses alike; `train.class_weights` scales them by class.
    return keras.losses.CategoricalFocalCrossentropy(alpha=1.0, gamma=gamma, from_logits=True)
