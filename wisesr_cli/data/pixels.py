"""Serves uint8 batches of images for training and evaluation, decoded in threads, once or in every epoch."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from wisesr_cli import text
from wisesr_cli.data import disk_cache
from wisesr_cli.data.dataset import refuse_or_warn
from wisesr_cli.data.oddities import damaged_message
from wisesr_cli.data.verified import Keys, file_keys, recall_verified, try_decoding
from wisesr_cli.errors import DataError, ImageError, MachineError
from wisesr_cli.images import decoding
from wisesr_cli.images.color import Pixels
from wisesr_cli.images.opening import Source
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.listening import Listener
from wisesr_cli.machine.memory import available_memory_bytes
from wisesr_cli.machine.stopping import signals_held
from wisesr_cli.machine.threads import results, worker_count
from wisesr_cli.processes.channel import ALONE_CHANNEL, Channel

Cache = Literal["auto", "none", "memory", "disk"]
Positions = npt.NDArray[np.int64]
Shape = disk_cache.Shape  # (files, height, width, channels)


class DecodedImages:
    """The readable images of a list of files at one size, by index.

    `kept` maps an index to its position in the list of files: the labels are `labels[pixels.kept]`. `key` identifies
    the pixels of all files (see `verified.file_keys`) at this size.
    """

    def __init__(
        self, paths: Sequence[str], kept: Positions, read: Callable[[int], Pixels], shape: Shape, key: str
    ) -> None:
        self.kept, self.key = kept, key
        self.cache: Cache = "none"
        self._paths = paths
        self._read = read
        self._shape = shape[1:]
        self._rows: Pixels | None = None
        self._known: npt.NDArray[np.bool_] | None = None  # which rows have been read; None: all
        self._disk: disk_cache.DiskCache | None = None
        self._workers = worker_count()
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="wisesr")

    def __len__(self) -> int:
        return len(self.kept)

    def batch(self, indices: npt.NDArray[np.integer]) -> Pixels:
        """Return the images at `indices`, uint8 (batch, height, width, channels); may be called from several threads.

        Raises `DataError` for a file that was removed or damaged since it was first read.
        """
        positions = self.kept[indices]
        if self._rows is not None:
            self._read_missing(self._rows, positions)
            chosen: Pixels = self._rows[positions]
            return chosen
        batch = np.empty((len(positions), *self._shape), np.uint8)
        if self._disk is not None:
            self._read_disk(self._disk, positions, batch)
        else:
            self._decode_into(positions, batch)
        return batch

    def close(self) -> None:
        """Stop the threads and release the cache."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._rows = None
        if self._disk is not None:
            self._disk.close()

    def keep_rows(self, rows: Pixels, known: npt.NDArray[np.bool_] | None = None) -> None:
        """Serve batches from `rows`, (files, height, width, channels); those not `known` are read on demand."""
        self._rows, self._known, self.cache = rows, known, "memory"

    def keep_disk(self, disk: disk_cache.DiskCache) -> None:
        """Serve batches from a cache on disk."""
        self._disk, self.cache = disk, "disk"

    def _read_missing(self, rows: Pixels, positions: Positions) -> None:
        """Decode and store the files at `positions` that have not been read yet."""
        if self._known is None or len(missing := positions[~self._known[positions]]) == 0:
            return
        batch = np.empty((len(missing), *self._shape), np.uint8)
        self._decode_into(missing, batch)
        rows[missing] = batch
        self._known[missing] = True  # after the pixels: other threads may read it

    def _read_disk(self, disk: disk_cache.DiskCache, positions: Positions, batch: Pixels) -> None:
        try:
            disk.read(positions, batch)
        except OSError as error:
            reason = error.strerror or "cannot be read"
            raise MachineError(
                f"{text.visible(str(disk.path))}: decoded images can no longer be read: {reason}; "
                "remove the file, or set data.cache: none"
            ) from error

    def _decode_into(self, positions: Positions, batch: Pixels) -> None:
        """Decode images into the rows of a batch, in threads."""
        rest = iter(list(enumerate(positions.tolist())))

        def fill() -> None:
            for row, position in rest:
                batch[row] = self._decode(position)

        with signals_held():
            filling = [self._pool.submit(fill) for _ in range(min(self._workers, len(positions)))]
        results(filling)

    def _decode(self, position: int) -> Pixels:
        try:
            return self._read(position)
        except ImageError as error:
            path = text.visible(self._paths[position])
            raise DataError(f"{path}: {error}; it could be read when the run started") from error


def open_pixels(
    paths: Sequence[str],
    *,
    image_size: tuple[int, int],
    preparation: Preparation,
    cache: Cache,
    on_error: Literal["fail", "skip"],
    pixel_limit: int = decoding.PIXEL_LIMIT,
    listener: Listener,
    channel: Channel = ALONE_CHANNEL,
) -> DecodedImages:
    """Return the images of files, each decoded once before this returns unless known to be valid.

    Each of several processes decodes its share, and caches what it decodes now and later if there is space. `auto`
    caches in memory if the images fill at most a quarter of the available memory, else on disk, else not at all.
    Unreadable images raise a single `DataError`, or with `skip` give a warning.
    """
    shape = (len(paths), *image_size, preparation.channels)

    def read(position: int) -> Pixels:
        return decoding.decode_image(
            paths[position], image_size=image_size, preparation=preparation, pixel_limit=pixel_limit
        )

    def read_first(source: Source) -> tuple[Pixels, decoding.ImageHeader]:
        return decoding.decode_with_header(
            source, image_size=image_size, preparation=preparation, pixel_limit=pixel_limit
        )

    keys = file_keys(paths, pixel_limit, preparation.channels)
    loading = _Loading(paths, keys, shape, preparation, read, read_first, on_error, listener)
    if channel.processes > 1:
        return _load_share(loading, cache, channel)
    for name in _caches_to_try(cache, shape):
        loaded = _LOADERS[name](loading)
        if loaded is not None:
            return loaded
        listener.warn(f"no room to keep decoded images ({name}): decoding them again in every epoch")
    # Decode only files not known to be valid, and store no pixels.
    unknown = np.flatnonzero(~recall_verified(keys))
    readable = loading.decode(unknown, lambda position, pixels: None) if len(unknown) else loading.readable(())
    return loading.pixels(readable)


def epoch_order(count: int, *, seed: int, epoch: int) -> Positions:
    """Return the order of `count` examples in an epoch: a permutation that depends only on `seed` and `epoch`."""
    return np.random.default_rng([seed, epoch]).permutation(count).astype(np.int64)


@dataclass
class _Loading:
    """The arguments shared by all ways of loading."""

    paths: Sequence[str]
    keys: Keys
    shape: Shape
    preparation: Preparation
    read: Callable[[int], Pixels]
    read_first: Callable[[Source], tuple[Pixels, decoding.ImageHeader]]  # slower, but also reports oddities
    on_error: str
    listener: Listener

    def key(self) -> str:
        return disk_cache.pixels_key(self.keys, self.shape[1:3], self.preparation)

    def cache_path(self) -> Path:
        return disk_cache.cache_path(self.key(), "pixels")

    def readable(self, reasons: Iterable[int]) -> npt.NDArray[np.bool_]:
        """Return which of all files are readable, given the unreadable positions."""
        readable = np.ones(len(self.paths), np.bool_)
        readable[list(reasons)] = False
        return readable

    def pixels(self, readable: npt.NDArray[np.bool_]) -> DecodedImages:
        kept = np.flatnonzero(readable).astype(np.int64)
        return DecodedImages(self.paths, kept, self.read, self.shape, self.key())

    def decode(self, positions: Positions, store: Callable[[int, Pixels], None]) -> npt.NDArray[np.bool_]:
        """Decode files and store their pixels; return which of all files are readable."""
        reasons = self.reasons(positions, store)
        self.report(reasons)
        return self.readable(reasons)

    def reasons(self, positions: Positions, store: Callable[[int, Pixels], None]) -> dict[int, str]:
        """Decode files and store their pixels; return position -> reason for the unreadable ones."""

        def decode(position: int, source: Source) -> decoding.ImageHeader:
            pixels, header = self.read_first(source)
            store(position, pixels)
            return header

        tried = try_decoding(
            decode, self.paths, positions.tolist(), self.keys, label="reading images", listener=self.listener
        )
        if tried.damaged:
            self.listener.warn(
                damaged_message(len(tried.damaged), [self.paths[position] for position in tried.damaged])
            )
        return tried.unreadable

    def report(self, reasons: dict[int, str]) -> None:
        """Raise or warn for unreadable images, as configured."""
        if not reasons:
            return
        unreadable = [(self.paths[position], reason) for position, reason in sorted(reasons.items())]
        if self.on_error == "skip" and len(unreadable) == len(self.paths):
            raise DataError(f"no image can be read: {text.visible(unreadable[0][0])}: {unreadable[0][1]}; ...")
        refuse_or_warn(unreadable, on_error=self.on_error, listener=self.listener)


def _load_into_memory(loading: _Loading) -> DecodedImages | None:
    try:
        rows = np.empty(loading.shape, np.uint8)
    except MemoryError:
        return None
    readable = loading.decode(np.arange(len(loading.paths)), rows.__setitem__)
    pixels = loading.pixels(readable)
    pixels.keep_rows(rows)
    return pixels


def _load_onto_disk(loading: _Loading) -> DecodedImages | None:
    path = loading.cache_path()
    found = disk_cache.open_cache(path, loading.shape)
    if found is not None:
        _report_again(loading, found)
    else:
        try:
            with disk_cache.new_cache(path, loading.shape) as writer:
                loading.decode(np.arange(len(loading.paths)), writer.write)
        except OSError:
            return None
        found = disk_cache.open_cache(path, loading.shape)
        if found is None:
            return None
    pixels = loading.pixels(found.readable)
    pixels.keep_disk(found)
    return pixels


def _report_again(loading: _Loading, found: disk_cache.DiskCache) -> None:
    """Report the files that were unreadable when the cache was written, decoding them again for the reasons."""
    unreadable = np.flatnonzero(~found.readable)
    if len(unreadable):
        with _closed_on_error(found):
            loading.decode(unreadable, lambda position, pixels: None)


@contextlib.contextmanager
def _closed_on_error(disk: disk_cache.DiskCache | None) -> Iterator[None]:
    try:
        yield
    except BaseException:
        if disk is not None:
            disk.close()
        raise


def _load_share(loading: _Loading, cache: Cache, channel: Channel) -> DecodedImages:
    """Decode this process's share of the files, and learn from the others which of theirs are unreadable.

    Caches only its own share in memory; uses a cache on disk only if a complete one exists.
    """
    mine = share_of_files(np.arange(len(loading.paths)), process=channel.process, processes=channel.processes)
    disk, rows = _cache_of_share(loading, cache, channel)
    with _closed_on_error(disk):
        if rows is not None:
            reasons = loading.reasons(mine, rows.__setitem__)
        else:
            sound = recall_verified(loading.keys) if disk is None else disk.readable
            reasons = loading.reasons(mine[~sound[mine]], lambda position, pixels: None)
        pixels = loading.pixels(_readable_everywhere(loading, reasons, channel))
    if disk is not None:
        pixels.keep_disk(disk)
    elif rows is not None:
        pixels.keep_rows(rows, np.isin(np.arange(len(rows)), mine))
    return pixels


def _cache_of_share(
    loading: _Loading, cache: Cache, channel: Channel
) -> tuple[disk_cache.DiskCache | None, Pixels | None]:
    """Return a complete cache on disk, an array for all images that takes memory only as it fills, or neither."""
    disk = disk_cache.open_cache(loading.cache_path(), loading.shape) if cache in {"auto", "disk"} else None
    if disk is not None:
        return disk, None
    together = int(np.prod(loading.shape)) * channel.rank_on_host[1]
    if cache == "memory" or (cache == "auto" and together <= available_memory_bytes() // 4):
        with contextlib.suppress(MemoryError):
            return None, np.empty(loading.shape, np.uint8)
    if cache in {"memory", "disk"} and channel.is_main:
        loading.listener.warn(f"no room to keep decoded images ({cache}): decoding them again in every epoch")
    return None, None


def _readable_everywhere(loading: _Loading, reasons: dict[int, str], channel: Channel) -> npt.NDArray[np.bool_]:
    """Return which files are readable in every process; the main process reports the rest."""
    exchanged = channel.exchange(sorted(reasons.items()))
    everywhere = {int(position): str(reason) for part in exchanged for position, reason in part}
    if channel.is_main:
        loading.report(everywhere)
    return loading.readable(everywhere)


def _caches_to_try(cache: Cache, shape: Shape) -> list[str]:
    if cache != "auto":
        return [] if cache == "none" else [cache]
    if int(np.prod(shape)) <= available_memory_bytes() // 4:
        return ["memory"]
    return ["disk"] if disk_cache.has_room(shape) else []


_LOADERS: dict[str, Callable[[_Loading], DecodedImages | None]] = {"memory": _load_into_memory, "disk": _load_onto_disk}


def share_of_files(positions: Positions, *, process: int, processes: int) -> Positions:
    """Return every `processes`-th position, so that no process gets all files of a class or camera."""
    return positions[process::processes]
