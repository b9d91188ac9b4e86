"""Builds a `Config` from a YAML file, an image folder or a manifest, and from command-line overrides.

Precedence: defaults < base named by `extends` < the file < `--set` < named option. Every mistake becomes one line with
file and line (or the option), key, what was found, what is allowed, and the nearest spelling.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wisesr_cli.config.mistakes import shown, validate
from wisesr_cli.config.schema import NAMED, Config
from wisesr_cli.config.training import AUGMENTATIONS
from wisesr_cli.config.yaml_reader import (
    MAX_BYTES,
    MAX_RESOLVED_BYTES,
    Document,
    KeyPath,
    read_yaml,
    read_yaml_file,
)
from wisesr_cli.data.listing.manifest_formats import READERS, is_manifest
from wisesr_cli.errors import ConfigError, DataError, MachineError, UsageError
from wisesr_cli.listening import Silent
from wisesr_cli.models.heads import PAPER, PRESET_OPTIONS, HeadOptions
from wisesr_cli.models.settings import WEIGHTS_WORDS
from wisesr_cli.text import joined, visible

if TYPE_CHECKING:
    from wisesr_cli.config.recipe import Recipe

MAX_EXTENDS = 10
CONFIG_SUFFIXES = (".yaml", ".yml")
SOURCES = f"a config (.yaml, .yml), a folder of images, or a manifest ({', '.join(READERS)})"

_FOLDER = ("data", "dir")
_SPLIT_FOLDERS = (("data", "train_dir"), ("data", "validation_dir"), ("data", "test_dir"))
_WEIGHTS = ("model", "weights")
_MANIFEST = ("data", "manifest")
_IMAGES = (_FOLDER, *_SPLIT_FOLDERS, _MANIFEST)
_KINDS = (("data", "channels"), ("data", "label_separator"), ("model", "task"))  # decide which files can be read
_PATHS = (*_IMAGES, _WEIGHTS, ("model", "weights_dir"))
_HEAD = ("model", "head")
_AUGMENT = ("augment",)


@dataclass(frozen=True)
class Override:
    """A value given on the command line; `origin` is the text typed, for error messages."""

    path: KeyPath
    value: Any
    origin: str


@dataclass(frozen=True)
class LoadedConfig:
    """A config, notes for the user about how it was resolved, and a default name for a run of it.

    `recipe` is set for an image folder or a manifest.
    """

    config: Config
    notes: tuple[str, ...]
    default_name: str
    recipe: Recipe | None = None


def overrides_of(settings: Mapping[str, Any] | Sequence[Override] | None) -> Sequence[Override]:
    """Return the overrides in a mapping like `{"train.epochs": 5}`; a sequence of overrides passes unchanged."""
    if isinstance(settings, Mapping):
        return [Override(tuple(key.split(".")), value, f"{key}={value}") for key, value in settings.items()]
    return settings or ()


def parse_set(text: str) -> Override:
    """Parse `key.sub=value` of `--set`; the value is YAML. Raises `UsageError` for any other text."""
    key, equals, value = text.partition("=")
    parts = tuple(key.strip().split("."))
    if not equals or not all(parts):
        raise UsageError(f"--set {visible(text)}: expected key=value, for instance --set train.epochs=5")
    return Override(parts, read_yaml(value, origin=f"--set {text}").value, f"--set {text}")


def load_config(
    source: str | Path | None,
    overrides: Iterable[Override] = (),
    *,
    recipe: Recipe | None = None,
    of_run: bool = False,
) -> LoadedConfig:
    """Return the resolved config of a YAML file, an image folder, a manifest, or (None) the defaults.

    Later overrides win. `recipe`: see `recipe_of`. `of_run`: a run's own config, which may be large. Raises
    `ConfigError` with one line per mistake, and `DataError` when the source is neither a file nor a folder.
    """
    document = _read_source(source, MAX_RESOLVED_BYTES if of_run else MAX_BYTES)
    notes: list[str] = []
    if recipe is not None:
        _merge(document, deepcopy(recipe.settings), {}, ())
    given = list(overrides)
    keys = {override.path for override in given}
    if _MANIFEST in keys and _FOLDER not in keys:  # paths in it are relative to itself, not to the config's folder
        _forget_data(document, (_FOLDER,))
    for override in sorted(given, key=_is_operation):  # a preset does not drop the operations given beside it
        _apply(document, override, notes)
    _spare_hidden_layers(document, given)
    config = validate(document)
    return LoadedConfig(config, tuple(notes), default_name(source, config), recipe)


def _spare_hidden_layers(document: Document, overrides: Sequence[Override]) -> None:
    """Keep the configured learning rate if `--freeze` trains a head with hidden layers.

    The large steps that suit a linear head reduced loaded hidden layers of an upgraded model to chance in one epoch.
    """
    model, train = document.value.get("model"), document.value.get("train")
    head = model.get("head") if isinstance(model, dict) else None
    if isinstance(head, dict) and head.get("hidden") and any(each.origin == "--freeze" for each in overrides):
        for phase in train["phases"]:
            phase.pop("learning_rate", None)


def recipe_of(source: str | Path | None, overrides: Iterable[Override]) -> Recipe | None:
    """Return the recipe for an image folder or a manifest; None for other sources and unusable images."""
    if source is None or not (_expanded(source).is_dir() or is_manifest(_expanded(source))):
        return None
    from wisesr_cli.config.recipe import choose, describe, wanted_of  # imports NumPy and Pillow

    values = {override.path: override.value for override in overrides}
    try:
        of_images = [override for override in overrides if override.path in (*_IMAGES, *_KINDS)]
        data = load_config(source, of_images).config.data
        return choose(describe(data, Silent()), wanted_of(values))
    except (ConfigError, DataError, MachineError, ValueError):  # ValueError: a path that no file can have
        return None  # the error is reported where images or settings are used


def parse_image_size(size: str | int | Sequence[int]) -> tuple[int, int]:
    """Return height and width of an image size given as 224, "224x320" or (224, 320); raises `ConfigError`."""
    value = size if isinstance(size, str | int) else list(size)
    typed = value if isinstance(value, str | int) else "x".join(map(str, value))
    override = Override(("data", "image_size"), value, f"--image-size {typed}")
    return load_config(None, [override]).config.data.image_size


def parse_head(text: str, *, base: HeadOptions | None = None) -> HeadOptions:
    """Return the options of a head given as `wise` or `wise:pooling=valid:initializer=paper`.

    Missing options come from `base`: all if it is the same head, else those that every head has, such as hidden layers.
    Raises `ConfigError` for an unknown head, option or value, `UsageError` for an option without `=`.
    """
    overrides = head_overrides(text, f"head '{text}'")
    if base is not None:
        shared = None if base.name == overrides[0].value else set(HeadOptions.model_fields) - {"name"}
        overrides.insert(0, Override(_HEAD, base.model_dump(mode="json", include=shared), overrides[0].origin))
    return load_config(None, overrides).config.model.head


def head_overrides(text: str, origin: str) -> list[Override]:
    """Return the overrides of a head given as `wise:pooling=valid`: its name, then each of its options.

    `wise:paper` is short for `wise:preset=paper`. Raises `UsageError` when any other option has no `=`, has a value
    that is not YAML, or is `name`.
    """
    name, *options = re.split(":(?! )", text)  # a colon before a space is YAML's own: hidden=[{units: 8}]
    overrides = [Override((*_HEAD, "name"), name, origin)]
    for option in (f"preset={option}" if option == PAPER else option for option in options):
        key, equals, _ = option.partition("=")
        if not equals or key.strip() in ("", "name"):  # a second name would mislabel the head
            expected = "expected HEAD:option=value, for instance wise:pooling=valid, or wise:paper"
            raise UsageError(f"{visible(origin)}: {expected}")
        parsed = parse_set(f"model.head.{option}")
        overrides.append(Override(parsed.path, parsed.value, origin))
    return overrides


def _read_source(source: str | Path | None, most: int) -> Document:
    if source is None:
        return Document({})
    if not str(source):
        raise UsageError(f"the source is empty; give {SOURCES}")
    path = _expanded(source)
    try:
        is_folder = stat.S_ISDIR(path.stat().st_mode)
    except (OSError, ValueError) as error:
        raise DataError(f"{visible(source)}: {_reason(error)}") from None
    if is_folder:
        return Document({"data": {"dir": str(path.absolute())}}, {("data", "dir"): visible(source)})
    if path.suffix.lower() in READERS:
        return Document({"data": {"manifest": str(path.absolute())}}, {_MANIFEST: visible(source)})
    if path.suffix.lower() not in CONFIG_SUFFIXES:
        raise UsageError(f"{visible(source)}: neither a YAML config nor images; give {SOURCES}")
    return _read_with_bases(path, (), most)


def _reason(error: OSError | ValueError) -> str:
    """Return why a source cannot be read, and what it should be."""
    from wisesr_cli.data.listing.layouts import EXPECTED  # imports NumPy and Pillow, not needed for a config alone

    missing = isinstance(error, FileNotFoundError | NotADirectoryError)
    found = "no such file or folder" if missing else str(getattr(error, "strerror", error)).lower()
    return f"{found}; give {SOURCES}. {EXPECTED}"


def _read_with_bases(path: Path, seen: tuple[Path, ...], most: int = MAX_BYTES) -> Document:
    """Read a file and merge it over the configs that it extends."""
    resolved = path.resolve()
    if resolved in seen or len(seen) >= MAX_EXTENDS:
        raise ConfigError(f"{visible(path)}: extends itself, or more than {MAX_EXTENDS} others")
    document = read_yaml_file(path, most)
    if document.value is None:
        document.value = {}
    if not isinstance(document.value, dict):
        raise ConfigError(f"{visible(path)}:1: a config is a mapping of keys; found {shown(document.value)}")
    base_name = document.value.pop("extends", None)
    for section, key in _PATHS:
        values = document.value.get(section)
        if isinstance(values, dict) and key in values:
            values[key] = _absolute((section, key), values[key], resolved.parent)
    if base_name is None:
        return document
    place = visible(document.places[("extends",)])
    if not isinstance(base_name, str):
        raise ConfigError(f"{place}: extends is {shown(base_name)}; allowed: the path of another config")
    base_path = resolved.parent / _expanded(base_name)
    if base_path.suffix.lower() not in CONFIG_SUFFIXES:  # an error in another kind of file would quote it
        raise ConfigError(f"{place}: extends '{visible(base_name)}': a config ends in {' or '.join(CONFIG_SUFFIXES)}")
    if not os.path.isfile(base_path):  # noqa: PTH113  (also false on an OSError)
        raise ConfigError(f"{place}: extends '{visible(base_name)}': no such file; paths are relative to this file")
    base = _read_with_bases(base_path, (*seen, resolved))
    _drop_replaced_folders(base, document.value.get("data"))
    _merge(base, document.value, document.places, ())
    return base


def _drop_replaced_folders(base: Document, data: Any) -> None:
    """Drop the base's `dir`, split folders or manifest if the extending file uses another form."""
    if not isinstance(data, dict):
        return
    if data.get("manifest") is not None:
        _forget_data(base, (_FOLDER, *_SPLIT_FOLDERS))
    elif data.get("dir") is not None:
        _forget_data(base, _SPLIT_FOLDERS)
    elif data.get("train_dir") is not None:
        _forget_data(base, (_FOLDER, _MANIFEST))


def _absolute(key: KeyPath, value: Any, folder: Path) -> Any:
    """Return the value of a key in `_PATHS`, making paths relative to a folder absolute; words stay unchanged."""
    is_path = isinstance(value, str) and value and not (key == _WEIGHTS and value in WEIGHTS_WORDS)
    return str(folder / _expanded(value)) if is_path else value


def _expanded(path: str | Path) -> Path:
    """Return a path with `~` expanded; unlike `Path.expanduser`, this leaves an unknown `~user` unchanged."""
    return Path(os.path.expanduser(path))  # noqa: PTH111


def _merge(base: Document, value: Any, places: dict[KeyPath, str], path: KeyPath) -> None:
    """Merge `value` into the mapping of `base` at `path`; a mapping with another `name` replaces it entirely."""
    target = base.value
    for key in path:
        target = target[key]
    for key, new in value.items():
        here = (*path, key)
        old = target.get(key)
        is_merged = isinstance(new, dict) and isinstance(old, dict)
        if is_merged and here in NAMED and "name" in new:
            is_merged = new["name"] == old.get("name", NAMED[here].default)
        if is_merged:
            if here == _HEAD and new.get("preset") is not None:
                _drop_preset_options(old)
            _merge(base, new, places, here)
        else:
            target[key] = new
            _forget(base.places, here)
        base.places.update({place: where for place, where in places.items() if place[: len(here)] == here})


def _apply(document: Document, override: Override, notes: list[str]) -> None:
    value = deepcopy(override.value)  # later overrides may write into it
    if override.path in _PATHS:
        value = _absolute(override.path, value, Path.cwd())
    if override.path in (_FOLDER, _MANIFEST):
        _forget_data(document, _SPLIT_FOLDERS)
    elif override.path == _SPLIT_FOLDERS[0]:
        _forget_data(document, (_FOLDER, _MANIFEST))
    tree = document.value
    for depth, key in enumerate(override.path[:-1], start=1):
        if tree.get(key) is None or isinstance(tree[key], str):
            mapping = _mapping_for(override.path[:depth], tree.get(key))
            if mapping is None:
                return  # a mistake in the file, which validation reports
            tree[key] = mapping
            document.places[override.path[:depth]] = override.origin
        if isinstance(tree[key], list):
            name = visible(".".join(map(str, override.path[:depth])))
            raise ConfigError(f"{visible(override.origin)}: {name} is a list; give all of it: --set '{name}=[...]'")
        if not isinstance(tree[key], dict):
            return  # a mistake in the file, which validation reports
        tree = tree[key]
    parent, last = override.path[:-1], override.path[-1]
    if parent in NAMED and last == "name" and isinstance(value, str):
        _drop_inapplicable_options(tree, parent, value, override, notes)
    if parent == _HEAD and last == "preset":
        _drop_preset_options(tree)
    tree[last] = value
    _forget(document.places, override.path)
    document.places[override.path] = override.origin
    if override.path == ("train", "optimizer", "learning_rate"):
        _note_phases_with_own_learning_rate(document, override, notes)


def _is_operation(override: Override) -> bool:
    """Return whether an override is of one operation of augmentation."""
    return override.path[:-1] == _AUGMENT


def _mapping_for(path: KeyPath, word: str | None) -> dict[str, Any] | None:
    """Return what replaces a word when a setting below it is given: a preset's own settings, so that one is added.

    None if there is no such preset.
    """
    if path != _AUGMENT:
        return {}
    preset = AUGMENTATIONS.get(Config.model_fields["augment"].default if word is None else word)
    return None if preset is None else preset.model_dump(mode="json", exclude_defaults=True)


def _note_phases_with_own_learning_rate(document: Document, override: Override, notes: list[str]) -> None:
    phases = document.value["train"].get("phases")
    numbered = enumerate(phases, start=1) if isinstance(phases, list) else ()
    own = [str(number) for number, phase in numbered if isinstance(phase, dict) and "learning_rate" in phase]
    if own:
        notes.append(f"{override.origin}: phase {', '.join(own)} keeps its own learning_rate")


def _forget_data(document: Document, paths: Iterable[KeyPath]) -> None:
    """Remove image settings that others replace, and their places."""
    data = document.value.get("data")
    for path in paths:
        if isinstance(data, dict):
            data.pop(path[-1], None)
        _forget(document.places, path)


def _drop_inapplicable_options(
    tree: dict[str, Any], path: KeyPath, name: str, override: Override, notes: list[str]
) -> None:
    """Remove options that the new record lacks but another record has; misspelt ones remain errors."""
    records = NAMED[path].records
    if name not in records:
        return
    known = {key for record in records.values() for key in record.model_fields}
    dropped = [key for key in tree if key in known and key not in records[name].model_fields]
    for key in dropped:
        del tree[key]
    if dropped:
        notes.append(f"{override.origin}: the {NAMED[path].kind} '{name}' has no {joined(dropped)}; ignored")


def _drop_preset_options(head: dict[str, Any]) -> None:
    """Remove the options that a preset sets."""
    for option in PRESET_OPTIONS:
        head.pop(option, None)


def _forget(places: dict[KeyPath, str], path: KeyPath) -> None:
    for place in [place for place in places if place[: len(path)] == path]:
        del places[place]


def default_name(source: str | Path | None, config: Config) -> str:
    """Return `SOURCE-HEAD`, or SOURCE alone if it already ends in the head's name.

    SOURCE is the name of the config file, or of the image folder or manifest when the config is called config.yaml.
    """
    path = Path(source).absolute() if source is not None else None
    images = config.data.source
    stem = path.stem if path is not None and path.is_file() and path.stem != "config" else None
    named = "" if images is None else images.stem if config.data.manifest else images.name
    stem = re.sub(r"[^\w.-]+", "-", stem or named)
    stem = stem.strip("-.").encode("utf-8")[:100].decode("utf-8", "ignore")  # file systems count bytes
    head = config.model.head.name
    return stem if stem.endswith((f"-{head}", f"_{head}")) else f"{stem or 'run'}-{head}"
