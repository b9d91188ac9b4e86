from __future__ import annotations

import numpy as np
import pytest

from wisesr_cli.data.index import Split
from wisesr_cli.data.splits import SPLITTERS, SplitOptions, check_groups, choose_validation
from wisesr_cli.errors import DataError

CLASSES = ("cat", "dog", "emu")
PATHS = [f"{name}/patient{number % 20:02}_{number:03}.png" for name in CLASSES for number in range(100)]
LABELS = np.repeat(np.arange(3), 100)
PATIENT = r"patient\d+"


def options(fraction: float = 0.2, seed: int = 0, regex: str | None = PATIENT) -> SplitOptions:
    return SplitOptions(fraction, seed, CLASSES, regex)


@pytest.mark.parametrize("strategy", SPLITTERS)
def test_split_depends_on_the_seed_and_not_on_the_order_of_files(strategy: str) -> None:
    chosen = choose_validation(strategy, PATHS, LABELS, options())
    order = np.random.default_rng(5).permutation(len(PATHS))
    again = choose_validation(strategy, [PATHS[i] for i in order], LABELS[order], options())
    assert np.array_equal(chosen[order], again)
    assert not np.array_equal(chosen, choose_validation(strategy, PATHS, LABELS, options(seed=1)))


@pytest.mark.parametrize("strategy", SPLITTERS)
@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_the_fraction_is_met(strategy: str, fraction: float) -> None:
    chosen = choose_validation(strategy, PATHS, LABELS, options(fraction))
    assert abs(chosen.mean() - fraction) < (0.08 if strategy == "hash" else 0.051)


@pytest.mark.parametrize(("count", "fraction", "expected"), [(2, 0.01, 1), (2, 0.99, 1), (10, 0.2, 2), (7, 0.5, 4)])
def test_stratified_takes_at_least_one_image_of_each_class_but_not_all(
    count: int, fraction: float, expected: int
) -> None:
    paths = [f"{name}/{number}" for name in CLASSES for number in range(count)]
    labels = np.repeat(np.arange(3), count)
    chosen = choose_validation("stratified", paths, labels, options(fraction))
    assert np.bincount(labels[chosen]).tolist() == [expected] * 3


def test_stratified_split_of_a_class_is_unaffected_by_adding_another() -> None:
    chosen = choose_validation("stratified", PATHS, LABELS, options())
    more = [*PATHS, "ant/1", "ant/2"]
    labels = np.concatenate([LABELS + 1, [0, 0]])
    again = choose_validation("stratified", more, labels, SplitOptions(0.2, 0, ("ant", *CLASSES)))
    assert np.array_equal(chosen, again[:-2])


def test_class_too_small_to_split_is_rejected_with_counts() -> None:
    with pytest.raises(DataError, match=r"1 class too small to split.*: emu \(1\)"):
        choose_validation("stratified", ["a/1", "a/2", "b/1", "b/2", "c/1"], np.array([0, 0, 1, 1, 2]), options())


def test_hash_never_moves_a_file_when_others_are_added_or_removed() -> None:
    chosen = choose_validation("hash", PATHS, LABELS, options())
    fewer = choose_validation("hash", PATHS[::3], LABELS[::3], options())
    assert np.array_equal(chosen[::3], fewer)


def test_empty_side_is_rejected() -> None:
    with pytest.raises(DataError, match="one side is empty"):
        choose_validation("hash", PATHS[:3], LABELS[:3], options(0.0001))


@pytest.mark.parametrize("regex", [PATIENT, r"patient(\d+)_"])
@pytest.mark.parametrize("seed", range(5))
def test_no_group_straddles_the_splits(regex: str, seed: int) -> None:
    chosen = choose_validation("group", PATHS, LABELS, options(seed=seed, regex=regex))
    groups = np.array([path.split("/")[1][:9] for path in PATHS])
    assert not set(groups[chosen]) & set(groups[~chosen])
    assert np.bincount(LABELS[chosen]).tolist() == [20, 20, 20]


def test_unequal_groups_still_approximate_the_fraction_of_every_class() -> None:
    random = np.random.default_rng(3)
    paths, labels = [], []
    for group in range(60):
        for number in range(random.integers(1, 30)):
            paths.append(f"x/patient{group}_{number}")
            labels.append(int(random.integers(0, 3)))
    numbers = np.array(labels)
    chosen = choose_validation("group", paths, numbers, options())
    shares = np.bincount(numbers[chosen], minlength=3) / np.bincount(numbers)
    assert np.abs(shares - 0.2).max() < 0.06


def test_group_never_takes_all_images_of_a_class() -> None:
    paths = ["a/g1_1", "a/g2_1", "b/g1_2", "b/g1_3"]
    chosen = choose_validation("group", paths, np.array([0, 0, 1, 1]), options(0.5, regex=r"g\d"))
    assert chosen.tolist() == [False, True, False, False]


def test_a_path_without_a_group_is_named() -> None:
    with pytest.raises(DataError, match=r"does not match cat/odd\.png"):
        choose_validation("group", [*PATHS, "cat/odd.png"], np.append(LABELS, 0), options())


@pytest.mark.parametrize(("paths", "message"), [(["a/g1_1", "b/g1_2"], "1 group"), (["a/g1_1", "b/g2_2"], "one side")])
def test_groups_that_cannot_be_split_are_rejected(paths: list[str], message: str) -> None:
    with pytest.raises(DataError, match=message):
        choose_validation("group", paths, np.array([0, 1]), options(0.5, regex=r"g\d"))


def test_groups_in_two_splits_are_rejected_with_their_names() -> None:
    def split(*people: str) -> Split:
        paths = tuple(f"{person}_{view}.png" for person in people for view in range(2))
        return Split(paths, np.zeros(len(paths), np.int64))

    splits = {"train": split("ann", "bob", "cid"), "validation": split("dan", "bob"), "test": split("eve", "cid")}
    with pytest.raises(DataError) as caught:
        check_groups("([a-z]+)_", splits)
    assert "2 groups of data.group_regex in two splits: bob (train, validation); cid (train, test). " in str(
        caught.value
    )
    assert check_groups("([a-z]+)_", {"train": split("ann"), "test": split("eve")}) == 2
    with pytest.raises(DataError, match=r"'\(x\)' does not match ann_0\.png"):
        check_groups("(x)", splits)
