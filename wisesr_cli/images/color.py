"""Conversion of every kind of pixel to 8-bit RGB.

- Transparency (an alpha channel, a transparent palette entry, a transparent colour) is composited over `BACKGROUND`.
- Integers of more than 8 bits keep their highest 8: 0..65535 becomes 0..255. Integers stored in 32 bits count as
  16-bit. Negative values are black.
- Floating-point TIFF: 0..1 when no value is outside, 0..255 otherwise; values outside are clipped, NaN is black.
- CMYK (inverted by Adobe or not), YCbCr, Lab, palettes, grey and 1-bit images become RGB as Pillow converts them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

BACKGROUND = (255, 255, 255)  # behind transparent pixels, and the padding of an image
_BAND_PIXELS = 1 << 20  # converted at a time


def is_deep(image: Image.Image) -> bool:
    """Return whether an opened, not yet loaded image has more than 8 bits per channel."""
    return image.mode[0] in "IF" or any(";16" in str(tile) for tile in getattr(image, "tile", ()))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image of any Pillow mode as RGB."""
    transparent = image.info.get("transparency")
    if image.mode[0] == "I":
        grey = _highest_bits(image)
        if transparent is not None:
            alpha = np.where(np.asarray(image) != transparent, 255, 0).astype(np.uint8)
            grey = np.stack([grey, alpha], axis=-1)
        image = Image.fromarray(grey)
    elif image.mode == "F":
        image = Image.fromarray(_float_to_bytes(np.asarray(image)))
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.has_transparency_data:
        return _over_background(image)
    return image.convert("RGB") if image.mode != "RGB" else image


def _over_background(image: Image.Image) -> Image.Image:
    """Return a transparent image as RGB, band by band, because a whole image would take three copies."""
    width, height = image.size
    rgb = Image.new("RGB", image.size)
    for start, end in _bands(width, height):
        band = image.crop((0, start, width, end)).convert("RGBA")
        opaque = Image.new("RGBA", band.size, (*BACKGROUND, 255))
        rgb.paste(Image.alpha_composite(opaque, band).convert("RGB"), (0, start))
    return rgb


def _bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    rows = max(1, _BAND_PIXELS // width)
    for start in range(0, height, rows):
        yield start, min(start + rows, height)


def _in_bands(values: npt.NDArray[Any], convert: Callable[[npt.NDArray[Any]], npt.NDArray[Any]]) -> Pixels:
    """Apply `convert` to an array (height, width) band by band; return bytes."""
    levels = np.empty(values.shape, np.uint8)
    for start, end in _bands(values.shape[1], values.shape[0]):
        levels[start:end] = convert(values[start:end])
    return levels


def _highest_bits(image: Image.Image) -> Pixels:
    """Return the highest 8 bits of integers with the depth stated in the file (12, 15 for signed, 16)."""
    bits = 16
    if tags := getattr(image, "tag_v2", None):
        bits = min(16, tags.get(258, (16,))[0])
        bits -= tags.get(339, (1,))[0] == 2 and bits == 16 and tags.get(258, (16,))[0] == 16
    levels = _in_bands(
        np.asarray(image), lambda values: np.clip(values.astype(np.int32), 0, (1 << bits) - 1) >> (bits - 8)
    )
    return 255 - levels if tags and tags.get(262) == 0 else levels  # 0: white is zero


def _float_to_bytes(values: npt.NDArray[np.float32]) -> Pixels:
    with np.errstate(invalid="ignore"):  # NumPy warns about some kinds of NaN
        # Comparisons with NaN are false, and fmin and fmax ignore it.
        outside = np.fmin.reduce(values, axis=None) < 0 or np.fmax.reduce(values, axis=None) > 1
        factor = 1.0 if outside else 255.0
        return _in_bands(values, lambda band: np.rint(np.clip(np.nan_to_num(band, nan=0.0) * factor, 0, 255)))
