"""Training on cached feature maps of a frozen backbone matches training through the backbone, on every backend."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import REPOSITORY, make_photo, make_photos
from image_folders import Heard
from run_states import digest, read_history

from wisesr_cli.cli.main import run
from wisesr_cli.config.reader import LoadedConfig, Override, load_config
from wisesr_cli.data import disk_cache
from wisesr_cli.engines.keras import numpy_logits, numpy_outputs
from wisesr_cli.errors import MachineError
from wisesr_cli.listening import Silent
from wisesr_cli.machine import keras_start
from wisesr_cli.models.backbones import BACKBONES
from wisesr_cli.training import features as features_module
from wisesr_cli.training.examples import open_examples
from wisesr_cli.training.features import FrozenFeatures
from wisesr_cli.training.train import TrainingOptions, train
from wisesr_cli.training.trainer import Trainer

FROZEN = [{"epochs": 3, "freeze": "backbone"}, {"epochs": 1, "learning_rate": 1e-3}]
STEPS = 3  # per epoch: 18 images in batches of 8, the last one of 2
COMPUTING = "computing feature maps"


class Labels(Heard):
    """Records the labels of the progress bars."""

    def __init__(self) -> None:
        super().__init__()
        self.labels: list[str] = []

    def progress(self, label: str, total: int | None) -> Any:
        self.labels.append(label)
        return super().progress(label, total)

    def prepared(self, plan: Any) -> None:
        """Ignore the plan."""

    def epoch_finished(self, row: Any, *, is_best: bool, total: int) -> None:
        """Ignore the epochs."""

    @property
    def computed(self) -> list[str]:
        return [label.removeprefix(f"{COMPUTING} of the ") for label in self.labels if label.startswith(COMPUTING)]


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    make_photos(folder / "train", 6)
    make_photos(folder / "validation", 3, first_seed=100)
    return folder


def load(photos: Path, folder: Path, **settings: Any) -> LoadedConfig:
    values = {
        "name": "run",
        "output_dir": str(folder),
        "data.image_size": 32,
        "model.backbone": "compact_small",
        "model.head": {"name": "wise", "dropout": 0.3},
        "train.batch_size": 8,
        "train.class_weights": {"red": 2.0},
        "train.label_smoothing": 0.1,
        "train.phases": FROZEN,
        "augment": "none",
        **{key.replace("__", "."): value for key, value in settings.items()},
    }
    return load_config(photos, [Override(tuple(key.split(".")), value, key) for key, value in values.items()])


def train_on(
    photos: Path, folder: Path, heard: Any = None, options: dict[str, Any] | None = None, **settings: Any
) -> Path:
    train(load(photos, folder, **settings), TrainingOptions(**(options or {})), heard)
    return folder / "run"


def build_trainer(photos: Path, folder: Path, **settings: Any) -> Trainer:
    config = load(photos, folder, **settings).config
    device = keras_start.start("cpu")
    return Trainer(config, open_examples(config, Silent()), device)


def assert_same_history(left: Path, right: Path, epochs: int = 4) -> None:
    """Check that two histories are equal up to rounding, and learning rates exactly."""
    ours, theirs = read_history(left), read_history(right)
    assert len(ours) == len(theirs) == epochs
    for one, other in zip(ours, theirs, strict=True):
        assert one["learning_rate"] == other["learning_rate"]
        for name in ("loss", "val_loss", "top1_accuracy", "val_top1_accuracy"):
            assert float(one[name]) == pytest.approx(float(other[name]), rel=2e-4), (name, one["epoch"])


def compare_with_the_backbone(photos: Path, folder: Path, **settings: Any) -> None:
    """Check that training on cached feature maps matches training through the backbone."""
    heard = Labels()
    kept = train_on(photos, folder / "kept", heard, **settings)
    through = train_on(photos, folder / "through", train__feature_cache="none", **settings)
    assert heard.computed
    assert_same_history(kept, through)


# --- equal results ---


@pytest.mark.parametrize(
    "backbone", ["compact_small", pytest.param("EfficientNetB0", marks=pytest.mark.slow)], ids=["norms", "drops"]
)
def test_extractor_and_head_reproduce_the_logits_of_the_classifier(photos: Path, tmp_path: Path, backbone: str) -> None:
    classifier = build_trainer(photos, tmp_path, model__backbone=backbone).classifier
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
    [maps] = numpy_outputs(classifier.extractor, pixels)
    assert maps.shape[1:] == classifier.feature_map
    logits = numpy_outputs(classifier.head, maps)[0]
    np.testing.assert_allclose(logits, numpy_logits(classifier.model, pixels), atol=1e-5)


@pytest.mark.parametrize("augment", [pytest.param("none", marks=pytest.mark.slow), "light"])
def test_training_on_cached_feature_maps_matches_training_through_the_backbone(
    photos: Path, tmp_path: Path, augment: str
) -> None:
    compare_with_the_backbone(photos, tmp_path, augment=augment)


@pytest.mark.slow
def test_phase_without_augmentation_uses_plain_images_and_resumes_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    phases = [{**FROZEN[0], "augment": "none"}, FROZEN[1]]
    settings: dict[str, Any] = {"augment": "light", "train__phases": phases}
    compare_with_the_backbone(photos, tmp_path, **settings)
    heard = Labels()
    for steps in (STEPS, STEPS + 1):  # stopped after epoch 1, and in epoch 3
        train_on(photos, tmp_path / "parts", heard, {"resume": True, "max_steps": steps}, **settings)
    parts = train_on(photos, tmp_path / "parts", heard, {"resume": True}, **settings)
    assert heard.computed == 3 * ["training images", "validation images"]
    assert digest(parts) == digest(tmp_path / "kept" / "run")


@pytest.mark.slow
def test_dropout_inside_a_frozen_backbone_is_inactive(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = BACKBONES["compact_small"]

    def build(image_size: tuple[int, int], name: str) -> Any:
        backbone = row.build(image_size, name)
        dropped = keras.layers.Dropout(0.5, name="drop")(backbone.output)
        return keras.Model(backbone.input, dropped, name=name)

    monkeypatch.setitem(BACKBONES, "compact_small", replace(row, build=build))
    compare_with_the_backbone(photos, tmp_path)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_cached_feature_maps_match_the_backbone_and_resume_on_jax(photos: Path, tmp_path: Path) -> None:
    program = (
        "import pathlib, test_features as t; "
        f"photos, folder = pathlib.Path({str(photos)!r}), pathlib.Path({str(tmp_path)!r}); "
        "t.compare_with_the_backbone(photos, folder, augment='light'); "
        "t.test_stopped_training_resumes_bit_for_bit(photos, folder)"
    )
    places = os.pathsep.join((str(Path(__file__).parent), str(REPOSITORY / "tests" / "support"), str(REPOSITORY)))
    variables = {**os.environ, "PYTHONPATH": places, "KERAS_BACKEND": "jax"}
    subprocess.run([sys.executable, "-c", program], env=variables, check=True, timeout=1700)


@pytest.mark.slow
def test_stopped_training_resumes_bit_for_bit(photos: Path, tmp_path: Path) -> None:
    settings = {"augment": {"zoom": 0.2, "contrast": 0.2}, "train__augmented_views": 2}
    whole = train_on(photos, tmp_path / "whole", **settings)
    for steps in (STEPS, STEPS + 1, STEPS):  # after epoch 1, within 3, and at the start of phase 2
        parts = train_on(photos, tmp_path / "parts", options={"resume": True, "max_steps": steps}, **settings)
    parts = train_on(photos, tmp_path / "parts", options={"resume": True}, **settings)
    assert len(read_history(whole)) == 4
    assert digest(whole) == digest(parts)


def test_training_in_mixed_precision_uses_cached_feature_maps(photos: Path, tmp_path: Path) -> None:
    try:
        heard = Labels()
        path = train_on(photos, tmp_path, heard, train__precision="mixed_bfloat16")
    finally:
        keras.config.set_dtype_policy("float32")
    assert heard.computed
    assert len(read_history(path)) == 4


# --- views ---


def test_fewer_views_than_epochs_are_used_in_turn(photos: Path, tmp_path: Path) -> None:
    heard = Labels()
    trainer = build_trainer(photos, tmp_path, augment="light", train__augmented_views=2)
    features = trainer.frozen_features(trainer.config.phases[0], 0, heard)
    assert features is not None
    assert heard.computed == ["training images, view 1 of 2", "validation images"]
    assert [features.has(epoch) for epoch in range(3)] == [True, False, True]
    features.compute(1, heard)
    first, second, third = (features.train(epoch).batch(np.arange(18)) for epoch in range(3))
    assert np.array_equal(first, third)
    assert not np.allclose(first, second)
    assert heard.computed[2:] == ["training images, view 2 of 2"]


def test_view_that_no_longer_fits_is_skipped_with_a_warning(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Labels()
    trainer = build_trainer(photos, tmp_path, augment="light")
    features = trainer.frozen_features(trainer.config.phases[0], 0, heard)
    assert features is not None

    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(features, "_extract", fail)
    features.compute(1, heard)
    assert features.train(1) is features.train(0)
    assert heard.warnings == ["no room for feature maps of the training images, view 2 of 3: continuing with 1 view"]


# --- storage ---


@pytest.mark.slow
def test_feature_maps_are_cached_on_disk_for_the_next_training_if_memory_is_short(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caches_of_this_test: Path
) -> None:
    in_memory = train_on(photos, tmp_path / "memory")
    assert not list(caches_of_this_test.glob("pixels/*.maps"))
    monkeypatch.setattr(features_module, "available_memory_bytes", lambda: 1000)
    first, second = Labels(), Labels()
    on_disk = train_on(photos, tmp_path / "disk", first)
    assert digest(on_disk) == digest(in_memory)
    files = sorted(caches_of_this_test.glob("pixels/*.maps"))
    assert len(files) == 2
    assert digest(train_on(photos, tmp_path / "again", second)) == digest(in_memory)
    assert (first.computed, second.computed) == (["training images", "validation images"], [])
    for file in files:
        os.truncate(file, file.stat().st_size // 2)
    third = Labels()
    assert digest(train_on(photos, tmp_path / "damaged", third)) == digest(in_memory)
    assert third.computed == first.computed


def test_feature_maps_are_not_cached_if_neither_memory_nor_disk_has_room(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "available_memory_bytes", lambda: 1000)
    monkeypatch.setattr(disk_cache, "has_room", lambda shape, dtype=np.uint8: False)
    heard = Labels()
    trainer = build_trainer(photos, tmp_path)
    assert trainer.frozen_features(trainer.config.phases[0], 0, heard) is None
    assert heard.computed == []
    assert len(heard.warnings) == 1
    assert heard.warnings[0].startswith("no room to keep feature maps (0.0 GB)")


def test_cache_file_truncated_while_in_use_is_an_error_with_a_remedy(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caches_of_this_test: Path
) -> None:
    monkeypatch.setattr(features_module, "available_memory_bytes", lambda: 1000)
    trainer = build_trainer(photos, tmp_path)
    features = trainer.frozen_features(trainer.config.phases[0], 0, Silent())
    assert features is not None
    assert features.train(0).place == "disk"
    for file in caches_of_this_test.glob("pixels/*.maps"):
        os.truncate(file, 100)
    with pytest.raises(MachineError, match=r"\.maps: .*cut short; remove the file and continue with --resume, or set"):
        features.train(0).batch(np.arange(18))


def keys_of(trainer: Trainer) -> list[str]:
    """Return the cache keys of the views of the training images and of the validation images."""
    phase = trainer.config.phases[0]
    features = FrozenFeatures(
        trainer.config, trainer.classifier, trainer.examples, phase, first_epoch=0, device="a device"
    )
    return [view.key for view in features._all()]


def test_cache_key_depends_on_exactly_what_determines_the_feature_maps(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    make_photos(photos / "train", 3)
    make_photos(photos / "validation", 2, first_seed=100)
    before = keys_of(trainer := build_trainer(photos, tmp_path))
    assert len(before) == 2
    assert keys_of(build_trainer(photos, tmp_path)) == before
    assert keys_of(build_trainer(photos, tmp_path, model__head={"name": "gap"})) == before
    trainer.classifier.backbone.weights[0].assign_add(np.full(trainer.classifier.backbone.weights[0].shape, 1e-3))
    others = [
        keys_of(trainer),
        keys_of(build_trainer(photos, tmp_path, seed=1)),  # other initial weights
        keys_of(build_trainer(photos, tmp_path, data__image_size=40)),
        keys_of(build_trainer(photos, tmp_path, data__resize="crop")),
        keys_of(build_trainer(photos, tmp_path, model__preprocessing="caffe")),
        keys_of(build_trainer(photos, tmp_path, model__feature_layer="down_relu")),
    ]
    assert all(not set(before) & set(other) for other in others)
    views = keys_of(build_trainer(photos, tmp_path, augment="light"))
    assert len({*before, *views}) == 2 + 3
    assert views[-1] == before[-1]  # validation images are not augmented
    make_photo(photos / "train" / "red" / "00.png", 1, 55)
    after = keys_of(build_trainer(photos, tmp_path))
    assert (after[0] == before[0], after[1] == before[1]) == (False, True)


@pytest.mark.slow
def test_compare_computes_feature_maps_once_for_all_heads_and_seeds(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[str] = []
    extract = FrozenFeatures._extract

    def counted(features: FrozenFeatures, view: Any, *rest: Any) -> None:
        passes.append(view.title)
        extract(features, view, *rest)

    weights = tmp_path / "start.weights.h5"
    build_trainer(photos, tmp_path).classifier.backbone.save_weights(weights)
    monkeypatch.setattr(FrozenFeatures, "_extract", counted)
    settings = (f"model.weights={weights}", "augment=none", "train.phases=[{epochs: 1, freeze: backbone}]")
    more = [word for setting in settings for word in ("-s", setting)]
    small = ("--backbone", "compact_small", "--image-size", "32", "-b", "8", "--heads", "gap,wise", "--seeds", "2")
    assert run(["compare", str(photos), *small, *more, "-o", str(tmp_path), "--name", "compared"]) == 0
    assert passes == ["of the training images", "of the validation images"]
