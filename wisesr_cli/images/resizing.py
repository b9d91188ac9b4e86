"""Resizes pixels with Pillow's bilinear filter, using cykooz-resizer, or Pillow on platforms without its wheel.

Their results differ by at most 1 of 255; cykooz-resizer is faster. Each function takes RGB or one-channel pixels
(height, width, channels), the target size (height, width) and the box that contains the image.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from PIL import Image

from wisesr_cli.images.color import Pixels
from wisesr_cli.images.preparation import RGB

try:
    import cykooz_resizer
except ImportError:  # Linux on ARM
    cykooz_resizer = None

Box = tuple[float, float, float, float]  # left, upper, right, lower


def resized_by_cykooz(pixels: Pixels, size: tuple[int, int], content: Box) -> Pixels:
    """Return the pixels in `content`, resized by cykooz-resizer."""
    height, width, channels = pixels.shape
    left, upper, right, lower = content
    kind = cykooz_resizer.PixelType.U8x3 if channels == RGB else cykooz_resizer.PixelType.U8
    resized = cykooz_resizer.ImageData(size[1], size[0], kind)
    _resizer().resize(
        cykooz_resizer.ImageData(width, height, kind, pixels.tobytes()),
        resized,
        cykooz_resizer.ResizeOptions(
            cykooz_resizer.ResizeAlg.convolution(cykooz_resizer.FilterType.bilinear),
            crop_box=cykooz_resizer.CropBox(left, upper, right - left, lower - upper),
        ),
    )
    return np.frombuffer(bytearray(resized.get_buffer()), np.uint8).reshape(*size, channels)


def resized_by_pillow(pixels: Pixels, size: tuple[int, int], content: Box) -> Pixels:
    """Return the pixels in `content`, resized by Pillow."""
    channels = pixels.shape[2]
    image = Image.fromarray(np.ascontiguousarray(pixels if channels == RGB else pixels[..., 0]))
    resized = image.resize(size[::-1], Image.Resampling.BILINEAR, box=content)
    return np.array(resized, np.uint8).reshape(*size, channels)


def _resizer() -> Any:
    """Return this thread's resizer."""
    if not hasattr(_OF_THREAD, "resizer"):
        _OF_THREAD.resizer = cykooz_resizer.Resizer()
    return _OF_THREAD.resizer


_OF_THREAD = threading.local()

resized = resized_by_pillow if cykooz_resizer is None else resized_by_cykooz


def resizer_name() -> str:
    """Return the name of the package that does the resizing."""
    return "cykooz-resizer" if resized is resized_by_cykooz else "Pillow"
