"""Building blocks of config records: strict fields with descriptions, choices by name, image sizes, paths."""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from itertools import pairwise
from operator import or_
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema
from pydantic.json_schema import GenerateJsonSchema


def _describe_name(schema: dict[str, Any]) -> None:
    """Give the field `name` the description of the record, for editors."""
    name = schema.get("properties", {}).get("name", {})
    if "const" in name:
        name.setdefault("description", schema["description"])


def _obvious_examples(schema: dict[str, Any]) -> list[Any]:
    """Return examples for a field that defines none: its allowed values, or its default."""
    if "const" in schema:
        return [schema["const"]]
    if "enum" in schema:
        return list(schema["enum"])
    return [False, True] if schema.get("type") == "boolean" else [schema["default"]]


class SchemaWithMeanings(GenerateJsonSchema):
    """Describes fields by the docstrings under them; every field has a title and examples, too.

    Pydantic can do so, but parses the source when a record is defined, which takes a tenth of the time needed to report
    a typo in a config.
    """

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a record with its fields described."""
        described = super().model_schema(schema)
        for name, field in described["properties"].items():
            field.setdefault("title", name.replace("_", " ").title())
            if "examples" not in field:
                field["examples"] = _obvious_examples(field)
        for record in schema["cls"].__mro__:
            for name, meaning in _meanings_in(record.__module__).get(record.__name__, {}).items():
                described["properties"][name].setdefault("description", meaning)
        return described


@cache
def _meanings_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """Return the docstrings of the fields of a module's classes, by class and field."""
    if module.partition(".")[0] != __name__.partition(".")[0]:
        return {}
    nodes = ast.parse(inspect.getsource(sys.modules[module])).body
    return {node.name: dict(_meanings_of(node)) for node in nodes if isinstance(node, ast.ClassDef)}


def _meanings_of(node: ast.ClassDef) -> Iterable[tuple[str, str]]:
    for field, text in pairwise(node.body):
        match field, text:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(meaning))):
                yield name, inspect.cleandoc(meaning)


class Options(BaseModel):
    """A frozen, strictly checked record of settings."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        json_schema_extra=_describe_name,
    )

    @classmethod
    def model_json_schema(cls, *args: Any, **named: Any) -> dict[str, Any]:
        """Return the JSON Schema, with the meaning of every field."""
        return super().model_json_schema(*args, **{"schema_generator": SchemaWithMeanings, **named})


def one_of(choices: Iterable[type[Options]], *, default: str) -> Any:
    """Return a type that parses a mapping as the record given by its `name`, or as `default` without a name.

    Every record has a field `name` with a literal type, which is compared with the mapping's `name`.
    """

    def tag_of(value: Any) -> str:
        name = value.get("name", default) if isinstance(value, dict) else getattr(value, "name", None)
        return name if isinstance(name, str) else ""

    tagged = [Annotated[choice, Tag(choice.model_fields["name"].default)] for choice in choices]
    return Annotated[reduce(or_, tagged), Discriminator(tag_of)]


def check_path(path: str) -> str:
    """Return a path that is valid in a file system; raises `ValueError` otherwise."""
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("no file can have this name: it holds half of a character (a lone surrogate)") from None
    if "\0" in path:
        raise ValueError("a path cannot contain a NUL character")
    return path


def _as_size(value: Any) -> Any:
    """Accept 224, [224, 320] and "224x320", all as (height, width)."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}(x\d{1,6})?", value):
        value = [int(side) for side in value.split("x")]
        value = value * 2 if len(value) == 1 else value
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value, value]
    return tuple(value) if isinstance(value, list) else value


def _as_path(value: Any) -> Any:
    return Path(check_path(value)) if isinstance(value, str) and value else value


def kind_of(value: Any) -> str:
    """Return the tag of a setting that is either a name or a mapping."""
    return "mapping" if isinstance(value, dict | Options) else "name"


SMALLEST_SIDE, LARGEST_SIDE = 8, 8192  # pixels; a batch of larger images does not fit in memory
_SIDE_SCHEMA = {"type": "integer", "minimum": SMALLEST_SIDE, "maximum": LARGEST_SIDE}
Side = Annotated[int, Field(ge=SMALLEST_SIDE, le=LARGEST_SIDE)]
ImageSize = Annotated[
    tuple[Side, Side],
    BeforeValidator(_as_size),
    WithJsonSchema({"anyOf": [_SIDE_SCHEMA, {"type": "array", "items": _SIDE_SCHEMA, "minItems": 2, "maxItems": 2}]}),
]
FolderPath = Annotated[Path, BeforeValidator(_as_path), WithJsonSchema({"type": "string"})]
