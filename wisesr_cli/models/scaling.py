"""Detects how a saved model scales pixels before its first weights, and which scaling a new model needs with them.

The scaling is found by passing colours through the first layers, so that layers with the same effect are recognized as
the same: our own, a user's Rescaling or Normalization, or the arithmetic of `keras.applications`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple, get_args

import keras
import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import ConfigError, RunError
from wisesr_cli.models.backbones import FROM_WEIGHTS, AnyScaling, Preprocessing, preprocess, resolve_preprocessing
from wisesr_cli.models.rebuilding import Rebuilt
from wisesr_cli.text import typed, visible

SCALING = ("Normalization", "Rescaling")
ARITHMETIC = ("Add", "GetItem", "Multiply", "Stack", "Subtract", "TrueDivide")  # operations on pixels
TOLERANCE = 0.01  # of the range of values, for mixed precision

_COLOURS = np.array([[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 128, 0], [0, 0, 64]], "float32")

Values = NDArray[np.float32]


class Scaling(NamedTuple):
    """A scaling of pixels, and in words how it was determined; empty if nothing had to be determined.

    `factors` and `offsets` are those of the channels, for `measured`.
    """

    name: AnyScaling
    reason: str = ""
    factors: tuple[float, ...] = ()
    offsets: tuple[float, ...] = ()

    def of(self, pixels: Any) -> Any:
        """Scale symbolic pixels (batch, height, width, channels) in 0..255."""
        return preprocess(pixels, self.name, self.factors, self.offsets)


class _FirstWeights(Exception):  # noqa: N818  (not an error: the end of the scaling)
    """The first layer that is not a scaling was reached; `tensor` is its input."""

    def __init__(self, tensor: Any) -> None:
        super().__init__()
        self.tensor = tensor


class _Beginning(Rebuilt):
    """Copies the layers of a model up to the first that is not a scaling."""

    def _call(self, layer: Any, inputs: tuple[Any, ...], options: dict[str, Any], precision: str) -> Any:
        if type(layer).__name__ not in (*SCALING, *ARITHMETIC, "Identity"):
            raise _FirstWeights(inputs[0])
        return super()._call(layer, inputs, options, precision)


def _scaled_colours(model: Any, colours: Values = _COLOURS) -> Values:
    """Return what a model's first layer with weights receives for colours (colours, channels)."""
    pixels = keras.Input((1, 1, 3))
    beginning = _Beginning(pixels)
    try:
        scaled = beginning.run(model, pixels, "float32")
    except _FirstWeights as first:
        scaled = first.tensor
    found = keras.Model(pixels, scaled)(colours[:, None, None, :], training=False)
    return np.asarray(keras.ops.convert_to_numpy(found), np.float32).reshape(len(colours), -1)


def scaling_of_backbone(name: str, asked: str, *, path: Path | None = None) -> Scaling:
    """Return the scaling for `model.preprocessing` if no file has one; `path`: a file of weights alone."""
    scaling = resolve_preprocessing(name, asked)
    if path is None or asked != "auto":
        return Scaling(scaling)
    return Scaling(scaling, f"assumed, as keras.applications trains {name}: {visible(path)} does not say")


def scaling_of_file(name: str, asked: str, path: Path, source: Any, backbone: Any, *, is_ours: bool) -> Scaling:
    """Return the scaling that gives a backbone the same pixels as in a file, whose model is `source`.

    `backbone` already has the file's weights. If a foreign model scales nothing, it is unknown how its pixels were
    scaled before it. Raises `ConfigError` if `asked` is another scaling, or if it is `auto` and the file has one that
    we do not have.
    """
    try:
        found = _scaled_colours(source)
    except RunError:  # several inputs
        return scaling_of_backbone(name, asked, path=path)
    if not is_ours and np.array_equal(found, _COLOURS):
        return scaling_of_backbone(name, asked, path=path)
    differences = {scaling: _difference(found, after_scaling(scaling, backbone)) for scaling in get_args(Preprocessing)}
    nearest = min(differences, key=lambda scaling: differences[scaling])
    if differences[nearest] <= TOLERANCE * np.ptp(found):
        return checked_scaling(Scaling(nearest), asked, path)
    if asked != "auto":
        return Scaling(resolve_preprocessing(name, asked), f"as requested; {visible(path)} has {_described(found)}")
    keep = f"wisesr upgrade {typed(path)} makes a run that keeps it"
    if is_ours:
        keep = f"-s model.backbone={FROM_WEIGHTS} keeps it"
    raise ConfigError(
        f"model.weights: {visible(path)}: has {_described(found)}, which model.preprocessing cannot express; {keep}; "
        f"or name one to train with instead: -s model.preprocessing={resolve_preprocessing(name, 'auto')}"
    )


def checked_scaling(found: Scaling, asked: str, path: Path) -> Scaling:
    """Return the scaling of a file; raises `ConfigError` if `model.preprocessing` is another one."""
    if asked not in ("auto", found.name):
        allowed = "auto" if found.name == "measured" else found.name
        raise ConfigError(
            f"model.preprocessing is {asked}, but {visible(path)} was trained with {found.name}; leave it out, or "
            f"-s model.preprocessing={allowed}"
        )
    return Scaling(found.name, f"as in {visible(path)}", found.factors, found.offsets)


def after_scaling(scaling: AnyScaling, backbone: Any) -> Values:
    """Return what a backbone's first weights receive for colours after a scaling, black and white first."""
    pixels = keras.Input((1, 1, 3))
    scaled = keras.Model(pixels, preprocess(pixels, scaling))(_COLOURS[:, None, None, :])
    return _scaled_colours(backbone, np.asarray(keras.ops.convert_to_numpy(scaled), np.float32).reshape(-1, 3))


def _difference(found: Values, ours: Values) -> float:
    return float(np.abs(ours - found).max()) if ours.shape == found.shape else np.inf


def _described(found: Values) -> str:
    """Describe a scaling in words, by its results for black and white."""
    black, white = (", ".join(dict.fromkeys(f"{value:.4g}" for value in row)) for row in found[:2])
    return f"its pixels scaled such that 0 is {black} and 255 is {white}"
