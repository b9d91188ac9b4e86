"""Reads whole models in older formats: `.h5` of Keras 2 and 3, and `.keras` of Keras 2.

Nothing in the file is called or built: its config is translated (`keras2`) and checked like that of every model, and
its weights are copied, tensor by tensor, into the model that Keras builds from it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py

from wisesr_cli.errors import RunError
from wisesr_cli.model_files.architecture import check_model_config
from wisesr_cli.model_files.archive import CONFIG, LIMITS, METADATA, WEIGHTS, CheckedModel, open_archive, reading_error
from wisesr_cli.model_files.hdf5 import Table, UnsafeFileError
from wisesr_cli.model_files.isolation import check_weights_apart, identity_of
from wisesr_cli.model_files.keras2 import StoredLayer, translate
from wisesr_cli.text import on_one_line, visible

OLDER_SUFFIXES = (".h5", ".hdf5")
_NAMED = "model_weights"  # group of the weights in a whole model as .h5
_PLACE = re.compile(r"layers/.*vars/\d+")
_OLD_CONTAINER = "_layer_checkpoint_dependencies"  # of Keras 2.12 to 2.15
_RENAMED = {"depthwise_kernel": "kernel"}  # of a DepthwiseConv2D
_UNNAMED = re.compile(r"variable(_\d+)?")  # Keras 3's name for an unnamed weight, like that of ConvNeXt's LayerScale


@dataclass(frozen=True)
class OlderModel(CheckedModel):
    """A checked model file in an older format; its config is translated to Keras 3, `layers` locates its weights."""

    layers: tuple[StoredLayer, ...]


def is_older(path: Path) -> bool:
    """Return whether a model file is in an older format; `RunError` when it is a damaged archive."""
    if path.suffix in OLDER_SUFFIXES:
        return True
    with open_archive(path) as archive:
        if METADATA not in archive.namelist():
            return False
        try:
            metadata = json.loads(archive.read(METADATA))
        except (ValueError, RecursionError):
            return False
    return isinstance(metadata, dict) and str(metadata.get("keras_version")).startswith("2.")


def check_older_model(path: Path) -> OlderModel:
    """Read and check every byte of a model file in an older format.

    Raises `RunError` when it is missing, damaged, or has anything not known to be equivalent in Keras 3.
    """
    if path.suffix not in OLDER_SUFFIXES:
        with open_archive(path) as archive:
            assert archive.fp is not None
            identity = identity_of(archive.fp.fileno())
            tables = check_weights_apart(archive.fp, WEIGHTS)
            return _checked(path, identity, _parsed(archive.read(CONFIG)), tables, keras_3=False)
    try:
        with path.open("rb") as file:
            identity = identity_of(file.fileno())
            tables = check_weights_apart(file)
            file.seek(0)  # the other process moved it
            config, version = _config_in(file)
            tables = {name: table for name, table in tables.items() if name.startswith(f"/{_NAMED}/")}
            return _checked(path, identity, config, tables, keras_3=version >= 3)
    except UnsafeFileError as error:
        raise RunError(f"{visible(path)}: refused: {visible(error)}") from None
    except OSError as error:
        raise reading_error(path, error) from None


def _checked(
    path: Path, identity: tuple[int, int, int, int, int], config: Any, tables: dict[str, Table], *, keras_3: bool
) -> OlderModel:
    translated = translate(config, keras_3=keras_3)
    check_model_config(translated.config)
    compiled = {"compile_config": config.get("compile_config")}
    weights = {name: table for name, table in tables.items() if path.suffix in OLDER_SUFFIXES or _is_of_layer(name)}
    return OlderModel(path, identity, {**translated.config, **compiled}, weights, None, translated.layers)


def _parsed(text: str | bytes) -> Any:
    if len(text) > LIMITS[CONFIG]:
        raise UnsafeFileError(f"its config takes {len(text):,} bytes; at most {LIMITS[CONFIG]:,} are read")
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise UnsafeFileError(f"its config is damaged: {on_one_line(error)}") from None


def _config_in(file: IO[bytes]) -> tuple[dict[str, Any], int]:
    """Return the config of a whole model in HDF5, its training config, and its Keras major version."""
    with h5py.File(file, "r") as root:
        texts = {name: root.attrs.get(name) for name in ("model_config", "training_config", "keras_version")}
    plain = {name: text.decode(errors="replace") if isinstance(text, bytes) else text for name, text in texts.items()}
    if not isinstance(plain["model_config"], str):
        raise UnsafeFileError(
            "it holds only weights, not the model that they belong to; use the file of model.save(), not that of "
            "save_weights()"
        )
    config = _parsed(plain["model_config"])
    training = _parsed(plain["training_config"]) if isinstance(plain["training_config"], str) else None
    version = re.match(r"\d+", str(plain["keras_version"]))
    return {**config, "compile_config": training}, int(version[0]) if version else 2


# --- weights ---


def fill_older(model: Any, checked: OlderModel) -> None:
    """Set the weights of a model built from the file's config; raises `UnsafeFileError` if one is missing."""
    with _open_tensors(checked.path) as file, h5py.File(file, "r") as root:
        found = ((layer, _layer_at(model, layer.path)) for layer in checked.layers)
        pairs = [(stored, layer) for stored, layer in found if layer is not None and layer.weights]
        if checked.path.suffix in OLDER_SUFFIXES:
            _fill_by_name(pairs, root[_NAMED])
        else:
            _fill_by_place(pairs, root)


def _open_tensors(path: Path) -> IO[bytes]:
    if path.suffix in OLDER_SUFFIXES:
        return path.open("rb")
    with open_archive(path) as archive:
        return io.BytesIO(archive.read(WEIGHTS))


def _layer_at(model: Any, path: Sequence[str]) -> Any:
    """Return the layer at a path of names in a model; None for an operation."""
    for name in path:
        model = next((layer for layer in model.layers if layer.name == name), None)
    return model


def _is_of_layer(name: str) -> bool:
    return bool(_PLACE.fullmatch(_plain_path(name)))


def _plain_path(name: str) -> str:
    return name.replace("\\", "/").replace(_OLD_CONTAINER, "layers").strip("/")


Pairs = Sequence[tuple[StoredLayer, Any]]


def _fill_by_place(pairs: Pairs, root: h5py.Group) -> None:
    tables: dict[str, h5py.Dataset] = {}
    root.visititems(lambda name, item: tables.update({_plain_path(name): item}) if hasattr(item, "shape") else None)
    for stored, layer in pairs:
        for number, weight in enumerate(layer.weights):
            _assign(weight, tables.get(f"{stored.place}/vars/{number}"), stored)


@dataclass(frozen=True)
class _Tensor:
    """A tensor of a `.h5`: the scope in its name, which ends in the layer's name, its own name, and its values."""

    scope: str
    name: str
    table: h5py.Dataset


def _fill_by_name(pairs: Pairs, root: h5py.Group) -> None:
    tops: dict[str, list[tuple[StoredLayer, Any]]] = {}
    for stored, layer in pairs:
        tops.setdefault(stored.names[0], []).append((stored, layer))
    for top, members in tops.items():
        tensors = list(_tensors_in(root[top])) if top in root else []
        wanted = _in_order(members)
        fits = len(wanted) == len(tensors) and all(
            _is_of(tensor, stored, weight) for tensor, (stored, weight) in zip(tensors, wanted, strict=True)
        )
        by_name = {} if fits else {(tensor.scope, tensor.name): tensor.table for tensor in tensors}
        for number, (stored, weight) in enumerate(wanted):
            table = tensors[number].table if fits else _named(by_name, stored, weight)
            _assign(weight, table, stored)


def _in_order(members: Pairs) -> list[tuple[StoredLayer, Any]]:
    """Return the weights in the order in which Keras writes a layer or nested model: all trainable ones first."""
    trained = [(stored, weight) for stored, layer in members if stored.trainable for weight in layer.trainable_weights]
    first = {id(weight) for _, weight in trained}
    rest = [(stored, weight) for stored, layer in members for weight in layer.weights if id(weight) not in first]
    return trained + rest


def _tensors_in(group: h5py.Group) -> Iterator[_Tensor]:
    for path in _texts(group, "weight_names"):
        scope, _, name = path.partition(":")[0].rpartition("/")
        yield _Tensor(scope, name, group[path])


def _texts(group: h5py.Group, name: str) -> list[str]:
    """Return an attribute of names, which Keras splits into several if it is long."""
    parts = [group.attrs[name]] if name in group.attrs else []
    while f"{name}{len(parts)}" in group.attrs:
        parts.append(group.attrs[f"{name}{len(parts)}"])
    return [text.decode(errors="replace") if isinstance(text, bytes) else str(text) for part in parts for text in part]


def _is_of(tensor: _Tensor, stored: StoredLayer, weight: Any) -> bool:
    """Return whether a tensor may be a weight of a layer, by its shape and, if it has one, its name."""
    if tensor.table.shape != tuple(weight.shape):
        return False
    own = re.sub(r"_\d+$", "", stored.names[-1])
    scope = re.sub(r"_\d+$", "", tensor.scope)
    if not scope:  # a plain TensorFlow variable, without a layer name
        return True
    return f"/{scope}".endswith(f"/{own}") and _is_called(weight, tensor.name)


def _is_called(weight: Any, name: str) -> bool:
    return weight.name in (name, _RENAMED.get(name)) or _UNNAMED.fullmatch(weight.name) is not None


def _named(tensors: Mapping[tuple[str, str], h5py.Dataset], stored: StoredLayer, weight: Any) -> h5py.Dataset | None:
    """Return the only tensor whose name ends in the names of a layer and a weight, else None."""
    own = f"/{stored.names[-1]}"
    found = [
        table for (scope, name), table in tensors.items() if f"/{scope}".endswith(own) and _is_called(weight, name)
    ]
    return found[0] if len(found) == 1 else None


def _assign(weight: Any, table: h5py.Dataset | None, stored: StoredLayer) -> None:
    if table is None or table.shape != tuple(weight.shape):
        found = "none" if table is None else f"one of the shape {table.shape}"
        raise UnsafeFileError(
            f"the layer '{stored.names[-1][:80]}' needs a weight '{weight.name}' of the shape {tuple(weight.shape)}, "
            f"and the file has {found}"
        )
    weight.assign(table[()])
