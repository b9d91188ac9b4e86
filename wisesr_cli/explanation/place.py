"""The output folder of explanations, created and checked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from tempfile import TemporaryFile

from wisesr_cli.errors import UsageError
from wisesr_cli.machine.files import TEMPORARY_PREFIX, make_folder, naming
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.run.folders import check_output_folder, refuse_wrong_kinds, remove_if_empty
from wisesr_cli.run.names import EXPLAIN, EXPLANATION_FILES
from wisesr_cli.run.written import Written, recording
from wisesr_cli.text import joined, visible


@contextmanager
def explanation_folder(model: Path, given: str | None, option: str) -> Iterator[Path]:
    """Yield the writable, locked folder for explanations, by default next to the model file.

    `option` is the option of `given`, for errors. A folder created here that is still empty after the block is removed.

    Raises:
        UsageError: it is a file, or the default folder holds files of these names that no explanation wrote.
        RunError: it contains a folder named like a file of explanations, or the default folder is a link.
        MachineError: no permission, another process uses it, or its parent folder is missing.
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
        with alone_in(folder), recording(model.parent) if given is None else nullcontext():
            if given is None:
                _refuse_foreign(folder, Written(model.parent))
            with naming(folder), TemporaryFile(prefix=TEMPORARY_PREFIX, dir=folder):  # checks write permission
                for leftover in sorted(folder.glob(f"{TEMPORARY_PREFIX}*.png")):  # of a process that was killed
                    leftover.unlink(missing_ok=True)
            yield folder
    finally:
        if is_new:
            remove_if_empty(folder)


def _refuse_foreign(folder: Path, written: Written) -> None:
    there = [folder / name for name in EXPLANATION_FILES if written.exists and (folder / name).exists()]
    if foreign := [path.name for path in written.others(there)]:
        raise UsageError(
            f"{visible(folder)} holds {joined(foreign)}, not written by an explanation, or changed since; give another "
            "folder with -o"
        )
