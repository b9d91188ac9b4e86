"""Learning-rate schedules, as NumPy functions of the position in training.

To add one, write its options and a function, and add a row to `SCHEDULES`. A function takes positions in epochs (0 is
the start, 1.5 is half-way through the second epoch) and returns factors of the base learning rate. `learning_rates`
evaluates it once per step, and training looks the values up, so every backend uses the same ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from pydantic import Field

from wisesr_cli.settings import Options

if TYPE_CHECKING:  # importing NumPy would make reporting a typo in a config a third slower
    import numpy as np
    from numpy.typing import NDArray

    Floats: TypeAlias = NDArray[np.float64]


Monitor = Literal["val_loss", "val_top1_accuracy", "loss", "top1_accuracy"]


class ScheduleOptions(Options):
    """Options that every schedule has."""

    name: str
    warmup_epochs: float = Field(default=1.0, ge=0)
    """Epochs over which the learning rate rises linearly from near zero."""


class ConstantOptions(ScheduleOptions):
    """The same learning rate throughout."""

    name: Literal["constant"] = "constant"
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs over which the learning rate rises linearly from near zero."""


class CosineOptions(ScheduleOptions):
    """Half a cosine from the base learning rate to zero at the end of the phase."""

    name: Literal["cosine"] = "cosine"


class ExponentialOptions(ScheduleOptions):
    """A constant factor every so many epochs, as in the paper's notebooks."""

    name: Literal["exponential"] = "exponential"
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs over which the learning rate rises linearly from near zero."""
    decay_rate: float = Field(default=0.94, gt=0, le=1)
    """Factor of the learning rate after every `decay_epochs`."""
    decay_epochs: float = Field(default=2.0, gt=0)
    """Epochs between two decays."""
    staircase: bool = True
    """Whether the factor comes in steps rather than continuously."""


class PlateauOptions(ScheduleOptions):
    """A factor whenever a value has not got better for some epochs, as Keras' ReduceLROnPlateau."""

    name: Literal["plateau"] = "plateau"
    warmup_epochs: float = Field(default=0.0, ge=0)
    """Epochs over which the learning rate rises linearly from near zero."""
    monitor: Monitor = "val_loss"
    """The metric to monitor."""
    factor: float = Field(default=0.1, gt=0, lt=1)
    """Factor of the learning rate after every plateau."""
    patience: int = Field(default=5, ge=1)
    """Epochs without improvement before the learning rate drops."""
    min_delta: float = Field(default=0.0001, ge=0)
    """Smallest change that counts as an improvement."""
    cooldown: int = Field(default=0, ge=0)
    """Epochs after a drop that are not counted."""
    min_learning_rate: float = Field(default=0.0, ge=0)
    """Lower bound of the learning rate."""


def plateau_factor(options: PlateauOptions, base: float, values: Iterable[float]) -> float:
    """Return the factor of the learning rate `base`, given the values of `options.monitor` after each epoch."""
    gains = (value if options.monitor.endswith("accuracy") else -value for value in values)
    least = min(1.0, options.min_learning_rate / base)
    best, factor, wait, cooldown = -math.inf, 1.0, 0, 0
    for gain in gains:
        if cooldown:
            cooldown, wait = cooldown - 1, 0
        if gain > best + options.min_delta:
            best, wait = gain, 0
        elif not cooldown:
            wait += 1
            if wait >= options.patience:
                factor, cooldown, wait = max(factor * options.factor, least), options.cooldown, 0
    return factor


def constant(epochs: Floats, total_epochs: float, options: ScheduleOptions) -> Floats:
    """Return 1 everywhere."""
    import numpy as np

    return np.ones_like(epochs)


def cosine(epochs: Floats, total_epochs: float, options: CosineOptions) -> Floats:
    """Return half a cosine from 1 at the end of the warmup to 0 at `total_epochs`."""
    import numpy as np

    length = max(total_epochs - options.warmup_epochs, 1e-9)
    position = np.clip((epochs - options.warmup_epochs) / length, 0.0, 1.0)
    return 0.5 * (1.0 + np.cos(np.pi * position))


def exponential(epochs: Floats, total_epochs: float, options: ExponentialOptions) -> Floats:
    """Return `decay_rate` to the power of the decays that have passed."""
    import numpy as np

    decays = epochs / options.decay_epochs
    # The tolerance is needed because 0.3 / 0.1 is just below 3.
    return np.power(options.decay_rate, np.floor(decays + 1e-9) if options.staircase else decays)


def learning_rates(
    base: float, options: ScheduleOptions, *, total_epochs: int, steps_per_epoch: int
) -> NDArray[np.float32]:
    """Return the learning rate of every step of a phase, shape (total_epochs * steps_per_epoch,)."""
    import numpy as np

    steps = np.arange(total_epochs * steps_per_epoch)
    epochs = steps / steps_per_epoch
    schedule = SCHEDULES[options.name]
    factors = schedule.function(epochs, float(total_epochs), options)
    if options.warmup_epochs > 0:
        # Shifted by half a step, so that the learning rate of the first step is not zero.
        factors = factors * np.minimum(1.0, (epochs + 0.5 / steps_per_epoch) / options.warmup_epochs)
    return (base * factors).astype(np.float32)


@dataclass(frozen=True)
class Schedule:
    """A row of `SCHEDULES`."""

    options: type[ScheduleOptions]
    function: Callable[[Floats, float, Any], Floats]


SCHEDULES: dict[str, Schedule] = {
    "constant": Schedule(ConstantOptions, constant),
    "cosine": Schedule(CosineOptions, cosine),
    "exponential": Schedule(ExponentialOptions, exponential),
    "plateau": Schedule(PlateauOptions, constant),  # `plateau_factor` is applied after every epoch
}
