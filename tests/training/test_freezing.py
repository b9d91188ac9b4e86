"""Which layers of a backbone a phase trains, and that evaluation agrees with training for any normalization."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import CLASSES, REPOSITORY, environment, make_photos
from keras import layers
from run_states import load_engine

from wisesr_cli.config.reader import Override, load_config
from wisesr_cli.config.training import FreezePart, PhaseConfig
from wisesr_cli.errors import ConfigError
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.allowed import ALLOWED
from wisesr_cli.model_files.archive import append_model_info
from wisesr_cli.model_files.info import BEST, ModelInfo
from wisesr_cli.models.backbones import BACKBONE_LAYER
from wisesr_cli.models.build import assemble, build_classifier
from wisesr_cli.models.heads import GapOptions
from wisesr_cli.models.scaling import Scaling
from wisesr_cli.results.training import TrainingResult
from wisesr_cli.training.freezing import batch_norms, freeze_layers, trained_parts
from wisesr_cli.training.train import TrainingOptions, train

SIDE = 32


def donor(shift: float = 1.5) -> Any:
    """Return a backbone with every kind of normalization layer; its batch norm has statistics of other images.

    `shift`: how far off the means are, in standard deviations.
    """
    x = pixels = keras.Input((SIDE, SIDE, 3))
    x = layers.Normalization(mean=[120.0, 110.0, 100.0], variance=[3600.0] * 3)(x)
    x = layers.Conv2D(8, 3, 2, name="first")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.999, name="first_norm")(x))
    x = layers.LayerNormalization(name="middle_norm")(layers.Conv2D(12, 3, 2, name="middle")(x))
    x = layers.Conv2D(16, 3, 2, name="last")(x)
    x = layers.ReLU()(layers.BatchNormalization(momentum=0.999, name="last_norm")(x))
    backbone = keras.Model(pixels, x, name=BACKBONE_LAYER)
    draws = np.random.default_rng(0)
    for norm in batch_norms(backbone):
        norm.moving_mean.assign(draws.normal(0.0, shift, norm.moving_mean.shape))
        norm.moving_variance.assign(draws.uniform(0.3, 3.0, norm.moving_variance.shape))
    return backbone


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_photos(tmp_path_factory.mktemp("photos"), 20)


def donated(folder: Path, shift: float) -> Path:
    """Write a run whose model has the backbone of `donor`, and return its folder."""
    folder.mkdir()
    keras.utils.set_random_seed(0)
    assemble(donor(shift), Scaling("none"), (SIDE, SIDE), 3, GapOptions()).save(folder / BEST)
    info = ModelInfo(CLASSES, (SIDE, SIDE), Preparation(), BACKGROUND, "from_weights", "gap", 3, {})
    append_model_info(folder / BEST, info)
    return folder


def train_on(photos: Path, folder: Path, **settings: Any) -> TrainingResult:
    values: dict[str, Any] = {
        "name": "run",
        "output_dir": str(folder),
        "augment": "none",
        "data.image_size": SIDE,
        "data.validation_split": 0.0,
        "model.backbone": "from_weights",
        "train.batch_size": 12,
        "train.optimizer.learning_rate": 3e-3,
        "train.schedule.name": "constant",
        **settings,
    }
    loaded = load_config(photos, [Override(tuple(key.split(".")), value, key) for key, value in values.items()])
    return train(loaded, TrainingOptions(device="cpu"))


@pytest.mark.parametrize(
    ("batch_norm", "shift"),
    [
        ("train", 8.0),
        pytest.param("frozen", 1.5, marks=pytest.mark.slow),
        pytest.param(None, 1.5, marks=pytest.mark.slow),
    ],
)
def test_training_from_loaded_weights_is_seen_in_evaluation(
    photos: Path, tmp_path: Path, batch_norm: str | None, shift: float
) -> None:
    given = {} if batch_norm is None else {"batch_norm": batch_norm}
    phases = [{"epochs": 6, **given}, {"epochs": 1, "learning_rate": 1e-30, **given}]
    result = train_on(
        photos, tmp_path, **{"model.weights": str(donated(tmp_path / "donated", shift)), "train.phases": phases}
    )
    paths = [(path, label) for label, name in enumerate(CLASSES) for path in sorted((photos / name).iterdir())]
    pixels = np.stack(
        [decode_image(str(path), image_size=(SIDE, SIDE), preparation=Preparation()) for path, _ in paths]
    )
    labels = np.array([label for _, label in paths])
    logits = load_engine(Path(result.run_dir)).logits(pixels).astype("float64")
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    seen = result.history[-1]
    assert seen.top1_accuracy > 0.9
    assert (logits.argmax(axis=1) == labels).mean() > seen.top1_accuracy - 0.05
    if batch_norm != "train":  # training steps compute exactly as evaluation does
        assert seen.loss == pytest.approx(losses.mean(), rel=1e-3, abs=1e-5)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.skipif(keras.backend.backend() == "jax", reason="is the one that runs on JAX")
@pytest.mark.skipif(importlib.util.find_spec("jax") is None, reason="JAX is not installed")
def test_training_from_loaded_weights_is_seen_on_jax_too(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", __file__]
    words += ["-k", "seen_in_evaluation"]
    variables = {**environment(tmp_path), "KERAS_BACKEND": "jax"}
    done = subprocess.run(
        words, cwd=REPOSITORY, env=variables, capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "3 passed" in done.stdout


def test_donor_has_every_allowed_normalization_layer_except_group_norm() -> None:
    known = {"BatchNormalization", "LayerNormalization", "Normalization"}
    of_others = {"GroupNormalization"}  # has no statistics
    assert {name for _, name, _ in ALLOWED if name.endswith("Normalization")} == known | of_others
    assert {type(layer).__name__ for layer in donor().layers if "Norm" in type(layer).__name__} == known


# Which layers a phase trains


def trained_layers(backbone: Any) -> list[str]:
    """Return the names of the layers with any trainable weight."""
    ids = {id(variable) for variable in keras.Sequential([backbone]).trainable_variables}
    return [layer.name for layer in backbone.layers if any(id(weight) in ids for weight in layer.weights)]


EVERYTHING = ["first", "first_norm", "middle", "middle_norm", "last", "last_norm"]


@pytest.mark.parametrize(
    ("freeze", "expected"),
    [
        ("none", EVERYTHING),
        ("backbone", []),
        (FreezePart(below="middle"), EVERYTHING[2:]),
        (FreezePart(below="first"), EVERYTHING),
        (FreezePart(fraction=0.5), EVERYTHING[3:]),  # of seven layers with weights, including `Normalization`
        (FreezePart(fraction=1.0), []),
    ],
)
@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_phase_trains_its_layers_and_no_others(freeze: Any, expected: list[str], batch_norm: Any) -> None:
    backbone = donor()
    freeze_layers(backbone, PhaseConfig(epochs=1, freeze="backbone"), is_loaded=True)  # the previous phase
    freeze_layers(backbone, PhaseConfig(epochs=1, freeze=freeze, batch_norm=batch_norm), is_loaded=True)
    assert trained_layers(backbone) == expected
    before = [np.array(norm.moving_mean) for norm in batch_norms(backbone)]
    backbone(np.ones((4, SIDE, SIDE, 3), "float32"), training=True)
    moved = [
        bool((np.array(norm.moving_mean) != old).any()) for norm, old in zip(batch_norms(backbone), before, strict=True)
    ]
    names = ("first_norm", "last_norm")
    assert moved == [batch_norm == "train" and name in expected for name in names]


@pytest.mark.parametrize(("is_loaded", "kept"), [(True, True), (False, False)])
def test_batch_norm_keeps_its_statistics_only_if_they_were_loaded(is_loaded: bool, kept: bool) -> None:
    backbone = donor()
    freeze_layers(backbone, PhaseConfig(epochs=1), is_loaded=is_loaded)
    assert [norm.trainable for norm in batch_norms(backbone)] == [not kept] * 2
    assert trained_layers(backbone) == EVERYTHING  # as before the `batch_norm` setting: older states fit
    words = "everything; batch norm " + ("keeps its statistics" if kept else "uses those of each batch")
    assert trained_parts(backbone, (PhaseConfig(epochs=1),), is_loaded=is_loaded) == (words,)


def test_unknown_freeze_layer_is_an_error_before_training_with_a_suggestion(photos: Path, tmp_path: Path) -> None:
    phases = [{"epochs": 1}, {"epochs": 1, "freeze": {"below": "mix_convolutoin"}}]
    settings = {"model.backbone": "compact_small", "train.phases": phases}
    message = r"train\.phases\.1\.freeze\.below is 'mix_convolutoin', .*Did you mean 'mix_convolution'\?"
    with pytest.raises(ConfigError, match=message):
        train_on(photos, tmp_path, **settings)
    assert not (tmp_path / "run" / "history.csv").exists()


def test_training_freezes_part_of_a_backbone(photos: Path, tmp_path: Path) -> None:
    phases = [{"epochs": 1, "freeze": {"below": "mix_convolution"}}]
    settings = {"model.backbone": "compact_small", "train.phases": phases, "data.image_size": 48}
    result = train_on(photos, tmp_path, **settings)
    config = load_config(Path(result.run_dir) / "config.yaml").config
    assert config.phases[0].freeze == FreezePart(below="mix_convolution")
    start = build_classifier(config.model, image_size=(48, 48), classes=3, seed=0).backbone
    end = load_engine(Path(result.run_dir)).model.get_layer(BACKBONE_LAYER)
    changed = {
        layer.name
        for layer in start.layers
        if layer.weights
        for old, new in zip(layer.get_weights(), end.get_layer(layer.name).get_weights(), strict=True)
        if (old != new).any()
    }
    assert changed == {"mix_convolution", "mix_norm"}
