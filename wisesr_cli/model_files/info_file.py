"""The record in a model file, a member that can be read without Keras: see `info`."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict
from pathlib import Path

from wisesr_cli.errors import RunError
from wisesr_cli.model_files.archive import open_archive
from wisesr_cli.model_files.info import MODEL_INFO, ModelInfo, parse_model_info
from wisesr_cli.text import visible


def read_model_info(path: Path) -> ModelInfo:
    """Return what the model file at `path` says of itself.

    Raises:
        RunError: it is not a whole archive of a model, or was not written by wisesr.
    """
    with open_archive(path) as archive:
        if MODEL_INFO not in archive.namelist():
            raise RunError(f"{visible(path)}: not a model of wisesr train: '{MODEL_INFO}' is missing in it")
        record = archive.read(MODEL_INFO)
    return parse_model_info(record, path)


def has_model_info(path: Path) -> bool:
    """Return whether a model file says of itself what it is; one of Keras alone does not.

    Raises:
        RunError: it is no whole archive of a model.
    """
    with open_archive(path) as archive:
        return MODEL_INFO in archive.namelist()


def append_model_info(path: Path, info: ModelInfo) -> None:
    """Add what a model says of itself to its archive, which is not yet under its final name."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MODEL_INFO, json.dumps(asdict(info), indent=1))
