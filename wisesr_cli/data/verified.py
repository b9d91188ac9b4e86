"""Remembers which files decode completely, so that they need not be decoded again before training.

It stores one 64-bit hash per file, over its absolute path, size and modification time, and the pixel limit. A file that
changed has another hash.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wisesr_cli.errors import ImageError
from wisesr_cli.images.decoding import DECODER_VERSION, PIXEL_LIMIT
from wisesr_cli.listening import Listener
from wisesr_cli.machine import caches
from wisesr_cli.machine.threads import for_each

MOST_FILES = 5_000_000  # 40 MB; beyond that, the store is cleared

Keys = npt.NDArray[np.uint64]


def file_keys(paths: Sequence[str], *, pixel_limit: int = PIXEL_LIMIT) -> Keys:
    """Return a hash per file over what decides whether it is valid; 0 for missing files."""
    return np.array([_file_key(path, pixel_limit) for path in paths], np.uint64)


def recall_verified(keys: Keys) -> npt.NDArray[np.bool_]:
    """Return which of the files are known to decode completely."""
    known: npt.NDArray[np.bool_] = np.isin(keys, _stored()) & (keys != 0)
    return known


def _remember(keys: Keys) -> None:
    known = _stored()
    together = np.union1d(known, keys) if len(known) + len(keys) <= MOST_FILES else np.unique(keys)
    if len(together) > len(known) or len(known) + len(keys) > MOST_FILES:
        caches.save_arrays(_path(), {"keys": together})


def find_unreadable(
    decode: Callable[[int], object],
    positions: Sequence[int],
    keys: Keys,
    *,
    label: str,
    listener: Listener,
) -> dict[int, str]:
    """Return position -> reason for the files that `decode` raises an `ImageError` for; remember the others.

    `keys` are those of all files, `label` names the progress. `decode` runs in threads, which have all ended when this
    returns or raises.
    """
    reasons: dict[int, str] = {}

    def try_one(position: int) -> None:
        try:
            decode(position)
        except ImageError as error:
            reasons[position] = str(error)

    with listener.progress(label, len(positions)) as progress:
        for_each(try_one, positions, finished=progress.advance)
    valid = np.array([position for position in positions if position not in reasons], np.intp)
    _remember(keys[valid][keys[valid] != 0])
    return dict(sorted(reasons.items()))


def _file_key(path: str, pixel_limit: int) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116 - called for every file of a dataset
    except (OSError, ValueError):
        return 0
    facts = f"{DECODER_VERSION} {pixel_limit} {status.st_size} {status.st_mtime_ns} {path}"
    digest = hashlib.blake2b(facts.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _stored() -> Keys:
    keys = caches.load_arrays(_path()).get("keys", np.zeros(0, np.uint64))
    return keys if keys.dtype == np.uint64 and keys.ndim == 1 else np.zeros(0, np.uint64)


def _path() -> Path:
    return caches.cache_dir() / "verified.npz"
