"""Makes a `Config` of a YAML file or an image folder, and of what stands on the command line.

Precedence: defaults < base named by `extends` < the file < `--set` < named option. Every mistake becomes one line with
file and line (or the option), key, what was found, what is allowed, and the nearest spelling.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .config import NAMED, Config
from .config_errors import shown, validate
from .errors import ConfigError, DataError, UsageError
from .text import joined, visible
from .yaml_reader import Document, KeyPath, read_yaml, read_yaml_file

MAX_EXTENDS = 10

_PATHS: tuple[KeyPath, ...] = (
    ("data", "dir"),
    ("data", "train_dir"),
    ("data", "validation_dir"),
    ("data", "test_dir"),
    ("model", "weights"),
)


@dataclass(frozen=True)
class Override:
    """A value given on the command line, with the text that the user typed for error messages."""

    path: KeyPath
    value: Any
    origin: str


@dataclass(frozen=True)
class LoadedConfig:
    """A config, what the user should know about how it came about, and a name for a run of it."""

    config: Config
    notes: tuple[str, ...]
    default_name: str


def parse_set(text: str) -> Override:
    """Read `key.sub=value` of `--set`; the value is YAML.

    Raises:
        UsageError: it has no key or no `=`, or the value is not YAML.
    """
    key, equals, value = text.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise UsageError(f"--set {visible(text)}: expected key=value, for instance --set train.epochs=5")
    return Override(parts, read_yaml(value, origin=f"--set {text}").value, f"--set {text}")


def load_config(source: str | Path | None, overrides: Iterable[Override] = ()) -> LoadedConfig:
    """Return the resolved config of a YAML file, an image folder, or (None) of the defaults.

    Args:
        source: a config file or an image folder.
        overrides: what the command line says, weakest first.

    Raises:
        ConfigError: every mistake found, a line each.
        DataError: the source is neither a file nor a folder.
    """
    document = _read_source(source)
    notes: list[str] = []
    for override in overrides:
        _apply(document, override, notes)
    config = validate(document)
    return LoadedConfig(config, tuple(notes), _default_name(source, config))


def _read_source(source: str | Path | None) -> Document:
    if source is None:
        return Document({})
    path = Path(source).expanduser()
    if path.is_dir():
        return Document({"data": {"dir": str(path.absolute())}}, {("data", "dir"): visible(source)})
    if not path.exists():
        raise DataError(f"{visible(source)}: no such file or folder; give a config (YAML) or a folder of images")
    if path.suffix.lower() not in {".yaml", ".yml"}:
        raise UsageError(f"{visible(source)}: neither a YAML config (.yaml, .yml) nor a folder of images")
    return _read_with_bases(path, ())


def _read_with_bases(path: Path, seen: tuple[Path, ...]) -> Document:
    """Read a file and, below it, what it extends."""
    resolved = path.resolve()
    if resolved in seen or len(seen) >= MAX_EXTENDS:
        raise ConfigError(f"{visible(path)}: extends itself, or more than {MAX_EXTENDS} others")
    document = read_yaml_file(path)
    if document.value is None:
        document.value = {}
    if not isinstance(document.value, dict):
        raise ConfigError(f"{visible(path)}:1: a config is a mapping of keys; found {shown(document.value)}")
    base_name = document.value.pop("extends", None)
    _make_paths_absolute(document.value, resolved.parent)
    if base_name is None:
        return document
    place = visible(document.places[("extends",)])
    if not isinstance(base_name, str):
        raise ConfigError(f"{place}: extends is {shown(base_name)}; allowed: the path of another config")
    base_path = resolved.parent / Path(base_name).expanduser()
    if not base_path.is_file():
        raise ConfigError(f"{place}: extends '{visible(base_name)}': no such file; paths are relative to this file")
    base = _read_with_bases(base_path, (*seen, resolved))
    _merge(base, document.value, document.places, ())
    return base


def _make_paths_absolute(tree: dict[str, Any], folder: Path) -> None:
    for path in _PATHS:
        parent = tree
        for key in path[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None  # type: ignore[assignment, arg-type]
        if isinstance(parent, dict) and isinstance(parent.get(path[-1]), str) and parent[path[-1]] != "imagenet":
            parent[path[-1]] = _absolute(parent[path[-1]], folder)  # type: ignore[index]


def _absolute(path: str, folder: Path) -> str:
    return str(folder / Path(path).expanduser()) if path else path


def _merge(base: Document, value: Any, places: dict[KeyPath, str], path: KeyPath) -> None:
    """Lay `value` over the mapping of `base` at `path`; a mapping with another `name` replaces it as a whole."""
    target = _at(base.value, path)
    for key, new in value.items():
        here = (*path, key)
        old = target.get(key)
        if isinstance(new, dict) and isinstance(old, dict) and not _renamed(here, old, new):
            _merge(base, new, places, here)
        else:
            target[key] = new
            _forget(base.places, here)
        base.places.update({place: where for place, where in places.items() if place[: len(here)] == here})


def _renamed(path: KeyPath, old: dict[str, Any], new: dict[str, Any]) -> bool:
    if path not in NAMED:
        return False
    return "name" in new and new["name"] != old.get("name", NAMED[path].default)


def _apply(document: Document, override: Override, notes: list[str]) -> None:
    """Lay one value of the command line over the document."""
    value = override.value
    if override.path in _PATHS and isinstance(value, str) and value != "imagenet":
        value = _absolute(value, Path.cwd())
    if override.path == ("data", "dir"):
        for _, key in _PATHS[1:4]:
            document.value.get("data", {}).pop(key, None)
    tree = document.value
    for key in override.path[:-1]:
        if not isinstance(tree.get(key), dict):
            tree[key] = {}
        tree = tree[key]
    parent, last = override.path[:-1], override.path[-1]
    if parent in NAMED and last == "name" and isinstance(value, str):
        _drop_what_does_not_fit(tree, parent, value, override, notes)
    tree[last] = value
    _forget(document.places, override.path)
    document.places[override.path] = override.origin


def _drop_what_does_not_fit(
    tree: dict[str, Any], path: KeyPath, name: str, override: Override, notes: list[str]
) -> None:
    """Take away options that the newly named record lacks but another one has; a misspelt one stays an error."""
    records = NAMED[path].records
    if name not in records:
        return
    known = {key for record in records.values() for key in record.model_fields}
    dropped = [key for key in tree if key in known and key not in records[name].model_fields]
    for key in dropped:
        del tree[key]
    if dropped:
        notes.append(f"{override.origin}: the {NAMED[path].kind} '{name}' has no {joined(dropped)}; left out")


def _at(tree: Any, path: Sequence[str | int]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _forget(places: dict[KeyPath, str], path: KeyPath) -> None:
    for place in [place for place in places if place[: len(path)] == path]:
        del places[place]


def _default_name(source: str | Path | None, config: Config) -> str:
    """Return `SOURCE-HEAD`: a config's name, or that of the image folder when the config is called config.yaml."""
    path = Path(source).absolute() if source is not None else None
    folder = config.data.dir or config.data.train_dir
    stem = path.stem if path is not None and path.is_file() and path.stem != "config" else None
    stem = stem or (folder.name if folder is not None else "") or "run"
    return re.sub(r"[^\w.-]+", "-", stem).strip("-.")[:100] + f"-{config.model.head.name}"
