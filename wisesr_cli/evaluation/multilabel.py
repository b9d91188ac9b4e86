"""Evaluates a model that gives an image any number of labels. NumPy only.

To add a metric, write a function that takes `LabelOutcomes` and returns a float (None where it is not defined), add a
row to `MULTILABEL_METRICS` at the foot, and the field of the same name to `results.MultilabelMetrics`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wisesr_cli.evaluation.metrics import CALIBRATION_BINS, Metric, auc, bin_sums, check_finite, ratio, row_blocks
from wisesr_cli.evaluation.probabilities import Doubles, Floats, sigmoid
from wisesr_cli.machine.large_arrays import large_array
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.results.evaluation import LabelMetrics, MultilabelMetrics, ReliabilityBin

LabelSets: TypeAlias = npt.NDArray[np.bool_]  # (examples, classes)


@dataclass(frozen=True)
class LabelAnswers:
    """A model's answer to every example: the probability of every label, and those that are given."""

    labels: LabelSets
    predicted: LabelSets
    probabilities: npt.NDArray[np.float32]  # (examples, classes), possibly in a temporary file

    @property
    def exact(self) -> npt.NDArray[np.bool_]:
        """Which examples got all their labels and no other."""
        same: npt.NDArray[np.bool_] = (self.labels == self.predicted).all(axis=1)
        return same


@dataclass(frozen=True)
class LabelOutcomes:
    """What the metrics need: answers, and sums over all labels from one pass over the logits."""

    answers: LabelAnswers
    log_loss: float
    bins: tuple[Doubles, Doubles, Doubles]  # counts, summed probabilities, summed labels; at the model's temperature
    plain_bins: tuple[Doubles, Doubles, Doubles]  # the same at temperature 1
    best: npt.NDArray[np.int64]  # (examples,), the class with the largest logit

    @cached_property
    def counts(self) -> tuple[Doubles, Doubles, Doubles]:
        """How often each label was true, predicted, and both: (classes,) each."""
        truth, predicted = self.answers.labels, self.answers.predicted
        sums = (values.sum(axis=0).astype(np.float64) for values in (truth, predicted, truth & predicted))
        support, given, correct = sums
        return support, given, correct

    @cached_property
    def average_precisions(self) -> list[float | None]:
        """The average precision of every label; None for one without support."""
        answers = self.answers
        columns = zip(answers.probabilities.T, answers.labels.T, strict=True)
        return [average_precision(np.asarray(scores), truth) for scores, truth in columns]


def multilabel_metrics(logits: Floats, labels: LabelSets, info: ModelInfo) -> tuple[MultilabelMetrics, LabelAnswers]:
    """Return every metric of `logits` (examples, classes) against `labels` (examples, classes), and the answers.

    Probabilities are those at the model's temperature; a label is given if it reaches its threshold. Raises
    `errors.DataError` for logits that are not finite.
    """
    outcomes = _collect(logits, labels, info)
    examples = len(labels)
    values: dict[str, Any] = {
        name: metric.compute(outcomes) if examples else None for name, metric in MULTILABEL_METRICS.items()
    }
    metrics = MultilabelMetrics(
        examples=examples,
        **values,
        labels_per_image=ratio(float(labels.sum()), examples),
        predicted_per_image=ratio(float(outcomes.answers.predicted.sum()), examples),
        classes=info.class_names,
        per_class=_per_class(outcomes, info),
        temperature=info.temperature,
    )
    return metrics, outcomes.answers


def _collect(logits: Floats, labels: LabelSets, info: ModelInfo) -> LabelOutcomes:
    assert info.thresholds is not None, "a model of several labels has thresholds"
    probabilities, predicted = large_array(logits.shape), np.empty(logits.shape, np.bool_)
    best, log_loss = np.empty(len(logits), np.int64), 0.0
    sums = np.zeros((2, 3, CALIBRATION_BINS))
    for rows in row_blocks(logits):
        block, truth = logits[rows].astype(np.float64), labels[rows]
        check_finite(np.where(np.isfinite(block).all(axis=1), 0.0, np.nan))
        scaled = block / info.temperature
        log_loss += float(np.sum(np.logaddexp(0, scaled) - scaled * truth))
        found = probabilities[rows] = sigmoid(block, info.temperature)
        predicted[rows] = found >= np.asarray(info.thresholds)
        best[rows] = block.argmax(axis=1)
        for which, confidence in enumerate((found, sigmoid(block))):
            sums[which] += bin_sums(confidence.ravel(), truth.ravel(), CALIBRATION_BINS)
    answers = LabelAnswers(labels, predicted, probabilities)
    (counts, own, true), (plain_counts, plain, plain_true) = sums
    mean = log_loss / labels.size if labels.size else 0.0
    return LabelOutcomes(answers, mean, (counts, own, true), (plain_counts, plain, plain_true), best)


def average_precision(scores: npt.NDArray[Any], truth: npt.NDArray[np.bool_]) -> float | None:
    """Return the mean precision at the scores of the images with a label (truth); None without any.

    That is the area under the steps of precision over recall; images with equal scores (examples,) count together.
    """
    positives = int(truth.sum())
    if not positives:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    last_of_equals = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    found = hits[last_of_equals]
    return float(np.sum(np.diff(found, prepend=0) * found / (last_of_equals + 1)) / positives)


def mean_average_precision(outcomes: LabelOutcomes) -> float | None:
    """Return the mean average precision of the labels with support."""
    return _mean([value for value in outcomes.average_precisions if value is not None])


def micro_precision(outcomes: LabelOutcomes) -> float | None:
    """Return the fraction of the given labels that are right; 0 where none is given."""
    _, given, correct = outcomes.counts
    return float(correct.sum() / max(given.sum(), 1))


def micro_recall(outcomes: LabelOutcomes) -> float | None:
    """Return the fraction of the true labels that are given."""
    support, _, correct = outcomes.counts
    return ratio(float(correct.sum()), float(support.sum()))


def micro_f1(outcomes: LabelOutcomes) -> float | None:
    """Return F1 over all labels of all images."""
    support, given, correct = outcomes.counts
    return ratio(float(2 * correct.sum()), float((support + given).sum()))


def macro_precision(outcomes: LabelOutcomes) -> float | None:
    """Return the mean precision of the labels with support, 0 for one that was never given."""
    support, given, correct = outcomes.counts
    return _mean((correct / np.maximum(given, 1))[support > 0].tolist())


def macro_recall(outcomes: LabelOutcomes) -> float | None:
    """Return the mean recall of the labels with support."""
    support, _, correct = outcomes.counts
    return _mean((correct / np.maximum(support, 1))[support > 0].tolist())


def macro_f1(outcomes: LabelOutcomes) -> float | None:
    """Return the mean F1 of the labels with support."""
    support, given, correct = outcomes.counts
    return _mean((2 * correct / np.maximum(support + given, 1))[support > 0].tolist())


def macro_auc(outcomes: LabelOutcomes) -> float | None:
    """Return the mean area under the ROC curve of the labels that some images have and others lack."""
    labels, probabilities = outcomes.answers.labels, outcomes.answers.probabilities
    found = []
    for scores, truth in zip(probabilities.T, labels.T, strict=True):
        members = np.flatnonzero(truth)
        if 0 < len(members) < len(truth):
            found.append(auc(np.asarray(scores, np.float64), members))
    return _mean(found)


def exact_match(outcomes: LabelOutcomes) -> float:
    """Return the fraction of images with all their labels and no other (subset accuracy)."""
    return float(outcomes.answers.exact.mean())


def hamming_loss(outcomes: LabelOutcomes) -> float:
    """Return the fraction of all labels of all images that are wrong."""
    return float((outcomes.answers.labels != outcomes.answers.predicted).mean())


def top1_accuracy(outcomes: LabelOutcomes) -> float | None:
    """Return the fraction of the images with labels whose best class is one of them (1 minus the one-error)."""
    labels = outcomes.answers.labels
    hits = labels[np.arange(len(labels)), outcomes.best]
    return _mean(hits[labels.any(axis=1)].tolist())


def log_loss(outcomes: LabelOutcomes) -> float:
    """Return the binary cross-entropy, averaged over labels and images."""
    return outcomes.log_loss


def ece(outcomes: LabelOutcomes) -> float:
    """Return the expected calibration error of all probabilities, in 15 equal bins."""
    return _ece(outcomes.bins)


def ece_uncalibrated(outcomes: LabelOutcomes) -> float:
    """Return the expected calibration error of all probabilities at temperature 1."""
    return _ece(outcomes.plain_bins)


def label_reliability(answers: LabelAnswers) -> tuple[ReliabilityBin, ...]:
    """Return equal-width bins over all probabilities: their count, their mean, and the fraction of true labels."""
    sums = np.zeros((3, CALIBRATION_BINS))
    for rows in row_blocks(answers.probabilities):
        confidence = answers.probabilities[rows].astype(np.float64)
        sums += bin_sums(confidence.ravel(), answers.labels[rows].ravel(), CALIBRATION_BINS)
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1).tolist()
    return tuple(
        ReliabilityBin(low, high, int(count), ratio(confidence, count), ratio(true, count))
        for low, high, count, confidence, true in zip(edges[:-1], edges[1:], *sums, strict=True)
    )


def _ece(bins: tuple[Doubles, Doubles, Doubles]) -> float:
    counts, confidences, true = bins
    return float(np.sum(np.abs(confidences - true)) / np.sum(counts))


def _per_class(outcomes: LabelOutcomes, info: ModelInfo) -> tuple[LabelMetrics, ...]:
    rows = zip(info.class_names, info.thresholds or (), *outcomes.counts, outcomes.average_precisions, strict=True)
    return tuple(
        LabelMetrics(
            label=name,
            support=int(support),
            threshold=threshold,
            precision=ratio(correct, given),
            recall=ratio(correct, support),
            f1=ratio(2 * correct, support + given) if support else None,
            average_precision=precision,
        )
        for name, threshold, support, given, correct, precision in rows
    )


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if len(values) else None


MULTILABEL_METRICS: dict[str, Metric] = {
    "mean_average_precision": Metric(mean_average_precision, "higher"),
    "micro_f1": Metric(micro_f1, "higher"),
    "macro_f1": Metric(macro_f1, "higher"),
    "micro_precision": Metric(micro_precision, "higher"),
    "micro_recall": Metric(micro_recall, "higher"),
    "macro_precision": Metric(macro_precision, "higher"),
    "macro_recall": Metric(macro_recall, "higher"),
    "macro_auc": Metric(macro_auc, "higher"),
    "exact_match": Metric(exact_match, "higher"),
    "hamming_loss": Metric(hamming_loss, "lower"),
    "top1_accuracy": Metric(top1_accuracy, "higher"),
    "log_loss": Metric(log_loss, "lower"),
    "ece": Metric(ece, "lower"),
    "ece_uncalibrated": Metric(ece_uncalibrated, "lower"),
}
