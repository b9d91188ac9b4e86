"""Finds the mistakes of an evaluation that are worth looking at. NumPy only."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np

from wisesr_cli.evaluation.metrics import Answers
from wisesr_cli.evaluation.multilabel import LabelAnswers
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.results.evaluation import ConfusedPair, LabelMistake, Metrics, Mistake


def most_confused(metrics: Metrics, *, limit: int = 10) -> tuple[ConfusedPair, ...]:
    """Return the most frequently confused pairs of classes; of equal counts, the larger share first."""
    support = [row.support for row in metrics.per_class]
    wrong = (cell for cell in metrics.confusion.cells if cell[0] != cell[1])
    most = heapq.nsmallest(limit, wrong, key=lambda cell: (-cell[2], support[cell[0]]))  # stable, as `sorted` is
    return tuple(
        ConfusedPair(metrics.classes[truth], metrics.classes[predicted], count, count / support[truth])
        for truth, predicted, count in most
    )


def worst_labels(
    paths: Sequence[str], answers: LabelAnswers, info: ModelInfo, *, limit: int = 20
) -> tuple[LabelMistake, ...]:
    """Return the labels that were wrongly given or missed, farthest from their threshold first."""
    images, labels = np.nonzero(answers.labels != answers.predicted)
    thresholds = np.asarray(info.thresholds)[labels]
    scores = answers.probabilities[images, labels].astype(np.float64)
    order = np.argsort(-np.abs(scores - thresholds), kind="stable")[:limit].tolist()
    return tuple(
        LabelMistake(
            path=paths[images[row]],
            label=info.class_names[labels[row]],
            kind="missed" if answers.labels[images[row], labels[row]] else "extra",
            score=float(scores[row]),
            threshold=float(thresholds[row]),
        )
        for row in order
    )


def worst_mistakes(
    paths: Sequence[str], answers: Answers, class_names: Sequence[str], *, limit: int = 20
) -> tuple[Mistake, ...]:
    """Return the misclassified images, the most confident mistakes first, equal ones by path."""
    wrong = np.flatnonzero(answers.predicted != answers.labels).tolist()
    wrong.sort(key=lambda example: (-answers.scores[example], paths[example]))
    return tuple(
        Mistake(
            path=paths[example],
            truth=class_names[answers.labels[example]],
            predicted=class_names[answers.predicted[example]],
            score=float(answers.scores[example]),
            truth_score=float(answers.truth_scores[example]),
        )
        for example in wrong[:limit]
    )
