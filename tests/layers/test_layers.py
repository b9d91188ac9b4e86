"""The layers compared with slow loops and with the equivalent stock Keras layers; runs on every backend."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import keras
import ml_dtypes
import numpy as np
import pytest
from slow_layers import CHANNELS, cells_of, close, make_layer, make_map, slow_average, slow_pooling, to_numpy

from wisesr_cli.layers import PositionWeightedPooling2D, TileAveragePooling2D, tile_bounds, tile_of_position

TILED = [  # height, width, grid
    (7, 7, (3, 3)),
    (16, 8, (5, 4)),
    (5, 9, (5, 9)),
    (5, 9, (2, 4)),
    (11, 6, (2, 3)),
    (1, 8, (1, 4)),
    (6, 1, (2, 1)),
    (1, 1, (1, 1)),
]
VALID = [  # height, width, grid, pool
    (7, 7, (3, 3), (2, 2)),
    (16, 16, (5, 5), (3, 3)),
    (11, 6, (2, 3), (4, 2)),
    (11, 11, (2, 2), (4, 4)),
    (5, 9, (2, 4), (2, 2)),
    (5, 9, (5, 9), (1, 1)),
    (4, 1, (2, 1), (2, 1)),
    (1, 1, (1, 1), (1, 1)),
]
ALL = [(*case, None) for case in TILED] + VALID


def outputs_and_gradients(model: Any, inputs: Any, upstream: Any) -> tuple[Any, list[Any]]:
    """Return the outputs, and the gradients of their sum weighted by `upstream`: of the inputs, then of each weight."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tensor = tf.constant(inputs)
        with tf.GradientTape() as tape:
            tape.watch(tensor)
            outputs = model(tensor)
            total = tf.reduce_sum(outputs * upstream)
        return outputs.numpy(), [g.numpy() for g in tape.gradient(total, [tensor, *model.trainable_weights])]
    import jax

    fixed = [variable.value for variable in model.non_trainable_variables]

    def weighted_sum(tensor: Any, weights: list[Any]) -> tuple[Any, Any]:
        outputs, _ = model.stateless_call(weights, fixed, tensor)
        return (outputs * upstream).sum(), outputs

    weights = [variable.value for variable in model.trainable_variables]
    (_, outputs), (of_inputs, of_weights) = jax.value_and_grad(weighted_sum, (0, 1), has_aux=True)(inputs, weights)
    return np.asarray(outputs), [np.asarray(gradient) for gradient in (of_inputs, *of_weights)]


def compiled(layer: Any) -> Any:
    """Return a function that runs a layer under XLA."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.function(layer, jit_compile=True)
    import jax

    return jax.jit(lambda inputs: layer.stateless_call([v.value for v in layer.variables], [], inputs)[0])


# --- tiles ---


def test_seven_positions_make_tiles_of_two_three_and_two() -> None:
    assert tile_bounds(7, 3) == (0, 2, 5, 7)
    assert tile_of_position(7, 3).tolist() == [0, 0, 1, 1, 1, 2, 2]


def test_tiles_cover_every_position_once_and_differ_by_at_most_one() -> None:
    for side in range(1, 40):
        for tiles in range(1, side + 1):
            sizes = np.diff(tile_bounds(side, tiles))
            assert sizes.sum() == side
            assert sizes.max() - sizes.min() <= 1
            members = [cells_of(tile, side, tiles, None) for tile in range(tiles)]
            assert tile_of_position(side, tiles).tolist() == [i for i, tile in enumerate(members) for _ in tile]


# --- PositionWeightedPooling2D ---


@pytest.mark.parametrize(
    ("layer", "shape", "weights"),
    [
        (
            PositionWeightedPooling2D((3, 2), constraint="unit_sum", initializer="paper", name="ours"),
            (CHANNELS,),
            [(3, 2, CHANNELS), (CHANNELS,)],
        ),
        (TileAveragePooling2D((3, 2), name="ours"), (3, 2, CHANNELS), []),
    ],
    ids=["position weighted", "tiles"],
)
def test_layer_has_the_expected_shapes_and_weights_and_survives_saving(
    layer: Any, shape: tuple[int, ...], weights: list[tuple[int, ...]], tmp_path: Path
) -> None:
    inputs = keras.Input((7, 5, CHANNELS))
    model = keras.Model(inputs, layer(keras.layers.Conv2D(CHANNELS, 1, name="mix")(inputs)))
    assert model.output_shape == layer.compute_output_shape((None, 7, 5, CHANNELS)) == (None, *shape)
    assert [tuple(weight.shape) for weight in layer.weights] == weights
    assert layer.count_params() == sum(map(math.prod, weights))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("ours").get_config() == layer.get_config()
    feature_map = make_map(7, 5)
    assert np.array_equal(loaded.predict_on_batch(feature_map), model.predict_on_batch(feature_map))


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_training_step_of_position_weighted_pooling_matches_manual_computation(policy: str) -> None:
    inputs = keras.Input((4, 6, CHANNELS))
    layer = PositionWeightedPooling2D((2, 2), dtype=policy)
    model = keras.Model(inputs, keras.layers.Activation("linear", dtype="float32")(layer(inputs)))
    model.compile(keras.optimizers.SGD(5.0), "mse", jit_compile=False)
    feature_map, target = make_map(4, 6), make_map(1, 1)[:, 0, 0]
    kernel, bias = layer.get_weights()
    averaged = slow_average(feature_map, (2, 2), None)
    error = 2.0 * (slow_pooling(feature_map, kernel, bias, None) - target) / target.size
    model.train_on_batch(feature_map, target)
    tolerance = {"float32": 1e-5, "mixed_float16": 5e-3, "mixed_bfloat16": 5e-2}[policy]
    expected = np.maximum(kernel - 5.0 * np.einsum("byxc,bc->yxc", averaged, error), 0.0)
    assert (expected == 0).any()  # otherwise the constraint would not be tested
    close(layer.kernel, expected, tolerance)
    close(layer.bias, bias - 5.0 * error.sum(axis=0), tolerance)
    assert layer.kernel.dtype == layer.bias.dtype == "float32"


@pytest.mark.parametrize(("height", "width", "grid", "pool"), ALL)
def test_position_weighted_pooling_equals_the_slow_loop(height: int, width: int, grid: Any, pool: Any) -> None:
    layer = make_layer(height, width, grid, pool)
    feature_map = make_map(height, width)
    close(layer(feature_map), slow_pooling(feature_map, *layer.get_weights(), pool))


@pytest.mark.parametrize(("height", "width", "grid", "pool"), ALL)
def test_output_is_the_map_times_the_position_weights_plus_bias(height: int, width: int, grid: Any, pool: Any) -> None:
    for constraint in PositionWeightedPooling2D.CONSTRAINTS:
        layer = make_layer(height, width, grid, pool, constraint=constraint)
        feature_map = make_map(height, width)
        weights = to_numpy(layer.position_weights(height, width))
        assert weights.shape == (height, width, CHANNELS)
        close(layer(feature_map), (feature_map * weights).sum(axis=(1, 2)) + to_numpy(layer.bias))


def test_positions_dropped_by_valid_pooling_have_zero_weight() -> None:
    weights = to_numpy(make_layer(11, 7, (2, 3), (4, 2)).position_weights(11, 7))
    assert np.all(weights[8:] == 0)
    assert np.all(weights[:, 6:] == 0)
    assert np.all(weights[:8, :6] != 0)


@pytest.mark.parametrize(("height", "width", "grid"), TILED)
def test_uniform_and_even_weights_are_global_average_pooling(height: int, width: int, grid: Any) -> None:
    feature_map = make_map(height, width, seed=2)
    for constraint, initializer in product(PositionWeightedPooling2D.CONSTRAINTS, ("uniform", "even")):
        layer = PositionWeightedPooling2D(grid, constraint=constraint, initializer=initializer)
        close(layer(feature_map), feature_map.astype("float64").mean(axis=(1, 2)), 1e-6)


def relative_change(grid: int, initializer: str) -> float:
    """Return the largest relative change that one update of Adam makes to a weight."""
    inputs = keras.Input((grid, grid, CHANNELS))
    layer = PositionWeightedPooling2D((grid, grid), constraint="unit_sum", initializer=initializer)
    model = keras.Model(inputs, layer(inputs))
    before = to_numpy(layer.kernel)
    model.compile(keras.optimizers.Adam(1e-4, epsilon=1e-12), "mse", jit_compile=False)
    model.train_on_batch(make_map(grid, grid), make_map(1, 1)[:, 0, 0])
    return float(np.abs(to_numpy(layer.kernel) / before - 1).max())


def test_relative_update_depends_on_the_grid_for_uniform_but_not_for_even_weights() -> None:
    assert relative_change(2, "even") == pytest.approx(49e-4, rel=0.01)
    assert relative_change(8, "even") == pytest.approx(49e-4, rel=0.01)
    assert relative_change(2, "uniform") == pytest.approx(4e-4, rel=0.01)
    assert relative_change(8, "uniform") == pytest.approx(64e-4, rel=0.01)


def test_uniform_weights_with_valid_pooling_average_the_kept_positions() -> None:
    feature_map = make_map(11, 7, seed=2)
    layer = PositionWeightedPooling2D((2, 3), pool_size=(4, 2))
    close(layer(feature_map), feature_map[:, :8, :6].astype("float64").mean(axis=(1, 2)), 1e-6)


def test_unit_sum_weights_are_relu_divided_by_their_sum() -> None:
    layer = make_layer(7, 7, (3, 3), None, constraint="unit_sum")
    positive = np.maximum(layer.get_weights()[0], 0.0)
    close(layer.effective_kernel(), positive / positive.sum(axis=(0, 1)), 1e-6)
    close(to_numpy(layer.effective_kernel()).sum(axis=(0, 1)), np.ones(CHANNELS), 1e-6)
    close(to_numpy(layer.position_weights(7, 7)).sum(axis=(0, 1)), np.ones(CHANNELS), 1e-6)


@pytest.mark.parametrize("grid", [(1, 1), (2, 2)])
def test_paper_initializer_with_unit_sum_starts_with_positive_weights(grid: tuple[int, int]) -> None:
    layer = PositionWeightedPooling2D(grid, constraint="unit_sum", initializer="paper")
    layer(np.zeros((1, 4, 4, 256), "float32"))
    assert (to_numpy(layer.kernel) > 0).all()
    assert np.allclose(to_numpy(layer.effective_kernel()).sum((0, 1)), 1, atol=1e-4)


def test_all_negative_unit_sum_weights_output_the_bias_and_no_nan() -> None:
    layer = make_layer(4, 4, (2, 2), None, constraint="unit_sum")
    layer.set_weights([np.full((2, 2, CHANNELS), -1.0), np.arange(CHANNELS)])
    close(layer(make_map(4, 4)), np.tile(np.arange(CHANNELS), (2, 1)))


@pytest.mark.parametrize("constraint", PositionWeightedPooling2D.CONSTRAINTS)
def test_only_non_negative_clamps_the_weights_after_an_update(constraint: str) -> None:
    inputs = keras.Input((4, 4, CHANNELS))
    layer = PositionWeightedPooling2D((2, 2), constraint=constraint)
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.SGD(5.0), "mse", jit_compile=False)
    model.train_on_batch(make_map(4, 4), make_map(1, 1)[:, 0, 0])
    assert (layer.get_weights()[0].min() >= 0) == (constraint == "non_negative")


@pytest.mark.parametrize(("height", "width", "grid", "pool"), VALID)
def test_outputs_and_gradients_equal_those_of_the_stock_layers(height: int, width: int, grid: Any, pool: Any) -> None:
    layer = make_layer(height, width, grid, pool)
    kernel, bias = layer.get_weights()
    stock = keras.Sequential(
        [
            keras.Input((height, width, CHANNELS)),
            keras.layers.AveragePooling2D(pool),
            keras.layers.DepthwiseConv2D(grid),
            keras.layers.Flatten(),
        ]
    )
    stock.set_weights([kernel[..., None], bias])
    feature_map, upstream = make_map(height, width), make_map(1, 1, seed=5)[:, 0, 0]
    expected, (of_inputs, of_kernel, of_bias) = outputs_and_gradients(stock, feature_map, upstream)
    outputs, gradients = outputs_and_gradients(layer, feature_map, upstream)
    close(outputs, expected)
    for gradient, stock_gradient in zip(gradients, (of_inputs, of_kernel[..., 0], of_bias), strict=True):
        close(gradient, stock_gradient)


@pytest.mark.parametrize(("height", "width", "grid", "pool"), [ALL[0], ALL[4], VALID[2], VALID[-1]])
def test_position_weighted_pooling_is_the_same_under_xla(height: int, width: int, grid: Any, pool: Any) -> None:
    layer = make_layer(height, width, grid, pool)
    feature_map = make_map(height, width)
    close(compiled(layer)(feature_map), layer(feature_map), 1e-6)


@pytest.mark.parametrize(
    ("policy", "narrow", "height", "width"),
    [("mixed_float16", np.float16, 64, 64), ("mixed_bfloat16", ml_dtypes.bfloat16, 16, 32)],
)
def test_sums_are_computed_in_float32_under_mixed_precision(policy: str, narrow: Any, height: int, width: int) -> None:
    ones = np.ones((1, height, width, 1), "float32")
    total = narrow(0)
    for _ in range(height * width):
        total = narrow(total + narrow(1))
    assert float(total) == height * width / 2  # the sum stalls once adding 1 is lost to rounding
    layer = PositionWeightedPooling2D((height, width), constraint="none", dtype=policy)
    layer.build(ones.shape)
    layer.set_weights([ones[0], np.zeros(1)])
    result = layer(ones)
    assert keras.backend.standardize_dtype(result.dtype) == policy.removeprefix("mixed_")
    assert float(to_numpy(result).astype("float32").item()) == height * width
    tiles = TileAveragePooling2D((1, 1), dtype=policy)
    assert float(to_numpy(tiles(ones)).astype("float32").item()) == 1.0


@pytest.mark.parametrize(("policy", "narrow"), [("mixed_float16", np.float16), ("mixed_bfloat16", ml_dtypes.bfloat16)])
def test_products_keep_the_digits_that_a_narrow_type_would_round_away(policy: str, narrow: Any) -> None:
    step = 2.0**-6 if narrow is np.float16 else 2.0**-5
    assert float(narrow(1 + step) * narrow(1 + step)) == 1 + 2 * step  # the square of `step` is lost
    feature_map, kernel = np.empty((1, 8, 16, 1)), np.empty((8, 16, 1))
    feature_map[0, :, ::2], feature_map[0, :, 1::2] = 1 + step, -1.0
    kernel[:, ::2], kernel[:, 1::2] = 1 + step, 1 + 2 * step
    layer = PositionWeightedPooling2D((8, 16), constraint="none", dtype=policy)
    layer.build(feature_map.shape)
    layer.set_weights([kernel, np.zeros(1)])
    assert float(to_numpy(layer(feature_map)).astype("float32").item()) == 64 * step**2


def test_partial_sums_may_exceed_the_range_of_float16() -> None:
    feature_map = np.full((1, 32, 32, 1), 1000.0, "float32")
    feature_map[:, 16:] = -999.0
    with np.errstate(over="ignore"):
        assert not np.isfinite(np.add.accumulate(feature_map.astype("float16").ravel(), dtype="float16")[511])
    layer = PositionWeightedPooling2D((32, 32), constraint="none", dtype="mixed_float16")
    layer.build(feature_map.shape)
    layer.set_weights([np.ones((32, 32, 1)), np.zeros(1)])
    assert float(to_numpy(layer(feature_map)).item()) == 512.0


@pytest.mark.parametrize(
    ("arguments", "received"),
    [
        ({"grid_size": (3,)}, r"Received: grid_size=\(3,\)"),
        ({"grid_size": (0, 3)}, r"Received: grid_size=\(0, 3\)"),
        ({"grid_size": 3}, "Received: grid_size=3"),
        ({"grid_size": (3, 3), "pool_size": (2, 2.5)}, r"Received: pool_size=\(2, 2.5\)"),
        ({"grid_size": (3, 3), "constraint": "positive"}, "Received: constraint='positive'"),
        ({"grid_size": (3, 3), "initializer": "zeros"}, "Received: initializer='zeros'"),
    ],
)
def test_invalid_argument_is_an_error_with_expected_and_received_values(
    arguments: dict[str, Any], received: str
) -> None:
    with pytest.raises(ValueError, match=rf"must be .*\. {received}"):
        PositionWeightedPooling2D(**arguments)


def test_map_that_does_not_fit_the_grid_is_an_error_with_the_received_value() -> None:
    with pytest.raises(ValueError, match=r"grid of 3x3 .* must fit .*Received: a map of 2x7"):
        PositionWeightedPooling2D((3, 3)).build((None, 2, 7, 4))
    with pytest.raises(ValueError, match=r"grid of 3x3 with pool_size=\(2, 2\) must fit .*Received: a map of 8x8"):
        PositionWeightedPooling2D((3, 3), pool_size=(2, 2)).build((None, 8, 8, 4))
    with pytest.raises(ValueError, match=r"must be known\. Received: input_shape=\(None, None, 7, 4\)"):
        PositionWeightedPooling2D((3, 3)).build((None, None, 7, 4))
    with pytest.raises(ValueError, match=r"each of 6 tiles\. Received: side=5"):
        TileAveragePooling2D((6, 2)).build((None, 5, 5, 4))
    with pytest.raises(ValueError, match=r"Received: grid_size='3x3'"):
        TileAveragePooling2D("3x3")


# --- TileAveragePooling2D ---


@pytest.mark.parametrize("policy", ["float32", "mixed_float16", "mixed_bfloat16"])
def test_training_step_reaches_through_tile_average_pooling(policy: str) -> None:
    inputs = keras.Input((7, 5, CHANNELS))
    mix = keras.layers.Conv2D(CHANNELS, 1, use_bias=False, dtype="float32")
    model = keras.Model(
        inputs, keras.layers.Flatten(dtype="float32")(TileAveragePooling2D((3, 2), dtype=policy)(mix(inputs)))
    )
    model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=False)
    feature_map, target = make_map(7, 5), make_map(3, 2, seed=3)
    kernel = mix.get_weights()[0][0, 0]
    averaged = slow_average(feature_map, (3, 2), None)  # the mean and a 1x1 convolution commute
    error = 2.0 * (averaged @ kernel - target) / target.size
    model.train_on_batch(feature_map, target.reshape(2, -1))
    expected = kernel - 0.5 * np.einsum("byxi,byxo->io", averaged, error)
    close(mix.get_weights()[0][0, 0], expected, {"float32": 1e-5}.get(policy, 2e-2))


@pytest.mark.parametrize(("height", "width", "grid"), TILED)
def test_tile_average_pooling_equals_the_slow_loop(height: int, width: int, grid: Any) -> None:
    feature_map = make_map(height, width)
    layer = TileAveragePooling2D(grid)
    close(layer(feature_map), slow_average(feature_map, grid, None), 1e-6)
    close(compiled(layer)(feature_map), layer(feature_map), 1e-6)


def test_tiles_that_divide_the_map_evenly_equal_stock_average_pooling() -> None:
    feature_map, upstream = make_map(6, 8), make_map(3, 2, seed=5)
    stock = keras.Sequential([keras.Input((6, 8, CHANNELS)), keras.layers.AveragePooling2D((2, 4))])
    expected, expected_gradients = outputs_and_gradients(stock, feature_map, upstream)
    tiles = TileAveragePooling2D((3, 2))
    tiles.build(feature_map.shape)
    outputs, gradients = outputs_and_gradients(tiles, feature_map, upstream)
    close(outputs, expected)
    close(gradients[0], expected_gradients[0])


# --- both ---


def test_fresh_process_loads_both_layers_once_they_are_imported(tmp_path: Path) -> None:
    inputs = keras.Input((7, 5, CHANNELS))
    tiles = TileAveragePooling2D((3, 2))(inputs)
    model = keras.Model(inputs, PositionWeightedPooling2D((3, 2), initializer="paper")(tiles))
    model.save(tmp_path / "model.keras")
    feature_map = make_map(7, 5)
    np.save(tmp_path / "map.npy", feature_map)
    program = (
        "import numpy, wisesr_cli.layers, keras; model = keras.models.load_model('model.keras'); "
        "numpy.save('logits.npy', model.predict_on_batch(numpy.load('map.npy')))"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=environment, check=True, timeout=500)
    close(np.load(tmp_path / "logits.npy"), model.predict_on_batch(feature_map), 1e-6)
