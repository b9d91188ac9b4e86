"""Chooses and checks the folder that a comparison is written to."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wisesr_cli.errors import UsageError
from wisesr_cli.run.folders import Start, check_output_folder, free_folder, is_taken, newest_folder, refuse_wrong_kinds
from wisesr_cli.run.names import (
    ACCURACY_PICTURE,
    COMPARISON_FILES,
    FOLDS_FILES,
    LABEL_ISSUES,
    LABEL_ISSUES_SHEET,
    LEARNING_CURVES,
    LOCK,
    TRAININGS,
)
from wisesr_cli.run.run import Run
from wisesr_cli.text import visible

if TYPE_CHECKING:
    from wisesr_cli.config.schema import Config


def choose_comparison(config: Config, default_name: str, *, resume: bool) -> Start:
    """Return the folder for a comparison, writing nothing; its lock and plots are where a run's are.

    Raises a `UsageError` if the given name is taken, or the folder contains something else.
    """
    parent = Path(config.output_dir).expanduser()
    check_output_folder(parent)
    if config.name is None:
        newest = newest_folder(parent, default_name, TRAININGS) if resume else None
        if newest is not None:
            return Start(Run(newest), resumed=True)
        return Start(Run(free_folder(parent, default_name)), resumed=False, is_new=True)
    path = parent / config.name
    if not is_taken(path):
        return Start(Run(path), resumed=False, is_new=True)
    if not (path / TRAININGS).is_file():
        raise UsageError(f"{visible(path)} holds something other than a comparison; give another --name")
    if not resume:
        raise UsageError(f"{visible(path)} exists; give another --name, or continue with --resume")
    return Start(Run(path), resumed=True)


def check_comparison_kinds(folder: Run) -> None:
    """Raise a `RunError` if a folder is where a comparison's file should be, or a file where a folder should be."""
    pictures = [folder.plots / name for name in (ACCURACY_PICTURE, LEARNING_CURVES)]
    names = (TRAININGS, *COMPARISON_FILES, *FOLDS_FILES, LABEL_ISSUES, LABEL_ISSUES_SHEET, LOCK)
    refuse_wrong_kinds(files=[*(folder.path / name for name in names), *pictures], folders=(folder.plots,))
