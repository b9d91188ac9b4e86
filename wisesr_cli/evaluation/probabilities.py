"""Turns logits into probabilities: of one label per image, or of any number of labels. NumPy only."""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from wisesr_cli.model_files.info import ModelInfo

Floats: TypeAlias = npt.NDArray[np.floating[Any]]
Doubles: TypeAlias = npt.NDArray[np.float64]


def probabilities_of(logits: Floats, info: ModelInfo) -> Doubles:
    """Return the probabilities of a model with `logits` (examples, classes), at its temperature, in float64.

    They sum to 1 if an image has one label; if it may have several, each is the probability of that label alone.
    """
    return (sigmoid if info.is_multilabel else softmax)(logits, info.temperature)


def softmax(logits: Floats, temperature: float = 1.0) -> Doubles:
    """Return the probabilities of `logits` (examples, classes), divided by `temperature`, in float64."""
    values = np.array(logits, dtype=np.float64)
    values -= values.max(axis=1, keepdims=True)
    values /= temperature
    np.exp(values, out=values)
    values /= values.sum(axis=1, keepdims=True)
    return values


def sigmoid(logits: Floats, temperature: float = 1.0) -> Doubles:
    """Return the probability of each label alone for `logits` of any shape, divided by `temperature`, in float64."""
    values = np.array(logits, dtype=np.float64)
    values /= -temperature
    np.logaddexp(0, values, out=values)
    return np.exp(-values, out=values)


def entropy(probabilities: Doubles) -> float:
    """Return the entropy of probabilities (classes,) in nats."""
    some = probabilities[probabilities > 0]
    return float(0.0 - np.sum(some * np.log(some)))
