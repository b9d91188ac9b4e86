"""Strategies for splitting off validation images when there is no validation folder.

Each takes the relative paths and labels of all training images and returns which go to validation; the same seed gives
the same split for any order of the files. To add one, write such a function and add its row to `SPLITTERS`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wisesr_cli import text
from wisesr_cli.data.index import Labels, Split, class_counts
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.errors import DataError

Chosen = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class SplitOptions:
    """The arguments of a splitter."""

    fraction: float  # of the images, between 0 and 1
    seed: int
    class_names: tuple[str, ...]
    group_regex: str | None = None
    groups: Sequence[str] | None = None  # of every image; `group_regex` overrides them


def split_off_validation(
    data: DataConfig, train: Split, class_names: tuple[str, ...], *, seed: int
) -> tuple[Split, Split]:
    """Split images into training and validation; raises `DataError` when one would be empty."""
    options = SplitOptions(data.validation_split, seed, class_names, data.group_regex, train.groups)
    chosen = choose_validation(data.split_strategy, train.paths, train.labels, options)
    return train.taken(np.flatnonzero(~chosen)), train.taken(np.flatnonzero(chosen))


def choose_validation(strategy: str, paths: Sequence[str], labels: Labels, options: SplitOptions) -> Chosen:
    """Return which images go to validation; raises `DataError` when a side would be empty."""
    if not len(paths):
        raise DataError("there are no training images that could be set aside for validation")
    chosen = SPLITTERS[strategy](paths, labels, options)
    if not chosen.any() or chosen.all():
        raise DataError(
            f"The split '{strategy}' with validation_split {options.fraction} puts {int(chosen.sum()):,} of "
            f"{len(chosen):,} images into validation: one side is empty. Change data.validation_split or "
            "data.split_strategy."
        )
    return chosen


def check_groups(regex: str | None, splits: Mapping[str, Split]) -> int | None:
    """Return the number of groups in splits given as folders or in a manifest; None without groups.

    Raises `DataError` when one is in two splits, or the pattern does not match an image.
    """
    if regex is None and all(split.groups is None for split in splits.values()):
        return None
    places: dict[str, list[str]] = {}
    for name, split in splits.items():
        for group in _members(split.paths, regex, split.groups):
            places.setdefault(group, []).append(name)
    straddling = sorted(group for group, names in places.items() if len(names) > 1)
    if straddling:
        shown = "; ".join(f"{text.visible(group)} ({text.joined(places[group])})" for group in straddling[:5])
        more = f"; and {len(straddling) - 5:,} more" if len(straddling) > 5 else ""
        source, other = "data.group_regex", "give the training folder alone as data.train_dir"
        if regex is None:
            source, other = "the group column", "remove the split column"
        raise DataError(
            f"{text.counted(len(straddling), 'group')} of {source} in two splits: {shown}{more}. Figures on "
            "images of a group seen in training are better than those on new ones: move each group into one split, "
            f"or {other}"
        )
    return len(places)


def split_stratified(paths: Sequence[str], labels: Labels, options: SplitOptions) -> Chosen:
    """Choose the fraction of every class: at least one image, but not all."""
    if labels.ndim == 2:
        return split_multilabel(paths, labels, options)
    chosen = np.zeros(len(paths), np.bool_)
    counts = np.bincount(labels, minlength=len(options.class_names))
    small = np.flatnonzero(counts < 2)
    if len(small):
        shown = ", ".join(f"{text.visible(options.class_names[label])} ({counts[label]})" for label in small[:5])
        raise DataError(
            f"{text.counted(len(small), 'class', 'classes')} too small to split into training and validation: {shown}; "
            "2 images are needed. Add images, or set data.validation_split to 0."
        )
    for label, members in enumerate(members_of_classes(paths, labels, len(counts))):
        wanted = min(max(round(len(members) * options.fraction), 1), len(members) - 1)
        # Seeded by the class name, so that a new class moves no image of the others.
        random = np.random.default_rng([options.seed, hash_of(options.class_names[label])])
        chosen[random.permutation(members)[:wanted]] = True
    return chosen


def split_multilabel(paths: Sequence[str], labels: Labels, options: SplitOptions) -> Chosen:
    """Choose the fraction of every class when images have several labels.

    A class with two images or more should have at least one on each side; a single image stays in training.
    """
    counts = class_counts(labels, labels.shape[1])
    wanted = np.clip(np.round(counts * options.fraction), np.minimum(counts // 2, 1), np.maximum(counts - 1, 0))
    desired = np.stack([counts - wanted, wanted])
    total = max(1.0, round(len(paths) * options.fraction)) if len(paths) > 1 else 0.0
    random = np.random.default_rng([options.seed, 2])
    chosen: Chosen = deal_out(paths, labels, desired, np.array([len(paths) - total, total]), random) == 1
    return chosen


def deal_out(
    paths: Sequence[str],
    labels: Labels,
    desired: npt.NDArray[np.float64],
    sizes: npt.NDArray[np.float64],
    random: np.random.Generator,
) -> npt.NDArray[np.intp]:
    """Assign each image with several labels to one of several parts, by iterative stratification.

    Sechidis, Tsoumakas and Vlahavas (2011): the class with the fewest images left is assigned first, each image to the
    part that lacks most images of that class, ties to the part that lacks most images. `labels`: bool (images,
    classes); `desired` (parts, classes): target number of images per class; `sizes` (parts,): target total.
    """
    desired, sizes = desired.astype(np.float64), sizes.astype(np.float64)
    part = np.full(len(paths), -1, np.intp)
    order = np.array(sorted(range(len(paths)), key=paths.__getitem__), np.intp)
    order = order[random.permutation(len(order))]
    left = class_counts(labels, labels.shape[1])

    def deal(image: int, lack: npt.NDArray[np.float64]) -> None:
        best = np.flatnonzero(lack == lack.max())
        chosen = int(best[np.argmax(sizes[best])])
        part[image] = chosen
        desired[chosen, labels[image]] -= 1
        sizes[chosen] -= 1
        left[labels[image]] -= 1

    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, np.iinfo(np.int64).max)))
        for image in order[labels[order, rarest] & (part[order] < 0)].tolist():
            deal(image, desired[:, rarest].copy())
    for image in order[part[order] < 0].tolist():
        deal(image, sizes.copy())
    return part


def split_by_hash(paths: Sequence[str], labels: Labels, options: SplitOptions) -> Chosen:
    """Choose by a hash of the path, so that adding or removing files never moves others."""
    threshold = int(options.fraction * 2**64)
    return np.array([hash_of(f"{options.seed}\0{path}") < threshold for path in paths], np.bool_)


def split_by_group(paths: Sequence[str], labels: Labels, options: SplitOptions) -> Chosen:
    """Choose whole groups to approximate the fraction of every class, never all training images of a class.

    Tries groups from the largest to the smallest, in random order within a size.
    """
    ranked = ranked_groups(paths, options, np.random.default_rng([options.seed, 0]), fewest=2)
    totals = class_counts(labels, len(options.class_names)).astype(np.float64)
    taken = np.zeros(len(totals))
    chosen = np.zeros(len(paths), np.bool_)
    rejected: list[tuple[float, str, list[int]]] = []
    for name, members in ranked:
        of_group = class_counts(labels[members], len(totals))
        found = np.flatnonzero(of_group)
        counts = of_group[found]
        if np.any(taken[found] + counts >= totals[found]):
            continue
        gap = options.fraction * totals[found] - taken[found]
        change = float((((gap - counts) ** 2 - gap**2) / totals[found] ** 2).sum())
        if change < 0:
            chosen[members] = True
            taken[found] += counts
        else:
            rejected.append((change, name, members))
    if not chosen.any() and rejected:
        chosen[min(rejected)[2]] = True
    return chosen


def members_of_classes(paths: Sequence[str], labels: Labels, classes: int) -> list[npt.NDArray[np.intp]]:
    """Return the positions of each class's images, in the order of their paths."""
    order = np.array(sorted(range(len(paths)), key=paths.__getitem__), np.intp)
    by_class = order[np.argsort(labels[order], kind="stable")]
    return np.split(by_class, np.cumsum(np.bincount(labels, minlength=classes))[:-1])


def ranked_groups(
    paths: Sequence[str], options: SplitOptions, random: np.random.Generator, *, fewest: int
) -> list[tuple[str, list[int]]]:
    """Return the groups with the positions of their images, largest first, equal sizes in random order.

    Raises `DataError` for fewer groups than `fewest`.
    """
    members = _members(paths, options.group_regex, options.groups)
    if len(members) < fewest:
        regex = options.group_regex
        source = "the group column" if regex is None else f"data.group_regex '{text.visible(regex)}'"
        raise DataError(
            f"{source} finds {text.counted(len(members), 'group')} in {len(paths):,} images; a split needs at least "
            f"{fewest}"
        )
    names = sorted(members)
    drawn = [names[position] for position in random.permutation(len(names)).tolist()]
    return sorted(((name, members[name]) for name in drawn), key=lambda group: -len(group[1]))


def _members(paths: Sequence[str], regex: str | None, groups: Sequence[str] | None) -> dict[str, list[int]]:
    """Return group -> positions of its images; raises `DataError` for an image that the pattern does not match."""
    members: dict[str, list[int]] = {}
    if regex is None:
        for position, group in enumerate(groups or ()):
            members.setdefault(group, []).append(position)
        return members
    pattern = re.compile(regex)
    for position, path in enumerate(paths):
        match = pattern.search(path)
        if match is None or (pattern.groups and match.group(1) is None):
            raise DataError(f"data.group_regex '{text.visible(regex)}' does not match {text.visible(path)}")
        members.setdefault(match.group(1) if pattern.groups else match.group(), []).append(position)
    return members


def hash_of(string: str) -> int:
    """Return a 64-bit hash that is the same in every process."""
    return int.from_bytes(hashlib.blake2b(string.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


SPLITTERS: dict[str, Callable[[Sequence[str], Labels, SplitOptions], Chosen]] = {
    "stratified": split_stratified,
    "hash": split_by_hash,
    "group": split_by_group,
}
