"""Compares heads on the demo's harbour over several seeds, prints the table, and draws the README's figure.

    python -m benchmarks.heads.harbour --seeds 3 --figure docs/harbour.png

The pictures, the backbone and the recipe are those of `wisesr demo`. GAP is the baseline. More pictures and backbones
are in `compare`.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

from wisesr_cli import api
from wisesr_cli.comparison.tables import comparison_markdown
from wisesr_cli.demo import demo, harbour
from wisesr_cli.display.terminal import TerminalListener
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.results.training import Comparison, ComparisonRow

HEADS = ("gap", "gmp", "wise", "depthwise", "flatten")
CHANCE = 1 / len(harbour.CLASS_NAMES)


def main() -> None:
    """Compare the heads and show the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds: 0, 1, ...")
    parser.add_argument("--figure", type=Path, help="where to draw the figure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        result = compare(Path(folder), arguments.seeds)
        print(comparison_markdown(result))
        if arguments.figure:
            draw(result, Path(folder) / "harbour", arguments.figure)


def compare(folder: Path, seeds: int) -> Comparison:
    """Draw the harbour into a folder, and train and evaluate every head with every seed."""
    harbour.make_harbour(folder / "harbour")
    config = folder / "harbour.yaml"
    config.write_text(demo.CONFIG.format(name=config), encoding="utf-8")
    return api.compare(
        config, {"output_dir": str(folder / "runs")}, heads=HEADS, seeds=seeds, listener=TerminalListener()
    )


def draw(result: Comparison, pictures: Path, path: Path) -> None:
    """Draw three pictures of the same things, and the accuracy of every head next to them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.3), dpi=150, layout="constrained")
    grid = figure.add_gridspec(1, 5, width_ratios=[1, 1, 1, 0.12, 2.1])
    for column, name in enumerate(("nw", "centre", "se")):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(decode_image(pictures / "test" / name / "000.png", image_size=None))
        axes.set_title(f"class {name}", fontsize=10)
        axes.set_axis_off()
    draw_bars(figure.add_subplot(grid[0, 4]), result)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_bars(axes: Any, result: Comparison) -> None:
    """Draw a bar per head, a dot per seed, and a line at chance."""
    for position, row in enumerate(result.rows):
        color = "#0072B2" if row.head in {"wise", "depthwise", "flatten"} else "#777777"
        values = [100 * value for value in accuracies(result, row)]
        axes.barh(position, sum(values) / len(values), color=color, alpha=0.85)
        axes.plot(values, [position] * len(values), "o", color="black", markersize=3)
    axes.axvline(100 * CHANCE, color="#D55E00", linestyle="--", linewidth=1, label="chance")
    labels = [f"{row.head}\n{row.head_parameters:,} parameters" for row in result.rows]
    axes.set_yticks(range(len(labels)), labels, fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(0, 102)
    axes.set_xlabel("test accuracy, %")
    seeds = len(result.rows[0].seeds)
    axes.set_title(f"where are the red sails? ({seeds} seeds, a dot each)", fontsize=10)
    axes.legend(frameon=False, loc="lower right", fontsize=8)


def accuracies(result: Comparison, row: ComparisonRow) -> list[float]:
    """Return a head's test accuracy with every seed."""
    found = (item.top1_accuracy for item in result.trainings if item.head == row.head)
    return [value for value in found if value is not None]


if __name__ == "__main__":
    main()
