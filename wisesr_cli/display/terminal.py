"""Shows results: rich tables for people, JSON, CSV and Markdown for programs.

Data goes to standard output, everything else to standard error. To add an output format, write a renderer and add a row
to `FORMATS`. All text from outside passes through `text.visible` before it reaches a terminal.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, TextIO

from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from wisesr_cli import listening
from wisesr_cli.display.grid import Grid, markdown_section, to_csv, to_json
from wisesr_cli.listening import Silent
from wisesr_cli.text import visible

LONG_TABLE = 40  # rows; longer tables are shortened on a terminal
PLAIN_SECONDS = 10.0  # between lines of progress without a terminal
_PLAIN_BARS = str.maketrans({"█": "#", **dict.fromkeys("▏▎▍▌", ""), **dict.fromkeys("▋▊▉", "#")})
PLAIN_WIDTH = 10_000  # without a terminal nothing is wrapped


def console(file: TextIO | None = None) -> Console:
    """Return a console that neither wraps nor colours when the stream is not a terminal."""
    stream = file or sys.stdout
    width = None if stream.isatty() else PLAIN_WIDTH
    return Console(file=stream, width=width, markup=False, emoji=False, highlight=False, soft_wrap=not stream.isatty())


def show_grid(grid: Grid, *, file: TextIO | None = None, limit: int | None = LONG_TABLE) -> None:
    """Draw a table; with more than `limit` rows only the first and last."""
    output = console(file)
    bars = {} if output.encoding.lower().replace("-", "") == "utf8" else _PLAIN_BARS
    table = Table(box=box.SIMPLE_HEAD, show_header=any(column.title for column in grid.columns), pad_edge=False)
    for column in grid.columns:
        justify: Literal["left", "right"] = "right" if column.number else "left"
        table.add_column(Text(visible(column.title)), justify=justify, overflow="fold")
    for row in _shortened(grid.rows, limit):
        table.add_row(*(Text(visible(cell.translate(bars))) for cell in row))
    if grid.title:
        output.print(Text(visible(grid.title), style="bold"))
    output.print(table)
    if grid.caption:
        output.print(Text(visible(grid.caption), style="dim"))


def _shortened(rows: Sequence[tuple[str, ...]], limit: int | None) -> Iterator[tuple[str, ...]]:
    if limit is None or len(rows) <= limit:
        yield from rows
        return
    half = limit // 2
    yield from rows[:half]
    yield row_of_hidden(hidden_rows(len(rows), limit), len(rows[0]))
    yield from rows[-half:]


def hidden_rows(count: int, limit: int | None) -> int:
    """Return how many of `count` rows a table omits."""
    return 0 if limit is None or count <= limit else count - 2 * (limit // 2)


def row_of_hidden(hidden: int, columns: int) -> tuple[str, ...]:
    """Return the row that stands for the omitted rows of a table."""
    return (f"... {hidden:,} more ...", *("" for _ in range(columns - 1)))


def write_output(text: str) -> None:
    """Write and flush data, so that a closed pipe or a full disk is an error here."""
    sys.stdout.write(text)
    sys.stdout.flush()


class TerminalListener:
    """Reports to people on standard error: progress bars on a terminal, plain lines elsewhere.

    `quiet` shows warnings only; `verbose` does not shorten tables; without `bars`, which would disturb records written
    to the same screen, no progress is shown.
    """

    def __init__(self, *, quiet: bool = False, verbose: bool = False, bars: bool = True) -> None:
        self.quiet, self.verbose, self.bars = quiet, verbose, bars
        self.console = console(sys.stderr)

    def note(self, message: str) -> None:
        """Report information."""
        if not self.quiet:
            self._print(message, "")

    def warn(self, message: str) -> None:
        """Report a warning."""
        self._print(f"warning: {message}", "yellow")

    def grid(self, grid: Grid) -> None:
        """Show a table on standard error."""
        if not self.quiet:
            show_grid(grid, file=sys.stderr, limit=None if self.verbose else LONG_TABLE)

    def _print(self, message: str, style: str) -> None:
        self.console.print(Text(visible(message), style=style), soft_wrap=True)

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[listening.Progress]:
        """Show a bar with the remaining time on a terminal, and occasional lines elsewhere."""
        if self.quiet or not self.bars:
            yield Silent()
            return
        if not self.console.is_terminal:
            yield PlainProgress(self, label, total)
            return
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        with Progress(*columns, console=self.console, transient=True) as live:
            yield Bar(live, live.add_task(visible(label), total=total))


class Bar:
    """A `listening.Progress` on a terminal."""

    def __init__(self, live: Progress, task: Any) -> None:
        self.live, self.task = live, task

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as done."""
        self.live.advance(self.task, steps)

    def describe(self, label: str) -> None:
        """Show the current activity."""
        self.live.update(self.task, description=visible(label))


class PlainProgress:
    """A `listening.Progress` without a terminal: a line every `PLAIN_SECONDS`, with the remaining time if known."""

    def __init__(self, listener: TerminalListener, label: str, total: int | None) -> None:
        self.listener, self.label, self.total = listener, label, total
        self.done = 0
        self.started = self.reported = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more as done."""
        self.done += steps
        now = time.monotonic()
        if now - self.reported >= PLAIN_SECONDS:
            self.reported = now
            self.listener.note(self._line(now - self.started))

    def _line(self, seconds: float) -> str:
        if not self.total or not self.done:
            return f"{self.label}: {self.done:,}" + (f" of {self.total:,}" if self.total else "")
        left = seconds * max(0, self.total - self.done) / self.done
        return f"{self.label}: {self.done:,} of {self.total:,}, about {left:,.0f} s left"

    def describe(self, label: str) -> None:
        """Show the current activity."""
        self.label = label


Renderer = Callable[[Sequence[Grid], Sequence[str], Sequence[Sequence[Any]], Any], str]

FORMATS: dict[str, Renderer] = {
    "json": lambda grids, header, rows, value: to_json(value) + "\n",
    "csv": lambda grids, header, rows, value: to_csv(header, rows),
    "markdown": lambda grids, header, rows, value: "\n".join(markdown_section(grid) for grid in grids),
}


def show_result(
    chosen: str,
    *,
    grids: Sequence[Grid],
    header: Sequence[str],
    rows: Sequence[Sequence[Any]],
    value: Any,
    limit: int | None = LONG_TABLE,
) -> None:
    """Write a result to standard output as `chosen`: `table`, or a key of `FORMATS`.

    `grids` are for tables and Markdown, `header` and `rows` for CSV, `value` for JSON. `limit` is the number of table
    rows shown; None is all.
    """
    if chosen == "table":
        for grid in grids:
            show_grid(grid, limit=limit)
        sys.stdout.flush()
    else:
        write_output(FORMATS[chosen](grids, header, rows, value))
