"""Folders without the expected layout, and folders with splits, end to end (promises 14 and 15)."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from command_line import CommandLine, make_photo, make_photos, make_splits
from folder_commands import TRAINING_COMMANDS, Commands, refusal
from reliability import Seen

from wisesr_cli.run.records import read_rows

pytestmark = pytest.mark.usefixtures("empty_folder")


# 14: folders without the expected layout


def make_wrong_layout(root: Path, case: str) -> Path:
    folder = root / "photos"
    if case == "one class":
        make_photos(folder, 3, classes=("red",))
    elif case == "flat":
        make_photo(folder / "a.png", 0, 0)
    elif case == "empty":
        folder.mkdir()
    elif case == "hidden folders only":
        make_photos(folder / ".git", 1)
    elif case == "links only":
        folder.mkdir()
        (folder / "a").symlink_to(folder)
        (folder / "b").symlink_to(root)
    return folder


WRONG_LAYOUTS = ("flat", "empty", "missing", "hidden folders only", "links only")


@pytest.mark.reliability(14)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("command", "case"),
    [*product(TRAINING_COMMANDS, ["one class", *WRONG_LAYOUTS]), *product(["evaluate"], WRONG_LAYOUTS)],
)
def test_a_folder_without_classes_exits_with_3_and_shows_the_expected_layout(
    commands: Commands, command: str, case: str, tmp_path: Path, seen: Seen
) -> None:
    found = refusal(commands[command](make_wrong_layout(tmp_path, case)))
    assert "photos" in found
    assert "FOLDER/CLASS/IMAGE.jpg" in found
    seen(f"{case}: exit 3 with the expected layout")


# 15: split folders


@pytest.mark.reliability(15)
@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "VAL"])
def test_split_folders_are_recognised_by_name(
    wisesr: CommandLine, train: str, validation: str, tmp_path: Path, seen: Seen
) -> None:
    test = {"train": "test", "training": "testing", "Train": "TEST"}[train]
    folder = make_splits(tmp_path / "photos", **{train: 4, validation: 2, test: 3})
    rows = {row["code"]: row for row in wisesr("check", folder, "--format", "json").data["findings"]}
    assert rows["layout"]["message"] == (
        f"class folders found (train: {folder / train}, validation: {folder / validation}, test: {folder / test})"
    )
    assert "images: train 12, validation 6, test 9" in rows["classes"]["message"]
    seen(f"{train}/, {validation}/, {test}/: train 12, validation 6, test 9")


@pytest.mark.reliability(15)
def test_split_folders_are_used_as_splits(commands: Commands, wisesr: CommandLine, tmp_path: Path, seen: Seen) -> None:
    folder = make_splits(tmp_path / "photos", Training=8, dev=3, testing=2)
    assert commands["train"](folder).code == 0
    run = tmp_path / "out" / "photos-wise"
    splits = {(path.split("/")[0], split) for path, _, split in read_rows(run / "splits.csv", 3)}
    assert splits == {("Training", "train"), ("dev", "validation"), ("testing", "test")}
    assert wisesr("evaluate", run, "--format", "json").data["examples"] == 6
    answer = wisesr("evaluate", run, "--data", folder, "--format", "json")
    assert answer.data["examples"] == 6
    assert "evaluating on testing/" in answer.err
    seen("Training/ trained on, dev/ validated on, testing/ evaluated on: 6 examples")
