"""The list of allowed classes has exactly those that wisesr builds with, and every backbone passes it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from allowed_classes import TARGET, VARIANTS, classes_of_models, classes_of_others, source_of
from reliability import Seen

from wisesr_cli.config.reader import parse_head
from wisesr_cli.errors import RunError
from wisesr_cli.model_files.allowed import ALLOWED
from wisesr_cli.model_files.architecture import check_model_config
from wisesr_cli.model_files.archive import check_model
from wisesr_cli.model_files.hdf5 import UnsafeFileError
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.models.backbones import BACKBONES
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.models.weights import load_backbone

QUICK = ("compact", "compact_small", "MobileNetV2", "ConvNeXtTiny", "EfficientNetB0")


def same_after_reload(backbone: str, head: str, preprocessing: str, folder: Path) -> bool:
    """Save a model, load it through the checks, and return whether weights and outputs are the same."""
    side = max(64, BACKBONES[backbone].minimum_size)
    config = ModelConfig(backbone=backbone, head=parse_head(head), preprocessing=preprocessing)  # type: ignore[arg-type]
    model = build_classifier(config, image_size=(side, side), classes=3).model
    model.save(folder / "x.keras")
    loaded = load_model(check_model(folder / "x.keras"))
    pixels = np.random.default_rng(0).uniform(0, 255, (1, side, side, 3)).astype("float32")
    weights = zip(model.get_weights(), loaded.get_weights(), strict=True)
    logits = [keras.ops.convert_to_numpy(each(pixels, training=False)) for each in (model, loaded)]
    return all(np.array_equal(one, other) for one, other in weights) and np.allclose(*logits, atol=1e-6)


def test_classes_of_the_quick_backbones_are_on_the_list() -> None:
    assert classes_of_models(QUICK) | classes_of_others() <= ALLOWED


@pytest.mark.slow
@pytest.mark.reliability(34)
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the list is made on TensorFlow")
def test_the_list_has_exactly_the_classes_of_all_backbones_heads_and_preprocessings(seen: Seen) -> None:
    classes = classes_of_models(BACKBONES) | classes_of_others()
    assert classes == ALLOWED
    assert not set(source_of(classes).split()) - set(TARGET.read_text(encoding="utf-8").split())
    seen(f"{len(BACKBONES)} backbones x {len(VARIANTS)} heads x 5 preprocessings: {len(ALLOWED)} classes, all listed")


SCALINGS = ("caffe", "tf", "torch", "unit", "none")
LONG = (pytest.mark.slow, pytest.mark.long)


@pytest.mark.parametrize(
    ("head", "preprocessing"),
    # Independent, as the backbone is between them: one scaling per head; all pairs in long runs only.
    [
        pytest.param(head, SCALINGS[(number + turn) % 5], marks=LONG if turn else ())
        for number, head in enumerate(variant for variant in VARIANTS if not variant.startswith("fc"))
        for turn in range(5)
    ],
)
def test_every_head_and_preprocessing_survives_a_round_trip_through_the_checks(
    head: str, preprocessing: str, tmp_path: Path
) -> None:
    assert same_after_reload("compact_small", head, preprocessing, tmp_path)


@pytest.mark.parametrize("head", ["fc", "wise:dropout=0.5"])
def test_a_published_backbone_survives_a_round_trip_through_the_checks(head: str, tmp_path: Path) -> None:
    assert same_after_reload("MobileNetV2", head, "auto", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.reliability(34)
def test_every_backbone_survives_a_round_trip_through_the_checks(tmp_path: Path, seen: Seen) -> None:
    for name in BACKBONES:
        assert same_after_reload(name, "wise", "auto", tmp_path), name
        keras.utils.clear_session(free_memory=True)
    seen(f"{len(BACKBONES)} backbones saved, checked, loaded: same weights, same logits")


def test_a_short_constant_of_an_operation_is_allowed_and_a_long_one_is_rejected(tmp_path: Path) -> None:
    pixels = keras.Input((8, 8, 3))
    for name, constant in (("short", np.ones((1, 1, 1, 3))), ("long", np.ones((1, 8, 8, 3)))):
        shifted = pixels + keras.ops.convert_to_tensor(constant.astype("float32"))
        keras.Model(pixels, keras.layers.Flatten()(shifted)).save(tmp_path / f"{name}.keras")
    assert load_model(check_model(tmp_path / "short.keras")).count_params() == 0
    with pytest.raises(RunError, match=r"a number that it computes with is not a short list of plain numbers"):
        load_model(check_model(tmp_path / "long.keras"))


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_weights_are_loaded_from_a_model_in_mixed_precision(precision: str, tmp_path: Path) -> None:
    keras.config.set_dtype_policy(precision)
    try:
        model = build_classifier(ModelConfig(backbone="compact_small"), image_size=(32, 32), classes=3).model
        model.save(tmp_path / "x.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    backbone, loaded = load_backbone("compact_small", (32, 32), str(tmp_path / "x.keras"))
    assert loaded is not None
    assert loaded.used == len(backbone.weights)


def change_layer(class_name: str, **options: Any) -> Callable[[dict[str, Any]], None]:
    """Change options of the first layer of a class."""

    def change(config: dict[str, Any]) -> None:
        layers = config["config"]["layers"]
        next(layer for layer in layers if layer["class_name"] == class_name)["config"].update(options)

    return change


def call_on(*arguments: Any, **options: Any) -> Callable[[dict[str, Any]], None]:
    """Call the nested model on something else."""

    def change(config: dict[str, Any]) -> None:
        inner = next(layer for layer in config["config"]["layers"] if layer["class_name"] == "Functional")
        inner["inbound_nodes"] = [{"args": list(arguments), "kwargs": options}]

    return change


def an_initializer(name: str, **options: Any) -> dict[str, Any]:
    return {"module": "keras.initializers", "class_name": name, "config": options, "registered_name": None}


COLUMN = [[0.0]] * 1000
NUMBER = {"class_name": "__tensor__", "config": {"value": [[[[1.0]]]], "dtype": "float32"}}
INPUT = {"class_name": "__keras_tensor__", "config": {"keras_history": ["pixels", 0, 0]}}

# Each would make Keras compute gigabytes from a small file, before the size is known, if it ever is.
GREEDY: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a constant initializer with a column": (
        change_layer("Dense", bias_initializer=an_initializer("Constant", value=COLUMN)),
        "an initializer in it has an option that is not a plain value",
    ),
    "random numbers with a column as minimum": (
        change_layer("Dense", bias_initializer=an_initializer("RandomUniform", minval=COLUMN, maxval=1.0)),
        "an initializer in it has an option that is not a plain value",
    ),
    "a constant tensor as an initializer's option": (
        change_layer("Dense", bias_initializer=an_initializer("Constant", value={"args": NUMBER})),
        "an initializer in it has an option that is not a plain value",
    ),
    "a scale with more dimensions than images": (
        change_layer("Rescaling", scale=[[[[[1.0]]]]] * 20),
        "the scale of a Rescaling in it is not a short list of plain numbers",
    ),
    "an offset for every image of a batch": (
        change_layer("Rescaling", offset=[[[[1.0]]]] * 20),
        "the offset of a Rescaling in it is not a short list of plain numbers",
    ),
    "an offset of many numbers": (
        change_layer("Rescaling", offset=[1.0] * 1000),
        "the offset of a Rescaling in it is not a short list of plain numbers",
    ),
    "a model called on a constant": (call_on(NUMBER), "the layer 'inner' in it is called on nothing that was computed"),
    "a model called on a number": (call_on(1.0), "the layer 'inner' in it is called on nothing that was computed"),
    "a model called on a constant, with a mask": (
        call_on(NUMBER, mask=INPUT),
        "the layer 'inner' in it is called on constant numbers",
    ),
    "a model called on a number, with a mask": (
        call_on([1.0], mask=INPUT),
        "the layer 'inner' in it is called on constant numbers",
    ),
    "a model called on a constant beside a fake tensor": (
        call_on(NUMBER, mask={"keras_history": ["pixels", 0, 0]}),
        "the layer 'inner' in it is called on nothing that was computed",
    ),
    "a tensor from no layer": (
        call_on({"class_name": "__keras_tensor__", "config": {"shape": [1]}}),
        "a tensor in it comes from no layer",
    ),
}


@pytest.fixture(scope="module")
def classifier_config() -> str:
    """Return the config that Keras writes for a model with a nested model."""
    pixels, inside = keras.Input((8, 8, 3), name="pixels"), keras.Input((8, 8, 3))
    inner = keras.Model(inside, keras.layers.GlobalAveragePooling2D()(inside), name="inner")
    scaled = keras.layers.Rescaling(1 / 255)(pixels)
    return json.dumps(keras.saving.serialize_keras_object(keras.Model(pixels, keras.layers.Dense(3)(inner(scaled)))))


@pytest.mark.reliability(36)
@pytest.mark.parametrize("name", GREEDY)
def test_a_config_that_computes_before_its_size_is_known_is_rejected(name: str, classifier_config: str) -> None:
    config = json.loads(classifier_config)
    check_model_config(config)
    change, reason = GREEDY[name]
    change(config)
    with pytest.raises(UnsafeFileError) as caught:
        check_model_config(config)
    assert reason in str(caught.value)
