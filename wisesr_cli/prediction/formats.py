"""The formats of predictions, and how a file's suffix selects one.

To add a format: a renderer and its row in `RENDERERS`, its suffix in `SUFFIXES`, its name in `OutputFormat`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, TextIO

from wisesr_cli.display.grid import Grid, csv_line, to_json, to_markdown
from wisesr_cli.display.terminal import hidden_rows, row_of_hidden, show_grid
from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.machine.installation import install_line
from wisesr_cli.prediction.tables import PLAIN, Layout, prediction_cells, prediction_columns
from wisesr_cli.results.streams import Prediction
from wisesr_cli.text import joined, visible

TABLE_ROWS = 200  # tables are drawn in parts of this size, to bound memory
PARQUET_CELLS = 1 << 18  # of a row group, which is held in memory
SUFFIXES = {".csv": "csv", ".json": "json", ".jsonl": "jsonl", ".md": "markdown", ".parquet": "parquet"}
BEST_ONLY = ("table", "markdown")  # formats for people, which show only the best labels


def chosen_format(output: str | None, given: str | None, *, probabilities: bool = False) -> str:
    """Return the format of an output file, or of standard output (None): the one given, or the file suffix's.

    Raises:
        UsageError: the suffix is unknown or contradicts the given format, or the format cannot hold what was requested.
        MachineError: the package that writes it is missing.
    """
    chosen = given or "table" if output is None else _format_of_file(output, given)
    if probabilities and chosen in BEST_ONLY:
        names = joined(name for name in SUFFIXES.values() if name not in BEST_ONLY)
        raise UsageError(f"--probabilities does not work with the format {chosen}; choose another --format: {names}")
    if chosen == "parquet":
        if output is None:
            raise UsageError("--format parquet cannot go to standard output; give a file: -o FILE.parquet")
        if find_spec("pyarrow") is None:
            raise MachineError(f"writing Parquet needs pyarrow; install it with: {install_line('parquet')}")
    return chosen


def _format_of_file(output: str, given: str | None) -> str:
    by_suffix = SUFFIXES.get(Path(output).suffix.lower())
    if given is None and by_suffix is None:
        raise UsageError(
            f"-o {visible(output)}: the suffix does not say which format; choose one of {joined(SUFFIXES)}, or give "
            "--format"
        )
    if None not in (given, by_suffix) and given != by_suffix:
        raise UsageError(
            f"-o {visible(output)} is the name of a {by_suffix} file, and --format says {visible(given)}; leave "
            "--format out, or change the suffix"
        )
    return given or by_suffix or ""


class Writer(Protocol):
    """Writes records in one format."""

    def write(self, record: Prediction) -> None:
        """Write one record."""

    def end(self) -> None:
        """Write pending records and the format's closing, even without any record."""


class Renderer:
    """Writes records as text, between a format's opening and, on `end`, its closing.

    `limit` is the number of table rows shown (the first and the last ones) once all records are there; None is all.
    """

    def __init__(self, name: str, stream: TextIO, layout: Layout = PLAIN, *, limit: int | None = None) -> None:
        self.name, self.stream, self.layout = name, stream, layout
        self.limit = limit if name == "table" else None
        self.count = 0
        self.waiting: list[Prediction] = []
        self._last: deque[Prediction] = deque(maxlen=(self.limit or 0) // 2)

    @property
    def hidden(self) -> int:
        """The number of records that the table does not show."""
        return hidden_rows(self.count, self.limit)

    def write(self, record: Prediction) -> None:
        """Write one record."""
        self._begin()
        if self.limit is not None and len(self.waiting) == self.limit // 2:
            self._last.append(record)
        elif self.name in BEST_ONLY:
            self.waiting.append(record)
            if len(self.waiting) == TABLE_ROWS:
                self._draw()
        elif self.name == "csv":
            self.stream.write(csv_line(self.layout.values(record)))
        else:
            separator = {"jsonl": "", "json": ",\n" if self.count else "\n"}[self.name]
            self.stream.write(separator + to_json(record.to_json()) + ("\n" if self.name == "jsonl" else ""))
        self.count += 1

    def end(self) -> None:
        """Write pending rows and the closing, even without any record, as a shard may have none."""
        self._begin()
        if self.waiting:
            self._draw()
        if self.name == "json":
            self.stream.write("\n]\n")
        self.stream.flush()

    def _begin(self) -> None:
        """Write the opening, only when the first record comes, so that an earlier error leaves the stream empty."""
        if not self.count:
            self.stream.write({"json": "[", "csv": csv_line(self.layout.header)}.get(self.name, ""))

    def _draw(self) -> None:
        columns = prediction_columns(self.layout)
        cells = [prediction_cells(record, self.layout) for record in (*self.waiting, *self._last)]
        if self.hidden:
            cells.insert(len(self.waiting), row_of_hidden(self.hidden, len(columns)))
        grid = Grid("", columns, tuple(cells))
        if self.name == "table":
            show_grid(grid, file=self.stream, limit=None)
        else:
            text = to_markdown(grid)
            first = self.count < TABLE_ROWS
            self.stream.write(text if first else "".join(text.splitlines(keepends=True)[2:]))
        self.waiting.clear()


class ParquetRenderer:
    """Writes records into a Parquet file: the columns of CSV with their types, and `top`, a list of label and score.

    In text that is not UTF-8, invalid bytes become `\\udcXX`, as in JSON.
    """

    def __init__(self, path: Path, layout: Layout) -> None:
        import pyarrow
        import pyarrow.parquet

        number, text = pyarrow.float64(), pyarrow.string()
        scored = pyarrow.list_(pyarrow.struct([("label", text), ("score", number)]))
        types = {"score": number, "margin": number, "entropy": number, "labels": pyarrow.list_(text)}
        others = dict.fromkeys(layout.probability_columns, number)
        columns = [(_utf8(name), (types | others).get(name, text)) for name in layout.header]
        self.schema, self.layout = pyarrow.schema([*columns, ("top", scored)]), layout
        self.group_rows = max(1, PARQUET_CELLS // len(self.schema.names))
        self.waiting: list[tuple[Any, ...]] = []
        self._file = pyarrow.parquet.ParquetWriter(path, self.schema)

    def write(self, record: Prediction) -> None:
        """Write one record."""
        top = [{"label": scored.label, "score": scored.score} for scored in record.top]
        self.waiting.append(tuple(map(_utf8, (*self.layout.values(record), top))))
        if len(self.waiting) == self.group_rows:
            self._write_group()

    def end(self) -> None:
        """Write the last rows and the index."""
        if self.waiting:
            self._write_group()
        self.close()

    def close(self) -> None:
        """Close the file, whether it is complete or not."""
        self._file.close()

    def _write_group(self) -> None:
        import pyarrow

        columns = zip(*self.waiting, strict=True)
        arrays = [pyarrow.array(values, field.type) for values, field in zip(columns, self.schema, strict=True)]
        self._file.write_table(pyarrow.Table.from_arrays(arrays, schema=self.schema))
        self.waiting.clear()


def _utf8(value: Any) -> Any:
    """Return a value with all its text valid UTF-8, including text inside lists and mappings."""
    if isinstance(value, str):
        return value if value.isascii() else value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, tuple | list):
        return [_utf8(each) for each in value]
    return {name: _utf8(each) for name, each in value.items()} if isinstance(value, dict) else value


@contextmanager
def _text_renderer(name: str, path: Path, layout: Layout) -> Iterator[Writer]:
    with path.open("w", encoding="utf-8", newline="") as stream:
        yield Renderer(name, stream, layout)


@contextmanager
def _parquet_renderer(name: str, path: Path, layout: Layout) -> Iterator[Writer]:
    renderer = ParquetRenderer(path, layout)
    try:
        yield renderer
    finally:
        renderer.close()


RENDERERS: Mapping[str, Callable[[str, Path, Layout], Any]] = {
    **dict.fromkeys(("table", "json", "jsonl", "csv", "markdown"), _text_renderer),
    "parquet": _parquet_renderer,
}


def rendering(name: str, path: Path, layout: Layout) -> Any:
    """Return a context manager that yields a format's `Writer` for a file."""
    return RENDERERS[name](name, path, layout)
