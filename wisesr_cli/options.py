"""The base of every record of options, and the one way to choose such a record by its name.

Options are checked strictly: nothing is converted, nothing unknown is let in. The meaning of each field stands under it
and becomes the documentation of the config and of its JSON Schema.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import reduce
from operator import or_
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Discriminator, Tag


def _describe_name(schema: dict[str, Any]) -> None:
    """Let editors show what a record is where its name is typed."""
    name = schema.get("properties", {}).get("name", {})
    if "const" in name:
        name.setdefault("description", schema["description"])


class Options(BaseModel):
    """A frozen, strictly checked record of settings."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        json_schema_extra=_describe_name,
    )


def one_of(choices: Iterable[type[Options]], *, default: str) -> Any:
    """Return a type that reads a mapping as the record whose `name` it gives, or as `default` without a name.

    Every record has a field `name` with a literal type; that literal is what the mapping's `name` is compared with.
    """

    def tag_of(value: Any) -> str:
        name = value.get("name", default) if isinstance(value, dict) else getattr(value, "name", None)
        return name if isinstance(name, str) else ""

    tagged = [Annotated[choice, Tag(choice.model_fields["name"].default)] for choice in choices]
    return Annotated[reduce(or_, tagged), Discriminator(tag_of)]
