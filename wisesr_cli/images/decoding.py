"""Decodes images: the same pixels for training, evaluation, prediction and explanation.

Nothing outside this folder decodes images. The result is always the first frame, upright, as uint8: RGB, or grey or
bands (`bands.py`) for a model with other channels. EXIF orientation is applied; colour profiles (`profiles.py`) are
applied if the model was trained with them. `color.py` handles transparency and other colour spaces, `depth.py` more
than 8 bits, and `geometry.py` resizing.

A file that cannot be decoded completely raises an `ImageError`; missing data is never filled in. Only the formats in
`supported.py` are tried, and none of them starts another program.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import IO, NamedTuple, TypeVar

import numpy as np
from PIL import Image, ImageFile

from wisesr_cli.errors import ImageError
from wisesr_cli.images import formats, ordinary
from wisesr_cli.images.bands import BYTES_OF_A_PIXEL, Banded, banded_picture, check_channels, check_picture, opened_tiff
from wisesr_cli.images.color import Pixels, to_rgb
from wisesr_cli.images.depth import DeepValues, color_values, grey_values, is_deep, is_deep_color, is_deep_grey
from wisesr_cli.images.failures import SpoiltError, translated
from wisesr_cli.images.geometry import RESIZERS, draft_size, orientation_of, turn, turned_box
from wisesr_cli.images.opening import Source, opened, read_whole
from wisesr_cli.images.pillow import is_animated, prepare_pillow, refuse_before_loading, refuse_before_opening
from wisesr_cli.images.preparation import RGB, Preparation, Resize
from wisesr_cli.images.profiles import cmyk_to_rgb, to_srgb
from wisesr_cli.images.resizing import Box
from wisesr_cli.images.supported import SHOWN_NAMES, SUPPORTED, reads_heic
from wisesr_cli.machine.installation import install_line

Result = TypeVar("Result")

AS_STORED = Preparation()
PIXEL_LIMIT = 100_000_000  # a 100-megapixel camera; decoding one such image takes 0.4 to 1.6 GB
SIDE_LIMIT = 1_000_000  # every row costs Pillow memory and time, however short
LARGE = 25_000_000  # pixels; images of at least this size are decoded one at a time, to limit memory
FILE_LIMIT = 1 << 30  # bytes; WebP files are read, and JPEG files searched for markers, to the end
DECODER_VERSION = 4  # increase when a change of decoding alters any pixel: caches depend on it


class ImageHeader(NamedTuple):
    """The properties of an image that are known before decoding."""

    format: str
    width: int  # after EXIF orientation
    height: int
    mode: str  # Pillow's: RGB, L, P, CMYK, I;16, ...
    animated: bool
    orientation: int  # EXIF, 1 to 8
    alpha: bool
    bits: int  # per channel: 8, or 16 for more than 8
    damage: str = ""  # in a JPEG that was decoded despite it


def read_header(source: Source, *, pixel_limit: int = PIXEL_LIMIT, preparation: Preparation = AS_STORED) -> ImageHeader:
    """Return the header of an image without decoding it.

    Raises `ImageError` with only the reason, for example that its channels are not those of `preparation`.
    """
    if preparation.has_bands:
        return _with_bands(source, pixel_limit, preparation, _header_of_bands)

    def header(image: ImageFile.ImageFile, file: IO[bytes]) -> ImageHeader:
        check_picture(image, preparation)
        return _header(image)

    return _with_image(source, pixel_limit, header)


def decode_image(
    source: Source,
    *,
    image_size: tuple[int, int] | None,
    preparation: Preparation = AS_STORED,
    pixel_limit: int = PIXEL_LIMIT,
) -> Pixels:
    """Return an image as uint8 (height, width, channels), upright; RGB unless `preparation` has other channels.

    `image_size` is (height, width); None keeps the original size. `preparation.resize` adapts the aspect ratio:
    `squash` distorts, `crop` cuts off both ends of the longer side, `pad` adds `BACKGROUND` at both ends of the shorter
    side.
    Raises `ImageError` with only the reason.
    """
    if preparation.has_bands:
        return _with_bands(source, pixel_limit, preparation, lambda banded: _levels(banded, image_size, preparation))
    content = read_whole(source)
    if content is not None:
        pixels = _decode_ordinary(content, _parse_ordinary(content, pixel_limit), image_size, preparation)
        if pixels is not None:
            return pixels
    return _with_image(
        source if content is None else content,
        pixel_limit,
        lambda image, file: _decode(image, file, image_size, preparation),
    )


def decode_with_header(
    source: Source, *, image_size: tuple[int, int], preparation: Preparation, pixel_limit: int
) -> tuple[Pixels, ImageHeader]:
    """Return the results of `decode_image` and `read_header`, but open the file only once."""
    if preparation.has_bands:
        return _with_bands(
            source,
            pixel_limit,
            preparation,
            lambda banded: (_levels(banded, image_size, preparation), _header_of_bands(banded)),
        )
    content = read_whole(source)
    found = None if content is None else _parse_ordinary(content, pixel_limit)
    if content is not None and found is not None:
        pixels = _decode_ordinary(content, found, image_size, preparation)
        if pixels is not None:
            return pixels, _ordinary_header(found)

    def both(image: ImageFile.ImageFile, file: IO[bytes]) -> tuple[Pixels, ImageHeader]:
        header = _header(image)
        pixels = _decode(image, file, image_size, preparation)
        return pixels, ImageHeader(*header[:-1], damage=_damage(header.format, file))

    return _with_image(source if content is None else content, pixel_limit, both)


def read_values(source: Source, *, pixel_limit: int, preparation: Preparation = AS_STORED) -> DeepValues | None:
    """Return the stored values of an image of more than 8 bits; None for other images. Raises like `decode_image`."""
    if preparation.has_bands:
        return _with_bands(source, pixel_limit, preparation, lambda banded: banded.read() if banded.bits > 8 else None)

    def values(image: ImageFile.ImageFile, file: IO[bytes]) -> DeepValues | None:
        is_color = is_deep_color(image)
        _load(image, file, None, "squash")
        if is_deep_grey(image):
            return grey_values(image)
        return color_values(image, _opened_again(image, file)) if is_color else None

    return _with_image(source, pixel_limit, values)


def header_of_prefix(prefix: bytes, *, pixel_limit: int, preparation: Preparation = AS_STORED) -> ImageHeader | None:
    """Return the header from the first bytes of a file, or None if `read_header` is needed or would reject the file."""
    found = _parse_ordinary(prefix, pixel_limit)
    if found is None or (preparation.channels != RGB and (preparation.has_bands or found.mode != "L")):
        return None
    return _ordinary_header(found)


def size_reason(width: int, height: int, pixel_limit: int) -> str:
    """Return why an image of this size is rejected, or an empty string."""
    if width * height > pixel_limit:
        return f"over the pixel limit of {pixel_limit:,} pixels ({width}x{height}); {_RAISED_BY}"
    return f"a side of more than {SIDE_LIMIT:,} pixels ({width}x{height})" if max(width, height) > SIDE_LIMIT else ""


def _parse_ordinary(prefix: bytes, pixel_limit: int) -> ordinary.Ordinary | None:
    """Return the header of an ordinary image within the limits, otherwise None."""
    prepare_pillow(pixel_limit)  # Pillow reads the EXIF data
    found = ordinary.parse(prefix)
    return None if found is None or size_reason(found.width, found.height, pixel_limit) else found


def _decode_ordinary(
    content: bytes, found: ordinary.Ordinary | None, image_size: tuple[int, int] | None, preparation: Preparation
) -> Pixels | None:
    """Return the pixels of an ordinary image, or None if Pillow must decode it."""
    if found is None or found.width * found.height >= LARGE:
        return None
    if preparation.channels != RGB:
        check_channels(1 if found.mode == "L" else RGB, preparation.channels)
    stored = found.width, found.height
    scale = 1
    if image_size is not None and found.format == "JPEG":
        width, height = draft_size(stored, found.orientation, image_size, preparation.resize)
        fitting = min(stored[0] // width, stored[1] // height)
        scale = next((scale for scale in (8, 4, 2) if fitting >= scale), 1)
    pixels = ordinary.load(found, content, scale)
    if pixels is None:
        return None
    content_box = (0, 0, stored[0] / scale, stored[1] / scale)
    finished = _finish(pixels, found.orientation, content_box, image_size, preparation.resize)
    if preparation.color == "srgb":
        finished = to_srgb(finished, found.profile, is_grey=found.mode == "L")
    return _wanted(finished, preparation)


def _wanted(pixels: Pixels, preparation: Preparation) -> Pixels:
    """Reduce RGB pixels to the channels of `preparation`; all three are equal in a grey image, which was checked."""
    return pixels if preparation.channels == RGB else np.ascontiguousarray(pixels[..., : preparation.channels])


def _ordinary_header(found: ordinary.Ordinary) -> ImageHeader:
    width, height = found.width, found.height
    if found.orientation > 4:
        width, height = height, width
    return ImageHeader(found.format, width, height, found.mode, False, found.orientation, alpha=False, bits=8)


def _with_bands(source: Source, pixel_limit: int, preparation: Preparation, use: Callable[[Banded], Result]) -> Result:
    """Open an image that has as many bands as `preparation`, and return what `use` returns for it."""
    with opened(source) as file:
        with translated(file):
            is_tiff = _recognised(file)[0] == "TIFF"
            if is_tiff and file.seek(0, io.SEEK_END) > FILE_LIMIT:
                raise ImageError("over the file limit of 1 GiB")
        if is_tiff:
            with translated(file, of_pillow=False), opened_tiff(file, BYTES_OF_A_PIXEL * pixel_limit) as banded:
                check_channels(banded.channels, preparation.channels)
                _check_size((banded.width, banded.height), pixel_limit)
                with _one_large_at_a_time((banded.width, banded.height)):
                    return use(banded)
        with _opened_image(file, pixel_limit) as image:
            check_picture(image, preparation)
            orientation = orientation_of(image)
            load, animated = partial(_load, image, file, None, "squash"), is_animated(image)
            return use(banded_picture(image, load, orientation, is_animated=animated))


def _levels(banded: Banded, image_size: tuple[int, int] | None, preparation: Preparation) -> Pixels:
    levels = banded.read().levels(preparation.value_range if banded.bits > 8 else None)
    whole: Box = (0, 0, banded.width, banded.height)
    return _finish(levels, banded.orientation, whole, image_size, preparation.resize)


def _header_of_bands(banded: Banded) -> ImageHeader:
    width, height = banded.width, banded.height
    if banded.orientation > 4:
        width, height = height, width
    bits = 16 if banded.bits > 8 else 8
    mode = f"{banded.channels} bands"
    return ImageHeader(banded.format, width, height, mode, banded.is_animated, banded.orientation, False, bits)


def _with_image(source: Source, pixel_limit: int, use: Callable[[ImageFile.ImageFile, IO[bytes]], Result]) -> Result:
    """Open an image and return what `use` returns for it; if a decoder fails, retry without the file's metadata."""
    with opened(source) as file:
        try:
            with _opened_image(file, pixel_limit) as image:
                return use(image, file)
        except SpoiltError:
            with translated(file):
                picture = formats.without_extras(file)
            if picture is None:
                raise
        with _opened_image(picture, pixel_limit) as image:
            return use(image, picture)


@contextmanager
def _opened_image(file: IO[bytes], pixel_limit: int) -> Iterator[ImageFile.ImageFile]:
    with translated(file):
        format_name, early_size = _recognised(file)
        _check_size(early_size, pixel_limit)
        with _one_large_at_a_time(early_size):
            image = _open_image(file, format_name, pixel_limit)
            with _one_large_at_a_time(image.size):
                yield image


def _recognised(file: IO[bytes]) -> tuple[str, tuple[int, int]]:
    """Return Pillow's name for a file's format, and the size of a PNG or WebP image, (0, 0) for others."""
    file.seek(0)
    prefix = file.read(formats.PREFIX_BYTES)
    if not prefix:
        raise ImageError("empty file")
    format_name = formats.format_of(prefix)
    if format_name not in SUPPORTED:
        raise ImageError("not a supported format" if formats.is_other_image(prefix) else "not an image")
    if format_name == "HEIF" and not reads_heic():
        raise ImageError(f"reading HEIC needs pillow-heif; install it with: {install_line('heic')}")
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
def _one_large_at_a_time(size: tuple[int, int]) -> Iterator[None]:
    """Make other large images wait while one is decoded."""
    with _ONE_LARGE_IMAGE if size[0] * size[1] >= LARGE else nullcontext():
        yield


def _header(image: ImageFile.ImageFile) -> ImageHeader:
    orientation = orientation_of(image)
    width, height = image.size
    if orientation > 4 and image.format != "TIFF":  # Pillow rotates TIFF itself
        width, height = height, width
    return ImageHeader(
        format="JPEG" if image.format == "MPO" else image.format or "",
        width=width,
        height=height,
        mode=image.mode,
        animated=is_animated(image),
        orientation=orientation,
        alpha=image.has_transparency_data,
        bits=16 if is_deep(image) else 8,
    )


def _decode(
    image: ImageFile.ImageFile, file: IO[bytes], image_size: tuple[int, int] | None, preparation: Preparation
) -> Pixels:
    check_picture(image, preparation)
    resize, is_color = preparation.resize, is_deep_color(image)
    content = _load(image, file, image_size, resize)
    orientation = orientation_of(image)
    is_grey = image.mode in ("1", "L", "LA")
    profile = image.info.get("icc_profile") if preparation.color == "srgb" and not is_deep_grey(image) else None
    again = _opened_again(image, file) if is_color and preparation.value_range is not None else None
    rgb = to_rgb(cmyk_to_rgb(image, profile) if image.mode == "CMYK" else image, preparation.value_range, again)
    if image_size is not None and rgb.width * rgb.height >= LARGE:
        # Resizing copies the image, so large ones are first reduced by averaging blocks of pixels.
        width, height = draft_size(image.size, orientation, image_size, resize)
        factor = max(1, min(rgb.width // width, rgb.height // height))
        left, upper, right, lower = (side / factor for side in content)
        rgb, content = rgb.reduce(factor), (left, upper, right, lower)
    finished = _finish(np.array(rgb, np.uint8), orientation, content, image_size, resize)
    return _wanted(finished if image.mode == "CMYK" else to_srgb(finished, profile, is_grey=is_grey), preparation)


def _opened_again(image: ImageFile.ImageFile, file: IO[bytes]) -> ImageFile.ImageFile:
    file.seek(0)
    return Image.open(file, formats=[image.format or ""])


def _damage(format_name: str, file: IO[bytes]) -> str:
    """Return what the JPEG library reports about a decoded file; empty for intact files and other formats."""
    if format_name != "JPEG" or file.seek(0, io.SEEK_END) > _DAMAGE_LIMIT:
        return ""
    file.seek(0)
    return ordinary.jpeg_damage(file.read())


def _finish(
    pixels: Pixels, orientation: int, content: Box, image_size: tuple[int, int] | None, resize: Resize
) -> Pixels:
    """Turn stored pixels upright and resize them; `content` is the box that contains the image."""
    upright = turn(pixels, orientation)
    if image_size is None:
        return np.ascontiguousarray(upright)
    turned = content if upright is pixels else turned_box(content, upright, orientation)
    return RESIZERS[resize](upright, image_size, turned)


def _load(image: ImageFile.ImageFile, file: IO[bytes], image_size: tuple[int, int] | None, resize: Resize) -> Box:
    """Decode the first frame, and return the box of stored pixels that contains the image."""
    refuse_before_loading(image, file)
    content: Box = (0, 0, *image.size)
    if image_size is not None and image.format in ("JPEG", "MPO") and formats.is_scalable_jpeg(file):
        drafted = image.draft(image.mode, draft_size(image.size, orientation_of(image), image_size, resize))
        content = drafted[1] if drafted else content
    image.load()
    ends_early = formats.FILLED_IN.get(image.format or "")
    if ends_early is not None and ends_early(file, file.seek(0, io.SEEK_END)):
        raise ImageError(f"truncated {SHOWN_NAMES.get(image.format or '', image.format)}")
    return content


_DAMAGE_LIMIT = 1 << 26  # bytes; files up to this size are read into memory
_RAISED_BY = "data.pixel_limit or --pixel-limit raises the limit"

_ONE_LARGE_IMAGE = threading.RLock()
