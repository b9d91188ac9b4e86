"""Feature maps of frozen backbones: computed once, kept on disk, and reduced to what a head reads of them."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.config.reader import load_config, overrides_of
from wisesr_cli.config.schema import Config
from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.data.pixels import open_pixels
from wisesr_cli.listening import Silent
from wisesr_cli.models.heads import (
    FeatureMap,
    GapOptions,
    GmpOptions,
    HeadOptions,
    PooledOptions,
    pool_size,
)
from wisesr_cli.models.heads import grid_size as head_grid

BATCH = 32
SPLITS = ("train", "validation", "test")
Labels = NDArray[np.int64]
Maps = NDArray[np.float32]  # (images, height, width, channels)


@dataclass(frozen=True)
class Source:
    """Pictures, and the frozen backbone that maps them."""

    pictures: Path
    backbone: str
    image_size: int
    layer: str | None = None
    weights: str = "imagenet"

    def config(self) -> Config:
        """Return the config of the data and the backbone."""
        settings: dict[str, Any] = {
            "model.backbone": self.backbone,
            "model.weights": self.weights,
            "data.image_size": self.image_size,
        }
        if self.layer is not None:
            settings["model.feature_layer"] = self.layer
        return load_config(self.pictures, overrides_of(settings)).config


@dataclass(frozen=True)
class Features:
    """The feature maps and labels of every split; the maps are read from the disk when used."""

    maps: dict[str, Maps]
    labels: dict[str, Labels]
    class_names: tuple[str, ...]

    @property
    def shape(self) -> FeatureMap:
        """Height, width and channels."""
        height, width, channels = self.maps["train"].shape[1:]
        return height, width, channels

    def few(self, per_class: int) -> Features:
        """Return the same with only the first images of each class for training; validation and test stay the same."""
        kept = np.concatenate(
            [np.flatnonzero(self.labels["train"] == label)[:per_class] for label in range(len(self.class_names))]
        )
        maps = {**self.maps, "train": self.maps["train"][kept]}
        return Features(maps, {**self.labels, "train": self.labels["train"][kept]}, self.class_names)

    def folds(self, count: int) -> list[Features]:
        """Return the images of all splits as `count` folds, each used for test once and for validation once."""
        names = tuple(self.maps)
        labels = np.concatenate([self.labels[name] for name in names])
        part = np.random.default_rng(0).permutation(len(labels)) % count
        roles = [
            np.where(part == fold, "test", np.where(part == (fold + 1) % count, "validation", "train"))
            for fold in range(count)
        ]
        maps = np.concatenate([self.maps[name] for name in names])
        return [
            Features(
                {name: maps[role == name] for name in SPLITS},
                {name: labels[role == name] for name in SPLITS},
                self.class_names,
            )
            for role in roles
        ]


def features_of(source: Source, folder: Path) -> Features:
    """Return the feature maps of a source, computing those that the folder does not have."""
    config = source.config()
    index = build_index(config.data, seed=0, listener=Silent())
    place = folder / f"{source.pictures.name}-{source.backbone}-{source.layer or 'end'}-{source.image_size}-"
    place = place.with_name(place.name + _digest(config, index))
    if not place.is_dir():
        unfinished = place.with_suffix(".part")
        unfinished.mkdir(parents=True, exist_ok=True)
        _compute(config, index, unfinished)
        unfinished.rename(place)
    maps = {name: np.load(place / f"{name}.npy", mmap_mode="r", allow_pickle=False) for name in index.splits}
    return Features(maps, {name: split.labels for name, split in index.splits.items()}, index.class_names)


def _digest(config: Config, index: DatasetIndex) -> str:
    """Return a hash of everything that determines the maps."""
    described = {"record": index.record()["splits"], "size": config.data.image_size, "paths": sorted(index.rows())}
    return hashlib.blake2b(json.dumps(described).encode(), digest_size=6).hexdigest()


def _compute(config: Config, index: DatasetIndex, folder: Path) -> None:
    """Write the maps of every split that is not there yet."""
    from wisesr_cli.engines.keras import numpy_outputs
    from wisesr_cli.models.build import build_classifier

    classifier = build_classifier(config.model, image_size=config.data.image_size, classes=len(index.class_names))
    extractor = classifier.extractor
    for name in index.splits:
        path = folder / f"{name}.npy"
        if path.exists():
            continue
        print(f"  feature maps of {len(index.splits[name].paths)} {name} images", file=sys.stderr, flush=True)
        images = open_pixels(
            index.absolute(name),
            image_size=config.data.image_size,
            preparation=config.data.preparation,
            cache="memory",
            on_error="fail",
            listener=Silent(),
        )
        rows = np.arange(len(images))
        parts = [rows[start : start + BATCH] for start in range(0, len(rows), BATCH)]
        found = np.concatenate([numpy_outputs(extractor, images.batch(part))[0] for part in parts])
        unfinished = path.with_suffix(".part.npy")
        np.save(unfinished, found)
        unfinished.rename(path)
        images.close()


def reduced(maps: Maps, options: HeadOptions) -> Maps:
    """Return maps reduced to what a head reads: (images, grid height, grid width, channels), float32.

    A head that pools before it weights positions gives the same output for the pooled maps: see `on_reduced`.
    """
    feature_map: FeatureMap = maps.shape[1:]  # type: ignore[assignment]
    if isinstance(options, GapOptions | GmpOptions):
        pooled = (np.mean if isinstance(options, GapOptions) else np.max)(maps, axis=(1, 2), keepdims=True)
        return np.asarray(pooled, np.float32)
    if pool_size(feature_map, options) == (1, 1):
        return np.asarray(maps, np.float32)
    assert isinstance(options, PooledOptions)
    from wisesr_cli.layers import tile_of_position

    (height, width, _), (rows, columns) = feature_map, head_grid(feature_map, options)
    if options.pooling == "valid":
        window = pool_size(feature_map, options)
        members = [np.repeat(np.arange(grid), side) for grid, side in zip((rows, columns), window, strict=True)]
    else:
        members = [tile_of_position(height, rows), tile_of_position(width, columns)]
    averages = [
        ((member[None, :] == np.arange(grid)[:, None]) / np.bincount(member)[:, None]).astype(np.float32)
        for member, grid in zip(members, (rows, columns), strict=True)
    ]
    kept = maps[:, : len(members[0]), : len(members[1])]
    return np.einsum("yh,xw,bhwc->byxc", *averages, kept, optimize=True)


def on_reduced(options: HeadOptions) -> HeadOptions:
    """Return the head for maps from `reduced`: the same head without the pooling."""
    if not isinstance(options, PooledOptions):
        return options
    return options.model_copy(update={"pre_pool": 1, "pooling": "tile"})


def start_weights(options: HeadOptions, feature_map: FeatureMap, classes: int) -> list[NDArray[Any]]:
    """Return a head's initial weights on whole maps; those for reduced maps have the same shapes."""
    import keras

    from wisesr_cli.models.heads import build_head

    inputs = keras.Input(feature_map)
    found: list[NDArray[Any]] = keras.Model(inputs, build_head(inputs, classes, options)).get_weights()
    return found
