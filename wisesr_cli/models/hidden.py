"""The hidden layers of a head, if any, between its pooling and its classifier layer.

Each is dropout -> dense -> norm -> activation, of which any may be missing. They see no positions, so any head may have
them. To add an activation: its name in `Activation`; if it has a parameter, also a row in `_LAYERS`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, model_validator

from wisesr_cli.settings import Options

Activation = Literal[
    "elu",
    "gelu",
    "hard_sigmoid",
    "hard_swish",
    "leaky_relu",
    "linear",
    "mish",
    "prelu",
    "relu",
    "relu6",
    "selu",
    "sigmoid",
    "silu",
    "softplus",
    "softsign",
    "tanh",
]
ACTIVATIONS: tuple[str, ...] = get_args(Activation)
HIDDEN = "hidden_"  # prefix of the names of hidden layers
MOST_UNITS = 1 << 20
MOST_LAYERS = 16
NORM_EPSILON = 1e-3  # Keras' default
SLOPES = {"leaky_relu": 0.2, "elu": 1.0}  # Keras' defaults


class HiddenLayer(Options):
    """A hidden layer of a head: dropout, a dense layer, a normalization and an activation, in this order."""

    units: int | None = Field(default=None, ge=1, le=MOST_UNITS, examples=[256])
    """Units of the dense layer; null for none."""
    activation: Activation = "relu"
    """Activation after it; `linear` is none, `prelu` has a learned slope for every unit."""
    slope: float | None = Field(default=None, examples=[0.2])
    """leaky_relu: slope for negative numbers (null: 0.2); elu: alpha, where -alpha is its limit for them (null: 1)."""
    norm: Literal["none", "batch", "layer"] = "none"
    """Normalization before the activation."""
    epsilon: float = Field(default=NORM_EPSILON, ge=0)
    """Epsilon of the normalization."""
    dropout: float = Field(default=0.0, ge=0, lt=1, examples=[0.2])
    """Fraction of the layer's inputs dropped in training; `model.head.dropout` is that of the classifier layer."""

    @model_validator(mode="after")
    def _check(self) -> HiddenLayer:
        if self.units is None and self.norm == "none" and self.activation == "linear":
            raise ValueError("a hidden layer needs units, a norm or an activation")
        if self.slope is not None and self.activation not in SLOPES:
            raise ValueError(f"slope is an option of leaky_relu and elu; the activation is {self.activation}")
        if self.epsilon != NORM_EPSILON and self.norm == "none":
            raise ValueError("epsilon is an option of a norm, and norm is none")
        return self

    def __str__(self) -> str:
        parts = (
            None if self.units is None else f"dense {self.units}",
            None if self.norm == "none" else f"{self.norm} norm",
            None if self.activation == "linear" else self.activation,
        )
        return " ".join(filter(None, parts))

    __repr__ = __str__  # in the names of a comparison's runs


def _as_layers(value: Any) -> Any:
    """Accept 256 and [256, 64] for dense layers with ReLU."""

    def is_number(part: Any) -> bool:
        return isinstance(part, int) and not isinstance(part, bool)

    value = [value] if is_number(value) else value
    if not isinstance(value, list | tuple):
        return value
    return tuple({"units": part} if is_number(part) else part for part in value)


def _describe_numbers(schema: dict[str, Any]) -> None:
    """Add what `_as_layers` accepts to the JSON Schema of a list."""
    units = {"type": "integer", "minimum": 1, "maximum": MOST_UNITS}
    layers = {key: schema.pop(key) for key in ("type", "items", "maxItems") if key in schema}
    schema["anyOf"] = [{**layers, "items": {"anyOf": [layers["items"], units]}}, units]


HiddenLayers = Annotated[
    tuple[HiddenLayer, ...],
    Field(max_length=MOST_LAYERS, json_schema_extra=_describe_numbers),
    BeforeValidator(_as_layers),
]


def build_hidden(features: Any, hidden: Sequence[HiddenLayer]) -> Any:
    """Apply hidden layers to a symbolic feature vector (batch, features)."""
    for number, options in enumerate(hidden, start=1):
        for layer in _layers_of(options, f"{HIDDEN}{number}").values():
            features = layer(features)
    return features


def hidden_parts(model: Any, number: int) -> dict[str, Any]:
    """Return the layers with weights of a model's hidden layer `number`, from 1: dense, norm, activation."""
    names = {part: f"{HIDDEN}{number}_{part}" for part in ("dense", "norm", "activation")}
    layers = {layer.name: layer for layer in model.layers if layer.weights}
    return {part: layers[name] for part, name in names.items() if name in layers}


def is_hidden(layer: Any) -> bool:
    """Return whether a layer of a classifier is, or belongs to, a hidden layer of its head."""
    return str(layer.name).startswith(HIDDEN)


def hidden_cost(features: int, hidden: Sequence[HiddenLayer]) -> tuple[int, int, int]:
    """Return the parameters of hidden layers, their FLOPs for one image, and the length of the vector they return.

    Norms and activations count no FLOPs; the parameters of a batch norm include its statistics, as in Keras.
    """
    parameters = flops = 0
    for options in hidden:
        if options.units is not None:
            parameters += (features + 1) * options.units
            flops += 2 * features * options.units
            features = options.units
        parameters += {"none": 0, "batch": 4, "layer": 2}[options.norm] * features
        parameters += features if options.activation == "prelu" else 0
    return parameters, flops, features


def _layers_of(options: HiddenLayer, name: str) -> dict[str, Any]:
    import keras

    found: dict[str, Any] = {}
    if options.dropout:
        found["dropout"] = keras.layers.Dropout(options.dropout, name=f"{name}_dropout")
    if options.units is not None:
        found["dense"] = keras.layers.Dense(options.units, name=f"{name}_dense")
    if options.norm != "none":
        norms = {"batch": keras.layers.BatchNormalization, "layer": keras.layers.LayerNormalization}
        found["norm"] = norms[options.norm](epsilon=options.epsilon, name=f"{name}_norm")
    if options.activation != "linear":
        found["activation"] = _LAYERS.get(options.activation, _function)(options, f"{name}_activation")
    return found


def _function(options: HiddenLayer, name: str) -> Any:
    import keras

    return keras.layers.Activation(options.activation, name=name)


def _leaky_relu(options: HiddenLayer, name: str) -> Any:
    import keras

    slope = SLOPES["leaky_relu"] if options.slope is None else options.slope
    return keras.layers.LeakyReLU(negative_slope=slope, name=name)


def _elu(options: HiddenLayer, name: str) -> Any:
    import keras

    return keras.layers.ELU(alpha=SLOPES["elu"] if options.slope is None else options.slope, name=name)


def _prelu(options: HiddenLayer, name: str) -> Any:
    import keras

    return keras.layers.PReLU(name=name)


_LAYERS: dict[str, Callable[[HiddenLayer, str], Any]] = {"elu": _elu, "leaky_relu": _leaky_relu, "prelu": _prelu}
