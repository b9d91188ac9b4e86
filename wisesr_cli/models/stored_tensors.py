"""Extracts the tensors of a backbone from a weights file of any model that contains it, by names and shapes.

The model may have the backbone nested, pooled inside, or with another top; its layers are not built. Two HDF5 layouts
are supported: that of Keras 3 and of the `.keras` archives of Keras 2, which numbers the tensors of every layer by its
place, and the older one, which names them.
"""

from __future__ import annotations

import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import h5py
import keras
import numpy as np
from numpy.typing import NDArray

from wisesr_cli.model_files.loading import layers_of, use_statistics
from wisesr_cli.text import counted, joined, visible

Array = NDArray[Any]
_OLD_CONTAINER = "_layer_checkpoint_dependencies"  # of Keras 2.12 to 2.15
_PLACE = re.compile(r"(.*)/vars/(\d+)")


class DoesNotFitError(ValueError):
    """A file does not contain the backbone; the text is the bare reason."""


@dataclass(frozen=True)
class Source:
    """Where the tensors came from: the part of the file, and how many of its tensors were used."""

    part: str
    used: int
    stored: int

    def described(self, file: str) -> str:
        """Describe it in words, for a user."""
        where = f"'{visible(self.part)}' in {file}" if self.part else file
        left = "" if self.used == self.stored else f"; {counted(self.stored - self.used, 'other')} not used"
        return f"{counted(self.used, 'tensor')} of {where}{left}"


def fill(backbone: Any, file: IO[bytes]) -> Source:
    """Set all weights of a backbone to those in an open HDF5 file that was already checked.

    Raises `DoesNotFitError` when a tensor is missing or has another shape, or two parts of the file fit equally well.
    """
    with h5py.File(file, "r") as root:
        tables = {path.replace("\\", "/").replace(_OLD_CONTAINER, "layers"): table for path, table in _tables(root)}
        if any(_PLACE.fullmatch(path) for path in tables):
            return _fill_by_place(backbone, tables)
        return _fill_by_name(backbone, root)


def _tables(group: h5py.Group) -> list[tuple[str, h5py.Dataset]]:
    found: list[tuple[str, h5py.Dataset]] = []
    group.visititems(lambda path, item: found.append((path, item)) if isinstance(item, h5py.Dataset) else None)
    return found


# --- numbered by place ---


def _fill_by_place(backbone: Any, tables: Mapping[str, h5py.Dataset]) -> Source:
    """Fill from a file that stores tensors by their layer's place; saving the backbone tells the place of each."""
    with tempfile.TemporaryDirectory() as folder:
        own = Path(folder, "own.weights.h5")
        backbone.save_weights(own)
        with h5py.File(own, "r+") as wanted:
            targets = {path: table for path, table in _tables(wanted) if _PLACE.fullmatch(path)}
            part = _best_part(targets, tables)
            for path, table in targets.items():
                table[()] = tables[f"{part}{path}"][()]
        for weight in backbone.weights:
            if "float" in weight.dtype:
                weight.assign(np.full(weight.shape, np.nan, "float32").astype(weight.dtype))
        backbone.load_weights(own)
        _check_all_set(backbone)
    stored = sum(path.partition("/")[0] in ("layers", "vars") for path in tables)
    return Source(part.rstrip("/"), len(targets), stored)


def _check_all_set(backbone: Any) -> None:
    for layer in layers_of(backbone):
        for weight in layer.weights:
            if np.isnan(keras.ops.convert_to_numpy(weight)).any():
                raise DoesNotFitError(f"no values for '{weight.name}' of the layer '{layer.name}'")


def _best_part(targets: Mapping[str, h5py.Dataset], tables: Mapping[str, h5py.Dataset]) -> str:
    """Return the path in the file, with its slash, below which every tensor exists in its shape."""
    first = next(iter(targets))
    parts = [path.removesuffix(first) for path in tables if path == first or path.endswith(f"/{first}")]
    misfits: dict[str, list[str]] = {}
    for part in parts:
        misfits[part] = [
            _misfit(path, table, tables.get(f"{part}{path}"))
            for path, table in targets.items()
            if f"{part}{path}" not in tables or tables[f"{part}{path}"].shape != table.shape
        ]
    return _only(misfits, _misfit(first, targets[first], None))


def _misfit(path: str, wanted: h5py.Dataset, found: h5py.Dataset | None) -> str:
    """Describe how a tensor of the file differs from the one that the backbone's layer needs."""
    name = f"the layer '{wanted.parent.attrs.get('name', path)}' of the backbone needs a tensor {wanted.shape}"
    return f"{name}, and the file has {'none' if found is None else found.shape} as '{path}'"


def _only(misfits: Mapping[str, list[str]], reason: str) -> str:
    """Return the only part without misfits; else raise `DoesNotFitError` with the first misfit of the closest part."""
    fitting = [part for part, found in misfits.items() if not found]
    if len(fitting) > 1:
        raise DoesNotFitError(f"{joined(part.rstrip('/') or 'the whole file' for part in fitting)} fit equally well")
    if fitting:
        return fitting[0]
    nearest = min(misfits.values(), key=len, default=[reason])
    more = f" ({len(nearest) - 1:,} more differ)" if len(nearest) > 1 else ""
    raise DoesNotFitError(f"{nearest[0]}{more}")


# --- named ---

Tensors = dict[str, Array]  # of a layer, by the name of the weight, in the file's order


@dataclass(frozen=True)
class _Stored:
    """A layer of the file: the path of the model that it is in ('' for the whole one), its name and its tensors."""

    part: str
    name: str
    tensors: Tensors


def _fill_by_name(backbone: Any, root: h5py.File) -> Source:
    """Fill from a file where layers and weights have names; layers named by a counter are matched in order."""
    stored = _named_layers(root.get("model_weights", root))
    targets = [layer for layer in layers_of(backbone) if layer.weights]
    parts = list(dict.fromkeys(["", *(layer.part for layer in stored)]))
    chosen = {part: _match(targets, [layer for layer in stored if _is_in(layer.part, part)]) for part in parts}
    misfits = {part: _misfits(targets, found) for part, found in chosen.items()}
    outer = {part for part in parts for other in parts if part != other and _is_in(other, part) and not misfits[other]}
    part = _only({part: found for part, found in misfits.items() if part not in outer}, "no layer with weights")
    for layer, tensors in zip(targets, chosen[part], strict=True):
        assert tensors is not None, "checked"
        for weight, array in zip(layer.weights, _in_order(layer, tensors), strict=True):
            weight.assign(array)
    use_statistics(backbone)
    used = sum(len(layer.weights) for layer in targets)
    return Source(part, used, sum(len(layer.tensors) for layer in stored))


def _named_layers(root: h5py.Group) -> list[_Stored]:
    """Return the layers with weights in the file's order."""
    found: dict[tuple[str, str], Tensors] = defaultdict(dict)
    for top in _texts(root.attrs.get("layer_names", list(root))):
        for path in _texts(root[top].attrs.get("weight_names", ())) if top in root else ():
            *inner, weight = path.split("/")
            layer = "/".join(inner)
            if layer in ("", top) or inner[-1] == top:  # Keras 2 has names with slashes, as `conv1/bn`
                part, name = "", top
            else:
                part, name = "/".join(dict.fromkeys([top, *inner[:-1]])), inner[-1]
            found[part, name][weight.partition(":")[0]] = root[top][path][()]
    return [_Stored(part, name, tensors) for (part, name), tensors in found.items()]


def _is_in(part: str, outer: str) -> bool:
    """Return whether a part is `outer` or inside it; of nested parts that fit, the innermost is used."""
    return not outer or part == outer or part.startswith(f"{outer}/")


def _texts(values: Any) -> list[str]:
    return [value.decode(errors="replace") if isinstance(value, bytes) else str(value) for value in values]


def _match(targets: list[Any], stored: list[_Stored]) -> list[Tensors | None]:
    """Return the stored tensors of each layer: by name, or in order if a release of Keras names layers differently."""
    ways = (_by_name(targets, stored), _in_a_row(targets, [layer.tensors for layer in stored]))
    return min(ways, key=lambda found: len(_misfits(targets, found)))


def _by_name(targets: list[Any], stored: list[_Stored]) -> list[Tensors | None]:
    """Return the stored tensors of each layer, by its name or, if Keras named it with a counter, in order."""
    named = {layer.name: layer.tensors for layer in stored}
    found = {layer.name: named.get(layer.name) for layer in targets}
    for kind in {kind for layer in targets if (kind := _kind(layer))}:
        ours = [layer for layer in targets if _kind(layer) == kind]
        theirs = [layer.tensors for layer in stored if re.fullmatch(rf"{kind}(_\d+)?", layer.name)]
        found |= {layer.name: tensors for layer, tensors in zip(ours, _in_a_row(ours, theirs), strict=True)}
    return [found[layer.name] for layer in targets]


def _kind(layer: Any) -> str | None:
    """Return the base name that Keras numbers for layers of this class, if the layer has such a name."""
    kind = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(layer).__name__).lower()
    return kind if re.fullmatch(rf"{kind}(_\d+)?", layer.name) else None


def _in_a_row(targets: list[Any], stored: list[Tensors]) -> list[Tensors | None]:
    """Return the consecutive stored layers that fit best; of several equally good, the first."""
    starts = range(max(1, len(stored) - len(targets) + 1))
    rows: list[list[Tensors | None]] = [[*stored[start : start + len(targets)]] for start in starts]
    best = min(rows, key=lambda row: len(_misfits(targets, row)))
    return [*best, *[None] * (len(targets) - len(best))]


def _misfits(targets: list[Any], stored: list[Tensors | None]) -> list[str]:
    """Describe the layers that do not fit those at the same places."""
    found = []
    for layer, tensors in zip(targets, stored, strict=False):
        wanted = [tuple(weight.shape) for weight in layer.weights]
        if tensors is None:
            found.append(f"the file has nothing for the layer '{layer.name}'")
        elif (shapes := [array.shape for array in _in_order(layer, tensors)]) != wanted:
            found.append(f"the layer '{layer.name}' of the backbone needs tensors {wanted}, and the file has {shapes}")
    return found + [f"the file has nothing for the layer '{layer.name}'" for layer in targets[len(stored) :]]


def _in_order(layer: Any, tensors: Tensors) -> list[Array]:
    """Return the tensors of a layer in the order of its weights: by name, if the names are the same."""
    names = [weight.name for weight in layer.weights]
    return [tensors[name] for name in names] if set(names) == set(tensors) else list(tensors.values())
