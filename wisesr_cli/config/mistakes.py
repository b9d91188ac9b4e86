"""Turns pydantic's validation errors into one line per mistake, for the person who wrote the config.

Each line gives file and line (or the option typed), key, value, allowed values and the nearest spelling. The allowed
values come from the JSON Schema, so they are defined only once.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from pydantic import ValidationError
from pydantic.json_schema import GenerateJsonSchema

from wisesr_cli.config.schema import NAMED, Config
from wisesr_cli.config.yaml_reader import Document, KeyPath
from wisesr_cli.errors import ConfigError
from wisesr_cli.text import joined, nearest, visible


def validate(document: Document) -> Config:
    """Return the config that a document describes, or raise a `ConfigError` with a line for every mistake."""
    try:
        return Config.model_validate(document.value)
    except ValidationError as error:
        lines = _Explainer(document).lines(error)
        raise ConfigError("\n".join(lines)) from None


class _AllowedOnly(GenerateJsonSchema):
    """Generates a JSON Schema without defaults, which do not restrict values but take half of the time."""

    def default_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a field without its default."""
        return self.generate_inner(schema["schema"])


@cache
def _schema() -> dict[str, Any]:
    return Config.model_json_schema(schema_generator=_AllowedOnly)


@dataclass
class _Explainer:
    document: Document
    schema: dict[str, Any] = field(default_factory=_schema)

    def lines(self, error: ValidationError) -> list[str]:
        """Return a line per key with a mistake, in the order of the file's keys."""
        found: dict[KeyPath, str] = {}
        for item in error.errors(include_url=False):
            path = self.path_of(item["loc"], missing=item["type"] == "missing")
            offending = self.value(path)
            if item["type"] == "union_tag_invalid" and isinstance(offending, dict) and "name" in offending:
                path = (*path, "name")
            if path not in found:
                found[path] = self.line(path, item)
        return list(found.values())

    def path_of(self, loc: tuple[str | int, ...], *, missing: bool) -> KeyPath:
        """Return the keys of a location, without the union tags that pydantic inserts."""
        path: KeyPath = ()
        tree = self.document.value
        for position, part in enumerate(loc):
            known = (isinstance(tree, dict) and part in tree) or (isinstance(tree, list) and isinstance(part, int))
            if known and not (isinstance(tree, list) and int(part) >= len(tree)):
                path, tree = (*path, part), tree[part]
            elif missing and position == len(loc) - 1:
                path = (*path, part)
        return path

    def line(self, path: KeyPath, item: Any) -> str:
        """Return one line: place, key, value, allowed values."""
        key = ".".join(visible(part) for part in path)
        kind = item["type"]
        if kind == "extra_forbidden":
            return f"{self.place(path)}: {self.unknown_key(path)}"
        if kind == "missing":
            return f"{self.place(path[:-1])}: {key} is missing; allowed: {self.allowed(path)}"
        if kind == "value_error":
            message = visible(item["ctx"]["error"])
            named = re.search(r"\b(?:[a-z_]+\.)+[a-z_]+\b", message)
            if named and not isinstance(self.value(path), str):
                return f"{self.place(self.nearest_place(tuple(named.group().split('.'))))}: {message}"
            return f"{self.place(path)}: {key} is {shown(self.value(path))}: {message}"
        return f"{self.place(path)}: {key} is {shown(self.value(path))}; allowed: {self.allowed(path)}{self.near(path)}"

    def unknown_key(self, path: KeyPath) -> str:
        """Return the message for an unknown key, with the nearest known one."""
        schema = self.schema_at(path[:-1])
        keys = list(schema.get("properties", {}))
        key = ".".join(visible(part) for part in path)
        place = "a key of a config"
        if path[:-1] in NAMED:
            named = NAMED[path[:-1]]
            parent = self.value(path[:-1])
            place = f"an option of the {named.kind} '{visible(parent.get('name', named.default))}'"
        elif len(path) > 1:
            place = f"an option of {'.'.join(visible(part) for part in path[:-1])}"
        suggestion = nearest(str(path[-1]), keys)
        return f"{key} is not {place}.{suggestion or f' Allowed: {joined(keys)}'}"

    def near(self, path: KeyPath) -> str:
        """Return the suggestion for a misspelt word, or an empty string."""
        value = self.value(path)
        return "." + suggestion if isinstance(value, str) and (suggestion := nearest(value, self.words(path))) else ""

    def words(self, path: KeyPath) -> list[str]:
        """Return the words allowed at a path."""
        if path[:-1] in NAMED and path[-1] == "name":
            return list(NAMED[path[:-1]].records)
        nodes = [self.resolve(self.schema_at(path))]
        words: list[str] = []
        while nodes:
            node = nodes.pop()
            nodes.extend(self.resolve(child) for child in (*node.get("anyOf", ()), *node.get("oneOf", ())))
            words.extend(word for word in (*node.get("enum", ()), node.get("const")) if isinstance(word, str))
        return words

    def allowed(self, path: KeyPath) -> str:
        """Return a description of the values allowed at a path."""
        if path[:-1] in NAMED and path[-1] == "name":
            return joined(self.words(path))
        return self.described(self.schema_at(path))

    def described(self, schema: dict[str, Any]) -> str:
        """Return a description of the values that a node of the JSON Schema allows."""
        schema = self.resolve(schema)
        alternatives = [*schema.get("anyOf", ()), *schema.get("oneOf", ())]
        if alternatives:
            return " or ".join(dict.fromkeys(self.described(child) for child in alternatives))
        if "enum" in schema:
            return joined(schema["enum"])
        if "const" in schema:
            return _plain(schema["const"])
        describe = _TYPES.get(str(schema.get("type")))
        return describe(schema) if describe is not None else "another value"

    def schema_at(self, path: KeyPath) -> dict[str, Any]:
        """Return the node of the JSON Schema for a path of the document."""
        node = self.resolve(self.schema)
        for depth, key in enumerate(path):
            node = self.resolve(self.choose(node, self.value(path[:depth])))
            properties = node.get("properties", {})
            if key in properties:
                node = properties[key]
            elif isinstance(key, int):
                positions = node.get("prefixItems", ())
                node = positions[key] if key < len(positions) else node.get("items", {})
            else:
                node = node.get("additionalProperties") or {}
        return self.resolve(self.choose(self.resolve(node), self.value(path)))

    def choose(self, node: dict[str, Any], value: Any) -> dict[str, Any]:
        """Return the alternative that fits a mapping or a list; the node itself for anything else."""
        alternatives = [self.resolve(child) for child in (*node.get("anyOf", ()), *node.get("oneOf", ()))]
        kind = "object" if isinstance(value, dict) else "array" if isinstance(value, list) else None
        fitting = [child for child in alternatives if child.get("type") == kind or "oneOf" in child]
        if kind is None or not fitting:
            return node
        if len(fitting) == 1:
            return self.choose(fitting[0], value)
        by_name = {child.get("properties", {}).get("name", {}).get("const"): child for child in fitting}
        defaults = {named.default for named in NAMED.values()}
        default = next((name for name in by_name if name in defaults), None)
        return by_name.get(value.get("name", default), node) if isinstance(value, dict) else node

    def resolve(self, node: dict[str, Any]) -> dict[str, Any]:
        """Follow a `$ref`."""
        while "$ref" in node:
            node = self.schema["$defs"][node["$ref"].rsplit("/", 1)[1]]
        return node

    def value(self, path: KeyPath) -> Any:
        """Return the document's value at a path, or None."""
        tree = self.document.value
        for key in path:
            try:
                tree = tree[key]
            except (KeyError, IndexError, TypeError):
                return None
        return tree

    def nearest_place(self, path: KeyPath) -> KeyPath:
        """Return the longest part of a path that has a place."""
        while path and path not in self.document.places:
            path = path[:-1]
        return path

    def place(self, path: KeyPath) -> str:
        """Return the place of a key, as file:line or the option typed."""
        return visible(self.document.places.get(self.nearest_place(path), "config"))


def _bounds(schema: dict[str, Any]) -> str:
    texts = []
    for key, text in (("minimum", "at least"), ("exclusiveMinimum", "above"), ("maximum", "at most")):
        if key in schema:
            texts.append(f"{text} {_number(schema[key])}")
    if "exclusiveMaximum" in schema:
        texts.append(f"below {_number(schema['exclusiveMaximum'])}")
    return f" {' and '.join(texts)}" if texts else ""


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:g}"


def _list(schema: dict[str, Any]) -> str:
    low, high = schema.get("minItems"), schema.get("maxItems")
    if low is None:
        return "a list"
    return f"a list of {low}" if low == high else f"a list of {low} to {high}"


_TYPES: dict[str, Callable[[dict[str, Any]], str]] = {
    "integer": lambda schema: "a whole number" + _bounds(schema),
    "number": lambda schema: "a number" + _bounds(schema),
    "string": lambda _: "text",
    "boolean": lambda schema: "true, false",
    "null": lambda schema: "null",
    "array": _list,
    "object": lambda schema: "a mapping",
}


def _plain(value: Any) -> str:
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else visible(value)


def shown(value: Any) -> str:
    """Return a value as a user would type it, shortened."""
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = f"'{visible(value)}'" if isinstance(value, str) else _plain(value)
    return text if len(text) <= 60 else text[:57] + "..."
