"""Training and its state survive signals, full disks, damage and second processes: lines 24 to 33, end to end."""

from __future__ import annotations

import ctypes
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from command_line import QUICK, SMALL, Answer, CommandLine, Trained, environment, fresh, make_photos
from disk_events import FullDisk, hearing
from run_states import check_whole, digest, leftovers, progress_of, read_history

from wisesr_cli.machine.files import sha256
from wisesr_cli.model_files.archive import check_model
from wisesr_cli.run.folders import Start, choose_run
from wisesr_cli.run.state import read_state, write_state

Seen = Callable[[str], None]

SUPPORT = Path(__file__).parents[1] / "support"
# A training of hundreds of short steps per epoch, so that a signal meets it in the middle of one.
LONG = ("--backbone", "compact_small", "--image-size", "32", "-b", "1", "--epochs", "500")


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos") / "photos", 6)


@pytest.fixture
def two_epochs(trained: Trained, tmp_path: Path) -> Path:
    """A copy of the finished run `tiny`."""
    return trained.copy_to(tmp_path / "runs" / "tiny")


def line(photos: Path, runs: Path, *more: object, epochs: int = 2, name: str = "tiny") -> list[object]:
    return ["train", photos, *QUICK, "--epochs", epochs, "-o", runs, "--name", name, *more]


def resumed(trained: Trained, run: Path, *more: object, epochs: int = 3) -> list[object]:
    return line(trained.photos, run.parent, "--resume", *more, epochs=epochs)


def files_of(run: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of a run but its lock."""
    paths = (path for path in run.rglob("*") if path.is_file() and path.name != ".lock")
    return {str(path.relative_to(run)): sha256(path) for path in paths}


# 24: signals


@contextmanager
def started(arguments: list[object], folder: Path, *, before: str = "") -> Iterator[subprocess.Popen[str]]:
    """Start a command line in a fresh process that runs `before` first; standard error is a pipe."""
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
    """Return the line of standard error that begins so, having waited for it."""
    assert process.stderr is not None
    before = []
    for text in process.stderr:
        if text.startswith(beginning):
            return text
        before.append(text)
    raise AssertionError(f"'{beginning}' never came: {''.join(before)}")


def ending(process: subprocess.Popen[str]) -> Answer:
    """Return what a process comes to, from here on."""
    _, err = process.communicate(timeout=120)
    return Answer(process.returncode, "", err)


@pytest.fixture(scope="session")
def many_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("many") / "photos", 150)


@pytest.mark.reliability(24, 30, 33)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_in_the_middle_of_an_epoch_loses_no_more_than_that_epoch(
    wisesr: CommandLine, many_photos: Path, tmp_path: Path, seen: Seen, number: signal.Signals, code: int
) -> None:
    command = ["train", many_photos, *LONG, "-o", tmp_path, "--name", "run"]
    with started(command, tmp_path) as process:
        wait_for(process, "epoch ")
        second = wisesr(*command, "--resume")
        process.send_signal(number)
        answer = ending(process)
    assert second.code == 5
    assert f"in use by another wisesr (pid {process.pid})" in second.error
    assert answer.code == code
    assert answer.error.startswith(f"wisesr: stopped by {number.name}; the state is that of the last whole epoch")
    assert "--resume" in answer.error
    progress = check_whole(tmp_path / "run")
    assert progress is not None
    assert progress.epoch >= 1
    assert len(read_history(tmp_path / "run")) == progress.epoch
    assert leftovers(tmp_path / "run") == []
    after = wisesr(*command, "--resume", "--max-steps", "1").worked()
    assert f"going on after epoch {progress.epoch} of 500" in after.err
    seen(f"exit {answer.code} {answer.error.removeprefix('wisesr: ')}")
    seen(f"second train: exit {second.code}, in use (pid ...)")


SLOW_IMAGES = """
import time, wisesr_cli.data.pixels as pipeline
decode = pipeline.decoding.decode_image
def slow(*arguments, **options):
    print("decoding", file=sys.stderr, flush=True)
    time.sleep(0.1)
    return decode(*arguments, **options)
pipeline.decoding.decode_image = slow
"""


@pytest.mark.reliability(24)
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("cache", ["memory", "disk"])
def test_a_signal_while_images_are_read_ends_and_leaves_nothing(
    many_photos: Path, tmp_path: Path, seen: Seen, number: signal.Signals, code: int, cache: str
) -> None:
    command = ["train", many_photos, *LONG, "-o", tmp_path / "runs", "--name", "run", "-s", f"data.cache={cache}"]
    with started(command, tmp_path, before=SLOW_IMAGES) as process:
        wait_for(process, "decoding")
        process.send_signal(number)
        answer = ending(process)
    assert answer.code == code
    said = [text for text in answer.err.splitlines() if text != "decoding" and text.strip()]
    assert said[-1].startswith(f"wisesr: stopped by {number.name}; no epoch was under way; go on with --resume")
    assert "Traceback" not in answer.err
    assert list((tmp_path / "runs").iterdir()) == []
    assert list((tmp_path / "caches").rglob("*.tmp")) == []
    seen(f"while reading: exit {answer.code}, nothing left behind")


SLOW_SAVE = """
import time, wisesr_cli.run.state as state
flush = state.flush_to_disk
def slow(path):
    if path.name == "optimizer.npz" and list(path.parent.parent.glob("epoch-000001")):
        print("saving", file=sys.stderr, flush=True)
        time.sleep(600)
    flush(path)
state.flush_to_disk = slow
"""


@pytest.mark.reliability(24)
@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGINT), (signal.SIGTERM, signal.SIGINT)])
def test_a_second_signal_ends_at_once_even_inside_a_save(
    wisesr: CommandLine, photos: Path, tmp_path: Path, seen: Seen, numbers: tuple[signal.Signals, signal.Signals]
) -> None:
    command = line(photos, tmp_path, epochs=4)
    with started(command, tmp_path, before=SLOW_SAVE) as process:
        wait_for(process, "saving")
        process.send_signal(numbers[0])
        time.sleep(0.5)  # two signals at one moment may count as one
        assert process.poll() is None
        process.send_signal(numbers[1])
        answer = ending(process)
    assert answer.code == 128 + numbers[1]
    assert "Traceback" not in answer.err
    assert leftovers(tmp_path / "tiny") != []
    progress = check_whole(tmp_path / "tiny")
    assert progress is not None
    assert progress.epoch == 1
    after = wisesr(*command, "--resume").worked()
    assert "going on after epoch 1 of 4" in after.err
    assert leftovers(tmp_path / "tiny") == []
    seen(f"second signal inside a save: exit {answer.code}, the state of epoch 1 loads, goes on")


# 27: what may change before a resumption


def with_other_versions(run: Path) -> None:
    """Write the state as if the run had been trained with another NumPy."""
    state = read_state(run / "state")
    state.progress["circumstances"]["versions"]["numpy"] = "1.0"
    epoch = len(state.progress["progress"]["history"])
    write_state(run / "state", epoch, state.arrays, state.progress)


@pytest.mark.reliability(27)
@pytest.mark.parametrize("change", ["data", "class", "config", "versions", "seed generators"])
def test_a_change_that_would_change_the_numbers_is_refused_with_the_difference(
    wisesr: CommandLine, trained: Trained, two_epochs: Path, tmp_path: Path, seen: Seen, change: str
) -> None:
    moved = Trained(two_epochs, trained.photos)
    more: tuple[object, ...] = ()
    if change in {"data", "class"}:
        moved = Trained(two_epochs, Path(shutil.copytree(trained.photos, tmp_path / "photos")))
        more = ("-s", f"data.dir={moved.photos}")
        state = read_state(two_epochs / "state")
        state.progress["circumstances"]["config"]["data.dir"] = str(moved.photos)
        write_state(two_epochs / "state", 2, state.arrays, state.progress)
    if change == "data":
        os.utime(moved.photos / "train" / "red" / "00.png", (1, 1))
        expected = "train, class 'red': of 12 files some were changed"
    elif change == "class":
        for split in ("train", "validation", "test"):
            (moved.photos / split / "red").rename(moved.photos / split / "rosso")
        expected = "classes: blue, green, red -> blue, green, rosso"
    elif change == "config":
        more, expected = ("-s", "train.label_smoothing=0.1"), "train.label_smoothing: 0.0 -> 0.1"
    elif change == "versions":
        with_other_versions(two_epochs)
        expected = "numpy: 1.0 -> "
    else:
        state = read_state(two_epochs / "state")
        state.arrays["random"]["order of examples"] = state.arrays["random"]["order of examples"][::-1]
        write_state(two_epochs / "state", 2, state.arrays, state.progress)
        expected = "the random draws of epoch 3 would differ (order of examples)"
    before = files_of(two_epochs)
    wisesr(*resumed(moved, two_epochs, *more)).failed(4, expected, "--overwrite")
    assert files_of(two_epochs) == before
    seen(f"{change}: exit 4, ... {expected}")


@pytest.mark.reliability(27)
def test_epochs_may_grow_and_the_run_may_move(
    wisesr: CommandLine, trained: Trained, two_epochs: Path, tmp_path: Path, seen: Seen
) -> None:
    (tmp_path / "elsewhere").mkdir()
    run = two_epochs.rename(tmp_path / "elsewhere" / "tiny")
    answer = wisesr(*resumed(trained, run, "-s", "data.cache=none")).worked()
    notes = answer.err.splitlines()
    assert "from here on, the learning rate follows the schedule of 3 epochs" in notes
    assert "going on after epoch 2 of 3" in notes
    assert [row["epoch"] for row in read_history(run)] == ["1", "2", "3"]
    seen("epochs 2 -> 3: exit 0, schedule of 3 epochs said")


@pytest.mark.reliability(27)
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not limit processors")
def test_another_number_of_threads_goes_on_with_a_warning(
    wisesr: CommandLine, trained: Trained, two_epochs: Path, seen: Seen
) -> None:
    processors = os.sched_getaffinity(0)
    if len(processors) == 1:
        pytest.skip("this machine has one processor")
    try:
        os.sched_setaffinity(0, {min(processors)})
        answer = wisesr(*resumed(trained, two_epochs))
    finally:
        os.sched_setaffinity(0, processors)
    assert answer.code == 0
    expected = f"threads: {len(processors)} -> 1; the last bits of the numbers may differ"
    assert expected in answer.err
    assert [row["epoch"] for row in read_history(two_epochs)] == ["1", "2", "3"]
    seen(f"{expected}: exit 0")


# 28: the disk


@pytest.mark.slow
@pytest.mark.reliability(28)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("begun", [False, True], ids=["new run", "older checkpoint"])
def test_a_full_disk_at_any_write_is_5_and_the_older_checkpoint_stays(
    wisesr: CommandLine, photos: Path, tmp_path: Path, seen: Seen, begun: bool
) -> None:
    """Refuse everything that takes room from the k-th write on, for every k until the training goes through."""
    one_epoch = ("-s", "augment=light", "-s", "model.head.dropout=0.2")
    epochs = 2 if begun else 1
    runs = tmp_path / "runs"
    runs.mkdir()
    if begun:
        start = line(photos, tmp_path / "begun", *one_epoch, "--max-steps", "2", epochs=2)
        assert wisesr(*start).code == 0
        assert progress_of(tmp_path / "begun" / "tiny").epoch == 1  # type: ignore[union-attr]
    assert wisesr(*line(photos, tmp_path / "whole", *one_epoch, epochs=epochs)).code == 0
    expected = digest(tmp_path / "whole" / "tiny")
    places, states = [], set()
    for after in range(1000):
        shutil.rmtree(runs / "tiny", ignore_errors=True)
        if begun:
            shutil.copytree(tmp_path / "begun" / "tiny", runs / "tiny")
        disk = FullDisk(after)
        with hearing(runs, disk):
            answer = wisesr(*line(photos, runs, *one_epoch, "--resume", epochs=epochs))
        if disk.refused is None:
            break
        assert answer.code == 5, (disk.refused, answer.err)
        assert "the disk is full" in answer.error, disk.refused
        assert str(runs / "tiny") in answer.error, disk.refused
        progress = check_whole(runs / "tiny")
        states.add(progress.epoch if progress else None)
        assert not begun or progress is not None
        again = wisesr(*line(photos, runs, *one_epoch, "--resume", epochs=epochs))
        assert again.code == 0, (disk.refused, again.err)
        assert digest(runs / "tiny") == expected, disk.refused
        assert leftovers(runs / "tiny") == []
        places.append(disk.refused)
    assert answer.code == 0
    assert len(places) > 20
    assert states == ({1, 2} if begun else {None, 0, 1})
    kind = "with an older checkpoint" if begun else "of a new run"
    seen(f"{len(places)} writes {kind}, refused one after the other: exit 5, resumed: same SHA-256 each time")


@pytest.mark.slow
@pytest.mark.reliability(28)
@pytest.mark.timeout(1200)
def test_a_disk_that_fills_in_the_middle_of_a_file_is_5_and_the_older_checkpoint_stays(
    photos: Path, tmp_path: Path, seen: Seen
) -> None:
    """On real file systems of growing sizes, made in a namespace of their own."""
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-rm", "true"], check=False).returncode:
        pytest.skip("no namespace to mount a small disk in: unshare -rm does not work here")
    command = ["unshare", "-rm", sys.executable, SUPPORT / "full_disk.py", photos, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(tmp_path), timeout=1100, check=False)
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    full = [row for row in rows if row["code"] == 5]
    assert len(full) >= 5
    assert {row["code"] for row in rows} == {0, 5}
    for row in rows:
        assert row["resumed"] == 0, row
        assert row["digest"] == rows[-1]["digest"], row
        assert row["leftovers"] == [], row
    assert all("the disk is full" in row["said"] and "Traceback" not in row["said"] for row in full)
    assert len({row["epochs"] for row in full}) >= 2
    seen(f"{len(full)} disks of {full[0]['kilobytes']} to {full[-1]['kilobytes']} kB: exit 5, resumed: same SHA-256")


@pytest.mark.reliability(28)
def test_a_missing_parent_folder_is_5_before_training(
    photos: Path, tmp_path: Path, wisesr: CommandLine, seen: Seen
) -> None:
    answer = wisesr(*line(photos, tmp_path / "gone" / "runs"))
    assert (answer.code, answer.out) == (5, "")
    assert answer.err.splitlines() == [answer.error]
    assert f"{tmp_path / 'gone'}: no such folder; make it first, or give another --output-dir" in answer.error
    assert list(tmp_path.iterdir()) == []
    assert wisesr(*line(photos, tmp_path / "runs", "--max-steps", "1")).code == 0  # the folder itself is made
    seen("missing parent: exit 5 ... no such folder; make it first")


def drop_the_right_to_write_everywhere() -> None:
    """Let root be refused like anybody else, in the program that is run next: CAP_DAC_OVERRIDE and _READ_SEARCH."""
    prctl = ctypes.CDLL(None).prctl
    for capability in (1, 2):
        prctl(24, capability, 0, 0, 0)


@pytest.mark.reliability(28)
@pytest.mark.skipif(sys.platform != "linux", reason="rights are dropped as Linux does it")
@pytest.mark.parametrize("place", ["parent", "runs", "run"])
def test_a_folder_without_permission_to_write_is_5_before_tensorflow_is_loaded(
    photos: Path, tmp_path: Path, seen: Seen, place: str
) -> None:
    run = tmp_path / "parent" / "runs" / "tiny"
    closed = {"parent": run.parents[1], "runs": run.parent, "run": run}[place]
    closed.mkdir(parents=True)
    if place == "run":
        (run / "classes.json").write_text("[]", encoding="utf-8")
    closed.chmod(0o500)
    program = "import sys; sys.modules['tensorflow'] = None\nfrom wisesr_cli.__main__ import main\nmain()"
    answer = fresh(
        *line(photos, run.parent, "--overwrite" if place == "run" else "-q"),
        cwd=tmp_path,
        program=("-c", program),
        preexec_fn=drop_the_right_to_write_everywhere,
    )
    closed.chmod(0o700)
    assert answer.code == 5, answer.err
    assert "permission denied" in answer.error
    assert str(run.parent) in answer.error
    seen(f"read-only {place}: exit 5 ... permission denied")


# 29: another run


@pytest.mark.reliability(29)
def test_overwrite_takes_the_run_s_files_and_leaves_those_of_the_user(
    wisesr: CommandLine, trained: Trained, two_epochs: Path, seen: Seen
) -> None:
    kept = {
        two_epochs / name: name
        for name in ("notes.txt", "state/why.txt", "plots/mine.svg", "thesis/1.tex", "state/epoch-notes")
    }
    for path, text in kept.items():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    before = files_of(two_epochs)
    wisesr(*line(trained.photos, two_epochs.parent, epochs=1)).failed(2, "--resume", "--overwrite")
    assert files_of(two_epochs) == before
    assert wisesr(*line(trained.photos, two_epochs.parent, "--overwrite", epochs=1)).code == 0
    assert all(path.read_text(encoding="utf-8") == text for path, text in kept.items())
    assert [row["epoch"] for row in read_history(two_epochs)] == ["1"]
    seen(f"exit 2; with --overwrite {len(kept)} files of the user are still there")


@pytest.mark.reliability(29)
@pytest.mark.parametrize("mistake", ["image", "device"])
def test_overwrite_takes_nothing_away_before_the_new_training_can_begin(
    wisesr: CommandLine, two_epochs: Path, tmp_path: Path, mistake: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_photos(tmp_path / "photos", 6)
    before = files_of(two_epochs)
    if mistake == "image":
        (folder / "red" / "05.png").write_bytes(b"")
    else:
        monkeypatch.setenv("KERAS_BACKEND", "abacus")
    answer = wisesr(*line(folder, two_epochs.parent, "--overwrite"))
    assert answer.code == {"image": 3, "device": 5}[mistake], answer.err
    assert answer.error
    assert files_of(two_epochs) == before


# 30: a second process (a live one: with the signals above)

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
def test_refused_processes_leave_the_lock_of_a_training_that_has_written_nothing_yet(
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
def test_a_run_that_another_process_finished_meanwhile_is_not_replaced(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    run = tmp_path / "runs" / "tiny"

    def finished_meanwhile(*arguments: Any, **options: Any) -> Start:
        start = choose_run(*arguments, **options)
        shutil.copytree(trained.run, run)
        return start

    monkeypatch.setattr("wisesr_cli.training.train.choose_run", finished_meanwhile)
    answer = wisesr(*line(trained.photos, run.parent))
    assert answer.code == 5
    assert f"{run}: was made by another wisesr meanwhile; repeat the command" in answer.error
    assert files_of(run) == files_of(trained.run)
    seen(f"finished between the choice of a name and the lock: exit 5 {answer.error[-60:]}")


@pytest.mark.reliability(30)
def test_a_failed_start_that_has_the_lock_takes_its_folder_away(
    wisesr: CommandLine, photos: Path, tmp_path: Path
) -> None:
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


def test_a_dry_run_takes_away_whatever_dead_processes_left_and_no_folder_that_is_about_to_be_locked(
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


def test_a_dry_run_takes_away_what_killed_ones_left_and_nothing_of_a_live_one(
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
def test_a_stale_lock_does_not_block(wisesr: CommandLine, trained: Trained, two_epochs: Path, seen: Seen) -> None:
    (two_epochs / ".lock").write_text(f"{os.getppid()}\n", encoding="utf-8")  # lives, but is no wisesr
    wisesr(*resumed(trained, two_epochs)).worked()
    assert len(read_history(two_epochs)) == 3
    seen("stale lock with the pid of a live process: exit 0")


# 31: damage


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    path.unlink()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "garbage":
        path.write_bytes(bytes(range(255, -1, -1)) * (len(content) // 256 + 1))
    elif how == "flipped byte":
        middle = len(content) // 2
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    elif how == "a folder":
        path.mkdir()
    else:
        assert how == "removed"


def names_of(run: Path) -> list[str]:
    return sorted(str(path.relative_to(run)) for path in run.rglob("*") if path.is_file())


def is_answered(answer: Answer, name: str, expected: str | None, found: str | None) -> bool:
    """Return whether a damaged file was named with exit 4, or was not needed for the right result."""
    if answer.code == 4:
        return Path(name).name in answer.error
    if name == "best.tflite" and answer.code == 0 and "engine: Keras, as " in answer.err and name in answer.err:
        return True  # best.keras answers instead, and says so; its last digits are others
    return answer.code == 0 and found == expected


DAMAGES = ("cut", "garbage", "flipped byte", "removed", "a folder")


@pytest.mark.slow
@pytest.mark.reliability(31)
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("how", DAMAGES)
def test_every_damaged_file_of_a_run_is_named_or_not_needed(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, seen: Seen, how: str
) -> None:
    photo = trained.photos / "test" / "red" / "00.png"
    whole = Path(shutil.copytree(trained.run, tmp_path / "whole" / "tiny"))
    shutil.rmtree(whole / "evaluate-test", ignore_errors=True)
    predicted = wisesr("predict", whole, photo, "--format", "jsonl").out
    judged = wisesr("evaluate", whole, "--format", "json").out
    assert wisesr(*resumed(trained, whole)).code == 0
    ended = digest(whole)
    named, fine = [], []
    for name in names_of(trained.copy_to(tmp_path / "names")):
        for command in ("train --resume", "evaluate", "predict"):
            shutil.rmtree(tmp_path / "runs", ignore_errors=True)
            run = trained.copy_to(tmp_path / "runs" / "tiny")
            damage(run / name, how)
            if command == "train --resume":
                answer = wisesr(*resumed(trained, run))
                found, expected = (digest(run) if answer.code == 0 else None), ended
            elif command == "evaluate":
                answer = wisesr("evaluate", run, "--format", "json")
                found, expected = answer.out, judged
            else:
                answer = wisesr("predict", run, photo, "--format", "jsonl")
                found, expected = answer.out, predicted
            assert is_answered(answer, name, expected, found), (command, name, answer.code, answer.err)
            (named if answer.code == 4 else fine).append((command, name))
    assert len(named) >= 5
    seen(f"{how}: {len(named)} of {len(named) + len(fine)} cases exit 4 with the file's name, the others not needed")


@pytest.mark.reliability(31)
@pytest.mark.parametrize("command", ["evaluate", "train", "check"])
def test_a_damaged_config_of_a_run_is_4_and_not_a_mistake_of_the_user(
    wisesr: CommandLine, two_epochs: Path, seen: Seen, command: str
) -> None:
    (two_epochs / "config.yaml").write_text("schema_version: 1\ntrain: {epochs: \xff", encoding="latin-1")
    wisesr(command, two_epochs).failed(4, f"{two_epochs / 'config.yaml'}")
    seen(f"{command}: exit 4, config.yaml named")


# 32: a loss that is not finite


@pytest.mark.reliability(32)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_loss_that_is_not_finite_ends_with_3_says_the_step_and_keeps_the_best(
    wisesr: CommandLine, photos: Path, tmp_path: Path, seen: Seen, optimizer: str
) -> None:
    phases = "train.phases=[{epochs: 1}, {epochs: 2, learning_rate: 100}]"
    run = tmp_path / "runs" / "tiny"
    # Steps of the second phase make every weight 99 times larger.
    chosen = f"train.optimizer={{name: {optimizer}, learning_rate: 1e-3, weight_decay: 1}}"
    command = ["train", photos, *SMALL, "-b", "1", "-o", run.parent, "--name", run.name, "--epochs", "3"]
    answer = wisesr(*command, "-s", phases, "-s", chosen)
    assert answer.code == 3, answer.err
    assert re.search(r"the training loss became (nan|inf) at step \d+ of epoch 2;", answer.error)
    assert "Try a smaller --learning-rate" in answer.error
    assert [row["epoch"] for row in read_history(run)] == ["1"]
    assert check_whole(run).epoch == 1  # type: ignore[union-attr]
    check_model(run / "best.keras")
    predicted = wisesr("predict", run, photos / "red" / "00.png", "--format", "json").worked()
    assert 0 < predicted.data[0]["score"] <= 1
    seen(f"{optimizer}: exit 3 {answer.error.removeprefix('wisesr: ')[:70]}...")


# 33: the history


@pytest.mark.reliability(33)
def test_the_history_is_whole_at_every_moment_and_has_finished_epochs_only(
    wisesr: CommandLine, photos: Path, tmp_path: Path, seen: Seen
) -> None:
    moments: list[int] = []
    run = tmp_path / "tiny"

    def look(event: str, path: str) -> None:
        if (run / "history.csv").exists() and not path.endswith("history.csv"):
            check_whole(run)
            moments.append(len(read_history(run)))

    with hearing(run, look):
        assert wisesr(*line(photos, tmp_path, epochs=3)).code == 0
    assert moments == sorted(moments)
    assert set(moments) == {1, 2, 3}
    seen(f"read at {len(moments)} moments between writes: whole each time, rows 1 to 3 in turn")


# Writing anywhere


@pytest.mark.parametrize("place", ["/proc/x.yaml", "/proc/self/x.yaml", "/sys/x.yaml"])
def test_a_place_that_takes_no_files_is_5_with_the_reason(wisesr: CommandLine, photos: Path, place: str) -> None:
    if not Path(place).parent.is_dir():
        pytest.skip(f"no {Path(place).parent} here")
    wisesr("init", photos, "-o", place).failed(5, place)


@pytest.mark.parametrize("name", ["a" * 250 + ".yaml", "a." + "yaml" * 63 + "x"])
def test_a_name_of_255_bytes_can_be_written_and_a_longer_one_is_5(
    wisesr: CommandLine, photos: Path, tmp_path: Path, name: str
) -> None:
    assert len(name) == 255
    assert wisesr("init", photos, "-o", tmp_path / name).code == 0
    assert [path.name for path in tmp_path.iterdir()] == [name]
    answer = wisesr("init", photos, "-o", tmp_path / f"a{name}")
    assert answer.code in {2, 5}
    assert answer.error


def test_a_disk_that_is_full_from_the_start_is_one_error(wisesr: CommandLine, photos: Path, tmp_path: Path) -> None:
    disk = FullDisk(0)
    with hearing(tmp_path, disk):
        answer = wisesr(*line(photos, tmp_path / "runs"))
    assert disk.refused is not None
    assert disk.refused.startswith("os.mkdir")
    assert answer.code == 5
    assert str(tmp_path / "runs") in answer.error
