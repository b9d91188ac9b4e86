"""Random augmentation of training images, on the device and in the training step only; never saved in a model.

To add an operation: a field in `AugmentConfig` (config/training.py) and a row in `OPERATIONS`. Positions outside the
image repeat its border, except in RandAugment, which mirrors it. Only RandAugment requires RGB; the other operations
work with any channels. MixUp and CutMix, which mix examples, are in `objective`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from wisesr_cli.config.training import AugmentConfig


class _RandomValue(keras.layers.Layer):
    """Changes each image (batch, height, width, channels) by one random value, in training only; clips to 0..255."""

    def __init__(self, low: float, high: float, *, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the changed images."""
        if not training:
            return inputs
        shape = (ops.shape(inputs)[0], 1, 1, 1)
        value = keras.random.uniform(shape, self.low, self.high, dtype=inputs.dtype, seed=self.seed_generator)
        return ops.clip(self.change(inputs, value), 0.0, 255.0)


class RandomChannelShift(_RandomValue):
    """Adds one random value per image, in the units of the pixels (0..255), to all its channels; see `_RandomValue`."""

    change = operator.add  # on TensorFlow, Keras' `ops.add` mistakes the values for a bias over rows if as many


class RandomBrightnessFactor(_RandomValue):
    """Multiplies each image by one random factor; see `_RandomValue`. Keras' RandomBrightness adds instead."""

    change = operator.mul


def _jit_apart(layer: Any) -> Any:
    """Return RandAugment marked as not compilable by TensorFlow, like its inner layers; Keras does not mark it."""
    layer.supports_jit = False
    return layer


def build_augmentation(config: AugmentConfig, *, seed: int) -> list[Any]:
    """Return the layers of the config in the order in which they are applied to float32 pixels."""
    layers = [
        build(value, seed=seed + own_seed, dtype="float32")
        for name, (own_seed, build) in OPERATIONS.items()
        if (value := getattr(config, name))
    ]
    if keras.backend.backend() == "jax":
        for layer in layers:
            layer.supports_jit = True  # only TensorFlow cannot compile them; False would disable XLA on JAX
    return layers


def seed_variables(model: Any) -> list[Any]:
    """Return the states of all seed generators of a model, those of the augmentation first."""
    return [variable for variable in model.variables if variable.name == "seed_generator_state"]


def seed_states(seed: int, epoch: int, count: int) -> list[NDArray[np.uint32]]:
    """Return the states of `count` seed generators at the start of an epoch, uint32 (2,) each."""
    seeds = [np.random.SeedSequence([seed, epoch, number]) for number in range(count)]
    return [each.generate_state(2) & np.uint32(0x7FFFFFFF) for each in seeds]


# By config field: the offset added to the run's seed, and what builds the layer from the field's value.
OPERATIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "horizontal_flip": (0, lambda _, **options: keras.layers.RandomFlip("horizontal", **options)),
    # A separate layer: Keras' "horizontal_and_vertical" draws once and flips both ways or not at all.
    "vertical_flip": (7, lambda _, **options: keras.layers.RandomFlip("vertical", **options)),
    "rotation": (
        1,
        lambda degrees, **options: keras.layers.RandomRotation(degrees / 360.0, fill_mode="nearest", **options),
    ),
    "zoom": (
        2,
        lambda most, **options: keras.layers.RandomZoom((-most, most), (-most, most), fill_mode="nearest", **options),
    ),
    "shift": (3, lambda most, **options: keras.layers.RandomTranslation(most, most, fill_mode="nearest", **options)),
    "channel_shift": (4, lambda most, **options: RandomChannelShift(-most, most, **options)),
    "brightness": (5, lambda limits, **options: RandomBrightnessFactor(*limits, **options)),
    "contrast": (6, lambda most, **options: keras.layers.RandomContrast(most, value_range=(0, 255), **options)),
    "rand_augment": (8, lambda strength, **options: _jit_apart(keras.layers.RandAugment(factor=strength, **options))),
    # Given a single number, Keras would draw the probability between 0 and that number.
    "random_erasing": (9, lambda share, **options: keras.layers.RandomErasing((share, share), **options)),
}
