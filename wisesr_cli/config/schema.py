"""The config records: the single source of defaults, checks, documentation and JSON Schema.

Only `reader` builds these records from user input.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, ConfigDict, Field, model_validator

from wisesr_cli.config.schedules import SCHEDULES
from wisesr_cli.config.training import (
    AUGMENTATIONS,
    OPTIMIZERS,
    Augment,
    AugmentConfig,
    DistributeConfig,
    PhaseConfig,
    TrainConfig,
)
from wisesr_cli.data.settings import LABEL_SEPARATOR, DataConfig
from wisesr_cli.images.preparation import RGB
from wisesr_cli.models.heads import HEADS
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.settings import FolderPath, Options, check_path
from wisesr_cli.text import size_text, visible

SCHEMA_VERSION: Literal[1] = 1
SCHEMA_TITLE = "wisesr config"

_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")


def _check_name(name: str) -> str:
    check_path(name)
    # File systems allow 255 bytes; the rest is reserved for suffixes.
    if not _NAME.fullmatch(name) or name.startswith((".", "-")) or len(os.fsencode(name)) > 200:
        raise ValueError(
            "must be a folder name without slashes, of up to 200 bytes, that starts with neither a dot nor a dash"
        )
    return name


RunName = Annotated[str, AfterValidator(_check_name)]


def _allow_extends(schema: dict[str, Any]) -> None:
    """Add the key `extends`, allowed only in files, for editors."""
    about = "Another config, relative to this file, that this one overrides."
    extends = {"type": "string", "title": "Extends", "description": about, "examples": ["base.yaml"]}
    schema["title"], schema["properties"] = SCHEMA_TITLE, {"extends": extends, **schema["properties"]}


class Config(Options):
    """Everything that decides a training run."""

    model_config = ConfigDict(json_schema_extra=_allow_extends)

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    name: RunName | None = Field(default=None, examples=["flowers-wise"])
    """Name of the run directory; null makes one from the source and the head."""
    output_dir: FolderPath = Path("runs")
    """Folder for run directories, relative to the current folder."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Random seed."""
    data: DataConfig = Field(default=DataConfig(), examples=[{"dir": "photos"}])
    augment: Augment = Field(default="light", examples=["light", {"zoom": 0.1}])
    """none, light, paper, or a mapping of individual operations."""
    model: ModelConfig = Field(default=ModelConfig(), examples=[{"backbone": "Xception"}])
    train: TrainConfig = Field(default=TrainConfig(), examples=[{"epochs": 10}])
    distribute: DistributeConfig = Field(default=DistributeConfig(), examples=[{"strategy": "none"}])

    @classmethod
    def model_json_schema(cls, *args: Any, **named: Any) -> dict[str, Any]:
        """Return the JSON Schema, in which a mapping without a `name` matches only its default, as when read."""
        schema = super().model_json_schema(*args, **named)
        for row in NAMED.values():
            for name, record in row.records.items():
                if name != row.default:
                    schema["$defs"][record.__name__]["required"] = ["name"]
        return schema

    @model_validator(mode="after")
    def _fit_channels(self) -> Config:
        """Reject RGB pixel scalings for pixels that are not RGB."""
        if self.data.channels != RGB and self.model.preprocessing in ("caffe", "torch"):
            raise ValueError(
                f"model.preprocessing is {self.model.preprocessing}, a rule for RGB, but data.channels is "
                f"{self.data.channels}; allowed: auto, tf, unit, none"
            )
        return self

    @model_validator(mode="after")
    def _fit_task(self) -> Config:
        """Reject settings not possible with several labels per image, and complete the others."""
        if self.model.task == "single":
            if self.data.label_separator is not None:
                raise ValueError("data.label_separator is given, but model.task is single: set model.task: multilabel")
            return self
        if self.data.manifest is None and self.data.source is not None:
            raise ValueError(
                "model.task is multilabel, but class folders name one label per image; give a table of labels, "
                "data.manifest, with labels such as cat|dog"
            )
        if mixes := self.augmentation.mixes:
            raise ValueError(f"augment.{mixes[0]} mixes images of one label each, but model.task is multilabel")
        if self.data.label_separator is None:
            object.__setattr__(self, "data", self.data.model_copy(update={"label_separator": LABEL_SEPARATOR}))
        if "best_by" not in self.train.model_fields_set:
            object.__setattr__(self, "train", self.train.model_copy(update={"best_by": "loss"}))
        return self

    @model_validator(mode="after")
    def _fit_image_sizes(self) -> Config:
        """Ensure that the last phase trains at the image size of the model."""
        last = self.train.phases[-1].image_size if self.train.phases else None
        if last is None or last == self.data.image_size:
            return self
        if "image_size" in self.data.model_fields_set:
            raise ValueError(
                f"train.phases.{len(self.phases) - 1}.image_size is {size_text(last)}, but data.image_size, which the "
                f"model is for, is {size_text(self.data.image_size)}; omit image_size in the last phase, or set both "
                "to the same size"
            )
        object.__setattr__(self, "data", self.data.model_copy(update={"image_size": last}))
        return self

    def image_size_of_epoch(self, epoch: int) -> tuple[int, int]:
        """Return the image height and width of an epoch, counted from 0; after the last epoch, those of the model."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase.image_size or self.data.image_size
            epoch -= phase.epochs
        return self.data.image_size

    @property
    def changes_image_size(self) -> bool:
        """Whether a phase trains at an image size other than the model's."""
        return any(phase.image_size not in (None, self.data.image_size) for phase in self.phases)

    @property
    def augmentation(self) -> AugmentConfig:
        """The operations selected by `augment`."""
        return AUGMENTATIONS[self.augment] if isinstance(self.augment, str) else self.augment

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """The training phases: those given, or one over all epochs."""
        return tuple(self.train.phases or [PhaseConfig(epochs=self.train.epochs)])

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved config as plain values, in the order of the documentation."""
        return dict(_plain(self.model_dump()))

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return dump_yaml(self.to_dict())


def _plain(value: Any) -> Any:
    """Convert a value to plain YAML and JSON types; pydantic's conversion loses bytes of names that are not UTF-8."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Named:
    """A mapping of the config whose `name` decides which other keys it may have."""

    kind: str
    default: str  # name for a mapping without one
    records: dict[str, type[Options]]


NAMED: dict[tuple[str | int, ...], Named] = {
    ("model", "head"): Named("head", "wise", {name: row.options for name, row in HEADS.items()}),
    ("train", "optimizer"): Named("optimizer", "adamw", {row.model_fields["name"].default: row for row in OPTIMIZERS}),
    ("train", "schedule"): Named("schedule", "cosine", {name: row.options for name, row in SCHEDULES.items()}),
}


class _Dumper(yaml.SafeDumper):
    """Writes YAML that `yaml_reader` can read back: quotes text that YAML 1.1 or 1.2 would parse as a number."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    quoted = '"' if re.match(r"[-+.\d~]", value) or not value.isprintable() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=quoted)


_Dumper.add_representer(str, _represent_text)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def dump_yaml(value: Any) -> str:
    """Return plain values as YAML, keys in the order given; invisible characters are escaped."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    # Text with invisible characters is double-quoted, and YAML understands the escapes of `visible` there.
    return "\n".join(visible(line) for line in text.split("\n"))
