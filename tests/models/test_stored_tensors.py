"""A backbone's tensors are found in files of any model that contains it, written by Keras 2 or 3."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
from served import randomize, same_weights

from wisesr_cli.errors import RunError
from wisesr_cli.model_files.loading import layers_of
from wisesr_cli.models.stored_tensors import fill
from wisesr_cli.models.weights import load_backbone

SIZE = (32, 32)


@pytest.mark.parametrize("suffix", ["weights.h5", "h5"])
def test_copied_normalization_statistics_take_effect(tmp_path: Path, suffix: str) -> None:
    learned, fresh = (keras.layers.Normalization(name="norm") for _ in range(2))
    learned.adapt(np.random.default_rng(0).normal(7.0, 2.0, (50, 3)))
    origin, target = (keras.Sequential([keras.Input((3,)), layer]) for layer in (learned, fresh))
    path = tmp_path / f"learned.{suffix}"
    origin.save(path) if suffix == "h5" else origin.save_weights(path)
    with path.open("rb") as file:
        fill(target, file)
    values = np.full((1, 3), 5.0, "float32")
    np.testing.assert_array_equal(*(keras.ops.convert_to_numpy(layer(values)) for layer in (fresh, learned)))


def nested(base: Any) -> Any:
    """Return a classifier as in the transfer learning guide, with layers that wisesr does not let Keras build."""
    pixels = keras.Input(base.input_shape[1:])
    scaled = keras.layers.Rescaling(1 / 127.5, -1)(keras.layers.RandomFlip()(pixels))
    vector = keras.layers.GlobalAveragePooling2D()(base(scaled))
    return keras.Model(pixels, keras.layers.Dense(3)(keras.layers.Dropout(0.2)(vector)))


def pooled(base: Any) -> Any:
    return keras.Sequential([keras.Input(base.input_shape[1:]), base, keras.layers.Dense(3)])


def flat(base: Any) -> Any:
    hidden = keras.layers.Dense(7, activation="relu")(keras.layers.GlobalAveragePooling2D()(base.output))
    return keras.Model(base.input, keras.layers.Dense(3)(hidden))


@pytest.mark.parametrize("suffix", ["keras", "weights.h5", "h5"])
@pytest.mark.parametrize("build", [nested, pooled, flat], ids=lambda build: build.__name__)
@pytest.mark.parametrize("name", ["MobileNet", pytest.param("Xception", marks=pytest.mark.slow)])
def test_a_backbone_is_found_in_a_whole_third_party_model(
    tmp_path: Path, name: str, build: Callable[[Any], Any], suffix: str
) -> None:
    side = 71 if name == "Xception" else 32
    base = getattr(keras.applications, name)(
        include_top=False,
        weights=None,
        input_shape=(side, side, 3),
        pooling="avg" if build is pooled else None,
    )
    randomize(base)
    model, path = build(base), tmp_path / f"whole.{suffix}"
    model.save_weights(path) if suffix == "weights.h5" else model.save(path)
    backbone, source = load_backbone(name, (side, side), str(path))
    assert same_weights(backbone, base)
    assert source is not None
    assert (source.used, source.stored) == (len(base.weights), len(model.weights) - len(states_of(model)))
    assert bool(source.part) == (build is not flat)
    where = f"'{source.part}' in whole" if source.part else "whole"
    left = source.stored - source.used
    assert source.described("whole") == f"{len(base.weights)} tensors of {where}; {left} others not used"


def states_of(model: Any) -> list[Any]:
    """Return the seed states of a model's random layers, which are not backbone weights."""
    return [weight for weight in model.weights if "seed" in weight.path]


def test_two_parts_that_fit_equally_well_are_rejected(tmp_path: Path) -> None:
    shape = (*SIZE, 3)
    bases = [keras.applications.MobileNet(shape, include_top=False, weights=None, name=name) for name in "ab"]
    pixels = keras.Input((*SIZE, 3))
    vectors = [keras.layers.GlobalAveragePooling2D()(base(pixels)) for base in bases]
    model = keras.Model(pixels, keras.layers.concatenate(vectors))
    model.save_weights(tmp_path / "two.weights.h5")
    model.save(tmp_path / "two.h5")
    for name in ("two.weights.h5", "two.h5"):
        with pytest.raises(RunError, match=r"does not fit the backbone: \S+, \S+ fit equally well"):
            load_backbone("MobileNet", SIZE, str(tmp_path / name))


def write_as_keras_2(model: Any, path: Path, inside: str | None) -> None:
    """Write an `.h5` with Keras 2 names such as `conv1/bn`; `inside` names the one layer of a whole model."""
    with h5py.File(path, "w") as file:
        root = file if inside is None else file.create_group("model_weights")
        layers = [layer for layer in layers_of(model) if layer.weights]
        rows = {name: [name] for name in map(slashed, (layer.name for layer in layers))}
        groups = rows if inside is None else {inside: list(rows)}
        by_name = {slashed(layer.name): layer for layer in layers}
        root.attrs["layer_names"] = list(groups)
        for name, members in groups.items():
            group, found = root.create_group(name), [(member, by_name[member]) for member in members]
            # Trainable weights come first, as Keras 2 lists the weights of a nested model.
            weights = [(member, weight) for member, layer in found for weight in layer.trainable_weights]
            weights += [(member, weight) for member, layer in found for weight in layer.non_trainable_weights]
            group.attrs["weight_names"] = [f"{member}/{weight.name}:0" for member, weight in weights]
            for member, weight in weights:
                group[f"{member}/{weight.name}:0"] = np.asarray(weight)


def slashed(name: str) -> str:
    return name.replace("_bn", "/bn").replace("conv_", "conv/")


@pytest.mark.parametrize("inside", [None, "mobilenet_1.00_32"])
def test_layers_named_differently_by_keras_2_are_matched_by_order(tmp_path: Path, inside: str | None) -> None:
    base = randomize(keras.applications.MobileNet(include_top=False, weights=None, input_shape=(*SIZE, 3)))
    write_as_keras_2(base, tmp_path / "old.h5", inside)
    backbone, source = load_backbone("MobileNet", SIZE, str(tmp_path / "old.h5"))
    assert same_weights(backbone, base)
    assert source is not None
    assert (source.used, source.part) == (len(base.weights), inside or "")
