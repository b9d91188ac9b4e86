"""The folder that an evaluation is written into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile

from wisesr_cli.machine.files import TEMPORARY_PREFIX, make_folder, naming
from wisesr_cli.run.folders import refuse_wrong_kinds, remove_if_empty
from wisesr_cli.run.names import EVALUATION_FILES, EVALUATION_PICTURES, REPORT
from wisesr_cli.run.run import Run


@contextmanager
def evaluation_folder(run: Run, name: str) -> Iterator[Path]:
    """Yield the folder for an evaluation, having checked that it and the plots folder are writable.

    A folder created here and empty when the block fails is removed.

    Raises:
        RunError: a file exists where a folder should be, or vice versa.
        MachineError: it is not writable.
    """
    folder, plots = run.evaluation_dir(name), run.plots
    pictures = [plots / picture.format(name) for picture in EVALUATION_PICTURES]
    with naming(folder):
        files = [folder / file for file in (*EVALUATION_FILES, REPORT)]
        refuse_wrong_kinds(files=[*files, *pictures], folders=(folder, plots))
        made = [path for path in (folder, plots) if not path.exists()]
    try:
        for path in (folder, plots):
            make_folder(path)
            with naming(path), TemporaryFile(prefix=TEMPORARY_PREFIX, dir=path):
                pass  # it can be written
        yield folder
    except BaseException:
        for path in made:
            remove_if_empty(path)
        raise
