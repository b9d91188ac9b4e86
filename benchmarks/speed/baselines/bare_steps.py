"""Trains with only Keras on one batch that stays on the device, and prints images per second and the device.

Arguments: backbone, side in pixels, batch, precision, number of steps, and optionally `forward`: the backbone alone is
run, without training. KERAS_BACKEND: tensorflow or jax.
"""

import os
import sys
import time

import keras
import numpy as np

name, side, batch, precision, steps = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4], int(sys.argv[5])
keras.config.set_dtype_policy(precision)
backbone = getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(side, side, 3))
vector = keras.layers.GlobalAveragePooling2D()(backbone.output)
model = keras.Model(backbone.input, keras.layers.Dense(10, dtype="float32")(vector))
model.compile(
    optimizer=keras.optimizers.AdamW(1e-3, weight_decay=1e-4),
    loss=keras.losses.CategoricalCrossentropy(from_logits=True),
)
random = np.random.default_rng(0)
data = (
    keras.ops.convert_to_tensor(random.random((batch, side, side, 3), "float32")),
    keras.ops.convert_to_tensor(np.eye(10, dtype="float32")[random.integers(0, 10, batch)]),
)
model.train_on_batch(*data)  # creates every variable
is_forward = sys.argv[6:] == ["forward"]

if keras.backend.backend() == "jax":
    import jax

    device = jax.devices()[0].device_kind
    groups = (model.trainable_variables, model.non_trainable_variables, model.optimizer.variables)
    state = tuple([variable.value for variable in group] for group in (*groups, model.metrics_variables))
    jitted = jax.jit(model.train_step, donate_argnums=0)
    forward = jax.jit(lambda weights, pixels: backbone.stateless_call(*weights, pixels, training=False)[0])

    def run_forward(count: int) -> None:
        """Run the backbone, and wait for the last batch."""
        trainable = [variable.value for variable in backbone.trainable_variables]
        fixed = [variable.value for variable in backbone.non_trainable_variables]
        for _ in range(count):
            found = forward((trainable, fixed), data[0])
        jax.block_until_ready(found)

    def train(count: int) -> None:
        """Take steps, and wait for the last."""
        global state
        for _ in range(count):
            _, state = jitted(state, data)
        jax.block_until_ready(state)
else:
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    device = tf.config.experimental.get_device_details(gpus[0])["device_name"] if gpus else "cpu"
    compiled = tf.function(model.train_step)
    forward = tf.function(lambda pixels: backbone(pixels, training=False))

    def run_forward(count: int) -> None:
        """Run the backbone, and wait for the last batch."""
        for _ in range(count):
            found = forward(data[0])
        found.numpy()

    def train(count: int) -> None:
        """Take steps, and wait for the last."""
        for _ in range(count):
            logs = compiled(data)
        float(logs["loss"])


run = run_forward if is_forward else train
run(2)
started = time.perf_counter()
run(steps)
print("images_per_second", steps * batch / (time.perf_counter() - started))
print("device", device, "with", os.environ.get("KERAS_BACKEND") or "tensorflow")
