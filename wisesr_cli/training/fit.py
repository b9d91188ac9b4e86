"""Runs a training on Keras: starts or resumes it, runs its phases, and evaluates the best model at the end."""

from __future__ import annotations

import math
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from wisesr_cli.config.schedules import learning_rates
from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import PhaseConfig, position_warning
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.errors import DataError, MachineError, RunError
from wisesr_cli.listening import Listener, TrainingListener, TrainingPlan
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.keras_start import Device
from wisesr_cli.machine.stopping import Limits
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.model_files.archive import check_model
from wisesr_cli.models.build import notes_about
from wisesr_cli.models.saved import saved_scaling
from wisesr_cli.models.scaling import Scaling
from wisesr_cli.results.training import TrainingResult
from wisesr_cli.run.folders import Start, prepare_folder
from wisesr_cli.run.progress import Progress, check_resumable, check_same_draws, circumstances_from_json
from wisesr_cli.run.run import Run
from wisesr_cli.run.state import State, read_state
from wisesr_cli.text import counted, size_text, typed, visible
from wisesr_cli.training.arrays import Arrays
from wisesr_cli.training.checks import about_updates
from wisesr_cli.training.devices.distribution import ALONE, Distribution
from wisesr_cli.training.epochs import EpochKeeper, TrainingStopped
from wisesr_cli.training.examples import Examples
from wisesr_cli.training.finish import finish, result_of
from wisesr_cli.training.freezing import trained_parts
from wisesr_cli.training.trackers.tracking import Tracking
from wisesr_cli.training.trainer import Trainer

NEARLY_ZERO = 0.01  # fraction of a phase's first learning rate
MAX_RELOAD_DIFFERENCE = 1e-4  # between logits


def run(
    config: Config,
    examples: Examples,
    device: Device,
    start: Start,
    limits: Limits,
    listener: TrainingListener,
    distribution: Distribution = ALONE,
) -> TrainingResult:
    """Build the model, train it from the run's current epoch, and return the result.

    All processes build and train; only the main one writes and evaluates, so the others return no metrics.
    """
    with ExitStack() as stack:
        with distribution.scope():
            trainer = Trainer(config, examples, device, distribution, scaling=_scaling_of_run(start, distribution))
            plan = plan_of(trainer, start.run)
            tracking = stack.enter_context(Tracking(trainer, start, environment(device, distribution), listener))
            optimizer_state = _start_run(trainer, start, listener)
            tracking.open_runs()
            listener.prepared(plan)
            before = trainer.progress.epoch
            stopped = _fit(trainer, start.run, optimizer_state, limits, tracking, listener)
        if not distribution.is_main:
            return result_of(trainer, start.run, trainer.progress.epoch - before, stopped, None)
        result = finish(trainer, start.run, trainer.progress.epoch - before, stopped, listener)
        tracking.finished(result)
        return result


def _scaling_of_run(start: Start, distribution: Distribution) -> Scaling | None:
    """Return the pixel scaling in the best model of a resumed run, or None if there is no best model."""
    has_best = start.resumed and distribution.is_main and start.run.best.exists()
    found = distribution.channel.from_main(saved_scaling(start.run.best) if has_best else None)
    if found is None:
        return None
    name, _, *channels = found
    return Scaling(name, "as the run began", *map(tuple, channels))


def _start_run(trainer: Trainer, start: Start, listener: Listener) -> Arrays | None:
    """Restore the trainer from the run's state, or write the first files of a new run."""
    model = trainer.config.model
    if trainer.distribution.is_main:
        keep = None if model.is_random else Path(str(model.weights))
        prepare_folder(start.run, overwrite=start.overwrites, keep=keep, listener=listener)
    if start.resumed:
        return _restore(trainer, start.run, listener)
    if not trainer.distribution.is_main:
        return None
    index = trainer.examples.index
    about = environment(trainer.device, trainer.distribution)
    start.run.write_start(trainer.config, index.class_names, index.rows(), about)
    return None


def _restore(trainer: Trainer, run: Run, listener: Listener) -> Arrays:
    """Restore weights and progress from the run's state, and return the optimizer's variables.

    The main process reads the state and broadcasts it. Raises a `RunError` if the state is damaged, or if a difference
    would change the results.
    """
    channel = trainer.distribution.channel
    state = _read_state(trainer, run, listener) if channel.is_main else None
    progress = Progress.from_json(channel.from_main(state.record("progress") if state else None))
    trainer.progress = progress
    trainer.rebuild(trainer.config.image_size_of_epoch(max(progress.epoch - 1, 0)))  # the size of the saved state
    trainer.restore("model", channel.arrays_from_main(state.group("model") if state else None))
    if state is not None:
        check_same_draws(state.group("random"), trainer.random_draws(progress.epoch), epoch=progress.epoch + 1)
        _restore_best(trainer, run, state)
        run.write_examples(trainer.examples.index.class_names, trainer.examples.index.rows())
    _update_planned_epochs(trainer, run, listener)
    if state is not None:
        run.write_history(progress.history)
    return channel.arrays_from_main(state.group("optimizer") if state else None)


def _read_state(trainer: Trainer, run: Run, listener: Listener) -> State:
    """Return the state of a run after checking that training can resume from it."""
    state = read_state(run.state)
    before = circumstances_from_json(state.record("circumstances"))
    changes = trainer.examples.changes_since(before.data)
    check_resumable(before, trainer.circumstances(), changes, listener)
    return state


def _restore_best(trainer: Trainer, run: Run, state: State) -> None:
    """Check that the best model exists, or write it from the state if the process was killed before writing it.

    Raises a `RunError` if it is damaged, or belongs to another epoch.
    """
    progress = trainer.progress
    if progress.best_epoch is None:
        return
    is_last = progress.best_epoch == progress.epoch
    if not is_last or run.best.exists():
        found = check_model(run.best).info.epoch
        if found == progress.best_epoch:
            return
        if not is_last or found > progress.epoch:
            raise RunError(
                f"{visible(run.best)}: is the model of epoch {found}, but the best one is that of epoch "
                f"{progress.best_epoch}; restore it, or start over with --overwrite"
            )
    run.forget_best()
    group = "model" if trainer.config.train.ema is None else "averaged"
    trainer.restore("model", state.group(group))
    trainer.save_best(run.best, progress.epoch)
    trainer.restore("model", state.group("model"))


def _update_planned_epochs(trainer: Trainer, run: Run, listener: Listener) -> None:
    """Adopt a changed number of epochs if it leaves epochs to train."""
    progress, total = trainer.progress, trainer.config.train.epochs
    if total != progress.planned_epochs and total > progress.epoch:
        listener.note(f"from here on, the learning rate follows the schedule of {counted(total, 'epoch')}")
        _warn_of_small_steps(trainer.config, run, progress.epoch, listener)
        progress.planned_epochs = total
        if progress.finished:
            progress.finished, progress.stopping_wait = False, 0
    if total == progress.planned_epochs and trainer.distribution.is_main:
        run.write_config(trainer.config)
    if not progress.finished and total > progress.epoch:
        listener.note(f"resuming after epoch {progress.epoch} of {total}")


def _warn_of_small_steps(config: Config, run: Run, done: int, listener: Listener) -> None:
    """Warn if the schedule leaves almost no learning rate for the epochs after the first `done`."""
    phase = config.phases[-1]
    schedule = phase.schedule or config.train.schedule
    rates = learning_rates(1.0, schedule, total_epochs=phase.epochs, steps_per_epoch=1)
    if rates[max(0, done - config.train.epochs + phase.epochs) :].max() < NEARLY_ZERO:
        path, weights = typed(run.config_path), typed(f"model.weights={run.path}")
        listener.warn(
            f"the learning rate of the remaining epochs is below {NEARLY_ZERO:.0%} of its start: they will change "
            f"little; to train further from these weights with a new schedule: wisesr train {path} -s {weights}"
        )


def _fit(
    trainer: Trainer,
    run: Run,
    optimizer_state: Arrays | None,
    limits: Limits,
    tracking: Tracking,
    listener: TrainingListener,
) -> str | None:
    """Train the remaining epochs; return the reason for an early stop, or None."""
    if trainer.progress.finished:
        return None
    first = 0
    with ExitStack() as stack:
        stack.enter_context(limits.stop.deferred())
        stack.enter_context(trainer.distribution.channel.synchronized_stops())
        keeper = EpochKeeper(trainer, run, tracking, limits=limits, listener=listener)
        stack.callback(keeper.close)
        for number, phase in enumerate(trainer.config.phases, start=1):
            last = first + phase.epochs
            done = trainer.progress.epoch
            if done < last:
                with keeper.paused(), limits.stop.at_once():
                    _use_size_of_phase(trainer, number, phase, listener)
                    features = trainer.frozen_features(phase, first, listener)
                trainer.begin_phase(phase, features)
                if optimizer_state is not None and done > first:
                    trainer.restore("optimizer", optimizer_state)
                keeper.begin_phase(number, first)
                try:
                    trainer.fit(keeper, first=done, last=last)
                except TrainingStopped as stop:
                    return stop.reason
                except MachineError:
                    run.check_place()  # a moved run explains why a file could not be written
                    raise
            first = last
    return None


def _use_size_of_phase(trainer: Trainer, number: int, phase: PhaseConfig, listener: Listener) -> None:
    """Switch the trainer to a phase's image size, and note it if phases differ in size."""
    full_size = trainer.config.data.image_size
    image_size = phase.image_size or full_size
    if trainer.config.changes_image_size:
        rest = "" if image_size == full_size else f"; the best epoch will be one at {size_text(full_size)}"
        listener.note(f"phase {number} of {len(trainer.config.phases)}: images of {size_text(image_size)}{rest}")
    trainer.use_size(image_size, listener)


def try_one_step(
    config: Config,
    examples: Examples,
    device: Device,
    run: Run,
    temporary: Run,
    listener: TrainingListener,
    distribution: Distribution = ALONE,
) -> TrainingResult:
    """Do one real step, save state and model in a temporary run, and reload both.

    Raises:
        DataError: the loss is not finite.
        RunError: the reloaded model gives different logits.
    """
    channel, is_main = distribution.channel, distribution.is_main
    with distribution.scope():
        trainer = Trainer(config, examples, device, distribution)
        listener.prepared(plan_of(trainer, run))
        for phase in _one_of_each_size(config):
            trainer.use_size(phase.image_size or config.data.image_size, listener)
            trainer.begin_phase(phase)
            trainer.begin_epoch(0)
            loss = trainer.train_one_step()
            if not math.isfinite(loss):
                raise DataError(f"the loss of the first step is {loss}; try a smaller --learning-rate")
        if is_main:
            trainer.write_state(temporary.state)
        saved = read_state(temporary.state).group("model") if is_main else None
        trainer.restore("model", channel.arrays_from_main(saved))
    if not is_main:
        return result_of(trainer, run, 0, "dry run", None)
    trainer.save_best(temporary.best, epoch=0)
    difference = trainer.difference_after_reload(KerasEngine(check_model(temporary.best)))
    if difference > MAX_RELOAD_DIFFERENCE:
        raise RunError(f"the saved model gives different logits: they differ by {difference:.3g}")
    listener.note(f"dry run: one step with loss {loss:.4f}; saved and reloaded, logits differ by {difference:.1e}")
    return result_of(trainer, run, 0, "dry run", None)


def _one_of_each_size(config: Config) -> list[PhaseConfig]:
    """Return the first phase of each image size; the model's own size comes last."""
    first: dict[tuple[int, int], PhaseConfig] = {}
    for phase in config.phases:
        first.setdefault(phase.image_size or config.data.image_size, phase)
    return sorted(first.values(), key=lambda phase: phase.image_size in (None, config.data.image_size))


def plan_of(trainer: Trainer, run: Run) -> TrainingPlan:
    """Return the plan to show before training."""
    config, classifier, index = trainer.config, trainer.classifier, trainer.examples.index
    return TrainingPlan(
        run_dir=str(run.path),
        device="; ".join(filter(None, (str(trainer.device), str(trainer.distribution)))),
        class_names=index.class_names,
        counts={split: tuple(index.counts(split).tolist()) for split in index.splits},
        images={name: len(split) for name, split in index.splits.items()},
        image_size=config.data.image_size,
        backbone=config.model.backbone,
        origin=classifier.origin,
        feature_map=classifier.feature_map,
        head=config.model.head.name,
        backbone_parameters=classifier.parameters - classifier.head_parameters,
        head_parameters=classifier.head_parameters,
        head_start=classifier.head_start,
        epochs=config.train.epochs,
        steps_per_epoch=trainer.steps_per_epoch,
        warnings=tuple(warnings_about(trainer)),
        scaling="; ".join(filter(None, (classifier.scaling.name, classifier.scaling.reason))),
        trained=trained_parts(classifier.backbone, config.phases, is_loaded=classifier.loaded_tensors is not None),
    )


def warnings_about(trainer: Trainer) -> list[str]:
    """Return the warnings to show before training."""
    config = trainer.config
    warnings = notes_about(config.model, trainer.classifier.feature_map, config.data.image_size)
    if warning := position_warning(config.augmentation, config.model.head):
        warnings.append(warning)
    warnings += about_updates(config, len(trainer.batches.labels))
    if config.train.jit_compile is True and not trainer.uses_xla:
        warnings.append(
            "train.jit_compile is true, but TensorFlow cannot compile "
            + ("the steps of several devices" if trainer.mirror else "an augmentation that moves or mixes pixels")
            + ": training runs without XLA; use "
            + ("distribute.strategy=none" if trainer.mirror else "augment: none")
            + ", or KERAS_BACKEND=jax"
        )
    return warnings


def environment(device: Device, distribution: Distribution = ALONE) -> dict[str, Any]:
    """Return the content of environment.json."""
    return {
        "versions": keras_start.package_versions(),
        "backend": keras_start.backend_name(),
        "device": str(device),
        "distribution": str(distribution) or None,
        "threads": worker_count(),
        "command_line": sys.argv,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }
