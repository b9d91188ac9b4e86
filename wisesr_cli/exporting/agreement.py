"""Compares two models: on which images, how far their answers differ, and how far they may.

A run is compared in this way with its exports, with its LiteRT copy, and with the classifier that it was upgraded from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.evaluation.probabilities import sigmoid, softmax

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float32]
RunModel = Callable[[Pixels], Numbers]  # (batch, height, width, channels) -> logits (batch, classes)
Item = TypeVar("Item")

BATCH = 16  # images; the first one is computed alone, so that other batch sizes are tested, too

# Both compute in float32, but in a different order, which has changed probabilities by up to 1e-6 and never by 1e-5. An
# error in a conversion (channel order, scaling, a layer) changes them by far more than 1e-4. Two probabilities that
# each change by less can swap ranks only if they were closer than twice that: a tie.
MOST_DIFFERENCE = 1e-4  # of probabilities
# Resizing inside a model rounds once, wisesr rounds twice: an eighth of a grey level on average.
RESIZED_DIFFERENCE = 0.1  # of probabilities; seen: 0.05 on 64 photos with MobileNet
EXACT = 1e-5  # the same where scores must be those of best.keras: its LiteRT copy, an upgrade
MOST_LOGIT_DIFFERENCE = 1e-3  # of the largest logit, or of 1: probabilities hide more if a network is confident
LEAST_SPREAD = 10  # times the allowed logit difference; below, right answers to other images would pass, too
LEAST_AGREEMENT = 0.5  # of a quantized model with the run; below, it is no longer the same model


class Images(Protocol):
    """Images to compare on, decoded on demand."""

    def __len__(self) -> int:
        """Return the number of images."""

    def batch(self, indices: NDArray[np.integer]) -> Pixels:
        """Return the images at `indices`, uint8 (batch, height, width, channels)."""


def sample(items: Sequence[Item], most: int) -> list[Item]:
    """Return at most `most` items, evenly spread over the sequence."""
    chosen = np.linspace(0, len(items) - 1, min(most, len(items))).round().astype(int)
    return [items[position] for position in np.unique(chosen)]


def in_whole_batches(count: int, size: int) -> list[NDArray[np.int64]]:
    """Return the rows of `count` images in batches of exactly `size`; the last is filled up with the first images."""
    rows = np.arange(-(-count // size) * size) % count
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def logits_in_batches(run: RunModel, pixels: Pixels) -> Numbers:
    """Return the logits of images (examples, classes): of the first one alone, then of batches."""
    bounds = [0, *range(1, len(pixels), BATCH), len(pixels)]
    parts = [pixels[start:end] for start, end in pairwise(bounds) if end > start]
    return np.concatenate([np.asarray(run(part), np.float32) for part in parts])


def difference(exact: NDArray[Any], found: NDArray[Any]) -> float:
    """Return the largest difference of two models' outputs; NaN differs by NaN."""
    return float(np.abs(exact - found).max())


def variation(answers: NDArray[Any]) -> float:
    """Return the largest variation of a model's outputs (examples, classes) between images."""
    return float(np.ptp(answers, axis=0).max())


@dataclass(frozen=True)
class Agreement:
    """The largest differences between a model and the run, and how often their best label is the same."""

    images: int
    probability_difference: float
    logit_difference: float
    top1_agreement: float


def compare(exact: Numbers, found: Numbers, *, multilabel: bool = False) -> Agreement:
    """Return how logits (examples, classes) agree with those of the run; NaN differs by NaN."""
    probabilities = sigmoid if multilabel else softmax
    with np.errstate(invalid="ignore"):  # a broken model may give infinite numbers
        return Agreement(
            images=len(exact),
            probability_difference=difference(probabilities(exact), probabilities(found)),
            logit_difference=difference(exact, found),
            top1_agreement=float((exact.argmax(axis=1) == found.argmax(axis=1)).mean()),
        )


def objection(
    agreement: Agreement, exact: Numbers, *, quantized: bool, logits: bool = True, resizes: bool = False
) -> str | None:
    """Return why a model must be rejected, None if it is acceptable.

    A quantized model differs by design: its cost is reported, and it is kept unless it is broken. `logits`: whether it
    returns logits rather than probabilities, whose logarithms equal the logits up to a constant per image. `resizes`:
    whether it resizes images itself.
    """
    if not np.isfinite(agreement.logit_difference):
        return "it gives numbers that are not finite"
    if quantized:
        if agreement.top1_agreement < LEAST_AGREEMENT:
            return f"it agrees with the run on only {100 * agreement.top1_agreement:.0f} % of the images"
        return None
    allowed = RESIZED_DIFFERENCE if resizes else MOST_DIFFERENCE
    if not agreement.probability_difference <= allowed:
        return f"its probabilities differ by {agreement.probability_difference:.1e}; allowed: up to {allowed:.0e}"
    if resizes:
        return None
    most = _most_logit_difference(exact)
    if logits and not agreement.logit_difference <= most:
        return f"its logits differ by {agreement.logit_difference:.1e}; allowed: up to {most:.1e}"
    return None


def doubt(exact: Numbers) -> str | None:
    """Return why a comparison on these images proves little: the run gives nearly equal logits to all of them."""
    spread = variation(exact)
    if spread >= LEAST_SPREAD * _most_logit_difference(exact):
        return None
    images = (
        "a single image is" if len(exact) == 1 else f"{len(exact):,} images whose logits differ by {spread:.1e} are"
    )
    return f"{images} compared, which the run does not tell apart: a wrong export could pass"


def _most_logit_difference(exact: Numbers) -> float:
    return MOST_LOGIT_DIFFERENCE * max(1.0, float(np.abs(exact).max()))
