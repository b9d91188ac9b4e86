"""Loads `.keras` files; the only place where Keras reads a model from an untrusted source.

`archive` checks the archive first. Then the model is built without values, so that its size is known before memory is
allocated. Only then does Keras load it.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from math import prod
from pathlib import Path
from typing import Any

import keras

from wisesr_cli import layers  # noqa: F401  (registers our layers, which Keras does not import)
from wisesr_cli.errors import RunError
from wisesr_cli.model_files.archive import CheckedModel
from wisesr_cli.model_files.hdf5 import Table, UnsafeFileError, table_of
from wisesr_cli.model_files.older import OlderModel, fill_older
from wisesr_cli.text import on_one_line, visible

MOST_OUTPUTS = 1 << 26  # values in a layer's output for one image: 256 MiB, like VGG16 at 1024 pixels
_OPTIMIZER = "/optimizer/"  # where Keras stores the optimizer of a compiled model


def load_model(checked: CheckedModel, *, runs: bool = False) -> Any:
    """Return the Keras model in a checked `.keras` file, not compiled.

    `runs`: the model will be used unchanged, so every size in it must be known. Raises `RunError` when the file is
    damaged, contains anything that wisesr models do not, or has changed since it was checked.
    """
    path = checked.path
    try:
        _check_size(checked, runs=runs)
        checked.check_unchanged()
        with warnings.catch_warnings(action="ignore"):  # missing weights are an error below
            model = _built(checked) if isinstance(checked, OlderModel) else _loaded(path)
        checked.check_unchanged()
        loaded = Counter(table_of(keras.ops.convert_to_numpy(weight)) for weight in model.weights)
        if lost := Counter(_weights_in(checked)) - loaded:  # Keras skips some silently
            shape = next(iter(lost)).shape
            raise RunError(f"Keras did not load {sum(lost.values())} of its weights, one of the shape {shape}")
        return model
    except RunError as error:
        raise RunError(f"{visible(path)}: refused: {error}") from None
    except MemoryError:
        raise
    except Exception as error:  # Keras raises exceptions of any type on a damaged file
        raise RunError(f"{visible(path)}: cannot be loaded: {on_one_line(error)}") from error


def _loaded(path: Path) -> Any:
    return keras.models.load_model(path, compile=False, safe_mode=True)


def _built(checked: OlderModel) -> Any:
    """Build the model of a file in an older format that Keras does not read, from its config, and set its weights."""
    model = _from_config(checked)
    try:
        fill_older(model, checked)
    except UnsafeFileError as error:
        raise RunError(visible(error)) from None
    use_statistics(model)
    return model


def _from_config(checked: CheckedModel) -> Any:
    config = deepcopy({**checked.config, "compile_config": None})  # Keras modifies the config it reads
    return keras.saving.deserialize_keras_object(config, safe_mode=True)


def _check_size(checked: CheckedModel, *, runs: bool) -> None:
    """Compare a model built without values with the stored weights: every shape must occur the same number of times.

    Keras allocates a model's memory before looking for its weights.
    """
    model = build_without_values(lambda: _from_config(checked))
    if not model.built:
        raise RunError("it was saved before it was built: call it on images, and save it again")
    needed = Counter(tuple(variable.shape) for variable in model.weights)
    stored = Counter(table.shape for table in _weights_in(checked))
    if needed != stored:
        odd = next(iter((needed - stored) or (stored - needed)))
        kind, place = ("needs", "not in") if needed - stored else ("has no use for", "in")
        raise RunError(f"the model {kind} a weight of the shape {odd} that is {place} the file")
    shapes = [shape[1:] for shape in _output_shapes(model)]
    if runs and any(side is None for shape in shapes for side in shape):
        raise RunError("the sizes inside it are not known")
    if (largest := largest_output(model)) > MOST_OUTPUTS:
        raise RunError(f"a layer of it gives {largest:,} numbers for one image; at most {MOST_OUTPUTS:,} are computed")


def largest_output(model: Any) -> int:
    """Return the number of values in a model's largest layer output for one image."""
    return max((prod(side or 1 for side in shape[1:]) for shape in _output_shapes(model)), default=0)


def copy_weights(target: Any, origin: Any) -> None:
    """Copy the weights of a layer or model to another, and recompute what layers derive from them."""
    target.set_weights(origin.get_weights())
    use_statistics(target)


def use_statistics(model: Any) -> None:
    """Make every Normalization of a layer or model use its current weights."""
    for layer in layers_of(model):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()  # it keeps reshaped copies of mean and variance in addition to its weights


def layers_of(model: Any) -> Iterator[Any]:
    """Yield the layers of a model, with nested models replaced by their layers; a layer yields itself."""
    for layer in model.layers if hasattr(model, "layers") else (model,):
        yield from layers_of(layer) if hasattr(layer, "layers") else (layer,)


def _weights_in(checked: CheckedModel) -> list[Table]:
    return [table for path, table in checked.weights.items() if not path.startswith(_OPTIMIZER)]


def _output_shapes(model: Any) -> Iterator[tuple[int | None, ...]]:
    """Yield the output shape of every layer and operation of a model, including nested models."""
    for operation in getattr(model, "operations", None) or model.layers:
        if hasattr(operation, "layers"):
            yield from _output_shapes(operation)
        for tensor in keras.tree.flatten(operation.output):
            yield tuple(tensor.shape)


def build_without_values(build: Callable[[], Any]) -> Any:
    """Call `build` so that the variables of its Keras layers have shapes but no values; return its result.

    Runs in a separate thread, with Keras' default precision: Keras remembers such variables per thread, and would
    initialize all of them with the next model built in this thread (gigabytes, minutes).
    """

    def build_in_scope() -> Any:
        with keras.StatelessScope(initialize_variables=False):
            return build()

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(build_in_scope).result()
