"""The tables of what heads cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from wisesr_cli.display.grid import Grid, decimal, numbers, texts
from wisesr_cli.results.models import Summary, SummaryRow

SUMMARY_HEADER = tuple(field.name for field in fields(SummaryRow) if field.name != "latency_ms")


def summary_grids(summary: Summary) -> list[Grid]:
    """Return a table per backbone and image size, with every head beside GAP."""
    groups: dict[tuple[str, int, int, int], list[SummaryRow]] = {}
    for row in summary.rows:
        groups.setdefault((row.backbone, row.image_height, row.image_width, row.classes), []).append(row)
    return [_summary_grid(key, rows) for key, rows in groups.items()]


def _summary_grid(key: tuple[str, int, int, int], rows: Sequence[SummaryRow]) -> Grid:
    name, height, width, classes = key
    gap = next((row.head_parameters for row in rows if row.head == "gap"), None)
    timed = any(row.latency_ms is not None for row in rows)
    titles = ("head parameters", "to GAP", "total parameters", "head MFLOPs", "total GFLOPs", "MB")
    columns = (*texts("head"), *numbers(*titles, *(["ms per image"] if timed else [])))
    cells = []
    for row in rows:
        line = [
            row.head,
            f"{row.head_parameters:,}",
            f"{row.head_parameters / gap:.2f}x" if gap else "-",
            f"{row.total_parameters:,}",
            f"{row.head_flops / 1e6:,.2f}",
            f"{row.total_flops / 1e9:,.3f}",
            f"{row.size_mb:,.1f}",
        ]
        cells.append((*line, decimal(row.latency_ms, 2)) if timed else tuple(line))
    map_height, map_width, channels = rows[0].feature_map
    title = f"{name} · {height}x{width} pixels · {classes:,} classes"
    caption = f"feature map {map_height}x{map_width}x{channels}; backbone {rows[0].backbone_parameters:,} parameters"
    return Grid(title, columns, tuple(cells), caption)


def summary_header(summary: Summary) -> tuple[str, ...]:
    """Return the columns of the CSV; latency is one of them only when it was measured."""
    timed = any(row.latency_ms is not None for row in summary.rows)
    return (*SUMMARY_HEADER, "latency_ms") if timed else SUMMARY_HEADER


def summary_rows(summary: Summary) -> list[list[object]]:
    """Return the rows of the CSV."""
    return [
        [
            "x".join(map(str, row.feature_map)) if name == "feature_map" else getattr(row, name)
            for name in summary_header(summary)
        ]
        for row in summary.rows
    ]
