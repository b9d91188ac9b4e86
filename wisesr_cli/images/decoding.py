"""The only module that decodes images: the same pixels for training, evaluation, prediction and explanation.

Whatever comes in leaves as upright RGB, uint8, the first frame of it. EXIF orientation is applied, colour profiles are
not; the rules for transparency, more than 8 bits and other colour spaces are in `color.py`, those for another shape in
`geometry.py`.

A file that cannot be decoded to its end is an `ImageError`; nothing is ever filled in. Only the formats in `SUPPORTED`
are tried, none of which starts another program. To add one, add its row there and its first bytes to `formats.py`.
"""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import IO, Literal, NamedTuple

import numpy as np

# Loading these registers their decoders; left to Pillow, the first TIFF or WebP would load every decoder there is.
from PIL import Image, ImageFile, TiffImagePlugin, WebPImagePlugin  # noqa: F401

from wisesr_cli.errors import ImageError
from wisesr_cli.images import formats, ordinary
from wisesr_cli.images.color import Pixels, is_deep, to_rgb
from wisesr_cli.images.geometry import RESIZERS, Box, orientation_of, turn, turned_box
from wisesr_cli.images.opening import Source, open_regular, read_whole
from wisesr_cli.images.pillow import prepare_pillow, refuse_before_loading, refuse_before_opening

Resize = Literal["squash", "crop", "pad"]

PIXEL_LIMIT = 100_000_000  # a 100-megapixel camera; one image then takes 0.4 to 1.6 GB while it is decoded
SIDE_LIMIT = 1_000_000  # Pillow takes memory and time for every line, however short
LARGE = 25_000_000  # pixels from which on images are decoded one at a time: threads must not multiply their memory
FILE_LIMIT = 1 << 30  # bytes; WebP is read as a whole, and the markers of a JPEG are looked for in all of it
DECODER_VERSION = 2  # to be raised when the same file would give other pixels: caches depend on it


class ImageHeader(NamedTuple):
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
    source: Source, *, image_size: tuple[int, int] | None, resize: Resize = "squash", pixel_limit: int = PIXEL_LIMIT
) -> Pixels:
    """Return an image as uint8 (height, width, 3), upright RGB.

    `image_size` is (height, width); None keeps the image's own. `resize` says what happens to another aspect ratio:
    `squash` distorts, `crop` cuts the longer side's ends off, `pad` adds `BACKGROUND` on both ends of the shorter side.
    Raises `ImageError` with the bare reason.
    """
    content = read_whole(source)
    if content is not None:
        pixels = _decode_ordinary(content, _look_at(content, pixel_limit), image_size, resize)
        if pixels is not None:
            return pixels
    with _opened_image(source if content is None else content, pixel_limit) as (file, image):
        return _decode(image, file, image_size, resize)


def decode_with_header(
    source: Source, *, image_size: tuple[int, int], resize: Resize, pixel_limit: int
) -> tuple[Pixels, ImageHeader]:
    """Return what `decode_image` and `read_header` do, the file opened once."""
    content = read_whole(source)
    found = None if content is None else _look_at(content, pixel_limit)
    if content is not None and found is not None:
        pixels = _decode_ordinary(content, found, image_size, resize)
        if pixels is not None:
            return pixels, _ordinary_header(found)
    with _opened_image(source if content is None else content, pixel_limit) as (file, image):
        header = _header(image)
        return _decode(image, file, image_size, resize), header


def header_of_prefix(prefix: bytes, *, pixel_limit: int) -> ImageHeader | None:
    """Return the header of a file from its first bytes; None where only `read_header` can tell, or would refuse it."""
    found = _look_at(prefix, pixel_limit)
    return None if found is None else _ordinary_header(found)


def size_reason(width: int, height: int, pixel_limit: int) -> str:
    """Return why an image of this size is refused, empty where it is not."""
    if width * height > pixel_limit:
        return f"over the pixel limit of {pixel_limit:,} pixels ({width}x{height}); {_RAISED_BY}"
    return f"a side of more than {SIDE_LIMIT:,} pixels ({width}x{height})" if max(width, height) > SIDE_LIMIT else ""


def _look_at(prefix: bytes, pixel_limit: int) -> ordinary.Ordinary | None:
    """Return what is to be seen of an ordinary image that is within the limits."""
    prepare_pillow(pixel_limit)  # EXIF is read by Pillow
    found = ordinary.look_at(prefix)
    return None if found is None or size_reason(found.width, found.height, pixel_limit) else found


def _decode_ordinary(
    content: bytes, found: ordinary.Ordinary | None, image_size: tuple[int, int] | None, resize: Resize
) -> Pixels | None:
    """Return the pixels of an ordinary image, None for what Pillow's readers must judge."""
    if found is None or found.width * found.height >= LARGE:
        return None
    stored = found.width, found.height
    scale = 1
    if image_size is not None and found.format == "JPEG":
        width, height = _draft_size(stored, found.orientation, image_size, resize)
        fitting = min(stored[0] // width, stored[1] // height)
        scale = next((scale for scale in (8, 4, 2) if fitting >= scale), 1)
    pixels = ordinary.load(found, content, scale)
    if pixels is None:
        return None
    return _finish(pixels, found.orientation, (0, 0, stored[0] / scale, stored[1] / scale), image_size, resize)


def _ordinary_header(found: ordinary.Ordinary) -> ImageHeader:
    width, height = found.width, found.height
    if found.orientation > 4:
        width, height = height, width
    return ImageHeader(found.format, width, height, found.mode, False, found.orientation, alpha=False, bits=8)


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
        name = formats.format_of(file.read(formats.PREFIX_BYTES)) or "image"
        cut = "truncated" in str(error).lower() or formats.is_cut_short(name, file)
    except (OSError, ValueError, KeyError):
        return "cannot be read"
    return f"{'truncated' if cut else 'damaged'} {_SHOWN_NAMES.get(name, name)}"


def _recognised(file: IO[bytes]) -> tuple[str, tuple[int, int]]:
    """Return Pillow's name of a file's format, and the size where the first bytes say it."""
    file.seek(0)
    prefix = file.read(formats.PREFIX_BYTES)
    if not prefix:
        raise ImageError("empty file")
    format_name = formats.format_of(prefix)
    if format_name not in SUPPORTED:
        raise ImageError("not a supported format" if formats.is_other_image(prefix) else "not an image")
    return format_name, formats.early_size(format_name, prefix)


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
    orientation = orientation_of(image)
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
    content = _load(image, file, image_size, resize)
    orientation = orientation_of(image)
    rgb = to_rgb(image)
    if image_size is not None and rgb.width * rgb.height >= LARGE:
        # Resizing copies its image; of a large one, whole blocks of pixels are averaged first.
        width, height = _draft_size(image.size, orientation, image_size, resize)
        factor = max(1, min(rgb.width // width, rgb.height // height))
        rgb, content = rgb.reduce(factor), _divided(content, factor)
    return _finish(np.array(rgb, np.uint8), orientation, content, image_size, resize)


def _divided(box: Box, factor: int) -> Box:
    left, upper, right, lower = box
    return left / factor, upper / factor, right / factor, lower / factor


def _finish(
    pixels: Pixels, orientation: int, content: Box, image_size: tuple[int, int] | None, resize: Resize
) -> Pixels:
    """Return stored RGB pixels, whose part `content` holds the picture, upright and in the size that is wanted."""
    upright = turn(pixels, orientation)
    if image_size is None:
        return np.ascontiguousarray(upright)
    turned = content if upright is pixels else turned_box(content, upright, orientation)
    return RESIZERS[resize](upright, image_size, turned)


def _load(image: ImageFile.ImageFile, file: IO[bytes], image_size: tuple[int, int] | None, resize: Resize) -> Box:
    """Decode the first frame; return the part of it that holds the picture, as it is stored."""
    refuse_before_loading(image, file)
    content: Box = (0, 0, *image.size)
    if image_size is not None and image.format in ("JPEG", "MPO"):
        drafted = image.draft(image.mode, _draft_size(image.size, orientation_of(image), image_size, resize))
        content = drafted[1] if drafted else content
    image.load()
    if image.format == "PNG" and formats.png_ends_early(file, file.seek(0, io.SEEK_END)):
        raise ImageError("truncated PNG")
    return content


def _draft_size(
    stored: tuple[int, int], orientation: int, image_size: tuple[int, int], resize: Resize
) -> tuple[int, int]:
    """Return the size (width, height), as stored, that must be kept before resizing: twice what is needed."""
    height, width = image_size
    if orientation > 4:
        width, height = height, width
    across, down = width / stored[0], height / stored[1]
    if resize != "squash":
        across = down = max(across, down) if resize == "crop" else min(across, down)
    return max(1, round(2 * across * stored[0])), max(1, round(2 * down * stored[1]))


_RAISED_BY = "data.pixel_limit or --pixel-limit raises it"

_ONE_LARGE_IMAGE = threading.RLock()

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
