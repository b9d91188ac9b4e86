"""Small classifiers as others save them with Keras, with different weights in every layer, and their outputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
from allowed_classes import augmentation
from keras import layers
from numpy.typing import NDArray

from wisesr_cli.models.rebuilding import AUGMENTATION

SIDE = (32, 24)  # height, width


def randomize(model: Any, seed: int = 0) -> Any:
    """Set all weights to values that no initializer produces, so that outputs differ from image to image."""
    draws = np.random.default_rng(seed)
    for weight in model.weights:
        spread = 2.0 / np.sqrt(np.prod(weight.shape[:-1])) if len(weight.shape) > 1 else 0.2
        if "variance" in weight.path or "gamma" in weight.path:
            weight.assign(draws.uniform(0.5, 1.5, weight.shape))
        elif weight.path.endswith(("kernel", "bias", "beta", "moving_mean", "alpha")):
            weight.assign(draws.normal(0.0, spread, weight.shape))
    return model


def feature_map(pixels: Any, name: str = "c") -> Any:
    """Return a feature map (batch, 8, 6, 12) of pixels 0..255."""
    x = layers.Rescaling(1 / 127.5, -1.0, name=f"{name}_rescaling")(pixels)
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu", name=f"{name}_1")(x)
    return layers.Conv2D(12, 3, 2, padding="same", activation="relu", name=f"{name}_2")(x)


def ending(tail: Callable[[Any], Any], *, shape: tuple[int | None, ...] = (*SIDE, 3)) -> Any:
    """Return a functional classifier that applies `tail` to a feature map."""
    pixels = keras.Input(shape)
    return randomize(keras.Model(pixels, tail(feature_map(pixels))))


def in_a_row(*tail: Any) -> Callable[[Any], Any]:
    """Return a function that applies layers one after the other."""

    def put(x: Any) -> Any:
        for layer in tail:
            x = layer(x)
        return x

    return put


def plain(classes: int = 3, *, shape: tuple[int | None, ...] = (*SIDE, 3)) -> Any:
    """Return an ordinary classifier: pooling, dropout, softmax."""
    tail = in_a_row(
        layers.GlobalAveragePooling2D(name="pool"), layers.Dropout(0.4), layers.Dense(classes, activation="softmax")
    )
    return ending(tail, shape=shape)


def nested() -> Any:
    """Return a Sequential around a backbone that pools inside, with batch normalization after it."""
    inside = keras.Input((*SIDE, 3))
    backbone = keras.Model(inside, layers.GlobalAveragePooling2D()(feature_map(inside)), name="inner")
    tail = (layers.Dropout(0.3), layers.BatchNormalization(), layers.Dense(3, activation="softmax"))
    return randomize(keras.Sequential([keras.Input((*SIDE, 3)), layers.RandomFlip(), backbone, *tail]))


def resizing() -> Any:
    """Return a classifier that takes images of any size, and resizes and augments them."""
    pixels = keras.Input((None, None, 3))
    x = layers.Resizing(*SIDE)(pixels)
    for name in AUGMENTATION:
        x = augmentation(name)(x)
    return randomize(keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(feature_map(x)))))


ENDS: dict[str, Callable[[], Any]] = {
    "softmax": plain,
    "nested": nested,
    "keepdims": lambda: ending(
        in_a_row(layers.GlobalAveragePooling2D(keepdims=True), layers.Flatten(), layers.Dense(4, activation="softmax"))
    ),
    "average pooling over the map": lambda: ending(
        in_a_row(layers.AveragePooling2D((8, 6)), layers.Flatten(), layers.Dense(4))
    ),
    "1x1 convolution": lambda: ending(
        in_a_row(
            layers.GlobalAveragePooling2D(keepdims=True),
            layers.Dropout(0.1),
            layers.Conv2D(4, 1),
            layers.Reshape((4,)),
            layers.Activation("softmax"),
        )
    ),
    "norms and two dense layers": lambda: ending(
        in_a_row(
            layers.GlobalAveragePooling2D(),
            layers.BatchNormalization(scale=False),
            layers.Dense(5),
            layers.BatchNormalization(center=False, epsilon=0.1),
            layers.Dense(3, use_bias=False),
            layers.BatchNormalization(),
            layers.Softmax(),
        )
    ),
    "one unit": lambda: ending(in_a_row(layers.GlobalAveragePooling2D(), layers.Dense(1, activation="sigmoid"))),
    "mean as an operation": lambda: ending(lambda x: layers.Dense(3)(keras.ops.mean(x, axis=[1, 2]))),
    "mean that keeps its axes": lambda: ending(
        lambda x: layers.Flatten()(layers.Conv2D(3, 1)(keras.ops.mean(x, axis=(-3, -2), keepdims=True)))
    ),
    "operations and group norm": lambda: ending(
        in_a_row(
            layers.GroupNormalization(3),
            keras.ops.relu,
            keras.ops.silu,
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        )
    ),
    "1x1 convolution before the pooling": lambda: ending(
        in_a_row(layers.Dropout(0.5), layers.Conv2D(4, 1), layers.GlobalAveragePooling2D(), layers.Softmax())
    ),
    "resizing and augmentation in front": resizing,
}

# Nonlinear ends, and the hidden layers of the head that they become.
HIDDEN: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    "relu, as in most guides": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(),
                layers.BatchNormalization(),
                layers.Dense(7, activation="relu"),
                layers.BatchNormalization(),
                layers.Dropout(0.5),
                layers.Dense(3, activation="softmax"),
            )
        ),
        ("dense 7 relu",),
    ),
    "gelu and layer norm": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(),
                layers.Dropout(0.2),
                layers.Dense(7),
                layers.LayerNormalization(epsilon=1e-5),
                layers.Activation("gelu"),
                layers.Dense(3),
            )
        ),
        ("dense 7 layer norm gelu",),
    ),
    "layer norm, as ConvNeXt": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(),
                layers.LayerNormalization(epsilon=1e-6),
                layers.Dense(3, activation="softmax"),
            )
        ),
        ("layer norm",),
    ),
    "1x1 convolutions, as MobileNetV3": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(keepdims=True),
                layers.Conv2D(7, 1, padding="same"),
                layers.Activation("hard_swish"),
                layers.Dropout(0.2),
                layers.Conv2D(3, 1, padding="same"),
                layers.Flatten(),
                layers.Activation("softmax"),
            )
        ),
        ("dense 7 hard_swish",),
    ),
    "learned slopes, and those of a leaky ReLU": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(keepdims=True),
                layers.Conv2D(7, 1),
                layers.PReLU(alpha_initializer="glorot_uniform", shared_axes=[1, 2]),
                layers.Flatten(),
                layers.Dense(5),
                layers.LeakyReLU(0.3),
                layers.Dense(4),
                layers.PReLU(alpha_initializer=keras.initializers.Constant(-0.4)),
                layers.Dense(3),
            )
        ),
        ("dense 7 prelu", "dense 5 leaky_relu", "dense 4 prelu"),
    ),
    "norms and an activation without dense layer": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(),
                layers.Dropout(0.3),
                layers.BatchNormalization(epsilon=0.1, scale=False),
                layers.BatchNormalization(),
                layers.ReLU(6.0),
                layers.Dense(3),
            )
        ),
        ("batch norm", "batch norm relu6"),
    ),
    "one unit behind elu, tanh and sigmoid": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(),
                layers.ELU(0.7),
                layers.Dense(6, activation="tanh"),
                layers.Dense(5, activation="sigmoid", use_bias=False),
                layers.Dense(1, activation="sigmoid"),
            )
        ),
        ("elu", "dense 6 tanh", "dense 5 sigmoid"),
    ),
    "operations": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(),
                layers.Dense(6),
                keras.ops.silu,
                layers.Dense(5),
                keras.ops.relu6,
                layers.Dense(3),
            )
        ),
        ("dense 6 silu", "dense 5 relu6"),
    ),
}


def two_pools(x: Any) -> Any:
    """Return the prediction from the mean and the maximum of a map, concatenated."""
    both = [layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)]
    return layers.Dense(3, activation="softmax")(layers.Concatenate(name="both")(both))


def without_mean() -> Any:
    """Return a layer normalization that only scales, which Keras reports as deprecated."""
    with warnings.catch_warnings(action="ignore"):
        return layers.LayerNormalization(rms_scaling=True)


def two_outputs(x: Any) -> Any:
    """Return two predictions."""
    pooled = layers.GlobalAveragePooling2D()(x)
    return [layers.Dense(3)(pooled), layers.Dense(2)(pooled)]


# Classifiers that cannot be converted, and the reason that must be given.
OTHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "maximum": (
        lambda: ending(in_a_row(layers.GlobalMaxPooling2D(name="gmp"), layers.Dense(3))),
        r"the layer after the feature map of 8x6x12 is 'gmp' \(GlobalMaxPooling2D\), which takes the largest value",
    ),
    "flattened": (
        lambda: ending(in_a_row(layers.Flatten(name="flat"), layers.Dense(3))),
        r"is 'flat' \(Flatten\), which flattens it, so that every position already has its own weights",
    ),
    "part of the map": (
        lambda: ending(in_a_row(layers.AveragePooling2D((4, 3), name="part"), layers.Flatten(), layers.Dense(3))),
        r"is 'flatten.*' \(Flatten\)",
    ),
    "two poolings": (lambda: ending(two_pools), r"'both' \(Concatenate\) joins 2 tensors"),
    "two outputs": (lambda: ending(two_outputs), r"1 input and 2 outputs; a classifier has one of each"),
    "another normalization": (
        lambda: ending(
            in_a_row(layers.GlobalAveragePooling2D(), layers.GroupNormalization(3, name="gn"), layers.Dense(3))
        ),
        r"is 'gn' \(GroupNormalization\), which no wisesr head has; allowed: .*LayerNormalization",
    ),
    "probabilities in between": (
        lambda: ending(
            in_a_row(
                layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax"), layers.Dense(3, name="last")
            )
        ),
        r"'last' comes after the softmax, which already gives probabilities",
    ),
    "an activation of the logits": (
        lambda: ending(
            in_a_row(layers.GlobalAveragePooling2D(), layers.Dense(3, activation="relu", name="last"), layers.Softmax())
        ),
        r"'last' is the last dense layer and has relu after it; class logits have none",
    ),
    "an activation that heads do not have": (
        lambda: ending(
            in_a_row(layers.GlobalAveragePooling2D(), layers.Dense(5, activation="celu", name="odd"), layers.Dense(3))
        ),
        r"'odd' has the activation celu, which no hidden layer of wisesr has; known: elu, gelu,",
    ),
    "a ReLU of another kind": (
        lambda: ending(
            in_a_row(layers.GlobalAveragePooling2D(), layers.Dense(5), layers.ReLU(3.0, name="odd"), layers.Dense(3))
        ),
        r"'odd' is a ReLU with max_value=3.0, negative_slope=0 and threshold=0; hidden layers of wisesr have relu, ",
    ),
    "an approximate gelu": (
        lambda: ending(in_a_row(layers.GlobalAveragePooling2D(), layers.Dense(5), keras.ops.gelu, layers.Dense(3))),
        r"is the approximate gelu \(by tanh\); hidden layers of wisesr have the exact one",
    ),
    "a layer normalization without a mean": (
        lambda: ending(in_a_row(layers.GlobalAveragePooling2D(), without_mean(), layers.Dense(3))),
        r"has rms_scaling, which no layer normalization of wisesr has",
    ),
    "a number": (
        lambda: ending(in_a_row(layers.GlobalAveragePooling2D(), layers.Dense(1))),
        r"its one output has no sigmoid, and was not compiled with BinaryCrossentropy\(from_logits=True\)",
    ),
    "an activation before the pooling": (
        lambda: ending(
            in_a_row(layers.Conv2D(4, 1, activation="relu"), layers.GlobalAveragePooling2D(), layers.Softmax())
        ),
        r"no dense layer follows the pooling",
    ),
    "the mean of one axis": (
        lambda: ending(lambda x: layers.Dense(3)(layers.Flatten()(keras.ops.mean(x, axis=1)))),
        r"is 'mean.*' \(Mean\), which is not global average pooling",
    ),
    "another end": (
        lambda: ending(in_a_row(layers.GlobalAveragePooling2D(), layers.Dense(3, activation="tanh", name="last"))),
        r"'last' ends in the activation tanh; a classifier ends in softmax or none",
    ),
    "features": (
        lambda: ending(layers.GlobalAveragePooling2D()),
        r"no dense layer follows the pooling: the model gives features, not classes",
    ),
    "a feature map": (lambda: ending(lambda x: x), r"it gives a feature map of 8x6x12, not classes"),
}


def pixels_of(count: int, size: tuple[int, int] = SIDE) -> NDArray[np.uint8]:
    """Return images of noise, each of a different brightness, uint8 (count, height, width, 3)."""
    draws = np.random.default_rng(5)
    noise = draws.integers(0, 120, (count, *size, 3))
    return np.asarray(noise + draws.integers(0, 135, (count, 1, 1, 3)), np.uint8)


def outputs_of(model: Any, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return a model's outputs at inference, float64 (images, outputs)."""
    outputs = keras.ops.convert_to_numpy(model(pixels.astype("float32"), training=False))
    return np.asarray(outputs, np.float64).reshape(len(pixels), -1)


def save(model: Any, path: Path) -> Path:
    """Save a model as others do: compiled, with the state of its optimizer."""
    model.compile("adam", "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    model.save(path)
    return path
