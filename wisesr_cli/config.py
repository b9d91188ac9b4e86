"""The config: its records are the one source of defaults, checks, documentation and JSON Schema.

`config_reader` turns YAML files and command lines into these records; nothing else makes them from user input.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    WithJsonSchema,
    model_validator,
)

from wisesr_cli.backbones import BACKBONES, FROM_WEIGHTS, canonical_name
from wisesr_cli.heads import HEADS, HeadOptions, WiseOptions
from wisesr_cli.options import Options, one_of
from wisesr_cli.schedules import SCHEDULES, CosineOptions, ScheduleOptions
from wisesr_cli.text import size_text, visible
from wisesr_cli.trackers import TrackerName

SCHEMA_VERSION: Literal[1] = 1
SplitName = Literal["train", "validation", "test"]

_NAME = re.compile(r"[^/\\\x00-\x1f\x7f]{1,200}")


def _check_name(name: str) -> str:
    _check_path(name)
    # A file system counts bytes, at most 255 of them, and some are kept for what is put behind a name.
    if not _NAME.fullmatch(name) or name.startswith((".", "-")) or len(os.fsencode(name)) > 200:
        raise ValueError("must be a folder name without slashes, up to 200 bytes, that starts with no dot or dash")
    return name


def _check_path(path: str) -> str:
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise ValueError("no file can have this name: it holds half of a character (a lone surrogate)") from None
    if "\0" in path:
        raise ValueError("a path has no NUL character")
    return path


def _check_once(names: list[TrackerName]) -> list[TrackerName]:
    if len(set(names)) < len(names):
        raise ValueError("the same tracker is there twice")
    return names


def _check_group_regex(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression: {visible(error)}") from None
    return pattern


def _as_size(value: Any) -> Any:
    """Accept 224, [224, 320] and "224x320", all as (height, width)."""
    if isinstance(value, str) and re.fullmatch(r"\d{1,6}(x\d{1,6})?", value):
        value = [int(side) for side in value.split("x")]
        value = value * 2 if len(value) == 1 else value
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value, value]
    return tuple(value) if isinstance(value, list) else value


def _as_path(value: Any) -> Any:
    return Path(_check_path(value)) if isinstance(value, str) and value else value


def _kind(value: Any) -> str:
    return "mapping" if isinstance(value, dict | Options) else "name"


Side = Annotated[int, Field(ge=8, le=8192)]
ImageSize = Annotated[
    tuple[Side, Side],
    BeforeValidator(_as_size),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "integer", "minimum": 8, "maximum": 8192},
                {
                    "type": "array",
                    "items": {"type": "integer", "minimum": 8, "maximum": 8192},
                    "minItems": 2,
                    "maxItems": 2,
                },
            ]
        }
    ),
]
FolderPath = Annotated[Path, BeforeValidator(_as_path), WithJsonSchema({"type": "string"})]
RunName = Annotated[str, AfterValidator(_check_name)]
BackboneName = Annotated[
    str, AfterValidator(canonical_name), WithJsonSchema({"type": "string", "enum": [*BACKBONES, FROM_WEIGHTS]})
]

if TYPE_CHECKING:
    AnyHead = HeadOptions
    AnySchedule = ScheduleOptions
else:
    AnyHead = one_of((row.options for row in HEADS.values()), default="wise")
    AnySchedule = one_of((row.options for row in SCHEDULES.values()), default="cosine")


class DataConfig(Options):
    """Where the images are, and how they become examples."""

    dir: FolderPath | None = None
    """One folder: class folders, or train/ + validation/ (+ test/) of class folders."""
    train_dir: FolderPath | None = None
    """Class folders to train on, when the splits are named one by one."""
    validation_dir: FolderPath | None = None
    """Class folders to validate on."""
    test_dir: FolderPath | None = None
    """Class folders that only `evaluate` reads."""
    validation_split: float = Field(default=0.2, ge=0, lt=1)
    """Fraction of the training images to validate on, when there is no validation folder; 0 is none."""
    split_strategy: Literal["stratified", "hash", "group"] = "stratified"
    """`stratified`: the fraction of every class; `hash`: stable when files come; `group`: keeps groups together."""
    group_regex: Annotated[str, AfterValidator(_check_group_regex)] | None = None
    """For `group`: the part of the path that must not straddle splits (a patient, a scene); group 1, or the match."""
    image_size: ImageSize = (224, 224)
    """Height and width in pixels that every image is brought to."""
    resize: Literal["squash", "crop", "pad"] = "squash"
    """How an image gets its size: without regard to its shape, cut to it, or filled up to it."""
    on_error: Literal["fail", "skip"] = "fail"
    """What an unreadable training image does."""
    pixel_limit: int = Field(default=100_000_000, ge=1, le=10_000_000_000)
    """Width times height above which an image is refused; decoding takes 4 to 16 bytes for every pixel."""
    cache: Literal["auto", "none", "memory", "disk"] = "auto"
    """Where decoded images are kept between epochs."""

    @model_validator(mode="after")
    def _check(self) -> DataConfig:
        if self.dir is not None and self.train_dir is not None:
            raise ValueError("data.dir and data.train_dir are both given; use one")
        if self.train_dir is None and (self.validation_dir or self.test_dir) and self.dir is None:
            raise ValueError("data.train_dir is missing beside data.validation_dir or data.test_dir")
        if self.dir is not None and (self.validation_dir or self.test_dir):
            raise ValueError(
                "data.dir finds its own splits; use data.train_dir beside data.validation_dir or data.test_dir"
            )
        if self.split_strategy == "group" and self.group_regex is None:
            raise ValueError("data.group_regex is missing: data.split_strategy is group")
        if self.split_strategy != "group" and self.group_regex is not None:
            raise ValueError(f"data.group_regex is given, but data.split_strategy is {self.split_strategy}, not group")
        return self


class AugmentConfig(Options):
    """Random changes of training images; each is off unless it is given."""

    horizontal_flip: bool = False
    """Mirror left and right, half of the time."""
    vertical_flip: bool = False
    """Mirror top and bottom, half of the time."""
    rotation: float = Field(default=0.0, ge=0, le=360)
    """Largest rotation to either side, in degrees."""
    zoom: float = Field(default=0.0, ge=0, lt=1)
    """Largest change of height and of width, as a fraction."""
    shift: float = Field(default=0.0, ge=0, lt=1)
    """Largest shift to every side, as a fraction of the image."""
    channel_shift: float = Field(default=0.0, ge=0, le=255)
    """Largest value, in 0..255, that is added to or taken from all channels."""
    brightness: tuple[float, float] | None = None
    """Range of the factor that all channels are multiplied with."""
    contrast: float = Field(default=0.0, ge=0, lt=1)
    """Largest change of contrast, as a fraction."""

    @model_validator(mode="before")
    @classmethod
    def _lists_are_ranges(cls, value: Any) -> Any:
        if isinstance(value, dict) and isinstance(value.get("brightness"), list):
            value = {**value, "brightness": tuple(value["brightness"])}
        return value

    @model_validator(mode="after")
    def _check(self) -> AugmentConfig:
        if self.brightness is not None and not 0 <= self.brightness[0] <= self.brightness[1] <= 10:
            raise ValueError("augment.brightness must be two factors, the smaller first, in 0..10")
        return self


AUGMENTATIONS: dict[str, AugmentConfig] = {
    "none": AugmentConfig(),
    # No flips and no rotation: they would take away the positions that the heads here learn.
    "light": AugmentConfig(zoom=0.1, shift=0.05, brightness=(0.85, 1.15), contrast=0.1),
    # The notebooks' ImageDataGenerator.
    "paper": AugmentConfig(
        horizontal_flip=True,
        vertical_flip=True,
        rotation=360.0,
        zoom=0.2,
        shift=0.1,
        channel_shift=50.0,
        brightness=(0.0, 1.2),
    ),
}


def position_warning(config: AugmentConfig, head: HeadOptions) -> str | None:
    """Return a warning where flips or a wide rotation meet a head that reads position."""
    if not HEADS[head.name].reads_position:
        return None
    moves = [name for name in ("horizontal_flip", "vertical_flip") if getattr(config, name)]
    moves += ["rotation"] if config.rotation >= 45 else []
    if not moves:
        return None
    return (
        f"augment has {', '.join(moves)}: that takes away the positions which the head '{head.name}' learns; "
        "keep it only if the task itself does not care about position"
    )


Augment = Annotated[
    Annotated[Literal["none", "light", "paper"], Tag("name")] | Annotated[AugmentConfig, Tag("mapping")],
    Discriminator(_kind),
]


class ModelConfig(Options):
    """The network: backbone, its weights and scaling, and the head."""

    backbone: BackboneName = "MobileNetV2"
    """A keras.applications name in any case, `compact` (small images), or `from_weights`: that of the run `weights`."""
    weights: Annotated[str, AfterValidator(_check_path)] | None = None
    """null (random), imagenet, a weights or .keras file, or a run directory."""
    load_head: Literal["auto"] | bool = "auto"
    """Whether the head is loaded from `weights`, too; `auto`: where it fits, from a run as `wisesr upgrade` made it."""
    preprocessing: Literal["auto", "caffe", "tf", "torch", "unit", "none"] = "auto"
    """How pixels are scaled; `auto` is what the backbone was trained with."""
    feature_layer: str | None = None
    """Cut the backbone at this layer instead of its end."""
    head: AnyHead = Field(default=WiseOptions())
    """What turns the feature map into logits."""


class SgdOptions(Options):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=1e-2, gt=0, le=100)
    """Base learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Fraction of the last update that is kept."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Decoupled weight decay."""


class AdamOptions(Options):
    """Adam (Kingma and Ba, 2015)."""

    name: Literal["adam"] = "adam"
    learning_rate: float = Field(default=1e-3, gt=0, le=100)
    """Base learning rate."""
    weight_decay: float = Field(default=0.0, ge=0, le=1)
    """Decoupled weight decay."""


class AdamWOptions(Options):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019)."""

    name: Literal["adamw"] = "adamw"
    learning_rate: float = Field(default=1e-3, gt=0, le=100)
    """Base learning rate."""
    weight_decay: float = Field(default=1e-4, ge=0, le=1)
    """Decoupled weight decay."""


if TYPE_CHECKING:
    AnyOptimizer = SgdOptions | AdamOptions | AdamWOptions
else:
    AnyOptimizer = one_of((SgdOptions, AdamOptions, AdamWOptions), default="adamw")


class PhaseConfig(Options):
    """A stretch of epochs with its own optimizer, from a fresh start."""

    epochs: int = Field(ge=1, le=100_000)
    """Length of the phase."""
    freeze: Literal["backbone", "none"] = "none"
    """`backbone`: only the head is trained, and batch norm stays in inference mode."""
    learning_rate: float | None = Field(default=None, gt=0, le=100)
    """Base learning rate of the phase; null takes the optimizer's."""
    schedule: AnySchedule | None = None
    """Learning-rate schedule of the phase; null takes `train.schedule`."""
    image_size: ImageSize | None = None
    """Height and width in pixels while it lasts; null takes `data.image_size`, which the last phase must have."""


class EarlyStoppingConfig(Options):
    """When to stop before the last epoch."""

    monitor: Literal["val_loss", "val_top1_accuracy", "loss", "top1_accuracy"] = "val_loss"
    """What must get better."""
    patience: int = Field(default=10, ge=1)
    """Epochs without a better value before training stops."""
    min_delta: float = Field(default=0.0, ge=0)
    """How much better a value must be to count."""


Weight = Annotated[float, Field(gt=0, le=1e6)]


class TrainConfig(Options):
    """How the network is trained."""

    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the training images. With phases: their sum; another number changes the length of the last phase."""
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Images per step."""
    optimizer: AnyOptimizer = Field(default=AdamWOptions())
    """sgd (momentum: 0.9), adam or adamw."""
    schedule: AnySchedule = Field(default=CosineOptions())
    """constant, cosine, or exponential (decay_rate, decay_epochs, staircase)."""
    phases: Annotated[list[PhaseConfig], Field(min_length=1, max_length=20)] | None = None
    """Stretches of epochs, for instance [{epochs: 5, freeze: backbone}, {epochs: 20, learning_rate: 1e-4}]."""
    class_weights: Annotated[
        Annotated[Literal["none", "balanced"], Tag("name")] | Annotated[dict[str, Weight], Tag("mapping")],
        Discriminator(_kind),
    ] = "none"
    """`balanced` weighs every class alike; a mapping gives weights per class name, 1 where it is silent."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1)
    """Fraction of the target that is spread over all classes, in training only."""
    early_stopping: EarlyStoppingConfig | None = None
    """null, or {monitor: val_loss, patience: 10}."""
    best_by: Literal["top1_accuracy", "loss"] = "top1_accuracy"
    """What makes an epoch the best, on validation; ties by lower loss; the last epoch without validation."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Arithmetic of training; saved models are float32."""
    jit_compile: Literal["auto"] | bool = "auto"
    """Whether XLA compiles the training step; `auto` where it was measured to help."""
    trackers: Annotated[list[TrackerName], AfterValidator(_check_once)] = Field(default_factory=list, max_length=8)
    """Experiment trackers that are told of the training, for instance [mlflow, wandb]; empty is none."""
    track_model: bool = False
    """Whether trackers keep a copy of the best model, too."""

    @model_validator(mode="after")
    def _fit_phases(self) -> TrainConfig:
        """Make `epochs` and the phases say the same; `epochs`, when given, decides the length of the last phase."""
        if self.phases is None:
            return self
        before = sum(phase.epochs for phase in self.phases[:-1])
        if "epochs" not in self.model_fields_set:
            object.__setattr__(self, "epochs", before + self.phases[-1].epochs)
        elif self.epochs <= before:
            raise ValueError(
                f"train.epochs is {self.epochs}, but the phases before the last one already take {before} epochs"
            )
        else:
            last = self.phases[-1].model_copy(update={"epochs": self.epochs - before})
            object.__setattr__(self, "phases", [*self.phases[:-1], last])
        return self


class DistributeConfig(Options):
    """Which devices share the work of a training. It decides no number beyond rounding."""

    strategy: Literal["auto", "none", "data_parallel"] = "auto"
    """`auto`: all GPUs of a process, else its CPU; `none`: one device; `data_parallel`: all devices of one kind."""
    devices: int | None = Field(default=None, ge=1, le=1024)
    """Devices that each process uses; null is all of them. On a CPU, JAX makes that many virtual ones."""
    join_timeout_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """How long the processes of a training wait at its start until all of them have come."""
    lost_after_seconds: float = Field(default=30.0, ge=5, le=50)
    """How long a process may be silent before it counts as lost and the others end."""

    @model_validator(mode="after")
    def _check(self) -> DistributeConfig:
        if self.strategy == "none" and self.devices not in (None, 1):
            raise ValueError(f"distribute.devices is {self.devices}, but distribute.strategy is none: one device")
        return self


def _allow_extends(schema: dict[str, Any]) -> None:
    """Tell editors of the one key that only files have."""
    about = "Another config, relative to this file, that this one is laid over."
    schema["properties"] = {"extends": {"type": "string", "description": about}, **schema["properties"]}


class Config(Options):
    """Everything that decides a training run."""

    model_config = ConfigDict(json_schema_extra=_allow_extends)

    schema_version: Literal[1] = SCHEMA_VERSION
    """Version of this format."""
    name: RunName | None = None
    """Name of the run directory; null makes one from the source and the head."""
    output_dir: FolderPath = Path("runs")
    """Folder for run directories, relative to the current folder."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Start of every random draw."""
    data: DataConfig = DataConfig()
    augment: Augment = "light"
    """none, light, paper, or a mapping of single operations."""
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    distribute: DistributeConfig = DistributeConfig()

    @model_validator(mode="after")
    def _fit_image_sizes(self) -> Config:
        """Make sure that training ends at the image size that the model is for."""
        last = self.train.phases[-1].image_size if self.train.phases else None
        if last is None or last == self.data.image_size:
            return self
        if "image_size" in self.data.model_fields_set:
            raise ValueError(
                f"train.phases.{len(self.phases) - 1}.image_size is {size_text(last)}, but data.image_size, which the "
                f"model is for, is {size_text(self.data.image_size)}; leave image_size out of the last phase, or give "
                "both the same"
            )
        object.__setattr__(self, "data", self.data.model_copy(update={"image_size": last}))
        return self

    def image_size_of_epoch(self, epoch: int) -> tuple[int, int]:
        """Return the height and width that an epoch, from 0, is trained at; behind the last one, those of the model."""
        for phase in self.phases:
            if epoch < phase.epochs:
                return phase.image_size or self.data.image_size
            epoch -= phase.epochs
        return self.data.image_size

    @property
    def changes_image_size(self) -> bool:
        """Whether a phase is trained at another image size than the one that the model is for."""
        return any(phase.image_size not in (None, self.data.image_size) for phase in self.phases)

    @property
    def augmentation(self) -> AugmentConfig:
        """The operations that `augment` stands for."""
        return AUGMENTATIONS[self.augment] if isinstance(self.augment, str) else self.augment

    @property
    def phases(self) -> tuple[PhaseConfig, ...]:
        """The phases of training: those given, or one over all epochs."""
        return tuple(self.train.phases or [PhaseConfig(epochs=self.train.epochs)])

    def to_dict(self) -> dict[str, Any]:
        """Return the resolved config as plain values, in the order of the documentation."""
        return dict(_plain(self.model_dump()))

    def to_yaml(self) -> str:
        """Return the resolved config as YAML."""
        return dump_yaml(self.to_dict())


def _plain(value: Any) -> Any:
    """Return a value as YAML and JSON know it; pydantic's own way loses the bytes of names that are not UTF-8."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class Named:
    """A mapping of the config whose `name` decides which other keys it may have."""

    kind: str
    default: str  # the name of a mapping without one
    records: dict[str, type[Options]]


NAMED: dict[tuple[str | int, ...], Named] = {
    ("model", "head"): Named("head", "wise", {name: row.options for name, row in HEADS.items()}),
    ("train", "optimizer"): Named(
        "optimizer", "adamw", {"sgd": SgdOptions, "adam": AdamOptions, "adamw": AdamWOptions}
    ),
    ("train", "schedule"): Named("schedule", "cosine", {name: row.options for name, row in SCHEDULES.items()}),
}


class _Dumper(yaml.SafeDumper):
    """Writes what `yaml_reader` reads back: text that looks like a number to either YAML is quoted."""


def _represent_text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    quoted = '"' if re.match(r"[-+.\d~]", value) or not value.isprintable() else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=quoted)


_Dumper.add_representer(str, _represent_text)
_Dumper.ignore_aliases = lambda self, data: True  # type: ignore[method-assign]


def dump_yaml(value: Any) -> str:
    """Return plain values as YAML, keys in the order given; what does not show itself is escaped."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100)
    # Text with such characters stands in double quotes, where the escapes of `visible` are those of YAML.
    return "\n".join(visible(line) for line in text.split("\n"))
