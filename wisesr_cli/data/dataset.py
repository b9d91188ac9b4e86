"""Builds a `DatasetIndex` from image folders, for every command.

The steps are in `folders` (listing the disk), `scan` (image headers), `splits` (validation without a folder), `index`
(the records), `copies.duplicates`, and `inspection` (the same, with findings instead of errors).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from wisesr_cli import text
from wisesr_cli.data import folders
from wisesr_cli.data.copies.duplicates import duplicates_message, find_duplicates
from wisesr_cli.data.folders import Problem
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.data.layouts import EXPECTED, Layout, check_class_folders, recognised_splits
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.splits import check_groups
from wisesr_cli.data.survey import Survey, find_layout, report_notes, survey, unknown_names, without_images_message
from wisesr_cli.errors import DataError
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.listening import Listener


def build_index(data: DataConfig, *, seed: int, listener: Listener) -> DatasetIndex:
    """Return every example of the data folders, image headers read, validation split off where it has no folder.

    Raises `DataError` for folders that cannot be used and, unless `data.on_error` is `skip`, for unreadable images.
    """
    found = survey(data, listener=listener)
    _refuse(found.problems)
    refuse_or_warn(found.unreadable, on_error=data.on_error, listener=listener)
    if data.group_regex is not None:
        check_groups(data.group_regex, found.splits)
    if empty := found.classes_without_images(found.splits["train"]):
        raise DataError(without_images_message(empty))
    parts = found.splits_for_training(data, seed=seed)
    if empty := found.classes_without_images(parts["train"]):  # all are in validation, which `hash` allows
        listener.warn(
            f"the split leaves no training image of {text.joined(empty[:5])}; 'stratified' leaves some of each"
        )
    report_notes(found, listener)
    index = found.index(parts)
    if duplicates := find_duplicates(index, listener):
        listener.warn(duplicates_message(duplicates))
    return index


def count_classes(data: DataConfig) -> int:
    """Return the number of class folders for training, without reading images."""
    return len(folders.list_split(find_layout(data).folders["train"]).class_names)


def scan_folder_for_evaluation(
    folder: str | os.PathLike[str],
    class_names: Sequence[str],
    *,
    on_error: str,
    pixel_limit: int = PIXEL_LIMIT,
    listener: Listener,
) -> DatasetIndex:
    """Return an index with the one split `test`: the images of a folder, their classes matched by name.

    Of a folder with splits, the test split is used, else the validation split. A class without a folder has no
    examples. Raises `DataError` for a folder whose name is not in `class_names`.
    """
    root = _evaluation_folder(folder, listener)
    listing = folders.list_split(root)
    known = tuple(class_names)
    unknown = unknown_names(listing.class_names, known)
    if unknown:
        raise DataError(
            f"{text.visible(root)}: {text.counted(len(unknown), 'class', 'classes')} that the run does not know: "
            f"{text.quoted(unknown[:5])}.{text.nearest(unknown[0], known)} Its classes: {text.joined(known[:20])}"
            f"{', ...' if len(known) > 20 else ''}"
        )
    found = Survey(Layout(root, {"test": root}), known)
    found.add("test", listing, listener, pixel_limit=pixel_limit)
    _refuse(found.problems)
    refuse_or_warn(found.unreadable, on_error=on_error, listener=listener)
    if not len(found.splits["test"]):
        raise DataError(f"{text.visible(root)}: no images. {EXPECTED}.")
    report_notes(found, listener)
    return found.index()


def _refuse(problems: Sequence[Problem]) -> None:
    """Raise the first problem, with the number of others."""
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
        listener.warn(f"{count} left out: {shown}{more}")
    else:
        raise DataError(
            f"{count}: {shown}{more}. Mend or remove them, or leave them out with --set data.on_error=skip "
            "(evaluate: --on-error skip)"
        )


def _evaluation_folder(folder: str | os.PathLike[str], listener: Listener) -> str:
    root = str(Path(folder).absolute())
    found = recognised_splits(root, check_class_folders(root))
    if not found:
        return root
    split = next((name for name in ("test", "validation") if name in found), None)
    if split is None:
        raise DataError(f"{text.visible(root)}: holds {text.joined(found.values())}, but no test or validation folder")
    listener.note(f"{text.visible(root)} holds splits: evaluating on {text.visible(found[split])}/")
    return f"{root}/{found[split]}"
