from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from image_folders import Heard

from wisesr_cli.config.reader import load_config, parse_set
from wisesr_cli.config.schema import Config
from wisesr_cli.data.index import Changes
from wisesr_cli.errors import RunError
from wisesr_cli.results.training import EpochResult
from wisesr_cli.run.progress import (
    Circumstances,
    Progress,
    check_resumable,
    circumstances_from_json,
    config_for_comparison,
)


def config(*settings: str) -> Config:
    return load_config(None, [parse_set(text) for text in settings]).config


def circumstances(*settings: str, **changes: Any) -> Circumstances:
    before = Circumstances(
        config=config_for_comparison(config(*settings)),
        classes=("cat", "dog"),
        data={"classes": ["cat", "dog"], "splits": {"train": {"cat": [5, "0a1b"]}}},
        versions={"keras": "3.15.1", "tensorflow": "2.21.0"},
        backend="tensorflow",
        threads=4,
        device="CPU",
    )
    return replace(before, **changes)


def changed(*lines: str, are_dates_other: bool = False) -> Changes:
    return Changes(lines, are_dates_other)


def remarks(before: Circumstances, now: Circumstances, changes: Changes = changed()) -> list[str]:  # noqa: B008
    """Return the notes and warnings of a resume that is accepted."""
    heard = Heard()
    check_resumable(before, now, changes, heard)
    return [*heard.notes, *heard.warnings]


PHASES = "train.phases=[{epochs: 5, freeze: backbone}, {epochs: 20}]"

REFUSED = {
    "batch size": (["train.batch_size=16"], "train.batch_size: 32 -> 16"),
    "seed": (["seed=1"], "seed: 0 -> 1"),
    "head": (["model.head={name: gap}"], "model.head.name: wise -> gap"),
    "head's option": (["model.head.dropout=0.5"], "model.head.dropout: 0.0 -> 0.5"),
    "optimizer": (["train.optimizer={name: sgd}"], "train.optimizer.name: adamw -> sgd"),
    "learning rate": (["train.optimizer.learning_rate=0.1"], "train.optimizer.learning_rate: 0.001 -> 0.1"),
    "image size": (["data.image_size=96"], "data.image_size: [224, 224] -> [96, 96]"),
    "augmentation": (["augment=none"], "augment: light -> none"),
    "class weights": (["train.class_weights={cat: 2}"], "train.class_weights.cat: null -> 2.0"),
    "phases": ([PHASES], "train.phases.0.epochs: null -> 5"),
    "early stopping": (["train.early_stopping={patience: 3}"], "train.early_stopping.patience: null -> 3"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_resume_rejects_a_changed_setting_and_names_both_values(case: str) -> None:
    settings, difference = REFUSED[case]
    with pytest.raises(RunError, match=r"^cannot resume, because these differ: .*--overwrite$") as caught:
        remarks(circumstances(), circumstances(*settings))
    assert difference in str(caught.value)


def test_packages_of_the_other_backend_may_change() -> None:
    versions = {"keras": "3.15.1", "tensorflow": "2.21.0", "jax": "0.10.2"}
    assert remarks(circumstances(), circumstances(versions=versions)) == []
    before = circumstances(backend="jax", versions=versions)
    assert remarks(before, replace(before, versions={**versions, "tensorflow": "2.22"})) == []
    with pytest.raises(RunError, match=r"jax: 0\.10\.2 -> 0\.11"):
        remarks(before, replace(before, versions={**versions, "jax": "0.11"}))


@pytest.mark.parametrize(
    ("changes", "difference"),
    [
        ({"classes": ("cat", "dog", "emu")}, "classes: cat, dog -> cat, dog, emu"),
        ({"classes": ("dog", "cat")}, "classes: cat, dog -> dog, cat"),
        ({"classes": ("cat", "d\x1b[31m")}, "cat, d\\x1b[31m"),
        ({"backend": "jax"}, "backend: tensorflow -> jax"),
        ({"versions": {"keras": "3.16", "tensorflow": "2.21.0"}}, "keras: 3.15.1 -> 3.16"),
        ({"versions": {"keras": "3.15.1"}}, "tensorflow: 2.21.0 -> absent"),
    ],
)
def test_resume_rejects_changed_classes_versions_and_backend_by_name(changes: dict[str, Any], difference: str) -> None:
    with pytest.raises(RunError) as caught:
        remarks(circumstances(), circumstances(**changes))
    assert difference in str(caught.value)


def test_resume_rejects_changed_data_and_says_what_changed() -> None:
    with pytest.raises(RunError, match="train, class 'cat': 5 files before, 6 now"):
        remarks(circumstances(), circumstances(), changed("train, class 'cat': 5 files before, 6 now"))


def test_resume_accepts_moved_images_or_changed_dates_with_a_note() -> None:
    at_a, at_b = circumstances("data.dir=/a"), circumstances("data.dir=/b")
    assert remarks(at_a, at_b) == ["data.dir: /a -> /b: the same images in another place"]
    assert remarks(at_a, at_a, changed(are_dates_other=True)) == [
        "images have different dates than at the start of training, but the same content"
    ]
    with pytest.raises(RunError, match=r"data\.dir: /a -> /b; train, class 'cat': some of its 5 files have changed;"):
        remarks(at_a, at_b, changed("train, class 'cat': some of its 5 files have changed"))


def test_a_long_list_of_differences_is_shortened_with_a_count() -> None:
    with pytest.raises(RunError, match=r"; and 5 more; undo"):
        remarks(circumstances(), circumstances(), changed(*(f"difference {number}" for number in range(15))))


@pytest.mark.parametrize("setting", ["train.epochs=99", "name=other", "output_dir=/other", "data.cache=none"])
def test_resume_accepts_more_epochs_and_other_storage_settings(setting: str) -> None:
    assert remarks(circumstances(), circumstances(setting)) == []


def test_a_state_older_than_a_setting_resumes_with_its_default() -> None:
    before = circumstances()
    for key in ("train.feature_cache", "train.augmented_views"):
        del before.config[key]
    assert remarks(before, circumstances()) == []
    with pytest.raises(RunError, match=r"train\.feature_cache: auto -> none"):
        remarks(circumstances(), circumstances("train.feature_cache=none"))


def test_a_state_older_than_the_training_aids_resumes_without_them() -> None:
    aids = ("train.loss", "train.ema", "train.gradient_accumulation_steps", "augment.mixup", "augment.cutmix")
    before = circumstances("augment={zoom: 0.1}")
    for key in (*aids, "augment.rand_augment", "augment.random_erasing"):
        del before.config[key]
    assert remarks(before, circumstances("augment={zoom: 0.1}")) == []
    for setting, difference in (
        ("train.loss=focal", r"train\.loss: cross_entropy -> focal"),
        ("train.loss={name: focal, gamma: 1}", r"train\.loss\.gamma: null -> 1\.0"),
        ("train.ema=0.9", r"train\.ema: null -> 0\.9"),
        ("train.gradient_accumulation_steps=2", r"train\.gradient_accumulation_steps: 1 -> 2"),
    ):
        with pytest.raises(RunError, match=difference):
            remarks(before, circumstances("augment={zoom: 0.1}", setting))
        assert remarks(circumstances(setting), circumstances(setting)) == []


def test_resume_accepts_more_epochs_in_the_last_phase_only() -> None:
    longer = PHASES.replace("20", "30")
    assert remarks(circumstances(PHASES), circumstances(longer)) == []
    assert remarks(circumstances(PHASES), circumstances(PHASES, "train.epochs=40")) == []
    with pytest.raises(RunError, match=r"train\.phases\.0\.epochs: 5 -> 6"):
        remarks(circumstances(PHASES), circumstances(PHASES.replace("5,", "6,")))
    with pytest.raises(RunError, match=r"train\.phases\.1\.learning_rate: null -> 0\.1"):
        remarks(circumstances(PHASES), circumstances(PHASES.replace("20", "20, learning_rate: 0.1")))


def test_resume_accepts_other_threads_and_another_device_with_a_warning() -> None:
    warnings = remarks(circumstances(), circumstances(threads=8, device="GPU"))
    assert [warning.partition(";")[0] for warning in warnings] == ["threads: 4 -> 8", "device: CPU -> GPU"]
    assert remarks(circumstances(), circumstances()) == []


def test_every_setting_is_compared_except_the_free_ones() -> None:
    compared = {key.split(".")[0] + "." + key.split(".")[1] for key in config_for_comparison(config()) if "." in key}
    dumped = Config().to_dict()
    expected = {f"{part}.{key}" for part in ("data", "model", "train") for key in dumped[part]}
    free = {"data.cache", "model.weights_dir", "train.epochs", "train.phases", "train.trackers", "train.track_model"}
    assert expected - compared == free


def test_circumstances_and_progress_survive_a_json_round_trip() -> None:
    before = circumstances(PHASES, classes=("caf\u00e9", "\udcff"))
    assert circumstances_from_json(json.loads(json.dumps(before.to_json()))) == before
    row = EpochResult(1, 1, 1e-3, 0.1 + 0.2, 0.5, None, None, 1.25)
    progress = Progress([row, replace(row, epoch=2, val_loss=1e-300)], 2, (0.5, -0.1), 0.25, 3, 7, True)
    again = Progress.from_json(json.loads(json.dumps(progress.to_json())))
    assert again == progress
    assert again.epoch == 2
    assert Progress.from_json(json.loads(json.dumps(Progress().to_json()))) == Progress()


@pytest.mark.parametrize(
    "values", [{}, {"history": 5}, {"history": [], "best_rank": [], "more": 1}, {"history": [{"x": 1}]}]
)
def test_a_malformed_state_is_an_error_that_says_what_to_do(values: dict[str, Any]) -> None:
    with pytest.raises(RunError, match=r"damaged or from another version.*--overwrite"):
        Progress.from_json(values)
    with pytest.raises(RunError, match=r"damaged or from another version.*--overwrite"):
        circumstances_from_json(values)


@pytest.mark.parametrize("data", [{}, {"classes": 5}, {"classes": [], "splits": {"train": {"cat": "x"}}}, []])
def test_a_malformed_image_record_is_an_error_that_says_what_to_do(data: Any) -> None:
    values = json.loads(json.dumps(circumstances().to_json()))
    with pytest.raises(RunError, match=r"damaged or from another version.*data.*--overwrite"):
        circumstances_from_json({**values, "data": data})
