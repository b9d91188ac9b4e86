"""The state directory: everything needed to resume, complete whenever the process is killed.

    state/epoch-000003/
      model.npz        weights, in order
      optimizer.npz    variables of the optimizer, in order
      random.npz       states of the seed generators and the order of the examples that the next epoch begins with
      progress.json    epoch, history, best so far, early stopping, fingerprints, versions
      manifest.json    size and SHA-256 of the others; written last

A state that is written again for the same epoch gets a numeric suffix: epoch-000000.000001.
A state is written to a temporary name, flushed to disk and renamed; only then is the previous one removed. Arrays
are stored uncompressed and read without pickle, so that reading takes no more memory than the size of the files. NumPy
only.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import RunError
from wisesr_cli.machine.files import TEMPORARY_PREFIX, flush_to_disk, make_folder, naming, read_text, remove, sha256
from wisesr_cli.text import visible

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
MAX_JSON_BYTES = 64 * 1024 * 1024
MAX_HEADER_BYTES = 10_000  # of an array in its archive; NumPy's own limit for untrusted files

_STATE_NAME = re.compile(r"epoch-\d{6,}(\.\d{6,})?")
# What zipfile and NumPy raise on damaged files; RuntimeError on encrypted ones.
_ARRAY_ERRORS = (OSError, ValueError, TypeError, KeyError, EOFError, RuntimeError, MemoryError, zipfile.BadZipFile)
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class State:
    """One state as read: its path, named groups of arrays, and the progress record."""

    folder: Path
    arrays: dict[str, dict[str, NDArray[Any]]]
    progress: dict[str, Any]

    def group(self, name: str) -> dict[str, NDArray[Any]]:
        """Return a group of arrays; a `RunError` when there is none of that name."""
        return _member(self.arrays, name, self.folder / f"{name}.npz")

    def record(self, name: str) -> dict[str, Any]:
        """Return a part of the progress record; a `RunError` when there is none of that name."""
        return _member(self.progress, name, self.folder / PROGRESS)


def write_state(folder: Path, epoch: int, arrays: Mapping[str, Arrays], progress: Mapping[str, Any]) -> None:
    """Write the state after `epoch` finished epochs and remove earlier ones."""
    make_folder(folder, inside=folder.parent)
    temporary = folder / f"{TEMPORARY_PREFIX}epoch-{epoch:06d}"
    shutil.rmtree(temporary, ignore_errors=True)
    with naming(folder):
        temporary.mkdir()
        for group, values in arrays.items():
            with (temporary / f"{group}.npz").open("wb") as file:
                np.savez(file, **values)  # type: ignore[arg-type]
        (temporary / PROGRESS).write_text(json.dumps(progress, indent=1), encoding="utf-8")
        _write_manifest(temporary)
        final = _free_path(folder, epoch)
        temporary.rename(final)
        flush_to_disk(folder)
        for other in (*_states(folder), *folder.glob(f"{TEMPORARY_PREFIX}epoch-*")):
            if other != final:
                remove(other)


def _write_manifest(folder: Path) -> None:
    files = sorted(folder.iterdir())
    manifest = {path.name: (path.stat().st_size, sha256(path)) for path in files}
    for path in files:
        flush_to_disk(path)
    target = folder / MANIFEST
    target.write_text(_manifest_text(manifest), encoding="utf-8")
    flush_to_disk(target)
    flush_to_disk(folder)


def has_state(folder: Path) -> bool:
    """Return whether there is any state to resume from."""
    return bool(_states(folder))


def newest_epoch(folder: Path) -> int:
    """Return the number of finished epochs in the newest state, taken from its name; 0 without a state."""
    states = _states(folder)
    return int(states[-1].name.removeprefix("epoch-").partition(".")[0]) if states else 0


def newest_record(folder: Path, name: str) -> dict[str, Any] | None:
    """Return a part of the newest state's progress record, without reading the arrays; None without a state.

    Raises a `RunError` if the record is damaged.
    """
    states = _states(folder)
    return State(states[-1], {}, _read_json(states[-1] / PROGRESS)).record(name) if states else None


def remove_states(folder: Path) -> None:
    """Remove all states, including partial ones left by a killed process."""
    for path in (*_states(folder), *folder.glob(f"{TEMPORARY_PREFIX}epoch-*")):
        with naming(path):
            remove(path)


def read_state(folder: Path) -> State:
    """Return the newest state; raises a `RunError` if there is none, or one that names a damaged file."""
    states = _states(folder)
    if not states:
        raise RunError(f"{visible(folder)}: no state to resume from; start over with --overwrite")
    newest = states[-1]
    manifest = _read_manifest(newest / MANIFEST)
    for name, (size, digest) in manifest.items():
        path = newest / name
        if not path.is_file() or path.stat().st_size != size or sha256(path) != digest:
            raise RunError(f"{visible(path)}: damaged: it does not match the manifest; start over with --overwrite")
    groups = [name for name in manifest if name.endswith(".npz")]
    arrays = {name.removesuffix(".npz"): _read_arrays(newest / name) for name in groups}
    return State(newest, arrays, _read_json(newest / PROGRESS))


def _states(folder: Path, epoch: str = "*") -> list[Path]:
    """Return the states in a folder, the newest last."""
    found = folder.glob(f"epoch-{epoch}")
    return sorted(path for path in found if _STATE_NAME.fullmatch(path.name) and path.is_dir())


def _free_path(folder: Path, epoch: int) -> Path:
    """Return a name that sorts after every state of this epoch; those stay until the new one is complete."""
    first = folder / f"epoch-{epoch:06d}"
    same = _states(folder, f"{epoch:06d}*")
    return folder / f"{first.name}.{int(same[-1].suffix[1:] or 0) + 1:06d}" if same else first


def _read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of every file, from a manifest that is exactly as `_write_manifest` wrote it."""
    values = _read_json(path)
    try:
        manifest = {name: (int(row["size"]), str(row["sha256"])) for name, row in values.items()}
    except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError):
        manifest = {}
    foreign = [name for name in manifest if Path(name).name != name]
    if _manifest_text(manifest) != path.read_text(encoding="utf-8") or PROGRESS not in manifest or foreign:
        raise RunError(f"{visible(path)}: damaged; start over with --overwrite")
    return manifest


def _manifest_text(manifest: Mapping[str, tuple[int, str]]) -> str:
    return json.dumps({name: {"size": size, "sha256": digest} for name, (size, digest) in manifest.items()}, indent=1)


def _member(record: Mapping[str, dict[str, Any]], name: str, path: Path) -> dict[str, Any]:
    if not isinstance(record.get(name), dict):
        raise RunError(f"{visible(path)}: has no {name}: it is from another version; start over with --overwrite")
    return record[name]


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(archive, path.stat().st_size)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except _ARRAY_ERRORS as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error)}; start over with --overwrite") from None


def _check_sizes(archive: zipfile.ZipFile, file_bytes: int) -> None:
    """Raise a `ValueError` if reading would take more memory than the size of the file."""
    members = archive.infolist()
    if sum(member.file_size for member in members) > file_bytes or len(archive.NameToInfo) != len(members):
        raise ValueError("its members are larger than the file, or have the same name")
    for member in members:
        if member.compress_type != zipfile.ZIP_STORED or member.compress_size != member.file_size:
            raise ValueError(f"{member.filename} in it is compressed")
        with archive.open(member) as file:
            shape, dtype = _array_header(file)
            if dtype.hasobject or math.prod(shape) * dtype.itemsize != member.file_size - file.tell():
                raise ValueError(f"{member.filename} in it is not an array of the size that it says")


def _array_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and dtype in the header of an .npy file, leaving the file at the start of its values."""
    version = np.lib.format.read_magic(file)
    if version != (1, 0):  # what NumPy writes for arrays without named fields
        raise ValueError(f"an array of another version: {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(file, max_header_size=MAX_HEADER_BYTES)
    return shape, dtype


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(read_text(path, MAX_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{visible(path)}: damaged or missing: {visible(error)}; start over with --overwrite") from None
    if not isinstance(value, dict):
        raise RunError(f"{visible(path)}: damaged: not a record; start over with --overwrite")
    return value
