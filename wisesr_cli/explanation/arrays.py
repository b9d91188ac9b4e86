"""Contributions as arrays in one .npz file, written incrementally: only paths are kept in memory.

Numbers are collected in unnamed temporary files, which disappear even if the process is killed.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.machine.files import naming, replacing
from wisesr_cli.results.streams import Explanation

TEXTS_AT_A_TIME = 1000
BLOCK_BYTES = 1 << 20
FIELDS = {"maps": "map", "logits": "logit", "biases": "bias"}  # ending of an array's name -> field of `Contribution`


class ContributionArrays:
    """Collects explanations, and writes them to a file in `folder` as arrays with a row per readable image.

    `paths`; `predicted_labels` and `runner_up_labels` (class indices, -1 for none); for each of `predicted`,
    `runner_up` and `decision` (the first minus the second) `_maps` (images, height, width), `_logits` and `_biases`
    (images,); the same for the classes `asked` (indices), with an axis of classes second, and `asked_labels`
    (classes,); `class_names`.
    """

    def __init__(self, folder: Path, class_names: Sequence[str], asked: Sequence[int] = ()) -> None:
        self.folder, self.class_names, self.asked = folder, tuple(class_names), tuple(asked)
        self._index = {name: label for label, name in enumerate(class_names)}
        self._paths: list[str] = []
        self._columns: dict[str, tuple[IO[bytes], NDArray[Any]]] = {}  # a temporary file, and the first value
        self._files = ExitStack()

    def __enter__(self) -> ContributionArrays:
        return self

    def __exit__(self, *exception: object) -> None:
        self._files.close()

    def add(self, explanation: Explanation) -> None:
        """Add an image; an unreadable one is ignored."""
        predicted, runner_up = explanation.predicted, explanation.runner_up
        if predicted is None:
            return
        self._paths.append(explanation.path)
        kinds = {"predicted": predicted, "runner_up": runner_up, "decision": explanation.decision}
        missing = np.nan * np.asarray(predicted.map)  # of a class that does not exist
        for kind, row in kinds.items():
            for ending, name in FIELDS.items():
                value = missing if ending == "maps" else np.nan
                self._append(f"{kind}_{ending}", np.float64(value if row is None else getattr(row, name)))
        for kind, row in (("predicted", predicted), ("runner_up", runner_up)):
            self._append(f"{kind}_labels", np.int64(-1 if row is None else self._index[row.label]))
        for ending, name in FIELDS.items() if self.asked else ():
            values = [getattr(row, name) for row in explanation.asked]
            self._append(f"asked_{ending}", np.asarray(values, np.float64))

    def write(self, path: Path) -> None:
        """Write all added images; `numpy.load` reads them as plain arrays."""
        fixed = {"class_names": np.asarray(self.class_names, np.str_)}
        if self.asked:
            fixed["asked_labels"] = np.asarray(self.asked, np.int64)
        with (
            replacing(path) as temporary,
            zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            for name, array in fixed.items():
                write_member(archive, name, array.dtype, array.shape, [array.tobytes()])
            write_texts(archive, "paths", lambda: self._paths)
            for name, (file, first) in self._columns.items():
                write_member(archive, name, first.dtype, (len(self._paths), *first.shape), _read_again(file))

    def _append(self, name: str, value: Any) -> None:
        with naming(self.folder):
            if name not in self._columns:
                file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  (closed with this object)
                self._columns[name] = self._files.enter_context(file), np.asarray(value)
            self._columns[name][0].write(np.ascontiguousarray(value).tobytes())


def write_texts(archive: zipfile.ZipFile, name: str, texts: Callable[[], Iterable[str]]) -> None:
    """Write an array of texts, iterating twice over `texts()`, so that few are in memory at any time."""
    count, longest = 0, 1
    for text in texts():
        count, longest = count + 1, max(longest, len(text))
    kind = np.dtype(f"<U{longest}")
    write_member(archive, name, kind, (count,), _in_blocks(texts(), kind))


def _in_blocks(texts: Iterable[str], kind: np.dtype[Any]) -> Iterator[bytes]:
    rest = iter(texts)
    while block := list(islice(rest, TEXTS_AT_A_TIME)):
        yield np.asarray(block, kind).tobytes()


def _read_again(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        yield block


def write_member(
    archive: zipfile.ZipFile, name: str, kind: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[bytes]
) -> None:
    """Write one array as `numpy.savez` does, its bytes in blocks."""
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_2_0(member, header)
        for block in blocks:
            member.write(block)
