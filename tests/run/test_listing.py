"""`wisesr runs` lists every run, damaged or not, and `latest` is the newest."""

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


def test_a_finished_run_is_listed_with_the_values_of_its_files(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    (row,) = api.list_runs()
    assert (row.name, row.path, row.status, row.problem) == ("tiny", "runs/tiny", "finished", None)
    assert (row.data, row.head, row.backbone) == (str(trained.photos), "wise", "compact_small")
    assert (row.epochs, row.planned_epochs) == (2, 2)
    assert row.top1_accuracy == json.loads((run / "metrics.json").read_text(encoding="utf-8"))["top1_accuracy"]
    assert row.changed.startswith("20")


def test_the_size_includes_all_files(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    (run / "notes").mkdir()
    (run / "notes" / "mine.txt").write_bytes(b"x" * 12345)
    found = subprocess.run(["find", run, "-type", "f", "-printf", "%s\n"], capture_output=True, text=True, check=True)
    assert api.list_runs()[0].bytes == sum(map(int, found.stdout.split()))


def test_runs_are_listed_newest_first_and_anything_else_is_ignored(tmp_path: Path) -> None:
    for name, age in (("older", 10), ("newest", 0), ("oldest", 20)):
        make_run(tmp_path / "runs" / name, age=age)
    others = tmp_path / "runs"
    (others / "a file").write_text("x", encoding="utf-8")
    (others / "empty").mkdir()
    for name, file in (("app", "config.yaml"), ("site", "classes.json"), ("keras", "best.keras")):
        (others / name).mkdir()
        (others / name / file).write_text("a: 1\n", encoding="utf-8")  # one such file alone does not make a run
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
def test_a_damaged_run_is_listed_as_damaged_with_the_file(
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


def test_a_run_being_trained_is_listed_as_training(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    with locked(run / ".lock"):
        assert api.list_runs()[0].status == "training"
    assert api.list_runs()[0].status == "finished"


def test_an_interrupted_run_is_listed_as_unfinished(trained: Trained, tmp_path: Path) -> None:
    run = trained.copy_to(tmp_path / "runs" / "tiny")
    (progress,) = run.glob("state/*/progress.json")
    values = json.loads(progress.read_text(encoding="utf-8"))
    values["progress"] |= {"planned_epochs": 7, "finished": False}
    progress.write_text(json.dumps(values), encoding="utf-8")
    (run / "metrics.json").unlink()  # written when a training ends
    (row,) = api.list_runs()
    assert (row.status, row.epochs, row.planned_epochs) == ("unfinished", 2, 7)
    assert row.top1_accuracy == max(epoch["val_top1_accuracy"] for epoch in values["progress"]["history"])


def test_every_format_has_a_row_per_run_and_the_folder_can_be_given(
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


def test_a_missing_folder_exits_with_4_and_one_without_runs_lists_none(tmp_path: Path, wisesr: CommandLine) -> None:
    wisesr("runs").refused(4, "runs: no such folder")
    (tmp_path / "runs").mkdir()
    assert wisesr("runs", "--format", "json").worked().data == {"rows": []}


# latest


def test_latest_is_the_run_started_or_resumed_last(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "first", age=0)
    make_run(tmp_path / "runs" / "second", age=5)
    notes, note = heard()
    assert resolved("latest", note) == Path("runs/first")
    assert notes == ["latest: runs/first"]
    os.utime(tmp_path / "runs" / "second" / "config.yaml")  # as resuming does
    assert resolved("latest", note) == Path("runs/second")


def test_a_run_actually_named_latest_takes_precedence(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "first")
    make_run(tmp_path / "latest")
    notes, note = heard()
    assert resolved("latest", note) == Path("latest")
    assert resolved("./latest", note) == Path("latest")
    assert notes == []


def test_latest_without_any_run_exits_with_4(wisesr: CommandLine) -> None:
    for line in ("evaluate latest", "predict latest x.png", "train latest --resume", "runs remove latest --yes"):
        wisesr(*line.split()).refused(4, "latest: there is no run in runs yet")


@pytest.mark.parametrize(
    "line", ["evaluate latest", "predict latest PHOTOS", "embed latest PHOTOS -o out.npz", "config show latest"]
)
def test_commands_accept_latest_and_report_which_run_it_is(
    trained: Trained, photos: Path, tmp_path: Path, wisesr: CommandLine, line: str
) -> None:
    make_run(tmp_path / "runs" / "older", age=1_000_000)
    trained.copy_to(tmp_path / "runs" / "tiny")
    answer = wisesr.line(line, PHOTOS=photos).worked()
    if not line.startswith("config"):
        assert answer.said("latest: runs/tiny") == ["latest: runs/tiny"]


def test_latest_can_be_resumed(trained: Trained, tmp_path: Path) -> None:
    trained.copy_to(tmp_path / "runs" / "tiny")
    loaded = load_training("latest", resume=True)
    assert (loaded.config.name, loaded.config.output_dir) == ("tiny", tmp_path / "runs")
    assert loaded.notes[0] == "latest: runs/tiny"


def test_latest_without_a_model_is_an_error_that_names_the_run(tmp_path: Path) -> None:
    make_run(tmp_path / "runs" / "begun")
    with pytest.raises(RunError, match=r"runs/begun: no best\.keras yet"):
        locate("latest")


# A run as the source of training


@pytest.mark.parametrize("source", ["runs/tiny", "runs/tiny/best.keras", "latest"])
def test_a_run_as_the_source_is_a_usage_error_that_suggests_resume_or_its_config(
    trained: Trained, tmp_path: Path, wisesr: CommandLine, source: str
) -> None:
    trained.copy_to(tmp_path / "runs" / "tiny")
    wisesr("train", source).refused(2, "wisesr train runs/tiny --resume", "wisesr train runs/tiny/config.yaml")
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["tiny"]
    assert load_training("runs/tiny/config.yaml").config.name is None
    assert is_run(tmp_path / "runs" / "tiny")
