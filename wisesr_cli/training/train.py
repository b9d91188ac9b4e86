"""Trains a classifier: from a config and its images to a run directory with the best model and a state to resume from.

Config, names and images are checked here, before Keras starts; `fit` does the rest.
"""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from wisesr_cli.config.reader import LoadedConfig
from wisesr_cli.config.schema import Config
from wisesr_cli.data.survey import find_layout
from wisesr_cli.errors import RunError
from wisesr_cli.listening import Listener, Silent, TrainingListener
from wisesr_cli.machine.files import TEMPORARY_PREFIX
from wisesr_cli.machine.keras_start import BACKEND_TITLES, Device, DeviceChoice, backend_name
from wisesr_cli.machine.shared_caches import used_by
from wisesr_cli.machine.stopping import Limits, StopRequest, stop_on_signals
from wisesr_cli.model_files.info import BEST
from wisesr_cli.models.at_hand import resolve_weights
from wisesr_cli.processes.channel import Channel
from wisesr_cli.processes.launch import Cluster, join
from wisesr_cli.results.training import TrainingResult
from wisesr_cli.run.folders import Start, choose_run, held_start, temporary_run
from wisesr_cli.run.names import HISTORY, METRICS, RESULT_FOLDERS
from wisesr_cli.run.run import Run
from wisesr_cli.run.state import has_state, newest_epoch
from wisesr_cli.text import joined, visible
from wisesr_cli.training.checks import check_settings, check_shared
from wisesr_cli.training.devices.alike import check_alike, settings_of, versions
from wisesr_cli.training.devices.distribution import Distribution
from wisesr_cli.training.devices.start import check_cluster, start_devices
from wisesr_cli.training.examples import open_examples
from wisesr_cli.training.trackers.table import check_trackers

DRY_RUN_PREFIX = f"{TEMPORARY_PREFIX}dry-run-"


@dataclass(frozen=True)
class TrainingOptions:
    """The options of `train` that are not part of the config.

    `max_steps` and `time_limit_seconds` stop before the last epoch; `dry_run` does one step, a save and a reload.
    `cluster`: the processes that train together, see `launch.find_cluster`; each of them calls `train`. `shared_maps`:
    feature maps, by key, that successive trainings in this process share.
    """

    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    max_steps: int | None = None
    time_limit_seconds: float | None = None
    device: DeviceChoice = "auto"
    cluster: Cluster | None = None
    shared_maps: dict[str, Any] | None = None


def train(
    loaded: LoadedConfig, options: TrainingOptions | None = None, listener: TrainingListener | None = None
) -> TrainingResult:
    """Train and return the result.

    Raises:
        UsageError: the run's name is taken.
        DataError: the images cannot be used, or the loss is not finite.
        RunError: the state to resume from is damaged or does not match.
        MachineError: no GPU although one was requested, disk full, no permission, or the run is in use.
        Interrupted: a signal requested a stop; there is a state to resume from.
        EndedElsewhere: another process of the training failed, was stopped, or was lost.
    """
    options, listener, started = options or TrainingOptions(), listener or Silent(), time.monotonic()
    check_settings(loaded.config)
    if options.cluster is None or options.cluster.process == 0:
        check_trackers(loaded.config.train.trackers)
    distribute = loaded.config.distribute
    check_cluster(options.cluster, distribute)
    join_timeout, lost_after = distribute.join_timeout_seconds, distribute.lost_after_seconds
    with join(options.cluster, join_timeout=join_timeout, lost_after=lost_after, listener=listener) as channel:
        shown = listener if channel.is_main else Silent()
        # A process that stops alone would keep the others waiting, so these options must be equal, too.
        shared = {"--dry-run": options.dry_run, "--max-steps": options.max_steps, "--device": options.device}
        check_alike(channel, "settings", {**settings_of(loaded.config), **shared})
        check_alike(channel, "versions", versions())
        if options.dry_run:
            return _dry_run(loaded, options, channel, shown)
        return _train(loaded, options, channel, started, shown)


def _train(
    loaded: LoadedConfig, options: TrainingOptions, channel: Channel, started: float, listener: TrainingListener
) -> TrainingResult:
    with ExitStack() as held:
        start, done = _begin_run(loaded, options, channel, held)
        held.enter_context(used_by(start.run.path))
        for reason in loaded.recipe.reasons if loaded.recipe is not None else ():
            listener.note(reason)
        with stop_on_signals() as stop, ExitStack() as stack:
            find_layout(loaded.config.data)  # so that its errors are reported before those about weights
            config, warning = _with_resolved_weights(loaded, start, channel, listener)
            examples = open_examples(config, listener, epoch=done, channel=channel)
            config = config.model_copy(update={"data": examples.config})
            examples.shared_maps = options.shared_maps
            stack.callback(examples.close)
            with stop.deferred():
                device, distribution = _start_devices(config, options, channel, listener)
                from wisesr_cli.training import fit

            limits = Limits(stop, started, options.max_steps, options.time_limit_seconds)
            result = fit.run(config, examples, device, start, limits, listener, distribution)
            if warning is not None:  # repeated at the end, where it is noticed
                listener.warn(warning)
            return result


def _with_resolved_weights(
    loaded: LoadedConfig, start: Start, channel: Channel, listener: Listener
) -> tuple[Config, str | None]:
    """Return the config with the weights that training starts from, and a warning about them, already reported.

    The main process resolves `auto`, unless the resumed run already did.

    Raises as `resolve_weights` does.
    """
    config, warning = loaded.config, loaded.recipe.warning if loaded.recipe else None
    if start.resumed and channel.is_main:
        with suppress(RunError):  # a damaged config is rewritten
            config = _as_begun(config, start.run.load_config())
    model = config.model
    if channel.is_main:
        resolved = resolve_weights(model, listener)
        model, warning = resolved.model, resolved.warning or warning
    model = model.model_copy(update={"weights": channel.from_main(model.weights)})
    if not channel.is_main:
        model = resolve_weights(model, listener).model
    if warning is not None:
        listener.warn(warning)
    return config.model_copy(update={"model": model}), warning


def _as_begun(config: Config, before: Config) -> Config:
    """Return the config with the values that the run decided on when it started."""
    model, known = config.model, before.data.model_dump(include=before.data.model_fields_set)
    if model.weights == "auto":
        model = model.model_copy(update={"weights": before.model.weights})
    return config.model_copy(update={"model": model, "data": config.data.as_begun(known)})


def _begin_run(loaded: LoadedConfig, options: TrainingOptions, channel: Channel, held: ExitStack) -> tuple[Start, int]:
    """Return the locked run to train in and its number of finished epochs.

    The main process decides; the others need no access to the folder.
    """
    if not channel.is_main:
        path, resumed, done = channel.from_main()
        return Start(Run(Path(path)), resumed=resumed), done
    in_place = {"resume": options.resume, "overwrite": options.overwrite}
    start = held.enter_context(held_start(lambda: choose_run(loaded.config, loaded.default_name, **in_place)))
    if start.resumed and not has_state(start.run.state):
        start = replace(start, resumed=False, fine_tunes=_is_untrained_upgrade(start.run))
    done = newest_epoch(start.run.state) if start.resumed else 0
    channel.from_main([str(start.run.path), start.resumed, done])
    return start, done


def _is_untrained_upgrade(run: Run) -> bool:
    """Return whether a run without a state was made by `wisesr upgrade`, not killed before its first state.

    Raises a `RunError` if it has results, which a new training would replace.
    """
    is_upgrade = run.upgraded.exists()
    patterns = (HISTORY, METRICS) if is_upgrade else (BEST, HISTORY, METRICS, *RESULT_FOLDERS)
    if found := [path.name for pattern in patterns for path in sorted(run.path.glob(pattern))]:
        raise RunError(
            f"{visible(run.state)}: no state to resume from, but {joined(found)} of a training: restore the state, or "
            "start over with --overwrite"
        )
    return is_upgrade


def _start_devices(
    config: Config, options: TrainingOptions, channel: Channel, listener: TrainingListener
) -> tuple[Device, Distribution]:
    with listener.progress(f"starting {BACKEND_TITLES[backend_name()]}", None):
        started = start_devices(config.distribute, options.device, precision=config.train.precision, channel=channel)
    check_shared(config, started[1])
    return started


def _dry_run(
    loaded: LoadedConfig, options: TrainingOptions, channel: Channel, listener: TrainingListener
) -> TrainingResult:
    """Do one real step, a save and a reload, in a temporary folder next to the run."""
    path = None
    if channel.is_main:
        path = str(choose_run(loaded.config, loaded.default_name, resume=True, overwrite=False).run.path)
    run = Run(Path(channel.from_main(path)))
    with stop_on_signals(StopRequest("a dry run keeps nothing")) as stop, ExitStack() as stack:
        temporary = stack.enter_context(temporary_run(run.path.parent, DRY_RUN_PREFIX)) if channel.is_main else run
        find_layout(loaded.config.data)
        config, _ = _with_resolved_weights(loaded, Start(run, resumed=False), channel, listener)
        examples = open_examples(config, listener, channel=channel)
        config = config.model_copy(update={"data": examples.config})
        stack.callback(examples.close)
        with stop.deferred():
            device, distribution = _start_devices(config, options, channel, listener)
            from wisesr_cli.training import fit

        return fit.try_one_step(config, examples, device, run, temporary, listener, distribution)
