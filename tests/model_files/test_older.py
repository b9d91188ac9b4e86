"""Whole models in older formats are read faithfully, and rejected where Keras 3 would compute something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from math import erf, sqrt
from pathlib import Path
from typing import Any

import keras
import keras2_files as old
import numpy as np
import pytest
from installing import install_or_skip
from keras_classifiers import SIDE, nested, outputs_of, pixels_of

from wisesr_cli.errors import RunError
from wisesr_cli.model_files.architecture import check_model_config
from wisesr_cli.model_files.hdf5 import UnsafeFileError
from wisesr_cli.model_files.keras2 import translate
from wisesr_cli.model_files.keras2_operations import RULES
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.model_files.older import check_older_model, is_older

X = np.linspace(-4.0, 8.0, 2 * 2 * 2 * 3).reshape(2, 2, 2, 3)
HALF = np.array([0.5, 2.0, -3.0])
# The arguments of each function in a file, and what it computes.
FUNCTIONS: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "__operators__.add": ({"y": 3.0}, lambda x: x + 3),
    "__operators__.getitem": (
        {"slice_spec": [{"class_name": "__ellipsis__"}, {"start": None, "stop": None, "step": -1}]},
        lambda x: x[..., ::-1],
    ),
    "cast": ({"dtype": "float32"}, lambda x: x),
    "identity": ({}, lambda x: x),
    "math.add": ({"y": HALF.tolist()}, lambda x: x + HALF),
    "math.divide": ({"y": 4.0}, lambda x: x / 4),
    "math.multiply": ({"y": HALF.tolist()}, lambda x: x * HALF),
    "math.reduce_mean": ({"axis": [1, 2], "keepdims": True}, lambda x: x.mean(axis=(1, 2), keepdims=True)),
    "math.sigmoid": ({}, lambda x: 1 / (1 + np.exp(-x))),
    "math.subtract": ({"y": 1.0}, lambda x: x - 1),
    "math.tanh": ({}, np.tanh),
    "math.truediv": ({"y": HALF.tolist()}, lambda x: x / HALF),
    "nn.bias_add": ({"bias": HALF.tolist(), "data_format": "NHWC"}, lambda x: x + HALF),
    "nn.elu": ({}, lambda x: np.where(x > 0, x, np.exp(x) - 1)),
    "nn.gelu": ({"approximate": False}, lambda x: x * np.vectorize(_normal)(x)),
    "nn.leaky_relu": ({"alpha": 0.3}, lambda x: np.where(x > 0, x, 0.3 * x)),
    "nn.relu": ({}, lambda x: np.maximum(x, 0)),
    "nn.relu6": ({}, lambda x: np.clip(x, 0, 6)),
    "nn.selu": ({}, lambda x: 1.0507009873554805 * np.where(x > 0, x, 1.6732632423543772 * (np.exp(x) - 1))),
    "nn.sigmoid": ({}, lambda x: 1 / (1 + np.exp(-x))),
    "nn.silu": ({"beta": 1.0}, lambda x: x / (1 + np.exp(-x))),
    "nn.softmax": ({"axis": -1}, lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)),
    "nn.swish": ({}, lambda x: x / (1 + np.exp(-x))),
    "nn.tanh": ({}, np.tanh),
}


BUILDER = """
import sys
import numpy as np
import tf_keras as keras
from tf_keras import layers

def saved(model, name, **options):
    draws = np.random.default_rng(0)
    for weight in model.weights:
        shape, depthwise = weight.shape, "depthwise_kernel" in weight.name
        if "moving_mean" in weight.name or "bias" in weight.name:
            weight.assign(draws.normal(0.0, 0.1, shape))
        elif "moving_variance" in weight.name:
            weight.assign(draws.uniform(0.5, 0.75, shape))
        elif "kernel" in weight.name:
            inputs = np.prod(shape[:2] if depthwise else shape[:-1])
            weight.assign(draws.normal(0.0, (2 / inputs) ** 0.5, shape))
    bright = draws.integers(0, 128, (3, 1, 1, 3))
    pixels = (bright + draws.integers(0, 128, (3, 64, 64, 3))).astype("float32")
    model.compile("adam", metrics=["accuracy"], **options)
    model.optimizer.build(model.trainable_variables)
    np.savez(name + ".npz", pixels=pixels, outputs=model(pixels, training=False))
    for suffix in ("h5", "keras"):
        model.save(f"{name}.{suffix}")

def base(name):
    return getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(64, 64, 3))

pixels = keras.Input((64, 64, 3))
x = keras.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1)])(pixels)
x = keras.applications.densenet.preprocess_input(x)
inner = base("MobileNet")
for layer in inner.layers[:40]:
    layer.trainable = False
x = layers.Dropout(0.2)(layers.GlobalAveragePooling2D()(inner(x)))
loss = keras.losses.BinaryCrossentropy(from_logits=True)
saved(keras.Model(pixels, layers.Dense(1)(x)), "functional", loss=loss)
scaling = layers.Rescaling(1 / 127.5, -1.0, input_shape=(64, 64, 3))
rest = [layers.GlobalAveragePooling2D(), layers.BatchNormalization(), layers.Dense(2)]
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
saved(keras.Sequential([scaling, base("MobileNetV3Small"), *rest]), "sequential", loss=loss)
"""


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_models_saved_by_keras_2_itself_keep_their_outputs(tmp_path: Path) -> None:
    target, release = tmp_path / "installed", ".".join(version("tensorflow").split(".")[:2])
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
    install_or_skip(f"tf_keras {release}", [*install, f"tf_keras=={release}.*"])
    variables = {**os.environ, "PYTHONPATH": str(target), "TF_USE_LEGACY_KERAS": "1"}
    command = [sys.executable, "-c", BUILDER]
    done = subprocess.run(
        command, env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=570, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("functional", "sequential"):
        with np.load(tmp_path / f"{name}.npz") as stored:
            pixels, expected = stored["pixels"], stored["outputs"]
        spread = np.ptp(expected, axis=0).max()
        assert spread > 1e-3
        for suffix in ("h5", "keras"):
            loaded = load_model(check_older_model(tmp_path / f"{name}.{suffix}"))
            np.testing.assert_allclose(outputs_of(loaded, pixels), expected, rtol=1e-5, atol=1e-3 * spread)


def _normal(value: float) -> float:
    """Return the cumulative distribution function of the standard normal distribution."""
    return 0.5 * (1 + erf(value / sqrt(2)))


def written(path: Path, model: Any) -> Path:
    if path.suffix == ".h5":
        return old.write_h5(path, old.classifier(), old.tensors_of(model), old.COMPILED)
    container = "_layer_checkpoint_dependencies" if "2.12" in path.name else "layers"
    return old.write_keras(path, old.classifier(), old.places_of(model), container=container)


@pytest.mark.parametrize("name", ["model.h5", "model.keras", "model-2.12.keras"])
def test_a_keras_2_model_computes_the_same_as_its_layers_in_keras_3(tmp_path: Path, name: str) -> None:
    model = old.reference()
    path = written(tmp_path / name, model)
    assert is_older(path)
    loaded = load_model(check_older_model(path))
    expected = outputs_of(model, pixels_of(3))
    assert np.ptp(expected) > 0.01
    np.testing.assert_allclose(outputs_of(loaded, pixels_of(3)), expected, atol=1e-5)
    base = loaded.get_layer("base")
    assert not base.get_layer("conv_1").trainable
    assert base.get_layer("conv_1_bn").trainable


def test_a_whole_model_written_by_keras_3_as_h5_is_read(tmp_path: Path) -> None:
    model = nested()
    model.layers[1].trainable = False
    model.save(tmp_path / "model.h5")
    loaded = load_model(check_older_model(tmp_path / "model.h5"))
    np.testing.assert_allclose(outputs_of(loaded, pixels_of(3)), outputs_of(model, pixels_of(3)), atol=1e-6)
    model.save(tmp_path / "model.keras")
    assert not is_older(tmp_path / "model.keras")


def test_weights_stored_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    model = old.reference()
    tensors = {top: dict(reversed(members.items())) for top, members in old.tensors_of(model).items()}
    loaded = load_model(check_older_model(old.write_h5(tmp_path / "model.h5", old.classifier(), tensors)))
    np.testing.assert_allclose(outputs_of(loaded, pixels_of(2)), outputs_of(model, pixels_of(2)), atol=1e-5)


def outputs(config: dict[str, Any]) -> Any:
    """Return the output of a model without weights for X."""
    translated = translate(config).config
    check_model_config(translated)
    return keras.ops.convert_to_numpy(keras.saving.deserialize_keras_object(translated)(X.astype("float32")))


def calling(called: str, arguments: dict[str, Any]) -> dict[str, Any]:
    return old.model_of("m", [old.pixels(shape=(2, 2, 3)), old.function(called, "f", "input_1", **arguments)])


@pytest.mark.parametrize("called", RULES)
def test_a_tensorflow_function_matches_numpy(called: str) -> None:
    arguments, expected = FUNCTIONS[called]
    np.testing.assert_allclose(outputs(calling(called, arguments)), expected(X), rtol=1e-5, atol=1e-6)


def test_a_number_may_come_first_and_both_operands_may_be_tensors() -> None:
    first = old.layer(
        "TFOpLambda", "f", [["_CONSTANT_VALUE", -1, 1.0, {"y": ["input_1", 0, 0]}]], function="math.subtract"
    )
    both = old.function("math.multiply", "g", "f", y=["input_1", 0, 0])
    found = outputs(old.model_of("m", [old.pixels(shape=(2, 2, 3)), first, both]))
    np.testing.assert_allclose(found, (1 - X) * X, rtol=1e-5)


def one(kind: str, **options: Any) -> dict[str, Any]:
    return old.model_of("m", [old.pixels(), old.layer(kind, "odd", old.on("input_1"), **options)])


def deep(levels: int) -> dict[str, Any]:
    model = old.model_of("m0", [old.pixels(), old.layer("Flatten", "flat", old.on("input_1"))])
    for level in range(levels):
        model = {**model, "name": model["config"]["name"], "inbound_nodes": old.on("input_1")}
        model = old.model_of(f"m{level + 1}", [old.pixels(), model])
    return model


CODE = {"class_name": "__lambda__", "config": {"code": "4wEAAAAAAAAA", "defaults": None, "closure": None}}
REFUSED: dict[str, tuple[Any, str]] = {
    "lambda": (one("Lambda", function=CODE), r"its layer 'odd' \(Lambda\) is of a class that no wisesr model contains"),
    "unknown": (one("MyLayer"), r"its layer 'odd' \(MyLayer\) is of a class that no wisesr model contains"),
    "registered by a user": (
        old.model_of(
            "m", [old.pixels(), {**old.layer("Dense", "odd", old.on("input_1")), "registered_name": "me>Dense"}]
        ),
        r"'odd' \(Dense\) is registered as 'me>Dense'",
    ),
    "from another module": (
        old.model_of("m", [old.pixels(), {**old.layer("Dense", "odd", old.on("input_1")), "module": "os"}]),
        r"'odd' \(Dense\) is of os",
    ),
    "function": (calling("io.read_file", {}), r"'f' \(TFOpLambda\) calls the function 'io.read_file' of TensorFlow"),
    "argument": (calling("nn.silu", {"beta": 2.0}), r"'f' \(TFOpLambda\) calls nn.silu with beta=2.0"),
    "activation": (
        one("Dense", units=2, activation="hard_sigmoid"),
        r"'odd' \(Dense\) has the activation 'hard_sigmoid', which Keras 3 does not have or computes differently",
    ),
    "constraint": (one("Dense", units=2, kernel_constraint={"class_name": "NonNeg"}), r"has a kernel constraint"),
    "option": (one("DepthwiseConv2D", kernel_size=[3, 3], groups=3), r"has groups=3, which Keras 3 does not have"),
    "precision": (one("Dense", units=2, dtype="int8"), r"computes in 'int8'"),
    "called twice": (
        old.model_of("m", [old.pixels(), old.layer("ReLU", "odd", [*old.on("input_1"), *old.on("odd")])]),
        r"the layer 'odd' in it is not called exactly once",
    ),
    "large": (one("Dense", units=1 << 40), r"has the number 1099511627776 for 'units'"),
    "large constant": (calling("math.add", {"y": [1.0] * 1000}), r"not a short list of plain numbers"),
    "long": (old.model_of("m", [old.pixels(f"input_{number}") for number in range(3001)]), r"more layers than any"),
    "nested": (deep(6), r"more models in models than any backbone"),
    "subclass": ({"class_name": "MyModel", "config": {}}, r"it is a 'MyModel', not a functional or sequential model"),
    "not a model": ({"class_name": "Functional", "config": {"layers": [1]}}, r"its config is not a model of Keras"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_not_known_to_be_equivalent_is_rejected_with_the_reason(kind: str) -> None:
    config, reason = REFUSED[kind]
    with pytest.raises(UnsafeFileError, match=reason):
        check_model_config(translate(config).config)


@pytest.mark.reliability(34)
@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ("{", r"its config is damaged"),
        ("[" * 100_000, r"its config is damaged"),
        (one("Dense", units=2), r"needs a weight of the shape \((2|3, 2),?\)"),
        (one("Lambda", function=CODE), r"its layer 'odd' \(Lambda\) is of a class that no wisesr model contains"),
    ],
    ids=["not JSON", "too deep", "no weights", "code"],
)
def test_a_file_with_a_damaged_or_unsupported_config_or_without_weights_is_rejected(
    tmp_path: Path, config: Any, reason: str
) -> None:
    with pytest.raises(RunError, match=reason):
        load_model(check_older_model(old.write_h5(tmp_path / "model.h5", config, {})))


def test_a_config_of_many_megabytes_and_weights_alone_are_rejected(tmp_path: Path) -> None:
    path = old.write_h5(tmp_path / "large.h5", json.dumps({"class_name": "x" * (5 << 20)}), {})
    with pytest.raises(RunError, match=r"its config takes 5,242,\d+ bytes; at most 4,194,304 are read"):
        check_older_model(path)
    nested().save_weights(tmp_path / "alone.weights.h5")
    with pytest.raises(RunError, match="it holds only weights"):
        check_older_model(tmp_path / "alone.weights.h5")


def test_a_superfluous_or_missing_tensor_is_rejected(tmp_path: Path) -> None:
    tensors = old.tensors_of(old.reference())
    tensors["dense"]["dense/more:0"] = np.zeros(SIDE)
    with pytest.raises(RunError, match=r"has no use for a weight of the shape \(32, 24\)"):
        load_model(check_older_model(old.write_h5(tmp_path / "more.h5", old.classifier(), tensors)))
    tensors = old.tensors_of(old.reference())
    tensors["base"]["elsewhere/kernel:0"] = tensors["base"].pop("conv/1/kernel:0")
    with pytest.raises(RunError, match=r"the layer 'conv/1' needs a weight 'kernel' of the shape \(3, 3, 3, 8\)"):
        load_model(check_older_model(old.write_h5(tmp_path / "other.h5", old.classifier(), tensors)))
