"""The machine-readable formats of the commands: their fields, and the same records in all of them."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest
from command_line import CLASSES, CommandLine, Trained, make_photo, make_photos

pytestmark = pytest.mark.usefixtures("empty_folder")

FIELDS: dict[str, tuple[str, str, str]] = {  # fields of the result; the key of its rows; fields of every row
    "evaluate RUN": (
        "examples top1_accuracy top5_accuracy balanced_accuracy macro_precision macro_recall macro_f1 macro_auc "
        "log_loss ece ece_uncalibrated classes per_class confusion_matrix interval temperature verdict",
        "per_class",
        "label support precision recall f1",
    ),
    "summarize --backbone compact_small --image-size 32": (
        "rows",
        "rows",
        "backbone image_height image_width classes head feature_map backbone_parameters head_parameters "
        "total_parameters trainable_parameters head_flops total_flops size_mb imagenet_weights",
    ),
    "check PHOTOS --image-size 32": ("status findings", "findings", "level code message count paths"),
}


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    folder = make_photos(tmp_path / "mixed", 2, classes=("red",)) / "red"
    (folder / "01.png").write_bytes((folder / "00.png").read_bytes()[:-40])
    (folder / "02.jpg").write_text("this is text", encoding="utf-8")
    make_photo(folder / "03.png", 1, 3)
    return folder


@pytest.mark.parametrize("line", FIELDS)
def test_json_has_exactly_the_documented_fields(wisesr: CommandLine, trained: Trained, photos: Path, line: str) -> None:
    fields, rows, fields_of_rows = FIELDS[line]
    answer = wisesr.line(line, "--format", "json", RUN=trained.run, PHOTOS=photos).worked()
    assert list(answer.data) == fields.split()
    assert {tuple(row) for row in answer.data[rows]} == {tuple(fields_of_rows.split())}
    assert answer.out.count("\n") == 1
    if line.startswith("evaluate"):
        assert answer.data["classes"] == list(CLASSES)
        assert answer.data["top5_accuracy"] == 1.0
        assert "device: " in answer.err
    if line.startswith("check"):
        assert answer.data["status"] in {"pass", "warn"}
        assert {row["level"] for row in answer.data["findings"]} <= {"pass", "warn", "fail"}


def test_predict_json_jsonl_and_csv_hold_the_same_records(wisesr: CommandLine, trained: Trained, mixed: Path) -> None:
    answers = {name: wisesr("predict", trained.run, mixed, "--format", name) for name in ("json", "jsonl", "csv")}
    assert {answer.code for answer in answers.values()} == {6}
    records = answers["json"].data
    assert answers["jsonl"].records == records
    for record in records:
        assert list(record) == ["path", "label", "score", "top", "error", "margin", "entropy"]
        assert all(list(top) == ["label", "score"] for top in record["top"])
        if record["error"] is None:
            scores = [top["score"] for top in record["top"]]
            assert scores == sorted(scores, reverse=True)
            assert sum(scores) == pytest.approx(1)
            assert record["margin"] == scores[0] - scores[1]
            assert record["entropy"] == pytest.approx(-sum(score * math.log(score) for score in scores))
    rows = list(csv.DictReader(io.StringIO(answers["csv"].out)))
    assert [row["path"] for row in rows] == [record["path"] for record in records]
    assert [row["label"] or None for row in rows] == [record["label"] for record in records]
    assert [float(row["score"]) if row["score"] else None for row in rows] == [record["score"] for record in records]


@pytest.mark.parametrize("output", ["csv", "markdown"])
@pytest.mark.parametrize("command", ["evaluate RUN", "summarize --backbone compact_small", "check PHOTOS"])
def test_csv_and_markdown_are_tables_with_rows_of_equal_length(
    wisesr: CommandLine, trained: Trained, photos: Path, command: str, output: str
) -> None:
    answer = wisesr.line(command, "--format", output, RUN=trained.run, PHOTOS=photos).worked()
    rows = list(csv.reader(io.StringIO(answer.out), delimiter="," if output == "csv" else "|"))
    assert len(rows) > 2
    if output == "csv":
        assert len({len(row) for row in rows}) == 1
    else:
        tables = [line for line in answer.out.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in tables)
        assert answer.out.count("| --- |") + answer.out.count("| ---: |") > 0
        assert "### " in answer.out  # every table has its title
