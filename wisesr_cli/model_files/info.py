"""The JSON record in a model file of any format: class names, image size, versions. No Keras."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wisesr_cli.errors import ConfigError, RunError
from wisesr_cli.images.preparation import RGB, Preparation
from wisesr_cli.settings import LARGEST_SIDE
from wisesr_cli.text import counted, visible

MODEL_INFO = "wisesr.json"  # file name of the record in an archive
PLACEHOLDER = "class_{}"  # name of a class without a given name


@dataclass(frozen=True)
class ModelInfo:
    """The record in a model file."""

    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    preparation: Preparation
    background: tuple[int, int, int]
    backbone: str
    head: str
    epoch: int
    versions: dict[str, str]
    temperature: float = 1.0  # divides logits before they become probabilities
    thresholds: tuple[float, ...] | None = None  # of each label, if an image may have several

    def to_json(self) -> dict[str, Any]:
        """Return the fields of the record as a flat mapping."""
        values = {name: getattr(self, name) for name in self.__dataclass_fields__ if name != "preparation"}
        return {**values, **self.preparation.to_json()}

    @property
    def is_multilabel(self) -> bool:
        """Whether an image may have several labels, or none."""
        return self.thresholds is not None

    @property
    def is_upgraded(self) -> bool:
        """Whether `wisesr upgrade` made the model and it was not trained since; training counts epochs from 1."""
        return self.epoch == 0

    @property
    def has_named_classes(self) -> bool:
        """Whether the classes were given names; placeholders match any names by order."""
        return any(name != PLACEHOLDER.format(number) for number, name in enumerate(self.class_names))


def parse_model_info(record: bytes, path: Path) -> ModelInfo:
    """Parse the record of the model file at `path`; `RunError` when it is damaged or not written by wisesr."""
    from wisesr_cli.images.color import BACKGROUND  # imports Pillow, not needed for file names alone

    try:
        info = _from_json(json.loads(record))
    except KeyError as error:
        raise RunError(f"{visible(path)}: not a model of wisesr train: {visible(error)} is missing") from None
    except (ArithmeticError, AttributeError, IndexError, TypeError, ValueError, RecursionError) as error:
        raise RunError(f"{visible(path)}: {MODEL_INFO} in it is damaged: {visible(error)}") from None
    if info.background != BACKGROUND:
        raise RunError(
            f"{visible(path)}: was trained with a different background from the one this wisesr puts under images"
        )
    return info


def _from_json(values: dict[str, Any]) -> ModelInfo:
    height, width = values["image_size"]
    if not all(type(side) is int and 0 < side <= LARGEST_SIDE for side in (height, width)):
        raise ValueError(f"the image size {height}x{width}")
    names = values["class_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len({*names}) < len(names):
        raise ValueError("its class names are not a list of distinct strings")
    return ModelInfo(
        class_names=tuple(names),
        image_size=(height, width),
        preparation=Preparation.from_json(values),
        background=tuple(values["background"]),
        backbone=str(values["backbone"]),
        head=str(values["head"]),
        epoch=int(values["epoch"]),
        versions=dict(values["versions"]),
        temperature=_positive(values.get("temperature", 1.0)),  # older files have none
        thresholds=_thresholds(values.get("thresholds"), len(names)),
    )


def _positive(value: Any) -> float:
    number = float(value)
    if not 0 < number < float("inf"):
        raise ValueError(f"the temperature {number}")
    return number


def _thresholds(values: Any, classes: int) -> tuple[float, ...] | None:
    if values is None:
        return None
    found = tuple(map(float, values))
    if len(found) != classes or not all(0 <= value <= 1 for value in found):
        raise ValueError("its thresholds are not a number of 0 to 1 for each class")
    return found


BEST = "best.keras"
WRITTEN = ".written.jsonl"  # the record of a run, see `run.written`: it marks a folder as one


def weights_file(source: str) -> Path:
    """Return the file that `model.weights` names: itself, or a run's best model; `RunError` when it does not exist."""
    path = Path(source) / BEST if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise RunError(
            f"model.weights: {visible(path)}: no such file; allowed: imagenet, a weights or .keras file, a run"
        )
    return path


def check_same_channels(info: ModelInfo, wanted: int, path: Path) -> int:
    """Return the channels of a model file; raises `ConfigError` if images have others, unless the model takes RGB.

    Only RGB weights can be adapted.
    """
    stored = info.preparation.channels
    if stored not in (RGB, wanted):
        raise ConfigError(
            f"model.weights: {visible(path)}: is for {counted(stored, 'channel')}, but data.channels is {wanted}"
        )
    return stored
