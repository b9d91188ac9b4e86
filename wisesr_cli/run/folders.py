"""Chooses, checks, creates and clears the folder of a run, and what other folders of results share."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from wisesr_cli.errors import MachineError, RunError, UsageError
from wisesr_cli.machine.files import TEMPORARY_PREFIX, make_folder, naming, remove
from wisesr_cli.machine.locks import locked
from wisesr_cli.run.names import CLASSES, CONFIG, LEFTOVERS, LOCK, OUR_FILES, OUR_FOLDERS, OUR_STATES
from wisesr_cli.run.run import Run
from wisesr_cli.text import visible

if TYPE_CHECKING:
    from wisesr_cli.config.schema import Config


@dataclass(frozen=True)
class Start:
    """The run directory of a training, and whether it is resumed or new.

    `fine_tunes`: `wisesr upgrade` made the run, whose model is kept until an epoch has finished.
    """

    run: Run
    resumed: bool
    is_new: bool = False
    fine_tunes: bool = False


def choose_run(config: Config, default_name: str, *, resume: bool, overwrite: bool) -> Start:
    """Return the run directory to train in, writing nothing; `UsageError` if its name is taken or not a run's."""
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    parent = Path(config.output_dir).expanduser()
    check_output_folder(parent)
    if config.name is not None:
        run = Run(parent / config.name)
        if not is_taken(run.path):
            return Start(run, resumed=False, is_new=True)
        if not run.path.is_dir():
            raise UsageError(f"{visible(run.path)} is not a folder; give another --name")
        if not (run.path / CLASSES).is_file() and not (resume and run.state.is_dir()):  # resuming writes them again
            raise UsageError(f"{visible(run.path)} holds something that is no run; give another --name")
        if resume or overwrite:
            return Start(run, resumed=resume)
        raise UsageError(
            f"{visible(run.path)} exists; give another --name, go on with --resume, or start anew with --overwrite"
        )
    if (resume or overwrite) and (newest := newest_folder(parent, default_name, CONFIG)) is not None:
        return Start(Run(newest), resumed=resume)
    return Start(Run(free_folder(parent, default_name)), resumed=False, is_new=True)


def free_folder(parent: Path, default_name: str) -> Path:
    """Return the first folder that is free among `default_name`, `default_name`-2, and so on."""
    names = chain((default_name,), (f"{default_name}-{number}" for number in count(2)))
    return next(parent / name for name in names if not is_taken(parent / name))


def check_still_new(start: Start) -> None:
    """Raise `MachineError` if a new run was created by another process meanwhile; call with its lock held."""
    if start.is_new and is_taken(start.run.path):
        raise MachineError(f"{visible(start.run.path)}: was made by another wisesr meanwhile; repeat the command")


def newest_folder(parent: Path, default_name: str, mark: str) -> Path | None:
    """Return the folder whose file `mark` is the newest among `default_name`, `default_name`-2, and so on."""
    pattern = re.compile(re.escape(default_name) + r"(-([2-9]|[1-9]\d+))?")
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    marked = [path for path in folders if pattern.fullmatch(path.name) and (path / mark).is_file()]
    return max(marked, key=lambda path: (path / mark).stat().st_mtime_ns, default=None)


def check_output_folder(folder: Path) -> None:
    """Check that a folder exists or can be created in an existing parent.

    Raises:
        UsageError: a file exists at its path.
        MachineError: its parent is missing: a typo, or a disk that is not mounted.
    """
    with naming(folder):
        blocked = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
        is_missing = not folder.absolute().parent.exists()
    if blocked is not None:
        raise UsageError(f"{visible(blocked)} is a file; the output directory must be a folder")
    if is_missing:
        raise MachineError(
            f"{visible(folder.absolute().parent)}: no such folder; make it first, or give another --output-dir"
        )


def is_taken(path: Path) -> bool:
    """Return whether `path` has more than the leftovers of a training killed before its first file."""
    if not path.is_dir():
        return path.exists() or path.is_symlink()
    with suppress(FileNotFoundError):  # removed by another process meanwhile
        return any(entry.name != LOCK and not entry.name.startswith(TEMPORARY_PREFIX) for entry in path.iterdir())
    return False


def prepare_folder(run: Run, *, overwrite: bool, keep: Path | None = None) -> None:
    """Create the run directory; with `overwrite`, remove what an earlier run wrote there, and nothing else.

    `keep` is a file to retain: the model that the next run starts from.
    """
    make_folder(run.path)
    with naming(run.path):
        if overwrite:
            for pattern in (*OUR_STATES, *OUR_FILES):
                for path in sorted(run.path.glob(pattern)):
                    if keep is None or path.resolve() != keep.resolve():
                        _remove(path)
            for folder in sorted((path for pattern in OUR_FOLDERS for path in run.path.glob(pattern)), reverse=True):
                remove_if_empty(folder)
        for leftover in (path for pattern in LEFTOVERS for path in run.path.glob(pattern)):
            _remove(leftover)


def check_kinds(run: Run) -> None:
    """Raise `RunError` when a folder exists in place of a file of the run, or a file in place of a folder."""
    refuse_wrong_kinds(
        files=(path for pattern in (*OUR_FILES, LOCK) for path in sorted(run.path.glob(pattern))),
        folders=(run.state, run.plots, run.tensorboard),
    )


def refuse_wrong_kinds(*, files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Raise `RunError` when a folder exists in place of a file, or a file or link in place of a folder."""
    for folder in folders:
        if folder.is_symlink():
            raise RunError(f"{visible(folder)}: is a link; nothing is written through it: take it away")
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{visible(folder)}: is a file; a run has a folder there: take it away")
    for path in files:
        if path.is_dir():
            raise RunError(f"{visible(path)}: is a folder; a run has a file there: take it away")


@contextmanager
def forget_if_empty(run: Run) -> Iterator[None]:
    """Remove the run directory if the block, which holds its lock, fails before writing anything."""
    try:
        yield
    except BaseException:
        if not is_taken(run.path):
            with suppress(OSError):  # the block's own error matters
                run.lock.unlink()
            remove_if_empty(run.path)
        raise


@contextmanager
def temporary_run(parent: Path, prefix: str) -> Iterator[Run]:
    """Yield a run in a folder that is removed afterwards; leftovers of killed processes are removed, too."""
    make_folder(parent)
    with naming(parent):
        for leftover in sorted(parent.glob(f"{prefix}*")):
            _remove_if_dead(Run(leftover))
        run = Run(Path(tempfile.mkdtemp(prefix=prefix, dir=parent)))
    try:
        with locked(run.lock):
            yield run
    finally:
        shutil.rmtree(run.path, ignore_errors=True)


def _remove_if_dead(temporary: Run) -> None:
    """Remove the folder of a process that ended without removing it."""
    with suppress(OSError, MachineError):  # a live process holds it, or it belongs to another user
        if not any(temporary.path.iterdir()):
            temporary.path.rmdir()  # a process that has just started creates it again with its lock
        elif not temporary.lock.exists() or temporary.lock.stat().st_size:  # an empty lock is about to be held
            with locked(temporary.lock):
                shutil.rmtree(temporary.path)


def remove_if_empty(folder: Path) -> None:
    """Remove a folder if it is empty."""
    with suppress(OSError):  # the user's files are in it, or it is no folder
        folder.rmdir()


def _remove(path: Path) -> None:
    with naming(path):
        remove(path)
