"""How fast are position weights as one multiplication and sum, against the paper's depthwise convolution?

    python -m benchmarks.speed.weighting

Both layers have a weight per position and channel and a bias, and give the same numbers. A step is one forward and one
backward pass, to the weights and to the feature map, on 32 maps. The baseline is Keras' DepthwiseConv2D with a kernel
as large as the map. Both run in TensorFlow, compiled to a graph; XLA is off, as it makes the convolution slower on a
CPU.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np

from benchmarks.measuring import Answer, Question, Settings, alternate, main

BATCH = 32
WANTED = {7: (4.0, None), 16: (15.0, None)}  # side of the map: how many times as fast
QUICK_CHANNELS, CHANNELS = 64, 2048
LARGEST_DIFFERENCE = 1e-4  # between the gradients of both, relative to the largest


def measure(settings: Settings) -> Iterator[Answer]:
    """Yield an answer for every size of the map."""
    channels = QUICK_CHANNELS if settings.quick else CHANNELS
    for side, (reach, aim) in WANTED.items():
        question = Question(
            f"position weights, a step, map {side}x{side}x{channels}",
            "DepthwiseConv2D as large as the map",
            "steps/s",
            None if settings.quick else reach,
            None if settings.quick else aim,
        )
        ours, baseline, difference = build_steps(side, channels)
        speeds = alternate(
            partial(steps_per_second, ours), partial(steps_per_second, baseline), repetitions=settings.repetitions
        )
        yield Answer(question, *speeds, note=f"batch {BATCH}; the gradients differ by {difference:.1e} of the largest")


def build_steps(side: int, channels: int) -> tuple[Callable[[], Any], Callable[[], Any], float]:
    """Return a step of our layer and one of the baseline with the same weights, and how much their gradients differ."""
    import keras
    import tensorflow as tf

    from wisesr_cli.layers import PositionWeightedPooling2D

    random = np.random.default_rng(0)
    maps = tf.constant(random.standard_normal((BATCH, side, side, channels), "float32"))
    towards = tf.constant(random.standard_normal((BATCH, channels), "float32"))
    kernel, bias = random.random((side, side, channels), "float32"), np.zeros(channels, "float32")

    weighting = PositionWeightedPooling2D((side, side), constraint="none")
    weighting.build(maps.shape)
    weighting.set_weights([kernel, bias])
    convolution = keras.layers.DepthwiseConv2D((side, side))
    convolution.build(maps.shape)
    convolution.set_weights([kernel[..., None], bias])

    def step_of(layer: Any) -> Callable[[], Any]:
        @tf.function
        def step() -> Any:
            with tf.GradientTape() as tape:
                tape.watch(maps)
                loss = tf.reduce_sum(tf.reshape(layer(maps), (BATCH, channels)) * towards)
            return tape.gradient(loss, [variable.value for variable in layer.trainable_variables] + [maps])

        return step

    ours, baseline = step_of(weighting), step_of(convolution)
    return ours, baseline, largest_difference(ours(), baseline())


def largest_difference(ours: list[Any], baseline: list[Any]) -> float:
    """Return the largest difference between two lists of gradients; end the benchmark if they do not agree."""
    pairs = [(np.asarray(one).ravel(), np.asarray(other).ravel()) for one, other in zip(ours, baseline, strict=True)]
    difference = max(float(np.max(np.abs(one - other)) / np.max(np.abs(other))) for one, other in pairs)
    if difference > LARGEST_DIFFERENCE:
        raise SystemExit(f"the two layers are not the same: their gradients differ by {difference:.2e}")
    return difference


def steps_per_second(step: Callable[[], Any], seconds: float = 0.5) -> float:
    """Return the speed of a step, repeated for this long and at least twice."""
    started, steps = time.perf_counter(), 0
    while steps < 2 or time.perf_counter() - started < seconds:
        step()  # on a CPU, TensorFlow returns when everything is computed
        steps += 1
    return steps / (time.perf_counter() - started)


if __name__ == "__main__":
    main(__doc__, measure)
