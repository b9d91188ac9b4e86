"""Remembers which files decode completely, and a hash of their content, so that training need not read them first.

It stores two 64-bit hashes per file: a key over its absolute path, its stamp and how it is decoded, and one of its
content. A changed file has another key.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wisesr_cli.data.index import Contents, DatasetIndex
from wisesr_cli.data.listing.stamps import stamp_of
from wisesr_cli.errors import ImageError
from wisesr_cli.images import opening
from wisesr_cli.images.decoding import DECODER_VERSION, PIXEL_LIMIT, ImageHeader
from wisesr_cli.images.preparation import RGB
from wisesr_cli.listening import Listener
from wisesr_cli.machine import caches
from wisesr_cli.machine.threads import for_each

_BLOCK_BYTES = 1 << 20
MOST_FILES = 5_000_000  # 80 MB; beyond that, the store is cleared

Keys = npt.NDArray[np.uint64]


def file_keys(paths: Sequence[str], pixel_limit: int = PIXEL_LIMIT, channels: int = RGB) -> Keys:
    """Return a hash per file over everything that affects its validity; 0 for missing files."""
    rule = f"{DECODER_VERSION} {pixel_limit}" + ("" if channels == RGB else f" {channels} channels")
    return np.array([_file_key(path, rule) for path in paths], np.uint64)


def recall_verified(keys: Keys) -> npt.NDArray[np.bool_]:
    """Return which of the files are known to decode completely."""
    known: npt.NDArray[np.bool_] = np.isin(keys, _stored()[0]) & (keys != 0)
    return known


def with_contents(
    index: DatasetIndex,
    splits: Iterable[str],
    *,
    pixel_limit: int = PIXEL_LIMIT,
    channels: int = RGB,
    listener: Listener,
) -> DatasetIndex:
    """Return an index with a hash of the content of every file of `splits`, reading those not remembered."""
    known = dict(index.splits)
    for name in splits:
        paths = index.absolute(name)
        keys = file_keys(paths, pixel_limit, channels)
        known[name] = replace(index.splits[name], contents=_contents(paths, keys, listener))
    return replace(index, splits=known)


def _contents(paths: Sequence[str], keys: Keys, listener: Listener) -> Contents:
    """Return a hash of every file's bytes: (files,); 0 for an unreadable file, which is an error elsewhere."""
    known, stored = _stored()
    rows = np.minimum(np.searchsorted(known, keys), max(len(known) - 1, 0))
    is_known = (known[rows] == keys) & (keys != 0) if len(known) else np.zeros(len(keys), np.bool_)
    contents = np.zeros(len(keys), np.uint64)
    contents[is_known] = stored[rows[is_known]]
    missing = np.flatnonzero(~is_known).tolist()
    if not missing:
        return contents

    def read(position: int) -> None:
        contents[position] = _content_of(paths[position])

    with listener.progress("reading images", len(missing)) as progress:
        for_each(read, missing, finished=progress.advance)
    return contents


def _content_of(path: str) -> int:
    """Return a hash of a file's bytes; most files are read at once.

    `hashlib.file_digest` would clear 256 KB per file; processors have instructions for SHA-256.
    """
    digest = hashlib.sha256()
    try:
        descriptor, size = opening.open_descriptor(path)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            while block := file.read(min(size + 1, _BLOCK_BYTES)):
                digest.update(block)
    except (OSError, ImageError):
        return 0
    return _first_bits(digest.digest())


def _first_bits(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "little")


def _remember(keys: Keys, contents: Contents) -> None:
    known, stored = _stored()
    if len(known) + len(keys) > MOST_FILES:
        known, stored = known[:0], stored[:0]
    elif np.isin(keys, known).all():
        return
    together, rows = np.unique(np.concatenate([keys, known]), return_index=True)
    caches.save_arrays(_path(), {"keys": together, "contents": np.concatenate([contents, stored])[rows]})


@dataclass
class Tried:
    """Position -> reason for files that cannot be decoded, and for those decoded despite damage."""

    unreadable: dict[int, str] = field(default_factory=dict)
    damaged: dict[int, str] = field(default_factory=dict)


def try_decoding(
    decode: Callable[[int, opening.Source], ImageHeader],
    paths: Sequence[str],
    positions: Sequence[int],
    keys: Keys,
    *,
    label: str,
    listener: Listener,
) -> Tried:
    """Return the files for which `decode` raises an `ImageError`, and the damaged ones; remember the others.

    `paths` and `keys` cover all files, `label` names the progress. `decode` gets a position and the file's bytes, or
    the open file if it was not read; it runs in threads, which have all ended when this returns or raises.
    """
    tried = Tried()
    contents = np.zeros(len(paths), np.uint64)

    def try_one(position: int) -> None:
        try:
            whole = opening.read_whole(paths[position])
            if whole is not None:
                header = decode(position, whole)
            else:
                with opening.open_regular(paths[position]) as file:
                    header = decode(position, file)
        except ImageError as error:
            tried.unreadable[position] = str(error)
            return
        if header.damage:
            tried.damaged[position] = header.damage
        elif whole is None:
            contents[position] = _content_of(paths[position])  # now, while it is still in the page cache
        else:
            contents[position] = _first_bits(hashlib.sha256(whole).digest())

    with listener.progress(label, len(positions)) as progress:
        for_each(try_one, positions, finished=progress.advance)
    valid = np.array(positions, np.intp)
    valid = valid[(keys[valid] != 0) & (contents[valid] != 0)]
    _remember(keys[valid], contents[valid])
    return Tried(dict(sorted(tried.unreadable.items())), dict(sorted(tried.damaged.items())))


def _file_key(path: str, rule: str) -> int:
    try:
        status = os.stat(path)  # noqa: PTH116 - called for every file of a dataset
    except (OSError, ValueError):
        return 0
    facts = f"{rule} {stamp_of(status)} {path}"
    digest = hashlib.blake2b(facts.encode("utf-8", "surrogateescape"), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def _stored() -> tuple[Keys, Contents]:
    """Return the sorted keys, and the content hash of each."""
    arrays = caches.load_arrays(_path())
    none = np.zeros(0, np.uint64)
    keys, contents = arrays.get("keys", none), arrays.get("contents", none)
    fits = keys.dtype == contents.dtype == np.uint64 and keys.ndim == 1 and keys.shape == contents.shape
    return (keys, contents) if fits else (none, none)


def _path() -> Path:
    return caches.cache_dir() / "verified.npz"
