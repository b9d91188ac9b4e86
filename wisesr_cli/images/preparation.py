"""Rules that turn the pixels of a file into a model's input; set in training and stored in the model file.

Uses only the standard library, so that handling file names and model records loads no decoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Resize = Literal["squash", "crop", "pad"]
Color = Literal["srgb", "as_is"]
ValueRange = tuple[float, float]
Ranges = ValueRange | tuple[ValueRange, ...]  # one for all bands, or one for each

RGB = 3  # channels
MOST_CHANNELS = 64  # satellites have up to 13 bands, microscopes a few dozen


@dataclass(frozen=True)
class Channels:
    """The number of channels and, if known, the mean and spread of each over the training images."""

    count: int = RGB
    statistics: tuple[tuple[float, float], ...] = ()


IN_RGB = Channels()


@dataclass(frozen=True)
class Preparation:
    """How pixels are prepared, apart from the target size.

    `value_range`: the values that become 0 and 255 in images of more than 8 bits. None is the full bit depth, or 0..1
    or 0..255 for floats. In images that are neither grey nor RGB, each band may have its own range.
    `color`: whether images with an ICC profile are converted to sRGB.
    `channels`: 1 is grey, 3 is RGB; any other number is bands as stored.
    """

    resize: Resize = "squash"
    value_range: Ranges | None = None
    color: Color = "as_is"
    channels: int = field(default=RGB, repr=False)  # cache keys contain the repr

    @property
    def has_bands(self) -> bool:
        """Whether the pixels are bands as stored, neither grey nor RGB."""
        return self.channels not in (1, RGB)

    def to_json(self) -> dict[str, Any]:
        """Return the fields for a model's record."""
        value_range = self.value_range and [
            list(part) if isinstance(part, tuple) else part for part in self.value_range
        ]
        return {"resize": self.resize, "value_range": value_range, "color": self.color, "channels": self.channels}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preparation:
        """Return the rules in a model's record; records of earlier versions may have only `resize`.

        Raises `ValueError` for invalid values and `KeyError` if `resize` is missing.
        """
        resize, color, value_range = values["resize"], values.get("color", "as_is"), values.get("value_range")
        channels = values.get("channels", RGB)
        if resize not in get_args(Resize):
            raise ValueError(f"the resize rule {resize!r}")
        if color not in get_args(Color):
            raise ValueError(f"the colour rule {color!r}")
        if type(channels) is not int or not 1 <= channels <= MOST_CHANNELS:
            raise ValueError(f"the number of channels {channels!r}")
        ranges = None if value_range is None else checked_ranges(value_range)
        check_bands(ranges, channels)
        return cls(resize, ranges, color, channels)


def checked_ranges(values: Any) -> Ranges:
    """Return `values` as one range, or as one for each band; raises `ValueError` for anything else."""
    is_list = isinstance(values, list | tuple) and len(values) > 0
    if is_list and all(isinstance(part, list | tuple) for part in values):
        return tuple(map(checked_range, values))
    return checked_range(values)


def check_bands(ranges: Ranges | None, channels: int) -> None:
    """Raise `ValueError` if there are ranges for bands, but not exactly one for each band."""
    if ranges is None or not isinstance(ranges[0], tuple):
        return
    if channels in (1, RGB):
        raise ValueError(f"a value range for each band, and data.channels is {channels}, which takes one for all")
    if len(ranges) != channels:
        raise ValueError(f"{len(ranges)} value ranges, and data.channels is {channels}: one is needed for each band")


def checked_range(values: Any) -> ValueRange:
    """Return `values` as a range: two finite numbers in ascending order; raises `ValueError` for anything else."""
    is_pair = isinstance(values, list | tuple) and len(values) == 2
    if not is_pair or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(f"the value range {values!r}: two numbers are needed, [low, high]")
    low, high = map(float, values)
    if not low < high:
        raise ValueError(f"the value range {values!r}: the first number must be below the second")
    return low, high


def range_text(value_range: Ranges) -> str:
    """Return a range as text: `0 to 4,095`, or for the first few bands `0 to 1; 0 to 4,095 (band by band)`."""
    bands = [part for part in value_range if isinstance(part, tuple)]
    if bands:
        shown = [range_text(band) for band in bands[:_SHOWN]] + (["..."] if len(bands) > _SHOWN else [])
        return f"{'; '.join(shown)} (band by band)"
    ends = [value for value in value_range if not isinstance(value, tuple)]
    return " to ".join(f"{value:,.6g}" if value != int(value) else f"{int(value):,}" for value in ends)


_SHOWN = 6  # the most bands listed in a message
