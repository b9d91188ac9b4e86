"""Several processes on JAX: which of them reads and writes what, and how a stop or failure of one ends all."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from command_line import CommandLine, environment, make_photos
from run_states import read_history
from served import free_port

pytestmark = pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")

SMALL = ("--backbone", "compact_small", "--image-size", "32", "-b", "8", "--lr", "0.01", "--device", "cpu")
PATIENCE_SECONDS = 400
LONG = (pytest.mark.slow, pytest.mark.long)


@dataclass
class Group:
    """The processes of one training, and the folder that they were started in."""

    processes: list[subprocess.Popen[bytes]]
    folder: Path

    def end(self) -> list[int]:
        """Wait for all processes and return their exit codes."""
        try:
            return [process.wait(PATIENCE_SECONDS) for process in self.processes]
        finally:
            for process in self.processes:
                process.kill()

    def error(self, process: int) -> str:
        """Return the line on standard error that says why a process ended."""
        text = (self.folder / f"{process}.err").read_text(encoding="utf-8")
        lines = [line for line in text.splitlines() if line.startswith("wisesr: ")]
        assert len(lines) == 1, text
        assert "Traceback" not in text
        return lines[0]

    def said(self, process: int) -> str:
        """Return everything that a process wrote."""
        return "".join((self.folder / f"{process}.{name}").read_text(encoding="utf-8") for name in ("out", "err"))


def start(folder: Path, count: int, *words: object, own: Callable[[int], tuple[object, ...]] = lambda i: ()) -> Group:
    """Start `wisesr train` in `count` processes; `own` returns more arguments for each."""
    variables = {**environment(folder), "KERAS_BACKEND": "jax", "OMP_NUM_THREADS": "1"}
    meeting: tuple[object, ...] = ("--coordinator", f"127.0.0.1:{free_port()}", "--num-processes", count)
    group = Group([], folder)
    for number in range(count):
        line = [sys.executable, "-m", "wisesr_cli", "train", *words, *meeting, "--process-id", number, *own(number)]
        with (folder / f"{number}.out").open("wb") as out, (folder / f"{number}.err").open("wb") as err:
            group.processes.append(
                subprocess.Popen([str(word) for word in line], cwd=folder, env=variables, stdout=out, stderr=err)
            )
    return group


def wait_for_epochs(run: Path, epochs: int, group: Group) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (run / "history.csv").exists() and len(read_history(run)) >= epochs:
            return
        assert all(process.poll() is None for process in group.processes), group.said(0) + group.said(1)
        time.sleep(0.05)
    raise AssertionError("no epoch has finished")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "photos", 9)


def test_mismatches_and_unreadable_images_end_all_processes_before_jax_starts(photos: Path, tmp_path: Path) -> None:
    line = (*SMALL, "-s", "data.cache=none")
    group = start(tmp_path, 2, photos, *line, own=lambda number: ("--seed", number))
    assert group.end() == [2, 2]
    assert "has different settings from process 0: seed: 0 -> 1; start all with the same" in group.error(0)
    assert group.error(1) == "wisesr: process 1 ended with the others: another process says why"

    group = start(tmp_path, 2, photos, *SMALL, own=lambda number: ("--max-steps", 3 + number))
    assert group.end() == [2, 2]
    assert "has different settings from process 0: --max-steps: 3 -> 4; start all with the same" in group.error(0)

    other = make_photos(tmp_path / "other", 8)
    group = start(tmp_path, 2, *line, own=lambda number: (other if number else photos, "--name", "x"))
    assert group.end() == [3, 3]
    assert "has different images from process 0: " in group.error(0)
    assert "train images: 21 -> 18" in group.error(0)

    damaged = photos / "red" / "01.png"
    damaged.write_bytes(damaged.read_bytes()[:-20])
    group = start(tmp_path, 2, photos, *line)
    assert group.end() == [3, 3]
    assert "red/01.png: truncated PNG" in group.error(0)
    assert "01.png" not in group.said(1)  # only one process says so, whichever read it
    assert not list((tmp_path / "runs").iterdir())


@pytest.mark.slow
def test_only_the_main_process_writes_and_prints_and_metrics_match_training(photos: Path, tmp_path: Path) -> None:
    (photos / "green" / "03.png").write_bytes(b"no image")
    folders = [tmp_path / "main", tmp_path / "other"]
    for folder in folders:
        folder.mkdir()
    line = (photos, *SMALL, "--epochs", 2, "--name", "x", "-s", "data.on_error=skip", "-s", "data.cache=none")
    group = start(tmp_path, 2, *line, own=lambda number: ("-o", folders[number]))
    assert group.end() == [0, 0]
    assert group.said(1) == ""
    assert list(folders[1].iterdir()) == []
    run = folders[0] / "x"
    row = read_history(run)[-1]
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["log_loss"] == pytest.approx(float(row["val_loss"]), rel=1e-5)
    assert metrics["top1_accuracy"] == pytest.approx(float(row["val_top1_accuracy"]))
    assert (
        json.loads((run / "environment.json").read_text(encoding="utf-8"))["distribution"] == "2 devices in 2 processes"
    )
    assert "1 unreadable image skipped" in group.said(0)


@pytest.mark.slow
@pytest.mark.long
def test_run_resumes_with_any_number_of_processes_to_the_same_numbers(photos: Path, tmp_path: Path) -> None:
    line = (photos, *SMALL, "-o", tmp_path / "runs", "--epochs", 3)
    for count in (2, 1, 4):  # one epoch each, as 21 images are 3 steps
        group = start(tmp_path, count, *line, "--name", "x", "--resume", "--max-steps", 3)
        assert group.end() == [0] * count
        if count == 1:
            assert "; 2 devices in 2 processes -> " in group.said(0)
            assert "the last bits of the numbers may differ" in group.said(0)
    assert start(tmp_path, 1, *line, "--name", "alone").end() == [0]
    expected, found = (read_history(tmp_path / "runs" / name) for name in ("alone", "x"))
    assert len(found) == len(expected) == 3
    for name in ("loss", "val_loss", "top1_accuracy", "learning_rate"):
        assert [float(row[name]) for row in found] == pytest.approx([float(row[name]) for row in expected], rel=2e-5)


@pytest.mark.parametrize(
    ("victim", "how"),
    [
        pytest.param(0, signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(1, signal.SIGKILL, marks=LONG),
        pytest.param(1, signal.SIGSTOP, marks=LONG),
    ],
)
def test_lost_process_ends_the_others_with_a_state_to_resume_from(
    victim: int, how: signal.Signals, photos: Path, tmp_path: Path
) -> None:
    line = (photos, *SMALL, "--epochs", 5000, "--name", "x", "-s", "distribute.lost_after_seconds=5")
    group = start(tmp_path, 2, *line)
    run = tmp_path / "runs" / "x"
    wait_for_epochs(run, 1, group)
    group.processes[victim].send_signal(how)
    survivor = group.processes[1 - victim]
    try:
        code = survivor.wait(300)  # about a minute on an idle machine
    finally:
        for process in group.processes:
            process.kill()
    # Either a step fails, or JAX first notices the missing heartbeats and aborts.
    assert code in {5, -signal.SIGABRT}
    said = group.said(1 - victim)
    assert "JAX cannot continue with the other processes" in said or "distributed service detected fatal errors" in said
    assert [path for path in (run / "state").iterdir() if path.name.startswith("epoch-")]


@pytest.mark.parametrize(
    ("number", "code"),
    [pytest.param(signal.SIGTERM, 143, marks=LONG), pytest.param(signal.SIGINT, 130, marks=LONG)],
)
def test_signal_to_one_process_stops_all_with_a_state_to_resume_from(
    number: signal.Signals, code: int, photos: Path, tmp_path: Path
) -> None:
    group = start(tmp_path, 2, photos, *SMALL, "--epochs", 5000, "--name", "x")
    wait_for_epochs(tmp_path / "runs" / "x", 1, group)
    group.processes[1 if number == signal.SIGTERM else 0].send_signal(number)
    assert group.end() == [code, code]  # a process one step ahead would wait for the other and be killed
    for process in (0, 1):
        assert f"stopped by {number.name}; " in group.error(process)
        assert "--resume" in group.error(process)
    done = len(read_history(tmp_path / "runs" / "x"))
    line = (photos, *SMALL, "--epochs", done + 1, "--name", "x", "--resume", "--max-steps", 3)
    assert start(tmp_path, 1, *line).end() == [0]
    assert len(read_history(tmp_path / "runs" / "x")) == done + 1


@pytest.mark.slow
@pytest.mark.long
def test_image_removed_during_training_exits_with_3_and_ends_all_processes(photos: Path, tmp_path: Path) -> None:
    line = (photos, *SMALL, "--epochs", 5000, "--name", "x", "-s", "data.cache=none")
    group = start(tmp_path, 2, *line)
    wait_for_epochs(tmp_path / "runs" / "x", 1, group)
    (photos / "red" / "01.png").unlink()
    codes = group.end()
    assert 3 in codes
    assert set(codes) <= {3, 5, -signal.SIGABRT}
    assert any("red/01.png" in group.said(process) for process in (0, 1))
    assert "Traceback" not in group.said(0) + group.said(1)


@pytest.mark.slow
@pytest.mark.long
def test_disk_failure_in_the_main_process_ends_all_processes(photos: Path, tmp_path: Path) -> None:
    group = start(tmp_path, 2, photos, *SMALL, "--epochs", 5000, "--name", "x")
    run = tmp_path / "runs" / "x"
    wait_for_epochs(run, 1, group)
    # Root can write despite permissions, but nobody can write to a folder in place of a file.
    while True:
        try:
            (run / "history.csv").unlink(missing_ok=True)
            (run / "history.csv").mkdir()
            (run / "history.csv" / "x").write_text("", encoding="utf-8")
            break
        except FileExistsError:
            continue
    codes = group.end()
    assert codes[0] == 5
    assert codes[1] in {5, -signal.SIGABRT}
    assert "history.csv" in group.error(0)


def test_several_processes_with_strategy_none_are_rejected_before_they_connect(
    wisesr: CommandLine, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    words = ("--coordinator", "127.0.0.1:1", "--num-processes", 2, "--process-id", 0)
    answer = wisesr("train", photos, "-o", tmp_path / "runs", *words, "-s", "distribute.strategy=none")
    assert answer.code == 2
    assert "distribute.strategy is none, but there are 2 processes; set it to auto, or train in one" in answer.error
