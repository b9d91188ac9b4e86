"""Trains a classifier: from a config and its images to a run directory with the best model and a state to resume from.

Everything that can be wrong with config, names and images is found here, before Keras is started; `fitting` does the
rest.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wisesr_cli import runtime
from wisesr_cli.checking import check_settings
from wisesr_cli.config_reader import LoadedConfig
from wisesr_cli.errors import MachineError, RunError
from wisesr_cli.examples import open_examples
from wisesr_cli.files import TEMPORARY_PREFIX, make_folder, naming
from wisesr_cli.guard import Limits, StopRequest, locked, stop_on_signals
from wisesr_cli.results import Silent, TrainingListener, TrainingResult
from wisesr_cli.run_folders import check_kinds, check_still_new, choose_run, forget_if_empty
from wisesr_cli.runs import Run
from wisesr_cli.runtime import DeviceChoice
from wisesr_cli.state import has_state
from wisesr_cli.text import visible

DRY_RUN_PREFIX = f"{TEMPORARY_PREFIX}dry-run-"


@dataclass(frozen=True)
class TrainingOptions:
    """What a call of `train` asks for beside the config.

    `max_steps` and `time_limit_seconds` stop before the last epoch; `dry_run` does one step, a save and a reload.
    """

    resume: bool = False
    overwrite: bool = False
    dry_run: bool = False
    max_steps: int | None = None
    time_limit_seconds: float | None = None
    device: DeviceChoice = "auto"


def train(
    loaded: LoadedConfig, options: TrainingOptions | None = None, listener: TrainingListener | None = None
) -> TrainingResult:
    """Train, and return what it came to.

    Raises:
        UsageError: the run's name is taken.
        DataError: the images cannot be used, or the loss is not finite.
        RunError: the state to resume from is damaged or does not fit.
        MachineError: no GPU where one was asked for, no room on the disk, no permission, or the run is in use.
        Interrupted: a signal asked to stop; there is a state to resume from.
    """
    options, listener, started = options or TrainingOptions(), listener or Silent(), time.monotonic()
    check_settings(loaded.config)
    if options.dry_run:
        start = choose_run(loaded.config, loaded.default_name, resume=False, overwrite=True)
        return _dry_run(loaded, start.run, options, listener)
    start = choose_run(loaded.config, loaded.default_name, resume=options.resume, overwrite=options.overwrite)
    check_kinds(start.run)
    # Only who holds the lock may take it away: `forget_if_empty` stands behind it.
    with locked(start.run.lock), forget_if_empty(start.run), stop_on_signals() as stop, ExitStack() as stack:
        check_still_new(start)
        if start.resumed and not has_state(start.run.state):
            if start.run.best.exists():
                raise RunError(f"{visible(start.run.state)}: no state to resume from; start anew with --overwrite")
            start = replace(start, resumed=False)
        examples = open_examples(loaded.config, listener)
        stack.callback(examples.close)
        with stop.deferred():
            device = runtime.start(options.device, precision=loaded.config.train.precision)
            from wisesr_cli import fitting

        limits = Limits(stop, started, options.max_steps, options.time_limit_seconds)
        return fitting.run(loaded.config, examples, device, start, limits, listener)


def _dry_run(loaded: LoadedConfig, run: Run, options: TrainingOptions, listener: TrainingListener) -> TrainingResult:
    """Do one real step, save and reload, in a folder beside the run that is gone afterwards."""
    with (
        stop_on_signals(StopRequest("a dry run keeps nothing")) as stop,
        _temporary_run(run.path.parent) as temporary,
        ExitStack() as stack,
    ):
        examples = open_examples(loaded.config, listener)
        stack.callback(examples.close)
        with stop.deferred():
            device = runtime.start(options.device, precision=loaded.config.train.precision)
            from wisesr_cli import fitting

        return fitting.try_one_step(loaded.config, examples, device, run, temporary, listener)


@contextmanager
def _temporary_run(parent: Path) -> Iterator[Run]:
    """Give a run in a folder that is gone afterwards; what killed processes left of theirs goes, too."""
    make_folder(parent)
    with naming(parent):
        for leftover in sorted(parent.glob(f"{DRY_RUN_PREFIX}*")):
            _remove_if_dead(Run(leftover))
        run = Run(Path(tempfile.mkdtemp(prefix=DRY_RUN_PREFIX, dir=parent)))
    try:
        with locked(run.lock):
            yield run
    finally:
        shutil.rmtree(run.path, ignore_errors=True)


def _remove_if_dead(temporary: Run) -> None:
    """Take away the folder of a dry run whose process ended without doing so."""
    with suppress(OSError, MachineError):  # a live process holds it, or it belongs to another user
        if not any(temporary.path.iterdir()):
            temporary.path.rmdir()  # a live process that has just begun makes it again with its lock
        elif not temporary.lock.exists() or temporary.lock.stat().st_size:  # an empty lock is about to be held
            with locked(temporary.lock):
                shutil.rmtree(temporary.path)
