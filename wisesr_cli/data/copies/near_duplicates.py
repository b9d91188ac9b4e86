"""Finds copies of pictures (re-encoded, resized, mirrored) with two labels or in two splits, and draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from wisesr_cli import text
from wisesr_cli.data.copies.descriptors import SIDE, Descriptors
from wisesr_cli.data.copies.duplicates import Duplicate
from wisesr_cli.data.copies.search import Positions, find_pairs
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.display.pictures import check_sheet_file, contact_sheet, photo_tile
from wisesr_cli.errors import ImageError, UsageError
from wisesr_cli.images import decoding
from wisesr_cli.images.color import shown
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.listening import Listener
from wisesr_cli.machine.threads import for_each

SMALL = 64  # pixels; 98 % of half-size copies of photos this large are found, 57 % of those of 48 pixels
MOST_DRAWN = 50  # pairs on a sheet
_TILE = 192  # pixels


@dataclass(frozen=True)
class NearDuplicates:
    """The near-duplicates among the pictures of an index."""

    pairs: tuple[Duplicate, ...]  # of two files each, sorted by path
    compared: int  # pictures
    small: int  # compared pictures with a side below SMALL pixels, whose copies may be missed
    uniform: tuple[str, ...]  # paths of pictures with too few edges to compare


def find_near_duplicates(
    index: DatasetIndex,
    identical: Sequence[Duplicate],
    *,
    preparation: Preparation = decoding.AS_STORED,
    pixel_limit: int,
    listener: Listener,
) -> NearDuplicates:
    """Return the pairs of similar pictures that span splits or labels, except the `identical` files.

    Decodes every image, skipping unreadable ones. Finds only the few closest partners of each picture.
    """
    paths = [path for split in index.splits.values() for path in split.paths]
    absolute = [path for name in index.splits for path in index.absolute(name)]
    names = list(index.splits)
    splits = np.repeat(np.arange(len(names)), [len(split) for split in index.splits.values()])
    labels = np.concatenate([split.labels for split in index.splits.values()])
    pictures, has_edges, was_read = _describe(absolute, replace(preparation, resize="squash"), pixel_limit, listener)
    groups = {path: number for number, group in enumerate(identical) for path in group.paths}
    kept = np.flatnonzero(has_edges)
    same = np.array([groups.get(paths[position], -1) for position in kept], np.intp)
    kinds = labels if labels.ndim == 1 else np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1)
    places = splits * (int(kinds.max(initial=0)) + 1) + kinds
    found = kept[find_pairs(pictures.taken(kept), places[kept], same, listener)]

    def pair(positions: Positions) -> Duplicate:
        rows = sorted((paths[i], index.label_of(labels[i]), names[splits[i]]) for i in positions)
        return Duplicate.of(rows, sign="~")

    uniform = tuple(sorted(paths[position] for position in np.flatnonzero(was_read & ~has_edges)))
    pairs = tuple(sorted(map(pair, found), key=lambda each: each.paths))
    return NearDuplicates(pairs, len(kept), int(_is_small(index)[kept].sum()), uniform)


def near_duplicates_message(found: Sequence[Duplicate], sheet: Path | None) -> str:
    """Return a message with the number of pairs, the first ones, and what to do."""
    shown = "; ".join(str(pair) for pair in found[:3]) + ("; ..." if len(found) > 3 else "")
    look = "look at them" if sheet is None else f"look at them in {text.visible(sheet)}"
    count = text.counted(len(found), "pair looks like a copy", "pairs look like copies")
    advice = "remove one of each, or keep them together with data.group_regex"
    return f"{count} (re-encoded, resized or mirrored) in two splits or under two labels: {shown}; {look}, and {advice}"


def check_sheet(path: Path | None, *, near_duplicates: bool, overwrite: bool) -> None:
    """Raise a `UsageError` if a sheet is given without near-duplicates, cannot be written, or would replace a file."""
    if not near_duplicates and (path is not None or overwrite):
        raise UsageError(f"{'--overwrite' if path is None else '--sheet'} needs --near-duplicates")
    if path is not None:
        check_sheet_file(path, overwrite=overwrite)


def draw_near_duplicates(
    found: Sequence[Duplicate], root: str, path: Path, *, preparation: Preparation, pixel_limit: int
) -> None:
    """Write a PNG of the first pairs, two in a row."""
    tiles = []
    for pair in found[:MOST_DRAWN]:
        for member, label, split in zip(pair.paths, pair.labels, pair.splits, strict=True):
            file = f"{root.rstrip('/')}/{member}"
            pixels = photo_tile(file, _TILE, preparation, pixel_limit=pixel_limit)
            tiles.append((pixels, f"{split}, {label}: {Path(member).name}", None))
    foot = [f"{min(len(found), MOST_DRAWN):,} of {text.counted(len(found), 'pair')}; --format json lists all"]
    contact_sheet(tiles, columns=4, tile=_TILE, path=path, foot=foot)


def _is_small(index: DatasetIndex) -> np.ndarray:
    """Return which images are small according to their headers: (images,)."""
    sizes = [
        np.full(len(split), SMALL) if split.facts is None else np.minimum(split.facts["width"], split.facts["height"])
        for split in index.splits.values()
    ]
    return np.concatenate(sizes) < SMALL


def _describe(
    paths: Sequence[str], preparation: Preparation, pixel_limit: int, listener: Listener
) -> tuple[Descriptors, np.ndarray, np.ndarray]:
    """Return the descriptors of images, which have enough edges, and which could be read: (images,) each."""
    pictures = Descriptors.empty(len(paths))
    has_edges, was_read = np.zeros((2, len(paths)), np.bool_)

    def describe(position: int) -> None:
        try:
            pixels = decoding.decode_image(
                paths[position], image_size=(SIDE, SIDE), preparation=preparation, pixel_limit=pixel_limit
            )
        except ImageError:
            return
        was_read[position] = True
        has_edges[position] = pictures.put(position, shown(pixels))

    with listener.progress("looking for copies", len(paths)) as progress:
        for_each(describe, range(len(paths)), finished=progress.advance)
    return pictures, has_edges, was_read
