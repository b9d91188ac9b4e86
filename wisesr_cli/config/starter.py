"""Writes the recipe for an image folder as a first config, with comments.

The text is read back and validated like any config.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import yaml

from wisesr_cli.config.mistakes import validate
from wisesr_cli.config.recipe import FolderFacts, Recipe
from wisesr_cli.config.schema import SCHEMA_TITLE, Config, dump_yaml
from wisesr_cli.config.yaml_reader import read_yaml
from wisesr_cli.errors import UsageError
from wisesr_cli.machine.files import write_text
from wisesr_cli.text import some_of, visible

SCHEMA_FILE = "wisesr.schema.json"  # next to a config, whose first line names it for editors

_COMMENTS = {
    "image_size": "height, width",
    "resize": "squash | crop | pad",
    "augment": "none | light | paper; flips destroy what `wise` learns",
    "backbone": "any of keras.applications; compare: wisesr summarize --backbone all",
    "weights": "imagenet | none | FILE | RUN; wisesr weights list",
    "name": "gap | gmp | depthwise | wise | flatten | fc",
    "class_weights": "balanced makes every class count equally",
}


def write_starter(facts: FolderFacts, recipe: Recipe) -> str:
    """Return the config as text, read back and validated."""
    settings = recipe.settings
    text = "\n".join(
        (
            *_header(facts, recipe),
            "data:",
            *_places(facts),
            *_split(facts),
            *_lines(settings["data"], "  "),
            _line("on_error", "fail", "  ", "skip ignores unreadable images"),
            "",
            *_lines({"augment": settings["augment"]}, ""),
            "",
            "model:",
            *_task(facts),
            *_lines({**settings["model"], "head": None}, "  ")[:-1],
            "  head:",
            *_lines(settings["model"]["head"], "    "),
            "",
            "train:",
            *_lines({key: value for key, value in settings["train"].items() if key != "phases"}, "  "),
            *_phases(settings["train"].get("phases", ())),
            "",
        )
    )
    validate(read_yaml(text, origin="config.yaml"))
    return text


def write_config(path: Path, text: str) -> Path:
    """Write a config whose first line names a JSON Schema for editors, and the schema; return the schema's path.

    Raises a `UsageError`, before writing anything, if another file has the name of the schema.
    """
    schema = path.with_name(SCHEMA_FILE)
    if schema.exists() and not _is_schema(schema):
        raise UsageError(f"{visible(schema)} exists, and is not a schema written by wisesr; move it elsewhere")
    write_text(path, f"# yaml-language-server: $schema={SCHEMA_FILE}\n{text}")
    write_text(schema, json.dumps(Config.model_json_schema(), indent=1) + "\n")
    return schema


def _is_schema(path: Path) -> bool:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(found, dict) and found.get("title") == SCHEMA_TITLE


def _header(facts: FolderFacts, recipe: Recipe) -> list[str]:
    return [
        "# A config for `wisesr train`; `wisesr config schema` describes every key.",
        f"# Classes ({len(facts.class_names)}): {some_of(facts.class_names, 12)}",
        *(f"# {visible(reason)}" for reason in recipe.reasons),
        "schema_version: 1",
        "seed: 0",
        "",
    ]


def _places(facts: FolderFacts) -> list[str]:
    folder = f"  dir: {scalar(str(facts.folder))}"
    if facts.manifest is None:
        return [folder]
    return [f"  manifest: {scalar(str(facts.manifest))}", f"{folder}  # its paths are relative to this"]


def _task(facts: FolderFacts) -> list[str]:
    if facts.separator is None:
        return []
    return [_line("task", "multilabel", "  ", "an image has any number of labels")]


def _split(facts: FolderFacts) -> list[str]:
    if "validation" in facts.splits:
        kind = "folders" if facts.manifest is None else "splits"
        return [f"  # its {kind} are used as they are: {', '.join(facts.splits)}"]
    if not facts.can_be_set_aside:
        return [_line("validation_split", 0, "  ", "a class has one image only: nothing can be set aside")]
    if facts.splits_by_group:
        return [_line("validation_split", 0.2, "  ", "whole groups of the manifest")]
    if facts.manifest is not None:
        return [_line("validation_split", 0.2, "  ", "of every class; the manifest names no validation images")]
    return [
        _line("validation_split", 0.2, "  ", "of every class; there is no validation folder"),
        "  # split_strategy: group       # when several images show the same patient, scene or object:",
        "  # group_regex: '([^/]+)_'     # the part of the path that must not straddle the splits",
    ]


def _phases(phases: list[dict[str, Any]]) -> list[str]:
    if not phases:
        return []
    about = ("the head alone", "then all layers at a low learning rate")
    return ["  phases:", *(f"    - {_flow(row):<56} # {text}" for row, text in zip(phases, about, strict=False))]


def _lines(settings: dict[str, Any], indent: str) -> list[str]:
    return [_line(key, value, indent, _COMMENTS.get(key, "")) for key, value in settings.items()]


def _line(key: str, value: Any, indent: str, comment: str) -> str:
    text = f"{indent}{key}: {_flow(value)}"
    return f"{text:<30}  # {comment}" if comment else text


def _flow(value: Any) -> str:
    """Return a value as YAML on one line."""
    if value is None:
        return "none"
    if isinstance(value, str | Path):
        return scalar(str(value))
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_flow(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    return dump_yaml(value).split("\n")[0]


def scalar(text: str) -> str:
    """Return text as YAML on one line, quoted where necessary."""
    if re.fullmatch(r"/[\w./-]*|[A-Za-z]\w*", text):
        return text
    # Not JSON, which writes characters beyond U+FFFF as two escapes that YAML reads as two characters.
    return str(yaml.safe_dump(text, default_style='"', width=math.inf)).strip()
