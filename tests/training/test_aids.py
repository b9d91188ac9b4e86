"""Training with aids: what each one changes, what is saved, and that a stopped training resumes bit for bit."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import REPOSITORY
from run_states import digest, load_engine, read_history
from small_trainings import STEPS, HeardTraining, best_weights, build_trainer, train_on

from wisesr_cli.errors import ConfigError
from wisesr_cli.run.state import read_state
from wisesr_cli.training.arrays import named_arrays

AIDS: dict[str, dict[str, Any]] = {
    "mixup": {"augment": {"mixup": 0.4}, "train.class_weights": {"a": 2.0}},
    "cutmix": {"augment": {"cutmix": 1.0}},
    "both": {"augment": {"mixup": 0.4, "cutmix": 1.0, "zoom": 0.1}, "train.label_smoothing": 0.1},
    "rand_augment": {"augment": {"rand_augment": 0.3}},
    "random_erasing": {"augment": {"random_erasing": 0.5}},
    "ema": {"augment": "none", "train.ema": 0.8},
    "accumulation": {"augment": "none", "train.gradient_accumulation_steps": 3},
    "focal": {"augment": "none", "train.loss": "focal"},
}
ALL = {
    "augment": {"mixup": 0.4, "cutmix": 1.0, "random_erasing": 0.5},
    "model.head": {"name": "wise", "dropout": 0.5},
    "train.class_weights": {"a": 2.0},
    "train.label_smoothing": 0.1,
    "train.ema": {"momentum": 0.8},
    "train.gradient_accumulation_steps": 3,
    "train.loss": {"name": "focal", "gamma": 1.0},
    "train.phases": [{"epochs": 1, "freeze": "backbone"}, {"epochs": 3, "learning_rate": 1e-3}],
    "train.epochs": 4,
}


def run_python(program: str, *, timeout: float = 290, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a separate process, with another backend or several devices."""
    places = os.pathsep.join((str(Path(__file__).parent), str(REPOSITORY / "tests" / "support"), str(REPOSITORY)))
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": places, **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


@pytest.fixture(scope="module")
def plain(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of two epochs without any aid."""
    folder = tmp_path_factory.mktemp("plain")
    train_on(images, folder, {"augment": "none"})
    return folder / "run"


@pytest.mark.slow
@pytest.mark.parametrize("name", AIDS)
def test_aid_changes_the_training_and_resumes_bit_for_bit(name: str, images: Path, plain: Path, tmp_path: Path) -> None:
    for part in ("whole", "parts"):
        (tmp_path / part).mkdir()
    train_on(images, tmp_path / "whole", AIDS[name])
    for steps in (2, STEPS + 1):  # in the middle of epochs 1 and 2
        train_on(images, tmp_path / "parts", AIDS[name], resume=True, max_steps=steps)
    train_on(images, tmp_path / "parts", AIDS[name], resume=True)
    whole, parts = tmp_path / "whole" / "run", tmp_path / "parts" / "run"
    assert digest(whole) == digest(parts)
    assert read_history(whole) == read_history(parts)
    assert len(read_history(whole)) == 2
    pairs = zip(best_weights(whole), best_weights(plain), strict=True)
    assert any(not np.array_equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.slow
def test_all_aids_combined_resume_bit_for_bit_after_stops_in_every_phase(images: Path, tmp_path: Path) -> None:
    check_stopped_training(images, tmp_path)


def check_stopped_training(images: Path, folder: Path) -> None:
    for part in ("whole", "parts"):
        (folder / part).mkdir()
    train_on(images, folder / "whole", ALL)
    for steps in (2, STEPS, STEPS + 2):  # within phase 1, at its end, and within phase 2
        train_on(images, folder / "parts", ALL, resume=True, max_steps=steps)
    train_on(images, folder / "parts", ALL, resume=True)
    whole, parts = folder / "whole" / "run", folder / "parts" / "run"
    assert len(read_history(whole)) == 4
    assert read_history(whole) == read_history(parts)
    assert digest(whole) == digest(parts)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_all_aids_combined_resume_bit_for_bit_on_jax(images: Path, tmp_path: Path) -> None:
    program = (
        f"import pathlib, test_aids as t; t.check_stopped_training(pathlib.Path({str(images)!r}), "
        f"pathlib.Path({str(tmp_path)!r}))"
    )
    run_python(program, timeout=1700, KERAS_BACKEND="jax").check_returncode()


# --- averaged weights ---


def test_averaged_weights_are_validated_and_saved_while_training_uses_the_raw_ones(
    images: Path, tmp_path: Path
) -> None:
    settings = {"augment": "none", "train.ema": 0.8, "train.batch_size": 12, "train.optimizer.learning_rate": 0.01}
    heard = HeardTraining()
    train_on(images, tmp_path, {**settings, "train.best_by": "loss"}, heard)
    run = tmp_path / "run"
    state = read_state(run / "state")
    assert not heard.plan.warnings  # type: ignore[union-attr]
    weights, averages = state.group("model"), state.group("averaged")
    assert weights.keys() == averages.keys()
    assert any(not np.array_equal(weights[key], averages[key]) for key in weights)
    statistics = [key for key in weights if "moving_" in key]
    assert statistics
    assert all(np.array_equal(weights[key], averages[key]) for key in statistics)
    best = state.record("progress")["best_epoch"]
    if best == 2:
        saved = best_weights(run)
        assert all(np.array_equal(one, other) for one, other in zip(saved, averages.values(), strict=True))
    engine = load_engine(run)
    trainer = build_trainer(images, tmp_path, settings)
    assert trainer.validation is not None
    batch = trainer.validation[0]
    logits = engine.logits(batch[0])
    shifted = logits - logits.max(axis=-1, keepdims=True)
    loss = -np.mean((batch[1] * (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))).sum(axis=-1))
    assert float(read_history(run)[best - 1]["val_loss"]) == pytest.approx(float(loss), rel=1e-4)


def test_swapping_in_averaged_weights_and_back_is_bit_exact(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path, {"augment": "none", "train.ema": 0.8})
    trainer.begin_phase(trainer.config.phases[0])
    for _ in range(3):
        trainer.train_one_step()
    before = named_arrays([*trainer.classifier.model.weights, *trainer.model.optimizer.variables])
    expected = trainer.arrays()["averaged"]
    with trainer.averaged():
        inside = named_arrays(trainer.classifier.model.weights)
    after = named_arrays([*trainer.classifier.model.weights, *trainer.model.optimizer.variables])
    assert all(np.array_equal(before[key], after[key]) for key in before)
    assert all(np.array_equal(inside[key], expected[key]) for key in inside)
    assert any(not np.array_equal(inside[key], before[key]) for key in inside)


def test_lost_best_model_is_rebuilt_from_the_averages(images: Path, tmp_path: Path) -> None:
    settings = {"augment": "none", "train.ema": 0.8, "data.validation_split": 0.0, "train.epochs": 1}
    train_on(images / "train", tmp_path, settings)
    best = tmp_path / "run" / "best.keras"
    weights = best_weights(tmp_path / "run")
    best.unlink()
    train_on(images / "train", tmp_path, settings, resume=True)
    assert all(np.array_equal(one, other) for one, other in zip(weights, best_weights(tmp_path / "run"), strict=True))
    averages = read_state(tmp_path / "run" / "state").group("averaged")
    assert all(np.array_equal(one, other) for one, other in zip(weights, averages.values(), strict=True))


@pytest.mark.slow
def test_two_devices_compute_the_same_averages_as_one(images: Path, tmp_path: Path) -> None:
    settings = {"augment": "none", "train.ema": 0.5, "train.optimizer.learning_rate": 0.01}
    two = {"distribute.strategy": "data_parallel", "distribute.devices": 2}
    program = (
        "import pathlib, small_trainings as t; "
        f"images, folder = pathlib.Path({str(images)!r}), pathlib.Path({str(tmp_path)!r}); "
        f"t.train_on(images, folder / 'two', { ({**settings, **two})!r}); "
        f"t.train_on(images, folder / 'one', {settings!r})"
    )
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    run_python(program).check_returncode()
    one, other = (read_state(tmp_path / name / "run" / "state") for name in ("one", "two"))
    for group in ("model", "averaged"):
        for ours, theirs in zip(one.group(group).values(), other.group(group).values(), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    assert any(not np.array_equal(other.group("model")[key], value) for key, value in other.group("averaged").items())


# --- interaction with other features ---


@pytest.mark.parametrize("augment", [None, "none"])
def test_feature_maps_are_not_cached_in_a_phase_that_mixes_images(
    augment: str | None, images: Path, tmp_path: Path
) -> None:
    phase = {"epochs": 1, "freeze": "backbone", "augment": augment}
    heard = HeardTraining()
    train_on(images, tmp_path, {"augment": {"mixup": 0.2}, "train.phases": [phase], "train.epochs": 1}, heard)
    said = "feature maps of the frozen backbone are not cached, as augment.mixup mixes the images"
    assert (said in heard.notes) == (augment is None)


def test_mixing_on_several_devices_is_rejected_before_training_starts(images: Path, tmp_path: Path) -> None:
    program = (
        "import pathlib, small_trainings as t; "
        f"t.train_on(pathlib.Path({str(images)!r}), pathlib.Path({str(tmp_path)!r}), "
        "{'augment': {'mixup': 0.2}, 'distribute.strategy': 'data_parallel', 'distribute.devices': 2})"
    )
    done = run_python(program)
    assert f"{ConfigError.__name__}: augment.mixup is for one device, but 2 train together" in done.stderr
    assert not (tmp_path / "run" / "history.csv").exists()


@pytest.mark.parametrize("name", ["mixup", "rand_augment", "random_erasing"])
def test_aids_that_tensorflow_cannot_compile_train_without_xla(name: str, images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path, {**AIDS[name], "train.jit_compile": True})
    expected = keras.backend.backend() == "jax" or name == "random_erasing"
    trainer.begin_phase(trainer.config.phases[0])
    assert trainer.uses_xla == expected
