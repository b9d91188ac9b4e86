"""Multi-label Keras classifiers become multi-label runs."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from keras_classifiers import SIDE, ending, in_a_row, plain
from label_sets import SHAPES, write_label_sets
from PIL import Image

from wisesr_cli import api
from wisesr_cli.errors import UsageError
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.training.train import TrainingOptions


def several(activation: str | None = "sigmoid") -> keras.Model:
    return ending(in_a_row(layers.GlobalAveragePooling2D(), layers.Dense(4, activation=activation)))


def saved(model: keras.Model, folder: Path) -> Path:
    path = folder / "model.keras"
    model.save(path)
    return path


def photos(folder: Path) -> list[Path]:
    folder.mkdir()
    random = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(random.integers(0, 256, (*SIDE, 3), np.uint8)).save(folder / f"{number}.png")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("kind", ["sigmoid", "logits"])
def test_scores_match_the_model_and_labels_are_those_with_at_least_one_half(kind: str, tmp_path: Path) -> None:
    model = several("sigmoid" if kind == "sigmoid" else None)
    if kind == "logits":
        model.compile("sgd", keras.losses.BinaryCrossentropy(from_logits=True))
    result = api.upgrade(saved(model, tmp_path), {"output_dir": str(tmp_path), "name": "run"})
    assert read_model_info(tmp_path / "run" / "best.keras").thresholds == (0.5,) * 4
    assert api.load_config(result.run_dir).model.task == "multilabel"
    images = photos(tmp_path / "photos")
    pixels = np.stack([np.asarray(Image.open(image), np.float32) for image in images])
    expected = np.asarray(model(pixels))
    expected = expected if kind == "sigmoid" else 1 / (1 + np.exp(-expected))
    for record, scores in zip(api.predict(result.run_dir, images, probabilities=True), expected, strict=True):
        assert list(record.probabilities.values()) == pytest.approx(scores, abs=1e-5)
        assert set(record.labels) == {f"class_{label}" for label in np.flatnonzero(scores >= 0.5)}


def test_a_multilabel_run_needs_a_table_of_labels_and_can_be_trained(tmp_path: Path) -> None:
    table = write_label_sets(tmp_path / "shapes", count=60)
    model = saved(several(), tmp_path)
    place = {"output_dir": str(tmp_path), "name": "run", "data.manifest": str(table), "data.dir": str(table.parent)}
    with pytest.raises(UsageError, match=r"--set model\.task=multilabel, and as --data a table"):
        api.upgrade(model, {**place, "data.manifest": None, "data.dir": str(single_labels(tmp_path / "folders"))})
    (tmp_path / "names.txt").write_text("\n".join(SHAPES))
    settings = {**place, "model.task": "multilabel"}
    result = api.upgrade(model, settings, classes=tmp_path / "names.txt")
    assert read_model_info(tmp_path / "run" / "best.keras").class_names == SHAPES
    trained = api.train(result.run_dir, {"train.epochs": 1, "augment": "none"}, options=TrainingOptions(resume=True))
    assert trained.metrics.mean_average_precision is not None


def single_labels(folder: Path) -> Path:
    for name in SHAPES:
        (folder / name).mkdir(parents=True)
        for number in range(3):
            Image.new("RGB", SIDE, (number, 0, 0)).save(folder / name / f"{number}.png")
    return folder


def test_a_single_label_model_cannot_become_multilabel(tmp_path: Path) -> None:
    settings = {"output_dir": str(tmp_path), "name": "run", "model.task": "multilabel"}
    with pytest.raises(UsageError, match="gives an image one label"):
        api.upgrade(saved(plain(), tmp_path), settings)
