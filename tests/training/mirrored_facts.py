"""Script that prints, as JSON, how two mirrored TensorFlow devices behave where Keras alone falls short."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from wisesr_cli.machine import keras_start

keras_start.start("cpu")

import keras  # noqa: E402  (the backend is chosen by now)

from wisesr_cli.training.devices.mirrored import Mirror, as_on_one_device, mirrored_strategy  # noqa: E402
from wisesr_cli.training.freezing import batch_norms  # noqa: E402
from wisesr_cli.training.optimizers import SGD, LossScale, StepSchedule  # noqa: E402

STRATEGY = mirrored_strategy(2, "cpu")


def on_both(function: Any, *values: Any) -> list[Any]:
    """Run a function on both devices, each with its own value, and return both results."""
    tensorflow = keras_start.loaded_tensorflow()
    given = STRATEGY.experimental_distribute_values_from_function(
        lambda context: tensorflow.constant(values[context.replica_id_in_sync_group])
    )
    result = tensorflow.function(lambda each: STRATEGY.run(function, args=(each,)))(given)
    return [np.asarray(local).tolist() for local in STRATEGY.experimental_local_results(result)]


def overflow(bad_device: int | None) -> dict[str, Any]:
    """Return the weights and the loss scale after a step in which the gradient of `bad_device` is infinite."""
    with STRATEGY.scope():
        variable = keras.Variable([1.0, 2.0])
        optimizer = LossScale(SGD(StepSchedule([0.5] * 9)), initial_scale=8.0, name="loss_scale_optimizer")
        optimizer.build([variable])

        def step(gradient: Any) -> Any:
            optimizer.apply([gradient], [variable])
            return gradient

        on_both(step, *(np.float32([np.inf if device == bad_device else 8.0, 16.0]) for device in range(2)))
        return {"weights": variable.numpy().tolist(), "scale": float(optimizer.dynamic_scale.numpy())}


def draws() -> list[Any]:
    """Return the numbers that each device draws from one seed generator."""
    with STRATEGY.scope():
        generator = keras.random.SeedGenerator(3)
        Mirror(STRATEGY).diversify_seed(generator.state)
        return on_both(lambda _: keras.random.uniform((3,), seed=generator), np.float32(0), np.float32(0))


def statistics(sizes: tuple[int, int]) -> list[Any]:
    """Return the moving mean of each device after shares of different sizes, then the mean over all rows."""
    rows = np.random.default_rng(0).normal(size=(sum(sizes), 4)).astype("float32")
    with STRATEGY.scope():
        inputs = keras.Input((4,))
        model = Mirror(STRATEGY).build_model(inputs, keras.layers.BatchNormalization(momentum=0.0)(inputs))
        on_both(lambda share: model(share, training=True), rows[: sizes[0]], rows[sizes[0] :])
        [layer] = batch_norms(model)
        with as_on_one_device(model):
            said = layer.get_config()["synchronized"]
        local = STRATEGY.experimental_local_results(layer.moving_mean.value)
        return [*(np.asarray(mean).tolist() for mean in local), rows.mean(axis=0).tolist(), said, layer.synchronized]


if __name__ == "__main__":
    facts = {
        "overflows": [overflow(device) for device in (0, 1, None)],
        "draws": draws(),
        "statistics": statistics((5, 2)),
    }
    print(json.dumps(facts))
