"""Labels images: finds the inputs, streams them through an engine, one record each, in order, in constant memory."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from itertools import chain
from pathlib import Path, PurePath
from typing import IO

import numpy as np

from wisesr_cli.engines import Engine, padded_logits
from wisesr_cli.errors import DataError
from wisesr_cli.images import SUFFIXES
from wisesr_cli.metrics import softmax
from wisesr_cli.pipeline import Decoded, decode_in_order
from wisesr_cli.results import Prediction, ScoredLabel
from wisesr_cli.text import visible


def find_inputs(inputs: Iterable[str], *, from_file: str | None = None, null_separated: bool = False) -> Iterator[str]:
    """Give the paths of the images that are meant, in order, as typed.

    Args:
        inputs: files, folders (their images, recursive and sorted), globs, and `-` for paths on standard input.
        from_file: a file with a path per line.
        null_separated: paths that are read end in NUL instead of a line feed.

    Raises:
        DataError: an input is no file, no folder and matches nothing.
    """
    for argument in inputs:
        if argument == "-":
            yield from _read_paths(sys.stdin.buffer, null_separated)
        else:
            yield from _expand(argument)
    if from_file is not None:
        try:
            with Path(from_file).open("rb") as file:
                yield from _read_paths(file, null_separated)
        except OSError as error:
            raise DataError(f"{visible(from_file)}: cannot be read: {error.strerror}") from None


def not_empty(paths: Iterable[str]) -> Iterator[str]:
    """Return the same paths, having made sure that there is a first one.

    Raises:
        DataError: there is none.
    """
    iterator = iter(paths)
    first = next(iterator, None)
    if first is None:
        raise DataError("no image to label: the folders, patterns and lists that were given hold none")
    return chain((first,), iterator)


def _expand(argument: str) -> Iterator[str]:
    if argument and Path(argument).is_dir():
        yield from _images_below(argument)
    elif os.path.lexists(argument) or not glob.has_magic(argument):
        yield argument  # a file that is named is always tried; a missing one gets a record that says so
    else:
        matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207  (paths stay as they were typed)
        if not matches:
            raise DataError(f"{visible(argument)}: matches no file")
        # `photos/**` matches a folder and what is in it, and goes through links that lead back.
        identify = os.path.realpath if "**" in argument else str
        given: set[str] = set()
        for match in matches:
            for path in _images_below(match) if Path(match).is_dir() else (match,):
                if (identity := identify(path)) not in given:
                    given.add(identity)
                    yield path


def _images_below(folder: str) -> Iterator[str]:
    """Give the images of a folder and, after them, of its folders; hidden ones are passed over, links not followed."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{visible(folder)}: cannot be read: {error.strerror}") from None
    folders = []
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir(follow_symlinks=False):
            folders.append(entry.path)
        elif PurePath(entry.name).suffix.lower() in SUFFIXES:
            yield entry.path
    for path in folders:
        yield from _images_below(path)


def _read_paths(file: IO[bytes], null_separated: bool) -> Iterator[str]:
    separator = b"\0" if null_separated else b"\n"
    rest = b""
    while block := file.read(65536):
        *lines, rest = (rest + block).split(separator)
        yield from (os.fsdecode(_stripped(line, null_separated)) for line in lines if _stripped(line, null_separated))
    if _stripped(rest, null_separated):
        yield os.fsdecode(_stripped(rest, null_separated))


def _stripped(line: bytes, null_separated: bool) -> bytes:
    return line if null_separated else line.removesuffix(b"\r")


def predict_paths(
    engine: Engine, paths: Iterable[str], *, top_k: int = 5, min_score: float = 0.0, batch_size: int = 32
) -> Iterator[Prediction]:
    """Give a record per path, in order; only a few batches are in memory at any time.

    Args:
        engine: the loaded model.
        paths: image files.
        top_k: how many labels a record lists.
        min_score: below it a record keeps its `top`, but its label is None.
        batch_size: images per call of the engine; does not change the scores.
    """
    batches = decode_in_order(
        paths, image_size=engine.info.image_size, resize=engine.info.resize, batch_size=batch_size
    )
    with closing(batches):  # type: ignore[type-var]
        for batch in batches:
            yield from _label(engine, batch, top_k=top_k, min_score=min_score, batch_size=batch_size)


def _label(
    engine: Engine, batch: Sequence[Decoded], *, top_k: int, min_score: float, batch_size: int
) -> Iterator[Prediction]:
    images = [decoded.pixels for decoded in batch if decoded.pixels is not None]
    rows = iter(softmax(padded_logits(engine, np.stack(images), batch_size)) if images else ())
    for decoded in batch:
        if decoded.pixels is None:
            yield Prediction(decoded.path, None, None, (), decoded.error)
            continue
        top = _top(next(rows), engine.info.class_names, top_k)
        label = top[0].label if top[0].score >= min_score else None
        yield Prediction(decoded.path, label, top[0].score, top)


def _top(
    probabilities: np.ndarray[tuple[int], np.dtype[np.float64]], names: Sequence[str], top_k: int
) -> tuple[ScoredLabel, ...]:
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return tuple(ScoredLabel(names[index], float(probabilities[index])) for index in best)
