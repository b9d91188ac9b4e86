"""Where explanations are written: their folder, made and checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from wisesr_cli.errors import UsageError
from wisesr_cli.machine.files import TEMPORARY_PREFIX, make_folder, naming
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.run.folders import check_output_folder, refuse_wrong_kinds, remove_if_empty
from wisesr_cli.run.names import EXPLAIN, EXPLANATION_FILES


@contextmanager
def explanation_folder(model: Path, given: str | None, option: str) -> Iterator[Path]:
    """Give the folder for explanations, beside the model file unless one is given, having made sure of writing there.

    `option` is the one that gives it, for an error. A folder that was made here and is empty behind the block is taken
    away.

    Raises:
        UsageError: a file lies in its place.
        RunError: a folder lies in place of a file in it, or the one beside the model is a link.
        MachineError: nobody may write there, another process does, or the folder above it is missing.
    """
    if given == "":
        raise UsageError(f"{option} is empty; it takes a folder")
    folder = model.parent / EXPLAIN if given is None else Path(given)
    check_output_folder(folder)
    with naming(folder):
        refuse_wrong_kinds(
            files=[folder / name for name in EXPLANATION_FILES], folders=(folder,) if given is None else ()
        )
        is_new = not folder.exists()
    try:
        make_folder(folder)
        with alone_in(folder):
            with naming(folder), TemporaryFile(prefix=TEMPORARY_PREFIX, dir=folder):  # it can be written
                for leftover in sorted(folder.glob(f"{TEMPORARY_PREFIX}*.png")):  # of a process that was killed
                    leftover.unlink(missing_ok=True)
            yield folder
    finally:
        if is_new:
            remove_if_empty(folder)
