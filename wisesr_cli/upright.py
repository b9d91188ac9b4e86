"""Turns images as their EXIF orientation says."""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from wisesr_cli.resizing import Box, Pixels


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8."""
    try:
        # PNG's own `getexif` would decode the image to look for EXIF behind the pixels.
        orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is no reason to refuse the image
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def turn(pixels: Pixels, orientation: int) -> Pixels:
    """Return pixels (height, width, 3) as they are seen: another view of the same ones."""
    return _TURNS[orientation](pixels) if orientation in _TURNS else pixels


def turned_box(box: Box, upright: Pixels, orientation: int) -> Box:
    """Return the stored box (0, 0, right, lower) where it comes to lie in the upright pixels."""
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
