"""Collects the classes that models are made of; `python tests/support/allowed_classes.py` rewrites the list.

Every backbone is built without values, with every preprocessing and every head (and each of its options that changes
layers), and the classes are collected from what Keras serializes. The same is done for a model with the layers that
`wisesr upgrade` finds in ordinary classifiers of other projects.
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, get_args

import keras

from wisesr_cli.config.reader import parse_head
from wisesr_cli.machine import keras_start
from wisesr_cli.model_files.loading import build_without_values
from wisesr_cli.models.backbones import BACKBONES, Preprocessing, build_backbone, preprocess
from wisesr_cli.models.heads import HEADS, build_head
from wisesr_cli.models.hidden import ACTIVATIONS, SLOPES
from wisesr_cli.models.rebuilding import AUGMENTATION

Class = tuple[str | None, str, str | None]  # module, class, registered name

START = "_NAMES: dict[tuple[str | None, str | None], str] = {\n"
TARGET = Path(__file__).parents[2] / "wisesr_cli" / "model_files" / "allowed.py"
SIZE = 96
VARIANTS = (
    *HEADS,
    *(f"{head}:dropout=0.5:classifier_initializer=paper" for head in HEADS),
    *(f"wise:pooling={pooling}:pre_pool={side}" for pooling in ("tile", "valid") for side in (1, 2)),
    *(f"flatten:pooling={pooling}:pre_pool=2" for pooling in ("tile", "valid")),
    *(f"{head}:constraint={constraint}" for head in ("depthwise", "wise") for constraint in ("unit_sum", "none")),
    *(f"{head}:initializer=paper" for head in ("depthwise", "wise")),
    *(f"gap:hidden=[{{units: 3, activation: {activation}}}]" for activation in ACTIVATIONS),
    *(f"gap:hidden=[{{norm: {norm}}}]" for norm in ("batch", "layer")),
    *(f"gap:hidden=[{{activation: {activation}, slope: 0.5}}]" for activation in SLOPES),
)


def classes_of_models(backbones: Iterable[str]) -> set[Class]:
    """Return the classes of all models with these backbones."""
    found: set[Class] = set()
    for name in backbones:
        side = max(SIZE, BACKBONES[name].minimum_size)
        for record in build_without_values(lambda name=name, side=side: list(_records(name, (side, side)))):
            found |= set(classes_in(record))
    return found


def _records(name: str, image_size: tuple[int, int]) -> Iterator[Any]:
    """Yield what Keras serializes for a backbone, for its preprocessing, and for its heads."""
    backbone = build_backbone(name, image_size)
    yield keras.saving.serialize_keras_object(backbone)
    for scaling in get_args(Preprocessing):
        pixels = keras.Input((*image_size, 3))
        yield keras.saving.serialize_keras_object(keras.Model(pixels, preprocess(pixels, scaling)))
    for variant in VARIANTS:
        feature_map = keras.Input(backbone.output_shape[1:])
        head = build_head(feature_map, 3, parse_head(variant))
        yield keras.saving.serialize_keras_object(keras.Model(feature_map, head))


def classes_of_others() -> set[Class]:
    """Return the additional classes of ordinary classifiers: layers, initializers and scaling."""
    return set(build_without_values(lambda: list(classes_in(keras.saving.serialize_keras_object(_ordinary())))))


def augmentation(name: str) -> Any:
    """Return an augmentation layer, with a value for every argument that has no default."""
    kind = getattr(keras.layers, name)
    given = [
        parameter for parameter in inspect.signature(kind).parameters.values() if parameter.default is parameter.empty
    ]
    named = (parameter.name for parameter in given if parameter.kind is parameter.POSITIONAL_OR_KEYWORD)
    return kind(**dict.fromkeys(named, 0.1))


def _ordinary() -> Any:
    """Return a classifier with one of each."""
    layers, starts = keras.layers, keras.initializers
    pixels = keras.Input((SIZE, SIZE, 3))
    x = keras.applications.resnet50.preprocess_input(pixels) / 127.5 - 1.0
    x = layers.Resizing(SIZE, SIZE)(x)
    for change in (*(augmentation(name) for name in AUGMENTATION), layers.GaussianNoise(0.1)):
        x = change(x)
    for start in (starts.GlorotNormal(), starts.HeUniform(), starts.LecunNormal(), starts.LecunUniform()):
        x = layers.Conv2D(4, 3, kernel_initializer=start, kernel_regularizer=keras.regularizers.L2(1e-4))(x)
    for start in (starts.RandomUniform(), starts.TruncatedNormal(), starts.Constant(0.1)):
        x = layers.Conv2D(4, 3, kernel_initializer=start, kernel_regularizer=keras.regularizers.L1(1e-4))(x)
    for activation in (layers.LeakyReLU(), layers.PReLU(shared_axes=[1, 2]), layers.ELU(), layers.Identity()):
        x = activation(x)
    x = layers.GroupNormalization(2)(x)
    for operation in (keras.ops.relu, keras.ops.relu6, keras.ops.silu, keras.ops.gelu, keras.ops.sigmoid):
        x = operation(x)
    x = keras.ops.mean(x, axis=(1, 2), keepdims=True) + x
    x = layers.Average()([layers.SpatialDropout2D(0.1)(x), layers.Maximum()([x, x])])
    x = layers.GlobalAveragePooling2D()(x)
    x = layers.AlphaDropout(0.1)(layers.GaussianDropout(0.1)(x))
    return keras.Model(pixels, layers.Softmax()(layers.Dense(3, kernel_regularizer=keras.regularizers.L1L2())(x)))


def classes_in(record: Any) -> Iterator[Class]:
    """Yield every class that a serialized Keras object names, at any depth."""
    if isinstance(record, dict):
        if "class_name" in record:
            yield record.get("module"), record["class_name"], record.get("registered_name")
        for value in record.values():
            yield from classes_in(value)
    elif isinstance(record, list | tuple):
        for value in record:
            yield from classes_in(value)


def source_of(classes: Iterable[Class]) -> str:
    """Return the source of the module that lists the classes."""
    groups: dict[tuple[str | None, str | None], list[str]] = {}
    for module, name, registered in sorted(classes, key=lambda row: (row[0] or "", row[1])):
        start = None if registered is None else registered.removesuffix(name)
        groups.setdefault((module, start), []).append(name)
    rows = []
    for place, names in groups.items():
        lines = textwrap.wrap(" ".join(names), 100)
        texts = "".join(f'        "{line}{" " if line is not lines[-1] else ""}"\n' for line in lines)
        rows.append(f"    {place!r}: (\n{texts}    ),\n" if len(lines) > 1 else f'    {place!r}: "{lines[0]}",\n')
    text = TARGET.read_text(encoding="utf-8")
    start, end = text.index(START) + len(START), text.index("\n}\n")
    return text[:start] + "".join(rows).replace("'", '"').rstrip("\n") + text[end:]


if __name__ == "__main__":
    keras_start.start("cpu")
    TARGET.write_text(source_of(classes_of_models(BACKBONES) | classes_of_others()), encoding="utf-8")
