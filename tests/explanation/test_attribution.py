"""The contribution of each position to a logit, compared with what the model loses without that position."""

from __future__ import annotations

import math
import re
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
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
    is_piecewise,
    pull_back,
    sizes_added,
)
from wisesr_cli.models import heads
from wisesr_cli.models.heads import HEADS, HeadOptions, build_head, effective_options, grid_size

MAPS = [(7, 7, 3), (5, 8, 4), (1, 6, 3), (1, 1, 5), (13, 12, 2)]
PRE_POOL = ["auto", 1, 2, 3]
CLASSES = 4
HIDDEN = (
    {"units": 4, "activation": "sigmoid"},
    {"units": 5, "norm": "layer", "activation": "gelu", "dropout": 0.2},
    {"norm": "batch", "activation": "prelu"},
    {"units": 3, "activation": "relu6"},
)


@pytest.fixture(autouse=True)
def small_hidden_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give `fc` few enough units for slow loops; it normally has as many as VGG."""
    monkeypatch.setattr(heads, "FC_UNITS", 6)


def every_option() -> Iterator[HeadOptions]:
    """Yield every head with its defaults, with each value of each option, and with two options combined."""
    for name, head in HEADS.items():
        yield head.options()
        yield head.options(dropout=0.5)
        yield head.options(hidden=HIDDEN, dropout=0.5)
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
    """Return a head as a model whose weights, including biases, are all different, as after training."""
    inputs = keras.Input(shape)
    model = keras.Model(inputs, build_head(inputs, CLASSES, options))
    draws = np.random.default_rng(1)
    drawn = [
        np.abs(drawn) if "variance" in weight.path else drawn
        for weight in model.weights
        for drawn in [draws.normal(size=weight.shape)]
    ]
    if getattr(options, "constraint", "none") != "none" and shape[:2] != (1, 1):
        drawn[0] = np.abs(drawn[0])
    model.set_weights(drawn)
    return model


def random_maps(shape: tuple[int, int, int], *, batch: int = 3) -> Any:
    """Return features as after a ReLU: many zeros, and no two other values equal."""
    return np.random.default_rng(2).normal(size=(batch, *shape)).clip(0).astype("float32")


def numpy(tensor: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(tensor))


def outputs_of(model: Any, maps: Any) -> list[Any]:
    """Return the outputs of the input layer and of every layer after it."""
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
def test_a_contribution_equals_the_drop_in_the_logit_without_that_position(shape: Any, options: HeadOptions) -> None:
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
    """Return the drop in a logit without each position, (height, width), and the logit of an empty map."""
    height, width, _ = feature_map.shape
    batch = [feature_map, np.zeros_like(feature_map)]
    for row in range(height):
        for column in range(width):
            batch.append(feature_map.copy())
            batch[-1][row, column] = 0
    whole, nothing, *without = numpy(model(np.stack(batch)))[:, label]
    return (whole - np.array(without)).reshape(height, width), nothing


def test_all_heads_except_gmp_and_fc_are_linear() -> None:
    for name in ("gap", "gmp", "depthwise", "wise", "flatten", "fc"):
        model = build((3, 3, 2), HEADS[name].options())
        assert is_linear(model.layers[1:-1]) == (name not in {"gmp", "fc"})


def test_positions_dropped_by_valid_pooling_contribute_nothing() -> None:
    shape = (7, 8, 3)
    for name in ("wise", "flatten"):
        model = build(shape, HEADS[name].options(pre_pool=3, pooling="valid"))
        found, _ = explain(model, random_maps(shape) + 1, 1)
        assert (found[:, 6:] == 0).all()
        assert (found[:, :, 6:] == 0).all()
        assert np.abs(found[:, :6, :6]).min() > 0


def test_max_pooling_assigns_each_channel_to_the_first_position_of_its_maximum() -> None:
    shape = (3, 4, 5)
    model, maps = build(shape, HEADS["gmp"].options()), random_maps(shape)
    maps[0, 1, 2, 0] = maps[0, 2, 1, 0] = maps[0].max() + 1  # a tie of two
    maps[1, :, :, 3] = 0  # a tie of all
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


def reference_pieces(weights: Sequence[Any], feature_map: Any, label: int) -> tuple[Any, float]:
    """Return contributions to a logit of `fc` and its bias, adding up every path through active units."""
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


def test_hidden_layers_propagate_contributions_through_their_active_units() -> None:
    shape = (2, 3, 2)
    model, maps = build(shape, HEADS["fc"].options(dropout=0.5)), random_maps(shape)
    assert not is_linear(model.layers[1:-1])
    hidden = outputs_of(model, maps)[2]
    assert (hidden == 0).any()
    assert (hidden > 0).any()
    for label in range(CLASSES):
        found, constants = explain(model, maps, label)
        for image in range(len(maps)):
            expected, bias = reference_pieces(model.get_weights(), maps[image], label)
            np.testing.assert_allclose(found[image], expected, atol=1e-12)
            np.testing.assert_allclose(constants[image], bias, atol=1e-12)


def reference_gains(model: Any, features: Any, label: int) -> tuple[Any, float]:
    """Return the contribution of each pooled feature to a logit, and the bias, layer by layer and unit by unit.

    Every unit is the sum of the features' contributions and a constant. An activation multiplies all of it by one gain;
    a layer normalization divides it by the deviation of the units.
    """
    size = len(features)
    parts = [[float(features[place]) * (place == unit) for place in range(size)] for unit in range(size)]
    constants = [0.0] * size
    layers = [layer for layer in model.layers if layer.name.startswith("hidden_") or layer.name == "classifier"]
    for layer in layers:
        values = [math.fsum(row) + constant for row, constant in zip(parts, constants, strict=True)]
        weights = [weight.astype("float64") for weight in layer.get_weights()]
        if isinstance(layer, keras.layers.Dense):
            kernel, bias = weights
            units = range(len(values))
            parts = [
                [sum(parts[u][place] * kernel[u, k] for u in units) for place in range(size)] for k in range(len(bias))
            ]
            constants = [sum(constants[u] * kernel[u, k] for u in units) + bias[k] for k in range(len(bias))]
        elif isinstance(layer, keras.layers.LayerNormalization):
            mean = math.fsum(values) / len(values)
            deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / len(values) + layer.epsilon)
            means = [sum(row[place] for row in parts) / len(parts) for place in range(size)]
            middle = sum(constants) / len(constants)
            for unit, (gamma, beta) in enumerate(zip(*weights, strict=True)):
                parts[unit] = [(parts[unit][place] - means[place]) / deviation * gamma for place in range(size)]
                constants[unit] = (constants[unit] - middle) / deviation * gamma + beta
        elif not isinstance(layer, keras.layers.Dropout):
            function = FUNCTIONS[layer.activation.__name__]
            for unit, value in enumerate(values):
                gain = (function(value) - function(0.0)) / value
                parts[unit] = [part * gain for part in parts[unit]]
                constants[unit] = constants[unit] * gain + function(0.0)
    return np.array(parts[label]), constants[label]


FUNCTIONS: dict[str, Callable[[float], float]] = {
    "relu": lambda x: max(x, 0.0),
    "relu6": lambda x: min(max(x, 0.0), 6.0),
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
    "gelu": lambda x: x * (1 + math.erf(x / math.sqrt(2))) / 2,
    "tanh": math.tanh,
    "hard_silu": lambda x: x * min(max(x + 3, 0.0), 6.0) / 6,
}


@pytest.mark.parametrize("name", ["gap", "wise", "depthwise"])
def test_nonlinear_hidden_layers_propagate_contributions_by_the_gain_of_each_unit(name: str) -> None:
    hidden = (
        {"units": 5, "activation": "sigmoid"},
        {"norm": "layer", "activation": "gelu", "epsilon": 1e-6, "dropout": 0.5},
        {"units": 6, "activation": "hard_swish"},
        {"units": 4, "activation": "tanh"},
        {"units": 4, "activation": "relu6"},
    )
    shape = (3, 4, 6)
    model, maps = build(shape, HEADS[name].options(hidden=hidden)), random_maps(shape, batch=2)
    assert not is_piecewise(model.layers[1:-1])
    pooled = numpy(keras.Model(model.input, model.layers[1].output)(maps)).astype("float64")
    pooling = model.layers[1:2]
    for label in range(CLASSES):
        found, constants = explain(model, maps, label)
        for image in range(len(maps)):
            added, bias = reference_gains(model, pooled[image], label)
            gains = added / pooled[image]  # per feature, each of which is an exact sum over positions
            sums = pull_back(pooling, WeightedSums(gains[None], np.zeros(1), np.zeros(1)))
            expected = contributions(sums, maps[image : image + 1])[0]
            scale = np.abs(expected).sum() + abs(bias)
            np.testing.assert_allclose(found[image], expected, atol=1e-5 * scale)
            np.testing.assert_allclose(constants[image], bias + sums.constants[0], atol=1e-5 * scale)


def test_a_unit_at_zero_has_the_gain_of_nearby_values() -> None:
    layer = keras.layers.Activation("sigmoid")
    inputs = np.array([[0.0, 1e-9, -1e-9, 2.0]], "float32")
    layer(keras.Input((4,)))
    values = Values(inputs, numpy(layer(inputs)))
    sums = pull_back([layer], WeightedSums(np.ones((1, 4)), np.zeros(1), np.zeros(1)), [values])
    gain = (1 / (1 + math.exp(-2.0)) - 0.5) / 2
    np.testing.assert_allclose(sums.coefficients, [[0.25, 0.25, 0.25, gain]], rtol=1e-3)
    assert float((sums.coefficients * inputs).sum() + sums.constants[0]) == pytest.approx(
        values.outputs.sum(), abs=1e-7
    )


def test_only_relu_prelu_and_leaky_relu_keep_coefficients_valid_near_an_image() -> None:
    for activation, is_line in {"relu": True, "prelu": True, "leaky_relu": True, "gelu": False, "relu6": False}.items():
        model = build((3, 3, 2), HEADS["wise"].options(hidden=({"units": 3, "activation": activation},)))
        assert not is_linear(model.layers[1:-1])
        assert is_piecewise(model.layers[1:-1]) == is_line
    assert not is_piecewise(build((3, 3, 2), HEADS["gap"].options(hidden=({"norm": "layer"},))).layers[1:-1])


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
def test_other_heads_of_supported_layers_are_explained(pooling: list[Any]) -> None:
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
def test_an_unsupported_layer_is_named_in_the_error(layer: Any, given: tuple[int, ...], message: str) -> None:
    built = layer(name="odd")
    taken = built(keras.Input(given))
    with pytest.raises(RunError, match=re.escape(message)):
        pull_back([built], WeightedSums(np.ones((1, *taken.shape[1:])), np.zeros(1), np.zeros(1)))


@pytest.mark.parametrize("layer", [keras.layers.Dense(3, "softmax", name="odd"), keras.layers.Flatten(name="odd")])
def test_a_last_layer_that_gives_no_logits_is_named_in_the_error(layer: Any) -> None:
    layer(keras.Input((4,)))
    with pytest.raises(RunError, match="not a dense layer without activation \\('odd'\\)"):
        classifier_columns(layer, [0])


def test_explaining_one_class_takes_no_memory_for_the_others() -> None:
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
