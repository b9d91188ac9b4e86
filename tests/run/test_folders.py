"""Which folder a run uses, and what overwriting removes from it."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
from image_folders import Heard
from run_states import make_run

from wisesr_cli.config.schema import Config
from wisesr_cli.errors import InUseError, MachineError, RunError, UsageError
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.run.folders import Start, choose_run, held_start, prepare_folder
from wisesr_cli.run.located import locate
from wisesr_cli.run.run import Run
from wisesr_cli.run.written import Written


def choose(folder: Path, *, name: str | None = None, resume: bool = False, overwrite: bool = False) -> tuple[str, bool]:
    start = choose_run(Config(name=name, output_dir=folder), "photos-wise", resume=resume, overwrite=overwrite)
    assert start.run.path.parent == folder
    return start.run.name, start.resumed


def test_a_default_name_that_is_taken_gets_the_next_free_number(tmp_path: Path) -> None:
    assert choose(tmp_path) == ("photos-wise", False)
    make_run(tmp_path / "photos-wise")
    assert choose(tmp_path) == ("photos-wise-2", False)
    make_run(tmp_path / "photos-wise-2")
    make_run(tmp_path / "photos-wise-4")
    assert choose(tmp_path) == ("photos-wise-3", False)


def test_choosing_writes_nothing(tmp_path: Path) -> None:
    choose(tmp_path / "runs")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", ["a file", "a folder with a file", "a broken link"])
def test_a_default_name_avoids_anything_that_exists(tmp_path: Path, content: str) -> None:
    path = tmp_path / "photos-wise"
    if content == "a file":
        path.touch()
    elif content == "a broken link":
        path.symlink_to("nowhere")
    else:
        path.mkdir()
        (path / "notes.txt").touch()
    assert choose(tmp_path) == ("photos-wise-2", False)


def test_leftovers_of_a_killed_start_do_not_occupy_the_name(tmp_path: Path) -> None:
    folder = tmp_path / "photos-wise"
    folder.mkdir()
    (folder / ".lock").touch()
    (folder / ".wisesr-0123.yaml").touch()
    assert choose(tmp_path) == ("photos-wise", False)
    assert choose(tmp_path, name="photos-wise", resume=True) == ("photos-wise", False)
    prepare_folder(Run(folder), overwrite=False)
    assert [path.name for path in folder.iterdir()] == [".lock"]


def test_a_folder_removed_meanwhile_does_not_occupy_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, iterdir = tmp_path / "photos-wise", Path.iterdir
    folder.mkdir()

    def gone_meanwhile(path: Path) -> Iterator[Path]:
        if path == folder:
            path.rmdir()
        return iterdir(path)

    monkeypatch.setattr(Path, "iterdir", gone_meanwhile)
    assert choose(tmp_path) == ("photos-wise", False)


def test_an_explicit_name_that_exists_is_rejected_with_the_alternatives(tmp_path: Path) -> None:
    assert choose(tmp_path, name="mine") == ("mine", False)
    make_run(tmp_path / "mine")
    with pytest.raises(UsageError, match=r"mine exists; give another --name, continue with --resume, or .*--overwrite"):
        choose(tmp_path, name="mine")
    assert choose(tmp_path, name="mine", resume=True) == ("mine", True)
    assert choose(tmp_path, name="mine", overwrite=True) == ("mine", False)


def test_an_explicit_name_that_is_a_file_is_rejected_even_with_overwrite(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    for overwrite in (False, True):
        with pytest.raises(UsageError, match="mine is not a folder"):
            choose(tmp_path, name="mine", overwrite=overwrite)


def test_resume_without_a_name_takes_the_newest_run_of_the_default_name(tmp_path: Path) -> None:
    assert choose(tmp_path, resume=True) == ("photos-wise", False)
    make_run(tmp_path / "photos-wise", age=30)
    make_run(tmp_path / "photos-wise-2", age=10)
    make_run(tmp_path / "photos-wise-3", age=20)
    make_run(tmp_path / "photos-wise-10", age=25)
    make_run(tmp_path / "photos-wise-x", age=0)
    make_run(tmp_path / "photos-wise-1", age=0)
    make_run(tmp_path / "other-photos-wise", age=0)
    (tmp_path / "photos-wise-4").mkdir()
    assert choose(tmp_path, resume=True) == ("photos-wise-2", True)


def test_overwrite_needs_a_name_if_there_are_several_runs(tmp_path: Path) -> None:
    make_run(tmp_path / "photos-wise", age=30)
    assert choose(tmp_path, overwrite=True) == ("photos-wise", False)
    make_run(tmp_path / "photos-wise-2", age=10)
    with pytest.raises(UsageError, match=r"several runs of this name: photos-wise, photos-wise-2; choose one"):
        choose(tmp_path, overwrite=True)
    assert choose(tmp_path, name="photos-wise", overwrite=True) == ("photos-wise", False)


def test_resume_rejects_a_folder_that_is_not_a_run(tmp_path: Path) -> None:
    for name in ("state", "export"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        (tmp_path / "mine" / name / "notes.txt").touch()
    with pytest.raises(UsageError, match="holds something other than a run"):
        choose(tmp_path, name="mine", resume=True)


def test_resume_finds_the_newest_run_even_if_an_earlier_one_was_deleted(tmp_path: Path) -> None:
    make_run(tmp_path / "photos-wise-3")
    assert choose(tmp_path, resume=True) == ("photos-wise-3", True)


def test_a_default_name_locked_by_another_process_is_skipped(tmp_path: Path) -> None:
    def choosing(name: str | None = None) -> AbstractContextManager[Start]:
        config = Config(name=name, output_dir=tmp_path)
        return held_start(lambda: choose_run(config, "a", resume=False, overwrite=False))

    with choosing() as first, choosing() as second, choosing() as third:
        assert [start.run.name for start in (first, second, third)] == ["a", "a-2", "a-3"]
        with pytest.raises(InUseError, match="in use by another wisesr"), choosing("a-2"):
            pass
    with pytest.raises(ZeroDivisionError), choosing("a"):
        raise ZeroDivisionError
    assert not (tmp_path / "a").exists()


def test_a_lock_detects_that_its_folder_was_moved(tmp_path: Path) -> None:
    with held_start(lambda: choose_run(Config(output_dir=tmp_path), "a", resume=False, overwrite=False)) as start:
        start.run.check_place()
        start.run.path.rename(tmp_path / "b")
        with pytest.raises(MachineError, match="a: was moved or removed meanwhile"):
            start.run.check_place()


def test_resume_and_overwrite_are_mutually_exclusive(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="exclude each other"):
        choose(tmp_path, resume=True, overwrite=True)


OURS = [
    "best.keras", "config.yaml", "classes.json", "splits.csv", "environment.json", "history.csv", "metrics.json",
    "state/epoch-000003/model.npz", "state/.wisesr-epoch-000004/model.npz", "plots/learning_curves.png",
    ".wisesr-ab.keras", "best.tflite",
]  # fmt: skip
RECORDED = [
    "tensorboard/train/events.out.tfevents.1.v2", "evaluate-test/metrics.json", "evaluate-test/predictions.csv",
    "evaluate-my photos/report.html", "export/README.md", "explain/image-00001-a.png", "plots/reliability-test.png",
]  # fmt: skip
FOREIGN = [
    "notes.txt", "thesis/chapter.txt", "state/notes.txt", "plots/drawing.svg", "tensorboard/train/mine.txt",
    "evaluate-test/notes.txt", "evaluate-notes.txt", "best.keras.bak", ".hidden", "state/epoch-000003-mine/model.npz",
    "evaluate-mine/metrics.json", "export/model.onnx", "explain/image-00001-holiday.png", "plots/reliability-mine.png",
    "tensorboard/train/events.out.tfevents.2.v2", "thesis/.wisesr-draft.txt",
]  # fmt: skip


def fill(folder: Path, files: list[str]) -> None:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name, encoding="utf-8")


def record(folder: Path, files: list[str]) -> Written:
    fill(folder, files)
    written = Written(folder)
    written.begin()
    for name in files:
        written.add(folder / name)
    return written


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def test_overwrite_removes_what_a_run_wrote_and_reports_other_files(tmp_path: Path) -> None:
    fill(tmp_path, [*OURS, *FOREIGN])
    record(tmp_path, RECORDED)
    (tmp_path / "export/README.md").write_text("with notes of mine", encoding="utf-8")
    heard = Heard()
    prepare_folder(Run(tmp_path), overwrite=True, listener=heard)
    assert files_below(tmp_path) == sorted([*FOREIGN, "export/README.md"])
    assert all((tmp_path / name).read_text(encoding="utf-8") == name for name in FOREIGN)
    (warning,) = heard.warnings
    assert "stay: .hidden, best.keras.bak, evaluate-mine/metrics.json" in warning
    assert "and 12 more" in warning


def test_overwrite_leaves_an_empty_folder_of_an_unmodified_run(tmp_path: Path) -> None:
    fill(tmp_path, OURS)
    record(tmp_path, RECORDED)
    prepare_folder(Run(tmp_path), overwrite=True)
    assert list(tmp_path.iterdir()) == []


def test_results_of_a_version_without_a_record_are_kept(tmp_path: Path) -> None:
    fill(tmp_path, [*OURS, *RECORDED])
    prepare_folder(Run(tmp_path), overwrite=True)
    assert files_below(tmp_path) == sorted(RECORDED)


def test_files_being_written_by_another_command_are_not_leftovers(tmp_path: Path) -> None:
    live, dead = ("export/.wisesr-new/model.onnx", "evaluate-test/.wisesr-ab.csv"), "plots/.wisesr-cd.png"
    fill(tmp_path, [*live, dead, ".wisesr-labels"])
    with alone_in(tmp_path / "export"), alone_in(tmp_path / "evaluate-test", shared=True):
        prepare_folder(Run(tmp_path), overwrite=False)
    assert files_below(tmp_path) == sorted([*live, ".wisesr-labels"])  # the last one belongs to a prediction
    prepare_folder(Run(tmp_path), overwrite=False)
    assert files_below(tmp_path) == [".wisesr-labels"]


@pytest.mark.parametrize("removing", ["pathlib.Path.unlink", "shutil.rmtree"])
@pytest.mark.parametrize("number", [errno.EBUSY, errno.ENOTEMPTY])
def test_a_file_that_overwrite_cannot_remove_is_an_error_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, removing: str, number: int
) -> None:
    fill(tmp_path, OURS)

    def refuse(*arguments: Any, **options: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(removing, refuse)
    with pytest.raises(MachineError, match=os.strerror(number)) as caught:
        prepare_folder(Run(tmp_path), overwrite=True)
    assert str(caught.value).startswith(f"{tmp_path}/")


def test_overwrite_does_not_follow_links_out_of_the_run(tmp_path: Path) -> None:
    fill(tmp_path / "elsewhere", ["a.npz"])
    (tmp_path / "run/state").mkdir(parents=True)
    (tmp_path / "run/state/epoch-000001").symlink_to(tmp_path / "elsewhere")
    prepare_folder(Run(tmp_path / "run"), overwrite=True)
    assert files_below(tmp_path / "elsewhere") == ["a.npz"]


READERS: dict[str, Callable[[Run], object]] = {
    "environment.json": Run.read_environment,
    "config.yaml": Run.load_config,
    "classes.json": Run.read_classes,
    "splits.csv": Run.read_splits,
    "history.csv": Run.read_history,
}


@pytest.mark.reliability(49)
@pytest.mark.parametrize("name", [*READERS, "best.keras", "best.tflite"])
def test_no_reader_follows_a_link_out_of_the_run(tmp_path: Path, name: str) -> None:
    secret = tmp_path / "secret"
    secret.write_text('{"password": "x"}', encoding="utf-8")
    run = Run(make_run(tmp_path / "run"))
    run.best.touch()
    (run.path / name).unlink(missing_ok=True)
    (run.path / name).symlink_to(secret)
    with pytest.raises(RunError, match=f"{name}: is a link out of its folder"):
        READERS.get(name, lambda run: locate(run.path))(run)


def test_without_overwrite_only_leftovers_are_removed(tmp_path: Path) -> None:
    fill(tmp_path, OURS)
    prepare_folder(Run(tmp_path), overwrite=False)
    assert files_below(tmp_path) == sorted(name for name in OURS if name != ".wisesr-ab.keras")


@pytest.mark.parametrize("choice", ["resume", "overwrite"])
def test_a_folder_with_a_foreign_config_is_rejected_by_resume_and_overwrite(tmp_path: Path, choice: str) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.yaml").write_text("my: config\n", encoding="utf-8")
    with pytest.raises(UsageError, match="holds something other than a run"):
        choose(tmp_path, name="mine", **{choice: True})
    assert (folder / "config.yaml").read_text(encoding="utf-8") == "my: config\n"
