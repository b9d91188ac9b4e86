"""Turns images as their EXIF orientation says."""

from __future__ import annotations

from PIL import Image

from wisesr_cli.resizing import Box


def orientation_of(image: Image.Image) -> int:
    """Return the EXIF orientation of an opened image, 1 to 8."""
    try:
        # PNG's own `getexif` would decode the image to look for EXIF behind the pixels.
        orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is no reason to refuse the image
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def turn(image: Image.Image, orientation: int) -> Image.Image:
    """Return an image as it is seen."""
    transpose = _TRANSPOSES.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def turned_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    """Return the stored box (0, 0, right, lower) of an image where it comes to lie in the upright image."""
    whole_width, whole_height = (size[1], size[0]) if orientation > 4 else size
    width, height = (box[3], box[2]) if orientation > 4 else (box[2], box[3])
    left = whole_width - width if orientation in (2, 3, 6, 7) else 0
    upper = whole_height - height if orientation in (3, 4, 7, 8) else 0
    return left, upper, left + width, upper + height


_ORIENTATION_TAG = 0x0112

_TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
