"""The progress of a training, as stored in the state directory, and whether it can be resumed. No Keras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
from pydantic import AfterValidator, InstanceOf, TypeAdapter, ValidationError

from wisesr_cli.config.schema import Config
from wisesr_cli.data.index import Changes
from wisesr_cli.errors import RunError
from wisesr_cli.images.preparation import RGB
from wisesr_cli.listening import Listener
from wisesr_cli.results.training import EpochResult
from wisesr_cli.run.state import Arrays, newest_record
from wisesr_cli.text import joined, visible

# Settings that affect where and how results are stored, not what is computed.
_FREE = ("name", "output_dir", "data.cache", "train.epochs", "train.trackers", "train.track_model", "model.weights_dir")
# Image folders may be moved and may differ between machines; their images are checked to be the same.
PLACES = ("data.dir", "data.train_dir", "data.validation_dir", "data.test_dir", "data.manifest")
_FREE_SECTION = "distribute."  # other devices and processes cause a warning
# The behaviour of earlier versions, whose states lack these settings.
_ADDED = {
    "data.value_range": "full",
    "data.color": "as_is",
    "data.channels": RGB,
    "data.statistics": "auto",
    "data.label_separator": None,
    "model.task": "single",
    "train.loss": "cross_entropy",
    "train.ema": None,
    "train.gradient_accumulation_steps": 1,
}
_NEWER = (
    "train.feature_cache",
    "train.augmented_views",
    "train.gradient_clip_norm",
    "train.calibration",
    "data.manifest",
    "data.fold",
    "model.head.hidden",
    "augment.rand_augment",
    "augment.random_erasing",
    "augment.mixup",
    "augment.cutmix",
)  # missing in earlier states
_LAST_PHASE = "train.phases"

Text = InstanceOf[str]  # class names may come from file names that are not UTF-8, which pydantic's own check refuses
Record = TypeVar("Record", "Progress", "Circumstances")


@dataclass
class Progress:
    """Everything besides the arrays that a resumed training continues from.

    `best_epoch`, `best_rank`: the best epoch so far and the values it is ranked by, larger is better. `stopping_best`,
    `stopping_wait`: the best value that early stopping saw, and the epochs since. `planned_epochs`: the requested
    number of epochs; `finished`: whether training is complete.
    """

    history: list[EpochResult] = field(default_factory=list)
    best_epoch: int | None = None
    best_rank: tuple[float, ...] = ()
    stopping_best: float | None = None
    stopping_wait: int = 0
    planned_epochs: int = 0
    finished: bool = False

    @property
    def epoch(self) -> int:
        """The number of finished epochs."""
        return len(self.history)

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the state directory."""
        return {**asdict(self), "best_rank": list(self.best_rank)}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """Return the progress that `to_json` wrote; `RunError` when damaged or from another version."""
        return _read(cls, values)


def newest_progress(folder: Path) -> Progress | None:
    """Return the progress in the newest state in a folder; None without any, `RunError` when damaged."""
    values = newest_record(folder, "progress")
    return None if values is None else Progress.from_json(values)


@dataclass
class DataRecord:
    """The result of `DatasetIndex.record`: the classes, and per split and class the number of files and hashes."""

    classes: list[Text]
    splits: dict[Text, dict[Text, tuple[int, Text] | tuple[int, Text, Text]]]  # states of earlier versions lack content
    weights: str | None = None  # a hash, if a manifest has weights


def _data_record(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values unchanged, after checking that they are a `DataRecord`."""
    TypeAdapter(DataRecord).validate_python(values)
    return values


@dataclass(frozen=True)
class Circumstances:
    """What must not change between a training and its resumption, and what may change with a warning."""

    config: dict[Text, Any]
    classes: tuple[Text, ...]
    data: Annotated[dict[Text, Any], AfterValidator(_data_record)]
    versions: dict[str, str]
    backend: str
    threads: int
    device: str

    def to_json(self) -> dict[str, Any]:
        """Return plain values for the state directory."""
        return asdict(self)


def circumstances_from_json(values: Mapping[str, Any]) -> Circumstances:
    """Return what `Circumstances.to_json` wrote; `RunError` when damaged or from another version."""
    return _read(Circumstances, values)


def _read(record: type[Record], values: Mapping[str, Any]) -> Record:
    """Return a record from plain values, after checking that every field is present and has its type."""
    names = {field.name for field in fields(record)}
    try:
        if odd := sorted(names ^ values.keys()):
            raise ValueError(f"'{odd[0]}' is missing or unknown")
        return TypeAdapter(record).validate_python(values)
    except ValidationError as error:
        place = ".".join(str(part) for part in error.errors()[0]["loc"])
        raise _other_version(f"{place}: {error.errors()[0]['msg']}") from None
    except ValueError as error:
        raise _other_version(str(error)) from None


def _other_version(reason: str) -> RunError:
    return RunError(f"the state is damaged or from another version: {visible(reason)}; use --overwrite")


def check_resumable(
    before: Circumstances,
    now: Circumstances,
    changes: Changes,
    listener: Listener,
    *,
    way_out: str = "start over with --overwrite",
) -> None:
    """Report the permitted changes.

    Raises a `RunError` that lists the differences if config, classes, data, library versions or backend differ.
    """
    differences = _config_differences({**_added(before.config), **before.config}, now.config)
    moved = [] if changes.lines else [line for line in differences if line.partition(":")[0] in PLACES]
    differences = [line for line in differences if line not in moved]
    if before.classes != now.classes:
        differences.append(f"classes: {joined(before.classes)} -> {joined(now.classes)}")
    differences += changes.lines
    if before.backend != now.backend:
        differences.append(f"backend: {before.backend} -> {now.backend}")
    unused = {"jax", "tensorflow"} - {now.backend}
    for package in sorted((before.versions.keys() | now.versions.keys()) - unused):
        old, new = before.versions.get(package), now.versions.get(package)
        if old != new:
            differences.append(f"{package}: {old or 'absent'} -> {new or 'absent'}")
    if differences:
        shown = "; ".join(differences[:10]) + (f"; and {len(differences) - 10} more" if len(differences) > 10 else "")
        raise RunError(f"cannot resume, because these differ: {shown}; undo the change, or {way_out}")
    for line in moved:
        listener.note(f"{line}: the same images in another place")
    if changes.are_dates_other:
        listener.note("images have different dates than at the start of training, but the same content")
    if before.threads != now.threads:
        listener.warn(f"threads: {before.threads} -> {now.threads}; the last bits of the numbers may differ")
    if before.device != now.device:
        listener.warn(f"device: {before.device} -> {now.device}; the last bits of the numbers may differ")


def check_same_draws(before: Arrays, now: Arrays, *, epoch: int) -> None:
    """Raise a `RunError` if an epoch would start with random states other than the stored ones."""
    for name in sorted(before.keys() | now.keys()):
        same = name in before and name in now and before[name].dtype == now[name].dtype
        if not same or not np.array_equal(before[name], now[name]):
            raise RunError(
                f"cannot resume, because the random draws of epoch {epoch} would differ ({visible(name)}); use the "
                "wisesr version that the run was started with, or start over with --overwrite"
            )


def config_for_comparison(config: Config) -> dict[str, Any]:
    """Return the settings that affect the results, flat: `train.batch_size` -> 32."""
    flat = _flatten(config.to_dict())
    phases = flat.pop(_LAST_PHASE)
    for index, phase in enumerate(phases or ()):
        flat.update(_flatten(phase, f"{_LAST_PHASE}.{index}."))
    if phases:
        del flat[f"{_LAST_PHASE}.{len(phases) - 1}.epochs"]  # the last phase grows with train.epochs
    return {key: value for key, value in flat.items() if key not in _FREE and not key.startswith(_FREE_SECTION)}


def flat_settings(config: Config) -> dict[str, Any]:
    """Return all settings, flat: `train.batch_size` -> 32; lists are kept."""
    return _flatten(config.to_dict())


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat.update(_flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat


def _shown(value: Any) -> str:
    return "null" if value is None else visible(value)


def _added(before: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `_ADDED` that a state lacks, both as a single value and as a mapping."""
    known = {".".join(key.split(".")[:count]) for key in before for count in range(1, key.count(".") + 2)}
    return {key: value for key, value in _ADDED.items() if key not in known}


def _config_differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    keys = dict.fromkeys((*before, *(key for key in now if key in before or key not in _NEWER)))
    return [
        f"{visible(key)}: {_shown(before.get(key))} -> {_shown(now.get(key))}"
        for key in keys
        if before.get(key) != now.get(key)
    ]
