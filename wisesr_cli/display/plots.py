"""Draws results as PNG files, written atomically. matplotlib is imported when a figure is created.

To add a plot, write a function that turns a record into a figure, and save it with `save_figure`. Class names pass
through `text.visible` and are never parsed as formulas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import wraps
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec

import numpy as np

from wisesr_cli.display.pictures import BLUE, GREY, ORANGE, installed_fonts
from wisesr_cli.machine.files import replacing
from wisesr_cli.results.evaluation import Metrics, ReliabilityBin
from wisesr_cli.results.training import EpochResult
from wisesr_cli.text import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


DOTS_PER_INCH = 150
CLASSES_WITH_NUMBERS = 20  # larger confusion matrices show no numbers in their cells
CLASSES_WITH_LABELS = 60  # larger ones label only some classes
CLASSES_DRAWN = 200  # of more, only the most confused ones: 8 pixels each
LONGEST_NAME = 24  # characters

Arguments = ParamSpec("Arguments")


def can_draw() -> bool:
    """Return whether Matplotlib is installed; the small installation omits it."""
    return find_spec("matplotlib") is not None


def with_default_style(plot: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Draw with default settings, ignoring any `matplotlibrc` of the current folder or the user."""

    @wraps(plot)
    def styled(*arguments: Arguments.args, **options: Arguments.kwargs) -> None:
        import matplotlib

        with matplotlib.rc_context(matplotlib.rcParamsDefault):
            plot(*arguments, **options)

    return styled


@with_default_style
def plot_learning_curves(history: Sequence[EpochResult], path: Path) -> None:
    """Draw training and validation loss and top-1 accuracy of every epoch, with lines between phases."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(9.0, 3.6)
    epochs = [row.epoch for row in history]
    marker = "o" if len(history) < 3 else None
    for position, (field, title) in enumerate((("loss", "loss"), ("top1_accuracy", "top-1 accuracy")), start=1):
        axes = figure.add_subplot(1, 2, position)
        axes.plot(epochs, [getattr(row, field) for row in history], color=BLUE, label="training", marker=marker)
        validation = [(row.epoch, value) for row in history if (value := getattr(row, f"val_{field}")) is not None]
        if validation:
            axes.plot(*zip(*validation, strict=True), color=ORANGE, label="validation", marker=marker)
        for before, after in pairwise(history):
            if before.phase != after.phase:
                axes.axvline(before.epoch + 0.5, color="black", linewidth=1, linestyle=":")
        axes.set_xlabel("epoch")
        axes.set_title(title)
        axes.set_xlim(epochs[0] - 0.5, epochs[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.grid(color=GREY, alpha=0.2)
        if field == "top1_accuracy":
            axes.set_ylim(0, 1.02)
        axes.legend(frameon=False)
    save_figure(figure, path)


@with_default_style
def plot_confusion_matrix(metrics: Metrics, path: Path) -> None:
    """Draw the confusion matrix (rows: truth), coloured by the fraction of the class; of many, a part with a note."""
    from matplotlib.colors import PowerNorm

    labels = metrics.confusion.most_confused(CLASSES_DRAWN)
    counts = np.array(metrics.confusion.part(labels), dtype=float)
    support = np.array([metrics.per_class[label].support for label in labels])
    fractions = counts / np.maximum(support[:, None], 1.0)
    classes = len(labels)
    side = min(3.0 + 0.42 * classes, 14.0)
    figure = new_figure(side + 0.8, side)
    axes = figure.add_subplot()
    # Without numbers, the shade alone must reveal a confusion of a few percent.
    norm = PowerNorm(1.0 if classes <= CLASSES_WITH_NUMBERS else 0.5, vmin=0.0, vmax=1.0)
    picture = axes.imshow(fractions, cmap="Blues", norm=norm)
    _name_classes(axes, [metrics.classes[label] for label in labels])
    if classes < len(metrics.classes):
        axes.set_title(f"the {classes} of {len(metrics.classes):,} classes that are confused most")
    if classes <= CLASSES_WITH_NUMBERS:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if fractions[row, column] > 0.55 else "black"
                axes.text(column, row, f"{count:.0f}", ha="center", va="center", color=color, fontsize=8)
    axes.set_xlabel("predicted")
    axes.set_ylabel("truth")
    figure.colorbar(picture, ax=axes, label="fraction of the class", fraction=0.045, pad=0.02)
    save_figure(figure, path)


@with_default_style
def plot_reliability(bins: Sequence[ReliabilityBin], ece: float | None, path: Path) -> None:
    """Draw accuracy against confidence, and the number of images in each bin."""
    from matplotlib.ticker import MaxNLocator

    figure = new_figure(4.6, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": [3, 1]})
    filled = [row for row in bins if row.accuracy is not None and row.confidence is not None]
    middles = [(row.low + row.high) / 2 for row in filled]
    width = bins[0].high - bins[0].low if bins else 1.0
    heights = [row.accuracy or 0.0 for row in filled]
    upper.bar(middles, heights, width * 0.95, color=BLUE, alpha=0.6, label="accuracy")
    upper.plot([0, 1], [0, 1], color="black", linewidth=1, linestyle="--", label="perfect calibration")
    scores = [row.confidence or 0.0 for row in filled]
    upper.plot(scores, heights, "o", color=ORANGE, markeredgecolor="black", markersize=5, label="mean score of a bin")
    upper.set_ylim(0, 1.02)
    upper.set_ylabel("top-1 accuracy")
    upper.set_title("reliability" if ece is None else f"reliability, ECE {100 * ece:.1f} %")
    upper.legend(loc="upper left", fontsize=8)
    lower.bar([(row.low + row.high) / 2 for row in bins], [row.count for row in bins], width * 0.95, color=GREY)
    lower.yaxis.set_major_locator(MaxNLocator(integer=True, nbins=3, min_n_ticks=1))
    lower.set_xlim(0, 1)
    lower.set_xlabel("score of the predicted class")
    lower.set_ylabel("images")
    save_figure(figure, path)


def _name_classes(axes: Axes, names: Sequence[str]) -> None:
    """Label both axes with the classes, or with some of them if there are many."""
    step = max(1, -(-len(names) // CLASSES_WITH_LABELS))
    positions = list(range(0, len(names), step))
    labels = [_shortened(names[position]) for position in positions]
    size = 8 if len(names) <= CLASSES_WITH_NUMBERS else 6
    family = installed_fonts()
    axes.set_xticks(positions, labels, rotation=90, fontsize=size, fontfamily=family, parse_math=False)
    axes.set_yticks(positions, labels, fontsize=size, fontfamily=family, parse_math=False)


def _shortened(name: str) -> str:
    text = visible(name)
    return text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…"


def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure, width and height in inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=DOTS_PER_INCH, layout="constrained")


def save_figure(figure: Any, path: Path) -> None:
    """Write a figure as PNG; characters that the font lacks are drawn as boxes without a warning."""
    import logging
    import warnings

    logging.getLogger("matplotlib.font_manager").setLevel(logging.ERROR)
    with replacing(path) as temporary, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure.savefig(temporary, format="png", bbox_inches="tight", pad_inches=0.1)
