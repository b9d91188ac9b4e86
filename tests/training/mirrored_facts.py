"""Prints, as JSON, what two devices of TensorFlow do where Keras leaves something undone; in a process of its own."""

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
    """Run a function on both devices, each with its own value, and return what each gave."""
    tensorflow = keras_start.loaded_tensorflow()
    given = STRATEGY.experimental_distribute_values_from_function(
        lambda context: tensorflow.constant(values[context.replica_id_in_sync_group])
    )
    result = tensorflow.function(lambda each: STRATEGY.run(function, args=(each,)))(given)
    return [np.asarray(local).tolist() for local in STRATEGY.experimental_local_results(result)]


def overflow(bad_device: int | None) -> dict[str, Any]:
    """Return weights and scale after a step in which the gradient of one device is infinite."""
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
    """Return what both devices draw with one seed generator."""
    with STRATEGY.scope():
        generator = keras.random.SeedGenerator(3)
        Mirror(STRATEGY).diversify_seed(generator.state)
        return on_both(lambda _: keras.random.uniform((3,), seed=generator), np.float32(0), np.float32(0))


def statistics(sizes: tuple[int, int]) -> list[Any]:
    """Return the moving means of both devices after shares of different sizes, and the mean of all their rows."""
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
