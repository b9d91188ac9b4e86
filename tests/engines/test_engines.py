"""A saved model runs at every precision, and a model that cannot run is a one-line error."""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from command_line import CommandLine, Trained
from run_states import load_engine

from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.archive import append_model_info, check_model, read_model_info
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.settings import ModelConfig

SIZE = (32, 32)


@pytest.mark.parametrize(
    ("backbone", "preprocessing"),
    [
        ("compact_small", "caffe"),
        pytest.param("MobileNetV3Small", "auto", marks=pytest.mark.slow),
        pytest.param("ConvNeXtTiny", "torch", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_layer_and_operation_runs_in_another_precision(
    backbone: str, preprocessing: str, tmp_path: Path
) -> None:
    config = ModelConfig(backbone=backbone, preprocessing=preprocessing)  # type: ignore[arg-type]
    path = tmp_path / "best.keras"
    build_classifier(config, image_size=SIZE, classes=2).model.save(path)
    append_model_info(path, ModelInfo(("a", "b"), SIZE, Preparation(), BACKGROUND, backbone, "wise", 1, {}))
    pixels = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), dtype=np.uint8)
    exact = load_engine(path).logits(pixels)
    rounded = load_engine(path, "mixed_bfloat16").logits(pixels)
    np.testing.assert_allclose(rounded, exact, atol=0.1 * np.abs(exact).max() + 0.05)
    assert not np.array_equal(rounded, exact)


@pytest.mark.parametrize("chosen", ["table", "json", "jsonl", "csv", "markdown"])
def test_model_with_nan_weights_exits_with_3_and_predicts_nothing(
    chosen: str, tmp_path: Path, trained: Trained, wisesr: CommandLine
) -> None:
    run = trained.copy_to(tmp_path / "run")
    info, model = read_model_info(run / "best.keras"), load_model(check_model(run / "best.keras"))
    model.set_weights([np.full(weight.shape, np.nan, "float32") for weight in model.weights])
    model.save(run / "best.keras")
    append_model_info(run / "best.keras", info)
    answer = wisesr("predict", run, trained.photos / "test", "--format", chosen)
    assert answer.code == 3
    assert "the model's logits are not finite" in answer.error
    assert "nan" not in answer.out


def test_batch_that_runs_out_of_memory_is_a_memory_error(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    class ResourceExhaustedError(Exception):
        """Named like the error of TensorFlow."""

    def refuse(model: keras.Model, pixels: object) -> None:
        raise ResourceExhaustedError("OOM when allocating tensor")

    engine = load_engine(trained.run / "best.keras")
    monkeypatch.setattr(keras.Model, "predict_on_batch", refuse)
    with pytest.raises(MemoryError, match="a smaller --batch-size may help"):
        engine.logits(np.zeros((1, *engine.info.image_size, 3), np.uint8))


def test_model_that_loads_but_cannot_run_exits_with_4_and_names_its_file(
    trained: Trained, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(model: keras.Model, pixels: object) -> None:
        raise ValueError("shapes\n do not fit\x1b[31m")

    monkeypatch.setattr(keras.Model, "predict_on_batch", refuse)
    for command in (("predict", trained.run, trained.photos / "test"), ("evaluate", trained.run)):
        answer = wisesr(*command, "--engine", "keras")
        assert answer.code == 4
        assert answer.error.endswith("best.keras: the model cannot be run: shapes do not fit\\x1b[31m")
