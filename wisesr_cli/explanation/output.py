"""Explanations as JSON, CSV, Markdown and a table, on standard output and next to the pictures.

JSON and CSV are written incrementally; a table and Markdown keep a row of text per image until the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, Protocol, TextIO

from wisesr_cli.display.grid import Grid, csv_line, numbers, percent, texts, to_json, to_markdown
from wisesr_cli.display.terminal import LONG_TABLE, hidden_rows, show_grid
from wisesr_cli.explanation.pictures import strongest_position
from wisesr_cli.explanation.receptive_field import ReceptiveField
from wisesr_cli.results.streams import Explanation

HEADER = (
    *("path", "label", "score", "logit", "bias", "sum", "strongest_other", "difference"),
    *("strongest_row", "strongest_column", "strongest_value", "error"),
)
COLUMNS = (
    *(*texts("image", "class"), *numbers("score", "logit", "= sum", "+ bias")),
    *(*texts("against"), *numbers("difference", "strongest at", "with")),
)


class Source(Protocol):
    """The source of explanations: an `Explainer`, or the records of `explain`."""

    @property
    def statement(self) -> str:
        """What is exact about them."""

    @property
    def receptive_field(self) -> ReceptiveField | None:
        """Which pixels each position can see."""


class ExplanationWriter:
    """Writes explanations to a stream in the format `name`: table, json, csv or markdown.

    Statement and receptive field of `source` are fields of JSON; `limit` is the number of table rows shown (None: all).
    """

    def __init__(self, name: str, stream: TextIO, source: Source, *, limit: int | None = LONG_TABLE) -> None:
        self.name, self.stream, self.source, self.limit = name, stream, source, limit
        self._is_started = False
        self._count = 0  # rows of JSON
        self._cells: list[tuple[str, ...]] = []

    @property
    def hidden(self) -> int:
        """How many rows the table leaves out."""
        return hidden_rows(len(self._cells), self.limit) if self.name == "table" else 0

    def write(self, explanation: Explanation) -> None:
        """Write one explanation: a row per requested class, else of the predicted one."""
        if not self._is_started:  # without an image, nothing is written
            self.stream.write({"json": '{"rows": [', "csv": csv_line(HEADER)}.get(self.name, ""))
            self._is_started = True
        if self.name == "json":
            for row in explanation.to_json():
                self.stream.write((",\n" if self._count else "\n") + to_json(row))
                self._count += 1
        elif self.name == "csv":
            self.stream.writelines(csv_line(values) for values in _values(explanation))
        else:
            self._cells += [_cells(values) for values in _values(explanation)]
        self.stream.flush()

    def end(self) -> None:
        """Write pending rows and the end of the format."""
        if self.name == "json":
            found = self.source.receptive_field
            field, statement = to_json(None if found is None else asdict(found)), to_json(self.source.statement)
            self.stream.write(f'\n], "statement": {statement}, "receptive_field": {field}}}\n')
        elif self.name != "csv":
            caption = "positions (row, column) count from 0 at the top left"
            grid = Grid("Explanations", COLUMNS, tuple(self._cells), caption)
            if self.name == "table":
                show_grid(grid, file=self.stream, limit=self.limit)
            else:
                self.stream.write(to_markdown(grid))
        self.stream.flush()


def _values(explanation: Explanation) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of an explanation, with the fields of `HEADER`."""
    predicted, runner_up = explanation.predicted, explanation.runner_up
    if predicted is None:
        yield (explanation.path, *(None,) * (len(HEADER) - 2), explanation.error)
        return
    for row in explanation.asked or (predicted,):
        is_predicted = row.label == predicted.label
        other = runner_up if is_predicted else predicted
        score = explanation.score if is_predicted else None
        if explanation.scores is not None:  # of several labels, which do not compete
            score, other = explanation.scores[row.label], None
        yield (
            explanation.path,
            row.label,
            score,
            row.logit,
            row.bias,
            row.sum,
            None if other is None else other.label,
            None if other is None else row.logit - other.logit,
            *strongest_position(row),
            None,
        )


def _cells(values: tuple[Any, ...]) -> tuple[str, ...]:
    """Return a row of `_values` as cells of a table."""
    path, label, score, logit, bias, total, other, difference, row, column, strongest, error = values
    if error is not None:
        return (path, "-", "-", "-", "-", "-", f"unreadable: {error}", "-", "-", "-")
    logits = _signed(logit), _signed(total), _signed(bias)
    against = other or "-", _signed(difference), f"({row}, {column})", f"{strongest:+.2g}"
    return path, label, percent(score), *logits, *against


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
