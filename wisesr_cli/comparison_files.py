"""Writes what a comparison came to into its folder: JSON, CSV, Markdown and pictures, each as a whole."""

from __future__ import annotations

from wisesr_cli.comparison_plots import plot_accuracies, plot_curves
from wisesr_cli.comparison_tables import CSV_HEADER, comparison_markdown, comparison_rows
from wisesr_cli.files import make_folder, write_text
from wisesr_cli.report import to_csv
from wisesr_cli.results import Comparison
from wisesr_cli.run_files import (
    ACCURACY_PICTURE,
    COMPARISON,
    COMPARISON_TABLE,
    COMPARISON_TEXT,
    LEARNING_CURVES,
    write_json,
)
from wisesr_cli.runs import Run


def write_comparison(folder: Run, comparison: Comparison) -> None:
    """Write the tables and, where any training came to something, the pictures."""
    write_json(folder.path / COMPARISON, comparison.to_json())
    write_text(folder.path / COMPARISON_TABLE, to_csv(CSV_HEADER, comparison_rows(comparison)))
    write_text(folder.path / COMPARISON_TEXT, comparison_markdown(comparison))
    if any(row.seeds for row in comparison.rows):
        make_folder(folder.plots)
        plot_accuracies(comparison, folder.plots / ACCURACY_PICTURE)
        plot_curves(comparison, folder.plots / LEARNING_CURVES)
