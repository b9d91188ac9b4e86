"""Finds the runs in a folder and summarizes each, without Keras.

A folder is a run if it has the record of what wisesr wrote, or at least two of the files that every run has; a single
one may have another origin. Only what is quick to read is checked: damaged weights only show when the model is loaded.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from wisesr_cli.errors import RunError, WisesrError
from wisesr_cli.machine.files import naming
from wisesr_cli.machine.locks import is_held
from wisesr_cli.model_files.info import WRITTEN, ModelInfo
from wisesr_cli.results.training import EpochResult, RunStatus, RunSummary
from wisesr_cli.run.names import CLASSES, CONFIG, HISTORY, METRICS, SPLITS
from wisesr_cli.run.records import read_json, refuse_link_outside
from wisesr_cli.run.run import Run
from wisesr_cli.text import on_one_line, visible

RUNS = "runs"  # the default folder of runs
LATEST = "latest"

Part = TypeVar("Part")


def is_run(path: Path) -> bool:
    """Return whether a folder is a run, even a damaged one."""
    run = Run(path)
    found = sum(os.path.isfile(file) for file in (path / CONFIG, path / CLASSES, path / SPLITS, run.best))  # noqa: PTH113
    return found >= 2 or os.path.isfile(path / WRITTEN)  # noqa: PTH113  (false where the system cannot look)


def runs_in(folder: Path) -> list[Path]:
    """Return the runs in a folder, newest first, by when their config was written: at the start or on resuming.

    Raises a `RunError` if there is no such folder, a `MachineError` if it cannot be read.
    """
    if not folder.is_dir():
        raise RunError(f"{visible(folder)}: no such folder of runs; wisesr train creates it")
    with naming(folder):
        found = [path for path in folder.iterdir() if not path.name.startswith(".") and is_run(path)]
    return sorted(found, key=lambda path: (_changed(path), path.name), reverse=True)


def resolved(path: str | Path, note: Callable[[str], None], folder: Path | None = None) -> Path:
    """Return the path of a run as typed; for `latest`, that of the newest run in `folder` (`runs`), reported to `note`.

    A file or folder with the name `latest` takes precedence. Raises a `RunError` if there is no run.
    """
    given = Path(path) if folder is None else folder / path
    if str(path) != LATEST or os.path.lexists(given):
        return given
    folder = folder or Path(RUNS)
    runs = runs_in(folder) if folder.is_dir() else []
    if not runs:
        raise RunError(f"{LATEST}: there is no run in {visible(folder)} yet; wisesr train creates one")
    note(f"{LATEST}: {visible(runs[0])}")
    return runs[0]


def summaries(folder: Path) -> tuple[RunSummary, ...]:
    """Return a summary per run in a folder, newest first; raises as `runs_in` does."""
    return tuple(summary_of(path) for path in runs_in(folder))


def summary_of(path: Path) -> RunSummary:
    """Return the settings, status and progress of a run."""
    from wisesr_cli.run.progress import newest_progress  # imports NumPy

    run, reading = Run(path), _Reading()
    config = reading.of(run.load_config)
    reading.of(run.read_classes)
    progress = reading.of(lambda: newest_progress(run.state))
    history = tuple(progress.history) if progress is not None else reading.of(lambda: _history(run)) or ()
    info = reading.of(lambda: _info(run)) if run.best.exists() else None
    planned = progress.planned_epochs if progress is not None else config.train.epochs if config is not None else None
    is_done = (progress is not None and progress.finished) or (planned is not None and len(history) >= planned > 0)
    if is_done and not run.best.exists():
        reading.problem = reading.problem or f"{run.best.name} is missing"
    accuracy = reading.of(lambda: _accuracy(run, history, None if info is None else info.epoch))
    status: RunStatus = "finished" if is_done else "unfinished"
    if not history and run.upgraded.exists():
        status = "upgraded"
    if is_held(run.lock):
        status = "training"
    elif reading.problem is not None:
        status = "damaged"
    return RunSummary(
        name=path.name,
        path=str(path),
        status=status,
        data=None if config is None or config.data.source is None else str(config.data.source),
        head=info.head if info is not None else None if config is None else config.model.head.name,
        backbone=info.backbone if info is not None else None if config is None else config.model.backbone,
        top1_accuracy=accuracy,
        epochs=len(history) if status != "damaged" or history else None,
        planned_epochs=planned,
        bytes=bytes_in(path),
        changed=datetime.fromtimestamp(_changed(path) / 1e9).astimezone().isoformat(timespec="seconds"),
        problem=reading.problem if status == "damaged" else None,
    )


def bytes_in(folder: Path) -> int:
    """Return the total size of the files in a folder, counting links themselves, not their targets."""
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # removed meanwhile
                total += os.lstat(os.path.join(place, name)).st_size  # noqa: PTH118
    return total


class _Reading:
    """Reads the parts of a run; the error of the first unreadable one is its `problem`."""

    def __init__(self) -> None:
        self.problem: str | None = None

    def of(self, read: Callable[[], Part]) -> Part | None:
        """Return a part, or None if it cannot be read."""
        try:
            return read()
        except (WisesrError, OSError) as error:
            self.problem = self.problem or on_one_line(error)
            return None


def _changed(path: Path) -> int:
    """Return when the config of a run, or else its folder, was last modified, in nanoseconds."""
    for place in (path / CONFIG, path):
        with suppress(OSError):
            return place.stat().st_mtime_ns
    return 0


def _history(run: Run) -> tuple[EpochResult, ...]:
    return run.read_history() if (run.path / HISTORY).exists() else ()


def _info(run: Run) -> ModelInfo:
    from wisesr_cli.model_files.archive import read_model_info  # imports h5py

    refuse_link_outside(run.best)
    return read_model_info(run.best)


def _accuracy(run: Run, history: tuple[EpochResult, ...], best_epoch: int | None) -> float | None:
    """Return the validation top-1 accuracy of the best model; without metrics, from its epoch in the history."""
    if (run.path / METRICS).exists():
        values = read_json(run.path / METRICS)
        value = values.get("top1_accuracy") if isinstance(values, dict) else None
        if not isinstance(value, int | float):
            raise RunError(f"{visible(run.path / METRICS)}: damaged: it has no top1_accuracy")
        return float(value)
    return next((row.val_top1_accuracy for row in history if row.epoch == best_epoch), None)
