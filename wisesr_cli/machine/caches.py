"""The folder of caches (scans, decoded pixels), outside of the user's data.

Errors here never end a command: a cache that is damaged, or cannot be written, counts as empty.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

_ARRAY_ERRORS = (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, SyntaxError)


def cache_dir() -> Path:
    """Return the folder for caches: $WISESR_CACHE_DIR, $XDG_CACHE_HOME/wisesr, or ~/.cache/wisesr."""
    if named := os.environ.get("WISESR_CACHE_DIR"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "wisesr"
    home = os.environ.get("HOME")  # Path.home() raises where it is not set
    return Path(home or tempfile.gettempdir()) / ".cache" / "wisesr"


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays written by `save_arrays`, or an empty dict for a missing or damaged file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # zipfile and NumPy raise many kinds on damaged files
        if isinstance(error, _ARRAY_ERRORS) or type(error).__module__ in ("zipfile", "zlib", "struct"):
            return {}
        raise


def save_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays to a temporary name, then rename it; ignores errors of the file system."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            np.savez(file, **arrays)  # type: ignore[arg-type]
        temporary.replace(path)
    except OSError:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
