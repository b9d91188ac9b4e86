"""The list of classes that are loaded is what wisesr builds with, and every backbone passes through it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest
from allowed_classes import TARGET, VARIANTS, classes_of_models, source_of

from wisesr_cli.allowed import ALLOWED
from wisesr_cli.backbones import BACKBONES
from wisesr_cli.config import ModelConfig
from wisesr_cli.config_reader import parse_head
from wisesr_cli.loading import load_model
from wisesr_cli.model import build_classifier
from wisesr_cli.weights import load_backbone

QUICK = ("compact", "compact_small", "MobileNetV2", "ConvNeXtTiny", "EfficientNetB0")


def same_after_reload(backbone: str, head: str, preprocessing: str, folder: Path) -> bool:
    """Save a model, load it through the checks, and return whether it holds the same and computes the same."""
    side = max(64, BACKBONES[backbone].minimum_size)
    config = ModelConfig(backbone=backbone, head=parse_head(head), preprocessing=preprocessing)  # type: ignore[arg-type]
    model = build_classifier(config, image_size=(side, side), classes=3).model
    model.save(folder / "x.keras")
    loaded = load_model(folder / "x.keras")
    pixels = np.random.default_rng(0).uniform(0, 255, (1, side, side, 3)).astype("float32")
    weights = zip(model.get_weights(), loaded.get_weights(), strict=True)
    logits = [keras.ops.convert_to_numpy(each(pixels, training=False)) for each in (model, loaded)]
    return all(np.array_equal(one, other) for one, other in weights) and np.allclose(*logits, atol=1e-6)


def test_what_the_quick_backbones_are_made_of_is_on_the_list() -> None:
    assert classes_of_models(QUICK) <= ALLOWED


@pytest.mark.slow
@pytest.mark.reliability(34)
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="the list is made on TensorFlow")
def test_the_list_is_exactly_what_all_backbones_heads_and_preprocessings_are_made_of(
    seen: Callable[[str], None],
) -> None:
    classes = classes_of_models(BACKBONES)
    assert classes == ALLOWED
    assert not set(source_of(classes).split()) - set(TARGET.read_text(encoding="utf-8").split())
    seen(f"{len(BACKBONES)} backbones x {len(VARIANTS)} heads x 4 preprocessings: {len(ALLOWED)} classes, all listed")


@pytest.mark.parametrize("preprocessing", ["caffe", "tf", "torch", "none"])
@pytest.mark.parametrize("head", [variant for variant in VARIANTS if not variant.startswith("fc")])
def test_every_head_and_preprocessing_comes_back_through_the_checks(
    head: str, preprocessing: str, tmp_path: Path
) -> None:
    assert same_after_reload("compact_small", head, preprocessing, tmp_path)


@pytest.mark.parametrize("head", ["fc", "wise:dropout=0.5"])
def test_a_published_backbone_comes_back_through_the_checks(head: str, tmp_path: Path) -> None:
    assert same_after_reload("MobileNetV2", head, "auto", tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.reliability(34)
def test_every_backbone_comes_back_through_the_checks(tmp_path: Path, seen: Callable[[str], None]) -> None:
    for name in BACKBONES:
        assert same_after_reload(name, "wise", "auto", tmp_path), name
        keras.utils.clear_session(free_memory=True)
    seen(f"{len(BACKBONES)} backbones saved, checked, loaded: same weights, same logits")


@pytest.mark.parametrize("precision", ["mixed_float16", "mixed_bfloat16"])
def test_a_model_of_another_precision_gives_its_weights(precision: str, tmp_path: Path) -> None:
    keras.config.set_dtype_policy(precision)
    try:
        model = build_classifier(ModelConfig(backbone="compact_small"), image_size=(32, 32), classes=3).model
        model.save(tmp_path / "x.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    backbone, loaded = load_backbone("compact_small", (32, 32), str(tmp_path / "x.keras"))
    assert loaded == len(backbone.weights)
