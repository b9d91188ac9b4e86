"""Compares the heads on pictures of two kinds and backbones with growing receptive fields, and writes docs/heads.md.

    python -m benchmarks.heads.compare                     # every block of docs/heads.md; about 3 hours of one core
    python -m benchmarks.heads.compare harbour clothing    # blocks of these pictures or backbones; the others stay
    python -m benchmarks.heads.compare --data FOLDER       # your own images, with every backbone; only printed
    python -m benchmarks.heads.compare --quick             # one small block; only printed
    python -m benchmarks.heads.compare --write-only        # only rewrites the page from docs/heads.json

A block is one call of `wisesr compare`: pictures, a backbone cut at some receptive field, heads and seeds. After an
interruption, the same command continues. The blocks are defined in `blocks`.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.heads.blocks import (
    BACKBONES,
    BLOCKS,
    FOLDER,
    PICTURES,
    SEEDS,
    VARIANTS,
    Block,
    Pictures,
    command_line,
    harbour_of,
    recipe,
)
from benchmarks.heads.page import keep, print_block, write_document
from benchmarks.heads.plots import draw_pictures
from benchmarks.measuring import errors_in_a_line
from benchmarks.pages import machine
from wisesr_cli import api
from wisesr_cli.display.terminal import TerminalListener
from wisesr_cli.listening import Silent
from wisesr_cli.results.training import Comparison
from wisesr_cli.text import visible


def main() -> None:
    """Compare the requested blocks, and write or print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"{', '.join((*PICTURES, *BACKBONES))}; default: all blocks"
    )
    parser.add_argument("--data", type=Path, metavar="FOLDER", help="compare on this image folder")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"folder of the runs, to resume; default: {FOLDER}")
    parser.add_argument("--seeds", type=int, help=f"number of seeds of each head; default: {SEEDS}")
    parser.add_argument("--quick", action="store_true", help="two heads, two seeds, one epoch, few pictures")
    parser.add_argument("--write-only", action="store_true", help="only rewrite the page")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*PICTURES, *BACKBONES}:
        parser.error(f"no pictures and no backbone are called {', '.join(sorted(unknown))}")
    with errors_in_a_line():
        _run(arguments)


def _run(arguments: argparse.Namespace) -> None:
    if arguments.quick:
        with tempfile.TemporaryDirectory() as folder:
            print_block(run_block(*quick_block(), Path(folder)))
    elif arguments.data:
        for block, pictures in own_blocks(arguments.data, chosen_blocks(arguments.names, arguments.seeds)):
            print_block(run_block(block, pictures, arguments.folder))
    else:
        for block in () if arguments.write_only else chosen_blocks(arguments.names, arguments.seeds):
            if (figures := run_block(block, PICTURES[block.pictures], arguments.folder)) is not None:
                keep(block.name, figures, order=[known.name for known in BLOCKS])
        write_document()
        draw_pictures()


def chosen_blocks(names: Sequence[str], seeds: int | None) -> list[Block]:
    """Return the blocks whose pictures and backbone are named; a kind that no name belongs to is not restricted."""
    pictures, backbones = PICTURES.keys() & set(names) or PICTURES.keys(), BACKBONES.keys() & set(names) or BACKBONES
    blocks = [block for block in BLOCKS if block.pictures in pictures and block.backbone in backbones]
    return [block if seeds is None else replace(block, seeds=seeds) for block in blocks]


def own_blocks(folder: Path, blocks: Sequence[Block]) -> list[tuple[Block, Pictures]]:
    """Return a block per backbone on the pictures of a folder, with the recipe for photos of clothing."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", f"data-{folder.resolve().name}")
    title = f"The images of {visible(folder)}"
    pictures = replace(PICTURES["clothing"], title=title, typed=str(folder), make=lambda _: folder)
    by_backbone = {block.backbone: replace(block, pictures=name) for block in blocks if block.grows}
    return [(block, pictures) for block in by_backbone.values()]


def quick_block() -> tuple[Block, Pictures]:
    """Return a block that takes seconds, on a few pictures of the harbour."""
    pictures = harbour_of(8, "harbour_quick", 4)
    pictures = replace(pictures, settings={**pictures.settings, "train.epochs": 1, "data.image_size": 32})
    return Block("harbour_quick", "compact_small", ("gap", "wise", VARIANTS[0]), seeds=2), pictures


def run_block(block: Block, pictures: Pictures, folder: Path) -> dict[str, Any] | None:
    """Compare, resuming from what is in the folder, and return the figures, or None if the pictures are missing."""
    print(f"== {block.name}", file=sys.stderr, flush=True)
    folder.mkdir(parents=True, exist_ok=True)
    source = pictures.make(folder)
    if source is None:
        print(f"skipped: there are no pictures for {block.name} on this machine", file=sys.stderr)
        return None
    settings = recipe(block, pictures)
    place = {"output_dir": str(folder.resolve()), "name": block.name}

    def compare(heads: Sequence[str], listener: TerminalListener | Silent) -> Comparison:
        return api.compare(
            source, {**settings, **place}, heads=heads, seeds=block.seeds, resume=True, listener=listener
        )

    result = compare(block.heads, TerminalListener())
    # All heads are trained by now: this only pairs them with another first head.
    to_wise = compare(("wise", *(head for head in block.heads[1:] if head != "wise")), Silent())
    compare(block.heads, Silent())  # so that the folder ends with the comparison to the first head
    return {
        "pictures": block.pictures,
        "backbone": block.backbone,
        "grows": block.grows,
        "title": pictures.title,
        "settings": settings,
        "command": command_line(settings, pictures, block),
        "machine": machine(),
        "measured": time.strftime("%Y-%m-%d"),
        **receptive_field(settings),
        **figures(result, to_wise),
    }


def receptive_field(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the receptive field of a position and the image side, in pixels; None if the field is not known."""
    from wisesr_cli.explanation.receptive_field import find_receptive_field
    from wisesr_cli.model_files.loading import build_without_values
    from wisesr_cli.models.backbones import build_backbone, cut_backbone

    side = int(settings["data.image_size"])

    def build() -> Any:
        backbone = build_backbone(settings["model.backbone"], (side, side))
        layer = settings.get("model.feature_layer")
        return cut_backbone(backbone, layer) if layer else backbone

    field = find_receptive_field(build_without_values(build))
    seen = {"pixels": field.size and field.size[0], "covers_picture": field.covers_image} if field else None
    return {"image_side": side, "receptive_field": seen}


def figures(result: Comparison, to_wise: Comparison) -> dict[str, Any]:
    """Return the figures of a comparison for docs/heads.json, without anything that depends on the folder."""
    rows = result.to_json()["rows"]
    trainings = [training for training in result.trainings if training.error is None]
    for row in rows:
        own = [training for training in trainings if training.head == row["head"]]
        row["accuracies"] = [training.top1_accuracy for training in own]
    seconds = sum(training.epochs * (training.seconds_per_epoch or 0.0) for training in trainings)
    return {
        "split": result.split,
        "examples": result.examples,
        "feature_map": list(result.feature_map),
        "training_seconds": round(seconds),
        "rows": rows,
        "rows_to_wise": to_wise.to_json()["rows"][1:],
        "conclusions": list(result.conclusions),
    }


if __name__ == "__main__":
    main()
