"""Heads named on the command line, such as `wise:pooling=valid` and `wise:paper`, and the options of a `preset`."""

from __future__ import annotations

from pathlib import Path

import pytest
from config_trees import write

from wisesr_cli.config.reader import load_config, parse_head, parse_set
from wisesr_cli.errors import ConfigError, UsageError


def test_head_and_its_options_are_parsed_from_one_word() -> None:
    head = parse_head("wise:pooling=valid:initializer=paper:pre_pool=3")
    assert head.model_dump(exclude_defaults=True) == {"pooling": "valid", "initializer": "paper", "pre_pool": 3}
    (hidden,) = parse_head("wise:hidden=[{units: 8, activation: gelu}]:dropout=0.5").hidden
    assert (hidden.units, hidden.activation) == (8, "gelu")
    base = load_config(None, [parse_set("model.head.dropout=0.5")]).config.model.head
    assert parse_head("wise:pooling=valid", base=base).dropout == 0.5
    assert parse_head("gap", base=base) == parse_head("gap:dropout=0.5")  # an option of every head
    with pytest.raises(ConfigError, match=r"Did you mean 'wise'\?"):
        parse_head("wize")
    with pytest.raises(ConfigError, match=r"model\.head\.pre_pool is not an option of the head 'gap'"):
        parse_head("gap:pre_pool=2")


PUBLISHED = {
    "pooling": "valid",
    "constraint": "non_negative",
    "initializer": "paper",
    "classifier_initializer": "paper",
}


def test_paper_preset_expands_to_the_published_options() -> None:
    head = load_config(None, [parse_set("model.head.preset=paper")]).config.model.head
    assert head == parse_head("wise:paper") == parse_head("wise:" + ":".join(f"{k}={v}" for k, v in PUBLISHED.items()))
    assert head.model_dump() == {"name": "wise", "pre_pool": "auto", "dropout": 0.0, "hidden": (), **PUBLISHED}
    without_pooling = {name: value for name, value in PUBLISHED.items() if name != "pooling"}
    depthwise = parse_head("depthwise:paper").model_dump()
    assert depthwise == {"name": "depthwise", "dropout": 0.0, "hidden": (), **without_pooling}
    with pytest.raises(ConfigError, match=r"model\.head\.preset is not an option of the head 'gap'"):
        parse_head("gap:paper")
    with pytest.raises(UsageError, match="or wise:paper"):
        parse_head("wise:papre")


def test_preset_overrides_earlier_options_but_not_those_given_with_or_after_it(tmp_path: Path) -> None:
    beside = write(tmp_path, "model: {head: {preset: paper, pooling: tile, dropout: 0.5}}", "beside.yaml")
    head = load_config(beside).config.model.head.model_dump()
    assert head == {"name": "wise", "pre_pool": "auto", "dropout": 0.5, "hidden": (), **PUBLISHED, "pooling": "tile"}
    extending = write(tmp_path, "extends: beside.yaml\nmodel: {head: {preset: paper, constraint: none}}", "two.yaml")
    head = load_config(extending).config.model.head.model_dump()
    assert (head["pooling"], head["constraint"], head["dropout"]) == ("valid", "none", 0.5)
    given = [parse_set("model.head.constraint=none"), parse_set("model.head.preset=paper")]
    assert load_config(beside, given).config.model.head.model_dump()["constraint"] == "non_negative"
    assert load_config(beside, given[::-1]).config.model.head.model_dump()["constraint"] == "none"
    assert "preset" not in load_config(beside).config.to_yaml()  # a saved config lists every option instead
