"""Backbones for channels other than RGB: their adapted first convolution and the scaling before it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from wisesr_cli.config.reader import load_config, parse_set
from wisesr_cli.errors import ConfigError, RunError
from wisesr_cli.images.preparation import Channels, Preparation
from wisesr_cli.model_files.archive import check_model
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.model_files.saving import save_model
from wisesr_cli.models.backbones import BACKBONES, PHOTO_MEAN, PHOTO_SPREAD, build_backbone
from wisesr_cli.models.build import Classifier, build_classifier
from wisesr_cli.models.channels import adapted_kernel, channel_scaling, with_channels
from wisesr_cli.models.saved import saved_scaling
from wisesr_cli.models.scaling import Scaling, after_scaling
from wisesr_cli.models.settings import ModelConfig

SIZE = (32, 40)
GREY = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 1)).astype(np.float32)
BRIEF = ("compact", "compact_small", "MobileNetV3Small", "MobileNetV2")
OTHERS = tuple(name for name in BACKBONES if name not in BRIEF)


def model_of(name: str, weights: Path | None = None, **settings: Any) -> ModelConfig:
    return load_config(None, [parse_set(f"model.backbone={name}")]).config.model.model_copy(
        update={"weights": None if weights is None else str(weights), **settings}
    )


def build(name: str, channels: Channels, weights: Path | None = None, **settings: Any) -> Classifier:
    return build_classifier(model_of(name, weights, **settings), image_size=SIZE, classes=2, channels=channels)


def outputs(model: Any, pixels: np.ndarray) -> np.ndarray:
    return np.asarray(keras.ops.convert_to_numpy(model(pixels, training=False)))


def close(one: np.ndarray, other: np.ndarray) -> bool:
    return float(np.abs(one - other).max()) <= 2e-5 * float(np.abs(other).max())


@pytest.fixture(scope="module")
def rgb_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with the weights of an RGB backbone."""
    path = tmp_path_factory.mktemp("weights") / "mobilenet.weights.h5"
    build_backbone("MobileNetV2", SIZE).save_weights(path)
    return path


def test_an_adapted_kernel_keeps_the_sum_over_channels() -> None:
    kernel = np.random.default_rng(1).normal(size=(3, 3, 3, 5)).astype(np.float32)
    for channels in (1, 2, 4, 13):
        found = adapted_kernel(kernel, channels)
        assert found.shape == (3, 3, channels, 5)
        for channel in range(channels):
            expected = (kernel[:, :, 0] + kernel[:, :, 1] + kernel[:, :, 2]) / channels  # the mean times 3 / N
            np.testing.assert_allclose(found[:, :, channel], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [1, 4])
def test_grey_gives_the_same_feature_map_as_grey_repeated_into_rgb(rgb_weights: Path, channels: int) -> None:
    rgb = build("MobileNetV2", Channels(), rgb_weights)
    other = build("MobileNetV2", Channels(channels), rgb_weights)  # pixels are treated like those of photos
    expected = outputs(rgb.extractor, np.repeat(GREY, 3, axis=-1))
    assert close(outputs(other.extractor, np.repeat(GREY, channels, axis=-1)), expected)
    assert other.loaded_tensors == rgb.loaded_tensors
    assert not close(outputs(other.extractor, np.repeat(255 - GREY, channels, axis=-1)), expected)


@pytest.mark.parametrize("name", BRIEF)
def test_a_backbone_scales_grey_as_it_scales_rgb(name: str) -> None:
    backbone = build_backbone(name, SIZE)
    scaling = Scaling(BACKBONES[name].scaling)
    _check_scaling(backbone, scaling)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_every_other_backbone_scales_grey_as_it_scales_rgb(name: str) -> None:
    size = max(32, BACKBONES[name].minimum_size)
    _check_scaling(build_backbone(name, (size, size)), Scaling(BACKBONES[name].scaling))
    keras.utils.clear_session()


def _check_scaling(backbone: Any, scaling: Scaling) -> None:
    """Check that a grey backbone's scaling and first convolution match those for RGB with equal channels."""
    grey = with_channels(backbone, 1, keeps_kernel=True)
    found = channel_scaling(scaling, backbone, Channels(1))
    black, white = after_scaling(scaling.name, backbone)[:2]
    (factor,), (offset,) = found.factors, found.offsets
    np.testing.assert_allclose([offset, 255 * factor + offset], [black.mean(), white.mean()], rtol=1e-4, atol=1e-4)
    sides = backbone.inputs[0].shape[1:3]
    scaled = np.random.default_rng(2).normal(size=(1, *sides, 1)).astype(np.float32)
    whole = with_channels(backbone, 3, keeps_kernel=True)  # RGB without the built-in scaling
    # After its first convolution, a deep network with random weights amplifies rounding errors arbitrarily.
    assert close(outputs(_to_first(grey), scaled), outputs(_to_first(whole), np.repeat(scaled, 3, axis=-1)))
    assert grey.output_shape == backbone.output_shape
    assert with_channels(backbone, 5, keeps_kernel=False).input_shape == (None, *sides, 5)


def _to_first(backbone: Any) -> keras.Model:
    first = next(layer for layer in backbone.layers if isinstance(layer, keras.layers.Conv2D))
    return keras.Model(backbone.input, first.output)


def test_channels_are_normalized_to_the_mean_and_spread_of_photos_before_rgb_scaling() -> None:
    statistics = ((40.0, 10.0), (200.0, 30.0), (7.0, 0.0))
    backbone = build_backbone("MobileNetV2", SIZE)
    found = channel_scaling(Scaling("tf"), backbone, Channels(3, statistics))
    for (mean, spread), factor, offset in zip(statistics, found.factors, found.offsets, strict=True):
        assert mean * factor + offset == pytest.approx(PHOTO_MEAN / 127.5 - 1)
        assert max(spread, 1.0) * factor == pytest.approx(PHOTO_SPREAD / 127.5)  # a constant channel is not amplified


def test_random_kernels_differ_between_bands_and_are_reproducible() -> None:
    models = [build("compact", Channels(4, ((100.0, 50.0),) * 4)) for _ in range(2)]
    kernels = [next(weight for weight in model.backbone.weights if "kernel" in weight.path) for model in models]
    first, second = (keras.ops.convert_to_numpy(kernel) for kernel in kernels)
    assert first.shape == (3, 3, 4, 32)
    assert not np.allclose(first[:, :, 0], first[:, :, 3])
    np.testing.assert_array_equal(first, second)


def test_explicit_scalings_apply_to_every_channel_and_rgb_only_ones_are_rejected() -> None:
    for asked, (low, high) in {"none": (0, 255), "unit": (0, 1), "tf": (-1, 1)}.items():
        scaling = build("MobileNetV2", Channels(2, ((9.0, 9.0),) * 2), preprocessing=asked).scaling
        np.testing.assert_allclose(scaling.offsets, [low, low], atol=1e-6)
        np.testing.assert_allclose(np.array(scaling.factors) * 255 + scaling.offsets, [high, high], rtol=1e-6)
    for asked in ("caffe", "torch"):
        settings = [parse_set("data.channels=2"), parse_set(f"model.preprocessing={asked}")]
        with pytest.raises(ConfigError, match=f"{asked}, a rule for RGB, but data.channels is 2; allowed: auto"):
            load_config(None, settings)


def test_a_multiband_model_survives_a_round_trip_and_initializes_another_model(tmp_path: Path) -> None:
    statistics = tuple((100.0 + channel, 20.0 + channel) for channel in range(64))
    built = build("compact_small", Channels(64, statistics))
    path = tmp_path / "best.keras"
    preparation = Preparation(channels=64)
    save_model(
        built.model,
        path,
        ModelInfo(("a", "b"), SIZE, preparation, (255, 255, 255), "compact_small", "wise", 1, {}),
    )
    loaded = load_model(check_model(path), runs=True)
    pixels = np.random.default_rng(3).integers(0, 256, (2, *SIZE, 64)).astype(np.float32)
    np.testing.assert_array_equal(outputs(loaded, pixels), outputs(built.model, pixels))
    np.testing.assert_allclose(saved_scaling(path)[2:], built.scaling[2:], rtol=1e-6)
    for name in ("compact_small", "from_weights"):
        again = build(name, Channels(64, ((1.0, 1.0),) * 64), path)
        assert close(outputs(again.extractor, pixels), outputs(built.extractor, pixels))  # including its scaling
        with pytest.raises(ConfigError, match=r"best.keras: is for 64 channels, but data.channels is 4"):
            build(name, Channels(4), path)


def test_a_backbone_whose_first_layer_is_not_a_plain_convolution_is_rejected() -> None:
    inputs = keras.Input((*SIZE, 3))
    model = keras.Model(inputs, keras.layers.Conv2D(4, 3)(keras.layers.DepthwiseConv2D(3)(inputs)))
    with pytest.raises(RunError, match="the backbone does not accept 4 channels in place of RGB"):
        with_channels(model, 4, keeps_kernel=True)
