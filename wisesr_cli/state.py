"""The state directory: what resuming needs, always complete, whatever moment the process was killed at.

    state/epoch-000003/
      model.npz        weights, in order
      optimizer.npz    variables of the optimizer, in order
      progress.json    epoch, history, best so far, early stopping, fingerprints, versions
      manifest.json    size and SHA-256 of the others; written last

A state that is written again for the same epoch gets a number behind its name: epoch-000000.000001.
A state is written to a temporary name, flushed to disk and renamed; only then is the one before it taken away. Arrays
are read without pickle. NumPy only.
"""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import RunError
from wisesr_cli.files import TEMPORARY_PREFIX, flush_to_disk, naming, sha256
from wisesr_cli.text import visible

MANIFEST = "manifest.json"
PROGRESS = "progress.json"
Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class State:
    """One state as it was read: named groups of arrays and the progress record."""

    arrays: dict[str, dict[str, NDArray[Any]]]
    progress: dict[str, Any]


def write_state(folder: Path, epoch: int, arrays: Mapping[str, Arrays], progress: Mapping[str, Any]) -> None:
    """Write the state after `epoch` finished epochs and take away those before it."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f"{TEMPORARY_PREFIX}epoch-{epoch:06d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    with naming(folder):
        for group, values in arrays.items():
            with (temporary / f"{group}.npz").open("wb") as file:
                np.savez(file, **values)  # type: ignore[arg-type]
        (temporary / PROGRESS).write_text(json.dumps(progress, indent=1), encoding="utf-8")
        _write_manifest(temporary)
    final = _free_path(folder, epoch)
    temporary.rename(final)
    flush_to_disk(folder)
    for other in folder.iterdir():
        if other != final and other.is_dir() and other.name.startswith(("epoch-", TEMPORARY_PREFIX)):
            shutil.rmtree(other)


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


def read_state(folder: Path) -> State:
    """Return the newest state.

    Raises:
        RunError: there is none, or a file of it is damaged; the message names the file.
    """
    states = _states(folder)
    if not states:
        raise RunError(f"{visible(folder)}: no state to resume from; start anew with --overwrite")
    newest = states[-1]
    manifest = _read_manifest(newest / MANIFEST)
    for name, (size, digest) in manifest.items():
        path = newest / name
        if not path.is_file() or path.stat().st_size != size or sha256(path) != digest:
            raise RunError(f"{visible(path)}: damaged: it is not what the manifest says; start anew with --overwrite")
    groups = [name for name in manifest if name.endswith(".npz")]
    return State({name[: -len(".npz")]: _read_arrays(newest / name) for name in groups}, _read_json(newest / PROGRESS))


def _states(folder: Path, epoch: str = "*") -> list[Path]:
    """Return the states in a folder, the newest last."""
    return sorted(path for path in folder.glob(f"epoch-{epoch}") if path.is_dir())


def _free_path(folder: Path, epoch: int) -> Path:
    """Return a name that sorts behind every state of this epoch, as none may go before its successor is there."""
    first = folder / f"epoch-{epoch:06d}"
    same = _states(folder, f"{epoch:06d}*")
    return folder / f"{first.name}.{int(same[-1].suffix[1:] or 0) + 1:06d}" if same else first


def _read_manifest(path: Path) -> dict[str, tuple[int, str]]:
    """Return size and SHA-256 of every file, from a manifest that is exactly as `_write_manifest` wrote it."""
    values = _read_json(path)
    try:
        manifest = {name: (int(row["size"]), str(row["sha256"])) for name, row in values.items()}
    except (KeyError, TypeError, ValueError):
        manifest = {}
    if _manifest_text(manifest) != path.read_text(encoding="utf-8") or PROGRESS not in manifest:
        raise RunError(f"{visible(path)}: damaged; start anew with --overwrite")
    return manifest


def _manifest_text(manifest: Mapping[str, tuple[int, str]]) -> str:
    return json.dumps({name: {"size": size, "sha256": digest} for name, (size, digest) in manifest.items()}, indent=1)


def _read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error)}") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{visible(path)}: damaged or missing: {visible(error)}") from None
    if not isinstance(value, dict):
        raise RunError(f"{visible(path)}: damaged: not a record")
    return value
