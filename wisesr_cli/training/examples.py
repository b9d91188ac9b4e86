"""The images of a training: found, split and ready to be read. No Keras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from wisesr_cli.config.schema import Config
from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.index import Changes, DatasetIndex, Labels
from wisesr_cli.data.pixels import DecodedImages, open_pixels
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.value_range import with_value_range
from wisesr_cli.data.verified import with_contents
from wisesr_cli.errors import DataError
from wisesr_cli.images.preparation import RGB, checked_ranges
from wisesr_cli.listening import Listener
from wisesr_cli.models.image_sizes import ImageSize
from wisesr_cli.processes.channel import ALONE_CHANNEL, Channel
from wisesr_cli.text import visible
from wisesr_cli.training.checks import check_settings_with_data, idle_settings
from wisesr_cli.training.devices.alike import check_alike, images_of

MEASURED = 512  # training images, evenly spaced


@dataclass
class Examples:
    """The images of a training, readable at one image size."""

    config: DataConfig  # with measured value range and statistics
    index: DatasetIndex
    image_size: ImageSize
    train: DecodedImages
    validation: DecodedImages | None
    channel: Channel = ALONE_CHANNEL
    shared_maps: dict[str, Any] | None = None  # feature maps in memory, by key, shared with other trainings

    def open_at(self, image_size: ImageSize, listener: Listener) -> None:
        """Read the images at another size from now on; pixels cached at the previous size are released first.

        Raises a `DataError` if an image can no longer be read.
        """
        if image_size == self.image_size:
            return
        self.close()
        # Unreadable images were dropped when the run started; labels and order depend on that.
        settled = self.config.model_copy(update={"on_error": "fail"})
        found = _open(settled, self.index, image_size, listener, self.channel)
        self.image_size, self.train, self.validation = image_size, found["train"], found.get("validation")

    def labels(self, split: str) -> Labels:
        """Return the labels of a split's images, as a `Split` has them."""
        return self.index.splits[split].labels

    @cached_property
    def training_record(self) -> dict[str, Any]:
        """What must be unchanged to resume; test images do not count."""
        return self._without_test().record()

    def changes_since(self, record: dict[str, Any]) -> Changes:
        """Return the changes of training and validation images since `training_record`."""
        return self._without_test().changes_since(record)

    def _without_test(self) -> DatasetIndex:
        splits = {name: split for name, split in self.index.splits.items() if name != "test"}
        return replace(self.index, splits=splits)

    def close(self) -> None:
        """Release the images."""
        self.train.close()
        if self.validation is not None:
            self.validation.close()


def open_examples(config: Config, listener: Listener, *, epoch: int = 0, channel: Channel = ALONE_CHANNEL) -> Examples:
    """Return the readable images of a config, at the image size of the next epoch to train, `epoch` (from 0).

    Each process checks its share of them.
    """
    image_size = config.image_size_of_epoch(epoch)
    if not channel.is_main:
        channel.from_main()  # so that errors are reported once, and headers are read once
    index = build_index(config.data, seed=config.seed, listener=listener)
    if channel.is_main:
        channel.from_main(True)
    check_alike(channel, "images", images_of(index))
    check_settings_with_data(config, index)
    for sentence in idle_settings(config, index) if channel.is_main else ():
        listener.note(sentence)
    data = _with_value_range(config.data, index, listener, channel)
    pixels = _open(data, index, image_size, listener, channel)
    data = _with_statistics(data, pixels["train"], channel)
    splits = {name: split.taken(pixels[name].kept) if name in pixels else split for name, split in index.splits.items()}
    index = replace(index, splits=splits)
    for name, count in zip(index.class_names, index.counts("train"), strict=True):
        if count == 0:
            raise DataError(f"the class '{visible(name)}' has no readable training image")
    if channel.is_main:
        limit, channels = data.pixel_limit, data.channels
        index = with_contents(index, pixels, pixel_limit=limit, channels=channels, listener=listener)
    return Examples(data, index, image_size, pixels["train"], pixels.get("validation"), channel)


def _with_value_range(data: DataConfig, index: DatasetIndex, listener: Listener, channel: Channel) -> DataConfig:
    """Return the config with the value range measured by the main process."""
    if channel.is_main:
        data = with_value_range(data, index, listener)
    decided = channel.from_main(data.value_range)
    value_range = decided if isinstance(decided, str) else checked_ranges(decided)
    return data.model_copy(update={"value_range": value_range})


def _with_statistics(data: DataConfig, train: DecodedImages, channel: Channel) -> DataConfig:
    """Return the config with the mean and spread of each channel, measured if pixels are not RGB."""
    if data.statistics != "auto" or data.channels == RGB:
        return data
    found = channel.from_main(statistics_of(train) if channel.is_main else None)
    return data.model_copy(update={"statistics": tuple((mean, spread) for mean, spread in found)})


def statistics_of(images: DecodedImages) -> list[list[float]]:
    """Return the mean and spread (standard deviation) of each channel, in 0..255, over a sample of the images."""
    positions = np.unique(np.linspace(0, len(images) - 1, min(len(images), MEASURED)).round().astype(np.int64))
    sums = np.zeros((2, images.batch(positions[:1]).shape[-1]))
    for position in positions:
        pixels = images.batch(np.array([position]))[0].astype(np.float64)
        sums += pixels.mean((0, 1)), (pixels**2).mean((0, 1))
    mean, square = sums / len(positions)
    spread = np.sqrt(np.maximum(square - mean**2, 0))
    return [[round(float(one), 3), round(float(other), 3)] for one, other in zip(mean, spread, strict=True)]


def _open(
    config: DataConfig, index: DatasetIndex, image_size: ImageSize, listener: Listener, channel: Channel
) -> dict[str, DecodedImages]:
    return {
        split: open_pixels(
            index.absolute(split),
            image_size=image_size,
            preparation=config.preparation,
            cache=config.cache,
            on_error=config.on_error,
            pixel_limit=config.pixel_limit,
            listener=listener,
            channel=channel,
        )
        for split in ("train", "validation")
        if split in index.splits
    }
