"""Our pictures in a folder that may also contain the user's: others are never removed or replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from PIL import Image

from wisesr_cli.display.pictures import SOFTWARE, software_tag
from wisesr_cli.errors import UsageError
from wisesr_cli.machine.files import naming, replacing
from wisesr_cli.run.names import EXPLAIN, EXPLAINED_PATTERNS, EXPLAINED_PICTURE, WEIGHTS_PICTURE
from wisesr_cli.run.written import Written
from wisesr_cli.text import visible

LONGEST_STEM = 80  # bytes of an image's name that are kept in the name of its picture
PNG_EFFORT = 3  # of 9: a third of the time that 6 takes, for files a few percent larger

_OWN_MARK = b"tEXtSoftware\0" + SOFTWARE.encode()
_MARK_WITHIN = 128  # bytes from the start of a file


class OwnPictures:
    """The pictures of one command in a folder; earlier ones are removed just before the first is written.

    Earlier pictures are thus kept if no image is readable, or if the command `is_resumed`.
    """

    def __init__(self, folder: Path, *, is_resumed: bool = False) -> None:
        self.folder, self._is_started = folder, is_resumed

    def begin(self) -> None:
        """Remove earlier pictures and contact sheets, on the first call only."""
        if self._is_started:
            return
        self._is_started = True
        with naming(self.folder):
            found = sorted(path for pattern in EXPLAINED_PATTERNS for path in self.folder.glob(pattern))
            for path in _own_among(found, self.folder):
                path.unlink()

    def write(self, picture: Image.Image, number: int, name: str) -> None:
        """Write the picture of the image with this number, from 1, and this path."""
        self.begin()
        write_picture(picture, self.folder / picture_name(number, name))


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG atomically, marked as ours; raises a `UsageError` if the path exists and is not ours."""
    check_place(path)
    with replacing(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=software_tag(), compress_level=PNG_EFFORT)


def check_place(path: Path) -> None:
    """Raise a `UsageError` if writing a picture would replace something that is not ours."""
    with naming(path):
        if os.path.lexists(path) and not _own_among([path], path.parent):
            raise UsageError(f"{visible(path)}: was not drawn by wisesr, and is not replaced; give another folder")


def picture_name(number: int, path: str) -> str:
    """Return a safe file name for the picture of the image with this number, from 1, and this path."""
    stem = re.sub(r"[^\w.-]+", "_", Path(path).stem.encode("utf-8", "replace").decode()).strip("._")
    while len(os.fsencode(stem)) > LONGEST_STEM:
        stem = stem[:-1]
    return EXPLAINED_PICTURE.format(number, stem or "image")


def without_own_pictures(paths: Iterable[str], folder: Path) -> Iterator[str]:
    """Yield inputs without the pictures that `wisesr explain` wrote into `folder`."""
    for path in paths:
        if not _is_of_folder(path, folder):
            yield path


def _is_of_folder(path: str, folder: Path) -> bool:
    name = os.path.basename(path)  # noqa: PTH119  (of the path as typed: a Path would drop a trailing dot)
    if not any(fnmatchcase(name, pattern) for pattern in (*EXPLAINED_PATTERNS, WEIGHTS_PICTURE)):
        return False
    try:
        return Path(path).parent.samefile(folder) and bool(_own_among([Path(path)], folder))
    except (OSError, ValueError):  # one does not exist or is unreadable, or its name is invalid
        return False


def _own_among(paths: Sequence[Path], folder: Path) -> Sequence[Path]:
    """Return the paths that are ours: in a run's own folder, by its record; elsewhere, by our mark."""
    written = Written(folder.parent)
    if folder.name == EXPLAIN and written.exists:
        others = set(written.others(folder / path.name for path in paths))
        return [path for path in paths if folder / path.name not in others]
    return [path for path in paths if _is_marked(path)]


def _is_marked(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return _OWN_MARK in file.read(_MARK_WITHIN)
