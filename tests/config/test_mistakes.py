"""Each mistake in a config is reported on one line: where it is, what was found, and what is allowed."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from config_trees import errors, head_option, write

from wisesr_cli.config.reader import load_config, parse_set
from wisesr_cli.errors import ConfigError, UsageError

# Name of the mistake: the config, the line number, and a part of the message.
NUMBER, FOLDER = "allowed: a whole number", "must be a folder name"
MISTAKES: dict[str, tuple[str, int, str]] = {
    "unknown key": ("sed: 1", 1, "sed is not a key of a config. Did you mean 'seed'?"),
    "misspelt extends": ("extend: a", 1, "extend is not a key of a config. Did you mean 'extends'?"),
    "key without a near match": ("xyzzy: 1", 1, "xyzzy is not a key of a config. Allowed: extends, schema_version,"),
    "misspelt option of a head": (
        "model:\n  head:\n    name: wise\n    prepool: 2",
        4,
        "model.head.prepool is not an option of the head 'wise'. Did you mean 'pre_pool'?",
    ),
    "option of another head": (
        "model:\n  head:\n    name: gap\n    pre_pool: 2",
        4,
        "model.head.pre_pool is not an option of the head 'gap'. Allowed: name, classifier_initializer, dropout",
    ),
    "head without a name": ("model: {head: {momentum: 2}}", 1, "head.momentum is not an option of the head 'wise'"),
    "unknown head": ("model:\n  head: {name: wize}", 2, "model.head.name is 'wize'; allowed: gap, gmp, depthwise,"),
    "head with a near match": ("model:\n  head: {name: wize}", 2, "Did you mean 'wise'?"),
    "head as text": ("model:\n  head: gap", 2, "model.head is 'gap'; allowed: a mapping"),
    "head as a number": ("model:\n  head: 5", 2, "model.head is 5; allowed: a mapping"),
    "head as null": ("model:\n  head:", 2, "model.head is null; allowed: a mapping"),
    "name of a head as a list": ("model:\n  head: {name: [a]}", 2, "model.head.name is a list of 1; allowed: gap,"),
    "option of another optimizer": (
        "train: {optimizer: {name: adam, momentum: 0.9}}",
        1,
        "momentum is not an option of the optimizer 'adam'",
    ),
    "unknown schedule": (
        "train: {schedule: {name: cosin}}",
        1,
        "train.schedule.name is 'cosin'; allowed: constant, cosine,",
    ),
    "unknown backbone": ("model:\n  backbone: MobilNetV2", 2, "Did you mean 'MobileNetV2'?"),
    "wrong type": ("train:\n\n  epochs: many", 3, f"train.epochs is 'many'; {NUMBER} at least 1 and at most"),
    "a number as text": ("train: {epochs: '3'}", 1, f"train.epochs is '3'; {NUMBER}"),
    "a float for an integer": ("train: {epochs: 3.5}", 1, f"train.epochs is 3.5; {NUMBER}"),
    "a boolean for a number": ("seed: true", 1, f"seed is true; {NUMBER} at least 0 and below 2147483648"),
    "too small": ("train: {batch_size: 0}", 1, f"train.batch_size is 0; {NUMBER} at least 1"),
    "unknown word": (
        "data: {resize: squish}",
        1,
        "data.resize is 'squish'; allowed: squash, crop, pad. Did you mean 'squash'",
    ),
    "word or mapping": (
        "augment: lite",
        1,
        "augment is 'lite'; allowed: none, light, paper or a mapping. Did you mean",
    ),
    "word or number": ("model: {head: {pre_pool: 0}}", 1, "pre_pool is 0; allowed: auto or a whole number at"),
    "word or boolean": ("train: {jit_compile: 3}", 1, "train.jit_compile is 3; allowed: auto or true, false"),
    "section as null": ("data:", 1, "data is null; allowed: a mapping"),
    "section as a list": ("train: [1]", 1, "train is a list of 1; allowed: a mapping"),
    "size of three": ("data: {image_size: [1, 2, 3]}", 1, "data.image_size is a list of 3; allowed: a"),
    "side too small": ("data:\n  image_size:\n    - 224\n    - 2", 4, f"data.image_size.1 is 2; {NUMBER}"),
    "range of one": ("augment: {brightness: [1]}", 1, "augment.brightness.1 is missing; allowed: a number"),
    "reversed range": ("augment:\n  brightness: [2, 1]", 2, "brightness must be two factors, the smaller first"),
    "missing key of a phase": (
        "train:\n  phases:\n    - epochs: 1\n    - {epoch: 2}",
        4,
        f"train.phases.1.epochs is missing; {NUMBER}",
    ),
    "unknown key of a phase": (
        "train:\n  phases:\n    - {epochs: 1, frieze: 2}",
        3,
        "phases.0.frieze is not an option of train.",
    ),
    "unknown key of freeze": (
        "train:\n  phases:\n    - {epochs: 1, freeze: {beneath: x}}",
        3,
        "freeze.beneath is not an option",
    ),
    "empty freeze": ("train:\n  phases:\n    - {epochs: 1, freeze: {}}", 3, "takes either {below: LAYER} or"),
    "unknown word for freeze": (
        "train:\n  phases:\n    - {epochs: 1, freeze: bakbone}",
        3,
        "or a mapping. Did you mean 'backbone'?",
    ),
    "no phases": ("train: {phases: []}", 1, "train.phases is a list of 0; allowed: a list of 1 to 20"),
    "class weight of 0": (
        "train:\n  class_weights:\n    cat: 0",
        3,
        "class_weights.cat is 0; allowed: a number above 0",
    ),
    "unknown monitor": ("train: {early_stopping: {monitor: val_los}}", 1, "Did you mean 'val_loss'?"),
    "group without a pattern": ("data:\n  split_strategy: group", 1, "data.group_regex is missing:"),
    "pattern without group": ("data:\n  group_regex: a", 2, "data.split_strategy is stratified, not group"),
    "invalid pattern": ("data: {split_strategy: group, group_regex: '('}", 1, "data.group_regex is '(': not a"),
    "both folders": ("data:\n  dir: a\n  train_dir: b", 2, "data.dir and data.train_dir are both given"),
    "no training folder": ("data: {test_dir: b}", 1, "data.train_dir is missing: data.validation_dir and"),
    "version": ("schema_version: 2", 1, "schema_version is 2; allowed: 1"),
    "name with a path": ("name: ../x", 1, f"name is '../x': {FOLDER} without slashes"),
    "absolute name": ("name: /x", 1, f"name is '/x': {FOLDER}"),
    "hidden name": ("name: .x", 1, f"name is '.x': {FOLDER}"),
    "name like an option": ("name: -x", 1, f"name is '-x': {FOLDER}"),
    "empty name": ("name: ''", 1, f"name is '': {FOLDER}"),
    "long name": (f"name: {'é' * 101}", 1, "up to 200 bytes"),
    "escape sequence": ('resize: "\\e[31m\\n"', 1, "resize is not a key of a config"),
    "escape sequence as a value": ('data: {resize: "\\e[31m\\n"}', 1, "data.resize is '\\x1b[31m\\n'; allowed:"),
    "path with a NUL": ('data: {dir: "a\\0b"}', 1, "a path cannot contain a NUL"),
    "long text": (f"data: {{resize: {'x' * 5000}}}", 1, "xxx...; allowed: squash"),
    **{
        f"not a mapping: {text}": (text, 1, "a config is a mapping of keys; found")
        for text in ("- 1", "5", "text", "[]")
    },
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistake_is_reported_with_file_line_key_value_and_allowed_values(tmp_path: Path, case: str) -> None:
    text, line, message = MISTAKES[case]
    path = write(tmp_path, text)
    found = errors(path)
    assert all(re.match(re.escape(str(path)) + r":\d+: ", one) for one in found)
    assert any(one.startswith(f"{path}:{line}: ") and message in one for one in found), found


def test_every_mistake_is_reported_on_its_own_line(tmp_path: Path) -> None:
    path = write(tmp_path, "sed: 1\ntrain:\n  epochs: no\n  batchsize: 3\nmodel: {backbone: x}")
    assert sorted(int(line.removeprefix(f"{path}:").split(":")[0]) for line in errors(path)) == [1, 3, 4, 5]


def test_command_line_mistakes_name_the_option_and_do_not_hide_mistakes_in_the_file(tmp_path: Path) -> None:
    assert errors(None, "train.epoch=3") == [
        "--set train.epoch=3: train.epoch is not an option of train. Did you mean 'epochs'?"
    ]
    with pytest.raises(ConfigError, match=r"^--head: model\.head\.name is 'wize'; .*Did you mean 'wise'\?$"):
        load_config(None, [head_option("wize")])
    assert errors(None, "a.b.c.d=1")[0].startswith("--set a.b.c.d=1: a is not a key of a config.")
    assert errors(None, "train.optimizer.x.y=1")[0].startswith("--set train.optimizer.x.y=1: train.optimizer.x is not")
    path = write(tmp_path, "train: 5")
    assert errors(path, "train.epochs=3") == [f"{path}:1: train is 5; allowed: a mapping"]
    path = write(tmp_path, "model:\n  head:\n    name: wise\n    prepool: 2")
    with pytest.raises(ConfigError, match=r"config\.yaml:4: model\.head\.prepool is not an option of the head 'gap'"):
        load_config(path, [head_option("gap")])


@pytest.mark.parametrize(
    "text", ["train.epochs", "=3", ".a=3", "a..b=3", "a=[1", "a=!!x 1", "a=.nan", "a={b: 1, b: 2}"]
)
def test_setting_that_is_not_key_equals_yaml_is_a_usage_error(text: str) -> None:
    with pytest.raises(UsageError, match=r"^--set "):
        parse_set(text)
