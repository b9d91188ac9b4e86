"""Chooses, checks, creates and clears run directories; also has helpers for other result folders."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING

from wisesr_cli.errors import InUseError, MachineError, RunError, UsageError
from wisesr_cli.listening import Listener, Silent
from wisesr_cli.machine.files import TEMPORARY_PREFIX, make_folder, naming, remove
from wisesr_cli.machine.locks import Lock, is_held, lies_at, locked, unused
from wisesr_cli.run.names import (
    CLASSES,
    CONFIG,
    EXPORT,
    EXPORTED_MODELS,
    LOCK,
    RESULT_FOLDERS,
    RUN_FILES,
    SAVED_MODEL_FOLDERS,
)
from wisesr_cli.run.run import Run
from wisesr_cli.run.state import has_state, remove_states
from wisesr_cli.run.written import Written
from wisesr_cli.text import some_of, visible

if TYPE_CHECKING:
    from wisesr_cli.config.schema import Config


@dataclass(frozen=True)
class Start:
    """The run directory of a training, and whether it is resumed or new.

    `overwrites`: the files of an earlier run there are to be removed. `fine_tunes`: `wisesr upgrade` made the run; its
    model is kept until an epoch has finished.
    """

    run: Run
    resumed: bool
    is_new: bool = False
    overwrites: bool = False
    fine_tunes: bool = False


def choose_run(config: Config, default_name: str, *, resume: bool, overwrite: bool) -> Start:
    """Return the run directory to train in, without writing anything.

    Raises:
        UsageError: its name is taken, or the folder is not a run.
        RunError: something else is in the place of a file or folder of the run.
    """
    start = _choose(config, default_name, resume=resume, overwrite=overwrite)
    check_kinds(start.run)
    return start


def _choose(config: Config, default_name: str, *, resume: bool, overwrite: bool) -> Start:
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
        if not (run.path / CLASSES).is_file() and not (resume and has_state(run.state)):  # resuming writes them again
            raise UsageError(f"{visible(run.path)} holds something other than a run; give another --name")
        if resume or overwrite:
            return Start(run, resumed=resume, overwrites=overwrite)
        raise UsageError(
            f"{visible(run.path)} exists; give another --name, continue with --resume, or start over with --overwrite"
        )
    runs = _folders_of(parent, default_name, CONFIG) if resume or overwrite else []
    if overwrite and len(runs) > 1:
        names = some_of([path.name for path in runs], 5)
        raise UsageError(f"{visible(parent)} has several runs of this name: {names}; choose one with --name")
    if runs:
        return Start(Run(runs[-1]), resumed=resume, overwrites=overwrite)
    return Start(Run(free_folder(parent, default_name)), resumed=False, is_new=True)


def free_folder(parent: Path, default_name: str) -> Path:
    """Return the first free folder among `default_name`, `default_name`-2, ...; one being started is not free."""
    names = chain((default_name,), (f"{default_name}-{number}" for number in count(2)))
    folders = (parent / name for name in names)
    return next(path for path in folders if not is_taken(path) and not is_held(path / LOCK))


@contextmanager
def held_start(choose: Callable[[], Start]) -> Iterator[Start]:
    """Yield the result of `choose`, locked; `choose` is called again if another process takes that name first.

    If the block fails before writing anything into a new folder, the folder is removed. Raises `InUseError` if `choose`
    has no other folder to offer.
    """
    tried: list[Path] = []
    with ExitStack() as held:
        while True:
            start = choose()
            try:
                lock = held.enter_context(locked(start.run.lock))
                if start.is_new and is_taken(start.run.path):
                    held.close()
                    raise InUseError(
                        f"{visible(start.run.path)}: was created by another wisesr in the meantime; repeat the command"
                    )
                break
            except InUseError:
                if not start.is_new or tried.count(start.run.path) == 2:  # others briefly take a lock to test it
                    raise
                tried.append(start.run.path)
        # Only the holder of the lock may remove it.
        start = replace(start, run=replace(start.run, held=lock))
        held.enter_context(_forget_if_empty(start.run, lock))
        yield start


def newest_folder(parent: Path, default_name: str, mark: str) -> Path | None:
    """Return the folder with the newest file `mark` among `default_name`, `default_name`-2, and so on."""
    return next(reversed(_folders_of(parent, default_name, mark)), None)


def _folders_of(parent: Path, default_name: str, mark: str) -> list[Path]:
    """Return the folders with a file `mark` among `default_name`, `default_name`-2, and so on, newest last."""
    pattern = re.compile(re.escape(default_name) + r"(-([2-9]|[1-9]\d+))?")
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    marked = [path for path in folders if pattern.fullmatch(path.name) and (path / mark).is_file()]
    return sorted(marked, key=lambda path: (path / mark).stat().st_mtime_ns)


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
            f"{visible(folder.absolute().parent)}: no such folder; create it first, or give another --output-dir"
        )


def is_taken(path: Path) -> bool:
    """Return whether `path` holds more than leftovers of a training killed before it wrote its first file."""
    if not path.is_dir():
        return path.exists() or path.is_symlink()
    with suppress(FileNotFoundError):  # removed by another process meanwhile
        return any(not entry.name.startswith((LOCK, TEMPORARY_PREFIX)) for entry in path.iterdir())
    return False


def prepare_folder(run: Run, *, overwrite: bool, keep: Path | None = None, listener: Listener | None = None) -> None:
    """Create the run directory; with `overwrite`, remove what an earlier run wrote there, and nothing else.

    `keep` is a file to retain: the model that the next run starts from. Warns about files that remain because the
    earlier run did not record them or they have changed since.
    """
    make_folder(run.path)
    if not overwrite:
        with naming(run.path):
            _remove_leftovers(run)
    elif stays := clear_folder(run, keep=keep):
        (listener or Silent()).warn(stays_in(run, stays))


def clear_folder(run: Run, *, keep: Path | None = None) -> list[Path]:
    """Remove the files that a run wrote, except `keep`; return those that remain, relative to the run directory."""
    with naming(run.path):
        _remove_leftovers(run)
        for path in (*Written(run.path).files(), *(run.path / name for name in RUN_FILES)):
            if keep is None or path.resolve() != keep.resolve():
                with naming(path):
                    remove(path)
                    _remove_empty(run, path.parent)
        remove_states(run.state)
        saved_model = run.path / EXPORT / EXPORTED_MODELS["saved_model", None]
        for folder in (run.state, *(saved_model / name for name in SAVED_MODEL_FOLDERS)):
            _remove_empty(run, folder)
        files = sorted(path.relative_to(run.path) for path in run.path.rglob("*") if not path.is_dir())
        return [path for path in files if not path.name.startswith(LOCK) and run.path / path != keep]


def stays_in(run: Run, stays: Sequence[Path]) -> str:
    """Return the warning about files that remain in the folder of a run."""
    return f"{visible(run.path)}: files that this run did not write, or that changed since, stay: {some_of(stays, 5)}"


def _remove_empty(run: Run, folder: Path) -> None:
    """Remove a folder of the run and its parent folders, as far as they are empty."""
    while folder != run.path and folder.is_relative_to(run.path):
        remove_if_empty(folder)
        folder = folder.parent


def _remove_leftovers(run: Run) -> None:
    """Remove leftovers of killed processes from the run, and from its folders that no live process writes to."""
    leftovers = sorted(run.path.glob(f"{TEMPORARY_PREFIX}*.*"))  # without a suffix, they may be a live prediction's
    with ExitStack() as held:
        for folder in sorted(path for pattern in RESULT_FOLDERS for path in run.path.glob(pattern)):
            if held.enter_context(unused(folder)):
                leftovers.extend(sorted(folder.glob(f"{TEMPORARY_PREFIX}*")))
        for leftover in leftovers:
            with naming(leftover):
                remove(leftover)


def check_kinds(run: Run) -> None:
    """Raise `RunError` when a folder exists in place of a file of the run, or a file in place of a folder."""
    refuse_wrong_kinds(
        files=[run.path / name for name in (*RUN_FILES, LOCK)], folders=(run.state, run.plots, run.tensorboard)
    )


def refuse_wrong_kinds(*, files: Iterable[Path], folders: Iterable[Path]) -> None:
    """Raise `RunError` when a folder exists in place of a file, or a file or link in place of a folder."""
    for folder in folders:
        if folder.is_symlink():
            raise RunError(f"{visible(folder)}: is a link; nothing is written through it: remove it")
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{visible(folder)}: is a file; a run has a folder there: remove it")
    for path in files:
        if path.is_dir():
            raise RunError(f"{visible(path)}: is a folder; a run has a file there: remove it")


@contextmanager
def _forget_if_empty(run: Run, lock: Lock) -> Iterator[None]:
    """Remove the run directory if the block, which holds its lock, fails before writing anything."""
    try:
        yield
    except BaseException:
        if not is_taken(run.path):
            with suppress(OSError, MachineError):  # the block's own error matters
                forget_if_free(run, lock)
        raise


def forget_if_free(run: Run, lock: Lock) -> None:
    """Remove the lock of a run, which the caller holds, and the run's folder if nothing else is in it."""
    if lies_at(lock.path, lock.descriptor):
        with naming(run.lock):
            run.lock.unlink()
        remove_if_empty(run.path)


@contextmanager
def temporary_run(parent: Path, prefix: str) -> Iterator[Run]:
    """Yield a run in a temporary folder, removed afterwards along with leftovers of killed processes."""
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
    with suppress(OSError):  # the user's files are in it, or it is not a folder
        folder.rmdir()
