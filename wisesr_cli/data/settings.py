"""The data settings: where the images are, and how they become examples."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, WithJsonSchema, model_validator

from wisesr_cli.images.preparation import (
    MOST_CHANNELS,
    RGB,
    Channels,
    Color,
    Preparation,
    Ranges,
    Resize,
    check_bands,
    checked_ranges,
)
from wisesr_cli.settings import FolderPath, ImageSize, Options
from wisesr_cli.text import visible

SplitName = Literal["train", "validation", "test"]
MOST_FOLDS = 100
LABEL_SEPARATOR, LONGEST_SEPARATOR = "|", 8


def parse_labels(label: str, separator: str) -> tuple[str, ...]:
    """Return the unique names in a text of several labels, sorted by code point; none for empty text."""
    return tuple(sorted({name.strip() for name in label.split(separator)} - {""}))


def _check_separator(separator: str) -> str:
    if not 0 < len(separator) <= LONGEST_SEPARATOR:
        raise ValueError(f"expected 1 to {LONGEST_SEPARATOR} characters, such as | or a comma")
    return separator


def _check_group_regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {visible(error)}") from None
    return pattern


def _check_fold(fold: str) -> str:
    found = re.fullmatch(r"([0-9]{1,3})/([0-9]{1,3})", fold)
    if found is None or not 2 <= int(found[2]) <= MOST_FOLDS or int(found[1]) >= int(found[2]):
        raise ValueError(f"expected I/N, fold I, from 0, of N folds, 2 to {MOST_FOLDS}: 0/5 is the first of five")
    return fold


def _as_range(value: Any) -> Any:
    return value if isinstance(value, str) else checked_ranges(value)


_NUMBERS = {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_ROWS = {"type": "array", "items": _NUMBERS, "minItems": 1, "maxItems": MOST_CHANNELS}
Range = Annotated[Ranges, BeforeValidator(_as_range), WithJsonSchema({"anyOf": [_NUMBERS, _ROWS]})]


def _as_statistics(value: Any) -> Any:
    """Return rows of [mean, spread] as pairs of numbers; raises `ValueError` for anything else."""
    if isinstance(value, str):
        return value
    rows = value if isinstance(value, list | tuple) else ()
    is_known = rows and all(isinstance(row, list | tuple) and len(row) == 2 for row in rows)
    if not is_known or not all(type(each) in (int, float) and 0 <= each <= 255 for row in rows for each in row):
        raise ValueError(f"the statistics {value!r}: a row for each channel is needed, [mean, spread], of 0 to 255")
    return tuple((float(mean), float(spread)) for mean, spread in rows)


Statistics = Annotated[tuple[tuple[float, float], ...], BeforeValidator(_as_statistics), WithJsonSchema(_ROWS)]


class DataConfig(Options):
    """Where the images are, and how they become examples."""

    dir: FolderPath | None = Field(default=None, examples=["photos"])
    """One folder: class folders, or train/ + validation/ (+ test/) of class folders."""
    train_dir: FolderPath | None = Field(default=None, examples=["photos/train"])
    """Class folders to train on, when the splits are given separately."""
    validation_dir: FolderPath | None = Field(default=None, examples=["photos/validation"])
    """Class folders to validate on."""
    test_dir: FolderPath | None = Field(default=None, examples=["photos/test"])
    """Class folders that only `evaluate` reads."""
    manifest: FolderPath | None = Field(default=None, examples=["labels.csv"])
    """A table of labels (path, label; split, group, weight) in place of class folders; `dir`: the base of its paths."""
    label_separator: Annotated[str, AfterValidator(_check_separator)] | None = Field(default=None, examples=["|", ";"])
    """What is between the labels of an image in a manifest, for `model.task: multilabel`, which makes it `|`."""
    validation_split: float = Field(default=0.2, ge=0, lt=1)
    """Fraction of the training images to validate on, when there is no validation folder; 0 is none."""
    split_strategy: Literal["stratified", "hash", "group"] = "stratified"
    """`stratified`: a fraction of every class; `hash`: stable when files are added; `group`: keeps groups together."""
    group_regex: Annotated[str, AfterValidator(_check_group_regex)] | None = Field(
        default=None, examples=[r"patient-(\d+)"]
    )
    """For `group`: the part of the path that must not straddle splits (a patient, a scene); group 1, or the match."""
    fold: Annotated[str, AfterValidator(_check_fold)] | None = Field(default=None, examples=["0/5"])
    """I/N: part I, from 0, of N of the training images serves as test images: see `wisesr compare --folds`."""
    image_size: ImageSize = Field(default=(224, 224), examples=[224, [224, 320]])
    """Height and width in pixels to which every image is resized."""
    resize: Resize = "squash"
    """How images are resized: `squash` ignores the aspect ratio, `crop` cuts to it, `pad` fills up to it."""
    value_range: Literal["auto", "full"] | Range = Field(default="auto", examples=["auto", "full", [0, 4095]])
    """The values that become 0 and 255 where images have more than 8 bits: measured on training images, all, or
    [low, high]; a list of those for bands."""
    channels: int = Field(default=RGB, ge=1, le=MOST_CHANNELS, examples=[3, 1])
    """Of the pixels: 3 is RGB, to which all images are converted; 1 takes grey images, N those with N bands."""
    statistics: Literal["auto"] | Statistics = Field(default="auto", examples=["auto", [[104.0, 30.5]]])
    """Mean and spread of each channel, in 0..255, by which pixels other than RGB are scaled: measured, or a list."""
    color: Color = "srgb"
    """Whether colours with an ICC profile (of phones, of cameras) are converted to sRGB, or taken as they are."""
    on_error: Literal["fail", "skip"] = "fail"
    """What to do about an unreadable training image."""
    pixel_limit: int = Field(default=100_000_000, ge=1, le=10_000_000_000)
    """Width times height above which an image is refused; decoding takes 4 to 16 bytes for every pixel."""
    cache: Literal["auto", "none", "memory", "disk"] = "auto"
    """Where decoded images are kept between epochs."""

    @property
    def preparation(self) -> Preparation:
        """The preparation of pixels; a value range not yet measured counts as the full depth."""
        value_range = None if isinstance(self.value_range, str) else self.value_range
        return Preparation(self.resize, value_range, self.color, self.channels)

    @property
    def pixel_channels(self) -> Channels:
        """The channels of pixels, with their measured or given statistics."""
        return Channels(self.channels, () if isinstance(self.statistics, str) else self.statistics)

    def as_begun(self, before: Mapping[str, Any]) -> DataConfig:
        """Return these settings with the choices of a begun run, given its settings `before`; older runs lack some."""
        if before.get("channels", RGB) != self.channels:
            return self  # measured for other channels; resuming reports that they differ
        kept = {"value_range": before.get("value_range", "full")} if self.value_range == "auto" else {}
        if "color" not in self.model_fields_set:
            kept["color"] = before.get("color", "as_is")
        if self.statistics == "auto":
            kept["statistics"] = before.get("statistics", "auto")
        return self.model_validate({**self.model_dump(include=self.model_fields_set), **kept})

    @property
    def fold_of(self) -> tuple[int, int] | None:
        """The index of the held-out fold, from 0, and the number of folds."""
        if self.fold is None:
            return None
        number, count = map(int, self.fold.split("/"))
        return number, count

    @property
    def source(self) -> Path | None:
        """The manifest, or the folder of the training images, if any."""
        return self.manifest or self.dir or self.train_dir

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.manifest is not None and (self.train_dir or self.validation_dir or self.test_dir):
            raise ValueError("data.manifest names the splits; remove data.train_dir and the other folders of splits")
        if self.dir is not None and self.train_dir is not None:
            raise ValueError("data.dir and data.train_dir are both given; use one")
        if self.train_dir is None and (self.validation_dir or self.test_dir) and self.dir is None:
            raise ValueError("data.train_dir is missing: data.validation_dir and data.test_dir need it")
        if self.dir is not None and (self.validation_dir or self.test_dir):
            raise ValueError(
                "data.dir finds its own splits; use data.train_dir with data.validation_dir or data.test_dir"
            )
        self._check_channels()
        if self.split_strategy == "group" and self.group_regex is None and self.manifest is None:
            raise ValueError("data.group_regex is missing: data.split_strategy is group")
        if self.split_strategy != "group" and self.group_regex is not None:
            raise ValueError(f"data.group_regex is given, but data.split_strategy is {self.split_strategy}, not group")
        return self

    def _check_channels(self) -> None:
        if not isinstance(self.value_range, str):
            try:
                check_bands(self.value_range, self.channels)
            except ValueError as error:
                raise ValueError(f"data.value_range: {error}") from None
        if self.statistics == "auto":
            return
        if self.channels == RGB:
            raise ValueError("data.statistics is given, but data.channels is 3: RGB is scaled by model.preprocessing")
        if len(self.statistics) != self.channels:
            raise ValueError(
                f"data.statistics has {len(self.statistics)} rows, but data.channels is {self.channels}: one is needed "
                "for each channel, [mean, spread]"
            )
