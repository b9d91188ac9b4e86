"""Which folders are splits, which are classes, and which layouts are rejected as ambiguous."""

from __future__ import annotations

from pathlib import Path

import pytest
from command_line import CommandLine
from image_folders import make_folder

from wisesr_cli.data.listing.layouts import find_splits, split_names
from wisesr_cli.errors import DataError

WAYS = ("init", "check", "train --dry-run", "compare")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train", "val", "test"), "train validation test"),
        (("Training_Set", "Validation data", "test_set"), "train validation test"),
        (("trainset", "testdata", "eval"), "train test validation"),
        (("seg_train", "seg_test"), "train test"),
        (("asl_alphabet_train", "asl_alphabet_test"), "train test"),
        (("train", "dev", "holdout"), "train validation test"),
        (("training images", "TEST-IMAGES"), "train test"),
        (("crash_test", "unit_test"), ""),
        (("cat", "dog"), ""),
        (("train_1", "train_2"), ""),
        (("contest", "protest"), ""),
        (("dataset", "images"), ""),
    ],
)
def test_split_names_are_recognised(names: tuple[str, ...], expected: str) -> None:
    assert " ".join(split_names(names).values()) == expected


def test_splits_with_alternative_names_are_found(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{split}/{name}": 1 for split in ("Train-Set", "eval") for name in ("cat", "dog")})
    assert find_splits(tmp_path).folders == {"train": f"{tmp_path}/Train-Set", "validation": f"{tmp_path}/eval"}


CLASSES = {
    "a class called test": ["test", "control"],
    "a class called train, with subfolders and images": ["train", "train/old", "car"],
    "subfolders of classes": ["pets/cat", "pets/dog", "vehicles/car", "vehicles/bus"],
    "digits": ["0", "1", "2"],
    "one class in two subfolders": ["cat/old", "cat/new", "dog"],
}


@pytest.mark.parametrize("case", CLASSES)
def test_class_folders_are_not_taken_for_splits(tmp_path: Path, case: str) -> None:
    make_folder(tmp_path, dict.fromkeys(CLASSES[case], 1))
    assert find_splits(tmp_path).folders == {"train": str(tmp_path)}


BOTH = ("cat", "dog")
REFUSED = {
    "splits without classes": (["train", "test", "valid"], "named like splits, but with images outside class folders"),
    "one split without classes": (["train"], "with images outside class folders: train/"),
    "a split next to loose images": (
        [*(f"train/{name}" for name in BOTH), "test"],
        "there are class folders in train/, as in a split, but test/ next to them: images without a class.",
    ),
    "a split next to another folder": (
        [f"{split}/{name}" for split in ("train", "holdback") for name in BOTH],
        "class folders in train/, as in a split, but holdback/ next to them is not a split.",
    ),
    "folds": ([f"fold{fold}/{name}" for fold in range(5) for name in BOTH], "named like folds or parts"),
    "folds of loose images": (["fold_1", "fold_2"], "named like folds or parts"),
    "parts by another name": (
        [f"{part}/{name}" for part in ("berlin", "paris") for name in BOTH],
        "no images in berlin/, paris/, and the same folders in each (cat, dog)",
    ),
    "one level down": ([f"photos/{name}" for name in BOTH], "are further down, in ROOT/photos (cat, dog); "),
    "three levels down": ([f"a/b/c/{name}" for name in BOTH], "wisesr train ROOT/a/b/c"),
    "splits one level down": (
        [f"archive/{split}/{name}" for split in ("train", "val") for name in BOTH],
        "wisesr train ROOT/archive",
    ),
    "splits in splits": (
        [f"{split}/{split}/{name}" for split in ("seg_train", "seg_test") for name in BOTH],
        "wisesr train ROOT -s data.train_dir=ROOT/seg_train/seg_train -s data.test_dir=ROOT/seg_test/seg_test",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_ambiguous_layout_is_rejected_with_what_was_found(tmp_path: Path, case: str) -> None:
    folders, said = REFUSED[case]
    make_folder(tmp_path, dict.fromkeys(folders, 2))
    with pytest.raises(DataError) as caught:
        find_splits(tmp_path)
    assert said.replace("ROOT", str(tmp_path)) in str(caught.value)


def test_hidden_image_does_not_make_a_folder_a_class(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"photos/{name}": 1 for name in BOTH})
    (tmp_path / "photos" / "._preview.jpg").touch()
    with pytest.raises(DataError, match="are further down"):
        find_splits(tmp_path)


def test_only_folder_with_images_is_suggested(tmp_path: Path) -> None:
    make_folder(tmp_path, {"images/cat": 2, "images/dog": 2})
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=rf"wisesr train {tmp_path}/images$"):
        find_splits(tmp_path)


def make_run(folder: Path) -> Path:
    """Make a folder that is recognised as a run, with a plot in it."""
    make_folder(folder, {"plots": 1})
    (folder / ".written.jsonl").touch()
    (folder / "best.keras").touch()
    return folder


def test_the_demo_folder_is_not_taken_for_a_run(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"harbour/train/{name}": 1 for name in BOTH} | {f"harbour/test/{name}": 1 for name in BOTH})
    make_run(tmp_path / "runs" / "harbour-wise")
    (tmp_path / ".written.jsonl").touch()
    with pytest.raises(DataError, match=rf"further down, in {tmp_path}/harbour"):
        find_splits(tmp_path)


def test_runs_next_to_the_photos_are_not_a_class(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"photos/{name}": 1 for name in BOTH})
    make_run(tmp_path / "runs" / "photos-wise")
    with pytest.raises(DataError, match=rf"wisesr train {tmp_path}/photos$"):
        find_splits(tmp_path)


@pytest.mark.reliability(51)
@pytest.mark.parametrize("way", ["check", "train --dry-run"])
def test_runs_among_the_classes_are_rejected(wisesr: CommandLine, tmp_path: Path, way: str) -> None:
    make_folder(tmp_path / "photos", dict.fromkeys(BOTH, 3))
    run = make_run(tmp_path / "photos" / "runs" / "wise")
    command, *more = way.split()
    answer = wisesr(command, tmp_path / "photos", *more)
    assert answer.code == 3
    said = "class 'runs': a run of wisesr is in it, not images of a class; move the run out of the data: "
    assert said in " ".join((answer.out + answer.err).split())
    assert "".join(str(run).split()) in "".join((answer.out + answer.err).split())


@pytest.mark.parametrize("given", ["runs", "runs/wise"])
def test_folder_of_runs_is_not_a_folder_of_classes(tmp_path: Path, given: str) -> None:
    make_run(tmp_path / "runs" / "wise")
    with pytest.raises(DataError, match="runs of wisesr, not images"):
        find_splits(tmp_path / given)


@pytest.mark.reliability(51)
@pytest.mark.parametrize("way", WAYS)
def test_every_command_rejects_folds_before_anything_else(wisesr: CommandLine, tmp_path: Path, way: str) -> None:
    make_folder(tmp_path / "photos", {f"fold{fold}/{name}": 3 for fold in range(3) for name in BOTH})
    command, *more = way.split()
    answer = wisesr(command, tmp_path / "photos", *more)
    assert answer.code == 3
    assert "named like folds or parts, not like classes: fold0/, fold1/, fold2/" in answer.out + answer.err
    assert "weights" not in answer.err
    assert not list(tmp_path.glob("*.yaml"))


@pytest.mark.reliability(51)
def test_folders_declared_as_classes_are_accepted(wisesr: CommandLine, tmp_path: Path) -> None:
    """The command suggested by the error, with `-s data.train_dir=`, works and applies the recipe."""
    photos = tmp_path / "photos"
    make_folder(photos, {f"fold{fold}/{name}": 3 for fold in range(3) for name in BOTH})
    words = wisesr("train", photos, "--dry-run").error.partition("class folders are: wisesr ")[2].split()
    answer = wisesr(*words, "--dry-run").worked()
    table = [line.split() for line in answer.err.splitlines()]
    assert ["fold0", "5", "1"] in table
    assert ["fold2", "5", "1"] in table
