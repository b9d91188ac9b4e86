"""Tables as plain text in rows, and how they are written as Markdown, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wisesr_cli.text import csv_cell, visible


@dataclass(frozen=True)
class Column:
    """A column of a `Grid`: its title, and whether it holds numbers."""

    title: str
    number: bool = False


def texts(*titles: str) -> tuple[Column, ...]:
    """Return columns of text."""
    return tuple(Column(title) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Return columns of numbers."""
    return tuple(Column(title, number=True) for title in titles)


@dataclass(frozen=True)
class Grid:
    """A table before it is drawn: plain text, as wide as it likes."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


def to_markdown(grid: Grid) -> str:
    """Return a Markdown table; what means something in Markdown is escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(markdown_text(cell) for cell in cells) + " |\n"

    rule = "|" + "|".join(" ---: " if column.number else " --- " for column in grid.columns) + "|\n"
    return line([column.title for column in grid.columns]) + rule + "".join(line(row) for row in grid.rows)


def markdown_section(grid: Grid) -> str:
    """Return a Markdown table with its title above and its caption below."""
    title = f"### {markdown_text(grid.title)}\n\n" if grid.title else ""
    return title + to_markdown(grid) + (f"\n{markdown_text(grid.caption)}\n" if grid.caption else "")


def markdown_text(cell: str) -> str:
    """Return text for Markdown, what means something there escaped."""
    return "".join("\\" + c if c in "\\|*_`[]<>#" else c for c in visible(cell))


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return CSV text with cells that no spreadsheet takes for a formula."""
    return "".join(csv_line(row) for row in (header, *rows))


def csv_line(row: Sequence[Any]) -> str:
    """Return one line of CSV with cells that no spreadsheet takes for a formula."""
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerow([csv_value(cell) for cell in row])
    return output.getvalue()


def csv_value(value: Any) -> str:
    """Return one CSV cell: empty for None, exact for numbers, made safe for text."""
    if value is None:
        return ""
    return csv_cell(value) if isinstance(value, str) else str(value)


def to_json(value: Any) -> str:
    """Return one line of JSON; values that are not finite are a bug."""
    return json.dumps(value, allow_nan=False)


def percent(value: float | None) -> str:
    """Return a fraction as `93.4 %`."""
    return "-" if value is None else f"{100 * value:.1f} %"


def decimal(value: float | None, digits: int = 4) -> str:
    """Return a number with so many digits after the point."""
    return "-" if value is None else f"{value:.{digits}f}"


def score_bar(score: float | None, width: int = 10) -> str:
    """Return a fraction as a bar of text."""
    if score is None:
        return ""
    eighths = round(score * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
