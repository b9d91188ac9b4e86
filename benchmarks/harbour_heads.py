"""Trains heads on the demo's harbour over several seeds, prints a table, and draws the README's figure.

    python benchmarks/harbour_heads.py --seeds 3 --figure docs/harbour.png

The pictures, the backbone and the recipe are those of `wisesr demo`. GAP is the baseline.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path
from typing import Any

from wisesr_cli import api, demo, harbour
from wisesr_cli.images import decode_image
from wisesr_cli.report import Column, Grid, to_markdown
from wisesr_cli.results import Silent

HEADS = ("gap", "gmp", "wise", "depthwise", "flatten")
CHANCE = 1 / len(harbour.CLASS_NAMES)


def main() -> None:
    """Train every head with every seed and show what came out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="seeds 0, 1, ...")
    parser.add_argument("--figure", type=Path, help="where to draw the figure")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        accuracies, parameters = train_all(Path(folder), arguments.seeds)
        print(to_markdown(table(accuracies, parameters)))
        if arguments.figure:
            draw(accuracies, parameters, Path(folder), arguments.figure)


def train_all(folder: Path, seeds: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """Return the test accuracies of every head, one per seed, and the parameters of the heads."""
    accuracies: dict[str, list[float]] = {head: [] for head in HEADS}
    parameters: dict[str, int] = {}
    for seed in range(seeds):
        data = folder / f"seed{seed}"
        harbour.make_harbour(data / "harbour", seed=seed, listener=Silent())
        config = data / "harbour.yaml"
        config.write_text(demo.CONFIG.format(name=config), encoding="utf-8")
        for head in HEADS:
            settings = {"model.head.name": head, "seed": seed, "output_dir": str(data / "runs")}
            result = api.train(config, settings)
            parameters[head] = result.head_parameters
            accuracy = api.evaluate(result.run_dir, split="test").metrics.top1_accuracy
            assert accuracy is not None
            accuracies[head].append(accuracy)
    return accuracies, parameters


def table(accuracies: dict[str, list[float]], parameters: dict[str, int]) -> Grid:
    """Return a row per head: mean, spread and number of seeds."""
    columns = (Column("head"), Column("test accuracy", True), Column("seeds", True), Column("head parameters", True))
    rows = tuple(
        (head, spread(values), str(len(values)), f"{parameters[head]:,}") for head, values in accuracies.items()
    )
    return Grid("", columns, rows)


def spread(values: list[float]) -> str:
    """Return mean and standard deviation in per cent."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.0
    return f"{100 * statistics.mean(values):.1f} ± {100 * deviation:.1f} %"


def draw(accuracies: dict[str, list[float]], parameters: dict[str, int], folder: Path, path: Path) -> None:
    """Draw three pictures that hold the same things, and the accuracy of every head beside them."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11.0, 3.3), dpi=150, layout="constrained")
    grid = figure.add_gridspec(1, 5, width_ratios=[1, 1, 1, 0.12, 2.1])
    for column, name in enumerate(("nw", "centre", "se")):
        axes = figure.add_subplot(grid[0, column])
        axes.imshow(decode_image(folder / "seed0" / "harbour" / "test" / name / "000.png", image_size=None))
        axes.set_title(f"class {name}", fontsize=10)
        axes.set_axis_off()
    draw_bars(figure.add_subplot(grid[0, 4]), accuracies, parameters)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path)


def draw_bars(axes: Any, accuracies: dict[str, list[float]], parameters: dict[str, int]) -> None:
    """Draw a bar per head, a dot per seed, and a line at chance."""
    for position, (head, values) in enumerate(accuracies.items()):
        color = "#0072B2" if head in {"wise", "depthwise", "flatten"} else "#777777"
        axes.barh(position, 100 * statistics.mean(values), color=color, alpha=0.85)
        axes.plot([100 * value for value in values], [position] * len(values), "o", color="black", markersize=3)
    axes.axvline(100 * CHANCE, color="#D55E00", linestyle="--", linewidth=1, label="chance")
    axes.set_yticks(
        range(len(accuracies)), [f"{head}\n{parameters[head]:,} parameters" for head in accuracies], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlim(0, 102)
    axes.set_xlabel("test accuracy, %")
    seeds = len(next(iter(accuracies.values())))
    axes.set_title(f"where are the red sails? ({seeds} seeds, a dot each)", fontsize=10)
    axes.legend(frameon=False, loc="lower right", fontsize=8)


if __name__ == "__main__":
    main()
