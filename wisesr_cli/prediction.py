"""Labels images: finds the inputs, streams them through an engine, one record each, in order, in constant memory."""

from __future__ import annotations

import glob
import os
import select
import sys
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from hashlib import blake2b
from itertools import chain, islice
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.engines import Engine
from wisesr_cli.errors import DataError
from wisesr_cli.folders import HIDDEN, is_hidden
from wisesr_cli.images import PIXEL_LIMIT, SUFFIXES
from wisesr_cli.metrics import softmax
from wisesr_cli.oddities import Oddities
from wisesr_cli.ordering import RUN, in_order
from wisesr_cli.parallel import always
from wisesr_cli.pipeline import Decoded, decode_in_order
from wisesr_cli.results import Prediction, ScoredLabel
from wisesr_cli.shards import NO_INPUT
from wisesr_cli.text import visible

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


def predict_paths(
    engine: Engine,
    paths: Iterable[str],
    *,
    top_k: int = 5,
    min_score: float = 0.0,
    batch_size: int = 32,
    pixel_limit: int = PIXEL_LIMIT,
    oddities: Oddities | None = None,
    ready: Callable[[], bool] = always,
    first: int = 0,
) -> Generator[Prediction, None, None]:
    """Give a record per path, in order; only a few batches are in memory at any time.

    Args:
        engine: the loaded model.
        paths: image files.
        top_k: how many labels a record lists.
        min_score: below it a record keeps its `top`, but its label is None.
        batch_size: images per call of the engine; does not change the scores.
        pixel_limit: width times height above which an image is not decoded.
        oddities: counts what is odd about images that can be read.
        ready: whether the next path is there without waiting; where it is not, what is there is labelled first.
        first: the number of the first path among all that are labelled, those of an earlier process included.
    """
    oddities = oddities or Oddities()
    batches = decode_in_order(
        paths,
        image_size=engine.info.image_size,
        resize=engine.info.resize,
        batch_size=batch_size,
        pixel_limit=pixel_limit,
        ready=ready,
    )
    with closing(batches), closing(_labelled(engine, batches, batch_size, first, ready)) as labelled:
        for decoded, row in labelled:
            if decoded.header is not None:
                oddities.add(decoded.path, decoded.header)
            yield _record(decoded, row, engine.info.class_names, top_k, min_score)


Labelled = tuple[Decoded, NDArray[np.float64] | None]


def _labelled(
    engine: Engine, batches: Iterator[list[Decoded]], batch_size: int, first: int, ready: Callable[[], bool]
) -> Generator[Labelled, None, None]:
    """Give every input with its probabilities, in order. While the engine computes a batch, the next is decoded.

    Where the next one is yet to come, nothing waits for it.
    """
    computing: deque[tuple[list[Decoded], Future[Sequence[NDArray[np.float64] | None]]]] = deque()

    def finished() -> Iterator[Labelled]:
        while computing:
            batch, probabilities = computing.popleft()
            yield from zip(batch, probabilities.result(), strict=True)

    with ThreadPoolExecutor(1, thread_name_prefix="engine") as executor:
        while True:
            try:
                batch = next(batches, None) if not computing or ready() else []
            except Exception:
                yield from finished()  # what came before the mistake is worth as much as ever
                raise
            yield from finished()
            if batch is None:
                return
            if batch:
                computing.append((batch, executor.submit(_probabilities, engine, batch, first, batch_size)))
                first += len(batch)


def _probabilities(
    engine: Engine, batch: Sequence[Decoded], first: int, batch_size: int
) -> Sequence[NDArray[np.float64] | None]:
    """Return the probabilities of every class for every input, None for those that could not be read."""
    readable = [position for position, decoded in enumerate(batch) if decoded.pixels is not None]
    found: list[NDArray[np.float64] | None] = [None] * len(batch)
    if not readable:
        return found
    pixels = np.stack([decoded.pixels for decoded in batch if decoded.pixels is not None])
    if engine.full_batches:
        logits = _in_full_batch(engine, pixels, [(first + position) % batch_size for position in readable], batch_size)
    else:
        logits = engine.logits(pixels)
    if not np.isfinite(logits).all():
        raise DataError(
            "the model's logits are not finite: no label is defined; train again with a lower learning rate, or in "
            "float32"
        )
    for position, row in zip(readable, softmax(logits), strict=True):
        found[position] = row
    return found


def _in_full_batch(engine: Engine, pixels: NDArray[np.uint8], rows: list[int], batch_size: int) -> NDArray[np.float32]:
    """Return the logits of images, computed in a whole batch, so that nothing is compiled twice.

    An image is always in the row that its number gives: whatever was unreadable, slow or labelled by an earlier
    process, no score changes by a single bit.
    """
    whole = np.zeros((batch_size, *pixels.shape[1:]), np.uint8)
    whole[rows] = pixels
    return engine.logits(whole)[rows]


def _record(
    decoded: Decoded, probabilities: NDArray[np.float64] | None, names: Sequence[str], top_k: int, min_score: float
) -> Prediction:
    if probabilities is None:
        return Prediction(decoded.path, None, None, (), decoded.error)
    top = _top(probabilities, names, top_k)
    label = top[0].label if top[0].score >= min_score else None
    return Prediction(decoded.path, label, top[0].score, top)


def _top(probabilities: NDArray[np.float64], names: Sequence[str], top_k: int) -> tuple[ScoredLabel, ...]:
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(ScoredLabel(names[index], float(probabilities[index])) for index in best)
