"""Writes feature vectors, through a journal, to a file that is complete or does not exist.

An image that could not be read keeps its place, so that row n always belongs to input n: its vector is NaN in NPZ and
null in Parquet, and the reason is in `errors` or `error`.

To add a format: a function that writes records to a path, and a row in `WRITERS`.
"""

from __future__ import annotations

import zipfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.explanation.arrays import write_member, write_texts
from wisesr_cli.machine.installation import install_line
from wisesr_cli.prediction.journal import Form, JournalHeader
from wisesr_cli.prediction.output import FileOutput, checked_output
from wisesr_cli.requests import EmbedRequest
from wisesr_cli.results.streams import Embedding
from wisesr_cli.text import joined, visible

KIND = np.dtype("<f4")
ROWS_AT_A_TIME = 1000

Stored = Callable[[], Iterator[Embedding]]  # yields all records, from the first, at each call


def _encode(record: Embedding) -> dict[str, Any]:
    """Return a record for the journal, with the vector as base64 of its bytes instead of decimal text."""
    vector = None if record.vector is None else b64encode(np.asarray(record.vector, KIND).tobytes()).decode("ascii")
    return {**record.to_json(), "vector": vector}


def _decode(values: dict[str, Any]) -> Embedding:
    stored = values["vector"]
    vector = None if stored is None else tuple(np.frombuffer(b64decode(stored), KIND).tolist())
    return Embedding(**{**values, "vector": vector})


class VectorsFile(FileOutput):
    """Vectors in a file whose suffix is its format, through a journal next to it."""

    form = Form(_encode, _decode)

    def __init__(self, path: Path, *, overwrite: bool, resume: bool) -> None:
        super().__init__(path.suffix.lower(), path, JournalHeader("", {}), overwrite=overwrite, resume=resume)

    def finish(self) -> None:
        """Write the records of the journal into the output and remove the journal."""
        with self.completed() as temporary:
            records = self.journal.records
            width = next((len(record.vector) for record in records() if record.vector is not None), 0)
            WRITERS[self.chosen](temporary, records, self.journal.count, width)


def open_vectors(request: EmbedRequest) -> VectorsFile | None:
    """Return the output file of a request, or None; set its header before entering it.

    Raises:
        UsageError: the output exists, its format is unknown, or resuming was requested without a file.
        MachineError: the format needs a package that is not installed.
    """
    if request.output is None:
        if request.resume or request.overwrite:
            raise UsageError("--resume and --overwrite need -o FILE")
        return None
    suffix = Path(request.output).suffix.lower()
    if request.output and suffix not in WRITERS:
        raise UsageError(f"{visible(request.output)}: vectors are written as {joined(WRITERS)}; give -o such a name")
    if suffix == ".parquet":
        _parquet(request.output)
    path = checked_output(request.output, request)
    return VectorsFile(path, overwrite=request.overwrite, resume=request.resume)


def _parquet(path: str | Path) -> Any:
    """Return the module that writes Parquet; raises a `MachineError` if pyarrow is not installed."""
    try:
        from pyarrow import parquet
    except ImportError:
        raise MachineError(
            f"{visible(path)}: writing Parquet needs pyarrow; install it with: {install_line('parquet')}"
        ) from None
    return parquet


def write_npz(path: Path, records: Stored, count: int, width: int) -> None:
    """Write `paths` (images,), `vectors` float32 (images, features) and `errors` (images,), empty if there is none.

    `numpy.load` reads them as plain arrays.
    """
    with zipfile.ZipFile(path, "w") as archive:
        write_texts(archive, "paths", lambda: (record.path for record in records()))
        write_member(archive, "vectors", KIND, (count, width), (_bytes_of(record, width) for record in records()))
        write_texts(archive, "errors", lambda: (record.error or "" for record in records()))


def _bytes_of(record: Embedding, width: int) -> bytes:
    return np.asarray([np.nan] * width if record.vector is None else record.vector, KIND).tobytes()


def write_parquet(path: Path, records: Stored, count: int, width: int) -> None:
    """Write one row per image: `path`, `vector` (a list of `width` float32 numbers, or null) and `error`."""
    import pyarrow

    vectors = pyarrow.list_(pyarrow.float32(), width) if width else pyarrow.list_(pyarrow.float32())
    schema = pyarrow.schema([("path", pyarrow.string()), ("vector", vectors), ("error", pyarrow.string())])
    with _parquet(path).ParquetWriter(path, schema) as writer:
        for rows in _in_parts(records()):
            columns = [[_utf8(row.path) for row in rows], [row.vector for row in rows], [row.error for row in rows]]
            arrays = [pyarrow.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))


def _in_parts(records: Iterable[Embedding]) -> Iterator[list[Embedding]]:
    rest = iter(records)
    while rows := list(islice(rest, ROWS_AT_A_TIME)):
        yield rows


def _utf8(path: str) -> str:
    """Return a path as valid UTF-8; other bytes appear as escapes, as in JSON."""
    return path.encode("utf-8", "backslashreplace").decode("utf-8")


WRITERS: dict[str, Callable[[Path, Stored, int, int], None]] = {".npz": write_npz, ".parquet": write_parquet}
