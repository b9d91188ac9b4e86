"""What a step, a phase and an epoch train, and on which images."""

from __future__ import annotations

import multiprocessing
import weakref
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import pytest
from run_states import load_engine
from small_trainings import CLASSES, STEPS, backbone_arrays, build_trainer, load, train_on

from wisesr_cli.config.training import PhaseConfig
from wisesr_cli.data.pixels import epoch_order
from wisesr_cli.engines.keras import numpy_logits
from wisesr_cli.listening import Silent
from wisesr_cli.models.build import build_classifier
from wisesr_cli.run.state import read_state
from wisesr_cli.training.augmentation import seed_variables
from wisesr_cli.training.batches import Batches, balanced_weights, example_weights
from wisesr_cli.training.trainer import Trainer


def test_every_epoch_has_its_own_order_derived_from_seed_and_epoch(
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
        "train.optimizer": {"name": "sgd", "learning_rate": 1e-30},  # so that only the images determine the loss
        "train.phases": [{"epochs": 3, "freeze": "backbone"}],
        "train.epochs": 3,
    }
    result = train_on(images, tmp_path, settings)
    trainer = build_trainer(images, tmp_path, settings)
    logits = np.asarray(numpy_logits(trainer.classifier.model, trainer.examples.train.batch(np.arange(36))), "float64")
    labels = trainer.examples.labels("train")
    losses = [np.log(np.exp(row).sum()) - row[label] for row, label in zip(logits, labels, strict=True)]
    assert np.std(losses) > 1e-3  # otherwise it would not matter which images are used
    assert [row.loss for row in result.history] == pytest.approx([np.mean(losses)] * 3, rel=1e-5)


@pytest.mark.reliability(50)
def test_training_without_multiprocessing_locks_gives_the_same_losses(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train_on(images, tmp_path / "two", {"train.epochs": 1})

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system")  # like /dev/shm in some containers

    monkeypatch.setattr(multiprocessing, "Lock", refuse)
    monkeypatch.setattr("multiprocessing.synchronize.SemLock.__init__", refuse)
    result = train_on(images, tmp_path / "one", {"train.epochs": 1})
    assert [row.loss for row in result.history] == [row.loss for row in expected.history]


@pytest.mark.reliability(50)
def test_step_that_runs_out_of_memory_suggests_a_smaller_batch_size(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = type("ResourceExhaustedError", (Exception,), {})("OOM when allocating tensor")
    monkeypatch.setattr(keras.Model, "fit", lambda *_, **__: (_ for _ in ()).throw(full))
    with pytest.raises(
        MemoryError, match=r"a step of \d+ images does not fit in memory; start over with a --batch-size"
    ):
        train_on(images, tmp_path, {"train.epochs": 1})
    assert (tmp_path / "run" / "config.yaml").is_file()


def test_batches_hold_every_example_once_and_the_last_one_is_smaller(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path)
    trainer.begin_epoch(1)
    batches = [trainer.batches[index] for index in range(trainer.batches.num_batches)]
    assert [len(pixels) for pixels, _ in batches] == [8, 8, 8, 8, 4]
    assert all(pixels.dtype == np.uint8 for pixels, _ in batches)
    labels = np.concatenate([targets.argmax(axis=1) for _, targets in batches])
    assert np.array_equal(labels, trainer.examples.labels("train")[epoch_order(36, seed=0, epoch=1)])


@pytest.mark.parametrize("freeze", ["backbone", "none"])
def test_only_a_frozen_backbone_stays_unchanged_including_its_batch_norm(
    images: Path, tmp_path: Path, freeze: str
) -> None:
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


def test_phase_after_a_frozen_one_trains_the_backbone_with_a_fresh_optimizer(images: Path, tmp_path: Path) -> None:
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
def test_loss_of_a_step_is_weighted_smoothed_cross_entropy(images: Path, tmp_path: Path, weights: Any) -> None:
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


def test_example_weights_multiply_class_weights_in_training_only(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path, {"train.class_weights": {"a": 2.0, "c": 0.5}, "augment": "none"})
    plain = trainer.batches.weights
    own = np.linspace(0, 3, 36).astype("float32")
    index = trainer.examples.index
    assert plain is not None
    train = replace(index.splits["train"], weights=own)
    weights = example_weights(trainer.config, index.class_names, train)
    np.testing.assert_array_equal(weights, plain * own)
    unweighted = trainer.config.model_copy(
        update={"train": trainer.config.train.model_copy(update={"class_weights": "none"})}
    )
    assert example_weights(unweighted, index.class_names, train) is own
    trainer.batches.weights = weights
    trainer.batches.begin_epoch(3)
    for number in range(STEPS):
        chosen = trainer.batches.order[8 * number : 8 * number + 8]
        np.testing.assert_array_equal(trainer.batches[number][2], (plain * own)[chosen])
    assert trainer.validation is not None
    assert len(trainer.validation[0]) == 2


def test_balanced_weights_make_all_classes_count_equally() -> None:
    labels = np.array([0] * 6 + [1] * 3 + [2], dtype=np.int64)
    weights = balanced_weights(labels, 3)
    totals = [sum(float(weights[label]) for label in labels if label == name) for name in range(3)]
    assert totals == pytest.approx([10 / 3] * 3)


def test_state_holds_the_random_seeds_that_the_next_epoch_starts_with(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path, {"augment": "paper", "model.head.dropout": 0.5})
    trainer.begin_phase(trainer.config.phases[0])
    trainer.write_state(tmp_path / "state")
    stored = read_state(tmp_path / "state").group("random")
    trainer.begin_epoch(0)
    variables = [keras.ops.convert_to_numpy(variable.value) for variable in seed_variables(trainer.whole)]
    states = [stored[f"{number:05d} seed generator"] for number in range(len(variables))]
    assert len(variables) > 2
    assert all(np.array_equal(variable, state) for variable, state in zip(variables, states, strict=True))
    trainer.train_one_step()
    assert any(
        not np.array_equal(v.value, state) for v, state in zip(seed_variables(trainer.whole), states, strict=True)
    )
    assert stored.keys() == trainer.random_draws(1).keys()
    assert all(not np.array_equal(stored[name], array) for name, array in trainer.random_draws(1).items())


def test_weights_are_finite_checks_every_weight(images: Path, tmp_path: Path) -> None:
    trainer = build_trainer(images, tmp_path)
    assert trainer.weights_are_finite()
    bias = trainer.classifier.model.weights[-1]
    bias.assign(np.full(bias.shape, np.nan))
    assert not trainer.weights_are_finite()


def test_float32_twin_keeps_the_batch_norm_momentum_of_loaded_weights(images: Path, tmp_path: Path) -> None:
    source = train_on(images, tmp_path, {"train.epochs": 1, "name": "source"})
    settings = {"model.weights": source.run_dir, "train.precision": "mixed_bfloat16"}
    trainer = build_trainer(images, tmp_path, settings)
    momenta = [
        [layer.momentum for layer in classifier.backbone.layers if isinstance(layer, keras.layers.BatchNormalization)]
        for classifier in (trainer.classifier, trainer.float32_classifier)
    ]
    assert momenta[0] == momenta[1] != []


def test_restored_normalization_computes_with_the_restored_statistics() -> None:
    def build() -> Any:
        pixels = keras.Input((4, 4, 3))
        return keras.Model(pixels, keras.layers.Normalization(name="norm")(pixels))

    trained, resumed = build(), build()
    values = [np.array([1.0, 2.0, 3.0], "float32"), np.array([4.0, 9.0, 16.0], "float32"), np.array(5, "int64")]
    trained.get_layer("norm").load_own_variables({str(number): value for number, value in enumerate(values)})
    Trainer.restore(stand_in(resumed), "model", Trainer.arrays(stand_in(trained))["model"])
    pixels = np.ones((1, 4, 4, 3), "float32")
    expected = (pixels - values[0]) / np.sqrt(values[1])
    np.testing.assert_allclose(keras.ops.convert_to_numpy(resumed(pixels)), expected, rtol=1e-6)


def stand_in(model: Any) -> Any:
    """Return a minimal stub of a trainer around a model."""
    return SimpleNamespace(
        config=SimpleNamespace(train=SimpleNamespace(ema=None)),
        classifier=SimpleNamespace(model=model),
        model=SimpleNamespace(optimizer=SimpleNamespace(variables=[])),
        progress=SimpleNamespace(epoch=0),
        random_draws=lambda epoch: {},
    )


def test_released_trainer_keeps_no_model_and_no_feature_maps_alive(images: Path, tmp_path: Path) -> None:
    settings = {"augment": "none", "train.epochs": 1, "train.phases": [{"epochs": 1, "freeze": "backbone"}]}
    trainer = build_trainer(images, tmp_path, settings)
    phase = trainer.config.phases[0]
    trainer.begin_phase(phase, trainer.frozen_features(phase, 0, Silent()))
    trainer.begin_epoch(0)
    trainer.train_one_step()
    assert trainer.features is not None
    objects = trainer.whole, trainer.classifier.model, trainer.features.train(0)
    alive = [weakref.ref(each) for each in objects]
    del objects
    trainer.release()
    assert [each() for each in alive] == [None, None, None]
    assert trainer.parameters > 0
