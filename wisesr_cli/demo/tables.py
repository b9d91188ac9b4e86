"""Builds the table of the demo."""

from __future__ import annotations

from wisesr_cli.demo.demo import DemoResult
from wisesr_cli.display.grid import Grid, numbers, percent, texts


def demo_grid(result: DemoResult) -> Grid:
    """Return the table of the demo's heads, side by side."""
    figures = numbers("top-1 accuracy", "macro F1", "test pictures", "head parameters", "all parameters")
    columns = (*texts("head"), *figures, *texts("run directory"))
    rows = tuple(
        (
            row.head,
            percent(row.metrics.top1_accuracy),
            percent(row.metrics.macro_f1),
            f"{row.metrics.examples:,}",
            f"{row.head_parameters:,}",
            f"{row.parameters:,}",
            row.run_dir,
        )
        for row in result.rows
    )
    return Grid("Demo: where are the red sails? (chance 11.1 %)", columns, rows)
