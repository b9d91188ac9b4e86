"""What goes to which standard stream, and how closed, full, unread and ASCII-only streams are handled."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TextIO

import pytest
from command_line import SMALL, Answer, CommandLine, Trained, fresh, make_photo, make_photos
from reliability import Seen

from wisesr_cli.cli.main import run

DISK_FULL = "wisesr: the disk is full; free some space, then repeat the command (train and predict -o: with --resume)\n"


pytestmark = pytest.mark.usefixtures("empty_folder")


CHEAP = (["config", "show"], ["--help"], ["config", "schema"], ["check", "photos", "--format", "json", "-q"])


def broken_stream(broken: str) -> TextIO:
    """Return a stream to a full disk or to a pipe without a reader."""
    if broken == "full":
        return Path("/dev/full").open("w", encoding="utf-8")
    read_end, write_end = os.pipe()
    os.close(read_end)
    return os.fdopen(write_end, "w", encoding="utf-8")


@pytest.mark.reliability(43)
@pytest.mark.parametrize("line", CHEAP, ids=" ".join)
@pytest.mark.parametrize(("broken", "code", "said"), [("full", 5, DISK_FULL), ("pipe", 141, "")])
def test_output_to_a_broken_stream_exits_with_5_or_141(
    line: list[str], broken: str, code: int, said: str, tmp_path: Path
) -> None:
    make_photos(tmp_path / "photos", 3)
    with broken_stream(broken) as stream:
        answer = fresh(*line, cwd=tmp_path, stdout=stream)
    assert (answer.code, answer.err) == (code, said)


PRINTING = (
    *(f"predict RUN PHOTOS --format {name}" for name in ("table", "json", "jsonl", "csv", "markdown")),
    *(f"evaluate RUN --format {name}" for name in ("table", "json", "csv", "markdown")),
    *(f"explain RUN PHOTOS -o out --pictures 2 --format {name}" for name in ("table", "csv")),
    *("summarize --backbone compact_small --head gap", "check PHOTOS", "doctor --format json"),
)


@pytest.mark.reliability(43)
@pytest.mark.parametrize("command", PRINTING)
@pytest.mark.parametrize("broken", ["full", "pipe"])
def test_results_to_a_broken_stream_exit_with_5_or_141(
    command: str,
    broken: str,
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seen: Seen,
) -> None:
    words = {"RUN": str(trained.run), "PHOTOS": str(trained.photos / "train")}
    stream = broken_stream(broken)
    monkeypatch.setattr(sys, "stdout", stream)
    code = run([*(words.get(word, word) for word in command.split()), "-q"])
    monkeypatch.undo()
    stream.close()
    assert (code, capsys.readouterr().err) == ((5, DISK_FULL) if broken == "full" else (141, ""))
    assert {path.suffix for path in Path().glob("out/*")} <= {".png"}
    seen(f"{len(PRINTING)} commands: {'/dev/full' if broken == 'full' else 'closed pipe'}: exit {code}")


def test_an_ascii_only_terminal_gets_escapes_instead_of_a_crash(tmp_path: Path) -> None:
    make_photos(tmp_path / "猫", 3)
    answer = fresh("check", tmp_path / "猫", cwd=tmp_path, variables={"PYTHONIOENCODING": "ascii", "LC_ALL": "C"})
    assert answer.code == 0, answer.err
    assert "\\u732b" in answer.out
    assert answer.out.isascii()


CLOSED = ("<&-", ">&-", "2>&-", "<&- >&- 2>&-")


def with_closed(closed: str, *arguments: object, folder: Path) -> Answer:
    """Run a command line in a fresh process with some standard streams closed."""
    script = f'exec "$0" -m wisesr_cli "$@" {closed}'
    return fresh(*arguments, cwd=folder, executable="sh", program=("-c", script, sys.executable))


@pytest.mark.parametrize("closed", CLOSED)
@pytest.mark.parametrize("line", [["--version"], ["config", "schema"]], ids=" ".join)
def test_closed_standard_streams_are_handled_and_lost_output_exits_with_5(
    line: list[str], closed: str, tmp_path: Path
) -> None:
    answer = with_closed(closed, *line, folder=tmp_path)
    is_lost = " >&-" in f" {closed}"
    said = "wisesr: standard output is closed: output is lost\n"
    assert (answer.code, answer.err) == (5 if is_lost else 0, said if closed == ">&-" else "")
    assert (answer.out == "") == is_lost


@pytest.mark.parametrize("closed", ["<&-", "2>&-", "<&- >&- 2>&-"])
def test_predict_with_closed_streams_gives_the_same_labels_and_no_other_files(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, closed: str
) -> None:
    line = ("predict", trained.run, trained.photos / "test", "--format", "jsonl", "-o")
    assert wisesr(*line, tmp_path / "expected").code == 0
    answer = with_closed(closed, *line, tmp_path / "out", folder=tmp_path)
    assert answer.code == 0, answer.err
    assert answer.out == ""
    records, expected = (
        [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        for name in ("out", "expected")
    )
    assert [record["label"] for record in records] == [record["label"] for record in expected]
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["expected", "out"]


@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-"])
def test_reading_paths_from_a_closed_standard_input_exits_with_3(trained: Trained, tmp_path: Path, closed: str) -> None:
    answer = with_closed(closed, "predict", trained.run, "-", folder=tmp_path)
    assert answer.code == 3
    if closed == "<&-":
        assert "standard input: cannot be read: it is closed" in answer.error


def test_tables_are_data_and_go_to_standard_output(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr("evaluate", trained.run)
    assert "top-1 accuracy" in answer.out
    assert "top-1 accuracy" not in answer.err
    assert "written to" in answer.err
    assert "written to" not in answer.out


def test_quiet_leaves_standard_error_empty(wisesr: CommandLine, trained: Trained, photos: Path) -> None:
    for line in (
        ["evaluate", trained.run, "-q"],
        ["predict", trained.run, photos, "-q"],
        ["check", photos, "-q"],
        ["summarize", "--backbone", "compact_small", "--head", "gap", "-q"],
        ["init", photos, "-q"],
    ):
        answer = wisesr(*line)
        assert (answer.code, [line for line in answer.err.splitlines() if "retracing" not in line]) == (0, []), line


def test_verbose_shows_a_long_table_in_full(wisesr: CommandLine, tmp_path: Path) -> None:
    for number in range(60):
        make_photo(tmp_path / "many" / f"class {number:02}" / "a.png", number % 3, number)
    line = ("train", tmp_path / "many", *SMALL, "--dry-run", "-s", "data.validation_split=0", "-o", tmp_path / "runs")
    short, whole = wisesr(*line), wisesr(*line, "-v")
    assert (short.code, whole.code) == (0, 0)
    assert "class 30" not in short.err
    assert "more ..." in short.err
    assert all(f"class {number:02}" in whole.err for number in range(60))
