"""Checks a `.keras` archive before any code of Keras sees it: its members, their sizes, its config and its weights.

Keras builds whatever classes and functions a model's `config.json` names; some of them run code or read files. Here
only those in `ALLOWED` pass, which are all that wisesr itself builds models of. There is no option to allow more.

A model file is checked once; the `CheckedModel` is handed to all that work with it. What needs no more than the record
of a model reads that alone.
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
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from wisesr_cli.errors import MachineError, RunError, WisesrError
from wisesr_cli.model_files.architecture import check_model_config
from wisesr_cli.model_files.hdf5 import Table, UnsafeFileError
from wisesr_cli.model_files.info import MODEL_INFO, ModelInfo, parse_model_info
from wisesr_cli.model_files.isolation import CheckFailedError, Identity, check_weights_apart, identity_of
from wisesr_cli.text import on_one_line, visible

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"

# The bytes that a member may have; weights may have as many as the archive.
LIMITS = {CONFIG: 4 << 20, METADATA: 1 << 16, MODEL_INFO: 4 << 20}
MOST_DIRECTORY_BYTES = 1 << 17  # a list of four members takes some 300, and a comment at most 65,535
MOST_RATIO = 10  # unpacked to packed, of the weights: numbers hardly shrink
_FLAGS = 0x2 | 0x4 | 0x8 | 0x800  # of a member: how it was packed, where its size stands, how its name is written


@dataclass(frozen=True)
class CheckedModel:
    """A model file that was checked: its config, its weights by their path, and its record, None where it has none.

    `identity` is that of the file whose bytes were checked.
    """

    path: Path
    identity: Identity
    config: dict[str, Any]
    weights: dict[str, Table]
    record: bytes | None

    @cached_property
    def info(self) -> ModelInfo:
        """What the model says of itself.

        Raises:
            RunError: it was not written by wisesr, or the record is damaged.
        """
        return _parsed(self.record, self.path)

    def check_unchanged(self) -> None:
        """Raise a `RunError`, whose message is the bare reason, unless the checked file lies there as it was."""
        if identity_of(self.path) != self.identity:
            raise RunError("it was written anew since it was checked; repeat the command")


def check_model(path: Path) -> CheckedModel:
    """Return what a `.keras` archive holds, every byte of it read and found to be what a model needs.

    Raises:
        RunError: it is missing, damaged, or holds anything that wisesr does not build models of.
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


def check_weights_file(path: Path) -> CheckedModel | None:
    """Return what is in a file of weights that is a model (`.keras`), None for `.weights.h5` and `.h5`.

    Raises:
        RunError: it is not fit to be loaded.
    """
    try:
        if path.suffix == ".keras":
            return check_model(path)
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
        raise _reading_error(path, error) from None


def read_config(path: Path) -> Any:
    """Return what a `.keras` archive asks Keras to build; nothing else of it is read or checked.

    Raises:
        RunError: it is not a whole archive of a model.
    """
    with open_archive(path) as archive:
        return _read_config(archive)


def read_model_info(path: Path) -> ModelInfo:
    """Return what the model file at `path` says of itself; nothing else of it is read or checked.

    Raises:
        RunError: it is not a whole archive of a model, or was not written by wisesr.
    """
    with open_archive(path) as archive:
        record = archive.read(MODEL_INFO) if MODEL_INFO in archive.namelist() else None
    return _parsed(record, path)


def _parsed(record: bytes | None, path: Path) -> ModelInfo:
    if record is None:
        raise RunError(f"{visible(path)}: not a model of wisesr train: '{MODEL_INFO}' is missing in it")
    return parse_model_info(record, path)


def append_model_info(path: Path, info: ModelInfo) -> None:
    """Add what a model says of itself to its archive, which is not yet under its final name."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MODEL_INFO, json.dumps(asdict(info), indent=1))


@contextmanager
def open_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """Open a `.keras` archive whose list of members is that of a model; nothing is unpacked yet.

    Raises:
        RunError: it is missing or damaged, now or while the block reads it, or has other members.
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
        raise _reading_error(path, error) from None
    except (MemoryError, CheckFailedError):
        raise
    except KeyError as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error.args[0])}") from None
    except Exception as error:  # zipfile and its decompressors raise a dozen kinds
        raise RunError(f"{visible(path)}: damaged: {visible(error)}") from None


def _reading_error(path: Path, error: OSError) -> WisesrError:
    """Return what an error while reading a model comes to: the machine's fault, or the file's."""
    reason = f"{visible(path)}: {visible(error.strerror or error)}"
    if error.errno in _MACHINE_ERRNOS:
        return MachineError(f"{reason}; free some of it, and repeat the command")
    return RunError(f"{visible(path)}: missing or damaged: {visible(error.strerror or error)}")


_MACHINE_ERRNOS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN)  # files, memory or processes are used up


class _Directory(io.FileIO):
    """A file that gives at most a list of members at once, as long as `limit` says so."""

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
            raise UnsafeFileError(f"the member '{name[:200]}' does not belong into a model file")
        if names.count(name) > 1:
            raise UnsafeFileError(f"the member '{name}' is there twice")
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
        raise UnsafeFileError(f"the member '{name}' is no plain file")
    if member.flag_bits & ~_FLAGS or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsafeFileError(f"the member '{name}' is encrypted, or packed in a way that Keras does not use")
    limit = LIMITS.get(name, MOST_RATIO * member.compress_size)
    if member.file_size > limit:
        raise UnsafeFileError(f"the member '{name}' would take {member.file_size:,} bytes; at most {limit:,} are read")


def _read_config(archive: zipfile.ZipFile) -> Any:
    text = archive.read(CONFIG)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeFileError(f"{CONFIG} in it is damaged: {on_one_line(error)}") from None
    return config
