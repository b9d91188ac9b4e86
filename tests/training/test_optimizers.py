"""Optimizers match those of Keras bit for bit, with the learning rates of a schedule."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from wisesr_cli.training.arrays import named_arrays
from wisesr_cli.training.optimizers import SGD, Adam, AdamW, StepSchedule


def test_schedule_looks_up_the_learning_rate_of_every_step() -> None:
    schedule = StepSchedule([0.1, 0.2, 0.3])
    rates = [float(schedule(step)) for step in (0, 1, 2, 3, 99)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])
    assert StepSchedule.from_config(schedule.get_config()).rates.tolist() == schedule.rates.tolist()


OPTIMIZERS = {
    "sgd": (SGD, keras.optimizers.SGD, {"momentum": 0.0, "weight_decay": 0.1}),
    "sgd with momentum": (SGD, keras.optimizers.SGD, {"momentum": 0.9}),
    "adam": (Adam, keras.optimizers.Adam, {"weight_decay": 0.1}),
    "adamw": (AdamW, keras.optimizers.AdamW, {"weight_decay": 0.1}),
}


def trained_for_three_steps(optimizer: Any, gradients: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables of a small problem and of the optimizer after three steps."""
    variables = [
        keras.Variable(np.linspace(-1, 1, 7, dtype="float32") * scale, name=f"of scale {scale}")
        for scale in (0.1, 3.0, 50.0)
    ]
    optimizer.build(variables)
    for step in range(3):
        optimizer.apply([keras.ops.convert_to_tensor(gradient * (step + 1)) for gradient in gradients], variables)
    return named_arrays([*variables, *optimizer.variables])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_matches_keras_bit_for_bit(name: str) -> None:
    ours, keras_own, options = OPTIMIZERS[name]
    gradients = list(np.random.default_rng(0).standard_normal((3, 7)).astype("float32"))
    rates = np.array([0.1, 0.03, 0.007], "float32")
    found = trained_for_three_steps(ours(StepSchedule(rates), **options), gradients)
    expected = trained_for_three_steps(keras_own(StepSchedule(rates), **options), gradients)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


def with_aids(optimizer: Any, *, steps: int | None = None, momentum: float | None = None) -> Any:
    optimizer.gradient_accumulation_steps = steps
    if momentum is not None:
        optimizer.use_ema, optimizer.ema_momentum = True, momentum
    return optimizer


@pytest.mark.parametrize("aids", [{"steps": 2}, {"steps": 3}, {"momentum": 0.9}])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_accumulated_gradients_and_averaged_weights_match_keras_bit_for_bit(name: str, aids: dict[str, Any]) -> None:
    ours, keras_own, options = OPTIMIZERS[name]
    gradients = list(np.random.default_rng(0).standard_normal((3, 7)).astype("float32"))
    schedule = StepSchedule([0.1, 0.03, 0.007])
    found = trained_for_three_steps(with_aids(ours(schedule, **options), **aids), gradients)
    expected = trained_for_three_steps(with_aids(keras_own(schedule, **options), **aids), gradients)
    assert list(found) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value, err_msg=key)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradient_accumulation_updates_once_with_the_mean_gradient(name: str) -> None:
    ours, _, options = OPTIMIZERS[name]
    draws = np.random.default_rng(1).standard_normal((5, 7)).astype("float32")
    start = np.linspace(-1, 1, 7, dtype="float32")
    small, large = keras.Variable(start), keras.Variable(start)
    accumulating = with_aids(ours(StepSchedule([0.1]), **options), steps=2)
    plain = ours(StepSchedule([0.1]), **options)
    accumulating.build([small])
    plain.build([large])
    values = []
    for draw in draws:
        accumulating.apply([keras.ops.convert_to_tensor(draw)], [small])
        values.append(np.array(keras.ops.convert_to_numpy(small)))
    for pair in (draws[:2], draws[2:4]):
        plain.apply([keras.ops.convert_to_tensor((pair[0] + pair[1]) / 2)], [large])
    assert np.array_equal(values[0], start)
    assert np.array_equal(values[1], values[2])
    assert not np.array_equal(values[1], values[3])
    np.testing.assert_array_equal(values[4], values[3])  # the fifth gradient is pending
    np.testing.assert_allclose(values[4], keras.ops.convert_to_numpy(large), rtol=1e-6)
    [total] = [row.total for row in accumulating.rows]
    np.testing.assert_array_equal(keras.ops.convert_to_numpy(total), draws[4])


def test_weight_average_advances_per_update_and_keeps_the_constraint() -> None:
    variable = keras.Variable(np.array([0.5, 0.2], "float32"))
    variable.constraint = keras.constraints.NonNeg()
    optimizer = with_aids(SGD(StepSchedule([1.0])), steps=2, momentum=0.75)
    optimizer.build([variable])
    average, weights = None, np.array([0.5, 0.2])
    for step, gradient in enumerate([[0.1, 0.3], [0.3, 0.5], [-0.2, 0.1], [0.2, 0.1], [9.0, 9.0]], start=1):
        optimizer.apply([keras.ops.convert_to_tensor(np.array(gradient, "float32"))], [variable])
        if step == 2:
            weights = average = np.maximum(weights - np.array([0.2, 0.4]), 0)
        if step == 4:
            weights = np.maximum(weights - np.array([0.0, 0.1]), 0)
            average = 0.75 * average + 0.25 * weights  # type: ignore[operator]
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), weights, atol=1e-6)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(optimizer.rows[0].average), average, atol=1e-6)
    optimizer.finalize_variable_values([variable])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(variable), weights, atol=1e-6)


@pytest.mark.parametrize("norm", [0.5, 100.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_gradients_are_clipped_by_their_global_norm_as_in_keras(name: str, norm: float) -> None:
    ours, keras_own, options = OPTIMIZERS[name]
    gradients = list(np.random.default_rng(0).standard_normal((3, 7)).astype("float32"))
    schedule = StepSchedule([0.1])
    clipping = ours(schedule, **options)
    clipping.clip_norm = norm
    found = trained_for_three_steps(clipping, gradients)
    expected = trained_for_three_steps(keras_own(schedule, global_clipnorm=norm, **options), gradients)
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-5, atol=1e-6)
    whole = trained_for_three_steps(ours(schedule, **options), gradients)
    assert (norm == 100.0) == all(np.array_equal(found[key], whole[key]) for key in whole)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizer_looks_up_the_learning_rate_once_for_all_variables(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _, options = OPTIMIZERS[name]
    looked_up = []
    look_up = StepSchedule.__call__
    monkeypatch.setattr(StepSchedule, "__call__", lambda self, step: looked_up.append(step) or look_up(self, step))
    trained_for_three_steps(ours(StepSchedule([0.1]), **options), [np.ones(7, "float32")] * 3)
    assert len(looked_up) == 3
