"""Lists everything in the data folders, good and bad.

`dataset` raises errors for the problems; `inspection` turns them into rows of `wisesr check`.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wisesr_cli import text
from wisesr_cli.data.folds import splits_for_training
from wisesr_cli.data.index import ANIMATED, DatasetIndex, Labels, Split, class_counts
from wisesr_cli.data.listing import folders
from wisesr_cli.data.listing.folders import Listing, Problem
from wisesr_cli.data.listing.layouts import EXPECTED, Layout, check_class_folders, find_splits
from wisesr_cli.data.listing.manifest import Manifest, list_manifest, read_manifest
from wisesr_cli.data.oddities import animated_message, misnamed_message
from wisesr_cli.data.scan import scan_files
from wisesr_cli.data.settings import LABEL_SEPARATOR, DataConfig, parse_labels
from wisesr_cli.errors import DataError
from wisesr_cli.images.supported import SUFFIXES, SUPPORTED
from wisesr_cli.listening import Listener

OTHER_SEPARATORS = (";", ",", "|")  # common separators of labels


@dataclass
class Survey:
    """The content of the folders of a dataset; the splits contain every file whose header can be read."""

    layout: Layout
    class_names: tuple[str, ...]
    splits: dict[str, Split] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unreadable: list[tuple[str, str]] = field(default_factory=list)  # path relative to the root, reason
    ignored: Counter[str] = field(default_factory=Counter)
    nested: int = 0
    separator: str | None = None  # of labels, if an image may have several

    def add(self, split: str, listing: Listing, listener: Listener, *, pixel_limit: int, channels: int) -> None:
        """Add the listing of a split's folder, reading the header of every image."""
        self.problems.extend(listing.problems)
        if split == "train":
            self.problems.extend(listing.empty)
        self.ignored.update(listing.ignored)
        self.nested += listing.nested
        unknown = unknown_names(listing.class_names, self.class_names)
        if unknown:
            kind = "split" if self.layout.is_manifest else "folder"
            message = (
                f"the {split} {kind} has {text.counted(len(unknown), 'class', 'classes')} that training lacks: "
                f"{text.quoted(unknown[:5])} ({text.visible(listing.folder)})"
            )
            paths = tuple(f"{listing.folder}/{name}" for name in unknown)
            self.problems.append(Problem("unknown-class", message, paths))
        cache = f"{listing.folder}\0{split}" if self.layout.is_manifest else listing.folder
        examples, unreadable = list_examples(
            listing,
            self.layout.root,
            self.class_names,
            listener,
            cache_of=cache,
            pixel_limit=pixel_limit,
            channels=channels,
        )
        self.splits[split] = examples
        start = len(self.layout.root.rstrip("/")) + 1
        self.unreadable.extend((path[start:], reason) for path, reason in listing.unreadable)
        self.unreadable.extend(unreadable)

    def index(self, splits: dict[str, Split] | None = None) -> DatasetIndex:
        """Return an index of the splits on disk, or of `splits`."""
        where, left_out = self.layout, tuple(self.unreadable)
        parts = self.splits if splits is None else splits
        return DatasetIndex(
            self.class_names, where.root, parts, where.folders, left_out, dict(self.ignored), self.separator
        )

    def splits_for_training(self, data: DataConfig, *, seed: int) -> dict[str, Split]:
        """Return the splits for training; raises as `folds.splits_for_training` does."""
        return splits_for_training(data, self.splits, self.class_names, seed=seed)

    def classes_without_images(self, split: Split) -> list[str]:
        """Return the classes that have no readable image in a split."""
        counts = class_counts(split.labels, len(self.class_names))
        return [self.class_names[label] for label in np.flatnonzero(counts == 0)]

    def paths_with(self, flag: int) -> list[str]:
        """Return the relative paths of the files whose facts have `flag` (ANIMATED, ALPHA, DEEP)."""
        flagged = ((split, np.flatnonzero(rows["flags"] & flag)) for split, rows in self._facts())
        return [split.paths[position] for split, positions in flagged for position in positions]

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


def find_layout(data: DataConfig) -> Layout:
    """Return the splits of a config: the folders it names, those found in its one folder, or those of its manifest."""
    if data.manifest is not None:
        return layout_of(read_manifest(data.manifest, data.dir, separator=data.label_separator))
    if data.dir is not None:
        return find_splits(data.dir)
    named = {"train": data.train_dir, "validation": data.validation_dir, "test": data.test_dir}
    absolute = {split: str(Path(folder).absolute()) for split, folder in named.items() if folder is not None}
    if "train" not in absolute:
        raise DataError(f"no image folder is given: set data.dir, data.train_dir or data.manifest. {EXPECTED}.")
    for folder in absolute.values():
        check_class_folders(folder)
    parents = list(absolute.values())
    root = os.path.commonpath(parents) if len(parents) > 1 else parents[0]
    return Layout(root, absolute)


def layout_of(manifest: Manifest) -> Layout:
    """Return the splits of a manifest; without a split column, only training."""
    splits = manifest.splits or ("train",)
    if "train" not in splits:
        raise DataError(f"{text.visible(manifest.file)}: names {text.joined(splits)}, but no training images")
    return Layout(manifest.root, dict.fromkeys(splits, manifest.file), manifest.notes, is_manifest=True)


def list_images(data: DataConfig) -> tuple[Layout, dict[str, Listing]]:
    """Return the splits of a config, and the image files of each; raises `DataError` for the layout."""
    if data.manifest is None:
        layout = find_layout(data)
        return layout, {split: folders.list_split(folder) for split, folder in layout.folders.items()}
    manifest = read_manifest(data.manifest, data.dir, separator=data.label_separator)
    layout = layout_of(manifest)
    return layout, {split: list_manifest(manifest, split) for split in layout.folders}


def survey(data: DataConfig, *, listener: Listener) -> Survey:
    """List the images of a config, reading every header; raises `DataError` only for the layout."""
    layout, listings = list_images(data)
    found = Survey(layout, listings["train"].class_names, separator=data.label_separator)
    for problem in (_about_groups(data, listings["train"]), _about_separator(data, found.class_names)):
        if problem is not None:
            found.problems.append(problem)
    if len(found.class_names) < 2:
        where = text.visible(layout.folders["train"])
        only = f"only one class, '{text.visible(found.class_names[0])}'" if found.class_names else "no class"
        expected = "Expected images of at least two" if layout.is_manifest else EXPECTED
        found.problems.append(Problem("one-class", f"{where}: {only}. {expected}."))
    for split, listing in listings.items():
        found.add(split, listing, listener, pixel_limit=data.pixel_limit, channels=data.channels)
    return found


def _about_groups(data: DataConfig, listing: Listing) -> Problem | None:
    """Return the problem of a manifest without the groups that the strategy needs, or with groups and a pattern."""
    if (
        data.manifest is None
        or data.split_strategy != "group"
        or (listing.groups is None) != (data.group_regex is None)
    ):
        return None
    what = "there is no group column, and no data.group_regex"
    if listing.groups is not None:
        what = "there is a group column as well as data.group_regex; remove one of them"
    return Problem("groups", f"{text.visible(listing.folder)}: data.split_strategy is group, but {what}")


def _about_separator(data: DataConfig, class_names: tuple[str, ...]) -> Problem | None:
    """Return the problem of labels that seem to be separated by something other than `data.label_separator`."""
    if data.label_separator is None or data.manifest is None:
        return None
    for other in OTHER_SEPARATORS:
        parts = [name for name in class_names if other in name]
        if other != data.label_separator and len(parts) * 2 > len(class_names):
            return Problem(
                "separator",
                f"{text.visible(data.manifest)}: labels such as '{text.visible(parts[0])}' contain '{other}', but "
                f"data.label_separator is '{data.label_separator}'; if that is what separates them, "
                f"--set data.label_separator='{other}'",
            )
    return None


def list_examples(
    listing: Listing,
    root: str,
    class_names: tuple[str, ...],
    listener: Listener,
    *,
    cache_of: str,
    pixel_limit: int,
    channels: int,
) -> tuple[Split, list[tuple[str, str]]]:
    """Return the files of a listing as a split, and those whose header cannot be read.

    The labels are positions in `class_names`; files of other classes are omitted.
    """
    labels, is_known = _labels_among(listing, class_names)
    start = len(root.rstrip("/")) + 1
    paths = tuple(path[start:] for path in listing.paths)
    facts, reasons = scan_files(
        root,
        paths,
        listing.stamps.array(),
        cache_of=cache_of,
        pixel_limit=pixel_limit,
        channels=channels,
        listener=listener,
    )
    keep = is_known.copy()
    keep[list(reasons)] = False
    unreadable = [(paths[position], reason) for position, reason in sorted(reasons.items())]
    groups = None if listing.groups is None else tuple(listing.groups)
    weights = None if listing.weights is None else np.array(listing.weights, np.float32)
    found = Split(paths, labels, facts, groups=groups, weights=weights)
    return found.taken(np.flatnonzero(keep)), unreadable


def _labels_among(listing: Listing, class_names: tuple[str, ...]) -> tuple[Labels, npt.NDArray[np.bool_]]:
    """Return the labels of a listing in terms of `class_names`, and which images have no label outside of them."""
    positions = {folders.spelling(name): label for label, name in enumerate(class_names)}
    new_labels = np.array([positions.get(folders.spelling(name), -1) for name in listing.class_names], np.int64)
    if listing.label_sets is None:
        labels = new_labels[listing.labels] if listing.labels else np.zeros(0, np.int64)
        return labels, labels >= 0
    encoded = np.zeros((len(listing.paths), len(class_names)), np.bool_)
    is_known = np.ones(len(listing.paths), np.bool_)
    for row, found in enumerate(listing.label_sets):
        among = new_labels[list(found)]
        encoded[row, among[among >= 0]] = True
        is_known[row] = (among >= 0).all()
    return encoded, is_known


def unknown_names(names: Sequence[str], known: Sequence[str]) -> list[str]:
    """Return the names that are not classes, however Unicode spells them."""
    spellings = set(map(folders.spelling, known))
    return [name for name in names if folders.spelling(name) not in spellings]


def no_support_message(split: str, class_names: Sequence[str]) -> str:
    """Return `validation: no image of a, b: a support of 0`."""
    return f"{split}: no image of {text.some_of(class_names, 5)}: a support of 0"


def without_images_message(class_names: Sequence[str]) -> str:
    """Return `2 classes without a readable image: a, b`."""
    count = text.counted(len(class_names), "class", "classes")
    return f"{count} without a readable image: {text.joined(class_names[:5])}"


def nested_message(count: int) -> str:
    """Return `3 images in folders below a class folder: merged into the class`."""
    return f"{text.counted(count, 'image')} in folders below a class folder: merged into the class"


def several_labels_message(found: Survey) -> str | None:
    """Return the note about manifest labels that look like several but are read as one."""
    if not found.layout.is_manifest or found.separator is not None:
        return None
    known = set(found.class_names)
    for name in found.class_names:
        parts = parse_labels(name, LABEL_SEPARATOR)
        if len(parts) > 1 and not known.isdisjoint(parts):
            return (
                f"'{text.visible(name)}' is read as one label; if it means {len(parts)}, --set model.task=multilabel "
                "allows any number per image"
            )
    return None


def weights_message(split: Split) -> str | None:
    """Return `training images have weights of 0.5 to 2, 1.1 on average: ...`, or None without weights."""
    if split.weights is None or not len(split):
        return None
    low, high, mean = split.weights.min(), split.weights.max(), split.weights.mean(dtype=np.float64)
    return (
        f"training images have weights of {low:g} to {high:g}, {mean:.3g} on average: they apply to the "
        "training loss, not to validation or any other metric"
    )


def report_notes(found: Survey, listener: Listener) -> None:
    """Report what was skipped or is unusual."""
    notes = list(found.layout.notes)
    if found.ignored:
        notes.append(folders.ignored_message(found.ignored))
    if found.nested:
        notes.append(nested_message(found.nested))
    for name, split in found.splits.items():
        if name != "train" and (missing := found.classes_without_images(split)):
            notes.append(no_support_message(name, missing))
    if weights := weights_message(found.splits["train"]) if "train" in found.splits else None:
        notes.append(weights)
    if several := several_labels_message(found):
        notes.append(several)
    if misnamed := found.misnamed():
        notes.append(misnamed_message(len(misnamed), misnamed))
    for note in notes:
        listener.note(note)
    if animated := found.paths_with(ANIMATED):
        listener.warn(animated_message(len(animated), animated))
