from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from image_folders import Heard, make_folder

from wisesr_cli.config.reader import LoadedConfig, Override, load_config
from wisesr_cli.config.recipe import Recipe
from wisesr_cli.config.schema import Config
from wisesr_cli.errors import ConfigError, DataError, RunError, WisesrError
from wisesr_cli.training.checks import about_updates, check_config, check_settings, check_shared
from wisesr_cli.training.devices.distribution import Distribution
from wisesr_cli.training.examples import open_examples
from wisesr_cli.training.train import train


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return make_folder(tmp_path / "photos", {"cat": 6, "dog": 6})


def config_of(photos: Path, output: Path, **sections: Any) -> Config:
    tree: dict[str, Any] = {"output_dir": str(output), "model": {"backbone": "compact_small"}}
    tree["data"] = {"dir": str(photos), "image_size": [32, 32], **sections.pop("data", {})}
    for name, values in sections.items():
        tree[name] = {**tree.get(name, {}), **values}
    return Config.model_validate(tree)


MISTAKES: dict[str, tuple[dict[str, Any], type[WisesrError], str]] = {
    "an image too small": (
        {"model": {"backbone": "Xception"}},
        ConfigError,
        "data.image_size is 32x32, but Xception needs at least 71x71",
    ),
    "imagenet weights that do not exist": (
        {"model": {"weights": "imagenet"}},
        ConfigError,
        "compact_small starts from",
    ),
    "a missing weights file": (
        {"model": {"weights": "/nowhere/x.keras"}},
        RunError,
        "/nowhere/x.keras: no such file",
    ),
    "a class weight for an unknown class": (
        {"train": {"class_weights": {"cow": 2.0}}},
        ConfigError,
        "train.class_weights has 'cow', which is not a class; classes: cat, dog",
    ),
    "early stopping on a missing validation split": (
        {"data": {"validation_split": 0}, "train": {"early_stopping": {"monitor": "val_loss"}}},
        ConfigError,
        "train.early_stopping.monitor is val_loss, but there is no validation split",
    ),
    "RandAugment without colours": (
        {"data": {"channels": 1}, "augment": {"rand_augment": 0.1}},
        ConfigError,
        "augment.rand_augment changes colours and needs RGB, but data.channels is 1",
    ),
    "more accumulation steps than the phase has": (
        {"train": {"epochs": 2, "batch_size": 8, "gradient_accumulation_steps": 5}},
        ConfigError,
        "train.gradient_accumulation_steps is 5, but phase 1 has 4 steps: the weights would never be updated",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_found_before_training_and_leaves_no_run_directory(name: str, photos: Path, tmp_path: Path) -> None:
    sections, error, message = MISTAKES[name]
    config = config_of(photos, tmp_path / "runs", **sections)
    with pytest.raises(error, match=message):
        train(LoadedConfig(config, (), "photos-wise"))
    assert not (tmp_path / "runs" / "photos-wise").exists()


@pytest.mark.parametrize("name", MISTAKES)
def test_check_fails_with_the_same_message_as_training(name: str, photos: Path, tmp_path: Path) -> None:
    sections, _, message = MISTAKES[name]
    found = check_config(config_of(photos, tmp_path, **sections), Heard())
    assert found.status == "fail"
    assert [row for row in found.findings if row.level == "fail" and message in row.message]


def test_valid_settings_pass(photos: Path, tmp_path: Path) -> None:
    config = config_of(photos, tmp_path)
    check_settings(config)
    assert check_config(config, Heard()).status in {"pass", "warn"}  # the images are small


def test_warmup_that_keeps_the_learning_rate_near_zero_is_rejected() -> None:
    with pytest.raises(ConfigError, match=r"train.schedule.warmup_epochs is 1e\+09 in a phase of 30 epochs"):
        check_settings(load_config(None, [Override(("train", "schedule", "warmup_epochs"), 1e9, "-s")]).config)


def test_random_weights_on_few_images_warn_with_their_number_and_better_options(photos: Path, tmp_path: Path) -> None:
    config = config_of(photos, tmp_path, data={"validation_split": 0})
    message = {row.code: row.message for row in check_config(config, Heard()).findings if row.level == "warn"}
    assert message["random-weights"].startswith("12 training images are few for compact_small from random weights")
    assert message["random-weights"].endswith("--backbone MobileNetV2 --weights imagenet")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"gradient_accumulation_steps": 3}, ["the last step makes no update of the weights"]),
        ({"gradient_accumulation_steps": 4}, []),
        ({"epochs": 5, "gradient_accumulation_steps": 4}, ["the last 2 steps make no update of the weights"]),
        (
            {"phases": [{"epochs": 2}, {"epochs": 1}], "epochs": 3, "gradient_accumulation_steps": 2},
            [],
        ),
        (
            {"phases": [{"epochs": 1}, {"epochs": 3}], "epochs": 4, "gradient_accumulation_steps": 4},
            ["the last 2 steps of phase 1 make no update", "the last 2 steps of phase 2 make no update"],
        ),
        ({"ema": 0.7}, []),
        ({"ema": {"momentum": 0.9}}, ["over about the last 10 updates, but the last phase has 4"]),
        ({"ema": 0.7, "gradient_accumulation_steps": 2}, ["over about the last 3 updates, but the last phase has 2"]),
    ],
)
def test_lost_updates_and_too_few_updates_to_average_are_reported(settings: dict[str, Any], said: list[str]) -> None:
    config = Config.model_validate({"train": {"epochs": 2, "batch_size": 8, **settings}})
    found = about_updates(config, 10)  # two steps per epoch
    assert len(found) == len(said)
    assert all(part in sentence for part, sentence in zip(said, found, strict=True))


@pytest.mark.parametrize(
    ("sections", "processes", "named"),
    [
        ({"augment": {"mixup": 0.2}}, 1, "augment.mixup"),
        ({"augment": {"cutmix": 1.0}}, 2, "augment.cutmix"),
        ({"train": {"gradient_accumulation_steps": 2}}, 1, "train.gradient_accumulation_steps"),
        ({"train": {"ema": 0.9}}, 2, "train.ema"),
        ({"train": {"ema": 0.9, "loss": "focal"}, "augment": {"rand_augment": 0.1, "random_erasing": 0.5}}, 1, None),
    ],
)
def test_settings_unsupported_on_several_devices_are_rejected(
    sections: dict[str, Any], processes: int, named: str | None
) -> None:
    config = Config.model_validate(sections)
    check_shared(config, Distribution())
    several = Distribution(processes=processes, local_devices=2, strategy=object())
    if named is None:
        check_shared(config, several)
        return
    with pytest.raises(ConfigError, match=rf"^{named} is for one device, but {2 * processes} train together"):
        check_shared(config, several)


IDLE: dict[str, tuple[dict[str, Any], str]] = {
    "hash": (
        {"data": {"split_strategy": "hash"}},
        "data.split_strategy: hash has no effect: the validation images have",
    ),
    "fraction": (
        {"data": {"validation_split": 0.3}},
        "data.validation_split: 0.3 has no effect: the validation images",
    ),
    "views": (
        {"train": {"augmented_views": 8}},
        "train.augmented_views: 8 has no effect: no phase freezes the backbone",
    ),
    "cache": ({"train": {"feature_cache": "none"}}, "train.feature_cache: none has no effect: no phase freezes"),
    "weights folder": ({"model": {"weights_dir": "/w"}}, "model.weights_dir: /w has no effect: the backbone starts"),
}


@pytest.mark.reliability(52)
@pytest.mark.parametrize("case", IDLE)
def test_setting_without_effect_is_reported_by_check_and_training(case: str, tmp_path: Path) -> None:
    photos = make_folder(tmp_path / "photos", {f"{split}/{name}": 3 for split in ("train", "val") for name in "ab"})
    sections, said = IDLE[case]
    config = config_of(photos, tmp_path / "runs", **sections)
    rows = [row for row in check_config(config, Heard()).findings if row.code == "idle-setting"]
    assert [(row.level, row.message.startswith(said)) for row in rows] == [("warn", True)]
    heard = Heard()
    open_examples(config, heard).close()
    assert [note.startswith(said) for note in heard.notes] == [True]


@pytest.mark.reliability(52)
@pytest.mark.parametrize(
    ("regex", "said"),
    [
        (r"(\d+)\.png", "3 groups of data.group_regex in two splits: 000 (train, validation)"),
        (r"patient(\d+)", r"data.group_regex 'patient(\d+)' does not match"),
    ],
)
def test_group_regex_that_does_not_fit_the_given_splits_is_rejected(regex: str, said: str, tmp_path: Path) -> None:
    photos = make_folder(tmp_path / "photos", {f"{split}/{name}": 3 for split in ("train", "val") for name in "ab"})
    config = config_of(photos, tmp_path / "runs", data={"split_strategy": "group", "group_regex": regex})
    rows = [row for row in check_config(config, Heard()).findings if row.code == "groups"]
    assert [(row.level, said in row.message) for row in rows] == [("fail", True)]
    with pytest.raises(DataError) as caught:
        open_examples(config, Heard())
    assert said in str(caught.value)


def test_warning_of_a_recipe_is_reported_by_check(photos: Path, tmp_path: Path) -> None:
    recipe = Recipe({}, (), "compact starts from random weights: no network")
    found = check_config(config_of(photos, tmp_path), Heard(), recipe=recipe)
    assert [row.message for row in found.findings if row.code == "imagenet-weights"] == [recipe.warning]


def test_existing_output_dir_is_kept_when_training_fails(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "runs" / "photos-wise").mkdir(parents=True)
    config = config_of(photos, tmp_path / "runs", train={"class_weights": {"cow": 2.0}}, data={"on_error": "skip"})
    with pytest.raises(ConfigError):
        train(LoadedConfig(config, (), "photos-wise"))
    assert (tmp_path / "runs").is_dir()


def test_output_dir_among_the_class_folders_is_rejected(photos: Path) -> None:
    config = config_of(photos, photos / "runs")
    with pytest.raises(ConfigError, match="is among the class folders"):
        train(LoadedConfig(config, (), "photos-wise"))
    assert sorted(path.name for path in photos.iterdir()) == ["cat", "dog"]


def test_output_dir_beside_the_split_folders_is_accepted(tmp_path: Path) -> None:
    photos = make_folder(tmp_path / "photos", {"train/cat": 3, "train/dog": 3, "test/cat": 1, "test/dog": 1})
    check_settings(config_of(photos, photos / "runs"))
