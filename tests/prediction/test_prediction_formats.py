from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.machine.installation import install_line
from wisesr_cli.prediction import formats
from wisesr_cli.prediction.formats import SUFFIXES, chosen_format, rendering
from wisesr_cli.prediction.tables import Layout
from wisesr_cli.results.streams import Prediction, ScoredLabel
from wisesr_cli.text import parse_csv_cell

CLASSES = ("path", "a|b", "=h\udcff")
TOP = (ScoredLabel("a|b", 0.5), ScoredLabel("path", 0.3), ScoredLabel("=h\udcff", 0.2))
RECORDS = [
    Prediction("x\udcff.jpg", "a|b", 0.5, TOP, margin=0.2, entropy=1.03, labels=("a|b", "path"),
               probabilities={"path": 0.3, "a|b": 0.5, "=h\udcff": 0.2}),
    Prediction("y.jpg", None, None, (), "truncated JPEG"),
    Prediction("z.jpg", None, 0.5, TOP, margin=0.2, entropy=1.03, labels=(), note="damaged inside: x",
               probabilities={"path": 0.3, "a|b": 0.5, "=h\udcff": 0.2}),
]  # fmt: skip
WHOLE = Layout(labels="set", margin=True, class_names=CLASSES)


def write(name: str, path: Path, layout: Layout, records: list[Prediction] = RECORDS) -> str:
    with rendering(name, path, layout) as writer:
        for record in records:
            writer.write(record)
        writer.end()
    return "" if name == "parquet" else path.read_text(encoding="utf-8")


@pytest.mark.parametrize(("suffix", "name"), SUFFIXES.items())
def test_the_suffix_selects_the_format_and_a_conflicting_format_is_rejected(suffix: str, name: str) -> None:
    assert chosen_format(f"a.b{suffix}", None) == chosen_format(f"a{suffix.upper()}", name) == name
    for other in {"table", *SUFFIXES.values()} - {name}:
        with pytest.raises(UsageError, match=rf"a\{suffix} is the name of a {name} file, and --format says {other}"):
            chosen_format(f"a{suffix}", other)


@pytest.mark.parametrize("output", ["out", "out.txt", ".csv", "csv", "a.csv.gz", "a.", "dir.csv/out"])
def test_an_unknown_suffix_needs_a_format_and_the_choices_are_listed(output: str) -> None:
    with pytest.raises(UsageError, match=r"choose one of \.csv, \.json, \.jsonl, \.md, \.parquet, or give --format"):
        chosen_format(output, None)
    assert chosen_format(output, "table") == "table"


def test_probabilities_in_tables_and_parquet_without_a_file_are_rejected() -> None:
    assert chosen_format(None, None) == "table"
    for output, given in ((None, None), (None, "markdown"), ("a.md", None), ("a", "table")):
        with pytest.raises(UsageError, match=r"--probabilities does not work with .*: csv, json, jsonl, parquet"):
            chosen_format(output, given, probabilities=True)
    with pytest.raises(UsageError, match=r"-o FILE\.parquet"):
        chosen_format(None, "parquet")


def test_parquet_without_pyarrow_is_a_machine_error_with_the_install_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(MachineError, match=re.escape(install_line("parquet"))):
        chosen_format("a.parquet", None)


def test_csv_has_every_column_and_reads_back(tmp_path: Path) -> None:
    header, *rows = csv.reader(io.StringIO(write("csv", tmp_path / "a.csv", WHOLE)))
    probabilities = ["probability:path", "probability:a|b", "probability:=h\\udcff"]
    assert header == ["path", "label", "score", "error", "margin", "entropy", "labels", "note", *probabilities]
    names = [[parse_csv_cell(name) for name in row[6].split("|")] for row in rows]
    assert names == [["a|b", "path"], [""], [""]]
    assert [parse_csv_cell(rows[0][0]), *rows[0][2:6], *rows[0][8:]] == [
        *("x\udcff.jpg", "0.5", "", "0.2", "1.03", "0.3", "0.5", "0.2"),
    ]
    assert rows[1] == ["y.jpg", "", "", "truncated JPEG", *[""] * 7]
    assert rows[2][7] == "damaged inside: x"


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_parquet_has_the_columns_of_csv_with_their_types(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: int
) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    monkeypatch.setattr(formats, "PARQUET_CELLS", 12 * rows)
    write("parquet", tmp_path / "a.parquet", WHOLE)
    table = parquet.read_table(tmp_path / "a.parquet")
    header = write("csv", tmp_path / "a.csv", WHOLE).splitlines()[0].replace("\\\\", "\\")
    assert table.column_names == [*header.split(","), "top"]
    first, second, third = table.to_pylist()
    scored = [{"label": "a|b", "score": 0.5}, {"label": "path", "score": 0.3}, {"label": "=h\\udcff", "score": 0.2}]
    assert first == {
        **{"path": "x\\udcff.jpg", "label": "a|b", "score": 0.5, "error": None, "margin": 0.2, "entropy": 1.03},
        **{"labels": ["a|b", "path"], "note": None, "probability:path": 0.3, "probability:a|b": 0.5},
        **{"probability:=h\\udcff": 0.2, "top": scored},
    }
    assert (second["error"], second["score"], second["labels"], second["top"]) == ("truncated JPEG", None, None, [])
    assert (third["label"], third["labels"], third["note"]) == (None, [], "damaged inside: x")


def test_parquet_without_records_still_has_its_columns(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    write("parquet", tmp_path / "a.parquet", Layout(), [])
    table = parquet.read_table(tmp_path / "a.parquet")
    assert (table.num_rows, table.column_names[:4]) == (0, ["path", "label", "score", "error"])


def test_json_has_the_probability_of_every_class(tmp_path: Path) -> None:
    first, second, _ = map(json.loads, write("jsonl", tmp_path / "a.jsonl", WHOLE).splitlines())
    assert first["probabilities"] == {"path": 0.3, "a|b": 0.5, "=h\udcff": 0.2}
    assert first["labels"] == ["a|b", "path"]
    assert "probabilities" not in second


@pytest.mark.parametrize("name", ["table", "markdown"])
def test_tables_show_margins_and_label_sets_only_on_request(tmp_path: Path, name: str) -> None:
    plain, whole = write(name, tmp_path / "a", Layout()), write(name, tmp_path / "b", WHOLE)
    assert "margin" not in plain
    assert "0.200" not in plain
    assert all(text in whole for text in ("margin", "0.200", "labels", ", path"))
