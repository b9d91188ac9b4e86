"""How the pixels of any file become those that a model sees: decided in training, and stored in its file.

Standard library only: file names and model records need no decoder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, get_args

Resize = Literal["squash", "crop", "pad"]
Color = Literal["srgb", "as_is"]
ValueRange = tuple[float, float]


@dataclass(frozen=True)
class Preparation:
    """What is done to pixels beside scaling to a size.

    `value_range` are the values that become 0 and 255 in images of more than 8 bits; None is their full depth, and
    0..1 or 0..255 for floats. `color`: whether colours of an image with an ICC profile are converted to sRGB.
    """

    resize: Resize = "squash"
    value_range: ValueRange | None = None
    color: Color = "as_is"

    def to_json(self) -> dict[str, Any]:
        """Return the fields of a model's record."""
        return {"resize": self.resize, "value_range": self.value_range and list(self.value_range), "color": self.color}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Preparation:
        """Return the rules in a model's record; those of earlier versions lack all but `resize`.

        Raises `ValueError` for what is none, `KeyError` without `resize`.
        """
        resize, color, value_range = values["resize"], values.get("color", "as_is"), values.get("value_range")
        if resize not in get_args(Resize):
            raise ValueError(f"the resize rule {resize!r}")
        if color not in get_args(Color):
            raise ValueError(f"the colour rule {color!r}")
        return cls(resize, None if value_range is None else checked_range(value_range), color)


def checked_range(values: Any) -> ValueRange:
    """Return two finite numbers in ascending order as a range; raises `ValueError` for anything else."""
    is_pair = isinstance(values, list | tuple) and len(values) == 2
    if not is_pair or not all(type(value) in (int, float) and math.isfinite(value) for value in values):
        raise ValueError(f"the value range {values!r}: two numbers are needed, [low, high]")
    low, high = map(float, values)
    if not low < high:
        raise ValueError(f"the value range {values!r}: the first number must be below the second")
    return low, high


def range_text(value_range: ValueRange) -> str:
    """Return `0 to 4,095`."""
    return " to ".join(f"{value:,.6g}" if value != int(value) else f"{int(value):,}" for value in value_range)
