from __future__ import annotations

import csv
import io
import json
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wisesr_cli.errors import MachineError, RunError, UsageError
from wisesr_cli.prediction.output import FileOutput, JournalHeader, Renderer, open_output
from wisesr_cli.requests import PredictRequest
from wisesr_cli.results.streams import Prediction, ScoredLabel
from wisesr_cli.text import parse_csv_cell

FORMATS = ["table", "json", "jsonl", "csv", "markdown"]
HEADER = JournalHeader("ab" * 32, {"top_k": 5, "min_score": 0.0})
ODD = ("=1+1", "a\nb", "[/red]", ":cat:", "\x1b[31m", "\udcff", "a|b*", "\u202e", '","')


def opened(output_format: str, path: Path | str | None, **options: Any) -> FileOutput | None:
    """Return the output of a request, with `HEADER` for its journal."""
    output = None if path is None else str(path)
    request = PredictRequest("run", output=output, output_format=output_format, **options)  # type: ignore[arg-type]
    return open_output(request, lambda: HEADER)


def predictions(count: int) -> list[Prediction]:
    records = []
    for number in range(count):
        path = f"{number:04}-{ODD[number % len(ODD)]}.png"
        if number % 7 == 3:
            records.append(Prediction(path, None, None, (), "truncated JPEG"))
        else:
            top = (ScoredLabel("dre|ss", 1 / (number + 1.5)), ScoredLabel("[b]h\udcffat", 0.1 + 0.2))
            records.append(
                Prediction(path, top[0].label if number % 5 else None, top[0].score, top, margin=0.3, entropy=1.1)
            )
    return records


def render(name: str, records: Iterable[Prediction]) -> str:
    stream = io.StringIO()
    renderer = Renderer(name, stream)
    for record in records:
        renderer.write(record)
    renderer.end()
    return stream.getvalue()


class Killed(BaseException):
    pass


def write_file(
    chosen: str, path: Path, records: list[Prediction], *, stop_before: int | None = None, **options: bool
) -> int:
    """Write predictions as the command does; return how many were computed rather than found in the journal."""
    output = opened(chosen, path, **options)
    assert output is not None
    by_path = {record.path: record for record in records}
    computed = 0
    with output:
        for name in output.skip_done(record.path for record in records):
            if computed == stop_before:
                raise Killed
            output.write(by_path[name])
            computed += 1
        if computed == stop_before:
            raise Killed
        output.finish()
    assert output.tally.records == len(records)
    assert output.tally.unreadable == sum(record.error is not None for record in records)
    return computed


@pytest.mark.parametrize("count", [0, 1, 2, 450])
def test_jsonl_is_one_exact_record_per_line_and_json_an_array_of_them(count: int) -> None:
    records = predictions(count)
    lines = render("jsonl", records).splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "path": record.path,
            "label": record.label,
            "score": record.score,
            "top": [{"label": top.label, "score": top.score} for top in record.top],
            "error": record.error,
            "margin": record.margin,
            "entropy": record.entropy,
        }
        for record in records
    ]
    assert all(line.isascii() for line in lines)
    assert json.loads(render("json", records)) == [json.loads(line) for line in lines]


def test_csv_has_a_safe_line_per_record_that_reads_back() -> None:
    records = predictions(30)
    text = render("csv", records)
    assert len(text.splitlines()) == 31
    header, *rows = csv.reader(io.StringIO(text))
    assert header == ["path", "label", "score", "error", "margin", "entropy", "note"]
    for row, record in zip(rows, records, strict=True):
        score, *more = ("" if n is None else repr(n) for n in (record.score, record.margin, record.entropy))
        expected = [record.path, record.label or "", score, record.error or "", *more, ""]
        assert [parse_csv_cell(cell) for cell in row] == expected
    assert not any(cell.startswith(("=", "+", "-", "@", "\t")) for row in rows for cell in row)


@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 400, 450])
def test_markdown_is_one_table_for_any_number_of_records(count: int) -> None:
    lines = render("markdown", predictions(count)).splitlines()
    assert len(lines) == (count + 2 if count else 0)
    assert sum(line.startswith("| ---") for line in lines) == (1 if count else 0)
    assert [line.split(" ")[1][:4] for line in lines[2:]] == [f"{number:04}" for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 200, 401])
def test_a_table_shows_every_record_on_one_line_without_a_control_character(count: int) -> None:
    text = render("table", predictions(count))
    assert [f"{number:04}-" in text for number in range(count)] == [True] * count
    assert all(character == "\n" or character.isprintable() for character in text)
    assert all(sum(f"{number:04}-" in line for line in text.splitlines()) == 1 for number in range(count))


@pytest.mark.parametrize("count", [0, 1, 19, 20, 21, 39, 40, 41, 42, 450])
def test_a_long_table_shows_the_first_and_last_records_and_the_number_hidden(count: int) -> None:
    stream = io.StringIO()
    renderer = Renderer("table", stream, limit=40)
    for record in predictions(count):
        renderer.write(record)
    renderer.end()
    shown = [int(number) for number in re.findall(r"^ *(\d{4})-", stream.getvalue(), re.MULTILINE)]
    assert shown == [number for number in range(count) if count <= 40 or number < 20 or number >= count - 20]
    assert renderer.hidden == count - len(shown)
    assert (f"... {renderer.hidden:,} more ..." in stream.getvalue()) is (count > 40)


@pytest.mark.parametrize("chosen", ["json", "jsonl", "csv", "markdown"])
def test_machine_readable_formats_are_never_shortened(chosen: str) -> None:
    stream = io.StringIO()
    renderer = Renderer(chosen, stream, limit=40)
    for record in predictions(100):
        renderer.write(record)
    renderer.end()
    assert (stream.getvalue(), renderer.hidden) == (render(chosen, predictions(100)), 0)


@pytest.mark.parametrize("chosen", FORMATS)
def test_a_file_equals_the_stream_output_and_its_journal_is_removed(tmp_path: Path, chosen: str) -> None:
    records = predictions(450)
    write_file(chosen, tmp_path / "out", records)
    assert (tmp_path / "out").read_text(encoding="utf-8") == render(chosen, records)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("chosen", FORMATS)
@pytest.mark.parametrize("stop_before", [0, 1, 199, 200, 201, 449, 450])
def test_an_output_resumed_after_a_kill_is_byte_identical(tmp_path: Path, chosen: str, stop_before: int) -> None:
    records = predictions(450)
    path = tmp_path / "out"
    with pytest.raises(Killed):
        write_file(chosen, path, records, stop_before=stop_before)
    assert not path.exists()
    assert write_file(chosen, path, records, resume=True) == 450 - stop_before
    assert path.read_text(encoding="utf-8") == render(chosen, records)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_output_resumed_twice_from_any_truncated_journal_is_identical(tmp_path: Path) -> None:
    records, path = predictions(12), tmp_path / "out"
    journal = tmp_path / "out.partial"
    with pytest.raises(Killed):
        write_file("jsonl", path, records, stop_before=9)
    content = journal.read_bytes()
    for length in range(1, len(content), 17):
        journal.write_bytes(content[:length])
        with pytest.raises(Killed):
            write_file("jsonl", path, records, stop_before=1, resume=True)
        write_file("jsonl", path, records, resume=True)
        assert path.read_text(encoding="utf-8") == render("jsonl", records), length
        path.unlink()


def test_resume_after_a_kill_between_rename_and_cleanup_gives_the_same_file(tmp_path: Path) -> None:
    records, path = predictions(5), tmp_path / "out"
    with pytest.raises(Killed):
        write_file("csv", path, records, stop_before=5)
    path.write_text(render("csv", records), encoding="utf-8")
    assert write_file("csv", path, records, resume=True) == 0
    assert path.read_text(encoding="utf-8") == render("csv", records)
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("change", ["reordered", "fewer", "renamed", "none"])
def test_resume_rejects_changed_inputs(tmp_path: Path, change: str) -> None:
    records, path = predictions(6), tmp_path / "out"
    with pytest.raises(Killed):
        write_file("jsonl", path, records, stop_before=4)
    other = {"reordered": records[::-1], "fewer": records[:3], "renamed": [predictions(9)[8], *records[1:]], "none": []}
    line = {"reordered": 3, "fewer": 6, "renamed": 3, "none": 3}[change]
    with pytest.raises(RunError, match=rf"out\.partial:{line}: the inputs have changed"):
        write_file("jsonl", path, other[change], resume=True)
    assert not path.exists()
    assert write_file("jsonl", path, records, resume=True) == 2


def test_an_output_without_a_record_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        write_file("jsonl", tmp_path / "out", predictions(3), stop_before=0)
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_process_killed_while_rendering_are_removed(tmp_path: Path) -> None:
    output = opened("csv", tmp_path / "out")
    (tmp_path / f"{output._rendering}0123").write_text("half", encoding="utf-8")  # type: ignore[union-attr]
    write_file("csv", tmp_path / "out", predictions(3))
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


@pytest.mark.reliability(48)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_a_link_created_by_another_user_is_not_followed(tmp_path: Path) -> None:
    victim, link = tmp_path / "victim", tmp_path / "out"
    victim.write_text("mine", encoding="utf-8")
    link.symlink_to(victim)
    os.chown(link, 65534, 65534, follow_symlinks=False)
    with pytest.raises(UsageError, match="out: is a link that another user made"):
        opened("csv", link, overwrite=True)
    assert victim.read_text(encoding="utf-8") == "mine"


@pytest.mark.reliability(48)
def test_a_journal_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("", encoding="utf-8")
    (tmp_path / "out.partial").symlink_to(victim)
    with pytest.raises(MachineError, match=r"out\.partial"):
        write_file("csv", tmp_path / "out", predictions(3))
    assert victim.read_text(encoding="utf-8") == ""


def test_the_journal_is_skipped_as_an_input_and_the_output_is_rejected(tmp_path: Path) -> None:
    other = tmp_path / "sub" / "out"
    other.parent.mkdir()
    other.touch()
    with FileOutput("csv", tmp_path / "out", HEADER) as output:
        typed = [str(tmp_path / "sub" / ".." / "out.partial"), "out.partial", str(other), str(tmp_path / "out")]
        assert list(output.without_own_files(typed)) == typed[1:]
        (tmp_path / "out").touch()
        with pytest.raises(UsageError, match="out: is both an input and the output"):
            list(output.without_own_files(typed))


def test_an_impossible_output_is_rejected_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is a folder"):
        opened("jsonl", tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        opened("jsonl", tmp_path / "gone" / "out")
    with pytest.raises(UsageError, match="exclude each other"):
        opened("jsonl", tmp_path / "out", overwrite=True, resume=True)
    for options in ({"overwrite": True}, {"resume": True}):
        with pytest.raises(UsageError, match="need -o FILE"):
            opened("jsonl", None, **options)
    assert list(tmp_path.iterdir()) == []


ANY_TEXT = st.text(st.characters() | st.characters(categories=["Cs", "Cc", "Cf"]), max_size=8)
SCORES = st.floats(0, 1)
RECORDS = st.builds(
    Prediction, ANY_TEXT, st.none() | ANY_TEXT, SCORES, st.lists(st.builds(ScoredLabel, ANY_TEXT, SCORES)).map(tuple)
) | st.builds(Prediction, ANY_TEXT, st.none(), st.none(), st.just(()), ANY_TEXT)


@given(st.lists(RECORDS, max_size=4))
def test_every_format_stays_valid_for_any_names(records: list[Prediction]) -> None:
    expected = [json.loads(json.dumps(record.to_json())) for record in records]
    assert json.loads(render("json", records)) == expected
    assert [json.loads(line) for line in render("jsonl", records).splitlines()] == expected
    rows = list(csv.reader(io.StringIO(render("csv", records))))[1:]
    assert [parse_csv_cell(row[0]) for row in rows] == [record.path for record in records]
    assert len(render("markdown", records).splitlines()) == (len(records) + 2 if records else 0)
    render("table", records).encode("utf-8")


def test_an_output_that_is_not_a_regular_file_is_rejected_and_kept(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UsageError, match="not a regular file"):
        opened("jsonl", tmp_path / "pipe", overwrite=True)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_link_is_kept_and_its_target_is_written(tmp_path: Path) -> None:
    target, link = tmp_path / "target.jsonl", tmp_path / "link.jsonl"
    target.write_text("old\n", encoding="utf-8")
    link.symlink_to(target)
    write_file("jsonl", link, predictions(2), overwrite=True)
    assert link.is_symlink()
    assert target.read_text(encoding="utf-8") == render("jsonl", predictions(2))


def test_open_output_without_a_file_returns_none_and_hashes_nothing() -> None:
    def hashed() -> JournalHeader:
        raise AssertionError("the model was hashed")

    assert open_output(PredictRequest("run"), hashed) is None
