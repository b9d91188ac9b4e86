"""Checks image folders for `wisesr check`: what `dataset` would reject, and what would harm training.

Every problem becomes a row, never an error. To add a check, write a function that yields findings and add it to
`CHECKS`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wisesr_cli import text
from wisesr_cli.data.copies.duplicates import Duplicate, duplicates_message, find_duplicates
from wisesr_cli.data.copies.near_duplicates import (
    SMALL,
    draw_near_duplicates,
    find_near_duplicates,
    near_duplicates_message,
)
from wisesr_cli.data.index import ALPHA, ANIMATED, DEEP, DatasetIndex
from wisesr_cli.data.listing import folders
from wisesr_cli.data.oddities import animated_message, damaged_message, misnamed_message
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.splits import check_groups
from wisesr_cli.data.survey import (
    Survey,
    nested_message,
    no_support_message,
    several_labels_message,
    survey,
    weights_message,
    without_images_message,
)
from wisesr_cli.data.value_range import CLIPPED, FEWEST_LEVELS, deep_images, find_lost_depth, measure, with_value_range
from wisesr_cli.data.verified import Tried, file_keys, recall_verified, try_decoding
from wisesr_cli.errors import DataError
from wisesr_cli.images import decoding
from wisesr_cli.images.opening import Source
from wisesr_cli.images.preparation import Preparation, Ranges, range_text
from wisesr_cli.images.supported import UNREAD_SUFFIXES
from wisesr_cli.listening import Listener
from wisesr_cli.results.images import Finding
from wisesr_cli.results.records import Level

FEW_IMAGES = 10  # per class, to train on
FEW_FOR_RANDOM_WEIGHTS = 5_000  # training images; with fewer, random weights learn little
SMALL_SPLIT = 100  # images; with fewer, an accuracy near 80 % is known to within 8 points at best
WARNED_IMBALANCE = 10  # largest class divided by smallest; a warning from here on


@dataclass(frozen=True)
class Copies:
    """Options for finding copies that are not identical files."""

    sheet: Path | None = None  # the PNG that shows them


@dataclass(frozen=True)
class Case:
    """The input of a check."""

    data: DataConfig
    seed: int
    found: Survey
    listener: Listener
    copies: Copies | None

    def training_index(self) -> DatasetIndex:
        """Return the splits that training would use, or those on disk if validation cannot be split off."""
        with suppress(DataError):  # reported in another row
            return self.found.index(self.found.splits_for_training(self.data, seed=self.seed))
        return self.found.index()


def inspect_data(
    data: DataConfig, *, seed: int, listener: Listener, copies: Copies | None = None
) -> tuple[Finding, ...]:
    """Return the findings; every image not yet known to be valid is decoded completely.

    `copies`: also compare every image with all others.
    """
    try:
        found = survey(data, listener=listener)
    except DataError as error:
        return (Finding("fail", "layout", str(error)),)
    case = Case(data, seed, found, listener, copies)
    return tuple(finding for check in CHECKS for finding in check(case))


def _check_layout(case: Case) -> Iterator[Finding]:
    layout = case.found.layout
    where = ", ".join(f"{name}: {text.visible(folder)}" for name, folder in layout.folders.items())
    kind = "labels read" if layout.is_manifest else "class folders found"
    yield Finding("pass", "layout", f"{kind} ({where})", len(layout.folders))
    for problem in case.found.problems:
        yield Finding("fail", problem.code, problem.message, max(1, len(problem.paths)), problem.paths)
    for note in layout.notes:
        yield Finding("warn", "columns-left-out" if layout.is_manifest else "folders-left-out", note)


def _check_classes(case: Case) -> Iterator[Finding]:
    index = case.found.index()
    counts = index.counts("train")
    order = np.argsort(-counts, kind="stable")
    shown = ", ".join(f"{text.visible(index.class_names[label])} {counts[label]:,}" for label in order[:10])
    more = ", ..." if len(order) > 10 else ""
    splits_shown = ", ".join(f"{name} {len(split):,}" for name, split in index.splits.items())
    message = f"{text.counted(len(counts), 'class', 'classes')} ({shown}{more}); images: {splits_shown}"
    yield Finding("pass", "classes", message, len(counts))
    if empty := case.found.classes_without_images(case.found.splits["train"]):
        yield Finding("fail", "class-without-images", without_images_message(empty), len(empty))
    for name, split in index.splits.items():
        if name != "train" and (missing := case.found.classes_without_images(split)):
            yield Finding("warn", "class-without-images", no_support_message(name, missing), len(missing))
    if several := several_labels_message(case.found):
        yield Finding("warn", "several-labels", several)
    if index.separator is not None:
        yield from _check_label_sets(index)
    elif len(counts) > 1 and counts.min() > 0 and counts.max() >= WARNED_IMBALANCE * counts.min():
        ratio = counts.max() / counts.min()
        largest, smallest = (text.visible(index.class_names[order[position]]) for position in (0, -1))
        advice = "consider train.class_weights: balanced, and look at balanced_accuracy"
        relation = f"has {ratio:.0f} times the images of the smallest ({smallest})"
        yield Finding("warn", "imbalance", f"the largest class ({largest}) {relation}: {advice}", int(ratio))


def _check_label_sets(index: DatasetIndex) -> Iterator[Finding]:
    """Yield how many labels images have, for multilabel data."""
    per_image = np.concatenate([split.labels.sum(axis=1) for split in index.splits.values()])
    without = int(np.count_nonzero(per_image == 0))
    message = f"{per_image.mean():.2f} labels per image, at most {per_image.max()}; {without:,} without any"
    yield Finding("pass", "label-sets", message, len(per_image))
    train = index.splits["train"]
    always = [name for name, column in zip(index.class_names, train.labels.T, strict=True) if column.all()]
    if always and len(train):
        shown = text.joined(always[:5])
        message = f"every training image has {shown}: nothing can be learned about it; remove that label"
        yield Finding("warn", "constant-label", message, len(always))


def _check_counts(case: Case) -> Iterator[Finding]:
    index = case.training_index()
    counts = index.counts("train")
    few = [name for name, count in zip(index.class_names, counts, strict=True) if 0 < count < FEW_IMAGES]
    if few:
        shown = text.joined(few[:5]) + (", ..." if len(few) > 5 else "")
        kinds = text.counted(len(few), "class has", "classes have")
        message = f"{kinds} fewer than {FEW_IMAGES} images to train on: {shown}; add images, or remove such classes"
        yield Finding("warn", "few-images", message, len(few))
    for name, split in index.splits.items():
        count = len(split)
        if name == "train" or not 0 < count < SMALL_SPLIT:
            continue
        points = 100 * 1.96 * (0.8 * 0.2 / count) ** 0.5
        message = (
            f"{text.counted(count, f'{name} image')}: an accuracy of 80 % on them is only known to within "
            f"{points:.0f} points, so smaller differences mean nothing"
        )
        yield Finding("warn", "small-split", message, count)


def _check_validation(case: Case) -> Iterator[Finding]:
    found, data = case.found, case.data
    if "validation" in found.splits:
        return
    if data.validation_split <= 0:
        yield Finding("warn", "validation", "no validation images: the last epoch is kept, not the best")
        return
    try:
        count, images = len(found.splits_for_training(data, seed=case.seed)["validation"]), len(found.splits["train"])
    except DataError as error:
        yield Finding("fail", "validation", str(error))
        return
    yield Finding("pass", "validation", f"{text.counted(count, 'image')} of {images:,} go to validation", count)


def _check_groups(case: Case) -> Iterator[Finding]:
    """Yield whether groups straddle splits that are given as folders or in a manifest."""
    if len(case.found.splits) < 2:
        return
    try:
        count = check_groups(case.data.group_regex, case.found.splits)
    except DataError as error:
        yield Finding("fail", "groups", str(error))
        return
    if count is not None:
        yield Finding("pass", "groups", f"{text.counted(count, 'group')}, each in one split", count)


def _check_weights(case: Case) -> Iterator[Finding]:
    train = case.found.splits["train"]
    if message := weights_message(train):
        yield Finding("pass", "weights", message, len(train))


def _check_readable(case: Case) -> Iterator[Finding]:
    index = case.found.index()
    tried = _decode_all(case)
    relative = [path for name in index.splits for path in index.splits[name].paths]
    unreadable = [
        *case.found.unreadable,
        *((relative[position], reason) for position, reason in tried.unreadable.items()),
    ]
    if tried.damaged:
        damaged = tuple(relative[position] for position in tried.damaged)
        yield Finding("warn", "damaged-inside", damaged_message(len(damaged), damaged), len(damaged), damaged)
    if not unreadable:
        yield Finding("pass", "unreadable-images", "every image decodes completely")
        return
    level: Level = "warn" if case.data.on_error == "skip" else "fail"
    shown = "; ".join(f"{text.visible(path)}: {text.visible(reason)}" for path, reason in unreadable[:3])
    message = f"{text.counted(len(unreadable), 'unreadable image')}: {shown}{'; ...' if len(unreadable) > 3 else ''}"
    yield Finding(level, "unreadable-images", message, len(unreadable), tuple(path for path, _ in unreadable))


def _check_duplicates(case: Case) -> Iterator[Finding]:
    index = case.training_index()
    found = find_duplicates(index, case.listener)
    if found:
        paths = tuple(path for each in found for path in each.paths)
        yield Finding("fail", "duplicates", duplicates_message(found), len(found), paths)
    else:
        others = "" if case.copies else "; --near-duplicates looks for copies that were re-encoded, resized or mirrored"
        message = f"no two equal files are in different splits or under different labels{others}"
        yield Finding("pass", "duplicates", message)
    if case.copies:
        yield from _near_duplicates(case, case.copies, index, found)


def _near_duplicates(
    case: Case, copies: Copies, index: DatasetIndex, identical: tuple[Duplicate, ...]
) -> Iterator[Finding]:
    limit, preparation = case.data.pixel_limit, with_value_range(case.data, index, case.listener).preparation
    found = find_near_duplicates(index, identical, preparation=preparation, pixel_limit=limit, listener=case.listener)
    if found.pairs:
        if copies.sheet is not None:
            draw_near_duplicates(found.pairs, index.root, copies.sheet, preparation=preparation, pixel_limit=limit)
        message = near_duplicates_message(found.pairs, copies.sheet)
        pairs = tuple((first, second) for first, second in (pair.paths for pair in found.pairs))
        paths = tuple(sorted({path for pair in pairs for path in pair}))
        yield Finding("warn", "near-duplicates", message, len(pairs), paths, pairs)
    else:
        compared = text.counted(found.compared, "picture")
        message = f"{compared} compared: none looks like a copy of one in another split or under another label"
        if found.small:
            message += f"; of the {found.small:,} with a side of less than {SMALL} pixels, copies may be missed"
        yield Finding("pass", "near-duplicates", message, pairs=())
    if found.uniform:
        count = len(found.uniform)
        shown = text.joined(found.uniform[:3]) + (", ..." if count > 3 else "")
        message = f"{text.counted(count, 'nearly uniform picture')}, too plain to be compared: {shown}"
        yield Finding("warn", "uniform-images", message, count, found.uniform)


def _check_ignored(case: Case) -> Iterator[Finding]:
    if case.found.ignored:
        unread = case.found.ignored.keys() & {folders.OUTSIDE, *UNREAD_SUFFIXES}
        level: Level = "warn" if unread else "pass"
        message = folders.ignored_message(case.found.ignored)
        yield Finding(level, "ignored-files", message, sum(case.found.ignored.values()))
    if case.found.nested:
        yield Finding("pass", "nested-folders", nested_message(case.found.nested), case.found.nested)


def _check_kinds(case: Case) -> Iterator[Finding]:
    if animated := case.found.paths_with(ANIMATED):
        message = animated_message(len(animated), animated)
        yield Finding("warn", "animated", message, len(animated), tuple(animated))
    if misnamed := case.found.misnamed():
        message = misnamed_message(len(misnamed), misnamed)
        yield Finding("warn", "wrong-suffix", message, len(misnamed), tuple(misnamed))
    if paths := case.found.paths_with(ALPHA):
        message = f"{text.counted(len(paths), 'image')} with transparency: placed on a white background"
        yield Finding("pass", "alpha", message, len(paths), tuple(paths))


def _check_depth(case: Case) -> Iterator[Finding]:
    """Yield what happens to images of more than 8 bits."""
    relative = case.found.paths_with(DEEP)
    if not relative:
        return
    index, limit = case.training_index(), case.data.pixel_limit
    if case.data.value_range == "auto":
        measured = measure(deep_images(index, "train"), limit, case.listener, channels=case.data.channels)
        value_range: Ranges | None
        value_range, message = measured.value_range, measured.message or "no training image of more than 8 bits"
    else:
        value_range = case.data.preparation.value_range
        shown = "the full depth" if value_range is None else range_text(value_range)
        message = f"{text.counted(len(relative), 'image')} of more than 8 bits: data.value_range is {shown}"
    yield Finding("pass", "deep", message, len(relative), tuple(relative))
    start = len(index.root.rstrip("/")) + 1
    deep = [path for name in case.found.splits for path in deep_images(case.found.index(), name)]
    lost = find_lost_depth(deep, value_range, limit, case.listener, channels=case.data.channels)
    advice = "; set data.value_range: [low, high]"
    for code, paths, meaning in (
        ("few-levels", lost.few_levels, f"with more values keep fewer than {FEWEST_LEVELS} of 256 grey levels{advice}"),
        ("clipped", lost.clipped, f"with over {CLIPPED:.0%} of the pixels outside the value range{advice}"),
    ):
        if paths:
            shown = ", ".join(text.visible(path[start:]) for path in paths[:3]) + (", ..." if len(paths) > 3 else "")
            message = f"{text.counted(len(paths), 'image')} {meaning}: {shown}"
            yield Finding("warn", code, message, len(paths), tuple(path[start:] for path in paths))


def _check_sizes(case: Case) -> Iterator[Finding]:
    height, width = case.data.image_size
    small: list[str] = []
    turned = 0
    for split in case.found.splits.values():
        if split.facts is not None:
            tiny = (split.facts["width"] * 2 <= width) & (split.facts["height"] * 2 <= height)
            small.extend(split.paths[position] for position in np.flatnonzero(tiny))
            turned += int((split.facts["orientation"] > 1).sum())
    if small:
        count = text.counted(len(small), "image")
        message = f"{count} at most half of {height}x{width}: consider a smaller data.image_size"
        yield Finding("warn", "small-images", message, len(small), tuple(small))
    if turned:
        message = f"{text.counted(turned, 'image')} rotated or mirrored by EXIF: shown upright to the model"
        yield Finding("pass", "orientation", message, turned)


def _decode_all(case: Case) -> Tried:
    """Decode every image not known to be valid; positions count through the concatenated splits."""
    index = case.found.index()
    paths = [path for name in index.splits for path in index.absolute(name)]
    keys = file_keys(paths, case.data.pixel_limit, case.data.channels)
    preparation = Preparation(channels=case.data.channels)
    unknown = np.flatnonzero(~recall_verified(keys)).tolist()

    def decode(_: int, source: Source) -> decoding.ImageHeader:
        limit = case.data.pixel_limit
        return decoding.decode_with_header(source, image_size=(8, 8), preparation=preparation, pixel_limit=limit)[1]

    return try_decoding(decode, paths, unknown, keys, label="decoding images", listener=case.listener)


CHECKS: tuple[Callable[[Case], Iterator[Finding]], ...] = (
    _check_layout,
    _check_classes,
    _check_counts,
    _check_validation,
    _check_groups,
    _check_weights,
    _check_readable,
    _check_duplicates,
    _check_ignored,
    _check_kinds,
    _check_depth,
    _check_sizes,
)
