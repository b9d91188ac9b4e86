"""Finds the inputs of `predict` and `explain`: files, folders, globs and lists of paths, in order, as a stream."""

from __future__ import annotations

import codecs
import glob
import heapq
import os
import select
import sys
import zlib
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np

from wisesr_cli.data.listing.folders import HIDDEN, LINKED_FOLDER, is_folder, is_hidden, links_inside
from wisesr_cli.data.oddities import Oddities
from wisesr_cli.data.shards import NO_INPUT, Shard, ShardInputs
from wisesr_cli.errors import DataError
from wisesr_cli.images.supported import SUFFIXES
from wisesr_cli.text import visible

RUN = 4096  # names held uncompressed
_WINDOW = 10  # bits; every run is read at once and needs a window of memory


def sorted_names(names: Iterable[str]) -> Iterator[str]:
    """Return names in the order of `sorted`, reading all of them into compressed runs; none may contain NUL.

    A name then takes a few bytes, where a Python string takes fifty plus its characters.
    """
    rest = iter(names)
    runs = []
    while run := sorted(islice(rest, RUN)):
        runs.append(zlib.compress("\0".join(run).encode("utf-8", "surrogatepass"), 1, _WINDOW))
    return heapq.merge(*map(_unpacked, runs))


def _unpacked(run: bytes) -> Iterator[str]:
    """Yield the names of a run one by one, because merging opens all runs at once."""
    decompressor = zlib.decompressobj(_WINDOW)
    rest = b""
    while not decompressor.eof:
        *whole, rest = (rest + decompressor.decompress(run, 512)).split(b"\0")
        run = decompressor.unconsumed_tail
        for name in whole:
            yield name.decode("utf-8", "surrogatepass")
    yield rest.decode("utf-8", "surrogatepass")


BLOCK_BYTES = 65536  # read at a time from a list of paths
LONGEST_PATH = 65536  # bytes; operating systems open at most 4,096


class _ListStart:
    """Marks the start of a list among the paths; the list may not have been written yet."""


class Inputs(Iterator[str]):
    """The paths of the input images, in order, as typed; see `find_inputs`."""

    def __init__(
        self, arguments: Iterable[str], from_file: str | None, null_separated: bool, ignored: Counter[str]
    ) -> None:
        self._separator = b"\0" if null_separated else b"\n"
        self._list: PathList | None = None
        lists = () if from_file is None else (self._read_file(from_file),)
        typed = (self._read_standard_input() if name == "-" else _expand(name, ignored) for name in arguments)
        self._paths: Iterator[str | _ListStart] = chain.from_iterable(chain(typed, lists))
        self._ahead: deque[str] = deque()  # at most one path, read by `ready`

    def __next__(self) -> str:
        """Return the next path."""
        while not self._ahead:
            self._take(next(self._paths))
        return self._ahead.popleft()

    def ready(self) -> bool:
        """Return whether the next path, or the end, is available without waiting for the writer of the list.

        Raises `DataError` as `find_inputs` does.
        """
        if self._ahead:
            return True
        if self._list is not None and not self._list.ready():
            return False
        for found in islice(self._paths, 1):
            self._take(found)
            if not self._ahead:  # at the start of a list
                return self._list is not None and self._list.ready()
        return True

    def _take(self, found: str | _ListStart) -> None:
        if isinstance(found, str):
            self._ahead.append(found)

    def _read_standard_input(self) -> Iterator[str | _ListStart]:
        if sys.stdin is None:
            raise DataError("standard input: cannot be read: it is closed")
        return self._read("standard input", sys.stdin.buffer)

    def _read_file(self, path: str) -> Iterator[str | _ListStart]:
        if not Path(path).is_file():
            yield _ListStart()  # opening a named pipe waits for its writer
        with _reading(visible(path)), Path(path).open("rb") as file:
            yield from self._read(visible(path), file)

    def _read(self, name: str, file: BinaryIO) -> Iterator[str | _ListStart]:
        self._list = PathList(name, file, self._separator)
        yield _ListStart()
        with _reading(name):
            yield from self._list
        self._list = None


def find_inputs(
    inputs: Iterable[str],
    *,
    from_file: str | None = None,
    null_separated: bool = False,
    ignored: Counter[str] | None = None,
) -> Inputs:
    """Return the paths of the input images, in order, as typed.

    `inputs` are files, folders (their images, recursive and sorted), globs, and `-` for paths on standard input;
    `from_file` is a file with a path per line. `null_separated` lists end paths in NUL instead of a line feed.
    `ignored` counts the skipped files of folders, by suffix or as `folders.HIDDEN`.

    Iteration raises `DataError` when a pattern matches nothing or a list cannot be read.
    """
    return Inputs(inputs, from_file, null_separated, Counter() if ignored is None else ignored)


@dataclass(frozen=True)
class WantedInputs:
    """The arguments of `find_inputs`, and the shard of its paths to use (None: all)."""

    inputs: tuple[str, ...]
    from_file: str | None = None
    null_separated: bool = False
    shard: Shard | None = None

    def find(self, oddities: Oddities | None = None) -> Inputs | ShardInputs:
        """Return the inputs, counting skipped files in `oddities`."""
        ignored = None if oddities is None else oddities.ignored
        found = find_inputs(self.inputs, from_file=self.from_file, null_separated=self.null_separated, ignored=ignored)
        return found if self.shard is None else ShardInputs(found, found.ready, self.shard)

    @property
    def is_read_once(self) -> bool:
        """Whether the inputs come through a pipe, so that they cannot be counted beforehand."""
        return "-" in self.inputs or (self.from_file is not None and not Path(self.from_file).is_file())


def not_empty(paths: Iterable[str]) -> Iterator[str]:
    """Return the same paths; raises `DataError` if there are none."""
    iterator = iter(paths)
    first = next(iterator, None)
    if first is None:
        raise DataError(NO_INPUT)
    return chain((first,), iterator)


def _expand(argument: str, ignored: Counter[str]) -> Iterator[str]:
    if argument and Path(argument).is_dir():
        yield from _images_below(argument, ignored)
    elif os.path.lexists(argument) or not glob.has_magic(argument):
        yield argument  # a named file is always tried; a missing one gets a record with the error
    else:
        yield from _matches(argument, ignored)


def _matches(pattern: str, ignored: Counter[str]) -> Iterator[str]:
    """Yield the sorted matches of a pattern; for a folder, the images in it."""
    matches = sorted_names(glob.iglob(_literal_start(pattern), recursive=True))  # noqa: PTH207  (paths stay as typed)
    first = next(matches, None)
    if first is None:
        raise DataError(f"{visible(pattern)}: matches no file")
    images = (_images_below(match, ignored) if Path(match).is_dir() else (match,) for match in chain((first,), matches))
    paths = chain.from_iterable(images)
    # `photos/**` matches a folder and its content, and follows links to parent folders.
    return _each_file_once(paths) if "**" in pattern else paths


def _literal_start(pattern: str) -> str:
    """Escape the leading folders of a pattern that exist, so that a name like `photos [1]` is taken literally."""
    for end in range(len(pattern) - 1, 0, -1):
        if pattern[end] == os.sep and Path(pattern[:end]).is_dir():
            return glob.escape(pattern[:end]) + pattern[end:]
    return pattern


def _each_file_once(paths: Iterable[str]) -> Iterator[str]:
    given = _Hashes()
    for path in paths:
        digest = blake2b(os.fsencode(os.path.realpath(path)), digest_size=8).digest()
        if given.add(int.from_bytes(digest)):
            yield path


class _Hashes:
    """A set of 64-bit hashes at eight bytes each: a set of the names takes twenty times as much memory."""

    def __init__(self) -> None:
        self._known = np.zeros(0, np.uint64)  # sorted
        self._recent: set[int] = set()

    def add(self, digest: int) -> bool:
        """Add a hash; return whether it is new."""
        position = int(np.searchsorted(self._known, np.uint64(digest)))
        is_known = position < len(self._known) and int(self._known[position]) == digest
        if is_known or digest in self._recent:
            return False
        self._recent.add(digest)
        if len(self._recent) == RUN:
            added = np.sort(np.fromiter(self._recent, np.uint64))
            self._known = np.insert(self._known, np.searchsorted(self._known, added), added)  # `union1d`: three copies
            self._recent = set()
        return True


def _images_below(folder: str, ignored: Counter[str]) -> Iterator[str]:
    """Yield the images of a folder, then of its subfolders; hidden ones are skipped.

    Links to other folders are followed, each folder once, as in training. An unreadable subfolder is yielded itself.
    Raises `DataError` if `folder` cannot be read.
    """
    pending, is_given = [folder], True
    links = _Links(os.path.realpath(folder))
    while pending:
        folder = pending.pop()
        folders: list[str] = []
        linked: list[str] = []
        try:
            images = sorted_names(_list_folder(folder, folders, linked, ignored))
        except OSError as error:
            if is_given:
                raise DataError(f"{visible(folder)}: cannot be read: {error.strerror or error}") from None
            yield folder  # its record says so
            continue
        finally:
            is_given = False
        yield from (os.path.join(folder, name) for name in images)  # noqa: PTH118  (paths stay as they were typed)
        followed = [name for name in sorted(linked) if links.follow(os.path.join(folder, name))]  # noqa: PTH118
        if len(followed) < len(linked):
            ignored[LINKED_FOLDER] += len(linked) - len(followed)
        pending += [os.path.join(folder, name) for name in sorted([*folders, *followed], reverse=True)]  # noqa: PTH118


class _Links:
    """Decides which links to folders to follow: not those to a folder that is listed anyway."""

    def __init__(self, inside: str) -> None:
        self._inside = inside
        self._followed: set[str] = set()

    def follow(self, path: str) -> bool:
        """Return whether to follow a link, and remember its target."""
        target = os.path.realpath(path)
        if target in self._followed or links_inside(path, self._inside):
            return False
        self._followed.add(target)
        return True


def _list_folder(folder: str, folders: list[str], linked: list[str], ignored: Counter[str]) -> Iterator[str]:
    """Yield the names of the images in a folder; add the names of subfolders to `folders`, of links to `linked`."""
    with os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  (pathlib would intern every name)
            if is_hidden(entry.name):
                ignored[HIDDEN] += 1
            elif is_folder(entry):
                (linked if entry.is_symlink() else folders).append(entry.name)
            elif suffix in SUFFIXES:
                yield entry.name
            else:
                ignored[suffix] += 1


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn an `OSError` in the block into a `DataError` that names what is read."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None


class PathList(Iterable[str]):
    """The paths in a file or pipe, read as they arrive; each ends in `separator`. `name` is for errors."""

    def __init__(self, name: str, file: BinaryIO, separator: bytes) -> None:
        self.name, self.file, self.separator = name, file, separator
        self._lines: deque[bytes] = deque()

    def __iter__(self) -> Iterator[str]:
        """Yield the paths; empty lines are skipped."""
        rest = b""
        is_start = self.separator == b"\n"
        while block := self._read():
            if is_start:
                rest = rest + block
                if codecs.BOM_UTF8.startswith(rest):  # the rest of it may follow
                    continue
                block, rest, is_start = self._text(rest), b"", False
            *lines, rest = (rest + block).split(self.separator)
            if len(rest) > LONGEST_PATH:
                raise DataError(f"{self.name}: holds a line that is not a path; paths that end in NUL need --null")
            self._lines.extend(lines)
            while self._lines:
                yield from self._path(self._lines.popleft())
        yield from self._path(self._text(rest) if is_start else rest)

    def _text(self, start: bytes) -> bytes:
        """Return the start of a list without the UTF-8 byte-order mark; `DataError` for UTF-16."""
        if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise DataError(f"{self.name}: in UTF-16; convert it to UTF-8: iconv -f UTF-16 -t UTF-8")
        return start.removeprefix(codecs.BOM_UTF8)

    def ready(self) -> bool:
        """Return whether the next path, or the end, is available without waiting."""
        return bool(self._lines) or self._wait(0)

    def _read(self) -> bytes:
        """Return the available bytes without waiting for a whole block; empty at the end."""
        self._wait(None)
        block: bytes = self.file.read1(BLOCK_BYTES)  # type: ignore[attr-defined]
        return block

    def _wait(self, seconds: float | None) -> bool:
        """Wait until the file is readable; return whether it is."""
        try:
            return bool(select.select([self.file], [], [], seconds)[0])
        except (OSError, ValueError):  # not a file of the operating system, or one that `select` does not support
            return True

    def _path(self, line: bytes) -> Iterator[str]:
        if self.separator == b"\n":
            line = line.removesuffix(b"\r")
        if line:
            yield os.fsdecode(line)
