"""The recipe chosen for a folder, which `train`, `init`, `check` and `compare` share."""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from image_folders import make_folder

from wisesr_cli.comparison.plan import plan_of
from wisesr_cli.config import recipe
from wisesr_cli.config.reader import Override, load_config
from wisesr_cli.config.recipe import FolderFacts, Wanted, choose, wanted_of
from wisesr_cli.config.starter import write_starter
from wisesr_cli.config.yaml_reader import read_yaml
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.machine.download import DownloadError
from wisesr_cli.model_files.archive import append_model_info
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.models.at_hand import own_name
from wisesr_cli.requests import CompareRequest
from wisesr_cli.run.located import load_source

PHOTOS = FolderFacts(Path("/photos"), ("cat", "dog"), (300, 300), ("train",), 400, 500, 0)
SMALL = replace(PHOTOS, median_height=32, median_width=32)


@pytest.fixture(autouse=True)
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Provide an empty folder of weights, without a network."""
    folder = tmp_path / "weights"
    folder.mkdir()
    monkeypatch.setenv("WISESR_WEIGHTS", str(folder))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))

    def unreachable(name: str) -> None:
        raise DownloadError("no network")

    monkeypatch.setattr(recipe, "check_reachable", unreachable)
    return folder


def model(found: recipe.Recipe) -> tuple[str, str | None]:
    return found.settings["model"]["backbone"], found.settings["model"]["weights"]


def test_photos_start_from_local_weights_and_train_the_head_first(weights: Path) -> None:
    (weights / own_name("MobileNet")).touch()
    found = choose(PHOTOS, Wanted())
    assert model(found) == ("MobileNet", "imagenet")
    head, everything = found.settings["train"]["phases"]
    assert (head["freeze"], head["learning_rate"]) == ("backbone", 1e-2)
    assert everything["learning_rate"] < 1e-3
    assert found.warning is None
    assert "the best of those whose ImageNet weights are on this machine (MobileNet)" in found.reasons[2]
    (weights / own_name("MobileNetV2")).touch()
    assert model(choose(PHOTOS, Wanted())) == ("MobileNetV2", "imagenet")


def test_photos_start_from_downloadable_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recipe, "check_reachable", lambda name: None)
    found = choose(PHOTOS, Wanted())
    assert (model(found), found.warning) == (("MobileNetV2", "imagenet"), None)


def test_small_network_is_trained_with_a_warning_without_weights_or_network() -> None:
    found = choose(PHOTOS, Wanted())
    assert model(found) == ("compact", None)
    assert found.settings["data"]["image_size"] == [64, 64]
    assert found.settings["augment"]["horizontal_flip"] is True
    assert "phases" not in found.settings["train"]
    assert found.warning is not None
    assert found.warning.startswith("compact starts from random weights")
    assert "--weights none" in found.warning


def test_small_images_keep_their_size_and_train_a_small_network() -> None:
    found = choose(SMALL, Wanted())
    assert (model(found), found.warning) == (("compact", None), None)
    assert found.settings["data"]["image_size"] == [32, 32]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({("model", "weights"): "none"}, ("compact", None)),
        ({("model", "weights"): "none", ("model", "backbone"): "mobilenet"}, ("MobileNet", None)),
        ({("model", "backbone"): "compact_small"}, ("compact_small", None)),
        ({("model", "weights"): "/some/run"}, ("MobileNetV2", "/some/run")),
    ],
)
def test_command_line_options_override_the_recipe(values: dict[Any, Any], expected: tuple[str, str | None]) -> None:
    found = choose(PHOTOS, wanted_of(values))
    assert (model(found), found.warning) == (expected, None)


def test_weights_of_a_run_determine_the_backbone(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "best.keras", "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", b"")
    info = ModelInfo(("a", "b"), (224, 224), Preparation(), BACKGROUND, "MobileNet", "wise", 3, {})
    append_model_info(tmp_path / "best.keras", info)
    for weights in (tmp_path, tmp_path / "best.keras"):
        found = choose(PHOTOS, wanted_of({("model", "weights"): str(weights)}))
        assert model(found) == ("MobileNet", str(weights))


@pytest.mark.parametrize(("epochs", "lengths"), [(1, [1]), (2, [1, 1]), (7, [5, 2])])
def test_epochs_are_divided_among_the_phases(weights: Path, epochs: int, lengths: list[int]) -> None:
    (weights / own_name("MobileNet")).touch()
    phases = choose(PHOTOS, Wanted(epochs=epochs)).settings["train"]["phases"]
    assert [phase["epochs"] for phase in phases] == lengths


@pytest.mark.parametrize("facts", [PHOTOS, SMALL, replace(PHOTOS, counts=(300, 10)), replace(PHOTOS, counts=(5, 1))])
@pytest.mark.parametrize("has_weights", [True, False])
def test_starter_config_matches_the_recipe(weights: Path, facts: FolderFacts, has_weights: bool) -> None:
    if has_weights:
        (weights / own_name("MobileNet")).touch()
    found = choose(facts, Wanted())
    written = read_yaml(write_starter(facts, found), origin="config.yaml").value
    for section in ("data", "model", "train"):
        for key, value in found.settings[section].items():
            assert (None if written[section][key] == "none" and key == "weights" else written[section][key]) == value
    assert written["augment"] == found.settings["augment"]


def test_train_and_compare_use_the_same_recipe_and_options_override_it(tmp_path: Path, weights: Path) -> None:
    (weights / own_name("MobileNet")).touch()
    photos = make_folder(tmp_path / "photos", {"a": 12, "b": 12})
    trained = load_source(photos).config
    plan = plan_of(CompareRequest(photos, heads="gap,wise", seeds=1))
    for head in plan.heads:
        compared = head.loaded.config
        assert (compared.train, compared.augment, compared.data) == (trained.train, trained.augment, trained.data)
        assert compared.model.head.dropout == trained.model.head.dropout == 0.2
    assert trained.train.batch_size == 16
    override = Override(("train", "batch_size"), 5, "--batch-size")
    assert load_source(photos, [override]).config.train.batch_size == 5
    assert load_config(photos).config.train.batch_size == 32  # load_config applies no recipe


def test_empty_folder_has_no_recipe(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    assert load_source(tmp_path / "photos").config.train.batch_size == 32
