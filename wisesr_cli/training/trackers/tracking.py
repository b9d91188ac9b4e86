"""Reports a training to TensorBoard and to trackers; a tracker's failure never ends it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from wisesr_cli.errors import Interrupted, MachineError, RunError, WisesrError
from wisesr_cli.listening import Listener
from wisesr_cli.results.training import EpochResult, TrainingResult
from wisesr_cli.run.folders import Start
from wisesr_cli.run.names import CLASSES, CONFIG, HISTORY, LEARNING_CURVES, METRICS, PLOTS, TRACKED, TRAININGS
from wisesr_cli.run.progress import flat_settings
from wisesr_cli.run.records import read_json, write_json
from wisesr_cli.text import joined, on_one_line, visible
from wisesr_cli.training.trackers.table import TRACKERS
from wisesr_cli.training.trackers.tensorboard import TensorBoardTracker
from wisesr_cli.training.trackers.tracker import Status, TrackedRun, Tracker

if TYPE_CHECKING:
    from wisesr_cli.training.trainer import Trainer


class Tracking:
    """Reports a training to TensorBoard and to the config's trackers, as a context manager around it.

    Exactly the epochs in the state on disk are reported, including one at whose end training was stopped. They are read
    from the history, so nothing is lost on resuming, and a tracker added later gets all epochs. TensorBoard logs are
    files of the run: a failure to write them ends the training, and a resumed training appends to them.

    `environment` is the content of environment.json. Entering raises a `MachineError` if a tracker cannot be used for a
    new training; at that point, nothing has been written.
    """

    def __init__(self, trainer: Trainer, start: Start, environment: dict[str, Any], listener: Listener) -> None:
        self.trainer, self.run, self.is_resumed = trainer, start.run, start.resumed
        self.tags, self.listener = _tags(environment), listener
        self.names = trainer.config.train.trackers if trainer.distribution.is_main else []
        self.open: dict[str, Tracker] = {}
        self.reported: dict[str, tuple[str, int]] = {}  # by tracker: the run's id, and its number of reported epochs
        self.status: Status = "stopped"
        self.tensorboard = TensorBoardTracker(start.run.tensorboard)
        self.logged: int | None = None  # epochs in TensorBoard's logs; None until the run's own are known

    def __enter__(self) -> Tracking:
        if not self.is_resumed:
            try:
                self._begin()
            except BaseException:
                self._end("failed")  # ends the runs of other trackers if one cannot be used
                raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            is_error = issubclass(kind, Exception) and not issubclass(kind, Interrupted)
            self.status = "failed" if is_error else "stopped"
            with suppress(WisesrError):  # such as a full disk; the original error matters more
                self.report_epochs()
        self._end(self.status)
        self.tensorboard.end()

    def _end(self, status: Status) -> None:
        for name, tracker in list(self.open.items()):
            with self._warning_on_failure(name):
                tracker.end(status)
        self.open = {}

    def open_runs(self) -> None:
        """Reopen the runs that the run directory records, or record the new ones."""
        if self.is_resumed and self.names:
            self.reported = self._recorded_runs()
            self._begin()
            self._report_to_trackers()
        self._write_record()
        self._keep(CONFIG, CLASSES)
        self.logged = self.trainer.progress.epoch
        if not self.tensorboard.is_possible and not self.trainer.progress.finished:
            self.listener.warn("no TensorBoard logs: the run directory's name is not UTF-8")

    def _begin(self) -> None:
        """Open a new or the recorded run in every tracker, unless a finished training is completely reported."""
        progress = self.trainer.progress
        for name in self.names:
            title = TRACKERS[name].title
            known, epochs = self.reported.get(name, (None, 0))
            if progress.finished and epochs == progress.epoch:
                continue
            try:
                tracker = self.open[name] = TRACKERS[name].open(self._tracked_run(), known)
            except Exception as error:  # anything its library raises
                self._refuse(name, error)
            else:
                self.reported[name] = tracker.id, epochs
                self.listener.note(f"{title}: {tracker.where}")

    def _refuse(self, name: str, error: Exception) -> None:
        """Raise a `MachineError` for a new training outside a comparison; otherwise only warn."""
        reason = f"{TRACKERS[name].title} cannot be used: {on_one_line(error)}"
        if not self.is_resumed and self._group() is None:
            raise MachineError(f"{reason}; fix it, or train without the tracker {name}") from error
        self.listener.warn(f"{reason}; training continues without it")

    def finished(self, result: TrainingResult) -> None:
        """Report the result of the training."""
        self.status = "finished" if result.finished else "stopped"
        if result.best_epoch is not None:
            best = {"epoch": float(result.best_epoch), **_numbers(result.metrics.to_json() if result.metrics else {})}
            self._each(lambda tracker: tracker.log_best(best))
        self._keep(CONFIG, HISTORY, METRICS)
        self._keep(f"{PLOTS}/{LEARNING_CURVES}")
        if self.trainer.config.train.track_model and self.run.best.is_file():
            self._each(lambda tracker: tracker.keep_model(self.run.best))

    def report_epochs(self) -> None:
        """Report pending epochs to TensorBoard and every tracker.

        Raises a `MachineError` if TensorBoard's logs cannot be written.
        """
        self._report_to_trackers()
        if self.logged is not None and self.trainer.distribution.is_main and self.tensorboard.is_possible:
            for row in self.trainer.progress.history[self.logged :]:
                self.logged = row.epoch  # before writing: a failed one is not retried
                self.tensorboard.log(_row(row), row.epoch)

    def _report_to_trackers(self) -> None:
        before = dict(self.reported)
        for name, tracker in list(self.open.items()):
            with self._warning_on_failure(name):
                for row in self.trainer.progress.history[self.reported[name][1] :]:
                    tracker.log(_row(row), row.epoch)
                    self.reported[name] = tracker.id, row.epoch
        if self.reported != before:
            self._write_record()

    def _keep(self, *names: str) -> None:
        def keep(tracker: Tracker) -> None:
            for path in existing:
                tracker.keep_file(path)

        existing = [path for name in names if (path := self.run.path / name).is_file()]
        self._each(keep)

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self.open.items()):
            with self._warning_on_failure(name):
                tell(tracker)

    @contextmanager
    def _warning_on_failure(self, name: str) -> Iterator[None]:
        """Warn of a tracker's exception in the block, once, and stop using that tracker."""
        try:
            yield
        except Exception as error:  # anything its library raises: a training of days is worth more
            if self.open.pop(name, None) is not None:
                self.listener.warn(
                    f"{TRACKERS[name].title} failed: {on_one_line(error)}; training continues without it"
                )

    def _recorded_runs(self) -> dict[str, tuple[str, int]]:
        """Return the recorded id in every tracker and its number of reported epochs."""
        path = self.run.path / TRACKED
        if not path.exists():
            return {}
        try:
            return {name: (str(row["id"]), int(row["epochs"])) for name, row in dict(read_json(path)).items()}
        except (RunError, KeyError, TypeError, ValueError):
            self.listener.warn(f"{visible(path)}: damaged; new runs are started in the trackers")
            return {}

    def _write_record(self) -> None:
        if self.reported:
            record = {name: {"id": run_id, "epochs": epochs} for name, (run_id, epochs) in self.reported.items()}
            write_json(self.run.path / TRACKED, record)

    def _group(self) -> str | None:
        folder = self.run.path.parent
        return folder.name if (folder / TRAININGS).is_file() else None

    def _tracked_run(self) -> TrackedRun:
        names = self.trainer.examples.index.class_names
        tags = {**self.tags, "classes": joined(names), "run_directory": str(self.run.path.absolute())}
        return TrackedRun(self.run.name, self._group(), flat_settings(self.trainer.config), tags)


def _tags(environment: dict[str, Any]) -> dict[str, str]:
    versions = {f"versions.{package}": number for package, number in environment["versions"].items()}
    others = {name: environment.get(name) for name in ("backend", "device", "distribution", "threads")}
    return {**versions, **{name: str(value) for name, value in others.items() if value is not None}}


def _row(row: EpochResult) -> dict[str, float]:
    """Return the numbers of a row of history.csv."""
    return {name: value for name, value in _numbers(asdict(row)).items() if name != "epoch"}


def _numbers(values: dict[str, Any]) -> dict[str, float]:
    return {
        name: float(value)
        for name, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    }
