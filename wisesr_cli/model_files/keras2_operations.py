"""Translates the TensorFlow functions called in a Keras 2 model into Keras 3 operations and layers.

Keras 2 wraps each of them, such as those of `pixels / 127.5 - 1`, in a layer `TFOpLambda` with the function's name and
arguments. Only the functions in `RULES` are known, and none is called. To add one, add a rule there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from wisesr_cli.model_files.hdf5 import UnsafeFileError

Arguments = dict[str, Any]  # by name; "" is the tensor that the function is called on


class Operation(NamedTuple):
    """A Keras 3 operation or layer with its options, and the arguments of the call."""

    kind: str
    options: dict[str, Any]
    arguments: tuple[Any, ...]


def operation_of(function: Any, arguments: Arguments) -> Operation:
    """Translate a TensorFlow function to Keras 3.

    Raises `UnsafeFileError`, with the bare reason, for a function or argument without a rule.
    """
    if not isinstance(function, str) or function not in RULES:
        raise UnsafeFileError(f"calls the function '{str(function)[:80]}' of TensorFlow")
    left = dict(arguments)
    operation = RULES[function](left)
    for name, value in left.items():
        if value not in _NEUTRAL.get(name, ()):
            raise UnsafeFileError(f"calls {function} with {name[:40]}={value!r:.40}")
    return operation


def _of_two(kind: str, second: str = "y") -> Callable[[Arguments], Operation]:
    return lambda arguments: Operation(kind, {}, (_operand(arguments.pop("")), _operand(arguments.pop(second))))


def _activation(name: str) -> Callable[[Arguments], Operation]:
    return lambda arguments: Operation("Activation", {"activation": name}, (arguments.pop(""),))


def _mean(arguments: Arguments) -> Operation:
    options = {"axis": arguments.pop("axis", None), "keepdims": bool(arguments.pop("keepdims", None))}
    return Operation("Mean", options, (arguments.pop(""),))


def _cast(arguments: Arguments) -> Operation:
    if (kind := arguments.pop("dtype", None)) != "float32":
        raise UnsafeFileError(f"casts to {kind!r:.40}")
    return Operation("Identity", {}, (arguments.pop(""),))


def _leaky_relu(arguments: Arguments) -> Operation:
    return Operation("LeakyReLU", {"negative_slope": arguments.pop("alpha", 0.2)}, (arguments.pop(""),))


def _item(arguments: Arguments) -> Operation:
    spec = arguments.pop("slice_spec")
    key = [_index(part) for part in spec] if isinstance(spec, list) else _index(spec)
    return Operation("GetItem", {}, (arguments.pop(""), key))


def _index(part: Any) -> Any:
    if isinstance(part, dict) and part.get("class_name") == "__ellipsis__":
        return {"class_name": "__ellipsis__", "config": {}}
    if isinstance(part, dict) and part.keys() == {"start", "stop", "step"}:
        return {"class_name": "__slice__", "config": part}
    return part


def _operand(value: Any) -> Any:
    """Return an operand as Keras 3 writes it; a row of numbers is a tensor."""
    if isinstance(value, list):
        return {"class_name": "__tensor__", "config": {"value": value, "dtype": "float32"}}
    return value


# Values of arguments that have no effect.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "approximate": (False, None),
    "axis": (-1, None),
    "beta": (1.0, None),
    "data_format": ("NHWC", None),
    "name": (None,),
}

RULES: dict[str, Callable[[Arguments], Operation]] = {
    "__operators__.add": _of_two("Add"),
    "__operators__.getitem": _item,
    "cast": _cast,
    "identity": _activation("linear"),
    "math.add": _of_two("Add"),
    "math.divide": _of_two("TrueDivide"),
    "math.multiply": _of_two("Multiply"),
    "math.reduce_mean": _mean,
    "math.sigmoid": _activation("sigmoid"),
    "math.subtract": _of_two("Subtract"),
    "math.tanh": _activation("tanh"),
    "math.truediv": _of_two("TrueDivide"),
    "nn.bias_add": _of_two("Add", "bias"),
    "nn.elu": _activation("elu"),
    "nn.gelu": _activation("gelu"),
    "nn.leaky_relu": _leaky_relu,
    "nn.relu": _activation("relu"),
    "nn.relu6": _activation("relu6"),
    "nn.selu": _activation("selu"),
    "nn.sigmoid": _activation("sigmoid"),
    "nn.silu": _activation("silu"),
    "nn.softmax": _activation("softmax"),
    "nn.swish": _activation("silu"),
    "nn.tanh": _activation("tanh"),
}
