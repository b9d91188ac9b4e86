"""Ordinary classifiers are taken apart at their pooling, and the reassembled model has the same outputs."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from keras_classifiers import ENDS, HIDDEN, OTHERS, SIDE, ending, in_a_row, outputs_of, pixels_of, plain, randomize

from wisesr_cli.config.reader import parse_head
from wisesr_cli.config.training import FreezePart
from wisesr_cli.errors import RunError
from wisesr_cli.evaluation.probabilities import softmax
from wisesr_cli.model_files.loading import build_without_values
from wisesr_cli.models.backbones import BACKBONES, build_backbone
from wisesr_cli.models.build import assemble
from wisesr_cli.models.heads import HeadOptions, head_parameters
from wisesr_cli.models.scaling import Scaling
from wisesr_cli.upgrading.convert import fill_head, frozen_part
from wisesr_cli.upgrading.families import FAMILIES, family_of
from wisesr_cli.upgrading.folding import fold
from wisesr_cli.upgrading.surgery import Parts, take_apart


def options_of(parts: Parts, head: str = "gap") -> HeadOptions:
    """Return the options of a head with the hidden layers that were found."""
    return parse_head(head).model_copy(update={"hidden": tuple(hidden.options for hidden in parts.folded.hidden)})


def put_back(parts: Parts, head: str = "wise") -> keras.Model:
    model = assemble(parts.backbone, Scaling("none"), SIDE, parts.folded.classes, options_of(parts, head))
    fill_head(model, parts.folded)
    return model


def check_equal(model: keras.Model, parts: Parts, head: str) -> None:
    """Compare the probabilities of the reassembled model with those of the original."""
    pixels = pixels_of(6)
    expected, ours = outputs_of(model, pixels), softmax(outputs_of(put_back(parts, head), pixels))
    if parts.folded.activation == "linear":
        expected = softmax(expected)
    elif parts.folded.activation == "sigmoid":
        expected = np.concatenate([1 - expected, expected], axis=1)
    assert np.ptp(expected, axis=0).max() > 0.01  # so that wrong weights would be noticed
    np.testing.assert_allclose(ours, expected, atol=1e-6)


@pytest.mark.parametrize("head", ["wise", "depthwise", "gap"])
@pytest.mark.parametrize("end", ENDS)
def test_a_reassembled_model_computes_the_same_as_the_original(end: str, head: str) -> None:
    model = ENDS[end]()
    parts = take_apart(model, SIDE)
    check_equal(model, parts, head)
    assert parts.feature_map == (8, 6, 12)
    assert not parts.folded.hidden


@pytest.mark.parametrize("head", ["wise", "depthwise", "gap"])
@pytest.mark.parametrize("end", HIDDEN)
def test_nonlinear_layers_after_the_pooling_are_kept_as_hidden_layers(end: str, head: str) -> None:
    build, hidden = HIDDEN[end]
    model = build()
    parts = take_apart(model, SIDE)
    check_equal(model, parts, head)
    assert tuple(str(layer.options) for layer in parts.folded.hidden) == hidden
    numbers = put_back(parts, "gap").count_params() - parts.backbone.count_params()
    assert numbers == head_parameters(parts.feature_map, parts.folded.classes, options_of(parts))


def test_folding_equals_a_slow_loop_over_the_layers() -> None:
    norm, dense, last = layers.BatchNormalization(epsilon=0.01), layers.Dense(4), layers.Dense(3)
    randomize(keras.Sequential([keras.Input((5,)), norm, layers.Dropout(0.25), dense, last]), seed=3)
    features = np.random.default_rng(0).normal(size=5)
    gamma, beta, mean, variance = (np.asarray(weight) for weight in norm.get_weights())
    x = [gamma[c] * (features[c] - mean[c]) / (variance[c] + 0.01) ** 0.5 + beta[c] for c in range(5)]
    for layer in (dense, last):
        kernel, bias = layer.get_weights()
        x = [bias[k] + sum(x[c] * kernel[c, k] for c in range(len(x))) for k in range(len(bias))]
    folded = fold([norm, layers.Dropout(0.25), dense, last], 5)
    np.testing.assert_allclose(features @ folded.classifier.kernel + folded.classifier.bias, x, rtol=1e-6)
    assert (folded.dense_layers, folded.norms, folded.dropout) == (2, 1, 0.25)


@pytest.mark.parametrize("kind", OTHERS)
def test_a_model_that_is_not_a_pooled_classifier_is_rejected_with_the_reason(kind: str) -> None:
    build, reason = OTHERS[kind]
    with pytest.raises(RunError, match=reason):
        take_apart(build(), SIDE)


def test_a_map_with_channels_first_is_rejected() -> None:
    model = ending(in_a_row(layers.GlobalAveragePooling2D(data_format="channels_first", name="first"), layers.Dense(3)))
    with pytest.raises(RunError, match=r"'first' takes its channels first; wisesr keeps them last"):
        take_apart(model, SIDE)


def test_a_model_for_any_size_is_taken_apart_at_the_requested_size_and_unchanged() -> None:
    model = plain(shape=(None, None, 3))
    before = model.get_config()
    assert take_apart(model, (64, 48)).feature_map == (16, 12, 12)
    assert model.get_config() == before
    assert model.input_shape == (None, None, None, 3)


def test_augmentation_regularizers_freezing_and_half_precision_are_dropped() -> None:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        x = pixels = keras.Input((*SIDE, 3))
        x = keras.Sequential([layers.RandomRotation(0.1), layers.RandomZoom(0.1, name="zoom")])(x)
        x = layers.Conv2D(4, 3, kernel_regularizer="l2", trainable=False, name="c")(keras.ops.subtract(x / 127.5, 1.0))
        model = keras.Model(pixels, layers.Dense(3, dtype="float32")(layers.GlobalAveragePooling2D()(x)))
    finally:
        keras.config.set_dtype_policy("float32")
    parts = take_apart(model, SIDE)
    assert parts.augmentation[1:] == ("zoom",)
    assert parts.regularized
    assert parts.precisions == {"float32", "mixed_float16"}
    assert parts.scaling == ("true_divide", "subtract")
    layer = parts.backbone.get_layer("c")
    assert (layer.kernel_regularizer, layer.trainable, layer.dtype_policy.name) == (None, True, "float32")
    assert not model.get_layer("c").trainable


@pytest.mark.parametrize(
    ("frozen", "expected"),
    [
        (("c_1",), FreezePart(below="c_2")),
        (("c_1", "c_2"), "backbone"),
        (("c_2",), None),
    ],
)
def test_frozen_layers_become_the_frozen_part_of_a_phase(frozen: tuple[str, ...], expected: object) -> None:
    model = plain()
    for name in frozen:
        model.get_layer(name).trainable = False
    parts = take_apart(model, SIDE)
    assert parts.frozen == set(frozen)
    assert frozen_part(parts) == expected


def test_statistics_of_a_normalization_are_kept() -> None:
    norm = layers.Normalization(name="statistics")
    norm.adapt(pixels_of(8))
    pixels = keras.Input((*SIDE, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(norm(pixels)))
    model = keras.Model(pixels, layers.Dense(3)(pooled))
    parts = take_apart(model, SIDE)
    np.testing.assert_allclose(outputs_of(put_back(parts), pixels_of(2)), outputs_of(model, pixels_of(2)), atol=1e-5)
    assert parts.scaling == ("statistics",)


def test_layers_of_the_same_name_in_two_models_get_unique_names() -> None:
    def part(name: str, channels: int) -> keras.Model:
        inside = keras.Input((None, None, channels))
        return keras.Model(inside, layers.Conv2D(3, 3, name="same")(inside), name=name)

    tail = (layers.GlobalAveragePooling2D(), layers.Dense(2, name="same"))
    model = randomize(keras.Sequential([keras.Input((*SIDE, 3)), part("a", 3), part("b", 3), *tail]))
    parts = take_apart(model, SIDE)
    assert [layer.name for layer in parts.backbone.layers[1:]] == ["same", "same_1"]
    np.testing.assert_allclose(outputs_of(put_back(parts), pixels_of(2)), outputs_of(model, pixels_of(2)), rtol=1e-5)


def check_families(names: list[str]) -> set[str]:
    """Check the scaling of backbones against their rows, and return the families that were found."""
    found = set()
    for name in names:
        side = (max(96, BACKBONES[name].minimum_size),) * 2
        backbone = build_without_values(lambda name=name, side=side: build_backbone(name, side))
        family = family_of({layer.name for layer in backbone.layers})
        assert family is not None, name
        assert family.scaling == BACKBONES[name].scaling, name
        found.add(family.name)
    return found


def test_known_networks_are_recognized_by_their_layers_and_others_are_not() -> None:
    assert check_families(["MobileNetV2", "ResNet50", "VGG16"]) == {"MobileNetV2", "ResNet", "VGG"}
    assert family_of({"conv2d", "rescaling"}) is None


@pytest.mark.slow
def test_every_externally_scaled_backbone_is_recognized_by_its_layers() -> None:
    outside = [name for name, row in BACKBONES.items() if not row.scales_inside]
    assert check_families(outside) == {family.name for family in FAMILIES}
