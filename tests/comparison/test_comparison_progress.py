"""One display for all trainings of a comparison."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from command_line import make_photos
from comparisons import HEADS, settings_of
from image_folders import Heard

import wisesr_cli
from wisesr_cli.comparison import compare
from wisesr_cli.comparison.progress import CombinedProgress
from wisesr_cli.errors import Interrupted, NotFiniteError
from wisesr_cli.listening import TrainingPlan
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.training.examples import open_examples


def plan(*warnings: str) -> TrainingPlan:
    counts, images = {"train": (8, 8), "test": (2, 2)}, {"train": 16, "test": 4}
    return TrainingPlan(
        "run", "CPU", ("a", "b"), counts, images, (32, 32), "compact", None, (4, 4, 8), "gap", 10, 5, 3, 4, warnings
    )


def test_one_bar_counts_the_steps_of_all_trainings_and_warnings_are_shown_once() -> None:
    heard = Heard()
    combined = CombinedProgress(heard, trainings=2, epochs=3, stop=StopRequest())
    for title, steps in (("gap, seed 0", 12), ("wise, seed 0", 8)):  # the second one is resumed after an epoch
        combined.start(title)
        combined.prepared(plan("flips take positions away"))
        with combined.progress("training", steps) as part:
            part.advance(steps)
        with combined.progress("evaluating", 100) as part:
            part.advance(100)
        combined.finish()
    combined.close()
    assert heard.bars == [("gap, seed 0 (1 of 2)", 24)]
    assert heard.steps == {"gap, seed 0 (1 of 2)": 24}
    assert heard.warnings == ["flips take positions away"]
    assert heard.notes == ["device: CPU", "images: 16 train, 4 test; 2 classes"]


def test_a_signal_between_trainings_stops_at_the_next_step() -> None:
    stop = StopRequest()
    combined = CombinedProgress(Heard(), trainings=1, epochs=3, stop=stop)
    combined.start("gap, seed 0")
    combined.prepared(plan())
    stop.signal_number = signal.SIGTERM
    with combined.progress("evaluating", 100) as part, pytest.raises(Interrupted, match="continue with --resume"):
        part.advance()


# One display


def test_a_warning_about_the_images_is_shown_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heard, photos = Heard(), make_photos(tmp_path / "photos", 8)
    shutil.copy(photos / "red" / "00.png", photos / "blue" / "00.png")

    def only_look(loaded: Any, _: Any, listener: Any) -> Any:
        open_examples(loaded.config, listener).close()
        raise NotFiniteError("not trained")

    monkeypatch.setattr(compare.train, "train", only_look)
    wisesr_cli.compare(photos, settings_of(tmp_path / "twice"), heads=HEADS, seeds=1, listener=heard)
    assert len([warning for warning in heard.warnings if "under two labels" in warning]) == 1
