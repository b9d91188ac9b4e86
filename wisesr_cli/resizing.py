"""Brings an image to a size: distorted, cut or filled up. To add a way, write a function and a row in `RESIZERS`.

A way gets the upright image, the size (width, height) and the part of the image that holds the picture.
"""

from __future__ import annotations

from collections.abc import Callable

from PIL import Image

from wisesr_cli.color import BACKGROUND

Box = tuple[float, float, float, float]  # left, upper, right, lower


def _squash(image: Image.Image, size: tuple[int, int], content: Box) -> Image.Image:
    if image.size == size and content == (0, 0, *size):
        return image
    return image.resize(size, Image.Resampling.BILINEAR, box=content)


def _crop(image: Image.Image, size: tuple[int, int], content: Box) -> Image.Image:
    left, upper, right, lower = content
    width = min(right - left, (lower - upper) * size[0] / size[1])
    height = min(lower - upper, (right - left) * size[1] / size[0])
    left += (right - left - width) / 2
    upper += (lower - upper - height) / 2
    # Rounding must not reach beyond the image.
    box = (left, upper, min(left + width, image.width), min(upper + height, image.height))
    return _squash(image, size, box)


def _pad(image: Image.Image, size: tuple[int, int], content: Box) -> Image.Image:
    width, height = content[2] - content[0], content[3] - content[1]
    scale = min(size[0] / width, size[1] / height)
    inner = max(1, min(size[0], round(width * scale))), max(1, min(size[1], round(height * scale)))
    canvas = Image.new("RGB", size, BACKGROUND)
    canvas.paste(_squash(image, inner, content), (round((size[0] - inner[0]) / 2), round((size[1] - inner[1]) / 2)))
    return canvas


RESIZERS: dict[str, Callable[[Image.Image, tuple[int, int], Box], Image.Image]] = {
    "squash": _squash,
    "crop": _crop,
    "pad": _pad,
}
