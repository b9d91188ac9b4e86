"""Contributions as arrays in one .npz file, written incrementally: only paths are kept in memory.

Numbers are collected in unnamed temporary files, of which a killed process leaves nothing.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.machine.files import naming, replacing
from wisesr_cli.results import Contribution, Explanation

PATHS_AT_A_TIME = 1000
BLOCK_BYTES = 1 << 20
KINDS = ("predicted", "runner_up", "decision")


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
        self._columns: dict[str, _Column] = {}
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
        nothing = _nothing_like(predicted)
        for kind, row in zip(KINDS, (predicted, runner_up, explanation.decision), strict=True):
            self._append_row(kind, row or nothing)
        for kind, row in (("predicted", predicted), ("runner_up", runner_up)):
            self._append(f"{kind}_labels", np.int64(-1 if row is None else self._index[row.label]))
        if self.asked:
            self._append("asked_maps", np.asarray([row.map for row in explanation.asked], np.float64))
            self._append("asked_logits", np.asarray([row.logit for row in explanation.asked], np.float64))
            self._append("asked_biases", np.asarray([row.bias for row in explanation.asked], np.float64))

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
                _write_member(archive, name, array.dtype, array.shape, [array.tobytes()])
            longest = max(map(len, self._paths), default=1) or 1
            kind = np.dtype(f"<U{longest}")
            _write_member(archive, "paths", kind, (len(self._paths),), _in_blocks(self._paths, kind))
            for name, column in self._columns.items():
                _write_member(archive, name, column.dtype, (len(self._paths), *column.shape), _read_again(column.file))

    def _append_row(self, kind: str, row: Contribution) -> None:
        self._append(f"{kind}_maps", np.asarray(row.map, np.float64))
        self._append(f"{kind}_logits", np.float64(row.logit))
        self._append(f"{kind}_biases", np.float64(row.bias))

    def _append(self, name: str, value: Any) -> None:
        with naming(self.folder):
            if name not in self._columns:
                file = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115  (closed with this object)
                self._columns[name] = _Column(self._files.enter_context(file), np.asarray(value))
            self._columns[name].file.write(np.ascontiguousarray(value).tobytes())


class _Column:
    """The values of one array, in a temporary file."""

    def __init__(self, file: IO[bytes], first: NDArray[Any]) -> None:
        self.file, self.dtype, self.shape = file, first.dtype, first.shape


def _nothing_like(row: Contribution) -> Contribution:
    """Return a contribution of NaN, for a class that does not exist."""
    missing = tuple(tuple(float("nan") for _ in values) for values in row.map)
    return Contribution("", float("nan"), float("nan"), missing, float("nan"))


def _in_blocks(paths: Sequence[str], kind: np.dtype[Any]) -> Iterator[bytes]:
    for start in range(0, len(paths), PATHS_AT_A_TIME):
        yield np.asarray(paths[start : start + PATHS_AT_A_TIME], kind).tobytes()


def _read_again(file: IO[bytes]) -> Iterator[bytes]:
    file.seek(0)
    while block := file.read(BLOCK_BYTES):
        yield block


def _write_member(
    archive: zipfile.ZipFile, name: str, kind: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[bytes]
) -> None:
    """Write one array as `numpy.savez` does, its bytes in blocks."""
    header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array_header_2_0(member, header)
        for block in blocks:
            member.write(block)
