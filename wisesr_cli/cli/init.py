"""`wisesr init`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Literal

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def init(
    folder: Annotated[
        str | None, typer.Argument(help="An image folder, or a table of labels; with --sample, a folder only.")
    ] = None,
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="The config to write.")] = "config.yaml",
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="NAME", help="Start from a sample config, unchanged.")
    ] = None,
    list_samples: Annotated[bool, typer.Option("--list", help="List the sample configs and exit.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    task: Annotated[
        Literal["single", "multilabel"],
        typer.Option("--task", help="multilabel: images in the table have any number of labels, such as cat|dog."),
    ] = "single",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a commented config for images, with settings that suit their classes, sizes and balance.

    Example: wisesr init photos -o photos.yaml; wisesr init photos --sample transfer_two_phases
    """
    from wisesr_cli import api
    from wisesr_cli.display.grid import Grid, texts
    from wisesr_cli.display.terminal import TerminalListener, show_result
    from wisesr_cli.errors import UsageError
    from wisesr_cli.text import visible

    if list_samples:
        samples = api.list_samples()
        grid = Grid("Samples", texts("sample", "what it is for"), tuple(samples.items()))
        show_result("table", grids=[grid], header=(), rows=(), value=samples, limit=None)
        return
    if sample is not None and task != "single":
        raise UsageError(f"--task {task} cannot be combined with --sample, which sets the task: omit one of them")
    path = Path(output)
    if path.exists() and not overwrite:
        raise UsageError(f"{visible(output)} exists; give another -o, or replace it with --overwrite")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{visible(path.parent)}: no such folder; create it first, or give another -o")
    listener = TerminalListener(quiet=quiet)
    if sample is not None:
        starter = api.init_from_sample(sample, folder, written_as=output)
    elif folder is not None:
        starter = api.init(folder, task=task, listener=listener)
    else:
        raise UsageError("FOLDER is missing: give the images that the config is for, or --sample NAME (see --list)")
    schema = api.write_config(path, starter.config)
    for choice in starter.choices:
        listener.note(choice)
    listener.note(f"written: {output}; next to it, for editors: {schema.name}")
    place = shlex.quote(output) if folder is not None else f"{shlex.quote(output)} --data FOLDER"
    listener.note(f"next: wisesr check {place}")
    listener.note(f"      wisesr train {place}")
