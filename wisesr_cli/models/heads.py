"""The heads: everything between the feature map and the logits.

Every head is pool -> hidden layers -> dropout -> classifier layer: it turns a feature map (batch, height, width,
channels) into a feature vector (batch, features), may pass it through hidden layers (see `hidden`), applies dropout in
training, and ends in one dense layer that gives logits.

To add one: write its options, a function that builds its pooling, two that count its parameters and FLOPs, and a row in
`HEADS`. Custom layers belong in `layers.py`. Only the build functions import Keras.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from wisesr_cli.errors import ConfigError
from wisesr_cli.models.hidden import HiddenLayers, build_hidden, hidden_cost
from wisesr_cli.settings import Options

FeatureMap = tuple[int, int, int]  # height, width, channels

CLASSIFIER_LAYER = "classifier"
PRE_POOL = "pre_pool"  # the layer
FC_UNITS = 4096  # the two hidden layers of VGG (Simonyan and Zisserman, 2015)
PAPER = "paper"  # the preset
# What the notebooks of the paper have in common, for heads that have the option.
PRESET_OPTIONS = {
    "pooling": "valid",
    "constraint": "non_negative",
    "initializer": "paper",
    "classifier_initializer": "paper",
}


class HeadOptions(Options):
    """Options that every head has."""

    name: str
    classifier_initializer: Literal["default", "paper"] = "paper"
    """Initializer of the classifier layer: `paper` is normal with standard deviation 0.01, `default` Glorot uniform."""
    dropout: float = Field(default=0.0, ge=0, lt=1, examples=[0.2])
    """Dropout rate before the classifier layer."""
    hidden: HiddenLayers = Field(default=(), examples=[256, [{"units": 256, "activation": "relu"}]])
    """Hidden layers between pooling and classifier layer: [{units: 256, activation: relu}], or 256 for short."""


class GapOptions(HeadOptions):
    """Global average pooling: the mean over all positions."""

    name: Literal["gap"] = "gap"


class GmpOptions(HeadOptions):
    """Global max pooling: the largest value over all positions."""

    name: Literal["gmp"] = "gmp"


class PositionOptions(HeadOptions):
    """Options of heads with a learned weight for every position."""

    constraint: Literal["non_negative", "unit_sum", "none"] = "unit_sum"
    """Constraint on the position weights: `unit_sum` is non-negative with sum 1 per channel."""
    initializer: Literal["uniform", "even", "paper"] = "uniform"
    """Initializer of the position weights: `uniform` and `even` start as GAP, `paper` is normal(0, 0.01). With
    `unit_sum`, `even` makes the relative step of Adam the same on every grid; with `uniform` it grows with the grid."""
    preset: Literal["paper"] | None = Field(default=None, exclude=True)
    """`paper`: options not given are those of the published head; the resolved config lists them instead."""

    @model_validator(mode="before")
    @classmethod
    def _write_out_preset(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("preset") != PAPER:
            return values
        of_preset = {name: value for name, value in PRESET_OPTIONS.items() if name in cls.model_fields}
        return {**of_preset, **{name: value for name, value in values.items() if name != "preset"}}


class DepthwiseOptions(PositionOptions):
    """A learned weight for every position of every channel (Wise-SrNet without its pooling)."""

    name: Literal["depthwise"] = "depthwise"


class PooledOptions(HeadOptions):
    """Options of heads that pool before they read positions."""

    pre_pool: Literal["auto"] | Annotated[int, Field(ge=1)] = Field(default="auto", examples=["auto", 2])
    """Pool size of the average pooling before the position weights; 1 for none."""
    pooling: Literal["tile", "valid"] = "tile"
    """`tile` covers the whole map with tiles; `valid` drops the remainder at the bottom and right, as published."""


class WiseOptions(PositionOptions, PooledOptions):
    """Wise-SrNet: average pooling, then a learned weight for every pooled position of every channel."""

    name: Literal["wise"] = "wise"


class FlattenOptions(PooledOptions):
    """All positions of all channels, flattened; `pre_pool: auto` is none."""

    name: Literal["flatten"] = "flatten"


class FcOptions(HeadOptions):
    """VGG's: flatten, two dense layers of 4096 with ReLU and dropout, classifier layer."""

    name: Literal["fc"] = "fc"


def pool_side(side: int, pre_pool: Literal["auto"] | int) -> int:
    """Return the number of positions of a side averaged into one; `auto` gives 7 -> 2, 16 -> 3 as published."""
    return side // 6 + 1 if pre_pool == "auto" else pre_pool


def grid_size(feature_map: FeatureMap, options: HeadOptions) -> tuple[int, int]:
    """Return the height and width of the grid of positions that the head distinguishes; (1, 1) for none.

    Raises `ConfigError` when `pre_pool` is larger than the feature map.
    """
    height, width, _ = feature_map
    if isinstance(options, GapOptions | GmpOptions):
        return 1, 1
    pool_height, pool_width = pool_size(feature_map, options)
    if pool_height > height or pool_width > width:
        raise ConfigError(
            f"model.head.pre_pool is {pool_height}, larger than the feature map of {height}x{width}; "
            f"allowed: auto, or 1 to {min(height, width)}"
        )
    return height // pool_height, width // pool_width


def pool_size(feature_map: FeatureMap, options: HeadOptions) -> tuple[int, int]:
    """Return height and width, in positions, of the average pooling before positions are read."""
    if not isinstance(options, PooledOptions):
        return 1, 1
    if isinstance(options, FlattenOptions) and options.pre_pool == "auto":
        return 1, 1
    return pool_side(feature_map[0], options.pre_pool), pool_side(feature_map[1], options.pre_pool)


def effective_options(feature_map: FeatureMap, options: HeadOptions) -> HeadOptions:
    """Return the options of the head that is built: GAP where a 1x1 map has no positions to distinguish."""
    if feature_map[:2] == (1, 1) and HEADS[options.name].is_gap_at_one_position:
        shared = {name: getattr(options, name) for name in HeadOptions.model_fields if name != "name"}
        return GapOptions(**shared)
    return options


def build_head(feature_map: Any, classes: int, options: HeadOptions) -> Any:
    """Return symbolic logits (batch, classes), float32, for a symbolic feature map (batch, height, width, channels)."""
    import keras

    options = effective_options(tuple(feature_map.shape[1:]), options)
    features = build_hidden(HEADS[options.name].build(feature_map, options), options.hidden)
    if options.dropout:
        features = keras.layers.Dropout(options.dropout, name="head_dropout")(features)
    # Logits stay in float32 under mixed precision, to keep the accuracy of the loss.
    initializer = _dense_initializer(options)
    classifier = keras.layers.Dense(classes, kernel_initializer=initializer, dtype="float32", name=CLASSIFIER_LAYER)
    return classifier(features)


def head_parameters(feature_map: FeatureMap, classes: int, options: HeadOptions) -> int:
    """Return the number of parameters of a head, its classifier layer included."""
    options = effective_options(feature_map, options)
    pooling, features = HEADS[options.name].parameters(feature_map, options)
    hidden, _, features = hidden_cost(features, options.hidden)
    return pooling + hidden + (features + 1) * classes


def head_flops(feature_map: FeatureMap, classes: int, options: HeadOptions) -> int:
    """Return the FLOPs of a head for one image; one multiply-add is 2, one addition of a pooling is 1."""
    options = effective_options(feature_map, options)
    _, features = HEADS[options.name].parameters(feature_map, options)
    _, hidden, features = hidden_cost(features, options.hidden)
    return HEADS[options.name].flops(feature_map, options) + hidden + 2 * features * classes


def _dense_initializer(options: HeadOptions) -> Any:
    import keras

    if options.classifier_initializer == "paper":
        return keras.initializers.RandomNormal(stddev=0.01)
    return "glorot_uniform"


def _build_global(feature_map: Any, options: GapOptions | GmpOptions) -> Any:
    import keras

    layers = {"gap": keras.layers.GlobalAveragePooling2D, "gmp": keras.layers.GlobalMaxPooling2D}
    return layers[options.name](name=options.name)(feature_map)


def _build_position_weights(feature_map: Any, options: PositionOptions) -> Any:
    from wisesr_cli.layers import PositionWeightedPooling2D

    shape = tuple(feature_map.shape[1:])
    is_valid = isinstance(options, WiseOptions) and options.pooling == "valid"
    return PositionWeightedPooling2D(
        grid_size(shape, options),
        pool_size=pool_size(shape, options) if is_valid else None,
        constraint=options.constraint,
        initializer=options.initializer,
        name=options.name,
    )(feature_map)


def _build_flatten(feature_map: Any, options: FlattenOptions | FcOptions) -> Any:
    import keras

    from wisesr_cli.layers import TileAveragePooling2D

    shape = tuple(feature_map.shape[1:])
    size = pool_size(shape, options)
    if size != (1, 1):
        grid = grid_size(shape, options)
        if isinstance(options, FlattenOptions) and options.pooling == "valid":
            pooling = keras.layers.AveragePooling2D(size, name=PRE_POOL)
        else:
            pooling = TileAveragePooling2D(grid, name=PRE_POOL)
        feature_map = pooling(feature_map)
    return keras.layers.Flatten(name="flatten")(feature_map)


def _build_fc(feature_map: Any, options: FcOptions) -> Any:
    import keras

    features = _build_flatten(feature_map, options)
    features = keras.layers.Dense(FC_UNITS, "relu", kernel_initializer=_dense_initializer(options), name="fc1")(
        features
    )
    if options.dropout:
        features = keras.layers.Dropout(options.dropout, name="fc1_dropout")(features)
    return keras.layers.Dense(FC_UNITS, "relu", kernel_initializer=_dense_initializer(options), name="fc2")(features)


def _global_parameters(feature_map: FeatureMap, options: HeadOptions) -> tuple[int, int]:
    return 0, feature_map[2]


def _position_parameters(feature_map: FeatureMap, options: HeadOptions) -> tuple[int, int]:
    channels = feature_map[2]
    return (prod(grid_size(feature_map, options)) + 1) * channels, channels


def _flatten_parameters(feature_map: FeatureMap, options: HeadOptions) -> tuple[int, int]:
    return 0, prod(grid_size(feature_map, options)) * feature_map[2]


def _fc_parameters(feature_map: FeatureMap, options: HeadOptions) -> tuple[int, int]:
    return (prod(feature_map) + 1) * FC_UNITS + (FC_UNITS + 1) * FC_UNITS, FC_UNITS


def _pooling_flops(feature_map: FeatureMap, options: HeadOptions) -> int:
    """Count one addition for every value of the map that a pooling reads."""
    height, width, channels = feature_map
    pool_height, pool_width = pool_size(feature_map, options)
    if (pool_height, pool_width) == (1, 1) and not isinstance(options, GapOptions | GmpOptions):
        return 0
    if isinstance(options, PooledOptions) and options.pooling == "valid":
        height, width = height - height % pool_height, width - width % pool_width
    return height * width * channels


def _position_flops(feature_map: FeatureMap, options: HeadOptions) -> int:
    grid_height, grid_width = grid_size(feature_map, options)
    return _pooling_flops(feature_map, options) + 2 * grid_height * grid_width * feature_map[2]


def _fc_flops(feature_map: FeatureMap, options: HeadOptions) -> int:
    return 2 * prod(feature_map) * FC_UNITS + 2 * FC_UNITS * FC_UNITS


@dataclass(frozen=True)
class Head:
    """A row of `HEADS`.

    `build` gives the feature vector of a symbolic feature map. `parameters` gives the parameters before the classifier
    layer and the length of the feature vector; `flops` the FLOPs before the classifier layer. `is_gap_at_one_position`:
    whether on a 1x1 map the head can do no more than GAP, so that GAP is built.
    """

    options: type[HeadOptions]
    build: Callable[[Any, Any], Any]
    parameters: Callable[[FeatureMap, Any], tuple[int, int]]
    flops: Callable[[FeatureMap, Any], int]
    reads_position: bool
    is_gap_at_one_position: bool


HEADS: dict[str, Head] = {
    "gap": Head(GapOptions, _build_global, _global_parameters, _pooling_flops, False, False),
    "gmp": Head(GmpOptions, _build_global, _global_parameters, _pooling_flops, False, False),
    "depthwise": Head(DepthwiseOptions, _build_position_weights, _position_parameters, _position_flops, True, True),
    "wise": Head(WiseOptions, _build_position_weights, _position_parameters, _position_flops, True, True),
    "flatten": Head(FlattenOptions, _build_flatten, _flatten_parameters, _pooling_flops, True, True),
    # Because of its hidden layers, it differs from GAP on any map.
    "fc": Head(FcOptions, _build_fc, _fc_parameters, _fc_flops, True, False),
}
