"""Builds a `DatasetIndex` from image folders or a manifest, for every command.

The steps are in `folders` (listing the disk), `manifest` (labels in a file), `scan` (image headers), `splits`
(splitting off validation), `index` (the records) and `copies.duplicates`; `inspection` does the same, with findings
instead of errors.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from wisesr_cli import text
from wisesr_cli.data.copies.duplicates import duplicates_message, find_duplicates
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.data.listing import folders
from wisesr_cli.data.listing.folders import Listing, Problem
from wisesr_cli.data.listing.layouts import EXPECTED, Layout, check_class_folders, recognised_splits
from wisesr_cli.data.listing.manifest import list_manifest, read_manifest
from wisesr_cli.data.listing.manifest_formats import is_manifest
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.splits import check_groups
from wisesr_cli.data.survey import Survey, list_images, report_notes, survey, unknown_names, without_images_message
from wisesr_cli.errors import DataError
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.images.preparation import RGB
from wisesr_cli.listening import Listener


def build_index(data: DataConfig, *, seed: int, listener: Listener) -> DatasetIndex:
    """Index every example of the data folders or manifest, reading headers and splitting off validation if missing.

    Raises `DataError` for unusable data and, unless `data.on_error` is `skip`, for unreadable images.
    """
    found = survey(data, listener=listener)
    _refuse(found.problems)
    refuse_or_warn(found.unreadable, on_error=data.on_error, listener=listener)
    check_groups(data.group_regex, found.splits)
    if empty := found.classes_without_images(found.splits["train"]):
        raise DataError(without_images_message(empty))
    parts = found.splits_for_training(data, seed=seed)
    if empty := found.classes_without_images(parts["train"]):  # all went to validation, which `hash` allows
        listener.warn(
            f"the split leaves no training image of {text.joined(empty[:5])}; 'stratified' leaves some of each"
        )
    report_notes(found, listener)
    index = found.index(parts)
    if duplicates := find_duplicates(index, listener):
        listener.warn(duplicates_message(duplicates))
    return index


def count_classes(data: DataConfig) -> int:
    """Return the number of classes for training, without reading images."""
    return len(list_images(data)[1]["train"].class_names)


def scan_folder_for_evaluation(
    folder: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    on_error: str,
    pixel_limit: int = PIXEL_LIMIT,
    channels: int = RGB,
    root: Path | None = None,
    separator: str | None = None,
    listener: Listener,
) -> DatasetIndex:
    """Return an index with only the split `test`: the images of a folder or manifest, classes matched by name.

    If it has splits, uses the test split, else the validation split. Classes missing from it get no examples. The paths
    of a manifest are relative to `root`. `separator` separates the labels of an image that may have several, which only
    a manifest can give. Raises `DataError` for a class that is not in `class_names`.
    """
    layout, listing = _for_evaluation(folder, root, separator, listener)
    where, known = text.visible(listing.folder), tuple(class_names)
    unknown = unknown_names(listing.class_names, known)
    if unknown:
        raise DataError(
            f"{where}: {text.counted(len(unknown), 'class', 'classes')} that the run does not know: "
            f"{text.quoted(unknown[:5])}.{text.nearest(unknown[0], known)} Its classes: {text.joined(known[:20])}"
            f"{', ...' if len(known) > 20 else ''}"
        )
    found = Survey(layout, known, separator=separator)
    found.add("test", listing, listener, pixel_limit=pixel_limit, channels=channels)
    _refuse(found.problems)
    refuse_or_warn(found.unreadable, on_error=on_error, listener=listener)
    if not len(found.splits["test"]):
        raise DataError(f"{where}: no images. {EXPECTED}.")
    report_notes(found, listener)
    return found.index()


def _refuse(problems: Sequence[Problem]) -> None:
    """Raise a `DataError` for the first problem, with the number of others."""
    if problems:
        more = f" ({text.counted(len(problems) - 1, 'more problem')})" if len(problems) > 1 else ""
        raise DataError(problems[0].message + more)


def refuse_or_warn(unreadable: Sequence[tuple[str, str]], *, on_error: str, listener: Listener) -> None:
    """Raise one `DataError` that names unreadable images; with `skip`, warn instead."""
    if not unreadable:
        return
    shown = "; ".join(f"{text.visible(path)}: {text.visible(reason)}" for path, reason in unreadable[:5])
    more = f"; and {len(unreadable) - 5:,} more" if len(unreadable) > 5 else ""
    count = text.counted(len(unreadable), "unreadable image")
    if on_error == "skip":
        listener.warn(f"{count} skipped: {shown}{more}")
    else:
        raise DataError(
            f"{count}: {shown}{more}. Fix or remove them, or skip them with --set data.on_error=skip "
            "(evaluate: --on-error skip)"
        )


def _for_evaluation(
    folder: str | os.PathLike[str], root: Path | None, separator: str | None, listener: Listener
) -> tuple[Layout, Listing]:
    """Return a folder or manifest as the split `test`, and its images; with splits, test or else validation."""
    where = str(Path(folder).absolute())
    manifest = read_manifest(where, root, separator=separator) if is_manifest(where) else None
    if manifest is None and separator is not None:
        raise DataError(
            f"{text.visible(where)}: the run is multilabel, which class folders cannot express; "
            f"give a table with the columns path and label, and labels such as a{separator}b"
        )
    if manifest is not None:
        splits = {split: split for split in manifest.splits}
    else:
        splits = recognised_splits(where, check_class_folders(where))
    split = next((name for name in ("test", "validation") if name in splits), None)
    if splits and split is None:
        raise DataError(
            f"{text.visible(where)}: holds {text.joined(splits.values())}, but no test or validation images"
        )
    if split is not None:
        shown = text.visible(splits[split]) + ("" if manifest else "/")
        listener.note(f"{text.visible(where)} holds splits: evaluating on {shown}")
    if manifest is not None:
        listing = list_manifest(manifest, split or "test")
        return Layout(manifest.root, {"test": where}, manifest.notes, is_manifest=True), listing
    inner = where if split is None else f"{where}/{splits[split]}"
    return Layout(inner, {"test": inner}), folders.list_split(inner)
