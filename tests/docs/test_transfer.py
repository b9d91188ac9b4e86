"""Benchmark of heads on frozen features: training, choice of the learning rate, paired differences, stored figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.heads import maps, pictures, transfer, transfer_page, trials
from benchmarks.heads.cells import CELLS, COMMANDS, ORDER
from wisesr_cli.config.reader import parse_head
from wisesr_cli.errors import UsageError

HEADS = (
    "gap",
    "gmp",
    "wise",
    "wise:paper",
    "depthwise",
    "flatten",
    "flatten:pre_pool=2",
    "wise:pre_pool=2:pooling=valid",
)


def features(shape: tuple[int, int, int] = (7, 7, 6), classes: int = 3, images: int = 40) -> maps.Features:
    """Return maps whose class is given by where the largest values are."""
    random = np.random.default_rng(0)
    found, labels = {}, {}
    for name in maps.SPLITS:
        labels[name] = np.arange(images) % classes
        found[name] = random.normal(size=(images, *shape)).astype("float32")
        for row, label in enumerate(labels[name]):
            found[name][row, (shape[0] - 1) * label // 2, :, :3] += 3
    return maps.Features(found, labels, tuple("abc"[:classes]))


@pytest.mark.parametrize("name", HEADS)
def test_a_head_gives_the_same_logits_on_averaged_maps_as_on_whole_maps(name: str) -> None:
    import keras

    from wisesr_cli.models.heads import build_head

    options, whole = parse_head(name), features().maps["test"]
    inputs = keras.Input(whole.shape[1:])
    model = keras.Model(inputs, build_head(inputs, 3, options))
    small = maps.reduced(whole, options)
    on_small = trials.builder(options, whole.shape[1:])(small.shape[1:], 3)
    assert [weight.shape for weight in on_small.weights] == [weight.shape for weight in model.weights]
    random = np.random.default_rng(1)
    values = [np.abs(random.normal(size=weight.shape)).astype("float32") for weight in model.weights]
    for each in (model, on_small):
        each.set_weights(values)
    np.testing.assert_allclose(model.predict_on_batch(whole), on_small.predict_on_batch(small), rtol=1e-4, atol=1e-4)


def test_seeds_trained_together_match_seeds_trained_alone() -> None:
    data, options = features(), parse_head("wise")
    reduced = trials.reduced_maps(data, options)

    def train(seeds: tuple[int, ...]) -> list[trials.Trial]:
        build = trials.builder(options, data.shape)
        return trials.trials_of(build, reduced, data.labels, 3, seeds=seeds, rates=(1e-3, 0.1), epochs=8)

    together, alone = train((0, 1)), train((1,))
    assert [(trial.rate, trial.seed) for trial in together] == [(1e-3, 0), (1e-3, 1), (0.1, 0), (0.1, 1)]
    for one, other in zip((together[1], together[3]), alone, strict=True):
        assert (one.epoch, one.validation) == (other.epoch, other.validation)
        assert one.loss == pytest.approx(other.loss, rel=1e-4)
        np.testing.assert_array_equal(one.correct, other.correct)
    assert together[3].correct.mean() > 0.7  # it has learned; chance is a third


def test_every_candidate_initially_equals_global_average_pooling() -> None:
    from benchmarks.heads.candidates import CANDIDATES, READS
    from wisesr_cli.models.heads import WiseOptions

    data = features((6, 6, 5))  # equal tiles, so that their mean is that of the map
    for name, candidate in CANDIDATES.items():
        options = READS.get(name, WiseOptions())
        small = maps.reduced(data.maps["test"], options)
        model = candidate(options, data.shape)(small.shape[1:], 3)
        kernel = next(weight for weight in model.weights if tuple(weight.shape) == (5, 3))
        expected = data.maps["test"].mean((1, 2)) @ np.array(kernel)
        np.testing.assert_allclose(model.predict_on_batch(small), expected, rtol=1e-4, atol=1e-5, err_msg=name)


def trial(rate: float, validation: float, *, loss: float = 1.0, right: bool = True) -> trials.Trial:
    return trials.Trial(rate, 0, 1, validation, loss, np.full(4, right))


def test_the_learning_rate_is_chosen_by_validation_alone() -> None:
    assert trials.chosen_rate([trial(0.1, 0.5), trial(0.2, 0.6, right=False)]) == 0.2
    assert trials.chosen_rate([trial(0.1, 0.5, loss=2.0), trial(0.2, 0.5, loss=1.5, right=False)]) == 0.2


def test_folds_test_every_image_once_and_keep_their_splits_disjoint() -> None:
    data = features(images=10)
    values = np.concatenate([data.maps[name] for name in maps.SPLITS])
    parts = data.folds(5)
    tested = np.concatenate([part.maps["test"] for part in parts])
    assert sorted(map(float, tested.sum((1, 2, 3)))) == sorted(map(float, values.sum((1, 2, 3))))
    for part in parts:
        together = np.concatenate([part.maps[name] for name in maps.SPLITS])
        assert len(together) == len(values) == len(np.unique(together.sum((1, 2, 3))))
        assert all(len(part.maps[name]) == len(part.labels[name]) for name in maps.SPLITS)


def test_few_reduces_only_the_training_images() -> None:
    few = features().few(2)
    assert np.bincount(few.labels["train"]).tolist() == [2, 2, 2]
    assert len(few.labels["test"]) == 40


def photos(folder: Path) -> Path:
    """Write photos of red shoes and blue hats, each of a single colour that is brighter on the left."""
    for split in maps.SPLITS:
        for name, channel in (("shoes", 0), ("hat", 2)):
            place = folder / split / name
            place.mkdir(parents=True)
            for number in range(5):
                pixels = np.zeros((20, 20, 3), np.uint8)
                pixels[:, :10, channel], pixels[:, 10:, channel] = 250, 150
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def test_a_mosaic_shows_the_shoes_in_the_quarter_of_its_class(tmp_path: Path) -> None:
    seen = set()
    for number, (_, label, _, image) in enumerate(pictures.quarters(photos(tmp_path))):
        red, side = np.asarray(image)[..., 0].astype(int), pictures.TILE
        means = [red[:side, :side].mean(), red[:side, side:].mean(), red[side:, :side].mean(), red[side:, side:].mean()]
        assert pictures.QUARTERS[int(np.argmax(means))] == label
        assert sorted(means)[2] < 1  # nowhere else
        seen.add(label)
        if number == 7:
            break
    assert seen == set(pictures.QUARTERS)


def test_only_photos_labelled_mirrored_are_mirrored(tmp_path: Path) -> None:
    labels = []
    for _, label, _, image in pictures.mirrored(photos(tmp_path)):
        pixels = np.asarray(image).sum(-1)
        assert (pixels[0, 0] < pixels[0, -1]) == (label == "mirrored")
        labels.append(label)
    assert set(labels) == {"mirrored", "as-taken"}
    assert len(labels) == 30


def test_a_difference_is_paired_and_has_an_interval() -> None:
    right = np.zeros((5, 100), bool)
    better = right.copy()
    better[:, :30] = True
    found = transfer.difference(transfer.Trained(better, {}), transfer.Trained(right, {}))
    assert found is not None
    assert found[0] == pytest.approx(0.3)
    assert 0.2 < found[1] < 0.3 < found[2] < 0.4
    assert transfer.difference(one := transfer.Trained(right, {}), one) is None


def test_a_trained_cell_is_reused_instead_of_retrained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = transfer.Cell("harbour", heads=("gap", "wise"))
    first = transfer.train_cell(cell, features(), tmp_path)
    monkeypatch.setattr(trials, "trials_of", lambda *_, **__: pytest.fail("trained again"))
    again = transfer.train_cell(cell, features(), tmp_path)
    assert [np.array_equal(first[head].correct, again[head].correct) for head in cell.heads] == [True, True]
    figures = transfer.figures(cell, features(), again)
    assert figures["heads"]["gap"]["to_gap"] is None
    assert len(figures["heads"]["wise"]["accuracies"]) == 5


def test_missing_weights_are_a_usage_error_that_names_the_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("WISESR_WEIGHTS", str(tmp_path))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    with pytest.raises(UsageError, match=r"--weights-dir FOLDER with mobilenet_notop\.weights\.h5, xception_notop"):
        transfer._need_weights(["MobileNet", "Xception"])


def test_stored_cells_match_the_script() -> None:
    kept: dict[str, Any] = transfer_page.read_figures(transfer_page.FIGURES)
    assert list(kept) == [name for name in ORDER if name in kept]
    for cell in CELLS:
        if cell.name in kept:
            assert tuple(kept[cell.name]["heads"]) == cell.heads, cell.name
    for name, (heads, _, _) in COMMANDS.items():
        if name in kept:
            assert tuple(kept[name]["heads"]) == heads
