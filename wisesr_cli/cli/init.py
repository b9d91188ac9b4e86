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
    folder: Annotated[str, typer.Argument(help="An image folder, or a table of labels.")],
    output: Annotated[str, typer.Option("-o", "--output", metavar="FILE", help="The config to write.")] = "config.yaml",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
    task: Annotated[
        Literal["single", "multilabel"],
        typer.Option("--task", help="multilabel: an image of a table has any number of labels, such as cat|dog."),
    ] = "single",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Write a commented config for images: their classes, sizes and balance looked at, sensible choices made.

    Example: wisesr init photos -o photos.yaml
    """
    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener
    from wisesr_cli.errors import UsageError
    from wisesr_cli.machine.files import write_text
    from wisesr_cli.text import visible

    path = Path(output)
    if path.exists() and not overwrite:
        raise UsageError(f"{visible(output)} exists; give another -o, or replace it with --overwrite")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{visible(path.parent)}: no such folder for the config")
    listener = TerminalListener(quiet=quiet)
    starter = api.init(folder, task=task, listener=listener)
    write_text(path, starter.config)
    for choice in starter.choices:
        listener.note(choice)
    listener.note(f"written: {output}")
    listener.note(f"next: wisesr check {shlex.quote(output)}")
    listener.note(f"      wisesr train {shlex.quote(output)}")
