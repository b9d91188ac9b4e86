"""The pictures of a report: thumbnails of images as WebP, and contribution maps as PNG with one pixel per position."""

from __future__ import annotations

import io
from collections.abc import Generator, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wisesr_cli.errors import ImageError
from wisesr_cli.explanation.overlays import scale_of, tint
from wisesr_cli.images.color import shown
from wisesr_cli.images.decoding import decode_with_header
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.machine.threads import map_in_batches
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.report.records import Thumbnail, TintedMap
from wisesr_cli.results.streams import Contribution

LARGE_SIDE, SMALL_SIDE = 144, 96  # pixels: on a card; in the list of a cell
QUALITY = 60  # of WebP: below it, faces and textures dissolve
MOST_ASPECT = 2.5  # pictures more elongated than this are shown at this aspect
THUMBNAILS_AT_ONCE = 32


def thumbnails(
    paths: Sequence[str], side: int, info: ModelInfo, *, pixel_limit: int
) -> Generator[Thumbnail | None, None, None]:
    """Yield the thumbnail of every image, in order; None for one that can no longer be read.

    It shows what the model sees, cropped or padded if its resize rule does so. If the rule squashes, the photo keeps
    its own aspect: squashing moves no position relative to the picture's edges.
    """
    height, width = info.image_size
    scale = min(1.0, side / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    make = partial(_thumbnail, side=side, size=size, preparation=info.preparation, pixel_limit=pixel_limit)
    for batch in map_in_batches(make, paths, batch_size=THUMBNAILS_AT_ONCE):
        yield from batch


def _thumbnail(
    path: str, *, side: int, size: tuple[int, int], preparation: Preparation, pixel_limit: int
) -> Thumbnail | None:
    try:
        pixels, header = decode_with_header(path, image_size=size, preparation=preparation, pixel_limit=pixel_limit)
    except ImageError:
        return None
    aspect = header.width / header.height if preparation.resize == "squash" else size[1] / size[0]
    aspect = min(max(aspect, 1 / MOST_ASPECT), MOST_ASPECT)
    width, height = (side, round(side / aspect)) if aspect >= 1 else (round(side * aspect), side)
    return Thumbnail("image/webp", _encode(shown(pixels), "WEBP", quality=QUALITY, method=4), width, height)


def tinted_map(contribution: Contribution) -> TintedMap:
    """Return a contribution map as a picture, with its strongest position at full strength."""
    scale = scale_of([contribution])
    return TintedMap(contribution, _encode(tint(contribution, scale), "PNG", optimize=True), scale)


def _encode(pixels: NDArray[np.uint8], format_name: str, **options: int | bool) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format_name, **options)
    return file.getvalue()
