"""Model files as Keras 2 writes them, made by hand from JSON and HDF5, and the same model in Keras 3."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
from keras import layers
from keras_classifiers import SIDE, randomize

Node = list[Any]
COMPILED = {"loss": {"class_name": "BinaryCrossentropy", "config": {"from_logits": True}}}


def layer(kind: str, name: str, nodes: Sequence[Node] | None = None, **options: Any) -> dict[str, Any]:
    """Return the record of a layer; `nodes`: its calls, None in a Sequential."""
    record = {"class_name": kind, "config": {"name": name, "trainable": True, "dtype": "float32", **options}}
    return record if nodes is None else {**record, "name": name, "inbound_nodes": list(nodes)}


def on(*names: str, **options: Any) -> list[Node]:
    """Return the one call of a layer on the outputs of others."""
    return [[[name, 0, 0, options] for name in names]]


def function(called: str, name: str, before: str, **arguments: Any) -> dict[str, Any]:
    """Return the record of a function of TensorFlow that is called on a tensor."""
    kind = "SlicingOpLambda" if called.endswith("getitem") else "TFOpLambda"
    return layer(kind, name, [[before, 0, 0, {**arguments, "name": None}]], function=called)


def pixels(name: str = "input_1", shape: Sequence[int | None] = (*SIDE, 3)) -> dict[str, Any]:
    """Return the record of an input."""
    options = {"batch_input_shape": [None, *shape], "dtype": "float32", "sparse": False, "ragged": False, "name": name}
    return {"class_name": "InputLayer", "config": options, "name": name, "inbound_nodes": []}


def model_of(name: str, members: list[dict[str, Any]], nodes: Sequence[Node] | None = None) -> dict[str, Any]:
    """Return the record of a functional model, from its first layer to its last."""
    ends = {"input_layers": [[members[0]["name"], 0, 0]], "output_layers": [[members[-1]["name"], 0, 0]]}
    record = {"class_name": "Functional", "config": {"name": name, "trainable": True, "layers": members, **ends}}
    return record if nodes is None else {**record, "name": name, "inbound_nodes": list(nodes)}


def classifier() -> dict[str, Any]:
    """Return the config of a classifier as guides build it: augmentation, arithmetic, a partly frozen base, a head."""
    zeros = {"class_name": "Zeros", "config": {}}
    convolution = {"strides": [2, 2], "padding": "same", "data_format": "channels_last", "bias_initializer": zeros}
    base = model_of(
        "base",
        [
            pixels("input_2"),
            layer(
                "Conv2D", "conv/1", on("input_2"), filters=8, kernel_size=[3, 3], **convolution, trainable=False,
                activation="swish", kernel_regularizer={"class_name": "L2", "config": {"l2": 0.01}},
                kernel_constraint=None,
            ),
            layer("BatchNormalization", "conv/1/bn", on("conv/1"), axis=[3], epsilon=0.01, momentum=0.9),
            layer(
                "DepthwiseConv2D", "depthwise", on("conv/1/bn"), kernel_size=[3, 3], **convolution, groups=1,
                depthwise_constraint=None,
            ),
            function("__operators__.add", "tf.__operators__.add", "depthwise", y=3.0),
            layer("ReLU", "re_lu", on("tf.__operators__.add"), max_value=6.0, negative_slope=0.0, threshold=0.0),
            function("math.multiply", "tf.math.multiply", "re_lu", y=1 / 6),
            layer("Multiply", "multiply", on("depthwise", "tf.math.multiply")),
            layer(
                "SeparableConv2D", "separable", on("multiply"), filters=12, kernel_size=[3, 3], padding="same",
                depth_multiplier=1, groups=1, kernel_initializer=zeros, kernel_regularizer=None, kernel_constraint=None,
            ),
            layer("LeakyReLU", "leaky", on("separable"), alpha=0.1),
        ],
        on_second("tf.math.subtract"),
    )  # fmt: skip
    flip = layer("RandomFlip", "random_flip", mode="horizontal", seed=None, rng_type="stateful")
    augmentation = {"class_name": "Sequential", "config": {"name": "augmentation", "layers": [pixels("input_3"), flip]}}
    return model_of(
        "model",
        [
            pixels(),
            {**augmentation, "name": "augmentation", "inbound_nodes": on("input_1")},
            function("math.truediv", "tf.math.truediv", "augmentation", y=127.5),
            function("math.subtract", "tf.math.subtract", "tf.math.truediv", y=1.0),
            base,
            layer("GlobalAveragePooling2D", "pool", on_second("base"), data_format="channels_last", keepdims=False),
            layer("Dropout", "dropout", on("pool"), rate=0.2, noise_shape=None, seed=None),
            layer("Dense", "dense", on("dropout"), units=1, activation="linear", use_bias=True),
        ],
    )


def on_second(name: str) -> list[Node]:
    """Return the call on the output of the second call of a nested model; its first call built it."""
    return [[[name, 1, 0, {"training": False}]]]


def reference() -> Any:
    """Return the same model, built with Keras 3, with different weights in every layer."""
    inside = keras.Input((*SIDE, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="silu", name="conv")(inside)
    x = layers.BatchNormalization(epsilon=0.01, name="bn")(x)
    x = layers.DepthwiseConv2D(3, 2, padding="same", name="depthwise")(x)
    x = x * keras.ops.relu6(x + 3.0) / 6.0
    x = layers.LeakyReLU(0.1)(layers.SeparableConv2D(12, 3, padding="same", name="separable")(x))
    base = keras.Model(inside, x)
    given = keras.Input((*SIDE, 3))
    pooled = layers.GlobalAveragePooling2D()(base(given / 127.5 - 1.0))
    model = keras.Model(given, layers.Dense(1, name="dense")(pooled))
    return randomize(model)


def tensors_of(model: Any) -> dict[str, dict[str, Any]]:
    """Return the weights of `reference` as in a `.h5` file of Keras 2: by the layer of the model, then by name."""
    base = next(member for member in model.layers if hasattr(member, "layers"))
    conv, norm, depthwise, separable = (base.get_layer(name) for name in ("conv", "bn", "depthwise", "separable"))
    trained = {
        "conv/1/bn/gamma:0": norm.gamma, "conv/1/bn/beta:0": norm.beta,
        "depthwise/depthwise_kernel:0": depthwise.kernel, "depthwise/bias:0": depthwise.bias,
        "separable/depthwise_kernel:0": separable.depthwise_kernel,
        "separable/pointwise_kernel:0": separable.pointwise_kernel, "separable/bias:0": separable.bias,
    }  # fmt: skip
    frozen = {
        "conv/1/kernel:0": conv.kernel, "conv/1/bias:0": conv.bias,
        "conv/1/bn/moving_mean:0": norm.moving_mean, "conv/1/bn/moving_variance:0": norm.moving_variance,
    }  # fmt: skip
    dense = model.get_layer("dense")
    return {"base": trained | frozen, "dense": {"dense/kernel:0": dense.kernel, "dense/bias:0": dense.bias}}


def places_of(model: Any) -> dict[str, list[Any]]:
    """Return the weights of `reference` as in a `.keras` file of Keras 2: by the numbered classes of the layers."""
    base = next(member for member in model.layers if hasattr(member, "layers"))
    found = {
        f"functional/layers/{kind}": base.get_layer(name).weights
        for kind, name in (
            *(("conv2d", "conv"), ("batch_normalization", "bn"), ("depthwise_conv2d", "depthwise")),
            ("separable_conv2d", "separable"),
        )
    }
    return {**found, "dense": model.get_layer("dense").weights}


def write_h5(
    path: Path, config: Any, tensors: dict[str, dict[str, Any]], training: Any = None, version: str = "2.15.0"
) -> Path:
    """Write a whole model as `.h5`, with the state of an optimizer."""
    with h5py.File(path, "w") as root:
        root.attrs["keras_version"], root.attrs["backend"] = version, "tensorflow"
        root.attrs["model_config"] = config if isinstance(config, str) else json.dumps(config)
        if training is not None:
            root.attrs["training_config"] = json.dumps(training)
        group = root.create_group("model_weights")
        group.attrs["layer_names"] = list(tensors)
        for name, members in tensors.items():
            group.create_group(name).attrs["weight_names"] = list(members)
            for weight, values in members.items():
                group[name][weight] = np.asarray(values)
        root["optimizer_weights/iteration:0"] = np.int64(3)
    return path


def write_keras(path: Path, config: Any, places: dict[str, list[Any]], *, container: str = "layers") -> Path:
    """Write a `.keras` archive of Keras 2, with the state of an optimizer and of a metric."""
    weights = io.BytesIO()
    with h5py.File(weights, "w") as root:
        for place, values in places.items():
            for number, value in enumerate(values):
                root[f"{container}/{place.replace('layers', container)}/vars/{number}"] = np.asarray(value)
        root["optimizer/vars/0"], root["metrics/mean/vars/0"] = np.int64(3), np.float32(0.5)
    outer = {"module": "keras.src.engine.functional", "registered_name": "Functional", "compile_config": COMPILED}
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "2.15.0", "date_saved": "2024-01-01@00:00:00"}))
        archive.writestr("config.json", json.dumps({**config, **outer}))
        archive.writestr("model.weights.h5", weights.getvalue())
    return path
