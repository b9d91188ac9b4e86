"""Writes logits as sums over the positions of the feature map. NumPy, in float64.

A head turns the feature map x (height, width, channels) into logits, and for every class k

    logit_k = beta_k + sum over positions (i, j) of M_k(i, j),
    M_k(i, j) = sum over channels c of g_kc(i, j) * x_c(i, j).

g and beta result from pulling the classifier layer's column k back through the layers of the head, last one first: a
weighted sum of a layer's outputs becomes a weighted sum of its inputs, plus a constant. If every layer is linear, g and
beta hold for every image; a ReLU or a maximum is piecewise linear, so they hold near one image only. Either way the sum
is exact.

Hidden layers may also have curved activations and layer normalization. There, gains are held at what they are for the
image: an activation f of z counts as f(0) + gain * z with gain = (f(z) - f(0)) / z, and a layer normalization divides
by the standard deviation that it found. The sum is exact for the image, but g is not the logit's derivative: it says
what added up to the logit, not what a small change would do. Derivatives would be of no use here. A saturated unit has
none, however much it adds; and a layer normalization does not change with the scale of its inputs, so that by Euler's
theorem its derivatives times its inputs add up to zero, and the whole logit would be bias. Holding the gain is also
what is done for layer normalization in transformers (Ali et al., 2022), and for a ReLU it is the linear piece itself.

To add a layer of Keras: a rule in `RULES`. A layer of ours has its rule as a method, `pull_back`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import RunError
from wisesr_cli.text import visible

Numbers = NDArray[np.float64]
Pulled = tuple[Numbers, Numbers]  # coefficients (rows, *shape of a layer's input), terms added to the sum (rows, ...)

SMALLEST_STEP = 1e-3  # from zero to the input at which the gain of an activation is measured
PIECEWISE = frozenset({"leaky_relu", "linear", "relu"})  # activations with one linear piece on either side of zero
BLOCK_NUMBERS = 1 << 22  # of a weight matrix that are converted to float64 at a time: 32 MiB


@dataclass(frozen=True)
class WeightedSums:
    """Weighted sums of numbers (*shape), plus constants: `coefficients` (rows, *shape), `constants` (rows,).

    `sizes` (rows,) are the sums of the absolute terms of the constants.
    """

    coefficients: Numbers
    constants: Numbers
    sizes: Numbers

    def plus(self, coefficients: Numbers, terms: Numbers) -> WeightedSums:
        """Return sums with other coefficients and with terms (rows, ...) added to their constants."""
        terms = terms.reshape(len(terms), -1)
        return WeightedSums(coefficients, self.constants + terms.sum(axis=1), self.sizes + np.abs(terms).sum(axis=1))


@dataclass(frozen=True)
class Values:
    """A layer's inputs and outputs (rows, *shape) for the image of each row."""

    inputs: NDArray[np.float32]
    outputs: NDArray[np.float32]


@dataclass(frozen=True)
class Rule:
    """How a weighted sum of a layer's outputs is written over its inputs.

    `pull_back` takes the layer, coefficients (rows, *output shape) and its `Values`, used only by layers that are
    not linear. It returns coefficients (rows, *input shape) and constant terms (rows, ...).
    """

    pull_back: Callable[[Any, Numbers, Values | None], Pulled]
    is_linear: Callable[[Any], bool] = lambda layer: True
    is_piecewise: Callable[[Any], bool] = lambda layer: True  # linear near any one image


def rule_of(layer: Any) -> Rule:
    """Return the rule of a layer; raises a `RunError` if it has none."""
    if hasattr(layer, "pull_back"):
        return Rule(lambda ours, coefficients, values: ours.pull_back(coefficients))
    rule = RULES.get(type(layer).__name__)
    if rule is None:
        raise _unexplained(layer, f"a layer {type(layer).__name__}")
    return rule


def is_linear(layers: Sequence[Any]) -> bool:
    """Return whether pulled-back coefficients hold for every image; raises a `RunError` for a layer without a rule."""
    return all(rule_of(layer).is_linear(layer) for layer in layers)


def is_piecewise(layers: Sequence[Any]) -> bool:
    """Return whether pulled-back coefficients hold near each image, so that they are derivatives of the logit."""
    return all(rule_of(layer).is_piecewise(layer) for layer in layers)


def classifier_columns(classifier: Any, classes: Sequence[int]) -> WeightedSums:
    """Return the logits of some classes as sums of the feature vector: coefficients (classes, features).

    Raises a `RunError` unless it is a dense layer without activation.
    """
    if type(classifier).__name__ != "Dense" or _activation(classifier) != "linear":
        raise _unexplained(classifier, "an end that is not a dense layer without activation")
    from keras import ops

    columns = ops.convert_to_numpy(ops.take(classifier.kernel, np.asarray(classes), axis=1))
    bias = _array(classifier.bias)[list(classes)] if classifier.use_bias else np.zeros(len(classes))
    return WeightedSums(columns.T.astype(np.float64), bias, np.abs(bias))


def pull_back(layers: Sequence[Any], sums: WeightedSums, values: Sequence[Values] | None = None) -> WeightedSums:
    """Return weighted sums of the last layer's outputs, written over the first layer's inputs.

    `layers` are in order of computation; `values` are those of each layer, None if all are linear.
    """
    for number in reversed(range(len(layers))):
        at = None if values is None else values[number]
        sums = sums.plus(*rule_of(layers[number]).pull_back(layers[number], sums.coefficients, at))
    return sums


def contributions(sums: WeightedSums, feature_maps: NDArray[np.floating[Any]]) -> Numbers:
    """Return the contribution of every position, (rows, height, width).

    Shapes: coefficients (rows or 1, height, width, channels), `feature_maps` (rows, height, width, channels).
    """
    return _along_channels(sums.coefficients, feature_maps)


def sizes_added(sums: WeightedSums, feature_maps: NDArray[np.floating[Any]]) -> Numbers:
    """Return the sum of all absolute terms, (rows,), to which rounding errors are relative.

    Takes the arguments of `contributions`, whose results may be much smaller, as channels cancel each other out.
    """
    products = _along_channels(np.abs(sums.coefficients), np.abs(feature_maps))
    return np.asarray(products.sum(axis=(1, 2)) + sums.sizes)


def _along_channels(coefficients: Numbers, feature_maps: NDArray[np.floating[Any]]) -> Numbers:
    products: Numbers = np.einsum("...c,...c->...", coefficients, feature_maps)  # in float64, without copying the maps
    return products


def _array(variable: Any) -> Numbers:
    return np.asarray(variable, dtype=np.float64)


def _shape(layer: Any) -> tuple[int, ...]:
    return tuple(layer.input.shape[1:])


def _activation(layer: Any) -> str:
    return str(getattr(layer.activation, "__name__", layer.activation))


def _unexplained(layer: Any, what: str) -> RunError:
    return RunError(f"the head has {what} ('{visible(layer.name)}'), for which no exact explanation is known")


def _nothing(coefficients: Numbers) -> Numbers:
    return np.zeros((len(coefficients), 0))


def _flatten(layer: Any, coefficients: Numbers, values: Values | None) -> Pulled:
    return coefficients.reshape(-1, *_shape(layer)), _nothing(coefficients)


def _dense(layer: Any, coefficients: Numbers, values: Values | None) -> Pulled:
    """Multiply by the transposed weights; units whose ReLU is zero contribute nothing."""
    activation = _activation(layer)
    if len(_shape(layer)) != 1:
        raise _unexplained(layer, "a dense layer on a map")
    if activation not in {"linear", "relu"}:
        raise _unexplained(layer, f"a dense layer with the activation {visible(activation)}")
    if activation == "relu" and values is not None:
        coefficients = coefficients * (values.outputs > 0)
    terms = coefficients * _array(layer.bias) if layer.use_bias else _nothing(coefficients)
    kernel = np.asarray(layer.kernel)  # (inputs, units); gigabytes in a large map's first dense layer
    pulled = np.empty((len(coefficients), len(kernel)))
    step = max(1, BLOCK_NUMBERS // kernel.shape[1])
    for start in range(0, len(kernel), step):
        block = kernel[start : start + step].astype(np.float64)
        pulled[:, start : start + step] = coefficients @ block.T
    return pulled, terms


def _gains_held(layer: Any, coefficients: Numbers, values: Values | None) -> Pulled:
    """Multiply by the gain of each unit, the slope from its value at zero to that of the image."""
    assert values is not None
    inputs, outputs = (numbers.astype(np.float64) for numbers in (values.inputs, values.outputs))
    # Near zero, a float32 difference is imprecise. What the gain misses of the output goes into the terms.
    away = np.where(np.abs(inputs) < SMALLEST_STEP, np.copysign(SMALLEST_STEP, inputs), inputs)
    gains = (_outputs(layer, away) - _outputs(layer, np.zeros_like(away))) / away
    return coefficients * gains, coefficients * (outputs - gains * inputs)


def _outputs(layer: Any, inputs: Numbers) -> Numbers:
    from keras import ops

    return np.asarray(ops.convert_to_numpy(layer(inputs.astype(np.float32))), np.float64)


def _layer_normalization(layer: Any, coefficients: Numbers, values: Values | None) -> Pulled:
    """Subtract the mean and divide by the image's standard deviation."""
    assert values is not None
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axes not in ([-1], [coefficients.ndim - 1]):
        raise _unexplained(layer, f"a layer normalization of axis {axes}")
    variance = values.inputs.astype(np.float64).var(axis=-1, keepdims=True)
    terms = coefficients * _array(layer.beta) if layer.center else _nothing(coefficients)
    scaled = (coefficients * _array(layer.gamma) if layer.scale else coefficients) / np.sqrt(variance + layer.epsilon)
    return scaled - scaled.mean(axis=-1, keepdims=True), terms


def _batch_normalization(layer: Any, coefficients: Numbers, values: Values | None) -> Pulled:
    if layer.axis not in {-1, coefficients.ndim - 1}:
        raise _unexplained(layer, f"a batch normalization of axis {layer.axis}")
    scale = 1.0 / np.sqrt(_array(layer.moving_variance) + layer.epsilon)
    if layer.scale:
        scale = scale * _array(layer.gamma)
    shift = -_array(layer.moving_mean) * scale
    if layer.center:
        shift = shift + _array(layer.beta)
    return coefficients * scale, coefficients * shift


def _global_average(layer: Any, coefficients: Numbers, values: Values | None) -> Pulled:
    height, width, channels = _shape(layer)
    every = coefficients.reshape(-1, 1, 1, channels) / (height * width)
    return np.broadcast_to(every, (len(every), height, width, channels)), _nothing(coefficients)


def _global_max(layer: Any, coefficients: Numbers, values: Values | None) -> Pulled:
    """Assign each channel's coefficient to the position of its maximum, the first of equal ones."""
    assert values is not None
    height, width, channels = _shape(layer)
    first = values.inputs.reshape(-1, height * width, channels).argmax(axis=1, keepdims=True)
    pulled = np.zeros((len(coefficients), height * width, channels))
    np.put_along_axis(pulled, first, coefficients.reshape(-1, 1, channels), axis=1)
    return pulled.reshape(-1, height, width, channels), _nothing(coefficients)


def _average_pooling(layer: Any, coefficients: Numbers, values: Values | None) -> Pulled:
    """Spread each mean over its window; positions in no window get zero."""
    if layer.padding != "valid":
        raise _unexplained(layer, f"an average pooling with padding '{visible(layer.padding)}'")
    pulled = np.zeros((len(coefficients), *_shape(layer)))
    (pool_height, pool_width), (down, right) = layer.pool_size, layer.strides
    _, rows, columns, _ = coefficients.shape
    for row in range(pool_height):
        for column in range(pool_width):
            window = np.s_[:, row : row + down * rows : down, column : column + right * columns : right]
            pulled[window] += coefficients / (pool_height * pool_width)
    return pulled, _nothing(coefficients)


RULES: dict[str, Rule] = {
    "Activation": Rule(
        _gains_held, lambda layer: _activation(layer) == "linear", lambda layer: _activation(layer) in PIECEWISE
    ),
    "AveragePooling2D": Rule(_average_pooling),
    "BatchNormalization": Rule(_batch_normalization),
    "Dense": Rule(_dense, is_linear=lambda layer: _activation(layer) == "linear"),
    "Dropout": Rule(lambda layer, coefficients, values: (coefficients, _nothing(coefficients))),
    "ELU": Rule(_gains_held, lambda layer: False, lambda layer: False),
    "Flatten": Rule(_flatten),
    "GlobalAveragePooling2D": Rule(_global_average),
    "GlobalMaxPooling2D": Rule(_global_max, is_linear=lambda layer: False),
    "LayerNormalization": Rule(_layer_normalization, lambda layer: False, lambda layer: False),
    "LeakyReLU": Rule(_gains_held, is_linear=lambda layer: False),
    "PReLU": Rule(_gains_held, is_linear=lambda layer: False),
}
