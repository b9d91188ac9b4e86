"""Checks the members, sizes, config and weights of a `.keras` archive before Keras reads it.

Keras builds any class or function named in a model's `config.json`; some of them run code or read files. Only the
classes in `ALLOWED`, which make up wisesr's own models, are accepted. There is no option to allow more.

A model file is checked once, and the `CheckedModel` passed to all code that uses it. Code that needs only the model's
record reads only that.
"""

from __future__ import annotations

import errno
import io
import json
import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from wisesr_cli.errors import MachineError, RunError, WisesrError
from wisesr_cli.model_files.architecture import check_model_config
from wisesr_cli.model_files.hdf5 import Table, UnsafeFileError
from wisesr_cli.model_files.info import MODEL_INFO, ModelInfo, parse_model_info
from wisesr_cli.model_files.isolation import CheckFailedError, Identity, check_weights_apart, identity_of
from wisesr_cli.text import on_one_line, visible

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"

# Maximum bytes of a member; weights may have as many as the archive.
LIMITS = {CONFIG: 4 << 20, METADATA: 1 << 16, MODEL_INFO: 4 << 20}
MOST_DIRECTORY_BYTES = 1 << 17  # four members take about 300, a comment at most 65,535
MOST_RATIO = 10  # unpacked to packed size of the weights, which hardly compress
_FLAGS = 0x2 | 0x4 | 0x8 | 0x800  # of a member: compression level, where its size is stored, encoding of its name


@dataclass(frozen=True)
class CheckedModel:
    """A checked model file: its config, weights by path, and record (None if it has none).

    `identity` identifies the file whose bytes were checked.
    """

    path: Path
    identity: Identity
    config: dict[str, Any]
    weights: dict[str, Table]
    record: bytes | None

    @cached_property
    def info(self) -> ModelInfo:
        """The model's record; `RunError` when it is damaged or was not written by wisesr."""
        return _parsed(self.record, self.path)

    def check_unchanged(self) -> None:
        """Raise `RunError`, with the bare reason, unless the checked file still exists unchanged."""
        if identity_of(self.path) != self.identity:
            raise RunError("it was rewritten since it was checked; repeat the command")


def check_model(path: Path) -> CheckedModel:
    """Read and check every byte of a `.keras` archive.

    Raises `RunError` when it is missing, damaged, or contains anything that wisesr models do not.
    """
    with open_archive(path) as archive:
        assert archive.fp is not None
        identity = identity_of(archive.fp.fileno())
        config = _read_config(archive)
        check_model_config(config)
        members = {name: archive.read(name) for name in (METADATA, MODEL_INFO) if name in archive.namelist()}
        try:
            weights = check_weights_apart(archive.fp, WEIGHTS)
        except UnsafeFileError as error:
            raise UnsafeFileError(f"{WEIGHTS} in it: {error}") from None
        if identity_of(archive.fp.fileno()) != identity:
            raise UnsafeFileError("it was written to while it was read; repeat the command")
    return CheckedModel(path, identity, config, weights, members.get(MODEL_INFO))


def check_weights_file(path: Path, *, whole: bool = False) -> CheckedModel | None:
    """Check a weights file; return the model in it, or None if only its tensors can be used.

    Returns None for `.weights.h5` and `.h5`, and for a `.keras` file that Keras may not build; with `whole`, the latter
    is an error. Raises `RunError` when it is not safe to load.
    """
    try:
        if path.suffix == ".keras":
            try:
                return check_model(path)
            except RunError:
                if whole:
                    raise
                with open_archive(path) as archive:
                    if MODEL_INFO in archive.namelist():  # a wisesr model that was modified
                        raise
                    assert archive.fp is not None
                    check_weights_apart(archive.fp, WEIGHTS)
                return None
        if path.suffix not in {".h5", ".hdf5"}:
            raise UnsafeFileError("neither a .keras nor a .h5 or .hdf5 file")
        with path.open("rb") as file:
            check_weights_apart(file)
        return None
    except RunError as error:
        raise RunError(f"model.weights: {error}") from None
    except UnsafeFileError as error:
        raise RunError(f"model.weights: {visible(path)}: refused: {visible(error)}") from None
    except OSError as error:
        raise reading_error(path, error) from None


def checked_tensors(path: Path) -> IO[bytes]:
    """Open and check the HDF5 of a weights file, also inside a `.keras` archive.

    Raises `RunError` when it is missing or not safe to read.
    """
    check_weights_file(path)
    if path.suffix == ".keras":
        with open_archive(path) as archive:
            assert archive.fp is not None
            check_weights_apart(archive.fp, WEIGHTS)  # cached, unless the file was replaced
            return io.BytesIO(archive.read(WEIGHTS))
    file = path.open("rb")
    check_weights_apart(file)
    file.seek(0)  # the other process moved it
    return file


def read_config(path: Path) -> Any:
    """Return the config of a `.keras` archive, reading and checking nothing else; `RunError` when it is incomplete."""
    with open_archive(path) as archive:
        return _read_config(archive)


def read_model_info(path: Path) -> ModelInfo:
    """Return the record of the model file at `path`, reading and checking nothing else.

    Raises `RunError` when the archive is incomplete or was not written by wisesr.
    """
    with open_archive(path) as archive:
        record = archive.read(MODEL_INFO) if MODEL_INFO in archive.namelist() else None
    return _parsed(record, path)


def _parsed(record: bytes | None, path: Path) -> ModelInfo:
    if record is None:
        raise RunError(f"{visible(path)}: not a model of wisesr train: '{MODEL_INFO}' is missing in it")
    return parse_model_info(record, path)


def append_model_info(path: Path, info: ModelInfo) -> None:
    """Add a model's record to its archive, which is not yet under its final name."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MODEL_INFO, json.dumps(info.to_json(), indent=1))


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a `.keras` archive that has the members of a model, without unpacking anything.

    Raises `RunError` when it is missing, has other members, or is damaged, even if found only while the block reads it.
    """
    try:
        with _Directory(path) as file, zipfile.ZipFile(file) as archive:
            file.limit = None
            _check_members(archive, os.fstat(file.fileno()).st_size)
            yield archive
    except RunError:
        raise
    except UnsafeFileError as error:
        raise RunError(f"{visible(path)}: refused: {visible(error)}") from None
    except OSError as error:
        raise reading_error(path, error) from None
    except (MemoryError, CheckFailedError):
        raise
    except KeyError as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error.args[0])}") from None
    except Exception as error:  # zipfile and its decompressors raise a dozen kinds
        raise RunError(f"{visible(path)}: damaged: {visible(error)}") from None


def reading_error(path: Path, error: OSError) -> WisesrError:
    """Return the error to report when reading a model fails: the machine's fault, or the file's."""
    reason = f"{visible(path)}: {visible(error.strerror or error)}"
    if error.errno in _MACHINE_ERRNOS:
        return MachineError(f"{reason}; free some, and repeat the command")
    return RunError(f"{visible(path)}: missing or damaged: {visible(error.strerror or error)}")


_MACHINE_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)  # files, memory or processes are exhausted


class _Directory(io.FileIO):
    """A file that reads at most `limit` bytes at once, if set: enough for a list of members."""

    limit: int | None = MOST_DIRECTORY_BYTES

    def read(self, size: int | None = -1, /) -> bytes:
        if self.limit is not None:
            left = os.fstat(self.fileno()).st_size - self.tell()
            wanted = left if size is None or size < 0 else min(size, left)
            if wanted > self.limit:
                raise UnsafeFileError("its list of members is too long")
        return super().read(size) or b""


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    names = archive.namelist()
    for name in names:
        if name not in {CONFIG, METADATA, WEIGHTS, MODEL_INFO}:
            raise UnsafeFileError(f"the member '{name[:200]}' does not belong in a model file")
        if names.count(name) > 1:
            raise UnsafeFileError(f"the member '{name}' is given twice")
    for name in (CONFIG, WEIGHTS):
        if name not in names:
            raise UnsafeFileError(f"the member '{name}' is missing")
    end = 0
    for member in sorted(archive.infolist(), key=lambda member: member.header_offset):
        _check_member(member)
        if member.header_offset < end:
            raise UnsafeFileError(f"the member '{member.filename}' overlaps another")
        end = member.header_offset + 30 + len(member.filename) + member.compress_size
    if end > size:
        raise UnsafeFileError("its members are larger than the file")


def _check_member(member: zipfile.ZipInfo) -> None:
    name = member.filename
    if stat.S_IFMT(member.external_attr >> 16) not in (0, stat.S_IFREG):
        raise UnsafeFileError(f"the member '{name}' is not a plain file")
    if member.flag_bits & ~_FLAGS or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsafeFileError(f"the member '{name}' is encrypted, or packed in a way that Keras does not use")
    limit = LIMITS.get(name, MOST_RATIO * member.compress_size)
    if member.file_size > limit:
        raise UnsafeFileError(f"the member '{name}' would take {member.file_size:,} bytes; at most {limit:,} are read")


def _read_config(archive: zipfile.ZipFile) -> Any:
    text = archive.read(CONFIG)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeFileError(f"{CONFIG} in it is damaged: {on_one_line(error)}") from None
