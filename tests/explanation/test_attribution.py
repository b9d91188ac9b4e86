"""What each position adds to a logit, against what the model itself loses when the position is taken away."""

from __future__ import annotations

import re
import tracemalloc
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Literal, get_args, get_origin

import keras
import numpy as np
import pytest

from wisesr_cli.errors import ConfigError, RunError
from wisesr_cli.explanation.attribution import (
    Values,
    WeightedSums,
    classifier_columns,
    contributions,
    is_linear,
    pull_back,
    sizes_added,
)
from wisesr_cli.models import heads
from wisesr_cli.models.heads import HEADS, HeadOptions, build_head, effective_options, grid_size

MAPS = [(7, 7, 3), (5, 8, 4), (1, 6, 3), (1, 1, 5), (13, 12, 2)]
PRE_POOL = ["auto", 1, 2, 3]
CLASSES = 4


@pytest.fixture(autouse=True)
def small_hidden_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `fc` few enough units for slow loops; their number is that of VGG otherwise."""
    monkeypatch.setattr(heads, "FC_UNITS", 6)


def every_option() -> Iterator[HeadOptions]:
    """Give every head of the table as it is, with each value of each of its options, and with two options at once."""
    for name, head in HEADS.items():
        yield head.options()
        yield head.options(dropout=0.5)
        choices = {
            field: get_args(info.annotation)
            for field, info in head.options.model_fields.items()
            if field != "name" and get_origin(info.annotation) is Literal
        }
        yield from (head.options(**{field: value}) for field, values in choices.items() for value in values)
        if name in {"wise", "flatten"}:
            yield from (head.options(pre_pool=side, pooling=kind) for side in PRE_POOL for kind in ("tile", "valid"))


def cases() -> list[Any]:
    found = {}
    for options in every_option():
        for shape in MAPS:
            try:
                grid_size(shape, effective_options(shape, options))
            except ConfigError:
                continue
            changed = "-".join(f"{field}={value}" for field, value in options.model_dump(exclude_defaults=True).items())
            name = f"{options.name}-{changed}-{'x'.join(map(str, shape))}"
            found[name] = pytest.param(shape, options, id=name)
    return list(found.values())


def build(shape: tuple[int, int, int], options: HeadOptions) -> Any:
    """Return a head as a model, with weights as training leaves them: all different, biases too."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build_head(inputs, CLASSES, options))
    draws = np.random.default_rng(1)
    drawn = [draws.normal(size=weight.shape) for weight in model.get_weights()]
    if getattr(options, "constraint", "none") != "none" and shape[:2] != (1, 1):
        drawn[0] = np.abs(drawn[0])
    model.set_weights(drawn)
    return model


def random_maps(shape: tuple[int, int, int], *, batch: int = 3) -> Any:
    """Return features as behind a ReLU: many zeros, and no two of the others equal."""
    return np.random.default_rng(2).normal(size=(batch, *shape)).clip(0).astype("float32")


def numpy(tensor: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def outputs_of(model: Any, maps: Any) -> list[Any]:
    """Return what the input layer and every layer behind it give."""
    outputs = keras.Model(model.input, [model.input, *(layer.output for layer in model.layers[1:])])(maps)
    return [numpy(output) for output in outputs]


def explain(model: Any, maps: Any, label: int) -> tuple[Any, Any]:
    """Return contributions (batch, height, width) to the logit of a class, and biases (batch,)."""
    *pooling, classifier = model.layers[1:]
    outputs = outputs_of(model, maps)
    values = [Values(given, taken) for given, taken in pairwise(outputs[:-1])]
    columns = classifier_columns(classifier, [label] * len(maps))
    sums = pull_back(pooling, columns, None if is_linear(pooling) else values)
    found = contributions(sums, maps)
    assert {found.dtype, sums.constants.dtype} == {np.dtype("float64")}
    assert (sizes_added(sums, maps) >= np.abs(found).sum(axis=(1, 2)) + np.abs(sums.constants) - 1e-12).all()
    return found, sums.constants


@pytest.mark.parametrize(("shape", "options"), cases())
def test_a_position_adds_what_the_logit_loses_without_it(shape: Any, options: HeadOptions) -> None:
    model, maps = build(shape, options), random_maps(shape, batch=2)
    logits = numpy(model(maps))
    for label in (0, CLASSES - 1):
        found, bias = explain(model, maps, label)
        sizes = np.abs(found).sum(axis=(1, 2)) + np.abs(bias)
        assert found.shape == (2, *shape[:2])
        assert (np.abs(found.sum(axis=(1, 2)) + bias - logits[:, label]) <= 1e-5 * sizes).all()
        if is_linear(model.layers[1:-1]):
            lost, nothing = losses(model, maps[0], label)
            np.testing.assert_allclose(found[0], lost, atol=1e-5 * sizes.max())
            np.testing.assert_allclose(bias, nothing, rtol=1e-5)


def losses(model: Any, feature_map: Any, label: int) -> tuple[Any, float]:
    """Return what a logit loses with each position taken away, (height, width), and the logit of an empty map."""
    height, width, _ = feature_map.shape
    batch = [feature_map, np.zeros_like(feature_map)]
    for row in range(height):
        for column in range(width):
            batch.append(feature_map.copy())
            batch[-1][row, column] = 0
    whole, nothing, *without = numpy(model(np.stack(batch)))[:, label]
    return (whole - np.array(without)).reshape(height, width), nothing


def test_all_heads_but_gmp_and_fc_weigh_every_image_alike() -> None:
    for name in ("gap", "gmp", "depthwise", "wise", "flatten", "fc"):
        model = build((3, 3, 2), HEADS[name].options())
        assert is_linear(model.layers[1:-1]) == (name not in {"gmp", "fc"})


def test_positions_that_valid_pooling_drops_add_nothing() -> None:
    shape = (7, 8, 3)
    for name in ("wise", "flatten"):
        model = build(shape, HEADS[name].options(pre_pool=3, pooling="valid"))
        found, _ = explain(model, random_maps(shape) + 1, 1)
        assert (found[:, 6:] == 0).all()
        assert (found[:, :, 6:] == 0).all()
        assert np.abs(found[:, :6, :6]).min() > 0


def test_max_pooling_gives_each_channel_to_the_first_position_of_its_maximum() -> None:
    shape = (3, 4, 5)
    model, maps = build(shape, HEADS["gmp"].options()), random_maps(shape)
    maps[0, 1, 2, 0] = maps[0, 2, 1, 0] = maps[0].max() + 1  # two that are equal
    maps[1, :, :, 3] = 0  # all of them
    kernel, bias = (weight.astype("float64") for weight in model.get_layer("classifier").get_weights())
    for label in range(CLASSES):
        expected = np.zeros((len(maps), 3, 4))
        for image in range(len(maps)):
            for channel in range(5):
                best = (0, 0)
                for row in range(3):
                    for column in range(4):
                        if maps[image, row, column, channel] > maps[(image, *best, channel)]:
                            best = row, column
                expected[(image, *best)] += kernel[channel, label] * maps[(image, *best, channel)]
        found, constants = explain(model, maps, label)
        np.testing.assert_allclose(found, expected, atol=1e-12)
        np.testing.assert_allclose(constants, bias[label])


def slow_pieces(weights: Sequence[Any], feature_map: Any, label: int) -> tuple[Any, float]:
    """Return contributions to a logit of `fc` and its bias: every path through active units, one by one."""
    first, first_bias, second, second_bias, last, last_bias = (weight.astype("float64") for weight in weights)
    given = feature_map.astype("float64").ravel()
    units = range(len(first_bias))
    one = [sum(given[place] * first[place, unit] for place in range(len(given))) + first_bias[unit] for unit in units]
    two = [sum(max(one[u], 0) * second[u, unit] for u in units) + second_bias[unit] for unit in units]
    found, bias = np.zeros(len(given)), last_bias[label]
    for unit in units:
        if two[unit] <= 0:
            continue
        bias += last[unit, label] * second_bias[unit]
        for before in units:
            if one[before] <= 0:
                continue
            bias += last[unit, label] * second[before, unit] * first_bias[before]
            for place in range(len(given)):
                found[place] += last[unit, label] * second[before, unit] * first[place, before] * given[place]
    return found.reshape(feature_map.shape).sum(axis=2), bias


def test_hidden_layers_pass_on_what_goes_through_their_active_units() -> None:
    shape = (2, 3, 2)
    model, maps = build(shape, HEADS["fc"].options(dropout=0.5)), random_maps(shape)
    assert not is_linear(model.layers[1:-1])
    hidden = outputs_of(model, maps)[2]
    assert (hidden == 0).any()
    assert (hidden > 0).any()
    for label in range(CLASSES):
        found, constants = explain(model, maps, label)
        for image in range(len(maps)):
            expected, bias = slow_pieces(model.get_weights(), maps[image], label)
            np.testing.assert_allclose(found[image], expected, atol=1e-12)
            np.testing.assert_allclose(constants[image], bias, atol=1e-12)


@pytest.mark.parametrize(
    "pooling",
    [
        [keras.layers.BatchNormalization(), keras.layers.GlobalAveragePooling2D(), keras.layers.BatchNormalization()],
        [keras.layers.BatchNormalization(scale=False, center=False), keras.layers.Flatten(), keras.layers.Dense(3)],
        [keras.layers.AveragePooling2D((3, 2), strides=(1, 2))],
        [keras.layers.AveragePooling2D(2, strides=3), keras.layers.GlobalAveragePooling2D(keepdims=True)],
    ],
    ids=["batch_normalization", "dense", "overlapping", "gaps"],
)
def test_other_heads_of_layers_with_a_rule_are_explained(pooling: list[Any]) -> None:
    features = inputs = keras.Input((5, 6, 3))
    for layer in [*pooling, keras.layers.Flatten(), keras.layers.Dense(CLASSES, use_bias=False)]:
        features = layer(features)
    model, draws = keras.Model(inputs, features), np.random.default_rng(3)
    model.set_weights([draws.uniform(0.5, 2, weight.shape) for weight in model.get_weights()])
    maps = random_maps((5, 6, 3), batch=1)
    found, bias = explain(model, maps, 2)
    lost, nothing = losses(model, maps[0], 2)
    np.testing.assert_allclose(found[0], lost, atol=1e-5 * np.abs(found).sum())
    np.testing.assert_allclose(bias, nothing, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("layer", "given", "message"),
    [
        (keras.layers.GlobalAveragePooling1D, (6, 3), "a layer GlobalAveragePooling1D ('odd')"),
        (partial(keras.layers.Dense, 3, "gelu"), (4,), "a dense layer with the activation gelu ('odd')"),
        (partial(keras.layers.Dense, 3), (4, 4, 2), "a dense layer on a map ('odd')"),
        (partial(keras.layers.BatchNormalization, axis=1), (4, 4, 3), "a batch normalization of axis 1 ('odd')"),
        (partial(keras.layers.AveragePooling2D, 2, padding="same"), (4, 4, 3), "with padding 'same' ('odd')"),
    ],
    ids=["unknown", "gelu", "map", "axis", "same"],
)
def test_a_layer_without_a_rule_is_named(layer: Any, given: tuple[int, ...], message: str) -> None:
    built = layer(name="odd")
    taken = built(keras.Input(given))
    with pytest.raises(RunError, match=re.escape(message)):
        pull_back([built], WeightedSums(np.ones((1, *taken.shape[1:])), np.zeros(1), np.zeros(1)))


@pytest.mark.parametrize("layer", [keras.layers.Dense(3, "softmax", name="odd"), keras.layers.Flatten(name="odd")])
def test_an_end_that_gives_no_logits_is_named(layer: Any) -> None:
    layer(keras.Input((4,)))
    with pytest.raises(RunError, match="no dense layer without activation \\('odd'\\)"):
        classifier_columns(layer, [0])


def test_explaining_a_class_takes_no_memory_for_the_others() -> None:
    shape, classes = (8, 8, 64), 300
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build_head(inputs, classes, HEADS["flatten"].options()))
    maps = random_maps(shape)
    *pooling, classifier = model.layers[1:]
    tracemalloc.start()
    try:
        contributions(pull_back(pooling, classifier_columns(classifier, [7])), maps)
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    weights = 8 * 8 * 8 * 64 * classes  # bytes of all classes in float64
    assert most < weights / 10
