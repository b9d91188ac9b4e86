"""Tables of plain text, written as Markdown, CSV and JSON."""

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
    """A column of a `Grid`; `number` aligns it to the right."""

    title: str
    number: bool = False


def texts(*titles: str) -> tuple[Column, ...]:
    """Return text columns."""
    return tuple(Column(title) for title in titles)


def numbers(*titles: str) -> tuple[Column, ...]:
    """Return number columns."""
    return tuple(Column(title, number=True) for title in titles)


@dataclass(frozen=True)
class Grid:
    """A table of plain text, of any width."""

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


def to_markdown(grid: Grid) -> str:
    """Return a Markdown table with special characters escaped."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(markdown_text(cell) for cell in cells) + " |\n"

    rule = "|" + "|".join(" ---: " if column.number else " --- " for column in grid.columns) + "|\n"
    return line([column.title for column in grid.columns]) + rule + "".join(line(row) for row in grid.rows)


def markdown_section(grid: Grid) -> str:
    """Return a Markdown table with its title above and its caption below."""
    title = f"### {markdown_text(grid.title)}\n\n" if grid.title else ""
    return title + to_markdown(grid) + (f"\n{markdown_text(grid.caption)}\n" if grid.caption else "")


def markdown_text(cell: str) -> str:
    """Return text with the special characters of Markdown escaped."""
    return "".join("\\" + c if c in "\\|*_`[]<>#" else c for c in visible(cell))


def to_csv(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return CSV text whose cells no spreadsheet evaluates as formulas."""
    return "".join(csv_line(row) for row in (header, *rows))


def csv_line(row: Sequence[Any]) -> str:
    """Return one line of CSV whose cells no spreadsheet evaluates as formulas."""
    output = io.StringIO()
    csv.writer(output, lineterminator="\n").writerow([csv_value(cell) for cell in row])
    return output.getvalue()


def csv_value(value: Any) -> str:
    """Return one CSV cell: empty for None, exact for numbers, escaped for text; several names are joined with `|`.

    A `|` in one of these names is escaped, so splitting first and then parsing restores the names.
    """
    if value is None:
        return ""
    if isinstance(value, tuple):
        return "|".join(csv_cell(name).replace("|", r"\x7c") for name in value)
    return csv_cell(value) if isinstance(value, str) else str(value)


def to_json(value: Any) -> str:
    """Return one line of JSON; raises `ValueError` for values that are not finite."""
    return json.dumps(value, allow_nan=False)


def percent(value: float | None) -> str:
    """Return a fraction as `93.4 %`, `-` for None."""
    return "-" if value is None else f"{100 * value:.1f} %"


def decimal(value: float | None, digits: int = 4) -> str:
    """Return a number with `digits` decimals, `-` for None."""
    return "-" if value is None else f"{value:.{digits}f}"


def score_bar(score: float | None, width: int = 10) -> str:
    """Return a fraction as a bar of text."""
    if score is None:
        return ""
    eighths = round(score * width * 8)
    full, rest = divmod(eighths, 8)
    return "█" * full + (" ▏▎▍▌▋▊▉"[rest] if rest else "")
