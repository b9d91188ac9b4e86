"""What each random operation does to training images, and that it does nothing else; runs on every backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from wisesr_cli.config.training import AUGMENTATIONS, AugmentConfig, position_warning
from wisesr_cli.models.heads import HEADS
from wisesr_cli.training.augmentation import OPERATIONS, RandomBrightnessFactor, RandomChannelShift, build_augmentation

CONFIGS: dict[str, AugmentConfig] = {
    "horizontal_flip": AugmentConfig(horizontal_flip=True),
    "vertical_flip": AugmentConfig(vertical_flip=True),
    "rotation": AugmentConfig(rotation=90.0),
    "zoom": AugmentConfig(zoom=0.3),
    "shift": AugmentConfig(shift=0.2),
    "channel_shift": AugmentConfig(channel_shift=200.0),
    "brightness": AugmentConfig(brightness=(0.3, 3.0)),
    "contrast": AugmentConfig(contrast=0.9),
    "rand_augment": AugmentConfig(rand_augment=0.5),
    "random_erasing": AugmentConfig(random_erasing=1.0),
}
MOVES = ["horizontal_flip", "vertical_flip", "rotation", "zoom", "shift"]


def random_images(*, batch: int = 8, side: int = 16) -> Any:
    return np.random.default_rng(0).uniform(0, 255, (batch, side, side, 3)).astype("float32")


def build_one(name: str, *, seed: int = 0) -> Any:
    (layer,) = build_augmentation(CONFIGS[name], seed=seed)
    return layer


def apply(layer: Any, images: Any, *, training: bool = True) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(layer(images, training=training)))


def set_seed_state(layer: Any, state: int) -> None:
    variables = [variable for variable in layer.variables if variable.name == "seed_generator_state"]
    assert variables
    for variable in variables:
        variable.assign(np.full(variable.shape, state).astype(variable.dtype))


def test_every_registered_operation_is_tested() -> None:
    assert CONFIGS.keys() == OPERATIONS.keys()


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_changes_training_images_and_leaves_inference_alone(name: str) -> None:
    layer, images = build_one(name), random_images()
    changed = apply(layer, images)
    assert changed.shape == images.shape
    assert changed.dtype == images.dtype
    assert not np.array_equal(changed, images)
    assert np.array_equal(apply(layer, images, training=False), images)


@pytest.mark.parametrize("name", OPERATIONS)
def test_values_stay_between_0_and_255(name: str) -> None:
    layer, images = build_one(name), np.round(random_images() / 255.0) * 255.0
    for _ in range(5):
        changed = apply(layer, images)
        assert changed.min() >= 0.0
        assert changed.max() <= 255.0 + 1e-3


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_depends_only_on_its_seed_state(name: str) -> None:
    layer, other, images = build_one(name), build_one(name, seed=7), random_images()
    results = []
    for drawer, state in [(layer, 5), (layer, 5), (other, 5), (layer, 6)]:
        set_seed_state(drawer, state)
        results.append(apply(drawer, images))
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert not np.array_equal(results[0], results[3])


@pytest.mark.parametrize("name", OPERATIONS)
def test_each_image_of_a_batch_gets_its_own_draw(name: str) -> None:
    images = np.repeat(random_images(batch=1), 16, axis=0)
    assert len(np.unique(apply(build_one(name), images).round(3), axis=0)) >= (2 if "flip" in name else 16)


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_has_no_weights_and_computes_in_float32_at_any_precision(name: str) -> None:
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        layer = build_one(name)
        changed = apply(layer, random_images())
    finally:
        keras.config.set_dtype_policy("float32")
    assert changed.dtype == np.float32
    assert layer.weights == []


@pytest.mark.parametrize("name", MOVES)
def test_moved_images_are_filled_with_their_border(name: str) -> None:
    images = np.broadcast_to(np.array([10.0, 200.0, 90.0], "float32"), (8, 16, 16, 3))
    np.testing.assert_allclose(apply(build_one(name), images), images, atol=1e-2)


def test_combined_flips_are_drawn_independently_and_only_mirror() -> None:
    images = random_images(batch=32)
    results = images
    for layer in build_augmentation(AugmentConfig(horizontal_flip=True, vertical_flip=True), seed=0):
        results = apply(layer, results)
    kinds = set()
    for before, after in zip(images, results, strict=True):
        mirrored = {"none": before, "both": before[::-1, ::-1], "left": before[:, ::-1], "top": before[::-1]}
        (kind,) = [name for name, image in mirrored.items() if np.array_equal(image, after)]
        kinds.add(kind)
    assert kinds == {"none", "both", "left", "top"}


@pytest.mark.parametrize(("axis", "config"), [(2, {"horizontal_flip": True}), (1, {"vertical_flip": True})])
def test_single_flip_mirrors_only_its_axis(axis: int, config: dict[str, bool]) -> None:
    images = random_images(batch=16)
    (layer,) = build_augmentation(AugmentConfig(**config), seed=0)
    results = [
        (np.array_equal(after, before), np.array_equal(after, np.flip(before, axis - 1)))
        for before, after in zip(images, apply(layer, images), strict=True)
    ]
    assert set(results) == {(True, False), (False, True)}


def test_shift_moves_by_at_most_its_fraction() -> None:
    images = np.zeros((64, 21, 21, 3), "float32")
    images[:, 10, 10] = 255.0
    shifted = apply(build_augmentation(AugmentConfig(shift=0.2), seed=0)[0], images)[..., 0]
    rows, columns = (np.arange(21)[:, None], np.arange(21)[None, :])
    mass = shifted.sum(axis=(1, 2))
    for positions in (rows, columns):
        moved = np.abs((shifted * positions).sum(axis=(1, 2)) / mass - 10)
        assert moved.max() <= 0.2 * 21 + 0.01
        assert moved.max() > 0.1 * 21


def test_brightness_multiplies_each_image_by_one_factor_and_clips() -> None:
    images = random_images(batch=64, side=8)
    results = apply(RandomBrightnessFactor(0.5, 1.5, seed=0, dtype="float32"), images)
    factors = []
    for before, after in zip(images, results, strict=True):
        place = np.unravel_index(np.argmin(np.abs(before - 100.0)), before.shape)
        factors.append(after[place] / before[place])
        np.testing.assert_allclose(after, np.clip(before * factors[-1], 0, 255), rtol=1e-4, atol=1e-3)
    assert 0.5 <= min(factors) < 0.6
    assert 1.4 < max(factors) <= 1.5


def test_channel_shift_adds_one_value_to_each_image_and_clips() -> None:
    images = random_images(batch=64, side=8)
    results = apply(RandomChannelShift(-50.0, 50.0, seed=0, dtype="float32"), images)
    shifts = []
    for before, after in zip(images, results, strict=True):
        place = np.unravel_index(np.argmin(np.abs(before - 127.0)), before.shape)
        shifts.append(after[place] - before[place])
        np.testing.assert_allclose(after, np.clip(before + shifts[-1], 0, 255), rtol=1e-4, atol=1e-3)
    assert -50 <= min(shifts) < -40
    assert 40 < max(shifts) <= 50


def test_random_erasing_replaces_only_a_rectangle_with_the_given_probability() -> None:
    images = np.repeat(random_images(batch=1), 400, axis=0)
    found = apply(build_augmentation(AugmentConfig(random_erasing=0.3), seed=0)[0], images)
    is_other = (found != images).any(axis=-1)
    shares = is_other.mean(axis=(1, 2))
    assert 0.2 < (shares > 0).mean() < 0.4
    for erased in is_other[shares > 0]:
        rows, columns = np.flatnonzero(erased.any(axis=1)), np.flatnonzero(erased.any(axis=0))
        box = erased[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        assert box.mean() > 0.9  # the noise may equal the original pixel


def test_disabled_operations_are_not_built() -> None:
    assert build_augmentation(AUGMENTATIONS["none"], seed=0) == []
    assert len(build_augmentation(AUGMENTATIONS["light"], seed=0)) == 4
    assert len(build_augmentation(AUGMENTATIONS["paper"], seed=0)) == 7


@pytest.mark.parametrize("name", ["light", "paper"])
def test_operations_of_one_preset_draw_independently(name: str) -> None:
    states = [
        tuple(np.ravel(keras.ops.convert_to_numpy(variable.value)).tolist())
        for layer in build_augmentation(AUGMENTATIONS[name], seed=3)
        for variable in layer.variables
    ]
    assert len(set(states)) == len(states) > 3


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="TensorFlow has no XLA version of some operations")
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_compiles_on_jax_with_equal_results(name: str) -> None:
    import jax

    layer, images = build_one(name), random_images()
    layer.build(images.shape)
    assert layer.supports_jit
    fixed = [variable.value for variable in layer.non_trainable_variables]

    def change(images: Any) -> Any:
        return layer.stateless_call([], fixed, images, training=True)[0]

    np.testing.assert_allclose(jax.jit(change)(images), change(images), atol=0.05)


# --- position warning ---


@pytest.mark.parametrize("name", HEADS)
def test_flips_and_wide_rotations_warn_if_the_head_reads_positions(name: str) -> None:
    head = HEADS[name].options()
    warning = position_warning(AUGMENTATIONS["paper"], head)
    assert (warning is not None) == HEADS[name].reads_position
    if warning is not None:
        assert "augment has horizontal_flip, vertical_flip, rotation" in warning
        assert f"'{name}'" in warning


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (AugmentConfig(horizontal_flip=True), "augment has horizontal_flip:"),
        (AugmentConfig(vertical_flip=True), "augment has vertical_flip:"),
        (AugmentConfig(rotation=45.0), "augment has rotation:"),
        (AugmentConfig(rotation=44.0), None),
        (AugmentConfig(rand_augment=0.125), "augment has rand_augment:"),
        (AugmentConfig(rand_augment=0.12), None),
        (AugmentConfig(mixup=1.0, cutmix=1.0, random_erasing=1.0), None),
        (AugmentConfig(zoom=0.5, shift=0.5, channel_shift=50.0, brightness=(0.5, 2.0), contrast=0.5), None),
        (AUGMENTATIONS["light"], None),
        (AUGMENTATIONS["none"], None),
    ],
)
def test_only_operations_that_destroy_positions_warn(config: AugmentConfig, named: str | None) -> None:
    warning = position_warning(config, HEADS["wise"].options())
    assert warning is None if named is None else named in str(warning)
