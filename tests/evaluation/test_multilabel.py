"""Multi-label metrics, thresholds and temperature against scikit-learn and slow, obvious code."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from sklearn import metrics as oracle

from wisesr_cli.errors import DataError, GateMissed, UsageError
from wisesr_cli.evaluation import metrics as blocks
from wisesr_cli.evaluation.calibration import calibrate, fit_temperature
from wisesr_cli.evaluation.gates import check_gates, parse_gate
from wisesr_cli.evaluation.mistakes import worst_labels
from wisesr_cli.evaluation.multilabel import average_precision, label_reliability, multilabel_metrics
from wisesr_cli.evaluation.output import ScoredLabels
from wisesr_cli.evaluation.probabilities import sigmoid
from wisesr_cli.evaluation.thresholds import FEWEST_IMAGES, best_threshold, fit_thresholds
from wisesr_cli.evaluation.verdict import with_verdict
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.info import ModelInfo

NAMES = ("a", "b", "c", "d", "never")
INFO = ModelInfo(NAMES, (8, 8), Preparation(), (255,) * 3, "compact", "wise", 1, {}, 1.3, (0.5, 0.4, 0.6, 0.2, 0.5))


def made(images: int = 300, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return logits correlated with labels of different rarity, the last of which no image has."""
    random = np.random.default_rng(seed)
    labels = random.random((images, 5)) < np.array([0.5, 0.3, 0.1, 0.05, 0.0])
    logits = random.normal(size=(images, 5)) * 2 + np.where(labels, 1.5, -1.5)
    return logits.astype(np.float32), labels


def test_metrics_match_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_BLOCK_NUMBERS", 70)  # several blocks
    logits, labels = made()
    found, answers = multilabel_metrics(logits, labels, INFO)
    probabilities = 1 / (1 + np.exp(-logits.astype(np.float64) / 1.3))
    given = probabilities >= np.array(INFO.thresholds)
    there = labels.any(axis=0)
    expected = {
        "mean_average_precision": oracle.average_precision_score(labels[:, there], probabilities[:, there]),
        "micro_f1": oracle.f1_score(labels, given, average="micro"),
        "micro_precision": oracle.precision_score(labels, given, average="micro"),
        "micro_recall": oracle.recall_score(labels, given, average="micro"),
        "macro_f1": oracle.f1_score(labels[:, there], given[:, there], average="macro"),
        "macro_precision": oracle.precision_score(labels[:, there], given[:, there], average="macro", zero_division=0),
        "macro_recall": oracle.recall_score(labels[:, there], given[:, there], average="macro"),
        "macro_auc": oracle.roc_auc_score(labels[:, there], probabilities[:, there], average="macro"),
        "exact_match": oracle.accuracy_score(labels, given),
        "hamming_loss": oracle.hamming_loss(labels, given),
        "log_loss": np.mean([oracle.log_loss(labels[:, k], probabilities[:, k], labels=[0, 1]) for k in range(5)]),
    }
    for name, value in expected.items():
        assert getattr(found, name) == pytest.approx(value, abs=1e-6), name
    with_labels = labels.any(axis=1)
    hits = labels[np.arange(300), logits.argmax(axis=1)][with_labels]
    assert found.top1_accuracy == pytest.approx(hits.mean())
    assert (answers.predicted == given).all()
    assert found.labels_per_image == pytest.approx(labels.sum() / 300)
    assert found.per_class[4].support == 0
    assert found.per_class[4].average_precision is None
    assert found.per_class[2].threshold == 0.6
    assert found.per_class[2].f1 == pytest.approx(oracle.f1_score(labels[:, 2], given[:, 2]))


def test_calibration_error_is_binned_over_all_probabilities() -> None:
    logits, labels = made()
    found, answers = multilabel_metrics(logits, labels, INFO)
    probabilities, truth = sigmoid(logits, 1.3).ravel(), labels.ravel()
    error = 0.0
    for low in range(15):
        inside = (probabilities > low / 15) & (probabilities <= (low + 1) / 15)
        if inside.any():
            error += inside.mean() * abs(probabilities[inside].mean() - truth[inside].mean())
    assert found.ece == pytest.approx(error, abs=1e-9)
    assert sum(row.count for row in label_reliability(answers)) == labels.size


def test_equal_scores_count_together_in_average_precision() -> None:
    random = np.random.default_rng(1)
    scores, truth = random.integers(0, 4, 60) / 4, random.random(60) < 0.3
    assert average_precision(scores, truth) == pytest.approx(oracle.average_precision_score(truth, scores))
    assert average_precision(scores, np.zeros(60, np.bool_)) is None


def test_non_finite_logits_are_rejected() -> None:
    logits, labels = made(20)
    logits[3, 1] = np.nan
    with pytest.raises(DataError, match="not finite for 1 of 20 images"):
        multilabel_metrics(logits, labels, INFO)


def test_the_best_threshold_maximizes_f1() -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        truth = random.random(50) < 0.4
        truth[0] = True
        scores = np.round(random.random(50) * 0.6 + 0.3 * truth, 2)
        threshold = best_threshold(scores, truth)
        best = max(oracle.f1_score(truth, scores >= each) for each in np.unique(scores))
        assert oracle.f1_score(truth, scores >= threshold) == pytest.approx(best)
        assert threshold not in scores or np.count_nonzero(scores == threshold) == 0


def test_a_label_with_few_images_gets_the_common_threshold() -> None:
    logits, labels = made(400)
    labels[:, 3] = False
    labels[: FEWEST_IMAGES - 1, 3] = True
    probabilities = sigmoid(logits)
    found = fit_thresholds(probabilities, labels)
    common = best_threshold(probabilities.ravel(), labels.ravel())
    assert found[3] == found[4] == common
    assert found[0] == best_threshold(probabilities[:, 0], labels[:, 0]) != common
    assert fit_thresholds(probabilities, np.zeros_like(labels)) == (0.5,) * 5


def test_the_temperature_minimizes_log_loss() -> None:
    logits, labels = made(2000)
    overconfident = logits * 3
    found = fit_temperature(overconfident, labels)

    def loss(temperature: float) -> float:
        scaled = overconfident.astype(np.float64) / temperature
        return float(np.mean(np.logaddexp(0, scaled) - scaled * labels))

    grid = np.geomspace(0.05, 20, 2001)
    assert found == pytest.approx(grid[np.argmin([loss(each) for each in grid])], rel=4e-3)
    kept = calibrate(overconfident, labels)
    assert kept.temperature == pytest.approx(found)
    assert calibrate(np.where(labels, 5.0, -5.0), labels).reason is not None


def test_the_most_confident_wrong_labels_come_first() -> None:
    logits, labels = made(40)
    _, answers = multilabel_metrics(logits, labels, INFO)
    paths = [f"{number}.png" for number in range(40)]
    worst = worst_labels(paths, answers, INFO)
    distances = [abs(each.score - each.threshold) for each in worst]
    assert distances == sorted(distances, reverse=True)
    assert len(worst) == 20
    for each in worst:
        image, label = paths.index(each.path), NAMES.index(each.label)
        assert labels[image, label] == (each.kind == "missed")


def test_a_verdict_compares_with_random_ranking_and_lists_labels_never_predicted() -> None:
    logits, labels = made(300)
    info = replace(INFO, thresholds=(0.5, 0.5, 0.5, 1.0, 0.5))
    scored = with_verdict(ScoredLabels(*multilabel_metrics(logits, labels, info), info), None)
    found = {each.code: each for each in scored.metrics.verdict}
    assert found["accuracy"].level == "pass"
    assert found["never-predicted"].message == "1 label is never given: d"
    reversed_order = with_verdict(ScoredLabels(*multilabel_metrics(-logits, labels, info), info), None)
    assert {each.code: each.level for each in reversed_order.metrics.verdict}["accuracy"] == "fail"


def test_gates_support_multilabel_metrics_and_miss_undefined_ones() -> None:
    logits, labels = made()
    found, _ = multilabel_metrics(logits, labels, INFO)
    check_gates(found, [parse_gate("mean_average_precision=0.1"), parse_gate("hamming_loss=0.9")])
    with pytest.raises(GateMissed, match="micro_f1 is"):
        check_gates(found, [parse_gate("micro_f1=0.9999")])
    with pytest.raises(GateMissed, match="balanced_accuracy is not defined"):
        check_gates(found, [parse_gate("balanced_accuracy=0.1")])
    with pytest.raises(UsageError, match="mean_average_precision"):
        parse_gate("average=0.1")
