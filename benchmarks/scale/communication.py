"""Computes what the devices of a training send each other in a step, and how long that takes beside the step itself.

    python -m benchmarks.scale.communication
    python -m benchmarks.scale.communication --teraflops 100 --microseconds 5 --batch 64 --classes 70

Nothing is measured and no framework is started: the counts come from the table of backbones and the arithmetic of heads
that `wisesr summarize` shows, too. What they are multiplied with is an assumption, and an option. A test compares the
bytes with the all-reduces that XLA compiles into a step.
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
# XLA exchanges, of every channel of a batch norm: its mean; the square of what is left, and the mean once more; on the
# way back, the gradient of the mean. Those of scale and shift are gradients like all others. Each waits for the last.
NUMBERS_PER_CHANNEL, ROUNDS_PER_LAYER = 4, 4
NORMALIZATION = 7  # numbers that an EfficientNetB keeps of ImageNet; no batch changes them

# Batch-norm layers of the backbones that are shown; the table has their channels only.
LAYERS = {"MobileNetV2": 52, "EfficientNetB0": 49, "ResNet50": 53, "Xception": 40, "ConvNeXtTiny": 0}
HEADS = ("gap", "wise", "flatten")
DEVICES = (8, 64, 256, 1024)
LINKS = (10, 100, 400)  # Gbit/s
IMAGE_SIZE = (224, 224)
GOAL = 0.8  # of a step


@dataclass(frozen=True)
class Assumptions:
    """What the counts are multiplied with.

    `teraflops`: what a device sustains in training; `microseconds`: until a message arrives, however short; `batch`: of
    every device; `classes`: logits.
    """

    teraflops: float = 50.0
    microseconds: float = 10.0
    batch: int = 32
    classes: int = 1000


DEFAULTS = Assumptions()


@dataclass(frozen=True)
class Step:
    """What a step of one device is made of: numbers that are exchanged, rounds that wait, and FLOPs."""

    backbone: str
    head: str
    backbone_gradients: int
    head_gradients: int
    channels: int
    layers: int
    flops: float

    @property
    def gradient_bytes(self) -> int:
        """Bytes of all gradients."""
        return BYTES * (self.backbone_gradients + self.head_gradients)

    @property
    def statistics_bytes(self) -> int:
        """Bytes that batch norm exchanges to see the whole batch."""
        return BYTES * NUMBERS_PER_CHANNEL * self.channels

    @property
    def all_bytes(self) -> int:
        """Bytes that are summed over all devices."""
        return self.gradient_bytes + self.statistics_bytes


def batch_norm_channels(backbone: str) -> int:
    """Return the channels of all batch norms of a backbone: what it keeps but does not train, two numbers of each."""
    sizes = BACKBONE_SIZES[backbone]
    kept = sizes.parameters - sizes.trainable_parameters
    return (kept - NORMALIZATION if kept % 2 else kept) // 2


def step_of(backbone: str, head: str, assumed: Assumptions) -> Step:
    """Return what a step of a backbone with a head is made of."""
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
        flops=3 * forward * assumed.batch,  # the way back takes a product for the input, and one for the weights
    )


def sent_bytes(summed: int, devices: int) -> float:
    """Return what every device sends in a ring all-reduce of so many bytes: all but one N-th, twice."""
    return 2 * (devices - 1) / devices * summed


def compute_seconds(step: Step, assumed: Assumptions) -> float:
    """Return how long the computing of a step takes."""
    return step.flops / (assumed.teraflops * 1e12)


def transfer_seconds(summed: int, devices: int, gigabits: float) -> float:
    """Return how long the bytes of an all-reduce are on a link of every device."""
    return 8 * sent_bytes(summed, devices) / (gigabits * 1e9)


def waiting_seconds(rounds: int, devices: int, assumed: Assumptions) -> float:
    """Return how long all-reduces wait for messages to arrive: up a tree of the devices and down again, each time."""
    return rounds * 2 * math.ceil(math.log2(devices)) * assumed.microseconds * 1e-6


def efficiency(step: Step, devices: int, gigabits: float, assumed: Assumptions) -> float:
    """Return which part of a step is computing.

    Gradients travel while the way back, two thirds of a step, still computes. Statistics of batch norm never do: the
    next layer waits for them.
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
        parser.add_argument(f"--{name}", type=type(default), default=default, help=f"default {default:g}")
    given = vars(parser.parse_args())
    print("\n".join(tables(Assumptions(**{name: given[name] for name in asdict(DEFAULTS)}))), end="")


def tables(assumed: Assumptions = DEFAULTS) -> Iterator[str]:
    """Give the tables as Markdown, each with its title."""
    steps = [step_of(backbone, head, assumed) for backbone in LAYERS for head in HEADS]
    for grid in (volumes(steps, assumed), times(steps, assumed), efficiencies(steps, assumed)):
        yield f"### {grid.title}\n\n{to_markdown(grid)}"


def volumes(steps: Iterable[Step], assumed: Assumptions) -> Grid:
    """Return what is exchanged in a step, and what every device sends."""
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
    """Return how long a step computes, sends and waits."""
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
    """Return which part of a step is computing, and how large a batch makes it most of it."""
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
    """Return how many images a device needs in a step, a power of two, so that this part of it is computing."""
    batch = 1
    while efficiency(scaled(step, batch / assumed.batch), devices, gigabits, assumed) < goal:
        batch *= 2
    return batch


def scaled(step: Step, factor: float) -> Step:
    """Return a step of so many times as many images."""
    return replace(step, flops=step.flops * factor)


def _columns(names: Iterable[str]) -> tuple[Column, ...]:
    return (Column("backbone"), Column("head"), *(Column(name, True) for name in names))


if __name__ == "__main__":
    main()
