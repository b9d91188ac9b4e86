"""External text never reaches a terminal raw, and every format is exact for the program that reads it."""

from __future__ import annotations

import io
import json
import re
from dataclasses import fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from odd_names import RAW

from wisesr_cli.confusion import Confusion
from wisesr_cli.data.tables import check_grid, check_paths_grid
from wisesr_cli.display.grid import Column, Grid, decimal, percent, score_bar, to_csv, to_json, to_markdown
from wisesr_cli.display.terminal import FORMATS, LONG_TABLE, TerminalListener, show_grid, show_result
from wisesr_cli.evaluation import tables
from wisesr_cli.results.evaluation import Metrics
from wisesr_cli.results.images import CheckResult, Finding
from wisesr_cli.text import visible

EVIL = {
    "[red]x[/red]": "[red]x[/red]",
    "[link=http://x]y[/link]": "[link=http://x]y[/link]",
    ":cat:": ":cat:",
    "esc\x1b[31mred": r"esc\x1b[31mred",
    "title\x1b]0;owned\x07": r"title\x1b]0;owned\x07",
    "\x9b31m": r"\x9b31m",
    "clear\x1b[2J": r"clear\x1b[2J",
    "two\nlines\r": r"two\nlines\r",
    "tab\there": r"tab\there",
    "\u202eevil": r"\u202eevil",
    "zero\u200bwidth": r"zero\u200bwidth",
    "\udcff": r"\udcff",
    "\u2028": r"\u2028",
    "nul\0": r"nul\x00",
    "猫": "猫",
}
OWN_STYLE = re.compile(r"\x1b\[[0-9;]*m")


class Terminal(io.StringIO):
    """A stream that claims to be a terminal."""

    def isatty(self) -> bool:
        return True


def grid_of(*cells: str, rows: int = 1) -> Grid:
    return Grid("a title", tuple(Column(f"column {n}") for n in range(len(cells))), (cells,) * rows)


def drawn(grid: Grid, stream: io.StringIO | None = None, **options: int | None) -> str:
    stream = stream or io.StringIO()
    show_grid(grid, file=stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize(("encoding", "expected"), [("utf-8", "███▌"), ("latin-1", "###"), ("ascii", "###")])
def test_bars_use_only_characters_that_the_stream_can_encode(encoding: str, expected: str) -> None:
    stream = io.TextIOWrapper(content := io.BytesIO(), encoding=encoding, errors="backslashreplace")
    show_grid(Grid("", (Column("bar"),), (("███▌",), ("██▊",), ("",))), file=stream)
    stream.flush()
    lines = content.getvalue().decode(encoding).splitlines()
    assert any(expected in line for line in lines)
    assert not any("u258" in line for line in lines)


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("place", ["title", "header", "cell", "caption"])
def test_a_name_in_a_table_is_shown_literally_with_control_characters_escaped(name: str, place: str) -> None:
    grid = {
        "title": Grid(name, (Column("x"),), (("y",),)),
        "header": Grid("t", (Column(name),), (("y",),)),
        "cell": Grid("t", (Column("x"),), ((name,),)),
        "caption": Grid("t", (Column("x"),), (("y",),), name),
    }[place]
    text = drawn(grid)
    assert EVIL[name] in text
    assert not RAW.search(text)


@pytest.mark.parametrize("name", EVIL)
def test_a_name_adds_no_control_character_on_a_terminal(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    text = drawn(Grid(name, (Column(name),), ((name,),), name), Terminal())
    assert text.count("\x1b") > 0  # Rich's own styles
    assert not RAW.search(OWN_STYLE.sub("", text))
    assert OWN_STYLE.sub("", text).count(EVIL[name]) == 4
    if name == "esc\x1b[31mred":
        assert "\x1b[31m" not in text


@pytest.mark.parametrize("name", EVIL)
def test_notes_and_warnings_are_one_line_each_on_standard_error(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    listener = TerminalListener()
    listener.note(name)
    listener.warn(name)
    with listener.progress(name, 2) as progress:
        progress.advance()
        progress.describe(name)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"{EVIL[name]}\nwarning: {EVIL[name]}\n"


def test_a_long_message_is_not_wrapped_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    listener = TerminalListener()
    listener.warn("word " * 5_000)
    assert capsys.readouterr().err.count("\n") == 1


def test_quiet_keeps_warnings_and_drops_notes_and_tables(capsys: pytest.CaptureFixture[str]) -> None:
    listener = TerminalListener(quiet=True)
    listener.note("a note")
    listener.grid(grid_of("a", "b"))
    listener.warn("look here")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "warning: look here\n")


def test_a_table_is_not_wrapped_without_a_terminal() -> None:
    lines = drawn(grid_of("x" * 900, "y" * 900)).splitlines()
    assert sum("x" * 900 + "   " + "y" * 900 in line for line in lines) == 1


def test_a_long_cell_is_wrapped_and_never_truncated_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "".join(chr(97 + number % 26) for number in range(255))
    text = OWN_STYLE.sub("", drawn(grid_of(name), Terminal()))
    assert "".join(text.split()).endswith(name)
    assert max(map(len, text.splitlines())) <= 40


def test_a_long_table_is_shortened_to_its_first_and_last_rows() -> None:
    grid = Grid("", (Column("a"), Column("b")), tuple((f"<{number}>", "z") for number in range(100)))
    text = drawn(grid)
    assert "... 60 more ..." in text
    assert [number for number in range(100) if f"<{number}>" in text] == [*range(20), *range(80, 100)]
    whole = drawn(grid, limit=None)
    assert all(f"<{number}>" in whole for number in range(100))
    assert "more" not in whole
    just = Grid("", (Column("a"),), tuple((f"<{number}>",) for number in range(LONG_TABLE)))
    assert "more" not in drawn(just)


def test_verbose_shows_long_tables_on_standard_error_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    grid = grid_of("a", rows=100)
    TerminalListener().grid(grid)
    assert "60 more" in capsys.readouterr().err
    TerminalListener(verbose=True).grid(grid)
    assert "more" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [*EVIL, "a|b", "`code`", "*bold*", "_it_", "<b>x</b>", "# title", "back\\slash"])
def test_markdown_has_one_line_per_row_and_escapes_special_characters(name: str) -> None:
    lines = to_markdown(grid_of(name, "end")).split("\n")
    assert len(lines) == 4
    assert lines[3] == ""
    assert lines[1] == "| --- | --- |"
    assert lines[2].endswith(" | end |")
    cell = lines[2].removeprefix("| ").removesuffix(" | end |")
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*_`\[\]<>#]", cell)
    assert re.sub(r"\\([\\|*_`\[\]<>#])", r"\1", cell) == visible(name)


def test_markdown_aligns_numbers_to_the_right() -> None:
    assert "| --- | ---: |" in to_markdown(Grid("", (Column("a"), Column("b", True)), (("1", "2"),)))


def test_csv_numbers_are_exact_and_none_becomes_an_empty_cell() -> None:
    assert to_csv(("a", "b", "c", "d"), [(0.1 + 0.2, None, -1.5, 3)]) == "a,b,c,d\n0.30000000000000004,,-1.5,3\n"


@settings(max_examples=100)
@given(st.text(st.characters(), min_size=1))
def test_any_name_round_trips_through_one_line_of_json(name: str) -> None:
    text = to_json({"label": name})
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text)["label"] == name


def test_json_rejects_non_finite_numbers() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"value": float("nan")})


def test_undefined_values_are_shown_as_a_dash() -> None:
    assert (percent(None), decimal(None), score_bar(None)) == ("-", "-", "")
    assert (percent(0.9346), decimal(1.23456), score_bar(1.0), score_bar(0.0)) == ("93.5 %", "1.2346", "█" * 10, "")
    assert len(score_bar(0.55)) == 6


@pytest.mark.parametrize("chosen", ["table", *FORMATS])
def test_a_result_is_written_only_to_standard_output(chosen: str, capsys: pytest.CaptureFixture[str]) -> None:
    show_result(chosen, grids=[grid_of("a"), grid_of("second")], header=("h",), rows=[("a",)], value={"k": "a"})
    captured = capsys.readouterr()
    assert captured.err == ""
    assert captured.out.endswith("\n")
    if chosen == "json":
        assert captured.out == '{"k": "a"}\n'
    if chosen == "csv":
        assert captured.out == "h\na\n"
    if chosen == "table":
        assert "second" in captured.out


def test_every_scalar_metric_has_a_row_in_the_table_and_in_the_csv() -> None:
    scalars = {field.name for field in fields(Metrics)} - {
        "classes",
        "per_class",
        "confusion",
        "interval",
        "verdict",
        "coverage",
    }
    undefined = dict.fromkeys(scalars - {"examples", "temperature"})
    empty = Metrics(examples=0, temperature=2.0, classes=(), per_class=(), confusion=Confusion(0, ()), **undefined)
    assert {name for name, _ in tables.metrics_rows(empty)} == scalars
    assert len(tables.metrics_grid(empty, "t").rows) == len(scalars)
    assert "None" not in drawn(tables.metrics_grid(empty, "t"))


def test_every_finding_of_a_check_is_a_row_and_only_bad_ones_list_files() -> None:
    result = CheckResult(
        (
            Finding("pass", "good", "fine", 1, ("a.png",)),
            Finding("warn", "odd", "[b]look[/b]", 9, tuple(f"b{n}.png" for n in range(9))),
            Finding("fail", "bad", "broken", 1, ("c\x1b.png",)),
        )
    )
    assert [row[0] for row in check_grid(result).rows] == ["PASS", "WARN", "FAIL"]
    assert len(check_paths_grid(result, limit=5).rows) == 6
    assert len(check_paths_grid(result, limit=None).rows) == 10
    assert result.status == "fail"


def test_progress_without_a_terminal_is_an_occasional_line(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 12.0, 13.0, 30.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wisesr_cli.display.terminal.time.monotonic", lambda: next(clock))
        with TerminalListener().progress("reading", 40) as progress:
            for _ in range(4):
                progress.advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["reading: 10 of 40, about 36 s left", "reading: 20 of 40, about 30 s left"]


def test_progress_without_a_terminal_is_shown_before_the_first_step(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 11.0, 22.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wisesr_cli.display.terminal.time.monotonic", lambda: next(clock))
        with TerminalListener().progress("reading", 4) as progress:
            progress.advance(0)
            progress.advance(1)
    assert capsys.readouterr().err.splitlines() == ["reading: 0 of 4", "reading: 1 of 4, about 66 s left"]
