"""Checks what the `config.json` of a model file asks Keras to build, before Keras builds any of it.

Every object must be of a class in `ALLOWED`, and every number in the range of such models; otherwise a few bytes could
request any amount of memory or time. Every layer must be called exactly once, on outputs of earlier layers, and
contribute to the output, so that the config shows all weights and all computation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from wisesr_cli.images.preparation import MOST_CHANNELS
from wisesr_cli.model_files.allowed import ALLOWED
from wisesr_cli.model_files.hdf5 import UnsafeFileError
from wisesr_cli.settings import LARGEST_SIDE

MOST_DEPTH = 100  # nesting levels; real configs have 14
MOST_LAYERS = 3_000  # per model; real models have up to 1,039
MOST_NESTED_MODELS = 4  # one inside another; real models have 3
MOST_CONSTANTS = 32  # numbers and enclosing lists of a constant; ImageNet's mean takes 7
MOST_FACTORS = MOST_CHANNELS + 1  # the same of a Rescaling
MOST_NUMBER = 1 << 20  # for options that `MOST` does not list; real models have up to 36,864

# By option name: several times the largest values in the backbones and heads.
MOST: dict[str, int] = {
    "axis": 4,
    "batch_shape": LARGEST_SIDE,
    "cropping": 64,
    "depth_multiplier": 16,
    "dilation_rate": 16,
    "grid_size": 1024,
    "height": LARGEST_SIDE,  # of a Resizing
    "kernel_size": 128,
    "padding": 64,
    "pool_size": 128,
    "strides": 64,
    "width": LARGEST_SIDE,
}
_ANY_NUMBER = frozenset({"seed", "shared_object_id"})
_COMPUTED, _CONSTANT = "__keras_tensor__", "__tensor__"  # Keras' names for a layer's output, and for numbers in a call
_OPERATIONS = "keras.src.ops.numpy"  # module of operations that are not layers
_NAME = re.compile(r"[A-Za-z0-9_.\-]{1,200}")  # TensorFlow accepts no others
# Keras' activations that keep the shape and need only their input.
_ACTIVATIONS = {
    *("elu", "gelu", "hard_sigmoid", "hard_silu", "hard_swish", "leaky_relu", "linear", "mish", "relu", "relu6"),
    *("selu", "sigmoid", "silu", "softmax", "softplus", "softsign", "swish", "tanh"),
}
_INPUT_TYPES = ("float32", "float16", "bfloat16", "uint8")


def check_model_config(config: Any) -> None:
    """Raise `UnsafeFileError`, with the bare reason, for the first thing that no wisesr model contains.

    Optimizer, loss and metrics of a compiled model are not checked: Keras is told not to build them.
    """
    if not isinstance(config, dict) or "class_name" not in config:
        raise UnsafeFileError("config.json in it describes no model")
    pending: list[tuple[str, Any, int, int]] = [("", {**config, "compile_config": None}, 1, 0)]
    found: list[tuple[dict[str, Any], int]] = []  # descriptions of models, with their nesting depth
    while pending:
        key, value, depth, models = pending.pop()
        if depth > MOST_DEPTH:
            raise UnsafeFileError(f"config.json in it is nested more than {MOST_DEPTH} deep")
        if isinstance(value, dict):
            if "class_name" in value:
                _check_object(value, key)
            if isinstance(value.get("layers"), list):
                models += 1
                found.append((value, models))
            pending.extend((name, inner, depth + 1, models) for name, inner in value.items())
        elif isinstance(value, list):
            pending.extend((key, inner, depth + 1, models) for inner in value)
        else:
            _check_value(key, value)
    for options, models in found:
        _check_model(options, models)


def objects_in(value: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a parsed JSON value, including nested ones."""
    pending = [value]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            yield part
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def _check_object(value: dict[str, Any], key: str) -> None:
    found = value.get("module"), value["class_name"], value.get("registered_name")
    is_known = all(part is None or isinstance(part, str) for part in found) and found in ALLOWED
    if not is_known or (found[1] == _CONSTANT and key != "args"):  # constants are arguments of operations only
        module, name = str(found[0] or "no module")[:80], str(found[1])[:80]
        raise UnsafeFileError(
            f"it has a '{name}' of {module}, which no wisesr model contains; nothing was loaded. Its "
            "weights can be used without its layers: wisesr train FOLDER --backbone NAME --weights FILE"
        )
    if value.get("compile_config"):
        raise UnsafeFileError("a model inside the model is compiled; load it with compile=False before adding it")
    options = value.get("config")
    if found[0] == "keras.initializers":  # an array would be multiplied by the number of weights
        values = options.values() if isinstance(options, dict) else [options]
        if any(isinstance(value, list | dict) for value in values):
            raise UnsafeFileError("an initializer in it has an option that is not a plain value")
    if isinstance(options, dict):
        _check_options(str(found[1]), options)


def _check_options(name: str, options: dict[str, Any]) -> None:
    if name == _CONSTANT and (options.get("dtype") not in _INPUT_TYPES or not _is_short(options.get("value"))):
        raise UnsafeFileError("a number that it computes with is not a short list of plain numbers")
    if name == "Rescaling":
        for key in ("scale", "offset"):  # Keras accepts any array, and reports the input's shape as the output's
            if not _is_short_row(options.get(key, 0.0)):
                raise UnsafeFileError(f"the {key} of a Rescaling in it is not a short list of plain numbers")
    if name == "InputLayer" and (
        options.get("dtype") not in _INPUT_TYPES or options.get("sparse") or options.get("ragged")
    ):
        raise UnsafeFileError("its input holds no plain numbers")
    if name == "Normalization" and isinstance(options.get("axis"), list) and len(options["axis"]) > 1:
        raise UnsafeFileError("a Normalization in it has more than one axis")
    if isinstance(options.get("activation"), str) and options["activation"] not in _ACTIVATIONS:
        raise UnsafeFileError(f"it has the activation '{options['activation'][:80]}', which no wisesr model contains")
    for key, option in options.items():
        if key.endswith("_initializer") and isinstance(option, str):
            raise UnsafeFileError(f"'{key[:80]}' in it is not as Keras writes it")


def _is_short_row(value: Any) -> bool:
    return _is_short(value, MOST_FACTORS) and not (
        isinstance(value, list) and any(isinstance(part, list) for part in value)
    )


def _is_short(value: Any, most: int = MOST_CONSTANTS) -> bool:
    """Return whether a value is a number, or lists of at most `most` of them and lists."""
    pending, numbers = [value], 0
    while pending:
        part = pending.pop()
        numbers += 1
        if isinstance(part, list):
            pending.extend(part)
        elif not isinstance(part, int | float):
            return False
        if numbers > most:
            return False
    return True


def _check_model(options: dict[str, Any], models: int) -> None:
    """Check how the layers of a model are connected."""
    layers = options["layers"]
    if len(layers) > MOST_LAYERS or models > MOST_NESTED_MODELS:
        raise UnsafeFileError("it has more layers, or more models in models, than any backbone")
    if "output_layers" not in options:  # Sequential: every layer is called once, in order
        return
    inputs: dict[str, set[str]] = {}
    for layer in layers:
        if not isinstance(layer, dict) or not isinstance(layer.get("name"), str) or layer["name"] in inputs:
            raise UnsafeFileError("a layer in it has no name of its own")
        nodes = layer.get("inbound_nodes")
        if not isinstance(nodes, list) or len(nodes) != (layer.get("class_name") != "InputLayer"):
            raise UnsafeFileError(f"the layer '{layer['name'][:80]}' in it is not called exactly once")
        before = _inputs_of(layer, nodes)
        if not before <= inputs.keys():
            raise UnsafeFileError(f"the layer '{layer['name'][:80]}' in it is called before its input exists")
        inputs[layer["name"]] = before
    pending = [name for name in _texts(options["output_layers"]) if name in inputs]
    used: set[str] = set()
    while pending:
        name = pending.pop()
        if name not in used:
            used.add(name)
            pending.extend(inputs[name])
    if left := inputs.keys() - used:
        raise UnsafeFileError(f"the layer '{min(left)[:80]}' in it does not lead to the output")


def _inputs_of(layer: dict[str, Any], nodes: list[Any]) -> set[str]:
    """Return the names of the layers whose outputs a layer is called on.

    Keras computes a call on numbers alone immediately, before any size is checked, whatever memory that takes.
    Operations may combine a number with a layer's output; layers never do.
    """
    parts = list(_parts_of(nodes))
    before = {_name_of(part) for part in parts if isinstance(part, dict) and part["class_name"] == _COMPUTED}
    if nodes and not before:
        raise UnsafeFileError(f"the layer '{layer['name'][:80]}' in it is called on nothing that was computed")
    if layer.get("module") != _OPERATIONS and any(_is_constant(part) for part in parts):
        raise UnsafeFileError(f"the layer '{layer['name'][:80]}' in it is called on constant numbers")
    return before


def _parts_of(value: Any) -> Iterator[Any]:
    """Yield the arguments of a call: serialized tensors, numbers and texts."""
    if isinstance(value, dict) and value.get("class_name") not in (_COMPUTED, _CONSTANT):
        for inner in value.values():
            yield from _parts_of(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _parts_of(inner)
    else:
        yield value


def _name_of(tensor: dict[str, Any]) -> str:
    """Return the name of the layer that produces a tensor."""
    config = tensor.get("config")
    history = config.get("keras_history") if isinstance(config, dict) else None
    if not isinstance(history, list) or not history or not isinstance(history[0], str):
        raise UnsafeFileError("a tensor in it comes from no layer")
    return history[0]


def _is_constant(part: Any) -> bool:
    if isinstance(part, dict):
        return bool(part["class_name"] == _CONSTANT)
    return isinstance(part, int | float) and not isinstance(part, bool)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)


def _check_value(key: str, value: Any) -> None:
    if isinstance(value, int | float):
        most = MOST.get(key, MOST_NUMBER)
        if key not in _ANY_NUMBER and not abs(value) <= most:
            raise UnsafeFileError(f"config.json in it has the number {value!r:.40} for '{key[:80]}'; at most {most}")
    elif key == "name" and isinstance(value, str) and not _NAME.fullmatch(value):
        raise UnsafeFileError(
            f"config.json in it has the name '{value[:80]}'; TensorFlow takes letters, digits, '_', '-' and '.' only, "
            "at most 200 of them"
        )
