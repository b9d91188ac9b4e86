"""The base of every record of options, and the one way to choose such a record by its name.

Options are checked strictly: nothing is converted, nothing unknown is let in. The meaning of each field stands under it
and becomes the documentation of the config and of its JSON Schema.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable, Mapping
from functools import cache, reduce
from itertools import pairwise
from operator import or_
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Tag
from pydantic.json_schema import GenerateJsonSchema


def _describe_name(schema: dict[str, Any]) -> None:
    """Let editors show what a record is where its name is typed."""
    name = schema.get("properties", {}).get("name", {})
    if "const" in name:
        name.setdefault("description", schema["description"])


class SchemaWithMeanings(GenerateJsonSchema):
    """Gives fields the text under them as description.

    Pydantic can do so, but reads the source of every record when it is defined: a tenth of the time until a typo in a
    config is answered, which needs none of the texts.
    """

    def model_schema(self, schema: Any) -> dict[str, Any]:
        """Return the schema of a record, its fields described."""
        described = super().model_schema(schema)
        for record in schema["cls"].__mro__:
            for name, meaning in _meanings_in(record.__module__).get(record.__name__, {}).items():
                described["properties"][name].setdefault("description", meaning)
        return described


@cache
def _meanings_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """Return the texts under the fields of a module's classes, by class and field."""
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
    """Return a type that reads a mapping as the record whose `name` it gives, or as `default` without a name.

    Every record has a field `name` with a literal type; that literal is what the mapping's `name` is compared with.
    """

    def tag_of(value: Any) -> str:
        name = value.get("name", default) if isinstance(value, dict) else getattr(value, "name", None)
        return name if isinstance(name, str) else ""

    tagged = [Annotated[choice, Tag(choice.model_fields["name"].default)] for choice in choices]
    return Annotated[reduce(or_, tagged), Discriminator(tag_of)]
