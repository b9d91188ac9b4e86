"""`wisesr runs remove` removes what wisesr wrote, asks first, and never touches the user's files."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from command_line import QUICK, CommandLine, Trained, snapshot
from run_states import make_run

from wisesr_cli import api
from wisesr_cli.errors import InUseError, RunError
from wisesr_cli.machine.locks import alone_in, locked, take

pytestmark = pytest.mark.usefixtures("empty_folder")


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    return trained.copy_to(tmp_path / "runs" / "tiny")


def answering(monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    """Make standard input a terminal on which this answer is typed."""
    import io

    stream = io.StringIO(f"{answer}\n")
    stream.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", stream)


def test_everything_wisesr_wrote_is_removed_and_other_runs_are_kept(
    run: Path, tmp_path: Path, wisesr: CommandLine
) -> None:
    other = Path(shutil.copytree(run, tmp_path / "runs" / "other"))
    before = snapshot(other)
    wisesr("evaluate", run).worked()
    wisesr("explain", run, next((tmp_path / "runs").parent.glob("**/*.png"), run / "none.png"))
    size = api.list_runs()[0].bytes
    answer = wisesr("runs", "remove", "tiny", "--yes").worked()
    assert answer.out == ""
    assert answer.said("removed: runs/tiny")
    assert not run.exists()
    assert snapshot(other) == before
    assert size > 100_000


def test_files_of_the_user_are_kept_and_listed(run: Path, wisesr: CommandLine) -> None:
    (run / "plots" / "mine.png").write_bytes(b"mine")
    (run / "notes.txt").write_text("mine", encoding="utf-8")
    (run / "state" / "epoch-mine").mkdir()
    (run / "state" / "epoch-mine" / "x").write_text("mine", encoding="utf-8")
    answer = wisesr("runs", "remove", "runs/tiny", "--yes").worked()
    assert answer.said("warning: runs/tiny: files that this run did not write, or that changed since, stay: notes.txt")
    assert snapshot(run) == {"plots/mine.png": b"mine", "notes.txt": b"mine", "state/epoch-mine/x": b"mine"}
    wisesr("runs", "remove", "tiny", "--yes").refused(4, "is not a run")
    assert (run / "notes.txt").exists()


def test_a_result_changed_by_the_user_is_kept(run: Path, wisesr: CommandLine) -> None:
    wisesr("evaluate", run).worked()
    table = run / "evaluate-test" / "per_class.csv"
    table.write_text("mine", encoding="utf-8")
    (removed,) = api.remove_runs(["tiny"])
    assert removed.stays == ("evaluate-test/per_class.csv",)
    assert snapshot(run) == {"evaluate-test/per_class.csv": b"mine"}


def test_the_freed_bytes_match_the_size_of_the_run(run: Path) -> None:
    size = api.list_runs()[0].bytes
    (removed,) = api.remove_runs(["tiny"])
    assert size <= removed.bytes <= size + 10  # the lock has a number in it


def test_without_a_terminal_removal_requires_yes_and_says_what_it_would_remove(run: Path, wisesr: CommandLine) -> None:
    before = snapshot(run)
    wisesr("runs", "remove", "tiny").refused(2, "would remove 1 run (0.5 MB): runs/tiny", "--yes")
    assert snapshot(run) == before


@pytest.mark.parametrize(("answer", "stays"), [("n", True), ("", True), ("y", False)])
def test_removal_asks_for_confirmation_on_a_terminal(
    run: Path, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch, answer: str, stays: bool
) -> None:
    answering(monkeypatch, answer)
    found = wisesr("runs", "remove", "tiny").worked()
    assert "Remove 1 run (0.5 MB): runs/tiny?" in found.err
    assert found.out.strip() == ""
    assert run.exists() == stays
    assert bool(found.said("nothing was removed")) == stays


def test_a_run_being_trained_exits_with_5_and_nothing_is_removed(
    run: Path, tmp_path: Path, wisesr: CommandLine
) -> None:
    make_run(tmp_path / "runs" / "other")
    with locked(run / ".lock"):
        wisesr("runs", "remove", "other", "tiny", "--yes").refused(5, "runs/tiny: is being trained")
        with pytest.raises(InUseError):
            api.remove_runs(["tiny"])
    assert (tmp_path / "runs" / "other" / "config.yaml").exists()
    assert (run / "best.keras").exists()


def test_a_run_being_evaluated_exits_with_5(run: Path, wisesr: CommandLine) -> None:
    wisesr("evaluate", run).worked()
    before = snapshot(run)
    with alone_in(run / "evaluate-test", shared=True):
        wisesr("runs", "remove", "tiny", "--yes").refused(5, "evaluate-test: in use by another wisesr")
    after = snapshot(run)
    del before[".written.jsonl"], after[".written.jsonl"]
    assert {name for name in before if name != ".lock"} == {name for name in after if name != ".lock"}


@pytest.mark.parametrize("name", ["nothing", "folder", "file", "link", "../photos", "runs"])
def test_anything_but_a_run_exits_with_4_and_is_kept(run: Path, tmp_path: Path, wisesr: CommandLine, name: str) -> None:
    (tmp_path / "runs" / "folder").mkdir()
    (tmp_path / "runs" / "folder" / "config.yaml").write_text("mine: 1\n", encoding="utf-8")
    (tmp_path / "runs" / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "runs" / "link").symlink_to(run)
    before = snapshot(tmp_path)
    wisesr("runs", "remove", "tiny", name, "--yes").refused(4, name.removeprefix("../"))
    assert snapshot(tmp_path) == before


def test_files_of_another_program_with_the_names_of_a_run_are_kept(tmp_path: Path, wisesr: CommandLine) -> None:
    folder = tmp_path / "runs" / "detector"
    folder.mkdir(parents=True)
    for name, text in (
        ("config.yaml", "nc: 80\n"),
        ("classes.json", '["a"]'),
        ("splits.csv", "a,b\n"),
        ("best.keras", "x"),
    ):
        (folder / name).write_text(text, encoding="utf-8")
    before = snapshot(folder)
    wisesr("runs", "remove", "detector", "--yes").refused(4, "none surely written by wisesr")
    assert snapshot(folder) == before
    (folder / "config.yaml").write_text("seed: 3\n", encoding="utf-8")  # as a run of an earlier version has
    wisesr("runs", "remove", "detector", "--yes").worked()
    assert not folder.exists()


def test_a_user_folder_in_place_of_a_run_file_is_not_removed(run: Path) -> None:
    (run / "history.csv").unlink()
    (run / "history.csv").mkdir()
    (run / "history.csv" / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(RunError, match="is a folder; a run has a file there"):
        api.remove_runs(["tiny"])
    assert (run / "history.csv" / "mine.txt").exists()


def test_a_damaged_run_can_be_removed_from_another_folder(run: Path, tmp_path: Path) -> None:
    (run / "classes.json").unlink()
    (run / "config.yaml").write_text("[", encoding="utf-8")
    run.rename(tmp_path / "mine")
    api.remove_runs(["mine"], folder=".")
    assert not (tmp_path / "mine").exists()


def test_latest_is_the_newest_run_of_the_folder(run: Path, tmp_path: Path, wisesr: CommandLine) -> None:
    make_run(tmp_path / "runs" / "older", age=10)
    answer = wisesr("runs", "remove", "latest", "--yes").worked()
    assert answer.said("latest: runs/tiny")
    assert not run.exists()
    assert (tmp_path / "runs" / "older").exists()


def test_removing_the_last_run_that_uses_a_cache_frees_it(
    photos: Path, tmp_path: Path, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WISESR_CACHE_DIR", str(tmp_path / "caches"))
    for name in ("one", "two"):
        wisesr("train", photos, *QUICK, "--epochs", "1", "-s", "data.cache=disk", "--name", name).worked()
    mine = tmp_path / "caches" / "pixels" / "mine.txt"
    mine.write_text("mine", encoding="utf-8")
    caches = sorted(mine.parent.glob("*.pixels"))
    assert caches
    assert not wisesr("runs", "remove", "one", "--yes").worked().said("caches that no other run uses")
    assert sorted(mine.parent.glob("*.pixels")) == caches
    (tmp_path / "runs" / "one").mkdir()  # like a removed run with a user's file left; it is no longer a run
    with caches[0].open("rb") as file:  # like a training that is reading it
        assert take(file, shared=True)
        wisesr("runs", "remove", "two", "--yes").worked()
    assert sorted(mine.parent.glob("*.pixels")) == caches[:1]
    wisesr("train", photos, *QUICK, "--epochs", "1", "-s", "data.cache=disk", "--name", "three").worked()
    size = api.list_runs()[0].bytes + sum(path.stat().st_size for path in mine.parent.glob("*.pixels"))
    (removed,) = api.remove_runs(["three"])
    assert size <= removed.bytes <= size + 10
    assert snapshot(mine.parent) == {"mine.txt": b"mine"}
