"""Saves models as `.keras` archives that earlier Keras releases can also load.

Keras writes every constructor argument of a layer and rejects unknown ones, so each release that adds an argument
writes files that the previous release cannot load, even if the argument has its default.
"""

from __future__ import annotations

import importlib
import inspect
import json
import shutil
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from wisesr_cli.machine import keras_start
from wisesr_cli.machine.files import replacing
from wisesr_cli.model_files.architecture import objects_in
from wisesr_cli.model_files.archive import CONFIG, append_model_info
from wisesr_cli.model_files.info import MODEL_INFO, ModelInfo

OLDEST_KERAS = "3.4"  # loads models of Keras' own layers; 3.3 writes and expects their inputs in another format
_PLAIN = (type(None), bool, int, float, str)
_READ_WHOLE = ("Rescaling",)  # Keras builds them only from a config with every argument


def save_model(model: Any, path: Path, info: ModelInfo | None = None) -> None:
    """Write a model as a `.keras` archive without default arguments, and with its record if there is one.

    On JAX, saving makes Keras load TensorFlow, which prints messages. Raises `OSError`.
    """
    whole = path.with_name(f"{path.stem}-whole.keras")
    try:
        with keras_start.quiet_stderr():
            model.save(whole)
        _copy_archive(whole, path, {CONFIG: _short_config})
    finally:
        whole.unlink(missing_ok=True)
    if info is not None:
        append_model_info(path, info)


def replace_model_info(path: Path, info: ModelInfo) -> None:
    """Rewrite a model's archive with another record; raises `MachineError`."""
    with replacing(path) as temporary:
        _copy_archive(path, temporary, {MODEL_INFO: lambda _: json.dumps(info.to_json(), indent=1)})


def _copy_archive(source: Path, target: Path, changes: Mapping[str, Callable[[bytes], str]]) -> None:
    """Copy an archive, replacing the text of some members."""
    with zipfile.ZipFile(source) as before, zipfile.ZipFile(target, "w") as after:
        for member in before.infolist():
            if change := changes.get(member.filename):
                after.writestr(member.filename, change(before.read(member)))
                continue
            with before.open(member) as content, after.open(member.filename, "w", force_zip64=True) as copy:
                shutil.copyfileobj(content, copy, 1 << 20)


def _short_config(text: bytes) -> str:
    """Return the text of a `config.json` without the default arguments of Keras objects."""
    config = json.loads(text)
    for part in objects_in(config):
        module, name, options = part.get("module"), part.get("class_name"), part.get("config")
        if isinstance(module, str) and module.partition(".")[0] == "keras" and isinstance(options, dict):
            part["config"] = _short_options(getattr(importlib.import_module(module), str(name), None), options)
    return json.dumps(config)


def _short_options(kind: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Return the options of an object that differ from the defaults."""
    if not isinstance(kind, type) or kind.__name__ in _READ_WHOLE:
        return options
    defaults = _defaults(kind)
    return {
        name: value
        for name, value in options.items()
        if not (name in defaults and type(value) is type(defaults[name]) and value == defaults[name])
    }


@lru_cache
def _defaults(kind: type[Any]) -> dict[str, Any]:
    """Return the plain defaults of a class's constructor arguments, including those of its base classes."""
    found: dict[str, Any] = {}
    for part in reversed(kind.__mro__):
        if "__init__" in vars(part):
            for parameter in inspect.signature(vars(part)["__init__"]).parameters.values():
                if type(parameter.default) in _PLAIN:
                    found[parameter.name] = parameter.default
    return found
