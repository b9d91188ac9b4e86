"""Computes what the devices of a training send each other in a step, and how long that takes relative to the step.

    python -m benchmarks.scale.communication
    python -m benchmarks.scale.communication --teraflops 100 --microseconds 5 --batch 64 --classes 70

Nothing is measured and no framework is started: the counts come from the table of backbones and the formulas for heads
that `wisesr summarize` also uses. The factors that they are multiplied by are assumptions, and options. A test compares
the bytes with the all-reduces that XLA compiles into a step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace

from benchmarks.measuring import arguments_for, figure
from wisesr_cli.config.reader import parse_head
from wisesr_cli.display.grid import Column, Grid, to_markdown
from wisesr_cli.models.costs_table import BACKBONE_SIZES
from wisesr_cli.models.heads import head_flops, head_parameters

BYTES = 4  # variables and their gradients are float32, whatever the precision of a training
# For every channel of a batch norm, XLA exchanges its mean; the square of the deviations, and the mean again; in the
# backward pass, the gradient of the mean. Gradients of scale and shift are like any others. Each waits for the last.
NUMBERS_PER_CHANNEL, ROUNDS_PER_LAYER = 4, 4
NORMALIZATION = 7  # numbers that an EfficientNetB stores from ImageNet; no batch changes them

# Batch-norm layers of the backbones shown; the table has only their channels.
LAYERS = {"MobileNetV2": 52, "EfficientNetB0": 49, "ResNet50": 53, "Xception": 40, "ConvNeXtTiny": 0}
HEADS = ("gap", "wise", "flatten")
DEVICES = (8, 64, 256, 1024)
LINKS = (10, 100, 400)  # Gbit/s
IMAGE_SIZE = (224, 224)
GOAL = 0.8  # fraction of a step


@dataclass(frozen=True)
class Assumptions:
    """The factors that the counts are multiplied by.

    `teraflops`: sustained by a device in training; `microseconds`: the latency of a message; `batch`: per device;
    `classes`: logits.
    """

    teraflops: float = 50.0
    microseconds: float = 10.0
    batch: int = 32
    classes: int = 1000


DEFAULTS = Assumptions()


@dataclass(frozen=True)
class Step:
    """The parts of a step on one device: numbers to exchange, rounds to wait for, and FLOPs."""

    backbone: str
    head: str
    backbone_gradients: int
    head_gradients: int
    channels: int
    layers: int
    flops: float

    @property
    def gradient_bytes(self) -> int:
        """The bytes of all gradients."""
        return BYTES * (self.backbone_gradients + self.head_gradients)

    @property
    def statistics_bytes(self) -> int:
        """The bytes that batch norm exchanges to see the whole batch."""
        return BYTES * NUMBERS_PER_CHANNEL * self.channels

    @property
    def all_bytes(self) -> int:
        """The bytes that are summed over all devices."""
        return self.gradient_bytes + self.statistics_bytes


def batch_norm_channels(backbone: str) -> int:
    """Return the channels of all batch norms of a backbone: half of its parameters that are not trainable."""
    sizes = BACKBONE_SIZES[backbone]
    kept = sizes.parameters - sizes.trainable_parameters
    return (kept - NORMALIZATION if kept % 2 else kept) // 2


def step_of(backbone: str, head: str, assumed: Assumptions) -> Step:
    """Return the parts of a step of a backbone with a head."""
    sizes, options = BACKBONE_SIZES[backbone], parse_head(head)
    feature_map = sizes.feature_map(IMAGE_SIZE)
    forward = sizes.flops(IMAGE_SIZE) + head_flops(feature_map, assumed.classes, options)
    return Step(
        backbone=backbone,
        head=head,
        backbone_gradients=sizes.trainable_parameters,
        head_gradients=head_parameters(feature_map, assumed.classes, options),
        channels=batch_norm_channels(backbone),
        layers=LAYERS[backbone],
        flops=3 * forward * assumed.batch,  # the backward pass takes one product for the input and one for the weights
    )


def sent_bytes(summed: int, devices: int) -> float:
    """Return the bytes that every device sends in a ring all-reduce of this many bytes: all but one N-th, twice."""
    return 2 * (devices - 1) / devices * summed


def compute_seconds(step: Step, assumed: Assumptions) -> float:
    """Return the computing time of a step."""
    return step.flops / (assumed.teraflops * 1e12)


def transfer_seconds(summed: int, devices: int, gigabits: float) -> float:
    """Return how long sending the bytes of an all-reduce occupies every device's link."""
    return 8 * sent_bytes(summed, devices) / (gigabits * 1e9)


def waiting_seconds(rounds: int, devices: int, assumed: Assumptions) -> float:
    """Return how long all-reduces wait for messages: each time up a tree of the devices and down again."""
    return rounds * 2 * math.ceil(math.log2(devices)) * assumed.microseconds * 1e-6


def efficiency(step: Step, devices: int, gigabits: float, assumed: Assumptions) -> float:
    """Return the fraction of a step that is spent computing.

    Gradients are sent while the backward pass, two thirds of a step, is still computing. Batch-norm statistics cannot
    overlap: the next layer waits for them.
    """
    computing = compute_seconds(step, assumed)
    gradients = transfer_seconds(step.gradient_bytes, devices, gigabits) + waiting_seconds(1, devices, assumed)
    statistics = transfer_seconds(step.statistics_bytes, devices, gigabits)
    statistics += waiting_seconds(ROUNDS_PER_LAYER * step.layers, devices, assumed)
    return computing / (computing + max(0.0, gradients - 2 / 3 * computing) + statistics)


def main() -> None:
    """Print the tables."""
    parser = arguments_for(__doc__)
    for name, default in asdict(DEFAULTS).items():
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default: {default:g}")
    given = vars(parser.parse_args())
    print("\n".join(tables(Assumptions(**{name: given[name] for name in asdict(DEFAULTS)}))), end="")


def tables(assumed: Assumptions = DEFAULTS) -> Iterator[str]:
    """Yield the tables as Markdown, each with its title."""
    steps = [step_of(backbone, head, assumed) for backbone in LAYERS for head in HEADS]
    for grid in (volumes(steps, assumed), times(steps, assumed), efficiencies(steps, assumed)):
        yield f"### {grid.title}\n\n{to_markdown(grid)}"


def volumes(steps: Iterable[Step], assumed: Assumptions) -> Grid:
    """Return the table of what is exchanged in a step, and what every device sends."""
    names = ("gradients, MB", "share of the head", "batch norm, MB", *(f"sent at {number:,}, MB" for number in DEVICES))
    rows = [
        (
            *(step.backbone, step.head),
            figure(step.gradient_bytes / 1e6),
            f"{step.head_gradients / (step.head_gradients + step.backbone_gradients):.0%}",
            f"{step.statistics_bytes / 1e6:.3f}",
            *(figure(sent_bytes(step.all_bytes, number) / 1e6) for number in DEVICES),
        )
        for step in steps
    ]
    return Grid(f"Bytes per step, {assumed.classes:,} classes", _columns(names), tuple(rows))


def times(steps: Iterable[Step], assumed: Assumptions) -> Grid:
    """Return the table of how long a step computes, sends and waits."""
    most = DEVICES[-1]
    names = (
        "computing, ms",
        *(f"sending at {link} Gbit/s, ms" for link in LINKS),
        *(f"waiting for batch norm at {number:,}, ms" for number in (DEVICES[0], most)),
    )
    rows = [
        (
            *(step.backbone, step.head),
            figure(1e3 * compute_seconds(step, assumed)),
            *(figure(1e3 * transfer_seconds(step.all_bytes, most, link)) for link in LINKS),
            *(
                figure(1e3 * waiting_seconds(ROUNDS_PER_LAYER * step.layers, number, assumed)) if step.layers else "0"
                for number in (DEVICES[0], most)
            ),
        )
        for step in steps
    ]
    title = (
        f"Milliseconds per step: {assumed.batch} images per device at {IMAGE_SIZE[0]} pixels, {assumed.teraflops:g} "
        f"TFLOP/s, sending among {most:,} devices, latency {assumed.microseconds:g} microseconds"
    )
    return Grid(title, _columns(names), tuple(rows))


def efficiencies(steps: Iterable[Step], assumed: Assumptions) -> Grid:
    """Return the table of the fraction of a step spent computing, and the batch with which it reaches `GOAL`."""
    names = (
        *(f"{number:,} devices, {LINKS[1]} Gbit/s" for number in DEVICES),
        *(f"images per device for {GOAL:.0%} with {DEVICES[-1]:,} at {link} Gbit/s" for link in LINKS),
    )
    rows = [
        (
            *(step.backbone, step.head),
            *(f"{efficiency(step, number, LINKS[1], assumed):.0%}" for number in DEVICES),
            *(f"{batch_for(GOAL, step, DEVICES[-1], link, assumed):,}" for link in LINKS),
        )
        for step in steps
    ]
    return Grid("Share of a step spent computing", _columns(names), tuple(rows))


def batch_for(goal: float, step: Step, devices: int, gigabits: float, assumed: Assumptions) -> int:
    """Return the images per device, a power of two, with which this fraction of a step is spent computing."""
    batch = 1
    while efficiency(scaled(step, batch / assumed.batch), devices, gigabits, assumed) < goal:
        batch *= 2
    return batch


def scaled(step: Step, factor: float) -> Step:
    """Return a step with `factor` times as many images."""
    return replace(step, flops=step.flops * factor)


def _columns(names: Iterable[str]) -> tuple[Column, ...]:
    return (Column("backbone"), Column("head"), *(Column(name, True) for name in names))


if __name__ == "__main__":
    main()
