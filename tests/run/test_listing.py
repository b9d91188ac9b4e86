"""`wisesr runs` shows what is there, damaged or not, and `latest` is the newest of it."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import CommandLine, Trained
from run_states import make_run

from wisesr_cli import api
from wisesr_cli.errors import RunError
from wisesr_cli.machine.locks import locked
from wisesr_cli.run.listing import is_run, resolved, runs_in
from wisesr_cli.run.located import load_training, locate

pytestmark = pytest.mark.usefixtures("empty_folder")


def heard() -> tuple[list[str], Callable[[str], None]]:
    notes: list[str] = []
    return notes, notes.append


def test_a_finished_run_is_a_row_with_what_its_files_say(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    (row,) = api.list_runs()
    assert (row.name, row.path, row.status, row.problem) == ("tiny", "runs/tiny", "finished", None)
    assert (row.data, row.head, row.backbone) == (str(trained.photos), "wise", "compact_small")
    assert (row.epochs, row.planned_epochs) == (2, 2)
    assert row.top1_accuracy == json.loads((run / "metrics.json").read_text(encoding="utf-8"))["top1_accuracy"]
    assert row.changed.startswith("20")


def test_the_size_is_that_of_all_files(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    (run / "notes").mkdir()
    (run / "notes" / "mine.txt").write_bytes(b"x" * 12345)
    found = subprocess.run(["find", run, "-type", "f", "-printf", "%s\n"], capture_output=True, text=True, check=True)
    assert api.list_runs()[0].bytes == sum(map(int, found.stdout.split()))


def test_the_newest_comes_first_and_what_is_no_run_is_passed_over(tmp_path: Path) -> None:
    for name, age in (("older", 10), ("newest", 0), ("oldest", 20)):
        make_run(tmp_path / "runs" / name, age=age)
    others = tmp_path / "runs"
    (others / "a file").write_text("x", encoding="utf-8")
    (others / "empty").mkdir()
    for name, file in (("app", "config.yaml"), ("site", "classes.json"), ("keras", "best.keras")):
        (others / name).mkdir()
        (others / name / file).write_text("a: 1\n", encoding="utf-8")  # one such file may be anybody's
    make_run(others / ".hidden")
    (others / "gone").symlink_to("nowhere")
    (others / "circle").symlink_to("circle")
    assert [path.name for path in runs_in(others)] == ["newest", "older", "oldest"]
    assert [row.status for row in api.list_runs()] == ["unfinished"] * 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "model: {head: {name: wize}}\n"),
        ("config.yaml", None),
        ("classes.json", "{"),
        ("classes.json", None),
        ("metrics.json", "[]"),
        ("best.keras", "no archive"),
        ("best.keras", None),
        ("state/*/progress.json", "{}"),
        ("state/*/progress.json", None),
    ],
)
def test_a_damaged_run_is_shown_as_one_with_the_file(
    trained: Trained, tmp_path: Path, wisesr: CommandLine, name: str, content: str | None
) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    make_run(tmp_path / "runs" / "whole")
    (path,) = run.glob(name)
    path.unlink() if content is None else path.write_text(content, encoding="utf-8")
    answer = wisesr("runs", "--format", "json").worked()
    status = {row["name"]: row["status"] for row in answer.data["rows"]}
    assert status == {"tiny": "damaged", "whole": "unfinished"}
    assert path.name in next(row["problem"] for row in answer.data["rows"] if row["name"] == "tiny")
    assert answer.said("warning: tiny: ")


def test_a_run_that_is_trained_just_now_says_so(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    with locked(run / ".lock"):
        assert api.list_runs()[0].status == "training"
    assert api.list_runs()[0].status == "finished"


def test_a_run_that_stopped_early_is_unfinished(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    (progress,) = run.glob("state/*/progress.json")
    values = json.loads(progress.read_text(encoding="utf-8"))
    values["progress"] |= {"planned_epochs": 7, "finished": False}
    progress.write_text(json.dumps(values), encoding="utf-8")
    (run / "metrics.json").unlink()  # written when a training ends
    (row,) = api.list_runs()
    assert (row.status, row.epochs, row.planned_epochs) == ("unfinished", 2, 7)
    assert row.top1_accuracy == max(epoch["val_top1_accuracy"] for epoch in values["progress"]["history"])


def test_every_format_has_a_row_per_run_and_the_folder_may_be_named(
    trained: Trained, tmp_path: Path, wisesr: CommandLine
) -> None:
    trained.copy_to(tmp_path / "mine" / "first")
    make_run(tmp_path / "mine" / "=1+1")
    table = wisesr("runs", "mine").worked().out
    assert "finished" in table
    assert "100.0 %" in table
    assert wisesr("runs", "list", "mine").worked().out == table
    rows = list(csv.DictReader(io.StringIO(wisesr("runs", "mine", "--format", "csv").worked().out)))
    assert [row["name"] for row in rows] == ["first", "'=1+1"]
    assert wisesr("runs", "mine", "--format", "markdown").worked().out.count("\n| ") == 4
    assert len(wisesr("runs", "--format", "json", "mine").worked().data["rows"]) == 2


def test_a_folder_that_is_not_there_is_4_and_one_without_runs_is_empty(tmp_path: Path, wisesr: CommandLine) -> None:
    wisesr("runs").refused(4, "runs: no such folder")
    (tmp_path / "runs").mkdir()
    assert wisesr("runs", "--format", "json").worked().data == {"rows": []}


# latest


def test_latest_is_the_run_that_was_begun_or_resumed_last(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "first", age=0)
    make_run(tmp_path / "runs" / "second", age=5)
    notes, note = heard()
    assert resolved("latest", note) == Path("runs/first")
    assert notes == ["latest: runs/first"]
    os.utime(tmp_path / "runs" / "second" / "config.yaml")  # as resuming does
    assert resolved("latest", note) == Path("runs/second")


def test_what_is_really_called_latest_comes_first(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "first")
    make_run(tmp_path / "latest")
    notes, note = heard()
    assert resolved("latest", note) == Path("latest")
    assert resolved("./latest", note) == Path("latest")
    assert notes == []


def test_latest_without_any_run_is_4(wisesr: CommandLine) -> None:
    for line in ("evaluate latest", "predict latest x.png", "train latest --resume", "runs remove latest --yes"):
        wisesr(*line.split()).refused(4, "latest: there is no run in runs yet")


@pytest.mark.parametrize(
    "line", ["evaluate latest", "predict latest PHOTOS", "embed latest PHOTOS -o out.npz", "config show latest"]
)
def test_commands_take_latest_and_say_which_run_it_is(
    trained: Trained, photos: Path, tmp_path: Path, wisesr: CommandLine, line: str
) -> None:
    make_run(tmp_path / "runs" / "older", age=1_000_000)
    trained.copy_to(tmp_path / "runs" / "tiny")
    answer = wisesr.line(line, PHOTOS=photos).worked()
    if not line.startswith("config"):
        assert answer.said("latest: runs/tiny") == ["latest: runs/tiny"]


def test_a_training_goes_on_with_the_latest_run(trained: Trained, tmp_path: Path) -> None:
    trained.copy_to(tmp_path / "runs" / "tiny")
    loaded = load_training("latest", resume=True)
    assert (loaded.config.name, loaded.config.output_dir) == ("tiny", tmp_path / "runs")
    assert loaded.notes[0] == "latest: runs/tiny"


def test_the_latest_run_without_a_model_says_which_it_is(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "begun")
    with pytest.raises(RunError, match=r"runs/begun: no best\.keras yet"):
        locate("latest")


# A run as the source of a training


@pytest.mark.parametrize("source", ["runs/tiny", "runs/tiny/best.keras", "latest"])
def test_a_run_as_the_source_asks_whether_to_go_on_with_it_or_to_repeat_it(
    trained: Trained, tmp_path: Path, wisesr: CommandLine, source: str
) -> None:
    trained.copy_to(tmp_path / "runs" / "tiny")
    wisesr("train", source).refused(2, "wisesr train runs/tiny --resume", "wisesr train runs/tiny/config.yaml")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    assert load_training("runs/tiny/config.yaml").config.name is None
    assert is_run(tmp_path / "runs" / "tiny")
