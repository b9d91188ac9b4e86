"""Signals and second processes, end to end: trainings stop cleanly; a run has one process (promises 24 and 30)."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import QUICK, TELLS_OF_SIGNALS, Answer, CommandLine, Trained, environment, make_photos
from quick_trainings import files_of, line, resumed
from reliability import Seen
from run_states import check_whole, leftovers, read_history

from wisesr_cli.run.folders import Start, choose_run

# Hundreds of short steps per epoch, so that a signal arrives in the middle of one.
LONG = ("--backbone", "compact_small", "--image-size", "32", "-b", "1", "--epochs", "500")


# 24: signals


@contextmanager
def started(arguments: list[object], folder: Path, *, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start a command in a fresh process that runs `before` first; standard error is a pipe."""
    words = [str(argument) for argument in arguments]
    program = f"import sys; sys.argv = ['wisesr', *{words!r}]\n{before}\n"
    program += "from wisesr_cli.__main__ import main\nmain()"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=environment(folder),
        cwd=folder,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(process: subprocess.Popen[str], beginning: str) -> str:
    """Wait for a line of standard error that starts with `beginning`, and return it."""
    assert process.stderr is not None
    before = []
    for text in process.stderr:
        if text.startswith(beginning):
            return text
        before.append(text)
    raise AssertionError(f"'{beginning}' never came: {''.join(before)}")


def ending(process: subprocess.Popen[str]) -> Answer:
    """Wait for a process to end, and return its exit code and the rest of its standard error."""
    _, err = process.communicate(timeout=500)
    return Answer(process.returncode, "", err)


@pytest.fixture(scope="session")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("many") / "photos", 150)


@pytest.mark.reliability(24, 30, 33)
@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_in_the_middle_of_an_epoch_loses_only_that_epoch(
    wisesr: CommandLine, many_photos: Path, tmp_path: Path, seen: Seen, number: signal.Signals, code: int
) -> None:
    command = ["train", many_photos, *LONG, "-o", tmp_path, "--name", "run"]
    with started(command, tmp_path) as process:
        wait_for(process, "epoch   1/500  ")  # the line of a finished epoch, not a count of its steps
        second = wisesr(*command, "--resume")
        process.send_signal(number)
        answer = ending(process)
    assert second.code == 5
    assert f"in use by another wisesr (pid {process.pid})" in second.error
    assert answer.code == code
    assert answer.error.startswith(f"wisesr: stopped by {number.name}; the state is that of the last complete epoch")
    assert "--resume" in answer.error
    progress = check_whole(tmp_path / "run")
    assert progress is not None
    assert progress.epoch >= 1
    assert len(read_history(tmp_path / "run")) == progress.epoch
    assert leftovers(tmp_path / "run") == []
    after = wisesr(*command, "--resume", "--max-steps", "1").worked()
    assert f"resuming after epoch {progress.epoch} of 500" in after.err
    seen(f"exit {answer.code} {answer.error.removeprefix('wisesr: ')}")
    seen(f"second train: exit {second.code}, in use (pid ...)")


SLOW_IMAGES = """
import time, wisesr_cli.data.pixels as pipeline
decode = pipeline.decoding.decode_with_header
def slow(*arguments, **options):
    print("decoding", file=sys.stderr, flush=True)
    time.sleep(0.1)
    return decode(*arguments, **options)
pipeline.decoding.decode_with_header = slow
"""


@pytest.mark.reliability(24)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_signal_while_images_are_read_ends_the_training_and_leaves_nothing(
    many_photos: Path, tmp_path: Path, seen: Seen, number: signal.Signals, code: int, cache: str
) -> None:
    command = ["train", many_photos, *LONG, "-o", tmp_path / "runs", "--name", "run", "-s", f"data.cache={cache}"]
    with started(command, tmp_path, before=SLOW_IMAGES) as process:
        wait_for(process, "decoding")
        process.send_signal(number)
        answer = ending(process)
    assert answer.code == code
    said = [text for text in answer.err.splitlines() if text != "decoding" and text.strip()]
    assert said[-1].startswith(f"wisesr: stopped by {number.name}; no epoch was under way; continue with --resume")
    assert "Traceback" not in answer.err
    assert list((tmp_path / "runs").iterdir()) == []
    assert list((tmp_path / "caches").rglob("*.tmp")) == []
    seen(f"while reading: exit {answer.code}, nothing left behind")


SLOW_SAVE = (
    """
import time, wisesr_cli.run.state as state
flush = state.flush_to_disk
def slow(path):
    if path.name == "optimizer.npz" and list(path.parent.parent.glob("epoch-000001")):
        print("saving", file=sys.stderr, flush=True)
        time.sleep(600)
    flush(path)
state.flush_to_disk = slow
"""
    + TELLS_OF_SIGNALS
)


@pytest.mark.reliability(24)
@pytest.mark.parametrize(
    "numbers", [(signal.SIGINT, signal.SIGINT), pytest.param((signal.SIGTERM, signal.SIGINT), marks=pytest.mark.slow)]
)
def test_a_second_signal_ends_the_training_at_once_even_inside_a_save(
    wisesr: CommandLine, photos: Path, tmp_path: Path, seen: Seen, numbers: tuple[signal.Signals, signal.Signals]
) -> None:
    command = line(photos, tmp_path, epochs=4)
    with started(command, tmp_path, before=SLOW_SAVE) as process:
        wait_for(process, "saving")
        process.send_signal(numbers[0])
        wait_for(process, "received")  # two signals at the same moment may be merged into one
        process.send_signal(numbers[1])
        answer = ending(process)
    assert answer.code == 128 + numbers[1]
    assert "Traceback" not in answer.err
    assert leftovers(tmp_path / "tiny") != []
    progress = check_whole(tmp_path / "tiny")
    assert progress is not None
    assert progress.epoch == 1
    after = wisesr(*command, "--resume").worked()
    assert "resuming after epoch 1 of 4" in after.err
    assert leftovers(tmp_path / "tiny") == []
    seen(f"second signal inside a save: exit {answer.code}, the state of epoch 1 loads and resumes")


# 30: a second process (see also the signals above)

HELD_BEFORE_READING = """
import time, pathlib, wisesr_cli.training.train as training
open_examples = training.open_examples
def held(*arguments, **options):
    print("held", file=sys.stderr, flush=True)
    while not pathlib.Path("go").exists():
        time.sleep(0.05)
    return open_examples(*arguments, **options)
training.open_examples = held
"""


@pytest.mark.reliability(30)
def test_rejected_processes_keep_the_lock_of_a_training_that_has_written_nothing_yet(
    wisesr: CommandLine, photos: Path, tmp_path: Path, seen: Seen
) -> None:
    command = line(photos, tmp_path / "runs", epochs=1)
    with started(command, tmp_path, before=HELD_BEFORE_READING) as process:
        wait_for(process, "held")
        refused = [wisesr(*command), wisesr(*command, "--resume"), wisesr(*command)]
        (tmp_path / "go").touch()
        answer = ending(process)
    for second in refused:
        assert second.code == 5, second.err
        assert f"in use by another wisesr (pid {process.pid})" in second.error
    assert answer.code == 0, answer.err
    assert len(read_history(tmp_path / "runs" / "tiny")) == 1
    seen(f"{len(refused)} more while the first reads images: exit 5 each, in use (pid ...); the first: exit 0")


@pytest.mark.reliability(30)
def test_a_run_finished_by_another_process_meanwhile_is_not_replaced(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    run = tmp_path / "runs" / "tiny"

    def finished_meanwhile(*arguments: Any, **options: Any) -> Start:
        start = choose_run(*arguments, **options)
        if not run.exists():
            shutil.copytree(trained.run, run)
        return start

    monkeypatch.setattr("wisesr_cli.training.train.choose_run", finished_meanwhile)
    answer = wisesr(*line(trained.photos, run.parent))
    assert answer.code == 2
    assert f"{run} exists; give another --name" in answer.error
    assert files_of(run) == files_of(trained.run)
    seen(f"finished between the choice of a name and the lock: exit 2 {answer.error[-60:]}")


@pytest.mark.slow
@pytest.mark.reliability(30)
def test_six_simultaneous_trainings_get_different_names(photos: Path, tmp_path: Path, seen: Seen) -> None:
    words = [sys.executable, "-m", "wisesr_cli", "train", str(photos), *QUICK, "--epochs", "1", "-o", "runs", "-q"]
    options: dict[str, Any] = {"env": environment(tmp_path), "cwd": tmp_path, "stdout": subprocess.DEVNULL}
    processes = [subprocess.Popen(words, **options) for _ in range(6)]
    assert [process.wait(timeout=300) for process in processes] == [0] * 6
    names = {path.name for path in (tmp_path / "runs").iterdir()}
    assert names == {"photos-wise", *(f"photos-wise-{number}" for number in range(2, 7))}
    assert all(len(read_history(tmp_path / "runs" / name)) == 1 for name in names)
    seen("six trainings of the default name at once: exit 0 each, -2 to -6")


@pytest.mark.reliability(30)
def test_a_failed_start_removes_its_folder(wisesr: CommandLine, photos: Path, tmp_path: Path) -> None:
    (photos_copy := Path(shutil.copytree(photos, tmp_path / "photos"))).joinpath("red", "05.png").write_bytes(b"")
    assert wisesr(*line(photos_copy, tmp_path / "runs")).code == 3
    assert list((tmp_path / "runs").iterdir()) == []


# Dry runs


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_dry_run_and_leaves_nothing(
    photos: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = line(photos, tmp_path / "runs", "--dry-run")
    with started(command, tmp_path, before=HELD_BEFORE_READING) as process:
        wait_for(process, "held")
        assert len(list((tmp_path / "runs").iterdir())) == 1
        process.send_signal(number)
        answer = ending(process)
    assert answer.code == code
    assert f"stopped by {number.name}; a dry run keeps nothing" in answer.err
    assert "Traceback" not in answer.err
    assert list((tmp_path / "runs").iterdir()) == []


def test_a_dry_run_removes_folders_of_dead_processes_but_not_one_about_to_be_locked(
    wisesr: CommandLine, photos: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    left: dict[str, tuple[str, ...]] = {
        "empty": (), "unlocked": ("best.keras",), "locked": (".lock", "best.keras"), "starting": (".lock",)
    }  # fmt: skip
    for name, files in left.items():
        (runs / f".wisesr-dry-run-{name}").mkdir(parents=True)
        for file in files:
            content = "" if name == "starting" else f"{os.getppid()}\n"
            (runs / f".wisesr-dry-run-{name}" / file).write_text(content, encoding="ascii")
    assert wisesr(*line(photos, runs, "--dry-run")).code == 0
    assert [path.name for path in runs.iterdir()] == [".wisesr-dry-run-starting"]


def test_a_dry_run_removes_folders_of_killed_dry_runs_but_not_of_live_ones(
    wisesr: CommandLine, photos: Path, tmp_path: Path
) -> None:
    command = line(photos, tmp_path / "runs", "--dry-run")
    with started(command, tmp_path, before=HELD_BEFORE_READING) as process:
        wait_for(process, "held")
        (folder,) = (tmp_path / "runs").iterdir()
        (folder / "best.keras").touch()
        assert wisesr(*command).code == 0
        assert sorted(path.name for path in folder.iterdir()) == [".lock", "best.keras"]
        process.kill()
        process.wait()
    assert list((tmp_path / "runs").iterdir()) == [folder]
    assert wisesr(*command).code == 0
    assert list((tmp_path / "runs").iterdir()) == []


@pytest.mark.reliability(30)
def test_a_stale_lock_does_not_block(wisesr: CommandLine, trained: Trained, tmp_path: Path, seen: Seen) -> None:
    two_epochs = trained.copy_to(tmp_path / "runs" / "tiny")
    (two_epochs / ".lock").write_text(f"{os.getppid()}\n", encoding="utf-8")  # alive, but not a wisesr process
    wisesr(*resumed(trained, two_epochs)).worked()
    assert len(read_history(two_epochs)) == 3
    seen("stale lock with the pid of a live process: exit 0")
