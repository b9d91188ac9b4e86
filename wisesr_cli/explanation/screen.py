"""Small pictures in a terminal, two pixels per character, for `--show`; on standard error, which carries no data."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image
from rich.console import Console
from rich.text import Text

from wisesr_cli.display.terminal import TerminalListener
from wisesr_cli.explanation.overlays import overlay
from wisesr_cli.results.streams import Contribution
from wisesr_cli.text import visible

COLUMNS = 48  # characters, each one pixel wide and two high
ROWS = 24
GAP = 2  # columns between two pictures


class Screen:
    """Shows pictures on a listener's terminal; if that is not possible, notes it once."""

    def __init__(self, listener: TerminalListener) -> None:
        console = listener.console
        has_colors = console.is_terminal and console.color_system is not None and not console.no_color
        shows_pictures = has_colors and console.encoding.lower().replace("-", "") == "utf8"
        self._console: Console | None = console if shows_pictures else None
        if self._console is None:
            listener.note("--show: this terminal cannot show pictures: they need colours and UTF-8 on standard error")

    def show(self, picture: Image.Image, caption: str, contribution: Contribution | None = None) -> None:
        """Show a picture with a caption, and next to it the picture overlaid with a contribution.

        A terminal too narrow for both shows the overlaid one alone.
        """
        if self._console is None:
            return
        from rich_pixels import Pixels

        columns = self._console.width - 1
        size = _fitted_size(picture.size, min(COLUMNS, columns))
        filtering = Image.Resampling.BOX if size[0] <= picture.width else Image.Resampling.NEAREST
        small = picture.convert("RGB").resize(size, filtering)
        shown = [small]
        if contribution is not None:  # the overlay is larger if the map has more positions than the picture has pixels
            shown.append(overlay(small, contribution).resize(size, Image.Resampling.BOX))
        if 2 * size[0] + GAP > columns:
            shown = shown[-1:]
        self._console.print(Pixels.from_image(_side_by_side(shown)))
        self._console.print(Text(visible(caption)), soft_wrap=True)


def _side_by_side(pictures: Sequence[Image.Image]) -> Image.Image:
    """Return pictures of one size in a row, the gaps between them transparent."""
    width, height = pictures[0].size
    row = Image.new("RGBA", (len(pictures) * (width + GAP) - GAP, height))
    for number, picture in enumerate(pictures):
        row.paste(picture, (number * (width + GAP), 0))
    return row


def _fitted_size(size: tuple[int, int], columns: int) -> tuple[int, int]:
    """Return the largest width and even height within `columns` and `ROWS`, the shape kept."""
    scale = min(columns / size[0], 2 * ROWS / size[1])
    return max(1, round(size[0] * scale)), max(2, 2 * round(size[1] * scale / 2))
