"""The results of `evaluate`. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wisesr_cli.confusion import Confusion, HasConfusion
from wisesr_cli.results.records import Level


@dataclass(frozen=True)
class ClassMetrics:
    """Metrics of one class; None if undefined."""

    label: str
    support: int
    precision: float | None
    recall: float | None
    f1: float | None


@dataclass(frozen=True)
class Verdict:
    """One sentence about what a model's figures mean, and the command to try next, if any."""

    code: str
    level: Level
    message: str
    command: str | None = None


@dataclass(frozen=True)
class CoverageMetrics:
    """Results at a requested coverage: label sets and single answers of at least `answer_score`; fractions in 0..1."""

    coverage: float  # requested
    validation_examples: int  # behind the scores
    set_score: float  # the lowest score of a label in a set
    answer_score: float | None  # the lowest score of a single answer; None: no answers
    covered: float | None  # fraction of examples whose true class is in the set
    covered_interval: tuple[float, float] | None  # 95 % interval
    mean_set_size: float | None
    single_sets: float | None  # fraction of examples whose set has one label
    answered: float | None  # fraction of examples with a single answer
    answered_accuracy: float | None


@dataclass(frozen=True)
class Metrics(HasConfusion):
    """The metrics of one evaluation: fractions in 0..1, None if undefined."""

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
    temperature: float = 1.0  # logits were divided by it
    verdict: tuple[Verdict, ...] = ()  # see `evaluation.verdict`
    coverage: CoverageMetrics | None = None  # if requested

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr evaluate --format json`; `coverage` only if requested."""
        fields = super().to_json()
        if self.coverage is None:
            del fields["coverage"]
        return fields


@dataclass(frozen=True)
class LabelMetrics:
    """Metrics of one of several labels; None if undefined."""

    label: str
    support: int
    threshold: float  # the lowest score at which the label is given
    precision: float | None
    recall: float | None
    f1: float | None
    average_precision: float | None  # over all thresholds


@dataclass(frozen=True)
class MultilabelMetrics:
    """The metrics of one evaluation of multilabel images: fractions in 0..1, None if undefined.

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
    exact_match: float | None  # fraction of images with exactly their labels
    hamming_loss: float | None  # fraction of all labels of all images that are wrong
    top1_accuracy: float | None  # fraction of images with any label whose best class is one of them
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
    """One label that an image should have but was not given (`missed`), or the reverse (`extra`)."""

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

    `suspected`: whether the label is likely to be wrong; see `evaluation.label_issues`.
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
    """How many labels are likely to be wrong, the most doubtful ones, and the files that list all."""

    examples: int
    suspected: int
    most_doubtful: tuple[LabelIssue, ...]
    table: str
    sheet: str | None  # a contact sheet of the first likely wrong ones, if any


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
    label_issues: LabelIssues | None = None  # if requested


@dataclass(frozen=True)
class MultilabelEvaluation:
    """Like `Evaluation`, for multilabel images."""

    split: str
    metrics: MultilabelMetrics
    worst_mistakes: tuple[LabelMistake, ...]
    reliability: tuple[ReliabilityBin, ...]
    output_dir: str
    unreadable: int = 0


AnyEvaluation = Evaluation | MultilabelEvaluation
