"""Manifests, which hold labels in a file: what is read, and what is rejected with its line number."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path

import pytest
from label_files import (
    OWN,
    SOME,
    WRITERS,
    Rows,
    refused,
    write_csv,
    write_parquet,
    written,
)
from odd_names import ODD_NAMES

from wisesr_cli.data.listing import manifest_formats
from wisesr_cli.data.listing.manifest import LONGEST_LABEL, Row, read_manifest
from wisesr_cli.errors import MachineError
from wisesr_cli.machine.installation import install_line
from wisesr_cli.run.records import write_rows

# Formats and columns


@pytest.mark.parametrize("kind", WRITERS)
def test_every_format_yields_the_same_rows(tmp_path: Path, kind: str) -> None:
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
def test_column_names_of_other_programs_are_recognised(tmp_path: Path, kind: str, header: tuple[str, str]) -> None:
    manifest = read_manifest(WRITERS[kind](tmp_path, (*header, "width"), [("a.png", 7, 40), ("b.png", 8, 50)]))
    assert [row[1:] for row in manifest.rows] == [("a.png", "7", None, None, None), ("b.png", "8", None, None, None)]
    assert len(manifest.notes) == 1
    assert manifest.notes[0].startswith("1 column of ")
    assert manifest.notes[0].endswith(" ignored: width")


def test_own_column_names_take_precedence_over_those_of_other_programs(tmp_path: Path) -> None:
    file = write_csv(tmp_path / "l.csv", ("image", "path", "class", "label"), [("x.png", "a.png", "wrong", "right")])
    assert read_manifest(file).rows == (Row(2, "a.png", "right", None, None, None),)


def test_line_numbers_are_where_rows_begin(tmp_path: Path) -> None:
    text = 'path,label\n\n"a\nb.png",x\nc.png,y\n'
    assert [row.line for row in read_manifest(written(tmp_path, text)).rows] == [3, 5]


def test_empty_columns_are_ignored(tmp_path: Path) -> None:
    manifest = read_manifest(written(tmp_path, "path,label,split,group,weight\na.png,x,,,\nb.png,y,,,\n"))
    assert [row[3:] for row in manifest.rows] == [(None, None, None)] * 2


@pytest.mark.parametrize("name", ODD_NAMES)
def test_table_written_by_a_run_preserves_every_name(tmp_path: Path, name: str) -> None:
    rows = [(f"{name}/{name[:100]}.png", name, "train"), ("b/\\n'=.png", "'=b\\n", "train"), ("c.png", "c", "test")]
    write_rows(tmp_path / "splits.csv", ("path", "label", "split"), rows)
    assert [row[1:4] for row in read_manifest(tmp_path / "splits.csv").rows] == rows


def test_only_values_that_a_run_would_escape_are_unescaped(tmp_path: Path) -> None:
    rows = [("a.png", "'90s", "train"), ("b.png", "C\\d", "train")]
    assert [row[1:4] for row in read_manifest(write_csv(tmp_path / "l.csv", OWN[:3], rows)).rows] == rows
    rows = [("a\\n.png", "'=x")]
    assert [row[1:3] for row in read_manifest(write_csv(tmp_path / "l.csv", OWN[:2], rows)).rows] == rows


def test_parquet_without_its_package_names_the_install_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MachineError, match=re.escape(install_line("parquet"))):
        read_manifest(written(tmp_path, b"PAR1", "l.parquet"))


# Rejected manifests

FAULTS: dict[str, tuple[str | bytes, str]] = {
    "no header": ("a.png,cat\n", "no column path (file_name, filename, "),
    "no label column": ("path,lable\na.png,x\n", "no column label (class, class_name, category); its first line names"),
    "two columns for the path": ("filename,image,label\na,b,c\n", "several columns may be the path: filename, image; "),
    "duplicate column": ("path,label,label\na,b,c\n", "several columns may be the label: label, label; rename one"),
    "empty": (b"", "no column path"),
    "no rows": ("path,label\n", "no rows below the column names"),
    "UTF-16": ("path,label\na.png,x\n".encode("utf-16"), "in UTF-16; convert it to UTF-8"),
    "Latin-1": ("path,label\nb.png,x\na.png,caf\xe9\n".encode("latin-1"), "line 3 is not in UTF-8"),
    "unclosed quote": ('path,label\na.png,"x\n', "line 2: unexpected end of data"),
    "missing cells": ("path,label\na.png,x\nb.png\n", "line 3: a different number of cells"),
    "too many cells": ("path,label\na.png,x\n\nb.png,y,z\n", "line 4: a different number of cells"),
    "no path": ("path,label\n,x\n", "line 2: no path"),
    "no label": ("path,label\na.png,x\nb.png, \n", "line 3: no label"),
    "NUL": ("path,label\na.png,x\0\n", "line 2: a NUL character in the label"),
    "long label": (f"path,label\na.png,{'é' * 128}\n", f"line 2: a label of more than {LONGEST_LABEL} bytes"),
    "long field": (f"path,label\na.png,x\n{'b' * 200_000},x\n", "line 3: field larger than field limit"),
    "unknown split": ("path,label,split\na.png,x,trian\n", "line 2: 'trian' is not a split; allowed: train, "),
    "missing split": ("path,label,split\na.png,x,train\nb.png,x,\n", "line 3: no split, which other rows have"),
    "no training split": ("path,label,split\na.png,x,test\nb.png,x,test\n", "names test, but no training images"),
    "missing group": ("path,label,group\na.png,x,1\nb.png,x,\n", "line 3: no group, which other rows have"),
    "weight is text": (
        "path,label,weight\na.png,x,heavy\n",
        "line 2: the weight 'heavy' is not a number of at least 0",
    ),
    "negative weight": ("path,label,weight\na.png,x,-1\n", "line 2: the weight '-1' is not a number of at least 0"),
    "weight is NaN": ("path,label,weight\na.png,x,nan\n", "line 2: the weight 'nan' is not a number of at least 0"),
    "all weights are 0": ("path,label,weight\na.png,x,0\nb.png,y,0\n", "no weight in the file is above 0"),
    "listed twice": ("path,label\na.png,x\nb.png,y\n./b/../a.png,x\n", "line 4: a.png is already listed in line 2"),
    "two labels": ("path,label\na.png,x\na.png,y\n", "line 3: a.png has two labels: 'y', and 'x' in line 2"),
    "two splits": (
        "path,label,split\na.png,x,val\na.png,x,train\n",
        "line 3: a.png is in two splits: train, and validation in line 2",
    ),
    "outside the folder": ("path,label\na.png,x\n../b.png,y\n", "line 3: ../b.png is outside "),
    "escape sequence": ("path,label\na.png,\x1b[31m\na.png,x\n", "two labels: 'x', and '\\x1b[31m' in line 2"),
}


@pytest.mark.reliability(60)
@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_reported_with_its_line(tmp_path: Path, fault: str) -> None:
    text, said = FAULTS[fault]
    message = refused(written(tmp_path, text))
    assert said in message
    assert message.startswith(f"{tmp_path}/labels.csv: ")


JSON_FAULTS = {
    "not an object": ("[1]\n", "line 1 is not a JSON object"),
    "not JSON": ('{"path": "a", "label": "b"}\n{\n', "line 2 is not JSON"),
    "deeply nested": (f'{{"path": {"[" * 100_000}\n', "line 1 is not JSON"),
    "list of labels": ('{"path": "a.png", "label": ["x", "y"]}\n', "line 1: the label is not text"),
    "lone surrogate": ('{"path": "a\\ud800.png", "label": "x"}\n', "line 1: half of a character"),
    "long number": (f'{{"path": "a.png", "label": {"1" * 5_000}}}\n', "line 1 is not JSON"),
}


@pytest.mark.reliability(60)
@pytest.mark.parametrize("fault", JSON_FAULTS)
def test_fault_in_json_lines_is_reported_with_its_line(tmp_path: Path, fault: str) -> None:
    text, said = JSON_FAULTS[fault]
    assert said in refused(written(tmp_path, text, "labels.jsonl"))


@pytest.mark.reliability(60)
@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"\xff" * 100 + b"PAR1", b"path,label\na,b\n"])
def test_invalid_parquet_is_reported(tmp_path: Path, content: bytes) -> None:
    pytest.importorskip("pyarrow")
    assert "cannot be read as a manifest: not Parquet" in refused(written(tmp_path, content, "l.parquet"))


def test_images_embedded_in_parquet_are_rejected(tmp_path: Path) -> None:
    rows: Rows = [({"bytes": b"\x89PNG", "path": "a.png"}, 1)]
    assert "row 1: the path is not text" in refused(write_parquet(tmp_path / "l.parquet", ("image", "label"), rows))


@pytest.mark.reliability(60)
def test_many_faults_are_counted_and_the_first_ones_named(tmp_path: Path) -> None:
    message = refused(written(tmp_path, "path,label\n" + "a.png,x\n" * 30_000))
    assert message.count("a.png is already listed in line 2") == 5
    assert message.endswith("; and 29,994 more")


@pytest.mark.reliability(60)
def test_json_lines_may_have_a_different_column_in_every_row(tmp_path: Path) -> None:
    lines = (json.dumps({"path": f"{number}.png", "label": "x", f"odd {number}": 1}) for number in range(20_000))
    manifest = read_manifest(written(tmp_path, "\n".join(lines), "l.jsonl"))
    assert (len(manifest.rows), len(manifest.left_out)) == (20_000, 20_000)


def test_too_many_rows_or_bytes_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = written(tmp_path, "path,label\na.png,x\nb.png,x\n")
    monkeypatch.setattr("wisesr_cli.data.listing.manifest.MOST_ROWS", 1)
    assert "more than 1 rows" in refused(file)
    monkeypatch.setattr(manifest_formats, "MOST_BYTES", 10)
    assert "more than 10 bytes" in refused(file)


def test_unknown_suffix_missing_file_and_named_pipe_are_rejected(tmp_path: Path) -> None:
    assert "a manifest ends in .csv, .tsv, .jsonl, .parquet" in refused(written(tmp_path, "", "labels.txt"))
    assert "no such file" in refused(tmp_path / "gone.csv").lower()
    assert "no such file" in refused(tmp_path / "gone.parquet").lower()
    os.mkfifo(tmp_path / "pipe.csv")
    assert "not a regular file" in refused(tmp_path / "pipe.csv")
