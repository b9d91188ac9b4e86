"""Training on small folders of images: repeatable, resumable to the bit, and honest when it fails; on every backend."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from command_line import REPOSITORY
from image_folders import make_folder, make_image
from loaded import load_engine
from run_states import digest

from wisesr_cli.config.reader import LoadedConfig, Override, load_config
from wisesr_cli.config.schema import Config
from wisesr_cli.config.training import PhaseConfig
from wisesr_cli.data.pixels import epoch_order
from wisesr_cli.engines.keras import numpy_logits
from wisesr_cli.errors import ConfigError, DataError, RunError, UsageError
from wisesr_cli.listening import Silent, TrainingPlan
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.models.build import build_classifier
from wisesr_cli.results import EpochResult, TrainingResult
from wisesr_cli.run.progress import Progress
from wisesr_cli.run.run import Run
from wisesr_cli.run.state import State, read_state, write_state
from wisesr_cli.training.batches import Batches, balanced_weights
from wisesr_cli.training.devices.distribution import ALONE
from wisesr_cli.training.epochs import EpochKeeper, TrainingStopped
from wisesr_cli.training.examples import open_examples
from wisesr_cli.training.optimizers import SGD, Adam, AdamW, StepSchedule
from wisesr_cli.training.train import Limits, TrainingOptions, train
from wisesr_cli.training.trainer import Trainer, named_arrays

CLASSES = ("a", "b", "c")
STEPS = 5  # of an epoch: 36 images in batches of 8, the last one of 4
EVERYTHING_RANDOM = {
    "augment": "paper",
    "model.head": {"name": "wise", "dropout": 0.5},
    "train.label_smoothing": 0.1,
    "train.class_weights": {"a": 2.0},
    "train.early_stopping": {"monitor": "val_loss", "patience": 20},
    "train.phases": [{"epochs": 2, "freeze": "backbone"}, {"epochs": 3, "learning_rate": 1e-3}],
    "train.epochs": 5,
}


class Heard(Silent):
    """Remembers what a training tells."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.rows: list[EpochResult] = []
        self.best_epochs: list[int] = []
        self.plan: TrainingPlan | None = None

    def note(self, message: str) -> None:
        self.notes.append(message)

    def prepared(self, plan: TrainingPlan) -> None:
        self.plan = plan

    def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
        self.rows.append(row)
        if is_best:
            self.best_epochs.append(row.epoch)


@pytest.fixture(autouse=True)
def precision_of_this_test() -> Any:
    yield
    keras.config.set_dtype_policy("float32")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    counts = {f"train/{name}": 12 for name in CLASSES} | {f"validation/{name}": 4 for name in CLASSES}
    return make_folder(tmp_path_factory.mktemp("images"), counts)


def load(images: Path, folder: Path, settings: dict[str, Any] | None = None) -> LoadedConfig:
    values = {
        "name": "run",
        "output_dir": str(folder),
        "data.image_size": 32,
        "model.backbone": "compact_small",
        "train.epochs": 2,
        "train.batch_size": 8,
        **(settings or {}),
    }
    return load_config(images, [Override(tuple(key.split(".")), value, key) for key, value in values.items()])


def train_on(
    images: Path, folder: Path, settings: dict[str, Any] | None = None, listener: Any = None, **options: Any
) -> TrainingResult:
    return train(load(images, folder, settings), TrainingOptions(**options), listener)


def build_trainer(images: Path, folder: Path, settings: dict[str, Any] | None = None) -> Trainer:
    config = load(images, folder, settings).config
    device = keras_start.start("cpu", precision=config.train.precision)
    return Trainer(config, open_examples(config, Silent()), device)


def without_seconds(history: Any) -> list[dict[str, Any]]:
    return [{k: v for k, v in asdict(row).items() if not k.endswith("_seconds")} for row in history]


def read_history(run: Path) -> list[dict[str, str]]:
    with (run / "history.csv").open(encoding="utf-8", newline="") as file:
        return [{k: v for k, v in row.items() if not k.endswith("_seconds")} for row in csv.DictReader(file)]


def assert_same_states(left: State, right: State) -> None:
    for group in ("model", "optimizer"):
        assert left.arrays[group].keys() == right.arrays[group].keys()
        for name, values in left.arrays[group].items():
            assert np.array_equal(values, right.arrays[group][name]), name
    progresses = [Progress.from_json(state.progress["progress"]) for state in (left, right)]
    for progress in progresses:
        progress.history = without_seconds(progress.history)  # type: ignore[assignment]
    assert progresses[0] == progresses[1]


def best_weights(run: Path) -> list[Any]:
    return load_engine(run).model.get_weights()


def backbone_arrays(classifier: Any) -> list[Any]:
    return classifier.get_layer("backbone").get_weights()


# --- a whole training ---


@pytest.fixture(scope="module")
def finished(images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    os.environ["WISESR_CACHE_DIR"] = str(folder / "caches")
    result = train_on(images, folder, {"augment": "paper"})
    assert result.finished
    assert result.stopped is None
    return folder / "run"


def test_the_run_directory_holds_exactly_what_the_interface_says(finished: Path) -> None:
    assert sorted(path.name for path in finished.iterdir() if not path.name.startswith(".")) == [
        "best.keras",
        *(["best.tflite"] if keras.backend.backend() == "tensorflow" else []),
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
    assert [path.name for path in finished.iterdir() if path.name.startswith(".")] == [".lock"]
    assert [path.name for path in (finished / "state").iterdir()] == ["epoch-000002"]
    assert [path.name for path in (finished / "plots").iterdir()] == ["learning_curves.png"]


def test_the_history_has_the_columns_of_the_interface(finished: Path) -> None:
    header, *rows = (finished / "history.csv").read_text(encoding="utf-8").splitlines()
    assert header == "epoch,phase,learning_rate,loss,top1_accuracy,val_loss,val_top1_accuracy,epoch_seconds"
    assert [row.split(",")[:2] for row in rows] == [["1", "1"], ["2", "1"]]


def test_the_saved_model_has_no_random_layer_and_answers_alike_every_time(finished: Path) -> None:
    model = load_engine(finished).model
    layers = [layer for part in (model, model.get_layer("backbone")) for layer in part.layers]
    assert not [layer.name for layer in layers if "Random" in type(layer).__name__]
    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3)).astype("float32")
    first = keras.ops.convert_to_numpy(model(pixels, training=True))
    again = keras.ops.convert_to_numpy(keras.models.load_model(finished / "best.keras")(pixels, training=True))
    assert np.array_equal(first, again)


def test_the_saved_model_takes_uint8_and_float32_and_gives_the_engines_logits(finished: Path) -> None:
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


def test_two_trainings_with_one_seed_give_the_same_history(images: Path, finished: Path, tmp_path: Path) -> None:
    train_on(images, tmp_path, {"augment": "paper"})
    assert read_history(tmp_path / "run") == read_history(finished)
    train_on(images, tmp_path, {"augment": "paper", "seed": 1, "name": "other"})
    assert read_history(tmp_path / "other") != read_history(finished)


def test_a_dry_run_saves_and_reloads_and_leaves_nothing_behind(images: Path, tmp_path: Path) -> None:
    heard = Heard()
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
def test_a_mixed_precision_training_saves_a_float32_model(images: Path, tmp_path: Path, precision: str) -> None:
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


# --- resuming ---


@pytest.mark.reliability(26, 27)
def test_a_training_interrupted_in_every_phase_ends_as_the_uninterrupted_one(
    images: Path, tmp_path: Path, seen: Callable[[str], None]
) -> None:
    train_on(images, tmp_path / "whole", EVERYTHING_RANDOM)
    stops = []
    # In the middle of epoch 2; after 3, where a new phase is under way; then in the middle of its second epoch.
    for max_steps in (STEPS + 2, 2 * STEPS, STEPS + 1):
        result = train_on(images, tmp_path / "parts", EVERYTHING_RANDOM, resume=True, max_steps=max_steps)
        stops.append((len(result.history), result.finished))
    assert stops == [(1, False), (3, False), (4, False)]
    _resume_in_a_fresh_process(images, tmp_path / "parts")
    whole, parts = (tmp_path / name / "run" for name in ("whole", "parts"))
    assert read_history(whole) == read_history(parts)
    assert len(read_history(whole)) == 5
    assert_same_states(read_state(whole / "state"), read_state(parts / "state"))
    for left, right in zip(best_weights(whole), best_weights(parts), strict=True):
        assert np.array_equal(left, right)
    assert digest(whole) == digest(parts)
    seen(f"stopped 3 times, twice inside an epoch: SHA-256 {digest(parts)[:12]}... as uninterrupted")


def _resume_in_a_fresh_process(images: Path, folder: Path) -> None:
    program = (
        "import pathlib, test_train as t; "
        f"t.train_on(pathlib.Path({str(images)!r}), pathlib.Path({str(folder)!r}), t.EVERYTHING_RANDOM, resume=True)"
    )
    places = os.pathsep.join((str(Path(__file__).parent), str(REPOSITORY / "tests" / "support"), str(REPOSITORY)))
    subprocess.run([sys.executable, "-c", program], env={**os.environ, "PYTHONPATH": places}, check=True, timeout=240)


def test_a_finished_run_has_nothing_left_to_do_until_more_epochs_are_asked_for(images: Path, tmp_path: Path) -> None:
    train_on(images, tmp_path)
    before = read_history(tmp_path / "run")
    result = train_on(images, tmp_path, resume=True)
    assert (result.epochs_done_now, result.finished, result.best_epoch is not None) == (0, True, True)
    assert read_history(tmp_path / "run") == before
    heard = Heard()
    result = train_on(images, tmp_path, {"train.epochs": 3}, heard, resume=True)
    assert (result.epochs_done_now, result.finished) == (1, True)
    assert read_history(tmp_path / "run")[:2] == before
    assert "from here on, the learning rate follows the schedule of 3 epochs" in heard.notes
    assert "going on after epoch 2 of 3" in heard.notes


def test_resuming_refuses_another_batch_size_and_other_images(tmp_path: Path) -> None:
    images = make_folder(
        tmp_path / "images", {f"{part}/{name}": 4 for part in ("train", "validation") for name in "ab"}
    )
    settings = {"train.batch_size": 4}
    train_on(images, tmp_path, settings, max_steps=1)
    with pytest.raises(RunError, match=r"train\.batch_size: 4 -> 2"):
        train_on(images, tmp_path, {"train.batch_size": 2}, resume=True)
    with pytest.raises(UsageError, match="exists; give another --name"):
        train_on(images, tmp_path, settings)
    extra = make_image(images / "train" / "a" / "extra.png", 999)
    with pytest.raises(RunError, match=r"cannot resume.*train, class 'a'"):
        train_on(images, tmp_path, settings, resume=True)
    extra.unlink()
    assert train_on(images, tmp_path, settings, resume=True).finished


def test_resuming_refuses_a_damaged_state(images: Path, tmp_path: Path) -> None:
    train_on(images, tmp_path, max_steps=STEPS)
    file = next((tmp_path / "run" / "state").glob("*/optimizer.npz"))
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(RunError, match=r"optimizer\.npz: damaged"):
        train_on(images, tmp_path, resume=True)


@pytest.mark.reliability(27)
def test_a_time_limit_ends_with_a_state_to_go_on_from(images: Path, tmp_path: Path) -> None:
    result = train_on(images, tmp_path, time_limit_seconds=1e-6)
    assert result.stopped == "the time limit of 1e-06 seconds"
    assert (result.finished, result.history, result.best_epoch) == (False, (), None)
    assert [path.name for path in (tmp_path / "run" / "state").iterdir()] == ["epoch-000000"]
    assert train_on(images, tmp_path, resume=True).finished


def test_as_many_steps_as_an_epoch_has_end_with_the_epoch_done(images: Path, tmp_path: Path) -> None:
    result = train_on(images, tmp_path, max_steps=STEPS)
    assert result.stopped == f"{STEPS} steps were asked for"
    assert (len(result.history), result.best_epoch, result.finished) == (1, 1, False)


# --- what is trained ---


def test_every_epoch_takes_its_own_order_from_seed_and_epoch(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched: dict[tuple[int, ...], set[int]] = {}
    get = Batches.__getitem__

    def record(batches: Batches, index: int) -> Any:
        fetched.setdefault(tuple(batches.order.tolist()), set()).add(index)
        return get(batches, index)

    monkeypatch.setattr(Batches, "__getitem__", record)
    train_on(images, tmp_path, {"train.epochs": 3, "seed": 4})
    for epoch in range(3):
        order = epoch_order(3 * 12, seed=4, epoch=epoch)
        assert sorted(order.tolist()) == list(range(36))
        assert fetched[tuple(order.tolist())] == set(range(STEPS))


def test_every_epoch_trains_on_every_image_once(images: Path, tmp_path: Path) -> None:
    settings = {
        "augment": "none",
        "train.optimizer": {"name": "sgd", "learning_rate": 1e-30},  # so that nothing but the images decides the loss
        "train.phases": [{"epochs": 3, "freeze": "backbone"}],
        "train.epochs": 3,
    }
    result = train_on(images, tmp_path, settings)
    trainer = build_trainer(images, tmp_path, settings)
    logits = np.asarray(numpy_logits(trainer.classifier.model, trainer.examples.train.batch(np.arange(36))), "float64")
    labels = trainer.examples.labels("train")
    losses = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]
    assert np.std(losses) > 1e-3  # or it would not matter which images there are
    assert [row.loss for row in result.history] == pytest.approx([np.mean(losses)] * 3, rel=1e-5)


def test_batches_give_every_example_once_and_a_smaller_last_one(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path)
    trainer.begin_epoch(1)
    batches = [trainer.batches[index] for index in range(trainer.batches.num_batches)]
    assert [len(pixels) for pixels, _ in batches] == [8, 8, 8, 8, 4]
    assert all(pixels.dtype == np.uint8 for pixels, _ in batches)
    labels = np.concatenate([targets.argmax(axis=1) for _, targets in batches])
    assert np.array_equal(labels, trainer.examples.labels("train")[epoch_order(36, seed=0, epoch=1)])


@pytest.mark.parametrize("freeze", ["backbone", "none"])
def test_only_a_frozen_backbone_stays_as_it_was_its_batch_norm_too(images: Path, tmp_path: Path, freeze: str) -> None:
    settings = {"train.phases": [{"epochs": 1, "freeze": freeze}], "train.epochs": 1, "augment": "light"}
    train_on(images, tmp_path, settings)
    config = load(images, tmp_path, settings).config
    start = build_classifier(config.model, image_size=(32, 32), classes=3, seed=0, steps_per_epoch=STEPS).model
    end = load_engine(tmp_path / "run").model
    names = [weight.name for weight in start.get_layer("backbone").weights]
    assert {"kernel", "gamma", "beta", "moving_mean", "moving_variance"} == set(names)
    for name, before, after in zip(names, backbone_arrays(start), backbone_arrays(end), strict=True):
        assert np.array_equal(before, after) == (freeze == "backbone"), name
    for before, after in zip(start.weights[-4:], end.weights[-4:], strict=True):
        assert not np.array_equal(before, after)


def test_a_phase_after_a_frozen_one_trains_the_backbone_with_a_fresh_optimizer(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path)
    begun = []
    for phase in (PhaseConfig(epochs=1, freeze="backbone"), PhaseConfig(epochs=1, learning_rate=1e-4)):
        trainer.begin_phase(phase)
        begun.append(trainer.model.optimizer)
        assert int(trainer.model.optimizer.iterations) == 0
        before = backbone_arrays(trainer.classifier.model)
        trainer.train_one_step()
        moved = [
            not np.array_equal(a, b) for a, b in zip(before, backbone_arrays(trainer.classifier.model), strict=True)
        ]
        assert any(moved) == all(moved) == (phase.freeze == "none")
    assert begun[0] is not begun[1]


@pytest.mark.parametrize("weights", ["none", "balanced", {"a": 2.0, "c": 0.5}])
def test_the_loss_of_a_step_is_weighted_smoothed_cross_entropy(images: Path, tmp_path: Path, weights: Any) -> None:
    trainer = build_trainer(
        images, tmp_path, {"train.label_smoothing": 0.1, "train.class_weights": weights, "augment": "none"}
    )
    trainer.begin_phase(PhaseConfig(epochs=1, freeze="backbone"))
    trainer.begin_epoch(0)
    pixels = trainer.batches[0][0]
    labels = trainer.examples.labels("train")[epoch_order(36, seed=0, epoch=0)[:8]]
    logits = np.asarray(numpy_logits(trainer.classifier.model, pixels), "float64")
    losses = []
    for row, label in zip(logits, labels, strict=True):
        log_probabilities = row - np.log(np.exp(row).sum())
        target = [0.1 / 3 + (0.9 if index == label else 0.0) for index in range(3)]
        weight = weights.get(CLASSES[label], 1.0) if isinstance(weights, dict) else 1.0
        losses.append(-weight * sum(t * p for t, p in zip(target, log_probabilities, strict=True)))
    assert trainer.train_one_step() == pytest.approx(sum(losses) / 8, rel=1e-4)


def test_balanced_weights_make_every_class_count_alike() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2], dtype=np.int64)
    weights = balanced_weights(labels, 3)
    totals = [sum(float(weights[label]) for label in labels if label == name) for name in range(3)]
    assert totals == pytest.approx([10 / 3] * 3)


def test_a_weight_for_an_unknown_class_is_an_error_that_lists_the_classes(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"class_weights has 'd', which is no class; classes: a, b, c"):
        train_on(images, tmp_path, {"train.class_weights": {"d": 2.0}})


def test_the_learning_rate_of_every_step_is_looked_up() -> None:
    schedule = StepSchedule([0.1, 0.2, 0.3])
    rates = [float(schedule(step)) for step in (0, 1, 2, 3, 99)]
    assert rates == pytest.approx([0.1, 0.2, 0.3, 0.3, 0.3])
    assert StepSchedule.from_config(schedule.get_config()).rates.tolist() == schedule.rates.tolist()


# --- what goes wrong ---


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_best_model(
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


def test_an_image_that_goes_while_training_is_a_data_error_that_names_it(tmp_path: Path) -> None:
    images = make_folder(
        tmp_path / "images", {f"{part}/{name}": 4 for part in ("train", "validation") for name in "ab"}
    )

    class Remover(Silent):
        def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
            (images / "train" / "a" / "002.png").unlink()

    with pytest.raises(DataError, match=r"002\.png: .*it could be read when the run started"):
        train_on(images, tmp_path, {"data.cache": "none", "train.batch_size": 4}, Remover())


# --- the best epoch and early stopping, on epochs of the test's making ---


def make_keeper(folder: Path, settings: dict[str, Any]) -> tuple[EpochKeeper, list[int]]:
    """Return a keeper of a training that only pretends, and the epochs whose model it saves."""
    saved: list[int] = []
    trainer: Any = SimpleNamespace(
        config=Config.model_validate({"train": {"epochs": 50, **settings}, "data": {"dir": folder}}),
        progress=Progress(),
        steps_per_epoch=1,
        learning_rate=lambda epoch: 0.1,
        save_best=lambda path, epoch: saved.append(epoch),
        write_state=lambda path: None,
        is_at_full_size=True,
        distribution=ALONE,
    )
    tracking: Any = SimpleNamespace(report_epochs=lambda: None)
    limits = Limits(StopRequest(), 0.0)
    return EpochKeeper(trainer, Run(folder), tracking, limits=limits, listener=Silent()), saved


def feed(keeper: EpochKeeper, epochs: list[tuple[float, float]]) -> None:
    for number, (accuracy, loss) in enumerate(epochs):
        logs = {"loss": loss, "top1_accuracy": 0.5, "val_loss": loss, "val_top1_accuracy": accuracy}
        keeper.on_epoch_end(number, logs)


@pytest.mark.parametrize(
    ("best_by", "saved_epochs"),
    [
        ("top1_accuracy", [1, 3, 5]),  # better accuracy; then the same one with a lower loss
        ("loss", [1, 2, 5]),
    ],
)
def test_the_best_epoch_is_by_accuracy_with_ties_by_loss(tmp_path: Path, best_by: str, saved_epochs: list[int]) -> None:
    keeper, saved = make_keeper(tmp_path, {"best_by": best_by})
    feed(keeper, [(0.5, 1.0), (0.4, 0.7), (0.6, 0.9), (0.6, 0.9), (0.6, 0.6), (0.6, 0.65)])
    assert saved == saved_epochs
    assert keeper.trainer.progress.best_epoch == saved_epochs[-1]


@pytest.mark.parametrize(
    ("options", "stops_after"),
    [
        ({"monitor": "val_loss", "patience": 2}, 4),
        ({"monitor": "val_loss", "patience": 3}, None),
        ({"monitor": "val_loss", "patience": 2, "min_delta": 0.15}, 3),
        ({"monitor": "val_top1_accuracy", "patience": 2}, 3),
    ],
)
def test_early_stopping_stops_when_nothing_got_better(
    tmp_path: Path, options: dict[str, Any], stops_after: int | None
) -> None:
    keeper, _ = make_keeper(tmp_path, {"early_stopping": options})
    epochs = [(0.5, 1.0), (0.5, 0.9), (0.5, 0.95), (0.6, 0.91), (0.7, 0.5)]
    if stops_after is None:
        feed(keeper, epochs)
        return
    with pytest.raises(TrainingStopped, match=f"early stopping: {options['monitor']} was not better for 2 epochs"):
        feed(keeper, epochs)
    progress = keeper.trainer.progress
    assert progress.epoch == stops_after
    assert progress.finished  # nothing is left to do


def test_early_stopping_ends_a_training(images: Path, tmp_path: Path) -> None:
    stopping = {"monitor": "val_top1_accuracy", "patience": 1, "min_delta": 1.0}
    result = train_on(images, tmp_path, {"train.epochs": 9, "train.early_stopping": stopping})
    assert len(result.history) == 2
    assert result.finished
    assert "early stopping" in str(result.stopped)
    assert train_on(images, tmp_path, {"train.epochs": 9, "train.early_stopping": stopping}, resume=True).finished


def test_a_validation_loss_that_is_not_finite_keeps_the_earlier_epoch(tmp_path: Path) -> None:
    keeper, saved = make_keeper(tmp_path, {})
    with pytest.raises(DataError, match="validation loss became nan at the end of epoch 2"):
        feed(keeper, [(0.5, 1.0), (0.9, float("nan"))])
    assert saved == [1]


# --- resuming from a run that something happened to ---


@pytest.fixture
def two_epochs(finished: Path, tmp_path: Path) -> Path:
    """A copy of the finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def test_a_finished_run_without_its_state_is_not_started_anew(images: Path, two_epochs: Path) -> None:
    before = (two_epochs / "best.keras").read_bytes()
    shutil.rmtree(two_epochs / "state")
    with pytest.raises(RunError, match="no state to resume from"):
        train_on(images, two_epochs.parent, {"augment": "paper", "train.epochs": 3}, resume=True)
    assert (two_epochs / "best.keras").read_bytes() == before


def make_best(run: Path, epoch: int) -> None:
    """Write the state, and what the model says of itself, as if this epoch had been the best one."""
    state = read_state(run / "state")
    state.progress["progress"]["best_epoch"] = epoch
    write_state(run / "state", 2, state.arrays, state.progress)
    say_epoch(run / "best.keras", epoch)


def say_epoch(model: Path, epoch: int) -> None:
    """Let a model file say that it is of another epoch."""
    with zipfile.ZipFile(model) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    info = {**json.loads(members["wisesr.json"]), "epoch": epoch}
    with zipfile.ZipFile(model, "w") as archive:
        for name, content in {**members, "wisesr.json": json.dumps(info).encode()}.items():
            archive.writestr(name, content)


def resume(images: Path, run: Path, listener: Any = None) -> TrainingResult:
    return train_on(images, run.parent, {"augment": "paper", "train.epochs": 3}, listener, resume=True)


@pytest.mark.parametrize("damage", ["missing", "of the epoch before"])
def test_a_best_model_that_a_killed_process_did_not_come_to_is_made_from_the_state(
    images: Path, two_epochs: Path, damage: str
) -> None:
    best = two_epochs / "best.keras"
    make_best(two_epochs, 2)
    if damage == "missing":
        best.unlink()
    else:
        say_epoch(best, 1)
    result = train_on(images, two_epochs.parent, {"augment": "paper"}, resume=True)
    assert (result.epochs_done_now, result.best_epoch) == (0, 2)
    assert load_engine(two_epochs).info.epoch == 2
    state = read_state(two_epochs / "state")
    for ours, theirs in zip(state.group("model").values(), best_weights(two_epochs), strict=True):
        assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("epoch", [2, 3])
def test_a_best_model_of_an_epoch_that_is_not_the_best_one_is_refused(
    images: Path, two_epochs: Path, epoch: int
) -> None:
    make_best(two_epochs, 1)
    say_epoch(two_epochs / "best.keras", epoch)
    with pytest.raises(
        RunError, match=rf"best\.keras: is the model of epoch {epoch}, but the best one is that of epoch 1"
    ):
        resume(images, two_epochs)


def test_random_draws_other_than_those_of_the_state_are_refused(
    images: Path, two_epochs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = Trainer._seed_states
    monkeypatch.setattr(Trainer, "_seed_states", lambda trainer, epoch: [state + 1 for state in drawn(trainer, epoch)])
    with pytest.raises(RunError, match=r"the random draws of epoch 3 would differ \(00000 seed generator\)"):
        resume(images, two_epochs)


def test_a_state_holds_what_the_next_epoch_begins_its_random_draws_with(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path, {"augment": "paper", "model.head.dropout": 0.5})
    trainer.begin_phase(trainer.config.phases[0])
    trainer.write_state(tmp_path / "state")
    stored = read_state(tmp_path / "state").group("random")
    trainer.begin_epoch(0)
    variables = [keras.ops.convert_to_numpy(variable.value) for variable in trainer._seed_variables()]
    states = [stored[f"{number:05d} seed generator"] for number in range(len(variables))]
    assert len(variables) > 2
    assert all(np.array_equal(variable, state) for variable, state in zip(variables, states, strict=True))
    trainer.train_one_step()
    assert any(not np.array_equal(v.value, state) for v, state in zip(trainer._seed_variables(), states, strict=True))
    assert stored.keys() == trainer.random_draws(1).keys()
    assert all(not np.array_equal(stored[name], array) for name, array in trainer.random_draws(1).items())


@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_best_model_is_found_before_another_epoch(images: Path, two_epochs: Path, damage: str) -> None:
    make_best(two_epochs, 1)
    best, history = two_epochs / "best.keras", (two_epochs / "history.csv").read_bytes()
    content = bytearray(best.read_bytes())
    content[len(content) // 2] ^= 0xFF
    best.unlink()
    if damage != "missing":
        best.write_bytes(content[: len(content) // 2] if damage == "cut" else content)
    heard = Heard()
    with pytest.raises(RunError, match=r"best\.keras: "):
        train_on(images, two_epochs.parent, {"augment": "paper", "train.epochs": 3}, heard, resume=True)
    assert heard.rows == []
    assert (two_epochs / "history.csv").read_bytes() == history


def test_classes_and_splits_are_written_again_by_a_resumption(images: Path, two_epochs: Path) -> None:
    splits = (two_epochs / "splits.csv").read_bytes()
    (two_epochs / "splits.csv").unlink()
    (two_epochs / "classes.json").write_text('["x"]', encoding="utf-8")
    train_on(images, two_epochs.parent, {"augment": "paper", "train.epochs": 3}, resume=True)
    assert (two_epochs / "splits.csv").read_bytes() == splits
    assert Run(two_epochs).read_classes() == CLASSES


def test_fewer_epochs_than_are_done_leave_nothing_to_do(images: Path, two_epochs: Path) -> None:
    result = train_on(images, two_epochs.parent, {"augment": "paper", "train.epochs": 1}, resume=True)
    assert (result.finished, result.epochs_done_now, len(result.history)) == (True, 0, 2)


def test_a_changed_test_image_does_not_keep_a_run_from_going_on(tmp_path: Path) -> None:
    counts = {f"{split}/{name}": 4 for split in ("train", "validation", "test") for name in CLASSES}
    photos = make_folder(tmp_path / "photos", counts)
    train_on(photos, tmp_path, {"train.epochs": 1})
    make_image(photos / "test" / "a" / "000.png", 999)
    assert len(train_on(photos, tmp_path, resume=True).history) == 2
    make_image(photos / "validation" / "a" / "000.png", 998)
    with pytest.raises(RunError, match="validation, class 'a'"):
        train_on(photos, tmp_path, {"train.epochs": 3}, resume=True)


def test_weights_that_are_not_finite_are_never_the_best_model(tmp_path: Path) -> None:
    def spoiled(self: Trainer) -> bool:
        return len(self.progress.history) == 0  # as if the last step of epoch 2 had spoilt them

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "weights_are_finite", spoiled)
        photos = make_folder(tmp_path / "photos", dict.fromkeys(CLASSES, 8))
        with pytest.raises(DataError, match="weights became nan at the end of epoch 2"):
            train_on(photos, tmp_path, {"data.validation_split": 0, "train.epochs": 3})
    assert Progress.from_json(read_state(tmp_path / "run" / "state").progress["progress"]).best_epoch == 1
    assert np.isfinite(load_engine(tmp_path / "run").logits(np.zeros((1, 32, 32, 3), np.uint8))).all()


def test_weights_are_finite_looks_at_every_weight(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path)
    assert trainer.weights_are_finite()
    bias = trainer.classifier.model.weights[-1]
    bias.assign(np.full(bias.shape, np.nan))
    assert not trainer.weights_are_finite()


def test_the_float32_twin_keeps_the_batch_norm_of_loaded_weights(images: Path, tmp_path: Path) -> None:
    source = train_on(images, tmp_path, {"train.epochs": 1, "name": "source"})
    settings = {"model.weights": source.run_dir, "train.precision": "mixed_bfloat16"}
    trainer = build_trainer(images, tmp_path, settings)
    momenta = [
        [layer.momentum for layer in classifier.backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
        for classifier in (trainer.classifier, trainer.float32_classifier)
    ]
    assert momenta[0] == momenta[1] != []


OPTIMIZERS = {
    "sgd": (SGD, keras.optimizers.SGD, {"momentum": 0.0, "weight_decay": 0.1}),
    "sgd with momentum": (SGD, keras.optimizers.SGD, {"momentum": 0.9}),
    "adam": (Adam, keras.optimizers.Adam, {"weight_decay": 0.1}),
    "adamw": (AdamW, keras.optimizers.AdamW, {"weight_decay": 0.1}),
}


def trained_for_three_steps(optimizer: Any, gradients: list[np.ndarray]) -> dict[str, np.ndarray]:
    """Return the variables of a small problem, and those of the optimizer, after three steps."""
    variables = [
        keras.Variable(np.linspace(-1, 1, 7, dtype="float32") * scale, name=f"of scale {scale}")
        for scale in (0.1, 3.0, 50.0)
    ]
    optimizer.build(variables)
    for step in range(3):
        optimizer.apply([keras.ops.convert_to_tensor(gradient * (step + 1)) for gradient in gradients], variables)
    return named_arrays([*variables, *optimizer.variables])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_gives_bit_by_bit_what_that_of_keras_gives(name: str) -> None:
    ours, keras_own, options = OPTIMIZERS[name]
    gradients = list(np.random.default_rng(0).standard_normal((3, 7)).astype("float32"))
    rates = np.array([0.1, 0.03, 0.007], "float32")
    found = trained_for_three_steps(ours(StepSchedule(rates), **options), gradients)
    expected = trained_for_three_steps(keras_own(StepSchedule(rates), **options), gradients)
    assert list(found) == list(expected)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_optimizer_looks_the_learning_rate_up_once_for_all_variables(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _, options = OPTIMIZERS[name]
    looked_up = []
    look_up = StepSchedule.__call__
    monkeypatch.setattr(StepSchedule, "__call__", lambda self, step: looked_up.append(step) or look_up(self, step))
    trained_for_three_steps(ours(StepSchedule([0.1]), **options), [np.ones(7, "float32")] * 3)
    assert len(looked_up) == 3
