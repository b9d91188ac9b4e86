"""Label sets contain the true class as often as requested, and match those of an independent library."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine, Trained
from numpy.typing import NDArray

from wisesr_cli.errors import UsageError
from wisesr_cli.evaluation.coverage import Coverage, measure, thresholds
from wisesr_cli.evaluation.metrics import answers_of, wilson_interval
from wisesr_cli.evaluation.probabilities import softmax

CLASSES = 5


def drawn(examples: int, seed: int) -> tuple[NDArray, NDArray]:
    """Return overconfident logits, and labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=1.5, size=(examples, CLASSES))
    labels = np.array([random.choice(CLASSES, p=row) for row in softmax(logits)])
    return (2 * logits).astype(np.float32), labels


def found(coverage: float, logits: NDArray, labels: NDArray) -> Coverage:
    answers = answers_of(logits, labels)
    return thresholds(coverage, answers.truth_scores, answers.scores, answers.predicted == answers.labels)


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_the_true_class_is_in_the_set_as_often_as_requested(coverage: float) -> None:
    """Average over exchangeable splits, each with its own threshold and measured on images not used to set it."""
    covered = []
    for seed in range(60):
        logits, labels = drawn(400, seed)
        some = found(coverage, logits[:150], labels[:150])
        covered.append(measure(some, logits[150:], labels[150:], 1.0).covered or 0)
    # The spread of each split comes from its 250 images and from the 150 that set its threshold.
    error = np.sqrt(coverage * (1 - coverage) * (1 / 250 + 1 / 151) / 60)
    assert abs(np.mean(covered) - coverage) < 3 * error + 1 / 151


@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.97])
def test_the_threshold_matches_a_slow_count(coverage: float) -> None:
    logits, labels = drawn(99, 3)
    scores = answers_of(logits, labels).truth_scores
    threshold = found(coverage, logits, labels).set_score
    wanted = coverage * (len(scores) + 1)
    fitting = [score for score in scores if sum(other >= score for other in scores) >= wanted]
    assert threshold == max(fitting)


class _Known:
    """A fitted classifier for MAPIE, whose inputs are the probabilities themselves."""

    classes_ = np.arange(CLASSES)

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def fit(self, inputs: NDArray, labels: NDArray) -> _Known:
        return self

    def predict(self, inputs: NDArray) -> NDArray:
        return inputs.argmax(axis=1)

    def predict_proba(self, inputs: NDArray) -> NDArray:
        return inputs


@pytest.mark.parametrize("coverage", [0.7, 0.9, 0.97])
def test_the_sets_match_mapie_and_are_never_empty(coverage: float) -> None:
    from mapie.classification import SplitConformalClassifier

    logits, labels = drawn(320, 6)
    probabilities = softmax(logits)
    some = found(coverage, logits[:120], labels[:120])
    oracle = SplitConformalClassifier(_Known(), confidence_level=coverage, conformity_score="lac", prefit=True)
    oracle.conformalize(probabilities[:120], labels[:120])
    best, sets = oracle.predict_set(probabilities[120:])
    assert not sets[..., 0].all(axis=1).all()
    for row, own, expected in zip(probabilities[120:], best, sets[..., 0], strict=True):
        assert set(some.labels(row)) == (set(np.flatnonzero(expected).tolist()) or {own})


def test_a_single_answer_is_withheld_below_the_score_with_the_required_accuracy() -> None:
    logits, labels = drawn(300, 4)
    some, answers = found(0.9, logits, labels), answers_of(logits, labels)
    assert some.answer_score is not None
    right = answers.predicted == answers.labels
    at_least = answers.scores >= some.answer_score
    assert right[at_least].mean() >= 0.9
    assert (at_least.sum(), right[at_least].sum()) == (some.answered, some.right)
    for lower in answers.scores[answers.scores < some.answer_score]:
        assert right[answers.scores >= lower].mean() < 0.9
    assert f"below score {some.answer_score:.3f}" in str(some)


def test_every_single_answer_is_withheld_if_no_score_is_accurate_enough() -> None:
    scores = np.linspace(0.3, 0.9, 50)
    some = thresholds(0.9, np.full(50, 0.1), scores, np.zeros(50, np.bool_))
    assert some.answer_score is None
    assert not some.is_answer(1.0)
    assert "every single answer is withheld" in str(some)


def test_too_few_validation_images_are_a_usage_error_with_the_allowed_range() -> None:
    logits, labels = drawn(15, 5)
    found(0.93, logits, labels)
    with pytest.raises(UsageError, match=r"needs 19 validation images or more; the run has 15; allowed: values up"):
        found(0.95, logits, labels)


def test_a_set_is_never_empty_and_is_sorted_best_first() -> None:
    some = Coverage(0.5, 10, 0.3, 0.9, 1, 1)
    assert some.labels(np.array([0.1, 0.35, 0.5, 0.05])) == [2, 1]
    assert some.labels(np.array([0.26, 0.25, 0.25, 0.24])) == [0]


def test_predict_and_evaluate_report_sets_for_the_requested_coverage(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    run = trained.copy_to(tmp_path / "run")
    kept = json.loads((run / "calibration.json").read_text(encoding="utf-8"))
    assert len(kept["truth_scores"]) == 15
    threshold = sorted(kept["truth_scores"], reverse=True)[int(np.ceil(16 * 0.8)) - 1]
    line = ["predict", run, trained.photos, "--format", "jsonl", "--top-k", "9"]
    answer = wisesr(*line, "--coverage", "0.8").worked()
    for row in answer.records:
        expected = [top["label"] for top in row["top"] if top["score"] >= threshold] or [row["top"][0]["label"]]
        assert row["labels"] == expected
    assert "coverage 80 %, from 15 validation images" in answer.err
    assert '"labels"' not in wisesr(*line).out
    measured = wisesr("evaluate", run, "--coverage", "0.8", "--format", "json").data["coverage"]
    assert measured["set_score"] == threshold
    low, high = wilson_interval(round(measured["covered"] * 15), 15) or (0, 0)
    assert measured["covered_interval"] == [low, high]
    assert "sets that contain the true class" in wisesr("evaluate", run, "--coverage", "0.8").out


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        (("--coverage", "1"), 2, "give a fraction above 0 and below 1"),
        (("--coverage", "0.99"), 2, "needs 99 validation images or more"),
        (("--coverage", "0.8", "--image-size", "40"), 2, "leave out --precision and --image-size"),
    ],
)
def test_an_impossible_coverage_is_rejected(
    wisesr: CommandLine, trained: Trained, options: tuple[str, ...], code: int, text: str
) -> None:
    wisesr("predict", trained.run, trained.photos, *options).failed(code, text)


def test_calibration_scores_that_are_foreign_damaged_or_missing_exit_with_4(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    run = trained.copy_to(tmp_path / "run")
    path = run / "calibration.json"
    changed = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**changed, "model": "0" * 64}), encoding="utf-8")
    wisesr("predict", run, trained.photos, "--coverage", "0.8").failed(4, "belongs to another best.keras")
    path.write_text(json.dumps({**changed, "scores": "?"}), encoding="utf-8")
    wisesr("predict", run, trained.photos, "--coverage", "0.8").failed(4, "damaged")
    path.unlink()
    wisesr("predict", run, trained.photos, "--coverage", "0.8").failed(4, "needs the scores of validation images")
    wisesr("predict", run / "best.keras", trained.photos, "--coverage", "0.8").failed(4, "needs the scores")
