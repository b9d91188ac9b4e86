"""Writes predictions to a stream, or through a journal to a file that is complete or does not exist.

When all inputs are done the journal is rendered and renamed; after a killed process, `--resume` continues after the
journal's last complete record, so that the output is byte for byte that of an uninterrupted run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import TextIO

from wisesr_cli.data.oddities import Tally
from wisesr_cli.display.grid import Grid, csv_line, to_json, to_markdown
from wisesr_cli.display.terminal import show_grid
from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.machine.files import TEMPORARY_PREFIX, flush_to_disk, is_link_of_another, replacing
from wisesr_cli.prediction.journal import FIRST_RECORD, SUFFIX, Journal, JournalHeader
from wisesr_cli.prediction.tables import prediction_cells, prediction_columns
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results import Prediction
from wisesr_cli.text import visible

TABLE_ROWS = 200  # tables are drawn in parts of this size, so that memory does not grow
CSV_HEADER = ("path", "label", "score", "error")


class Renderer:
    """Writes records to a stream in one format, with a format's opening and, by `end`, its closing."""

    def __init__(self, name: str, stream: TextIO) -> None:
        self.name, self.stream = name, stream
        self.count = 0
        self.waiting: list[Prediction] = []

    def write(self, record: Prediction) -> None:
        """Write one record."""
        self._begin()
        if self.name in {"table", "markdown"}:
            self.waiting.append(record)
            if len(self.waiting) == TABLE_ROWS:
                self._draw()
        elif self.name == "csv":
            self.stream.write(csv_line((record.path, record.label, record.score, record.error)))
        else:
            separator = {"jsonl": "", "json": ",\n" if self.count else "\n"}[self.name]
            self.stream.write(separator + to_json(record.to_json()) + ("\n" if self.name == "jsonl" else ""))
        self.count += 1

    def end(self) -> None:
        """Write pending rows and the closing; a shard may have no record."""
        self._begin()
        if self.waiting:
            self._draw()
        if self.name == "json":
            self.stream.write("\n]\n")
        self.stream.flush()

    def _begin(self) -> None:
        """Write the opening with the first record, not before, so that the stream stays empty after an error."""
        if not self.count:
            self.stream.write({"json": "[", "csv": csv_line(CSV_HEADER)}.get(self.name, ""))

    def _draw(self) -> None:
        grid = Grid("", prediction_columns(), tuple(prediction_cells(record) for record in self.waiting))
        if self.name == "table":
            show_grid(grid, file=self.stream, limit=None)
        else:
            text = to_markdown(grid)
            first = self.count < TABLE_ROWS
            self.stream.write(text if first else "".join(text.splitlines(keepends=True)[2:]))
        self.waiting.clear()


class FileOutput:
    """Predictions in a file of the format `chosen`, through a journal beside it.

    `header` is what the journal must match to be resumed; `overwrite` replaces an existing file and journal.
    """

    def __init__(
        self, chosen: str, path: Path, header: JournalHeader, *, overwrite: bool = False, resume: bool = False
    ) -> None:
        self.chosen, self.path, self.header, self.overwrite, self.resume = chosen, path, header, overwrite, resume
        self.journal_path = path.with_name(path.name + SUFFIX)
        self.tally = Tally()

    def __enter__(self) -> FileOutput:
        """Open the journal, which locks the output.

        Raises:
            UsageError: the file or journal exists, and neither overwriting nor resuming was requested.
            MachineError: another process writes this output, or it cannot be written.
            RunError: the journal to resume is damaged, or belongs to another model or other options.
        """
        self.journal = Journal(self.journal_path, self.header)
        try:
            self._refuse_existing()
            for leftover in self.path.parent.glob(f"{self._rendering}*"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
            if self.resume:
                self.journal.resume()
            else:
                self.journal.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *exception: object) -> None:
        self.journal.close()

    def _refuse_existing(self) -> None:
        if self.overwrite or self.resume:
            return
        if self.path.exists():
            raise UsageError(f"{visible(self.path)} exists; replace it with --overwrite")
        if self.journal.has_records:
            raise UsageError(
                f"{visible(self.journal_path)} exists: go on with --resume, or start anew with --overwrite"
            )

    def without_own_files(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield the inputs without the journal, which a pattern may match.

        Raises a `UsageError` if the output itself is an input.
        """
        for path in paths:
            name = Path(path).name
            if name == self.path.name and _is_same(path, self.path):
                raise UsageError(f"{visible(path)}: is an input and the output; choose another name with -o")
            if name != self.journal_path.name or not _is_same(path, self.journal_path):
                yield path

    def skip_done(self, paths: Iterable[str]) -> Iterable[str]:
        """Return the inputs that are not in the journal; raises a `RunError` if the others differ from it."""
        rest = iter(paths)
        for number, record in enumerate(self.journal.records(), start=FIRST_RECORD):
            path = next(rest, None)
            if path != record.path:
                raise RunError(
                    f"{visible(self.journal_path)}:{number}: the inputs are others than before: {visible(record.path)} "
                    f"was here, now {'nothing' if path is None else visible(path)}; start anew with --overwrite"
                )
            self.tally.add(record)
        return rest

    def write(self, record: Prediction) -> None:
        """Append one record to the journal."""
        self.tally.add(record)
        self.journal.append(record)

    @property
    def _rendering(self) -> str:
        """The start of the name of the temporary file that becomes the output, so that leftovers can be removed."""
        return f"{TEMPORARY_PREFIX}{sha256(os.fsencode(self.path.name)).hexdigest()[:12]}-"

    def finish(self) -> None:
        """Render the journal into the output and remove the journal."""
        self.journal.flush_to_disk()
        with (
            replacing(self.path, begin=self._rendering, end="") as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            renderer = Renderer(self.chosen, stream)
            for record in self.journal.records():
                renderer.write(record)
            renderer.end()
        self.journal.remove()
        flush_to_disk(self.path.parent)


def _is_same(path: str, other: Path) -> bool:
    try:
        return Path(path).samefile(other)
    except (OSError, ValueError):  # one does not exist, or its name is invalid
        return False


def open_output(request: PredictRequest, header: Callable[[], JournalHeader]) -> FileOutput | None:
    """Return the output file of a request, or None; `header` hashes the model, and is called last.

    Raises a `UsageError` if the output exists, its folder does not, or resuming was requested without a file.
    """
    path = request.output
    if path is None:
        if request.resume or request.overwrite:
            raise UsageError("--resume and --overwrite need -o FILE")
        return None
    file = Path(path)
    if request.overwrite and request.resume:
        raise UsageError("--resume and --overwrite exclude each other")
    if not path:
        raise UsageError("-o is empty; it takes a file")
    if is_link_of_another(file):
        raise UsageError(f"{visible(path)}: is a link that another user made; choose another name with -o")
    if file.is_dir():
        raise UsageError(f"{visible(path)} is a folder; -o takes a file")
    if file.exists() and not file.is_file():
        raise UsageError(f"{visible(path)} is not a regular file; leave -o out, and write > {visible(path)}")
    file = file.resolve()  # a link is kept, and its target written
    if request.from_file is not None and _is_same(request.from_file, file):
        raise UsageError(f"{visible(path)}: is the list of inputs and the output; choose another name with -o")
    if file.exists() and not request.overwrite and not request.resume:
        raise UsageError(f"{visible(path)} exists; replace it with --overwrite")
    if not file.parent.is_dir():
        raise UsageError(f"{visible(file.parent)}: no such folder for the output")
    return FileOutput(request.output_format, file, header(), overwrite=request.overwrite, resume=request.resume)
