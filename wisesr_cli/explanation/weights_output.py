"""Output of learned position weights: a picture, arrays, and rows of JSON and CSV."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from wisesr_cli.display.grid import Grid, numbers, texts
from wisesr_cli.explanation.attribution import Numbers
from wisesr_cli.explanation.overlays import lay_over, tint_values
from wisesr_cli.explanation.panels import Panel, compose
from wisesr_cli.explanation.position_weights import ClassWeights, HeadWeights
from wisesr_cli.machine.files import replacing

SHOWN_CLASSES = 20  # in the picture, unless classes were requested
SHOWN_CHANNELS = 4  # of each class in the picture; the arrays have more
ROUNDING = 1e-6  # relative to the middle; smaller differences are float32 rounding
SIDE = 180  # pixels of the longer side of a map in the picture
HEADER = ("label", "channel", "classifier_weight", "strength", "largest", "largest_row", "largest_column")


@dataclass(frozen=True)
class WeightRow:
    """A map of weights: of all channels (`label` and `channel` None), of a class (`channel` None), or of a channel.

    For a class, `map` is the mean over channels of absolute weights. For a channel, it has the position weights, to be
    multiplied by `classifier_weight`; in a flattened head, which has no such factor, it has the products.
    """

    label: str | None
    channel: int | None
    classifier_weight: float | None
    strength: float | None
    map: Numbers

    def to_json(self) -> dict[str, Any]:
        """Return one row of `wisesr explain --weights --format json`."""
        return {**vars(self), "map": self.map.tolist()}

    def cells(self) -> tuple[Any, ...]:
        """Return one row of CSV, its columns those of `HEADER`."""
        row, column = np.unravel_index(int(np.abs(self.map).argmax()), self.map.shape)
        largest = float(self.map[row, column])
        return self.label, self.channel, self.classifier_weight, self.strength, largest, int(row), int(column)


@dataclass(frozen=True)
class LearnedWeights:
    """Learned position weights, and a sentence that describes them."""

    rows: tuple[WeightRow, ...]
    statement: str

    def to_json(self) -> dict[str, Any]:
        """Return the fields of `wisesr explain --weights --format json`."""
        return {"rows": [row.to_json() for row in self.rows], "statement": self.statement}


def weight_rows(weights: HeadWeights, classes: Sequence[ClassWeights]) -> Iterator[WeightRow]:
    """Yield the mean over channels, and for every class its mean and its strongest channels."""
    yield WeightRow(None, None, None, None, weights.average)
    for found in classes:
        yield WeightRow(found.label, None, None, None, found.average)
        for channel in found.channels:
            factor = channel.classifier_weight
            yield WeightRow(found.label, channel.channel, factor, channel.strength, channel.weights)


def weights_grid(rows: Sequence[WeightRow]) -> Grid:
    """Return the rows as a table."""
    columns = (*texts("class"), *numbers("channel", "classifier weight", "strength", "largest weight", "at"))
    cells = []
    for label, channel, factor, strength, largest, row, column in (row.cells() for row in rows):
        cells.append(
            (
                "all" if label is None else label,
                "mean" if channel is None else str(channel),
                "-" if factor is None else f"{factor:+.4f}",
                "-" if strength is None else f"{strength:.4f}",
                f"{largest:+.5f}",
                f"({row}, {column})",
            )
        )
    return Grid("Position weights", columns, tuple(cells), "positions (row, column) count from 0 at the top left")


def write_weights_arrays(weights: HeadWeights, classes: Sequence[ClassWeights], path: Path) -> None:
    """Write the weights as arrays for `numpy.load`.

    `average` (height, width); `weights` (height, width, channels), unless the head is flattened; `class_names`,
    `class_averages` (classes, height, width), `channels` (classes, strongest), `channel_weights` (classes, strongest,
    height, width) and `classifier_weights` (classes, strongest), NaN if there are none.
    Behind hidden layers, classes have no arrays.
    """
    arrays: dict[str, Any] = {"average": weights.average}
    if weights.weights is not None:
        arrays["weights"] = weights.weights
    if classes:
        arrays |= _class_arrays(classes)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _class_arrays(classes: Sequence[ClassWeights]) -> dict[str, Any]:
    missing = float("nan")
    return {
        "class_names": np.asarray([found.label for found in classes], np.str_),
        "class_averages": np.stack([found.average for found in classes]),
        "channels": np.asarray([[row.channel for row in found.channels] for found in classes], np.int64),
        "channel_weights": np.stack([np.stack([row.weights for row in found.channels]) for found in classes]),
        "classifier_weights": np.asarray(
            [
                [missing if row.classifier_weight is None else row.classifier_weight for row in found.channels]
                for found in classes
            ]
        ),
    }


def weights_picture(weights: HeadWeights, classes: Sequence[ClassWeights]) -> Image.Image:
    """Return the mean over channels, then a row for each class: its mean and its strongest channels.

    Colours show deviations from the weight of global average pooling for position weights, from the mean of the map for
    absolute weights, and from zero for the weights of a flattened head.
    """
    shared, middle = weights.weights, _middle(weights)
    panels: list[Panel | None] = [mean_panel(weights), *(None,) * SHOWN_CHANNELS]
    if shared is None or np.ptp(shared) > 0:
        for found in classes:
            panels += _row_of_panels(found, 0.0 if shared is None else middle)
    sentences = (
        f"{weights.statement}.",
        "Orange is above the middle, blue below, full colour at ±, which differs from map to map. The middle of a "
        "class is its mean size, that of a channel "
        + ("0." if shared is None else f"{middle:.3g}, what global average pooling gives every position.")
        + " 'times' is the classifier weight of a channel. Weights say nothing about how active a channel is.",
    )
    return compose(panels, sentences, has_scale=False, columns=1 + SHOWN_CHANNELS, narrowest=SIDE)


def mean_panel(weights: HeadWeights) -> Panel:
    """Return the mean over channels, in colours of deviations from the middle; see `weights_picture`."""
    middle = _middle(weights)
    return _panel("mean over channels", f"{middle:.3g} ", weights.average, middle)


def _middle(weights: HeadWeights) -> float:
    return float(weights.average.mean()) if weights.weights is None else weights.uniform


def _row_of_panels(found: ClassWeights, middle: float) -> list[Panel | None]:
    """Return the mean of a class and its strongest channels, padded with empty places."""
    mean = float(found.average.mean())
    panels: list[Panel | None] = [_panel(found.label, f"{mean:.3g} ", found.average, mean)]
    for row in found.channels[:SHOWN_CHANNELS]:
        factor = "" if row.classifier_weight is None else f"times {row.classifier_weight:+.3g}, "
        panels.append(_panel(f"channel {row.channel}", factor, row.weights, middle))
    return panels + [None] * (1 + SHOWN_CHANNELS - len(panels))


def _panel(title: str, line: str, values: Numbers, middle: float) -> Panel:
    height, width = values.shape
    size = max(1, round(SIDE * width / max(height, width))), max(1, round(SIDE * height / max(height, width)))
    distances = values - middle
    scale = float(np.abs(distances).max())
    if scale <= ROUNDING * abs(middle):
        scale, distances = 0.0, np.zeros_like(values)
    image = lay_over(Image.new("L", size, 192), tint_values(distances, scale or 1.0))
    return Panel(image, (title, f"{line}±{scale:.2g}"))
