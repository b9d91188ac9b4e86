"""Builds the table of an upgrade: what was found in a classifier, and the resulting run."""

from __future__ import annotations

from wisesr_cli.display.grid import Grid, texts
from wisesr_cli.results.models import Upgrade
from wisesr_cli.text import counted, joined

SHOWN_CLASSES = 12
UPGRADE_HEADER = ("what", "found")


def upgrade_grid(result: Upgrade) -> Grid:
    """Return the table of what was found, and how exact the run is."""
    height, width, channels = result.feature_map
    names = result.class_names
    more = f", and {len(names) - SHOWN_CLASSES} more" if len(names) > SHOWN_CLASSES else ""
    behind = ", ".join(result.tail) or "nothing"
    hidden = (
        f" with {counted(len(result.hidden), 'hidden layer')} ({', '.join(result.hidden)})" if result.hidden else ""
    )
    rows = (
        ("model", result.model),
        ("image size", f"{result.image_size[0]}x{result.image_size[1]}"),
        ("pixels", f"{_SCALED[result.scaling]}: {result.scaling_reason}"),
        ("backbone", f"{counted(result.layers, 'layer')}, {result.backbone_parameters:,} parameters"),
        ("feature map", f"{height}x{width}x{channels}"),
        ("pooling", f"{result.pooling}: the mean over {counted(height * width, 'position')}"),
        ("after it", behind),
        ("classes", f"{len(names)}: {joined(names[:SHOWN_CLASSES])}{more}"),
        ("becomes", f"the head '{result.head}'{hidden}, {result.head_parameters:,} parameters"),
        (
            "difference",
            f"{result.max_probability_difference:.1e} of probabilities, {result.max_log_difference:.1e} of their "
            f"logarithms, at most, on {result.compared_images} {result.compared_on}",
        ),
        ("run directory", result.run_dir),
    )
    return Grid("Upgrade", texts("", ""), rows)


_SCALED = {
    "none": "0..255 as they are",
    "unit": "scaled to 0..1",
    "tf": "scaled to -1..1",
    "torch": "scaled by ImageNet's mean and deviation",
    "caffe": "blue, green, red, less ImageNet's mean",
}
