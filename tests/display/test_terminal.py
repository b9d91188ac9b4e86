"""Nothing from outside reaches a terminal raw, and every format is exact for the program that reads it."""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest
from command_line import CommandLine, Trained, make_photo
from hypothesis import given, settings
from hypothesis import strategies as st

from wisesr_cli.data.tables import check_grid, check_paths_grid
from wisesr_cli.display.grid import Column, Grid, decimal, percent, score_bar, to_csv, to_json, to_markdown
from wisesr_cli.display.terminal import FORMATS, LONG_TABLE, TerminalListener, show_grid, show_result
from wisesr_cli.errors import UsageError
from wisesr_cli.evaluation import tables
from wisesr_cli.prediction.output import Renderer
from wisesr_cli.results import CheckResult, Finding, Metrics, Prediction, ScoredLabel
from wisesr_cli.text import csv_cell, parse_csv_cell, visible

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
HIDDEN = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\u2028\u2029\ud800-\udfff]"
)


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def grid_of(*cells: str, rows: int = 1) -> Grid:
    return Grid("a title", tuple(Column(f"column {n}") for n in range(len(cells))), (cells,) * rows)


def drawn(grid: Grid, stream: io.StringIO | None = None, **options: int | None) -> str:
    stream = stream or io.StringIO()
    show_grid(grid, file=stream, **options)
    return stream.getvalue()


@pytest.mark.parametrize("name", EVIL)
@pytest.mark.parametrize("place", ["title", "header", "cell", "caption"])
def test_a_name_in_a_table_is_shown_as_it_is_with_escapes_and_without_raw_bytes(name: str, place: str) -> None:
    grid = {
        "title": Grid(name, (Column("x"),), (("y",),)),
        "header": Grid("t", (Column(name),), (("y",),)),
        "cell": Grid("t", (Column("x"),), ((name,),)),
        "caption": Grid("t", (Column("x"),), (("y",),), name),
    }[place]
    text = drawn(grid)
    assert EVIL[name] in text
    assert not HIDDEN.search(text)


@pytest.mark.parametrize("name", EVIL)
def test_a_name_on_a_terminal_brings_no_control_character(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    text = drawn(Grid(name, (Column(name),), ((name,),), name), Terminal())
    assert text.count("\x1b") > 0  # rich's own
    assert not HIDDEN.search(OWN_STYLE.sub("", text))
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


def test_a_long_message_is_not_wrapped_off_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
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


def test_a_table_is_not_wrapped_off_a_terminal() -> None:
    lines = drawn(grid_of("x" * 900, "y" * 900)).splitlines()
    assert sum("x" * 900 + "   " + "y" * 900 in line for line in lines) == 1


def test_a_long_cell_is_folded_and_never_cut_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    name = "".join(chr(97 + number % 26) for number in range(255))
    text = OWN_STYLE.sub("", drawn(grid_of(name), Terminal()))
    assert "".join(text.split()).endswith(name)
    assert max(map(len, text.splitlines())) <= 40


def test_a_long_table_is_shortened_to_its_ends() -> None:
    grid = Grid("", (Column("a"), Column("b")), tuple((f"<{number}>", "z") for number in range(100)))
    text = drawn(grid)
    assert "... 60 more ..." in text
    assert [number for number in range(100) if f"<{number}>" in text] == [*range(20), *range(80, 100)]
    whole = drawn(grid, limit=None)
    assert all(f"<{number}>" in whole for number in range(100))
    assert "more" not in whole
    just = Grid("", (Column("a"),), tuple((f"<{number}>",) for number in range(LONG_TABLE)))
    assert "more" not in drawn(just)


def test_verbose_shows_a_table_beside_the_data_whole(capsys: pytest.CaptureFixture[str]) -> None:
    grid = grid_of("a", rows=100)
    TerminalListener().grid(grid)
    assert "60 more" in capsys.readouterr().err
    TerminalListener(verbose=True).grid(grid)
    assert "more" not in capsys.readouterr().err


@pytest.mark.parametrize("name", [*EVIL, "a|b", "`code`", "*bold*", "_it_", "<b>x</b>", "# title", "back\\slash"])
def test_markdown_keeps_one_row_per_row_and_every_special_character_escaped(name: str) -> None:
    lines = to_markdown(grid_of(name, "end")).split("\n")
    assert len(lines) == 4
    assert lines[3] == ""
    assert lines[1] == "| --- | --- |"
    assert lines[2].endswith(" | end |")
    cell = lines[2].removeprefix("| ").removesuffix(" | end |")
    assert not re.search(r"(?<!\\)(?:\\\\)*[|*_`\[\]<>#]", cell)
    assert re.sub(r"\\([\\|*_`\[\]<>#])", r"\1", cell) == visible(name)


def test_markdown_puts_numbers_to_the_right() -> None:
    assert "| --- | ---: |" in to_markdown(Grid("", (Column("a"), Column("b", True)), (("1", "2"),)))


@pytest.mark.parametrize("formula", ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", "\rx", '=HYPERLINK("http://x")'])
def test_a_formula_in_csv_is_text(formula: str) -> None:
    rows = list(csv.reader(io.StringIO(to_csv(("a", "b"), [(formula, 1)]))))
    assert rows[0] == ["a", "b"]
    assert rows[1][0].startswith("'")
    assert not rows[1][0][1:].startswith(("\t", "\r"))
    assert parse_csv_cell(rows[1][0]) == formula


@pytest.mark.parametrize("name", EVIL)
def test_csv_is_one_printable_line_per_row(name: str) -> None:
    text = to_csv(("a",), [(name,), ("next",)])
    assert text.count("\n") == 3
    assert not HIDDEN.search(text)


def test_csv_numbers_are_exact_and_none_is_empty() -> None:
    assert to_csv(("a", "b", "c", "d"), [(0.1 + 0.2, None, -1.5, 3)]) == "a,b,c,d\n0.30000000000000004,,-1.5,3\n"


@settings(max_examples=300)
@given(st.text(st.characters()))
def test_any_text_comes_back_from_a_csv_cell(text: str) -> None:
    cell = csv_cell(text)
    assert parse_csv_cell(cell) == text
    assert not HIDDEN.search(cell)
    assert not cell.startswith(("=", "+", "-", "@"))


@settings(max_examples=300)
@given(st.text(st.characters()))
def test_any_text_is_made_visible(text: str) -> None:
    assert not HIDDEN.search(visible(text))
    assert "\n" not in visible(text)


@settings(max_examples=100)
@given(st.text(st.characters(), min_size=1))
def test_any_name_gives_one_line_of_json_that_gives_it_back(name: str) -> None:
    text = to_json({"label": name})
    assert text.isascii()
    assert "\n" not in text
    assert json.loads(text)["label"] == name


def test_json_refuses_what_is_not_finite() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        to_json({"value": float("nan")})


def test_values_that_are_not_defined_are_a_dash() -> None:
    assert (percent(None), decimal(None), score_bar(None)) == ("-", "-", "")
    assert (percent(0.9346), decimal(1.23456), score_bar(1.0), score_bar(0.0)) == ("93.5 %", "1.2346", "█" * 10, "")
    assert len(score_bar(0.55)) == 6


@pytest.mark.parametrize("chosen", ["table", *FORMATS])
def test_a_result_goes_to_standard_output_alone(chosen: str, capsys: pytest.CaptureFixture[str]) -> None:
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


@pytest.mark.parametrize("chosen", ["table", "json", "jsonl", "csv", "markdown"])
@pytest.mark.parametrize("count", [0, 1, 199, 200, 201, 450])
def test_predictions_are_streamed_whole_in_every_format(chosen: str, count: int) -> None:
    stream = io.StringIO()
    records = [
        Prediction(f"{n}\x1b.png", "=x", 0.5, (ScoredLabel("=x", 0.5), ScoredLabel("[b]", 0.25)))
        if n % 7
        else Prediction(f"{n}\x1b.png", None, None, (), "truncated")
        for n in range(count)
    ]
    renderer = Renderer(chosen, stream)
    for record in records:
        renderer.write(record)
    renderer.end()
    text = stream.getvalue()
    assert "\x1b" not in text
    if chosen == "json":
        assert json.loads(text) == [_plain(record) for record in records]
    elif chosen == "jsonl":
        assert [json.loads(line) for line in text.splitlines()] == [_plain(record) for record in records]
    elif chosen == "csv":
        header, *rows = csv.reader(io.StringIO(text))
        assert header == ["path", "label", "score", "error"]
        assert [parse_csv_cell(row[0]) for row in rows] == [record.path for record in records]
        assert {row[1] for row in rows} <= {"'=x", ""}
    elif chosen == "markdown" and count:
        lines = text.splitlines()
        assert len(lines) == count + 2
        assert sum(set(line) <= set("|-: ") for line in lines) == 1
    else:
        assert text.count("x1b.png") == count


def _plain(record: Prediction) -> dict[str, object]:
    return json.loads(json.dumps(record.to_json()))


def test_every_scalar_metric_has_a_row_in_the_table_and_in_the_csv() -> None:
    scalars = {field.name for field in fields(Metrics)} - {"classes", "per_class", "confusion_matrix"}
    undefined = dict.fromkeys(scalars - {"examples"})
    empty = Metrics(examples=0, classes=(), per_class=(), confusion_matrix=(), **undefined)
    assert {name for name, _ in tables.metrics_rows(empty)} == scalars
    assert len(tables.metrics_grid(empty, "t").rows) == len(scalars)
    assert "None" not in drawn(tables.metrics_grid(empty, "t"))


def test_every_finding_of_a_check_is_a_row_and_only_the_bad_ones_list_files() -> None:
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


ODD_CLASSES = ("[red]x[bold]", ":cat:", "esc\x1b[31m", "=1+1", "\u202eevil", "two\nlines", "x" * 255)


@pytest.fixture(scope="module")
def odd_run(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    from command_line import QUICK

    from wisesr_cli.cli.main import run

    folder = tmp_path_factory.mktemp("odd")
    photos = folder / "photos [red]\x1b[31m:cat:"
    for label, name in enumerate(ODD_CLASSES):
        for number in range(3):
            make_photo(photos / name / f"{number}\x1b[2J[b].png", label % 3, 10 * label + number)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISESR_CACHE_DIR", str(folder / "caches"))
        assert (
            run(["train", str(photos), *QUICK, "--epochs", "1", "-o", str(folder / "runs \x1b[1m"), "--name", "r"]) == 0
        )
    return Trained(folder / "runs \x1b[1m" / "r", photos)


@pytest.mark.parametrize("output", ["table", "json", "csv", "markdown"])
def test_odd_class_names_reach_no_terminal_raw_in_evaluate(wisesr: CommandLine, odd_run: Trained, output: str) -> None:
    answer = wisesr("evaluate", odd_run.run, "--format", output, "-v")
    assert answer.code == 0
    assert not HIDDEN.search(answer.out + answer.err)
    if output == "json":
        assert sorted(answer.data["classes"]) == sorted(ODD_CLASSES)
    if output == "table":
        assert "[red]x[bold]" in answer.out
        assert ":cat:" in answer.out
        assert r"esc\x1b[31m" in answer.out


@pytest.mark.parametrize("output", ["table", "json", "jsonl", "csv", "markdown"])
def test_odd_names_reach_no_terminal_raw_in_predict(wisesr: CommandLine, odd_run: Trained, output: str) -> None:
    answer = wisesr("predict", odd_run.run, odd_run.photos, "--format", output)
    assert answer.code == 0
    assert not HIDDEN.search(answer.out + answer.err)
    if output == "json":
        assert {row["label"] for row in answer.data} <= set(ODD_CLASSES)
        assert all(Path(row["path"]).is_file() for row in answer.data)


@pytest.mark.parametrize(
    "command",
    [
        "check PHOTOS",
        "check PHOTOS --format json",
        "train PHOTOS --dry-run",
        "init PHOTOS -o OUT",
        "config show PHOTOS",
        "check RUN",
    ],
)
def test_odd_names_reach_no_terminal_raw_in_other_commands(
    wisesr: CommandLine, odd_run: Trained, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    words = {"PHOTOS": odd_run.photos, "RUN": odd_run.run / "config.yaml", "OUT": tmp_path / "c\x1b[31m.yaml"}
    more = ["--backbone", "compact_small", "--image-size", "32"] if command.startswith("train") else []
    answer = wisesr(*(words.get(word, word) for word in command.split()), *more)
    assert answer.code in {0, 3}
    assert not HIDDEN.search(answer.out + answer.err)


def test_an_error_about_an_odd_name_is_one_visible_line(wisesr: CommandLine) -> None:
    answer = wisesr("train", "no\x1b[31m\nsuch\u202e")
    assert answer.code == 3
    assert r"no\x1b[31m\nsuch\u202e" in answer.error
    assert not HIDDEN.search(answer.err)


def test_every_file_of_an_evaluation_of_odd_names_is_printable(wisesr: CommandLine, odd_run: Trained) -> None:
    assert wisesr("evaluate", odd_run.run).code == 0
    for path in (odd_run.run / "evaluate-validation").iterdir():
        text = path.read_text(encoding="utf-8")
        assert not HIDDEN.search(text), path
        if path.suffix == ".csv":
            rows = list(csv.reader(io.StringIO(text)))
            assert len({len(row) for row in rows}) == 1
            assert not [cell for row in rows for cell in row if cell.startswith(("=", "@"))], path


def test_a_gate_with_escapes_is_refused_without_them() -> None:
    from wisesr_cli.evaluation.gates import parse_gate

    with pytest.raises(UsageError, match=re.escape(r"x\x1b[31m")):
        parse_gate("x\x1b[31m=1")


def test_off_a_terminal_progress_is_a_line_now_and_then(capsys: pytest.CaptureFixture[str]) -> None:
    clock = iter([0.0, 1.0, 12.0, 13.0, 30.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wisesr_cli.display.terminal.time.monotonic", lambda: next(clock))
        with TerminalListener().progress("reading", 40) as progress:
            for _ in range(4):
                progress.advance(5)
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["reading: 10 of 40, about 36 s left", "reading: 20 of 40, about 30 s left"]
