"""Pictures of ours in a folder that may hold the user's, too: ours are marked; no others are taken away or replaced."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from PIL import Image

from wisesr_cli.display.pictures import SOFTWARE, own_mark
from wisesr_cli.errors import UsageError
from wisesr_cli.machine.files import naming, replacing
from wisesr_cli.run.names import EXPLAINED_PATTERNS, EXPLAINED_PICTURE, WEIGHTS_PICTURE
from wisesr_cli.text import visible

LONGEST_STEM = 80  # bytes of an image's name that are kept in that of its picture
PNG_EFFORT = 3  # of 9: a third of the time that 6 takes, for files a few percent larger

_OWN_MARK = b"tEXtSoftware\0" + SOFTWARE.encode()
_MARK_WITHIN = 128  # bytes from the start of a file


class OwnPictures:
    """The pictures of one time in a folder; those of an earlier time are taken away before the first of them.

    Not sooner: where no image can be read, what an earlier time made stays.

    Args:
        folder: where they go.
        goes_on: whether the pictures that are there belong to this time, too.
    """

    def __init__(self, folder: Path, *, goes_on: bool = False) -> None:
        self.folder, self._is_begun = folder, goes_on

    def begin(self) -> None:
        """Take away the pictures and contact sheets of an earlier time, the first time this is called."""
        if self._is_begun:
            return
        self._is_begun = True
        with naming(self.folder):
            for path in sorted(path for pattern in EXPLAINED_PATTERNS for path in self.folder.glob(pattern)):
                if _is_own(path):
                    path.unlink()

    def write(self, picture: Image.Image, number: int, name: str) -> None:
        """Write the picture of the image with this number, from 1, and this path."""
        self.begin()
        write_picture(picture, self.folder / picture_name(number, name))


def write_picture(picture: Image.Image, path: Path) -> None:
    """Write a PNG as a whole, marked as ours.

    Raises:
        UsageError: something that is not ours lies there.
    """
    check_place(path)
    with replacing(path) as temporary:
        picture.save(temporary, "PNG", pnginfo=own_mark(), compress_level=PNG_EFFORT)


def check_place(path: Path) -> None:
    """Raise a `UsageError` where writing a picture would replace something that is not ours."""
    with naming(path):
        if os.path.lexists(path) and not _is_own(path):
            raise UsageError(f"{visible(path)}: is no picture of wisesr and is not replaced; give another folder")


def picture_name(number: int, path: str) -> str:
    """Return what the picture of the image with this number, from 1, is called: safe, whatever the image's own name."""
    stem = re.sub(r"[^\w.-]+", "_", Path(path).stem.encode("utf-8", "replace").decode()).strip("._")
    while len(os.fsencode(stem)) > LONGEST_STEM:
        stem = stem[:-1]
    return EXPLAINED_PICTURE.format(number, stem or "image")


def without_own_pictures(paths: Iterable[str], folder: Path) -> Iterator[str]:
    """Give inputs without the pictures that `wisesr explain` wrote into `folder`, where it lies among the images."""
    for path in paths:
        if not _is_of_folder(path, folder):
            yield path


def _is_of_folder(path: str, folder: Path) -> bool:
    name = os.path.basename(path)  # noqa: PTH119  (of what was typed: a Path would drop a last dot)
    if not any(fnmatchcase(name, pattern) for pattern in (*EXPLAINED_PATTERNS, WEIGHTS_PICTURE)):
        return False
    try:
        return Path(path).parent.samefile(folder) and _is_own(Path(path))
    except (OSError, ValueError):  # one is not there, cannot be read, or its name cannot be
        return False


def _is_own(path: Path) -> bool:
    if path.is_symlink() or not path.is_file():
        return False
    with path.open("rb") as file:
        return _OWN_MARK in file.read(_MARK_WITHIN)
