"""Splits the training images into cross-validation folds, each held out once, and chooses the splits of a run.

`data.split_strategy` decides the fold of an image, as for validation images; groups named in a manifest always stay
together. The held-out fold replaces the test images. The best epoch is chosen on validation images from the other folds
or their own folder, so nothing about the held-out images is used before they are evaluated. To add a strategy, write
such a function and add its row to `FOLDERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from wisesr_cli import text
from wisesr_cli.data.index import DatasetIndex, Labels, Split, class_counts
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.splits import (
    SplitOptions,
    deal_out,
    hash_of,
    members_of_classes,
    ranked_groups,
    split_off_validation,
)
from wisesr_cli.errors import DataError

FoldNumbers = npt.NDArray[np.intp]  # (images,), from 0


def splits_for_training(
    data: DataConfig, splits: Mapping[str, Split], class_names: tuple[str, ...], *, seed: int
) -> dict[str, Split]:
    """Return the splits for training: hold out a fold if requested, then split off validation if it has no folder.

    Raises `DataError` when a split is empty or too small.
    """
    found = dict(splits)
    is_drawn = "validation" not in found and data.validation_split > 0
    if data.fold_of is not None:
        number, count = data.fold_of
        options = SplitOptions(data.validation_split, seed, class_names, data.group_regex, found["train"].groups)
        strategy = data.split_strategy if options.groups is None else "group"
        folds = choose_folds(strategy, found["train"], options, count, sides=2 if is_drawn else 1)
        found["test"] = found["train"].taken(np.flatnonzero(folds == number))
        found["train"] = found["train"].taken(np.flatnonzero(folds != number))
    if not is_drawn:
        return found
    train, validation = split_off_validation(data, found.pop("train"), class_names, seed=seed)
    return {"train": train, "validation": validation, **found}


def check_folds(data: DataConfig, index: DatasetIndex, seeds: Iterable[int]) -> int:
    """Make the splits of every fold and seed; return the number of images that are held out in turn.

    `index` has the splits of one fold. Raises as `splits_for_training` does.
    """
    assert data.fold_of is not None
    own = {"validation": index.splits["validation"]} if "validation" in index.folders else {}
    parts = [split for name, split in index.splits.items() if name not in own]
    groups = None if parts[0].groups is None else tuple(group for part in parts for group in part.groups or ())
    paths = tuple(path for part in parts for path in part.paths)
    images = Split(paths, np.concatenate([part.labels for part in parts]), groups=groups)
    for seed in seeds:
        for number in range(data.fold_of[1]):
            fold = data.model_copy(update={"fold": f"{number}/{data.fold_of[1]}"})
            splits_for_training(fold, {"train": images, **own}, index.class_names, seed=seed)
    return len(images)


def choose_folds(strategy: str, images: Split, options: SplitOptions, count: int, *, sides: int = 1) -> FoldNumbers:
    """Return the fold of every image, 0 to `count` - 1, independent of the order of the images.

    `sides`: the number of splits that the other folds must provide. Raises `DataError` when a fold would be empty, or
    the other folds too small.
    """
    folds = FOLDERS[strategy](images.paths, images.labels, options, count, sides)
    if empty := np.flatnonzero(np.bincount(folds, minlength=count) == 0).tolist():
        raise DataError(
            f"{text.counted(len(images), 'training image')} for {count} folds: fold {empty[0]} is empty; use fewer "
            "folds, or change data.split_strategy"
        )
    return folds


def fold_stratified(paths: Sequence[str], labels: Labels, options: SplitOptions, count: int, sides: int) -> FoldNumbers:
    """Distribute every class over the folds, so that fold sizes differ by at most one image, in total and per class.

    With several labels per image, the numbers per class differ as little as iterative stratification allows.
    """
    if labels.ndim == 2:
        shares = np.full((count, 1), 1 / count)
        counts, sizes = class_counts(labels, labels.shape[1]), np.full(count, len(paths) / count)
        return deal_out(paths, labels, shares * counts, sizes, np.random.default_rng([options.seed, 3]))
    folds = np.zeros(len(paths), np.intp)
    members = members_of_classes(paths, labels, len(options.class_names))
    small = [label for label, found in enumerate(members) if len(found) - -(-len(found) // count) < sides]
    if small:
        shown = ", ".join(f"{text.visible(options.class_names[label])} ({len(members[label])})" for label in small[:5])
        parts = "training and validation" if sides > 1 else "training"
        raise DataError(
            f"{text.counted(len(small), 'class', 'classes')} too small for {count} folds: {shown}; too few images "
            f"are left for {parts} when a fold is held out. Add images, or remove such classes."
        )
    dealt = 0
    for label, found in enumerate(members):
        random = np.random.default_rng([options.seed, hash_of(options.class_names[label]), 1])
        folds[random.permutation(found)] = np.arange(dealt, dealt + len(found)) % count
        dealt += len(found)
    return folds


def fold_by_hash(paths: Sequence[str], labels: Labels, options: SplitOptions, count: int, sides: int) -> FoldNumbers:
    """Choose by a hash of the path, so that adding or removing files never moves others."""
    return np.array([hash_of(f"{options.seed}\0fold\0{path}") % count for path in paths], np.intp)


def fold_by_group(paths: Sequence[str], labels: Labels, options: SplitOptions, count: int, sides: int) -> FoldNumbers:
    """Assign whole groups, largest first, each to the fold with the fewest images of its classes."""
    random = np.random.default_rng([options.seed, 1])
    ranked = ranked_groups(paths, options, random, fewest=count)
    totals = class_counts(labels, len(options.class_names)).astype(np.float64)
    taken, groups = np.zeros((count, len(totals))), np.zeros(count, np.intp)
    folds = np.zeros(len(paths), np.intp)
    for _, members in ranked:
        of_group = class_counts(labels[members], len(totals))
        found = np.flatnonzero(of_group)
        counts = of_group[found]
        # Growth of the sum of squared fractions, without the part that is the same for all folds.
        growth = taken[:, found] @ (counts / totals[found] ** 2)
        fold = min(range(count), key=lambda fold: (growth[fold], taken[fold].sum(), fold))
        folds[members] = fold
        taken[fold, found] += counts
        groups[fold] += 1
    if (left := int(len(ranked) - groups.max())) < sides:
        raise DataError(
            f"{text.counted(len(ranked), 'group')} for {count} folds: when a fold is held out, "
            f"{text.counted(left, 'group')} {'remains' if left == 1 else 'remain'} for training and validation; use "
            "more folds, or give a validation folder"
        )
    return folds


FOLDERS: dict[str, Callable[[Sequence[str], Labels, SplitOptions, int, int], FoldNumbers]] = {
    "stratified": fold_stratified,
    "hash": fold_by_hash,
    "group": fold_by_group,
}
