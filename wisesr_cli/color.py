"""The rules by which every kind of pixel becomes 8-bit RGB.

- Transparency (an alpha channel, a transparent palette entry, a transparent colour) is laid over `BACKGROUND`.
- Integers of more than 8 bits keep their highest 8: 0..65535 becomes 0..255. Integers stored in 32 bits are taken as
  16-bit ones. Negative values are black.
- Floating-point TIFF: 0..1 when no value lies outside, 0..255 otherwise; values outside are clipped, NaN is black.
- CMYK (inverted by Adobe or not), YCbCr, Lab, palettes, grey and 1-bit images become RGB as Pillow converts them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image

Pixels = npt.NDArray[np.uint8]

BACKGROUND = (255, 255, 255)  # what shows through transparent pixels, and beside a padded image


def is_deep(image: Image.Image) -> bool:
    """Return whether an image that is opened, but not loaded, has more than 8 bits per channel."""
    return image.mode[0] in "IF" or any(";16" in str(tile) for tile in getattr(image, "tile", ()))


def to_rgb(image: Image.Image) -> Image.Image:
    """Return a loaded image of any of Pillow's modes as RGB."""
    transparent = image.info.get("transparency")
    if image.mode[0] == "I":
        alpha = None if transparent is None else np.asarray(image) != transparent
        image = _with_alpha(_highest_bits(image), alpha)
    elif image.mode == "F":
        image = Image.fromarray(_float_to_bytes(np.asarray(image)))
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.has_transparency_data:
        opaque = Image.new("RGBA", image.size, (*BACKGROUND, 255))
        return Image.alpha_composite(opaque, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image


def _highest_bits(image: Image.Image) -> Pixels:
    """Return the highest 8 bits of integers whose file says how many they have (12, 15 for signed, 16)."""
    bits = 16
    if tags := getattr(image, "tag_v2", None):
        bits = min(16, tags.get(258, (16,))[0])
        bits -= tags.get(339, (1,))[0] == 2 and bits == 16 and tags.get(258, (16,))[0] == 16
    values = np.asarray(image).astype(np.int32)
    levels = np.clip(values, 0, (1 << bits) - 1) >> (bits - 8)
    if tags and tags.get(262) == 0:  # white is zero
        levels = 255 - levels
    return levels.astype(np.uint8)


def _float_to_bytes(values: npt.NDArray[np.float32]) -> Pixels:
    values = np.nan_to_num(values, nan=0.0, posinf=np.inf, neginf=-np.inf)
    factor = 255.0 if values.min() >= 0 and values.max() <= 1 else 1.0
    levels: Pixels = np.rint(np.clip(values * factor, 0, 255)).astype(np.uint8)
    return levels


def _with_alpha(grey: Pixels, opaque: npt.NDArray[np.bool_] | None) -> Image.Image:
    if opaque is None:
        return Image.fromarray(grey)
    return Image.fromarray(np.stack([grey, np.where(opaque, 255, 0).astype(np.uint8)], axis=-1))
