"""Odd image folders, end to end: what every command that meets one does with it."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from command_line import (
    QUICK,
    REPOSITORY,
    Answer,
    CommandLine,
    Trained,
    environment,
    make_photo,
    make_photos,
)
from odd_names import ODD_NAMES, assert_nothing_raw
from permissions import permissions_hold

from wisesr_cli.run.records import read_rows

Seen = Callable[[str], None]
Command = Callable[[Path], Answer]

# The commands that look into an image folder before anything else can go wrong.
TRAINING_COMMANDS = ("train", "check", "init")


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """Give a copy of a finished run, which tests may write into."""
    return trained.copy_to(tmp_path / "runs" / "tiny")


@pytest.fixture
def commands(wisesr: CommandLine, run: Path, tmp_path: Path) -> dict[str, Command]:
    """Give the commands that meet an image folder, each as a function of the folder."""
    output = tmp_path / "out"
    return {
        "train": lambda folder: wisesr("train", folder, *QUICK, "--epochs", "1", "-o", output),
        "check": lambda folder: wisesr("check", folder, "--image-size", "32"),
        "init": lambda folder: wisesr("init", folder, "-o", tmp_path / "config.yaml", "--overwrite"),
        "evaluate": lambda folder: wisesr("evaluate", run, "--data", folder),
        "predict": lambda folder: wisesr("predict", run, folder, "--format", "jsonl"),
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def untouched(run: Path, tmp_path: Path) -> Iterator[None]:
    """Check that a command which fails has changed no finished file and left no run."""
    before = contents(run)
    yield
    assert contents(run) == before
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    assert not (tmp_path / "config.yaml").exists()


def refusal(answer: Answer) -> str:
    """Return what a command refuses a folder with: its error, or the rows of a check."""
    assert answer.code == 3, answer.err
    return answer.error if "the check failed" not in answer.error else answer.out


# 12: hidden and system files and folders


@pytest.mark.reliability(12)
@pytest.mark.parametrize("command", [*TRAINING_COMMANDS, "evaluate", "predict"])
def test_hidden_and_system_files_are_passed_over_and_counted(
    commands: dict[str, Command], command: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    for name in ("__MACOSX/red", ".ipynb_checkpoints", "red/.ipynb_checkpoints", "blue/@eaDir"):
        make_photo(folder / name / "hidden.png", 0, 1)
    for name in (".DS_Store", "red/.DS_Store", "red/Thumbs.db", "blue/._00.png", "green/desktop.ini"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    answer = commands[command](folder)
    assert answer.code == 0, answer.err
    if command == "predict":
        assert len(answer.out.splitlines()) == 12
    assert "9 files ignored: 9 hidden or system" in answer.out + answer.err
    seen(f"{command}: exit 0, 12 images, 9 hidden or system files passed over")


# 13: class folders that cannot be used


def spoil(folder: Path, case: str) -> str:
    """Make the class 'green' unusable; return the reason that is expected."""
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
@pytest.mark.parametrize("case", ["empty", "without images", "unreadable"])
@pytest.mark.parametrize("command", [*TRAINING_COMMANDS, "evaluate"])
def test_a_class_folder_that_cannot_be_used_is_3_with_class_and_reason(
    commands: dict[str, Command], command: str, case: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    reason = spoil(folder, case)
    with permissions_hold():
        answer = commands[command](folder)
    (folder / "green").chmod(0o700)
    assert f"class 'green': {reason}" in refusal(answer)
    seen(f"{command}: exit 3, class 'green': {reason}")


# 14: folders without the layout


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


@pytest.mark.reliability(14)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", ["one class", "flat", "empty", "missing", "hidden folders only", "links only"])
@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_a_folder_without_class_folders_is_3_with_the_layout_that_is_expected(
    commands: dict[str, Command], command: str, case: str, tmp_path: Path, seen: Seen
) -> None:
    answer = commands[command](make_wrong_layout(tmp_path, case))
    found = refusal(answer)
    assert "photos" in found
    assert "FOLDER/CLASS/IMAGE.jpg" in found
    seen(f"{case}: exit 3 with the layout expected")


@pytest.mark.reliability(14)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("case", ["flat", "empty", "missing", "hidden folders only", "links only"])
def test_evaluating_on_a_folder_without_class_folders_is_3_with_the_layout_that_is_expected(
    commands: dict[str, Command], case: str, tmp_path: Path
) -> None:
    assert "FOLDER/CLASS/IMAGE.jpg" in refusal(commands["evaluate"](make_wrong_layout(tmp_path, case)))


# 15: split folders


@pytest.mark.reliability(15)
@pytest.mark.parametrize("train", ["train", "training", "Train"])
@pytest.mark.parametrize("validation", ["val", "valid", "validation", "dev", "VAL"])
def test_folders_called_like_splits_are_recognised(
    wisesr: CommandLine, train: str, validation: str, tmp_path: Path, seen: Seen
) -> None:
    test = {"train": "test", "training": "testing", "Train": "TEST"}[train]
    folder = tmp_path / "photos"
    for number, (name, count) in enumerate(((train, 4), (validation, 2), (test, 3))):
        make_photos(folder / name, count, first_seed=100 * number)
    rows = {row["code"]: row for row in wisesr("check", folder, "--format", "json").data["findings"]}
    assert rows["layout"]["message"] == (
        f"class folders found (train: {folder / train}, validation: {folder / validation}, test: {folder / test})"
    )
    assert "images: train 12, validation 6, test 9" in rows["classes"]["message"]
    seen(f"{train}/, {validation}/, {test}/: train 12, validation 6, test 9")


@pytest.mark.reliability(15)
def test_split_folders_are_trained_validated_and_tested_on(
    commands: dict[str, Command], wisesr: CommandLine, tmp_path: Path, seen: Seen
) -> None:
    folder = tmp_path / "photos"
    for number, (name, count) in enumerate((("Training", 8), ("dev", 3), ("testing", 2))):
        make_photos(folder / name, count, first_seed=100 * number)
    assert commands["train"](folder).code == 0
    run = tmp_path / "out" / "photos-wise"
    splits = {(path.split("/")[0], split) for path, _, split in read_rows(run / "splits.csv", 3)}
    assert splits == {("Training", "train"), ("dev", "validation"), ("testing", "test")}
    assert wisesr("evaluate", run, "--format", "json").data["examples"] == 6
    answer = wisesr("evaluate", run, "--data", folder, "--format", "json")
    assert answer.data["examples"] == 6
    assert "evaluating on testing/" in answer.err
    seen("Training/ trained on, dev/ validated on, testing/ evaluated on: 6 examples")


# 16: folders below a class


@pytest.mark.reliability(16)
@pytest.mark.parametrize("command", [*TRAINING_COMMANDS, "evaluate", "predict"])
def test_folders_below_a_class_are_merged_into_it_and_counted(
    commands: dict[str, Command], command: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 3)
    for number in range(2):
        make_photo(folder / "red" / "2024" / "may" / f"{number}.png", 2, 50 + number)
    make_photo(folder / "blue" / "red" / "0.png", 0, 60)
    answer = commands[command](folder)
    assert answer.code == 0, answer.err
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
def test_loops_of_links_end_and_every_real_file_counts_once(
    commands: dict[str, Command], command: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 3)
    (folder / "red" / "loop").symlink_to(folder / "red")
    (folder / "red" / "up").symlink_to("../..")
    (folder / "blue" / "across").symlink_to(folder)
    (folder / "green" / "again.png").symlink_to(folder / "green" / "00.png")
    answer = commands[command](folder)
    assert answer.code == 0, answer.err
    if command == "predict":  # a link to a file is a name of its own there, a record for each
        assert len(answer.out.splitlines()) == 10
    elif command == "evaluate":
        rows = read_rows(tmp_path / "runs" / "tiny" / "evaluate-photos" / "predictions.csv", 6)
        assert len(rows) == 9
    elif command == "train":
        assert len(read_rows(tmp_path / "out" / "photos-wise" / "splits.csv", 3)) == 9
    if command != "predict":
        assert "linked twice" in answer.out + answer.err
    seen(f"{command}: ends, each of 9 files once")


@pytest.mark.reliability(17)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("place", ["red/gone.png", "red/gone", "gone"])
@pytest.mark.parametrize("target", ["nowhere", "itself"])
@pytest.mark.parametrize("command", [*TRAINING_COMMANDS, "evaluate"])
def test_a_broken_link_is_named_also_where_it_may_have_been_a_class(
    commands: dict[str, Command], command: str, place: str, target: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / place).symlink_to(folder / place if target == "itself" else "/no/such/disk")
    reason = "a symbolic link that leads to itself" if target == "itself" else "a broken link"
    answer = commands[command](folder)
    if command == "init":  # leaves unreadable images out, and says so
        assert answer.code == 0
        assert f"1 unreadable image left out: {place}: {reason}" in answer.err
        (tmp_path / "config.yaml").unlink()
        return
    assert f"{place}: {reason}" in refusal(answer)
    seen(f"{command}: exit 3, {place}: {reason}")


@pytest.mark.reliability(17)
def test_predict_gives_a_record_for_a_broken_link(commands: dict[str, Command], tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", 1)
    (folder / "red" / "gone.png").symlink_to("/no/such/disk")
    answer = commands["predict"](folder)
    assert answer.code == 6
    records = [json.loads(line) for line in answer.out.splitlines()]
    assert [record["path"] for record in records if record["error"]] == [str(folder / "red" / "gone.png")]


# 18: images without permission


@pytest.mark.reliability(18)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("command", ["train", "check", "evaluate"])
def test_an_image_without_permission_is_named_and_3(
    commands: dict[str, Command], command: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / "red" / "01.png").chmod(0)
    with permissions_hold():
        answer = commands[command](folder)
    assert "red/01.png: permission denied" in refusal(answer)
    assert "epoch 1/" not in answer.err
    seen(f"{command}: exit 3, red/01.png: permission denied")


@pytest.mark.reliability(18)
def test_an_image_without_permission_is_left_out_by_init_and_by_skip_and_gets_a_record_in_predict(
    commands: dict[str, Command], wisesr: CommandLine, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / "red" / "01.png").chmod(0)
    with permissions_hold():
        init, predict = commands["init"](folder), commands["predict"](folder)
        skipped = wisesr("train", folder, *QUICK, "--epochs", "1", "-s", "data.on_error=skip", "-o", tmp_path / "out")
    assert init.code == 0
    assert "1 unreadable image left out: red/01.png: permission denied" in init.err
    assert predict.code == 6
    errors = [json.loads(line)["error"] for line in predict.out.splitlines()]
    assert [error for error in errors if error] == ["permission denied"]
    assert skipped.code == 0
    assert "1 unreadable image left out: red/01.png: permission denied" in skipped.err
    seen("predict: exit 6, error 'permission denied'; data.on_error: skip: exit 0, left out")


# 20: names that are the same to many a file system


@pytest.mark.reliability(20)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("first", "second"), [("Cat", "cat"), ("caf\u00e9", "cafe\u0301"), ("CAF\u00c9", "cafe\u0301"), ("\ufb01n", "FIN")]
)
@pytest.mark.parametrize("command", TRAINING_COMMANDS)
def test_classes_that_differ_only_in_case_or_normalisation_are_3_and_both_are_listed(
    commands: dict[str, Command], command: str, first: str, second: str, tmp_path: Path, seen: Seen
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


# 21: the order of classes

NUMBERS = tuple(str(number) for number in range(12))
ORDER = ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")


@pytest.fixture(scope="module")
def twelve(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Give a run over classes called 0 to 11."""
    from wisesr_cli.cli.main import run

    root = tmp_path_factory.mktemp("twelve")
    for number, (split, count) in enumerate((("train", 4), ("val", 2), ("test", 3))):
        make_numbered(root / "photos" / split, count, first_seed=100 * number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISESR_CACHE_DIR", str(root / "caches"))
        assert run(["train", str(root / "photos"), *QUICK, "--epochs", "2", "-o", str(root), "--name", "run"]) == 0
    return Trained(root / "run", root / "photos")


def make_numbered(folder: Path, count: int, *, first_seed: int, names: tuple[str, ...] = NUMBERS) -> Path:
    for name in names:
        for number in range(count):
            make_photo(folder / name / f"{number}.png", int(name) % 3, first_seed + 1000 * int(name) + number)
    return folder


@pytest.mark.reliability(21)
def test_classes_0_to_11_have_one_order_in_every_file_and_command(
    wisesr: CommandLine, twelve: Trained, tmp_path: Path, seen: Seen
) -> None:
    run = Path(shutil.copytree(twelve.run, tmp_path / "run"))
    assert tuple(json.loads((run / "classes.json").read_text(encoding="utf-8"))) == ORDER
    metrics = wisesr("evaluate", run, "--format", "json").data
    assert tuple(metrics["classes"]) == ORDER
    assert tuple(row["label"] for row in metrics["per_class"]) == ORDER
    assert tuple(row[0] for row in read_rows(run / "evaluate-test" / "per_class.csv", 5)) == ORDER
    with (run / "evaluate-test" / "confusion_matrix.csv").open(encoding="utf-8") as file:
        assert next(csv.reader(file)) == ["truth", *ORDER]
    predictions = wisesr("predict", run, twelve.photos / "test", "--format", "json", "--top-k", "12").data
    evaluated = {row[0]: row[2] for row in read_rows(run / "evaluate-test" / "predictions.csv", 6)}
    assert len(predictions) == len(evaluated) == 36
    for record in predictions:
        assert sorted(top["label"] for top in record["top"]) == sorted(ORDER)
        assert evaluated[str(Path(record["path"]).relative_to(twelve.photos))] == record["label"]
    matrix = [[0] * 12 for _ in ORDER]
    for record in predictions:
        matrix[ORDER.index(Path(record["path"]).parent.name)][ORDER.index(record["label"])] += 1
    assert matrix == metrics["confusion_matrix"]
    seen(f"classes.json, evaluate and predict: {', '.join(ORDER)}")


@pytest.mark.reliability(21)
def test_evaluation_matches_classes_by_name_in_any_order_on_the_disk(
    wisesr: CommandLine, twelve: Trained, tmp_path: Path, seen: Seen
) -> None:
    run = Path(shutil.copytree(twelve.run, tmp_path / "run"))
    answers = []
    for order in (NUMBERS, NUMBERS[::-1], NUMBERS[6:] + NUMBERS[:6]):
        folder = make_numbered(tmp_path / f"order {order[0]}" / "fresh", 2, first_seed=500, names=order)
        answers.append(wisesr("evaluate", run, "--data", folder, "--format", "json"))
    assert {answer.code for answer in answers} == {0}
    assert len({answer.out for answer in answers}) == 1
    lacking = make_numbered(tmp_path / "lacking", 2, first_seed=500, names=("3", "11", "7"))
    few = wisesr("evaluate", run, "--data", lacking, "--format", "json").data
    assert tuple(few["classes"]) == ORDER
    support = {row["label"]: row["support"] for row in few["per_class"]}
    assert support == {name: 2 if name in {"3", "11", "7"} else 0 for name in ORDER}
    whole = answers[0].data["confusion_matrix"]
    for name in ("3", "11", "7"):
        assert few["confusion_matrix"][ORDER.index(name)] == whole[ORDER.index(name)]
    make_numbered(lacking, 1, first_seed=1, names=("12",))
    before = contents(run)
    unknown = wisesr("evaluate", run, "--data", lacking)
    assert (unknown.code, unknown.out) == (3, "")
    assert "1 class that the run does not know: 12" in unknown.error
    assert contents(run) == before
    seen("three orders: identical output; 9 classes lacking: support 0; class 12: exit 3")


# 22: the same image twice


@pytest.mark.reliability(22)
def test_the_same_image_in_two_splits_or_under_two_labels_is_a_warning_and_fails_a_check(
    commands: dict[str, Command], wisesr: CommandLine, tmp_path: Path, seen: Seen
) -> None:
    folder = tmp_path / "photos"
    for number, (split, count) in enumerate((("train", 6), ("val", 3), ("test", 3))):
        make_photos(folder / split, count, first_seed=100 * number)
    shutil.copy(folder / "train/red/00.png", folder / "val/red/copy.png")
    shutil.copy(folder / "train/red/01.png", folder / "train/blue/copy.png")
    shutil.copy(folder / "train/red/02.png", folder / "train/red/harmless.png")
    pairs = (
        "train/red/00.png (train, red) = val/red/copy.png (validation, red)",
        "train/blue/copy.png (train, blue) = train/red/01.png (train, red)",
    )
    answer = commands["train"](folder)
    assert answer.code == 0
    warning = next(line for line in answer.err.splitlines() if "two splits" in line)
    assert warning.startswith("warning: 2 images in two splits or under two labels: ")
    assert all(pair in warning for pair in pairs)
    check = wisesr("check", folder, "--image-size", "32", "--format", "json")
    assert check.code == 3
    row = next(row for row in check.data["findings"] if row["code"] == "duplicates")
    assert (row["level"], row["count"]) == ("fail", 2)
    assert all(pair in row["message"] for pair in pairs)
    assert "harmless" not in warning + row["message"]
    seen(f"train: {warning}")
    seen(f"check: exit 3, FAIL {row['message']}")


# 23: too few images, and very many classes


@pytest.mark.reliability(23)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("command", ["train", "check"])
def test_a_class_too_small_to_split_is_3_with_counts(
    commands: dict[str, Command], command: str, tmp_path: Path, seen: Seen
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    for number in range(1, 4):
        (folder / "green" / f"{number:02}.png").unlink()
    found = refusal(commands[command](folder))
    assert "1 class too small to split into training and validation: green (1)" in found
    assert "data.validation_split" in found
    seen(f"{command}: exit 3, green (1)")


@pytest.mark.reliability(23)
@pytest.mark.slow
def test_three_thousand_classes_train_evaluate_and_predict_with_short_tables(
    wisesr: CommandLine, tmp_path: Path, seen: Seen
) -> None:
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
    evaluated = wisesr("evaluate", tmp_path / "run")
    assert evaluated.code == 0
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
    predicted = wisesr("predict", tmp_path / "run", folder / "val" / names[7], "--format", "json")
    assert predicted.code == 0
    assert predicted.data[0]["label"] in names
    check = wisesr("check", folder, "--image-size", "16", "-s", "model.backbone=compact_small")
    assert check.code == 0
    assert len(check.out.splitlines()) < 60
    seen("3,000 classes: train, evaluate, predict and check end with 0; tables show 40 rows")


# 19: names


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Give a run over classes of odd names, in a folder of an odd name, whose files have odd names too."""
    from wisesr_cli.cli.main import run

    root = tmp_path_factory.mktemp("odd")
    photos = root / ODD_NAMES["escape"] / ODD_NAMES["not UTF-8"] / "photos \x1b[2J\u202e[b]\n"
    for label, name in enumerate(ODD_NAMES.values()):
        for number in range(3):
            make_photo(photos / name / odd_file(name, number), label % 3, 10 * label + number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISESR_CACHE_DIR", str(root / "caches \x1b[31m"))
        patch.chdir(root)
        words = ["train", str(photos), *QUICK, "--epochs", "1", "-o", str(root / "runs \x1b[1m\n\u202e")]
        assert run(words) == 0
    return Trained(next((root / "runs \x1b[1m\n\u202e").iterdir()), photos)


def odd_file(name: str, number: int) -> str:
    """Return a file name of at most 255 bytes that begins with an odd one."""
    return os.fsdecode(os.fsencode(name)[:240]) + f" {number}.png"


def class_of(name: str) -> str:
    """Return the class that a name becomes: a slash begins a folder in it."""
    return name.partition("/")[0]


ODD_CLASSES = sorted(map(class_of, ODD_NAMES.values()))


@pytest.mark.reliability(19)
@pytest.mark.parametrize(
    "words",
    [
        "init PHOTOS -o OUT",
        "check PHOTOS --image-size 32",
        "check PHOTOS --image-size 32 -v",
        "check PHOTOS --image-size 32 --format json",
        "check PHOTOS --image-size 32 --format csv",
        "check PHOTOS --image-size 32 --format markdown",
        "check RUN",
        "config show PHOTOS",
        "config show PHOTOS --format json",
        "config show RUN",
        "summarize PHOTOS --backbone compact_small --image-size 32 --head gap",
        "summarize RUN --head gap --format json",
        "summarize RUN --head gap --format csv",
        "train PHOTOS --dry-run --backbone compact_small --image-size 32 -v",
        "evaluate RUN -v",
        "evaluate RUN --format json",
        "evaluate RUN --format csv",
        "evaluate RUN --format markdown",
        "evaluate RUN --data PHOTOS",
        "evaluate RUN --report",
        "predict RUN PHOTOS",
        "predict RUN PHOTOS --format json",
        "predict RUN PHOTOS --format jsonl",
        "predict RUN PHOTOS --format csv",
        "predict RUN PHOTOS --format markdown",
        "predict RUN PHOTOS --format csv -o OUT",
        "explain RUN PHOTOS --pictures 9 -o OUT",
        "explain RUN PHOTOS --pictures 0 -o OUT --format json",
        "explain RUN PHOTOS --pictures 0 -o OUT --format markdown",
        "explain RUN --weights -o OUT",
        "explain RUN --weights -o OUT --format csv",
        "doctor --device cpu",
    ],
)
def test_odd_names_come_through_every_command_and_reach_no_terminal_raw(
    wisesr: CommandLine,
    odd: Trained,
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
) -> None:
    here = tmp_path / ODD_NAMES["escape"] / ODD_NAMES["not UTF-8"]
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    monkeypatch.setenv("WISESR_CACHE_DIR", str(here / "caches \x1b[31m"))
    places = {"RUN": odd.run, "PHOTOS": odd.photos, "OUT": here / "out \x1b[31m.yaml"}
    answer = wisesr(*(places.get(word, word) for word in words.split()))
    assert answer.code == 0, answer.err
    assert_nothing_raw(answer.out + answer.err)
    if "json" in words:
        parsed = [json.loads(line) for line in answer.out.splitlines()] if "jsonl" in words else answer.data
        assert parsed
    if "--format csv" in words and "-o" not in words:
        assert len({len(row) for row in csv.reader(answer.out.splitlines())}) == 1
    seen(f"{words.split()[0]}: exit 0, nothing raw")


@pytest.mark.reliability(19)
def test_every_file_of_a_run_over_odd_names_gives_the_exact_names_back(
    wisesr: CommandLine, odd: Trained, seen: Seen
) -> None:
    run = odd.run
    assert wisesr("evaluate", run, "--report").code == 0
    assert re.fullmatch(r"[\w.-]+-wise", run.name)
    assert json.loads((run / "classes.json").read_text(encoding="utf-8")) == ODD_CLASSES
    rows = read_rows(run / "splits.csv", 3)
    assert {label for _, label, _ in rows} == set(ODD_CLASSES)
    assert len(rows) == 3 * len(ODD_NAMES)
    assert all((odd.photos / path).is_file() for path, _, _ in rows)
    folder = run / "evaluate-validation"
    judged = read_rows(folder / "predictions.csv", 6)
    assert {truth for _, truth, *_ in judged} == set(ODD_CLASSES)
    assert all((odd.photos / path).is_file() for path, *_ in judged)
    assert [row[0] for row in read_rows(folder / "per_class.csv", 5)] == ODD_CLASSES
    assert json.loads((folder / "metrics.json").read_text(encoding="utf-8"))["classes"] == ODD_CLASSES
    for path in (run / "splits.csv", *folder.iterdir(), run / "config.yaml", run / "environment.json"):
        assert_nothing_raw(path.read_text(encoding="utf-8"))
    plots = {"learning_curves.png", "confusion_matrix-validation.png", "reliability-validation.png"}
    assert {path.name for path in (run / "plots").iterdir()} >= plots
    assert [path.name for path in (run / "tensorboard").iterdir()] != []
    assert wisesr("config", "show", run, "--format", "json").data["data"]["dir"] == str(odd.photos)
    seen(f"run directory '{run.name}'; splits.csv, predictions.csv, classes.json: {len(rows)} exact names; plots made")


@pytest.mark.reliability(19)
def test_predictions_of_odd_names_are_exact_in_json_and_jsonl_and_parse_back_from_csv(
    wisesr: CommandLine, odd: Trained, tmp_path: Path, seen: Seen
) -> None:
    paths = sorted(str(path) for path in odd.photos.rglob("*.png"))
    records = wisesr("predict", odd.run, odd.photos, "--format", "json").data
    assert sorted(record["path"] for record in records) == paths
    lines = wisesr("predict", odd.run, odd.photos, "--format", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == records
    for name in ("out.csv", os.fsdecode(b"out\xff\x1b.csv")):
        answer = wisesr("predict", odd.run, odd.photos, "--format", "csv", "-o", tmp_path / name)
        assert answer.code == 0
        assert_nothing_raw(answer.err)
        rows = read_rows(tmp_path / name, 4)
        assert [(row[0], row[1]) for row in rows] == [(record["path"], record["label"]) for record in records]
    (tmp_path / "list").write_bytes(b"\0".join(os.fsencode(path) for path in paths))
    listed = wisesr("predict", odd.run, "--from-file", tmp_path / "list", "--null", "--format", "json").data
    assert [record["path"] for record in listed] == paths
    seen(f"predict: {len(records)} records, names exact in JSON, JSONL and CSV")


@pytest.mark.reliability(19)
def test_a_config_written_for_a_folder_of_an_odd_name_trains_there_and_the_run_resumes(
    wisesr: CommandLine, odd: Trained, tmp_path: Path, seen: Seen
) -> None:
    assert wisesr("init", odd.photos, "-o", tmp_path / "c.yaml").code == 0
    words = ("train", tmp_path / "c.yaml", *QUICK, "-o", tmp_path / os.fsdecode(b"runs \xff\n\x1b[31m"), "--name", "r")
    first = wisesr(*words, "--epochs", "1")
    assert first.code == 0, first.err
    assert "no TensorBoard logs" in first.err
    again = wisesr(*words, "--epochs", "2", "--resume")
    assert again.code == 0, again.err
    assert_nothing_raw(first.out + first.err + again.out + again.err)
    seen("init, train and --resume in folders that are not UTF-8: exit 0")


@pytest.mark.reliability(19)
@pytest.mark.parametrize("name", ["escape", "newline", "bidi", "not UTF-8", "255 bytes"])
def test_what_is_wrong_with_an_odd_name_is_said_in_one_line_without_anything_raw(
    commands: dict[str, Command], name: str, tmp_path: Path
) -> None:
    folder = make_photos(tmp_path / "photos", 4)
    (folder / "red" / odd_file(ODD_NAMES[name], 0)).write_bytes(b"")
    for command in ("train", "check", "evaluate"):
        answer = commands[command](folder)
        assert answer.code == 3
        assert "empty file" in refusal(answer)
        assert_nothing_raw(answer.out + answer.err)
    missing = commands["train"](tmp_path / ODD_NAMES[name])
    assert missing.code == 3
    assert missing.error.count("\n") == 0
    assert_nothing_raw(missing.err)


# What rich itself sends to a terminal without colours: bold and dim, and its progress bars.
OWN_CONTROLS = re.compile(r"\x1b\[[0-3]?m|\x1b\[[0-9]*[AKG]|\x1b\[2K|\x1b\[\?25[lh]|\r")


@pytest.mark.reliability(19)
@pytest.mark.slow
def test_a_terminal_of_80_columns_shows_odd_names_as_escapes(odd: Trained, tmp_path: Path, seen: Seen) -> None:
    lines = [
        ["init", str(odd.photos), "-o", "config.yaml"],
        ["check", str(odd.photos), "--image-size", "32", "-v"],
        ["train", str(odd.photos), *QUICK, "--epochs", "1", "--device", "cpu"],
        ["evaluate", str(odd.run), "-v"],
        ["evaluate", str(odd.run), "--data", str(odd.photos)],
        ["predict", str(odd.run), str(odd.photos)],
        ["predict", str(odd.run), str(odd.photos), "--format", "markdown"],
        ["summarize", str(odd.run), "--head", "gap"],
        ["config", "show", str(odd.photos)],
        ["train", str(odd.photos / "no such")],
        ["train", "x", "--no\x1b[31m"],
    ]
    program = f"from wisesr_cli.cli.main import run\nprint('CODES', [run(line) for line in {lines!r}])"
    shown = on_terminal([sys.executable, "-c", program], tmp_path, columns=80)
    assert "CODES [0, 0, 0, 0, 0, 0, 0, 0, 0, 3, 2]" in shown
    assert_nothing_raw(OWN_CONTROLS.sub("", shown))
    assert "\\x1b[31m" in shown
    assert "\\u202e" in shown
    seen("11 command lines on a pseudo-terminal of 80 columns: escapes shown, no control of a name's own")


def on_terminal(command: list[str], folder: Path, *, columns: int) -> str:
    """Run a command with a pseudo-terminal for all its streams and return what it showed there."""
    import fcntl
    import pty
    import struct
    import termios

    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    variables = {**environment(folder), "NO_COLOR": "1", "TERM": "xterm-256color", "PYTHONPATH": str(REPOSITORY)}
    process = subprocess.Popen(
        command, cwd=folder, env=variables, stdin=follower, stdout=follower, stderr=follower, close_fds=True
    )
    os.close(follower)
    parts = []
    while True:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(leader)
    process.wait(60)
    return b"".join(parts).decode("utf-8", "surrogateescape")
