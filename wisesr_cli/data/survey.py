"""Everything that is found in the data folders, good and bad, before anyone decides what to make of it.

`dataset` raises errors for what is bad here, `inspection` makes a row of `wisesr check` of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wisesr_cli import text
from wisesr_cli.data import folders
from wisesr_cli.data.folders import Layout, Listing, Problem
from wisesr_cli.data.index import ANIMATED, DatasetIndex, Split
from wisesr_cli.data.oddities import animated_message, misnamed_message
from wisesr_cli.data.scan import scan_files
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.splits import set_validation_aside
from wisesr_cli.errors import DataError
from wisesr_cli.images.decoding import SUFFIXES, SUPPORTED
from wisesr_cli.listening import Listener


@dataclass
class Survey:
    """What the folders of a dataset hold. The splits have every file whose header can be read."""

    layout: Layout
    class_names: tuple[str, ...]
    splits: dict[str, Split] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # path relative to the root, reason
    ignored: Counter[str] = field(default_factory=Counter)
    nested: int = 0

    def add(self, split: str, listing: Listing, listener: Listener, *, pixel_limit: int) -> None:
        """Take in what was listed of a split's folder, the header of every image read."""
        self.problems.extend(listing.problems)
        self.ignored.update(listing.ignored)
        self.nested += listing.nested
        known = set(self.class_names)
        unknown = [name for name in listing.class_names if name not in known]
        if unknown:
            message = (
                f"the {split} folder has {text.counted(len(unknown), 'class', 'classes')} that training lacks: "
                f"{text.joined(unknown[:5])} ({text.visible(listing.folder)})"
            )
            paths = tuple(f"{listing.folder}/{name}" for name in unknown)
            self.problems.append(Problem("unknown-class", message, paths))
        examples, unreadable = list_examples(
            listing, self.layout.root, self.class_names, listener, pixel_limit=pixel_limit
        )
        self.splits[split] = examples
        start = len(self.layout.root.rstrip("/")) + 1
        self.unreadable.extend((path[start:], reason) for path, reason in listing.unreadable)
        self.unreadable.extend(unreadable)

    def index(self, splits: dict[str, Split] | None = None, notes: tuple[str, ...] = ()) -> DatasetIndex:
        """Return the splits as they are on the disk, or others made of them, as an index."""
        where, left_out = self.layout, tuple(self.unreadable)
        parts = self.splits if splits is None else splits
        return DatasetIndex(self.class_names, where.root, parts, where.folders, left_out, dict(self.ignored), notes)

    def splits_for_training(self, data: DataConfig, *, seed: int) -> dict[str, Split]:
        """Return the splits, validation set aside where it has no folder; raises `DataError` when a side is empty."""
        if "validation" in self.splits or data.validation_split <= 0:
            return self.splits
        train, validation = set_validation_aside(data, self.splits["train"], self.class_names, seed=seed)
        others = {name: split for name, split in self.splits.items() if name != "train"}
        return {"train": train, "validation": validation, **others}

    def classes_without_images(self) -> list[str]:
        """Return the classes that have no readable image to train on."""
        counts = np.bincount(self.splits["train"].labels, minlength=len(self.class_names))
        return [self.class_names[label] for label in np.flatnonzero(counts == 0)]

    def paths_with(self, flag: int) -> list[str]:
        """Return the relative paths of the files whose facts have `flag` (ANIMATED, ALPHA, DEEP)."""
        return [path for split, rows in self._facts() for path in _chosen(split, rows["flags"] & flag != 0)]

    def misnamed(self) -> list[str]:
        """Return the relative paths of the files whose suffix is that of another format."""
        names = list(SUPPORTED)
        found = []
        for split, rows in self._facts():
            for path, position in zip(split.paths, rows["format"].tolist(), strict=True):
                suffix = path[path.rfind(".") :].lower()
                if SUFFIXES.get(suffix) != names[position]:
                    found.append(path)
        return found

    def _facts(self) -> Iterator[tuple[Split, np.ndarray]]:
        for split in self.splits.values():
            if split.facts is not None:
                yield split, split.facts


def _chosen(split: Split, mask: np.ndarray) -> list[str]:
    return [split.paths[position] for position in np.flatnonzero(mask)]


def find_layout(data: DataConfig) -> Layout:
    """Return the split folders that a config names, or those found in the one folder that it names."""
    if data.dir is not None:
        return folders.find_splits(data.dir)
    named = {"train": data.train_dir, "validation": data.validation_dir, "test": data.test_dir}
    absolute = {split: str(Path(folder).absolute()) for split, folder in named.items() if folder is not None}
    if "train" not in absolute:
        raise DataError(f"no image folder is given: set data.dir or data.train_dir. {folders.LAYOUT}.")
    for folder in absolute.values():
        folders.check_class_folders(folder)
    parents = list(absolute.values())
    root = os.path.commonpath(parents) if len(parents) > 1 else parents[0]
    return Layout(root, absolute)


def survey(data: DataConfig, *, listener: Listener) -> Survey:
    """Return what lies in the data folders, having read every header; raises `DataError` for the layout alone."""
    layout = find_layout(data)
    listings = {split: folders.list_split(folder) for split, folder in layout.folders.items()}
    found = Survey(layout, listings["train"].class_names)
    if len(found.class_names) < 2:
        where = text.visible(layout.folders["train"])
        only = f"only one class, '{text.visible(found.class_names[0])}'" if found.class_names else "no class"
        found.problems.append(Problem("one-class", f"{where}: {only}. {folders.LAYOUT}."))
    for split, listing in listings.items():
        found.add(split, listing, listener, pixel_limit=data.pixel_limit)
    return found


def list_examples(
    listing: Listing, root: str, class_names: tuple[str, ...], listener: Listener, *, pixel_limit: int
) -> tuple[Split, list[tuple[str, str]]]:
    """Return the files of a listing as a split with their facts, and those whose header cannot be read.

    The labels are positions in `class_names`; files of other classes are left out.
    """
    positions = {name: label for label, name in enumerate(class_names)}
    new_labels = np.array([positions.get(name, -1) for name in listing.class_names], np.int64)
    labels = new_labels[listing.labels] if listing.labels else np.zeros(0, np.int64)
    start = len(root.rstrip("/")) + 1
    paths = tuple(path[start:] for path in listing.paths)
    facts, reasons = scan_files(
        root, paths, listing.sizes, listing.mtimes, memory_of=listing.folder, pixel_limit=pixel_limit, listener=listener
    )
    keep = np.array([label >= 0 and i not in reasons for i, label in enumerate(labels.tolist())], np.bool_)
    unreadable = [(paths[position], reason) for position, reason in sorted(reasons.items())]
    return Split(paths, labels, facts).taken(np.flatnonzero(keep)), unreadable


def without_images_message(lacking: Sequence[str]) -> str:
    """Return `2 classes without a readable image: a, b`."""
    return f"{text.counted(len(lacking), 'class', 'classes')} without a readable image: {text.joined(lacking[:5])}"


def nested_message(count: int) -> str:
    """Return `3 images in folders below a class folder: merged into the class`."""
    return f"{text.counted(count, 'image')} in folders below a class folder: merged into the class"


def tell(found: Survey, listener: Listener) -> tuple[str, ...]:
    """Tell what was passed over and what is odd; return it as notes."""
    notes = list(found.layout.notes)
    if found.ignored:
        notes.append(folders.ignored_message(found.ignored))
    if found.nested:
        notes.append(nested_message(found.nested))
    if misnamed := found.misnamed():
        notes.append(misnamed_message(len(misnamed), misnamed))
    for note in notes:
        listener.note(note)
    if animated := found.paths_with(ANIMATED):
        notes.append(animated_message(len(animated), animated))
        listener.warn(notes[-1])
    return tuple(notes)
