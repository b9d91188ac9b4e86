"""Finds identical images with two labels or in two splits, which corrupt training or bias the evaluation."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from wisesr_cli import text
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.errors import ImageError
from wisesr_cli.images.opening import open_regular
from wisesr_cli.listening import Listener

MOST_SHOWN = 4  # files of a group named in a message


@dataclass(frozen=True)
class Duplicate:
    """Files with the same picture, but different labels or splits."""

    paths: tuple[str, ...]  # relative to the index's root
    labels: tuple[str, ...]
    splits: tuple[str, ...]
    sign: str = "="  # separator in text: = for equal bytes, else ~

    @classmethod
    def of(cls, rows: Iterable[tuple[str, str, str]], *, sign: str = "=") -> Duplicate:
        """Return the record for rows of path, label and split."""
        paths, labels, splits = zip(*rows, strict=True)
        return cls(paths, labels, splits, sign)

    def __str__(self) -> str:
        """Return the files with their splits and labels, as printable text."""
        shown = list(zip(self.paths, self.splits, self.labels, strict=True))
        more = f" {self.sign} {len(shown) - MOST_SHOWN:,} more" if len(shown) > MOST_SHOWN else ""
        names = (f"{text.visible(path)} ({split}, {text.visible(label)})" for path, split, label in shown[:MOST_SHOWN])
        return f" {self.sign} ".join(names) + more


def find_duplicates(index: DatasetIndex, listener: Listener) -> tuple[Duplicate, ...]:
    """Return groups of files with equal hashes that span splits or labels.

    Reads only files whose size, first and last bytes agree in the scan.
    """
    names = [name for name, split in index.splits.items() if split.facts is not None]
    paths = [path for name in names for path in index.splits[name].paths]
    if not paths:
        return ()
    splits = np.repeat(np.arange(len(names)), [len(index.splits[name]) for name in names])
    labels = np.concatenate([index.splits[name].labels for name in names])
    facts = np.concatenate([index.splits[name].facts[["size", "ends"]] for name in names])  # type: ignore[index]
    candidates = _groups_across(facts, splits, labels)
    found = []
    with listener.progress("comparing equal files", len(candidates)) as progress:
        for members in candidates:
            for same in _same_content(index.root, paths, members):
                if _spans_several(splits[same], labels[same]):
                    rows = ((paths[i], index.label_of(labels[i]), names[splits[i]]) for i in same)
                    found.append(Duplicate.of(rows))
            progress.advance()
    return tuple(found)


def duplicates_message(found: Sequence[Duplicate]) -> str:
    """Return a message with the number of duplicates and the first ones."""
    shown = "; ".join(str(duplicate) for duplicate in found[:3])
    more = "; ..." if len(found) > 3 else ""
    return f"{text.counted(len(found), 'image')} in two splits or under two labels: {shown}{more}"


def _groups_across(facts: np.ndarray, splits: np.ndarray, labels: np.ndarray) -> list[list[int]]:
    """Return groups of positions with equal size and ends that differ in split or label."""
    order = np.lexsort((facts["ends"], facts["size"]))
    ordered = facts[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    ends = np.append(starts[1:], len(order))
    several = ends - starts > 1
    groups = [np.sort(order[start:end]) for start, end in zip(starts[several], ends[several], strict=True)]
    return sorted(group.tolist() for group in groups if _spans_several(splits[group], labels[group]))


def _spans_several(splits: np.ndarray, labels: np.ndarray) -> bool:
    return len(splits) > 1 and bool(np.ptp(splits) > 0 or (labels != labels[0]).any())


def _same_content(root: str, paths: list[str], members: list[int]) -> list[list[int]]:
    by_hash: dict[bytes, list[int]] = {}
    for position in members:
        try:
            with open_regular(f"{root}/{paths[position]}") as file:
                digest = hashlib.file_digest(file, "blake2b").digest()
        except (ImageError, OSError):
            continue  # removed since the scan; decoding reports it
        by_hash.setdefault(digest, []).append(position)
    return list(by_hash.values())
