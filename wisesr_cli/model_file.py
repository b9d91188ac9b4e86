"""What a model file says of itself, in a member that can be read without Keras: class names, sizes, versions."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from wisesr_cli.archive import MODEL_INFO, open_archive
from wisesr_cli.color import BACKGROUND
from wisesr_cli.errors import RunError
from wisesr_cli.text import visible

MOST_SIDE = 8192  # pixels; a batch of larger images fits no memory

Resize = Literal["squash", "crop", "pad"]


@dataclass(frozen=True)
class ModelInfo:
    """What a model file says of itself."""

    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    resize: Resize
    background: tuple[int, int, int]
    backbone: str
    head: str
    epoch: int
    versions: dict[str, str]


def read_model_info(path: Path) -> ModelInfo:
    """Return what the model file at `path` says of itself.

    Raises:
        RunError: it is not a whole archive of a model, or was not written by wisesr.
    """
    with open_archive(path) as archive:
        if MODEL_INFO not in archive.namelist():
            raise RunError(f"{visible(path)}: not a model of wisesr train: '{MODEL_INFO}' is missing in it")
        record = archive.read(MODEL_INFO)
    try:
        info = _from_json(json.loads(record))
    except KeyError as error:
        raise RunError(f"{visible(path)}: not a model of wisesr train: {visible(error)} is missing") from None
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{visible(path)}: {MODEL_INFO} in it is damaged: {visible(error)}") from None
    if info.background != BACKGROUND:
        raise RunError(f"{visible(path)}: was trained with another background than this wisesr lays under images")
    return info


def _from_json(values: dict[str, Any]) -> ModelInfo:
    height, width = values["image_size"]
    if not all(type(side) is int and 0 < side <= MOST_SIDE for side in (height, width)):
        raise ValueError(f"the image size {height}x{width}")
    if values["resize"] not in get_args(Resize):
        raise ValueError(f"the resize rule {values['resize']!r}")
    names = values["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ValueError("its class names are no list of different texts")
    return ModelInfo(
        class_names=tuple(names),
        image_size=(height, width),
        resize=values["resize"],
        background=tuple(values["background"]),
        backbone=str(values["backbone"]),
        head=str(values["head"]),
        epoch=int(values["epoch"]),
        versions=dict(values["versions"]),
    )


def append_model_info(path: Path, info: ModelInfo) -> None:
    """Add what a model says of itself to its archive, which is not yet under its final name."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(MODEL_INFO, json.dumps(asdict(info), indent=1))
