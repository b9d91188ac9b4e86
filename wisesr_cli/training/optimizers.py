"""The optimizers: those of Keras, which compute once per step what they would compute once per variable.

Keras asks for the learning rate, the powers of beta and the distribution of every variable anew. That is half of the
graph that TensorFlow traces and prepares before the first step, and much of what a small model waits for in every step.
The operations that reach a variable are Keras' own, in their order, so that weights and state are the same bit by bit.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import ops

from wisesr_cli.config.schedules import learning_rates
from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import AdamOptions, AdamWOptions, PhaseConfig, SgdOptions
from wisesr_cli.training.devices.mirrored import summed


@keras.saving.register_keras_serializable(package="wisesr")
class StepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Looks the learning rate of a step up in a table.

    Args:
        rates: the learning rate of every step, float32 (steps,); beyond its end the last one holds.
    """

    def __init__(self, rates: Any) -> None:
        super().__init__()
        self.rates = np.asarray(rates, dtype="float32")

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step."""
        last = len(self.rates) - 1
        return ops.take(self.rates, ops.minimum(ops.cast(step, "int32"), last))

    def get_config(self) -> dict[str, Any]:
        """Return the table."""
        return {"rates": self.rates.tolist()}


class _SharedDecay:
    """Weight decay with one learning rate for all variables. Every variable is float32, whatever the precision."""

    def _apply_weight_decay(self: Any, variables: list[Any]) -> None:
        if self.weight_decay is None:
            return
        decay, rate = ops.cast(self.weight_decay, "float32"), ops.cast(self.learning_rate, "float32")
        for variable in variables:
            if self._use_weight_decay(variable):
                self.assign_sub(variable, variable.value * decay * rate)


class _SharedSgd(_SharedDecay):
    def _backend_update_step(self: Any, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
        rate = ops.cast(learning_rate, "float32")
        for gradient, variable in zip(summed(gradients), variables, strict=True):
            if not self.momentum:
                self.assign_sub(variable, gradient * rate)
                continue
            momentum = self.momentums[self._get_variable_index(variable)]
            self.assign(momentum, momentum.value * self.momentum - gradient * rate)
            self.assign_add(variable, momentum.value)


class _SharedAdam(_SharedDecay):
    def _backend_update_step(self: Any, gradients: list[Any], variables: list[Any], learning_rate: Any) -> None:
        step = ops.cast(self.iterations + 1, "float32")
        first, second = (ops.power(ops.cast(beta, "float32"), step) for beta in (self.beta_1, self.beta_2))
        rate = ops.cast(learning_rate, "float32") * ops.sqrt(1 - second) / (1 - first)
        for gradient, variable in zip(summed(gradients), variables, strict=True):
            index = self._get_variable_index(variable)
            mean, square = self._momentums[index], self._velocities[index]
            self.assign_add(mean, (gradient - mean.value) * (1 - self.beta_1))
            self.assign_add(square, (ops.square(gradient) - square.value) * (1 - self.beta_2))
            self.assign_sub(variable, mean.value * rate / (ops.sqrt(square.value) + self.epsilon))


class SGD(_SharedSgd, keras.optimizers.SGD):
    """Keras' SGD, without Nesterov's momentum."""


class Adam(_SharedAdam, keras.optimizers.Adam):
    """Keras' Adam, without AMSGrad."""


class AdamW(_SharedAdam, keras.optimizers.AdamW):
    """Keras' AdamW, without AMSGrad."""


class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras' scaling of the loss in float16, with an eye on all devices: Keras looks for overflows on the first one."""

    def check_finite(self, grads: Any) -> Any:
        """Return whether the gradients are finite on every device that trains."""
        [overflows] = summed([ops.cast(ops.logical_not(super().check_finite(grads)), "float32")])
        return ops.equal(overflows, 0.0)


def build_optimizer(config: Config, phase: PhaseConfig, steps_per_epoch: int) -> Any:
    """Return the fresh optimizer of a phase, with its learning-rate schedule; in float16, with a scaled loss."""
    optimizer = _build_unscaled(config, phase, steps_per_epoch)
    if config.train.precision == "mixed_float16":
        return LossScale(optimizer, name="loss_scale_optimizer")
    return optimizer


def _build_unscaled(config: Config, phase: PhaseConfig, steps_per_epoch: int) -> Any:
    options = config.train.optimizer
    rates = learning_rates(
        phase.learning_rate or options.learning_rate,
        phase.schedule or config.train.schedule,
        total_epochs=phase.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    schedule, decay = StepSchedule(rates), options.weight_decay or None
    if isinstance(options, SgdOptions):
        return SGD(schedule, momentum=options.momentum, weight_decay=decay)
    if isinstance(options, AdamWOptions):
        return AdamW(schedule, weight_decay=options.weight_decay)
    assert isinstance(options, AdamOptions)
    return Adam(schedule, weight_decay=decay)
