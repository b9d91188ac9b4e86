"""Converts images with an ICC profile, as phones and cameras embed, to sRGB with LittleCMS.

Supports RGB, grey and CMYK profiles; ignores damaged ones, and those whose colour space is not the image's.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms

Pixels = npt.NDArray[np.uint8]

PROFILE_LIMIT = 1 << 22  # bytes; profiles of printing presses reach half of this
NOTICED = 2  # of 255; an RGB or grey profile that changes no colour by more is ignored
_SPACES = {"RGB": "RGB ", "L": "GRAY", "CMYK": "CMYK"}


def to_srgb(pixels: Pixels, profile: bytes | None, *, is_grey: bool) -> Pixels:
    """Return RGB pixels (height, width, 3) converted to sRGB; `is_grey`: the image and its profile are grey."""
    conversion = _conversion(profile, "L" if is_grey else "RGB") if profile else None
    if conversion is None:
        return pixels
    image = Image.fromarray(np.ascontiguousarray(pixels[..., 0]) if is_grey else pixels)
    return np.array(ImageCms.applyTransform(image, conversion), np.uint8)


def cmyk_to_rgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Return a CMYK image converted to RGB by its profile, or unchanged if the profile cannot be used."""
    conversion = _conversion(profile, "CMYK") if profile else None
    if conversion is None:
        return image
    return ImageCms.applyTransform(image, conversion) or image


@lru_cache(maxsize=16)
def _conversion(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return the conversion from a profile to sRGB; None if it cannot be used or makes no visible difference."""
    if len(profile) > PROFILE_LIMIT:
        return None
    try:
        found = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if found.profile.xcolor_space != _SPACES[mode]:
            return None
        conversion = ImageCms.buildTransform(
            found,
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION | ImageCms.Flags.NOCACHE,
        )
        return conversion if mode == "CMYK" or _is_noticed(conversion, mode) else None
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None


def _is_noticed(conversion: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Return whether a conversion changes any of a grid of colours by more than `NOTICED`."""
    side = np.arange(256, dtype=np.uint8)[:: 17 if mode == "RGB" else 1]
    colors = np.stack(np.meshgrid(side, side, side), axis=-1).reshape(len(side), -1, 3) if mode == "RGB" else side[None]
    converted = np.array(ImageCms.applyTransform(Image.fromarray(colors), conversion), np.int16)
    return bool(np.abs(converted - (colors if mode == "RGB" else colors[..., None])).max() > NOTICED)
