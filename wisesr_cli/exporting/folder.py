"""The folder of exports: finds existing exports, and adds new ones, all of them or none.

`export.json` lists what wisesr wrote. Nothing else in the folder is ever replaced or removed. No Keras.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path

from pydantic import TypeAdapter

from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.machine.files import TEMPORARY_PREFIX, flush_to_disk, make_folder, naming, remove, sha256
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.results.models import ExportedModel
from wisesr_cli.run.folders import check_output_folder
from wisesr_cli.run.names import (
    EXPORT,
    EXPORT_EXTRAS,
    EXPORT_RECORD,
    EXPORTED_MODELS,
    FOLDERS,
    SERVED,
)
from wisesr_cli.run.records import read_json, write_json
from wisesr_cli.run.written import Written, recording
from wisesr_cli.text import joined, visible

ELSEWHERE, FOREIGN = "give another folder with -o", "not written by an export, or changed since"


@dataclass(frozen=True)
class Source:
    """The source of a folder's exports: a model file, at an image size."""

    bytes: int
    sha256: str
    image_size: tuple[int, int]


def source_of(model: Path, image_size: tuple[int, int]) -> Source:
    """Return the source for a model file at an image size."""
    return Source(model.stat().st_size, sha256(model), image_size)


@dataclass(frozen=True)
class Place:
    """A folder for exports, held exclusively.

    `temporary`: a folder in it for new exports, removed at the end. `kept`: rows of existing exports that stay;
    `outdated`: names of those to be removed, as they come from another source. `written`: the record of the run that
    the folder is in, if it is a run's own.
    """

    folder: Path
    temporary: Path
    source: Source
    kept: tuple[ExportedModel, ...]
    outdated: tuple[str, ...]
    written: Written | None

    def all_rows(self, new: Sequence[ExportedModel]) -> tuple[ExportedModel, ...]:
        """Return the rows of all exports in the final folder, in the order of the formats."""
        rows = {row.file: row for row in (*self.kept, *new)}
        return tuple(rows[name] for name in EXPORTED_MODELS.values() if name in rows)

    def take_in(self, new: Sequence[ExportedModel]) -> None:
        """Move the content of `temporary` into place; `MachineError` when it cannot be written.

        The record is written first, so that every export is recognized as ours.
        """
        rows = [asdict(row) for row in self.all_rows(new)]
        with naming(self.folder):
            for name in self.outdated:
                remove(self.folder / name)
        with recording(self.folder.parent) if self.written is not None else nullcontext():
            write_json(self.folder / EXPORT_RECORD, {"source": asdict(self.source), "rows": rows})
        with naming(self.folder):
            for path in sorted(self.temporary.iterdir()):
                target = self.folder / path.name
                if self.written is not None:
                    self.written.add(target, path)
                if target.is_dir():  # a folder cannot be replaced by a rename
                    target.rename(self.temporary / f"{TEMPORARY_PREFIX}{path.name}")
                path.replace(target)
            flush_to_disk(self.folder)


@contextmanager
def export_folder(
    model: Path, given: str | None, names: Sequence[str], source: Source, *, overwrite: bool
) -> Iterator[Place]:
    """Yield the folder for the exports `names`, next to the model file unless given, with a temporary folder.

    New exports that were not moved into place are removed at the end; so is an empty folder that was created here.

    Raises:
        UsageError: it has a file that must not be replaced.
        RunError: the folder next to the model is a link, or its record is damaged.
        MachineError: it is not writable, in use by another process, or its parent is missing.
    """
    if given == "":
        raise UsageError("-o is empty; it takes a folder")
    folder = model.parent / EXPORT if given is None else Path(given)
    check_output_folder(folder)
    if given is None and folder.is_symlink():
        raise RunError(f"{visible(folder)}: is a link; nothing is written through it: remove it")
    with naming(folder):
        is_new = not folder.exists()
    try:
        make_folder(folder)
        with alone_in(folder):
            written = Written(folder.parent) if given is None else None
            kept, outdated = _look(folder, names, source, written, overwrite=overwrite)
            with naming(folder):
                for leftover in sorted(folder.glob(f"{TEMPORARY_PREFIX}*")):  # of a process that was killed
                    remove(leftover)
                temporary = tempfile.TemporaryDirectory(prefix=TEMPORARY_PREFIX, dir=folder)
            with temporary as made:
                yield Place(folder, Path(made), source, kept, outdated, written)
    except BaseException:
        if is_new:
            with suppress(OSError):  # it is not empty
                folder.rmdir()
        raise


def _look(
    folder: Path, names: Sequence[str], source: Source, written: Written | None, *, overwrite: bool
) -> tuple[tuple[ExportedModel, ...], tuple[str, ...]]:
    """Return the existing exports that stay, and the names of those that do not."""
    earlier, rows = _read_record(folder) or (None, ())
    own = {row.file for row in rows} | ({*EXPORT_EXTRAS, *SERVED} if earlier else set())
    taken = [name for name in (*names, *EXPORT_EXTRAS) if (folder / name).exists()]
    if foreign := [name for name in taken if name not in own or _is_foreign(folder / name, written)]:
        raise UsageError(f"{visible(folder)} holds {joined(foreign)}, {FOREIGN}; {ELSEWHERE}")
    there = tuple(row for row in rows if (folder / row.file).exists())
    present = (*(row.file for row in there), *(name for name in SERVED if earlier and (folder / name).exists()))
    if earlier is not None and earlier != source and present:
        if not overwrite:
            what = "image size" if earlier.sha256 == source.sha256 else "model"
            raise UsageError(f"{visible(folder)} holds exports of another {what}; replace them with --overwrite")
        if odd := [name for name in present if _is_foreign(folder / name, written)]:
            raise UsageError(f"{visible(folder)} holds {joined(odd)}, {FOREIGN}; {ELSEWHERE}")
        return (), tuple(name for name in present if name not in names)
    if not overwrite and (exist := [name for name in present if name in names]):
        raise UsageError(f"{visible(folder / exist[0])} exists; replace it with --overwrite")
    return there, ()


def _read_record(folder: Path) -> tuple[Source, tuple[ExportedModel, ...]] | None:
    """Return the source and rows in the record of a folder; None if there is no record."""
    path = folder / EXPORT_RECORD
    if not path.exists() and not path.is_symlink():
        return None
    record = read_json(path)
    try:
        source = TypeAdapter(Source).validate_python(record["source"])
        rows = TypeAdapter(tuple[ExportedModel, ...]).validate_python(record["rows"])
    except (KeyError, TypeError, ValueError):
        raise RunError(f"{visible(path)}: is not a record of exports; remove it, or {ELSEWHERE}") from None
    return source, tuple(row for row in rows if row.file in EXPORTED_MODELS.values())


def _is_foreign(path: Path, written: Written | None) -> bool:
    """Return whether an export's path holds something else: a file for a folder, unknown or changed files."""
    is_folder = path.is_dir() and not path.is_symlink()
    if is_folder != (path.name in FOLDERS):
        return True
    if not is_folder and (path.is_symlink() or not path.is_file()):
        return True
    entries = sorted(path.rglob("*")) if is_folder else [path]
    for entry in entries if is_folder else ():
        name = str(entry.relative_to(path))
        folders, files = FOLDERS[path.name]
        allowed = folders if entry.is_dir() and not entry.is_symlink() else files
        if not any(fnmatch(name, pattern) for pattern in allowed):
            return True
    if written is None or not written.exists:
        return False
    return bool(written.others(entry for entry in entries if not entry.is_dir()))
