"""Every backbone in the table: minimum size, preprocessing and cuts, and our own two small backbones."""

from __future__ import annotations

import sys
from typing import Any

import keras
import numpy as np
import pytest

from wisesr_cli.errors import ConfigError
from wisesr_cli.model_files.loading import build_without_values
from wisesr_cli.models.backbones import (
    BACKBONES,
    build_backbone,
    canonical_name,
    check_backbone,
    cut_backbone,
    limit_momentum,
    preprocess,
    resolve_preprocessing,
)
from wisesr_cli.models.build import feature_map_of
from wisesr_cli.models.settings import ModelConfig

APPLICATIONS = sorted(name for name in dir(keras.applications) if name[0].isupper())
EFFICIENTNETS = [name for name in BACKBONES if name.startswith("EfficientNetB")]


def build_cheaply(name: str, image_size: tuple[int, int]) -> Any:
    return build_without_values(lambda: build_backbone(name, image_size))


def stock_preprocessing(name: str) -> Any:
    return sys.modules[getattr(keras.applications, name).__module__].preprocess_input


def scaled(pixels: Any, preprocessing: Any) -> Any:
    inputs = keras.Input(pixels.shape[1:])
    model = keras.Model(inputs, keras.layers.Identity()(preprocess(inputs, preprocessing)))
    return model.predict_on_batch(pixels)


def random_pixels(height: int = 6, width: int = 5, *, batch: int = 3) -> Any:
    return np.random.default_rng(0).integers(0, 256, (batch, height, width, 3)).astype("float32")


def test_the_table_holds_every_keras_application_and_our_own_backbones() -> None:
    assert sorted(name for name, row in BACKBONES.items() if not row.from_scratch) == APPLICATIONS
    assert [name for name, row in BACKBONES.items() if row.from_scratch] == ["compact", "compact_small"]


@pytest.mark.parametrize("name", BACKBONES)
def test_a_backbone_builds_at_its_minimum_size_and_not_below(name: str) -> None:
    minimum = BACKBONES[name].minimum_size
    backbone = build_cheaply(name, (minimum, minimum))
    _, height, width, channels = backbone.output_shape
    assert backbone.name == "backbone"
    assert min(height, width) >= 1
    assert channels >= 1
    assert backbone.count_params() == sum(int(np.prod(weight.shape)) for weight in backbone.weights) > 0
    for size in [(minimum - 1, minimum), (minimum, minimum - 1)]:
        with pytest.raises(ConfigError, match=rf"{size[0]}x{size[1]}, but {name} needs at least {minimum}x{minimum}"):
            build_backbone(name, size)


@pytest.mark.parametrize("name", APPLICATIONS)
def test_keras_itself_rejects_one_pixel_less(name: str) -> None:
    side = BACKBONES[name].minimum_size - 1
    with pytest.raises(ValueError, match="Input size must be at least"):
        getattr(keras.applications, name)(include_top=False, weights=None, input_shape=(side, side, 3))


@pytest.mark.parametrize("name", BACKBONES)
def test_backbone_names_are_case_insensitive(name: str) -> None:
    assert canonical_name(name.lower()) == canonical_name(name.upper()) == canonical_name(name) == name


def test_an_unknown_backbone_error_suggests_the_nearest_and_lists_all() -> None:
    with pytest.raises(ValueError, match=r"called 'ResNet5O'.*'ResNet50'.*Allowed: .*compact.*VGG19"):
        canonical_name("ResNet5O")


def test_imagenet_weights_for_a_backbone_without_any_are_a_config_error() -> None:
    for name in ("compact", "compact_small"):
        with pytest.raises(ConfigError, match=rf"weights is imagenet, but {name} starts from scratch"):
            check_backbone(name, (32, 32), "imagenet")


def test_a_backbone_built_only_for_counting_never_gets_weight_values() -> None:
    shape, backbone = feature_map_of(ModelConfig(backbone="compact"), (64, 64))
    assert shape == (8, 8, 256)
    keras.layers.Dense(2)(keras.Input((3,)))  # here Keras initializes every variable that is still pending
    assert [weight.path for weight in backbone.weights if weight._value is not None] == []


# --- pixels ---


@pytest.mark.parametrize("name", APPLICATIONS)
def test_auto_preprocessing_matches_the_backbones_own_keras_module(name: str) -> None:
    pixels = random_pixels()
    expected = stock_preprocessing(name)(pixels.copy())
    np.testing.assert_allclose(scaled(pixels, resolve_preprocessing(name, "auto")), expected, rtol=1e-5, atol=1e-4)
    assert BACKBONES[name].scales_inside == np.array_equal(pixels, expected)


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch"])
def test_every_preprocessing_matches_keras_and_a_slow_loop(mode: Any) -> None:
    pixels = random_pixels()
    result = scaled(pixels, mode)
    stock = sys.modules["keras.src.applications.imagenet_utils"].preprocess_input(pixels.copy(), mode=mode)
    np.testing.assert_allclose(result, stock, rtol=1e-5, atol=1e-4)
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    for (image, row, column), _ in np.ndenumerate(pixels[..., 0]):
        red, green, blue = pixels[image, row, column].astype("float64")
        expected = {
            "caffe": (blue - 103.939, green - 116.779, red - 123.68),
            "tf": [value / 127.5 - 1.0 for value in (red, green, blue)],
            "torch": [(v / 255.0 - m) / d for v, m, d in zip((red, green, blue), mean, deviation, strict=True)],
        }[mode]
        np.testing.assert_allclose(result[image, row, column], expected, rtol=1e-5, atol=1e-4)


def test_preprocessing_none_leaves_pixels_unchanged() -> None:
    assert np.array_equal(scaled(random_pixels(), "none"), random_pixels())


def test_an_explicit_preprocessing_overrides_the_backbones_own() -> None:
    assert resolve_preprocessing("Xception", "caffe") == "caffe"
    assert resolve_preprocessing("Xception", "auto") == "tf"
    assert resolve_preprocessing("EfficientNetB0", "none") == "none"


@pytest.mark.parametrize("name", ["compact", "compact_small"])
def test_our_own_backbones_scale_pixels_to_the_range_minus_one_to_one(name: str) -> None:
    backbone = build_cheaply(name, (16, 16))
    pixels = np.array([0.0, 127.5, 255.0], "float32")
    assert keras.ops.convert_to_numpy(backbone.get_layer("scaling")(pixels)).tolist() == [-1.0, 0.0, 1.0]


# --- EfficientNet ---


@pytest.mark.parametrize("name", EFFICIENTNETS)
def test_an_efficientnet_with_random_weights_scales_pixels_as_with_imagenet_weights(name: str) -> None:
    ours = build_cheaply(name, (32, 32))
    application = getattr(keras.applications, name)
    plain = build_without_values(lambda: application(include_top=False, weights=None, input_shape=(32, 32, 3)))
    assert [tuple(weight.shape) for weight in ours.weights] == [tuple(weight.shape) for weight in plain.weights]
    assert [type(layer) for layer in ours.layers if layer.name != "imagenet_scaling"] == [
        type(layer) for layer in plain.layers
    ]
    names = [layer.name for layer in ours.layers]
    assert names[names.index("imagenet_scaling") - 1].startswith("normalization")
    scaling = ours.get_layer("imagenet_scaling")
    ones = np.ones((1, 1, 1, 3), "float32")
    # Keras divides by the square root of the deviation: a quirk that the weights were trained with.
    expected = 1.0 / np.sqrt([0.229, 0.224, 0.225])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(scaling(ones))[0, 0, 0], expected, rtol=1e-6)


# --- cuts ---


def test_a_backbone_can_be_cut_at_a_layer() -> None:
    backbone = build_cheaply("MobileNetV2", (96, 64))
    cut = cut_backbone(backbone, "block_6_expand_relu")
    assert cut.output_shape == (None, 12, 8, 192)
    assert cut.name == backbone.name
    assert cut.layers[-1].name == "block_6_expand_relu"
    assert 0 < cut.count_params() < backbone.count_params()


def test_cutting_at_an_unknown_layer_suggests_the_nearest_and_the_last_layers() -> None:
    backbone = build_cheaply("MobileNetV2", (96, 96))
    with pytest.raises(ConfigError, match=r"'block_6_expand_rely'.*'block_6_expand_relu'.*last ones are .*out_relu"):
        cut_backbone(backbone, "block_6_expand_rely")


def test_cutting_at_a_layer_without_a_feature_map_is_a_config_error() -> None:
    backbone = build_cheaply("EfficientNetB0", (32, 32))
    with pytest.raises(ConfigError, match=r"'block1a_se_squeeze' gives \(None, 32\), not a feature map"):
        cut_backbone(backbone, "block1a_se_squeeze")


# --- batch norm ---


@pytest.mark.parametrize(("steps", "momentum"), [(1, 0.9), (99, 0.9), (100, 0.99), (5000, 0.99)])
def test_batch_norm_momentum_is_limited_by_the_length_of_an_epoch(steps: int, momentum: float) -> None:
    backbone = build_cheaply("MobileNetV2", (32, 32))
    norms = [layer for layer in backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.momentum for layer in norms} == {0.999}
    norms[0].momentum = 0.5
    limit_momentum(backbone, steps)
    assert norms[0].momentum == 0.5
    assert {layer.momentum for layer in norms[1:]} == {momentum}


# --- compact ---


def test_feature_map_shapes_of_the_compact_backbones() -> None:
    assert build_cheaply("compact", (96, 96)).output_shape == (None, 12, 12, 256)
    assert build_cheaply("compact_small", (96, 96)).output_shape == (None, 12, 12, 64)
    assert build_cheaply("compact", (64, 40)).output_shape == (None, 8, 5, 256)


@pytest.mark.parametrize("axis", [0, 1])
def test_a_position_of_compact_small_has_a_receptive_field_of_twelve_pixels(axis: int) -> None:
    keras.utils.set_random_seed(0)
    side, middle = 96, 50
    backbone = build_backbone("compact_small", (side, side))
    pixels = np.repeat(random_pixels(side, side, batch=1), side + 1, axis=0)
    for pixel in range(side):  # image `pixel` differs from the last image in this pixel only
        place = (pixel, middle) if axis == 0 else (middle, pixel)
        pixels[(pixel, *place)] = 255.0 - pixels[(pixel, *place)]
    maps = np.moveaxis(backbone.predict_on_batch(pixels), 1 + axis, 1)  # (image, position, others, channels)
    changed = (maps[:-1] != maps[-1]).any(axis=(2, 3))  # (pixel, position)
    for position in range(12):
        seen = np.flatnonzero(changed[:, position]).tolist()
        assert seen == list(range(8 * position, min(8 * position + 12, side)))
