"""Draws a comparison: accuracy against head parameters, and the learning curves of every head."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wisesr_cli.comparison.conclusions import draws_of
from wisesr_cli.display.pictures import BLUE, GREEN, GREY, ORANGE, RED
from wisesr_cli.display.plots import new_figure, save_figure, with_default_style
from wisesr_cli.results.training import ComparedTraining, Comparison, ComparisonRow
from wisesr_cli.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours; more heads repeat them with other line styles.
COLORS = (GREY, BLUE, ORANGE, GREEN, RED, "#CC79A7", "#56B4E9")
STYLES = ("-", "--", ":", "-.")
MARKERS = "osD^vP"  # one fewer than the colours, so that every head looks different
HEIGHT, WIDTH, INCHES_PER_LETTER = 4.2, 5.8, 0.08
SIDE_BY_SIDE = 0.015  # between heads of equal parameters, as a fraction of the axis
TICK_DISTANCE = 0.1  # between two labelled parameter counts, as a fraction of the axis


@with_default_style
def plot_accuracies(comparison: Comparison, path: Path) -> None:
    """Draw every head's accuracy against its parameters: mean, standard deviation, and a dot per seed."""
    from matplotlib.ticker import EngFormatter, FixedLocator, NullLocator

    figure = _new_figure(comparison)
    axes = figure.add_subplot()
    positions = _positions(comparison.rows)
    for number, row in enumerate(comparison.rows):
        accuracies = (item.top1_accuracy for item in _trainings(row, comparison))
        values = [100 * value for value in accuracies if value is not None]
        if not values or row.top1_accuracy_mean is None:
            continue
        color, position = COLORS[number % len(COLORS)], positions[row.head]
        axes.plot([position] * len(values), values, "o", color=color, markersize=3.5, alpha=0.5)
        axes.errorbar(
            [position],
            [100 * row.top1_accuracy_mean],
            yerr=None if row.top1_accuracy_std is None else [100 * row.top1_accuracy_std],
            fmt=MARKERS[number % len(MARKERS)],
            color=color,
            markersize=8,
            capsize=5,
            label=visible(row.head),
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_ticks(comparison.rows)))
    short = EngFormatter(sep="")
    axes.xaxis.set_major_formatter(lambda count, _: short(float(f"{count:.3g}")))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.margins(x=0.15, y=0.1)
    counts = [row.head_parameters for row in comparison.rows if row.head_parameters]
    axes.set_xlabel("head parameters" + ("; equal counts are side by side" if len({*counts}) < len(counts) else ""))
    axes.set_ylabel(f"top-1 accuracy on {comparison.split}, %")
    drawn = "seed" if comparison.folds is None else "fold"
    axes.set_title(f"mean and standard deviation; a dot per {drawn}", fontsize=10)
    axes.grid(color=GREY, alpha=0.2)
    _add_legend(axes, len(comparison.rows))
    save_figure(figure, path)


@with_default_style
def plot_curves(comparison: Comparison, path: Path) -> None:
    """Draw every head's accuracy after every epoch: the mean over seeds, and a band from lowest to highest."""
    from matplotlib.ticker import MaxNLocator

    figure = _new_figure(comparison)
    axes = figure.add_subplot()
    for number, row in enumerate(comparison.rows):
        curves = [100 * np.array(item.accuracies) for item in _trainings(row, comparison) if item.accuracies]
        if not curves:
            continue
        epochs = np.arange(1, max(map(len, curves)) + 1)
        # Where some trainings have stopped early, the mean and band are those of the others.
        columns = [np.array([curve[epoch - 1] for curve in curves if len(curve) >= epoch]) for epoch in epochs]
        color, style = COLORS[number % len(COLORS)], STYLES[number // len(COLORS) % len(STYLES)]
        means = [column.mean() for column in columns]
        marker = "o" if len(epochs) < 3 else None
        axes.plot(epochs, means, style, color=color, label=visible(row.head), marker=marker)
        if len(curves) > 1:
            lows, highs = [column.min() for column in columns], [column.max() for column in columns]
            axes.fill_between(epochs, lows, highs, color=color, alpha=0.15, linewidth=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    axes.set_xlabel("epoch")
    axes.set_ylabel(f"top-1 accuracy on {comparison.curves_of}, %")
    seeds = max((len(row.seeds) for row in comparison.rows), default=0)
    axes.set_title(
        f"mean over {draws_of(seeds, comparison.folds)}; band: lowest to highest"
        if seeds > 1 or comparison.folds
        else "1 seed",
        fontsize=10,
    )
    axes.grid(color=GREY, alpha=0.2)
    _add_legend(axes, len(comparison.rows))
    save_figure(figure, path)


def _new_figure(comparison: Comparison) -> Figure:
    """Return a figure with room for the heads' names next to its axes."""
    longest = max(len(visible(row.head)) for row in comparison.rows)
    return new_figure(WIDTH + 0.5 + INCHES_PER_LETTER * longest, HEIGHT)


def _decades(rows: Sequence[ComparisonRow]) -> float:
    """Return the number of powers of ten between the smallest and the largest head."""
    counts = [row.head_parameters for row in rows if row.head_parameters]
    return float(np.log10(max(counts) / min(counts))) if counts else 0.0


def _ticks(rows: Sequence[ComparisonRow]) -> list[int]:
    """Return the parameter counts to label on the axis: all that are not too close to the previous one."""
    named: list[int] = []
    for count in sorted({row.head_parameters for row in rows if row.head_parameters}):
        if not named or np.log10(count / named[-1]) > TICK_DISTANCE * _decades(rows):
            named.append(count)
    return named


def _positions(rows: Sequence[ComparisonRow]) -> dict[str, float]:
    """Return each head's position on the axis: its parameter count, shifted so that equal ones are side by side."""
    step = 10 ** (SIDE_BY_SIDE * max(1.0, _decades(rows)))
    groups: dict[int, list[str]] = {}
    for row in rows:
        if row.head_parameters:
            groups.setdefault(row.head_parameters, []).append(row.head)
    return {
        head: count * step ** (position - (len(heads) - 1) / 2)
        for count, heads in groups.items()
        for position, head in enumerate(heads)
    }


def _trainings(row: ComparisonRow, comparison: Comparison) -> list[ComparedTraining]:
    return [item for item in comparison.trainings if item.head == row.head and item.seed in row.seeds]


def _add_legend(axes: Axes, heads: int) -> None:
    """Add a legend next to the axes, where it covers nothing."""
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1.01, 1.0), ncols=1 + heads // 16)
