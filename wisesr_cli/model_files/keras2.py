"""Translates the config of a model saved by Keras 2 into one for Keras 3, for known layers only. No Keras.

The result is checked like every config (`architecture`) before Keras builds anything. Differences between the two
versions that would change outputs are rejected, with the layer's name and class.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from wisesr_cli.model_files.allowed import ALLOWED
from wisesr_cli.model_files.architecture import MOST_LAYERS, MOST_NESTED_MODELS
from wisesr_cli.model_files.hdf5 import UnsafeFileError
from wisesr_cli.model_files.keras2_operations import operation_of

_MODELS = ("Functional", "Model", "Sequential")
_CALLS = ("SlicingOpLambda", "TFOpLambda")
_OF_LISTS = (
    "Add",
    "Average",
    "Concatenate",
    "CustomScaleLayer",
    "Maximum",
    "Multiply",
)  # layers called on a list of tensors
_OF_KERAS = re.compile(r"(tf_)?keras(\.|$)|tensorflow\.python\.keras\.")
_OPERATIONS = "keras.src.ops."
_NAMES = {  # Keras 2 class name -> Keras 3 class name
    "BatchNormalizationV1": "BatchNormalization",
    "BatchNormalizationV2": "BatchNormalization",
    "Custom>CustomScaleLayer": "CustomScaleLayer",  # of keras.applications
    "Custom>LayerScale": "LayerScale",
    "Model": "Functional",
}
_POLICIES = ("float32", "float16", "bfloat16", "mixed_float16", "mixed_bfloat16")
_ONLY_CALL = 0  # for a nested model, Keras 2 also counts the call that created it; `architecture` allows only one call
_OTHERWISE = ("hard_sigmoid",)  # activations that Keras 3 computes differently
# Options that Keras 3 lacks, with the values that have no effect.
_GONE: dict[str, tuple[Any, ...]] = {
    "batch_input_shape": (),  # any
    "groups": (1,),
    "noise_shape": (None,),
    "renorm": (False,),
    "rng_type": (),
    "synchronized": (False,),
    "virtual_batch_size": (None,),
}
_KEPT = {
    "Conv2D": "groups",
    "GroupNormalization": "groups",
    "Dropout": "noise_shape",
}  # options of `_GONE` that these layers still have in Keras 3
_RENAMED = {("LeakyReLU", "alpha"): "negative_slope"}


@dataclass(frozen=True)
class StoredLayer:
    """A layer, and the location of its weights.

    `path` has the names of the enclosing models and its own, `names` the same as in the file; `place` is its path in
    files whose weights have no names; `trainable`: whether all of these are trainable.
    """

    path: tuple[str, ...]
    names: tuple[str, ...]
    place: str
    trainable: bool


@dataclass(frozen=True)
class Translated:
    """A Keras 3 config, and the layers of the model, including nested ones, in the file's order."""

    config: dict[str, Any]
    layers: tuple[StoredLayer, ...]


def translate(config: Any, *, keras_3: bool = False) -> Translated:
    """Return the config of a model for Keras 3; `keras_3`: it already is, except for its class modules, as in `.h5`.

    Raises `UnsafeFileError`, with the bare reason, for anything damaged or not known to be equivalent.
    """
    translation = _Translation(keras_3)
    try:
        translated = translation.model(config, _Place())
    except UnsafeFileError:
        raise
    except (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError) as error:
        raise UnsafeFileError(f"its config is not a model of Keras: {type(error).__name__} {str(error)[:80]}") from None
    return Translated(translated, tuple(translation.layers))


@dataclass(frozen=True)
class _Place:
    """The location of a model; fields as in `StoredLayer`."""

    path: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    place: str = ""
    trainable: bool = True


@dataclass
class _Translation:
    keras_3: bool
    layers: list[StoredLayer] = field(default_factory=list)

    def model(self, record: Mapping[str, Any], around: _Place) -> dict[str, Any]:
        kind, options = record["class_name"], record["config"]
        if kind not in _MODELS:
            raise UnsafeFileError(f"it is a '{str(kind)[:80]}', not a functional or sequential model")
        if len(around.path) > MOST_NESTED_MODELS:
            raise UnsafeFileError("it has more models in models than any backbone")
        if isinstance(options, list):  # a Sequential before Keras 2.3
            options = {"name": "sequential", "layers": options}
        layers = options["layers"]
        if len(layers) > MOST_LAYERS:
            raise UnsafeFileError("it has more layers than any backbone")
        if kind == "Sequential":
            layers = [*_input_of(layers, options), *layers]
        names = _new_names([layer.get("name") or layer["config"]["name"] for layer in layers])
        counts: Counter[str] = Counter()
        translated = []
        for layer in layers:
            name, old = str(layer["class_name"]), layer.get("name") or layer["config"]["name"]
            here = _Place(
                (*around.path, names[old]),
                (*around.names, old),
                f"{around.place}layers/{_numbered(_snake(name.rpartition('>')[2]), counts)}",
                around.trainable and options.get("trainable") is not False,
            )
            translated.append(self._layer(layer, here, names, is_called=kind != "Sequential"))
        changed = {"name": _new_name(options.get("name", "model")), "layers": translated}
        if kind != "Sequential":
            changed |= {key: _ends(options[key], names) for key in ("input_layers", "output_layers")}
        return _record(kind, {**changed, "trainable": options.get("trainable") is not False})

    def _layer(
        self, layer: Mapping[str, Any], here: _Place, names: Mapping[str, str], *, is_called: bool
    ) -> dict[str, Any]:
        kind = layer["class_name"]
        try:
            _check_origin(layer)
            nodes = [self._node(kind, node, names) for node in layer["inbound_nodes"]] if is_called else []
            if kind in _MODELS:
                translated = self.model(layer, _Place(here.path, here.names, f"{here.place}/", here.trainable))
            elif kind in _CALLS:
                (node,) = nodes
                operation = operation_of(layer["config"]["function"], node)
                nodes = [{"args": [*operation.arguments], "kwargs": {}}]
                translated = _record(operation.kind, dict(operation.options), is_operation=True)
            elif self.keras_3:
                is_operation = kind != "InputLayer" and "dtype" not in layer["config"]
                translated = _record(kind, dict(layer["config"]), is_operation=is_operation)
            else:
                translated = _record(kind, _options(kind, layer["config"]))
        except UnsafeFileError as error:
            if kind in _MODELS:
                raise
            raise UnsafeFileError(f"its layer '{str(here.names[-1])[:80]}' ({str(kind)[:80]}) {error}") from None
        translated["config"]["name"] = here.path[-1]
        if kind not in (*_MODELS, *_CALLS):
            trainable = here.trainable and layer["config"].get("trainable") is not False
            self.layers.append(StoredLayer(here.path, here.names, here.place, trainable))
        return {**translated, "name": here.path[-1], "inbound_nodes": nodes} if is_called else translated

    def _node(self, kind: str, node: Any, names: Mapping[str, str]) -> dict[str, Any]:
        """Return a layer call as Keras 3 writes it; for a TensorFlow function, its arguments by name."""
        if self.keras_3:
            return dict(node)
        if kind in _CALLS:
            first, place, tensor, given = node[0] if isinstance(node[0], list) else node
            plain = {name: _tensor_or_plain(value, names) for name, value in given.items()}
            return {
                "": _plain(tensor) if first == "_CONSTANT_VALUE" else _tensor([first, place, tensor], names),
                **plain,
            }
        tensors = [_tensor(part, names) for part in node]
        given = {name: value for part in node for name, value in (part[3] if len(part) > 3 else {}).items()}
        if any(value is not None for name, value in given.items() if name != "training"):
            raise UnsafeFileError(f"is called with {', '.join(sorted(given))[:80]}")
        takes_list = _NAMES.get(kind, kind) in _OF_LISTS
        if not takes_list and len(tensors) != 1:
            raise UnsafeFileError(f"is called on {len(tensors)} tensors")
        return {"args": [tensors if takes_list else tensors[0]], "kwargs": {}}


def _check_origin(layer: Mapping[str, Any]) -> None:
    """Raise `UnsafeFileError` for a class that only shares its name with a Keras class."""
    module, kind, registered = layer.get("module"), layer["class_name"], layer.get("registered_name")
    if module is not None and not _OF_KERAS.match(str(module)):
        raise UnsafeFileError(f"is of {str(module)[:80]}")
    if registered not in (None, kind) and _NAMES.get(registered) != kind:
        raise UnsafeFileError(f"is registered as '{str(registered)[:80]}'")


def _record(kind: Any, options: dict[str, Any], *, is_operation: bool = False) -> dict[str, Any]:
    """Return the record of an object, with the module and registered name of its class."""
    name = _NAMES.get(kind, kind)
    found = _OPERATION_OF.get(name) if is_operation else None
    found = found or _LAYER_OF.get(name)
    if found is None:
        raise UnsafeFileError("is of a class that no wisesr model contains")
    return {"module": found[0], "class_name": name, "config": options, "registered_name": found[1]}


def _input_of(layers: Sequence[Mapping[str, Any]], options: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield an input layer for a Sequential without one, if its shape is known."""
    first = layers[0]
    shape = first["config"].get("batch_input_shape") or options.get("build_input_shape")
    if first["class_name"] != "InputLayer" and shape and first["class_name"] not in _MODELS:
        yield {"class_name": "InputLayer", "config": {"name": "pixels", "batch_input_shape": shape, "dtype": "float32"}}


def _new_name(name: Any) -> str:
    return re.sub(r"[^A-Za-z0-9_.\-]", "_", name)


def _new_names(names: Sequence[str]) -> dict[str, str]:
    """Map old names to names that Keras 3 accepts; Keras 2 allows slashes."""
    found: dict[str, str] = {}
    taken = set(names)
    for name in names:
        if name in found:
            raise UnsafeFileError(f"two layers in it have the name '{name[:80]}'")
        new, number = _new_name(name), 1
        while new != name and new in taken:
            new, number = f"{_new_name(name)}_{number}", number + 1
        taken.add(new)
        found[name] = new
    return found


def _snake(kind: str) -> str:
    """Return the name under which Keras numbers layers of a class in a file."""
    name = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", name).lower()


def _numbered(name: str, counts: Counter[str]) -> str:
    counts[name] += 1
    return name if counts[name] == 1 else f"{name}_{counts[name] - 1}"


def _ends(value: Any, names: Mapping[str, str]) -> Any:
    """Return the inputs or outputs of a model: a single one bare, several as a list."""
    ends = [value] if isinstance(value[0], str) else value
    renamed = [[names[name], _ONLY_CALL, tensor] for name, _, tensor in ends]
    return renamed[0] if len(renamed) == 1 else renamed


def _tensor(part: Sequence[Any], names: Mapping[str, str]) -> dict[str, Any]:
    """Return a layer's output as Keras 3 writes it; Keras 3 computes the shape itself."""
    history = [names[part[0]], _ONLY_CALL, part[2]]
    return {"class_name": "__keras_tensor__", "config": {"shape": [None], "dtype": "float32", "keras_history": history}}


def _tensor_or_plain(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, list) and len(value) == 3 and isinstance(value[0], str):
        return _tensor(value, names)
    return _plain(value)


def _plain(value: Any) -> Any:
    """Return a value without the Keras 2 wrappers for tuples and arrays."""
    if isinstance(value, list):
        return [_plain(part) for part in value]
    if isinstance(value, dict):
        wrapped = {"__tuple__": "items", "TensorShape": "items", "__ndarray__": "value", "__numpy__": "value"}
        if (key := wrapped.get(value.get("class_name", ""))) is not None:
            return _plain(value.get(key, value.get("config", {}).get("value")))
        return {name: _plain(part) for name, part in value.items()}
    return value


def _options(kind: str, found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a layer for Keras 3, without initializers."""
    if kind == "InputLayer":
        shape = found.get("batch_input_shape") or found["batch_shape"]
        rest = {key: found.get(key, False) for key in ("sparse", "ragged")}
        return {"batch_shape": [None, *shape[1:]], "dtype": found.get("dtype", "float32"), **rest}
    options: dict[str, Any] = {}
    for key, value in found.items():
        if key in _GONE and _KEPT.get(kind) != key:
            if _GONE[key] and value not in _GONE[key]:
                raise UnsafeFileError(f"has {key}={value!r:.40}, which Keras 3 does not have")
        elif key.endswith("_initializer"):
            continue
        elif key.endswith("_constraint"):
            if value is not None:
                raise UnsafeFileError(f"has a {key.replace('_', ' ')}")
        elif key.endswith("_regularizer"):
            if value is not None:
                options[key] = _regularizer(value)
        else:
            options[_RENAMED.get((kind, key), key)] = _plain(value)
    if "dtype" in options:
        options["dtype"] = _policy(options["dtype"])
    if "activation" in options:
        options["activation"] = _activation(options["activation"])
    if kind.startswith("BatchNormalization") and isinstance(options["axis"], list):
        (options["axis"],) = options["axis"]
    return options


def _regularizer(value: Mapping[str, Any]) -> dict[str, Any]:
    if value.get("class_name") not in ("L1", "L2", "L1L2"):
        raise UnsafeFileError(f"has the regularizer {value.get('class_name')!r:.40}")
    return {
        "module": "keras.regularizers",
        **{key: value[key] for key in ("class_name", "config")},
        "registered_name": None,
    }


def _policy(value: Any) -> str:
    """Return the name of a numeric precision."""
    name = value["config"]["name"] if isinstance(value, dict) else value
    if name not in _POLICIES:
        raise UnsafeFileError(f"computes in {name!r:.40}")
    return str(name)


def _activation(value: Any) -> str:
    name = value["config"] if isinstance(value, dict) and value["class_name"] == "function" else value
    if name in _OTHERWISE or not isinstance(name, str):
        raise UnsafeFileError(f"has the activation {name!r:.40}, which Keras 3 does not have or computes differently")
    return name


def _classes(*, operations: bool) -> dict[str, tuple[str, str | None]]:
    """Return module and registered name of the allowed Keras classes, by class name."""
    return {
        name: (module, registered)
        for module, name, registered in ALLOWED
        if module is not None
        and module.startswith("keras")
        and module not in ("keras.initializers", "keras.regularizers")
        and module.startswith(_OPERATIONS) == operations
    }


_LAYER_OF, _OPERATION_OF = _classes(operations=False), _classes(operations=True)
