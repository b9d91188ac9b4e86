"""The results of all commands: frozen records whose fields are those of the JSON output. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from wisesr_cli.confusion import Confusion, HasConfusion

Level = Literal["pass", "warn", "fail"]


@dataclass(frozen=True)
class _PlainJson:
    _optional: ClassVar[tuple[str, ...]] = ()  # fields that are left out when they are None

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the command's JSON output."""
        return {name: value for name, value in asdict(self).items() if value is not None or name not in self._optional}


@dataclass(frozen=True)
class Finding(_PlainJson):
    """One row of `wisesr check`."""

    _optional = ("pairs",)
    level: Level
    code: str
    message: str
    count: int = 0
    paths: tuple[str, ...] = ()
    pairs: tuple[tuple[str, str], ...] | None = None  # of paths; None where the row is not about pairs


@dataclass(frozen=True)
class CheckResult:
    """All findings about a config and its image folders."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> Level:
        """The worst level found."""
        levels: tuple[Level, ...] = ("pass", "warn", "fail")
        return max((finding.level for finding in self.findings), key=levels.index, default="pass")

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr check --format json`."""
        return {"status": self.status, "findings": [finding.to_json() for finding in self.findings]}


@dataclass(frozen=True)
class Starter:
    """A first config for an image folder: its text, and the reasons for its values, one per line."""

    config: str
    choices: tuple[str, ...]


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
    set_score: float  # the least score of a label in a set
    answer_score: float | None  # the least score of a single answer; None: none is given
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
class ScoredLabel:
    """A class name and the probability given to it."""

    label: str
    score: float


@dataclass(frozen=True)
class Prediction(_PlainJson):
    """The labels of one image, best first, or the error of reading it."""

    _optional = ("labels", "note", "probabilities")
    path: str
    label: str | None
    score: float | None
    top: tuple[ScoredLabel, ...] = ()
    error: str | None = None
    margin: float | None = None  # the best probability minus the second best
    entropy: float | None = None  # of the probabilities, in nats: 0 where one class has all
    labels: tuple[str, ...] | None = None  # with a coverage: the set that holds the true class as often, best first
    note: str | None = None  # what is wrong with an image that was labelled nevertheless
    probabilities: dict[str, float] | None = None  # where asked for: of every class

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr predict --format json`; there are many records, and `asdict` copies slowly."""
        fields = {**vars(self), "top": tuple(dict(vars(scored)) for scored in self.top)}
        return {name: value for name, value in fields.items() if value is not None or name not in self._optional}


@dataclass(frozen=True)
class Embedding(_PlainJson):
    """The feature vector of one image, float32 numbers, or the error of reading it."""

    path: str
    vector: tuple[float, ...] | None
    error: str | None = None


RunStatus = Literal["finished", "unfinished", "training", "upgraded", "damaged"]


@dataclass(frozen=True)
class RunSummary(_PlainJson):
    """One row of `wisesr runs`; what a damaged run does not tell is None."""

    name: str
    path: str
    status: RunStatus
    data: str | None  # the image folder or table of labels
    head: str | None
    backbone: str | None
    top1_accuracy: float | None  # of the best model on validation images
    epochs: int | None  # finished ones
    planned_epochs: int | None
    bytes: int  # of all files in it
    changed: str  # when it was begun, or resumed last: ISO 8601 with the offset of the local time
    problem: str | None = None  # what is damaged


@dataclass(frozen=True)
class RemovedRun(_PlainJson):
    """A run that was removed, the bytes that were freed, and the user's files that stay in its folder."""

    path: str
    bytes: int
    stays: tuple[str, ...]


@dataclass(frozen=True)
class SummaryRow(_PlainJson):
    """Parameters, FLOPs (one multiply-add is 2) and size of one backbone with one head at one image size."""

    _optional = ("latency_ms",)
    backbone: str
    image_height: int
    image_width: int
    classes: int
    head: str
    feature_map: tuple[int, int, int]
    backbone_parameters: int
    head_parameters: int
    total_parameters: int
    trainable_parameters: int
    head_flops: int
    total_flops: int
    size_mb: float
    latency_ms: float | None = None


@dataclass(frozen=True)
class Summary:
    """The rows of `wisesr summarize`, and notes about what was omitted."""

    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr summarize --format json`."""
        return {"rows": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class EpochResult:
    """One row of history.csv: a finished epoch."""

    epoch: int
    phase: int
    learning_rate: float
    loss: float
    top1_accuracy: float
    val_loss: float | None
    val_top1_accuracy: float | None
    epoch_seconds: float


@dataclass(frozen=True)
class TrainingResult:
    """The result of a training run."""

    run_dir: str
    history: tuple[EpochResult, ...]
    best_epoch: int | None
    metrics: Metrics | None
    parameters: int
    head_parameters: int
    epochs_done_now: int
    stopped: str | None = None  # why it ended before its last epoch, if it did
    finished: bool = True  # whether all requested epochs are done


@dataclass(frozen=True)
class ComparedTraining:
    """One training of a comparison: a head and a seed, and its result."""

    head: str
    seed: int
    run: str  # the name of its run directory in the comparison's folder
    schedules: tuple[int, ...]  # the requested numbers of epochs, several when it was resumed for more
    epochs: int
    best_epoch: int | None
    top1_accuracy: float | None
    macro_f1: float | None
    accuracies: tuple[float, ...]  # top-1 after every epoch, on validation images, or on those of training without any
    seconds_per_epoch: float | None  # the median
    epochs_to_first_best: int | None  # until the best accuracy of the first head with the same seed; None: never
    error: str | None = None  # why there is no result
    fold: int | None = None  # that was held out, from 0


@dataclass(frozen=True)
class ComparisonRow:
    """A head over all seeds with a result, and its paired difference to the first head.

    Accuracies and macro F1 are fractions in 0..1; `*_std` is the sample's standard deviation, None for one seed. With
    folds they are over all folds of these seeds.
    """

    head: str
    seeds: tuple[int, ...]
    top1_accuracy_mean: float | None
    top1_accuracy_std: float | None
    macro_f1_mean: float | None
    macro_f1_std: float | None
    head_parameters: int | None
    total_parameters: int | None
    seconds_per_epoch_mean: float | None
    epochs_to_first_best_mean: float | None  # None when a training never reached it
    difference_to_first_mean: float | None  # of the top-1 accuracy
    difference_to_first_ci95: tuple[float, float] | None  # see `bootstrap.paired_interval`
    missing_seeds: tuple[int, ...] = ()  # that lack a result, with folds that of any


@dataclass(frozen=True)
class Comparison:
    """A comparison of heads: a row per head, the conclusions, and every training."""

    output_dir: str
    split: str
    examples: int  # of `split`, on which each training was evaluated
    same_examples: bool  # whether they were the same for all seeds
    curves_of: Literal["validation", "training"]  # which images the accuracies after every epoch are of
    feature_map: tuple[int, int, int]
    rows: tuple[ComparisonRow, ...]
    trainings: tuple[ComparedTraining, ...]
    conclusions: tuple[str, ...]
    folds: int | None = None  # of the training images, each held out once for every head and seed
    label_issues: LabelIssues | None = None  # where they were asked for

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr compare --format json`, without paths."""
        values = asdict(self)
        del values["output_dir"], values["label_issues"]
        return {"rows": values.pop("rows"), **values}


@dataclass(frozen=True)
class Contribution:
    """The contribution of every position of the feature map to one logit; `sum` + `bias` equals `logit`."""

    label: str
    logit: float
    bias: float
    map: tuple[tuple[float, ...], ...]  # of the height and width of the feature map
    sum: float

    def minus(self, other: Contribution) -> Contribution:
        """Return the contribution to the difference of the logits of two classes."""
        pairs = (zip(mine, theirs, strict=True) for mine, theirs in zip(self.map, other.map, strict=True))
        less = tuple(tuple(a - b for a, b in row) for row in pairs)
        label, logit, bias = f"{self.label} - {other.label}", self.logit - other.logit, self.bias - other.bias
        return Contribution(label, logit, bias, less, self.sum - other.sum)


@dataclass(frozen=True)
class Explanation:
    """The explanation of one image's label, or the error of reading it."""

    path: str
    predicted: Contribution | None = None  # to the largest logit
    runner_up: Contribution | None = None  # to the second largest
    score: float | None = None  # the probability of the predicted class
    asked: tuple[Contribution, ...] = ()  # to the logits of the requested classes, in their order
    error: str | None = None

    @property
    def decision(self) -> Contribution | None:
        """The contribution to the predicted logit minus that of the runner-up."""
        return self.predicted.minus(self.runner_up) if self.predicted and self.runner_up else None

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows of `wisesr explain --format json`: the requested classes, else the predicted one."""
        shown = self.asked or ((self.predicted,) if self.predicted else ())
        return [{"path": self.path, **asdict(row)} for row in shown]


@dataclass(frozen=True)
class ExportedModel:
    """A model in another format, and the differences of its outputs from those of the run on the same images."""

    format: str
    file: str  # its name in the folder of exports
    quantize: str | None
    bytes: int
    compared_on: str  # a split of the run, or a folder
    compared_images: int
    max_probability_difference: float  # the largest over the images and all classes
    max_logit_difference: float | None  # None where probabilities come out
    top1_agreement: float  # the fraction of the images whose best label is that of the run
    output: str = "logits"
    layout: str = "nhwc"  # of the pixels: batch, height, width, RGB; nchw: batch, RGB, height, width
    batch: int | None = None  # how many images it takes at a time; None: any number
    resize: str = "outside"  # inside: it takes images of any size
    judged_images: int | None = None  # labelled images for the accuracies, for a quantized model only
    run_top1_accuracy: float | None = None
    top1_accuracy: float | None = None

    @property
    def top1_accuracy_difference(self) -> float | None:
        """The change of top-1 accuracy by quantization; negative is a loss."""
        before, after = self.run_top1_accuracy, self.top1_accuracy
        return None if before is None or after is None else after - before

    def to_json(self) -> dict[str, Any]:
        """Return one row of `wisesr export --format json`."""
        return {**asdict(self), "top1_accuracy_difference": self.top1_accuracy_difference}


@dataclass(frozen=True)
class Exports:
    """The exported models and their folder."""

    output_dir: str
    rows: tuple[ExportedModel, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr export --format json`."""
        return {"output_dir": self.output_dir, "rows": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class Upgrade(_PlainJson):
    """A Keras classifier, and the run that `wisesr upgrade` made of it; they differ by that on `compared_images`."""

    run_dir: str
    model: str
    image_size: tuple[int, int]
    layers: int
    backbone_parameters: int
    scaling: str  # how pixels are scaled before the model
    scaling_reason: str  # how that is known
    feature_map: tuple[int, int, int]
    pooling: str
    tail: tuple[str, ...]  # the layers after the pooling
    activation: str  # the one at the end, sigmoid for one unit
    hidden: tuple[str, ...]  # what of them the head has as hidden layers; the others are its classifier layer
    class_names: tuple[str, ...]
    head: str
    head_parameters: int
    compared_images: int
    compared_on: str
    max_probability_difference: float
    max_log_difference: float  # of logarithms of probabilities, divided by the largest logarithm
    variation: float  # largest difference of a class's probability between two images; if small, the test is weak
    notes: tuple[str, ...] = ()
