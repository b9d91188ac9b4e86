"""The pixels a position sees, checked with models without negative weights, where every seen pixel shows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from wisesr_cli.explanation.receptive_field import ReceptiveField, find_receptive_field
from wisesr_cli.model_files.loading import build_without_values
from wisesr_cli.models.backbones import BACKBONES, build_backbone, cut_backbone, preprocess

# Araujo, Norris and Sim, 2019, Computing Receptive Fields of Convolutional Neural Networks (Distill), table 1.
PUBLISHED = {
    **{"MobileNet": 315, "ResNet50": 483, "ResNet101": 1027, "ResNet152": 1507, "VGG16": 212},
    **{"InceptionV3": 1311, "InceptionResNetV2": 3039},
}


def with_positive_weights(model: Any) -> Any:
    """Give a model weights with which no inputs cancel out, and batch norm that changes nothing."""
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([weight * 0 + (number in {0, 3}) for number, weight in enumerate(layer.get_weights())])
        elif hasattr(layer, "layers"):
            with_positive_weights(layer)
        else:
            layer.set_weights([np.full(w.shape, 0.0 if w.ndim == 1 else 0.1) for w in layer.get_weights()])
    return model


def seen_by(model: Any, row: int, column: int, *, zero: float = 0.0) -> tuple[list[int], list[int]]:
    """Return the pixel rows and columns that a position sees, found by lighting them one at a time."""
    found = []
    for axis in (1, 2):
        side = model.input_shape[axis]
        images = np.full((side, *model.input_shape[1:]), zero, "float32")
        for pixel in range(side):
            np.moveaxis(images[pixel], axis - 1, 0)[pixel] = 255
        outputs = np.concatenate([model.predict_on_batch(part) for part in np.array_split(images, 4)])
        lit = outputs[:, row, column].max(axis=1) > 1e-5 * outputs.max()  # `zero` is scaled to zero, up to rounding
        found.append(np.flatnonzero(lit).tolist())
    return found[0], found[1]


def check_positions(model: Any, field: ReceptiveField, *, zero: float = 0.0) -> None:
    """Compare the middle and two corners of a map with what is found by lighting pixels."""
    height, width = model.output_shape[1:3]
    assert (len(field.rows), len(field.columns)) == (height, width)
    for row, column in {(0, 0), (height // 2, width // 2), (height - 1, width - 1)}:
        rows, columns = seen_by(model, row, column, zero=zero)
        assert (rows[0], rows[-1] + 1) == field.rows[row]
        assert (columns[0], columns[-1] + 1) == field.columns[column]


@pytest.mark.parametrize(("name", "side", "stride"), [("compact_small", 12, 8), ("compact", 45, 8)])
def test_the_small_backbones_see_exactly_the_pixels_that_light_them(name: str, side: int, stride: int) -> None:
    model = with_positive_weights(build_backbone(name, (48, 72)))
    field = find_receptive_field(model)
    assert field is not None
    assert (field.image_size, field.size, field.stride) == ((48, 72), (side, side), (stride, stride))
    assert field.covers_image is False
    assert field.most_seen == (side, side)
    check_positions(model, field, zero=127.5)


def test_mobilenet_sees_491_pixels_and_not_one_more() -> None:
    size = (32, 704)
    model = with_positive_weights(build_backbone("MobileNetV2", size))
    field = find_receptive_field(model)
    assert field is not None
    assert (field.size, field.stride) == ((491, 491), (32, 32))
    assert set(field.rows) == {(0, 32)}
    middle = len(field.columns) // 2
    first, end = field.columns[middle]
    assert end - first == 491
    images = np.zeros((4, *size, 3), "float32")
    for image, column in zip(images, (first - 1, first, end - 1, end), strict=True):
        image[:, column] = 1
    lit = (model.predict_on_batch(images)[:, 0, middle] > 0).any(axis=1)
    assert lit.tolist() == [False, True, True, False]


def build(give: Callable[[Any], Any], size: tuple[int, int] = (23, 30)) -> Any:
    inputs = keras.Input((*size, 3))
    return with_positive_weights(keras.Model(inputs, give(inputs)))


def odd_paddings(x: Any) -> Any:
    x = layers.ZeroPadding2D(((3, 1), (0, 2)))(x)
    x = layers.Conv2D(2, (3, 2), strides=2, padding="same")(x)
    x = layers.Cropping2D(((1, 0), (2, 1)))(x)
    return layers.MaxPooling2D(2, padding="same")(x)


def dilated(x: Any) -> Any:
    x = layers.Conv2D(2, 3, dilation_rate=(2, 3), padding="same")(x)
    return layers.SeparableConv2D(2, (4, 1), strides=3, padding="same")(layers.DepthwiseConv2D(2, strides=2)(x))


def branches(x: Any) -> Any:
    wide = layers.Conv2D(2, (5, 3), strides=2, padding="same")(x)
    narrow = layers.AveragePooling2D(2, strides=2, padding="same")(x)
    both = layers.Concatenate()([wide, narrow])
    return layers.Add()([layers.Conv2D(5, 1)(both), both])


def models_inside(x: Any) -> Any:
    inner = keras.Input(x.shape[1:])
    nested = keras.Model(inner, layers.Conv2D(3, 3, padding="same")(layers.Conv2D(3, 3, padding="same")(inner)))
    stacked = keras.Sequential([layers.Conv2D(3, 2, strides=2), layers.ReLU()])
    return stacked(nested(nested(x)))  # the same layers twice


def cropped_then_padded(x: Any) -> Any:
    return layers.Conv2D(2, 3, padding="same")(layers.Cropping2D(4)(x))


@pytest.mark.parametrize("give", [odd_paddings, dilated, branches, models_inside, cropped_then_padded])
def test_every_kind_of_layer_is_traced_to_the_exact_pixel(give: Callable[[Any], Any]) -> None:
    model = build(give)
    field = find_receptive_field(model)
    assert field is not None
    check_positions(model, field)


def test_an_intermediate_global_mean_lets_every_position_see_the_whole_image() -> None:
    def squeeze_and_excite(x: Any) -> Any:
        x = layers.Conv2D(4, 3, strides=2)(x)
        scale = layers.Dense(4)(layers.Reshape((1, 1, 4))(layers.GlobalAveragePooling2D()(x)))
        return layers.Conv2D(2, 3)(layers.Multiply()([x, scale]))

    model = build(squeeze_and_excite, (15, 21))
    field = find_receptive_field(model)
    assert field is not None
    assert field.size is None
    assert field.covers_image
    assert field.most_seen == (15, 21)


@pytest.mark.parametrize("scaling", ["caffe", "tf", "torch", "none"])
def test_pixel_scaling_does_not_change_the_receptive_field(scaling: Any) -> None:
    model = build(lambda x: layers.Conv2D(1, 3, strides=2)(preprocess(x, scaling)), (9, 12))
    field = find_receptive_field(model)
    assert field is not None
    assert field.columns == ((0, 3), (2, 5), (4, 7), (6, 9), (8, 11))


@pytest.mark.parametrize(
    "give",
    [
        lambda x: layers.UpSampling2D()(x),
        lambda x: layers.Permute((2, 1, 3))(x),
        lambda x: layers.LayerNormalization(axis=(1, 2, 3))(x),
        lambda x: layers.Concatenate(axis=1)([x, x]),
        lambda x: layers.Reshape((30, 23, 3))(x),
        lambda x: x[:, 1:],
        lambda x: layers.Conv2D(1, 1)(keras.Sequential([layers.UpSampling2D()])(x)),
        lambda x: layers.Add()([x, keras.ops.flip(x, axis=1)]),
    ],
)
def test_models_with_unsupported_layers_have_no_receptive_field(give: Callable[[Any], Any]) -> None:
    assert find_receptive_field(build(give)) is None


@pytest.mark.parametrize("name", ["MobileNet", "ResNet50", "VGG16"])
def test_receptive_fields_match_the_published_ones(name: str) -> None:
    field = find_receptive_field(build_without_values(lambda: build_backbone(name, (224, 224))))
    assert field is not None
    assert (field.size, field.stride) == ((PUBLISHED[name],) * 2, (32, 32))


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_the_receptive_field_of_every_backbone_is_known(name: str) -> None:
    size = (BACKBONES[name].native_size,) * 2
    field = find_receptive_field(build_without_values(lambda: build_backbone(name, size)))
    assert field is not None
    if name in PUBLISHED:
        assert field.size == (PUBLISHED[name],) * 2
    if name.startswith(("EfficientNet", "MobileNetV3")):  # squeeze and excitation
        assert field.size is None
        assert field.covers_image


def test_a_backbone_cut_early_sees_less() -> None:
    whole = build_without_values(lambda: build_backbone("VGG16", (64, 64)))
    cut = build_without_values(lambda: cut_backbone(build_backbone("VGG16", (64, 64)), "block2_pool"))
    fields = [find_receptive_field(model) for model in (whole, cut)]
    assert [field and field.size for field in fields] == [(212, 212), (16, 16)]
