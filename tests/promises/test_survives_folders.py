"""Odd image folders, end to end: how every command that reads one handles it."""

from __future__ import annotations

import json
import shutil
from itertools import product
from pathlib import Path

import pytest
from command_line import QUICK, CommandLine, make_photo, make_photos, make_splits
from drawn_pictures import draw_picture
from folder_commands import TRAINING_COMMANDS, Commands, refusal
from permissions import permissions_hold
from PIL import Image
from reliability import Seen

from benchmarks.copies.near_duplicates import save_copy
from wisesr_cli.run.records import read_rows

pytestmark = pytest.mark.usefixtures("empty_folder")


# 12: hidden and system files and folders


@pytest.mark.reliability(12)
@pytest.mark.parametrize("command", [*TRAINING_COMMANDS, "evaluate", "predict"])
def test_hidden_and_system_files_are_ignored_and_counted(
    commands: Commands, command: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    for name in ("__MACOSX/red", ".ipynb_checkpoints", "red/.ipynb_checkpoints", "blue/@eaDir"):
        make_photo(folder / name / "hidden.png", 0, 1)
    for name in (".DS_Store", "red/.DS_Store", "red/Thumbs.db", "blue/._00.png", "green/desktop.ini"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    answer = commands[command](folder).worked()
    if command == "predict":
        assert len(answer.out.splitlines()) == 12
    assert "9 files ignored: 9 hidden or system" in answer.out + answer.err
    seen(f"{command}: exit 0, 12 images, 9 hidden or system files ignored")


# 13: unusable class folders


def spoil(folder: Path, case: str) -> str:
    """Make the class 'green' unusable and return the expected reason."""
    green = folder / "green"
    shutil.rmtree(green)
    green.mkdir()
    if case == "without images":
        (green / "notes.txt").write_text("none yet", encoding="utf-8")
        return "no images (1 other file)"
    if case == "unreadable":
        make_photo(green / "00.png", 1, 0)
        green.chmod(0)
        return "permission denied"
    return "an empty folder"


@pytest.mark.reliability(13)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("command", "case"),
    [*product(TRAINING_COMMANDS, ["empty", "without images", "unreadable"]), ("evaluate", "unreadable")],
)
def test_an_unusable_class_folder_exits_with_3(
    commands: Commands, command: str, case: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    reason = spoil(folder, case)
    with permissions_hold():
        answer = commands[command](folder)
    (folder / "green").chmod(0o700)
    assert f"class 'green': {reason}" in refusal(answer)
    seen(f"{command}: exit 3, class 'green': {reason}")


@pytest.mark.reliability(13)
@pytest.mark.parametrize("case", ["empty", "without images"])
def test_evaluate_reports_a_support_of_0_for_a_class_folder_without_images(
    commands: Commands, case: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    spoil(folder, case)
    assert "test: no image of green: a support of 0" in commands["evaluate"](folder).worked().err
    seen(f"evaluate, {case}: exit 0, a support of 0 reported")


# 16: folders below a class


@pytest.mark.reliability(16)
@pytest.mark.parametrize("command", [*TRAINING_COMMANDS, "evaluate", "predict"])
def test_folders_below_a_class_are_merged_into_it(commands: Commands, command: str, tmp_path: Path, seen: Seen) -> None:
    folder = make_photos(tmp_path / "photos", 3)
    for number in range(2):
        make_photo(folder / "red" / "2024" / "may" / f"{number}.png", 2, 50 + number)
    make_photo(folder / "blue" / "red" / "0.png", 0, 60)
    answer = commands[command](folder).worked()
    if command == "predict":
        assert len(answer.out.splitlines()) == 12
        return
    message = "3 images in folders below a class folder: merged into the class"
    assert message in answer.out + answer.err
    if command == "train":
        rows = read_rows(tmp_path / "out" / "photos-wise" / "splits.csv", 3)
        assert {label for path, label, _ in rows if path.startswith("blue/red/")} == {"blue"}
    seen(f"{command}: {message}")


# 17: symbolic links


@pytest.mark.reliability(17)
@pytest.mark.parametrize("command", [*TRAINING_COMMANDS, "evaluate", "predict"])
def test_link_loops_end_and_every_file_counts_once(
    commands: Commands, command: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 3)
    (folder / "red" / "loop").symlink_to(folder / "red")
    (folder / "red" / "up").symlink_to("../..")
    (folder / "blue" / "across").symlink_to(folder)
    (folder / "green" / "again.png").symlink_to(folder / "green" / "00.png")
    (folder / "white").symlink_to(folder / "red")
    answer = commands[command](folder).worked()
    if command == "predict":  # which returns a record for a link to a file, too
        assert len(answer.out.splitlines()) == 10
    elif command == "evaluate":
        rows = read_rows(tmp_path / "runs" / "tiny" / "evaluate-photos" / "predictions.csv", 6)
        assert len(rows) == 9
    elif command == "train":
        assert len(read_rows(tmp_path / "out" / "photos-wise" / "splits.csv", 3)) == 9
    if command != "predict":
        said = answer.out + answer.err
        assert "1 linked twice" in said
        assert "4 folders are links to one already read" in said
    seen(f"{command}: finishes, each of {'9 files and a link to one' if command == 'predict' else '9 files'} once")


@pytest.mark.reliability(17)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("place", ["red/gone.png", "red/gone", "gone"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
@pytest.mark.parametrize("command", [*TRAINING_COMMANDS, "evaluate"])
def test_a_broken_link_is_named_even_if_it_could_be_a_class(
    commands: Commands, command: str, place: str, target: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / place).symlink_to(folder / place if target == "itself" else "/no/such/disk")
    reason = "a symbolic link that points to itself" if target == "itself" else "a broken link"
    answer = commands[command](folder)
    if command == "init":  # skips unreadable images and reports them
        assert answer.code == 0
        assert f"1 unreadable image skipped: {place}: {reason}" in answer.err
        (tmp_path / "config.yaml").unlink()
        return
    assert f"{place}: {reason}" in refusal(answer)
    seen(f"{command}: exit 3, {place}: {reason}")


@pytest.mark.reliability(17)
def test_predict_returns_a_record_for_a_broken_link(commands: Commands, tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", 1)
    (folder / "red" / "gone.png").symlink_to("/no/such/disk")
    answer = commands["predict"](folder)
    assert answer.code == 6
    assert [row["path"] for row in answer.records if row["error"]] == [str(folder / "red" / "gone.png")]


# 18: images without read permission


@pytest.mark.reliability(18)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("command", ["train", "check", "evaluate"])
def test_an_image_without_permission_exits_with_3(commands: Commands, command: str, tmp_path: Path, seen: Seen) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / "red" / "01.png").chmod(0)
    with permissions_hold():
        answer = commands[command](folder)
    assert "red/01.png: permission denied" in refusal(answer)
    assert "epoch 1/" not in answer.err
    seen(f"{command}: exit 3, red/01.png: permission denied")


@pytest.mark.reliability(18)
def test_init_on_error_skip_and_predict_continue_past_an_image_without_permission(
    commands: Commands, wisesr: CommandLine, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / "red" / "01.png").chmod(0)
    with permissions_hold():
        init, predict = commands["init"](folder), commands["predict"](folder)
        skipped = wisesr("train", folder, *QUICK, "--epochs", "1", "-s", "data.on_error=skip", "-o", tmp_path / "out")
    assert init.code == 0
    assert "1 unreadable image skipped: red/01.png: permission denied" in init.err
    assert predict.code == 6
    assert [row["error"] for row in predict.records if row["error"]] == ["permission denied"]
    assert skipped.code == 0
    assert "1 unreadable image skipped: red/01.png: permission denied" in skipped.err
    seen("predict: exit 6, error 'permission denied'; data.on_error: skip: exit 0, skipped")


# 20: names that are the same on many file systems


@pytest.mark.reliability(20)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("first", "second"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("CAF\u00c9", "cafe\u0301"), ("\ufb01n", "FIN")]
)
@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_classes_that_differ_only_in_case_or_normalisation_are_rejected_and_listed(
    commands: Commands, command: str, first: str, second: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 3, classes=(first, second, "red"))
    if len(list(folder.iterdir())) < 3:
        pytest.skip("this file system takes both for one")
    found = refusal(commands[command](folder))
    assert f"'{first}'" in found
    assert f"'{second}'" in found
    assert ascii(first) in found
    assert ascii(second) in found
    seen(f"exit 3, '{first}' ({first!a}) and '{second}' ({second!a})")


# 22: the same image twice


@pytest.mark.reliability(22)
def test_the_same_image_twice_is_a_warning_in_train_and_a_failure_in_check(
    commands: Commands, wisesr: CommandLine, tmp_path: Path, seen: Seen
) -> None:
    folder = make_splits(tmp_path / "photos", train=6, val=3, test=3)
    shutil.copy(folder / "train/red/00.png", folder / "val/red/copy.png")
    shutil.copy(folder / "train/red/01.png", folder / "train/blue/copy.png")
    shutil.copy(folder / "train/red/02.png", folder / "train/red/harmless.png")
    pairs = (
        "train/red/00.png (train, red) = val/red/copy.png (validation, red)",
        "train/blue/copy.png (train, blue) = train/red/01.png (train, red)",
    )
    answer = commands["train"](folder).worked()
    (warning,) = answer.said("two splits")
    assert warning.startswith("warning: 2 images in two splits or under two labels: ")
    assert all(pair in warning for pair in pairs)
    check = wisesr("check", folder, "--image-size", "32", "--format", "json")
    assert check.code == 3
    row = check.finding("duplicates")
    assert (row["level"], row["count"]) == ("fail", 2)
    assert all(pair in row["message"] for pair in pairs)
    assert "harmless" not in warning + row["message"]
    seen(f"train: {warning}")
    seen(f"check: exit 3, FAIL {row['message']}")


# 59: the same picture in other files


@pytest.mark.reliability(59)
def test_near_duplicates_are_a_warning_with_pairs_and_a_sheet(wisesr: CommandLine, tmp_path: Path, seen: Seen) -> None:
    folder = tmp_path / "photos"
    for number, (split, label) in enumerate(product(("train", "val"), ("blue", "red"))):
        for image in range(10):
            save_copy(draw_picture(10 * number + image), "PNG", folder / split / label, str(image))
        Image.new("RGB", (64, 64), (number, 0, 0)).save(folder / split / label / "dark.png")
    for number, kind in enumerate(("mirrored", "resized by 0.5", "JPEG, quality 30")):
        save_copy(draw_picture(number), kind, folder / "val/red", f"copy{number}")
    check = ("check", folder, "--image-size", "32", "--weights", "none", "--near-duplicates")
    answer = wisesr(*check, "--format", "json").worked()
    row = answer.finding("near-duplicates")
    assert (row["level"], row["count"]) == ("warn", 3)
    pairs = [["train/blue/0.png", "val/red/copy0.jpg"], ["train/blue/1.png", "val/red/copy1.jpg"]]
    assert row["pairs"] == [*pairs, ["train/blue/2.png", "val/red/copy2.jpg"]]
    assert row["paths"] == sorted(path for pair in row["pairs"] for path in pair)
    assert "train/blue/0.png (train, blue) ~ val/red/copy0.jpg (validation, red)" in row["message"]
    assert "near-duplicates.png" in row["message"]
    assert answer.finding("uniform-images")["count"] == 4
    seen(f"check: exit 0, WARN {row['message']}")
    sheet = Path("near-duplicates.png")
    with Image.open(sheet) as picture:
        assert picture.width > picture.height > 400  # two rows of up to two pairs
    sheet.write_text("of the user", encoding="utf-8")
    wisesr(*check).refused(2, "near-duplicates.png exists; give another --sheet, or replace it with --overwrite")
    wisesr(*check, "--sheet", "missing/sheet.png").refused(2, "missing: no such folder for the sheet")
    assert sheet.read_text(encoding="utf-8") == "of the user"
    wisesr(*check, "--sheet", "other.png").worked()
    assert Path("other.png").is_file()
    wisesr(*check, "--overwrite").worked()
    with Image.open(sheet) as picture:
        assert picture.format == "PNG"
    seen("exit 2 if the sheet exists, unless --overwrite is given")


@pytest.mark.parametrize("option", ["--sheet=x.png", "--overwrite"])
def test_sheet_options_require_near_duplicates(wisesr: CommandLine, tmp_path: Path, option: str) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    wisesr("check", folder, option).refused(2, f"{option.partition('=')[0]} needs --near-duplicates")


# 23: too few images, and very many classes


@pytest.mark.reliability(23)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_class_too_small_to_split_exits_with_3(commands: Commands, command: str, tmp_path: Path, seen: Seen) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    for number in range(1, 4):
        (folder / "green" / f"{number:02}.png").unlink()
    found = refusal(commands[command](folder))
    assert "1 class too small to split into training and validation: green (1)" in found
    assert "data.validation_split" in found
    seen(f"{command}: exit 3, green (1)")


@pytest.mark.reliability(23)
@pytest.mark.slow
def test_three_thousand_classes_work_with_shortened_tables(wisesr: CommandLine, tmp_path: Path, seen: Seen) -> None:
    folder = tmp_path / "photos"
    names = [f"class {number:04}" for number in range(3000)]
    for number, name in enumerate(names):
        make_photo(folder / "train" / name / "a.png", number % 3, number, (16, 16))
        make_photo(folder / "val" / name / "a.png", number % 3, 10_000 + number, (16, 16))
    size = ("--backbone", "compact_small", "--image-size", "16", "-b", "250")
    trained = wisesr("train", folder, *size, "--epochs", "1", "-o", tmp_path, "--name", "run")
    assert trained.code == 0, trained.err[-500:]
    assert "2,961 more ..." in trained.err
    assert len(trained.err.splitlines()) < 100
    evaluated = wisesr("evaluate", tmp_path / "run").worked()
    assert "2,960 more ..." in evaluated.out
    assert len(evaluated.out.splitlines()) < 150
    assert len(read_rows(tmp_path / "run" / "evaluate-validation" / "per_class.csv", 5)) == 3000
    metrics = json.loads((tmp_path / "run" / "evaluate-validation" / "metrics.json").read_text(encoding="utf-8"))
    assert (metrics["examples"], metrics["classes"]) == (3000, names)
    assert sorted(path.name for path in (tmp_path / "run" / "plots").iterdir()) == [
        "confusion_matrix-validation.png",
        "learning_curves.png",
        "reliability-validation.png",
    ]
    predicted = wisesr("predict", tmp_path / "run", folder / "val" / names[7], "--format", "json").worked()
    assert predicted.data[0]["label"] in names
    check = wisesr("check", folder, "--image-size", "16", "-s", "model.backbone=compact_small").worked()
    assert len(check.out.splitlines()) < 60
    seen("3,000 classes: train, evaluate, predict and check end with 0; tables show 40 rows")
