"""Configs that extend others: precedence, rejected bases, and the location of errors."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_trees import errors, write

from wisesr_cli.config.reader import load_config
from wisesr_cli.errors import ConfigError


@pytest.mark.reliability(49)
def test_extends_rejects_a_non_config_file_without_showing_its_content(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:$6$secret:19000::::::\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "extends: shadow", "a.yaml"))
    assert "a config ends in .yaml or .yml" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_config_saved_by_a_run_may_exceed_the_size_limit(tmp_path: Path) -> None:
    weights = "\n".join(f"    class {number}: 2.0" for number in range(8000))
    path = write(tmp_path, f"train:\n  class_weights:\n{weights}", "config.yaml")
    with pytest.raises(ConfigError, match="larger than 64 KB"):
        load_config(path)
    assert len(load_config(path, of_run=True).config.train.class_weights) == 8000


def test_each_file_in_a_chain_of_extends_overrides_its_base(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1\ntrain: {epochs: 1, batch_size: 1}\nmodel: {backbone: Xception}", "a.yaml")
    write(tmp_path, "extends: a.yaml\nseed: 2\ntrain: {epochs: 2}", "b.yaml")
    config = load_config(write(tmp_path, "extends: ../b.yaml\nseed: 3", "sub/c.yaml")).config
    assert (config.seed, config.train.epochs, config.train.batch_size) == (3, 2, 1)
    assert config.model.backbone == "Xception"


def test_another_head_replaces_the_inherited_one_and_the_same_head_extends_it(tmp_path: Path) -> None:
    write(tmp_path, "model: {head: {name: wise, pre_pool: 3, dropout: 0.5}}", "base.yaml")
    other = load_config(write(tmp_path, "extends: base.yaml\nmodel: {head: {name: gap}}")).config.model.head
    assert other.model_dump() == {"name": "gap", "classifier_initializer": "paper", "dropout": 0.0, "hidden": ()}
    same = load_config(write(tmp_path, "extends: base.yaml\nmodel: {head: {pooling: valid}}")).config.model.head
    assert (same.name, same.model_dump()["pre_pool"], same.dropout) == ("wise", 3, 0.5)


def test_missing_invalid_circular_or_too_deep_extends_is_an_error(tmp_path: Path) -> None:
    missing = errors(write(tmp_path, "seed: 1\nextends: gone.yaml"))[0]
    assert "config.yaml:2: extends 'gone.yaml': no such file" in missing
    assert "extends itself" in errors(write(tmp_path, "extends: config.yaml"))[0]
    assert "config.yaml:1: extends is 5" in errors(write(tmp_path, "extends: 5"))[0]
    for number in range(12):
        write(tmp_path, f"extends: {number + 1}.yaml", f"{number}.yaml")
    write(tmp_path, "seed: 1", "12.yaml")
    assert "more than 10" in errors(tmp_path / "0.yaml")[0]


def test_error_in_a_base_names_the_line_in_the_base(tmp_path: Path) -> None:
    base = write(tmp_path, "\n\ntrain:\n  epoch: 3", "base.yaml")
    child = write(tmp_path, "extends: base.yaml\ntrain: {batch_size: 0}")
    lines = errors(child)
    assert sorted(lines) == sorted(
        [
            f"{base}:4: train.epoch is not an option of train. Did you mean 'epochs'?",
            f"{child}:2: train.batch_size is 0; allowed: a whole number at least 1 and at most 65536",
        ]
    )
