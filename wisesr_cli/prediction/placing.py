"""Copies, links or moves images into a folder per label, for `wisesr predict --sort-into DIR`.

Nothing is placed until everything is labelled and a complete plan (image and folder, one pair per line) is in DIR.
While it is carried out, each new name is recorded next to it before the file appears, so that a later process continues
with the same names even though moved images are no longer where they were found.
"""

from __future__ import annotations

import errno
import filecmp
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from wisesr_cli.data.oddities import Counted
from wisesr_cli.display.grid import to_json
from wisesr_cli.errors import UsageError, writing_error
from wisesr_cli.listening import Listener
from wisesr_cli.machine.files import TEMPORARY_PREFIX, is_link_of_another, make_folder, naming, replacing
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.requests import PlacingMode, PredictRequest
from wisesr_cli.results.streams import Prediction
from wisesr_cli.run.folders import check_output_folder, remove_if_empty
from wisesr_cli.text import counted, folder_name, joined, visible

UNSURE = "unsure"  # folder of images whose label is withheld
PLAN, NAMES = f"{TEMPORARY_PREFIX}plan.jsonl", f"{TEMPORARY_PREFIX}names.jsonl"
_BEGIN = f"{TEMPORARY_PREFIX}placing-"  # of temporary files
LONGEST_NAME = 255  # bytes
DONE: dict[PlacingMode, str] = {"copy": "copied", "link": "linked", "move": "moved"}


@contextmanager
def placing_folder(request: PredictRequest, info: ModelInfo) -> Iterator[Placing]:
    """Yield the `Placing` of a request; its folder is locked meanwhile, and removed if it stays empty.

    Raises:
        UsageError: the folder is a file or another user's link, or holds a plan that is neither to be resumed nor to
            be replaced, or that belongs to another user.
        MachineError: no permission, or another process uses the folder.
    """
    if not request.sort_into:
        raise UsageError("--sort-into is empty; it takes a folder")
    folder = Path(request.sort_into)
    if is_link_of_another(folder):
        raise UsageError(f"{visible(folder)}: is a link that another user made; choose another --sort-into")
    check_output_folder(folder)
    is_new = not folder.exists()
    try:
        make_folder(folder)
        with alone_in(folder):
            with naming(folder), TemporaryFile(prefix=TEMPORARY_PREFIX, dir=folder):  # checks write permission
                pass
            placing = Placing(folder, request.sort_into_by, info.class_names)
            if placing.is_planned and not request.resume and not request.overwrite:
                raise UsageError(
                    f"{visible(folder)}: images are being placed there by a command that was interrupted: continue "
                    "with --resume, or discard the rest with --overwrite"
                )
            yield placing
    finally:
        if is_new:
            remove_if_empty(folder)


class Placing:
    """Places the images of one command into the folders of their labels."""

    def __init__(self, folder: Path, mode: PlacingMode, class_names: Iterable[str]) -> None:
        self.folder, self.mode = folder, mode
        self.folders = folder_names(class_names)
        self.unreadable = 0
        self._is_inside: dict[str, bool] = {}
        self._last_number: dict[str, int] = {}  # of names that were taken

    @property
    def is_planned(self) -> bool:
        """Whether a plan is waiting to be carried out."""
        return _is_own(self.folder / PLAN)

    @property
    def is_begun(self) -> bool:
        """Whether part of the plan may have been carried out."""
        return self.is_planned and _is_own(self.folder / NAMES)

    @property
    def is_done(self) -> bool:
        """Whether a process was killed right after it placed the last image."""
        return not self.is_planned and _is_own(self.folder / NAMES)

    def outside(self, paths: Iterable[str]) -> Iterator[str]:
        """Yield the inputs; raises a `UsageError` for one that is in the folder itself."""
        for path in paths:
            parent = os.path.dirname(path)  # noqa: PTH120  (called often; keeps the path as typed)
            if parent not in self._is_inside:
                if len(self._is_inside) == 1024:
                    self._is_inside.clear()
                self._is_inside[parent] = _is_inside(parent, self.folder)
            if self._is_inside[parent]:
                raise UsageError(f"{visible(path)}: is in the folder of --sort-into; choose one outside the inputs")
            yield path

    def planned(self, records: Iterable[Prediction]) -> Iterator[Prediction]:
        """Yield the same records, and write the plan after the last one, replacing an earlier plan."""
        with replacing(self.folder / PLAN) as temporary, temporary.open("w", encoding="ascii") as plan:
            plan.write(to_json({"mode": self.mode}) + "\n")
            for record in records:
                if record.error is None:
                    into = UNSURE if record.label is None else self.folders[record.label]
                    source = os.path.abspath(record.path)  # noqa: PTH100  (keeps bytes that are not UTF-8)
                    plan.write(to_json([source, into]) + "\n")
                else:
                    self.unreadable += 1
                yield record
            plan.flush()
            self.clear()

    def carry_out(self, listener: Listener, check: Callable[[], None]) -> None:
        """Place the planned images that are not placed yet; `check` raises to stop.

        Raises:
            UsageError: the plan was made for another way of placing.
            MachineError: a file cannot be written or moved.
        """
        unsure, lost, number = 0, Counted(), -1
        plan, names = self.folder / PLAN, self.folder / NAMES
        with naming(plan), plan.open("rb") as lines, open(names, "a+b", opener=_open_no_link) as written:
            planned = json.loads(next(lines))["mode"]
            if planned != self.mode:
                raise UsageError(f"{visible(self.folder)}: was started with --sort-into-by {planned}; give that again")
            first, begun = _last(written)
            if begun is not None:
                listener.note(f"{visible(self.folder)}: continuing after {counted(first, 'image')}")
            with listener.progress("placing", None) as progress:
                for number, (source, into) in enumerate(map(json.loads, lines)):
                    unsure += into == UNSURE
                    if number >= first:
                        check()
                        if not self._place(number, source, into, written, begun if number == first else None):
                            lost.add(source)
                    progress.advance()
            os.sync()  # once for all: flushing each file takes ten times as long as copying it
            plan.unlink()
        self.clear()
        said = f"{counted(number + 1 - lost.count, 'image')} {DONE[self.mode]} into {visible(self.folder)}"
        said += f", {unsure:,} unsure" if unsure else ""
        listener.note(said + (f"; {self.unreadable:,} unreadable skipped" if self.unreadable else ""))
        if lost.count:
            listener.warn(f"{counted(lost.count, 'image')} could no longer be read: {joined(lost.first)}")

    def clear(self) -> None:
        """Remove the record of the names of placed images."""
        with naming(self.folder / NAMES):
            (self.folder / NAMES).unlink(missing_ok=True)

    def _place(self, number: int, source: str, into: str, written: IO[bytes], begun: str | None) -> bool:
        """Place an image under the first free name, or the one that an earlier process had begun to use.

        Returns whether the image could be read.
        """
        folder = self.folder / into
        if is_link_of_another(folder):
            raise UsageError(f"{visible(folder)}: is a link that another user made; choose another --sort-into")
        make_folder(folder)
        if begun is not None:
            for leftover in folder.glob(f"{_BEGIN}*"):
                leftover.unlink()
            if _is_of(source, self.folder / begun, self.mode):
                return _put(source, self.folder / begun, self.mode)
        if not os.path.exists(source):  # noqa: PTH110  (bytes that are not UTF-8)
            return False
        while True:
            target = folder / self._free_name(folder, os.path.basename(source))  # noqa: PTH119
            written.write(to_json([number, f"{into}/{target.name}"]).encode("ascii") + b"\n")
            written.flush()
            if _reserve(source, target, self.mode):
                return _put(source, target, self.mode)

    def _free_name(self, folder: Path, name: str) -> str:
        """Return the name, with -2, -3, ... appended to its stem if it is taken."""
        if not os.path.lexists(folder / name):
            return name
        key = str(folder / name)
        number = self._last_number.get(key, 1) + 1
        while os.path.lexists(folder / (numbered := _numbered(name, number))):
            number += 1
        self._last_number[key] = number
        return numbered


def folder_names(class_names: Iterable[str]) -> dict[str, str]:
    """Return a unique folder name for each class: its own name where that is safe, else a similar one."""
    names = list(class_names)
    found = {name: name for name in names if folder_name(name) == name and name != UNSURE}
    taken = {UNSURE, *found}
    for name in names:
        if name not in found:
            safe = folder_name(name)
            numbered = (safe if number == 1 else f"{safe}-{number}" for number in count(1))
            found[name] = next(candidate for candidate in numbered if candidate not in taken)
            taken.add(found[name])
    return found


def _is_own(path: Path) -> bool:
    """Return whether a file exists; raises a `UsageError` if another user made it, as a plan decides what is copied."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        raise UsageError(f"{visible(path)}: is in the way, and was not written by wisesr for this user; remove it")
    return True


def _open_no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW, 0o666)


def _is_inside(parent: str, folder: Path) -> bool:
    try:
        return Path(parent).resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError, RuntimeError):  # the name is invalid, or links form a loop
        return False


def _numbered(name: str, number: int) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122  (bytes that are not UTF-8)
    ending = os.fsencode(f"-{number}{suffix}")[-LONGEST_NAME:]
    return os.fsdecode(os.fsencode(stem)[: LONGEST_NAME - len(ending)] + ending)


def _last(written: IO[bytes]) -> tuple[int, str | None]:
    """Return the number and new name of the image begun last, and remove an incomplete last line."""
    written.seek(0)
    last: tuple[int, str | None] = (0, None)
    end = 0
    for line in written:
        if not line.endswith(b"\n"):
            break
        end += len(line)
        number, name = json.loads(line)
        last = number, name
    written.truncate(end)
    return last


def _is_link(source: str, mode: PlacingMode) -> bool:
    """Return whether an image is placed as a symbolic link; a relative link would break if it were moved."""
    return mode == "link" or (mode == "move" and os.path.islink(source))  # noqa: PTH114


def _linked(source: str, mode: PlacingMode) -> Path:
    """Return the target of such a link."""
    return Path(source if mode == "link" else os.path.realpath(source))


def _is_of(source: str, target: Path, mode: PlacingMode) -> bool:
    """Return whether a file was put there for an image by a process that was then killed."""
    try:
        if not os.path.lexists(source):
            return mode == "move" and os.path.lexists(target)
        if _is_link(source, mode):
            return target.is_symlink() and target.readlink() == _linked(source, mode)
        whole = not target.is_symlink() and target.is_file()
        return whole and (target.stat().st_size == 0 or filecmp.cmp(source, target, shallow=False))
    except OSError:
        return False


def _reserve(source: str, target: Path, mode: PlacingMode) -> bool:
    """Reserve a name with the final link or an empty file, and return whether it was free."""
    try:
        if _is_link(source, mode):
            target.symlink_to(_linked(source, mode))
        else:
            target.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _put(source: str, target: Path, mode: PlacingMode) -> bool:
    """Put an image under its reserved name, and return whether it could be read; if not, free the name."""
    if os.path.lexists(source) and not _is_link(source, mode) and not (mode == "move" and _renamed(source, target)):
        try:
            file = open(source, "rb")  # noqa: SIM115, PTH123
        except OSError:
            target.unlink()
            return False
        with file, replacing(target, begin=_BEGIN, flush=False) as temporary:
            with temporary.open("wb") as copy:
                shutil.copyfileobj(file, copy)
            with suppress(OSError):  # file systems without permissions
                shutil.copystat(source, temporary)
    if mode == "move":
        with naming(Path(source)):
            Path(source).unlink(missing_ok=True)
    return True


def _renamed(source: str, target: Path) -> bool:
    """Rename an image, unless it is on another disk."""
    try:
        Path(source).replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            target.unlink()
            raise writing_error(error, source) from error
        return False
    return True
