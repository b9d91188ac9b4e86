"""Data sets from a manifest: images, groups and weights, and agreement with class folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from image_folders import Data, Heard, make_folder, make_image
from label_files import (
    OWN,
    WRITERS,
    Rows,
    built,
    labelled,
    refused,
    write_csv,
)

from wisesr_cli.data.dataset import build_index, count_classes, scan_folder_for_evaluation
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.errors import DataError
from wisesr_cli.listening import Silent


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", {"cat": 10, "dog": 10, "dog/more": 5})


@pytest.mark.parametrize("kind", WRITERS)
def test_manifest_yields_the_same_index_as_class_folders(tmp_path: Path, photos: Path, kind: str) -> None:
    rows = list(reversed(labelled(photos)))
    file = WRITERS[kind](photos, ("path", "label"), rows)
    index, expected = built(file), build_index(Data(dir=photos), seed=0, listener=Silent())
    assert (index.class_names, index.root) == (expected.class_names, expected.root)
    assert list(index.rows()) == list(expected.rows())  # in the same order, so that training is identical
    assert index.changes_since(expected.record()).lines == ()
    assert count_classes(Data(manifest=file)) == 2


def test_paths_are_relative_to_the_given_folder(tmp_path: Path, photos: Path) -> None:
    file = write_csv(tmp_path / "l.csv", ("path", "label"), labelled(photos))
    message = refused(file)
    assert "none of its 25 files exists (line 2: " in message
    assert f"Paths are looked up in {tmp_path}: move the table to where its paths start, or " in message
    assert list(built(file, dir=photos).rows()) == list(build_index(Data(dir=photos), seed=0, listener=Silent()).rows())


def test_absolute_paths_are_made_relative_to_their_common_folder(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    rows: Rows = [(str(photos / path), label) for path, label in labelled(photos)]
    index = built(write_csv(tmp_path / "elsewhere" / "l.csv", ("path", "label"), rows))
    assert index.root == str(photos)
    assert list(index.rows()) == list(build_index(Data(dir=photos), seed=0, listener=Silent()).rows())
    rows[3] = (rows[3][0].removeprefix(f"{photos}/"), rows[3][1])  # one relative path
    assert "line 2: " in refused(write_csv(tmp_path / "elsewhere" / "l.csv", ("path", "label"), rows))


@pytest.mark.reliability(60)
def test_missing_files_are_reported_with_their_line_or_skipped(photos: Path) -> None:
    rows = [*labelled(photos), ("cat/gone.png", "cat"), ("dog", "dog")]
    file = write_csv(photos / "l.csv", ("path", "label"), rows)
    message = refused(file)
    assert "2 unreadable images: cat/gone.png: no such file (line 27 of l.csv); dog: a folder, not an image" in message
    heard = Heard()
    assert sum(map(len, built(file, heard, on_error="skip").splits.values())) == 25
    assert "2 unreadable images skipped: cat/gone.png: no such file (line 27 of l.csv)" in heard.warnings[0]


def test_non_images_and_broken_links_are_unreadable(photos: Path) -> None:
    (photos / "cat" / "note.png").write_text("hello", encoding="utf-8")
    (photos / "cat" / "link.png").symlink_to("nowhere")
    rows = [*labelled(photos), ("cat/link.png", "cat")]
    message = refused(write_csv(photos / "l.csv", ("path", "label"), list(dict.fromkeys(rows))))
    assert "cat/note.png: not an image" in message
    assert "cat/link.png: no such file" in message


def test_file_listed_under_two_paths_counts_once_in_a_class(photos: Path) -> None:
    (photos / "link.png").symlink_to("cat/000.png")
    file = write_csv(photos / "l.csv", ("path", "label"), [*labelled(photos)[:-1], labelled(photos)[-1]])
    rows = [("link.png" if path == "cat/001.png" else path, label) for path, label in labelled(photos) if "/" in path]
    heard = Heard()
    index = built(write_csv(file, ("path", "label"), rows), heard, validation_split=0.0)
    assert index.counts("train").tolist() == [9, 15]
    assert "1 file ignored: 1 linked twice" in heard.notes


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (("x", "x"), "only one class, 'x'"),
        (("Cat", "cat"), "class names that differ only in case"),
        (("cafe\u0301", "caf\u00e9"), "class names that differ only in case"),
        (("cat", "cat "), "class names that differ only in case"),
    ],
)
def test_single_or_indistinguishable_classes_are_rejected(tmp_path: Path, labels: tuple[str, str], said: str) -> None:
    rows: Rows = [(make_image(tmp_path / f"{number}.png", number).name, label) for number, label in enumerate(labels)]
    assert said in refused(write_csv(tmp_path / "l.csv", ("path", "label"), rows))


def test_labels_match_across_splits_despite_unicode_normalization(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    rows = [("a/000.png", "caf\u00e9", "train"), ("b/000.png", "b", "train"), ("a/001.png", "cafe\u0301", "valid")]
    index = built(write_csv(tmp_path / "l.csv", OWN[:3], rows))
    assert index.splits["validation"].labels.tolist() == [1]
    rows.append(("b/002.png", "c", "dev"))
    message = refused(write_csv(tmp_path / "l.csv", OWN[:3], rows))
    assert "the validation split has 1 class that training lacks: 'c'" in message


def test_identical_images_under_two_labels_trigger_a_warning(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    make_image(tmp_path / "b" / "009.png", 1)
    heard = Heard()
    built(write_csv(tmp_path / "l.csv", ("path", "label"), labelled(tmp_path)), heard)
    assert "1 image in two splits or under two labels: a/000.png" in heard.warnings[0]


def test_evaluation_uses_test_rows_and_matches_classes_by_name(photos: Path) -> None:
    rows: Rows = [
        (path, label, split)
        for (path, label), split in zip(labelled(photos), ["train", "test", "val"] * 9, strict=False)
    ]
    file = write_csv(photos / "l.csv", OWN[:3], rows)

    def judged(file: Path, names: tuple[str, ...] = ("ant", "cat", "dog")) -> DatasetIndex:
        return scan_folder_for_evaluation(file, names, on_error="fail", listener=Silent())

    expected = [(path, label, split) for path, label, split in rows if split == "test"]
    assert list(judged(file).rows()) == expected
    assert judged(file).folders == {"test": str(file)}
    assert (
        len(judged(write_csv(photos / "l.csv", OWN[:3], [row for row in rows if row[2] != "test"])).splits["test"]) == 8
    )
    assert len(judged(write_csv(photos / "l.csv", OWN[:2], labelled(photos))).splits["test"]) == 25
    with pytest.raises(DataError, match=r"l\.csv: 1 class that the run does not know: 'dog'"):
        judged(file, ("ant", "cat"))
    with pytest.raises(DataError, match="holds train, but no test or validation images"):
        judged(write_csv(photos / "l.csv", OWN[:3], [(*row, "train") for row in labelled(photos)]))


# Groups and weights


def test_groups_of_a_manifest_stay_together(photos: Path) -> None:
    rows: Rows = [(path, label, f"patient {number % 6}") for number, (path, label) in enumerate(labelled(photos))]
    group_of = {path: group for path, _, group in rows}
    file = write_csv(photos / "l.csv", ("path", "label", "group"), rows)
    index = built(file, split_strategy="group")
    sides = [{group_of[path] for path in index.splits[split].paths} for split in ("train", "validation")]
    assert all(sides)
    assert not sides[0] & sides[1]
    both = "there is a group column as well as data.group_regex; remove one of them"
    assert both in refused(file, split_strategy="group", group_regex="x")
    plain = write_csv(photos / "plain.csv", ("path", "label"), labelled(photos))
    assert "there is no group column, and no data.group_regex" in refused(plain, split_strategy="group")
    assert built(plain, split_strategy="group", group_regex=r"(\d)\.png").counts("validation").sum() > 0


def test_groups_that_straddle_given_splits_are_rejected(photos: Path) -> None:
    splits = ["train", "train", "validation"] * 9
    rows: Rows = [(*row, split, split[0]) for row, split in zip(labelled(photos), splits, strict=False)]
    built(write_csv(photos / "l.csv", OWN[:4], rows))
    rows[0] = (*rows[0][:3], "v")
    message = refused(write_csv(photos / "l.csv", OWN[:4], rows))
    assert "1 group of the group column in two splits: v (train, validation)" in message
    assert "or remove the split column" in message


def test_weights_stay_with_their_images_and_are_reported(photos: Path) -> None:
    rows: Rows = [(path, label, number) for number, (path, label) in enumerate(labelled(photos))]
    weight_of = {path: weight for path, _, weight in rows}
    heard = Heard()
    index = built(write_csv(photos / "l.csv", ("path", "label", "weight"), rows), heard)
    train = index.splits["train"]
    assert train.weights is not None
    assert train.weights.dtype == np.float32
    assert train.weights.tolist() == [weight_of[path] for path in train.paths]
    assert any(note.startswith("training images have weights of 0 to 24, 12 on average: ") for note in heard.notes)


def test_changed_weight_is_reported_as_a_change(photos: Path) -> None:
    rows: Rows = [(path, label, 1 + number) for number, (path, label) in enumerate(labelled(photos))]
    before = built(write_csv(photos / "l.csv", ("path", "label", "weight"), rows))
    shuffled = built(write_csv(photos / "l.csv", ("path", "label", "weight"), rows[::-1]))
    assert shuffled.changes_since(before.record()).lines == ()
    path, label, weight = next(row for row in rows if row[0] in before.splits["train"].paths)
    rows[rows.index((path, label, weight))] = (path, label, weight + 1)
    after = built(write_csv(photos / "l.csv", ("path", "label", "weight"), rows))
    assert after.changes_since(before.record()).lines == ("the weights of training images",)
    without = built(write_csv(photos / "l.csv", ("path", "label"), labelled(photos)))
    assert without.changes_since(before.record()).lines == ("the weights of training images",)


@pytest.mark.parametrize("edit", ["a label", "a path"])
def test_edited_manifest_is_reported_as_a_change(photos: Path, edit: str) -> None:
    rows = labelled(photos)
    before = built(write_csv(photos / "l.csv", ("path", "label"), rows), validation_split=0.0)
    if edit == "a label":
        rows[0] = (rows[0][0], "dog")
        said = ["train, class 'cat': 10 files before, 9 now", "train, class 'dog': 15 files before, 16 now"]
    else:
        make_image(photos / "new.png", 99)
        rows[0] = ("new.png", "cat")
        said = ["train, class 'cat': some of its 10 files have changed"]
    after = built(write_csv(photos / "l.csv", ("path", "label"), rows), validation_split=0.0)
    assert list(after.changes_since(before.record()).lines) == said
