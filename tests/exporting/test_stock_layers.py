"""A classifier of stock layers gives the outputs of the one with our layers, for every head and map shape."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from wisesr_cli.exporting.stock_layers import with_stock_layers
from wisesr_cli.layers import TileAveragePooling2D, tile_bounds
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.heads import HEADS, build_head
from wisesr_cli.models.settings import ModelConfig

MAPS = ((7, 7, 5), (5, 8, 4), (12, 6, 3), (1, 9, 4))  # tiles of different sizes, of equal sizes, and of one position
OPTIONS: dict[str, list[dict[str, Any]]] = {
    "gap": [{}],
    "gmp": [{}],
    "depthwise": [{}, {"constraint": "unit_sum"}],
    "wise": [
        {"pooling": how, "constraint": rule} for how in ("tile", "valid") for rule in ("non_negative", "unit_sum")
    ],
    "flatten": [{}, {"pre_pool": 2}, {"pre_pool": 3, "pooling": "valid"}, {"pre_pool": 2, "dropout": 0.5}],
    "fc": [{"dropout": 0.5}],
}
HIDDEN = ({"units": 5, "activation": "gelu", "dropout": 0.5}, {"norm": "layer", "activation": "prelu"})


def with_random_weights(model: Any, seed: int = 0) -> Any:
    """Set all weights of a model to random values, so that position weights have both signs."""
    draws = np.random.default_rng(seed)
    model.set_weights([draws.normal(0.1, 0.3, weight.shape).astype("float32") for weight in model.get_weights()])
    return model


def head_model(shape: tuple[int, int, int], options: dict[str, Any]) -> Any:
    feature_map = keras.Input(shape)
    return keras.Model(feature_map, build_head(feature_map, 3, HEADS[options["name"]].options(**options)))


def foreign_layers(model: Any) -> set[str]:
    layers = [*model.layers, *(inner for layer in model.layers for inner in getattr(layer, "layers", ()))]
    return {type(layer).__name__ for layer in layers if not type(layer).__module__.startswith("keras.")}


def test_options_cover_every_head() -> None:
    assert set(OPTIONS) == set(HEADS)


@pytest.mark.parametrize("head", sorted(HEADS))
def test_a_head_of_stock_layers_gives_the_same_logits(head: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wisesr_cli.models.heads.FC_UNITS", 16)
    for shape in MAPS:
        for options in (*OPTIONS[head], {**OPTIONS[head][-1], "hidden": HIDDEN}):
            if options.get("pre_pool", 1) > min(shape[:2]):
                continue
            model = with_random_weights(head_model(shape, {"name": head, **options}))
            stock = with_stock_layers(model)
            maps = np.random.default_rng(1).normal(size=(4, *shape)).astype("float32")
            expected = model.predict_on_batch(maps)
            assert np.ptp(expected) > 0.1
            np.testing.assert_allclose(stock.predict_on_batch(maps), expected, rtol=1e-5, atol=1e-5)
            assert not foreign_layers(stock), (shape, options)


def test_position_weights_become_one_depthwise_convolution_of_the_map_size() -> None:
    model = with_random_weights(head_model((7, 5, 2), {"name": "wise", "constraint": "non_negative"}))
    (kernel, bias, *_), layer = model.get_weights(), with_stock_layers(model).get_layer("wise")
    assert isinstance(layer, keras.layers.DepthwiseConv2D)
    found, found_bias = layer.get_weights()
    assert found.shape == (7, 5, 2, 1)
    rows, columns = tile_bounds(7, kernel.shape[0]), tile_bounds(5, kernel.shape[1])
    for y in range(kernel.shape[0]):
        for x in range(kernel.shape[1]):
            tile = found[rows[y] : rows[y + 1], columns[x] : columns[x + 1], :, 0]
            cells = tile.shape[0] * tile.shape[1]
            np.testing.assert_allclose(tile, np.broadcast_to(kernel[y, x] / cells, tile.shape), rtol=1e-6)
    np.testing.assert_array_equal(found_bias, bias)


@pytest.mark.parametrize(("shape", "grid"), [((7, 5, 2), (3, 2)), ((6, 4, 3), (3, 2)), ((5, 4, 2), (2, 4))])
def test_tile_averages_are_the_means_of_tiles_without_our_layer(shape: tuple[int, ...], grid: tuple[int, int]) -> None:
    feature_map = keras.Input(shape)
    stock = with_stock_layers(keras.Model(feature_map, TileAveragePooling2D(grid)(feature_map)))
    maps = np.random.default_rng(0).normal(size=(2, *shape)).astype("float32")
    found = stock.predict_on_batch(maps)
    assert found.shape == (2, *grid, shape[2])
    rows, columns = tile_bounds(shape[0], grid[0]), tile_bounds(shape[1], grid[1])
    for y in range(grid[0]):
        for x in range(grid[1]):
            tile = maps[:, rows[y] : rows[y + 1], columns[x] : columns[x + 1]]
            np.testing.assert_allclose(found[:, y, x], tile.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    assert not foreign_layers(stock)


def test_a_convolution_with_one_group_per_channel_in_a_backbone_becomes_depthwise() -> None:
    pixels = inner = keras.Input((6, 8, 4))
    inner = keras.layers.Conv2D(4, 3, groups=4, padding="same", strides=2, activation="relu", name="own")(inner)
    inner = keras.layers.Conv2D(4, 3, groups=2, name="shared")(inner)
    outside = keras.Input((6, 8, 4))
    model = with_random_weights(keras.Model(outside, keras.Model(pixels, inner, name="backbone")(outside)))
    stock, maps = with_stock_layers(model), np.random.default_rng(0).normal(size=(2, 6, 8, 4)).astype("float32")
    kinds = {layer.name: type(layer) for layer in stock.get_layer("backbone").layers}
    assert (kinds["own"], kinds["shared"]) == (keras.layers.DepthwiseConv2D, keras.layers.Conv2D)
    np.testing.assert_allclose(stock.predict_on_batch(maps), model.predict_on_batch(maps), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("preprocessing", ["caffe", "tf", "torch", "none"])
def test_a_whole_classifier_keeps_its_scaling_and_gives_the_same_logits(preprocessing: str) -> None:
    config = ModelConfig(backbone="compact_small", preprocessing=preprocessing, head={"name": "wise"})  # type: ignore[arg-type]
    model = build_classifier(config, image_size=(24, 40), classes=4).model
    pixels = np.random.default_rng(0).integers(0, 256, (3, 24, 40, 3)).astype("float32")
    stock = with_stock_layers(model)
    np.testing.assert_allclose(stock.predict_on_batch(pixels), model.predict_on_batch(pixels), rtol=1e-4, atol=1e-5)
    assert not foreign_layers(stock)
    assert stock.input_shape == (None, 24, 40, 3)
