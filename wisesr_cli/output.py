"""Where predictions go: streamed to standard output, or through a journal into a file that is whole or not there.

The journal lies beside the output (`FILE.partial`): a header that says which model and options it belongs to, then a
record per line. When all inputs are done it is rendered and renamed; when the process was killed, `--resume` counts its
whole lines and goes on behind them, so that the output is byte for byte that of an uninterrupted run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from wisesr_cli.errors import SOME_UNREADABLE, DataError, RunError, UsageError
from wisesr_cli.files import flush_to_disk, naming, replacing
from wisesr_cli.report import Grid, show_grid, to_csv, to_json, to_markdown
from wisesr_cli.results import Prediction, ScoredLabel
from wisesr_cli.tables import prediction_cells, prediction_columns
from wisesr_cli.text import counted, visible

TABLE_ROWS = 200  # rows of a table are drawn in parts of this size, so that memory does not grow
CSV_HEADER = ("path", "label", "score", "error")


class Renderer:
    """Writes records to a stream in one format; `start` and `end` stand around all of them."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name, self.stream = name, stream
        self.count = 0
        self.waiting: list[Prediction] = []

    def start(self) -> None:
        """Write what stands before the first record."""
        self.stream.write({"json": "[", "csv": to_csv(CSV_HEADER, ())}.get(self.name, ""))

    def write(self, record: Prediction) -> None:
        """Write one record."""
        if self.name in {"table", "markdown"}:
            self.waiting.append(record)
            if len(self.waiting) == TABLE_ROWS:
                self._draw()
        elif self.name == "csv":
            row = (record.path, record.label, record.score, record.error)
            self.stream.write(to_csv(("",), [row]).partition("\n")[2])
        else:
            separator = {"jsonl": "", "json": ",\n" if self.count else "\n"}[self.name]
            self.stream.write(separator + to_json(record.to_json()) + ("\n" if self.name == "jsonl" else ""))
        self.count += 1

    def end(self) -> None:
        """Write what stands after the last record."""
        if self.waiting:
            self._draw()
        if self.name == "json":
            self.stream.write("\n]\n")
        self.stream.flush()

    def _draw(self) -> None:
        grid = Grid("", prediction_columns(), tuple(prediction_cells(record) for record in self.waiting))
        if self.name == "table":
            show_grid(grid, file=self.stream, limit=None)
        else:
            text = to_markdown(grid)
            first = self.count < TABLE_ROWS
            self.stream.write(text if first else "".join(text.splitlines(keepends=True)[2:]))
        self.waiting.clear()


class Tally:
    """How many records there were, and how many of them could not be read."""

    def __init__(self) -> None:
        self.records = self.unreadable = 0

    def add(self, record: Prediction) -> None:
        """Count one record."""
        self.records += 1
        self.unreadable += record.error is not None

    def exit_code(self, *, strict: bool) -> int:
        """Return the exit code that the records come to.

        Raises:
            DataError: with `strict` one could not be read, or all could not.
        """
        if self.unreadable and (strict or self.unreadable == self.records):
            raise DataError(f"{self.unreadable:,} of {counted(self.records, 'image')} could not be read")
        return SOME_UNREADABLE if self.unreadable else 0


class StreamOutput:
    """Predictions on standard output, flushed batch by batch."""

    def __init__(self, chosen: str) -> None:
        self.renderer = Renderer(chosen, sys.stdout)
        self.tally = Tally()

    @property
    def leaves_terminal_free(self) -> bool:
        """Whether a progress bar would not stand between the records."""
        return not sys.stdout.isatty()

    def __enter__(self) -> StreamOutput:
        self.renderer.start()
        return self

    def __exit__(self, *exception: object) -> None:
        return None

    def skip_done(self, paths: Iterable[str]) -> Iterable[str]:
        """Return the inputs that are left: all of them."""
        return paths

    def write(self, record: Prediction) -> None:
        """Write one record."""
        self.tally.add(record)
        self.renderer.write(record)
        self.renderer.stream.flush()

    def finish(self) -> None:
        """Write what stands after the last record."""
        self.renderer.end()


@dataclass(frozen=True)
class JournalHeader:
    """What the records of a journal depend on."""

    model: str  # SHA-256 of the model file
    options: dict[str, Any]

    def to_line(self) -> str:
        """Return the first line of a journal."""
        return to_json({"wisesr_journal": 1, "model": self.model, "options": self.options}) + "\n"


class FileOutput:
    """Predictions in a file, through a journal beside it.

    Args:
        chosen: the format of the file.
        path: the file.
        header: what a journal to go on with must match.
        resume: whether to go on with a journal that lies there.
    """

    def __init__(self, chosen: str, path: Path, header: JournalHeader, *, resume: bool) -> None:
        self.chosen, self.path, self.header, self.resume = chosen, path, header, resume
        self.journal_path = path.with_name(path.name + ".partial")
        self.tally = Tally()

    @property
    def leaves_terminal_free(self) -> bool:
        """Whether a progress bar would not stand between the records."""
        return True

    def __enter__(self) -> FileOutput:
        self.end = 0
        self.done = self._whole_lines() if self.resume and self.journal_path.exists() else 0
        going_on = self.end > 0
        self.journal = self.journal_path.open("r+b" if going_on else "wb")
        if going_on:
            self.journal.seek(self.end)
            self.journal.truncate()
        else:
            self.journal.write(self.header.to_line().encode("ascii"))
            self.journal.flush()
        return self

    def __exit__(self, *exception: object) -> None:
        self.journal.close()

    def _whole_lines(self) -> int:
        """Return how many records the journal holds, noting where the last whole one ends."""
        header = self.header.to_line().encode("ascii")
        count = 0
        with self.journal_path.open("rb") as file:
            first = file.readline()
            if first != header:
                if header.startswith(first):  # killed while the header was written
                    return 0
                raise RunError(
                    f"{visible(self.journal_path)}: was written with another model or other options; use --overwrite"
                )
            self.end = len(header)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self.end += len(line)
                count += 1
        return count

    def skip_done(self, paths: Iterable[str]) -> Iterator[str]:
        """Give the inputs that the journal does not hold yet.

        Raises:
            RunError: the inputs are not those that the journal was written for.
        """
        rest = iter(paths)
        for record in self._records(self.done):
            if next(rest, None) != record.path:
                raise RunError(f"{visible(self.journal_path)}: the inputs are others than before; use --overwrite")
            self.tally.add(record)
        yield from rest

    def _records(self, count: int) -> Iterator[Prediction]:
        with self.journal_path.open("rb") as file:
            file.readline()
            for number in range(2, count + 2):
                try:
                    yield _from_json(json.loads(file.readline()))
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise RunError(f"{visible(self.journal_path)}:{number}: damaged; use --overwrite") from None

    def write(self, record: Prediction) -> None:
        """Append one record to the journal."""
        self.tally.add(record)
        with naming(self.journal_path):
            self.journal.write((to_json(record.to_json()) + "\n").encode("ascii"))
            self.journal.flush()

    def finish(self) -> None:
        """Render the journal into the output, as a whole, and take the journal away."""
        self.journal.flush()
        os.fsync(self.journal.fileno())
        with replacing(self.path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
            renderer = Renderer(self.chosen, stream)
            renderer.start()
            for record in self._records(self.tally.records):
                renderer.write(record)
            renderer.end()
        self.journal_path.unlink()
        flush_to_disk(self.path.parent)


def _from_json(values: dict[str, Any]) -> Prediction:
    top = tuple(ScoredLabel(**scored) for scored in values["top"])
    return Prediction(values["path"], values["label"], values["score"], top, values["error"])


def open_output(
    chosen: str, path: str | None, header: JournalHeader, *, overwrite: bool, resume: bool
) -> StreamOutput | FileOutput:
    """Return where predictions go.

    Args:
        chosen: the format.
        path: the output file; None is standard output.
        header: what the records depend on.
        overwrite: whether an existing output may be replaced.
        resume: whether to go on with an interrupted one.

    Raises:
        UsageError: the output exists, its folder does not, or resuming was asked for without a file.
    """
    if path is None:
        if resume or overwrite:
            raise UsageError("--resume and --overwrite need -o FILE")
        return StreamOutput(chosen)
    file = Path(path)
    if overwrite and resume:
        raise UsageError("--resume and --overwrite exclude each other")
    if not path:
        raise UsageError("-o is empty; it takes a file")
    if file.is_dir():
        raise UsageError(f"{visible(path)} is a folder; -o takes a file")
    if file.exists() and not file.is_file():
        raise UsageError(f"{visible(path)} is not a regular file; leave -o out, and write > {visible(path)}")
    file = file.resolve()  # a link stays, and what it points to is written
    output = FileOutput(chosen, file, header, resume=resume)
    if file.exists() and not overwrite and not (resume and output.journal_path.exists()):
        if resume:
            raise UsageError(f"{visible(path)} is complete already: nothing to resume; replace it with --overwrite")
        raise UsageError(f"{visible(path)} exists; replace it with --overwrite")
    if output.journal_path.exists() and not overwrite and not resume:
        raise UsageError(f"{visible(output.journal_path)} exists: go on with --resume, or start anew with --overwrite")
    if not file.absolute().parent.is_dir():
        raise UsageError(f"{visible(file.parent)}: no such folder for the output")
    return output
