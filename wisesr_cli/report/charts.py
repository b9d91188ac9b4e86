"""The charts of a report as coordinates: reliability diagram and learning curves, which the page draws as SVG.

Drawn by the page itself, they use its light or dark colours and stay sharp in print. Coordinates are pixels of a
plotting area of `WIDTH` x `HEIGHT`, with y pointing down.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from wisesr_cli.display.grid import decimal, percent
from wisesr_cli.results.evaluation import ReliabilityBin
from wisesr_cli.results.training import EpochResult
from wisesr_cli.text import counted

WIDTH, HEIGHT = 360, 220
COUNTS_HEIGHT = 56  # of the bars below the reliability diagram
MOST_MARKED = 40  # epochs; longer curves have no point markers
FRACTION_TICKS = tuple((value / 5, f"{value / 5:.1f}") for value in range(6))


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis."""

    at: float
    label: str


@dataclass(frozen=True)
class Bar:
    """A rectangle with its description."""

    x: float
    y: float
    width: float
    height: float
    says: str


@dataclass(frozen=True)
class Curve:
    """A line through points, each with its description; `kind` selects its colour."""

    kind: str
    name: str
    points: tuple[tuple[float, float, str], ...]
    is_marked: bool


@dataclass(frozen=True)
class Chart:
    """The contents of a plotting area; `says` describes them for screen readers."""

    title: str
    says: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...] = ()
    bars: tuple[Bar, ...] = ()
    lines: tuple[Tick, ...] = ()  # vertical, dotted
    has_diagonal: bool = False
    height: int = HEIGHT


def reliability_charts(bins: Sequence[ReliabilityBin], ece: float | None) -> tuple[Chart, Chart]:
    """Return a chart of accuracy against confidence, and one of the number of images in each bin."""
    filled = [row for row in bins if row.count]
    right = [
        Bar(
            WIDTH * row.low,
            HEIGHT * (1 - (row.accuracy or 0.0)),
            WIDTH * (row.high - row.low),
            HEIGHT * (row.accuracy or 0.0),
            f"score {row.low:.2f} to {row.high:.2f}: {counted(row.count, 'image')}, mean score "
            f"{percent(row.confidence)}, right {percent(row.accuracy)}",
        )
        for row in filled
    ]
    means = [
        (WIDTH * (row.confidence or 0.0), HEIGHT * (1 - (row.accuracy or 0.0)), bar.says)
        for row, bar in zip(filled, right, strict=True)
    ]
    most = max((row.count for row in filled), default=1)
    held = [
        Bar(bar.x, COUNTS_HEIGHT * (1 - row.count / most), bar.width, COUNTS_HEIGHT * row.count / most, bar.says)
        for row, bar in zip(filled, right, strict=True)
    ]
    ticks = tuple(Tick(WIDTH * value, label) for value, label in FRACTION_TICKS)
    upper = Chart(
        title="Accuracy",
        says=f"Reliability diagram, ECE {percent(ece)}. " + "; ".join(bar.says for bar in right),
        x_label="",
        x_ticks=ticks,
        y_ticks=tuple(Tick(HEIGHT * (1 - value), label) for value, label in FRACTION_TICKS),
        curves=(Curve("validation", "mean score of a bin", tuple(means), is_marked=True),),
        bars=tuple(right),
        has_diagonal=True,
    )
    lower = Chart(
        title="",
        says="Images per bin: " + ", ".join(f"{row.low:.2f} to {row.high:.2f}: {row.count:,}" for row in filled),
        x_label="score of the predicted class",
        x_ticks=ticks,
        y_ticks=(Tick(0, f"{most:,}"), Tick(COUNTS_HEIGHT, "0")),
        bars=tuple(held),
        height=COUNTS_HEIGHT,
    )
    return upper, lower


def learning_curves(history: Sequence[EpochResult], best_epoch: int | None) -> tuple[Chart, Chart]:
    """Return charts of loss and top-1 accuracy per epoch, for training and validation, with lines between phases."""
    return (
        _learning_curve(history, "loss", "loss", best_epoch),
        _learning_curve(history, "top1_accuracy", "top-1 accuracy", best_epoch),
    )


def _learning_curve(history: Sequence[EpochResult], field: str, title: str, best_epoch: int | None) -> Chart:
    named = {"training": field, "validation": f"val_{field}"}
    series = {
        name: [
            (row.epoch, value)
            for row in history
            if (value := getattr(row, column)) is not None and math.isfinite(value)
        ]
        for name, column in named.items()
    }
    values = [value for points in series.values() for _, value in points]
    y_ticks = (
        FRACTION_TICKS if field == "top1_accuracy" else [(value, f"{value:g}") for value in _nice_ticks([0, *values])]
    )
    highest = max([1e-12, *(value for value, _ in y_ticks)])
    first, last = history[0].epoch - 0.5, history[-1].epoch + 0.5

    def across(epoch: float) -> float:
        return round(WIDTH * (epoch - first) / (last - first), 1)

    def down(value: float) -> float:
        return round(HEIGHT * (1 - value / highest), 1)

    shown = percent if field == "top1_accuracy" else decimal
    curves = tuple(
        Curve(
            name,
            name,
            tuple((across(epoch), down(value), f"epoch {epoch}, {name}: {shown(value)}") for epoch, value in points),
            is_marked=len(points) <= MOST_MARKED,
        )
        for name, points in series.items()
        if points
    )
    ends = "; ".join(f"{curve.points[-1][2]}" for curve in curves)
    phases = [
        Tick(across(after.epoch - 0.5), f"phase {after.phase}")
        for before, after in pairwise(history)
        if before.phase != after.phase
    ]
    best = [Tick(across(best_epoch), "best")] if best_epoch is not None and first < best_epoch < last else []
    return Chart(
        title=title,
        says=f"Learning curve of the {title}. {ends}",
        x_label="epoch",
        x_ticks=tuple(
            Tick(across(epoch), f"{epoch:g}")
            for epoch in _nice_ticks([history[0].epoch, history[-1].epoch], whole=True)
            if first < epoch < last
        ),
        y_ticks=tuple(Tick(down(value), label) for value, label in y_ticks),
        curves=curves,
        lines=(*phases, *best),
    )


def _nice_ticks(values: Sequence[float], *, whole: bool = False) -> list[float]:
    from matplotlib.ticker import MaxNLocator  # already loaded for the plots of every evaluation

    ticks = MaxNLocator(6, integer=whole, min_n_ticks=1).tick_values(min(values), max(values))
    return [float(tick) for tick in ticks if whole or tick >= 0]
