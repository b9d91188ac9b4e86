"""Configures Pillow, and rejects files that would take it minutes or all memory to decode."""

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
from wisesr_cli.images.unsupported import planes_of_a_tiff

SEGMENT_LIMIT = 10_000  # in a JPEG: a depth map takes hundreds, and each costs Pillow memory and time
SCAN_LIMIT = 100  # in a progressive JPEG: ten are usual; a scan of 14 bytes takes as long as a full one
SCAN_PIXELS = 2_500_000_000  # total of all scans of a very large JPEG: two to three seconds
COMMENT_LIMIT = 1000  # in a plain-text PPM: the decoder copies 1 MB for each


def refuse_before_opening(format_name: str, file: IO[bytes]) -> None:
    """Raise `ImageError` for a file whose header would take Pillow minutes or all memory to read."""
    if format_name == "JPEG":
        for number, marker in enumerate(formats.jpeg_markers(file)):
            if marker == formats.JPEG_SCAN:
                return
            _check_segments(number)


def refuse_before_loading(image: ImageFile.ImageFile, file: IO[bytes]) -> None:
    """Raise `ImageError` for a file that would take minutes to decode, or whose missing data would be filled in."""
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
    """Raise `ImageError` if segment `number` of a JPEG, counted from 0, is beyond the limit."""
    if number >= SEGMENT_LIMIT:
        raise ImageError(f"damaged JPEG: more than {SEGMENT_LIMIT:,} segments")


def _check_tiff_strips(image: TiffImagePlugin.TiffImageFile, file: IO[bytes]) -> None:
    """Reject missing or truncated strips or tiles, which decoders may fill in, and planes that Pillow misreads."""
    if (kind := planes_of_a_tiff(file)) is not None:
        raise ImageError(f"a kind of TIFF that is not supported ({kind})")
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


def is_animated(image: ImageFile.ImageFile) -> bool:
    """Return whether an opened image has more frames or pages; only the first is read."""
    if image.format == "MPO":  # its other frames are a stereo view or a preview
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # damage after the first frame of a GIF is ignored
        return False


def prepare_pillow(pixel_limit: int) -> None:
    """Silence Pillow's warnings (EXIF, pixel count, palettes), and raise its pixel limit to allow `pixel_limit`.

    `warnings.catch_warnings` is not thread-safe; instead, a filter is added, and added again if it was removed.
    """
    if _WARNINGS not in warnings.filters:
        warnings.filterwarnings("ignore", module=r"PIL\b")
    if Image.MAX_IMAGE_PIXELS is not None and pixel_limit > 2 * Image.MAX_IMAGE_PIXELS:  # it allows twice that
        Image.MAX_IMAGE_PIXELS = pixel_limit
    silence_logs()


@cache
def silence_logs() -> bool:
    """Stop Pillow and libtiff from writing to standard error; return whether that worked for both.

    Finds libtiff through Pillow's extension module; if it is linked statically, its symbols may be hidden.
    """
    # Python writes the log of a library without a handler to standard error.
    logging.getLogger("PIL").addHandler(logging.NullHandler())
    try:
        pillow = ctypes.CDLL(_imaging.__file__)
        pillow.TIFFSetErrorHandler(None)
        pillow.TIFFSetWarningHandler(None)
    except (AttributeError, OSError):
        return False
    return True


_WARNINGS = ("ignore", None, Warning, re.compile(r"PIL\b"), 0)
