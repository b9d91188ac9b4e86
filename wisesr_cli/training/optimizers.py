"""Keras' optimizers, with shared values computed once per step instead of once per variable.

Keras recomputes the learning rate, the powers of beta and the distribution for every variable, which is half of the
graph that TensorFlow traces before the first step. `apply` is Keras' public method to update all variables together.
Operations and optimizer variables are Keras' own, in the same order, so that weights and state are bit-identical.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from wisesr_cli.config.schedules import PlateauOptions, learning_rates
from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import PhaseConfig, SgdOptions
from wisesr_cli.training.devices.mirrored import summed

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-7  # of Keras' Adam


class StepSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Looks up the learning rate of a step in `rates`, float32 (steps,); past its end the last one is used."""

    def __init__(self, rates: Any) -> None:
        super().__init__()
        self.rates = np.asarray(rates, dtype="float32")

    def __call__(self, step: Any) -> Any:
        """Return the learning rate of a step."""
        return ops.take(self.rates, ops.minimum(ops.cast(step, "int32"), len(self.rates) - 1))

    def get_config(self) -> dict[str, Any]:
        """Return the table."""
        return {"rates": self.rates.tolist()}


@dataclass(frozen=True)
class _Row:
    """A variable and its optimizer variables; in a list or tuple, Keras would track it as the optimizer's own.

    `average`: the average of the variable, if weights are averaged; `total`: the sum of its gradients since the last
    update, if gradients are accumulated.
    """

    variable: Any
    kept: list[Any]
    average: Any = None
    total: Any = None


class _Optimizer(keras.optimizers.Optimizer):
    """Updates all variables at once; they are float32 in every numeric precision."""

    clip_norm: float | None = None  # of all gradients combined
    has_factor = False  # whether the learning rate has a factor that is set every epoch
    factor: Any = None

    def __init__(self, schedule: StepSchedule, kept: list[str], weight_decay: float | None) -> None:
        super().__init__(schedule, weight_decay=weight_decay)
        self.schedule, self.kept = schedule, kept
        self.step = self.iterations  # with gradient accumulation, `iterations` counts updates instead of steps

    def build(self, variables: list[Any]) -> None:
        """Create the optimizer variables of every variable."""
        before = len(self.variables)
        super().build(variables)
        of_keras = iter(self.variables[before:])  # averages first, then totals
        averages = [next(of_keras) if self.use_ema else None for _ in variables]
        totals = [next(of_keras, None) for _ in variables]
        made = self.add_optimizer_variables(variables, list(self.kept))
        of_variables = zip(variables, averages, totals, *made, strict=True)
        self.rows = [_Row(variable, kept, average, total) for variable, average, total, *kept in of_variables]
        if self.has_factor:
            self.factor = self.add_variable((), initializer="ones", dtype="float32", name="learning_rate_factor")

    def apply(self, grads: Any, trainable_variables: Any = None) -> None:
        """Apply the gradients of the variables that the optimizer was built for."""
        if not self.built:
            self.build(list(trainable_variables))
        gradients = summed(grads)
        if self.gradient_accumulation_steps:
            self._accumulate(gradients, self.gradient_accumulation_steps)
        else:
            self._apply_update(gradients)
        self.step.assign_add(1)

    def _accumulate(self, gradients: Any, steps: int) -> None:
        """Add the gradients to the accumulated ones; every `steps` steps, update the variables with their mean.

        JAX cannot assign within a branch, so the update is always done and then kept or reverted, as in Keras.
        """
        is_due = ops.equal((self.step.value + 1) % steps, 0)
        totals = [row.total.value + gradient for row, gradient in zip(self.rows, gradients, strict=True)]
        changed = [*(row.variable for row in self.rows), *self.variables]
        before = [ops.copy(variable) for variable in changed]
        self._apply_update([total / steps for total in totals])
        for variable, value in zip(changed, before, strict=True):
            variable.assign(ops.where(is_due, variable.value, value))
        for row, total in zip(self.rows, totals, strict=True):
            row.total.assign(ops.where(is_due, ops.zeros_like(total), total))

    def _apply_update(self, gradients: Any) -> None:
        """Update the variables, then their averages."""
        rate = ops.cast(self.learning_rate, "float32")
        if self.factor is not None:
            rate = rate * self.factor.value
        if self.weight_decay is not None:
            decay = ops.cast(self.weight_decay, "float32")
            for row in self.rows:
                self.assign_sub(row.variable, row.variable.value * decay * rate)
        self.update(self._clipped(gradients), rate)
        for variable in (row.variable for row in self.rows if row.variable.constraint is not None):
            variable.assign(variable.constraint(variable))
        if self.use_ema:
            # Unlike Keras, average the constrained variables: the constraints of heads also hold for their means.
            kept = ops.cast(ops.not_equal(self.iterations, 0), "float32") * self.ema_momentum
            for row in self.rows:
                row.average.assign(kept * row.average.value + (1 - kept) * row.variable.value)

    def finalize_variable_values(self, var_list: Any) -> None:
        """Leave the variables unchanged: Keras would replace them with their averages when `fit` ends, here a phase."""

    def _clipped(self, gradients: Any) -> Any:
        """Return gradients scaled to a global norm of at most `clip_norm`, like Keras' `global_clipnorm`."""
        if self.clip_norm is None:
            return gradients
        squares = [ops.sum(ops.square(ops.cast(gradient, "float32"))) for gradient in gradients]
        norm = ops.sqrt(sum(squares[1:], squares[0]))
        scale = self.clip_norm / ops.maximum(norm, self.clip_norm)
        return [gradient * ops.cast(scale, gradient.dtype) for gradient in gradients]


class SGD(_Optimizer):
    """Keras' SGD, without Nesterov momentum."""

    def __init__(self, schedule: StepSchedule, *, momentum: float = 0.0, weight_decay: float | None = None) -> None:
        super().__init__(schedule, ["momentum"] if momentum else [], weight_decay)
        self.momentum = momentum

    def update(self, gradients: Any, rate: Any) -> None:
        """Apply gradients with momentum."""
        for row, gradient in zip(self.rows, gradients, strict=True):
            if not row.kept:
                self.assign_sub(row.variable, gradient * rate)
                continue
            [momentum] = row.kept
            self.assign(momentum, momentum.value * self.momentum - gradient * rate)
            self.assign_add(row.variable, momentum.value)


class Adam(_Optimizer):
    """Keras' Adam, without AMSGrad."""

    def __init__(self, schedule: StepSchedule, *, weight_decay: float | None = None) -> None:
        super().__init__(schedule, ["momentum", "velocity"], weight_decay)

    def update(self, gradients: Any, rate: Any) -> None:
        """Apply the running means of the gradients, divided by the roots of the running means of their squares."""
        step = ops.cast(self.iterations + 1, "float32")
        first, second = (ops.power(ops.cast(beta, "float32"), step) for beta in (BETA_1, BETA_2))
        rate = rate * ops.sqrt(1 - second) / (1 - first)
        for row, gradient in zip(self.rows, gradients, strict=True):
            mean, square = row.kept
            self.assign_add(mean, (gradient - mean.value) * (1 - BETA_1))
            self.assign_add(square, (ops.square(gradient) - square.value) * (1 - BETA_2))
            self.assign_sub(row.variable, mean.value * rate / (ops.sqrt(square.value) + EPSILON))


class AdamW(Adam):
    """Keras' AdamW, which equals its Adam: both decouple weight decay from the gradients."""


class LossScale(keras.optimizers.LossScaleOptimizer):
    """Keras' loss scaling in float16 that detects overflows on all devices; Keras itself checks only the first."""

    def check_finite(self, grads: Any) -> Any:
        """Return whether the gradients are finite on every device."""
        [overflows] = summed([ops.cast(ops.logical_not(super().check_finite(grads)), "float32")])
        return ops.equal(overflows, 0.0)


def build_optimizer(config: Config, phase: PhaseConfig, steps_per_epoch: int) -> Any:
    """Return a new optimizer for a phase, with its learning-rate schedule; in float16, with loss scaling."""
    options, plan = config.train.optimizer, phase.schedule or config.train.schedule
    rates = learning_rates(
        phase.learning_rate or options.learning_rate,
        plan,
        total_epochs=phase.epochs,
        steps_per_epoch=steps_per_epoch,
    )
    schedule, decay = StepSchedule(rates), options.weight_decay or None
    if isinstance(options, SgdOptions):
        optimizer: _Optimizer = SGD(schedule, momentum=options.momentum, weight_decay=decay)
    else:
        optimizer = (AdamW if options.name == "adamw" else Adam)(schedule, weight_decay=decay)
    optimizer.clip_norm, optimizer.has_factor = config.train.gradient_clip_norm, isinstance(plan, PlateauOptions)
    if (momentum := config.train.ema_momentum) is not None:
        optimizer.use_ema, optimizer.ema_momentum = True, momentum
    if config.train.gradient_accumulation_steps > 1:
        optimizer.gradient_accumulation_steps = config.train.gradient_accumulation_steps
    is_scaled = config.train.precision == "mixed_float16"
    return LossScale(optimizer, name="loss_scale_optimizer") if is_scaled else optimizer
