"""Builds the tables of a check."""

from __future__ import annotations

from wisesr_cli.display.grid import Grid, texts
from wisesr_cli.results.images import CheckResult


def check_grid(result: CheckResult) -> Grid:
    """Return the findings of a check."""
    rows = tuple((row.level.upper(), row.code, row.message) for row in result.findings)
    return Grid("Check", texts("result", "what", "found"), rows)


def check_paths_grid(result: CheckResult, *, limit: int | None) -> Grid:
    """Return the files named in the findings, at most `limit` per finding."""
    rows = [
        (row.code, path)
        for row in result.findings
        if row.level != "pass"
        for path in (row.paths if limit is None else row.paths[:limit])
    ]
    return Grid("Files", texts("what", "file"), tuple(rows))
