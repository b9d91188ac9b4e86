"""The tables of a comparison as rows of text, and the files that they are written to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

from wisesr_cli.comparison.conclusions import examples_of, points, trainings_of
from wisesr_cli.comparison.plots import plot_accuracies, plot_curves
from wisesr_cli.display.grid import Grid, decimal, markdown_text, numbers, texts, to_csv
from wisesr_cli.display.terminal import FORMATS
from wisesr_cli.machine.files import make_folder, write_text
from wisesr_cli.results.training import Comparison, ComparisonRow
from wisesr_cli.run.names import ACCURACY_PICTURE, COMPARISON, COMPARISON_TABLE, COMPARISON_TEXT, LEARNING_CURVES
from wisesr_cli.run.records import write_json
from wisesr_cli.run.run import Run

CSV_HEADER = (
    *(field.name for field in fields(ComparisonRow) if field.name != "difference_to_first_ci95"),
    "difference_to_first_ci95_low",
    "difference_to_first_ci95_high",
)


def comparison_grids(comparison: Comparison) -> list[Grid]:
    """Return tables of the heads' results, their differences from the first one, and their costs."""
    return [_accuracy_grid(comparison), _cost_grid(comparison)]


def _accuracy_grid(comparison: Comparison) -> Grid:
    difference = f"to {comparison.rows[0].head}, points"
    columns = (*texts("head"), *numbers("n", "top-1, %", "macro F1, %", difference, "95 % interval"))
    drawn = "seeds" if comparison.folds is None else "folds"
    caption = (
        f"mean ± standard deviation over n {drawn}; differences are in top-1 accuracy, between trainings with equal "
        f"{drawn}"
    )
    title = f"Heads on {comparison.split}: {examples_of(comparison)}"
    cells = tuple(_accuracy_cells(row, len(trainings_of(row, comparison))) for row in comparison.rows)
    return Grid(title, columns, cells, caption)


def _accuracy_cells(row: ComparisonRow, trainings: int) -> tuple[str, ...]:
    interval = row.difference_to_first_ci95
    return (
        row.head,
        str(trainings),
        spread(row.top1_accuracy_mean, row.top1_accuracy_std),
        spread(row.macro_f1_mean, row.macro_f1_std),
        "-" if row.difference_to_first_mean is None else points(row.difference_to_first_mean),
        "-" if interval is None else f"{points(interval[0])} to {points(interval[1])}",
    )


def _cost_grid(comparison: Comparison) -> Grid:
    first = comparison.rows[0].head
    counts = numbers("head parameters", "all parameters", "s per epoch", f"epochs to {first}'s best")
    caption = (
        f"epochs to reach the best accuracy of {first} with the same seed, on {comparison.curves_of}; -: not always "
        "reached"
    )
    return Grid("Cost", (*texts("head"), *counts), tuple(map(_cost_cells, comparison.rows)), caption)


def _cost_cells(row: ComparisonRow) -> tuple[str, ...]:
    return (
        row.head,
        "-" if row.head_parameters is None else f"{row.head_parameters:,}",
        "-" if row.total_parameters is None else f"{row.total_parameters:,}",
        decimal(row.seconds_per_epoch_mean, 2),
        decimal(row.epochs_to_first_best_mean, 1),
    )


def spread(mean: float | None, deviation: float | None) -> str:
    """Return fractions as percent, `93.4 ± 0.8`, without the deviation if there is none (a single value)."""
    if mean is None:
        return "-"
    return f"{100 * mean:.1f}" + ("" if deviation is None else f" ± {100 * deviation:.1f}")


def conclusions_grid(comparison: Comparison) -> Grid:
    """Return the conclusions as a table, one per row."""
    lines = tuple(("-", line) for line in comparison.conclusions)
    return Grid("What the results show", texts("", ""), lines)


def comparison_rows(comparison: Comparison) -> list[Sequence[object]]:
    """Return the rows of the CSV with exact values, and lists of seeds separated by spaces."""
    return [[_value(row, name) for name in CSV_HEADER] for row in comparison.rows]


def _value(row: ComparisonRow, name: str) -> object:
    if name.startswith("difference_to_first_ci95_"):
        interval = row.difference_to_first_ci95
        return None if interval is None else interval[0 if name.endswith("low") else 1]
    value = getattr(row, name)
    return " ".join(map(str, value)) if isinstance(value, tuple) else value


def comparison_markdown(comparison: Comparison) -> str:
    """Return the tables and the conclusions as Markdown."""
    tables = FORMATS["markdown"](comparison_grids(comparison), (), (), None)
    return tables + "\n" + "".join(f"- {markdown_text(line)}\n" for line in comparison.conclusions)


def write_comparison(folder: Run, comparison: Comparison) -> None:
    """Write the tables and, if any training has a result, the plots."""
    write_json(folder.path / COMPARISON, comparison.to_json())
    write_text(folder.path / COMPARISON_TABLE, to_csv(CSV_HEADER, comparison_rows(comparison)))
    write_text(folder.path / COMPARISON_TEXT, comparison_markdown(comparison))
    if any(row.seeds for row in comparison.rows):
        make_folder(folder.plots)
        plot_accuracies(comparison, folder.plots / ACCURACY_PICTURE)
        plot_curves(comparison, folder.plots / LEARNING_CURVES)
