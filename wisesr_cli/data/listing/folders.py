"""Lists image folders: finds classes by folder, and images by file suffix.

Names are sorted by code point (so 0, 1, 10, 11, 2: the order of Keras), and keep Python's surrogate escapes for bytes
that are not UTF-8. Nothing here opens an image.
"""

# A million files may be listed; creating a Path for each costs more than listing it.
# ruff: noqa: PTH113, PTH116, PTH118, PTH122
from __future__ import annotations

import operator
import os
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from wisesr_cli import text
from wisesr_cli.data.listing.stamps import Stamps
from wisesr_cli.images.supported import SUFFIXES, SUPPORTED
from wisesr_cli.machine.installation import install_line
from wisesr_cli.model_files.info import WRITTEN


@dataclass(frozen=True)
class Problem:
    """A reason why a folder cannot be used; `code` is the code of the finding in `wisesr check`."""

    code: str
    message: str
    paths: tuple[str, ...] = ()


@dataclass
class Listing:
    """The image files of one split, class by class, and everything that was skipped."""

    folder: str  # of the split, or the file of a manifest
    class_names: tuple[str, ...] = ()
    paths: list[str] = field(default_factory=list)  # absolute
    labels: list[int] = field(default_factory=list)  # positions in class_names
    label_sets: list[tuple[int, ...]] | None = None  # replaces labels if a manifest gives several per image
    stamps: Stamps = field(default_factory=Stamps)
    problems: list[Problem] = field(default_factory=list)
    empty: list[Problem] = field(default_factory=list)  # classes without image files
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # path, reason
    ignored: Counter[str] = field(default_factory=Counter)  # suffix, or HIDDEN, or LINKED -> files
    nested: int = 0  # files in folders below a class folder
    groups: list[str] | None = None  # of each file, if a manifest names them
    weights: list[float] | None = None  # likewise


HIDDEN = "hidden or system"
LINKED = "linked twice"
LINKED_FOLDER = "folder linked twice"
OUTSIDE = "outside the class folders"


def list_split(folder: str) -> Listing:
    """Return the image files of a folder of class folders, with `problems` and `unreadable` files."""
    listing = Listing(folder)
    classes = []
    inside = os.path.realpath(folder)
    for entry in sorted_entries(folder):
        if is_hidden(entry.name):
            listing.ignored[HIDDEN] += 1
        elif not is_folder(entry):
            suffix = os.path.splitext(entry.name)[1].lower()
            if _status(entry, listing) is not None:  # a broken link may have been a class, and is reported
                listing.ignored[OUTSIDE if suffix in SUFFIXES else suffix] += 1
        elif entry.is_symlink() and links_inside(entry.path, inside):
            listing.ignored[LINKED_FOLDER] += 1
        else:
            classes.append(entry)
    listing.class_names = tuple(entry.name for entry in classes)
    listing.problems.extend(similar_names(listing.class_names))
    for label, entry in enumerate(classes):
        _list_class(listing, label, entry.path, inside)
    return listing


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is hidden, or belongs to an operating system or an archive program."""
    return name.startswith(".") or name.casefold() in _SYSTEM_NAMES


def spelling(name: str) -> str:
    """Return a name in composed Unicode (NFC), because file systems and archives spell the same letters in two ways."""
    return unicodedata.normalize("NFC", name)


def ignored_message(ignored: Counter[str]) -> str:
    """Return `3 files ignored: 2 .txt, 1 hidden or system`, or an empty string."""
    files = Counter({kind: count for kind, count in ignored.items() if kind != LINKED_FOLDER})
    kinds = ", ".join(f"{count:,} {text.visible(kind or 'without suffix')}" for kind, count in files.most_common(8))
    more = ", ..." if len(files) > 8 else ""
    parts = [f"{text.counted(sum(files.values()), 'file')} ignored: {kinds}{more}"] if files else []
    if any(kind in SUPPORTED["HEIF"] for kind in files):
        parts.append(f"to read HEIC: {install_line('heic')}")
    if folders := ignored[LINKED_FOLDER]:
        links = "a folder is a link" if folders == 1 else f"{folders:,} folders are links"
        parts.append(f"{links} to one already read, and skipped with all its images")
    return "; ".join(parts)


def _list_class(listing: Listing, label: int, folder: str, inside: str) -> None:
    before = len(listing.paths), sum(listing.ignored.values())
    seen_files: set[tuple[int, int]] = set()
    problem = ""
    try:
        for entry, status, depth in _walk(folder, inside, listing):
            suffix = _suffix(entry.name)
            if suffix not in SUFFIXES:
                listing.ignored[suffix] += 1
                continue
            place = status.st_dev, status.st_ino
            if place in seen_files:
                listing.ignored[LINKED] += 1
                continue
            seen_files.add(place)
            listing.paths.append(entry.path)
            listing.labels.append(label)
            listing.stamps.add(status)
            listing.nested += depth > 0
    except _RunFoundError as found:
        problem = "a run of wisesr is in it, not images of a class; move the run out of the data"
        folder = str(found)
    except OSError as error:
        problem = (error.strerror or "cannot be read").lower()
    problems = listing.problems
    if len(listing.paths) == before[0] and not problem:
        skipped = sum(listing.ignored.values()) - before[1]
        problem = f"no images ({text.counted(skipped, 'other file')})" if skipped else "an empty folder"
        problems = listing.empty
    if problem:
        name = listing.class_names[label]
        message = f"class '{text.visible(name)}': {problem}: {text.visible(folder)}"
        problems.append(Problem("class-folder", message, (folder,)))


def _suffix(name: str) -> str:
    """Return the suffix as `os.path.splitext` does, for a name that does not start with a dot, three times faster."""
    position = name.rfind(".")
    return name[position:].lower() if position > 0 else ""


class _RunFoundError(Exception):
    """There is a run in a class folder; the message is its path."""


def _walk(folder: str, inside: str, listing: Listing) -> Iterator[tuple[os.DirEntry[str], os.stat_result, int]]:
    """Yield the files below a class folder, regular ones before links; raises `OSError` for `folder` itself."""
    seen_folders = set()
    pending = [(folder, 0)]
    links: list[tuple[os.DirEntry[str], os.stat_result, int]] = []
    while pending:
        current, depth = pending.pop()
        try:
            status = os.stat(current)
            entries = sorted_entries(current)
        except OSError as error:
            if depth == 0:
                raise
            listing.unreadable.append((current, (error.strerror or "cannot be read").lower()))
            continue
        if (status.st_dev, status.st_ino) in seen_folders:
            continue
        seen_folders.add((status.st_dev, status.st_ino))
        subfolders = []
        for entry in entries:
            name = entry.name
            if name[0] == "." or name.casefold() in _SYSTEM_NAMES:  # `is_hidden`, without the call
                if name == WRITTEN:
                    raise _RunFoundError(current)
                listing.ignored[HIDDEN] += 1
                continue
            found = _status(entry, listing)
            if found is None:
                continue
            if entry.is_dir():
                if entry.is_symlink() and links_inside(entry.path, inside):
                    listing.ignored[LINKED_FOLDER] += 1
                else:
                    subfolders.append((entry.path, depth + 1))
            elif entry.is_symlink():
                links.append((entry, found, depth))
            else:
                yield entry, found, depth
        pending.extend(reversed(subfolders))
    yield from links


def _status(entry: os.DirEntry[str], listing: Listing) -> os.stat_result | None:
    try:
        return entry.stat()
    except OSError as error:
        if not entry.is_symlink():
            reason = (error.strerror or "cannot be read").lower()
        elif isinstance(error, FileNotFoundError):
            reason = "a broken link"
        else:
            reason = "a symbolic link that points to itself"
        listing.unreadable.append((entry.path, reason))
        return None


def links_inside(path: str, inside: str) -> bool:
    """Return whether a linked folder is inside the listed folder, or contains it."""
    target = os.path.realpath(path)
    return target == inside or target.startswith(inside + os.sep) or inside.startswith(target.rstrip(os.sep) + os.sep)


def similar_names(names: tuple[str, ...]) -> Iterator[Problem]:
    """Yield a problem for classes with names that are hard to tell apart."""
    groups: dict[str, list[str]] = {}
    for name in names:
        folded = spelling(spelling(name).casefold()).strip(" ")
        groups.setdefault(folded, []).append(name)
    for group in groups.values():
        if len(group) > 1:
            shown = " and ".join(f"'{text.visible(name)}' ({name!a})" for name in group)
            what = "in case, in leading or trailing spaces or in how Unicode spells them"
            yield Problem("class-names", f"class names that differ only {what}: {shown}")


def subfolders(path: str, *, inside: str | None = None) -> list[str]:
    """Return the names of the subfolders of a folder, without hidden and system ones; none if it cannot be read.

    Links to a folder within `inside`, or to one that contains it, are left out.
    """
    try:
        entries = sorted_entries(path)
    except OSError:
        return []
    return [
        entry.name
        for entry in entries
        if is_folder(entry)
        and not is_hidden(entry.name)
        and not (inside is not None and entry.is_symlink() and links_inside(entry.path, inside))
    ]


def has_images(path: str) -> bool:
    """Return whether a folder directly contains an image; stops listing at the first one."""
    try:
        with os.scandir(path) as entries:
            names = (entry.name for entry in entries if not is_folder(entry))
            return any(_suffix(name) in SUFFIXES and not is_hidden(name) for name in names)
    except OSError:
        return False


def is_run_folder(path: str) -> bool:
    """Return whether a folder is a run of wisesr, by its record of written files."""
    return os.path.isfile(os.path.join(path, WRITTEN))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def sorted_entries(path: str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder, sorted by name; raises `OSError`."""
    with os.scandir(path) as entries:
        return sorted(entries, key=operator.attrgetter("name"))


# Created by operating systems, archive programs, volumes and network shares.
_SYSTEM_NAMES = frozenset(
    {
        "__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "recycler", "recycled",
        "system volume information", "found.000", "lost+found", "lost.dir", "@eadir", "@recycle", "@recently-snapshot",
        "@tmp", "#recycle", "#snapshot", "aquota.user", "aquota.group",
    }
)  # fmt: skip
