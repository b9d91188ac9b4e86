"""The record of what wisesr wrote into the folders of a run: all other files are the user's.

    .written.jsonl
    {"path": "evaluate-test/metrics.json", "bytes": 1234, "sha256": "..."}
    {"path": "tensorboard/train/events.out.tfevents.1", "bytes": 40, "sha256": "...", "grows": true}
    {"path": "evaluate-photos", "of": "/data/photos"}

A line is appended before its file appears, so that every file is recorded from the start; for a file that grows, it
covers the first bytes. A file is ours as long as its content matches one recorded for its path. Runs of earlier
versions have no record and get none.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from wisesr_cli.machine.files import flush_to_disk, naming, observed, sha256
from wisesr_cli.model_files.info import WRITTEN

MAX_RECORD_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class Content:
    """The recorded content of a file: all its bytes or, if it grows, its first ones."""

    bytes: int
    sha256: str
    grows: bool


class Written:
    """The record in a run directory."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.path = folder, folder / WRITTEN

    @property
    def exists(self) -> bool:
        """Whether the run has a record; runs of earlier versions have none."""
        return self.path.is_file() and not self.path.is_symlink()

    def begin(self) -> None:
        """Create an empty record if there is none."""
        with naming(self.path):
            os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644))

    def add(self, path: Path, content: Path | None = None, *, grows: bool = False) -> None:
        """Record the file, or the files of the folder, at `path`; their content is there or at `content`."""
        content = path if content is None else content
        if content.is_dir():
            for file in sorted(file for file in content.rglob("*") if file.is_file()):
                self.add(path / file.relative_to(content), file)
            return
        row = {"bytes": content.stat().st_size, "sha256": sha256(content), **({"grows": True} if grows else {})}
        self._append({"path": self._name(path), **row})

    def add_source(self, folder: Path, source: str) -> None:
        """Record the source of the results in a folder."""
        self._append({"path": self._name(folder), "of": source})

    def has(self, path: Path) -> bool:
        """Return whether the file at `path` is recorded and unchanged."""
        return self.others([path]) == []

    def others(self, paths: Iterable[Path]) -> list[Path]:
        """Return the paths that are the user's: not recorded, or changed since."""
        contents = self._contents()
        return [path for path in paths if not self._is_as_written(path, contents.get(self._name(path), set()))]

    def files(self) -> list[Path]:
        """Return the recorded files that are unchanged."""
        contents = self._contents().items()
        return [self.folder / name for name, known in contents if self._is_as_written(self.folder / name, known)]

    def source_of(self, folder: Path) -> str | None:
        """Return the last recorded source of the results in a folder."""
        found = [row["of"] for row in self._rows() if row["path"] == self._name(folder) and "of" in row]
        return str(found[-1]) if found else None

    def _name(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix()

    def _append(self, row: dict[str, Any]) -> None:
        """Append a line, preceded by a line break, as a killed process may have left half a line."""
        if not self.exists:
            return
        with naming(self.path):
            descriptor = os.open(self.path, os.O_APPEND | os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.write(descriptor, f"\n{json.dumps(row)}\n".encode())
            finally:
                os.close(descriptor)
            flush_to_disk(self.path)

    def _rows(self) -> list[dict[str, Any]]:
        """Return the complete lines, without damaged ones."""
        if not self.exists or self.path.stat().st_size > MAX_RECORD_BYTES:
            return []
        rows = []
        for line in self.path.read_bytes().splitlines():
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                continue
            if isinstance(row, dict) and isinstance(name := row.get("path"), str) and _is_inside(name):
                rows.append(row)
        return rows

    def _contents(self) -> dict[str, set[Content]]:
        contents = defaultdict(set)
        for row in self._rows():
            size, digest = row.get("bytes"), row.get("sha256")
            if isinstance(size, int) and isinstance(digest, str):
                contents[row["path"]].add(Content(size, digest, row.get("grows") is True))
        return contents

    def _is_as_written(self, path: Path, known: set[Content]) -> bool:
        is_linked = path.parent.resolve() != self.folder.resolve() / path.parent.relative_to(self.folder)
        if not known or is_linked or path.is_symlink() or not path.is_file():
            return False
        size = path.stat().st_size
        likely = [content for content in known if content.bytes == size or (content.grows and content.bytes < size)]
        return any(_digest(path, content.bytes) == content.sha256 for content in likely)


def _is_inside(name: str) -> bool:
    return not PurePosixPath(name).is_absolute() and ".." not in PurePosixPath(name).parts and "\0" not in name


def _digest(path: Path, count: int) -> str:
    """Return the SHA-256 of the first bytes of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while count > 0 and (block := file.read(min(count, 1 << 20))):
            digest.update(block)
            count -= len(block)
    return digest.hexdigest()


@contextmanager
def recording(folder: Path) -> Iterator[Written]:
    """Yield the record of a run; if it exists, add every file that the block writes atomically below the run."""
    written = Written(folder)

    def add(path: Path, content: Path) -> None:
        if path.is_relative_to(folder):
            written.add(path, content)

    with observed(add):
        yield written
