"""Writes an evaluation: its metrics as JSON, its tables as CSV, and its pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.data.settings import LABEL_SEPARATOR
from wisesr_cli.display.plots import can_draw, plot_confusion_matrix, plot_reliability
from wisesr_cli.evaluation.metrics import Answers, reliability_bins
from wisesr_cli.evaluation.mistakes import most_confused, worst_labels, worst_mistakes
from wisesr_cli.evaluation.multilabel import LabelAnswers, label_reliability
from wisesr_cli.listening import Listener
from wisesr_cli.machine.installation import install_line
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.results.evaluation import AnyEvaluation, Evaluation, Metrics, MultilabelEvaluation, MultilabelMetrics
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


@dataclass(frozen=True)
class ScoredLabels:
    """The same where an image may have several labels."""

    metrics: MultilabelMetrics
    answers: LabelAnswers
    info: ModelInfo  # has the thresholds


def evaluation_of(
    scored: Scored | ScoredLabels, paths: Sequence[str], output_dir: str, split: str, unreadable: int
) -> AnyEvaluation:
    """Return metrics, the most frequent and the most confident mistakes, and the reliability of the probabilities."""
    if isinstance(scored, ScoredLabels):
        worst, reliability = worst_labels(paths, scored.answers, scored.info), label_reliability(scored.answers)
        return MultilabelEvaluation(split, scored.metrics, worst, reliability, output_dir, unreadable)
    return Evaluation(
        split=split,
        metrics=scored.metrics,
        most_confused=most_confused(scored.metrics),
        worst_mistakes=worst_mistakes(paths, scored.answers, scored.metrics.classes),
        reliability=reliability_bins(scored.answers),
        output_dir=output_dir,
        unreadable=unreadable,
    )


def write_evaluation(output: Path, scored: Scored | ScoredLabels, paths: Sequence[str]) -> None:
    """Write the metrics and tables of an evaluation; `paths` are those of the images, in the order of the answers."""
    write_json(output / METRICS, scored.metrics.to_json())
    more = ("threshold", "average_precision") if isinstance(scored, ScoredLabels) else ()
    names = ("label", "support", "precision", "recall", "f1", *more)
    write_rows(
        output / PER_CLASS,
        names,
        ((row.label, *(_cell(getattr(row, name)) for name in names[1:])) for row in scored.metrics.per_class),
    )
    if isinstance(scored, ScoredLabels):
        _write_label_predictions(output / PREDICTIONS, scored, paths)
    else:
        write_rows(output / CONFUSION_MATRIX, *_confusion_table(scored.metrics))
        _write_predictions(output / PREDICTIONS, scored, paths)


def _write_label_predictions(path: Path, scored: ScoredLabels, paths: Sequence[str]) -> None:
    answers, names = scored.answers, scored.metrics.classes

    def text(row: NDArray[np.bool_]) -> str:
        return LABEL_SEPARATOR.join(names[label] for label in np.flatnonzero(row))

    write_rows(
        path,
        ("path", "truth", "predicted", "missed", "extra", "correct"),
        (
            (image, text(truth), text(given), text(truth & ~given), text(given & ~truth), str(right).lower())
            for image, truth, given, right in zip(
                paths, answers.labels, answers.predicted, answers.exact.tolist(), strict=True
            )
        ),
    )


def _write_predictions(path: Path, scored: Scored, paths: Sequence[str]) -> None:
    metrics, answers = scored.metrics, scored.answers
    columns = (answers.labels, answers.predicted, answers.scores, answers.truth_scores)
    write_rows(
        path,
        ("path", "truth", "predicted", "score", "truth_score", "correct"),
        (
            (
                image,
                metrics.classes[truth],
                metrics.classes[guess],
                repr(score),
                repr(truth_score),
                str(truth == guess).lower(),
            )
            for image, truth, guess, score, truth_score in zip(
                paths, *(column.tolist() for column in columns), strict=True
            )
        ),
    )


def draw_evaluation(plots: Path, evaluation: AnyEvaluation, listener: Listener) -> None:
    """Draw the plots of an evaluation into a folder, if Matplotlib is installed."""
    if not can_draw():
        listener.note(f"no plots, as matplotlib is not installed: {install_line('matplotlib')}")
        return
    if isinstance(evaluation, Evaluation):
        plot_confusion_matrix(evaluation.metrics, plots / CONFUSION_PICTURE.format(evaluation.split))
    plot_reliability(
        evaluation.reliability, evaluation.metrics.ece, plots / RELIABILITY_PICTURE.format(evaluation.split)
    )


def _confusion_table(metrics: Metrics) -> tuple[Sequence[str], Iterator[Sequence[str]]]:
    """Return header and rows of the confusion matrix: a column per class or, of many classes, a row per cell."""
    names = metrics.classes
    if metrics.confusion.is_dense:
        rows = zip(names, metrics.confusion_matrix, strict=True)
        return ("truth", *names), ((name, *map(str, row)) for name, row in rows)
    cells = metrics.confusion.cells
    return ("truth", "predicted", "count"), ((names[row], names[column], str(count)) for row, column, count in cells)


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
