"""Runs a comparison: does the remaining trainings, evaluates them, and combines the figures.

All mistakes that can be found are found before the first training. The records and predictions on the disk are the only
source of the figures, so that an interrupted comparison ends with the same figures as an uninterrupted one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from wisesr_cli.comparison.figures import compare_trainings, is_evaluated
from wisesr_cli.comparison.folder import check_comparison_kinds, choose_comparison
from wisesr_cli.comparison.out_of_fold import (
    describe_folds,
    doubt_labels,
    has_probabilities,
    keep_probabilities,
    read_held_out,
    write_out_of_fold,
)
from wisesr_cli.comparison.plan import ComparisonPlan, PlannedTraining, plan_of
from wisesr_cli.comparison.progress import CombinedProgress, WarnsOnce
from wisesr_cli.comparison.state import WAY_OUT, ComparisonState, TrainingRecord, read_comparison_state
from wisesr_cli.comparison.tables import write_comparison
from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.data.settings import SplitName
from wisesr_cli.data.survey import find_layout
from wisesr_cli.data.value_range import with_value_range
from wisesr_cli.data.verified import with_contents
from wisesr_cli.display.grid import percent
from wisesr_cli.errors import Interrupted, NotFiniteError, RunError, UsageError
from wisesr_cli.evaluation.evaluate import evaluate
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.keras_start import DeviceChoice
from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.models.at_hand import resolve_weights
from wisesr_cli.models.backbones import FROM_WEIGHTS
from wisesr_cli.models.costs_table import BACKBONE_SIZES
from wisesr_cli.models.heads import effective_options, grid_size
from wisesr_cli.requests import CompareRequest, EvaluateRequest
from wisesr_cli.results.evaluation import Evaluation
from wisesr_cli.results.training import Comparison, TrainingResult
from wisesr_cli.run.folders import Start, held_start, prepare_folder
from wisesr_cli.run.names import HISTORY, TRAININGS
from wisesr_cli.run.progress import Circumstances, check_resumable
from wisesr_cli.run.run import Run
from wisesr_cli.text import counted, visible
from wisesr_cli.training import train
from wisesr_cli.training.checks import check_settings, check_settings_with_data
from wisesr_cli.training.trackers.table import check_trackers
from wisesr_cli.training.train import TrainingOptions

REFERENCE_SEED = 0  # of the recorded split, by which changed images are noticed


@dataclass(frozen=True)
class _Work:
    """A comparison's folder, recorded state, evaluation split, and device."""

    folder: Path
    state: ComparisonState
    split: SplitName
    device: DeviceChoice
    shared_maps: dict[str, Any] = field(default_factory=dict)  # of frozen backbones: computed once for all heads

    def is_done(self, item: PlannedTraining) -> bool:
        """Return whether a training is complete: recorded as done, with its own files in place."""
        run, record = Run(self.folder / item.run), self.state.record(item.run)
        is_trained = record.is_finished(self.state.epochs) and run.is_complete and run.best.is_file()
        is_judged = is_trained and _is_of(run, item) and is_evaluated(run, self.split, record)
        return is_judged and (item.fold is None or has_probabilities(run, self.split, record))


def _is_of(run: Run, item: PlannedTraining) -> bool:
    """Return whether a run is the planned training, not another one put in its place."""
    planned = item.loaded.config
    try:
        config = run.load_config()
    except RunError:  # resuming writes it again
        return False
    same = (planned.model.head, planned.seed, planned.data.fold)
    return (config.model.head, config.seed, config.data.fold) == same


def open_comparison(plan: ComparisonPlan, *, resume: bool) -> Start:
    """Return the folder for a comparison after checking its settings, without writing anything yet.

    Raises:
        ConfigError: a head does not fit the feature map, or settings exclude each other.
        UsageError: the name is taken.
        RunError: something else is in the place of one of the comparison's files.
    """
    for head in plan.heads:
        check_settings(head.loaded.config)
    _check_heads(plan)
    check_trackers(plan.base.config.train.trackers)
    start = choose_comparison(plan.base.config, plan.default_name, resume=resume)
    check_comparison_kinds(start.run)
    return start


def compare(request: CompareRequest) -> Comparison:
    """Train every head with every seed, evaluate all of them, and return how they compare.

    A training whose loss is not finite has no result, with the reason recorded; the others continue.

    Raises:
        ConfigError: a mistake in the config or a head, or a setting that the images do not allow.
        UsageError: there is nothing to evaluate on, fewer epochs are requested than were trained, or the name is taken.
        DataError: the images cannot be used.
        RunError: the files to resume from are damaged, or do not match.
        MachineError: no GPU although one was requested, no room on the disk, no permission, or the folder is in use.
        Interrupted: a signal asked to stop; resuming the comparison named `run_name` continues it.
    """
    plan, listener, stop_request = plan_of(request), WarnsOnce(request.listener), StopRequest("continue with --resume")
    for note in plan.notes:
        listener.note(note)
    with (
        held_start(lambda: open_comparison(plan, resume=request.resume)) as start,
        stop_on_signals(stop_request) as stop,
    ):
        try:
            find_layout(plan.base.config.data)  # report a mistake there before looking for weights
            plan, warning = _with_resolved_weights(plan, start, listener)
            result = _compare(plan, start, request, stop, listener)
            if warning is not None:  # again at the end, where it is read
                request.listener.warn(warning)
            return result
        except Interrupted as interrupted:
            interrupted.run_name = start.run.name
            raise


def _with_resolved_weights(plan: ComparisonPlan, start: Start, listener: Listener) -> tuple[ComparisonPlan, str | None]:
    """Return the plan with the weights that every training starts from, and a warning about them, also issued here.

    A resumed comparison keeps its earlier choice for `auto`. Raises as `resolve_weights` does.
    """
    data, model = plan.base.config.data, plan.base.config.model
    if start.resumed:
        before = read_comparison_state(start.run.path).circumstances.config
        data = data.as_begun({key.removeprefix("data."): value for key, value in before.items()})
        if model.weights == "auto":
            model = model.model_copy(update={"weights": before["model.weights"]})
    resolved, recipe = resolve_weights(model, listener), plan.base.recipe
    warning = resolved.warning or (recipe.warning if recipe is not None and not start.resumed else None)
    if warning is not None:
        listener.warn(warning)
    return plan.with_settings(data, resolved.model.weights), warning


def _compare(
    plan: ComparisonPlan, start: Start, request: CompareRequest, stop: StopRequest, listener: Listener
) -> Comparison:
    index = build_index(plan.base.config.data, seed=REFERENCE_SEED, listener=listener)
    check_settings_with_data(plan.base.config, index)
    config = plan.base.config
    plan = plan.with_settings(with_value_range(config.data, index, listener), config.model.weights)
    split = _evaluation_split(index, listener)
    if plan.folds is not None:
        listener.note(describe_folds(plan, index))
    work = _Work(start.run.path, _start_state(start, plan, index, listener), split, request.device)
    planned = list(plan.trainings(work.folder))
    with stop.deferred():
        _train_all(work, planned, stop, listener)
        result = compare_trainings(start.run, planned, work.state, split, folds=plan.folds)
        if plan.folds is not None:
            held_out = read_held_out(start.run, planned, work.state, split)
            write_out_of_fold(start.run.path, held_out, index.class_names)
            if request.label_issues:
                issues = doubt_labels(start.run.path, held_out, index, plan.base.config.data)
                result = replace(result, label_issues=issues)
        write_comparison(start.run, result)
    return result


def _check_heads(plan: ComparisonPlan) -> None:
    """Raise a `ConfigError` for a head that cannot be built on the feature map, if a table has the map's size."""
    for head in plan.heads:
        config = head.loaded.config
        if config.model.feature_layer is None and config.model.backbone != FROM_WEIGHTS:
            feature_map = BACKBONE_SIZES[config.model.backbone].feature_map(config.data.image_size)
            grid_size(feature_map, effective_options(feature_map, config.model.head))


def _evaluation_split(index: DatasetIndex, listener: Listener) -> SplitName:
    """Return the split to evaluate on: test if it exists, else validation."""
    if "test" in index.splits:
        return "test"
    if "validation" not in index.splits:
        raise UsageError(
            "nothing to evaluate on: there is neither a test nor a validation split; give test images, or set "
            "data.validation_split above 0"
        )
    listener.warn(
        "there is no test split: the heads are evaluated on validation, which also chooses the best epoch, so the "
        "figures of all heads are optimistic"
    )
    return "validation"


def _start_state(start: Start, plan: ComparisonPlan, index: DatasetIndex, listener: Listener) -> ComparisonState:
    """Return the state of the trainings, written before the first one starts.

    Raises `RunError` when config, images or library versions have changed.
    """
    data = plan.base.config.data
    index = with_contents(index, index.splits, pixel_limit=data.pixel_limit, channels=data.channels, listener=listener)
    now = Circumstances(
        config=plan.shared_settings(),
        classes=index.class_names,
        data=index.record(),
        versions=keras_start.package_versions(),
        backend=keras_start.backend_name(),
        threads=worker_count(),
        device="",  # each training checks its own
    )
    prepare_folder(start.run, overwrite=False)
    state = ComparisonState(start.run.path / TRAININGS, now, plan.epochs)
    if start.resumed:
        state = read_comparison_state(start.run.path)
        changes = index.changes_since(state.circumstances.data)
        check_resumable(state.circumstances, now, changes, listener, way_out=WAY_OUT)
        state.extend_to(plan.epochs)
    state.write()
    return state


def _train_all(work: _Work, planned: Sequence[PlannedTraining], stop: StopRequest, listener: Listener) -> None:
    """Do the trainings that are not done yet, under one display."""
    left = [item for item in planned if not work.is_done(item)]
    total = counted(len(planned), "training")
    listener.note(f"{work.folder}: {total}, {len(planned) - len(left)} of them done; each is a run directory there")
    progress = CombinedProgress(listener, trainings=len(left), epochs=work.state.epochs, stop=stop)
    try:
        for item in left:
            stop.check("continue with --resume")
            started = time.monotonic()
            progress.start(item.title)
            record = _train_and_evaluate(work, item, progress)
            progress.finish()
            listener.note(_line(item, record, work.split, time.monotonic() - started))
    finally:
        progress.close()


def _line(item: PlannedTraining, record: TrainingRecord, split: str, seconds: float) -> str:
    title = f"{item.title}:"
    if record.error is not None:
        return f"{title} skipped: {record.error}"
    epochs = f"best epoch {record.best_epoch} of {len(record.accuracies)}"
    where = split if item.fold is None else "the held-out fold"
    return f"{title} top-1 {percent(record.top1_accuracy)} on {where}, {epochs}, {seconds:.0f} s"


def _train_and_evaluate(work: _Work, item: PlannedTraining, progress: CombinedProgress) -> TrainingRecord:
    """Train to the end, resuming if possible, evaluate the best epoch, and record the result."""
    state = work.state
    schedules = schedules_of(Run(work.folder / item.run), state.record(item.run).schedules, state.epochs)
    state.put(item.run, TrainingRecord(schedules=schedules))
    keras_start.forget_models()
    options = TrainingOptions(resume=True, device=work.device, shared_maps=work.shared_maps)
    try:
        with _naming_the_way_out(work.folder / item.run):
            result = train.train(item.loaded, options, progress)
    except NotFiniteError as error:
        record = TrainingRecord(schedules=schedules, error=str(error))
    else:
        asked = EvaluateRequest(result.run_dir, split=work.split, device=work.device, listener=progress)
        evaluation = evaluate(asked, None if item.fold is None else keep_probabilities)
        assert isinstance(evaluation, Evaluation), "of several labels no comparison is begun"
        record = _record(schedules, result, evaluation, progress)
    state.put(item.run, record)
    return record


def schedules_of(run: Run, before: tuple[int, ...], epochs: int) -> tuple[int, ...]:
    """Return the numbers of epochs requested of a training, ending with this one; only this one if its run is gone."""
    if not (run.path / HISTORY).is_file():
        return (epochs,)
    return before if before[-1:] == (epochs,) else (*before, epochs)


@contextmanager
def _naming_the_way_out(run: Path) -> Iterator[None]:
    """Add to an error about one run directory what to do about it in a comparison."""
    try:
        yield
    except (RunError, UsageError) as error:
        way_out = f"in a comparison: remove {visible(run)}, and --resume trains it again"
        raise type(error)(f"{error}; {way_out}") from None


def _record(
    schedules: tuple[int, ...], result: TrainingResult, evaluation: Evaluation, progress: CombinedProgress
) -> TrainingRecord:
    assert progress.plan is not None, "a training says what it does"
    validated = [row.val_top1_accuracy for row in result.history if row.val_top1_accuracy is not None]
    return TrainingRecord(
        schedules=schedules,
        is_done=True,
        best_epoch=result.best_epoch,
        accuracies=tuple(validated or (row.top1_accuracy for row in result.history)),
        curves_of="validation" if validated else "training",
        epoch_seconds=tuple(row.epoch_seconds for row in result.history),
        top1_accuracy=evaluation.metrics.top1_accuracy,
        macro_f1=evaluation.metrics.macro_f1,
        evaluation=Path(evaluation.output_dir).name,
        head_parameters=result.head_parameters,
        total_parameters=result.parameters,
        feature_map=progress.plan.feature_map,
    )
