"""Evaluates the outputs of a model: scalar metrics, confusions, mistakes, calibration.

To add a metric, write a function that takes `Outcomes` and returns a float (None where the metric is not defined), add
a row to `METRICS` at the foot, and the field of the same name to `results.Metrics`. Gates, tables and JSON follow.
NumPy only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from wisesr_cli import errors, text
from wisesr_cli.confusion import Confusion
from wisesr_cli.evaluation.probabilities import Doubles, Floats, softmax
from wisesr_cli.machine.large_arrays import release
from wisesr_cli.results.evaluation import ClassMetrics, Metrics, ReliabilityBin

Integers: TypeAlias = npt.NDArray[np.int64]

CALIBRATION_BINS = 15
FEW_MEMBERS = 8  # of a class; up to this many, counting the scores below each is faster than sorting all
_BLOCK_NUMBERS = 4_000_000  # 32 MB of float64: the most that one step of a pass over the logits holds


@dataclass(frozen=True)
class Answers:
    """A model's answer to every example, with only those probabilities that are reported."""

    labels: Integers  # (examples,), class indices
    predicted: Integers  # (examples,)
    scores: Doubles  # (examples,), the probability of the predicted class
    truth_scores: Doubles  # (examples,), that of the true class


@dataclass(frozen=True)
class Outcomes:
    """A model's output for every example, collected in one pass over the logits.

    Labels are class indices (examples,). The rank of the true class counts the classes ranked before it, 0 being best;
    among equal logits the lower index comes first, as in `argmax`.
    """

    logits: Floats  # (examples, classes)
    highest: Doubles  # (examples,), the largest logit, divided by the temperature as all below
    log_sums: Doubles  # (examples,), so that log probability = (logit - highest) - log sum
    labels: Integers  # (examples,)
    predicted: Integers  # (examples,)
    true_rank: Integers  # (examples,)
    true_log_probability: Doubles  # (examples,)
    top_probability: Doubles  # (examples,)
    uncalibrated_top_probability: Doubles  # (examples,), at temperature 1
    temperature: float

    @property
    def class_counts(self) -> tuple[Integers, Integers, Integers]:
        """How often each class was true, predicted, and both: (classes,) each."""
        correct = self.labels[self.labels == self.predicted]
        support, predicted, both = (
            np.bincount(labels, minlength=self.logits.shape[1]) for labels in (self.labels, self.predicted, correct)
        )
        return support, predicted, both


class Metric(NamedTuple):
    """How a metric is computed, and whether higher or lower is better."""

    compute: Callable[[Any], float | None]  # of outcomes
    better: Literal["higher", "lower"]


def compute_metrics(
    logits: Floats, labels: npt.ArrayLike, class_names: Sequence[str], temperature: float = 1.0
) -> Metrics:
    """Return every metric of `logits` (examples, classes) against `labels` (examples,), which are class indices.

    Probabilities are those of the logits divided by `temperature`. Without examples every metric is None.
    Raises `errors.DataError` for logits that are not finite.
    """
    outcomes = collect_outcomes(logits, labels, classes=len(class_names), temperature=temperature)
    values: dict[str, Any] = {
        name: metric.compute(outcomes) if len(outcomes.labels) else None for name, metric in METRICS.items()
    }
    return Metrics(
        examples=len(outcomes.labels),
        **values,
        classes=tuple(class_names),
        per_class=_class_metrics(outcomes, class_names),
        confusion=_confusion(outcomes),
        interval=wilson_interval(int(np.sum(outcomes.labels == outcomes.predicted)), len(outcomes.labels)),
        temperature=temperature,
    )


def answers_of(logits: Floats, labels: npt.ArrayLike, temperature: float = 1.0) -> Answers:
    """Compute the answers from `logits` (examples, classes), block by block to save memory."""
    truth = np.asarray(labels, dtype=np.int64)
    examples = len(logits)
    predicted, scores, truth_scores = np.empty(examples, np.int64), np.empty(examples), np.empty(examples)
    for rows in row_blocks(logits):
        probabilities = softmax(logits[rows], temperature)
        every = np.arange(len(probabilities))
        predicted[rows] = probabilities.argmax(axis=1)
        scores[rows], truth_scores[rows] = probabilities[every, predicted[rows]], probabilities[every, truth[rows]]
    return Answers(truth, predicted, scores, truth_scores)


def collect_outcomes(logits: Floats, labels: npt.ArrayLike, *, classes: int, temperature: float = 1.0) -> Outcomes:
    """Compute what the metrics need about every example, in float64, block by block to save memory."""
    logits, truth = np.asarray(logits), np.asarray(labels, dtype=np.int64)
    _check_shapes(logits, truth, classes)
    examples = len(truth)
    numbers, indices = np.empty((4, examples)), np.empty((2, examples), dtype=np.int64)
    for rows in row_blocks(logits):
        numbers[:, rows], indices[:, rows] = _block_outcomes(logits[rows].astype(np.float64), truth[rows], temperature)
    (highest, log_sums, true_log_probability, plain_sums), (predicted, true_rank) = numbers, indices
    check_finite(log_sums)
    return Outcomes(
        logits=logits,
        highest=highest,
        log_sums=log_sums,
        labels=truth,
        predicted=predicted,
        true_rank=true_rank,
        true_log_probability=true_log_probability,
        top_probability=np.exp(-log_sums),
        uncalibrated_top_probability=np.exp(-plain_sums),
        temperature=temperature,
    )


def row_blocks(logits: Floats) -> Iterator[slice]:
    """Yield small slices of the rows of `logits` (examples, classes), releasing each if it is in a temporary file."""
    for rows in _slices(len(logits), row_length=logits.shape[1]):
        yield rows
        release(logits)


def top1_accuracy(outcomes: Outcomes) -> float:
    """Return the fraction of examples whose best class is the true one."""
    return float(np.mean(outcomes.true_rank == 0))


def top5_accuracy(outcomes: Outcomes) -> float:
    """Return the fraction of examples whose true class is among the five best."""
    return float(np.mean(outcomes.true_rank < 5))


def balanced_accuracy(outcomes: Outcomes) -> float:
    """Return the mean recall of the classes with support."""
    support, _, correct = outcomes.class_counts
    present = support > 0
    return float(np.mean(correct[present] / support[present]))


def macro_precision(outcomes: Outcomes) -> float:
    """Return the mean precision of the classes with support, 0 for one that was never predicted."""
    support, predicted, correct = outcomes.class_counts
    present = support > 0
    return float(np.mean(correct[present] / np.maximum(predicted[present], 1)))


def macro_f1(outcomes: Outcomes) -> float:
    """Return the mean F1 of the classes with support."""
    support, predicted, correct = outcomes.class_counts
    present = support > 0
    return float(np.mean(2 * correct[present] / (support + predicted)[present]))


def macro_auc(outcomes: Outcomes) -> float | None:
    """Return the mean area under the ROC curve of each class against the rest, over classes that have both.

    Examples with equal scores share their mean rank. Scores are log probabilities, which have the order of the
    probabilities but stay distinct where those are too small for a float.
    """
    examples, classes = outcomes.logits.shape
    support = np.bincount(outcomes.labels, minlength=classes)
    indices = np.flatnonzero((support > 0) & (support < examples))
    if not indices.size:
        return None
    members = np.split(np.argsort(outcomes.labels, kind="stable"), np.cumsum(support)[:-1])
    total = 0.0
    for part in _slices(classes, row_length=examples):
        scores = np.empty((part.stop - part.start, examples))
        for rows in row_blocks(outcomes.logits):
            scores[:, rows] = outcomes.logits[rows, part].T
        scores /= outcomes.temperature
        scores -= outcomes.highest
        scores -= outcomes.log_sums
        chosen = indices[(indices >= part.start) & (indices < part.stop)]
        total += sum(auc(scores[label - part.start], members[label]) for label in chosen.tolist())
    return total / len(indices)


def log_loss(outcomes: Outcomes) -> float:
    """Return the mean negative natural logarithm of the probability given to the true class."""
    # Subtracted from zero, so that a perfect model scores 0.0 and not -0.0.
    return float(0.0 - np.mean(outcomes.true_log_probability))


def ece(outcomes: Outcomes) -> float:
    """Return the expected calibration error: the mean gap between confidence and accuracy, in 15 equal bins."""
    return _ece(outcomes.top_probability, outcomes)


def ece_uncalibrated(outcomes: Outcomes) -> float:
    """Return the expected calibration error of the probabilities at temperature 1."""
    return _ece(outcomes.uncalibrated_top_probability, outcomes)


def _ece(confidence: Doubles, outcomes: Outcomes) -> float:
    counts, confidences, correct = bin_sums(confidence, outcomes.true_rank == 0, CALIBRATION_BINS)
    return float(np.sum(np.abs(confidences - correct)) / np.sum(counts))


def reliability_bins(answers: Answers, *, bins: int = CALIBRATION_BINS) -> tuple[ReliabilityBin, ...]:
    """Return bins of equal width over the probability of the predicted class.

    A bin holds its upper edge and not its lower one; confidence and accuracy of an empty bin are None.
    """
    sums = bin_sums(answers.scores, answers.predicted == answers.labels, bins)
    edges = np.linspace(0, 1, bins + 1).tolist()
    return tuple(
        ReliabilityBin(low, high, int(count), ratio(confidence, count), ratio(correct, count))
        for low, high, count, confidence, correct in zip(edges[:-1], edges[1:], *sums, strict=True)
    )


def wilson_interval(correct: int, examples: int, *, confidence: float = 0.95) -> tuple[float, float] | None:
    """Return the score interval of Wilson (1927) for a true fraction; None without examples.

    It is valid for few examples and for fractions of 0 and 1, where the mean plus or minus two standard errors is not.
    """
    if not examples:
        return None
    z, fraction = NormalDist().inv_cdf((1 + confidence) / 2), correct / examples
    middle = fraction + z**2 / (2 * examples)
    half = z * math.sqrt(fraction * (1 - fraction) / examples + z**2 / (4 * examples**2))
    low, high = ((middle + sign * half) / (1 + z**2 / examples) for sign in (-1, 1))
    return max(0.0, min(low, fraction)), min(1.0, max(high, fraction))  # rounding could exclude the fraction itself


def _block_outcomes(
    block: Doubles, labels: Integers, temperature: float
) -> tuple[tuple[Doubles, ...], tuple[Integers, ...]]:
    """Return (highest logit, log sum, true log probability, plain log sum) and (predicted, true rank) of examples."""
    examples = np.arange(len(labels))
    predicted = block.argmax(axis=1)
    highest, true_logit = block[examples, predicted], block[examples, labels]
    equal_before = (block == true_logit[:, None]) & (np.arange(block.shape[1]) < labels[:, None])
    true_rank = (block > true_logit[:, None]).sum(axis=1) + equal_before.sum(axis=1)
    with np.errstate(invalid="ignore"):  # infinite logits are reported once, by check_finite
        block -= highest[:, None]
        plain_sums = log_sums = _log_sums(block, predicted)
        if temperature != 1:
            log_sums = _log_sums(block / temperature, predicted)
        true_log_probability = (true_logit - highest) / temperature - log_sums
        return (highest / temperature, log_sums, true_log_probability, plain_sums), (predicted, true_rank)


def _log_sums(block: Doubles, predicted: Integers) -> Doubles:
    """Return the log of the sum of exponentials of logits, from which the highest logit was already subtracted."""
    powers = np.exp(block)
    # The highest logit's power is 1; adding it last keeps the small powers from being rounded away.
    powers[np.arange(len(block)), predicted] = 0
    sums: Doubles = np.log1p(powers.sum(axis=1))
    # A logit of minus infinity would go unnoticed in a finite sum.
    sums[~np.isfinite(block).all(axis=1)] = np.nan
    return sums


def _check_shapes(logits: Floats, labels: Integers, classes: int) -> None:
    if logits.ndim != 2 or labels.ndim != 1 or logits.shape != (len(labels), classes):
        raise ValueError(
            f"logits must be (examples, classes) and labels (examples,). Received: logits.shape={logits.shape}, "
            f"labels.shape={labels.shape}, classes={classes}"
        )
    if len(labels) and not (labels.min() >= 0 and labels.max() < classes):
        raise ValueError(f"labels must lie in 0..{classes - 1}. Received: {labels.min()}..{labels.max()}")


def check_finite(log_sums: Doubles) -> None:
    """Raise `errors.DataError` if a log sum (examples,) is not finite, which means that its logits are not."""
    broken = int(np.count_nonzero(~np.isfinite(log_sums)))
    if broken:
        raise errors.DataError(
            f"the model's logits are not finite for {broken:,} of {text.counted(len(log_sums), 'image')}: "
            "no metric is defined for them; train again with a lower learning rate, or in float32"
        )


def _slices(length: int, *, row_length: int) -> Iterator[slice]:
    """Yield slices over `length` rows of `row_length` numbers that stay within `_BLOCK_NUMBERS`."""
    step = max(1, _BLOCK_NUMBERS // max(1, row_length))
    for start in range(0, length, step):
        yield slice(start, min(start + step, length))


def _confusion(outcomes: Outcomes) -> Confusion:
    classes = outcomes.logits.shape[1]
    pairs, counts = np.unique(outcomes.labels * classes + outcomes.predicted, return_counts=True)
    truths, predictions = np.divmod(pairs, classes)
    return Confusion(classes, tuple(zip(truths.tolist(), predictions.tolist(), counts.tolist(), strict=True)))


def _class_metrics(outcomes: Outcomes, class_names: Sequence[str]) -> tuple[ClassMetrics, ...]:
    counts = zip(class_names, *(column.tolist() for column in outcomes.class_counts), strict=True)
    return tuple(
        ClassMetrics(
            label=name,
            support=support,
            precision=ratio(correct, predicted),
            recall=ratio(correct, support),
            f1=ratio(2 * correct, support + predicted) if support else None,
        )
        for name, support, predicted, correct in counts
    )


def ratio(part: float, whole: float) -> float | None:
    """Return `part / whole`; None if `whole` is 0."""
    return float(part / whole) if whole else None


def auc(scores: Doubles, members: Integers) -> float:
    """Return the probability that a member scores above a non-member, by the rank sum of Mann and Whitney (1947)."""
    own = scores[members]
    if len(members) <= FEW_MEMBERS:
        below = np.array([np.count_nonzero(scores < score) for score in own])
        not_above = np.array([np.count_nonzero(scores <= score) for score in own])
    else:  # sorting all scores and looking up the members is several times faster than ranking everything
        ordered = np.sort(scores)
        below = np.searchsorted(ordered, own, side="left")
        not_above = np.searchsorted(ordered, own, side="right")
    rank_sum = float(np.sum((below + not_above + 1) / 2))
    inside, outside = len(members), len(scores) - len(members)
    return (rank_sum - inside * (inside + 1) / 2) / (inside * outside)


def bin_sums(confidence: Floats, correct: npt.NDArray[np.bool_], bins: int) -> tuple[Integers, Doubles, Doubles]:
    """Return for each bin its number of examples, their summed confidence, and the number of correct answers."""
    edges = np.linspace(0, 1, bins + 1)
    index = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, bins - 1)
    counts = np.bincount(index, minlength=bins).astype(np.int64)
    confidences, corrects = np.bincount(index, confidence, bins), np.bincount(index, correct, bins)
    return counts, confidences.astype(np.float64), corrects.astype(np.float64)


METRICS: dict[str, Metric] = {
    "top1_accuracy": Metric(top1_accuracy, "higher"),
    "top5_accuracy": Metric(top5_accuracy, "higher"),
    "balanced_accuracy": Metric(balanced_accuracy, "higher"),
    "macro_precision": Metric(macro_precision, "higher"),
    "macro_recall": Metric(balanced_accuracy, "higher"),  # by definition the same number
    "macro_f1": Metric(macro_f1, "higher"),
    "macro_auc": Metric(macro_auc, "higher"),
    "log_loss": Metric(log_loss, "lower"),
    "ece": Metric(ece, "lower"),
    "ece_uncalibrated": Metric(ece_uncalibrated, "lower"),
}
