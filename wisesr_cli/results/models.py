"""The results about models: `summarize`, `export` and `upgrade`. Standard library only."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from wisesr_cli.results.records import PlainJson


@dataclass(frozen=True)
class SummaryRow(PlainJson):
    """Parameters, FLOPs (one multiply-add is 2) and size of one backbone with one head at one image size."""

    _optional = ("latency_ms",)
    backbone: str
    image_height: int
    image_width: int
    classes: int
    head: str
    feature_map: tuple[int, int, int]
    backbone_parameters: int
    head_parameters: int
    total_parameters: int
    trainable_parameters: int
    head_flops: int
    total_flops: int
    size_mb: float
    imagenet_weights: Literal["here", "download"] | None = None  # where the backbone's weights are; None: nowhere
    latency_ms: float | None = None


@dataclass(frozen=True)
class Summary:
    """The rows of `wisesr summarize`, and notes about what was omitted."""

    rows: tuple[SummaryRow, ...]
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr summarize --format json`."""
        return {"rows": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class ExportedModel:
    """A model in another format, and the differences of its outputs from those of the run on the same images."""

    format: str
    file: str  # its name in the folder of exports
    quantize: str | None
    bytes: int
    compared_on: str  # a split of the run, or a folder
    compared_images: int
    max_probability_difference: float  # the largest over the images and all classes
    max_logit_difference: float | None  # None if the model returns probabilities
    top1_agreement: float  # the fraction of the images whose best label is that of the run
    output: str = "logits"
    layout: str = "nhwc"  # of the pixels: batch, height, width, RGB; nchw: batch, RGB, height, width
    batch: int | None = None  # images per call; None: any number
    resize: str = "outside"  # inside: it takes images of any size
    judged_images: int | None = None  # labelled images for the accuracies, for a quantized model only
    run_top1_accuracy: float | None = None
    top1_accuracy: float | None = None

    @property
    def top1_accuracy_difference(self) -> float | None:
        """The change of top-1 accuracy by quantization; negative is a loss."""
        before, after = self.run_top1_accuracy, self.top1_accuracy
        return None if before is None or after is None else after - before

    def to_json(self) -> dict[str, Any]:
        """Return one row of `wisesr export --format json`."""
        return {**asdict(self), "top1_accuracy_difference": self.top1_accuracy_difference}


@dataclass(frozen=True)
class Exports:
    """The exported models and their folder."""

    output_dir: str
    rows: tuple[ExportedModel, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr export --format json`."""
        return {"output_dir": self.output_dir, "rows": [row.to_json() for row in self.rows]}


@dataclass(frozen=True)
class Upgrade(PlainJson):
    """A Keras classifier, the run that `wisesr upgrade` made from it, and their differences on `compared_images`."""

    run_dir: str
    model: str
    image_size: tuple[int, int]
    layers: int
    backbone_parameters: int
    scaling: str  # how pixels are scaled before the model
    scaling_reason: str  # how that is known
    feature_map: tuple[int, int, int]
    pooling: str
    tail: tuple[str, ...]  # the layers after the pooling
    activation: str  # the final one; sigmoid for one unit
    hidden: tuple[str, ...]  # those kept as hidden layers of the head; the others are its classifier layer
    class_names: tuple[str, ...]
    head: str
    head_parameters: int
    compared_images: int
    compared_on: str
    max_probability_difference: float
    max_log_difference: float  # of log-probabilities, divided by the largest logarithm
    variation: float  # largest difference of a class's probability between two images; if small, the test is weak
    notes: tuple[str, ...] = ()
