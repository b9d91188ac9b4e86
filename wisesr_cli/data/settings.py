"""The settings of data: where the images are, and how they become examples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from wisesr_cli.images.preparation import Color, Preparation, Resize, ValueRange, checked_range
from wisesr_cli.settings import FolderPath, ImageSize, Options
from wisesr_cli.text import visible

SplitName = Literal["train", "validation", "test"]


def _check_group_regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {visible(error)}") from None
    return pattern


def _as_range(value: Any) -> Any:
    return value if isinstance(value, str) else checked_range(value)


_NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
Range = Annotated[ValueRange, BeforeValidator(_as_range), WithJsonSchema(_NUMBERS)]


class DataConfig(Options):
    """Where the images are, and how they become examples."""

    dir: FolderPath | None = None
    """One folder: class folders, or train/ + validation/ (+ test/) of class folders."""
    train_dir: FolderPath | None = None
    """Class folders to train on, when the splits are named one by one."""
    validation_dir: FolderPath | None = None
    """Class folders to validate on."""
    test_dir: FolderPath | None = None
    """Class folders that only `evaluate` reads."""
    manifest: FolderPath | None = None
    """A table of labels (path, label; split, group, weight) in place of class folders; `dir`: where its paths begin."""
    validation_split: float = Field(default=0.2, ge=0, lt=1)
    """Fraction of the training images to validate on, when there is no validation folder; 0 is none."""
    split_strategy: Literal["stratified", "hash", "group"] = "stratified"
    """`stratified`: the fraction of every class; `hash`: stable when files come; `group`: keeps groups together."""
    group_regex: Annotated[str, AfterValidator(_check_group_regex)] | None = None
    """For `group`: the part of the path that must not straddle splits (a patient, a scene); group 1, or the match."""
    image_size: ImageSize = (224, 224)
    """Height and width in pixels that every image is brought to."""
    resize: Resize = "squash"
    """How an image gets its size: without regard to its shape, cut to it, or filled up to it."""
    value_range: Literal["auto", "full"] | Range = "auto"
    """The values of more than 8 bits that become 0 and 255: measured on training images, all, or [low, high]."""
    color: Color = "srgb"
    """Whether colours with an ICC profile (of phones, of cameras) are converted to sRGB, or taken as they are."""
    on_error: Literal["fail", "skip"] = "fail"
    """What an unreadable training image does."""
    pixel_limit: int = Field(default=100_000_000, ge=1, le=10_000_000_000)
    """Width times height above which an image is refused; decoding takes 4 to 16 bytes for every pixel."""
    cache: Literal["auto", "none", "memory", "disk"] = "auto"
    """Where decoded images are kept between epochs."""

    @property
    def preparation(self) -> Preparation:
        """What is done to pixels; a value range that is still to be measured counts as the full depth."""
        return Preparation(self.resize, None if isinstance(self.value_range, str) else self.value_range, self.color)

    def as_begun(self, before: Mapping[str, Any]) -> DataConfig:
        """Return these settings with what a run decided, `before` being its own; earlier versions lack some."""
        kept = {"value_range": before.get("value_range", "full")} if self.value_range == "auto" else {}
        if "color" not in self.model_fields_set:
            kept["color"] = before.get("color", "as_is")
        return self.model_validate({**self.model_dump(include=self.model_fields_set), **kept})

    @property
    def source(self) -> Path | None:
        """The manifest, or the folder of the training images, if any."""
        return self.manifest or self.dir or self.train_dir

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.manifest is not None and (self.train_dir or self.validation_dir or self.test_dir):
            raise ValueError("data.manifest names splits itself; leave out data.train_dir and the like")
        if self.dir is not None and self.train_dir is not None:
            raise ValueError("data.dir and data.train_dir are both given; use one")
        if self.train_dir is None and (self.validation_dir or self.test_dir) and self.dir is None:
            raise ValueError("data.train_dir is missing beside data.validation_dir or data.test_dir")
        if self.dir is not None and (self.validation_dir or self.test_dir):
            raise ValueError(
                "data.dir finds its own splits; use data.train_dir beside data.validation_dir or data.test_dir"
            )
        if self.split_strategy == "group" and self.group_regex is None and self.manifest is None:
            raise ValueError("data.group_regex is missing: data.split_strategy is group")
        if self.split_strategy != "group" and self.group_regex is not None:
            raise ValueError(f"data.group_regex is given, but data.split_strategy is {self.split_strategy}, not group")
        return self
