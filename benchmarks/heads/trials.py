"""Trains heads on feature maps: several seeds of a head at once, with the optimizer, schedule and order of `train`.

`compare` takes 25 CPU seconds per training, mostly for building, saving and evaluating whole models; here a training
takes about one. The heads are those of the package. The replicas of a head, one per seed, have separate variables and
are updated together; Adam treats every variable separately, so each replica is trained as it would be alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.heads.maps import Features, Labels, Maps, on_reduced, reduced, start_weights
from wisesr_cli.config.reader import load_config, overrides_of
from wisesr_cli.data.pixels import epoch_order
from wisesr_cli.models.heads import FeatureMap, HeadOptions, build_head

EPOCHS, BATCH, JUDGED_AT_ONCE = 20, 32, 64
RATES = (3e-4, 1e-3, 3e-3, 1e-2)

Build = Callable[[FeatureMap, int], Any]  # a Keras model from a reduced map to logits


@dataclass(frozen=True)
class Trial:
    """One training: its best epoch on validation, accuracy and loss there, and which test images are right."""

    rate: float
    seed: int
    epoch: int
    validation: float
    loss: float
    correct: NDArray[np.bool_]


def builder(options: HeadOptions, feature_map: FeatureMap) -> Build:
    """Return a function that builds a head of the package on reduced maps, with its initial weights for whole maps."""
    import keras

    def build(shape: FeatureMap, classes: int) -> Any:
        weights = start_weights(options, feature_map, classes)
        inputs = keras.Input(shape)
        model = keras.Model(inputs, build_head(inputs, classes, on_reduced(options)))
        model.set_weights(weights)
        return model

    return build


def trials_of(
    build: Build,
    maps: dict[str, Maps],
    labels: dict[str, Labels],
    classes: int,
    *,
    seeds: Sequence[int],
    rates: Sequence[float] = RATES,
    epochs: int = EPOCHS,
) -> list[Trial]:
    """Return a trial for every rate and seed, on maps that are reduced for the head."""
    from wisesr_cli.machine.keras_start import seed_everything

    models = []
    for seed in seeds:
        seed_everything(seed)
        models.append(build(maps["train"].shape[1:], classes))  # type: ignore[arg-type]
    replicas = _Replicas(models, maps, labels, epochs)
    return [trial for rate in rates for trial in replicas.train(rate, seeds)]


class _Replicas:
    """Models of one head with a shared optimizer; their graph is traced once for all learning rates."""

    def __init__(self, models: list[Any], maps: dict[str, Maps], labels: dict[str, Labels], epochs: int) -> None:
        import tensorflow as tf

        self.models, self.epochs = models, epochs
        self.images, self.labels = tf.constant(maps["train"]), tf.constant(labels["train"])
        self.judged = {name: (tf.constant(maps[name]), labels[name]) for name in ("validation", "test")}
        self.variables = [variable for model in models for variable in model.trainable_variables]
        self.steps = -(-len(labels["train"]) // BATCH)
        self.optimizer = _optimizer(epochs, self.steps)
        self.optimizer.build(self.variables)
        self.start = [np.array(variable) for variable in self.variables]
        self.epoch, self.logits = tf.function(self._epoch), tf.function(self._logits)

    def _epoch(self, orders: Any) -> Any:
        """Train every model for an epoch, each with its own order of the examples."""
        import keras
        import tensorflow as tf

        for step in tf.range(self.steps):
            rows = orders[:, step * BATCH : (step + 1) * BATCH]
            with tf.GradientTape() as tape:
                losses = []
                for number, model in enumerate(self.models):
                    logits = model(tf.gather(self.images, rows[number]), training=True)
                    truth = tf.gather(self.labels, rows[number])
                    loss = keras.losses.sparse_categorical_crossentropy(truth, logits, from_logits=True)
                    losses.append(tf.reduce_mean(loss) + sum(model.losses))
                total = tf.add_n(losses)
            gradients = tape.gradient(total, [variable.value for variable in self.variables])
            self.optimizer.apply(gradients, self.variables)

    def _logits(self, maps: Any) -> Any:
        import tensorflow as tf

        return tf.stack([model(maps, training=False) for model in self.models])

    def judge(self, split: str) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return which answers are right, (models, images), and the mean loss of each model."""
        maps, labels = self.judged[split]
        parts = [self.logits(maps[start : start + JUDGED_AT_ONCE]) for start in range(0, len(labels), JUDGED_AT_ONCE)]
        logits = np.concatenate([np.asarray(part, np.float64) for part in parts], axis=1)
        highest = logits.max(-1, keepdims=True)
        log_sum = np.log(np.exp(logits - highest).sum(-1)) + highest[..., 0]
        chosen = np.take_along_axis(logits, np.broadcast_to(labels[:, None], (*logits.shape[:2], 1)), axis=-1)[..., 0]
        return logits.argmax(-1) == labels, (log_sum - chosen).mean(-1)

    def train(self, rate: float, seeds: Sequence[int]) -> list[Trial]:
        """Train all models from their initial weights with a learning rate, and return the best epoch of each."""
        for variable, value in zip(self.variables, self.start, strict=True):
            variable.assign(value)
        for variable in self.optimizer.variables:
            variable.assign(np.zeros(variable.shape, variable.dtype))
        self.optimizer.factor.assign(rate)
        best: dict[int, Trial] = {}
        for epoch in range(self.epochs):
            orders = np.stack([epoch_order(len(self.labels), seed=seed, epoch=epoch) for seed in seeds])
            self.epoch(orders)
            (right, losses), (tested, _) = self.judge("validation"), self.judge("test")
            for number, seed in enumerate(seeds):
                found = Trial(rate, seed, epoch + 1, float(right[number].mean()), losses[number], tested[number])
                if seed not in best or (found.validation, -found.loss) > (best[seed].validation, -best[seed].loss):
                    best[seed] = found
        return list(best.values())


def _optimizer(epochs: int, steps: int) -> Any:
    """Return the optimizer of `train` for a base rate of 1, to be scaled by a factor."""
    from wisesr_cli.training.optimizers import build_optimizer

    settings = {"train.phases": [{"epochs": epochs, "freeze": "backbone", "learning_rate": 1.0}]}
    config = load_config(None, overrides_of(settings)).config
    optimizer = build_optimizer(config, config.phases[0], steps)
    optimizer.has_factor = True
    return optimizer


def chosen_rate(trials: Sequence[Trial]) -> float:
    """Return the learning rate with the highest mean validation accuracy; among equal ones, the lowest loss."""
    rates = dict.fromkeys(trial.rate for trial in trials)

    def judged(rate: float) -> tuple[float, float]:
        own = [trial for trial in trials if trial.rate == rate]
        return float(np.mean([trial.validation for trial in own])), -float(np.mean([trial.loss for trial in own]))

    return max(rates, key=judged)


def reduced_maps(features: Features, options: HeadOptions) -> dict[str, Maps]:
    """Return the maps of all splits, reduced to what a head reads."""
    return {name: reduced(maps, options) for name, maps in features.maps.items()}
