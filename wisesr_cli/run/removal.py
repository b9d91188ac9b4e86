"""Removes runs: the files that wisesr wrote into them, never the user's own."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from wisesr_cli.errors import InUseError, RunError
from wisesr_cli.listening import Listener, Silent
from wisesr_cli.machine.locks import alone_in, is_held, locked
from wisesr_cli.machine.shared_caches import free_caches
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.model_files.info import WRITTEN
from wisesr_cli.results.training import RemovedRun
from wisesr_cli.run.folders import check_kinds, clear_folder, forget_if_free, stays_in
from wisesr_cli.run.listing import bytes_in, is_run, resolved
from wisesr_cli.run.names import RESULT_FOLDERS
from wisesr_cli.run.run import Run
from wisesr_cli.run.state import has_state
from wisesr_cli.text import typed, visible


def runs_to_remove(names: Iterable[str | Path], folder: Path, listener: Listener | None = None) -> list[Run]:
    """Return the named runs in a folder, without duplicates, after checking that all of them can be removed.

    A name with a `/` is a path. Raises a `RunError` for anything that is not a run, `InUseError` for a run in training.
    """
    note = (listener or Silent()).note
    paths = [resolved(name, note, None if len(Path(name).parts) > 1 else folder) for name in names]
    runs = [Run(path) for path in dict.fromkeys(paths)]
    for run in runs:
        if run.path.is_symlink():
            raise RunError(f"{visible(run.path)}: is a link; remove the run that it points to, or the link itself")
        if not run.path.is_dir():
            raise RunError(
                f"{visible(run.path)}: no such run; wisesr runs {typed(run.path.parent)} shows those that exist"
            )
        if not is_run(run.path):
            raise RunError(f"{visible(run.path)}: is not a run; only runs are removed")
        if not _is_ours(run):
            raise RunError(
                f"{visible(run.path)}: has files named like those of a run, but none surely written by wisesr; "
                "check it, and remove it yourself"
            )
        check_kinds(run)
        if is_held(run.lock):
            raise InUseError(f"{visible(run.path)}: is being trained; wait for it or stop it")
    return runs


def _is_ours(run: Run) -> bool:
    """Return whether a folder has something that only wisesr writes; other programs write a config.yaml, too."""
    if (run.path / WRITTEN).is_file() or has_state(run.state):
        return True
    with suppress(RunError):
        run.load_config()
        return True
    with suppress(RunError):
        read_model_info(run.best)
        return True
    return False


def remove_runs(runs: Sequence[Run], listener: Listener | None = None) -> tuple[RemovedRun, ...]:
    """Remove runs one by one; raises `InUseError` if another process uses one."""
    return tuple(_remove(run, listener or Silent()) for run in runs)


def _remove(run: Run, listener: Listener) -> RemovedRun:
    with ExitStack() as held:
        lock = held.enter_context(locked(run.lock))
        before = bytes_in(run.path)
        results = sorted(path for pattern in RESULT_FOLDERS for path in run.path.glob(pattern))
        for folder in results:  # such as an evaluation in progress
            if folder.is_dir() and not folder.is_symlink():
                held.enter_context(alone_in(folder))
        stays = clear_folder(run)
        forget_if_free(run, lock)
        left = bytes_in(run.path)
    freed = free_caches(run.path, is_run)
    if freed:
        listener.note(f"caches that no other run uses: {freed / 1e6:,.1f} MB freed")
    if stays:
        listener.warn(stays_in(run, stays))
    return RemovedRun(str(run.path), before - left + freed, tuple(map(str, stays)))


def megabytes(runs: Sequence[Run]) -> str:
    """Return the total size of runs as readable text."""
    return f"{sum(bytes_in(run.path) for run in runs) / 1e6:,.1f} MB"
