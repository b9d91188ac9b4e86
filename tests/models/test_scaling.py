"""Pixels are scaled as in the training of the loaded weights, or the scaling is reported as assumed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import keras
import numpy as np
import pytest
from keras import layers
from keras.applications.imagenet_utils import preprocess_input

from wisesr_cli.errors import ConfigError
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.archive import append_model_info, check_model
from wisesr_cli.model_files.info import BEST, ModelInfo
from wisesr_cli.models.backbones import Preprocessing
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.heads import GapOptions
from wisesr_cli.models.saved import saved_scaling
from wisesr_cli.models.scaling import Scaling
from wisesr_cli.models.settings import ModelConfig

SIZE = (32, 32)
NAME = "MobileNet"


def save_run(folder: Path, **options: Any) -> Path:
    """Save a new classifier as the best model of a run, and return its folder."""
    folder.mkdir(exist_ok=True)
    classifier = build_classifier(ModelConfig(head=GapOptions(), **options), image_size=SIZE, classes=3)
    classifier.model.save(folder / BEST)
    append_model_info(folder / BEST, ModelInfo(("a", "b", "c"), SIZE, Preparation(), BACKGROUND, "x", "gap", 3, {}))
    return folder


def build(weights: Path, **options: Any) -> Any:
    config = ModelConfig(**{"backbone": NAME, "weights": str(weights), "head": GapOptions(), **options})
    return build_classifier(config, image_size=SIZE, classes=3)


def stock() -> Any:
    return keras.applications.MobileNet(include_top=False, weights=None, input_shape=(*SIZE, 3))


def third_party_classifier(scale: Callable[[Any], Any], path: Path) -> Path:
    """Save a third-party classifier that scales its pixels before the backbone."""
    pixels = keras.Input((*SIZE, 3))
    x = stock()(scale(pixels), training=False)
    keras.Model(pixels, layers.Dense(3)(layers.GlobalAveragePooling2D()(x))).save(path)
    return path


@pytest.mark.parametrize("where", ["run", "best.keras"])
@pytest.mark.parametrize("scaling", get_args(Preprocessing))
def test_auto_uses_the_scaling_of_the_run(tmp_path: Path, where: str, scaling: Preprocessing) -> None:
    for name in ("compact_small", "from_weights"):  # the backbone also scales pixels itself
        run = save_run(tmp_path / "run", backbone="compact_small", preprocessing=scaling)
        source = run if where == "run" else run / BEST
        classifier = build(source, backbone=name)
        assert (classifier.scaling.name, saved_scaling(run / BEST).name) == (scaling, scaling)
        assert classifier.scaling.reason == f"as in {run / BEST}"
        pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3)).astype("float32")
        saved = keras.models.load_model(run / BEST)
        maps = [keras.Model(model.input, model.get_layer("gap").input) for model in (saved, classifier.model)]
        np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(model(pixels, training=False)) for model in maps))


def test_auto_follows_a_run_whose_backbone_does_not_scale_pixels(tmp_path: Path) -> None:
    assert build(save_run(tmp_path / "run", backbone=NAME, preprocessing="caffe")).scaling.name == "caffe"


OTHERS: dict[str, tuple[Callable[[Any], Any], Preprocessing]] = {
    "a layer": (layers.Rescaling(1 / 127.5, -1.0), "tf"),
    "another layer": (lambda x: layers.Rescaling(1 / 255)(x), "unit"),
    "constants": (lambda x: layers.Normalization(mean=[127.5] * 3, variance=[127.5**2] * 3)(x), "tf"),
    "arithmetic": (lambda x: preprocess_input(x, mode="tf"), "tf"),
    "arithmetic of ResNet": (lambda x: preprocess_input(x, mode="caffe"), "caffe"),
    "arithmetic of DenseNet": (lambda x: preprocess_input(x, mode="torch"), "torch"),
    "augmentation first": (
        lambda x: layers.Rescaling(1 / 255)(keras.Sequential([layers.RandomFlip(), layers.RandomZoom(0.1)])(x)),
        "unit",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_auto_detects_the_scaling_of_a_third_party_model(tmp_path: Path, case: str) -> None:
    scale, expected = OTHERS[case]
    classifier = build(third_party_classifier(scale, tmp_path / "other.keras"))
    assert (classifier.scaling.name, classifier.scaling.reason) == (expected, f"as in {tmp_path / 'other.keras'}")


@pytest.mark.slow
def test_auto_is_none_for_a_third_party_backbone_that_scales_pixels_itself(tmp_path: Path) -> None:
    keras.applications.MobileNetV3Small(include_top=False, weights=None, input_shape=(*SIZE, 3)).save(
        tmp_path / "m.keras"
    )
    scaling = build(tmp_path / "m.keras", backbone="MobileNetV3Small").scaling
    assert (scaling.name, scaling.reason) == ("none", f"as in {tmp_path / 'm.keras'}")


@pytest.mark.parametrize("suffix", [pytest.param("keras", marks=pytest.mark.slow), "weights.h5"])
def test_a_file_without_scaling_gets_the_backbones_own_reported_as_assumed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"stock.{suffix}"
    stock().save_weights(path) if suffix == "weights.h5" else stock().save(path)
    scaling = build(path).scaling
    assert scaling.name == "tf"
    assert scaling.reason == f"assumed, as keras.applications trains {NAME}: {path} does not say"
    assert build(path, preprocessing="caffe").scaling == Scaling("caffe")


def test_a_conflicting_scaling_is_a_config_error_with_both_values_and_the_fix(tmp_path: Path) -> None:
    run = save_run(tmp_path / "run", backbone="compact_small", preprocessing="caffe")
    for backbone in ("compact_small", "from_weights"):
        message = r"preprocessing is tf, but .*best\.keras was trained with caffe; .*-s model\.preprocessing=caffe"
        with pytest.raises(ConfigError, match=message):
            build(run, backbone=backbone, preprocessing="tf")
        assert build(run, backbone=backbone, preprocessing="caffe").scaling.name == "caffe"


@pytest.mark.slow
def test_an_unsupported_scaling_is_a_config_error_that_says_how_to_keep_it(tmp_path: Path) -> None:
    path = third_party_classifier(layers.Rescaling(1 / 51, 2.0), tmp_path / "odd.keras")
    with pytest.raises(
        ConfigError, match=r"odd\.keras: has its pixels scaled such that 0 is 2 and 255 is 7, .*; wisesr upgrade .*odd"
    ):
        build(path)
    scaling = build(path, preprocessing="unit").scaling
    assert (scaling.name, scaling.reason.startswith("as requested; ")) == ("unit", True)


def test_a_rebuilt_model_keeps_its_scaling(tmp_path: Path) -> None:
    first = build(save_run(tmp_path / "run", backbone="compact_small", preprocessing="caffe"), backbone="compact_small")
    again = build_classifier(ModelConfig(backbone="compact_small"), image_size=SIZE, classes=3, scaling=first.scaling)
    assert check_model(tmp_path / "run" / BEST).record is not None
    assert again.model.get_layer("caffe_scaling") is not None
