"""Reads the YAML of a config: values as in YAML 1.2, with the location of every key.

PyYAML parses, but scalars are converted here: YAML 1.1 reads `1e-3` as a string and `no` as false, and lets the second
of two equal keys win. Keys are always text. Tags, multiple documents, non-finite values, deep nesting, anchors that
multiply, and files over 64 KB are errors with line and column.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wisesr_cli.errors import ConfigError
from wisesr_cli.text import on_one_line, visible

MAX_BYTES = 64 * 1024
MAX_RESOLVED_BYTES = 64 * 1024 * 1024  # of a run's own config, with a weight for each of 100,000 classes
MAX_DEPTH = 20
MAX_NODES = 20_000
MAX_DIGITS = 30

KeyPath = tuple[str | int, ...]

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_NOT_FINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_CONSTANTS: dict[str, Any] = {
    "": None, "~": None, "null": None, "Null": None, "NULL": None,
    "true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False,
}  # fmt: skip


@dataclass
class Document:
    """The value of a YAML document, and the location of each key path as `file:line`."""

    value: Any
    places: dict[KeyPath, str] = field(default_factory=dict)


def read_yaml_file(path: Path, most: int = MAX_BYTES) -> Document:
    """Read one file of at most `most` bytes; raises `ConfigError` with line and column."""
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{visible(path)}: cannot be read: {error.strerror}") from None
    if len(content) > most:
        raise ConfigError(f"{visible(path)}:1:1: larger than {most // 1024:,} KB; a config is a page of text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise ConfigError(f"{visible(path)}:{line}:{column}: not UTF-8 text") from None
    return read_yaml(text, origin=str(path))


def read_yaml(text: str, *, origin: str) -> Document:
    """Read one YAML document; `origin` names it in errors."""
    reader = _Reader(origin)
    loader = None
    try:
        loader = _CheckedLoader(text, reader)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        problem = on_one_line(error.problem or error.context or "not YAML")
        raise reader.error(problem, error.problem_mark or error.context_mark) from None
    except yaml.YAMLError as error:  # a character that YAML does not allow
        position = getattr(error, "position", 0)
        before = text[:position] if isinstance(position, int) else ""
        column = len(before) - before.rfind("\n")
        raise ConfigError(f"{visible(origin)}:{before.count(chr(10)) + 1}:{column}: a character not allowed") from None
    except (ValueError, OverflowError):  # PyYAML's own, from an escape like "\\UFFFFFFFF" or a huge version number
        raise reader.error("a number or an escape that YAML does not allow", loader and loader.get_mark()) from None
    places: dict[KeyPath, str] = {}
    return Document(None if node is None else reader.value(node, (), places), places)


class _CheckedLoader(yaml.SafeLoader):
    """Rejects events before they are composed: deep nesting, too many values, several documents, tags."""

    def __init__(self, text: str, reader: _Reader) -> None:
        self.reader = reader
        self.depth = self.documents = self.values = 0
        super().__init__(text)

    def get_event(self) -> Any:
        """Check and return the next event."""
        event: Any = super().get_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise self.reader.error("several documents in one file", event.start_mark)
        elif isinstance(event, yaml.NodeEvent):
            self.values += 1
            if self.values > MAX_NODES:
                raise self.reader.error(f"more than {MAX_NODES:,} values; a config is a page of text", event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            self.depth += 1
            if self.depth > MAX_DEPTH:
                raise self.reader.error(f"nested deeper than {MAX_DEPTH} levels", event.start_mark)
        elif isinstance(event, yaml.CollectionEndEvent):
            self.depth -= 1
        tag = getattr(event, "tag", None)
        if tag not in (None, "!"):
            raise self.reader.error(f"tags like '{tag}' are not allowed", event.start_mark)
        return event


class _Reader:
    """Turns composed nodes into values, and counts them as anchors are expanded."""

    def __init__(self, origin: str) -> None:
        self.origin = origin
        self.nodes = 0

    def error(self, problem: str, mark: Any) -> ConfigError:
        place = f":{mark.line + 1}:{mark.column + 1}" if mark is not None else ""
        return ConfigError(f"{visible(self.origin)}{place}: {visible(problem)}")

    def value(self, node: yaml.Node, path: KeyPath, places: dict[KeyPath, str]) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES or len(path) > MAX_DEPTH:
            raise self.error("anchors expand to more than a config can hold", node.start_mark)
        places.setdefault(path, f"{self.origin}:{node.start_mark.line + 1}")
        if isinstance(node, yaml.MappingNode):
            return self.mapping(node, path, places)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*path, index), places) for index, child in enumerate(node.value)]
        return self.scalar(node)

    def mapping(self, node: yaml.MappingNode, path: KeyPath, places: dict[KeyPath, str]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                raise self.error("a key must be text", key_node.start_mark)
            key = key_node.value
            if key in result:
                raise self.error(f"the key '{key}' appears twice", key_node.start_mark)
            places[(*path, key)] = f"{self.origin}:{key_node.start_mark.line + 1}"
            result[key] = self.value(value_node, (*path, key), places)
        return result

    def scalar(self, node: yaml.Node) -> Any:
        text: str = node.value
        if getattr(node, "style", None) is not None:  # quoted or block text
            return text
        if text in _CONSTANTS:
            return _CONSTANTS[text]
        if _NOT_FINITE.fullmatch(text):
            raise self.error(f"{text} is not a finite number", node.start_mark)
        if not _FLOAT.fullmatch(text):
            return text
        if len(text) > MAX_DIGITS:
            raise self.error(f"a number of {len(text):,} characters", node.start_mark)
        if _INTEGER.fullmatch(text):
            return int(text)
        number = float(text)
        if math.isinf(number):
            raise self.error(f"{text} is not a finite number", node.start_mark)
        return number
