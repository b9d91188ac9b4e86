"""Pages of the site generated from the code, so that they are never out of date: commands, config keys, JSON fields.

Each function returns the Markdown of one page.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from wisesr_cli.cli.main import COMMANDS, LazyGroup, app
from wisesr_cli.config.schema import Config

RESULTS = Path(__file__).parents[1] / "wisesr_cli" / "results"
# The records in each command's JSON; the first one is a row, a line or the whole output.
JSON_OF = {
    "check": ("CheckResult", "Finding"),
    "evaluate": ("Metrics", "ClassMetrics", "Verdict", "CoverageMetrics", "MultilabelMetrics", "LabelMetrics"),
    "predict": ("Prediction", "ScoredLabel"),
    "explain": ("Contribution",),
    "compare": ("Comparison", "ComparisonRow", "ComparedTraining"),
    "export": ("Exports", "ExportedModel"),
    "upgrade": ("Upgrade",),
    "runs": ("RunSummary",),
    "summarize": ("Summary", "SummaryRow"),
}
# Fields that JSON has in addition to those of a record (type, meaning), and fields of a record that it lacks (None).
CHANGED: dict[str, dict[str, tuple[str, str] | None]] = {
    "CheckResult": {"status": ("Level", "the worst of all findings")},
    "Metrics": {
        "confusion": None,
        "confusion_matrix": ("list[list[int]] | None", "rows are the truth; null for more than 200 classes"),
        "confusion_cells": (
            "list[list[int]]",
            "for more than 200 classes: truth, predicted, count of each cell that is not 0, by position in classes",
        ),
    },
    "Comparison": {"output_dir": None, "label_issues": None},
    "ExportedModel": {"top1_accuracy_difference": ("float | None", "of a quantized model: that of the run subtracted")},
    "Summary": {"notes": None},
}
TYPES = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "Level": "pass, warn or fail",
}


def cell(text: object) -> str:
    """Return text for a cell of a Markdown table."""
    return " ".join(str(text).split()).replace("|", "\\|")


def code(value: object) -> str:
    """Return a value as code in a cell, as JSON, which for these values is one-line YAML."""
    text = value if isinstance(value, str) else json.dumps(value)
    return f"`{' '.join(text.split())}`"  # a bar within code marks does not end the cell


def table(titles: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = [titles, ("---",) * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


# Commands


def commands() -> str:
    """Return the page of all commands: their help, arguments and options."""
    group = typer.main.get_command(app)
    assert isinstance(group, LazyGroup)
    context = group.make_context("wisesr", ["doctor"])
    parts = [
        "# Commands\n",
        "`wisesr COMMAND --help` shows the same in a terminal, `wisesr help TOPIC` explains a task.\n",
    ]
    for name in COMMANDS:
        parts += _command(group.get_command(context, name), f"wisesr {name}", context, level=2)
    return "\n".join(parts)


def _command(command: Any, path: str, parent: Any, *, level: int) -> Iterator[str]:
    context = type(parent)(command, info_name=path, parent=None)
    yield f"{'#' * level} {path}\n"
    yield from (_paragraph(text) for text in re.split(r"\n{2,}", command.help or "") if text)
    if hasattr(command, "list_commands"):
        for name in command.list_commands(context):
            yield from _command(command.get_command(context, name), f"{path} {name}", context, level=level + 1)
        return
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```text\n{path} {usage}\n```\n"
    yield table(("argument or option", "meaning"), _parameters(command, context))


def _paragraph(text: str) -> str:
    text = " ".join(text.split()).removeprefix("Example: ")
    return f"```bash\n{text}\n```\n" if re.match(r"(find|wisesr) ", text) else f"{text}\n"


def _parameters(command: Any, context: Any) -> Iterator[tuple[str, ...]]:
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None:
            yield code(record[0]), cell(record[1])


# Config


def config() -> str:
    """Return the page of all config keys, with a table per mapping."""
    schema = Config.model_json_schema()
    places = dict(_places(schema))
    parts = [
        "# Config keys\n",
        "All keys are optional. `-s KEY=VALUE` sets any of them on the command line, such as `-s train.epochs=5`; it "
        "has precedence over the file, and named options over it. This page is made of what `wisesr config schema` "
        "prints; [Configs](../configs.md) says how to write one.\n",
        "## The file\n",
        _keys(schema, places, schema["$defs"]),
    ]
    for name, place in places.items():
        record = schema["$defs"][name]
        parts += [
            f"## {place} {{ #{name.lower()} }}\n",
            f"{record['description']}\n",
            _keys(record, places, schema["$defs"]),
        ]
    return "\n".join(parts)


def _places(schema: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the records of a schema, each with its place in a config, in the order of the file."""
    seen: set[str] = set()

    def walk(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, str]]:
        for key, field in node.get("properties", {}).items():
            inner = f"{path}.{key}" if path else key
            for name in _references(field):
                if name in seen:
                    continue
                seen.add(name)
                record = schema["$defs"][name]
                constant = record["properties"].get("name", {}).get("const")
                yield name, inner if constant is None else f"{inner}, name: {constant}"
                yield from walk(record, inner)

    yield from walk(schema, "")


def _references(node: Any) -> Iterator[str]:
    if isinstance(node, list):
        for each in node:
            yield from _references(each)
    elif isinstance(node, dict):
        if "$ref" in node:
            yield node["$ref"].rsplit("/", 1)[1]
        for key, each in node.items():
            if key not in ("default", "examples", "discriminator"):
                yield from _references(each)


def _keys(record: Mapping[str, Any], places: Mapping[str, str], definitions: Mapping[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for key, field in record["properties"].items():
            default = field.get("default")
            shown = "" if isinstance(default, dict) else code(default)
            if key in record.get("required", ()):
                shown = "required"
            examples = " ".join(code(example) for example in field["examples"][:3])
            about = field.get("description") or definitions[next(_references(field))]["description"]
            yield code(key), ", ".join(_values(field, places)), shown, cell(about), examples

    return table(("key", "values", "default", "meaning", "examples"), rows())


def _values(field: Mapping[str, Any], places: Mapping[str, str]) -> list[str]:
    """Return the allowed values of a field, in words."""
    if "$ref" in field:
        name = field["$ref"].rsplit("/", 1)[1]
        return [f"[{cell(places[name])}](#{name.lower()})"]
    for several in ("anyOf", "oneOf"):
        if several in field:
            return list(dict.fromkeys(value for each in field[several] for value in _values(each, places)))
    if "const" in field:
        return [code(field["const"])]
    if "enum" in field:
        shown = field["enum"][:12]
        return [*map(code, shown), *(["..."] if len(field["enum"]) > len(shown) else [])]
    kind = {"string": "text", "object": "a mapping", "boolean": "`true`, `false`", "null": "`null`"}.get(field["type"])
    if field["type"] == "array":
        return ["a list"]
    return [kind or _number(field)]


def _number(field: Mapping[str, Any]) -> str:
    words = {"minimum": "from {}", "exclusiveMinimum": "over {}", "maximum": "to {}", "exclusiveMaximum": "under {}"}
    bounds = [text.format(f"{field[word]:,}") for word, text in words.items() if word in field]
    return " ".join(["a whole number" if field["type"] == "integer" else "a number", *bounds])


# JSON


def json_fields() -> str:
    """Return the page of the commands' JSON fields, generated from the result records."""
    records = dict(_records())
    parts = [
        "# JSON fields\n",
        "What `--format json` gives, and `metrics.json` holds; the Python functions return records with the same "
        "fields. Names stay as they are within a schema version; new fields may come. Fractions are in 0..1. `null` "
        "stands for what is not defined.\n",
    ]
    for command, names in JSON_OF.items():
        parts.append(f"## wisesr {command}\n")
        for name in names:
            about, fields = records[name]
            changed = CHANGED.get(name, {})
            kept = [field for field in fields if field[0] not in changed]
            kept += [(field, *added) for field, added in changed.items() if added is not None]
            rows = (
                (f"`{field}`", json_type(ast.parse(kind).body[0].value), cell(about)) for field, kind, about in kept
            )
            parts += [f"### {name}\n", f"{about}\n", table(("field", "type", "meaning"), rows)]
    return "\n".join(parts)


def json_type(annotation: Any) -> str:
    """Return the JSON type for a type annotation, in words."""
    match annotation:
        case ast.BinOp(left, ast.BitOr(), right):
            return f"{json_type(left)} or {json_type(right)}"
        case ast.Constant(None):
            return "null"
        case ast.Subscript(ast.Name("Literal"), choices):
            return ", ".join(f"`{choice.value}`" for choice in getattr(choices, "elts", [choices]))
        case ast.Subscript(ast.Name("tuple"), ast.Tuple([inner, ast.Constant(value)])) if value is ...:
            return f"list of {json_type(inner)}"
        case ast.Subscript(ast.Name("tuple"), ast.Tuple(parts)):
            return f"list of {len(parts)}: {', '.join(map(json_type, parts))}"
        case ast.Subscript(ast.Name("list"), inner):
            return f"list of {json_type(inner)}"
        case ast.Subscript(ast.Name("dict"), ast.Tuple([_, inner])):
            return f"mapping to {json_type(inner)}"
        case ast.Name(name):
            return TYPES.get(name, name)
    raise ValueError(ast.unparse(annotation))


def _records() -> Iterator[tuple[str, tuple[str, list[tuple[str, str, str]]]]]:
    """Yield the result records: name, docstring, and fields with their types and the comments next to them."""
    for path in sorted(RESULTS.glob("*.py")):
        lines = path.read_text(encoding="utf-8").split("\n")
        for node in ast.parse("\n".join(lines)).body:
            if isinstance(node, ast.ClassDef):
                fields = [
                    (item.target.id, ast.unparse(item.annotation), lines[item.lineno - 1].partition("  # ")[2])
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
                ]
                yield node.name, (ast.get_docstring(node) or "", fields)


# Python


def python() -> str:
    """Return the page of the Python functions, which mkdocstrings fills."""
    return """# Python

Every command is a function of `wisesr_cli`, which returns or yields typed records. Nothing is printed unless a listener
is given.

```python
import wisesr_cli

result = wisesr_cli.train("photos", {"train.epochs": 2, "data.image_size": 96})
print(wisesr_cli.evaluate(result.run_dir).metrics.top1_accuracy)
for prediction in wisesr_cli.predict(result.run_dir, ["photos"]):
    print(prediction.path, prediction.label, prediction.score)
```

A function whose argument is `request` takes the fields of that [request](#requests) as its own arguments, as above: the
first ones by position, the others by name. Errors are `wisesr_cli.errors.WisesrError`, with the program's
[exit code](../topics/exit-codes.md). [JSON fields](json.md) are those of the records that come back.

## Functions

::: wisesr_cli.api
    options:
      members_order: source
      filters: ["!^takes$", "!^_", "!^[A-Z]"]

## Requests

::: wisesr_cli.requests
    options:
      members_order: source
      filters: ["!^_", "!^Screen$"]

## Layers

`import wisesr_cli.layers` registers these, so that `keras.models.load_model("RUN/best.keras")` works in any program.

::: wisesr_cli.layers
    options:
      members_order: source
      filters: ["!^[_a-z]"]

## Errors

::: wisesr_cli.errors
    options:
      members_order: source
      filters: ["!^_", "Error$"]
"""


PAGES = {
    "reference/commands.md": commands,
    "reference/config.md": config,
    "reference/json.md": json_fields,
    "reference/python.md": python,
}
