"""The images of a training, found, split and ready to be read. No Keras."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.checking import check_settings_with_data
from wisesr_cli.config import Config
from wisesr_cli.dataset import DatasetIndex, build_index
from wisesr_cli.errors import DataError
from wisesr_cli.pipeline import DecodedImages, open_pixels
from wisesr_cli.results import Listener
from wisesr_cli.text import visible


@dataclass(frozen=True)
class Examples:
    """The images of a training, ready to be read."""

    index: DatasetIndex
    train: DecodedImages
    validation: DecodedImages | None

    def labels(self, split: str) -> NDArray[np.int64]:
        """Return the labels of a split's images, int64 (examples,)."""
        return self.index.splits[split].labels

    def training_record(self) -> dict[str, Any]:
        """Return what must stay as it is for a resumption: the test images decide nothing."""
        return self._without_test().record()

    def differences(self, record: dict[str, Any]) -> list[str]:
        """Return what changed in training and validation images since `training_record`."""
        return list(self._without_test().differences(record))

    def _without_test(self) -> DatasetIndex:
        splits = {name: split for name, split in self.index.splits.items() if name != "test"}
        return replace(self.index, splits=splits)

    def close(self) -> None:
        """Let go of the images."""
        self.train.close()
        if self.validation is not None:
            self.validation.close()


def open_examples(config: Config, listener: Listener) -> Examples:
    """Return the images of a config, every one of them readable; what was left out is in none of the splits."""
    index = build_index(config.data, seed=config.seed, listener=listener)
    check_settings_with_data(config, index)
    pixels: dict[str, DecodedImages] = {}
    splits = dict(index.splits)
    for split in ("train", "validation"):
        if split in splits:
            pixels[split] = open_pixels(
                index.absolute(split),
                image_size=config.data.image_size,
                resize=config.data.resize,
                cache=config.data.cache,
                on_error=config.data.on_error,
                pixel_limit=config.data.pixel_limit,
                listener=listener,
            )
            splits[split] = splits[split].taken(pixels[split].kept)
    index = replace(index, splits=splits)
    for name, count in zip(index.class_names, index.counts("train"), strict=True):
        if count == 0:
            raise DataError(f"the class '{visible(name)}' has no readable training image")
    return Examples(index, pixels["train"], pixels.get("validation"))
