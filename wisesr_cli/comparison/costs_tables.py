"""The tables of what heads cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

from wisesr_cli.display.grid import Grid, decimal, numbers, texts
from wisesr_cli.results.models import Summary, SummaryRow

SUMMARY_HEADER = tuple(field.name for field in fields(SummaryRow) if field.name != "latency_ms")


def summary_grids(summary: Summary) -> list[Grid]:
    """Return a table of heads or, for several backbones or image sizes, one with a row for each of these."""
    groups: dict[tuple[str, int, int, int], list[SummaryRow]] = {}
    for row in summary.rows:
        groups.setdefault((row.backbone, row.image_height, row.image_width, row.classes), []).append(row)
    if len(groups) > 1:
        return [_overview(groups)]
    return [_summary_grid(key, rows) for key, rows in groups.items()]


def _overview(groups: Mapping[tuple[str, int, int, int], Sequence[SummaryRow]]) -> Grid:
    """Return a table with a row per backbone and image size, and a column of parameters per head."""
    heads = list(dict.fromkeys(row.head for rows in groups.values() for row in rows))
    timed = any(row.latency_ms is not None for rows in groups.values() for row in rows)
    columns = (
        *(*texts("backbone", "ImageNet weights"), *numbers("pixels", "feature map", "parameters", "GFLOPs")),
        *numbers(*(f"+ {head}" for head in heads), *(f"{head} ms" for head in heads if timed)),
    )
    cells = []
    for (name, height, width, _), rows in groups.items():
        first, by_head = rows[0], {row.head: row for row in rows}
        cells.append(
            (
                *(name, first.imagenet_weights or "-", f"{height}x{width}", "x".join(map(str, first.feature_map))),
                *(_short(first.backbone_parameters), decimal((first.total_flops - first.head_flops) / 1e9, 2)),
                *(_short(by_head[head].head_parameters) if head in by_head else "-" for head in heads),
                *(decimal(by_head[head].latency_ms, 2) if head in by_head else "-" for head in heads if timed),
            )
        )
    classes = next(iter(groups))[3]
    caption = (
        "ImageNet weights: on this machine (here), to download, or none (-); parameters and GFLOPs are those of the "
        "backbone, + HEAD the parameters of a head; details of one backbone: wisesr summarize --backbone NAME"
    )
    return Grid(f"Backbones · {classes:,} classes", columns, tuple(cells), caption)


def _short(parameters: int) -> str:
    return f"{parameters / 1e6:,.2f} M" if parameters >= 1e6 else f"{parameters / 1e3:,.1f} k"


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
    """Return the columns of the CSV, with latency only if it was measured."""
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
