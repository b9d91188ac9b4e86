"""Reads values of more than 8 bits at full depth, and reduces them to 8 bits.

Without a value range, integers keep the highest 8 of the bits that the file declares: 0..65535 becomes 0..255. Integers
stored in 32 bits count as 16-bit. Negative values become black. Floats are scaled from 0..1 if all values are within
it, otherwise from 0..255. With a range, its ends become 0 and 255. Values outside are clipped; NaN becomes black.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from wisesr_cli.images.preparation import Ranges, ValueRange

Values = npt.NDArray[Any]  # integers or floats, (height, width) or (height, width, channels)


def is_deep(image: Image.Image) -> bool:
    """Return whether an opened but not yet loaded image has values other than 0..255."""
    return is_deep_grey(image) or is_deep_color(image)


def is_deep_grey(image: Image.Image) -> bool:
    """Return whether an image, loaded or not, has a single channel with values other than 0..255."""
    return image.mode[0] in "IF" or _is_signed_byte(image)


def is_deep_color(image: Image.Image) -> bool:
    """Return whether an opened but not yet loaded image has 16-bit colours, of which Pillow keeps 8 bits."""
    return image.mode.startswith("RGB") and any(";16" in str(tile) for tile in getattr(image, "tile", ()))


@dataclass(frozen=True)
class DeepValues:
    """The values of an image: integers or floats, (height, width) or (height, width, channels)."""

    stored: Values
    bits: int  # per value, as declared by the file, without the sign bit
    is_white_zero: bool = False  # a TIFF in which 0 is white

    def levels(self, value_range: Ranges | None) -> npt.NDArray[np.uint8]:
        """Return the values as bytes; the ends of the range become 0 and 255, and None means the full depth.

        Several ranges apply to one band each.
        """
        if value_range is None and self.stored.dtype.kind != "f":
            levels = _in_bands(self.stored, self._highest_bits)
        else:
            low, high = ends_of(value_range or self._float_range())
            levels = _in_bands(self.stored, lambda band: _scaled(band, low, high))
        return 255 - levels if self.is_white_zero else levels

    def _highest_bits(self, values: Values) -> Values:
        return np.clip(values.astype(np.int64), 0, (1 << self.bits) - 1) << 8 >> self.bits

    def _float_range(self) -> ValueRange:
        with np.errstate(invalid="ignore"):  # NumPy warns about some kinds of NaN
            # Comparisons with NaN are false, and fmin and fmax ignore it.
            outside = np.fmin.reduce(self.stored, axis=None) < 0 or np.fmax.reduce(self.stored, axis=None) > 1
        return 0.0, 255.0 if outside else 1.0


def ends_of(value_range: Ranges) -> tuple[Any, Any]:
    """Return the lower and the upper end: two numbers, or two float64 arrays (bands,) for one range per band."""
    if isinstance(value_range[0], tuple):
        low, high = np.array(value_range, np.float64).T
        return low, high
    return value_range[0], value_range[1]


def grey_values(image: Image.Image) -> DeepValues:
    """Return the values of a loaded image for which `is_deep_grey` is true."""
    values, tags = np.asarray(image), _tags(image)
    bits, is_signed = tags.get(_BITS, (16,))[0], tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED
    if image.mode == "L":
        values = values.view(np.int8)
    elif image.mode == "I" and bits == 32 and not is_signed and tags:
        values = values.view(np.uint32)
    stated = min(16, bits) - (is_signed and bits in (8, 16))
    return DeepValues(values, stated, is_white_zero=tags.get(_PHOTOMETRIC) == 0)


def color_values(image: Image.Image, again: ImageFile.ImageFile) -> DeepValues:
    """Return the values of a loaded image for which `is_deep_color` was true.

    Pillow keeps only one byte of each value, so the file, opened `again`, is decoded a second time for the other one.
    """
    again.tile = [type(tile)(*tile[:-1], _other_bytes(tile.args)) for tile in again.tile]
    is_grey = again.tile[0].args == _GREY_AS_FOUR
    again.load()
    low, high = np.asarray(again, np.uint16), np.asarray(image, np.uint16)[..., :3] << 8
    return DeepValues(high | (low[..., 1:2] if is_grey else low[..., :3]), bits=16)


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Yield the start and end rows (end exclusive) of the strips of an image that are converted one at a time."""
    rows = max(1, _BAND_PIXELS // width)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _in_bands(values: Values, convert: Callable[[Values], Values]) -> npt.NDArray[np.uint8]:
    levels = np.empty(values.shape, np.uint8)
    for start, end in bands(values.shape[1], values.shape[0]):
        levels[start:end] = convert(values[start:end])
    return levels


def _scaled(values: Values, low: Any, high: Any) -> Values:
    with np.errstate(invalid="ignore", over="ignore"):
        known = np.nan_to_num(values, nan=low) if values.dtype.kind == "f" else values
        scaled: Values = np.rint(np.clip((known - low) * (255.0 / (high - low)), 0, 255))
        return scaled


def _is_signed_byte(image: Image.Image) -> bool:
    tags = _tags(image) if image.mode == "L" else {}
    return bool(tags.get(_SAMPLE_FORMAT, (1,))[0] == _SIGNED and tags.get(_BITS, (1,))[0] == 8)


def _tags(image: Image.Image) -> Any:
    return getattr(image, "tag_v2", None) or {}


def _other_bytes(args: Any) -> Any:
    """Return a decoder's arguments, a raw mode or a sequence that contains one, for reading each value's low byte.

    Grey with alpha is read as four channels: the high and low bytes of each.
    """
    if isinstance(args, str):
        if args == "LA;16B":
            return _GREY_AS_FOUR
        return next((args.replace(mode, other) for mode, other in _OTHER_BYTE.items() if mode in args), args)
    return type(args)(map(_other_bytes, args)) if isinstance(args, list | tuple) else args


_BAND_PIXELS = 1 << 20
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # TIFF tags
_SIGNED = 2
_GREY_AS_FOUR = "RGBA"
_OTHER_BYTE = {";16B": ";16L", ";16L": ";16B", ";16N": ";16B" if sys.byteorder == "little" else ";16L"}
