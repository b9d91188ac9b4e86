"""A third-party classifier becomes a run with the same outputs, which every command accepts and training can resume."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import CLASSES, Answer, CommandLine, Trained, command, loaded_after, make_splits, rows_of
from keras_classifiers import OTHERS, nested, outputs_of, plain, save
from numpy.typing import NDArray

import wisesr_cli
from wisesr_cli.comparison.plan import plan_of
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.archive import check_model, read_model_info
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.requests import CompareRequest
from wisesr_cli.run.state import read_state
from wisesr_cli.upgrading import convert

SIZE = (32, 24)
STILL = ("-s", "train.optimizer.learning_rate=1e-30", "-s", "augment=none", "-s", "train.schedule.name=constant")
FROZEN = ("--epochs", "1", "-s", "train.phases=[{epochs: 1, freeze: backbone}]")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(empty_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Takes most of the time of an upgrade; the fixture `upgraded` is created earlier, and includes it.
    monkeypatch.setattr(convert, "keep_litert", lambda *arguments, **options: None)


@pytest.fixture(scope="module")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(nested(), tmp_path_factory.mktemp("models") / "nested.keras")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_splits(tmp_path_factory.mktemp("photos"), train=8, validation=4, test=3)


@pytest.fixture(scope="module")
def upgraded(model_file: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("upgraded")
    settings = {"data.dir": str(photos), "output_dir": str(folder), "name": "run"}
    return Path(wisesr_cli.upgrade(model_file, settings).run_dir)


def probabilities_of(model_file: Path, folder: Path) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the original's probabilities for the images of class folders, and their labels."""
    paths = [(path, label) for label, name in enumerate(CLASSES) for path in sorted((folder / name).iterdir())]
    pixels = np.stack([decode_image(str(path), image_size=SIZE, preparation=Preparation()) for path, _ in paths])
    return outputs_of(keras.models.load_model(model_file, compile=False), pixels), np.array([n for _, n in paths])


def scores_of(answer: Answer, names: Sequence[str] = CLASSES) -> list[list[float]]:
    """Return the predicted scores of each class."""
    rows = [{top["label"]: top["score"] for top in row["top"]} for row in answer.data]
    return [[row[name] for name in names] for row in rows]


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_an_upgraded_run_has_everything_a_run_has_before_its_first_epoch(upgraded: Path, model_file: Path) -> None:
    kept = {"config.yaml", "classes.json", "environment.json", "splits.csv", "best.keras", "upgraded.keras"}
    assert {path.name for path in upgraded.iterdir()} - {".lock"} == kept | {"best.tflite", ".written.jsonl"}
    assert json.loads((upgraded / "classes.json").read_text(encoding="utf-8")) == list(CLASSES)
    assert sorted(path.name for path in upgraded.parent.iterdir()) == ["run"]
    info = read_model_info(upgraded / "best.keras")
    assert (info.backbone, info.head, info.epoch, info.image_size) == ("from_weights", "wise", 0, SIZE)
    config = wisesr_cli.load_config(upgraded)
    assert (config.model.weights, config.model.load_head) == (str(upgraded / "upgraded.keras"), True)
    assert (config.model.preprocessing, config.model.head.dropout) == ("none", 0.3)
    assert config.train.optimizer.learning_rate == 1e-4


def test_every_command_matches_the_original_model(
    wisesr: CommandLine, upgraded: Path, model_file: Path, photos: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(upgraded, tmp_path / "copy")
    expected, labels = probabilities_of(model_file, photos / "test")
    assert np.ptp(expected, axis=0).max() > 0.1
    for engine in ("keras", "litert"):
        answer = wisesr("predict", run, photos / "test", "--format", "json", "--top-k", 3, "--engine", engine, "-q")
        np.testing.assert_allclose(scores_of(answer), expected, atol=1e-5)
    judged = wisesr("evaluate", run, "--format", "json", "-q").data
    assert judged["top1_accuracy"] == (expected.argmax(axis=1) == labels).mean()
    assert judged["log_loss"] == pytest.approx(-np.log(expected[np.arange(len(labels)), labels]).mean(), rel=1e-4)
    explained = wisesr("explain", run, photos / "test", "--format", "json", "-q", "--pictures", 0).data["rows"]
    assert all(row["sum"] + row["bias"] == pytest.approx(row["logit"], abs=1e-5) for row in explained)
    row = wisesr("summarize", run, "--head", "wise", "--format", "json", "-q").data["rows"][0]
    assert (row["backbone"], row["feature_map"]) == ("from_weights", [8, 6, 12])
    assert row["total_parameters"] == load_model(check_model(run / "best.keras")).count_params()


def test_the_output_reports_what_was_found_and_the_next_command(
    wisesr: CommandLine, photos: Path, model_file: Path, tmp_path: Path
) -> None:
    answer = wisesr("upgrade", model_file, "--data", photos, "-o", tmp_path / "runs").worked()
    table = " ".join(answer.out.split())
    assert "feature map 8x6x12" in table
    assert "after it Dropout 0.3, BatchNormalization, Dense 3 softmax" in table
    assert "0..255 as they are: the model scales them itself (c_rescaling)" in table
    assert "on 12 validation images" in table
    run = tmp_path / "runs" / "nested-wise"
    assert f"next: wisesr train {run} --resume\n" in answer.err
    assert "augmentation is skipped, as saved models do not include it: random_flip" in answer.err
    wisesr("upgrade", model_file, "-o", tmp_path / "runs", "--name", run.name).failed(2, "exists; give another --name")
    before = files_in(run)
    other = wisesr("upgrade", model_file, "-o", tmp_path / "runs", "--name", run.name, "--overwrite", "--head", "gap")
    assert other.code == 0
    assert set(before) - set(files_in(run)) == {"splits.csv"}
    assert read_model_info(run / "best.keras").head == "gap"
    assert "--data FOLDER" in other.err


def test_the_json_output_describes_the_model_and_the_difference(
    wisesr: CommandLine, model_file: Path, tmp_path: Path
) -> None:
    found = wisesr("upgrade", model_file, "--format", "json", "-q").data
    assert (found["feature_map"], found["activation"], found["class_names"][2]) == ([8, 6, 12], "softmax", "class_2")
    assert 0 <= found["max_probability_difference"] <= 1e-5 < found["variation"]


# Fine-tuning


def original_loss(model_file: Path, photos: Path) -> tuple[float, float]:
    """Return loss and accuracy of the original on the validation images."""
    expected, labels = probabilities_of(model_file, photos / "validation")
    right = expected.argmax(axis=1) == labels
    return float(-np.log(expected[np.arange(len(labels)), labels]).mean()), float(right.mean())


@pytest.mark.parametrize("precision", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)])
def test_resuming_an_upgraded_run_starts_with_the_loss_and_accuracy_of_the_original(
    wisesr: CommandLine, upgraded: Path, model_file: Path, photos: Path, precision: str
) -> None:
    run = move_to(upgraded, Path("here") / "run")
    answer = wisesr("train", run, "--resume", *STILL, *FROZEN, "--precision", precision).worked()
    loss, accuracy = original_loss(model_file, photos)
    history = read_history(run)
    close = 1e-4 if precision == "float32" else 0.02
    assert history["val_loss"] == pytest.approx(loss, rel=close)
    if precision == "float32":
        assert history["val_top1_accuracy"] == pytest.approx(accuracy)
    assert sorted(path.name for path in run.parent.iterdir()) == ["run"]  # into that very run
    assert "the head's weights are those of" in answer.err
    again = wisesr("train", run, "--resume", *STILL, *FROZEN, "--precision", precision)
    assert "nothing left to do" in again.err


def move_to(upgraded: Path, run: Path) -> Path:
    """Copy an upgraded run elsewhere, and update its config."""
    run = Path(shutil.copytree(upgraded, run.absolute(), ignore=shutil.ignore_patterns("evaluate-*", "explain")))
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(upgraded / "upgraded.keras"), str(run / "upgraded.keras")))
    return run


def read_history(run: Path) -> dict[str, float]:
    return {name: float(value) for name, value in rows_of(run / "history.csv")[0].items()}


@pytest.mark.slow
def test_interrupted_fine_tuning_resumes_to_a_bit_for_bit_identical_end(wisesr: CommandLine, upgraded: Path) -> None:
    whole, parts = move_to(upgraded, Path("whole/run")), move_to(upgraded, Path("parts/run"))
    quick = ("--resume", "-b", "12", "--epochs", "2", "-q", "--lr", "0.01")
    assert wisesr("train", whole, *quick).code == 0
    for steps in ("1", "3"):
        assert wisesr("train", parts, *quick, "--max-steps", steps).code == 0
        assert (parts / "best.keras").is_file()  # the upgraded one, until an epoch has finished
    assert wisesr("train", parts, *quick).code == 0
    states = [read_state(run / "state") for run in (whole, parts)]
    for group in ("model", "optimizer", "random"):
        one, other = (state.group(group) for state in states)
        assert one.keys() == other.keys()
        assert all(np.array_equal(one[name], other[name]) for name in one), group
    assert not np.allclose(*(load_weights(whole / name) for name in ("upgraded.keras", "best.keras")))
    wisesr("train", whole, "--overwrite", *quick[1:], "--max-steps", "1").worked()
    assert (whole / "upgraded.keras").is_file()
    assert not (whole / "best.keras").exists()


def load_weights(path: Path) -> NDArray[Any]:
    return np.concatenate([weight.ravel() for weight in load_model(check_model(path)).get_weights()])


@pytest.mark.slow
def test_a_run_without_images_can_be_trained_on_images_given_later(
    wisesr: CommandLine, model_file: Path, photos: Path
) -> None:
    assert wisesr("upgrade", model_file, "-o", "runs", "--name", "run", "-q").code == 0
    wisesr("evaluate", "runs/run").failed(2, "runs/run: the run has no images of its own yet; give --data FOLDER")
    answer = wisesr("train", "runs/run", "--resume", "--data", photos, *STILL, *FROZEN).worked()
    assert "assuming its classes are in the order of the folders" in " ".join(answer.err.split())
    assert read_history(Path("runs/run"))["val_loss"] == pytest.approx(original_loss(model_file, photos)[0], rel=1e-4)
    assert json.loads(Path("runs/run/classes.json").read_text(encoding="utf-8")) == list(CLASSES)


@pytest.mark.slow
def test_a_config_that_names_an_upgraded_run_starts_from_its_backbone_and_head(
    wisesr: CommandLine, upgraded: Path, model_file: Path, photos: Path
) -> None:
    Path("c.yaml").write_text(
        f"model: {{backbone: from_weights, weights: {upgraded}, head: {{name: wise}}}}\n"
        f"data: {{dir: {photos}, image_size: [32, 24]}}\n",
        encoding="utf-8",
    )
    wisesr("train", "c.yaml", *STILL, *FROZEN, "--name", "same").worked()
    assert read_history(Path("runs/same"))["val_loss"] == pytest.approx(original_loss(model_file, photos)[0], rel=1e-4)
    answer = wisesr("train", "c.yaml", "--head", "gap", "--dry-run")
    assert "the head is reinitialized: the file has a different head, 'wise'" in " ".join(answer.err.split())
    answer = wisesr("train", "c.yaml", "--head", "gap", "-s", "model.load_head=true", "--dry-run")
    assert (answer.code, "does not fit: the file has a different head, 'wise'" in answer.error) == (4, True)


def test_compared_heads_are_all_newly_initialized(upgraded: Path) -> None:
    plan = plan_of(CompareRequest(upgraded / "config.yaml", heads=("gap", "wise"), seeds=(0,)))
    assert [head.loaded.config.model.load_head for head in plan.heads] == [False, False]
    assert any("every head is newly initialized" in note for note in plan.notes)


# Classes


def test_class_names_in_output_order_are_reordered_like_the_folders(
    wisesr: CommandLine, model_file: Path, photos: Path
) -> None:
    names = ["red", "blue", "green"]
    Path("names.txt").write_text("\n".join(names) + "\n", encoding="utf-8")
    assert wisesr("upgrade", model_file, "--classes", "names.txt", "--data", photos, "--name", "run", "-q").code == 0
    expected, _ = probabilities_of(model_file, photos / "test")
    answer = wisesr("predict", "runs/run", photos / "test", "--format", "json", "--top-k", 3, "-q")
    np.testing.assert_allclose(scores_of(answer, names), expected, atol=1e-5)
    assert json.loads(Path("runs/run/classes.json").read_text(encoding="utf-8")) == sorted(names)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a\nb\n", "--classes has 2 classes, but the model has 3 outputs"),
        ("a\nb\nb\n", "--classes names.txt:3: 'b' is given twice"),
        ("a\n\nb\n", "--classes names.txt:2: an empty line"),
        ("a\nb\nred\n", "'a' is only one of --classes and the class folders"),
    ],
)
def test_mismatched_class_names_exit_with_3(
    wisesr: CommandLine, model_file: Path, photos: Path, text: str, reason: str
) -> None:
    Path("names.txt").write_text(text, encoding="utf-8")
    wisesr("upgrade", model_file, "--classes", "names.txt", "--data", photos).refused(3, reason)
    assert files_in(Path("runs")) == [] if Path("runs").exists() else True


def test_odd_names_are_shown_escaped_and_kept_exactly(wisesr: CommandLine) -> None:
    names = ["=cmd", "\x1b[31mred", "[/red]:cat: \u202e"]
    Path("odd.txt").write_text("\n".join(names), encoding="utf-8")
    path = save(plain(), Path("\x1b[31m \u202ex.keras"))
    answer = wisesr("upgrade", path, "--classes", "odd.txt", "--name", "run").worked()
    assert not {"\x1b", "\u202e"} & {*answer.out, *answer.err}
    assert json.loads(Path("runs/run/classes.json").read_text(encoding="utf-8")) == names


@pytest.fixture
def gap_run(photos: Path, tmp_path: Path) -> Path:
    """Return a wisesr run with global average pooling, which crops images and scales their pixels."""
    settings = {"name": "photos-gap", "train.epochs": 1, "data.resize": "crop", "data.image_size": list(SIZE)}
    model = {"model.backbone": "compact_small", "model.preprocessing": "caffe", "model.head.name": "gap"}
    settings["model.head.classifier_initializer"] = "default"  # one epoch of the other leaves nearly equal scores
    result = wisesr_cli.train(photos, {**settings, **model, "output_dir": str(tmp_path / "runs"), "augment": "none"})
    return Path(result.run_dir)


def test_a_wisesr_run_with_global_average_pooling_becomes_one_with_a_wise_head(
    wisesr: CommandLine, gap_run: Path, photos: Path
) -> None:
    answer = wisesr("upgrade", gap_run, "--format", "json").worked()
    found, run = answer.data, gap_run.with_name("photos-wise")
    assert (Path(found["run_dir"]).name, found["class_names"]) == (run.name, list(CLASSES))
    assert found["max_probability_difference"] <= 1e-5
    info = read_model_info(run / "best.keras")
    assert (info.head, info.preparation, info.epoch) == ("wise", Preparation("crop", color="srgb"), 0)
    scores = []
    for each in (gap_run, run):
        line = ("predict", each, photos / "test", "--format", "json", "--top-k", 3, "--engine", "keras", "-q")
        scores.append(scores_of(wisesr(*line)))
    np.testing.assert_allclose(*scores, atol=1e-5)
    assert np.ptp(scores[0]) > 0.01
    Path("names.txt").write_text("one\ntwo\nthree\n", encoding="utf-8")
    renamed = wisesr("upgrade", gap_run / "best.keras", "--classes", "names.txt", "--format", "json", "-q").data
    assert (Path(renamed["run_dir"]).name, renamed["class_names"][0]) == ("photos-wise-2", "one")
    wisesr("upgrade", run).failed(4, "is already a model of wisesr, with the head 'wise'")


# What is rejected


def test_a_model_that_cannot_be_converted_exits_with_4_and_leaves_nothing(wisesr: CommandLine) -> None:
    path = save(OTHERS["flattened"][0](), Path("flat.keras"))
    wisesr("upgrade", path).refused(4, "flat.keras: cannot be converted: the layer after the feature map of 8x6x12 is")
    assert files_in(Path()) in (["flat.keras"], ["flat.keras", "runs"])


def test_different_outputs_exit_with_4_and_leave_nothing(
    wisesr: CommandLine, model_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tripled(found: convert.Upgraded) -> Any:
        folded = found.parts.folded
        return replace(folded, classifier=replace(folded.classifier, kernel=3 * folded.classifier.kernel))

    monkeypatch.setattr(convert.Upgraded, "folded", property(tripled))
    wisesr("upgrade", model_file).failed(4, "the run gives different outputs: probabilities differ by")
    assert files_in(Path("runs")) == []


def test_a_signal_leaves_nothing(wisesr: CommandLine, model_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convert, "compare", lambda *arguments: os.kill(os.getpid(), signal.SIGTERM))
    wisesr("upgrade", model_file).failed(143, "stopped by SIGTERM; nothing was made")
    assert files_in(Path("runs")) == []


def test_missing_and_conflicting_options_are_usage_errors(wisesr: CommandLine, model_file: Path) -> None:
    any_size = save(plain(shape=(None, None, 3)), Path("any.keras"))
    pixels = keras.Input((*SIZE, 3))
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(pixels))
    unscaled = save(keras.Model(pixels, keras.layers.Dense(3)(pooled)), Path("unscaled.keras"))
    for words, reason in (
        ((any_size,), "takes images of any size; give the one to use it at: --image-size 224"),
        ((model_file, "--image-size", "64"), "the model is for 32x24"),
        ((unscaled,), "does not say how its pixels are scaled before it; give --preprocessing none"),
        ((model_file, "--head", "flatten"), "gives other outputs than global average pooling"),
        ((model_file, "-s", "model.head.initializer=paper"), "only uniform and even start equal"),
        ((model_file, "-s", "model.head.pooling=valid"), "only tile averages all of the map"),
        ((model_file, "-s", "model.backbone=Xception"), "the backbone is that of the model; leave it out"),
    ):
        wisesr("upgrade", *words).refused(2, reason)
    for words in ((any_size, "--image-size", "48x40"), (unscaled, "--preprocessing", "unit")):
        assert wisesr("upgrade", *words, "-q").code == 0


def test_files_that_are_not_third_party_models_exit_with_4_without_keras(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    for name, text in (("old.h5", ""), ("x.txt", ""), ("broken.keras", "no archive")):
        (tmp_path / name).write_text(text)
    for path, reason in (
        ("nowhere.keras", "no such file"),
        ("old.h5", "old.h5: refused: "),
        ("x.txt", "is not a .keras or .h5 file"),
        ("", "is a folder; give a model that Keras saved as .keras or .h5"),
        ("broken.keras", "damaged"),
        (trained.run / "best.keras", "is already a model of wisesr"),
    ):
        wisesr("upgrade", path).refused(4, reason)
    code, loaded, err = loaded_after(command("upgrade", str(trained.run / "best.keras")), tmp_path)
    assert (code, "keras" in loaded) == (4, False), err


# Published networks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["MobileNetV2", "ResNet50"])
def test_a_keras_application_with_its_top_becomes_a_run(wisesr: CommandLine, name: str) -> None:
    application = getattr(keras.applications, name)
    save(application(weights=None, classes=10, input_shape=(64, 64, 3)), Path("top.keras"))
    found = wisesr("upgrade", "top.keras", "--format", "json", "--overwrite", "--name", "run", "-q").data
    assert found["scaling"] == {"MobileNetV2": "tf", "ResNet50": "caffe"}[name]
    assert (found["activation"], found["feature_map"][:2]) == ("softmax", [2, 2])
    assert found["max_probability_difference"] <= 1e-5
