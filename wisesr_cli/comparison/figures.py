"""Computes the figures of a comparison from its trainings' files: one row per head, with paired differences."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.comparison.bootstrap import paired_interval
from wisesr_cli.comparison.conclusions import conclude
from wisesr_cli.comparison.plan import PlannedTraining
from wisesr_cli.comparison.state import ComparisonState, TrainingRecord
from wisesr_cli.errors import RunError
from wisesr_cli.results.training import ComparedTraining, Comparison, ComparisonRow
from wisesr_cli.run.names import PREDICTIONS
from wisesr_cli.run.records import read_rows
from wisesr_cli.run.run import Run
from wisesr_cli.text import visible

# The recorded fields of a training that a comparison shows unchanged.
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


_Draw = tuple[int, int | None]  # the seed of a training, and the fold that it holds out
_AllDone = dict[tuple[str, _Draw], _Done]  # by head and draw


def compare_trainings(
    folder: Run, planned: Sequence[PlannedTraining], state: ComparisonState, split: str, *, folds: int | None = None
) -> Comparison:
    """Compare every head with the first one planned.

    Raises `RunError` when predictions are missing or damaged, or two heads were evaluated on different images.
    """
    done: _AllDone = {}
    for item in planned:
        record = state.record(item.run)
        if record.is_done:
            results = read_example_results(Run(folder.path / item.run), split, record)
            done[item.head, _draw(item)] = _Done(item, record, results)
    images = _check_pairs(done)
    same_examples = len(set(images.values())) <= 1
    heads = list(dict.fromkeys(item.head for item in planned))
    draws = list(dict.fromkeys(_draw(item) for item in planned))
    rows = tuple(_row(head, heads[0], draws, done, same_examples=same_examples) for head in heads)
    result = Comparison(
        output_dir=str(folder.path),
        split=split if folds is None else "held-out folds",
        examples=max(map(len, images.values()), default=0),
        same_examples=same_examples,
        curves_of=next((item.record.curves_of for item in done.values()), "validation"),
        feature_map=next((item.record.feature_map for item in done.values()), (0, 0, 0)),
        rows=rows,
        trainings=tuple(_training(item, state.record(item.run), heads[0], done) for item in planned),
        conclusions=(),
        folds=folds,
    )
    return conclude(result, in_groups=planned[0].loaded.config.data.split_strategy == "group")


def read_example_results(run: Run, split: str, record: TrainingRecord) -> ExampleResults:
    """Return the per-image results of a training's evaluation; raises a `RunError` when missing or damaged."""
    path = evaluation_of(run, split, record) / PREDICTIONS
    rows = read_rows(path, 6)
    answers = [row[5] for row in rows]
    if not rows or not {"true", "false"} >= set(answers):
        raise RunError(f"{visible(path)}: damaged: a row does not say whether it is correct")
    return ExampleResults(tuple(row[0] for row in rows), np.array([answer == "true" for answer in answers]))


def evaluation_of(run: Run, split: str, record: TrainingRecord) -> Path:
    """Return the folder with the evaluation of a training."""
    return run.path / record.evaluation if record.evaluation else run.evaluation_dir(split)


def is_evaluated(run: Run, split: str, record: TrainingRecord) -> bool:
    """Return whether an evaluation is complete and is the recorded one: any later evaluation may write there."""
    try:
        results = read_example_results(run, split, record)
    except RunError:
        return False
    return record.top1_accuracy is not None and math.isclose(results.correct.mean(), record.top1_accuracy)


def _draw(item: PlannedTraining) -> _Draw:
    return item.seed, item.fold


def _check_pairs(done: _AllDone) -> dict[int, tuple[str, ...]]:
    """Return the images that each seed was evaluated on, all folds together, after checking that all heads agree."""
    first: dict[_Draw, _Done] = {}
    for (_, draw), item in done.items():
        other = first.setdefault(draw, item)
        if other.results.paths != item.results.paths:
            raise RunError(
                f"{visible(item.planned.run)} and {visible(other.planned.run)} were evaluated on different images: "
                "remove the evaluate folders of both, and continue with --resume"
            )
    images: dict[int, tuple[str, ...]] = {}
    for (seed, fold), item in first.items():
        paths = item.results.paths
        images[seed] = paths if fold is None else tuple(sorted((*images.get(seed, ()), *paths)))
    return images


def _row(head: str, first: str, draws: Sequence[_Draw], done: _AllDone, *, same_examples: bool) -> ComparisonRow:
    """Return a head's row: means over its trainings, differences over those that the first head has as well."""
    own = [draw for draw in draws if (head, draw) in done]
    records = [done[head, draw].record for draw in own]
    accuracies = [record.top1_accuracy for record in records if record.top1_accuracy is not None]
    f1 = [record.macro_f1 for record in records if record.macro_f1 is not None]
    shared = [draw for draw in own if (first, draw) in done] if head != first else []
    reached = [_epochs_to(done, head, first, draw) for draw in shared or own]
    differences = {
        draw: done[head, draw].results.correct.astype(np.int64) - done[first, draw].results.correct for draw in shared
    }
    return ComparisonRow(
        head=head,
        seeds=tuple(dict.fromkeys(seed for seed, _ in own)),
        top1_accuracy_mean=_mean(accuracies),
        top1_accuracy_std=_deviation(accuracies),
        macro_f1_mean=_mean(f1),
        macro_f1_std=_deviation(f1),
        head_parameters=records[0].head_parameters if records else None,
        total_parameters=records[0].total_parameters if records else None,
        seconds_per_epoch_mean=_mean([statistics.median(record.epoch_seconds) for record in records]),
        epochs_to_first_best_mean=_mean([epochs for epochs in reached if epochs]) if all(reached) else None,
        difference_to_first_mean=_mean([float(values.mean()) for values in differences.values()]),
        difference_to_first_ci95=_interval(head, differences, done, same_examples) if differences else None,
        missing_seeds=tuple(dict.fromkeys(draw[0] for draw in draws if draw not in own)),
    )


def _interval(
    head: str, differences: dict[_Draw, NDArray[np.int64]], done: _AllDone, same_examples: bool
) -> tuple[float, float]:
    """Return the interval of the mean difference; the folds of one seed together contain every image once."""
    trainings = list(differences.values())
    if all(fold is None for _, fold in differences):
        return paired_interval(trainings, same_examples=same_examples)
    by_seed: list[NDArray[np.int64]] = []
    judged: set[tuple[str, ...]] = set()
    for seed in dict.fromkeys(seed for seed, _ in differences):
        draws = [draw for draw in differences if draw[0] == seed]
        paths = [path for draw in draws for path in done[head, draw].results.paths]
        order = sorted(range(len(paths)), key=paths.__getitem__)
        by_seed.append(np.concatenate([differences[draw] for draw in draws])[order])
        judged.add(tuple(paths[position] for position in order))  # lacks images where a training has no result
    return paired_interval(trainings, same_examples=len(judged) == 1, by_example=by_seed)


def _training(item: PlannedTraining, record: TrainingRecord, first: str, done: _AllDone) -> ComparedTraining:
    return ComparedTraining(
        head=item.head,
        seed=item.seed,
        fold=item.fold,
        run=item.run,
        epochs=len(record.accuracies),
        seconds_per_epoch=statistics.median(record.epoch_seconds) if record.epoch_seconds else None,
        epochs_to_first_best=_epochs_to(done, item.head, first, _draw(item)),
        **{name: getattr(record, name) for name in SHARED_FIELDS},
    )


def _epochs_to(done: _AllDone, head: str, first: str, draw: _Draw) -> int | None:
    """Return after how many epochs a head matched the first head's best accuracy with the same seed, or None."""
    if (head, draw) not in done or (first, draw) not in done:
        return None
    aim = max(done[first, draw].record.accuracies)
    accuracies = done[head, draw].record.accuracies
    return next((epoch for epoch, value in enumerate(accuracies, start=1) if value >= aim), None)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    """Return the standard deviation of a sample; None for fewer than two values."""
    return statistics.stdev(values) if len(values) > 1 else None
