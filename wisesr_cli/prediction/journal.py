"""The journal of an incomplete file of predictions or vectors, from which a later process resumes.

It is stored next to the output (`FILE.partial`). Its first line names the process that holds it, the second the model
and options of its records; then comes one record per line. From the second line on, each starts with a checksum over
itself and all lines before it, so that changed, lost or duplicated lines are detected.
"""

from __future__ import annotations

import json
import os
import re
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BufferedReader, FileIO, RawIOBase
from itertools import islice
from pathlib import Path
from typing import Any

from wisesr_cli.display.grid import to_json
from wisesr_cli.errors import MachineError, RunError, UsageError
from wisesr_cli.machine.files import naming
from wisesr_cli.machine.locks import lies_at, take
from wisesr_cli.results.streams import Embedding, Prediction, ScoredLabel
from wisesr_cli.text import visible

SUFFIX = ".partial"
FIRST_RECORD = 3  # its line number
_MARK = b"wisesr journal 1, process "
_HOLDER = _MARK + b"%10d\n"  # of fixed length, as the next process overwrites it
_HOLDER_PATTERN = re.compile(_MARK + rb"(?=.{10}\n) *([0-9]+)\n")
_HOLDER_BYTES = len(_HOLDER % 0)


@dataclass(frozen=True)
class JournalHeader:
    """What the records of a journal depend on."""

    model: str  # SHA-256 of the model file
    options: dict[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Return the content of a journal's second line."""
        return {"model": self.model, "options": self.options}


@dataclass(frozen=True)
class Form:
    """How a journal writes its records as JSON and reads them back."""

    encode: Callable[[Any], dict[str, Any]]
    decode: Callable[[dict[str, Any]], Any]


class Journal:
    """An open journal, locked by this process until it is closed; without a `form`, it holds predictions.

    Raises:
        MachineError: another process holds it, or it cannot be written.
        UsageError: the existing file is not a journal.
    """

    def __init__(self, path: Path, header: JournalHeader, form: Form | None = None) -> None:
        self.path, self.header, self.form = path, header, form or PREDICTIONS
        self.count = 0  # records
        with naming(path):
            self._file = _open_alone(path)
        try:
            start = self._file.read(len(_MARK))
            if not start or not _MARK.startswith(start):
                raise UsageError(f"{visible(path)}: is in the way, and is not a journal of this version; move it")
            with naming(path):
                first = list(islice(self._lines(), FIRST_RECORD))
        except BaseException:
            self._file.close()
            raise
        self.has_records = len(first) == FIRST_RECORD and first[-1].endswith(b"\n")

    def start(self) -> None:
        """Empty the journal and write its first two lines."""
        self.count = 0
        self._checksum, line = _checked(to_json(self.header.to_json()).encode("ascii"), 0)
        with naming(self.path):
            self._file.truncate(_HOLDER_BYTES)  # never to zero: an empty file is not a journal
            self.has_records = False
            self._file.seek(0)
            _write(self._file, _HOLDER % os.getpid() + line)

    def resume(self) -> None:
        """Take over the journal: check every line, and remove an incomplete last one.

        Raises a `RunError` if it belongs to another model or to other options, or a line is damaged.
        """
        self._checksum = end = 0
        for number, line in enumerate(self._lines(), start=1):
            if not line.endswith(b"\n"):
                break
            self._check(line, number)
            end += len(line)
            self.count = max(0, number + 1 - FIRST_RECORD)
        if end <= _HOLDER_BYTES:  # the process was killed while it wrote the header
            self.start()
            return
        with naming(self.path):
            self._file.truncate(end)
            self._file.seek(0)
            _write(self._file, _HOLDER % os.getpid())
            self._file.seek(end)
        self.has_records = self.count > 0

    def records(self) -> Iterator[Any]:
        """Yield the current records, first to last."""
        for line in islice(self._lines(), FIRST_RECORD - 1, FIRST_RECORD - 1 + self.count):
            yield self.form.decode(json.loads(_content(line)))

    def append(self, record: Prediction | Embedding) -> None:
        """Add one record."""
        self._checksum, line = _checked(to_json(self.form.encode(record)).encode("ascii"), self._checksum)
        with naming(self.path):
            _write(self._file, line)
        self.count += 1
        self.has_records = True

    def flush_to_disk(self) -> None:
        """Make the records survive a power loss."""
        with naming(self.path):
            os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Remove the journal; `close` still has to be called."""
        if lies_at(self.path, self._file):
            self.path.unlink()

    def close(self) -> None:
        """Release the journal; one without records is removed if possible."""
        if not self.has_records:
            with suppress(OSError):  # an earlier error matters more
                self.remove()
        self._file.close()

    def _lines(self) -> Iterator[bytes]:
        """Yield the lines of the open file, as the path may refer to another file by now."""
        return iter(BufferedReader(_FromStart(self._file)))

    def _check(self, line: bytes, number: int) -> None:
        """Raise a `RunError` if a line is damaged; all lines before it must have been checked."""
        if number == 1:
            whole = _HOLDER_PATTERN.fullmatch(line) is not None
        else:
            self._checksum, expected = _checked(_content(line), self._checksum)
            whole = line == expected
        if not whole:
            raise RunError(f"{visible(self.path)}:{number}: damaged; start over with --overwrite")
        if number == 2:
            self._check_header(json.loads(_content(line)))

    def _check_header(self, found: Any) -> None:
        if found["model"] != self.header.model:
            raise RunError(f"{visible(self.path)}: was written with another model; start over with --overwrite")
        before, now = found["options"], self.header.options
        changed = [name for name in {**before, **now} if before.get(name) != now.get(name)]
        if changed:
            values = ((name, _shown(before.get(name)), _shown(now.get(name))) for name in changed)
            listed = ", ".join(f"{name} was {old} and is {new}" for name, old, new in values)
            raise RunError(
                f"{visible(self.path)}: was written with other options: {visible(listed)}; "
                "give the same ones, or start over with --overwrite"
            )


def _shown(value: Any) -> Any:
    return "not given" if value is None else value


class _FromStart(RawIOBase):
    """Reads a file from its start without moving its write position."""

    def __init__(self, file: FileIO) -> None:
        self._file, self._position = file, 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read into `buffer` and return the number of bytes."""
        content = os.pread(self._file.fileno(), len(buffer), self._position)
        buffer[: len(content)] = content
        self._position += len(content)
        return len(content)


def _open(path: Path) -> FileIO:
    """Open the journal at `path`; a new one gets its first line at once, as an empty file is not a journal."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    while True:
        with suppress(FileExistsError):
            file = os.fdopen(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o666), "r+b", buffering=0)
            _begin(path, file)
            return file
        with suppress(FileNotFoundError):  # removed meanwhile
            return os.fdopen(os.open(path, flags), "r+b", buffering=0)


def _begin(path: Path, file: FileIO) -> None:
    try:
        _write(file, _HOLDER % os.getpid())
        file.seek(0)
    except BaseException:
        path.unlink()
        file.close()
        raise


def _open_alone(path: Path) -> FileIO:
    """Open or create the journal at `path`, and lock it."""
    while True:
        file = _open(path)
        try:
            is_alone = take(file)
        except OSError:  # the file system has no locks
            return file
        if not is_alone:
            holder = _HOLDER_PATTERN.match(file.read(_HOLDER_BYTES))
            file.close()
            pid = holder[1].decode("ascii") if holder else "unknown"
            raise MachineError(f"{visible(path)}: in use by another wisesr (pid {pid}); wait for it or stop it")
        if lies_at(path, file):
            return file
        file.close()  # another process finished and removed it while it was being opened here


def _checked(content: bytes, checksum: int) -> tuple[int, bytes]:
    """Return the new checksum and the line for `content`, which follows lines with `checksum`."""
    checksum = zlib.crc32(content, checksum)
    return checksum, b"%08x %s\n" % (checksum, content)


def _content(line: bytes) -> bytes:
    return line.rstrip(b"\n").partition(b" ")[2]


def _write(file: FileIO, content: bytes) -> None:
    """Write all of `content`: a single call may write only a part when the disk is nearly full."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]


def prediction_from_json(values: dict[str, Any]) -> Prediction:
    """Return the record from `Prediction.to_json`."""
    top = tuple(ScoredLabel(**scored) for scored in values["top"])
    labels = None if (found := values.get("labels")) is None else tuple(found)
    return Prediction(**{**values, "top": top, "labels": labels})


PREDICTIONS = Form(Prediction.to_json, prediction_from_json)
