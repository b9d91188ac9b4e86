"""The records of a dataset: which files belong to which split and class, compact enough for a million files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from wisesr_cli import text
from wisesr_cli.data.listing.stamps import STAMP

Labels = npt.NDArray[np.int64]
Facts = npt.NDArray[np.void]
Contents = npt.NDArray[np.uint64]
Weights = npt.NDArray[np.float32]

# Facts about a file: its stamp, a hash of its first and last bytes (for finding duplicates), and its image header.
FACTS = np.dtype(
    [
        *STAMP.descr,
        ("ends", "<u8"),
        ("width", "<i4"),
        ("height", "<i4"),
        ("format", "u1"),  # position in images.SUPPORTED
        ("orientation", "u1"),
        ("flags", "u1"),
    ]
)
ANIMATED, ALPHA, DEEP = 1, 2, 4  # bits of `flags`


@dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split, in a stable order."""

    paths: tuple[str, ...]  # relative to the index's root, with /
    labels: Labels  # positions in the index's class names
    facts: Facts | None = None  # dtype FACTS; None when the files were not scanned
    contents: Contents | None = None  # a hash of every file's bytes, where they were read
    groups: tuple[str, ...] | None = None  # what must not straddle splits, where a manifest names it
    weights: Weights | None = None  # in the loss of a training, where a manifest names them

    def __len__(self) -> int:
        return len(self.paths)

    def taken(self, positions: npt.NDArray[np.intp]) -> Split:
        """Return the examples at `positions`."""
        paths = tuple(self.paths[position] for position in positions)
        facts = None if self.facts is None else self.facts[positions]
        contents = None if self.contents is None else self.contents[positions]
        groups = None if self.groups is None else tuple(self.groups[position] for position in positions)
        weights = None if self.weights is None else self.weights[positions]
        return Split(paths, self.labels[positions], facts, contents, groups, weights)


@dataclass(frozen=True)
class Changes:
    """What has changed in a dataset since a record was taken."""

    lines: tuple[str, ...]  # images that came, went, or have another content or weight
    are_dates_other: bool  # of images with the same content


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """Every example of a dataset; a label is a position in `class_names`, which are sorted by code point."""

    class_names: tuple[str, ...]
    root: str  # the data folder
    splits: dict[str, Split]  # `train`, and `validation` and `test` where there are any
    folders: dict[str, str] = field(default_factory=dict)  # split -> its folder, or the manifest that names it
    unreadable: tuple[tuple[str, str], ...] = ()  # (path, reason)
    ignored: dict[str, int] = field(default_factory=dict)  # suffix or kind -> number of skipped files

    def absolute(self, split: str) -> list[str]:
        """Return the absolute paths of a split, in the order of its labels."""
        start = self.root.rstrip("/") + "/"
        return [start + path for path in self.splits[split].paths]

    def counts(self, split: str) -> Labels:
        """Return the number of examples of each class in a split: (classes,)."""
        return np.bincount(self.splits[split].labels, minlength=len(self.class_names)).astype(np.int64)

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield (path, class name, split) of every example."""
        for name, split in self.splits.items():
            for path, label in zip(split.paths, split.labels.tolist(), strict=True):
                yield path, self.class_names[label], name

    def record(self) -> dict[str, Any]:
        """Return the record for `changes_since`: per split and class the number of files, a hash, and a second one.

        Both cover the relative paths, the first one sizes and dates of modification, the second one, which is there
        where every file was read, the contents. Where there are weights, another hash is of those of training.
        """
        weights = _hash_weights(self.splits["train"]) if "train" in self.splits else None
        return {
            "classes": list(self.class_names),
            "splits": {name: self._split_record(split) for name, split in self.splits.items()},
            **({} if weights is None else {"weights": weights}),
        }

    def changes_since(self, record: dict[str, Any]) -> Changes:
        """Return the changes since `record` was taken: by content, or by size and date where a record lacks it."""
        now = self.record()
        lines, are_dates_other = [], False
        if now["classes"] != record.get("classes"):
            lines.append(_class_difference(record.get("classes", []), now["classes"]))
        before_splits: dict[str, Any] = record.get("splits", {})
        for split in sorted(before_splits.keys() | now["splits"].keys()):
            before, after = before_splits.get(split, {}), now["splits"].get(split, {})
            lines.extend(_split_differences(split, before, after))
            are_dates_other |= any(before[name][1] != after[name][1] for name in before.keys() & after.keys())
        if not lines and now.get("weights") != record.get("weights"):
            lines.append("the weights of training images")
        return Changes(tuple(lines), are_dates_other)

    def _split_record(self, split: Split) -> dict[str, list[Any]]:
        order = np.argsort(split.labels, kind="stable")
        bounds = np.searchsorted(split.labels[order], np.arange(len(self.class_names) + 1))
        result: dict[str, list[Any]] = {}
        for label, name in enumerate(self.class_names):
            members = order[bounds[label] : bounds[label + 1]]
            if len(members):
                result[name] = [len(members), *_hash_files(split.taken(members))]
        return result


def index_from_rows(root: str, class_names: Iterable[str], rows: Iterable[tuple[str, str, str]]) -> DatasetIndex:
    """Return the index of stored rows (path, class name, split), without reading the files."""
    names = tuple(class_names)
    positions = {name: label for label, name in enumerate(names)}
    paths: dict[str, list[str]] = {}
    labels: dict[str, list[int]] = {}
    for path, name, split in rows:
        paths.setdefault(split, []).append(path)
        labels.setdefault(split, []).append(positions[name])
    splits = {split: Split(tuple(paths[split]), np.array(labels[split], np.int64)) for split in paths}
    return DatasetIndex(names, root, splits)


def _hash_files(split: Split) -> tuple[str, ...]:
    order = sorted(range(len(split)), key=split.paths.__getitem__)
    names = "\0".join(split.paths[i] for i in order).encode("utf-8", "surrogateescape")
    dated = hashlib.blake2b(names, digest_size=16)
    content = dated.copy()
    if split.facts is not None:
        chosen = split.facts[order]
        dated.update(np.ascontiguousarray(chosen["size"]).tobytes())
        dated.update(np.ascontiguousarray(chosen["mtime_ns"]).tobytes())
    if split.contents is None:
        return (dated.hexdigest(),)
    content.update(split.contents[order].tobytes())
    return dated.hexdigest(), content.hexdigest()


def _hash_weights(split: Split) -> str | None:
    if split.weights is None:
        return None
    order = sorted(range(len(split)), key=split.paths.__getitem__)
    return hashlib.blake2b(split.weights[order].tobytes(), digest_size=16).hexdigest()


def _is_same(before: list[Any] | None, after: list[Any] | None) -> bool:
    """Return whether the records of a class, (number, hash with dates, hash of contents), are of the same images."""
    if before is None or after is None:
        return False
    seen = slice(0, 3, 2) if len(before) == len(after) == 3 else slice(0, 2)
    return before[seen] == after[seen]


def _class_difference(before: list[str], after: list[str]) -> str:
    gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    parts = [f"no longer there: {text.joined(gone[:5])}"] if gone else []
    parts += [f"new: {text.joined(new[:5])}"] if new else []
    return f"classes: {len(before):,} before, {len(after):,} now" + "".join(f"; {part}" for part in parts)


def _split_differences(split: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    changed = [name for name in sorted(before.keys() | after.keys()) if not _is_same(before.get(name), after.get(name))]
    lines = []
    for name in changed[:5]:
        old, new = before.get(name, [0])[0], after.get(name, [0])[0]
        counts = f"{old:,} files before, {new:,} now"
        edited = "its file has changed" if old == 1 else f"some of its {old:,} files have changed"
        lines.append(f"{split}, class '{text.visible(name)}': {counts if old != new else edited}")
    if len(changed) > 5:
        lines.append(f"{split}: {len(changed) - 5:,} more classes differ")
    return lines
