"""`wisesr demo`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def demo(
    output_dir: Annotated[str, typer.Option("-o", "--output-dir", metavar="DIR", help="Output folder.")] = "demo",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Make a small image folder, train the GAP and the Wise head on it, compare them, and show what they look at.

    Needs no network and no data.
    """
    from wisesr_cli.demo.demo import run_demo
    from wisesr_cli.demo.tables import demo_grid
    from wisesr_cli.display.terminal import show_grid
    from wisesr_cli.prediction.tables import predictions_grid
    from wisesr_cli.training.display import TrainingDisplay

    display = TrainingDisplay(quiet=quiet, verbose=verbose)
    result = run_demo(Path(output_dir), seed=seed, listener=display)
    show_grid(predictions_grid(result.predictions), file=sys.stderr)
    show_grid(demo_grid(result))
    sys.stdout.flush()
    folder, run = shlex.quote(output_dir), shlex.quote(result.rows[-1].run_dir)
    display.note(
        "This shows that Wise keeps positions, which alone tell these pictures apart and which GAP averages away; it "
        "does not show what accuracy to expect on photos: try wisesr train YOUR_FOLDER."
    )
    display.note(f"the pictures, as labelled by Wise: {result.contact_sheet}")
    display.note(f"what each head looked at in one picture: {result.explanation}")
    display.note("try next:")
    for command in (
        f"wisesr evaluate {run}",
        f"wisesr predict {run} {folder}/harbour/test/nw",
        f"wisesr explain {run} {folder}/harbour/test/nw --class nw",
        f"wisesr explain {run} --weights",
        f"wisesr summarize {shlex.quote(result.config_path)}",
        f"wisesr train {shlex.quote(result.config_path)} --head depthwise --output-dir {folder}/runs",
        "wisesr train YOUR_FOLDER",
    ):
        display.note(f"  {command}")
