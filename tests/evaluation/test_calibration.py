"""The temperature matches scikit-learn's, improves calibration, and stays 1 if it would not help."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.calibration import CalibratedClassifierCV
from sklearn.frozen import FrozenEstimator

from wisesr_cli.evaluation import calibration, metrics
from wisesr_cli.evaluation.calibration import calibrate, fit_temperature
from wisesr_cli.evaluation.metrics import compute_metrics
from wisesr_cli.evaluation.probabilities import softmax


def drawn(examples: int, *, classes: int = 6, sureness: float = 1.0, seed: int = 0) -> tuple[NDArray, NDArray]:
    """Return logits that are `sureness` times those from which the labels were drawn, and the labels."""
    random = np.random.default_rng(seed)
    logits = random.normal(scale=2, size=(examples, classes))
    labels = np.array([random.choice(classes, p=row) for row in softmax(logits)])
    return (sureness * logits).astype(np.float32), labels


class GivenLogits(ClassifierMixin, BaseEstimator):
    """A classifier for scikit-learn whose features are the logits."""

    def fit(self, logits: NDArray, labels: NDArray) -> GivenLogits:
        self.classes_ = np.arange(logits.shape[1])
        return self

    def decision_function(self, logits: NDArray) -> NDArray:
        return logits

    def predict(self, logits: NDArray) -> NDArray:
        return logits.argmax(axis=1)


@pytest.mark.parametrize("sureness", [0.3, 1.0, 2.5])
def test_the_temperature_matches_scikit_learn(sureness: float) -> None:
    logits, labels = drawn(800, sureness=sureness)
    labels[:6] = range(6)
    theirs = CalibratedClassifierCV(FrozenEstimator(GivenLogits().fit(logits, labels)), method="temperature")
    expected = theirs.fit(logits.astype(np.float64), labels).predict_proba(logits.astype(np.float64))
    ours = softmax(logits, fit_temperature(logits, labels))
    np.testing.assert_allclose(ours, expected, atol=1e-4)


def test_no_other_temperature_has_a_lower_log_loss() -> None:
    logits, labels = drawn(500, sureness=3)
    best = fit_temperature(logits, labels)
    names = [str(number) for number in range(6)]
    losses = {
        factor: compute_metrics(logits, labels, names, factor * best).log_loss
        for factor in (0.98, 0.999, 1, 1.001, 1.02)
    }
    assert min(losses, key=lambda factor: losses[factor] or 0) == 1


@pytest.mark.parametrize("sureness", [0.5, 2.0])
def test_calibration_lowers_the_calibration_error_on_unseen_images(sureness: float) -> None:
    found = calibrate(*drawn(300, sureness=sureness, seed=1))
    assert found.reason is None
    assert found.temperature == pytest.approx(sureness, rel=0.3)
    logits, labels = drawn(5000, sureness=sureness, seed=2)
    measured = compute_metrics(logits, labels, [str(number) for number in range(6)], found.temperature)
    assert measured.ece is not None
    assert measured.ece_uncalibrated is not None
    assert measured.ece < 0.5 * measured.ece_uncalibrated
    plain = compute_metrics(logits, labels, measured.classes)
    assert plain.ece == plain.ece_uncalibrated == measured.ece_uncalibrated
    assert plain.top1_accuracy == measured.top1_accuracy


def test_scores_that_are_already_calibrated_are_kept() -> None:
    kept = [calibrate(*drawn(200, seed=seed)) for seed in range(20)]
    assert sum(found.temperature == 1 for found in kept) >= 16
    assert all("clearly better" in (found.reason or "clearly better") for found in kept)


def test_too_few_images_or_no_mistakes_keep_the_temperature_at_one() -> None:
    logits, labels = drawn(19, sureness=5)
    assert (calibrate(logits, labels).temperature, "too few" in str(calibrate(logits, labels))) == (1, True)
    logits, _ = drawn(100, sureness=5)
    found = calibrate(logits, logits.argmax(axis=1))
    assert (found.temperature, "makes no mistake" in str(found)) == (1, True)


def test_block_size_and_huge_logits_do_not_change_the_temperature(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(200, sureness=2)
    expected = fit_temperature(logits, labels)
    assert fit_temperature(logits + np.float32(1000), labels) == pytest.approx(expected, rel=1e-3)
    monkeypatch.setattr(metrics, "_BLOCK_NUMBERS", 50)
    assert fit_temperature(logits, labels) == pytest.approx(expected, rel=1e-9)


def test_a_large_set_of_logits_is_fitted_on_a_reproducible_subset(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = drawn(4000, sureness=2)
    monkeypatch.setattr(calibration, "_MOST_NUMBERS", 600 * logits.shape[1])
    found = calibrate(logits, labels)
    assert found == calibrate(logits, labels)
    assert found.temperature == pytest.approx(fit_temperature(logits, labels), rel=0.2)
    assert found.temperature != fit_temperature(logits, labels)
