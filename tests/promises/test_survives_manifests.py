"""Labels in a manifest, end to end: used for training, and rejected, like class folders."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path

import pytest
from command_line import QUICK, CommandLine, Trained, make_photos, rows_of, snapshot
from folder_commands import TRAINING_COMMANDS, Commands, refusal
from odd_names import ODD_NAMES, assert_nothing_raw
from permissions import permissions_hold
from reliability import Seen
from run_states import load_engine

from wisesr_cli.config.reader import load_config

pytestmark = pytest.mark.usefixtures("empty_folder")

TRAIN = ("train", *QUICK, "--epochs", "1", "-o", "runs", "--augment", "light")


def rows_below(photos: Path) -> list[list[str]]:
    """Return the path and class of every image in class folders."""
    found = [path.relative_to(photos) for path in sorted(photos.rglob("*.png"))]
    return [[path.as_posix(), path.parts[-2]] for path in found]


def write(path: Path, rows: list[list[str]], *more: str) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["path", "label", *more], *rows])
    return path


def same_training(one: Path, other: Path) -> bool:
    """Return whether two runs have the same examples and the same final weights."""
    weights = zip(*(load_engine(run).model.get_weights() for run in (one, other)), strict=True)
    splits = [(run / "splits.csv").read_bytes() for run in (one, other)]
    return splits[0] == splits[1] and all((first == second).all() for first, second in weights)


def test_a_manifest_and_the_splits_table_of_a_run_train_like_the_folder(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 5)
    file = write(photos / "labels.csv", rows_below(photos)[::-1])
    wisesr(*TRAIN, photos, "--name", "folder").worked()
    wisesr(*TRAIN, file, "--name", "file").worked()
    wisesr(*TRAIN, "runs/file/splits.csv", "--name", "again").worked()
    assert same_training(Path("runs/folder"), Path("runs/file"))
    assert same_training(Path("runs/folder"), Path("runs/again"))
    data = load_config("runs/again/config.yaml").config.data
    assert (data.manifest, data.dir) == (tmp_path / "runs/file/splits.csv", photos)
    file.unlink()  # the run has its own copy of the labels
    wisesr("evaluate", "runs/file").worked()
    wisesr("evaluate", "runs/again", "--split", "train").worked()


def test_init_and_check_accept_a_manifest(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 6)
    rows = [[*row, f"scene {number % 6}"] for number, row in enumerate(rows_below(photos))]
    file = write(tmp_path / "labels.csv", [[f"photos/{path}", *row] for path, *row in rows], "group")
    answer = wisesr("check", file, "--format", "json").worked()
    assert answer.finding("layout")["message"] == f"labels read (train: {file})"
    assert wisesr("init", file).worked().said("groups of the manifest stay together: split_strategy group")
    data = load_config("config.yaml").config.data
    assert (data.manifest, data.dir, data.split_strategy) == (file, tmp_path, "group")
    wisesr("check", "config.yaml").worked()
    wisesr("train", "config.yaml", "--dry-run").worked()
    answer = wisesr("check", "config.yaml", "-s", "data.split_strategy=stratified", "--format", "json").worked()
    assert answer.finding("idle-setting")["message"].startswith(
        "the group column has no effect: data.split_strategy is"
    )


def test_the_data_option_names_a_manifest_or_the_folder_of_its_paths(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    file = write(tmp_path / "labels.csv", rows_below(photos)[2:])
    wisesr("check", file).failed(3)
    counts = {"classes": "3 classes (green 4, red 4, blue 2); images: train 10"}
    for words in ((file, "--data", photos), (photos, "-s", f"data.manifest={file}", "--data", photos)):
        assert wisesr("check", *words, "--format", "json").finding("classes")["message"] == counts["classes"]
    inside = write(photos / "labels.csv", rows_below(photos)[2:])
    assert (
        wisesr("check", photos, "--data", inside, "--format", "json").finding("classes")["message"] == counts["classes"]
    )
    config = tmp_path / "config.yaml"
    config.write_text("data: {manifest: labels.csv, dir: photos}\n", encoding="utf-8")
    assert wisesr("check", config, "--format", "json").finding("classes")["message"] == counts["classes"]
    config.write_text("data: {manifest: labels.csv, train_dir: photos}\n", encoding="utf-8")
    wisesr("check", config).failed(2, "data.manifest names the splits")


def test_evaluate_accepts_a_manifest(wisesr: CommandLine, run: Path, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4, first_seed=500)
    file = write(photos / "new.csv", [[f"{photos}/{path}", label] for path, label in rows_below(photos)])
    wisesr("evaluate", run, "--data", photos).worked()
    wisesr("evaluate", run, "--data", file).worked()
    assert rows_of(run / "evaluate-photos" / "per_class.csv") == rows_of(run / "evaluate-new" / "per_class.csv")
    other = write(tmp_path / "new.csv", [[f"photos/{path}", label] for path, label in rows_below(photos)[:5]])
    wisesr("evaluate", run, "--data", other, "--report").worked()
    assert len(rows_of(run / "evaluate-new-2" / "predictions.csv")) == 5
    assert len(rows_of(run / "evaluate-new" / "predictions.csv")) == 12


@pytest.mark.reliability(60, 27)
@pytest.mark.parametrize("edit", ["labels", "weights", "order and place"])
def test_resume_rejects_changed_labels_or_weights_but_accepts_a_moved_manifest(
    wisesr: CommandLine, tmp_path: Path, seen: Seen, edit: str
) -> None:
    photos = make_photos(tmp_path / "photos", 5)
    rows = [[*row, "1.5"] for row in rows_below(photos)]
    file = write(photos / "labels.csv", rows, "weight")
    wisesr(*TRAIN, file).worked()
    before = snapshot(Path("runs"))
    if edit == "order and place":
        place = photos.rename(tmp_path / "elsewhere")
        answer = wisesr(*TRAIN, write(place / "labels.csv", rows[::-1], "weight"), "--resume", "--epochs", "2").worked()
        assert answer.said(f"data.manifest: {file} -> {place}/labels.csv: the same images in another place")
        seen("rows in another order, in another place: resumed with a note")
        return
    said = "the weights of training images"
    if edit == "weights":
        rows = [[*row, "2.5"] for row in rows_below(photos)]
    else:
        rows[0][1], said = "red", "class 'blue': "
    write(file, rows, "weight")
    wisesr(*TRAIN, file, "--resume", "--epochs", "2").failed(4, said)
    assert {name for name, content in snapshot(Path("runs")).items() if before.get(name) != content} <= {".lock"}
    seen(f"changed {edit}: exit 4, ... {said}")


@pytest.mark.reliability(60)
@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize(
    ("command", "case"),
    [
        *product([*TRAINING_COMMANDS, "evaluate"], ["twice", "two labels", "unknown columns"]),
        *product(["train", "check", "evaluate"], ["missing"]),  # `init` skips unreadable images
    ],
)
def test_a_faulty_manifest_exits_with_3_and_the_reason(
    commands: Commands, command: str, case: str, tmp_path: Path, seen: Seen
) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    rows = rows_below(photos)
    more = {"missing": ["red/gone.png", "red"], "two labels": ["blue/00.png", "red"]}
    file = write(photos / "labels.csv", [*rows, more.get(case, rows[0])])
    said = {
        "missing": "red/gone.png: no such file (line 14 of labels.csv)",
        "twice": "line 14: blue/00.png is already listed in line 2",
        "two labels": "line 14: blue/00.png has two labels: 'red', and 'blue' in line 2",
        "unknown columns": "no column path",
    }[case]
    if case == "unknown columns":
        file.write_text("name,kind\na.png,x\n", encoding="utf-8")
    assert said in refusal(commands[command](file))
    seen(f"{command}: exit 3, {said}")


@pytest.mark.reliability(18, 60)
def test_an_image_without_permission_is_named_or_skipped_on_request(
    wisesr: CommandLine, tmp_path: Path, seen: Seen
) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    file = write(photos / "labels.csv", rows_below(photos))
    (photos / "red" / "00.png").chmod(0)
    with permissions_hold():
        wisesr(*TRAIN, file).failed(3, "red/00.png: permission denied")
        wisesr(*TRAIN, file, "-s", "data.on_error=skip", "--dry-run").worked()
    seen("exit 3 with its name; with skip, a dry run succeeds")


@pytest.mark.reliability(19, 60)
@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("escape", "formula")), "not UTF-8"]
)
def test_odd_labels_and_paths_are_escaped(wisesr: CommandLine, tmp_path: Path, seen: Seen, name: str) -> None:
    odd = ODD_NAMES[name]
    photos = make_photos(tmp_path / "photos", 4, classes=(odd, "other"))
    wisesr(*TRAIN, photos, "--name", "folder").worked()
    answer = wisesr(*TRAIN, "runs/folder/splits.csv", "--name", "file").worked()
    assert_nothing_raw(answer.err)
    assert same_training(Path("runs/folder"), Path("runs/file"))
    seen(f"a class with {name} in its name: trained, shown escaped")


def test_a_label_that_looks_like_a_path_writes_no_file_elsewhere(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    rows = [[path, f"../../{label}/x"] for path, label in rows_below(photos)]
    wisesr(*TRAIN, write(photos / "labels.csv", rows), "--name", "run").worked()
    before = set(snapshot(tmp_path))
    wisesr("evaluate", "runs/run", "--report").worked()
    wisesr("explain", "runs/run", photos / "red", "-o", "explained", "--classes", "../../red/x")
    places = ("runs/run/", "explained/")
    assert [name for name in set(snapshot(tmp_path)) - before if not name.startswith(places)] == []


def test_check_reports_the_weights_of_a_manifest(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = make_photos(tmp_path / "photos", 4)
    rows = [[*row, str(number % 2)] for number, row in enumerate(rows_below(photos))]
    answer = wisesr("check", write(photos / "labels.csv", rows, "weight"), "--format", "json").worked()
    assert answer.finding("weights")["message"].startswith("training images have weights of 0 to 1, 0.5 on average")


def test_check_accepts_the_splits_table_of_a_run(trained: Trained, wisesr: CommandLine) -> None:
    answer = wisesr("check", trained.run / "splits.csv", "--format", "json").worked()
    assert "images: train 36, validation 15, test 15" in answer.finding("classes")["message"]
