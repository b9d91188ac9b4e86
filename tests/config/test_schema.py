from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from config_trees import CONFIGS, complaints, errors, head_option, write
from hypothesis import given, settings
from odd_names import shows_itself

from wisesr_cli.config.mistakes import validate
from wisesr_cli.config.reader import Override, load_config, parse_set
from wisesr_cli.config.schedules import SCHEDULES
from wisesr_cli.config.schema import Config, dump_yaml
from wisesr_cli.config.training import AUGMENTATIONS
from wisesr_cli.config.yaml_reader import Document, read_yaml
from wisesr_cli.errors import ConfigError, DataError, UsageError
from wisesr_cli.models.heads import HEADS

# The example in the documentation, with its comments.
EXAMPLE = """
schema_version: 1
name: null                    # run directory's name; default: made from the source and the head
output_dir: runs
seed: 0
data:
  dir: null                   # one folder: class folders, or train/ + validation/ (+ test/) of class folders
  train_dir: null             # or name them one by one
  validation_dir: null
  test_dir: null
  manifest: null              # a table of labels in place of class folders; its paths begin at dir, or beside it
  label_separator: null       # for `task: multilabel`: what is between the labels of an image; a bar unless set
  validation_split: 0.2       # fraction, when there is no validation folder
  split_strategy: stratified  # stratified | hash (stable when files are added) | group
  group_regex: null           # group: part of the path that must not straddle splits (a patient, a scene)
  fold: null                  # I/N: part I, from 0, of N of the training images takes the place of test images
  image_size: [224, 224]      # height, width
  resize: squash              # squash | crop | pad
  value_range: auto           # more than 8 bits: auto (measured) | full | [low, high]: the values that become 0 and 255
  channels: 3                 # 3 (RGB, which every image becomes) | 1 (grey) | number of the bands of an image
  statistics: auto            # other channels than 3: auto (measured) | [[mean, spread], ...] of each, in 0..255
  color: srgb                 # colours with an ICC profile: srgb (converted) | as_is
  on_error: fail              # fail | skip: what an unreadable training image does
  pixel_limit: 100000000      # width times height above which an image is refused
  cache: auto                 # auto | none | memory | disk
augment: light                # none | light | paper | a mapping of single operations
model:
  task: single                # one label per image, or `multilabel`, any number of them, from a table (cat|dog)
  backbone: MobileNetV2       # a keras.applications name (any case), or `compact` (small images, trained from scratch)
  weights: auto               # auto | imagenet | none | a weights or .keras file | a run directory
  weights_dir: null           # where ImageNet weights are looked for first
  load_head: auto             # auto (from a run as `wisesr upgrade` made it) | true | false
  preprocessing: auto         # auto (what the backbone was trained with) | caffe | tf | torch | unit | none
  feature_layer: null         # cut the backbone at this layer instead of its end
  head:
    name: wise                # gap | gmp | depthwise | wise | flatten | fc
    pre_pool: auto            # wise, flatten: side of the average pooling, in positions; 1 is none
    pooling: tile             # wise, flatten: tile (covers the whole map) | valid (as published)
    constraint: unit_sum      # depthwise, wise: non_negative | unit_sum | none
    initializer: uniform      # depthwise, wise: uniform, even (both start equal to GAP) | paper (normal, 0.01)
    classifier_initializer: paper     # every head: default | paper (normal, 0.01)
    dropout: 0.0              # every head
    hidden: []                # every head: layers before the classifier layer, [{units: 256, activation: relu}] or 256
train:
  epochs: 30
  batch_size: 32
  optimizer: {name: adamw, learning_rate: 1e-3, weight_decay: 1e-4}   # sgd (momentum: 0.9) | adam | adamw
  schedule: {name: cosine, warmup_epochs: 1}   # constant | cosine | exponential (decay_rate, decay_epochs, staircase)
  phases: null                # e.g. [{epochs: 5, freeze: backbone}, {epochs: 20, learning_rate: 1e-4}]
  feature_cache: auto         # of a frozen backbone: auto (feature maps are computed once) | none (in every epoch)
  augmented_views: 4          # augmented versions of an image of which feature maps are kept, shown in turns
  class_weights: none         # none | balanced | {class: weight}
  label_smoothing: 0.0
  loss: cross_entropy         # cross_entropy | focal | {name: focal, gamma: 2.0}
  gradient_clip_norm: null
  gradient_accumulation_steps: 1
  ema: null                   # averages of the weights are validated and saved: 0.999 or {momentum: 0.999}
  early_stopping: null        # {monitor: val_loss, patience: 10}
  best_by: top1_accuracy      # on validation; ties by lower loss; the last epoch when there is no validation
  calibration: auto           # a temperature for the scores, fitted on validation | none
  precision: float32
  jit_compile: auto
  trackers: []                # e.g. [mlflow, wandb]
  track_model: false          # whether trackers keep a copy of best.keras, too
distribute:
  strategy: auto
  devices: null
  join_timeout_seconds: 300.0
  lost_after_seconds: 30.0
"""

# Values that the comments of the example mention.
PROMISED = [
    *(f"model.head={{name: {head}}}" for head in ("gap", "gmp", "depthwise", "wise", "flatten", "fc")),
    "model.head={name: flatten, pre_pool: 3, pooling: valid, dropout: 0.5, classifier_initializer: paper}",
    "model.head={name: depthwise, constraint: unit_sum, initializer: paper}",
    "model.head={constraint: none}",
    "model.head={initializer: even}",
    "model.head={preset: paper}",
    "model.head={name: depthwise, preset: paper}",
    "model.head.hidden=256",
    "model.head.hidden=[256, {units: 64, norm: batch, activation: gelu, dropout: 0.5}, {norm: layer, epsilon: 0.01}]",
    "model.head.hidden=[{units: 8, activation: leaky_relu, slope: 0.3}, {activation: prelu}]",
    "model.weights=none",
    "model.weights_dir=folder",
    "train.phases=[{epochs: 5, freeze: backbone}, {epochs: 20, learning_rate: 1e-4}]",
    "train.phases=[{epochs: 5, freeze: {below: conv5_block1_1_conv}}, {epochs: 5, freeze: {fraction: 0.7}}]",
    "train.phases=[{epochs: 5, batch_norm: train}, {epochs: 5, batch_norm: frozen}, {epochs: 5, batch_norm: null}]",
    "train.early_stopping={monitor: val_loss, patience: 10}",
    "train.optimizer={name: sgd, momentum: 0.9}",
    "train.optimizer={name: adam}",
    "train.schedule={name: constant}",
    "train.loss=focal",
    "train.loss={name: focal, gamma: 0.5}",
    "train.ema=0.999",
    "train.ema={momentum: 0.9}",
    "train.gradient_accumulation_steps=4",
    "augment={mixup: 0.2, cutmix: 1, rand_augment: 0.1, random_erasing: 0.25}",
    "train.schedule={name: exponential, decay_rate: 0.94, decay_epochs: 2, staircase: true}",
    "train.class_weights=balanced",
    "train.class_weights={no: 2, cat: 0.5}",
    "train.jit_compile=true",
    "train.precision=mixed_bfloat16",
    "train.best_by=loss",
    "augment=none",
    "augment=paper",
    "augment={horizontal_flip: true, zoom: 0.2, brightness: [0, 1.2]}",
    *(f"data.resize={value}" for value in ("squash", "crop", "pad")),
    *(f"data.value_range={value}" for value in ("auto", "full", "[0, 4095]", "[-1e-3, 2.5]")),
    *(f"data.channels={value}" for value in (1, 3, 4, 64)),
    "data={channels: 2, value_range: [[0, 4095], [-1.5, 2]], statistics: [[100, 20.5], [0, 0]]}",
    *(f"data.color={value}" for value in ("srgb", "as_is")),
    *(f"data.cache={value}" for value in ("auto", "none", "memory", "disk")),
    "train.feature_cache=none",
    "train.calibration=none",
    *(f"model.preprocessing={value}" for value in ("auto", "caffe", "tf", "torch", "unit", "none")),
    *(f"model.load_head={value}" for value in ("auto", "true", "false")),
    "data.on_error=skip",
    "data.pixel_limit=500000000",
    "data.split_strategy=hash",
    "data.fold=0/5",
    "data.image_size=224x320",
    "data.image_size=96",
    "model.backbone=xCePtIoN",
    "model.backbone=compact",
    "model.weights=imagenet",
]


def test_defaults_match_the_documented_example(tmp_path: Path) -> None:
    assert load_config(None).config.to_dict() == read_yaml(EXAMPLE, origin="example").value
    assert load_config(write(tmp_path, EXAMPLE)).config == Config()
    assert load_config(write(tmp_path, "# nothing\n")).config == Config()


@pytest.mark.parametrize("setting", PROMISED)
def test_every_documented_value_is_accepted_and_survives_a_round_trip(tmp_path: Path, setting: str) -> None:
    config = load_config(None, [parse_set(setting)]).config
    assert config != Config() or setting.partition("=")[2] in {"squash", "auto", "srgb", "3", "{name: wise}"}
    assert load_config(write(tmp_path, config.to_yaml())).config == config
    assert complaints(config.to_dict()) == []


def test_resolved_config_reads_back_equal_with_small_numbers_and_odd_names(tmp_path: Path) -> None:
    text = (
        "name: 'no'\nseed: 7\ndata: {dir: './caf\\u00e9 1e-3', image_size: [96, 128]}\n"
        "train:\n  optimizer: {learning_rate: 1e-5, weight_decay: 1e-7}\n"
        '  class_weights: {no: 1e-6, "[red]": 2, "a: b": 3, "\\udcff\\n": 4}\n'
    )
    config = load_config(write(tmp_path, text)).config
    again = load_config(write(tmp_path, config.to_yaml(), "again.yaml")).config
    assert again == config
    assert again.train.optimizer.learning_rate == 1e-5
    assert again.train.class_weights == {"no": 1e-6, "[red]": 2.0, "a: b": 3.0, "\udcff\n": 4.0}


def test_precedence_is_named_option_then_set_then_file_then_default(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {epochs: 11, batch_size: 12, label_smoothing: 0.1}")
    overrides = [
        parse_set("train.epochs=20"),
        parse_set("train.batch_size=21"),
        parse_set("train.batch_size=22"),
        Override(("train", "epochs"), 30, "--epochs"),
    ]
    train = load_config(path, overrides).config.train
    assert (train.epochs, train.batch_size, train.label_smoothing, train.best_by) == (30, 22, 0.1, "top1_accuracy")


def test_paths_are_relative_to_the_file_that_names_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path, "data: {train_dir: t, validation_dir: ../v}\nmodel: {weights: w.keras}", "bases/base.yaml")
    path = write(tmp_path, "extends: ../bases/base.yaml\ndata: {test_dir: x}\noutput_dir: out", "configs/c.yaml")
    config = load_config(path, [parse_set("data.validation_dir=here")]).config
    assert config.data.train_dir == tmp_path / "bases/t"
    assert config.data.test_dir == tmp_path / "configs/x"
    assert config.data.validation_dir == tmp_path / "here"
    assert config.model.weights == str(tmp_path / "bases/w.keras")
    assert config.output_dir == Path("out")


def test_imagenet_is_not_a_path_and_an_unknown_home_is_not_expanded(tmp_path: Path) -> None:
    text = "model: {weights: imagenet}\ndata: {dir: ~no-such-user/photos}"
    config = load_config(write(tmp_path, text)).config
    assert config.model.weights == "imagenet"
    assert config.data.dir == tmp_path / "~no-such-user/photos"
    with pytest.raises(DataError, match="~no-such-user/x: no such file"):
        load_config("~no-such-user/x")


@pytest.mark.parametrize(
    "text", ["", "data:", "data: {train_dir: a, validation_dir: b, test_dir: c}", "data: {dir: old}"]
)
def test_data_on_the_command_line_replaces_all_folders_in_the_file(tmp_path: Path, text: str) -> None:
    data = load_config(write(tmp_path, text), [Override(("data", "dir"), str(tmp_path), "--data")]).config.data
    assert (data.dir, data.train_dir, data.validation_dir, data.test_dir) == (tmp_path, None, None, None)


def test_folders_in_a_file_replace_those_of_its_base(tmp_path: Path) -> None:
    write(tmp_path, "data: {train_dir: a, validation_dir: b}", "base.yaml")
    data = load_config(write(tmp_path, "extends: base.yaml\ndata: {dir: c}", "one.yaml")).config.data
    assert (data.dir, data.train_dir, data.validation_dir) == (tmp_path / "c", None, None)
    data = load_config(write(tmp_path, "extends: one.yaml\ndata: {train_dir: d}")).config.data
    assert (data.dir, data.train_dir, data.validation_dir) == (None, tmp_path / "d", None)


def test_epochs_are_the_sum_of_the_phases_and_setting_them_changes_the_last_phase(tmp_path: Path) -> None:
    path = write(tmp_path, "train: {phases: [{epochs: 5, freeze: backbone}, {epochs: 20, learning_rate: 1e-4}]}")
    config = load_config(path).config
    assert config.train.epochs == 25
    longer = load_config(path, [parse_set("train.epochs=40")]).config
    assert [phase.epochs for phase in longer.phases] == [5, 35]
    assert longer.phases[1].learning_rate == 1e-4
    assert load_config(write(tmp_path, longer.to_yaml())).config == longer
    (short,) = errors(path, "train.epochs=5")
    assert short.endswith(": train.epochs is 5, but the phases before the last one already take 5 epochs")
    assert short.startswith("--set train.epochs=5: ")
    assert [phase.epochs for phase in Config().phases] == [30]


@pytest.mark.parametrize("head", HEADS)
def test_options_that_a_command_line_head_lacks_are_dropped_with_one_note(tmp_path: Path, head: str) -> None:
    given = {"pre_pool": 2, "pooling": "valid", "constraint": "none", "initializer": "paper", "dropout": 0.25}
    path = write(tmp_path, dump_yaml({"model": {"head": {"name": "wise", **given}}}))
    loaded = load_config(path, [head_option(head)])
    lacking = [key for key in given if key not in HEADS[head].options.model_fields]
    assert loaded.notes == ((f"--head: the head '{head}' has no {', '.join(lacking)}; ignored",) if lacking else ())
    assert loaded.config.model.head.name == head
    assert loaded.config.model.head.dropout == 0.25


def test_options_that_an_optimizer_named_by_set_lacks_are_dropped_with_one_note() -> None:
    loaded = load_config(
        None, [parse_set("train.optimizer={name: sgd, momentum: 0.5}"), parse_set("train.optimizer.name=adam")]
    )
    assert loaded.config.train.optimizer.name == "adam"
    assert len(loaded.notes) == 1
    assert "the optimizer 'adam' has no momentum" in loaded.notes[0]


def test_mapping_passed_as_a_setting_is_not_modified() -> None:
    given: dict[str, Any] = {"epochs": 3}
    config = load_config(None, [Override(("train",), given, "a"), Override(("train", "epochs"), 5, "b")]).config
    assert (config.train.epochs, given) == (5, {"epochs": 3})


def test_unprintable_characters_are_escaped_when_written_and_read_back(tmp_path: Path) -> None:
    names = ["\u202egnp", "a\nb\x1b", "\u2028", "\U000e0001", "\U0001f63a", os.fsdecode(b"\xff"), "  x \u200f  y"]
    tree = {"train": {"class_weights": dict.fromkeys(names, 1.0)}, "data": {"dir": "/" + "".join(names)}}
    text = dump_yaml(tree)
    assert all(shows_itself(line) for line in text.split("\n"))
    assert read_yaml(text, origin="again").value == tree


def test_nested_setting_replaces_a_word_with_a_mapping() -> None:
    config = load_config(
        None, [parse_set("train.class_weights=balanced"), parse_set("train.class_weights.no=2")]
    ).config
    assert config.train.class_weights == {"no": 2.0}


@pytest.mark.parametrize("preset", [None, "light", "paper", "none"])
def test_an_operation_is_added_to_those_of_the_preset(preset: str | None) -> None:
    words = [] if preset is None else [f"augment={preset}"]
    config = load_config(None, [parse_set(word) for word in (*words, "augment.zoom=0.3", "augment.mixup=0.2")]).config
    expected = AUGMENTATIONS[preset or "light"].model_dump(exclude_defaults=True) | {"zoom": 0.3, "mixup": 0.2}
    assert config.augmentation.model_dump(exclude_defaults=True) == expected


def test_an_operation_is_kept_in_any_order_and_a_misspelt_preset_is_reported(tmp_path: Path) -> None:
    words = [parse_set("augment.mixup=0.2"), Override(("augment",), "paper", "--augment")]
    expected = AUGMENTATIONS["paper"].model_dump(exclude_defaults=True) | {"mixup": 0.2}
    assert load_config(None, words).config.augmentation.model_dump(exclude_defaults=True) == expected
    path = tmp_path / "config.yaml"
    path.write_text("augment: ligth\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="augment is 'ligth'"):
        load_config(path, [parse_set("augment.mixup=0.2")])


def test_mapping_in_a_file_replaces_the_default_augmentation(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("augment: {mixup: 0.2}\n", encoding="utf-8")
    assert load_config(path).config.augmentation.model_dump(exclude_defaults=True) == {"mixup": 0.2}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("photos", "photos-wise"),
        ("my photos!", "my-photos-wise"),
        ("!!!", "run-wise"),
        ("-x.", "x-wise"),
        ("猫" * 80, None),
    ],
)
def test_default_run_name_is_derived_from_the_source(tmp_path: Path, name: str, expected: str | None) -> None:
    (tmp_path / name).mkdir()
    found = load_config(tmp_path / name).default_name
    assert found == expected or (expected is None and found.endswith("-wise"))
    assert len(found.encode()) <= 120
    assert not found.startswith((".", "-"))
    assert Config(name=found).name == found


def test_run_is_named_after_its_config_file_or_the_images_for_config_yaml(tmp_path: Path) -> None:
    text = "data: {dir: photos}\nmodel: {head: {name: gap}}"
    assert load_config(write(tmp_path, text, "quick.yaml")).default_name == "quick-gap"
    assert load_config(write(tmp_path, text)).default_name == "photos-gap"
    assert load_config(None).default_name == "run-wise"


@pytest.mark.parametrize(("name", "error"), [("gone", DataError), ("a.txt", UsageError), ("a.keras", UsageError)])
def test_source_that_is_neither_config_nor_folder_is_rejected(
    tmp_path: Path, name: str, error: type[Exception]
) -> None:
    if name != "gone":
        (tmp_path / name).touch()
    with pytest.raises(error, match=name):
        load_config(tmp_path / name)


def test_augmentation_presets_match_the_documentation() -> None:
    paper = AUGMENTATIONS["paper"]
    assert (paper.horizontal_flip, paper.vertical_flip, paper.rotation, paper.zoom) == (True, True, 360, 0.2)
    assert (paper.shift, paper.channel_shift, paper.brightness) == (0.1, 50, (0, 1.2))
    assert not AUGMENTATIONS["light"].horizontal_flip
    assert AUGMENTATIONS["light"].rotation == 0
    assert not AUGMENTATIONS["none"].model_dump(exclude_defaults=True)


def test_json_schema_accepts_the_defaults_the_example_and_extends() -> None:
    assert complaints(Config().to_dict()) == []
    assert complaints(read_yaml(EXAMPLE, origin="example").value) == []
    assert complaints({"extends": "base.yaml", "seed": 1}) == []


# Arbitrary trees


def loaded_or_refused(load: Callable[[], Any]) -> tuple[Any, list[str]]:
    """Return the result of `load`, or the lines of its `ConfigError`."""
    try:
        return load(), []
    except ConfigError as error:
        return None, str(error).splitlines() or [""]


@settings(max_examples=400)
@given(CONFIGS)
def test_any_tree_is_a_config_or_a_config_error(tree: dict[str, Any]) -> None:
    config, lines = loaded_or_refused(lambda: validate(Document(tree)))
    assert all(shows_itself(line) and re.match(r"config: .", line) for line in lines)
    if config is not None:
        assert validate(Document(read_yaml(config.to_yaml(), origin="again").value)) == config
        assert complaints(config.to_dict()) == []


@pytest.mark.parametrize("table", [HEADS, SCHEDULES])
def test_every_head_and_schedule_can_be_named_in_a_config(table: dict[str, Any]) -> None:
    path = "model.head" if table is HEADS else "train.schedule"
    for name in table:
        config = load_config(None, [parse_set(f"{path}={{name: {name}}}")]).config
        assert config.to_dict()[path.split(".")[0]][path.split(".")[1]]["name"] == name
