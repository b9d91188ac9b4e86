from __future__ import annotations

import itertools
import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisesr_cli.config.schedules import (
    SCHEDULES,
    ConstantOptions,
    CosineOptions,
    ExponentialOptions,
    PlateauOptions,
    ScheduleOptions,
    learning_rates,
    plateau_factor,
)


def rates(options: ScheduleOptions, *, epochs: int = 10, steps: int = 7, base: float = 1.0) -> list[float]:
    return learning_rates(base, options, total_epochs=epochs, steps_per_epoch=steps).tolist()


def slow_factor(options: ScheduleOptions, step: int, *, epochs: int, steps: int) -> float:
    """Return the factor of one step, computed naively."""
    position = step / steps
    if isinstance(options, ConstantOptions):
        factor = 1.0
    elif isinstance(options, CosineOptions):
        fraction = 0.0
        if position > options.warmup_epochs:
            fraction = (position - options.warmup_epochs) / (epochs - options.warmup_epochs)
        factor = (1 + math.cos(math.pi * fraction)) / 2
    else:
        assert isinstance(options, ExponentialOptions)
        if options.staircase:
            factor = 1.0
            decay = options.decay_epochs
            while position >= decay - 1e-7:
                factor *= options.decay_rate
                decay += options.decay_epochs
        else:
            factor = options.decay_rate ** (position / options.decay_epochs)
    if position + 0.5 / steps < options.warmup_epochs:
        factor *= (position + 0.5 / steps) / options.warmup_epochs
    return factor


OPTIONS = st.one_of(
    st.builds(ConstantOptions, warmup_epochs=st.sampled_from([0.0, 0.5, 2.0])),
    st.builds(CosineOptions, warmup_epochs=st.sampled_from([0.0, 0.5, 1.0, 3.0])),
    st.builds(
        ExponentialOptions,
        warmup_epochs=st.sampled_from([0.0, 1.0]),
        decay_rate=st.sampled_from([0.94, 0.5, 1.0]),
        decay_epochs=st.sampled_from([0.1, 0.5, 1.0, 2.0, 2.5, 3.0, 100.0]),
        staircase=st.booleans(),
    ),
)


@given(OPTIONS, st.integers(4, 12), st.integers(1, 30))
def test_every_schedule_matches_a_naive_loop(options: ScheduleOptions, epochs: int, steps: int) -> None:
    expected = [0.3 * slow_factor(options, step, epochs=epochs, steps=steps) for step in range(epochs * steps)]
    assert rates(options, epochs=epochs, steps=steps, base=0.3) == pytest.approx(expected, rel=1e-5, abs=1e-8)


def test_staircase_steps_on_time_despite_inexact_fractions() -> None:
    # 0.3 / 0.1 is 2.9999999999999996.
    found = rates(ExponentialOptions(decay_rate=0.5, decay_epochs=0.1), epochs=1, steps=10)
    assert found == pytest.approx([0.5**step for step in range(10)])


def test_cosine_starts_at_the_base_rate_halves_midway_and_ends_near_zero() -> None:
    found = rates(CosineOptions(warmup_epochs=0), epochs=10, steps=100, base=0.2)
    assert found[0] == pytest.approx(0.2)
    assert found[500] == pytest.approx(0.1)
    assert 0 < found[-1] < 1e-5
    assert all(later <= earlier for earlier, later in itertools.pairwise(found))


def test_warmup_rises_in_equal_steps_from_above_zero_to_the_base() -> None:
    found = rates(ConstantOptions(warmup_epochs=2), epochs=4, steps=5)
    assert found[:10] == pytest.approx([(step + 0.5) / 10 for step in range(10)])
    assert found[10:] == [1.0] * 10


def test_warmup_at_least_as_long_as_training_only_rises() -> None:
    for warmup in (3, 5):
        found = rates(CosineOptions(warmup_epochs=warmup), epochs=3, steps=4)
        assert all(earlier < later <= 1 for earlier, later in itertools.pairwise(found))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_has_a_finite_rate_per_step_never_above_the_base(name: str) -> None:
    found = learning_rates(0.5, SCHEDULES[name].options(name=name), total_epochs=3, steps_per_epoch=4)
    assert found.shape == (12,)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()
    assert (found > 0).all()
    assert (found <= 0.5).all()
    assert SCHEDULES[name].options.model_fields["name"].default == name


@given(
    st.lists(st.floats(0, 3, width=32), max_size=30),
    st.builds(
        PlateauOptions,
        factor=st.sampled_from([0.1, 0.5, 0.9]),
        patience=st.integers(1, 4),
        min_delta=st.sampled_from([0.0, 0.25]),
        cooldown=st.integers(0, 3),
        min_learning_rate=st.sampled_from([0.0, 0.02, 5.0]),
        monitor=st.sampled_from(["val_loss", "val_top1_accuracy"]),
    ),
)
def test_plateau_factor_matches_keras(values: list[float], options: PlateauOptions) -> None:
    mode = "max" if options.monitor.endswith("accuracy") else "min"
    given = {"factor": options.factor, "patience": options.patience, "min_delta": options.min_delta}
    callback = keras.callbacks.ReduceLROnPlateau(
        options.monitor, mode=mode, cooldown=options.cooldown, min_lr=options.min_learning_rate, **given
    )
    optimizer = SimpleNamespace(learning_rate=0.1)
    callback.set_model(SimpleNamespace(optimizer=optimizer))
    callback.on_train_begin()
    for epoch, value in enumerate(values):
        callback.on_epoch_end(epoch, {options.monitor: value})
        assert 0.1 * plateau_factor(options, 0.1, values[: epoch + 1]) == pytest.approx(
            float(optimizer.learning_rate), rel=1e-5
        )
