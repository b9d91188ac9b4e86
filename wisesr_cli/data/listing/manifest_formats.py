"""Reads manifest tables: CSV (also with semicolons or tabs), JSON lines and Parquet.

To add a format, write a function that returns a `Table`, and add a row to `READERS`. It raises `OSError`, or
`ValueError` with the line.
"""

from __future__ import annotations

import codecs
import csv
import io
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wisesr_cli.errors import MachineError
from wisesr_cli.machine.files import read_text
from wisesr_cli.machine.installation import install_line
from wisesr_cli.text import visible

MOST_BYTES = 1 << 30
MOST_ROWS = 10_000_000
_BATCH = 1_000  # rows of Parquet to unpack at a time


@dataclass(frozen=True)
class Table:
    """The names of the columns, and the line and cells of every row; None for a row of another length.

    A row may end after the last known column.
    """

    header: list[str]
    rows: Iterable[tuple[int, Sequence[Any] | None]]
    unit: str = "line"  # of row numbers


def _decoded(path: Path) -> str:
    """Return the text of a file, without the UTF-8 byte-order mark."""
    try:
        return read_text(path, MOST_BYTES).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        if error.object.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError("in UTF-16; convert it to UTF-8: iconv -f UTF-16 -t UTF-8") from None
        line = error.object.count(b"\n", 0, error.start) + 1
        raise ValueError(f"line {line} is not in UTF-8; save it as UTF-8, or convert it with iconv") from None


def _read_csv(path: Path, known: Collection[str]) -> Table:
    text = _decoded(path)
    first = text[: csv.field_size_limit()].lstrip("\r\n").partition("\n")[0]
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=max(",;\t", key=first.count), strict=True)
    rows = _csv_rows(reader)
    _, header = next(rows, (0, []))
    width = len(header)
    return Table(header, ((line, cells if len(cells) == width else None) for line, cells in rows))


def _csv_rows(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the non-empty rows with the line that each begins on."""
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise ValueError(f"line {line}: {error}") from None
        if cells is None:
            return
        if cells:
            yield line, cells


def _read_json_lines(path: Path, known: Collection[str]) -> Table:
    found: list[tuple[int, dict[str, Any]]] = []
    for line, text in enumerate(_decoded(path).split("\n"), start=1):
        if not text.strip():
            continue
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"line {line} is not JSON: {error}") from None
        if not isinstance(value, dict):
            raise ValueError(f"line {line} is not a JSON object")
        found.append((line, value))
    names = dict.fromkeys(name for _, value in found for name in value)
    columns = _of_known(names, known)
    header = [*columns, *(name for name in names if name not in columns)]  # every row may have its own names
    return Table(header, ((line, [value.get(name) for name in columns]) for line, value in found))


def _read_parquet(path: Path, known: Collection[str]) -> Table:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MachineError(
            f"{visible(path)}: reading Parquet needs pyarrow; install it with: {install_line('parquet')}"
        ) from None
    if not path.is_file():
        raise ValueError("no such file")
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES:,} bytes")
    try:
        file = pyarrow.parquet.ParquetFile(path)
        columns = _of_known(file.schema_arrow.names, known)
        unpacked = _bytes_of(file.metadata, columns)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"not Parquet: {error}") from None
    if file.metadata.num_rows > MOST_ROWS or unpacked > MOST_BYTES:
        raise ValueError(f"more than {MOST_ROWS:,} rows, or {MOST_BYTES:,} bytes when unpacked")
    header = [*columns, *(name for name in file.schema_arrow.names if name not in columns)]
    return Table(header, _parquet_rows(file, columns), "row")


def _bytes_of(about: Any, columns: Collection[str]) -> int:
    """Return the size in bytes of the unpacked columns."""
    groups = map(about.row_group, range(about.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


def _parquet_rows(file: Any, columns: list[str]) -> Iterator[tuple[int, tuple[Any, ...]]]:
    import pyarrow

    row = 0
    try:
        for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
            for cells in zip(*(batch.column(name).to_pylist() for name in columns), strict=True):
                row += 1
                yield row, cells
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise ValueError(f"damaged after row {row:,}: {error}") from None


def _of_known(names: Iterable[str], known: Collection[str]) -> list[str]:
    return [name for name in names if name.strip().casefold() in known]


def is_manifest(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is a file with the suffix of a manifest."""
    return Path(path).suffix.lower() in READERS and os.path.isfile(path)  # noqa: PTH113


READERS: dict[str, Callable[[Path, Collection[str]], Table]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_json_lines,
    ".parquet": _read_parquet,
}
