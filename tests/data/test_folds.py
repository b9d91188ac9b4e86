"""Every training image is held out exactly once, and held-out images or groups never leak into training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_folders import Data, Heard, make_folder
from sklearn.model_selection import StratifiedGroupKFold

from wisesr_cli.data.dataset import build_index
from wisesr_cli.data.folds import FOLDERS, check_folds, choose_folds, splits_for_training
from wisesr_cli.data.index import Split
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.data.splits import SplitOptions
from wisesr_cli.errors import ConfigError, DataError

CLASSES = ("cat", "dog", "emu")
PATHS = tuple(f"{name}/patient{number % 20:02}_{number:03}.png" for name in CLASSES for number in range(103))
LABELS = np.repeat(np.arange(3), 103)
IMAGES = Split(PATHS, LABELS)
PATIENT = r"patient\d+"


def options(seed: int = 0, regex: str | None = PATIENT) -> SplitOptions:
    return SplitOptions(0.2, seed, CLASSES, regex)


@pytest.mark.parametrize("strategy", FOLDERS)
def test_folds_depend_on_the_seed_and_not_on_the_order_of_files(strategy: str) -> None:
    folds = choose_folds(strategy, IMAGES, options(), 5)
    order = np.random.default_rng(5).permutation(len(PATHS))
    assert np.array_equal(folds[order], choose_folds(strategy, IMAGES.taken(order), options(), 5))
    assert not np.array_equal(folds, choose_folds(strategy, IMAGES, options(seed=1), 5))


@pytest.mark.parametrize("count", [2, 5, 7])
def test_stratified_folds_differ_by_at_most_one_image_per_class_and_in_total(count: int) -> None:
    folds = choose_folds("stratified", IMAGES, options(), count)
    table = np.array([np.bincount(folds[label == LABELS], minlength=count) for label in range(3)])
    assert np.ptp(table, axis=1).max() <= 1
    assert np.ptp(table.sum(axis=0)) <= 1


def test_hash_folds_never_move_a_file_when_others_are_added_or_removed() -> None:
    folds = choose_folds("hash", IMAGES, options(), 5)
    assert np.array_equal(folds[::3], choose_folds("hash", IMAGES.taken(np.arange(0, len(PATHS), 3)), options(), 5))
    assert np.bincount(folds).min() > 40


def test_unequal_groups_are_spread_about_as_evenly_as_by_scikit_learn() -> None:
    for seed in range(5):
        random = np.random.default_rng(seed)
        groups = np.minimum(random.geometric(0.05, 900), 60)
        labels = (groups + (random.random(900) < 0.3)) % 3
        images = Split(tuple(f"{n}.png" for n in range(900)), labels, groups=tuple(map(str, groups)))
        named = SplitOptions(0.2, seed, CLASSES, groups=images.groups)
        folds = choose_folds("group", images, named, 5)
        assert all(len({*folds[groups == group]}) == 1 for group in np.unique(groups))
        theirs = np.empty(900, int)
        for number, (_, held) in enumerate(StratifiedGroupKFold(5).split(labels, labels, groups)):
            theirs[held] = number
        assert unevenness(folds, labels) <= unevenness(theirs, labels) + 0.1


def unevenness(folds: np.ndarray, labels: np.ndarray) -> float:
    """Return the largest deviation from a fifth of any class's share in any fold."""
    shares = [np.bincount(folds[labels == label], minlength=5) / (labels == label).sum() for label in range(3)]
    return float(np.abs(np.array(shares) - 0.2).max())


@pytest.mark.parametrize("strategy", FOLDERS)
def test_every_image_is_held_out_once_and_validation_comes_from_the_other_folds(strategy: str) -> None:
    regex = PATIENT if strategy == "group" else None
    held: list[str] = []
    for number in range(4):
        data = DataConfig(split_strategy=strategy, group_regex=regex, fold=f"{number}/4")  # type: ignore[arg-type]
        parts = splits_for_training(data, {"train": IMAGES, "test": Split(("t.png",), LABELS[:1])}, CLASSES, seed=3)
        assert sorted(path for split in parts.values() for path in split.paths) == sorted(PATHS)
        assert 0.1 < len(parts["validation"]) / (len(PATHS) - len(parts["test"])) < 0.3
        if strategy == "group":
            patients = [{path[4:13] for path in split.paths} for split in parts.values()]
            assert sum(map(len, patients)) == len(set().union(*patients))
        held += parts["test"].paths
    assert sorted(held) == sorted(PATHS)


def test_named_groups_stay_together_without_the_group_strategy() -> None:
    images = Split(PATHS, LABELS, groups=tuple(path[4:14] for path in PATHS))
    parts = splits_for_training(DataConfig(fold="0/5", validation_split=0), {"train": images}, CLASSES, seed=0)
    train, held = (set(parts[name].groups or ()) for name in ("train", "test"))
    assert held
    assert not train & held


def test_folds_keep_the_validation_folder_and_ignore_the_test_folder(tmp_path: Path) -> None:
    counts = {f"{split}/{name}": 6 for split in ("train", "validation", "test") for name in ("a", "b")}
    data = Data(dir=make_folder(tmp_path / "photos", counts), fold="1/3")
    index = build_index(data, seed=0, listener=Heard())
    assert {name: len(split) for name, split in index.splits.items()} == {"train": 8, "validation": 12, "test": 4}
    assert all(path.startswith("validation/") for path in index.splits["validation"].paths)
    assert all(path.startswith("train/") for name in ("train", "test") for path in index.splits[name].paths)
    assert check_folds(data, index, (0, 1)) == 12


def test_class_too_small_for_the_folds_is_rejected_with_counts() -> None:
    images = Split(("a/1", "a/2", "a/3", "b/1", "b/2"), np.array([0, 0, 0, 1, 1]))
    small = SplitOptions(0.2, 0, ("a", "b"))
    assert len(choose_folds("stratified", images, small, 2)) == 5
    with pytest.raises(DataError, match=r"1 class too small for 3 folds: b \(2\); .* for training and validation"):
        choose_folds("stratified", images, small, 3, sides=2)


def test_too_few_groups_and_empty_folds_are_rejected() -> None:
    with pytest.raises(DataError, match="finds 20 groups in 309 images; a split needs at least 21"):
        choose_folds("group", IMAGES, options(), 21)
    groups = SplitOptions(0.2, 0, CLASSES, groups=("x", "y", "z"))
    with pytest.raises(DataError, match=r"3 groups for 2 folds: .* 1 group remains for training and validation"):
        choose_folds("group", Split(("1", "2", "3"), LABELS[:3]), groups, 2, sides=2)
    with pytest.raises(DataError, match=r"3 training images for 9 folds: fold . is empty"):
        choose_folds("hash", Split(("1", "2", "3"), LABELS[:3]), options(), 9)


def test_check_folds_rejects_seeds_that_make_a_fold_impossible(tmp_path: Path) -> None:
    data = Data(dir=make_folder(tmp_path, {"a": 4, "b": 4}), split_strategy="hash", fold="0/3", validation_split=0.3)
    failing = []
    for seed in range(30):
        try:
            check_folds(data, build_index(Data(dir=tmp_path), seed=0, listener=Heard()), (seed,))
        except DataError:
            failing.append(seed)
    assert 0 < len(failing) < 30


@pytest.mark.parametrize("fold", ["3", "5/5", "0/1", "0/101", "-1/3", "a/b"])
def test_invalid_fold_is_rejected_with_an_example(fold: str) -> None:
    import wisesr_cli

    with pytest.raises(ConfigError, match=r"data\.fold.*0/5 is the first of five"):
        wisesr_cli.load_config(None, {"data.fold": fold})
