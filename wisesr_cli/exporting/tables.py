"""The table of exports, for the terminal, Markdown and CSV."""

from __future__ import annotations

from dataclasses import fields

from wisesr_cli.display.grid import Grid, numbers, percent, texts
from wisesr_cli.results.models import ExportedModel, Exports

EXPORT_HEADER = (*(field.name for field in fields(ExportedModel)), "top1_accuracy_difference")

_COLUMNS = (*texts("format", "file"), *numbers("MB", "largest difference", "of logits", "same best label"))
_JUDGED_COLUMNS = numbers("top-1 accuracy", "of the run", "cost in points")


def export_grid(exports: Exports) -> Grid:
    """Return a row per export; accuracies only if one was quantized."""
    first, judged = exports.rows[0], next((row for row in exports.rows if row.judged_images is not None), None)
    rows = tuple(_cells(row) + (_judged_cells(row) if judged else ()) for row in exports.rows)
    caption = (
        f"compared with the run on {first.compared_images:,} images of {first.compared_on}: the largest "
        "difference of a probability and of a logit, and how often the best label is the same"
    )
    if judged is not None:
        caption += f"; accuracies on {judged.judged_images:,} images of it"
    return Grid("Exports", (*_COLUMNS, *(_JUDGED_COLUMNS if judged else ())), rows, caption)


def _cells(row: ExportedModel) -> tuple[str, ...]:
    name = row.format if row.quantize is None else f"{row.format}, {row.quantize}"
    of_logits = "-" if row.max_logit_difference is None else f"{row.max_logit_difference:.1e}"
    differences = f"{row.max_probability_difference:.1e}", of_logits
    return name, row.file, f"{row.bytes / 1e6:,.2f}", *differences, percent(row.top1_agreement)


def _judged_cells(row: ExportedModel) -> tuple[str, ...]:
    difference = row.top1_accuracy_difference
    cost = "-" if difference is None else f"{-100 * difference + 0.0:.1f}"
    return percent(row.top1_accuracy), percent(row.run_top1_accuracy), cost


def export_rows(exports: Exports) -> list[list[object]]:
    """Return the rows of the CSV."""
    return [[row.to_json()[name] for name in EXPORT_HEADER] for row in exports.rows]
