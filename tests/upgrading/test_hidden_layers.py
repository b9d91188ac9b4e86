"""Classifiers with hidden layers after their pooling become runs that keep them, in every command."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import CLASSES, CommandLine, fresh, make_splits, rows_of
from keras import layers
from keras_classifiers import ending, in_a_row, outputs_of, pixels_of, randomize, save

import wisesr_cli
from wisesr_cli.config.reader import parse_head
from wisesr_cli.evaluation.probabilities import softmax
from wisesr_cli.models.build import assemble
from wisesr_cli.models.hidden import ACTIVATIONS
from wisesr_cli.models.scaling import Scaling
from wisesr_cli.upgrading.convert import fill_head
from wisesr_cli.upgrading.surgery import take_apart

STILL = ("-s", "train.optimizer.learning_rate=1e-30", "-s", "augment=none", "-s", "train.schedule.name=constant")
FROZEN = ("--epochs", "1", "-s", "train.phases=[{epochs: 1, freeze: backbone}]")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(empty_folder: Path) -> None:
    pass


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_splits(tmp_path_factory.mktemp("photos"), train=8, validation=4, test=3)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tail = in_a_row(
        layers.GlobalAveragePooling2D(),
        layers.LayerNormalization(epsilon=1e-6),
        layers.Dense(7, activation="gelu"),
        layers.BatchNormalization(),
        layers.Dropout(0.25),
        layers.Dense(5),
        layers.PReLU(alpha_initializer="glorot_uniform"),
        layers.Dense(3, activation="softmax"),
    )
    return save(ending(tail), tmp_path_factory.mktemp("models") / "mlp.keras")


@pytest.fixture(scope="module")
def upgraded(model_file: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upgraded")
    names = folder / "names.txt"
    names.write_text("red\nblue\ngreen\n", encoding="utf-8")  # not the order of the folders
    settings = {"data.dir": str(photos), "output_dir": str(folder), "name": "run"}
    return Path(wisesr_cli.upgrade(model_file, settings, classes=names).run_dir)


@pytest.fixture
def run(upgraded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(upgraded, tmp_path / "run")


def scores_of(answer: Any) -> Any:
    rows = [{top["label"]: top["score"] for top in row["top"]} for row in answer.data]
    return np.array([list(dict(sorted(row.items())).values()) for row in rows])


def predictions(wisesr: CommandLine, run: Path, photos: Path, *options: str) -> Any:
    return scores_of(wisesr("predict", run, photos / "test", "--format", "json", "--top-k", 3, "-q", *options))


def test_the_hidden_layers_appear_in_the_config_the_table_and_the_costs(
    wisesr: CommandLine, model_file: Path, run: Path
) -> None:
    hidden = wisesr_cli.load_config(run).model.head.hidden
    assert list(map(str, hidden)) == ["layer norm", "dense 7 gelu", "dense 5 prelu"]
    assert [layer.dropout for layer in hidden] == [0.0, 0.0, 0.25]
    answer = wisesr("upgrade", model_file, "--name", "other").worked()
    table = " ".join(answer.out.split())
    assert "the head 'wise' with 3 hidden layers (layer norm, dense 7 gelu, dense 5 prelu)" in table
    assert (
        "kept as 3 hidden layers of the head (model.head.hidden): layer norm, dense 7 gelu, dense 5 prelu" in answer.err
    )
    wisesr("upgrade", model_file, "-s", "model.head.hidden=8").failed(2, "the hidden layers are those of the model")
    row = wisesr("summarize", run, "--head", "wise", "--format", "json", "-q").data["rows"][0]
    model = keras.models.load_model(run / "best.keras")
    assert row["total_parameters"] == model.count_params()
    assert row["head_flops"] == 8 * 6 * 12 + 2 * 4 * 3 * 12 + 2 * (12 * 7 + 7 * 5 + 5 * 3)


def test_every_command_matches_the_original_model(
    wisesr: CommandLine, run: Path, upgraded: Path, model_file: Path, photos: Path
) -> None:
    answer = wisesr("predict", run, photos / "test", "--format", "json", "--top-k", 3, "-q", "--engine", "keras")
    original = keras.models.load_model(model_file, compile=False)
    pixels = np.stack([np.asarray(read(row["path"])) for row in answer.data])
    expected = outputs_of(original, pixels)[:, [["red", "blue", "green"].index(name) for name in CLASSES]]
    assert np.ptp(expected, axis=0).max() > 0.05
    np.testing.assert_allclose(scores_of(answer), expected, atol=1e-5)
    np.testing.assert_allclose(predictions(wisesr, run, photos, "--engine", "litert"), expected, atol=1e-5)
    judged = wisesr("evaluate", run, "--format", "json", "-q", "--report").data
    assert 0 <= judged["top1_accuracy"] <= 1
    report = next(run.glob("evaluate-*/report.html")).read_text(encoding="utf-8")
    assert "gain for this image: not how the logit would change" in report
    explained = wisesr("explain", run, photos / "test", "--format", "json", "-q", "--pictures", 1).data
    assert "not how the logit would change" in explained["statement"]
    for row in explained["rows"]:
        assert row["sum"] + row["bias"] == pytest.approx(row["logit"], abs=1e-5)
    rows = wisesr("explain", run, "--weights", "--format", "json", "-q").data["rows"]
    assert [(row["label"], np.shape(row["map"])) for row in rows] == [(None, (8, 6))]
    wisesr("explain", run, "--weights", "--class", "red").failed(2, "the head has hidden layers, so how")


def read(path: str) -> Any:
    from wisesr_cli.images.decoding import decode_image
    from wisesr_cli.images.preparation import Preparation

    return decode_image(path, image_size=(32, 24), preparation=Preparation())


def test_every_activation_computes_the_same_in_litert(wisesr: CommandLine, photos: Path) -> None:
    named = [name for name in ACTIVATIONS if name not in {"linear", "prelu"}]
    tail: list[Any] = [layers.GlobalAveragePooling2D()]
    for activation in (*map(layers.Activation, named), layers.ELU(0.3), layers.PReLU()):
        tail += [layers.Dense(5), activation]
    path = save(ending(in_a_row(*tail[:-2], tail[-1], layers.Dense(3, activation="softmax"))), Path("all.keras"))
    wisesr("upgrade", path, "-o", "runs", "--name", "all", "-q").worked()
    scores = [predictions(wisesr, Path("runs/all"), photos, "--engine", engine) for engine in ("keras", "litert")]
    np.testing.assert_allclose(*scores, atol=1e-5)


@pytest.mark.slow
def test_a_run_with_hidden_layers_can_be_exported_to_every_format(wisesr: CommandLine, run: Path) -> None:
    rows = wisesr("export", run, "--to", "keras,litert,onnx,saved_model", "--format", "json", "-q").data["rows"]
    assert [row["format"] for row in rows] == ["keras", "litert", "onnx", "saved_model"]


@pytest.mark.slow
def test_the_run_predicts_the_same_on_jax(wisesr: CommandLine, run: Path, photos: Path) -> None:
    line = ("predict", run, photos / "test", "--format", "json", "--top-k", "3", "-q", "--engine", "keras")
    answer = fresh(*line, cwd=run.parent, variables={"KERAS_BACKEND": "jax"}).worked()
    np.testing.assert_allclose(scores_of(answer), predictions(wisesr, run, photos), atol=1e-5)


def test_training_starts_from_the_hidden_layers_or_says_why_not(
    wisesr: CommandLine, upgraded: Path, photos: Path
) -> None:
    config = upgraded / "config.yaml"
    answer = wisesr("train", config, "-o", "runs", "--name", "same", *STILL, *FROZEN).worked()
    assert "the head's weights are those of" in " ".join(answer.err.split())
    before, after = (keras.models.load_model(path / "best.keras") for path in (upgraded, Path("runs/same")))
    np.testing.assert_allclose(outputs_of(after, pixels_of(3)), outputs_of(before, pixels_of(3)), atol=1e-5)
    history = rows_of(Path("runs/same/history.csv"))[0]
    judged = wisesr("evaluate", upgraded, "--split", "validation", "--format", "json", "-q").data
    assert float(history["val_loss"]) == pytest.approx(judged["log_loss"], rel=1e-4)
    answer = wisesr("train", config, "-s", "model.head.hidden=[{units: 7, activation: relu}]", "--dry-run")
    assert answer.code == 4
    assert "does not fit: its hidden layers are LayerNormalization epsilon=1e-06, Dense units=7" in answer.error
    line = ("train", config, "--head", "gap", "-s", "model.load_head=auto", "--dry-run")
    assert "the head is reinitialized: the file has a different head, 'wise'" in " ".join(
        wisesr(*line).worked().err.split()
    )


def test_a_new_network_can_be_trained_with_hidden_layers(wisesr: CommandLine, photos: Path) -> None:
    hidden = "model.head.hidden=[{units: 6, norm: batch, activation: silu, dropout: 0.2}, 5]"
    line = ("--backbone", "compact_small", "--image-size", "32", "--epochs", "2", "-s", hidden, "--weights", "none")
    wisesr("train", photos, *line, "--name", "new", "-o", "runs", "-q").worked()
    model = keras.models.load_model(Path("runs/new/best.keras"))
    names = [layer.name for layer in model.layers if layer.name.startswith("hidden_")]
    assert names[:4] == ["hidden_1_dropout", "hidden_1_dense", "hidden_1_norm", "hidden_1_activation"]
    assert names[4:] == ["hidden_2_dense", "hidden_2_activation"]
    assert float(np.ptp(model.get_layer("hidden_1_norm").get_weights()[2])) > 0  # statistics of the images


@pytest.mark.slow
@pytest.mark.parametrize("head", ["wise", "gap"])
@pytest.mark.parametrize(
    ("name", "hidden"),
    [
        ("MobileNetV3Small", ["dense 1024 hard_swish"]),
        ("MobileNetV3Large", ["dense 1280 hard_swish"]),
        ("ConvNeXtTiny", ["layer norm"]),
    ],
)
def test_keras_applications_with_a_top_keep_their_outputs(name: str, hidden: list[str], head: str) -> None:
    model = randomize(getattr(keras.applications, name)(input_shape=(64, 64, 3), weights=None, classes=5))
    parts = take_apart(model, (64, 64))
    assert [str(layer.options) for layer in parts.folded.hidden] == hidden
    options = parse_head(head).model_copy(update={"hidden": tuple(layer.options for layer in parts.folded.hidden)})
    ours = assemble(parts.backbone, Scaling("none"), (64, 64), 5, options)
    fill_head(ours, parts.folded)
    pixels = pixels_of(4, (64, 64))
    expected = outputs_of(model, pixels)
    assert np.ptp(expected, axis=0).max() > 2e-5  # random networks barely tell images apart
    np.testing.assert_allclose(softmax(outputs_of(ours, pixels)), expected, atol=1e-6)
