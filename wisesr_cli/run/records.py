"""Reads and writes the records (JSON) and tables (CSV) of a run directory."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from wisesr_cli.errors import RunError
from wisesr_cli.machine.files import read_text, replacing, write_text
from wisesr_cli.text import csv_cell, parse_csv_cell, visible

MOST_TABLE_BYTES = 1 << 30  # splits.csv of ten million images
MOST_JSON_BYTES = 1 << 26


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically; non-finite values are a bug."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def refuse_link_outside(path: Path) -> None:
    """Raise a `RunError` for a link out of its folder: another user's run could expose the reader's private files."""
    try:
        leaves = path.is_symlink() and path.parent.resolve() not in path.resolve().parents
    except (OSError, RuntimeError):  # it leads to itself
        leaves = True
    if leaves:
        raise RunError(f"{visible(path)}: is a link out of its folder; replace it with the file itself")


def read_json(path: Path) -> Any:
    """Return the content of a JSON file of a run; `RunError` when missing, damaged, or a link out of its folder."""
    refuse_link_outside(path)
    try:
        return json.loads(read_text(path, MOST_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{visible(path)}: cannot be read: {visible(error)}") from None


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file atomically, with cells that no spreadsheet evaluates as a formula."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([csv_cell(cell) for cell in header])
        writer.writerows([csv_cell(cell) for cell in row] for row in rows)


def read_rows(path: Path, columns: int) -> list[list[str]]:
    """Return the rows that `write_rows` wrote, without the header.

    Raises a `RunError` if the file is missing or a link out of its folder, or if a row has the wrong number of columns.
    """
    refuse_link_outside(path)
    try:
        text = read_text(path, MOST_TABLE_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"{visible(path)}: cannot be read: {visible(error)}") from None
    try:
        rows = [[parse_csv_cell(cell) for cell in row] for row in csv.reader(io.StringIO(text))][1:]
    except csv.Error as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error)}") from None
    for number, row in enumerate(rows, start=2):
        if len(row) != columns:
            raise RunError(f"{visible(path)}:{number}: damaged: {len(row)} columns, expected {columns}")
    return rows
