"""Images with any number of channels, as stored: the bands of a TIFF, or the channels of an image with alpha.

TIFFs are read by tifffile: interleaved samples, planes, or one page per band; integers of up to 32 bits, or floats;
uncompressed, or compressed by a method in `_METHODS`, whose decoders stop at the declared size. That size is checked
before anything is decompressed. A missing or truncated part is an error. Nothing is composited over a background: alpha
is a band like any other.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from typing import IO, Any

import numpy as np
from PIL import Image

from wisesr_cli.errors import ImageError
from wisesr_cli.images.depth import DeepValues, Values, is_deep
from wisesr_cli.images.preparation import MOST_CHANNELS, RGB, Preparation
from wisesr_cli.machine.installation import install_line
from wisesr_cli.text import counted

PACKAGES = ("tifffile", "imagecodecs")
BYTES_OF_A_PIXEL = 16  # per pixel of `data.pixel_limit`: four floats; with more bands, fewer pixels are allowed
MOST_TILE = 1 << 14  # largest side of a tile, in pixels


@dataclass(frozen=True)
class Banded:
    """An image with bands, opened but not yet decoded; width and height are as stored."""

    format: str
    width: int
    height: int
    channels: int
    bits: int  # per value, as stored
    orientation: int  # EXIF, 1 to 8
    is_animated: bool  # has more pages, which are not read
    read: Callable[[], DeepValues]  # (height, width, channels)


def check_channels(found: int, wanted: int) -> None:
    """Raise `ImageError` unless an image has the wanted number of channels."""
    if found != wanted:
        raise ImageError(f"has {counted(found, 'channel')}, not {wanted} (data.channels)")


def channels_of(image: Image.Image) -> int:
    """Return the number of channels of an opened image: 1 for grey or 3 for any kind of colour, plus 1 for alpha."""
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;"):
        return 1
    if image.mode == "P":
        palette = np.array(image.getpalette() or [], np.uint8).reshape(-1, RGB)
        return 1 if (palette == palette[:, :1]).all() else RGB
    if image.mode in ("LA", "La"):
        return 2
    return RGB + (image.mode in ("RGBA", "RGBa", "PA"))


def check_picture(image: Image.Image, preparation: Preparation) -> None:
    """Raise `ImageError` unless an image has the wanted channels; grey may have alpha, composited over white."""
    wanted = preparation.channels
    if wanted == RGB:
        return  # any image can be converted to RGB
    found = channels_of(image)
    check_channels(1 if (found, wanted) == (2, 1) else found, wanted)
    if preparation.has_bands and is_deep(image):
        raise ImageError("colours of 16 bits and alpha are read from TIFF only")


def banded_picture(image: Any, load: Callable[[], object], orientation: int, *, is_animated: bool) -> Banded:
    """Wrap an image with alpha, opened by Pillow, as bands; `load` decodes it."""

    def read() -> DeepValues:
        load()
        return DeepValues(np.asarray(image), bits=8)

    found = channels_of(image)
    width, height = image.size
    return Banded(image.format or "", width, height, found, 8, orientation, is_animated, read)


@contextmanager
def opened_tiff(file: IO[bytes], most_bytes: int) -> Iterator[Banded]:
    """Open a TIFF with any number of bands; the caller must check its width and height.

    The values, as stored, may take at most `most_bytes`. Raises `ImageError` for unsupported kinds of TIFF, and
    whatever tifffile raises for a damaged file.
    """
    if not reads_bands():
        raise ImageError(f"reading bands needs {' and '.join(PACKAGES)}; install them with: {install_line('bands')}")
    import tifffile

    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    # Read only the file's own pages: the rules of vendor formats would add others.
    with tifffile.TiffFile(file, name="image", is_lsm=False, is_ndpi=False, is_scanimage=False) as opened:
        pages = _pages(opened)
        first = pages[0]
        _check_kind(first)
        stacked = first.samplesperpixel == 1
        count = len(pages) if stacked else int(first.samplesperpixel)

        def read() -> DeepValues:
            if first.imagewidth * first.imagelength * count * first.dtype.itemsize > most_bytes:
                raise ImageError(
                    f"over {most_bytes:,} bytes of values; data.pixel_limit or --pixel-limit raises the limit"
                )
            return _values(pages if stacked else pages[:1], size)

        yield Banded(
            format="TIFF",
            width=int(first.imagewidth),
            height=int(first.imagelength),
            channels=count,
            bits=int(first.bitspersample),
            orientation=_orientation(first),
            is_animated=not stacked and len(pages) > 1,
            read=read,
        )


def reads_bands() -> bool:
    """Return whether the packages for reading bands are installed; if so, keep tifffile's log off standard error."""
    if any(find_spec(package) is None for package in PACKAGES):
        return False
    _silence()
    return True


@cache
def _silence() -> None:
    logger = logging.getLogger("tifffile")
    logger.addHandler(logging.NullHandler())
    logger.propagate = False


def _pages(opened: Any) -> list[Any]:
    """Return the first page and the matching pages right after it, up to one page more than `MOST_CHANNELS`."""
    first = opened.pages[0]
    found = [first]
    alike = (first.imagewidth, first.imagelength, first.samplesperpixel, first.dtype, first.compression)
    for number in range(1, MOST_CHANNELS + 1):
        try:
            page = opened.pages[number]
        except IndexError:
            break
        shape = (page.imagewidth, page.imagelength, page.samplesperpixel, page.dtype, page.compression)
        if shape != alike or page.is_reduced:  # a preview or a pyramid level
            break
        found.append(page)
    return found


def _check_kind(page: Any) -> None:
    """Raise `ImageError` for unsupported kinds of TIFF."""
    dtype, bits = page.dtype, page.bitspersample
    kind = None
    if page.compression not in _METHODS:
        kind = f"compression by {getattr(page.compression, 'name', None) or page.compression}"
    elif dtype is None or dtype.kind not in "uif" or (dtype.kind != "f" and dtype.itemsize > 4):
        kind = f"numbers of {bits} bits" if dtype is None else f"numbers of the type {dtype}"
    elif page.imagedepth != 1 or page.is_subsampled or page.photometric == _PALETTE:
        kind = "volumes, palettes or reduced colours"
    if kind is not None:
        raise ImageError(f"a kind of TIFF that is not supported ({kind})")


def _values(pages: Sequence[Any], size: int) -> DeepValues:
    first = pages[0]
    stored: Values = np.empty((first.imagelength, first.imagewidth, len(pages) * first.samplesperpixel), first.dtype)
    for number, page in enumerate(pages):
        _check_parts(page, size)
        _decode_into(stored[..., number : number + page.samplesperpixel], page)
    stated = min(16, int(first.bitspersample)) - (first.dtype.kind == "i" and first.bitspersample in (8, 16))
    return DeepValues(stored, stated, is_white_zero=first.photometric == _WHITE_IS_ZERO)


def _decode_into(stored: Values, page: Any) -> None:
    """Decode the strips or tiles of a page into `stored` (height, width, samples)."""
    for part, (sample, _, row, column, _), _ in page.segments(maxworkers=1):
        samples = slice(None) if page.planarconfig == _CONTIGUOUS else slice(sample, sample + 1)
        place = stored[row : row + part.shape[1], column : column + part.shape[2], samples]
        place[...] = part[0, : place.shape[0], : place.shape[1]]


def _check_parts(page: Any, size: int) -> None:
    """Raise `ImageError` unless every strip or tile is present, inside the file, and within the size limits."""
    height, width = page.imagelength, page.imagewidth
    down, across = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
    if min(down, across) < 1 or (page.is_tiled and max(down, across) > max(MOST_TILE, height, width)):
        raise ImageError("damaged TIFF")
    planes = 1 if page.planarconfig == _CONTIGUOUS else page.samplesperpixel
    needed = planes * -(-height // down) * -(-width // across)
    offsets, counts = page.dataoffsets, page.databytecounts
    if len(offsets) < needed or len(counts) < needed or not all(offsets) or not all(counts):
        raise ImageError("damaged TIFF: parts of the picture are missing")
    if len(offsets) > needed or sum(counts) > 2 * size:  # decoding the same bytes for many parts would take hours
        raise ImageError("damaged TIFF")
    if any(offset + count > size for offset, count in zip(offsets, counts, strict=False)):
        raise ImageError("truncated TIFF")


def _orientation(page: Any) -> int:
    value = page.tags.valueof(_ORIENTATION, 1)
    return int(value) if value in range(1, 9) else 1


_ORIENTATION, _CONTIGUOUS, _WHITE_IS_ZERO, _PALETTE = 274, 1, 0, 3
_METHODS = {1, 5, 8, 32946, 32773, 34925, 50000}  # none, LZW, Deflate (two codes), PackBits, LZMA, Zstandard
