"""Mixing and losses, compared with loops over examples, on every backend."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest

from wisesr_cli.config.training import AugmentConfig, TrainConfig
from wisesr_cli.training.augmentation import seed_variables
from wisesr_cli.training.objective import MixedModel, Mixing, build_loss_and_metrics, loss_of_one_label, mix

SIDE = 16
MIXERS = {"mixup": {"mixup": 0.4}, "cutmix": {"cutmix": 1.0}, "both": {"mixup": 0.4, "cutmix": 1.0}}


def to_numpy(value: Any) -> Any:
    return np.asarray(keras.ops.convert_to_numpy(value))


def images_and_targets(batch: int = 24) -> tuple[Any, Any]:
    """Return random images, each with its own class, so that mixed targets tell which images are mixed, and how."""
    images = np.random.default_rng(0).uniform(0, 255, (batch, SIDE, SIDE, 3)).astype("float32")
    return images, np.eye(batch, dtype="float32")


def mixed(mixing: Any, images: Any, targets: Any, *, training: bool = True) -> tuple[Any, Any]:
    found = mixing([images, targets], training=training)
    return to_numpy(found[0]), to_numpy(found[1])


def mixing_of(name: str, *, seed: int = 0) -> Any:
    return Mixing(AugmentConfig(**MIXERS[name]), seed=seed)


def partner_of(row: Any, number: int) -> int:
    """Return the example that example `number` was mixed with, or `number` if it was not mixed."""
    others = [other for other in np.flatnonzero(row) if other != number]
    assert len(others) <= 1
    return int(others[0]) if others else number


# --- mixing ---


def test_mixup_mixes_images_and_targets_in_the_same_proportion() -> None:
    images, targets = images_and_targets()
    found, labels = mixed(mixing_of("mixup"), images, targets)
    shares = []
    for number, row in enumerate(labels):
        partner = partner_of(row, number)
        share = 1.0 if partner == number else float(row[number])
        expected = np.empty_like(images[number])
        for y in range(SIDE):
            for x in range(SIDE):
                expected[y, x] = share * images[number, y, x] + (1 - share) * images[partner, y, x]
        np.testing.assert_allclose(found[number], expected, rtol=1e-4, atol=1e-2)
        assert row.sum() == pytest.approx(1.0, abs=1e-5)
        shares.append(share)
    assert len(set(shares)) > len(images) / 2  # each example draws its own share


def test_cutmix_pastes_a_rectangle_in_place_and_mixes_targets_by_its_area() -> None:
    images, targets = images_and_targets()
    found, labels = mixed(mixing_of("cutmix"), images, targets)
    pasted = 0
    for number, row in enumerate(labels):
        partner = partner_of(row, number)
        if partner == number:
            assert np.array_equal(found[number], images[number])
            continue
        is_other = np.zeros((SIDE, SIDE), bool)
        for y in range(SIDE):
            for x in range(SIDE):
                pixel = found[number, y, x]
                is_other[y, x] = np.array_equal(pixel, images[partner, y, x])
                assert is_other[y, x] or np.array_equal(pixel, images[number, y, x])
        rows, columns = np.flatnonzero(is_other.any(axis=1)), np.flatnonzero(is_other.any(axis=0))
        assert is_other.sum() == len(rows) * len(columns)
        # Only whole pixels are counted, but the rectangle's sides need not be whole numbers of pixels.
        height, width = SIDE * np.sqrt(row[partner]), SIDE * np.sqrt(row[partner])
        assert abs(len(rows) - height) <= 1
        assert abs(len(columns) - width) <= 1
        assert row[number] + row[partner] == pytest.approx(1.0, abs=1e-5)
        pasted += bool(is_other.any())
    assert pasted > len(images) / 2


def test_each_batch_is_mixed_by_either_mixup_or_cutmix() -> None:
    images, targets = images_and_targets()
    mixing, kinds = mixing_of("both"), set()
    for _ in range(12):
        found, labels = mixed(mixing, images, targets)
        is_mixup = np.allclose(found, np.einsum("ij,jhwc->ihwc", labels, images), rtol=1e-3, atol=1e-1)
        pixels = found.reshape(len(found), -1, 3)
        known = images.reshape(len(images), -1, 3)
        is_cutmix = all(
            np.array_equal(pixel, known[number, place]) or (known[:, place] == pixel).all(axis=-1).any()
            for number, row in enumerate(pixels)
            for place, pixel in enumerate(row)
        )
        assert is_mixup != is_cutmix
        kinds.add(is_mixup)
    assert kinds == {True, False}


@pytest.mark.parametrize("name", MIXERS)
def test_mixing_applies_only_in_training_and_depends_only_on_its_seeds(name: str) -> None:
    images, targets = images_and_targets()
    mixing, other = mixing_of(name), mixing_of(name, seed=9)
    same = mixed(mixing, images, targets, training=False)
    assert np.array_equal(same[0], images)
    assert np.array_equal(same[1], targets)
    results = []
    for layer, state in [(mixing, 5), (mixing, 5), (other, 5), (mixing, 6)]:
        for variable in layer.variables:
            variable.assign(np.full(variable.shape, state).astype(variable.dtype))
        results.append(mixed(layer, images, targets))
    assert all(np.array_equal(one, two) for one, two in zip(results[0], results[1], strict=True))
    assert all(np.array_equal(one, two) for one, two in zip(results[0], results[2], strict=True))
    assert not np.array_equal(results[0][1], results[3][1])


def test_small_alpha_gives_finite_values_where_keras_draws_nan() -> None:
    images, targets = images_and_targets(64)
    found, labels = mixed(Mixing(AugmentConfig(mixup=0.001), seed=0), images, targets)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(labels.sum(axis=-1), 1.0, atol=1e-5)


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("name", MIXERS)
def test_images_that_are_not_rgb_are_mixed(name: str, channels: int) -> None:
    images = np.random.default_rng(0).uniform(0, 255, (12, SIDE, SIDE, channels)).astype("float32")
    found, labels = mixed(mixing_of(name), images, np.eye(12, dtype="float32"))
    assert found.shape == images.shape
    assert not np.array_equal(found, images)
    np.testing.assert_allclose(labels.sum(axis=-1), 1.0, atol=1e-5)


# --- the loss ---


def model_of_pixels(config: AugmentConfig, classes: int, *, loss: Any = None, is_plain: bool = False) -> Any:
    """Return a compiled model whose logits are a dense layer on mixed pixels."""
    keras.utils.set_random_seed(0)
    pixels = keras.Input((SIDE, SIDE, 3), dtype="uint8")
    images = keras.layers.Rescaling(1 / 255, dtype="float32")(pixels)
    targets, images, labels = mix(config, images, classes=classes, seed=0, is_plain=is_plain)
    logits = keras.layers.Dense(classes)(keras.layers.Flatten()(images))
    model = MixedModel([pixels, targets], [logits, labels])
    metrics = [keras.metrics.CategoricalAccuracy(name="top1_accuracy")]
    model.compile("sgd", loss or loss_of_one_label(TrainConfig()), metrics=metrics)
    build_loss_and_metrics(model, keras.ops.convert_to_tensor(np.eye(1, classes, dtype="float32")))
    return model


def cross_entropy(logits: Any, label: int) -> float:
    exponentials = [np.exp(value - max(logits)) for value in logits]
    return float(-np.log(exponentials[label] / sum(exponentials)))


def test_loss_of_a_mixed_example_sums_both_parts_with_their_own_weights() -> None:
    model = model_of_pixels(AugmentConfig(mixup=0.4), classes=3)
    rng = np.random.default_rng(1)
    logits = rng.normal(size=(4, 3)).astype("float32")
    labels, partners = [0, 1, 2, 0], [1, 1, 0, 2]
    shares, weights = [0.7, 0.2, 1.0, 0.5], [2.0, 0.5, 1.0, 3.0]
    of_partners = [0.5, 1.5, 4.0, 0.0]
    expected = 0.0
    plain, weighted = np.zeros((4, 3), "float32"), np.zeros((4, 3), "float32")
    for number in range(4):
        for label, share, weight in (
            (labels[number], shares[number], weights[number]),
            (partners[number], 1 - shares[number], of_partners[number]),
        ):
            expected += share * weight * cross_entropy(logits[number], label) / 4
            plain[number, label] += share
            weighted[number, label] += share * weight
    outputs = [keras.ops.convert_to_tensor(array) for array in (logits, np.concatenate([plain, weighted], axis=-1))]
    found = model.compute_loss(None, None, outputs)
    assert float(to_numpy(found)) == pytest.approx(expected, rel=1e-5)
    model.reset_metrics()
    accuracy = float(model.compute_metrics(None, None, outputs)["top1_accuracy"])
    larger = [labels[n] if plain[n, labels[n]] >= plain[n, partners[n]] else partners[n] for n in range(3)]
    right = [int(np.argmax(logits[n])) == larger[n] for n in range(3)] + [int(np.argmax(logits[3])) == 0]
    assert accuracy == pytest.approx(np.mean(right))


def test_example_weights_affect_the_loss_but_not_the_accuracy() -> None:
    """In a phase without augmentation, a mixed model is an ordinary one."""
    model = model_of_pixels(AugmentConfig(mixup=0.4), classes=3, is_plain=True)
    pixels = np.random.default_rng(2).integers(0, 256, (5, SIDE, SIDE, 3)).astype("uint8")
    labels, weights = [0, 1, 2, 1, 0], np.array([1.0, 0.0, 2.0, 0.5, 3.0], "float32")
    targets = np.eye(3, dtype="float32")[labels]
    logits = to_numpy(model([pixels, np.concatenate([targets, targets], axis=-1)], training=False)[0])
    expected = sum(float(weights[n]) * cross_entropy(logits[n], labels[n]) for n in range(5)) / 5
    found = model.train_on_batch(pixels, targets, sample_weight=weights, return_dict=True)
    assert float(found["loss"]) == pytest.approx(expected, rel=1e-4)
    right = [int(np.argmax(logits[n])) == labels[n] for n in range(5)]
    assert float(found["top1_accuracy"]) == pytest.approx(np.mean(right))


@pytest.mark.parametrize("name", MIXERS)
def test_model_learns_from_mixed_examples_and_is_evaluated_on_plain_ones(name: str) -> None:
    rng = np.random.default_rng(3)
    labels = np.repeat([0, 1, 2], 16)
    means = np.eye(3)[labels] * 120 + 60
    pixels = np.clip(means[:, None, None, :] + rng.normal(0, 20, (48, SIDE, SIDE, 3)), 0, 255).astype("uint8")
    targets = np.eye(3, dtype="float32")[labels]
    model = model_of_pixels(AugmentConfig(**MIXERS[name]), classes=3)
    before = float(model.test_on_batch(pixels, targets, return_dict=True)["loss"])
    assert float(model.test_on_batch(pixels, targets, return_dict=True)["loss"]) == pytest.approx(before, rel=1e-5)
    seeds = [to_numpy(variable) for variable in seed_variables(model)]
    losses = [float(model.train_on_batch(pixels, targets, return_dict=True)["loss"]) for _ in range(60)]
    assert any(not np.array_equal(old, to_numpy(new)) for old, new in zip(seeds, seed_variables(model), strict=True))
    assert len({round(loss, 6) for loss in losses}) > 50
    model.reset_metrics()
    after = model.test_on_batch(pixels, targets, return_dict=True)
    assert float(after["loss"]) < before
    assert float(after["top1_accuracy"]) > 0.9


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_loss_matches_a_loop_even_for_mixed_targets(gamma: float) -> None:
    rng = np.random.default_rng(4)
    logits = rng.normal(size=(6, 4)).astype("float32")
    targets = rng.dirichlet(np.ones(4), size=6).astype("float32")
    expected = 0.0
    for row, target in zip(logits, targets, strict=True):
        for label in range(4):
            loss = cross_entropy(row, label)
            expected += float(target[label]) * (1 - np.exp(-loss)) ** gamma * loss / 6
    loss = loss_of_one_label(TrainConfig.model_validate({"loss": {"name": "focal", "gamma": gamma}}))
    assert float(to_numpy(loss(targets, logits))) == pytest.approx(expected, rel=1e-4)
    if gamma == 0:
        assert float(to_numpy(loss_of_one_label(TrainConfig())(targets, logits))) == pytest.approx(expected, rel=1e-4)


def test_focal_loss_defaults_to_gamma_2() -> None:
    assert TrainConfig.model_validate({"loss": "focal"}).focal_gamma == 2.0
    assert TrainConfig.model_validate({"loss": {"name": "focal"}}).focal_gamma == 2.0
    assert TrainConfig().focal_gamma is None
