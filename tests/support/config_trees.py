"""Random trees of valid and invalid settings, configs in files, and the errors in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from odd_names import shows_itself

from wisesr_cli.config.reader import Override, load_config, parse_set
from wisesr_cli.config.schema import NAMED, Config
from wisesr_cli.errors import ConfigError

SCHEMA = Config.model_json_schema()

KEYS = sorted({key for node in (SCHEMA, *SCHEMA["$defs"].values()) for key in node.get("properties", {})})

WORDS = sorted(
    {word for named in NAMED.values() for word in named.records}
    | {
        "none",
        "light",
        "paper",
        "group",
        "auto",
        "(?\udcff",
        "loss",
        "val_loss",
        "backbone",
        "imagenet",
        "Xception",
        "224x96",
        "(",
    }
)

SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(WORDS) | st.text(max_size=5)
    | st.sampled_from([0, 1, 2, 224, 0.5, 1e-3, 10**40, "\udcff", "\0", "~x", "a.b", "train.epochs"])
)  # fmt: skip


def section(schema: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Return mappings with the keys of a section and mostly invalid values."""
    keys = list(schema.get("properties", {}))
    return st.dictionaries(st.sampled_from([*keys, "name", "xyzzy"]), TREES, max_size=4)


TREES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)

CONFIGS = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(("schema_version", "name", "output_dir", "seed", "xyzzy"), TREES),
        **{
            key: TREES | section(SCHEMA["$defs"][record])
            for key, record in (
                ("data", "DataConfig"),
                ("train", "TrainConfig"),
                ("model", "ModelConfig"),
                ("augment", "AugmentConfig"),
            )
        },
    },
)


def write(folder: Path, text: str, name: str = "config.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def errors(source: Path | None, *settings: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(source, [parse_set(text) for text in settings])
    lines = str(caught.value).splitlines()
    assert all(shows_itself(line) for line in lines)
    return lines


def head_option(value: str) -> Override:
    return Override(("model", "head", "name"), value, "--head")


# A small validator for the JSON Schema, which knows the keywords that occur in it.

TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "number": (int, float), "integer": int, "boolean": bool,
    "null": type(None),
}  # fmt: skip
KNOWN_WORDS = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "default", "description", "discriminator", "enum",
    "examples", "exclusiveMaximum", "exclusiveMinimum", "items", "maxItems", "maximum", "minItems", "minimum", "oneOf",
    "prefixItems", "properties", "required", "title", "type",
}  # fmt: skip


def complaints(value: Any, schema: dict[str, Any] = SCHEMA, where: str = "config") -> list[str]:
    """Return how a JSON value violates a schema."""
    assert set(schema) <= KNOWN_WORDS, set(schema) - KNOWN_WORDS
    if "$ref" in schema:
        return complaints(value, SCHEMA["$defs"][schema["$ref"].rsplit("/", 1)[1]], where)
    alternatives = schema.get("anyOf") or schema.get("oneOf")
    if alternatives:
        fitting = [one for one in alternatives if not complaints(value, one, where)]
        if "oneOf" in schema and len(fitting) > 1:
            return [f"{where}: fits {len(fitting)} alternatives"]
        return [] if fitting else [f"{where}: {value!r} fits no alternative"]
    if "const" in schema and value != schema["const"]:
        return [f"{where}: {value!r} is not {schema['const']!r}"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is not one of {schema['enum']}"]
    kind = schema.get("type")
    if kind and (not isinstance(value, TYPES[kind]) or (isinstance(value, bool) and kind in {"integer", "number"})):
        return [f"{where}: {value!r} is no {kind}"]
    found = [
        f"{where}: {value!r} against {word} {schema[word]}"
        for word, holds in (
            ("minimum", lambda: value >= schema["minimum"]),
            ("maximum", lambda: value <= schema["maximum"]),
            ("exclusiveMinimum", lambda: value > schema["exclusiveMinimum"]),
            ("exclusiveMaximum", lambda: value < schema["exclusiveMaximum"]),
            ("minItems", lambda: len(value) >= schema["minItems"]),
            ("maxItems", lambda: len(value) <= schema["maxItems"]),
        )
        if word in schema and not holds()
    ]
    if isinstance(value, list):
        positions = schema.get("prefixItems", [schema.get("items", {})] * len(value))
        for index, (item, one) in enumerate(zip(value, positions, strict=False)):
            found += complaints(item, one, f"{where}[{index}]")
    if isinstance(value, dict):
        properties = schema.get("properties", {})
        found += [f"{where}: {key} is missing" for key in schema.get("required", ()) if key not in value]
        for key, item in value.items():
            rest = schema.get("additionalProperties", {})
            if key not in properties and rest is False:
                found.append(f"{where}: {key} is not allowed")
            else:
                found += complaints(item, properties.get(key, rest or {}), f"{where}.{key}")
    return found
