"""Everything that is found in the data folders, good and bad, before anyone decides what to make of it.

`dataset` raises errors for what is bad here, `inspection` makes a row of `wisesr check` of it.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from wisesr_cli import folders, text
from wisesr_cli.errors import DataError
from wisesr_cli.folders import Layout, Listing, Problem
from wisesr_cli.images import SUFFIXES, SUPPORTED
from wisesr_cli.index import ANIMATED, Split
from wisesr_cli.results import Listener
from wisesr_cli.scan import scan_files


class DataOptions(Protocol):
    """The part of a config that says where the images are; `config.DataConfig` has it."""

    @property
    def dir(self) -> Path | None: ...  # noqa: D102
    @property
    def train_dir(self) -> Path | None: ...  # noqa: D102
    @property
    def validation_dir(self) -> Path | None: ...  # noqa: D102
    @property
    def test_dir(self) -> Path | None: ...  # noqa: D102
    @property
    def validation_split(self) -> float: ...  # noqa: D102
    @property
    def split_strategy(self) -> str: ...  # noqa: D102
    @property
    def group_regex(self) -> str | None: ...  # noqa: D102
    @property
    def image_size(self) -> tuple[int, int]: ...  # noqa: D102
    @property
    def on_error(self) -> str: ...  # noqa: D102


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


def find_layout(data: DataOptions) -> Layout:
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


def survey(data: DataOptions, *, listener: Listener) -> Survey:
    """Return what lies in the data folders, having read every header; raises `DataError` for the layout alone."""
    layout = find_layout(data)
    listings = {split: folders.list_split(folder) for split, folder in layout.folders.items()}
    found = Survey(layout, listings["train"].class_names)
    if len(found.class_names) < 2:
        where = text.visible(layout.folders["train"])
        only = f"only one class, '{text.visible(found.class_names[0])}'" if found.class_names else "no class"
        found.problems.append(Problem("one-class", f"{where}: {only}. {folders.LAYOUT}."))
    for split, listing in listings.items():
        _add_listing(found, split, listing, listener)
    return found


def list_examples(
    listing: Listing, root: str, class_names: tuple[str, ...], listener: Listener
) -> tuple[Split, list[tuple[str, str]]]:
    """Return the files of a listing as a split with their facts, and those whose header cannot be read.

    The labels are positions in `class_names`; files of other classes are left out.
    """
    positions = {name: label for label, name in enumerate(class_names)}
    new_labels = np.array([positions.get(name, -1) for name in listing.class_names], np.int64)
    labels = new_labels[listing.labels] if listing.labels else np.zeros(0, np.int64)
    start = len(root.rstrip("/")) + 1
    paths = tuple(path[start:] for path in listing.paths)
    facts, reasons = scan_files(root, paths, listing.sizes, listing.mtimes, memory_of=listing.folder, listener=listener)
    keep = np.array([label >= 0 and i not in reasons for i, label in enumerate(labels.tolist())], np.bool_)
    unreadable = [(paths[position], reason) for position, reason in sorted(reasons.items())]
    return Split(paths, labels, facts).taken(np.flatnonzero(keep)), unreadable


def _add_listing(found: Survey, split: str, listing: Listing, listener: Listener) -> None:
    found.problems.extend(listing.problems)
    found.ignored.update(listing.ignored)
    found.nested += listing.nested
    unknown = [name for name in listing.class_names if name not in set(found.class_names)]
    if unknown:
        message = (
            f"the {split} folder has {text.counted(len(unknown), 'class', 'classes')} that training lacks: "
            f"{text.joined(unknown[:5])} ({text.visible(listing.folder)})"
        )
        found.problems.append(Problem("unknown-class", message, tuple(f"{listing.folder}/{name}" for name in unknown)))
    root = found.layout.root
    examples, unreadable = list_examples(listing, root, found.class_names, listener)
    found.splits[split] = examples
    start = len(root.rstrip("/")) + 1
    found.unreadable.extend((path[start:], reason) for path, reason in listing.unreadable)
    found.unreadable.extend(unreadable)


def tell(found: Survey, listener: Listener) -> tuple[str, ...]:
    """Tell what was passed over and what is odd; return it as notes."""
    notes = list(found.layout.notes)
    if found.ignored:
        notes.append(folders.ignored_message(found.ignored))
    if found.nested:
        notes.append(f"{text.counted(found.nested, 'image')} in folders below a class folder: merged into the class")
    if misnamed := found.misnamed():
        notes.append(
            f"{text.counted(len(misnamed), 'file')} read by content, not by suffix: {text.joined(misnamed[:3])}"
        )
    for note in notes:
        listener.note(note)
    if animated := found.paths_with(ANIMATED):
        count = text.counted(len(animated), "animated or many-page image")
        notes.append(f"{count}: only the first frame is used: {text.joined(animated[:3])}")
        listener.warn(notes[-1])
    return tuple(notes)
