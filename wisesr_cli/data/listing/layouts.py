"""Decides which folders of a data folder are splits and which are classes; rejects ambiguous layouts.

If splits, folds, or the single folder of an unpacked archive were read as classes, checks would pass and training would
run, but mean nothing. So every layout that can be read in two ways is an error that says what was seen, what was
expected, and how to name the folders explicitly (`data.train_dir`).
"""

# ruff: noqa: PTH100, PTH113, PTH118  (as in folders.py)
from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wisesr_cli import text
from wisesr_cli.data.listing.folders import has_images, is_run_folder, sorted_entries, subfolders
from wisesr_cli.errors import DataError
from wisesr_cli.model_files.info import BEST

EXPECTED = (
    "Expected one folder per class, FOLDER/CLASS/IMAGE.jpg, or class folders inside splits, "
    "FOLDER/train/CLASS/IMAGE.jpg and FOLDER/validation/CLASS/IMAGE.jpg (and test)"
)
SPLITS = ("train", "validation", "test")

# Words, in any case, that name a split.
_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "eval", "evaluation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "tst", "holdout"), "test"),
}
# Words that may accompany such a word or be joined to it: `training_set`, `seg_train`, `testdata`.
_FILLERS = ("set", "data", "dataset", "image", "images", "img", "imgs", "photos", "folder", "split", "seg")
_FOLD = re.compile(r"(?:fold|split|part|cv|kfold)[ _.-]*\d+", re.IGNORECASE)
_DEPTH = 8  # of folders to search for images

_FOLDER_REASONS: dict[type[OSError], str] = {
    FileNotFoundError: "no such folder",
    NotADirectoryError: "a file, not a folder",
    PermissionError: "permission denied",
}


@dataclass(frozen=True)
class Layout:
    """The folder of each existing split (`train`, `validation`, `test`); each contains class folders."""

    root: str
    folders: dict[str, str]
    notes: tuple[str, ...] = ()
    is_manifest: bool = False  # the splits are named in a file, given instead of their folders


def find_splits(folder: str | os.PathLike[str]) -> Layout:
    """Return the split folders in `folder`; without any, `folder` itself contains the classes, all for training.

    Raises `DataError` with what was seen and what was expected.
    """
    root = os.path.abspath(folder)
    names = check_class_folders(root)
    splits = recognised_splits(root, names)
    if not splits:
        _refuse_what_are_no_classes(root, names)
        return Layout(root, {"train": root})
    if "train" not in splits:
        found = text.joined(sorted(splits.values()))
        raise DataError(f"{text.visible(root)}: no folder train/ next to {found}. {EXPECTED}.")
    paths = {split: os.path.join(root, splits[split]) for split in SPLITS if split in splits}
    _refuse_doubled(root, paths)
    others = [name for name in names if name not in splits.values()]
    note = f"{text.counted(len(others), 'folder')} next to the splits skipped: {text.joined(others[:5])}"
    return Layout(root, paths, (note,) if others else ())


def recognised_splits(root: str, names: Sequence[str]) -> dict[str, str]:
    """Return split -> folder name, empty if the folders `names` of `root` are classes.

    They are splits if all of them, or training and one more, are named like a split and contain folders: a class may
    also be called `train`.
    """
    found: dict[str, str] = {}
    for name, split in split_names(names).items():
        if not subfolders(os.path.join(root, name)):
            continue
        if split in found:
            raise DataError(
                f"{text.visible(root)}: {text.visible(found[split])}/ and {text.visible(name)}/ both hold the split "
                f"'{split}'. Keep one of them."
            )
        found[split] = name
    return found if len(found) == len(names) or ("train" in found and len(found) > 1) else {}


def check_class_folders(root: str) -> list[str]:
    """Return the names of the folders in `root`; raises `DataError` with the expected layout when there are none."""
    try:
        sorted_entries(root)
    except OSError as error:
        reason = _FOLDER_REASONS.get(type(error), error.strerror or "cannot be read")
        raise DataError(f"{text.visible(root)}: {reason}. {EXPECTED}.") from error
    names = subfolders(root)
    is_run = is_run_folder(root) and os.path.isfile(os.path.join(root, BEST))  # a demo has a record of files, too
    if is_run or (names and all(is_run_folder(os.path.join(root, name)) for name in names)):
        raise DataError(f"{text.visible(root)}: runs of wisesr, not images. {EXPECTED}.")
    if not names:
        raise DataError(f"{text.visible(root)}: no class folders in it. {EXPECTED}.")
    return names


def split_names(names: Sequence[str]) -> dict[str, str]:
    """Return folder name -> split for the names of splits: a word for the split, plus words that all of them share."""
    words = {name: _words_of(name) for name in names}
    candidates = [set(own) for own in words.values() if not _WORDS.keys().isdisjoint(own)]
    shared = set.intersection(*candidates) - _WORDS.keys() if len(candidates) > 1 else set()
    found = {}
    for name, own in words.items():
        left = [word for word in own if word not in shared]
        if len(left) == 1 and left[0] in _WORDS:
            found[name] = _WORDS[left[0]]
    return found


def _words_of(name: str) -> list[str]:
    """Return the words of a folder's name without fillers: `Training_Set` -> training, `testdata` -> test."""
    words = []
    for word in re.findall(r"[^\W_]+", name.casefold()):
        for filler in _FILLERS:
            if word.removesuffix(filler) in _WORDS:
                word = word.removesuffix(filler)
        if word not in _FILLERS:
            words.append(word)
    return words


def _refuse_what_are_no_classes(root: str, names: Sequence[str]) -> None:
    """Raise `DataError` when the folders `names`, already known not to be splits, may not be classes either."""
    splits = split_names(names)
    with_images = {name for name in names if has_images(os.path.join(root, name))}
    holding = [name for name in splits if name not in with_images and subfolders(os.path.join(root, name))]
    if holding:
        loose = [name for name in names if name in with_images]
        others = [name for name in names if name not in holding and name not in with_images]
        odd = (
            f"{_folders(loose)} next to them: images without a class"
            if loose
            else f"{_folders(others)} next to them {'is not a split' if len(others) == 1 else 'are not splits'}"
        )
        seen = f"there are class folders in {_folders(holding)}, as in a split, but {odd}"
        raise _not_understood(root, seen, os.path.join(root, holding[0]), root)
    if len(splits) == len(names) and with_images:
        raise _not_understood(root, f"named like splits, but with images outside class folders: {_folders(names)}")
    if len(names) > 1 and all(_FOLD.fullmatch(name) for name in names):
        raise _not_understood(root, f"named like folds or parts, not like classes: {_folders(names)}", root)
    if not with_images:
        _refuse_what_is_one_level_down(root)


def _refuse_what_is_one_level_down(root: str) -> None:
    """Raise `DataError` when the class folders are below those in `root`, which directly contain no images."""
    inside = os.path.realpath(root)
    below = {name: subfolders(os.path.join(root, name), inside=inside) for name in subfolders(root, inside=inside)}
    holding = [name for name in below if _has_images_below(os.path.join(root, name), inside)]
    if len(holding) == 1:
        inner = _descend(os.path.join(root, holding[0]), inside)
        found = subfolders(inner, inside=inside)
        if len(found) > 1:
            raise DataError(
                f"{text.visible(root)}: the class folders are further down, in {text.visible(inner)} "
                f"({text.joined(found[:5])}); give that folder: wisesr train {text.typed(inner)}"
            )
    times = Counter(sub for name in holding for sub in below[name])
    repeated = sorted(sub for sub, count in times.items() if count > 1)
    if len(repeated) * 2 >= len(times) > 0 and len(holding) > 1:
        seen = f"no images in {_folders(holding)}, and the same folders in each ({text.joined(repeated[:5])})"
        raise _not_understood(root, f"{seen}, as in folds or parts of a dataset", root)


def _refuse_doubled(root: str, paths: dict[str, str]) -> None:
    """Raise `DataError` when the class folders of a split are nested in another folder: `train/train/cat`."""
    inside = os.path.realpath(root)
    inner = {split: _descend(path, inside) for split, path in paths.items()}
    if inner["train"] != paths["train"] and len(subfolders(inner["train"], inside=inside)) > 1:
        named = " -s ".join(text.typed(f"data.{split}_dir={path}") for split, path in inner.items())
        raise DataError(
            f"{text.visible(root)}: the class folders of the splits are further down, as in "
            f"{text.visible(inner['train'])}; name them: wisesr train {text.typed(root)} -s {named}"
        )


def _descend(path: str, inside: str) -> str:
    """Descend through folders that contain nothing but one folder; return the last one."""
    for _ in range(_DEPTH):
        found = subfolders(path, inside=inside)
        if len(found) != 1 or has_images(path) or has_images(os.path.join(path, found[0])):
            return path
        path = os.path.join(path, found[0])
    return path


def _has_images_below(path: str, inside: str, depth: int = _DEPTH) -> bool:
    if is_run_folder(path):
        return False
    if has_images(path):
        return True
    return depth > 0 and any(
        _has_images_below(os.path.join(path, name), inside, depth - 1) for name in subfolders(path, inside=inside)
    )


def _not_understood(root: str, seen: str, *places: str) -> DataError:
    """Return the error for a layout: what was seen, what is expected, and how to name the class folders."""
    ways = " or ".join(f"-s {text.typed(f'data.train_dir={place}')}" for place in places)
    way_out = f" To say where the class folders are: wisesr train {text.typed(root)} {ways}" if places else ""
    return DataError(f"{text.visible(root)}: {seen}. {EXPECTED}.{way_out}")


def _folders(names: Iterable[str]) -> str:
    """Return `train/, test/ and 3 more`."""
    shown = [f"{text.visible(name)}/" for name in names]
    return ", ".join(shown[:5]) + (f" and {len(shown) - 5:,} more" if len(shown) > 5 else "")
