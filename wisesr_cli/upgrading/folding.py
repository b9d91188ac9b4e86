"""Folds the layers between global average pooling and the probabilities into as few as possible. NumPy, in float64.

At inference, dropout is the identity and batch normalization a factor and an offset per feature, so any row of them
with dense layers equals one dense layer. Where activations or layer normalizations separate such rows, each row becomes
a hidden layer of the head that ends in its activation or normalization; the last row is the classifier layer. To add a
Keras layer, add a rule to `RULES`, or to `FUNCTIONS` if it is not linear.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import RunError
from wisesr_cli.models.hidden import ACTIVATIONS, HiddenLayer
from wisesr_cli.text import joined, visible

Numbers = NDArray[np.float64]

RANDOM = ("AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "SpatialDropout2D")  # active only in training
SAME_NUMBERS = ("Flatten", "Identity", "Reshape")  # reshapes of one vector
PASSING = (*RANDOM, *SAME_NUMBERS)
DENSE = ("Conv2D", "Dense")


@dataclass(frozen=True)
class Affine:
    """Features times `kernel` (inputs, outputs), plus `bias` (outputs,)."""

    kernel: Numbers
    bias: Numbers

    def then(self, kernel: Numbers, bias: Numbers) -> Affine:
        """Return this followed by another affine map."""
        return Affine(self.kernel @ kernel, self.bias @ kernel + bias)

    def scaled(self, factor: Numbers, offset: Numbers) -> Affine:
        """Return this followed by a factor and an offset per output."""
        return Affine(self.kernel * factor, self.bias * factor + offset)


@dataclass(frozen=True)
class FoldedHidden:
    """A hidden layer, and the weights of its parts (dense, norm, activation) in Keras' order."""

    options: HiddenLayer
    weights: dict[str, list[Numbers]]

    def then(self, other: FoldedHidden) -> FoldedHidden:
        """Merge this and the following `other` into one hidden layer."""
        given = {name: getattr(other.options, name) for name in other.options.model_fields_set}
        return FoldedHidden(HiddenLayer(**{**dict(self.options), **given}), {**self.weights, **other.weights})


@dataclass(frozen=True)
class Folded:
    """The classifier layer and hidden layers equivalent to the folded layers, and properties of the original.

    `activation`: the final one (linear, softmax or sigmoid). `dense_layers` and `norms` count dense and batch
    normalization layers; `dropout` is the rate of the last dropout before the classifier layer.
    """

    classifier: Affine
    activation: str
    dense_layers: int
    norms: int
    dropout: float
    hidden: tuple[FoldedHidden, ...] = ()
    is_one_unit: bool = False  # two classes from one unit: the first has logit 0

    @property
    def is_shorter(self) -> bool:
        """Whether any layer was folded into another one."""
        kept = [hidden.options for hidden in self.hidden]
        norms = sum(layer.norm == "batch" for layer in kept)
        return self.norms > norms or self.dense_layers > 1 + sum(layer.units is not None for layer in kept)

    @property
    def classes(self) -> int:
        """Number of logits."""
        return len(self.classifier.bias)


@dataclass
class _Row:
    """A row of linear layers merged into one dense layer, with its batch normalizations and last dropout."""

    affine: Affine
    dense_layers: int = 0
    norms: list[Any] = field(default_factory=list)
    dropout: float = 0.0

    @classmethod
    def of_nothing(cls, features: int) -> _Row:
        return cls(Affine(np.eye(features), np.zeros(features)))

    def add(self, layer: Any) -> None:
        kind = type(layer).__name__
        self.affine = RULES[kind](layer, self.affine)
        self.dense_layers += kind in DENSE
        self.norms += [layer] if kind == "BatchNormalization" else []
        self.dropout = float(layer.rate) if kind in ("Dropout", "SpatialDropout2D") else self.dropout

    def as_hidden(self) -> list[FoldedHidden]:
        """Return hidden layers without activation: one dense layer, or the batch normalizations if there is none.

        Batch normalizations are kept, because a dense layer would have the square of their parameters.
        """
        if self.dense_layers:
            options = HiddenLayer(units=len(self.affine.bias), activation="linear", dropout=self.dropout)
            return [FoldedHidden(options, {"dense": [self.affine.kernel, self.affine.bias]})]
        found: list[FoldedHidden] = []
        for norm in self.norms:
            dropout = 0.0 if found else self.dropout
            options = HiddenLayer(norm="batch", epsilon=norm.epsilon, activation="linear", dropout=dropout)
            weights = [*_scale_and_center(norm), _array(norm.moving_mean), _array(norm.moving_variance)]
            found.append(FoldedHidden(options, {"norm": weights}))
        return found


def fold(layers: Sequence[Any], features: int) -> Folded:
    """Fold Keras layers, given in order of computation; `RunError` names a layer that cannot be folded."""
    row, hidden, activation, norms = _Row.of_nothing(features), list[FoldedHidden](), "linear", 0
    dense = [layer for layer in layers if type(layer).__name__ in DENSE]
    for number, layer in enumerate(layers):
        kind = type(layer).__name__
        if kind not in TAIL:
            raise _refused(layer, f"is a {visible(kind)}, which no head of wisesr has")
        if activation != "linear" and kind not in PASSING:
            raise _refused(layer, f"comes after the {activation}, which already gives probabilities")
        if kind in RULES:
            row.add(layer)
        norms += kind == "BatchNormalization"
        function = _function_of(layer)
        if function is None:
            continue
        is_last = all(type(after).__name__ in PASSING for after in layers[number + 1 :])
        if function == "softmax" or (is_last and _name(function) == "sigmoid"):
            activation = function if isinstance(function, str) else "sigmoid"
        elif is_last and dense:
            raise _refused(layer, f"ends in the activation {_name(function)}; a classifier ends in softmax or none")
        elif isinstance(function, FoldedHidden):
            _end_row(row, function, hidden)
            row = _Row.of_nothing(len(row.affine.bias))
    if not dense:
        raise RunError("no dense layer follows the pooling: the model gives features, not classes")
    if not row.dense_layers:
        last = hidden[-1].options
        behind = f"{last.norm} norm" if last.activation == "linear" else last.activation
        raise _refused(dense[-1], f"is the last dense layer and has {behind} after it; class logits have none")
    return Folded(row.affine, activation, len(dense), norms, row.dropout, tuple(hidden))


def _end_row(row: _Row, function: FoldedHidden, hidden: list[FoldedHidden]) -> None:
    """Add to `hidden` a row of linear layers that ends in an activation or a layer normalization."""
    before = row.as_hidden()
    if not before and row.dropout:
        options = function.options.model_copy(update={"dropout": row.dropout})
        hidden.append(FoldedHidden(options, function.weights))
        return
    hidden += before
    last = hidden[-1].options if hidden else function.options
    if last.activation == "linear" and "none" in (last.norm, function.options.norm):
        hidden[-1] = hidden[-1].then(function)
    else:
        hidden.append(function)


def two_classes(folded: Folded) -> Folded:
    """Turn a single sigmoid unit into two classes with the logits 0 and its own; softmax gives the same numbers."""
    kernel, bias = folded.classifier.kernel, folded.classifier.bias
    both = Affine(np.concatenate([np.zeros_like(kernel), kernel], axis=1), np.concatenate([[0.0], bias]))
    return replace(folded, classifier=both, is_one_unit=True)


def _same(layer: Any, affine: Affine) -> Affine:
    return affine


def _reshaped(layer: Any, affine: Affine) -> Affine:
    shape = layer.output.shape[1:]
    if prod(shape) != shape[-1]:
        raise _refused(layer, f"makes {shape} of the features, which is not a vector")
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
    """Apply a 1x1 convolution to a map of one position, as at the end of MobileNet."""
    kernel = _array(layer.kernel)
    if kernel.shape[:2] != (1, 1) or layer.groups != 1:
        raise _refused(layer, "is a convolution with more than one position")
    return affine.then(kernel[0, 0], _array(layer.bias) if layer.use_bias else np.zeros(kernel.shape[-1]))


def _scale_and_center(norm: Any) -> list[Numbers]:
    """Return gamma and beta of a normalization, by default 1 and 0."""
    width = norm.output.shape[-1]
    gamma = _array(norm.gamma) if norm.scale else np.ones(width)
    return [gamma, _array(norm.beta) if norm.center else np.zeros(width)]


def _function_of(layer: Any) -> FoldedHidden | Literal["softmax"] | None:
    """Return the nonlinear part of a layer: "softmax", a hidden layer with nothing else, or None."""
    kind = type(layer).__name__
    if kind == "Softmax":
        return "softmax"
    if kind in FUNCTIONS:
        return FUNCTIONS[kind](layer)
    name = str(getattr(getattr(layer, "activation", None), "__name__", "linear"))
    if name == "softmax":
        return "softmax"
    return None if name == "linear" else _named(layer, name)


def _name(function: FoldedHidden | str) -> str:
    return function if isinstance(function, str) else str(function.options)


def _named(layer: Any, name: str, **options: Any) -> FoldedHidden:
    name = "hard_swish" if name == "hard_silu" else name  # Keras' other name
    if name not in ACTIVATIONS:
        raise _refused(
            layer,
            f"has the activation {visible(name)}, which no hidden layer of wisesr has; known: {joined(ACTIVATIONS)}",
        )
    return FoldedHidden(HiddenLayer(activation=name, **options), {})  # type: ignore[arg-type]


def _relu(layer: Any) -> FoldedHidden:
    limit, slope = layer.max_value, float(layer.negative_slope)
    if layer.threshold or (limit is not None and (limit != 6 or slope)):
        raise _refused(
            layer,
            f"is a ReLU with max_value={limit}, negative_slope={slope:g} and threshold={layer.threshold:g}; hidden "
            "layers of wisesr have relu, relu6 (max_value=6) and leaky_relu (negative_slope)",
        )
    if limit is not None:
        return _named(layer, "relu6")
    return _named(layer, "leaky_relu", slope=slope) if slope else _named(layer, "relu")


def _gelu(operation: Any) -> FoldedHidden:
    if operation.approximate:
        raise _refused(operation, "is the approximate gelu (by tanh); hidden layers of wisesr have the exact one")
    return _named(operation, "gelu")


def _prelu(layer: Any) -> FoldedHidden:
    slopes = np.broadcast_to(_array(layer.alpha), layer.output.shape[1:]).reshape(-1)
    return replace(_named(layer, "prelu"), weights={"activation": [slopes]})


def _layer_norm(layer: Any) -> FoldedHidden:
    axes = [layer.axis] if isinstance(layer.axis, int) else list(layer.axis)
    if axes not in ([-1], [len(layer.output.shape) - 1]):
        raise _refused(layer, "normalizes over other axes than that of the features")
    if getattr(layer, "rms_scaling", False):
        raise _refused(layer, "has rms_scaling, which no layer normalization of wisesr has")
    options = HiddenLayer(norm="layer", epsilon=layer.epsilon, activation="linear")
    return FoldedHidden(options, {"norm": _scale_and_center(layer)})


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

FUNCTIONS: dict[str, Callable[[Any], FoldedHidden]] = {
    "ELU": lambda layer: _named(layer, "elu", slope=float(layer.alpha)),
    "Gelu": _gelu,  # this and the next ones are operations: keras.ops.gelu
    "Relu": lambda operation: _named(operation, "relu"),
    "Relu6": lambda operation: _named(operation, "relu6"),
    "Sigmoid": lambda operation: _named(operation, "sigmoid"),
    "Silu": lambda operation: _named(operation, "silu"),
    "LayerNormalization": _layer_norm,
    "LeakyReLU": lambda layer: _named(layer, "leaky_relu", slope=float(layer.negative_slope)),
    "PReLU": _prelu,
    "ReLU": _relu,
}
TAIL = frozenset((*RULES, *FUNCTIONS))
