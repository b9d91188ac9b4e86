"""The table of backbone costs agrees with Keras for every backbone, at every image size."""

from __future__ import annotations

import random

import pytest
from backbone_costs import TARGET, WHOLE, mistakes, sizes_of, sizes_to_verify, source_of, then

from wisesr_cli.machine import keras_start
from wisesr_cli.models.backbones import BACKBONES
from wisesr_cli.models.costs import side_at
from wisesr_cli.models.costs_table import BACKBONE_SIZES

# One for each style of padding, pooling and squeezing, and quick to build.
QUICK = (
    "compact",
    "compact_small",
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "ConvNeXtTiny",
    "Xception",
    "VGG16",
)

# Millions of parameters with a classifier layer of 1,000, from the table at keras.io/api/applications.
PUBLISHED = {
    **{"Xception": 22.9, "ResNet50": 25.6, "ResNet50V2": 25.6, "ResNet101": 44.7, "ResNet101V2": 44.7},
    **{"ResNet152": 60.4, "ResNet152V2": 60.4, "InceptionV3": 23.9, "InceptionResNetV2": 55.9, "MobileNet": 4.3},
    **{"MobileNetV2": 3.5, "DenseNet121": 8.1, "DenseNet169": 14.3, "DenseNet201": 20.2, "NASNetMobile": 5.3},
    **{"NASNetLarge": 88.9, "EfficientNetB0": 5.3, "EfficientNetB1": 7.9, "EfficientNetB2": 9.2},
    **{"EfficientNetB3": 12.3, "EfficientNetB4": 19.5, "EfficientNetB5": 30.6, "EfficientNetB6": 43.3},
    **{"EfficientNetB7": 66.7, "EfficientNetV2B0": 7.2, "EfficientNetV2B1": 8.2, "EfficientNetV2B2": 10.2},
    **{"EfficientNetV2B3": 14.5, "EfficientNetV2S": 21.6, "EfficientNetV2M": 54.4, "EfficientNetV2L": 119.0},
    **{"ConvNeXtTiny": 28.6, "ConvNeXtSmall": 50.2, "ConvNeXtBase": 88.6, "ConvNeXtLarge": 197.8},
    **{"ConvNeXtXLarge": 350.2},
}


@pytest.fixture(autouse=True, scope="module")
def keras_is_started() -> None:
    keras_start.start("cpu")


def test_the_table_lists_exactly_the_known_backbones() -> None:
    assert list(BACKBONE_SIZES) == list(BACKBONES)


def test_the_file_is_what_the_generator_writes() -> None:
    assert TARGET.read_text(encoding="utf-8") == source_of(BACKBONE_SIZES)


def test_consecutive_windows_compose_into_one_division() -> None:
    draw = random.Random(0)
    for _ in range(200):
        steps = [(draw.randint(1, 3), draw.randint(-5, 5)) for _ in range(5)]
        resolution = WHOLE
        for stride, added in steps:
            resolution = then(resolution, stride=stride, added=added)
        for pixels in range(300, 320):
            side = pixels
            for stride, added in steps:
                side = (side + added) // stride
            assert side_at(resolution, pixels) == side


@pytest.mark.parametrize("name", QUICK)
def test_a_row_matches_the_keras_model_and_holds_at_other_sizes(name: str) -> None:
    assert sizes_of(name) == BACKBONE_SIZES[name]
    assert not list(mistakes(name, BACKBONE_SIZES[name], sizes_to_verify(name)[:6:2]))


def test_a_wrong_row_is_detected() -> None:
    wrong = list(mistakes("compact", BACKBONE_SIZES["compact_small"], [(40, 56)]))
    assert [line.split(": ")[1].split(" ", 1)[0] for line in wrong] == ["parameters", "trainable", "feature", "FLOPs"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_match_those_published_by_keras(name: str) -> None:
    sizes = BACKBONE_SIZES[name]
    norm = 2 * sizes.channels if name.startswith("ConvNeXt") else 0
    assert sizes.parameters + norm + 1000 * (sizes.channels + 1) == pytest.approx(1e6 * PUBLISHED[name], abs=0.12e6)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(900)
def test_every_row_matches_keras_at_two_sizes() -> None:
    """Takes two minutes; all eleven sizes are compared whenever the table is generated."""
    for name in BACKBONES:
        assert sizes_of(name) == BACKBONE_SIZES[name]
        assert not list(mistakes(name, BACKBONE_SIZES[name], sizes_to_verify(name)[::8]))
