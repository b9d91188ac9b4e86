"""The folder that an evaluation is written into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from tempfile import TemporaryFile
from typing import get_args

from wisesr_cli.data.settings import SplitName
from wisesr_cli.machine.files import TEMPORARY_PREFIX, make_folder, naming
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.run.folders import refuse_wrong_kinds, remove_if_empty
from wisesr_cli.run.names import EVALUATION_EXTRAS, EVALUATION_FILES, EVALUATION_PICTURES
from wisesr_cli.run.run import Run
from wisesr_cli.run.written import Written, recording


def free_name(run: Run, name: str, source: str) -> str:
    """Return the first of `name`, `name`-2, and so on that is unused or has results from the same source.

    Results from other images, and files that no evaluation wrote, are thus never replaced.
    """
    written = Written(run.path)
    names = chain((name,), (f"{name}-{number}" for number in count(2)))
    return next(candidate for candidate in names if _is_free(run, written, candidate, source))


def _is_free(run: Run, written: Written, name: str, source: str) -> bool:
    there = [path for path in _files_of(run, name) if path.is_file() or path.is_symlink()]
    if not written.exists:  # a run of an earlier version
        return not there or source.startswith("split ") or name not in get_args(SplitName)
    is_of_same = written.source_of(run.evaluation_dir(name)) in (None, source)
    return not there or (is_of_same and not written.others(there))


def _files_of(run: Run, name: str) -> list[Path]:
    """Return the paths of all files of an evaluation."""
    pictures = [run.plots / picture.format(name) for picture in EVALUATION_PICTURES]
    return [*(run.evaluation_dir(name) / file for file in (*EVALUATION_FILES, *EVALUATION_EXTRAS)), *pictures]


@contextmanager
def evaluation_folder(run: Run, name: str) -> Iterator[Path]:
    """Yield the folder for an evaluation, having checked that it and the plots folder are writable.

    A folder created here that is empty when the block fails is removed.

    Raises:
        RunError: a file exists where a folder should be, or vice versa.
        MachineError: it is not writable.
    """
    folder, plots = run.evaluation_dir(name), run.plots
    with naming(folder):
        refuse_wrong_kinds(files=_files_of(run, name), folders=(folder, plots))
        made = [path for path in (folder, plots) if not path.exists()]
    try:
        for path in (folder, plots):
            make_folder(path)
            with naming(path), TemporaryFile(prefix=TEMPORARY_PREFIX, dir=path):
                pass  # it is writable
        with alone_in(folder, shared=True), alone_in(plots, shared=True), recording(run.path):
            yield folder
    except BaseException:
        for path in made:
            remove_if_empty(path)
        raise
