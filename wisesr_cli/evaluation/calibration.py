"""Fits the temperature that calibrates the probabilities of a model (Guo and others, 2017). NumPy only.

Dividing all logits by one number changes how confident the model is, not what it answers. The temperature is the number
with the lowest log loss on the validation images; the mean log loss is convex in its inverse, so there is one minimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.data.index import Labels
from wisesr_cli.evaluation.metrics import row_blocks
from wisesr_cli.evaluation.probabilities import Doubles, Floats, sigmoid, softmax

Mask = NDArray[np.bool_]  # (examples,)

LOWEST, HIGHEST = 0.05, 20.0  # bounds of the temperature
FEWEST_EXAMPLES = 20
FOLDS = 5
_STEPS = 60
_MOST_NUMBERS = 5_000_000  # logits used: fitting one number needs no more images, and each is read up to 60 times


@dataclass(frozen=True)
class Calibration:
    """A temperature, and the reason if it was left at 1."""

    temperature: float = 1.0
    reason: str | None = None

    def __str__(self) -> str:
        """Describe the calibration in words."""
        if self.reason is not None:
            return f"uncalibrated: {self.reason}"
        surer = "less" if self.temperature > 1 else "more"
        return f"calibrated on validation, {surer} confident than the raw model (temperature {self.temperature:.3g})"


def calibrate(logits: Floats, labels: Labels, *, seed: int = 0) -> Calibration:
    """Return the temperature for the logits (examples, classes) of labelled validation images.

    `labels` are class indices (examples,) or, if an image may have several labels, bool (examples, classes). In the
    second case, the loss is the binary cross-entropy, summed over the labels of an image.

    The temperature is kept only if it helps on held-out images: in five-fold cross-validation, the log loss must drop
    by more than one standard error of the difference. Otherwise it stays 1. If there are very many logits, a random
    sample of the images is used.
    """
    random = np.random.default_rng(seed)
    most = max(FEWEST_EXAMPLES, _MOST_NUMBERS // logits.shape[1])
    if len(labels) > most:
        rows = np.sort(random.choice(len(labels), most, replace=False))
        logits, labels = logits[rows], labels[rows]
    examples = len(labels)
    if examples < FEWEST_EXAMPLES:
        return Calibration(reason=f"{examples} validation images are too few to fit a temperature")
    if _is_right(logits, labels):
        return Calibration(reason="the model makes no mistakes on validation images, so no temperature can be fitted")
    fold_of = random.permutation(examples) % FOLDS
    gains = np.empty(examples)
    for fold in range(FOLDS):
        inside = fold_of == fold
        temperature = fit_temperature(logits, labels, ~inside)
        gains[inside] = _losses(logits, labels, inside, 1.0) - _losses(logits, labels, inside, 1 / temperature)
    error = gains.std(ddof=1) / np.sqrt(examples)
    if gains.mean() <= error:
        return Calibration(
            reason=f"on {examples:,} validation images no temperature is clearly better than 1 (cross-validated log "
            f"loss {-gains.mean():+.4f}, standard error {error:.4f})"
        )
    return Calibration(fit_temperature(logits, labels))


def _is_right(logits: Floats, labels: Labels) -> bool:
    if labels.ndim == 2:
        return bool(((logits > 0) == labels).all())
    return bool((logits.argmax(axis=1) == labels).all())


def fit_temperature(logits: Floats, labels: Labels, chosen: Mask | None = None) -> float:
    """Return the temperature in 0.05..20 with the lowest mean log loss, found by Newton's method on its inverse.

    `logits` (examples, classes) and `labels`, as in `calibrate`, are those of images that the model was not trained on;
    `chosen` (examples,) selects the examples to use, None for all.
    """
    chosen = np.ones(len(labels), np.bool_) if chosen is None else chosen
    low, high, inverse = 1 / HIGHEST, 1 / LOWEST, 1.0
    for _ in range(_STEPS):
        slope, curvature = _derivatives(logits, labels, chosen, inverse)
        if slope > 0:
            high = inverse
        else:
            low = inverse
        step = inverse - slope / curvature if curvature > 0 else low
        following = step if low < step < high else float(np.sqrt(low * high))
        if abs(following - inverse) <= 1e-9 * inverse:
            break
        inverse = following
    return float(min(max(1 / inverse, LOWEST), HIGHEST))


def _derivatives(logits: Floats, labels: Labels, chosen: Mask, inverse: float) -> tuple[float, float]:
    """Return the first and second derivative of the mean log loss with respect to the inverse temperature."""

    def of_block(block: Doubles, truth: Labels) -> Doubles:
        if truth.ndim == 2:
            given = sigmoid(block * inverse)
            return np.stack([((given - truth) * block).sum(axis=1), (given * (1 - given) * block**2).sum(axis=1)])
        block -= block.max(axis=1, keepdims=True)  # squares of large logits would lose precision
        probabilities = softmax(block * inverse)
        mean = (probabilities * block).sum(axis=1)
        variance = (probabilities * block**2).sum(axis=1) - mean**2
        return np.stack([mean - block[np.arange(len(block)), truth], variance])

    slope, curvature = _by_blocks(logits, labels, chosen, of_block).mean(axis=1)
    return float(slope), float(curvature)


def _losses(logits: Floats, labels: Labels, chosen: Mask, inverse: float) -> Doubles:
    """Return the log loss of every chosen example."""

    def of_block(block: Doubles, truth: Labels) -> Doubles:
        scaled = block * inverse
        if truth.ndim == 2:
            binary: Doubles = (np.logaddexp(0, scaled) - scaled * truth).sum(axis=1)
            return binary[None]
        highest = scaled.max(axis=1)
        sums = np.exp(scaled - highest[:, None]).sum(axis=1)
        losses: Doubles = np.log(sums) + highest - scaled[np.arange(len(block)), truth]
        return losses[None]

    losses: Doubles = _by_blocks(logits, labels, chosen, of_block)[0]
    return losses


def _by_blocks(logits: Floats, labels: Labels, chosen: Mask, compute: Callable[[Doubles, Labels], Doubles]) -> Doubles:
    """Apply a function to blocks of the chosen examples, and return its results as (numbers, examples)."""
    parts = []
    for rows in row_blocks(logits):
        block = logits[rows][chosen[rows]].astype(np.float64)
        parts.append(compute(block, labels[rows][chosen[rows]]))
    return np.concatenate(parts, axis=1)
