"""Every head in the table on several feature maps: counts, outputs, and figures of the paper and the notebooks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import keras
import numpy as np
import pytest

from wisesr_cli.config.reader import parse_head
from wisesr_cli.errors import ConfigError
from wisesr_cli.model_files.loading import build_without_values
from wisesr_cli.models.build import build_classifier, feature_map_of, notes_about
from wisesr_cli.models.flops import count_flops
from wisesr_cli.models.heads import (
    HEADS,
    DepthwiseOptions,
    FcOptions,
    FlattenOptions,
    GapOptions,
    GmpOptions,
    HeadOptions,
    WiseOptions,
    build_head,
    effective_options,
    grid_size,
    head_flops,
    head_parameters,
    pool_size,
)
from wisesr_cli.models.hidden import ACTIVATIONS, HiddenLayer
from wisesr_cli.models.settings import ModelConfig

MAPS = [(7, 7, 32), (16, 16, 8), (5, 9, 4), (1, 1, 8), (3, 3, 6)]
POOLING = ["pooling=tile", "pooling=valid", "pre_pool=1", "pre_pool=3", "pre_pool=2:pooling=valid"]
# Every head with its defaults, and those with specific options with each of these.
VARIANTS = [
    *HEADS,
    *(f"{name}:{options}" for name in ("wise", "flatten") for options in POOLING),
    *(f"{name}:constraint={kind}" for name in ("wise", "depthwise") for kind in ("unit_sum", "none")),
    *(f"{name}:hidden=5" for name in HEADS),
]
PAPER_MAP = (7, 7, 2048)


def build(feature_map: tuple[int, int, int], classes: int, options: HeadOptions, *, values: bool = True) -> Any:
    """Return a Keras model of the head alone; without values it is quick to build but can only be counted."""
    if not values:
        return build_without_values(lambda: build(feature_map, classes, options))
    inputs = keras.Input(feature_map)
    return keras.Model(inputs, build_head(inputs, classes, options))


def random_map(shape: tuple[int, ...], *, batch: int = 2) -> Any:
    return np.random.default_rng(0).normal(size=(batch, *shape)).astype("float32")


def fits(feature_map: tuple[int, int, int], options: HeadOptions) -> bool:
    try:
        grid_size(feature_map, effective_options(feature_map, options))
    except ConfigError:
        return False
    return True


def cases() -> list[Any]:
    pairs = [(shape, variant) for shape in MAPS for variant in VARIANTS]
    return [
        pytest.param(shape, variant, id=f"{variant}-{'x'.join(map(str, shape))}")
        for shape, variant in pairs
        if fits(shape, parse_head(variant))
    ]


@pytest.mark.parametrize(("feature_map", "variant"), cases())
def test_head_parameters_equal_what_keras_counts(feature_map: Any, variant: str) -> None:
    options = parse_head(variant)
    for classes in (2, 70):
        model = build(feature_map, classes, options, values=False)
        assert head_parameters(feature_map, classes, options) == model.count_params()
        assert model.output_shape == (None, classes)


HIDDEN = (
    *({"units": 5, "activation": activation} for activation in ACTIVATIONS),
    {"units": 3, "norm": "batch", "dropout": 0.5},
    {"norm": "layer", "activation": "linear", "epsilon": 1e-6},
    {"activation": "leaky_relu", "slope": 0.3},
    {"activation": "elu", "slope": 0.3},
)


@pytest.mark.parametrize("layer", HIDDEN, ids=lambda layer: "-".join(map(str, layer.values())))
def test_hidden_layers_match_the_counts_of_keras_and_a_numpy_reference(layer: dict[str, Any]) -> None:
    feature_map, options = (3, 4, 6), GapOptions(hidden=({"units": 7}, HiddenLayer(**layer)))
    model = build(feature_map, 4, options)
    assert head_parameters(feature_map, 4, options) == model.count_params()
    assert head_flops(feature_map, 4, options) == count_flops(model)
    draws = np.random.default_rng(3)
    model.set_weights([draws.uniform(0.2, 1, weight.shape) for weight in model.get_weights()])
    maps = random_map(feature_map)
    weights, x = iter(model.get_weights()), maps.mean(axis=(1, 2)) @ next(iter(model.get_weights()))
    next(weights)
    x = np.maximum(x + next(weights), 0)
    if "units" in layer:
        x = x @ next(weights) + next(weights)
    if "norm" in layer:
        is_batch = layer["norm"] == "batch"
        gamma, beta = next(weights), next(weights)
        mean = next(weights) if is_batch else x.mean(axis=1, keepdims=True)
        variance = next(weights) if is_batch else x.var(axis=1, keepdims=True)
        x = gamma * (x - mean) / np.sqrt(variance + layer.get("epsilon", 1e-3)) + beta
    name, slope = layer.get("activation", "relu"), layer.get("slope")
    if name == "prelu":
        x = np.where(x > 0, x, x * next(weights))
    elif name == "leaky_relu":
        x = np.where(x > 0, x, x * (slope or 0.2))
    elif name == "elu":
        x = np.where(x > 0, x, (slope or 1.0) * np.expm1(x))
    else:
        x = keras.ops.convert_to_numpy(keras.activations.get(name)(x))
    expected = x @ next(weights) + next(weights)
    np.testing.assert_allclose(model.predict_on_batch(maps), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_every_head_has_finite_losses_and_learns(name: str) -> None:
    feature_map = (5, 4, 3)
    keras.utils.set_random_seed(0)
    model = build(feature_map, 4, HEADS[name].options())
    inputs, targets = random_map(feature_map, batch=8), np.arange(8) % 4
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.001), loss, jit_compile=False)
    losses = [float(model.train_on_batch(inputs, targets)) for _ in range(6)]
    assert np.isfinite(losses).all()
    model.reset_metrics()
    assert float(model.test_on_batch(inputs, targets)) < losses[0]


def slow_flops(feature_map: tuple[int, int, int], classes: int, variant: str) -> int:
    """Count the multiply-adds (2 each) and pooling additions (1 each) of a head, one by one."""
    name, *settings = variant.split(":")
    given = dict(setting.split("=") for setting in settings)
    height, width, channels = feature_map
    if (height, width) == (1, 1) and name not in {"gap", "gmp", "fc"}:
        name = "gap"
    sides = [side // 6 + 1 if name == "wise" else 1 for side in (height, width)]
    if "pre_pool" in given and name in {"wise", "flatten"}:
        sides = [int(given["pre_pool"])] * 2
    grid = height // sides[0], width // sides[1]
    read = grid[0] * sides[0] * grid[1] * sides[1] if given.get("pooling") == "valid" else height * width
    flops = 0
    for _ in range(channels):
        for _ in range(read):
            # One addition per position in a pooling; without pooling, the head reads the position itself.
            flops += 1 if name in {"gap", "gmp"} or sides != [1, 1] else 0
        for _ in range(grid[0] * grid[1]):
            flops += 2 if name in {"wise", "depthwise"} else 0
    features = channels if name not in {"flatten", "fc"} else grid[0] * grid[1] * channels
    hidden = [int(given["hidden"])] if "hidden" in given else []
    layers = [features, *([4096, 4096] if name == "fc" else []), *hidden, classes]
    for inputs, outputs in pairwise(layers):
        flops += sum(2 * inputs for _ in range(outputs))
    return flops


@pytest.mark.parametrize(("feature_map", "variant"), cases())
def test_head_flops_equal_a_slow_count(feature_map: Any, variant: str) -> None:
    if variant.split(":")[0] not in {"gap", "gmp", "depthwise", "wise", "flatten", "fc"}:
        pytest.skip("the slow count does not know this head")
    assert head_flops(feature_map, 7, parse_head(variant)) == slow_flops(feature_map, 7, variant)


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
@pytest.mark.parametrize("name", HEADS)
def test_logits_are_float32_under_mixed_precision(name: str, policy: str) -> None:
    def build_with_policy() -> Any:
        keras.config.set_dtype_policy(policy)  # for this thread only
        return build((3, 3, 6), 4, HEADS[name].options(dropout=0.5))

    model = build_without_values(build_with_policy)
    assert keras.config.dtype_policy().name == "float32"
    narrow = {layer.compute_dtype for layer in model.layers}
    assert narrow == {policy.removeprefix("mixed_"), "float32"}
    assert model.output.dtype == "float32"
    assert {weight.dtype for weight in model.weights} == {"float32"}


@pytest.mark.parametrize("name", HEADS)
def test_dropout_is_active_in_training_only(name: str) -> None:
    feature_map = (3, 3, 6)
    plain, dropping = (build(feature_map, 4, HEADS[name].options(dropout=dropout)) for dropout in (0.0, 0.5))
    dropping.set_weights(plain.get_weights())
    assert dropping.count_params() == plain.count_params()
    inputs = random_map(feature_map)
    expected = keras.ops.convert_to_numpy(plain(inputs, training=True))
    assert np.array_equal(keras.ops.convert_to_numpy(dropping(inputs, training=False)), expected)
    assert not np.allclose(keras.ops.convert_to_numpy(dropping(inputs, training=True)), expected)


@pytest.mark.parametrize("name", HEADS)
def test_positional_heads_fall_back_to_gap_on_a_1x1_map(name: str) -> None:
    options = HEADS[name].options(dropout=0.25, classifier_initializer="paper")
    falls_back = HEADS[name].is_gap_at_one_position
    expected = GapOptions(dropout=0.25, classifier_initializer="paper") if falls_back else options
    assert effective_options((1, 1, 8), options) == expected
    assert effective_options((1, 2, 8), options) == options
    if falls_back:
        assert head_parameters((1, 1, 8), 5, options) == (8 + 1) * 5


def test_the_published_positional_heads_fall_back_to_gap_on_a_1x1_map() -> None:
    assert {"depthwise", "wise", "flatten"} <= {name for name, head in HEADS.items() if head.is_gap_at_one_position}


def test_falling_back_to_gap_is_reported() -> None:
    notes = notes_about(ModelConfig(backbone="compact", head=WiseOptions()), (1, 1, 256))
    assert len(notes) == 1
    assert "'wise' equals GAP" in notes[0]
    assert notes_about(ModelConfig(backbone="compact", head=GapOptions()), (1, 1, 256)) == []
    assert notes_about(ModelConfig(backbone="compact", head=WiseOptions()), (2, 1, 256)) == []


@pytest.mark.parametrize("options", [WiseOptions(pre_pool=4), FlattenOptions(pre_pool=4)])
def test_pre_pool_larger_than_the_map_is_a_config_error(options: HeadOptions) -> None:
    for shape in [(3, 9, 4), (9, 3, 4), (3, 3, 4)]:
        for count in (head_parameters, head_flops):
            with pytest.raises(ConfigError, match=r"pre_pool is 4, larger than the feature map of .*auto, or 1 to 3"):
                count(shape, 5, options)
        with pytest.raises(ConfigError, match="pre_pool is 4"):
            build(shape, 5, options, values=False)
    assert grid_size((4, 9, 4), options) == (1, 2)


def test_auto_pooling_matches_the_notebooks() -> None:
    assert grid_size((7, 7, 1), WiseOptions()) == (3, 3)
    assert pool_size((7, 7, 1), WiseOptions()) == (2, 2)
    assert grid_size((16, 16, 1), WiseOptions()) == (5, 5)
    assert pool_size((16, 16, 1), WiseOptions()) == (3, 3)
    assert grid_size((5, 9, 1), WiseOptions()) == (5, 4)
    assert grid_size((7, 7, 1), FlattenOptions()) == grid_size((7, 7, 1), DepthwiseOptions()) == (7, 7)


# --- figures from the paper and the notebooks ---


@pytest.mark.parametrize(
    ("options", "classes", "parameters"),
    [
        (GapOptions(), 70, 143_430),
        (GmpOptions(), 70, 143_430),
        (DepthwiseOptions(), 70, 245_830),
        (WiseOptions(), 70, 163_910),
        (FlattenOptions(), 70, 7_024_710),
        (FlattenOptions(), 1000, 100_353_000),
        (FcOptions(), 1000, (7 * 7 * 2048 + 1) * 4096 + 4097 * 4096 + 4097 * 1000),
    ],
)
def test_parameters_on_xception_match_the_published_numbers(
    options: HeadOptions, classes: int, parameters: int
) -> None:
    assert head_parameters(PAPER_MAP, classes, options) == parameters


def test_xception_has_its_published_feature_map_and_parameters() -> None:
    shape, backbone = feature_map_of(ModelConfig(backbone="Xception"), (224, 224))
    assert shape == PAPER_MAP
    assert backbone.count_params() == 20_861_480


def stock_head(feature_map: tuple[int, int, int], classes: int) -> Any:
    """Return the head of the notebooks, built from stock layers."""
    normal = keras.initializers.RandomNormal(0.0, 0.01)
    return keras.Sequential(
        [
            keras.Input(feature_map),
            keras.layers.AveragePooling2D(2),
            keras.layers.DepthwiseConv2D(
                3, depthwise_initializer=normal, depthwise_constraint=keras.constraints.NonNeg()
            ),
            keras.layers.Flatten(),
            keras.layers.Dense(classes, kernel_initializer=normal),
        ]
    )


PUBLISHED = WiseOptions(pooling="valid", constraint="non_negative", initializer="paper")


@pytest.mark.parametrize(("backbone", "classes"), [("Xception", 67), ("ResNet50", 70), ("DenseNet169", 6)])
def test_the_published_head_equals_the_stock_layers_of_the_notebooks(backbone: str, classes: int) -> None:
    shape, _ = feature_map_of(ModelConfig(backbone=backbone), (224, 224))
    stock, wise = stock_head(shape, classes), build(shape, classes, PUBLISHED)
    assert wise.count_params() == stock.count_params() == head_parameters(shape, classes, PUBLISHED)
    kernel, bias, *classifier = stock.get_weights()
    draws = np.random.default_rng(1)
    bias, classifier[1] = (draws.normal(size=values.shape) for values in (bias, classifier[1]))
    stock.set_weights([kernel, bias, *classifier])
    wise.set_weights([kernel[..., 0], bias, *classifier])
    inputs = random_map(shape)
    np.testing.assert_allclose(wise.predict_on_batch(inputs), stock.predict_on_batch(inputs), rtol=1e-5, atol=1e-5)


def test_the_published_head_is_initialized_normally_with_deviation_0_01() -> None:
    keras.utils.set_random_seed(0)
    weights = build(PAPER_MAP, 70, PUBLISHED).get_weights()
    for kernel, bias in (weights[:2], weights[2:]):
        assert abs(float(kernel.std()) - 0.01) < 2e-4
        assert abs(float(kernel.mean())) < 5e-4
        assert np.all(bias == 0)


@pytest.mark.parametrize("head", [WiseOptions(), DepthwiseOptions(), WiseOptions(constraint="unit_sum")])
def test_a_uniform_initialization_makes_the_classifier_equal_to_gap(head: HeadOptions) -> None:
    models = [
        build_classifier(
            ModelConfig(backbone="compact", head=options.model_copy(update={"classifier_initializer": "default"})),
            image_size=(56, 40),
            classes=5,
            seed=3,
        ).model
        for options in (head, GapOptions())
    ]
    ours, gap = models
    pixels = np.random.default_rng(0).integers(0, 256, (4, 56, 40, 3), dtype=np.uint8)
    for left, right in zip(
        ours.get_layer("backbone").get_weights(), gap.get_layer("backbone").get_weights(), strict=True
    ):
        assert np.array_equal(left, right)
    ours.get_layer("classifier").set_weights(gap.get_layer("classifier").get_weights())
    logits, expected = (model.predict_on_batch(pixels.astype("float32")) for model in models)
    assert expected.std() > 1e-3  # otherwise anything would be equal
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_flatten_with_valid_pooling_is_average_pooling_then_flatten() -> None:
    shape = (7, 5, 3)
    model = build(shape, 4, FlattenOptions(pre_pool=2, pooling="valid"))
    inputs = random_map(shape)
    pooled = np.zeros((2, 3, 2, 3))
    for row in range(3):
        for column in range(2):
            pooled[:, row, column] = inputs[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2].mean(axis=(1, 2))
    kernel, bias = model.get_weights()
    np.testing.assert_allclose(model.predict_on_batch(inputs), pooled.reshape(2, -1) @ kernel + bias, atol=1e-5)


def test_the_papers_backbones_have_seven_by_seven_feature_maps() -> None:
    for name in ("Xception", "ResNet50", "DenseNet169"):
        assert feature_map_of(ModelConfig(backbone=name), (224, 224))[0][:2] == (7, 7)
