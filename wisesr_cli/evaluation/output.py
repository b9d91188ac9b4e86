"""Writes an evaluation: its metrics as JSON, its tables as CSV, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from wisesr_cli.display.plots import plot_confusion_matrix, plot_reliability
from wisesr_cli.evaluation.metrics import Answers, reliability_bins
from wisesr_cli.evaluation.mistakes import most_confused, worst_mistakes
from wisesr_cli.results.evaluation import Evaluation, Metrics
from wisesr_cli.run.names import (
    CONFUSION_MATRIX,
    CONFUSION_PICTURE,
    METRICS,
    PER_CLASS,
    PREDICTIONS,
    RELIABILITY_PICTURE,
)
from wisesr_cli.run.records import write_json, write_rows


@dataclass(frozen=True)
class Scored:
    """The metrics of some examples, and the answer to each."""

    metrics: Metrics
    answers: Answers


def evaluation_of(scored: Scored, paths: Sequence[str], output_dir: str, split: str, unreadable: int) -> Evaluation:
    """Return the metrics with the most frequent and the surest mistakes, and how reliable the probabilities are."""
    return Evaluation(
        split=split,
        metrics=scored.metrics,
        most_confused=most_confused(scored.metrics),
        worst_mistakes=worst_mistakes(paths, scored.answers, scored.metrics.classes),
        reliability=reliability_bins(scored.answers),
        output_dir=output_dir,
        unreadable=unreadable,
    )


def write_evaluation(output: Path, evaluation: Evaluation, paths: Sequence[str], answers: Answers) -> None:
    """Write metrics and tables of an evaluation; `paths` are those of the images that `answers` are about."""
    metrics = evaluation.metrics
    write_json(output / METRICS, metrics.to_json())
    write_rows(
        output / PER_CLASS,
        ("label", "support", "precision", "recall", "f1"),
        ((row.label, str(row.support), *map(_cell, (row.precision, row.recall, row.f1))) for row in metrics.per_class),
    )
    write_rows(output / CONFUSION_MATRIX, *_confusion_table(metrics))
    columns = (answers.labels, answers.predicted, answers.scores, answers.truth_scores)
    write_rows(
        output / PREDICTIONS,
        ("path", "truth", "predicted", "score", "truth_score", "correct"),
        (
            (
                path,
                metrics.classes[truth],
                metrics.classes[guess],
                repr(score),
                repr(truth_score),
                str(truth == guess).lower(),
            )
            for path, truth, guess, score, truth_score in zip(
                paths, *(column.tolist() for column in columns), strict=True
            )
        ),
    )


def draw_evaluation(plots: Path, evaluation: Evaluation) -> None:
    """Draw the pictures of an evaluation into a folder."""
    plot_confusion_matrix(evaluation.metrics, plots / CONFUSION_PICTURE.format(evaluation.split))
    plot_reliability(
        evaluation.reliability, evaluation.metrics.ece, plots / RELIABILITY_PICTURE.format(evaluation.split)
    )


def _confusion_table(metrics: Metrics) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
    """Return header and rows of the confusion matrix: a column for every class, or of many a row for every cell."""
    names = metrics.classes
    if metrics.confusion.is_dense:
        rows = zip(names, metrics.confusion_matrix, strict=True)
        return ("truth", *names), ((name, *map(str, row)) for name, row in rows)
    cells = metrics.confusion.cells
    return ("truth", "predicted", "count"), ((names[row], names[column], str(count)) for row, column, count in cells)


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
