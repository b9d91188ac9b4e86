"""The folder of caches (scans, decoded pixels), outside of the user's data.

Errors here never end a command: a cache that is damaged, or cannot be written, counts as empty.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wisesr_cli.machine.files import make_private

_ARRAY_ERRORS = (OSError, ValueError, KeyError, EOFError, TypeError, MemoryError, SyntaxError)


def cache_dir() -> Path:
    """Return the folder for caches: $WISESR_CACHE_DIR, $XDG_CACHE_HOME/wisesr, ~/.cache/wisesr, or a private one."""
    if named := os.environ.get("WISESR_CACHE_DIR"):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME")
    if base and Path(base).is_absolute():
        return Path(base) / "wisesr"
    if home := os.environ.get("HOME"):  # Path.home() raises where it is not set
        return Path(home) / ".cache" / "wisesr"
    return _private_folder()


@cache
def _private_folder() -> Path:
    """Return a private folder in the temporary directory, or one for this process alone if that fails.

    Another user may have created the folder first, and its files would be read as images.
    """
    folder = Path(tempfile.gettempdir()) / f"wisesr-{os.geteuid()}"
    with contextlib.suppress(OSError):
        if make_private(folder):
            return folder
    own = tempfile.mkdtemp(prefix="wisesr-")
    atexit.register(shutil.rmtree, own, ignore_errors=True)
    return Path(own)


def load_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays written by `save_arrays`, or an empty dict for a missing or damaged file."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in stored.files}
    except Exception as error:  # zipfile and NumPy raise many kinds of errors on damaged files
        if isinstance(error, _ARRAY_ERRORS) or type(error).__module__ in ("zipfile", "zlib", "struct"):
            return {}
        raise


def save_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    """Write arrays to a temporary name, then rename it; ignores file system errors."""
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
