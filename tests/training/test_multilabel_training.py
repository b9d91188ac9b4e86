"""Training on images with any number of labels, and every use of the resulting model."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from command_line import REPOSITORY
from label_sets import SHAPES, write_label_sets
from run_states import digest
from small_trainings import HeardTraining, load, train_on

from wisesr_cli import api
from wisesr_cli.data.dataset import build_index
from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.evaluation.thresholds import FEWEST_IMAGES
from wisesr_cli.listening import Silent
from wisesr_cli.model_files.archive import check_model
from wisesr_cli.results.evaluation import MultilabelEvaluation, MultilabelMetrics
from wisesr_cli.results.training import TrainingResult
from wisesr_cli.run.run import Run
from wisesr_cli.training.batches import positive_weights
from wisesr_cli.training.objective import BestIsLabel, SeveralLabels

SETTINGS = {
    "model.task": "multilabel",
    "augment": "none",
    "train.epochs": 10,
    "train.batch_size": 16,
    "train.optimizer.learning_rate": 5e-3,
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_label_sets(tmp_path_factory.mktemp("shapes"), count=250, splits=True)


@pytest.fixture(scope="module")
def heard() -> HeardTraining:
    return HeardTraining()


@pytest.fixture(scope="module")
def trained(table: Path, heard: HeardTraining, tmp_path_factory: pytest.TempPathFactory) -> TrainingResult:
    return train_on(table, tmp_path_factory.mktemp("runs"), SETTINGS, heard)


def cross_entropy(targets: np.ndarray, logits: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the loss of every example, straight from the formula."""
    probabilities = 1 / (1 + np.exp(-logits))
    losses = -targets * np.log(probabilities) * weights - (1 - targets) * np.log(1 - probabilities)
    return losses.mean(axis=1)


def test_loss_is_the_mean_cross_entropy_of_all_labels_with_positives_weighted() -> None:
    random = np.random.default_rng(0)
    targets, logits = (random.random((6, 3)) < 0.5).astype("float32"), random.normal(size=(6, 3)).astype("float32")
    weights = np.array([1.0, 5.0, 0.5], np.float32)
    loss = SeveralLabels(weights, None)
    assert np.asarray(loss.call(targets, logits)) == pytest.approx(cross_entropy(targets, logits, weights), rel=1e-5)
    own = np.array([1, 2, 3, 4, 5, 6], np.float32)
    expected = (cross_entropy(targets, logits, weights) * own).mean()
    assert float(loss(targets, logits, sample_weight=own)) == pytest.approx(expected, rel=1e-5)
    plain = keras.losses.BinaryCrossentropy(from_logits=True)(targets, logits)
    assert float(SeveralLabels(None, None)(targets, logits)) == pytest.approx(float(plain), rel=1e-6)
    focal = keras.losses.BinaryFocalCrossentropy(gamma=1.5, from_logits=True)(targets, logits)
    assert float(SeveralLabels(None, 1.5)(targets, logits)) == pytest.approx(float(focal), rel=1e-6)


def test_epoch_accuracy_counts_labelled_images_whose_best_class_is_a_label() -> None:
    metric = BestIsLabel(name="top1_accuracy")
    targets = np.array([[1, 1, 0], [0, 0, 1], [0, 0, 0], [0, 1, 0]], np.float32) * 0.8 + 0.1  # label smoothing
    logits = np.array([[0, 2, 1], [0, 2, 1], [9, 0, 0], [0, 3, 1]], np.float32)
    metric.update_state(targets, logits)
    assert float(metric.result()) == pytest.approx(2 / 3)


def test_balanced_weights_make_a_label_count_as_much_as_its_absence(table: Path, tmp_path: Path) -> None:
    def weights_of(class_weights: object) -> np.ndarray:
        config = load(table, tmp_path, {**SETTINGS, "train.class_weights": class_weights}).config
        index = build_index(config.data, seed=0, listener=Silent())
        return positive_weights(config, index.class_names, index.splits["train"])

    config = load(table, tmp_path, SETTINGS).config
    labels = build_index(config.data, seed=0, listener=Silent()).splits["train"].labels
    assert weights_of("balanced") == pytest.approx((~labels).sum(axis=0) / labels.sum(axis=0), rel=1e-6)
    assert weights_of({"red": 3.0}).tolist() == [1, 1, 3, 1]
    assert weights_of("none") is None


def test_training_learns_and_saves_thresholds_and_metrics(trained: TrainingResult, heard: HeardTraining) -> None:
    metrics = trained.metrics
    assert isinstance(metrics, MultilabelMetrics)
    assert metrics.mean_average_precision > 0.9
    assert metrics.micro_f1 > 0.8
    info = check_model(Run(Path(trained.run_dir)).best).info
    assert info.class_names == SHAPES
    assert len(info.thresholds) == 4
    assert all(0 < each < 1 for each in info.thresholds)
    assert min(row.support for row in metrics.per_class) >= FEWEST_IMAGES
    assert json.loads(Path(trained.run_dir, "metrics.json").read_bytes())["mean_average_precision"]
    assert not Path(trained.run_dir, "calibration.json").exists()
    assert heard.plan is not None
    assert heard.plan.images == {"train": 150, "validation": 50, "test": 50}
    assert any(note.startswith("thresholds of labels: ") for note in heard.notes)


def test_evaluate_writes_per_label_tables_and_no_confusion_matrix(trained: TrainingResult) -> None:
    found = api.evaluate(trained.run_dir)
    assert isinstance(found, MultilabelEvaluation)
    assert found.metrics.examples == 50
    assert found.metrics.mean_average_precision > 0.9
    output = Path(found.output_dir)
    assert not (output / "confusion_matrix.csv").exists()
    with (output / "predictions.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["correct"] == "true" for row in rows] == [row["truth"] == row["predicted"] for row in rows]
    assert sum(row["correct"] == "true" for row in rows) / 50 == pytest.approx(found.metrics.exact_match)
    with (output / "per_class.csv").open(encoding="utf-8") as file:
        labels = list(csv.DictReader(file))
    assert [row["label"] for row in labels] == list(SHAPES)
    assert float(labels[0]["threshold"]) > 0
    assert Path(trained.run_dir, "plots", "reliability-test.png").exists()


def test_engines_agree_on_the_metrics(trained: TrainingResult) -> None:
    by_litert, by_keras = (api.evaluate(trained.run_dir, engine=engine).metrics for engine in ("litert", "keras"))
    assert by_litert.log_loss == pytest.approx(by_keras.log_loss, abs=1e-5)
    assert by_litert.micro_f1 == pytest.approx(by_keras.micro_f1, abs=0.02)


def test_predict_returns_every_label_that_reaches_its_threshold(trained: TrainingResult, table: Path) -> None:
    info = check_model(Run(Path(trained.run_dir)).best).info
    images = [table.parent / f"{number:04d}.png" for number in range(12)]
    thresholds = dict(zip(SHAPES, info.thresholds, strict=True))
    for record in api.predict(trained.run_dir, images, probabilities=True):
        assert set(record.labels) == {name for name in SHAPES if record.probabilities[name] >= thresholds[name]}
        scores = [record.probabilities[name] for name in record.labels]
        assert scores == sorted(scores, reverse=True)
        assert record.label == ("|".join(record.labels) or None)
        distances = [abs(record.probabilities[name] - thresholds[name]) for name in SHAPES]
        assert record.margin == pytest.approx(min(distances))
    for record in api.predict(trained.run_dir, images, min_score=0.999999):
        assert record.labels == ()
        assert record.label is None


def test_evaluate_reads_predictions_as_a_table_of_labels(trained: TrainingResult, table: Path, tmp_path: Path) -> None:
    images = sorted(table.parent.glob("00[0-4]*.png"))
    output, again = tmp_path / "labels.csv", table.parent / "again.csv"
    assert len(list(api.predict(trained.run_dir, images, output=output))) == len(images)
    with output.open(encoding="utf-8") as file:
        rows = [{"path": Path(row["path"]).name, "label": row["label"]} for row in csv.DictReader(file)]
    with again.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ("path", "label"))
        writer.writeheader()
        writer.writerows(rows)
    found = api.evaluate(trained.run_dir, data=again)
    assert found.metrics.exact_match == 1.0


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (
            lambda run, image: list(api.predict(run, [image], coverage=0.9)),
            "it promises sets that contain the one true label",
        ),
        (lambda run, image: list(api.predict(run, [image], sort_into="sorted")), "--sort-into puts every image"),
        (lambda run, image: api.evaluate(run, coverage=0.9), "--coverage is for models that give an image one label"),
        (lambda run, image: api.evaluate(run, label_issues=True), "--label-issues is for models"),
        (lambda run, image: api.evaluate(run, report=True), "--report is for models"),
    ],
)
def test_options_for_single_label_models_are_usage_errors_with_the_reason(
    trained: TrainingResult, table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: object, expected: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=expected):
        call(trained.run_dir, table.parent / "0000.png")
    assert not list(tmp_path.iterdir())


def test_compare_is_a_usage_error_with_an_alternative(table: Path) -> None:
    with pytest.raises(UsageError, match="compare the mean_average_precision"):
        api.compare(table, {"model.task": "multilabel"}, heads="gap,wise")


def test_every_predicted_label_is_explained_and_its_parts_sum_to_its_logit(
    trained: TrainingResult, table: Path
) -> None:
    images = [table.parent / f"{number:04d}.png" for number in range(6)]
    predicted = {record.path: record for record in api.predict(trained.run_dir, images, probabilities=True)}
    for explanation in api.explain(trained.run_dir, images):
        record = predicted[explanation.path]
        assert {row.label for row in explanation.asked} == set(record.labels)
        assert explanation.runner_up is None
        assert explanation.decision is None
        for row in explanation.asked:
            assert row.sum + row.bias == pytest.approx(row.logit, abs=1e-4)
            assert explanation.scores[row.label] == pytest.approx(record.probabilities[row.label], abs=1e-5)
    (asked,) = api.explain(trained.run_dir, images[:1], classes=["yellow"])
    assert [row.label for row in asked.asked] == ["yellow"]


def test_explanation_images_of_predicted_labels_are_written(
    trained: TrainingResult, table: Path, tmp_path: Path
) -> None:
    images = [table.parent / f"{number:04d}.png" for number in range(3)]
    list(api.explain(trained.run_dir, images, write=True, output_dir=tmp_path / "maps"))
    assert len(list((tmp_path / "maps").glob("image-*.png"))) == 3
    with np.load(tmp_path / "maps" / "contributions.npz", allow_pickle=False) as arrays:
        assert (arrays["runner_up_labels"] == -1).all()
        assert np.isnan(arrays["decision_maps"]).all()


def test_exports_return_an_independent_probability_for_each_label(trained: TrainingResult, tmp_path: Path) -> None:
    result = api.export(trained.run_dir, to=["litert"], output_dir=tmp_path / "out")
    assert result.rows[0].max_probability_difference < 1e-4
    info = check_model(Run(Path(trained.run_dir)).best).info
    lines = (tmp_path / "out" / "thresholds.txt").read_text(encoding="utf-8").splitlines()
    assert [float(line) for line in lines] == list(info.thresholds)
    from ai_edge_litert.interpreter import Interpreter

    run = Interpreter(str(tmp_path / "out" / "model.tflite")).get_signature_runner()
    pixels = np.random.default_rng(0).integers(0, 256, (1, 32, 32, 3)).astype(np.float32)
    scores = next(iter(run(pixels=pixels).values()))[0]
    engine_scores = next(iter(_probabilities(trained, pixels)))
    assert scores == pytest.approx(engine_scores, abs=1e-4)
    assert "thresholds.txt" in (tmp_path / "out" / "README.md").read_text(encoding="utf-8")


def _probabilities(trained: TrainingResult, pixels: np.ndarray) -> np.ndarray:
    model = keras.saving.load_model(Run(Path(trained.run_dir)).best)
    info = check_model(Run(Path(trained.run_dir)).best).info
    return 1 / (1 + np.exp(-np.asarray(model(pixels)) / info.temperature))


def test_stopped_training_resumes_bit_for_bit(table: Path, tmp_path: Path) -> None:
    settings = {
        **SETTINGS,
        "train.epochs": 3,
        "augment": "light",
        "train.label_smoothing": 0.1,
        "train.class_weights": "balanced",
        "train.loss": "focal",
    }
    whole = train_on(table, tmp_path / "whole", settings)
    train_on(table, tmp_path / "parts", settings, max_steps=13)
    train_on(table, tmp_path / "parts", settings, resume=True)
    assert digest(Path(whole.run_dir)) == digest(tmp_path / "parts" / "run")


def test_resume_rejects_another_task(trained: TrainingResult, table: Path, tmp_path: Path) -> None:
    train_on(table, tmp_path, {**SETTINGS, "train.epochs": 1})
    named = [f"{number:04d}.png,red" if number % 2 else f"{number:04d}.png,blue" for number in range(20)]
    single = table.parent / "single.csv"
    single.write_text("\n".join(["path,label", *named]))
    with pytest.raises(RunError, match=r"model\.task"):
        train_on(single, tmp_path, {"train.epochs": 2}, resume=True)


def test_thresholds_are_half_without_validation(table: Path, tmp_path: Path) -> None:
    lines = [line.rpartition(",")[0] for line in table.read_text(encoding="utf-8").splitlines()]
    alone = table.parent / "alone.csv"
    alone.write_text("\n".join(lines))
    result = train_on(alone, tmp_path, {**SETTINGS, "train.epochs": 1, "data.validation_split": 0.0})
    assert result.metrics is None
    assert check_model(Run(Path(result.run_dir)).best).info.thresholds == (0.5,) * 4


@pytest.mark.slow
def test_training_learns_on_jax(table: Path, tmp_path: Path) -> None:
    pytest.importorskip("jax")
    found = subprocess.run(
        [
            *(sys.executable, "-m", "wisesr_cli", "train", table, "--name", "jax", "--output-dir", tmp_path),
            *("-s", "model.task=multilabel", "-s", "model.backbone=compact_small", "-s", "data.image_size=32"),
            *("-s", "augment=none", "-s", "train.optimizer.learning_rate=5e-3", "--epochs", "10", "-b", "16"),
        ],
        env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "KERAS_BACKEND": "jax", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert found.returncode == 0, found.stderr
    assert json.loads((tmp_path / "jax" / "metrics.json").read_text(encoding="utf-8"))["mean_average_precision"] > 0.9
