"""Random changes of training images, on the device and in the training step only; never part of a saved model.

To add one: a field in `AugmentConfig` (config/training.py) and a row in `OPERATIONS`. The geometric
operations are Keras' own; the two that it lacks are here. Positions outside the image repeat its border.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from wisesr_cli.config.training import AugmentConfig


class RandomChannelShift(keras.layers.Layer):
    """Adds one random value per image to all its channels, while training.

    Args:
        limit: largest value added or taken away, in the units of the pixels (0..255).
        seed: start of the random draws.

    Input and output shape:
        (batch, height, width, 3). Values are clipped to 0..255.
    """

    def __init__(self, limit: float, *, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.limit = limit
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the shifted images."""
        if not training:
            return inputs
        shape = (ops.shape(inputs)[0], 1, 1, 1)
        shift = keras.random.uniform(shape, -self.limit, self.limit, dtype=inputs.dtype, seed=self.seed_generator)
        return ops.clip(inputs + shift, 0.0, 255.0)


class RandomBrightnessFactor(keras.layers.Layer):
    """Multiplies each image by one random factor, while training. Keras' RandomBrightness adds instead.

    Args:
        low: smallest factor.
        high: largest factor.
        seed: start of the random draws.

    Input and output shape:
        (batch, height, width, 3). Values are clipped to 0..255.
    """

    def __init__(self, low: float, high: float, *, seed: int, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high
        self.seed_generator = keras.random.SeedGenerator(seed)

    def call(self, inputs: Any, training: bool = False) -> Any:
        """Return the brightened or darkened images."""
        if not training:
            return inputs
        shape = (ops.shape(inputs)[0], 1, 1, 1)
        factor = keras.random.uniform(shape, self.low, self.high, dtype=inputs.dtype, seed=self.seed_generator)
        return ops.clip(inputs * factor, 0.0, 255.0)


def build_augmentation(config: AugmentConfig, *, seed: int) -> list[Any]:
    """Return the layers that the config asks for, in the order in which they are applied to float32 pixels."""
    layers = [layer for build in OPERATIONS.values() if (layer := build(config, seed)) is not None]
    if keras.backend.backend() == "jax":
        for layer in layers:
            layer.supports_jit = True  # Keras says no for TensorFlow's sake; on JAX nothing at all would be compiled
    return layers


def _horizontal_flip(config: AugmentConfig, seed: int) -> Any:
    return keras.layers.RandomFlip("horizontal", seed=seed, dtype="float32") if config.horizontal_flip else None


def _vertical_flip(config: AugmentConfig, seed: int) -> Any:
    # A layer of its own: Keras' "horizontal_and_vertical" makes one draw, and flips both ways or not at all.
    return keras.layers.RandomFlip("vertical", seed=seed + 7, dtype="float32") if config.vertical_flip else None


def _rotation(config: AugmentConfig, seed: int) -> Any:
    if not config.rotation:
        return None
    return keras.layers.RandomRotation(config.rotation / 360.0, fill_mode="nearest", seed=seed + 1, dtype="float32")


def _zoom(config: AugmentConfig, seed: int) -> Any:
    if not config.zoom:
        return None
    limits = (-config.zoom, config.zoom)
    return keras.layers.RandomZoom(limits, limits, fill_mode="nearest", seed=seed + 2, dtype="float32")


def _shift(config: AugmentConfig, seed: int) -> Any:
    if not config.shift:
        return None
    return keras.layers.RandomTranslation(
        config.shift, config.shift, fill_mode="nearest", seed=seed + 3, dtype="float32"
    )


def _channel_shift(config: AugmentConfig, seed: int) -> Any:
    return RandomChannelShift(config.channel_shift, seed=seed + 4, dtype="float32") if config.channel_shift else None


def _brightness(config: AugmentConfig, seed: int) -> Any:
    return RandomBrightnessFactor(*config.brightness, seed=seed + 5, dtype="float32") if config.brightness else None


def _contrast(config: AugmentConfig, seed: int) -> Any:
    if not config.contrast:
        return None
    return keras.layers.RandomContrast(config.contrast, value_range=(0, 255), seed=seed + 6, dtype="float32")


OPERATIONS: dict[str, Callable[[AugmentConfig, int], Any]] = {
    "horizontal_flip": _horizontal_flip,
    "vertical_flip": _vertical_flip,
    "rotation": _rotation,
    "zoom": _zoom,
    "shift": _shift,
    "channel_shift": _channel_shift,
    "brightness": _brightness,
    "contrast": _contrast,
}
