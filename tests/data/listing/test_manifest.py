"""Labels in a file: what is read, what is refused with its line, and that the rest is as with folders."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_folders import Data, Heard, make_folder, make_image
from odd_names import ODD_NAMES

from wisesr_cli.data.dataset import build_index, count_classes, scan_folder_for_evaluation
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.data.listing import manifest_formats
from wisesr_cli.data.listing.manifest import LONGEST_LABEL, Row, read_manifest
from wisesr_cli.errors import DataError, MachineError
from wisesr_cli.listening import Silent
from wisesr_cli.run.records import write_rows

Rows = list[tuple[Any, ...]]
OWN = ("path", "label", "split", "group", "weight")
SOME: Rows = [
    ("a.png", "cat", "train", "g1", 0.5),
    ("b.png", "3", "val", "g2", 2),
    ("c d.png", "in/out", "TEST", "g 3", 0),
]


def write_csv(path: Path, header: tuple[str, ...], rows: Rows, *, delimiter: str = ",", start: str = "") -> Path:
    quote = '"{}"'.format
    lines = [delimiter.join(quote(str(cell).replace('"', '""')) for cell in row) for row in (header, *rows)]
    path.write_text(start + "\r\n".join(lines) + "\r\n", encoding="utf-8", newline="")
    return path


def write_json(path: Path, header: tuple[str, ...], rows: Rows) -> Path:
    lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    path.write_text("\n\n".join(lines), encoding="utf-8")
    return path


def write_parquet(path: Path, header: tuple[str, ...], rows: Rows) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    columns = {name: [row[number] for row in rows] for number, name in enumerate(header)}
    parquet.write_table(pyarrow.table(columns), path)
    return path


WRITERS: dict[str, Callable[[Path, tuple[str, ...], Rows], Path]] = {
    "commas": lambda folder, *table: write_csv(folder / "l.csv", *table),
    "semicolons, UTF-8 mark": lambda folder, *table: write_csv(folder / "l.CSV", *table, delimiter=";", start="\ufeff"),
    "tabs": lambda folder, *table: write_csv(folder / "l.tsv", *table, delimiter="\t"),
    "JSON lines": lambda folder, *table: write_json(folder / "l.jsonl", *table),
    "Parquet": lambda folder, *table: write_parquet(folder / "l.parquet", *table),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", {"cat": 10, "dog": 10, "dog/more": 5})


def labelled(photos: Path) -> Rows:
    paths = sorted(photos.rglob("*.png"))
    return [(path.relative_to(photos).as_posix(), path.relative_to(photos).parts[0]) for path in paths]


def built(file: Path, heard: Silent | None = None, **options: Any) -> DatasetIndex:
    return build_index(Data(manifest=file, **options), seed=0, listener=heard or Silent())


def refused(file: Path, **options: Any) -> str:
    with pytest.raises(DataError) as caught:
        built(file, **options)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 2_000
    return message


def written(tmp_path: Path, text: str | bytes, name: str = "labels.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape"))
    return path


# Formats and columns


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_gives_the_same_rows(tmp_path: Path, kind: str) -> None:
    manifest = read_manifest(WRITERS[kind](tmp_path, OWN, SOME))
    assert [row[1:] for row in manifest.rows] == [
        ("a.png", "cat", "train", "g1", 0.5),
        ("b.png", "3", "validation", "g2", 2.0),
        ("c d.png", "in/out", "test", "g 3", 0.0),
    ]
    assert (manifest.root, manifest.splits, manifest.notes) == (str(tmp_path), ("train", "validation", "test"), ())


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    "header",
    [
        ("path", "label"),
        ("file_name", "label"),
        ("filename", "class"),
        ("Image_Path", " Category "),
        ("image", "class_name"),
    ],
)
def test_the_columns_of_other_programs_are_recognised(tmp_path: Path, kind: str, header: tuple[str, str]) -> None:
    manifest = read_manifest(WRITERS[kind](tmp_path, (*header, "width"), [("a.png", 7, 40), ("b.png", 8, 50)]))
    assert [row[1:] for row in manifest.rows] == [("a.png", "7", None, None, None), ("b.png", "8", None, None, None)]
    assert len(manifest.notes) == 1
    assert manifest.notes[0].startswith("1 column of ")
    assert manifest.notes[0].endswith(" left out: width")


def test_our_own_names_are_taken_where_others_stand_beside(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "l.csv", ("image", "path", "class", "label"), [("x.png", "a.png", "wrong", "right")])
    assert read_manifest(file).rows == (Row(2, "a.png", "right", None, None, None),)


def test_lines_are_those_where_rows_begin(tmp_path: Path) -> None:
    text = 'path,label\n\n"a\nb.png",x\nc.png,y\n'
    assert [row.line for row in read_manifest(written(tmp_path, text)).rows] == [3, 5]


def test_columns_of_empty_cells_are_as_if_not_there(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, "path,label,split,group,weight\na.png,x,,,\nb.png,y,,,\n"))
    assert [row[3:] for row in manifest.rows] == [(None, None, None)] * 2


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_table_of_a_run_gives_back_every_name(tmp_path: Path, name: str) -> None:
    rows = [(f"{name}/{name[:100]}.png", name, "train"), ("b/\\n'=.png", "'=b\\n", "train"), ("c.png", "c", "test")]
    write_rows(tmp_path / "splits.csv", ("path", "label", "split"), rows)
    assert [row[1:4] for row in read_manifest(tmp_path / "splits.csv").rows] == rows


def test_only_what_a_run_would_write_is_unescaped(tmp_path: Path) -> None:
    rows = [("a.png", "'90s", "train"), ("b.png", "C\\d", "train")]
    assert [row[1:4] for row in read_manifest(write_csv(tmp_path / "l.csv", OWN[:3], rows)).rows] == rows
    rows = [("a\\n.png", "'=x")]
    assert [row[1:3] for row in read_manifest(write_csv(tmp_path / "l.csv", OWN[:2], rows)).rows] == rows


def test_parquet_without_its_package_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MachineError, match=r"pip install 'wisesr\[parquet\]'"):
        read_manifest(written(tmp_path, b"PAR1", "l.parquet"))


# What is refused, with its line

FAULTS: dict[str, tuple[str | bytes, str]] = {
    "no columns named": ("a.png,cat\n", "no column path (file_name, filename, "),
    "no label column": ("path,lable\na.png,x\n", "no column label (class, class_name, category); its first line names"),
    "two columns for one": ("filename,image,label\na,b,c\n", "several columns may be the path: filename, image; call"),
    "a column twice": ("path,label,label\na,b,c\n", "several columns may be the label: label, label; call"),
    "empty": (b"", "no column path"),
    "no rows": ("path,label\n", "no rows below the names of the columns"),
    "UTF-16": ("path,label\na.png,x\n".encode("utf-16"), "in UTF-16; convert it to UTF-8"),
    "Latin-1": ("path,label\nb.png,x\na.png,caf\xe9\n".encode("latin-1"), "line 3 is not in UTF-8"),
    "an open quote": ('path,label\na.png,"x\n', "line 2: unexpected end of data"),
    "cells missing": ("path,label\na.png,x\nb.png\n", "line 3: another number of cells"),
    "cells too many": ("path,label\na.png,x\n\nb.png,y,z\n", "line 4: another number of cells"),
    "no path": ("path,label\n,x\n", "line 2: no path"),
    "no label": ("path,label\na.png,x\nb.png, \n", "line 3: no label"),
    "NUL": ("path,label\na.png,x\0\n", "line 2: a NUL character in the label"),
    "long label": (f"path,label\na.png,{'é' * 128}\n", f"line 2: a label of more than {LONGEST_LABEL} bytes"),
    "long field": (f"path,label\na.png,x\n{'b' * 200_000},x\n", "line 3: field larger than field limit"),
    "unknown split": ("path,label,split\na.png,x,trian\n", "line 2: 'trian' is no split; known: train, validation"),
    "split missing": ("path,label,split\na.png,x,train\nb.png,x,\n", "line 3: no split, which others have"),
    "no training": ("path,label,split\na.png,x,test\nb.png,x,test\n", "names test, but no image of train"),
    "group missing": ("path,label,group\na.png,x,1\nb.png,x,\n", "line 3: no group, which others have"),
    "weight of text": ("path,label,weight\na.png,x,heavy\n", "line 2: the weight 'heavy' is no number from 0 on"),
    "weight below 0": ("path,label,weight\na.png,x,-1\n", "line 2: the weight '-1' is no number from 0 on"),
    "weight of NaN": ("path,label,weight\na.png,x,nan\n", "line 2: the weight 'nan' is no number from 0 on"),
    "weights of 0": ("path,label,weight\na.png,x,0\nb.png,y,0\n", "no weight of the file is above 0"),
    "twice": ("path,label\na.png,x\nb.png,y\n./b/../a.png,x\n", "line 4: a.png is there already in line 2"),
    "two labels": ("path,label\na.png,x\na.png,y\n", "line 3: a.png has two labels: 'y', and 'x' in line 2"),
    "two splits": (
        "path,label,split\na.png,x,val\na.png,x,train\n",
        "line 3: a.png is in two splits: train, and validation in line 2",
    ),
    "outside": ("path,label\na.png,x\n../b.png,y\n", "line 3: ../b.png leads out of "),
    "escape": ("path,label\na.png,\x1b[31m\na.png,x\n", "two labels: 'x', and '\\x1b[31m' in line 2"),
}


@pytest.mark.reliability(60)
@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_with_its_line(tmp_path: Path, fault: str) -> None:
    text, said = FAULTS[fault]
    message = refused(written(tmp_path, text))
    assert said in message
    assert message.startswith(f"{tmp_path}/labels.csv: ")


JSON_FAULTS = {
    "no object": ("[1]\n", "line 1 is no JSON object"),
    "no JSON": ('{"path": "a", "label": "b"}\n{\n', "line 2 is not JSON"),
    "deep": (f'{{"path": {"[" * 100_000}\n', "line 1 is not JSON"),
    "two labels in one": ('{"path": "a.png", "label": ["x", "y"]}\n', "line 1: the label is no text"),
    "half a character": ('{"path": "a\\ud800.png", "label": "x"}\n', "line 1: half of a character"),
    "long number": (f'{{"path": "a.png", "label": {"1" * 5_000}}}\n', "line 1 is not JSON"),
}


@pytest.mark.reliability(60)
@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_a_fault_in_json_lines_is_named_with_its_line(tmp_path: Path, fault: str) -> None:
    text, said = JSON_FAULTS[fault]
    assert said in refused(written(tmp_path, text, "labels.jsonl"))


@pytest.mark.reliability(60)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", b"path,label\na,b\n"])
def test_what_is_no_parquet_is_said(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    assert "cannot be read as a manifest: not Parquet" in refused(written(tmp_path, content, "l.parquet"))


def test_pictures_inside_of_parquet_are_refused(tmp_path: Path) -> None:
    rows: Rows = [({"bytes": b"\x89PNG", "path": "a.png"}, 1)]
    assert "row 1: the path is no text" in refused(write_parquet(tmp_path / "l.parquet", ("image", "label"), rows))


@pytest.mark.reliability(60)
def test_of_many_faults_the_first_are_named_and_all_counted(tmp_path: Path) -> None:
    message = refused(written(tmp_path, "path,label\n" + "a.png,x\n" * 30_000))
    assert message.count("a.png is there already in line 2") == 5
    assert message.endswith("; and 29,994 more")


@pytest.mark.reliability(60)
def test_many_names_of_columns_take_no_more_memory_than_rows(tmp_path: Path) -> None:
    lines = (json.dumps({"path": f"{number}.png", "label": "x", f"odd {number}": 1}) for number in range(20_000))
    manifest = read_manifest(written(tmp_path, "\n".join(lines), "l.jsonl"))
    assert (len(manifest.rows), len(manifest.left_out)) == (20_000, 20_000)


def test_too_many_rows_or_bytes_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "path,label\na.png,x\nb.png,x\n")
    monkeypatch.setattr("wisesr_cli.data.listing.manifest.MOST_ROWS", 1)
    assert "more than 1 rows" in refused(file)
    monkeypatch.setattr(manifest_formats, "MOST_BYTES", 10)
    assert "more than 10 bytes" in refused(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "a manifest ends in .csv, .tsv, .jsonl, .parquet" in refused(written(tmp_path, "", "labels.txt"))
    assert "no such file" in refused(tmp_path / "gone.csv").lower()
    assert "no such file" in refused(tmp_path / "gone.parquet").lower()
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a regular file" in refused(tmp_path / "pipe.csv")


# The images


@pytest.mark.parametrize("kind", WRITERS)
def test_labels_in_a_file_give_the_index_of_the_folder(tmp_path: Path, photos: Path, kind: str) -> None:
    rows = list(reversed(labelled(photos)))
    file = WRITERS[kind](photos, ("path", "label"), rows)
    index, expected = built(file), build_index(Data(dir=photos), seed=0, listener=Silent())
    assert (index.class_names, index.root) == (expected.class_names, expected.root)
    assert list(index.rows()) == list(expected.rows())  # in the same order, so that a training is the same
    assert index.changes_since(expected.record()).lines == ()
    assert count_classes(Data(manifest=file)) == 2


def test_paths_begin_at_the_folder_that_is_given(tmp_path: Path, photos: Path) -> None:
    file = write_csv(tmp_path / "l.csv", ("path", "label"), labelled(photos))
    message = refused(file)
    assert "none of its 25 files is there (line 2: " in message
    assert f"Its paths begin at {tmp_path}: move the file to where they do, or name that folder: --data" in message
    assert list(built(file, dir=photos).rows()) == list(build_index(Data(dir=photos), seed=0, listener=Silent()).rows())


def test_absolute_paths_begin_where_they_have_in_common(tmp_path: Path, photos: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    rows: Rows = [(str(photos / path), label) for path, label in labelled(photos)]
    index = built(write_csv(tmp_path / "elsewhere" / "l.csv", ("path", "label"), rows))
    assert index.root == str(photos)
    assert list(index.rows()) == list(build_index(Data(dir=photos), seed=0, listener=Silent()).rows())
    rows[3] = (rows[3][0].removeprefix(f"{photos}/"), rows[3][1])  # one that is relative
    assert "line 2: " in refused(write_csv(tmp_path / "elsewhere" / "l.csv", ("path", "label"), rows))


@pytest.mark.reliability(60)
def test_missing_files_are_named_with_their_line_or_left_out(photos: Path) -> None:
    rows = [*labelled(photos), ("cat/gone.png", "cat"), ("dog", "dog")]
    file = write_csv(photos / "l.csv", ("path", "label"), rows)
    message = refused(file)
    assert "2 unreadable images: cat/gone.png: no such file (line 27 of l.csv); dog: a folder, not an image" in message
    heard = Heard()
    assert sum(map(len, built(file, heard, on_error="skip").splits.values())) == 25
    assert "2 unreadable images left out: cat/gone.png: no such file (line 27 of l.csv)" in heard.warnings[0]


def test_no_image_and_damaged_ones_are_unreadable(photos: Path) -> None:
    (photos / "cat" / "note.png").write_text("hello", encoding="utf-8")
    (photos / "cat" / "link.png").symlink_to("nowhere")
    rows = [*labelled(photos), ("cat/link.png", "cat")]
    message = refused(write_csv(photos / "l.csv", ("path", "label"), list(dict.fromkeys(rows))))
    assert "cat/note.png: not an image" in message
    assert "cat/link.png: no such file" in message


def test_a_file_under_two_paths_counts_once_in_a_class(photos: Path) -> None:
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
def test_classes_that_cannot_be_told_apart_are_refused(tmp_path: Path, labels: tuple[str, str], said: str) -> None:
    rows: Rows = [(make_image(tmp_path / f"{number}.png", number).name, label) for number, label in enumerate(labels)]
    assert said in refused(write_csv(tmp_path / "l.csv", ("path", "label"), rows))


def test_labels_of_other_splits_match_however_unicode_spells_them(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    rows = [("a/000.png", "caf\u00e9", "train"), ("b/000.png", "b", "train"), ("a/001.png", "cafe\u0301", "valid")]
    index = built(write_csv(tmp_path / "l.csv", OWN[:3], rows))
    assert index.splits["validation"].labels.tolist() == [1]
    rows.append(("b/002.png", "c", "dev"))
    message = refused(write_csv(tmp_path / "l.csv", OWN[:3], rows))
    assert "the validation split has 1 class that training lacks: 'c'" in message


def test_equal_images_under_two_labels_are_warned_of(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    make_image(tmp_path / "b" / "009.png", 1)
    heard = Heard()
    built(write_csv(tmp_path / "l.csv", ("path", "label"), labelled(tmp_path)), heard)
    assert "1 image in two splits or under two labels: a/000.png" in heard.warnings[0]


def test_an_evaluation_takes_the_test_rows_and_matches_classes_by_name(photos: Path) -> None:
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
    both = "there is a column group beside data.group_regex; leave one of them out"
    assert both in refused(file, split_strategy="group", group_regex="x")
    plain = write_csv(photos / "plain.csv", ("path", "label"), labelled(photos))
    assert "there is no column group, and no data.group_regex" in refused(plain, split_strategy="group")
    assert built(plain, split_strategy="group", group_regex=r"(\d)\.png").counts("validation").sum() > 0


def test_groups_that_given_splits_do_not_keep_together_are_refused(photos: Path) -> None:
    splits = ["train", "train", "validation"] * 9
    rows: Rows = [(*row, split, split[0]) for row, split in zip(labelled(photos), splits, strict=False)]
    built(write_csv(photos / "l.csv", OWN[:4], rows))
    rows[0] = (*rows[0][:3], "v")
    message = refused(write_csv(photos / "l.csv", OWN[:4], rows))
    assert "1 group of the column group in two splits: v (train, validation)" in message
    assert "or leave out the column split" in message


def test_weights_go_with_their_images_and_are_said(photos: Path) -> None:
    rows: Rows = [(path, label, number) for number, (path, label) in enumerate(labelled(photos))]
    weight_of = {path: weight for path, _, weight in rows}
    heard = Heard()
    index = built(write_csv(photos / "l.csv", ("path", "label", "weight"), rows), heard)
    train = index.splits["train"]
    assert train.weights is not None
    assert train.weights.dtype == np.float32
    assert train.weights.tolist() == [weight_of[path] for path in train.paths]
    assert any(note.startswith("training images have weights of 0 to 24, 12 on average: ") for note in heard.notes)


def test_another_weight_is_a_change(photos: Path) -> None:
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
def test_an_edited_manifest_is_a_change(photos: Path, edit: str) -> None:
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
