"""The JSON Schema with which editors complete and check configs agrees with the config reader."""

from __future__ import annotations

from typing import Any

import pytest
from config_trees import SCHEMA, complaints

from wisesr_cli.config.mistakes import validate
from wisesr_cli.config.yaml_reader import Document
from wisesr_cli.errors import ConfigError


def test_json_schema_reads_a_mapping_without_a_name_as_the_default_kind() -> None:
    for section, options in (("optimizer", {"learning_rate": 1e-4}), ("schedule", {"warmup_epochs": 2}), ("loss", {})):
        assert complaints({"train": {section: options}}) == []
    assert complaints({"model": {"head": {"dropout": 0.5, "pre_pool": 2}}}) == []
    assert complaints({"train": {"optimizer": {"momentum": 0.5}}})  # an option of sgd, which must be named
    with pytest.raises(ConfigError):
        validate(Document({"train": {"optimizer": {"momentum": 0.5}}}))


@pytest.mark.parametrize(
    "tree",
    [{"sed": 1}, {"seed": -1}, {"train": {"epochs": "3"}}, {"model": {"head": {"name": "gap", "pre_pool": 2}}},
     {"data": {"image_size": [1]}}, {"augment": "lite"}, {"train": {"phases": []}}, {"train": {"phases": [{}]}}],
)  # fmt: skip
def test_json_schema_rejects_what_the_config_reader_rejects(tree: dict[str, Any]) -> None:
    assert complaints(tree)
    with pytest.raises(ConfigError):
        validate(Document(tree))


def properties() -> list[tuple[str, dict[str, Any]]]:
    """Return the name and the schema of every property in the JSON Schema."""
    nodes = {"config": SCHEMA, **SCHEMA["$defs"]}
    assert len(nodes) > 15
    return [(f"{name}.{key}", schema) for name, node in nodes.items() for key, schema in node["properties"].items()]


def test_every_property_of_the_json_schema_has_a_title_and_a_description() -> None:
    lacking = []
    for name, schema in properties():
        target = SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else {}
        if not (schema.get("description") or target.get("description")) or not schema.get("title"):
            lacking.append(name)
    assert lacking == []


def test_every_property_of_the_json_schema_has_valid_examples() -> None:
    for name, schema in properties():
        assert schema["examples"], name
        assert [complaints(example, schema, name) for example in schema["examples"]] == [[]] * len(schema["examples"])


@pytest.mark.parametrize("section", [("data",), ("train",), ("model",), ("model", "head"), ("augment",)])
def test_every_example_in_a_section_is_a_valid_config(section: tuple[str, ...]) -> None:
    record = {"augment": "AugmentConfig", "head": "WiseOptions"}.get(section[-1], f"{section[-1].title()}Config")
    needs: dict[str, dict[str, Any]] = {
        "validation_dir": {"train_dir": "x"},
        "test_dir": {"train_dir": "x"},
        "group_regex": {"split_strategy": "group"},
        "label_separator": {"manifest": "x.csv"},
        "statistics": {"channels": 1},
    }
    for key, schema in SCHEMA["$defs"][record]["properties"].items():
        for example in schema["examples"]:
            tree: dict[str, Any] = {key: example, **needs.get(key, {})}
            if example == "group":
                tree["group_regex"] = "x"
            for name in reversed(section):
                tree = {name: tree}
            if key == "label_separator" or example == "multilabel":
                tree.setdefault("model", {})["task"] = "multilabel"
            assert validate(Document(tree))
