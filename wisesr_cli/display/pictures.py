"""Draws contact sheets and captions with Pillow, and defines their colours."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from wisesr_cli.errors import ImageError, UsageError
from wisesr_cli.images.color import shown
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.images.preparation import RGB, Preparation
from wisesr_cli.machine.files import replacing
from wisesr_cli.text import visible

# Okabe and Ito's colours, which colour-blind readers can distinguish.
BLUE, ORANGE, GREEN, RED, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#777777"

# matplotlib ships the first; the others, if installed, cover scripts that it lacks.
FONTS = (
    "DejaVu Sans",
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Apple SD Gothic Neo",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Arial Unicode MS",
)
PIXELATED_FROM = 4  # enlargement from which pixels stay square
CAPTION_HEIGHT = 22  # pixels below each picture of a contact sheet
BORDER = 4
SOFTWARE = "wisesr"  # in the PNG files of `software_tag`


def contact_sheet(
    tiles: Sequence[tuple[Image.Image | NDArray[np.uint8], str, bool | None]],
    *,
    columns: int,
    tile: int,
    path: Path,
    foot: Sequence[str] = (),
) -> None:
    """Write a PNG of pictures in rows with one-line captions, and the lines of `foot` below.

    `tiles` are picture, caption, and correctness, shown as a green or red border (None: no border). Pictures are scaled
    to fit a square of `tile` pixels.
    """
    cell_width, cell_height = tile + 2 * BORDER + 8, tile + 2 * BORDER + CAPTION_HEIGHT + 8
    rows = -(-len(tiles) // columns)
    width, height = columns * cell_width + 8, rows * cell_height + 8
    sheet = Image.new("RGB", (width, height + len(foot) * CAPTION_HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    font = caption_font(size=14)
    for number, (picture, caption, correct) in enumerate(tiles):
        left, top = 8 + number % columns * cell_width, 8 + number // columns * cell_height
        image = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
        if correct is not None:
            color = GREEN if correct else RED
            draw.rectangle((left, top, left + tile + 2 * BORDER - 1, top + tile + 2 * BORDER - 1), fill=color)
        _paste(sheet, image.convert("RGB"), left + BORDER, top + BORDER, tile)
        shown = fitted(visible(caption), font, width=tile + BORDER)
        draw.text((left + BORDER, top + tile + 2 * BORDER + 2), shown, fill="black", font=font)
    for number, line in enumerate(foot):
        shown = fitted(visible(line), font, width=width - 16)
        draw.text((8 + BORDER, height + number * CAPTION_HEIGHT), shown, fill="black", font=font)
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG", pnginfo=software_tag())


def check_sheet_file(path: Path, *, overwrite: bool) -> None:
    """Raise a `UsageError` if the file of `--sheet` cannot be written or would replace another."""
    if os.path.lexists(path) and not overwrite:
        raise UsageError(f"{visible(path)} exists; give another --sheet, or replace it with --overwrite")
    if path.is_dir():
        raise UsageError(f"{visible(path)} is a folder; --sheet takes a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{visible(path.parent)}: no such folder for the sheet")


def photo_tile(path: str, side: int, preparation: Preparation, *, pixel_limit: int) -> NDArray[np.uint8]:
    """Return a whole image as a square tile, uint8 (side, side, 3); black if it can no longer be read."""
    padded, size = replace(preparation, resize="pad"), (side, side)
    try:
        return shown(decode_image(path, image_size=size, preparation=padded, pixel_limit=pixel_limit))
    except ImageError:
        return np.zeros((*size, RGB), np.uint8)


def software_tag() -> PngInfo:
    """Return the PNG metadata that identifies pictures written by wisesr."""
    mark = PngInfo()
    mark.add_text("Software", SOFTWARE)
    return mark


def _paste(sheet: Image.Image, image: Image.Image, left: int, top: int, tile: int) -> None:
    scale = tile / max(image.size)
    size = max(1, round(image.width * scale)), max(1, round(image.height * scale))
    resampling = Image.Resampling.NEAREST if scale >= PIXELATED_FROM else Image.Resampling.LANCZOS
    sheet.paste("white", (left, top, left + tile, top + tile))
    sheet.paste(image.resize(size, resampling), (left + (tile - size[0]) // 2, top + (tile - size[1]) // 2))


def caption_font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return matplotlib's font, which covers more scripts than Pillow's, without importing matplotlib."""
    package = importlib.util.find_spec("matplotlib")
    if package is not None and package.origin is not None:
        path = Path(package.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf"
        if path.is_file():
            return ImageFont.truetype(path, size)
    return ImageFont.load_default(size)


def fitted(caption: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, *, width: int) -> str:
    """Return a caption of at most `width` pixels, shortened with an ellipsis if necessary."""
    if font.getlength(caption) <= width:
        return caption
    kept = max(0, min(len(caption), width))  # no letter is narrower than a pixel
    while kept and font.getlength(caption[:kept] + "…") > width:
        kept -= 1
    return caption[:kept] + "…"


def installed_fonts() -> list[str]:
    """Return the `FONTS` that matplotlib finds."""
    from matplotlib.font_manager import fontManager

    installed = {font.name for font in fontManager.ttflist}
    return [name for name in FONTS if name in installed]
