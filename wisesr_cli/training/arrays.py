"""Converts variables to arrays under process-independent names, and back."""

from __future__ import annotations

import itertools
import re
from typing import Any

import keras
from numpy.typing import NDArray

from wisesr_cli.errors import RunError

Arrays = dict[str, NDArray[Any]]


def named_arrays(variables: list[Any]) -> Arrays:
    """Return the values of variables by process-independent names."""
    # Convert the variable itself: on several devices, its `value` is not an array.
    arrays = map(keras.ops.convert_to_numpy, variables)
    return dict(zip(itertools.starmap(_array_name, enumerate(variables)), arrays, strict=True))


def restore_arrays(variables: list[Any], arrays: Arrays) -> None:
    """Set variables to the values that `named_arrays` returned for them.

    Raises a `RunError` if names, shapes or types differ.
    """
    expected = {_array_name(number, variable): variable for number, variable in enumerate(variables)}
    if expected.keys() != arrays.keys():
        odd = sorted(expected.keys() ^ arrays.keys())[0]
        raise RunError(f"the state does not fit the model: '{odd}' is in only one of them; use --overwrite")
    for name, variable in expected.items():
        same_type = arrays[name].dtype.name == keras.backend.standardize_dtype(variable.dtype)
        if tuple(variable.shape) != arrays[name].shape or not same_type:
            raise RunError(f"the state does not fit the model: '{name}' has another shape or type; use --overwrite")
        variable.assign(arrays[name])


def _array_name(number: int, variable: Any) -> str:
    """Return a name without Keras' layer and optimizer counters, which depend on what the process built earlier."""
    return f"{number:05d} {re.sub(r'_[0-9]+(?=[/_]|$)', '', variable.path)}"
