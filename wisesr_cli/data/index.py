"""Records which files belong to which split and class, compactly enough for a million files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from wisesr_cli import text
from wisesr_cli.data.listing.stamps import STAMP
from wisesr_cli.data.settings import parse_labels

# Positions in the class names, int64 (examples,); for multilabel data: bool (examples, classes).
Labels = npt.NDArray[Any]
Counts = npt.NDArray[np.int64]
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
WITHOUT_LABEL = ""  # replaces a class name in a record


@dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split, in a stable order."""

    paths: tuple[str, ...]  # relative to the index's root, with /
    labels: Labels  # in terms of the index's class names
    facts: Facts | None = None  # dtype FACTS; None when the files were not scanned
    contents: Contents | None = None  # a hash of every file's bytes, if they were read
    groups: tuple[str, ...] | None = None  # must not straddle splits; from a manifest
    weights: Weights | None = None  # in the training loss; from a manifest

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def is_multilabel(self) -> bool:
        """Whether an example may have several labels, or none."""
        return self.labels.ndim == 2

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

    lines: tuple[str, ...]  # images added or removed, or with changed content or weight
    are_dates_other: bool  # of images that are in both


@dataclass(frozen=True, eq=False)
class DatasetIndex:
    """Every example of a dataset; labels are those of `class_names`, which are sorted by code point.

    `separator` separates the labels of an example in text, if it may have several.
    """

    class_names: tuple[str, ...]
    root: str  # the data folder
    splits: dict[str, Split]  # `train`, and `validation` and `test` if present
    folders: dict[str, str] = field(default_factory=dict)  # split -> its folder, or the manifest that names it
    unreadable: tuple[tuple[str, str], ...] = ()  # (path, reason)
    ignored: dict[str, int] = field(default_factory=dict)  # suffix or kind -> number of skipped files
    separator: str | None = None

    def absolute(self, split: str) -> list[str]:
        """Return the absolute paths of a split, in the order of its labels."""
        start = self.root.rstrip("/") + "/"
        return [start + path for path in self.splits[split].paths]

    def counts(self, split: str) -> Counts:
        """Return the number of examples of each class in a split: (classes,)."""
        return class_counts(self.splits[split].labels, len(self.class_names))

    def label_of(self, label: Any) -> str:
        """Return a row of labels as text: the class name, or the names of several."""
        if self.separator is None:
            return self.class_names[int(label)]
        return str(self.separator).join(self.class_names[position] for position in np.flatnonzero(label))

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Yield (path, label as text, split) of every example."""
        for name, split in self.splits.items():
            for path, label in zip(split.paths, split.labels, strict=True):
                yield path, self.label_of(label), name

    def record(self) -> dict[str, Any]:
        """Return the record for `changes_since`: the number of files and two hashes per split and class.

        Both hashes cover the relative paths. The first one also covers sizes and modification dates; the second one,
        present if every file was read, the contents. Training weights, if any, have a hash of their own.
        """
        weights = _hash_weights(self.splits["train"]) if "train" in self.splits else None
        return {
            "classes": list(self.class_names),
            "splits": {name: self._split_record(split) for name, split in self.splits.items()},
            **({} if weights is None else {"weights": weights}),
        }

    def changes_since(self, record: dict[str, Any]) -> Changes:
        """Return the changes since `record` was taken: by content, or by size and date if a record lacks it."""
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
        names: tuple[str, ...] = self.class_names
        members = members_of(split.labels, len(names))
        if split.is_multilabel:
            names, members = (*names, WITHOUT_LABEL), [*members, np.flatnonzero(~split.labels.any(axis=1))]
        return {
            name: [len(found), *_hash_files(split.taken(found))]
            for name, found in zip(names, members, strict=True)
            if len(found)
        }


def class_counts(labels: Labels, classes: int) -> Counts:
    """Return the number of examples of each class: (classes,)."""
    if labels.ndim == 2:
        counts: Counts = labels.sum(axis=0, dtype=np.int64)
        return counts
    return np.bincount(labels, minlength=classes).astype(np.int64)


def members_of(labels: Labels, classes: int) -> list[npt.NDArray[np.intp]]:
    """Return the positions of each class's examples, in order."""
    if labels.ndim == 2:
        return [np.flatnonzero(column) for column in labels.T]
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(np.bincount(labels, minlength=classes))[:-1])


def encoded_labels(labels: Sequence[str], class_names: Sequence[str], separator: str | None) -> Labels:
    """Encode labels as a `Split` stores them; raises `KeyError` for a name that is not a class."""
    positions = {name: position for position, name in enumerate(class_names)}
    if separator is None:
        return np.array([positions[label] for label in labels], np.int64)
    encoded = np.zeros((len(labels), len(class_names)), np.bool_)
    for row, label in enumerate(labels):
        encoded[row, [positions[name] for name in parse_labels(label, separator)]] = True
    return encoded


def index_from_rows(
    root: str, class_names: Iterable[str], rows: Iterable[tuple[str, str, str]], separator: str | None = None
) -> DatasetIndex:
    """Return the index of stored rows (path, label as text, split), without reading the files."""
    names = tuple(class_names)
    paths: dict[str, list[str]] = {}
    labels: dict[str, list[str]] = {}
    for path, label, split in rows:
        paths.setdefault(split, []).append(path)
        labels.setdefault(split, []).append(label)
    splits = {split: Split(tuple(paths[split]), encoded_labels(labels[split], names, separator)) for split in paths}
    return DatasetIndex(names, root, splits, separator=separator)


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
    """Return whether two records of a class, (number, hash with dates, hash of contents), describe the same images."""
    if before is None or after is None:
        return False
    seen = slice(0, 3, 2) if len(before) == len(after) == 3 else slice(0, 2)
    return before[seen] == after[seen]


def _class_difference(before: list[str], after: list[str]) -> str:
    gone, new = sorted(set(before) - set(after)), sorted(set(after) - set(before))
    parts = [f"no longer there: {text.joined(gone[:5])}"] if gone else []
    parts += [f"new: {text.joined(new[:5])}"] if new else []
    return f"classes: {len(before):,} before, {len(after):,} now" + "".join(f"; {part}" for part in parts)


def _class_shown(name: str) -> str:
    return f"class '{text.visible(name)}'" if name != WITHOUT_LABEL else "images without a label"


def _split_differences(split: str, before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    changed = [name for name in sorted(before.keys() | after.keys()) if not _is_same(before.get(name), after.get(name))]
    lines = []
    for name in changed[:5]:
        old, new = before.get(name, [0])[0], after.get(name, [0])[0]
        counts = f"{old:,} files before, {new:,} now"
        edited = "its file has changed" if old == 1 else f"some of its {old:,} files have changed"
        lines.append(f"{split}, {_class_shown(name)}: {counts if old != new else edited}")
    if len(changed) > 5:
        lines.append(f"{split}: {len(changed) - 5:,} more classes differ")
    return lines
