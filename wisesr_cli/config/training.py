"""The settings of training: augmentation, optimizer, schedule, phases, devices, trackers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from wisesr_cli.config.schedules import SCHEDULES, CosineOptions, Monitor, ScheduleOptions
from wisesr_cli.models.heads import HEADS, HeadOptions
from wisesr_cli.settings import ImageSize, Options, kind_of, one_of

TrackerName = Literal["mlflow", "wandb"]


def _check_once(names: list[TrackerName]) -> list[TrackerName]:
    if len(set(names)) < len(names):
        raise ValueError("the same tracker is given twice")
    return names


if TYPE_CHECKING:
    AnySchedule = ScheduleOptions
else:
    AnySchedule = one_of((row.options for row in SCHEDULES.values()), default="cosine")


class AugmentConfig(Options):
    """Random changes of training images; each is off unless it is given."""

    horizontal_flip: bool = False
    """Mirror left and right, half of the time."""
    vertical_flip: bool = False
    """Mirror top and bottom, half of the time."""
    rotation: float = Field(default=0.0, ge=0, le=360, examples=[10])
    """Largest rotation to either side, in degrees."""
    zoom: float = Field(default=0.0, ge=0, lt=1, examples=[0.1])
    """Largest change of height and of width, as a fraction."""
    shift: float = Field(default=0.0, ge=0, lt=1, examples=[0.05])
    """Largest shift to every side, as a fraction of the image."""
    channel_shift: float = Field(default=0.0, ge=0, le=255, examples=[20])
    """Largest value, in 0..255, that is added to or subtracted from all channels."""
    brightness: tuple[float, float] | None = Field(default=None, examples=[[0.85, 1.15]])
    """Range of the factor by which all channels are multiplied."""
    contrast: float = Field(default=0.0, ge=0, lt=1, examples=[0.1])
    """Largest change of contrast, as a fraction."""
    rand_augment: float = Field(default=0.0, ge=0, le=1, examples=[0.1])
    """Strength of Keras' RandAugment, which draws two of its eleven operations for every batch; 0 is off."""
    random_erasing: float = Field(default=0.0, ge=0, le=1, examples=[0.25])
    """Probability that a rectangle of an image is replaced by noise."""
    mixup: float = Field(default=0.0, ge=0, le=1, examples=[0.2])
    """MixUp: alpha of the Beta distribution by which every image and its label are mixed with another; 0 is off."""
    cutmix: float = Field(default=0.0, ge=0, le=1, examples=[1.0])
    """CutMix: alpha as for `mixup`; a rectangle of another image is pasted. With both, a batch draws one of them."""

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

    @property
    def mixes(self) -> tuple[str, ...]:
        """The operations that mix images, and their labels, with others."""
        return tuple(name for name in ("mixup", "cutmix") if getattr(self, name))


AUGMENTATIONS: dict[str, AugmentConfig] = {
    "none": AugmentConfig(),
    # No flips or rotation, which would destroy the positions that the heads learn.
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


WIDE_ROTATION = 45  # degrees; from here on, a head cannot rely on positions


def position_warning(config: AugmentConfig, head: HeadOptions) -> str | None:
    """Return a warning for flips or a wide rotation with a head that reads positions, else None.

    MixUp, CutMix and erasing give no warning: what they keep of an image, or paste from another, stays in place.
    """
    if not HEADS[head.name].reads_position:
        return None
    moves = [name for name in ("horizontal_flip", "vertical_flip") if getattr(config, name)]
    moves += ["rotation"] if config.rotation >= WIDE_ROTATION else []
    moves += ["rand_augment"] if 360 * config.rand_augment >= WIDE_ROTATION else []  # its strength is in turns
    if not moves:
        return None
    return (
        f"augment has {', '.join(moves)}: that destroys the positions that the head '{head.name}' learns; "
        "keep it only if position does not matter for the task"
    )


Augment = Annotated[
    Annotated[Literal["none", "light", "paper"], Tag("name")] | Annotated[AugmentConfig, Tag("mapping")],
    Discriminator(kind_of),
]


class SgdOptions(Options):
    """Stochastic gradient descent with momentum."""

    name: Literal["sgd"] = "sgd"
    learning_rate: float = Field(default=1e-2, gt=0, le=100)
    """Base learning rate."""
    momentum: float = Field(default=0.9, ge=0, lt=1)
    """Momentum."""
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


class FocalOptions(Options):
    """The focal loss (Lin et al., 2017), of which `train.class_weights` is the alpha."""

    name: Literal["focal"] = "focal"
    gamma: float = Field(default=2.0, ge=0, le=10)
    """Focusing parameter: how much well-classified examples are down-weighted; 0 is the cross-entropy."""


LossChoice = Annotated[
    Annotated[Literal["cross_entropy", "focal"], Tag("name")] | Annotated[FocalOptions, Tag("mapping")],
    Discriminator(kind_of),
]
Momentum = Annotated[float, Field(gt=0, lt=1)]


class EmaOptions(Options):
    """The exponential moving average of the weights."""

    momentum: Momentum = 0.999
    """Fraction of the average that an update keeps: 0.999 averages over about the last 1000 updates."""


EmaChoice = Annotated[Annotated[Momentum, Tag("name")] | Annotated[EmaOptions, Tag("mapping")], Discriminator(kind_of)]

OPTIMIZERS = (SgdOptions, AdamOptions, AdamWOptions)

if TYPE_CHECKING:
    AnyOptimizer = SgdOptions | AdamOptions | AdamWOptions
else:
    AnyOptimizer = one_of(OPTIMIZERS, default="adamw")


class FreezePart(Options):
    """The first layers of a backbone, which stay as they are: up to a layer, or a fraction of them."""

    below: str | None = Field(default=None, examples=["block_13_expand"])
    """The first layer that is trained; all before it are frozen."""
    fraction: float | None = Field(default=None, gt=0, le=1, examples=[0.7])
    """Fraction of the layers with weights, from the first on."""

    @model_validator(mode="after")
    def _check(self) -> FreezePart:
        if (self.below is None) == (self.fraction is None):
            raise ValueError("freeze takes either {below: LAYER} or {fraction: 0.7}")
        return self


Freeze = Annotated[
    Annotated[Literal["backbone", "none"], Tag("name")] | Annotated[FreezePart, Tag("mapping")], Discriminator(kind_of)
]


class PhaseConfig(Options):
    """A stretch of epochs with its own optimizer, from a fresh start."""

    epochs: int = Field(ge=1, le=100_000, examples=[5])
    """Epochs of the phase."""
    freeze: Freeze = Field(default="none", examples=["backbone", {"fraction": 0.7}])
    """`backbone`: only the head is trained, batch norm and dropout of the backbone stay in inference mode;
    {below: LAYER}, {fraction: 0.7}: the backbone's first layers are not."""
    batch_norm: Literal["train", "frozen"] | None = Field(default=None, examples=["frozen"])
    """`frozen` keeps the backbone's statistics, `train` uses each batch's; null: frozen where weights were loaded."""
    augment: Literal["none"] | None = Field(default=None, examples=["none"])
    """`none` shows the images as they are; null augments them as `augment` says."""
    learning_rate: float | None = Field(default=None, gt=0, le=100, examples=[1e-4])
    """Base learning rate of the phase; null takes the optimizer's."""
    schedule: AnySchedule | None = Field(default=None, examples=[{"name": "constant"}])
    """Learning-rate schedule of the phase; null takes `train.schedule`."""
    image_size: ImageSize | None = Field(default=None, examples=[160])
    """Height and width in pixels during the phase; null takes `data.image_size`, which the last phase must have."""


class EarlyStoppingConfig(Options):
    """When to stop before the last epoch."""

    monitor: Monitor = "val_loss"
    """The metric to monitor."""
    patience: int = Field(default=10, ge=1)
    """Epochs of a phase without improvement before training stops."""
    min_delta: float = Field(default=0.0, ge=0)
    """Smallest change that counts as an improvement."""


Weight = Annotated[float, Field(gt=0, le=1e6)]


class TrainConfig(Options):
    """How the network is trained."""

    epochs: int = Field(default=30, ge=1, le=100_000)
    """Passes over the training images. With phases: their sum; another number changes the length of the last phase."""
    batch_size: int = Field(default=32, ge=1, le=65_536)
    """Images per step."""
    optimizer: AnyOptimizer = Field(
        default=AdamWOptions(), examples=[{"name": "sgd", "learning_rate": 0.01, "momentum": 0.9}]
    )
    """sgd (momentum: 0.9), adam or adamw."""
    schedule: AnySchedule = Field(default=CosineOptions(), examples=[{"name": "cosine", "warmup_epochs": 1}])
    """constant, cosine, exponential (decay_rate, decay_epochs, staircase), or plateau (monitor, factor, patience)."""
    gradient_clip_norm: float | None = Field(default=None, gt=0, examples=[1.0])
    """Largest norm of all gradients of a step together; larger ones are scaled down; null leaves them."""
    gradient_accumulation_steps: int = Field(default=1, ge=1, le=1024)
    """Steps whose gradients are averaged for one update; steps left over at the end of a phase make no update."""
    ema: EmaChoice | None = Field(default=None, examples=[0.999, {"momentum": 0.999}])
    """0.999 or {momentum: 0.999}: averages of the weights are validated and saved; null: the weights themselves."""
    phases: Annotated[list[PhaseConfig], Field(min_length=1, max_length=20)] | None = Field(
        default=None, examples=[[{"epochs": 5, "freeze": "backbone"}, {"epochs": 20, "learning_rate": 1e-4}]]
    )
    """Training phases, for instance [{epochs: 5, freeze: backbone}, {epochs: 20, learning_rate: 1e-4}]."""
    feature_cache: Literal["auto", "none"] = "auto"
    """`auto`: feature maps of a frozen backbone are computed once and kept; `none`: again in every epoch."""
    augmented_views: int = Field(default=4, ge=1, le=64)
    """Augmented versions of every training image, used in turn, whose feature maps are kept."""
    class_weights: Annotated[
        Annotated[Literal["none", "balanced"], Tag("name")] | Annotated[dict[str, Weight], Tag("mapping")],
        Discriminator(kind_of),
    ] = Field(default="none", examples=["balanced", {"cat": 2.0}])
    """`balanced` makes every class count equally; a mapping gives weights per class name, 1 for classes it does not
    name. Where images have several labels, those with the label are weighted; `balanced` then makes them count as
    much as the others."""
    label_smoothing: float = Field(default=0.0, ge=0, lt=1, examples=[0.1])
    """Fraction of the target that is spread over all classes, in training only."""
    loss: LossChoice = Field(default="cross_entropy", examples=["focal", {"name": "focal", "gamma": 2.0}])
    """cross_entropy, focal, or {name: focal, gamma: 2.0}; `loss` and `val_loss` of history.csv are this loss."""
    early_stopping: EarlyStoppingConfig | None = Field(default=None, examples=[{"monitor": "val_loss", "patience": 10}])
    """null, or {monitor: val_loss, patience: 10}."""
    best_by: Literal["top1_accuracy", "loss"] = "top1_accuracy"
    """What makes an epoch the best, on validation; ties by lower loss; the last epoch without validation. Where images
    have several labels, `loss` unless set."""
    calibration: Literal["auto", "none"] = "auto"
    """`auto`: at the end, a temperature is fitted on validation so that scores match how often they are right."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    """Numeric precision of training; saved models are float32."""
    jit_compile: Literal["auto"] | bool = Field(default="auto", examples=["auto", True])
    """Whether XLA compiles the training step; `auto` where it was measured to help."""
    trackers: Annotated[list[TrackerName], AfterValidator(_check_once)] = Field(
        default_factory=list, max_length=8, examples=[["mlflow"]]
    )
    """Experiment trackers to log to, for instance [mlflow, wandb]; empty is none."""
    track_model: bool = False
    """Whether trackers keep a copy of the best model, too."""

    @property
    def ema_momentum(self) -> float | None:
        """The momentum of the weight average, or None."""
        return self.ema.momentum if isinstance(self.ema, EmaOptions) else self.ema

    @property
    def focal_gamma(self) -> float | None:
        """The gamma of the focal loss; None for cross-entropy."""
        loss = FocalOptions() if self.loss == "focal" else self.loss
        return loss.gamma if isinstance(loss, FocalOptions) else None

    @model_validator(mode="after")
    def _fit_phases(self) -> TrainConfig:
        """Make `epochs` and the phases consistent; `epochs`, when given, decides the length of the last phase."""
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
    devices: int | None = Field(default=None, ge=1, le=1024, examples=[2])
    """Devices that each process uses; null is all of them. On a CPU, JAX makes that many virtual ones."""
    join_timeout_seconds: float = Field(default=300.0, ge=1, le=86_400)
    """How long processes wait for each other at the start (JAX's initialization timeout)."""
    lost_after_seconds: float = Field(default=30.0, ge=5, le=50)
    """How long a process may be silent before JAX counts it as lost and ends the others (JAX's heartbeat timeout)."""

    @model_validator(mode="after")
    def _check(self) -> DistributeConfig:
        if self.strategy == "none" and self.devices not in (None, 1):
            raise ValueError(f"distribute.devices is {self.devices}, but distribute.strategy is none: one device")
        return self
