"""What the figures of a model mean, in sentences, each with the one command to try next.

To add a sentence: a function from `Case` to a `Verdict` or None, and a row in `VERDICTS`. Terminal, JSON and report
show what it returns.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.config.schema import Config
from wisesr_cli.data.inspection import FEW_FOR_RANDOM_WEIGHTS
from wisesr_cli.data.settings import parse_labels
from wisesr_cli.display.grid import percent
from wisesr_cli.errors import WisesrError
from wisesr_cli.evaluation.output import Scored, ScoredLabels
from wisesr_cli.evaluation.thresholds import FEWEST_IMAGES
from wisesr_cli.models.backbones import row_of
from wisesr_cli.results.evaluation import Metrics, MultilabelMetrics, Verdict
from wisesr_cli.results.records import Level
from wisesr_cli.results.training import EpochResult
from wisesr_cli.run.located import Located
from wisesr_cli.run.names import CONFIG
from wisesr_cli.text import counted, joined, some_of, typed, visible

GOOD_ACCURACY = 0.95  # at or above it, no changes to the training are suggested
OVERFITTING_GAP = 0.15  # of top-1 accuracy, training minus validation
STATISTICS_GAP = 0.2  # of top-1 accuracy on training images, in training minus in evaluation
IMBALANCE = 3.0  # largest class divided by smallest, from which class weights may help
MIN_LOSS_DROP = 0.02  # relative to the loss of the first epoch
SHORT_HISTORY = 4  # epochs; fewer show no trend


@dataclass(frozen=True)
class Training:
    """The training of a model: its config, epochs, and images per class.

    `train_accuracy` is the top-1 accuracy of the best model when evaluated on training images; None if it was not.
    """

    run_dir: str
    config: Config
    history: tuple[EpochResult, ...]
    best_epoch: int | None
    class_counts: tuple[int, ...]
    images: int
    train_accuracy: float | None = None

    @property
    def best(self) -> EpochResult | None:
        """The epoch that the model is from."""
        return next((row for row in self.history if row.epoch == self.best_epoch), None)

    @property
    def starts_at_random(self) -> bool:
        """Whether its backbone started from random weights."""
        return self.config.model.is_random

    def falls_behind(self, metrics: Metrics | MultilabelMetrics) -> bool:
        """Whether the model scores so far below its training accuracy that its batch norm statistics may be wrong."""
        if self.best is None or metrics.top1_accuracy is None:
            return False
        return self.best.top1_accuracy - metrics.top1_accuracy >= STATISTICS_GAP

    def again(self, *options: str) -> str:
        """Return the command that trains again with other options."""
        return shlex.join(["wisesr", "train", f"{self.run_dir}/{CONFIG}", *options])


@dataclass(frozen=True)
class Case:
    """What a verdict is about: the top-1 accuracy, and the training, if known."""

    training: Training | None
    accuracy: float


@dataclass(frozen=True)
class LabelsCase(Case):
    """A case where images may have several labels, with metrics."""

    metrics: MultilabelMetrics


@dataclass(frozen=True)
class LabelCase(Case):
    """A case where every image has one label, with metrics and the highest probability of every example."""

    metrics: Metrics
    confidences: NDArray[np.float64]  # (examples,)

    @property
    def support(self) -> NDArray[np.int64]:
        """How many examples each class has."""
        return np.array([row.support for row in self.metrics.per_class])

    @property
    def predicted(self) -> NDArray[np.int64]:
        """How often each class was predicted."""
        return np.array(self.metrics.confusion.predicted)

    @property
    def most_frequent(self) -> float:
        """The accuracy of always predicting the most frequent class."""
        return float(self.support.max() / self.metrics.examples)


def with_verdict(scored: Scored | ScoredLabels, training: Training | None) -> Scored | ScoredLabels:
    """Add the verdict to the metrics; without examples there is none."""
    accuracy = scored.metrics.top1_accuracy
    if accuracy is None:
        return scored
    if isinstance(scored, ScoredLabels):
        several = LabelsCase(training, accuracy, scored.metrics)
        verdict = _those_found(judge(several) for judge in MULTILABEL_VERDICTS)
        return replace(scored, metrics=replace(scored.metrics, verdict=verdict))
    case = LabelCase(training, accuracy, scored.metrics, scored.answers.scores)
    verdict = _those_found(judge(case) for judge in VERDICTS)
    return replace(scored, metrics=replace(scored.metrics, verdict=verdict))


def _those_found(verdicts: Iterable[Verdict | None]) -> tuple[Verdict, ...]:
    return tuple(verdict for verdict in verdicts if verdict is not None)


def training_of(run: Located, epoch: int) -> Training | None:
    """Return the training of a run's model, which is from `epoch`; None if the run is incomplete or damaged."""
    if not run.is_complete:
        return None
    try:
        counts = Counter(dict.fromkeys(run.run.read_classes(), 0))
        labels = [label for _, label, split in run.run.read_splits() if split == "train"]
        separator = run.data.label_separator
        for label in labels:
            for name in (label,) if separator is None else parse_labels(label, separator):
                counts[name] += 1
        history = run.run.read_history()
        return Training(str(run.run.path), run.config, history, epoch, tuple(counts.values()), len(labels))
    except WisesrError:
        return None


def _accuracy(case: LabelCase) -> Verdict:
    metrics, training = case.metrics, case.training
    assert metrics.interval is not None, "there are examples"
    low, high = (percent(value) for value in metrics.interval)
    name = visible(metrics.classes[int(case.support.argmax())])
    message = (
        f"top-1 accuracy {percent(case.accuracy)} on {counted(metrics.examples, 'image')} (95 % interval {low} to "
        f"{high}); chance is {percent(1 / len(metrics.classes))}, always predicting '{name}' would be right for "
        f"{percent(case.most_frequent)}"
    )
    level: Level = "pass"
    if case.accuracy <= case.most_frequent:
        level, message = "fail", f"{message}: the model has learned nothing useful"
    elif metrics.interval[0] <= case.most_frequent:
        level, message = "warn", f"{message}: it may be no better than that"
    command = None if level == "pass" or training is None else f"wisesr check {typed(training.run_dir)}/{CONFIG}"
    return Verdict("accuracy", level, message, command)


def _labels(case: LabelsCase) -> Verdict | None:
    metrics = case.metrics
    if metrics.mean_average_precision is None:
        return None
    present = [row.support for row in metrics.per_class if row.support]
    chance = sum(present) / len(present) / metrics.examples
    message = (
        f"mean average precision {percent(metrics.mean_average_precision)} over {counted(len(present), 'label')} on "
        f"{counted(metrics.examples, 'image')}; a random ranking would have about {percent(chance)}"
    )
    if metrics.mean_average_precision <= chance:
        return Verdict("accuracy", "fail", f"{message}: the model has learned nothing useful")
    return Verdict("accuracy", "pass", message)


def _never_given(case: LabelsCase) -> Verdict | None:
    # Recall is also 0 if a label was given but always wrong; its precision is then defined.
    missing = [row.label for row in case.metrics.per_class if row.support and row.precision is None]
    if not missing:
        return None
    message = f"{counted(len(missing), 'label is', 'labels are')} never given: {some_of(missing, 5)}"
    training, command = case.training, None
    if training is not None and training.config.train.class_weights == "none":
        command = training.again("-s", "train.class_weights=balanced")
    return Verdict("never-predicted", "warn", message, command)


def _few_with_label(case: LabelsCase) -> Verdict | None:
    few = [row.label for row in case.metrics.per_class if 0 < row.support < FEWEST_IMAGES]
    if not few:
        return None
    message = (
        f"{counted(len(few), 'label has', 'labels have')} fewer than {FEWEST_IMAGES} images here: {some_of(few, 5)}"
    )
    return Verdict("few-images", "warn", f"{message}; their figures are unreliable")


def _one_label(case: LabelCase) -> Verdict | None:
    if np.count_nonzero(case.predicted) > 1 or np.count_nonzero(case.support) == 1:
        return None
    name = visible(case.metrics.classes[int(case.predicted.argmax())])
    rate = _learning_rate(case.training, 0.1)
    return Verdict("one-label", "fail", f"the model predicts '{name}' for every image", rate)


def _equal_scores(case: LabelCase) -> Verdict | None:
    chance = 1 / len(case.metrics.classes)
    highest = float(np.quantile(case.confidences, 0.95))
    if highest >= chance + 0.1 * (1 - chance):
        return None
    message = f"the scores of all classes are nearly equal: the best label of an image has {percent(highest)} or less"
    return Verdict("equal-scores", "warn", message, _learning_rate(case.training, 10))


def _never_predicted(case: LabelCase) -> Verdict | None:
    missing = np.flatnonzero((case.support > 0) & (case.predicted == 0))
    if not missing.size or np.count_nonzero(case.predicted) == 1:
        return None
    names = [case.metrics.classes[label] for label in missing]
    shown = joined(names[:5]) + (f", ... ({len(names)})" if len(names) > 5 else "")
    message = f"{counted(len(names), 'class is', 'classes are')} never predicted: {shown}"
    training, command = case.training, None
    if training is not None:
        counts = training.class_counts
        if training.config.train.class_weights == "none" and max(counts) >= IMBALANCE * max(1, min(counts)):
            command = training.again("-s", "train.class_weights=balanced")
        else:
            command = shlex.join(["wisesr", "evaluate", training.run_dir, "--report"])
    return Verdict("never-predicted", "warn", message, command)


def _overfitting(case: Case) -> Verdict | None:
    training = case.training
    best = training.best if training is not None else None
    if training is None or best is None or best.val_top1_accuracy is None:
        return None
    if best.top1_accuracy - best.val_top1_accuracy < OVERFITTING_GAP or best.val_top1_accuracy >= GOOD_ACCURACY:
        return None
    message = (
        f"epoch {best.epoch} reached {percent(best.top1_accuracy)} on the training images and "
        f"{percent(best.val_top1_accuracy)} on validation: the model overfits"
    )
    config = training.config
    if config.augment == "none":
        command = training.again("-s", "augment=light")
    elif config.model.head.dropout < 0.5:
        command = training.again("-s", "model.head.dropout=0.5")
    else:
        command = training.again("-s", "train.optimizer.weight_decay=0.01")
    return Verdict("overfitting", "warn", message, command)


def _statistics(case: Case) -> Verdict | None:
    training = case.training
    best = training.best if training is not None else None
    if training is None or best is None or training.train_accuracy is None:
        return None
    if best.top1_accuracy - training.train_accuracy < STATISTICS_GAP:
        return None
    message = (
        f"on its own training images the saved model is right for {percent(training.train_accuracy)}, but was for "
        f"{percent(best.top1_accuracy)} during training: its batch norm statistics do not fit its weights"
    )
    return Verdict("statistics", "fail", message, training.again("-b", str(2 * training.config.train.batch_size)))


def _still_improving(case: Case) -> Verdict | None:
    training = case.training
    if training is None or case.accuracy >= GOOD_ACCURACY or len(training.history) < SHORT_HISTORY:
        return None
    last, before = training.history[-1], training.history[-1 - max(1, len(training.history) // 5)]
    epochs = training.config.train.epochs
    if last.epoch != epochs or training.best_epoch != last.epoch or last.val_loss is None or before.val_loss is None:
        return None
    if last.val_loss > 0.98 * before.val_loss:
        return None
    message = f"the last of {counted(epochs, 'epoch')} was the best, and the validation loss was still falling"
    command = shlex.join(["wisesr", "train", training.run_dir, "--resume", "--epochs", str(2 * epochs)])
    return Verdict("still-improving", "warn", message, command)


def _best_first(case: Case) -> Verdict | None:
    training = case.training
    if training is None or training.best_epoch != 1 or len(training.history) < SHORT_HISTORY:
        return None
    message = f"the first of {counted(len(training.history), 'epoch')} was the best: training made the model worse"
    return Verdict("best-first", "warn", message, _learning_rate(training, 0.1))


def _loss_did_not_move(case: Case) -> Verdict | None:
    training = case.training
    if training is None or len(training.history) < 2:
        return None
    first, least = training.history[0].loss, min(row.loss for row in training.history)
    if first - least >= MIN_LOSS_DROP * first:
        return None
    message = f"the training loss did not move: {first:.4f} in the first epoch, {least:.4f} at its lowest"
    return Verdict("loss-did-not-move", "fail", message, _learning_rate(training, 10))


def _random_weights(case: Case) -> Verdict | None:
    training = case.training
    if training is None or not training.starts_at_random or case.accuracy >= GOOD_ACCURACY:
        return None
    images = training.images
    if images >= FEW_FOR_RANDOM_WEIGHTS:
        return None
    backbone = training.config.model.backbone
    message = f"{backbone} started from random weights on {counted(images, 'training image')}"
    if row_of(backbone).from_scratch:
        return Verdict("random-weights", "warn", f"{message}: ImageNet weights need far fewer", "wisesr weights list")
    return Verdict("random-weights", "warn", message, training.again("-s", "model.weights=imagenet"))


def _learning_rate(training: Training | None, factor: float) -> str | None:
    """Return the command that trains with the learning rate multiplied by `factor`."""
    if training is None:
        return None
    return training.again("--learning-rate", f"{factor * training.config.train.optimizer.learning_rate:.3g}")


TRAINING_VERDICTS: tuple[Callable[[Case], Verdict | None], ...] = (
    _overfitting,
    _statistics,
    _loss_did_not_move,
    _best_first,
    _still_improving,
    _random_weights,
)
VERDICTS: tuple[Callable[[LabelCase], Verdict | None], ...] = (
    _accuracy,
    _one_label,
    _equal_scores,
    _never_predicted,
    *TRAINING_VERDICTS,
)
MULTILABEL_VERDICTS: tuple[Callable[[LabelsCase], Verdict | None], ...] = (
    _labels,
    _never_given,
    _few_with_label,
    *TRAINING_VERDICTS,
)
