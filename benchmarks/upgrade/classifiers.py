"""Keras classifiers built as in public guides, with random weights that give different images different outputs.

To add one: a function that builds it, and a row in `RECIPES` of `recipes`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any, Literal

import keras
import numpy as np
from keras import layers, ops
from numpy.typing import NDArray

from wisesr_cli.model_files.loading import layers_of
from wisesr_cli.models.rebuilding import AUGMENTATION
from wisesr_cli.upgrading.made_images import made_image

SIDE = 96  # pixels of the images
CLASSES = 5
SETTLED_ON = 16  # images
SPREAD = 2.0  # standard deviation of a logit over images
DIRECTIONS = 4  # feature directions that logits are built from

# The module with `preprocess_input` for each network of `keras.applications`.
APPLICATIONS = {
    "ConvNeXtTiny": "convnext",
    "DenseNet121": "densenet",
    "EfficientNetB0": "efficientnet",
    "EfficientNetV2B0": "efficientnet_v2",
    "InceptionV3": "inception_v3",
    "MobileNet": "mobilenet",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3",
    "NASNetMobile": "nasnet",
    "ResNet50": "resnet",
    "ResNet50V2": "resnet_v2",
    "VGG16": "vgg16",
    "Xception": "xception",
}

Gives = Literal["probabilities", "logits"]
Images = NDArray[np.float32]
Scale = Callable[[Images], Any]


def images(count: int, side: int = SIDE, *, first: int = 1000) -> NDArray[np.uint8]:
    """Return generated images, uint8 (count, side, side, 3), other than those `wisesr upgrade` compares on."""
    return np.stack([made_image(first + number, (side, side)) for number in range(count)])


def preprocess(name: str) -> Scale:
    """Return the preprocessing function of `keras.applications` for a network."""
    function: Scale = import_module(f"keras.applications.{APPLICATIONS[name]}").preprocess_input
    return lambda pixels: function(np.array(pixels, np.float32))  # it may modify its input


def unscaled(pixels: Images) -> Images:
    """Return the pixels 0..255 unchanged, for models that scale them, or are built not to."""
    return pixels


def settle(model: Any, pixels: Any) -> Any:
    """Give batch norms random scales and shifts, and the statistics of these pixels (images, height, width, 3)."""
    norms = [layer for layer in layers_of(model) if isinstance(layer, layers.BatchNormalization) and layer.trainable]
    draws = np.random.default_rng(0)
    momenta = [layer.momentum for layer in norms]
    for layer in norms:
        layer.momentum = 0.0
        if layer.scale:
            layer.gamma.assign(draws.uniform(0.8, 1.2, layer.gamma.shape))
        if layer.center:
            layer.beta.assign(draws.normal(0.0, 0.1, layer.beta.shape))
    if norms:
        model(pixels, training=True)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer.momentum = momentum
    return model


def with_telling_outputs(model: Any, pixels: Any) -> Any:
    """Set the kernel of the last layer that has one so that logits vary between images by about `SPREAD`.

    It uses the directions in which the images' features differ most, so that it need not be large: a large kernel would
    amplify the rounding errors of earlier layers, compared to which the differences in random networks are small.
    """
    last = [layer for layer in layers_of(model) if hasattr(layer, "kernel") and hasattr(layer, "bias")][-1]
    inputs = np.asarray(keras.Model(model.inputs[0], last.input)(pixels, training=False), np.float64)
    features = inputs.reshape(len(inputs), -1, inputs.shape[-1]).mean(axis=1)
    centre, draws = features.mean(axis=0), np.random.default_rng(1)
    directions = np.linalg.svd(features - centre, full_matrices=False)[2][:DIRECTIONS]
    kernel = directions.T @ draws.normal(size=(len(directions), last.kernel.shape[-1]))
    kernel *= SPREAD / max(float(((features - centre) @ kernel).std()), 1e-6)
    last.kernel.assign(kernel.reshape(last.kernel.shape))
    last.bias.assign(draws.normal(0.0, 0.5, last.bias.shape) - centre @ kernel)
    return model


def logits_of(outputs: NDArray[np.float64], gives: Gives) -> NDArray[np.float64]:
    """Return the logits (images, classes) for a model's outputs; a single unit stays single."""
    values = outputs.reshape(len(outputs), -1)
    if gives == "logits":
        return values
    logs = np.log(np.maximum(values, 1e-30))
    return logs - np.log(np.maximum(1.0 - values, 1e-30)) if values.shape[1] == 1 else logs


def application(name: str, side: int = SIDE, **options: Any) -> Any:
    """Return a network of `keras.applications` with settled batch norms."""
    given = {"include_top": False, "weights": None, "input_shape": (side, side, 3), **options}
    model = getattr(keras.applications, name)(**given)
    return settle(model, preprocess(name)(images(SETTLED_ON, side, first=0).astype(np.float32)))


def small_base(**options: Any) -> Any:
    """Return the smallest MobileNet, for recipes where the network does not matter."""
    return application("MobileNet", alpha=0.25, **options)


def chain(x: Any, *steps: Any) -> Any:
    """Apply layers or functions to a tensor, one after the other."""
    for step in steps:
        x = step(x)
    return x


def classifier(*steps: Any, side: int | None = SIDE) -> Any:
    """Return a functional model of successive layers."""
    pixels = keras.Input((side, side, 3))
    return keras.Model(pixels, chain(pixels, *steps))


def convolutions(
    norm: Callable[[], Any] = layers.BatchNormalization, relu: Callable[[], Any] = layers.ReLU
) -> Callable[[Any], Any]:
    """Return a function that turns pixels 0..255 into a feature map with three convolutions."""

    def put(x: Any) -> Any:
        x = layers.Rescaling(1 / 255)(x)
        for channels in (16, 32, 64):
            x = chain(x, layers.Conv2D(channels, 3, 2, padding="same", use_bias=False), norm(), relu())
        return x

    return put


def pooled_softmax(classes: int = CLASSES) -> Callable[[Any], Any]:
    """Return a function that adds the usual classifier to a feature map."""
    return lambda x: chain(
        x, layers.GlobalAveragePooling2D(), layers.Dropout(0.2), layers.Dense(classes, activation="softmax")
    )


def frozen_in_inference_mode(base: Any) -> Callable[[Any], Any]:
    """Return a function that calls a frozen base as in the guide to transfer learning."""
    base.trainable = False
    return lambda x: base(x, training=False)


def transfer(name: str, *end: Any) -> Any:
    """Return the classifier of the guide to transfer learning, with different final layers."""
    front = (layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.Rescaling(1 / 127.5, offset=-1))
    base = frozen_in_inference_mode(application(name))
    return classifier(*front, base, layers.GlobalAveragePooling2D(), layers.Dropout(0.2), *end)


def compiled_for_one_logit(model: Any) -> Any:
    """Compile for two classes, as in the guide to transfer learning."""
    model.compile(keras.optimizers.Adam(), keras.losses.BinaryCrossentropy(from_logits=True))
    return model


def preprocessed(name: str, module: str) -> Any:
    """Return the classifier of TensorFlow's tutorial, which calls `preprocess_input` on the model's input."""
    scale = import_module(f"keras.applications.{module}").preprocess_input
    base = frozen_in_inference_mode(application(name))
    return classifier(layers.RandomFlip(), scale, base, pooled_softmax())


def fine_tuned() -> Any:
    """Return a classifier whose base is trained from its 100th layer on."""
    base = application("MobileNetV2")
    for layer in base.layers[:100]:
        layer.trainable = False
    return classifier(layers.Rescaling(1 / 127.5, offset=-1), lambda x: base(x, training=False), pooled_softmax())


def on_the_output_of(base: Any, *end: Any) -> Any:
    """Return the classifier of the `keras.applications` page: layers on `base.output`."""
    return keras.Model(base.input, chain(base.output, *end))


def from_scratch() -> Any:
    """Return the small Xception of the guide to image classification from scratch, with fewer channels."""

    def block(x: Any, channels: int, residual: Any) -> Any:
        for _ in range(2):
            x = chain(x, layers.Activation("relu"), layers.SeparableConv2D(channels, 3, padding="same"))
            x = layers.BatchNormalization()(x)
        x = layers.MaxPooling2D(3, strides=2, padding="same")(x)
        return layers.add([x, layers.Conv2D(channels, 1, strides=2, padding="same")(residual)])

    def body(x: Any) -> Any:
        x = chain(x, layers.Conv2D(32, 3, strides=2, padding="same"), layers.BatchNormalization())
        x = layers.Activation("relu")(x)
        for channels in (64, 128, 182):
            x = block(x, channels, x)
        return chain(x, layers.SeparableConv2D(256, 3, padding="same"), layers.BatchNormalization())

    end = (layers.Activation("relu"), layers.GlobalAveragePooling2D(), layers.Dropout(0.25), layers.Dense(1))
    augmentation = (layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.Rescaling(1 / 255))
    return compiled_for_one_logit(classifier(*augmentation, body, *end))


def tutorial_of_tensorflow() -> Any:
    """Return the classifier of TensorFlow's tutorial on image classification, which flattens its map."""
    steps = [layers.Rescaling(1 / 255)]
    for channels in (16, 32, 64):
        steps += [layers.Conv2D(channels, 3, padding="same", activation="relu"), layers.MaxPooling2D()]
    end = (layers.Dropout(0.2), layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(CLASSES))
    return keras.Sequential([keras.Input((SIDE, SIDE, 3)), *steps, *end])


def normalized() -> Any:
    """Return a classifier behind a `Normalization` that was adapted to images."""
    normalization = layers.Normalization()
    normalization.adapt(images(SETTLED_ON, first=0).astype(np.float32))
    return classifier(normalization, small_base(), pooled_softmax())


def squeeze_and_excite(x: Any) -> Any:
    """Weight the channels of a map by a function of their means."""
    channels = x.shape[-1]
    weights = chain(
        layers.GlobalAveragePooling2D(keepdims=True)(x),
        layers.Dense(channels // 4, activation="relu"),
        layers.Dense(channels, activation="sigmoid"),
    )
    return layers.multiply([x, weights])


def self_attention(x: Any) -> Any:
    """Let every position of a map attend to all others."""
    height, width, channels = x.shape[1:]
    row = layers.Reshape((height * width, channels))(x)
    row = layers.add([row, layers.MultiHeadAttention(2, channels // 2)(row, row)])
    return layers.Reshape((height, width, channels))(layers.LayerNormalization()(row))


def mean_and_maximum(x: Any) -> Any:
    """Concatenate the mean and the maximum of a map."""
    return layers.concatenate([layers.GlobalAveragePooling2D()(x), layers.GlobalMaxPooling2D()(x)])


def augmentations() -> Sequence[Any]:
    """Return one of each of Keras' augmentation layers."""

    def made(name: str) -> Any:
        kind = getattr(keras.layers, name)
        needed = [
            parameter.name
            for parameter in inspect.signature(kind).parameters.values()
            if parameter.default is parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        ]
        return kind(**dict.fromkeys(needed, 0.1))

    return [made(name) for name in AUGMENTATION]


def two_inputs() -> Any:
    """Return a classifier of an image and a row of numbers."""
    pixels, numbers = keras.Input((SIDE, SIDE, 3)), keras.Input((4,))
    pooled = layers.GlobalAveragePooling2D()(convolutions()(pixels))
    return keras.Model([pixels, numbers], layers.Dense(CLASSES)(layers.concatenate([pooled, numbers])))


@keras.saving.register_keras_serializable("guide")
class Swish(keras.layers.Layer):
    """A custom layer of a user."""

    def call(self, x: Any) -> Any:
        """Return the input times its sigmoid."""
        return x * ops.sigmoid(x)


def mixed() -> Any:
    """Return a classifier that computes in float16 and ends in float32, as in the guide to mixed precision."""
    end = (layers.GlobalAveragePooling2D(), layers.Dense(CLASSES), layers.Activation("softmax", dtype="float32"))
    return classifier(layers.Rescaling(1 / 127.5, offset=-1), small_base(), *end)
