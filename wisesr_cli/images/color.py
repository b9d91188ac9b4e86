"""Converts every kind of pixel to 8-bit RGB.

- Transparency (an alpha channel, a transparent palette entry, a transparent colour) is composited over `BACKGROUND`.
- Values of more than 8 bits are reduced by `depth`.
- Pillow converts CMYK (inverted by Adobe or not), YCbCr, Lab, palette, grey and 1-bit images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile

from wisesr_cli.images import depth
from wisesr_cli.images.preparation import RGB, Ranges
from wisesr_cli.text import joined

Pixels = npt.NDArray[np.uint8]

BACKGROUND = (255, 255, 255)  # behind transparent pixels, and as padding


def to_rgb(image: Image.Image, value_range: Ranges | None, again: ImageFile.ImageFile | None = None) -> Image.Image:
    """Return a loaded image of any Pillow mode as RGB.

    `value_range` applies to values of more than 8 bits; for colour images of that kind, `again` is the file, reopened.
    """
    transparent = image.info.get("transparency")
    if depth.is_deep_grey(image):
        image = _from_grey(image, value_range, transparent)
    elif again is not None and value_range is not None:
        image = _from_color(image, value_range, again, transparent)
    elif image.mode == "La":
        image = image.convert("LA")
    elif image.mode == "RGB" and isinstance(transparent, tuple) and max(transparent) > 255:
        image.info["transparency"] = tuple(value >> 8 for value in transparent)
    if image.has_transparency_data:
        return _over_background(image)
    return image.convert("RGB") if image.mode != "RGB" else image


def shown(pixels: Pixels, bands: Sequence[int] = ()) -> Pixels:
    """Return pixels with any number of channels as RGB for display: (height, width, 3).

    `bands`, numbered from 1, are three bands to show as red, green and blue, or one to show as grey. The default is the
    first three channels, or the first one as grey if there are fewer than three.
    """
    count = pixels.shape[-1]
    chosen = tuple(bands) or _default(count)
    if count == RGB and chosen == (1, 2, RGB):
        return pixels
    return np.ascontiguousarray(pixels[..., [band - 1 for band in chosen * (RGB // len(chosen))]])


def bands_text(bands: Sequence[int], channels: int) -> str:
    """Describe the bands that `shown` displays: `bands 3, 2, 1 as red, green, blue`, or `band 4 as grey`."""
    chosen = tuple(bands) or _default(channels)
    return f"band {chosen[0]} as grey" if len(chosen) == 1 else f"bands {joined(chosen)} as red, green, blue"


def checked_bands(bands: str | Sequence[int], channels: int) -> tuple[int, ...]:
    """Return the bands to show, given as numbers or as `3,2,1`; raises `ValueError` unless there are one or three."""
    words = [word.strip() for word in bands.split(",")] if isinstance(bands, str) else [str(band) for band in bands]
    if len(words) not in (1, RGB) or not all(word.isascii() and word.isdigit() for word in words):
        raise ValueError("give one band, shown as grey, or three, as red, green and blue: 3,2,1")
    chosen = tuple(map(int, words))
    if not all(1 <= band <= channels for band in chosen):
        raise ValueError(f"the model sees bands 1 to {channels}")
    return chosen


def _default(channels: int) -> tuple[int, ...]:
    return (1, 2, 3) if channels >= RGB else (1,)


def _from_grey(image: Image.Image, value_range: Ranges | None, transparent: object) -> Image.Image:
    values = depth.grey_values(image)
    levels = values.levels(value_range)
    if isinstance(transparent, int):
        levels = np.stack([levels, _opaque_but(values.stored != transparent)], axis=-1)
    return Image.fromarray(levels)


def _from_color(
    image: Image.Image, value_range: Ranges, again: ImageFile.ImageFile, transparent: object
) -> Image.Image:
    values = depth.color_values(image, again)
    levels = values.levels(value_range)
    if "A" in image.mode:
        levels = np.dstack([levels, np.asarray(image)[..., 3]])
    elif isinstance(transparent, tuple):
        levels = np.dstack([levels, _opaque_but((values.stored != np.array(transparent)).any(axis=-1))])
    return Image.fromarray(levels)


def _opaque_but(shown: npt.NDArray[np.bool_]) -> Pixels:
    return np.where(shown, 255, 0).astype(np.uint8)


def _over_background(image: Image.Image) -> Image.Image:
    """Convert a transparent image to RGB in strips: converting it whole would take three copies of it."""
    width, height = image.size
    rgb = Image.new("RGB", image.size)
    for start, end in depth.bands(width, height):
        band = image.crop((0, start, width, end)).convert("RGBA")
        opaque = Image.new("RGBA", band.size, (*BACKGROUND, 255))
        rgb.paste(Image.alpha_composite(opaque, band).convert("RGB"), (0, start))
    return rgb
