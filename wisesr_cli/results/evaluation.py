"""The results of `evaluate`. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wisesr_cli.confusion import Confusion, HasConfusion
from wisesr_cli.results.records import Level


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class; None where they are not defined."""

    label: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Verdict:
    """One sentence about what the figures of a model mean, and the command to try next, if there is one."""

    code: str
    level: Level
    message: str
    command: str | None = None


@dataclass(frozen=True)
class CoverageMetrics:
    """How a coverage turned out: sets of labels, and single answers with at least `answer_score`; fractions in 0..1."""

    coverage: float  # that was asked for
    validation_examples: int  # that the scores come from
    set_score: float  # the lowest score of a label in a set
    answer_score: float | None  # the lowest score of a single answer; None: none is given
    covered: float | None  # of the examples, those whose true class is in the set
    covered_interval: tuple[float, float] | None  # 95 % interval
    mean_set_size: float | None
    single_sets: float | None  # of the examples, those whose set has one label
    answered: float | None  # of the examples, those with a single answer
    answered_accuracy: float | None


@dataclass(frozen=True)
class Metrics(HasConfusion):
    """The metrics of one evaluation: fractions in 0..1, None where one is not defined."""

    examples: int
    top1_accuracy: float | None
    top5_accuracy: float | None
    balanced_accuracy: float | None
    macro_precision: float | None
    macro_recall: float | None
    macro_f1: float | None
    macro_auc: float | None
    log_loss: float | None
    ece: float | None
    ece_uncalibrated: float | None  # of the probabilities at temperature 1
    classes: tuple[str, ...]
    per_class: tuple[ClassMetrics, ...]
    confusion: Confusion
    interval: tuple[float, float] | None = None  # 95 % interval of the top-1 accuracy, by Wilson (1927)
    temperature: float = 1.0  # that logits were divided by
    verdict: tuple[Verdict, ...] = ()  # see `evaluation.verdict`
    coverage: CoverageMetrics | None = None  # where one was asked for

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr evaluate --format json`; `coverage` only where one was asked for."""
        fields = super().to_json()
        if self.coverage is None:
            del fields["coverage"]
        return fields


@dataclass(frozen=True)
class LabelMetrics:
    """Metrics of one of several labels; None where they are not defined."""

    label: str
    support: int
    threshold: float  # the score from which on the label is given
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None  # over all thresholds


@dataclass(frozen=True)
class MultilabelMetrics:
    """The metrics of one evaluation where an image may have several labels: fractions in 0..1, None where not defined.

    Means over classes (mean, macro) are over those with support; micro counts every label of every image alike.
    """

    examples: int
    mean_average_precision: float | None
    micro_f1: float | None
    macro_f1: float | None
    micro_precision: float | None
    micro_recall: float | None
    macro_precision: float | None
    macro_recall: float | None
    macro_auc: float | None
    exact_match: float | None  # of the images, those with all their labels and no other
    hamming_loss: float | None  # of all labels of all images, those that are wrong
    top1_accuracy: float | None  # of the images with labels, those whose best class is one of them
    log_loss: float | None  # the binary cross-entropy, mean over labels and images
    ece: float | None  # of all probabilities, in 15 equal bins
    ece_uncalibrated: float | None
    labels_per_image: float | None
    predicted_per_image: float | None
    classes: tuple[str, ...]
    per_class: tuple[LabelMetrics, ...]
    temperature: float = 1.0
    verdict: tuple[Verdict, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr evaluate --format json` and of metrics.json."""
        return asdict(self)


@dataclass(frozen=True)
class ConfusedPair:
    """How often images of one class were predicted as another."""

    truth: str
    predicted: str
    count: int
    fraction_of_truth: float


@dataclass(frozen=True)
class Mistake:
    """One wrongly labelled image, with the probability given to the wrong and to the true class."""

    path: str
    truth: str
    predicted: str
    score: float
    truth_score: float


@dataclass(frozen=True)
class LabelMistake:
    """One label that an image should have and was not given (`missed`), or the other way round (`extra`)."""

    path: str
    label: str
    kind: Literal["missed", "extra"]
    score: float
    threshold: float


@dataclass(frozen=True)
class ReliabilityBin:
    """The examples whose top probability is in [low, high], with mean confidence and accuracy."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class LabelIssue:
    """One labelled image, the label that a model suggests, and the probabilities of both.

    `suspected`: whether the label is taken for wrong; see `evaluation.label_issues`.
    """

    path: str
    split: str
    label: str
    suggested: str
    score: float
    suggested_score: float
    suspected: bool


@dataclass(frozen=True)
class LabelIssues:
    """How many labels are taken for wrong, the most doubtful ones, and the files that have all of them."""

    examples: int
    suspected: int
    most_doubtful: tuple[LabelIssue, ...]
    table: str
    sheet: str | None  # a contact sheet of the first ones that are taken for wrong, if any


@dataclass(frozen=True)
class Evaluation:
    """Metrics, with the most frequent errors and the reliability of the probabilities."""

    split: str
    metrics: Metrics
    most_confused: tuple[ConfusedPair, ...]
    worst_mistakes: tuple[Mistake, ...]
    reliability: tuple[ReliabilityBin, ...]
    output_dir: str
    unreadable: int = 0
    label_issues: LabelIssues | None = None  # where they were asked for


@dataclass(frozen=True)
class MultilabelEvaluation:
    """The same where an image may have several labels."""

    split: str
    metrics: MultilabelMetrics
    worst_mistakes: tuple[LabelMistake, ...]
    reliability: tuple[ReliabilityBin, ...]
    output_dir: str
    unreadable: int = 0


AnyEvaluation = Evaluation | MultilabelEvaluation
