"""Checks a `.keras` archive before any code of Keras sees it: its members, their sizes, and every class it names.

Keras builds whatever classes and functions a model's `config.json` names; some of them run code or read files. Here
only those in `ALLOWED` pass, which are all that wisesr itself builds models of. There is no option to allow more.
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
from pathlib import Path
from typing import Any

from wisesr_cli.allowed import ALLOWED
from wisesr_cli.errors import MachineError, RunError, WisesrError
from wisesr_cli.hdf5 import Table, UnsafeFileError
from wisesr_cli.isolation import check_weights_apart
from wisesr_cli.text import visible

CONFIG = "config.json"
METADATA = "metadata.json"
WEIGHTS = "model.weights.h5"
MODEL_INFO = "wisesr.json"

# The bytes that a member may have; weights may have as many as the archive.
LIMITS = {CONFIG: 4 << 20, METADATA: 1 << 16, MODEL_INFO: 4 << 20}
MOST_DIRECTORY_BYTES = 1 << 17  # a list of four members takes some 300, and a comment at most 65,535
MOST_RATIO = 10  # unpacked to packed, of the weights: numbers hardly shrink
MOST_DEPTH = 100  # of what is nested in config.json; real ones have 14
MOST_NUMBER = 1 << 20  # any side, filter count or unit count of a layer
_FREE_NUMBERS = frozenset({"seed", "shared_object_id"})


@dataclass(frozen=True)
class CheckedArchive:
    """What a checked archive holds: the model's config, and its weights by their path."""

    config: dict[str, Any]
    weights: dict[str, Table]


def check_archive(path: Path) -> CheckedArchive:
    """Return what a `.keras` archive holds, every byte of it read and found to be what a model needs.

    Raises:
        RunError: it is missing, damaged, or holds anything that wisesr does not build models of.
    """
    with open_archive(path) as archive:
        config = _read_config(archive)
        _check_objects(config)
        for name in (METADATA, MODEL_INFO):
            if name in archive.namelist():
                archive.read(name)
    try:
        weights = check_weights_apart(path, WEIGHTS)
    except UnsafeFileError as error:
        raise RunError(f"{visible(path)}: refused: {WEIGHTS} in it: {visible(error)}") from None
    except OSError as error:
        raise _reading_error(path, error) from None
    return CheckedArchive(config, weights)


def check_weights_file(path: Path) -> None:
    """Raise a `RunError` when a file of weights (`.keras`, `.weights.h5` or `.h5`) is not fit to be loaded."""
    try:
        if path.suffix == ".keras":
            check_archive(path)
        elif path.suffix in {".h5", ".hdf5"}:
            check_weights_apart(path)
        else:
            raise UnsafeFileError("neither a .keras nor a .h5 or .hdf5 file")
    except RunError as error:
        raise RunError(f"model.weights: {error}") from None
    except UnsafeFileError as error:
        raise RunError(f"model.weights: {visible(path)}: refused: {visible(error)}") from None
    except OSError as error:
        raise _reading_error(path, error) from None


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
    except MemoryError:
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
    if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UnsafeFileError(f"the member '{name}' is encrypted, or packed in a way that Keras does not use")
    limit = LIMITS.get(name, MOST_RATIO * member.compress_size)
    if member.file_size > limit:
        raise UnsafeFileError(f"the member '{name}' would take {member.file_size:,} bytes; at most {limit:,} are read")


def _read_config(archive: zipfile.ZipFile) -> dict[str, Any]:
    text = archive.read(CONFIG)
    try:
        config = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeFileError(f"{CONFIG} in it is damaged: {str(error)[:200]}") from None
    if not isinstance(config, dict) or "class_name" not in config:
        raise UnsafeFileError(f"{CONFIG} in it describes no model")
    return config


def _check_objects(config: dict[str, Any]) -> None:
    """Raise for the first object, number or depth in a model's config that no model of wisesr has.

    A compiled model's optimizer, loss and metrics are not looked at: Keras is told not to build them.
    """
    waiting: list[tuple[str, Any, int]] = [
        (key, value, 1) for key, value in {**config, "compile_config": None}.items() if not isinstance(value, str)
    ]
    _check_class(config)
    while waiting:
        key, value, depth = waiting.pop()
        if depth > MOST_DEPTH:
            raise UnsafeFileError(f"{CONFIG} in it is nested more than {MOST_DEPTH} deep")
        if isinstance(value, dict):
            _check_class(value)
            if value.get("compile_config"):
                raise UnsafeFileError("a model inside the model is compiled")
            waiting.extend((name, inner, depth + 1) for name, inner in value.items())
        elif isinstance(value, list):
            waiting.extend((key, inner, depth + 1) for inner in value)
        elif isinstance(value, int | float) and key not in _FREE_NUMBERS and not abs(value) <= MOST_NUMBER:
            raise UnsafeFileError(f"{CONFIG} in it has the number {value!r:.40} for '{key[:80]}'")


def _check_class(value: dict[str, Any]) -> None:
    if "class_name" not in value:
        return
    found = value.get("module"), value["class_name"], value.get("registered_name")
    if not all(part is None or isinstance(part, str) for part in found) or found not in ALLOWED:
        module, name = str(found[0] or "no module")[:80], str(found[1])[:80]
        raise UnsafeFileError(
            f"it has a '{name}' of {module}, which is in no model that wisesr builds; nothing of it was loaded. To use "
            "the weights of another model, save those of its backbone alone, as .weights.h5"
        )
