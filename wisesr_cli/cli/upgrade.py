"""`wisesr upgrade`."""

from __future__ import annotations

import shlex
from typing import Annotated, Literal

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def upgrade(
    model: Annotated[
        str, typer.Argument(help="A classifier that Keras saved (.keras, .h5), or a run whose head is gap.")
    ],
    settings: options.SetOptions = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FOLDER", help="Images to compare on, take class names from, and fine-tune on."),
    ] = None,
    classes: Annotated[
        str | None, typer.Option("--classes", metavar="FILE", help="Class names, one line per output of the model.")
    ] = None,
    preprocessing: Annotated[
        Literal["auto", "caffe", "tf", "torch", "unit", "none"] | None,
        typer.Option("--preprocessing", help="How pixels are scaled before the model; auto inspects the model."),
    ] = None,
    image_size: options.ImageSize = None,
    head: Annotated[str | None, typer.Option("--head", help="wise, depthwise or gap.")] = None,
    output_dir: options.OutputDir = None,
    name: options.RunName = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run of this name.")] = False,
    device: options.DeviceChoice = "auto",
    output: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Turn a Keras classifier that ends in global average pooling into a run with the same outputs, for fine-tuning.

    Its head weights all positions equally, as the pooling did, and learns better weights when trained. Example:

    wisesr upgrade model.keras --data photos
    """
    arguments = locals()
    named = options.named(arguments)
    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener, show_result
    from wisesr_cli.upgrading.tables import UPGRADE_HEADER, upgrade_grid

    scaling = [] if preprocessing is None else [f"model.preprocessing={preprocessing}"]
    arguments["settings"] = options.overrides([*(settings or ()), *scaling], **named)
    listener = TerminalListener(quiet=quiet, verbose=verbose)
    result = api.upgrade(**options.fields_of(api.upgrade, arguments), listener=listener)
    grid = upgrade_grid(result)
    show_result(output, grids=[grid], header=UPGRADE_HEADER, rows=grid.rows, value=result.to_json())
    for note in result.notes:
        listener.note(note)
    run = shlex.quote(result.run_dir)
    folder = "" if data else " --data FOLDER"
    listener.note(f"next: wisesr train {run} --resume{folder}")
    if data or classes:  # labelled images need the class names
        listener.note(f"      wisesr evaluate {run}{folder}")
    listener.note(f"      wisesr predict {run} IMAGE")
