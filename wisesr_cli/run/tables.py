"""The table of runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from wisesr_cli.display.grid import Grid, numbers, percent, texts
from wisesr_cli.results.training import RunSummary

HEADER = tuple(field.name for field in fields(RunSummary))


def values_of(row: RunSummary) -> list[Any]:
    """Return the cells of a run for CSV."""
    return list(asdict(row).values())


def runs_grid(folder: str, rows: Sequence[RunSummary]) -> Grid:
    """Return a row per run, newest first."""
    cells = tuple(_cells(row) for row in rows)
    columns = (
        *texts("name", "data", "head", "backbone"),
        *numbers("best accuracy", "epochs"),
        *texts("status"),
        *numbers("MB"),
        *texts("started or resumed"),
    )
    total = sum(row.bytes for row in rows) / 1e6
    return Grid(f"Runs in {folder}", columns, cells, f"{total:,.1f} MB in total" if len(rows) > 1 else "")


def _cells(row: RunSummary) -> tuple[str, ...]:
    return (
        row.name,
        _short(row.data),
        row.head or "-",
        row.backbone or "-",
        percent(row.top1_accuracy),
        f"{_number(row.epochs)} of {_number(row.planned_epochs)}",
        row.status,
        f"{row.bytes / 1e6:,.1f}",
        row.changed[:16].replace("T", " "),
    )


def _number(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"


def _short(data: str | None) -> str:
    """Return the path of the images, relative to the current folder if they are in it."""
    if data is None:
        return "-"
    path = Path(data)
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else data
