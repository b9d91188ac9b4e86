"""How Pillow is set up, and what its decoders never get to see: files that would take minutes or all memory."""

from __future__ import annotations

import ctypes
import io
import logging
import re
import warnings
from functools import cache
from typing import IO

from PIL import Image, ImageFile, TiffImagePlugin, _imaging

from wisesr_cli.errors import ImageError
from wisesr_cli.images import formats

SEGMENT_LIMIT = 10_000  # of a JPEG: a depth map takes hundreds; Pillow takes memory and time for each, however empty
SCAN_LIMIT = 100  # passes over a progressive JPEG: ten are usual, and one of 14 bytes costs as much as a whole one
SCAN_PIXELS = 2_500_000_000  # what the scans of a very large JPEG may go over together: two to three seconds
COMMENT_LIMIT = 1000  # in a plain PPM, whose decoder copies a megabyte for each


def refuse_before_opening(format_name: str, file: IO[bytes]) -> None:
    """Raise `ImageError` for what Pillow would take minutes, or all memory, to read the header of."""
    if format_name == "JPEG":
        for number, marker in enumerate(formats.jpeg_markers(file)):
            if marker == formats.JPEG_SCAN:
                return
            _check_segments(number)


def refuse_before_loading(image: ImageFile.ImageFile, file: IO[bytes]) -> None:
    """Raise `ImageError` for what a decoder would take minutes for, or would fill in."""
    position = file.tell()
    if image.format in ("JPEG", "MPO"):
        _check_jpeg_scans(image, file)
    if image.format == "PPM" and formats.plain_comments(file) > COMMENT_LIMIT:
        raise ImageError(f"damaged PPM: more than {COMMENT_LIMIT:,} comments")
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff_strips(image, file)
    file.seek(position)


def _check_jpeg_scans(image: ImageFile.ImageFile, file: IO[bytes]) -> None:
    allowed = min(SCAN_LIMIT, max(SCAN_LIMIT // 4, SCAN_PIXELS // (image.width * image.height)))
    scans = 0
    for number, marker in enumerate(formats.jpeg_markers(file)):
        scans += marker == formats.JPEG_SCAN
        if scans > allowed:
            raise ImageError(f"damaged JPEG: more than {allowed} scans")
        _check_segments(number)


def _check_segments(number: int) -> None:
    """Refuse a JPEG for its segment `number`, from 0 on."""
    if number >= SEGMENT_LIMIT:
        raise ImageError(f"damaged JPEG: more than {SEGMENT_LIMIT:,} segments")


def _check_tiff_strips(image: TiffImagePlugin.TiffImageFile, file: IO[bytes]) -> None:
    """Find strips or tiles that are missing or cut: not every decoder in libtiff says so, and they would be filled."""
    tags = image.tag_v2
    offsets, counts = tags.get(273) or tags.get(324) or (), tags.get(279) or tags.get(325) or ()
    width, height = tags[256], tags[257]
    across, down = (tags.get(322, width), tags.get(323, height)) if 324 in tags else (width, tags.get(278, height))
    planes = tags.get(277, 1) if tags.get(284) == 2 else 1
    if len(offsets) < planes * -(-width // across) * -(-height // down):
        raise ImageError("damaged TIFF: parts of the picture are missing")
    size = file.seek(0, io.SEEK_END)
    if tags.get(259, 1) != 1 and any(offset + count > size for offset, count in zip(offsets, counts, strict=False)):
        raise ImageError("truncated TIFF")


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
