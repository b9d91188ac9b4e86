"""Draws the figures of docs/heads.json: the accuracy of heads against the receptive field."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.heads.page import DOCUMENT, Block, sees, stored
from wisesr_cli.display.pictures import BLUE, GREEN, GREY, ORANGE, RED
from wisesr_cli.display.plots import new_figure, save_figure, with_default_style

STYLES = {
    "gap": (GREY, "o"),
    "wise": (BLUE, "s"),
    "depthwise": (GREEN, "D"),
    "flatten": (ORANGE, "^"),
    "gmp": (RED, "v"),
}


def draw_pictures() -> None:
    """Draw the page's picture."""
    blocks = list(stored().values())
    plot_fields([block for block in blocks if block["grows"]], DOCUMENT.with_name("heads.png"))


@with_default_style
def plot_fields(blocks: Sequence[Block], path: Path) -> None:
    """Draw the accuracy of every head against the receptive field, a panel per kind of pictures."""
    kinds = list(dict.fromkeys(block["pictures"] for block in blocks))
    figure = new_figure(5.0 * len(kinds), 4.0)
    for number, kind in enumerate(kinds):
        axes = figure.add_subplot(1, len(kinds), number + 1)
        _draw_kind(axes, [block for block in blocks if block["pictures"] == kind])
        axes.set_title(f"{kind}: mean and standard deviation of {_seeds(blocks, kind)} seeds", fontsize=10)
    save_figure(figure, path)


def _seeds(blocks: Sequence[Block], kind: str) -> str:
    counts = sorted({len(row["seeds"]) for block in blocks if block["pictures"] == kind for row in block["rows"]})
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _draw_kind(axes: Any, blocks: Sequence[Block]) -> None:
    """Draw a line per head, slightly apart, so that equal ones can be seen."""
    for shift, (head, (color, marker)) in enumerate(STYLES.items()):
        found = [(place, row) for place, block in enumerate(blocks) for row in block["rows"] if row["head"] == head]
        if not found:
            continue
        axes.errorbar(
            [place + 0.05 * (shift - 2) for place, _ in found],
            [100 * row["top1_accuracy_mean"] for _, row in found],
            yerr=[100 * (row["top1_accuracy_std"] or 0.0) for _, row in found],
            color=color,
            marker=marker,
            capsize=3,
            linewidth=1.2,
            label=head,
        )
    axes.set_xticks(range(len(blocks)), [sees(block).replace(" (", "\n(") for block in blocks])
    axes.set_xlabel("what a position of the feature map sees")
    axes.set_ylabel("top-1 accuracy, %")
    axes.set_ylim(bottom=0)
    axes.grid(color=GREY, alpha=0.2)
    axes.legend(frameon=False, fontsize=8)
