"""Training survives changes, damage, other runs and non-finite losses, end to end (promises 27, 29, 31 to 33)."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from command_line import QUICK, SMALL, Answer, CommandLine, Trained, make_photos
from disk_events import hearing
from quick_trainings import files_of, line, resumed
from reliability import Seen
from run_states import check_whole, digest, read_history

from wisesr_cli.model_files.archive import check_model
from wisesr_cli.run.state import read_state, write_state


@pytest.fixture
def two_epochs(trained: Trained, tmp_path: Path) -> Path:
    """Return a copy of the finished run `tiny`."""
    return trained.copy_to(tmp_path / "runs" / "tiny")


# 27: what may change before resuming


def with_other_versions(run: Path) -> None:
    """Rewrite the state as if the run had been trained with another NumPy."""
    state = read_state(run / "state")
    state.progress["circumstances"]["versions"]["numpy"] = "1.0"
    epoch = len(state.progress["progress"]["history"])
    write_state(run / "state", epoch, state.arrays, state.progress)


@pytest.mark.reliability(27)
@pytest.mark.parametrize("change", ["data", "class", "config", "versions", "seed generators"])
def test_resume_rejects_a_change_that_affects_results_and_names_the_difference(
    wisesr: CommandLine, trained: Trained, two_epochs: Path, tmp_path: Path, seen: Seen, change: str
) -> None:
    moved = Trained(two_epochs, trained.photos)
    more: tuple[object, ...] = ()
    if change in {"data", "class"}:
        moved = Trained(two_epochs, Path(shutil.copytree(trained.photos, tmp_path / "photos")))
        more = ("-s", f"data.dir={moved.photos}")
    if change == "data":
        changed = moved.photos / "train" / "red" / "00.png"
        status = changed.stat()
        changed.write_bytes(changed.read_bytes() + b"\n")
        os.utime(changed, ns=(status.st_atime_ns, status.st_mtime_ns))
        expected = "train, class 'red': some of its 12 files have changed"
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
def test_resume_accepts_more_epochs_and_a_moved_run(
    wisesr: CommandLine, trained: Trained, two_epochs: Path, tmp_path: Path, seen: Seen
) -> None:
    (tmp_path / "elsewhere").mkdir()
    run = two_epochs.rename(tmp_path / "elsewhere" / "tiny")
    answer = wisesr(*resumed(trained, run, "-s", "data.cache=none")).worked()
    notes = answer.err.splitlines()
    assert "from here on, the learning rate follows the schedule of 3 epochs" in notes
    assert "resuming after epoch 2 of 3" in notes
    assert [row["epoch"] for row in read_history(run)] == ["1", "2", "3"]
    assert "learning rate of the remaining epochs is below" not in answer.err
    seen("epochs 2 -> 3: exit 0, schedule of 3 epochs reported")


@pytest.mark.reliability(27)
def test_resume_accepts_moved_images_and_other_dates_with_a_note(
    wisesr: CommandLine, trained: Trained, two_epochs: Path, tmp_path: Path, seen: Seen
) -> None:
    photos = tmp_path / "elsewhere" / "photos"
    shutil.copytree(trained.photos, photos, copy_function=shutil.copyfile)
    moved = f"data.dir: {trained.photos} -> {photos}: the same images in another place"
    dated = "images have different dates than at the start of training, but the same content"
    notes = wisesr(*resumed(Trained(two_epochs, photos), two_epochs)).worked().err.splitlines()
    assert {moved, dated} <= set(notes)
    assert [row["epoch"] for row in read_history(two_epochs)] == ["1", "2", "3"]
    assert f"dir: {photos}\n" in (two_epochs / "config.yaml").read_text(encoding="utf-8")
    shutil.rmtree(tmp_path / "elsewhere")
    wisesr("evaluate", two_epochs).failed(4, f"its images are no longer at {photos}")
    again = wisesr(*resumed(trained, two_epochs), "--epochs", "4").worked()
    assert f"data.dir: {photos} -> {trained.photos}: the same images in another place" in again.err.splitlines()
    wisesr("evaluate", two_epochs).worked()
    seen("copied with other dates, then moved: exit 0, both reported")


@pytest.mark.slow
def test_resume_warns_of_a_learning_rate_near_zero(wisesr: CommandLine, trained: Trained, tmp_path: Path) -> None:
    schedule = ("-s", "train.schedule={name: exponential, decay_rate: 1e-3, decay_epochs: 1, staircase: true}")
    words = ("train", trained.photos, *QUICK, "-o", tmp_path, "--name", "run", *schedule)
    wisesr(*words, "--epochs", "1").worked()
    answer = wisesr(*words, "--epochs", "2", "--resume").worked()
    assert "the learning rate of the remaining epochs is below 1% of its start" in answer.err
    assert f"wisesr train {tmp_path}/run/config.yaml -s model.weights={tmp_path}/run" in answer.err


@pytest.mark.reliability(27)
@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system does not limit processors")
def test_resume_warns_of_another_number_of_threads(
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


# 29: another run


@pytest.mark.reliability(29)
def test_overwrite_replaces_files_of_the_run_and_keeps_those_of_the_user(
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
    seen(f"exit 2; with --overwrite, {len(kept)} user files are kept")


@pytest.mark.reliability(29)
@pytest.mark.parametrize("mistake", ["image", "device"])
def test_overwrite_removes_nothing_before_the_new_training_can_start(
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
        return True  # best.keras is used instead, with a note; its last digits differ
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
@pytest.mark.parametrize("command", ["evaluate", "train --resume", "check"])
def test_a_damaged_config_of_a_run_exits_with_4_and_is_not_a_usage_error(
    wisesr: CommandLine, two_epochs: Path, seen: Seen, command: str
) -> None:
    (two_epochs / "config.yaml").write_text("schema_version: 1\ntrain: {epochs: \xff", encoding="latin-1")
    wisesr(*command.split(), two_epochs).failed(4, f"{two_epochs / 'config.yaml'}")
    seen(f"{command}: exit 4, config.yaml named")


# 32: a non-finite loss


@pytest.mark.reliability(32)
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_a_non_finite_loss_exits_with_3_names_the_step_and_keeps_the_best_model(
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
def test_the_history_is_complete_at_every_moment_and_has_only_finished_epochs(
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
    seen(f"read at {len(moments)} moments between writes: complete each time, rows 1 to 3 in turn")
