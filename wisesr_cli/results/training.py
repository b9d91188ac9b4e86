"""The results of `train`, `compare` and `runs`. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wisesr_cli.results.evaluation import LabelIssues, Metrics, MultilabelMetrics
from wisesr_cli.results.records import PlainJson

RunStatus = Literal["finished", "unfinished", "training", "upgraded", "damaged"]


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
    metrics: Metrics | MultilabelMetrics | None
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
    accuracies: tuple[float, ...]  # top-1 after every epoch, on validation images, else on training images
    seconds_per_epoch: float | None  # the median
    epochs_to_first_best: int | None  # to reach the best accuracy of the first head with the same seed; None: never
    error: str | None = None  # why there is no result
    fold: int | None = None  # held out, from 0


@dataclass(frozen=True)
class ComparisonRow:
    """A head over all seeds with a result, and its paired difference from the first head.

    Accuracies and macro F1 are fractions in 0..1; `*_std` is the sample's standard deviation, None for one seed. With
    folds, they cover all folds of these seeds.
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
    missing_seeds: tuple[int, ...] = ()  # without a result, with folds if any fold has none


@dataclass(frozen=True)
class Comparison:
    """A comparison of heads: a row per head, the conclusions, and every training."""

    output_dir: str
    split: str
    examples: int  # number in `split`, on which each training was evaluated
    same_examples: bool  # whether these were the same for all seeds
    curves_of: Literal["validation", "training"]  # the images behind the accuracies after every epoch
    feature_map: tuple[int, int, int]
    rows: tuple[ComparisonRow, ...]
    trainings: tuple[ComparedTraining, ...]
    conclusions: tuple[str, ...]
    folds: int | None = None  # of the training images, each held out once for every head and seed
    label_issues: LabelIssues | None = None  # if requested

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr compare --format json`, without paths."""
        values = asdict(self)
        del values["output_dir"], values["label_issues"]
        return {"rows": values.pop("rows"), **values}


@dataclass(frozen=True)
class RunSummary(PlainJson):
    """One row of `wisesr runs`; values missing in a damaged run are None."""

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
    changed: str  # when it was started or last resumed: ISO 8601 with the local UTC offset
    problem: str | None = None  # what is damaged


@dataclass(frozen=True)
class RemovedRun(PlainJson):
    """A run that was removed, the bytes that were freed, and the user's files that stay in its folder."""

    path: str
    bytes: int
    stays: tuple[str, ...]
