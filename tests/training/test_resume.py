"""A stopped or damaged training resumes bit for bit, or says why it cannot."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import REPOSITORY
from image_folders import make_folder, make_image
from reliability import Seen
from run_states import digest, load_engine, read_history
from small_trainings import CLASSES, EVERYTHING_RANDOM, STEPS, HeardTraining, best_weights, train_on

from wisesr_cli.errors import RunError
from wisesr_cli.results.training import TrainingResult
from wisesr_cli.run.run import Run
from wisesr_cli.run.state import read_state, write_state
from wisesr_cli.training.trainer import Trainer


@pytest.fixture
def two_epochs(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def resume(images: Path, run: Path, listener: Any = None, *, epochs: int = 3) -> TrainingResult:
    return train_on(images, run.parent, {"augment": "paper", "train.epochs": epochs}, listener, resume=True)


@pytest.mark.slow
@pytest.mark.reliability(26, 27)
def test_training_interrupted_in_every_phase_ends_like_the_uninterrupted_one(
    images: Path, tmp_path: Path, seen: Seen
) -> None:
    train_on(images, tmp_path / "whole", EVERYTHING_RANDOM)
    stops = []
    # In the middle of epoch 2; after epoch 3, the first of the second phase; then in the middle of epoch 5.
    for max_steps in (STEPS + 2, 2 * STEPS, STEPS + 1):
        result = train_on(images, tmp_path / "parts", EVERYTHING_RANDOM, resume=True, max_steps=max_steps)
        stops.append((len(result.history), result.finished))
    assert stops == [(1, False), (3, False), (4, False)]
    _resume_in_a_fresh_process(images, tmp_path / "parts")
    whole, parts = (tmp_path / name / "run" for name in ("whole", "parts"))
    assert len(read_history(parts)) == 5
    assert read_history(parts) == read_history(whole)
    for left, right in zip(best_weights(whole), best_weights(parts), strict=True):
        assert np.array_equal(left, right)
    assert digest(whole) == digest(parts)
    seen(f"stopped 3 times, twice within an epoch: SHA-256 {digest(parts)[:12]}..., same as uninterrupted")


def _resume_in_a_fresh_process(images: Path, folder: Path) -> None:
    program = (
        "import pathlib, small_trainings as t; "
        f"t.train_on(pathlib.Path({str(images)!r}), pathlib.Path({str(folder)!r}), t.EVERYTHING_RANDOM, resume=True)"
    )
    places = os.pathsep.join((str(Path(__file__).parent), str(REPOSITORY / "tests" / "support"), str(REPOSITORY)))
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": places}, check=True, timeout=240)


def test_finished_run_has_nothing_to_do_until_more_epochs_are_requested(images: Path, two_epochs: Path) -> None:
    before, splits = read_history(two_epochs), (two_epochs / "splits.csv").read_bytes()
    result = resume(images, two_epochs, epochs=2)
    assert (result.epochs_done_now, result.finished, result.best_epoch is not None) == (0, True, True)
    assert read_history(two_epochs) == before
    (two_epochs / "splits.csv").unlink()
    (two_epochs / "classes.json").write_text('["x"]', encoding="utf-8")
    heard = HeardTraining()
    result = resume(images, two_epochs, heard)
    assert (result.epochs_done_now, result.finished) == (1, True)
    assert read_history(two_epochs)[:2] == before
    assert (two_epochs / "splits.csv").read_bytes() == splits
    assert Run(two_epochs).read_classes() == CLASSES
    assert "from here on, the learning rate follows the schedule of 3 epochs" in heard.notes
    assert "resuming after epoch 2 of 3" in heard.notes


def test_resume_rejects_a_damaged_state(images: Path, two_epochs: Path) -> None:
    file = next((two_epochs / "state").glob("*/optimizer.npz"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"optimizer\.npz: damaged"):
        resume(images, two_epochs)


@pytest.mark.reliability(27)
def test_time_limit_leaves_a_state_to_resume_from(images: Path, tmp_path: Path) -> None:
    result = train_on(images, tmp_path, time_limit_seconds=1e-6)
    assert result.stopped == "the time limit of 1e-06 seconds"
    assert (result.finished, result.history, result.best_epoch) == (False, (), None)
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["epoch-000000"]
    assert train_on(images, tmp_path, resume=True).finished


def test_max_steps_of_exactly_one_epoch_completes_the_epoch(images: Path, tmp_path: Path) -> None:
    result = train_on(images, tmp_path, max_steps=STEPS)
    assert result.stopped == f"{STEPS} steps were requested"
    assert (len(result.history), result.best_epoch, result.finished) == (1, 1, False)


def test_finished_run_without_its_state_is_not_restarted(images: Path, two_epochs: Path) -> None:
    before = (two_epochs / "best.keras").read_bytes()
    shutil.rmtree(two_epochs / "state")
    with pytest.raises(RunError, match="no state to resume from"):
        resume(images, two_epochs)
    assert (two_epochs / "best.keras").read_bytes() == before


def make_best(run: Path, epoch: int) -> None:
    """Rewrite the state and the metadata of the model as if this epoch had been the best one."""
    state = read_state(run / "state")
    state.progress["progress"]["best_epoch"] = epoch
    write_state(run / "state", 2, state.arrays, state.progress)
    say_epoch(run / "best.keras", epoch)


def say_epoch(model: Path, epoch: int) -> None:
    """Change the epoch in the metadata of a model file."""
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    info = {**json.loads(members["wisesr.json"]), "epoch": epoch}
    with zipfile.ZipFile(model, "w") as archive:
        for name, content in {**members, "wisesr.json": json.dumps(info).encode()}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("damage", ["missing", "of the epoch before"])
def test_best_model_not_written_by_a_killed_process_is_rebuilt_from_the_state(
    images: Path, two_epochs: Path, damage: str
) -> None:
    best = two_epochs / "best.keras"
    make_best(two_epochs, 2)
    if damage == "missing":
        best.unlink()
    else:
        say_epoch(best, 1)
    result = resume(images, two_epochs, epochs=2)
    assert (result.epochs_done_now, result.best_epoch) == (0, 2)
    assert load_engine(two_epochs).info.epoch == 2
    state = read_state(two_epochs / "state")
    for ours, theirs in zip(state.group("model").values(), best_weights(two_epochs), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("epoch", [2, 3])
def test_best_model_from_an_epoch_that_is_not_the_best_is_rejected(images: Path, two_epochs: Path, epoch: int) -> None:
    make_best(two_epochs, 1)
    say_epoch(two_epochs / "best.keras", epoch)
    with pytest.raises(
        RunError, match=rf"best\.keras: is the model of epoch {epoch}, but the best one is that of epoch 1"
    ):
        resume(images, two_epochs)


def test_resume_rejects_random_draws_that_differ_from_the_state(
    images: Path, two_epochs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Trainer._seed_states
    monkeypatch.setattr(Trainer, "_seed_states", lambda trainer, epoch: [state + 1 for state in drawn(trainer, epoch)])
    with pytest.raises(RunError, match=r"the random draws of epoch 3 would differ \(00000 seed generator\)"):
        resume(images, two_epochs)


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_damaged_best_model_is_detected_before_the_next_epoch(images: Path, two_epochs: Path, damage: str) -> None:
    make_best(two_epochs, 1)
    best, history = two_epochs / "best.keras", (two_epochs / "history.csv").read_bytes()
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 0xFF
    best.unlink()
    if damage != "missing":
        best.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    heard = HeardTraining()
    with pytest.raises(RunError, match=r"best\.keras: "):
        resume(images, two_epochs, heard)
    assert heard.rows == []
    assert (two_epochs / "history.csv").read_bytes() == history


def test_requesting_fewer_epochs_than_done_leaves_nothing_to_do(images: Path, two_epochs: Path) -> None:
    result = resume(images, two_epochs, epochs=1)
    assert (result.finished, result.epochs_done_now, len(result.history)) == (True, 0, 2)


def test_resume_accepts_a_changed_test_image_but_not_a_changed_validation_image(tmp_path: Path) -> None:
    counts = {f"{split}/{name}": 4 for split in ("train", "validation", "test") for name in CLASSES}
    photos = make_folder(tmp_path / "photos", counts)
    train_on(photos, tmp_path, {"train.epochs": 1})
    make_image(photos / "test" / "a" / "000.png", 999)
    assert len(train_on(photos, tmp_path, resume=True).history) == 2
    make_image(photos / "validation" / "a" / "000.png", 998)
    with pytest.raises(RunError, match="validation, class 'a'"):
        train_on(photos, tmp_path, {"train.epochs": 3}, resume=True)
