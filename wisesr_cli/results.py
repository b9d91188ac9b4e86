"""What the work hands to the display: frozen records, with the field names of the JSON that users read.

A record can be shown without a model, and a model runs without a terminal. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

Level = Literal["pass", "warn", "fail"]


class Progress(Protocol):
    """How long work reports that it goes on; `terminal.Bar` shows it, `Silent` does not."""

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more of the announced total as done."""

    def describe(self, label: str) -> None:
        """Say what is being done now."""


class Listener(Protocol):
    """Whom long work tells what happens. Every text is plain: the listener makes it safe for its reader."""

    def note(self, message: str) -> None:
        """Say something a user wants to know."""

    def warn(self, message: str) -> None:
        """Say something a user should look into."""

    def progress(self, label: str, total: int | None) -> Any:
        """Return a context manager that gives a `Progress` for `total` steps (None: not known)."""


class Silent:
    """A `TrainingListener` that shows nothing, for use as a library."""

    def note(self, message: str) -> None:
        """Do nothing."""

    def warn(self, message: str) -> None:
        """Do nothing."""

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Progress]:
        """Give a progress that is not shown."""
        yield self

    def advance(self, steps: int = 1) -> None:
        """Do nothing."""

    def describe(self, label: str) -> None:
        """Do nothing."""

    def prepared(self, plan: TrainingPlan) -> None:
        """Do nothing."""

    def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
        """Do nothing."""


class TrainingListener(Listener, Protocol):
    """Whom a training also tells of its stages."""

    def prepared(self, plan: TrainingPlan) -> None:
        """Hear that data and model are ready, before the first step."""

    def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
        """Hear of a finished epoch, of `total`."""


@dataclass(frozen=True)
class Finding:
    """One row of `wisesr check`: what was looked at, and what was found."""

    level: Level
    code: str
    message: str
    count: int = 0
    paths: tuple[str, ...] = ()


@dataclass(frozen=True)
class CheckResult:
    """All findings about a config and its image folders."""

    findings: tuple[Finding, ...]

    @property
    def status(self) -> Level:
        """The worst level found."""
        levels = {finding.level for finding in self.findings}
        return "fail" if "fail" in levels else "warn" if "warn" in levels else "pass"

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr check --format json`."""
        return {"status": self.status, "findings": [asdict(finding) for finding in self.findings]}


@dataclass(frozen=True)
class Starter:
    """A first config for an image folder: its text, and what was seen and chosen, a line each."""

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
class Metrics:
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
    classes: tuple[str, ...]
    per_class: tuple[ClassMetrics, ...]
    confusion_matrix: tuple[tuple[int, ...], ...]  # rows are the truth

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr evaluate --format json`."""
        return asdict(self)


@dataclass(frozen=True)
class ConfusedPair:
    """How often images of one class were taken for another."""

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
    """The examples whose top probability lies in [low, high]: how sure the model was, and how often right."""

    low: float
    high: float
    count: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Evaluation:
    """Metrics and what explains them: where the model errs, and whether its probabilities can be trusted."""

    split: str
    metrics: Metrics
    most_confused: tuple[ConfusedPair, ...]
    worst_mistakes: tuple[Mistake, ...]
    reliability: tuple[ReliabilityBin, ...]
    output_dir: str
    unreadable: int = 0


@dataclass(frozen=True)
class ScoredLabel:
    """A class name and the probability given to it."""

    label: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """The labels of one image, best first, or the reason why it could not be read."""

    path: str
    label: str | None
    score: float | None
    top: tuple[ScoredLabel, ...] = ()
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields of one line of `wisesr predict --format jsonl`."""
        return asdict(self)


@dataclass(frozen=True)
class SummaryRow:
    """Parameters, FLOPs (one multiply-add is 2) and size of one backbone with one head at one image size."""

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

    def to_json(self) -> dict[str, Any]:
        """Return one row of `wisesr summarize --format json`; `latency_ms` only when it was measured."""
        row = asdict(self)
        if self.latency_ms is None:
            del row["latency_ms"]
        return row


@dataclass(frozen=True)
class Summary:
    """The rows of `wisesr summarize`, and what was left out and why."""

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
class TrainingPlan:
    """What a training is about to do: its data, its model, its device, and what to look into before waiting.

    `head_start` says where the head's weights come from, or why not from where they might; None: it starts anew.
    """

    run_dir: str
    device: str
    class_names: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]  # split -> images per class
    image_size: tuple[int, int]
    backbone: str
    loaded_tensors: int | None
    feature_map: tuple[int, int, int]
    head: str
    backbone_parameters: int
    head_parameters: int
    epochs: int
    steps_per_epoch: int
    warnings: tuple[str, ...]
    head_start: str | None = None


@dataclass(frozen=True)
class TrainingResult:
    """What a training run came to. `stopped` says why it ended before its last epoch, None when it did not.

    `finished` says whether nothing is left to do for the number of epochs that was asked for.
    """

    run_dir: str
    history: tuple[EpochResult, ...]
    best_epoch: int | None
    metrics: Metrics | None
    parameters: int
    head_parameters: int
    epochs_done_now: int
    stopped: str | None = None
    finished: bool = True


@dataclass(frozen=True)
class DemoRow:
    """What one head came to."""

    head: str
    run_dir: str
    metrics: Metrics
    head_parameters: int
    parameters: int


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to: a row per head, a few predictions of the last head, and where to look."""

    rows: tuple[DemoRow, ...]
    predictions: tuple[Prediction, ...]
    config_path: str
    contact_sheet: str
    explanation: str  # a picture of what each head looked at


@dataclass(frozen=True)
class ComparedTraining:
    """One training of a comparison: a head and a seed, and what that came to; `error` says why it came to nothing.

    `run` is the name of its run directory in the comparison's folder. `schedules` holds the numbers of epochs that were
    asked for, one after the other: more than one when it was gone on with. `seconds_per_epoch` is the median over the
    epochs. `epochs_to_first_best` counts the epochs after which it was as accurate as the first head of the comparison
    ever was with the same seed; None when it never was. `accuracies` holds the top-1 accuracy after every epoch, on the
    validation images, or on the training images where there are none.
    """

    head: str
    seed: int
    run: str
    schedules: tuple[int, ...]
    epochs: int
    best_epoch: int | None
    top1_accuracy: float | None
    macro_f1: float | None
    accuracies: tuple[float, ...]
    seconds_per_epoch: float | None
    epochs_to_first_best: int | None
    error: str | None = None


@dataclass(frozen=True)
class ComparisonRow:
    """A head over the seeds whose training came to something, and its paired difference to the first head.

    Accuracies and macro F1 are fractions in 0..1 on the judged images. `*_std` is the standard deviation of the sample,
    None for one seed. The difference is that of the top-1 accuracy; `difference_to_first_ci95` is its interval, see
    `bootstrap.paired_interval`. `epochs_to_first_best_mean` is None when one of the trainings never got there.
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
    epochs_to_first_best_mean: float | None
    difference_to_first_mean: float | None
    difference_to_first_ci95: tuple[float, float] | None
    missing_seeds: tuple[int, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Heads side by side: a row per head, what the figures allow to say, and every training.

    `examples` is the number of images that each training was judged on, those of `split`; `same_examples` says whether
    they were the same for all seeds. `curves_of` says which images the accuracies after every epoch are of.
    """

    output_dir: str
    split: str
    examples: int
    same_examples: bool
    curves_of: Literal["validation", "training"]
    feature_map: tuple[int, int, int]
    rows: tuple[ComparisonRow, ...]
    trainings: tuple[ComparedTraining, ...]
    conclusions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr compare --format json`, which name no place on the disk."""
        values = asdict(self)
        del values["output_dir"]
        return {"rows": values.pop("rows"), **values}


@dataclass(frozen=True)
class Contribution:
    """What every position of the feature map adds to one logit of one image; `sum` + `bias` equals `logit`.

    `map` has the height and width of the feature map.
    """

    label: str
    logit: float
    bias: float
    map: tuple[tuple[float, ...], ...]
    sum: float

    def minus(self, other: Contribution) -> Contribution:
        """Return what decides between two classes: the contribution to the difference of their logits."""
        rows = tuple(
            tuple(a - b for a, b in zip(mine, theirs, strict=True))
            for mine, theirs in zip(self.map, other.map, strict=True)
        )
        return Contribution(
            label=f"{self.label} - {other.label}",
            logit=self.logit - other.logit,
            bias=self.bias - other.bias,
            map=rows,
            sum=self.sum - other.sum,
        )


@dataclass(frozen=True)
class Explanation:
    """Why one image got its label, or the reason why it could not be read.

    `predicted` and `runner_up` are the contributions to the two largest logits; `asked` those to the classes that were
    asked for, in their order. `score` is the probability of the predicted class.
    """

    path: str
    predicted: Contribution | None = None
    runner_up: Contribution | None = None
    score: float | None = None
    asked: tuple[Contribution, ...] = ()
    error: str | None = None

    @property
    def decision(self) -> Contribution | None:
        """The contribution to the predicted logit less that of the runner-up."""
        if self.predicted is None or self.runner_up is None:
            return None
        return self.predicted.minus(self.runner_up)

    def to_json(self) -> list[dict[str, Any]]:
        """Return the rows of `wisesr explain --format json`: the classes asked for, else the predicted one."""
        shown = self.asked or ((self.predicted,) if self.predicted else ())
        return [{"path": self.path, **asdict(row)} for row in shown]


@dataclass(frozen=True)
class ExportedModel:
    """A model in another format, and how its answers differ from those of the run on the same images.

    `file` is its name in the folder of exports. `compared_on` is a split of the run, or a folder. Differences are the
    largest over `compared_images` of it and all classes; `top1_agreement` is the fraction of the images whose best
    label is that of the run. Accuracies are those on `judged_images` labelled images, of a quantized model only.
    """

    format: str
    file: str
    quantize: str | None
    bytes: int
    compared_on: str
    compared_images: int
    max_probability_difference: float
    max_logit_difference: float
    top1_agreement: float
    judged_images: int | None = None
    run_top1_accuracy: float | None = None
    top1_accuracy: float | None = None

    @property
    def top1_accuracy_difference(self) -> float | None:
        """What quantization does to the top-1 accuracy: below zero it costs some."""
        if self.top1_accuracy is None or self.run_top1_accuracy is None:
            return None
        return self.top1_accuracy - self.run_top1_accuracy

    def to_json(self) -> dict[str, Any]:
        """Return one row of `wisesr export --format json`."""
        return {**asdict(self), "top1_accuracy_difference": self.top1_accuracy_difference}


@dataclass(frozen=True)
class Exports:
    """What was exported, and where it lies."""

    output_dir: str
    rows: tuple[ExportedModel, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr export --format json`."""
        return {"output_dir": self.output_dir, "rows": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class Upgrade:
    """What `wisesr upgrade` found in a Keras classifier, and the run that it made of it.

    `tail` lists what stands behind the pooling; `activation` is the one at the end, sigmoid for one unit. `scaling`
    is how pixels are scaled before the model, and `scaling_reason` how that is known. Differences are those between the
    model and the run's file, read from the disk, over `compared_images`: the largest of probabilities, and the largest
    of logarithms of probabilities, divided by the largest logarithm. `variation` is the largest difference between the
    probabilities that two images have of a class: where it is small, the comparison says little.
    """

    run_dir: str
    model: str
    image_size: tuple[int, int]
    layers: int
    backbone_parameters: int
    scaling: str
    scaling_reason: str
    feature_map: tuple[int, int, int]
    pooling: str
    tail: tuple[str, ...]
    activation: str
    class_names: tuple[str, ...]
    head: str
    head_parameters: int
    compared_images: int
    compared_on: str
    max_probability_difference: float
    max_log_difference: float
    variation: float
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr upgrade --format json`."""
        return asdict(self)
