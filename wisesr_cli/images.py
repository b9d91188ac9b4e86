"""The only module that decodes images: the same pixels for training, evaluation, prediction and explanation.

Whatever comes in leaves as upright RGB, uint8, the first frame of it. EXIF orientation is applied, colour profiles are
not; the rules for transparency, more than 8 bits and other colour spaces are in `color.py`, those for another shape in
`resizing.py`.

A file that cannot be decoded to its end is an `ImageError`; nothing is ever filled in. Only the formats in `SUPPORTED`
are tried, none of which starts another program. To add one, add its row there and its first bytes to `signatures.py`.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import IO, Literal

import numpy as np
import numpy.typing as npt

# Loading these registers their decoders; left to Pillow, the first TIFF or WebP would load every decoder there is.
from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from wisesr_cli import signatures
from wisesr_cli.color import BACKGROUND, is_deep, to_rgb
from wisesr_cli.errors import ImageError
from wisesr_cli.pillow_setup import prepare_pillow
from wisesr_cli.refusals import refuse_before_loading, refuse_before_opening
from wisesr_cli.resizing import RESIZERS, Box

__all__ = [
    "BACKGROUND",
    "DECODER_VERSION",
    "PIXEL_LIMIT",
    "RESIZERS",
    "SUFFIXES",
    "SUPPORTED",
    "ImageHeader",
    "Pixels",
    "Resize",
    "decode_image",
    "decode_with_header",
    "open_regular",
    "read_header",
    "size_reason",
]

Pixels = npt.NDArray[np.uint8]
Resize = Literal["squash", "crop", "pad"]
Source = str | os.PathLike[str] | bytes | IO[bytes]

PIXEL_LIMIT = 100_000_000  # a 100-megapixel camera; one image then takes 0.4 to 1.6 GB while it is decoded
SIDE_LIMIT = 1_000_000  # Pillow takes memory and time for every line, however short
LARGE = 25_000_000  # pixels from which on images are decoded one at a time: threads must not multiply their memory
FILE_LIMIT = 1 << 30  # bytes; WebP is read as a whole, and the markers of a JPEG are looked for in all of it
DECODER_VERSION = 1  # to be raised when the same file would give other pixels: caches depend on it


@dataclass(frozen=True)
class ImageHeader:
    """What a file says about its image before it is decoded."""

    format: str
    width: int  # as it is seen, after EXIF orientation
    height: int
    mode: str  # Pillow's: RGB, L, P, CMYK, I;16, ...
    animated: bool
    orientation: int  # EXIF, 1 to 8
    alpha: bool
    bits: int  # per channel: 8 or 16 (16 stands for more, too)


def read_header(source: Source, *, pixel_limit: int = PIXEL_LIMIT) -> ImageHeader:
    """Return what a file says about its image, without decoding it; raises `ImageError` with the bare reason."""
    with _opened_image(source, pixel_limit) as (_, image):
        return _header(image)


def decode_image(
    source: Source,
    *,
    image_size: tuple[int, int] | None,
    resize: Resize = "squash",
    pixel_limit: int = PIXEL_LIMIT,
) -> Pixels:
    """Return an image as uint8 (height, width, 3), upright RGB.

    `image_size` is (height, width); None keeps the image's own. `resize` says what happens to another aspect ratio:
    `squash` distorts, `crop` cuts the longer side's ends off, `pad` adds `BACKGROUND` on both ends of the shorter side.
    Raises `ImageError` with the bare reason.
    """
    with _opened_image(source, pixel_limit) as (file, image):
        return _decode(image, file, image_size, resize)


def decode_with_header(
    source: Source, *, image_size: tuple[int, int], resize: Resize, pixel_limit: int
) -> tuple[Pixels, ImageHeader]:
    """Return what `decode_image` and `read_header` do, the file opened once."""
    with _opened_image(source, pixel_limit) as (file, image):
        header = _header(image)
        return _decode(image, file, image_size, resize), header


def size_reason(width: int, height: int, pixel_limit: int) -> str:
    """Return why an image of this size is refused, empty where it is not."""
    if width * height > pixel_limit:
        return f"over the pixel limit of {pixel_limit:,} pixels ({width}x{height}); {_RAISED_BY}"
    return f"a side of more than {SIDE_LIMIT:,} pixels ({width}x{height})" if max(width, height) > SIDE_LIMIT else ""


@contextmanager
def open_regular(path: str | os.PathLike[str]) -> Iterator[io.BufferedReader]:
    """Open a regular file for reading; raises `ImageError` for anything else, without waiting on pipes or devices."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(_OPEN_ERRORS.get(error.errno or 0, error.strerror or "cannot be opened")) from error
    except ValueError as error:  # a name that no file can have
        raise ImageError("no such file") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ImageError("not a regular file")
    with os.fdopen(descriptor, "rb") as file:
        yield file


@contextmanager
def _opened_image(source: Source, pixel_limit: int) -> Iterator[tuple[IO[bytes], ImageFile.ImageFile]]:
    with _opened(source) as file, _translated(file):
        format_name, early_size = _recognised(file)
        _check_size(early_size, pixel_limit)
        with _in_turn(early_size):
            image = _open_image(file, format_name, pixel_limit)
            with _in_turn(image.size):
                yield file, image


@contextmanager
def _opened(source: Source) -> Iterator[IO[bytes]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
    elif isinstance(source, str | os.PathLike):
        with open_regular(source) as file:
            yield file
    else:
        yield source if source.seekable() else io.BytesIO(source.read())


@contextmanager
def _translated(file: IO[bytes]) -> Iterator[None]:
    """Turn whatever a decoder raises into an `ImageError` with a short reason."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except Exception as error:
        raise ImageError(_reason(error, file)) from error


def _reason(error: Exception, file: IO[bytes]) -> str:
    try:
        file.seek(0)
        name = signatures.format_of(file.read(signatures.PREFIX_BYTES)) or "image"
        cut = "truncated" in str(error).lower() or signatures.is_cut_short(name, file)
    except (OSError, ValueError, KeyError):
        return "cannot be read"
    return f"{'truncated' if cut else 'damaged'} {_SHOWN_NAMES.get(name, name)}"


def _recognised(file: IO[bytes]) -> tuple[str, tuple[int, int]]:
    """Return Pillow's name of a file's format, and the size where the first bytes say it."""
    file.seek(0)
    prefix = file.read(signatures.PREFIX_BYTES)
    if not prefix:
        raise ImageError("empty file")
    format_name = signatures.format_of(prefix)
    if format_name not in SUPPORTED:
        raise ImageError("not a supported format" if signatures.is_other_image(prefix) else "not an image")
    return format_name, signatures.early_size(format_name, prefix)


def _open_image(file: IO[bytes], format_name: str, pixel_limit: int) -> ImageFile.ImageFile:
    prepare_pillow(pixel_limit)
    if file.seek(0, io.SEEK_END) > FILE_LIMIT:
        raise ImageError("over the file limit of 1 GiB")
    refuse_before_opening(format_name, file)
    try:
        image = Image.open(file, formats=[format_name])
    except Image.DecompressionBombError as error:
        raise ImageError(f"over the pixel limit of {pixel_limit:,} pixels; {_RAISED_BY}") from error
    _check_size(image.size, pixel_limit)
    return image


def _check_size(size: tuple[int, int], pixel_limit: int) -> None:
    if reason := size_reason(*size, pixel_limit):
        raise ImageError(reason)


@contextmanager
def _in_turn(size: tuple[int, int]) -> Iterator[None]:
    """Hold all other large images back while one is decoded."""
    with _ONE_LARGE_IMAGE if size[0] * size[1] >= LARGE else nullcontext():
        yield


def _header(image: ImageFile.ImageFile) -> ImageHeader:
    orientation = _orientation(image)
    width, height = image.size
    if orientation > 4 and image.format != "TIFF":  # Pillow turns TIFF by itself
        width, height = height, width
    return ImageHeader(
        format="JPEG" if image.format == "MPO" else image.format or "",
        width=width,
        height=height,
        mode=image.mode,
        animated=_is_animated(image),
        orientation=orientation,
        alpha=image.has_transparency_data,
        bits=16 if is_deep(image) else 8,
    )


def _is_animated(image: ImageFile.ImageFile) -> bool:
    if image.format == "MPO":  # its further frames are the same view for another eye, or a preview
        return False
    try:
        return bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first frame of a GIF is damaged, and none of our business
        return False


def _decode(image: ImageFile.ImageFile, file: IO[bytes], image_size: tuple[int, int] | None, resize: Resize) -> Pixels:
    fit = RESIZERS[resize]
    content = _load(image, file, image_size, resize)
    upright = _upright(image, _orientation(image))
    rgb = to_rgb(upright)
    if image_size is not None:
        rgb = fit(rgb, (image_size[1], image_size[0]), _turned(content, image, upright))
    return np.array(rgb, dtype=np.uint8)


def _load(image: ImageFile.ImageFile, file: IO[bytes], image_size: tuple[int, int] | None, resize: Resize) -> Box:
    """Decode the first frame; return the part of it that holds the picture, as it is stored."""
    refuse_before_loading(image, file)
    content: Box = (0, 0, *image.size)
    if image_size is not None and image.format in ("JPEG", "MPO"):
        drafted = image.draft(image.mode, _draft_size(image, image_size, resize))
        content = drafted[1] if drafted else content
    image.load()
    if image.format == "PNG" and signatures.png_ends_early(file, file.seek(0, io.SEEK_END)):
        raise ImageError("truncated PNG")
    return content


def _draft_size(image: Image.Image, image_size: tuple[int, int], resize: Resize) -> tuple[int, int]:
    """Return the size (width, height), as stored, that a JPEG must keep: twice what is needed, so nothing is lost."""
    height, width = image_size
    if _orientation(image) > 4:
        width, height = height, width
    across, down = width / image.width, height / image.height
    if resize != "squash":
        across = down = max(across, down) if resize == "crop" else min(across, down)
    return max(1, round(2 * across * image.width)), max(1, round(2 * down * image.height))


def _orientation(image: Image.Image) -> int:
    try:
        # PNG's own `getexif` would decode the image to look for EXIF behind the pixels.
        orientation = Image.Image.getexif(image).get(_ORIENTATION_TAG, 1)
    except Exception:  # damaged EXIF is no reason to refuse the image
        return 1
    return int(orientation) if orientation in range(1, 9) else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    transpose = _TRANSPOSES.get(orientation)
    return image if transpose is None else image.transpose(transpose)


def _turned(box: Box, image: Image.Image, upright: Image.Image) -> Box:
    """Return the stored box (0, 0, right, lower) where it comes to lie in the upright image."""
    if upright is image or (box[2], box[3]) == image.size:
        return box if upright is image else (0, 0, *upright.size)
    orientation = _orientation(image)
    width, height = (box[3], box[2]) if orientation > 4 else (box[2], box[3])
    left = upright.width - width if orientation in (2, 3, 6, 7) else 0
    upper = upright.height - height if orientation in (3, 4, 7, 8) else 0
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

_RAISED_BY = "data.pixel_limit or --pixel-limit raises it"

_ONE_LARGE_IMAGE = threading.RLock()

_OPEN_ERRORS = {
    errno.ENOENT: "no such file",
    errno.ENOTDIR: "no such file",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "a symbolic link that leads to itself",
    errno.ENAMETOOLONG: "file name too long",
    errno.ENXIO: "not a regular file",
    errno.ENODEV: "not a regular file",
}

_SHOWN_NAMES = {"WEBP": "WebP"}

# Pillow's name of a format, and the suffixes by which its files are found in folders.
SUPPORTED: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png",),
    "GIF": (".gif",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "WEBP": (".webp",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
}

SUFFIXES: dict[str, str] = {suffix: name for name, suffixes in SUPPORTED.items() for suffix in suffixes}
