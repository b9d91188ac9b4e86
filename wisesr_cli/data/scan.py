"""Reads the header of every image in threads and caches the facts.

The cache of a data folder is in the cache folder. It maps relative paths to facts, which are valid while the file's
stamp is unchanged; a second scan only lists the folders.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wisesr_cli.data.index import ALPHA, ANIMATED, DEEP, FACTS, Facts
from wisesr_cli.data.listing.stamps import FIELDS
from wisesr_cli.errors import ImageError
from wisesr_cli.images import decoding, opening
from wisesr_cli.images.preparation import RGB, Preparation
from wisesr_cli.images.supported import SUPPORTED
from wisesr_cli.listening import Listener
from wisesr_cli.machine import caches
from wisesr_cli.machine.threads import for_each

_VERSION = 2  # increase it when `FACTS` or the meaning of a field changes
_ENDS_BYTES = 4096
_WORKERS = 2  # headers are parsed in Python: a second thread hides the latency of a disk, more get in each other's way
_FORMATS = {name: position for position, name in enumerate(SUPPORTED)}


def scan_files(
    root: str,
    paths: Sequence[str],
    stamps: npt.NDArray[np.void],
    *,
    cache_of: str,
    pixel_limit: int,
    channels: int = RGB,
    listener: Listener,
) -> tuple[Facts, dict[int, str]]:
    """Return the facts of the files, and position -> reason for those whose header cannot be read or is rejected.

    Files with another number of `channels` are rejected, unless it is that of RGB, to which every image is converted.
    `paths` are relative to `root`; `stamps` are the current ones, of dtype STAMP. Each folder `cache_of` has its own
    cache.
    """
    facts = np.zeros(len(paths), FACTS)
    for field in FIELDS:
        facts[field] = stamps[field]
    key = hashlib.blake2b(f"{root}\0{cache_of}".encode("utf-8", "surrogateescape"), digest_size=16).hexdigest()
    kind = "" if channels == RGB else f"-{channels}"
    cache = caches.cache_dir() / "scans" / f"{key}-{_VERSION}-{decoding.DECODER_VERSION}{kind}.npz"
    unknown = _recall(cache, paths, facts)
    too_large = _too_large(facts, pixel_limit)
    if not len(unknown):
        return facts, too_large
    unreadable: dict[int, str] = {}

    def read(position: int) -> None:
        fact = _read_fact(f"{root}/{paths[position]}", pixel_limit, Preparation(channels=channels))
        if isinstance(fact, str):
            unreadable[position] = fact
        else:
            facts[position] = (*stamps[position].tolist(), *fact)

    with listener.progress("looking at images", len(paths)) as progress:
        progress.advance(len(paths) - len(unknown))
        for_each(read, unknown.tolist(), workers=_WORKERS, finished=progress.advance)
    if len(unreadable) < len(unknown):
        _remember(cache, paths, facts, unreadable)
    return facts, dict(sorted({**unreadable, **too_large}.items()))


def _too_large(facts: Facts, pixel_limit: int) -> dict[int, str]:
    """Return the cached files above the current limit, which may have been higher before."""
    pixels = facts["width"].astype(np.int64) * facts["height"]
    return {
        position: decoding.size_reason(int(facts["width"][position]), int(facts["height"][position]), pixel_limit)
        for position in np.flatnonzero(pixels > pixel_limit).tolist()
    }


def _read_fact(path: str, pixel_limit: int, preparation: Preparation) -> tuple[int, ...] | str:
    """Return the fields of `FACTS` from `ends` on, or the reason why the file cannot be read."""
    try:
        descriptor, size = opening.open_descriptor(path)
        try:
            prefix = os.read(descriptor, opening.PREFIX_BYTES)
            start = max(0, size - _ENDS_BYTES)
            last = prefix[start:] if size == len(prefix) else os.pread(descriptor, _ENDS_BYTES, start)
        finally:
            os.close(descriptor)
        rule: dict[str, Any] = {"pixel_limit": pixel_limit, "preparation": preparation}
        header = None if size > decoding.FILE_LIMIT else decoding.header_of_prefix(prefix, **rule)
        if header is None:
            with opening.open_regular(path) as file:
                header = decoding.read_header(file, **rule)
    except ImageError as error:
        return str(error)
    except OSError as error:
        return (error.strerror or "cannot be read").lower()
    ends = hashlib.blake2b(prefix[:_ENDS_BYTES] + last, digest_size=8).digest()
    flags = ANIMATED * header.animated | ALPHA * header.alpha | DEEP * (header.bits > 8)
    where = _FORMATS[header.format]
    return int.from_bytes(ends, "little"), header.width, header.height, where, header.orientation, flags


def _recall(cache: Path, paths: Sequence[str], facts: Facts) -> np.ndarray[tuple[int], np.dtype[np.intp]]:
    """Fill in the cached facts; return the positions of the other files."""
    stored = caches.load_arrays(cache)
    every_position = np.arange(len(paths))
    if not {"names", "facts"} <= stored.keys() or stored["facts"].dtype != FACTS:
        return every_position
    names = stored["names"].tobytes().decode("utf-8", "surrogateescape").split("\0")
    if len(names) != len(stored["facts"]):
        return every_position
    rows = {name: row for row, name in enumerate(names)}
    found = np.array([rows.get(path, -1) for path in paths], np.intp)
    known = stored["facts"][found]  # -1 selects the last row, which the next line excludes
    same = np.logical_and.reduce([found >= 0, *(known[field] == facts[field] for field in FIELDS)])
    facts[same] = known[same]
    return np.flatnonzero(~same)


def _remember(cache: Path, paths: Sequence[str], facts: Facts, unreadable: dict[int, str]) -> None:
    readable = np.array([i for i in range(len(paths)) if i not in unreadable], np.intp)
    names = "\0".join(paths[i] for i in readable).encode("utf-8", "surrogateescape")
    caches.save_arrays(cache, {"names": np.frombuffer(names, np.uint8), "facts": facts[readable]})
