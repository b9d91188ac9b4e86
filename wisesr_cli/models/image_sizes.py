"""Checks which image sizes, other than that of training, the head and the backbone of a model support.

Without Keras, the model file suffices to refuse most unsupported sizes; `other_size` refuses the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from wisesr_cli.errors import ConfigError, UsageError
from wisesr_cli.model_files.architecture import objects_in
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.models.backbones import BACKBONES, check_backbone
from wisesr_cli.models.costs_table import BACKBONE_SIZES
from wisesr_cli.models.heads import (
    FcOptions,
    FeatureMap,
    FlattenOptions,
    HeadOptions,
    PooledOptions,
    WiseOptions,
    effective_options,
    grid_size,
    pool_size,
)
from wisesr_cli.text import size_text

ImageSize = tuple[int, int]  # height, width, in pixels
MapSize = tuple[int, int]  # height, width, in positions


def grid_at(options: dict[str, Any], feature_map: MapSize) -> MapSize:
    """Return the grid of position weights on a map; `options` is the layer's config.

    The number of tiles is fixed; windows of `valid` pooling keep their size; `depthwise` has a weight for every
    position.
    """
    if options["name"] == "depthwise":
        return feature_map
    if options["pool_size"] is None:
        return options["grid_size"][0], options["grid_size"][1]
    return feature_map[0] // options["pool_size"][0], feature_map[1] // options["pool_size"][1]


def positions_needed(options: dict[str, Any]) -> MapSize:
    """Return height and width of the smallest map for a layer of position weights or tiles; see `grid_at`."""
    needed = (1, 1) if options["name"] == "depthwise" else options.get("pool_size") or options["grid_size"]
    return needed[0], needed[1]


def fits(feature_map: MapSize, needed: MapSize) -> bool:
    """Return whether a map has at least the needed positions, in both directions."""
    return feature_map[0] >= needed[0] and feature_map[1] >= needed[1]


def every_position_error(before: MapSize, after: MapSize) -> UsageError:
    """Return the error for a head with weights for every position, on a map with a different number of them."""
    return UsageError(
        f"the head has weights for each of {size_text(before)} positions; that image size gives {size_text(after)}: "
        "flatten and fc work only where these stay the same; gap, gmp, depthwise, wise, and flatten with pre_pool "
        "work at other sizes"
    )


def too_few_positions_error(feature_map: MapSize, needed: MapSize, smallest: ImageSize) -> UsageError:
    """Return the error for a map with fewer positions than a head needs."""
    return UsageError(
        f"that image size gives a feature map of {size_text(feature_map)} positions, and the head needs at least "
        f"{size_text(needed)}; the smallest image size that works is {size_text(smallest)}"
    )


@contextmanager
def naming_size(place: str, size: ImageSize) -> Iterator[None]:
    """Turn errors about an image size in the block into errors about the config key `place`."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(str(error).replace("data.image_size", place, 1)) from None
    except UsageError as error:
        raise ConfigError(f"{place} is {size_text(size)}: {error}") from None


def smallest_side(fits: Callable[[int], bool], largest: int) -> int:
    """Return the smallest side in pixels that fits, by bisection; `largest` must fit."""
    low, high = 0, largest  # too small; fits
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


@dataclass(frozen=True)
class HeadNeeds:
    """The requirements of a head on its map.

    `positions`: height and width of the smallest map. `windows`: the size of windows that each have their own weights,
    so that their number is fixed; None if there are none.
    """

    positions: MapSize
    windows: MapSize | None = None


def check_image_size(config: dict[str, Any], info: ModelInfo, image_size: ImageSize) -> None:
    """Raise `UsageError` for an unsupported image size, as far as it is known without Keras.

    `config` is that of the model, from its checked archive.
    """
    if info.backbone in BACKBONES:
        try:
            check_backbone(info.backbone, image_size, None)
        except ConfigError as error:
            raise UsageError(str(error).replace("data.image_size", "the image size", 1)) from None
    layers = {layer["class_name"]: layer for layer in config["config"].get("layers", ())}
    sizes = BACKBONE_SIZES.get(info.backbone)
    if sizes is not None and _maps_read(layers) <= {sizes.feature_map(info.image_size)}:  # else cut at a layer
        check_map(_needs_of_layers(layers), info.backbone, info.image_size, image_size)


def check_map(needs: HeadNeeds, backbone: str, before: ImageSize, after: ImageSize) -> None:
    """Raise `UsageError` when a head cannot change from the map of one image size to that of another."""
    sizes = BACKBONE_SIZES[backbone]
    old, new = sizes.feature_map(before)[:2], sizes.feature_map(after)[:2]
    if not fits(new, needs.positions):
        raise too_few_positions_error(new, needs.positions, _smallest_size(backbone, needs.positions))
    if needs.windows is not None:
        rows, columns = needs.windows
        grids = [(height // rows, width // columns) for height, width in (old, new)]
        if grids[0] != grids[1]:
            raise every_position_error(*grids)


def needs_of(head: HeadOptions, feature_map: FeatureMap) -> HeadNeeds:
    """Return the requirements on other maps of a head built for `feature_map`."""
    head = effective_options(feature_map, head)
    pool, grid = pool_size(feature_map, head), grid_size(feature_map, head)
    is_valid = isinstance(head, PooledOptions) and head.pooling == "valid"
    if isinstance(head, WiseOptions):
        return HeadNeeds(pool if is_valid else grid)
    if isinstance(head, FcOptions) or (isinstance(head, FlattenOptions) and (is_valid or pool == (1, 1))):
        return HeadNeeds(pool, windows=pool)
    return HeadNeeds(grid if isinstance(head, FlattenOptions) else (1, 1))


def _needs_of_layers(layers: dict[str, Any]) -> HeadNeeds:
    """Return the requirements of a saved head, from its layers by class name."""
    for name in ("PositionWeightedPooling2D", "TileAveragePooling2D"):
        if name in layers:
            return HeadNeeds(positions_needed(layers[name]["config"]))
    if "Flatten" not in layers:
        return HeadNeeds((1, 1))
    pool = layers["AveragePooling2D"]["config"]["pool_size"] if "AveragePooling2D" in layers else (1, 1)
    return HeadNeeds((pool[0], pool[1]), windows=(pool[0], pool[1]))


def _maps_read(layers: dict[str, Any]) -> set[tuple[int, ...]]:
    """Return the shapes of the maps that the head reads, before its own pooling."""
    first = next((name for name in ("TileAveragePooling2D", "AveragePooling2D") if name in layers), None)
    readers = [first] if first else ["Flatten", "PositionWeightedPooling2D"]
    called_with = objects_in([layers[name].get("inbound_nodes") for name in readers if name in layers])
    return {tuple(part["config"]["shape"][1:]) for part in called_with if part.get("class_name") == "__keras_tensor__"}


def _smallest_size(backbone: str, needed: MapSize) -> ImageSize:
    """Return the smallest image whose feature map has the needed positions."""
    sizes, minimum = BACKBONE_SIZES[backbone], BACKBONES[backbone].minimum_size

    def side(axis: int) -> int:
        return smallest_side(lambda pixels: sizes.feature_map((pixels, pixels))[axis] >= needed[axis], 1 << 20)

    return max(minimum, side(0)), max(minimum, side(1))
