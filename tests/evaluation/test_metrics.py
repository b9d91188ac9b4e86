"""Every metric against a slow, obvious loop and against scikit-learn."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pytest

from wisesr_cli.errors import DataError
from wisesr_cli.evaluation import metrics as module
from wisesr_cli.evaluation.metrics import METRICS, Answers, answers_of, compute_metrics, reliability_bins
from wisesr_cli.evaluation.mistakes import most_confused, worst_mistakes
from wisesr_cli.evaluation.probabilities import softmax
from wisesr_cli.results.evaluation import Metrics

SCALARS = tuple(METRICS)


def names(classes: int) -> list[str]:
    return [f"class {number}" for number in range(classes)]


def random_case(seed: int) -> tuple[np.ndarray, np.ndarray, int]:
    """Return logits, labels and the number of classes, with ties, classes without support and confident answers."""
    draws = np.random.default_rng(seed)
    classes, examples = int(draws.integers(2, 12)), int(draws.integers(1, 60))
    present = draws.permutation(classes)[: draws.integers(1, classes + 1)]
    labels = draws.choice(present, examples)
    logits = draws.normal(0, draws.choice([0.1, 2, 30]), (examples, classes)).astype(np.float32)
    if seed % 2:
        logits = np.round(logits)  # many equal logits
    return logits, labels, classes


# The same metrics, computed one example and one class at a time.


def slow_probabilities(row: np.ndarray) -> list[float]:
    highest = max(float(value) for value in row)
    powers = [math.exp(float(value) - highest) for value in row]
    return [power / sum(powers) for power in powers]


def slow_order(row: np.ndarray) -> list[int]:
    return sorted(range(len(row)), key=lambda label: (-float(row[label]), label))


def slow_metrics(logits: np.ndarray, labels: np.ndarray, classes: int) -> dict[str, Any]:
    examples = len(labels)
    orders = [slow_order(row) for row in logits]
    probabilities = [slow_probabilities(row) for row in logits]
    confusion = [[0] * classes for _ in range(classes)]
    for truth, order in zip(labels, orders, strict=True):
        confusion[truth][order[0]] += 1
    per_class = [slow_class(confusion, label, classes) for label in range(classes)]
    present = [row for row in per_class if row["support"]]

    def mean(values: list[float]) -> float:
        return sum(values) / len(values)

    recall = mean([row["recall"] for row in present])
    return {
        "top1_accuracy": mean([float(order[0] == truth) for order, truth in zip(orders, labels, strict=True)]),
        "top5_accuracy": mean([float(truth in order[:5]) for order, truth in zip(orders, labels, strict=True)]),
        "balanced_accuracy": recall,
        "macro_recall": recall,
        "macro_precision": mean([row["precision"] or 0.0 for row in present]),
        "macro_f1": mean([row["f1"] for row in present]),
        "macro_auc": slow_auc(logits, labels, classes, equal=0.5),
        "log_loss": mean([slow_log_loss(logits[example], labels[example]) for example in range(examples)]),
        "ece": slow_ece(probabilities, orders, labels),
        "per_class": per_class,
        "confusion_matrix": confusion,
    }


def slow_class(confusion: list[list[int]], label: int, classes: int) -> dict[str, Any]:
    support = sum(confusion[label])
    predicted = sum(confusion[truth][label] for truth in range(classes))
    correct = confusion[label][label]
    return {
        "label": f"class {label}",
        "support": support,
        "precision": correct / predicted if predicted else None,
        "recall": correct / support if support else None,
        "f1": 2 * correct / (support + predicted) if support else None,
    }


def slow_log_loss(row: np.ndarray, truth: int) -> float:
    highest = max(float(value) for value in row)
    return highest + math.log(sum(math.exp(float(value) - highest) for value in row)) - float(row[truth])


def slow_auc(logits: np.ndarray, labels: np.ndarray, classes: int, *, equal: float) -> float | None:
    """Return the mean area; pairs of scores that are equal up to rounding count `equal`."""
    areas = []
    for label in range(classes):
        scores = [-slow_log_loss(row, label) for row in logits]
        inside = [score for score, truth in zip(scores, labels, strict=True) if truth == label]
        outside = [score for score, truth in zip(scores, labels, strict=True) if truth != label]
        if inside and outside:
            wins = sum(equal if abs(a - b) < 1e-9 else float(a > b) for a in inside for b in outside)
            areas.append(wins / (len(inside) * len(outside)))
    return sum(areas) / len(areas) if areas else None


def slow_ece(probabilities: list[list[float]], orders: list[list[int]], labels: np.ndarray) -> float:
    total = 0.0
    for number in range(15):
        low, high = number / 15, (number + 1) / 15
        gaps = [
            row[order[0]] - (order[0] == truth)
            for row, order, truth in zip(probabilities, orders, labels, strict=True)
            if low < row[order[0]] <= high
        ]
        total += abs(sum(gaps))
    return total / len(labels)


def no_bin_edges(logits: np.ndarray) -> bool:
    """Return whether no confidence lies on the edge of a bin, where rounding would decide."""
    confidences = softmax(logits).max(axis=1) * 15
    inside = confidences < 15 - 1e-9
    return bool((np.abs(confidences - np.round(confidences))[inside] > 1e-9).all())


@pytest.mark.parametrize("seed", range(40))
def test_every_metric_equals_a_slow_loop(seed: int) -> None:
    logits, labels, classes = random_case(seed)
    temperature, plain = 1 + seed % 3, slow_metrics(logits.astype(np.float64), labels, classes)
    found = compute_metrics(logits, labels, names(classes), temperature).to_json()
    logits = logits.astype(np.float64) / temperature
    expected = {**slow_metrics(logits, labels, classes), "ece_uncalibrated": plain["ece"]}
    assert found["temperature"] == temperature
    assert found["examples"] == len(labels)
    assert [list(row) for row in found["confusion_matrix"]] == expected["confusion_matrix"]
    for name in SCALARS:
        if name.startswith("ece") and not (no_bin_edges(logits) and no_bin_edges(logits * temperature)):
            continue
        if name == "macro_auc" and found[name] is not None:
            low, high = (slow_auc(logits.astype(np.float64), labels, classes, equal=equal) for equal in (0, 1))
            assert low is not None
            assert high is not None
            assert low - 1e-12 <= found[name] <= high + 1e-12
            continue
        assert found[name] == pytest.approx(expected[name], abs=1e-12), name
    for row, slow in zip(found["per_class"], expected["per_class"], strict=True):
        assert row == pytest.approx(slow), row


@pytest.mark.parametrize("seed", range(10))
def test_examples_with_the_same_logits_share_their_rank(seed: int) -> None:
    draws, classes = np.random.default_rng(seed), 2 + seed
    logits = np.repeat(draws.normal(size=(12, classes)).astype(np.float32), 3, axis=0)
    labels = draws.integers(0, classes, len(logits))
    expected = slow_auc(logits.astype(np.float64), labels, classes, equal=0.5)
    assert compute_metrics(logits, labels, names(classes)).macro_auc == pytest.approx(expected, abs=1e-12)


def test_scores_that_round_to_one_keep_their_order() -> None:
    logits = np.array([[60.0, 0], [61, 0], [62, 0]])
    assert compute_metrics(logits, [1, 0, 0], names(2)).macro_auc == 1.0
    assert compute_metrics(logits, [0, 0, 1], names(2)).macro_auc == 0.0


def test_most_random_cases_are_suitable_for_comparing_ece() -> None:
    assert sum(no_bin_edges(random_case(seed)[0]) for seed in range(40)) >= 30


@pytest.mark.parametrize("seed", range(40))
def test_metrics_equal_those_of_scikit_learn(seed: int) -> None:
    pytest.importorskip("sklearn")
    from sklearn import metrics as sklearn

    logits, labels, classes = random_case(seed)
    found = compute_metrics(logits, labels, names(classes))
    predicted, probabilities = logits.argmax(axis=1), softmax(logits)
    everything, present = list(range(classes)), sorted(set(labels.tolist()))
    assert found.top1_accuracy == pytest.approx(sklearn.accuracy_score(labels, predicted))
    macro = {"labels": present, "average": "macro", "zero_division": 0}
    assert found.balanced_accuracy == pytest.approx(sklearn.recall_score(labels, predicted, **macro))
    assert found.macro_recall == found.balanced_accuracy
    assert found.macro_precision == pytest.approx(sklearn.precision_score(labels, predicted, **macro))
    assert found.macro_f1 == pytest.approx(sklearn.f1_score(labels, predicted, **macro))
    assert np.array_equal(found.confusion_matrix, sklearn.confusion_matrix(labels, predicted, labels=everything))
    if probabilities[np.arange(len(labels)), labels].min() > 1e-12:  # scikit-learn clips probabilities
        assert found.log_loss == pytest.approx(sklearn.log_loss(labels, probabilities, labels=everything), abs=1e-9)
    if seed % 2 == 0:  # with many equal logits, rounding decides which scores scikit-learn treats as equal
        wide = logits.astype(np.float64)
        areas = [
            # Log odds of a class order the examples like its probability, and are never rounded to 1.
            sklearn.roc_auc_score(
                labels == label, wide[:, label] - np.logaddexp.reduce(np.delete(wide, label, axis=1), axis=1)
            )
            for label in present
            if 0 < (labels == label).sum() < len(labels)
        ]
        assert found.macro_auc == (pytest.approx(np.mean(areas)) if areas else None)
    precision, recall, f1, support = sklearn.precision_recall_fscore_support(
        labels, predicted, labels=everything, zero_division=0
    )
    for row, *expected in zip(found.per_class, precision, recall, f1, support, strict=True):
        assert [row.precision or 0, row.recall or 0, row.f1 or 0, row.support] == pytest.approx(expected)


@pytest.mark.parametrize("classes", [2, 5])
def test_top5_accuracy_is_one_with_five_classes_or_fewer(classes: int) -> None:
    logits = np.random.default_rng(0).normal(size=(30, classes))
    assert compute_metrics(logits, np.zeros(30, int), names(classes)).top5_accuracy == 1.0


def test_the_first_class_wins_among_equal_logits() -> None:
    found = compute_metrics(np.zeros((4, 8)), [0, 4, 5, 7], names(8))
    assert found.top1_accuracy == 0.25
    assert found.top5_accuracy == 0.5
    assert found.macro_auc == 0.5
    assert [row[0] for row in found.confusion_matrix] == [1, 0, 0, 0, 1, 1, 0, 1]


def test_a_class_without_support_is_excluded_from_means_and_has_no_recall() -> None:
    logits = np.array([[9.0, 0, 0], [0, 9, 0], [0, 0, 9]])
    found = compute_metrics(logits, [0, 1, 1], names(3))
    assert found.balanced_accuracy == pytest.approx((1 + 0.5) / 2)
    last = found.per_class[2]
    assert (last.support, last.precision, last.recall, last.f1) == (0, 0.0, None, None)
    never = compute_metrics(logits[:2], [0, 1], names(3)).per_class[2]
    assert (never.support, never.precision, never.recall, never.f1) == (0, None, None, None)


def test_a_class_that_is_never_predicted_has_no_precision_but_counts_as_zero() -> None:
    found = compute_metrics(np.array([[9.0, 0], [9, 0]]), [0, 1], names(2))
    assert found.per_class[1].precision is None
    assert found.per_class[1].f1 == 0.0
    assert found.macro_precision == pytest.approx((0.5 + 0) / 2)


def test_with_a_single_class_only_macro_auc_is_undefined() -> None:
    found = compute_metrics(np.zeros((3, 1)), [0, 0, 0], ["only"])
    assert found.macro_auc is None
    assert (found.top1_accuracy, found.macro_f1, found.log_loss, found.ece) == (1.0, 1.0, 0.0, 0.0)
    one_present = compute_metrics(np.random.default_rng(0).normal(size=(6, 4)), [2] * 6, names(4))
    assert one_present.macro_auc is None
    assert one_present.balanced_accuracy == one_present.top1_accuracy


def test_without_examples_every_metric_is_none() -> None:
    found = compute_metrics(np.empty((0, 3), np.float32), [], names(3))
    assert found.examples == 0
    assert {getattr(found, name) for name in SCALARS} == {None}
    assert found.confusion_matrix == ((0, 0, 0),) * 3
    assert all(row.support == 0 and row.precision is row.recall is row.f1 is None for row in found.per_class)
    assert most_confused(found) == ()


@pytest.mark.parametrize("seed", range(12))
def test_undefined_metrics_are_null_and_never_nan_in_json(seed: int) -> None:
    logits, labels, classes = random_case(seed)
    text = json.dumps(compute_metrics(logits, labels, names(classes)).to_json(), allow_nan=False)
    assert "NaN" not in text
    assert set(json.loads(text)) == {field.name for field in fields(Metrics)} - {"confusion", "coverage"} | {
        "confusion_matrix"
    }


def test_a_perfect_model_has_a_log_loss_of_zero_and_not_minus_zero() -> None:
    found = compute_metrics(np.array([[1000.0, 0]]), [0], names(2))
    assert str(found.log_loss) == "0.0"


def test_a_confident_mistake_has_a_large_but_finite_log_loss() -> None:
    found = compute_metrics(np.array([[2000.0, 0]], np.float32), [1], names(2))
    assert found.log_loss == pytest.approx(2000)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_non_finite_logits_are_a_data_error_with_the_number_of_images(bad: float) -> None:
    logits = np.zeros((4, 3))
    logits[1, 2] = logits[3, 0] = bad
    with pytest.raises(DataError, match="2 of 4 images"):
        compute_metrics(logits, [0, 1, 2, 0], names(3))


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(np.zeros((3, 2)), [0, 1]), (np.zeros(3), [0, 1, 1]), (np.zeros((2, 3)), [0, 1]), (np.zeros((2, 2)), [0, 2])],
)
def test_mismatched_arrays_are_rejected(logits: np.ndarray, labels: list[int]) -> None:
    with pytest.raises(ValueError, match="Received"):
        compute_metrics(logits, labels, names(2))


def test_block_size_does_not_change_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    draws = np.random.default_rng(5)
    logits, labels = draws.normal(size=(101, 7)).astype(np.float32), draws.integers(0, 7, 101)
    whole = compute_metrics(logits, labels, names(7))
    monkeypatch.setattr(module, "_BLOCK_NUMBERS", 30)
    blocks = compute_metrics(logits, labels, names(7))
    assert blocks.confusion_matrix == whole.confusion_matrix
    for name in SCALARS:
        assert getattr(blocks, name) == pytest.approx(getattr(whole, name), abs=1e-12), name


@pytest.mark.timeout(300)
def test_three_thousand_classes_and_ten_thousand_examples_take_seconds() -> None:
    draws = np.random.default_rng(0)
    labels = draws.integers(0, 3_000, 10_000)
    logits = draws.normal(size=(10_000, 3_000)).astype(np.float32)
    logits[np.arange(5_000), labels[:5_000]] += 20
    found = compute_metrics(logits, labels, names(3_000))
    assert found.top1_accuracy == pytest.approx(0.5, abs=0.01)
    assert found.macro_auc is not None
    assert found.macro_auc > 0.7


def answers_by(probabilities: np.ndarray, labels: Sequence[int]) -> Answers:
    predicted, every = probabilities.argmax(axis=1), np.arange(len(probabilities))
    return Answers(np.array(labels), predicted, probabilities[every, predicted], probabilities[every, labels])


def test_reliability_bins_include_their_upper_edge_and_count_every_example() -> None:
    probabilities = np.array([[1.0, 0], [0.6, 0.4], [0.6, 0.4], [0.5, 0.5]])
    bins = reliability_bins(answers_by(probabilities, [0, 0, 1, 1]), bins=10)
    assert [row.count for row in bins] == [0, 0, 0, 0, 1, 2, 0, 0, 0, 1]
    assert (bins[4].accuracy, bins[5].accuracy, bins[9].accuracy) == (0, 0.5, 1)
    assert bins[5].confidence == pytest.approx(0.6)
    assert bins[0].confidence is None
    assert bins[0].accuracy is None
    assert (bins[0].low, bins[-1].high) == (0, 1)


def test_the_mean_gap_of_the_reliability_bins_is_the_ece() -> None:
    draws = np.random.default_rng(9)
    logits, labels = draws.normal(size=(500, 6)), draws.integers(0, 6, 500)
    bins = reliability_bins(answers_of(logits, labels))
    gap = sum(row.count * abs((row.confidence or 0) - (row.accuracy or 0)) for row in bins) / 500
    assert len(bins) == 15
    assert compute_metrics(logits, labels, names(6)).ece == pytest.approx(gap)


def test_confused_pairs_are_counted_and_the_most_frequent_comes_first() -> None:
    truth = [0] * 6 + [1] * 3 + [2] * 2
    answers = [0, 0, 0, 1, 1, 2, 1, 0, 0, 2, 1]
    found = most_confused(compute_metrics(np.eye(3)[answers], truth, ["a", "b", "c"]))
    assert [f"{pair.truth}{pair.predicted}{pair.count}" for pair in found] == ["ba2", "ab2", "cb1", "ac1"]
    assert [pair.fraction_of_truth for pair in found] == pytest.approx([2 / 3, 2 / 6, 1 / 2, 1 / 6])
    assert len(most_confused(compute_metrics(np.eye(3)[answers], truth, ["a", "b", "c"]), limit=2)) == 2


def test_worst_mistakes_are_listed_with_the_most_confident_first() -> None:
    probabilities = np.array([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.1, 0.9], [0.2, 0.8]])
    found = worst_mistakes(["d", "c", "b", "e", "a"], answers_by(probabilities, [1, 0, 1, 1, 0]), ["x", "y"])
    assert [mistake.path for mistake in found] == ["d", "a", "c", "b"]
    assert (found[0].truth, found[0].predicted, found[0].score, found[0].truth_score) == ("y", "x", 0.9, 0.1)
    assert len(worst_mistakes(["d", "c"], answers_by(probabilities[:2], [1, 0]), ["x", "y"], limit=1)) == 1


def test_the_table_of_metrics_and_the_record_have_the_same_fields() -> None:
    others = {"examples", "classes", "per_class", "confusion", "interval", "temperature", "verdict", "coverage"}
    assert {field.name for field in fields(Metrics)} - others == set(METRICS)
