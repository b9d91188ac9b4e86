"""Keeps Pillow, and the library that it decodes TIFF with, from writing to the terminal and from a limit of its own."""

from __future__ import annotations

import ctypes
import logging
import re
import warnings
from functools import cache

from PIL import Image, _imaging


def prepare_pillow(pixel_limit: int) -> None:
    """Keep Pillow's warnings (odd EXIF, many pixels, palettes) off the terminal, and its own pixel limit above ours.

    `warnings.catch_warnings` is not safe while other threads decode: the rule is added once, and again when it is gone.
    """
    if _WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\b")
    if Image.MAX_IMAGE_PIXELS is not None and pixel_limit > 2 * Image.MAX_IMAGE_PIXELS:  # it refuses from twice that on
        Image.MAX_IMAGE_PIXELS = pixel_limit
    silence_logs()


@cache
def silence_logs() -> bool:
    """Let Pillow and libtiff raise what is wrong without writing it to standard error; return whether both obey.

    libtiff is found through Pillow's own module, wherever a system keeps it; built into that module, it may be hidden.
    """
    # Python itself writes a library's errors to standard error when nobody has taken charge of its log.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    try:
        pillow = ctypes.CDLL(_imaging.__file__)
        pillow.TIFFSetErrorHandler(None)
        pillow.TIFFSetWarningHandler(None)
    except (AttributeError, OSError):
        return False
    return True


_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)
