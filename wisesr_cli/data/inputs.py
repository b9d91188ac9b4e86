"""Finds the inputs of `predict` and `explain`: files, folders, globs, lists of paths; in order, as they come."""

from __future__ import annotations

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

from wisesr_cli.data.folders import HIDDEN, is_hidden
from wisesr_cli.data.oddities import Oddities
from wisesr_cli.data.shards import NO_INPUT, Shard, ShardInputs
from wisesr_cli.errors import DataError
from wisesr_cli.images.decoding import SUFFIXES
from wisesr_cli.text import visible

RUN = 4096  # names that are held as they are


def in_order(names: Iterable[str]) -> Iterator[str]:
    """Give names sorted as `sorted` does; all of them are read before this returns, and kept in packed runs.

    A name takes a few bytes so, where a Python string takes fifty and its characters. None may hold NUL.
    """
    rest = iter(names)
    runs = []
    while run := sorted(islice(rest, RUN)):
        runs.append(zlib.compress("\0".join(run).encode("utf-8", "surrogatepass"), 1))
    return heapq.merge(*map(_unpacked, runs))


def _unpacked(run: bytes) -> Iterator[str]:
    """Give the names of a run one by one: merging begins all runs at once."""
    decompressor = zlib.decompressobj()
    rest = b""
    while not decompressor.eof:
        *whole, rest = (rest + decompressor.decompress(run, 512)).split(b"\0")
        run = decompressor.unconsumed_tail
        for name in whole:
            yield name.decode("utf-8", "surrogatepass")
    yield rest.decode("utf-8", "surrogatepass")


BLOCK_BYTES = 65536  # that a list of paths is read in
LONGEST_PATH = 65536  # bytes; the longest that a system opens are 4,096


class _ListBegins:
    """Stands among the paths where those of a list begin, which may be yet to come."""


class Inputs(Iterator[str]):
    """The paths of the images that are meant, in order, as typed; see `find_inputs`."""

    def __init__(
        self, arguments: Iterable[str], from_file: str | None, null_separated: bool, ignored: Counter[str]
    ) -> None:
        self._separator = b"\0" if null_separated else b"\n"
        self._list: PathList | None = None
        lists = () if from_file is None else (self._read_file(from_file),)
        typed = (self._read_standard_input() if name == "-" else _expand(name, ignored) for name in arguments)
        self._paths: Iterator[str | _ListBegins] = chain.from_iterable(chain(typed, lists))
        self._ahead: deque[str] = deque()  # at most one path, which `ready` came upon

    def __next__(self) -> str:
        """Return the next path."""
        while not self._ahead:
            self._take(next(self._paths))
        return self._ahead.popleft()

    def ready(self) -> bool:
        """Return whether the next path, or the end, is there without waiting for whoever writes the list.

        Raises:
            DataError: see `find_inputs`.
        """
        if self._ahead:
            return True
        if self._list is not None and not self._list.ready():
            return False
        for found in islice(self._paths, 1):
            self._take(found)
            if not self._ahead:  # a list begins
                return self._list is not None and self._list.ready()
        return True

    def _take(self, found: str | _ListBegins) -> None:
        if isinstance(found, str):
            self._ahead.append(found)

    def _read_standard_input(self) -> Iterator[str | _ListBegins]:
        if sys.stdin is None:
            raise DataError("standard input: cannot be read: it is closed")
        return self._read("standard input", sys.stdin.buffer)

    def _read_file(self, path: str) -> Iterator[str | _ListBegins]:
        if not Path(path).is_file():
            yield _ListBegins()  # opening a named pipe waits for whoever writes it
        with _reading(visible(path)), Path(path).open("rb") as file:
            yield from self._read(visible(path), file)

    def _read(self, name: str, file: BinaryIO) -> Iterator[str | _ListBegins]:
        self._list = PathList(name, file, self._separator)
        yield _ListBegins()
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
    """Give the paths of the images that are meant, in order, as typed.

    Args:
        inputs: files, folders (their images, recursive and sorted), globs, and `-` for paths on standard input.
        from_file: a file with a path per line.
        null_separated: paths that are read end in NUL instead of a line feed.
        ignored: counts the files of folders that are passed over, by suffix, or as `folders.HIDDEN`.

    Raises:
        DataError: an input is no file, no folder and matches nothing, or a list cannot be read.
    """
    return Inputs(inputs, from_file, null_separated, Counter() if ignored is None else ignored)


@dataclass(frozen=True)
class WantedInputs:
    """Which images are meant: `inputs` and `from_file` are those of `find_inputs`.

    `shard`: which of them; None is all.
    """

    inputs: tuple[str, ...]
    from_file: str | None = None
    null_separated: bool = False
    shard: Shard | None = None

    def find(self, oddities: Oddities | None = None) -> Inputs | ShardInputs:
        """Return the inputs; what was passed over is counted among the oddities."""
        ignored = None if oddities is None else oddities.ignored
        found = find_inputs(self.inputs, from_file=self.from_file, null_separated=self.null_separated, ignored=ignored)
        return found if self.shard is None else ShardInputs(found, found.ready, self.shard)

    @property
    def is_read_once(self) -> bool:
        """Whether the inputs come through a pipe, and cannot be counted beforehand."""
        return "-" in self.inputs or (self.from_file is not None and not Path(self.from_file).is_file())


def not_empty(paths: Iterable[str]) -> Iterator[str]:
    """Return the same paths, having made sure that there is a first one.

    Raises:
        DataError: there is none.
    """
    iterator = iter(paths)
    first = next(iterator, None)
    if first is None:
        raise DataError(NO_INPUT)
    return chain((first,), iterator)


def _expand(argument: str, ignored: Counter[str]) -> Iterator[str]:
    if argument and Path(argument).is_dir():
        yield from _images_below(argument, ignored)
    elif os.path.lexists(argument) or not glob.has_magic(argument):
        yield argument  # a file that is named is always tried; a missing one gets a record that says so
    else:
        yield from _matches(argument, ignored)


def _matches(pattern: str, ignored: Counter[str]) -> Iterator[str]:
    """Give what a pattern matches, sorted, and for folders the images in them."""
    matches = in_order(glob.iglob(pattern, recursive=True))  # noqa: PTH207  (paths stay as they were typed)
    first = next(matches, None)
    if first is None:
        raise DataError(f"{visible(pattern)}: matches no file")
    images = (_images_below(match, ignored) if Path(match).is_dir() else (match,) for match in chain((first,), matches))
    paths = chain.from_iterable(images)
    # `photos/**` matches a folder and what is in it, and goes through links that lead back.
    return _each_file_once(paths) if "**" in pattern else paths


def _each_file_once(paths: Iterable[str]) -> Iterator[str]:
    given = _Hashes()
    for path in paths:
        digest = blake2b(os.fsencode(os.path.realpath(path)), digest_size=8).digest()
        if given.add(int.from_bytes(digest)):
            yield path


class _Hashes:
    """Hashes of 64 bits that were met, eight bytes each: a set of as many names takes twenty times as much."""

    def __init__(self) -> None:
        self._known = np.zeros(0, np.uint64)  # sorted
        self._recent: set[int] = set()

    def add(self, digest: int) -> bool:
        """Keep a hash, and return whether it is new."""
        position = int(np.searchsorted(self._known, np.uint64(digest)))
        is_known = position < len(self._known) and int(self._known[position]) == digest
        if is_known or digest in self._recent:
            return False
        self._recent.add(digest)
        if len(self._recent) == RUN:
            self._known = np.union1d(self._known, np.fromiter(self._recent, np.uint64))
            self._recent = set()
        return True


def _images_below(folder: str, ignored: Counter[str]) -> Iterator[str]:
    """Give the images of a folder and, after them, of its folders; hidden ones are passed over, links not followed."""
    waiting = [folder]
    while waiting:
        folder = waiting.pop()
        folders: list[str] = []
        images = in_order(_list_folder(folder, folders, ignored))
        yield from (os.path.join(folder, name) for name in images)  # noqa: PTH118  (paths stay as they were typed)
        waiting += [os.path.join(folder, name) for name in sorted(folders, reverse=True)]  # noqa: PTH118


def _list_folder(folder: str, folders: list[str], ignored: Counter[str]) -> Iterator[str]:
    """Give the names of the images in a folder, and add those of the folders in it to `folders`."""
    with _reading(visible(folder)), os.scandir(folder) as entries:
        for entry in entries:
            suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122  (pathlib would intern every name)
            if is_hidden(entry.name):
                ignored[HIDDEN] += 1
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif suffix in SUFFIXES:
                yield entry.name
            else:
                ignored[suffix] += 1


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Let an error of the system in the block be one of what is read there."""
    try:
        yield
    except OSError as error:
        raise DataError(f"{name}: cannot be read: {error.strerror or error}") from None


class PathList(Iterable[str]):
    """The paths in a file or a pipe, read as they come.

    Args:
        name: what it is called in an error.
        file: where they are read from.
        separator: what stands behind each of them.
    """

    def __init__(self, name: str, file: BinaryIO, separator: bytes) -> None:
        self.name, self.file, self.separator = name, file, separator
        self._lines: deque[bytes] = deque()

    def __iter__(self) -> Iterator[str]:
        """Give the paths; empty lines are none."""
        rest = b""
        while block := self._read():
            *lines, rest = (rest + block).split(self.separator)
            if len(rest) > LONGEST_PATH:
                raise DataError(f"{self.name}: holds a line that is no path; paths that end in NUL need --null")
            self._lines.extend(lines)
            while self._lines:
                yield from self._path(self._lines.popleft())
        yield from self._path(rest)

    def ready(self) -> bool:
        """Return whether the next path, or the end, is there without waiting."""
        return bool(self._lines) or self._wait(0)

    def _read(self) -> bytes:
        """Return what is there, without waiting for a whole block; nothing at the end."""
        self._wait(None)
        block: bytes = self.file.read1(BLOCK_BYTES)  # type: ignore[attr-defined]
        return block

    def _wait(self, seconds: float | None) -> bool:
        """Wait until something can be read; return whether it can."""
        try:
            return bool(select.select([self.file], [], [], seconds)[0])
        except (OSError, ValueError):  # no file of the system, or one that cannot be asked
            return True

    def _path(self, line: bytes) -> Iterator[str]:
        if self.separator == b"\n":
            line = line.removesuffix(b"\r")
        if line:
            yield os.fsdecode(line)
