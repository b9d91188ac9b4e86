"""The figures of a comparison, from what its trainings left on the disk: a row per head, differences in pairs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.comparison.bootstrap import paired_interval
from wisesr_cli.comparison.conclusions import conclude
from wisesr_cli.comparison.plan import PlannedTraining
from wisesr_cli.comparison.state import ComparisonState, TrainingRecord
from wisesr_cli.errors import RunError
from wisesr_cli.results import ComparedTraining, Comparison, ComparisonRow
from wisesr_cli.run.names import PREDICTIONS
from wisesr_cli.run.records import read_rows
from wisesr_cli.run.run import Run
from wisesr_cli.text import visible

# What a comparison remembers of a training and shows as it is.
SHARED_FIELDS = {field.name for field in fields(ComparedTraining)} & {field.name for field in fields(TrainingRecord)}


@dataclass(frozen=True)
class ExampleResults:
    """The images that a training was evaluated on, and whether each was right: bool (examples,)."""

    paths: tuple[str, ...]
    correct: NDArray[np.bool_]


@dataclass(frozen=True)
class _Done:
    planned: PlannedTraining
    record: TrainingRecord
    results: ExampleResults


def compare_trainings(
    folder: Run, planned: Sequence[PlannedTraining], state: ComparisonState, split: str
) -> Comparison:
    """Compare the heads, each with the first one planned.

    Raises `RunError` when predictions are missing or damaged, or two heads were evaluated on different images.
    """
    done: dict[tuple[str, int], _Done] = {}
    for item in planned:
        record = state.record(item.run)
        if record.is_done:
            results = read_example_results(Run(folder.path / item.run), split, record)
            done[item.head, item.seed] = _Done(item, record, results)
    same_examples = _check_pairs(done)
    heads = list(dict.fromkeys(item.head for item in planned))
    seeds = list(dict.fromkeys(item.seed for item in planned))
    rows = tuple(_row(head, heads[0], seeds, done, same_examples=same_examples) for head in heads)
    result = Comparison(
        output_dir=str(folder.path),
        split=split,
        examples=max((len(item.results.paths) for item in done.values()), default=0),
        same_examples=same_examples,
        curves_of=next((item.record.curves_of for item in done.values()), "validation"),
        feature_map=next((item.record.feature_map for item in done.values()), (0, 0, 0)),
        rows=rows,
        trainings=tuple(_training(item, state.record(item.run), heads[0], done) for item in planned),
        conclusions=(),
    )
    return conclude(result, in_groups=planned[0].loaded.config.data.split_strategy == "group")


def read_example_results(run: Run, split: str, record: TrainingRecord) -> ExampleResults:
    """Return the results of a training's evaluation for single images; `RunError` when missing or damaged."""
    folder = run.path / record.evaluation if record.evaluation else run.evaluation_dir(split)
    path = folder / PREDICTIONS
    rows = read_rows(path, 6)
    answers = [row[5] for row in rows]
    if not rows or not {"true", "false"} >= set(answers):
        raise RunError(f"{visible(path)}: damaged: a row does not say whether it is correct")
    return ExampleResults(tuple(row[0] for row in rows), np.array([answer == "true" for answer in answers]))


def is_evaluated(run: Run, split: str, record: TrainingRecord) -> bool:
    """Return whether an evaluation is there whole, and is the one that is remembered: any other may write there."""
    try:
        results = read_example_results(run, split, record)
    except RunError:
        return False
    return record.top1_accuracy is not None and math.isclose(results.correct.mean(), record.top1_accuracy)


def _check_pairs(done: dict[tuple[str, int], _Done]) -> bool:
    """Return whether all seeds were judged on the same images, having checked that all heads of a seed were."""
    first: dict[int, _Done] = {}
    for (_, seed), item in done.items():
        other = first.setdefault(seed, item)
        if other.results.paths != item.results.paths:
            raise RunError(
                f"{visible(item.planned.run)} and {visible(other.planned.run)} were judged on different images: take "
                "the evaluate folders of both away, and go on with --resume"
            )
    return len({item.results.paths for item in first.values()}) <= 1


def _row(
    head: str, first: str, seeds: Sequence[int], done: dict[tuple[str, int], _Done], *, same_examples: bool
) -> ComparisonRow:
    """Return a head's row: over the seeds that it has, and paired over those that the first head has, too."""
    own = [seed for seed in seeds if (head, seed) in done]
    records = [done[head, seed].record for seed in own]
    accuracies = [record.top1_accuracy for record in records if record.top1_accuracy is not None]
    f1 = [record.macro_f1 for record in records if record.macro_f1 is not None]
    shared = [seed for seed in own if (first, seed) in done] if head != first else []
    differences = [
        done[head, seed].results.correct.astype(np.int64) - done[first, seed].results.correct for seed in shared
    ]
    reached = [_epochs_to(done, head, first, seed) for seed in shared or own]
    return ComparisonRow(
        head=head,
        seeds=tuple(own),
        top1_accuracy_mean=_mean(accuracies),
        top1_accuracy_std=_deviation(accuracies),
        macro_f1_mean=_mean(f1),
        macro_f1_std=_deviation(f1),
        head_parameters=records[0].head_parameters if records else None,
        total_parameters=records[0].total_parameters if records else None,
        seconds_per_epoch_mean=_mean([statistics.median(record.epoch_seconds) for record in records]),
        epochs_to_first_best_mean=_mean([epochs for epochs in reached if epochs]) if all(reached) else None,
        difference_to_first_mean=_mean([float(values.mean()) for values in differences]),
        difference_to_first_ci95=paired_interval(differences, same_examples=same_examples) if differences else None,
        missing_seeds=tuple(seed for seed in seeds if seed not in own),
    )


def _training(
    item: PlannedTraining, record: TrainingRecord, first: str, done: dict[tuple[str, int], _Done]
) -> ComparedTraining:
    return ComparedTraining(
        head=item.head,
        seed=item.seed,
        run=item.run,
        epochs=len(record.accuracies),
        seconds_per_epoch=statistics.median(record.epoch_seconds) if record.epoch_seconds else None,
        epochs_to_first_best=_epochs_to(done, item.head, first, item.seed),
        **{name: getattr(record, name) for name in SHARED_FIELDS},
    )


def _epochs_to(done: dict[tuple[str, int], _Done], head: str, first: str, seed: int) -> int | None:
    """Return after how many epochs a head was as accurate as the first head at its best with the same seed."""
    if (head, seed) not in done or (first, seed) not in done:
        return None
    aim = max(done[first, seed].record.accuracies)
    accuracies = done[head, seed].record.accuracies
    return next((epoch for epoch, value in enumerate(accuracies, start=1) if value >= aim), None)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None where one value says nothing of it."""
    return statistics.stdev(values) if len(values) > 1 else None
