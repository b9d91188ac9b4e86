"""Training on small folders of images: its files, reproducibility and errors; on every backend."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from image_folders import make_folder
from run_states import load_engine, read_history
from small_trainings import CLASSES, EVERYTHING_RANDOM, STEPS, HeardTraining, best_weights, train_on

from wisesr_cli.engines.keras import numpy_logits
from wisesr_cli.errors import ConfigError, DataError
from wisesr_cli.listening import Silent
from wisesr_cli.results.training import EpochResult
from wisesr_cli.run.progress import Progress
from wisesr_cli.run.state import read_state
from wisesr_cli.training.trainer import Trainer


def test_run_directory_holds_exactly_the_documented_files(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir() if not path.name.startswith(".")) == [
        "README.md",
        "best.keras",
        *(["best.tflite"] if keras.backend.backend() == "tensorflow" else []),
        "calibration.json",
        "classes.json",
        "config.yaml",
        "environment.json",
        "history.csv",
        "metrics.json",
        "plots",
        "splits.csv",
        "state",
        "tensorboard",
    ]
    assert {path.name for path in finished.iterdir() if path.name.startswith(".")} == {".lock", ".written.jsonl"}
    assert [path.name for path in (finished / "state").iterdir()] == ["epoch-000002"]
    assert [path.name for path in (finished / "plots").iterdir()] == ["learning_curves.png"]


def test_history_splits_and_classes_have_the_documented_format(finished: Path) -> None:
    header, *rows = (finished / "history.csv").read_text(encoding="utf-8").splitlines()
    assert header == "epoch,phase,learning_rate,loss,top1_accuracy,val_loss,val_top1_accuracy,epoch_seconds"
    assert [row.split(",")[:2] for row in rows] == [["1", "1"], ["2", "1"]]
    header, *rows = (finished / "splits.csv").read_text(encoding="utf-8").splitlines()
    assert header == "path,label,split"
    assert Counter(row.rpartition(",")[2] for row in rows) == {"train": 36, "validation": 12}
    assert json.loads((finished / "classes.json").read_text(encoding="utf-8")) == list(CLASSES)


def test_saved_model_has_no_random_layer_and_is_deterministic(finished: Path) -> None:
    model = load_engine(finished).model
    layers = [layer for part in (model, model.get_layer("backbone")) for layer in part.layers]
    assert not [layer.name for layer in layers if "Random" in type(layer).__name__]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    first = keras.ops.convert_to_numpy(model(pixels, training=True))
    again = keras.ops.convert_to_numpy(keras.models.load_model(finished / "best.keras")(pixels, training=True))
    assert np.array_equal(first, again)


def test_saved_model_accepts_uint8_and_float32_and_matches_the_engine(finished: Path) -> None:
    engine = load_engine(finished)
    model = keras.models.load_model(finished / "best.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    expected = engine.logits(pixels)
    assert expected.shape == (5, 3)
    assert expected.dtype == np.float32
    for batch in (pixels, pixels.astype("float32")):
        np.testing.assert_allclose(keras.ops.convert_to_numpy(model(batch)), expected, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(model.predict(batch, verbose=0), expected, rtol=1e-5, atol=1e-5)
    assert np.array_equal(numpy_logits(model, pixels), expected)
    with zipfile.ZipFile(finished / "best.keras") as archive:
        assert "wisesr.json" in archive.namelist()


def test_same_seed_reproduces_the_history_and_another_seed_does_not(
    images: Path, finished: Path, tmp_path: Path
) -> None:
    train_on(images, tmp_path, {"augment": "paper"})
    assert read_history(tmp_path / "run") == read_history(finished)
    train_on(images, tmp_path, {"augment": "paper", "seed": 1, "name": "other"})
    assert read_history(tmp_path / "other") != read_history(finished)


def test_dry_run_trains_one_step_and_leaves_nothing_behind(images: Path, tmp_path: Path) -> None:
    heard = HeardTraining()
    result = train_on(images, tmp_path, EVERYTHING_RANDOM, heard, dry_run=True)
    assert result.stopped == "dry run"
    assert result.history == ()
    assert heard.plan is not None
    assert heard.plan.steps_per_epoch == STEPS
    assert any("one step with loss" in note for note in heard.notes)
    assert list(tmp_path.iterdir()) == []


def test_without_validation_the_last_epoch_is_the_best(images: Path, tmp_path: Path) -> None:
    result = train_on(images / "train", tmp_path, {"data.validation_split": 0.0})
    assert result.best_epoch == 2
    assert result.metrics is None
    assert [row["val_loss"] for row in read_history(tmp_path / "run")] == ["", ""]
    assert not (tmp_path / "run" / "metrics.json").exists()
    state = read_state(tmp_path / "run" / "state")
    for ours, theirs in zip(state.arrays["model"].values(), best_weights(tmp_path / "run"), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_training_saves_a_float32_model(images: Path, tmp_path: Path, precision: str) -> None:
    result = train_on(images, tmp_path, {"train.precision": precision, "train.epochs": 1, "model.head.dropout": 0.2})
    keras.config.set_dtype_policy("float32")
    model = load_engine(tmp_path / "run").model
    layers = [layer for part in (model, model.get_layer("backbone")) for layer in part.layers]
    assert {layer.dtype_policy.name for layer in layers} == {"float32"}
    state = read_state(tmp_path / "run" / "state")
    for ours, theirs in zip(state.arrays["model"].values(), model.get_weights(), strict=True):
        assert ours.dtype == theirs.dtype == np.float32
        assert np.array_equal(ours, theirs)
    assert result.metrics is not None
    assert result.history[0].val_top1_accuracy == pytest.approx(result.metrics.top1_accuracy, abs=2 / 12)


def test_class_weight_for_an_unknown_class_is_an_error_that_lists_the_classes(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"class_weights has 'd', which is not a class; classes: a, b, c"):
        train_on(images, tmp_path, {"train.class_weights": {"d": 2.0}})


def test_non_finite_loss_is_an_error_that_names_the_step_and_keeps_the_best_model(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rates(*arguments: Any, **options: Any) -> Any:
        values = np.full(2 * STEPS, 1e-3, np.float32)
        values[STEPS + 1] = np.inf  # the second step of the second epoch spoils the weights
        return values

    monkeypatch.setattr("wisesr_cli.training.optimizers.learning_rates", rates)
    with pytest.raises(DataError, match=r"training loss became nan at step 3 of epoch 2; .*--learning-rate"):
        train_on(images, tmp_path)
    run = tmp_path / "run"
    assert len(read_history(run)) == 1
    assert load_engine(run).info.epoch == 1
    assert all(np.isfinite(weight).all() for weight in best_weights(run))
    assert [path.name for path in (run / "state").iterdir()] == ["epoch-000001"]


def test_image_removed_during_training_is_a_data_error_that_names_it(tmp_path: Path) -> None:
    images = make_folder(
        tmp_path / "images", {f"{part}/{name}": 4 for part in ("train", "validation") for name in "ab"}
    )

    class Remover(Silent):
        def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
            (images / "train" / "a" / "002.png").unlink()

    with pytest.raises(DataError, match=r"002\.png: .*it could be read when the run started"):
        train_on(images, tmp_path, {"data.cache": "none", "train.batch_size": 4}, Remover())


def test_early_stopping_ends_a_training(images: Path, tmp_path: Path) -> None:
    stopping = {"monitor": "val_top1_accuracy", "patience": 1, "min_delta": 1.0}
    result = train_on(images, tmp_path, {"train.epochs": 9, "train.early_stopping": stopping})
    assert len(result.history) == 2
    assert result.finished
    assert "early stopping" in str(result.stopped)
    assert train_on(images, tmp_path, {"train.epochs": 9, "train.early_stopping": stopping}, resume=True).finished


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_learning_rate_falls_on_a_plateau_and_training_continues(images: Path, tmp_path: Path, precision: str) -> None:
    schedule = {"name": "plateau", "monitor": "loss", "factor": 0.5, "patience": 1, "min_delta": 100.0, "cooldown": 1}
    settings = {"train.schedule": schedule, "train.optimizer": {"name": "sgd", "learning_rate": 0.1}}
    try:
        result = train_on(images, tmp_path, {"train.epochs": 5, "train.precision": precision, **settings})
    finally:
        keras.config.set_dtype_policy("float32")
    assert [row.learning_rate for row in result.history] == pytest.approx([0.1, 0.1, 0.05, 0.025, 0.0125])
    arrays = read_state(tmp_path / "run" / "state").group("optimizer")
    [factor] = [value for name, value in arrays.items() if "learning_rate_factor" in name]
    assert factor == pytest.approx(0.125)


def test_non_finite_weights_are_never_the_best_model(tmp_path: Path) -> None:
    def spoiled(self: Trainer) -> bool:
        return len(self.progress.history) == 0  # as if the last step of epoch 2 had spoilt them

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "weights_are_finite", spoiled)
        photos = make_folder(tmp_path / "photos", dict.fromkeys(CLASSES, 8))
        with pytest.raises(DataError, match="weights became nan at the end of epoch 2"):
            train_on(photos, tmp_path, {"data.validation_split": 0, "train.epochs": 3})
    assert Progress.from_json(read_state(tmp_path / "run" / "state").progress["progress"]).best_epoch == 1
    assert np.isfinite(load_engine(tmp_path / "run").logits(np.zeros((1, 32, 32, 3), np.uint8))).all()
