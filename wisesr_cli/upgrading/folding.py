"""Folds the layers between global average pooling and the probabilities into one dense layer. NumPy, in float64.

At inference, dropout is the identity and batch normalization a factor and an offset for every feature, so that any row
of them with dense layers without activation is one dense layer. To add a layer of Keras: a rule in `RULES`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import RunError
from wisesr_cli.text import visible

Numbers = NDArray[np.float64]

PROBABILITIES = ("softmax", "sigmoid")
RANDOM = ("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D")  # while training only
SAME_NUMBERS = ("Flatten", "Identity", "Reshape")  # of one vector, in another shape


@dataclass(frozen=True)
class Affine:
    """Features times `kernel` (inputs, outputs), plus `bias` (outputs,)."""

    kernel: Numbers
    bias: Numbers

    def then(self, kernel: Numbers, bias: Numbers) -> Affine:
        """Return this, and then another one."""
        return Affine(self.kernel @ kernel, self.bias @ kernel + bias)

    def scaled(self, factor: Numbers, offset: Numbers) -> Affine:
        """Return this, and then a factor and an offset for every output."""
        return Affine(self.kernel * factor, self.bias * factor + offset)


@dataclass(frozen=True)
class Folded:
    """A classifier layer equivalent to the folded layers, and their properties.

    `activation`: the final one (linear, softmax or sigmoid). `dense_layers` and `norms` count dense and batch
    normalization layers; `dropout` is the rate of the last dropout.
    """

    classifier: Affine
    activation: str
    dense_layers: int
    norms: int
    dropout: float
    is_one_unit: bool = False  # two classes of one unit: the first has the logit 0

    @property
    def classes(self) -> int:
        """Number of logits."""
        return len(self.classifier.bias)


def fold(layers: Sequence[Any], features: int) -> Folded:
    """Fold Keras layers, in order of computation, into one; `RunError` names a layer that cannot be folded."""
    affine, activation = Affine(np.eye(features), np.zeros(features)), "linear"
    for layer in layers:
        kind = type(layer).__name__
        if kind not in RULES:
            raise _refused(layer, f"is a {visible(kind)}, which no head of wisesr has")
        if activation != "linear" and kind not in (*RANDOM, *SAME_NUMBERS):
            raise _refused(
                layer, f"comes behind the activation {visible(activation)}; heads of wisesr have no hidden layer"
            )
        affine = RULES[kind](layer, affine)
        activation = _activation_after(layer, activation)
    dense = [layer for layer in layers if type(layer).__name__ in ("Conv2D", "Dense")]
    if not dense:
        raise RunError("behind the pooling stands no dense layer: it gives features, not classes")
    if activation not in ("linear", *PROBABILITIES):
        raise _refused(dense[-1], f"ends in the activation {visible(activation)}; a classifier ends in softmax or none")
    rates = [layer.rate for layer in layers if type(layer).__name__ in ("Dropout", "SpatialDropout2D")]
    norms = sum(type(layer).__name__ == "BatchNormalization" for layer in layers)
    return Folded(affine, activation, len(dense), norms, float(rates[-1]) if rates else 0.0)


def two_classes(folded: Folded) -> Folded:
    """Return the logits of two classes for one unit with a sigmoid: 0, and its own; softmax gives the same numbers."""
    kernel, bias = folded.classifier.kernel, folded.classifier.bias
    both = Affine(np.concatenate([np.zeros_like(kernel), kernel], axis=1), np.concatenate([[0.0], bias]))
    return replace(folded, classifier=both, is_one_unit=True)


def _activation_after(layer: Any, before: str) -> str:
    if type(layer).__name__ == "Softmax":
        return "softmax"
    name = getattr(getattr(layer, "activation", None), "__name__", "linear")
    return before if name == "linear" else str(name)


def _same(layer: Any, affine: Affine) -> Affine:
    return affine


def _reshaped(layer: Any, affine: Affine) -> Affine:
    shape = layer.output.shape[1:]
    if prod(shape) != shape[-1]:
        raise _refused(layer, f"makes {shape} of the features, which is no vector")
    return affine


def _softmax(layer: Any, affine: Affine) -> Affine:
    if layer.axis not in (-1, len(layer.output.shape) - 1):
        raise _refused(layer, "takes the softmax over another axis than that of the classes")
    return affine


def _batch_norm(layer: Any, affine: Affine) -> Affine:
    if layer.axis not in (-1, len(layer.output.shape) - 1):
        raise _refused(layer, "normalizes over another axis than that of the features")
    factor = 1.0 / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    factor = factor * _array(layer.gamma) if layer.scale else factor
    offset = _array(layer.beta) if layer.center else np.zeros_like(factor)
    return affine.scaled(factor, offset - _array(layer.moving_mean) * factor)


def _dense(layer: Any, affine: Affine) -> Affine:
    kernel = _array(layer.kernel)
    return affine.then(kernel, _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1]))


def _convolution(layer: Any, affine: Affine) -> Affine:
    """Return what a 1x1 convolution makes of a map of one position, as MobileNet ends."""
    kernel = _array(layer.kernel)
    if kernel.shape[:2] != (1, 1) or layer.groups != 1:
        raise _refused(layer, "is a convolution with more than one position")
    return affine.then(kernel[0, 0], _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1]))


def _array(weight: Any) -> Numbers:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(weight), np.float64)


def _refused(layer: Any, reason: str) -> RunError:
    return RunError(f"between the pooling and the classes, '{visible(layer.name)}' {reason}")


RULES: dict[str, Callable[[Any, Affine], Affine]] = {
    **dict.fromkeys(RANDOM, _same),
    **dict.fromkeys(SAME_NUMBERS, _reshaped),
    "Activation": _same,
    "BatchNormalization": _batch_norm,
    "Conv2D": _convolution,
    "Dense": _dense,
    "Softmax": _softmax,
}
