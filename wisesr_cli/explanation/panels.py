"""Composes a picture of panels: images side by side with captions, a scale of colours, and sentences below.

Texts pass through `text.visible`; long ones are cut to their panel, sentences are wrapped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from wisesr_cli.display.pictures import caption_font, fitted
from wisesr_cli.explanation.overlays import tint_values
from wisesr_cli.text import visible

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

COLUMNS = 4  # panels in a row
NARROWEST = 320  # minimum pixels of a panel, so that its caption is readable
MARGIN = 16
LINE_HEIGHT = 19
FONT_SIZE = 14
GAP = 8
SCALE_WIDTH, SCALE_HEIGHT = 240, 14
TEXT, FRAME, NOTHING = "#444444", "#999999", "#BEBEBE"
AGAINST_TEXT = "against"
FOR_TEXT = "for, each position of the feature map; grey: nothing, full colour: the value with ± above a panel"


@dataclass(frozen=True)
class Panel:
    """An image and the lines above it, the first of which is the title."""

    image: Image.Image
    lines: tuple[str, ...]


def compose(
    panels: Sequence[Panel | None],
    sentences: Iterable[str],
    *,
    has_scale: bool = True,
    columns: int = COLUMNS,
    narrowest: int = NARROWEST,
) -> Image.Image:
    """Return panels in rows on white, at most `columns` in each, below them the colour scale and the sentences.

    `panels` are in reading order; None leaves a place empty. `narrowest` is the minimum pixels of a panel.
    """
    font = caption_font(FONT_SIZE)
    rows = _draw_rows(panels, min(columns, len(panels)), narrowest, font)
    foot = _draw_foot(sentences, rows.width, font, has_scale=has_scale)
    picture = Image.new("RGB", (rows.width, rows.height + foot.height), "white")
    picture.paste(rows, (0, 0))
    picture.paste(foot, (0, rows.height))
    return picture


def _draw_rows(panels: Sequence[Panel | None], columns: int, narrowest: int, font: Font) -> Image.Image:
    there = [panel for panel in panels if panel is not None]
    width = max(narrowest, *(panel.image.width for panel in there)) + MARGIN
    lines = max(len(panel.lines) for panel in there)
    height = max(panel.image.height for panel in there) + lines * LINE_HEIGHT + MARGIN
    picture = Image.new("RGB", (columns * width + MARGIN, -(-len(panels) // columns) * height + MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    for number, panel in enumerate(panels):
        left, top = MARGIN + number % columns * width, MARGIN + number // columns * height
        if panel is not None:
            _draw_lines(draw, panel.lines, (left, top), width - MARGIN, font)
            top += lines * LINE_HEIGHT
            picture.paste(panel.image, (left, top))
            # White padding would not show on white.
            corners = left - 1, top - 1, left + panel.image.width, top + panel.image.height
            draw.rectangle(corners, outline=FRAME)
    return picture


def _draw_lines(
    draw: ImageDraw.ImageDraw, lines: Sequence[str], corner: tuple[int, int], width: int, font: Font
) -> None:
    """Write the lines above a panel, the title in black."""
    for number, line in enumerate(lines):
        place = corner[0], corner[1] + number * LINE_HEIGHT
        draw.text(place, fitted(visible(line), font, width=width), fill=TEXT if number else "black", font=font)


def _draw_foot(sentences: Iterable[str], width: int, font: Font, *, has_scale: bool) -> Image.Image:
    """Draw the optional colour scale and the sentences."""
    inner = width - 2 * MARGIN
    lines = [line for sentence in sentences for line in _wrapped(visible(sentence), font, width=inner)]
    top = 2 * LINE_HEIGHT if has_scale else 0
    foot = Image.new("RGB", (width, top + len(lines) * LINE_HEIGHT + MARGIN), "white")
    draw = ImageDraw.Draw(foot)
    if has_scale:
        _draw_scale(foot, inner, font)
    for number, line in enumerate(lines):
        draw.text((MARGIN, top + number * LINE_HEIGHT), line, fill=TEXT, font=font)
    return foot


def _draw_scale(picture: Image.Image, width: int, font: Font) -> None:
    """Draw the colours from strongest against to strongest for, in a line of `width` pixels."""
    colors = Image.fromarray(tint_values(np.linspace(-1, 1, SCALE_WIDTH)[None], 1.0))
    bar = Image.alpha_composite(Image.new("RGBA", colors.size, NOTHING), colors).resize((SCALE_WIDTH, SCALE_HEIGHT))
    draw = ImageDraw.Draw(picture)
    draw.text((MARGIN, 0), AGAINST_TEXT, fill="black", font=font)
    start = MARGIN + round(font.getlength(AGAINST_TEXT)) + GAP
    picture.paste(bar.convert("RGB"), (start, 2))
    start += SCALE_WIDTH + GAP
    draw.text((start, 0), fitted(FOR_TEXT, font, width=width - start), fill="black", font=font)


def _wrapped(sentence: str, font: Font, *, width: int) -> Iterator[str]:
    """Yield a sentence in lines of at most `width` pixels; longer words are cut."""
    line = ""
    for word in sentence.split():
        longer = f"{line} {word}" if line else word
        if line and font.getlength(longer) > width:
            yield fitted(line, font, width=width)
            longer = word
        line = longer
    if line:
        yield fitted(line, font, width=width)
