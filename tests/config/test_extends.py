"""A config that extends others: what wins, what is refused, and where mistakes are named."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_trees import errors, write

from wisesr_cli.config.reader import load_config
from wisesr_cli.errors import ConfigError


# The example of the documentation, comments and all.
@pytest.mark.reliability(49)
def test_extends_shows_no_line_of_a_file_that_is_no_config(tmp_path: Path) -> None:
    (tmp_path / "shadow").write_text("root:$6$secret:19000::::::\n", encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, "extends: shadow", "a.yaml"))
    assert "a config ends in .yaml or .yml" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_a_run_s_own_config_may_be_larger_than_one_that_is_typed(tmp_path: Path) -> None:
    weights = "\n".join(f"    class {number}: 2.0" for number in range(8000))
    path = write(tmp_path, f"train:\n  class_weights:\n{weights}", "config.yaml")
    with pytest.raises(ConfigError, match="larger than 64 KB"):
        load_config(path)
    assert len(load_config(path, of_run=True).config.train.class_weights) == 8000


def test_extends_lays_a_file_over_its_base_over_that_one_s_base(tmp_path: Path) -> None:
    write(tmp_path, "seed: 1\ntrain: {epochs: 1, batch_size: 1}\nmodel: {backbone: Xception}", "a.yaml")
    write(tmp_path, "extends: a.yaml\nseed: 2\ntrain: {epochs: 2}", "b.yaml")
    config = load_config(write(tmp_path, "extends: ../b.yaml\nseed: 3", "sub/c.yaml")).config
    assert (config.seed, config.train.epochs, config.train.batch_size) == (3, 2, 1)
    assert config.model.backbone == "Xception"


def test_a_head_with_another_name_replaces_the_base_s_head_and_with_the_same_name_adds_to_it(tmp_path: Path) -> None:
    write(tmp_path, "model: {head: {name: wise, pre_pool: 3, dropout: 0.5}}", "base.yaml")
    other = load_config(write(tmp_path, "extends: base.yaml\nmodel: {head: {name: gap}}")).config.model.head
    assert other.model_dump() == {"name": "gap", "classifier_initializer": "paper", "dropout": 0.0, "hidden": ()}
    same = load_config(write(tmp_path, "extends: base.yaml\nmodel: {head: {pooling: valid}}")).config.model.head
    assert (same.name, same.model_dump()["pre_pool"], same.dropout) == ("wise", 3, 0.5)


def test_a_base_that_is_missing_or_extends_itself_is_an_error_with_a_place(tmp_path: Path) -> None:
    missing = errors(write(tmp_path, "seed: 1\nextends: gone.yaml"))[0]
    assert "config.yaml:2: extends 'gone.yaml': no such file" in missing
    assert "extends itself" in errors(write(tmp_path, "extends: config.yaml"))[0]
    assert "config.yaml:1: extends is 5" in errors(write(tmp_path, "extends: 5"))[0]
    for number in range(12):
        write(tmp_path, f"extends: {number + 1}.yaml", f"{number}.yaml")
    write(tmp_path, "seed: 1", "12.yaml")
    assert "more than 10" in errors(tmp_path / "0.yaml")[0]


def test_an_error_in_a_base_names_the_base_s_line(tmp_path: Path) -> None:
    base = write(tmp_path, "\n\ntrain:\n  epoch: 3", "base.yaml")
    child = write(tmp_path, "extends: base.yaml\ntrain: {batch_size: 0}")
    lines = errors(child)
    assert sorted(lines) == sorted(
        [
            f"{base}:4: train.epoch is not an option of train. Did you mean 'epochs'?",
            f"{child}:2: train.batch_size is 0; allowed: a whole number at least 1 and at most 65536",
        ]
    )
