"""The tables of a report: classes, splits, the confusion matrix and its largest cells; a part if classes are many."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wisesr_cli.report.records import DataTable
from wisesr_cli.results.evaluation import ClassMetrics, Evaluation, Metrics

MOST_CLASSES = 1000  # rows of the table of classes
MOST_IN_MATRIX = 100  # classes; with more, the matrix shows those that are confused most
LARGE_CELLS, MEDIUM_CELLS = 20, 40  # classes up to which cells of the matrix have that size
SHADES = 10


@dataclass(frozen=True)
class ClassRow:
    """A row of the table of classes: its figures, and its images in the splits that were not evaluated."""

    figures: ClassMetrics
    counts: tuple[int, ...]


@dataclass(frozen=True)
class SplitRow:
    """The contents of a split; `smallest` and `largest` are images per class, ignoring classes without any."""

    name: str
    images: int
    classes_with_images: int
    classes: int
    smallest: int
    largest: int


@dataclass(frozen=True)
class PairRow:
    """The number of images of one class predicted as another; classes are positions among all."""

    truth: int
    predicted: int
    count: int
    fraction: float


@dataclass(frozen=True)
class Cell:
    """A cell of the confusion matrix; `shade` is 0 to `SHADES`."""

    index: int
    count: int
    shade: int


@dataclass(frozen=True)
class MatrixRow:
    """A row of the confusion matrix: a true class."""

    index: int
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class Matrix:
    """The confusion matrix or, with very many classes, its part for those that are confused most."""

    indices: tuple[int, ...]
    rows: tuple[MatrixRow, ...]
    left_out: int
    size: str


def class_rows(metrics: Metrics, data: DataTable) -> list[ClassRow]:
    """Return the figures of every class or, of very many, of those with the lowest F1; class order is kept."""
    others = [counts for name, counts in zip(data.columns, data.counts, strict=True) if name != data.evaluated]
    f1 = [math.inf if row.f1 is None else row.f1 for row in metrics.per_class]
    lowest = sorted(range(len(f1)), key=f1.__getitem__)
    chosen = sorted(lowest[:MOST_CLASSES])
    return [ClassRow(metrics.per_class[label], tuple(counts[label] for counts in others)) for label in chosen]


def split_rows(data: DataTable) -> list[SplitRow]:
    """Return the contents of each split."""
    rows = []
    for name, counts in zip(data.columns, data.counts, strict=True):
        filled = [count for count in counts if count]
        rows.append(
            SplitRow(name, sum(counts), len(filled), len(counts), min(filled, default=0), max(counts, default=0))
        )
    return rows


def matrix_of(metrics: Metrics) -> Matrix:
    """Return the cells of the confusion matrix, shaded by their fraction of the true class."""
    indices = metrics.confusion.most_confused(MOST_IN_MATRIX)
    confusion = np.array(metrics.confusion.part(indices))
    support = np.array([metrics.per_class[label].support for label in indices])
    fractions = confusion / np.maximum(support, 1)[:, None]
    # In cells without numbers, the shade alone must show a confusion of a few percent.
    shades = np.rint(SHADES * (fractions if len(indices) <= LARGE_CELLS else np.sqrt(fractions))).astype(int)
    rows = tuple(
        MatrixRow(label, tuple(map(Cell, indices, counts, row_shades)))
        for label, counts, row_shades in zip(indices, confusion.tolist(), shades.tolist(), strict=True)
    )
    size = "large" if len(indices) <= LARGE_CELLS else "medium" if len(indices) <= MEDIUM_CELLS else "many"
    return Matrix(tuple(indices), rows, len(metrics.classes) - len(indices), size)


def confused_pairs(evaluation: Evaluation) -> list[PairRow]:
    """Return the pairs of classes that are confused most, with classes as positions among all."""
    labels = {name: label for label, name in enumerate(evaluation.metrics.classes)}
    return [
        PairRow(labels[pair.truth], labels[pair.predicted], pair.count, pair.fraction_of_truth)
        for pair in evaluation.most_confused
    ]
