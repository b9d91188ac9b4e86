"""Chooses the score from which each of several labels is given, on validation images. NumPy only.

The threshold of a label is the one with its best F1. A label with few images gets the threshold with the best F1 over
all labels together, as a handful of images would choose one nearly at random (the strategy "SCutFBR" of Yang 2001,
whose fallback is never to give the label).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from wisesr_cli.evaluation.multilabel import LabelSets

FEWEST_IMAGES = 10  # with a label, and without it, to choose a threshold for it alone
DEFAULT = 0.5


def fit_thresholds(probabilities: npt.NDArray[np.floating], labels: LabelSets) -> tuple[float, ...]:
    """Return the threshold of every label, each in 0..1.

    `probabilities` and `labels` (examples, classes) are of images that the model was not trained on.
    """
    common = best_threshold(probabilities.ravel(), labels.ravel()) if labels.any() else DEFAULT
    columns = zip(probabilities.T, labels.T, _has_own(labels).tolist(), strict=True)
    return tuple(best_threshold(scores, truth) if own else common for scores, truth, own in columns)


def describe_thresholds(thresholds: tuple[float, ...] | None, labels: LabelSets) -> str:
    """Describe the chosen thresholds in words."""
    values, own = thresholds or (), int(np.count_nonzero(_has_own(labels)))
    spread = f"{min(values):.2g} to {max(values):.2g}" if values else ""
    shared = labels.shape[1] - own
    few = f"; one for all labels that fewer than {FEWEST_IMAGES} images have or lack ({shared:,})" if shared else ""
    return f"{spread}, chosen by F1 on {len(labels):,} validation images{few}"


def _has_own(labels: LabelSets) -> npt.NDArray[np.bool_]:
    counts = labels.sum(axis=0)
    found: npt.NDArray[np.bool_] = (counts >= FEWEST_IMAGES) & (len(labels) - counts >= FEWEST_IMAGES)
    return found


def best_threshold(scores: npt.NDArray[np.floating], truth: npt.NDArray[np.bool_]) -> float:
    """Return the threshold with the best F1 for scores (examples,), halfway between the scores on its two sides.

    Ties go to the highest, which gives the fewest labels.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, hits = scores[order].astype(np.float64), np.cumsum(truth[order])
    f1 = 2 * hits / (np.arange(1, len(scores) + 1) + hits[-1])
    f1[:-1][ordered[:-1] == ordered[1:]] = -1.0  # between equal scores there is no threshold
    best = int(f1.argmax())
    below = ordered[best + 1] if best + 1 < len(ordered) else 0.0
    return float((ordered[best] + below) / 2)
