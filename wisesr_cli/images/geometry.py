"""Resizes images by squashing, cropping or padding. To add a mode, write a function and add it to `RESIZERS`.

Each function takes upright pixels (height, width, channels), the target size (height, width) and the box that contains
the image.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image

from wisesr_cli.images import resizing
from wisesr_cli.images.color import BACKGROUND, Pixels
from wisesr_cli.images.preparation import RGB, Resize
from wisesr_cli.images.resizing import Box


def _squash(pixels: Pixels, size: tuple[int, int], content: Box) -> Pixels:
    height, width = pixels.shape[:2]
    if (height, width) == size and content == (0, 0, width, height):
        return np.ascontiguousarray(pixels)
    if pixels.shape[2] != RGB:  # one band at a time: two or four would be read as colours with alpha
        bands = [resizing.resized(pixels[..., [band]], size, content) for band in range(pixels.shape[2])]
        return np.concatenate(bands, axis=-1)
    return resizing.resized(pixels, size, content)


def _crop(pixels: Pixels, size: tuple[int, int], content: Box) -> Pixels:
    left, upper, right, lower = content
    width = min(right - left, (lower - upper) * size[1] / size[0])
    height = min(lower - upper, (right - left) * size[0] / size[1])
    left += (right - left - width) / 2
    upper += (lower - upper - height) / 2
    # Rounding must not move the box outside the image.
    box = (left, upper, min(left + width, pixels.shape[1]), min(upper + height, pixels.shape[0]))
    return _squash(pixels, size, box)


def _pad(pixels: Pixels, size: tuple[int, int], content: Box) -> Pixels:
    width, height = content[2] - content[0], content[3] - content[1]
    scale = min(size[0] / height, size[1] / width)
    inner = max(1, min(size[0], round(height * scale))), max(1, min(size[1], round(width * scale)))
    upper, left = (round((outside - inside) / 2) for outside, inside in zip(size, inner, strict=True))
    channels = pixels.shape[2]
    canvas: Pixels = np.full((*size, channels), BACKGROUND if channels == RGB else BACKGROUND[0], np.uint8)
    canvas[upper : upper + inner[0], left : left + inner[1]] = _squash(pixels, inner, content)
    return canvas


RESIZERS: dict[str, Callable[[Pixels, tuple[int, int], Box], Pixels]] = {"squash": _squash, "crop": _crop, "pad": _pad}


def draft_size(
    stored: tuple[int, int], orientation: int, image_size: tuple[int, int], resize: Resize
) -> tuple[int, int]:
    """Return the smallest size (width, height), as stored, to decode to before resizing: twice the final size."""
    height, width = image_size
    if orientation > 4:
        width, height = height, width
    across, down = width / stored[0], height / stored[1]
    if resize != "squash":
        across = down = max(across, down) if resize == "crop" else min(across, down)
    return max(1, round(2 * across * stored[0])), max(1, round(2 * down * stored[1]))


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image: 1 to 8."""
    try:
        # The `getexif` of PNG images would decode the pixels to look for EXIF after them.
        orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is ignored
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Return an upright view of pixels (height, width, channels)."""
    return _TURNS[orientation](pixels) if orientation in _TURNS else pixels


def turned_box(box: Box, upright: Pixels, orientation: int) -> Box:
    """Return where the box (0, 0, right, lower) of the stored image lies in the upright pixels."""
    whole_height, whole_width = upright.shape[:2]
    width, height = (box[3], box[2]) if orientation > 4 else (box[2], box[3])
    left = whole_width - width if orientation in (2, 3, 6, 7) else 0
    upper = whole_height - height if orientation in (3, 4, 7, 8) else 0
    return left, upper, left + width, upper + height


_ORIENTATION_TAG = 0x0112

_TURNS: dict[int, Callable[[Pixels], Pixels]] = {
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels[::-1].swapaxes(0, 1),
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels[:, ::-1].swapaxes(0, 1),
}
