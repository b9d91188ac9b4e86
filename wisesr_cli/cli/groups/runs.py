"""`wisesr runs` and `wisesr runs remove`."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from wisesr_cli.cli import options


class RunsGroup(options.Group):
    """`wisesr runs FOLDER` is `wisesr runs list FOLDER`."""

    default = "list"


app = options.new_app(RunsGroup)


@app.callback()
def runs() -> None:
    """Show the runs in a folder, newest first, or remove some.

    Every command that takes a RUN also takes `latest`: the run in `runs` that was started or resumed last.
    """


@app.command("list")
def list_(
    folder: Annotated[str, typer.Argument(help="The folder that the runs are in.")] = "runs",
    output: options.TableFormat = "table",
    debug: options.Debug = False,
) -> None:
    """Show a row per run: data, head, backbone, best accuracy, epochs, whether it is finished, size and date.

    `wisesr runs FOLDER` is the same.
    """
    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener, show_result
    from wisesr_cli.run.tables import HEADER, runs_grid, values_of

    rows = api.list_runs(folder)
    show_result(
        output,
        grids=[runs_grid(folder, rows)],
        header=HEADER,
        rows=[values_of(row) for row in rows],
        value={"rows": [row.to_json() for row in rows]},
        limit=None,
    )
    listener = TerminalListener()
    for row in rows:
        if row.problem is not None:
            listener.warn(f"{row.name}: {row.problem}")


@app.command()
def remove(
    names: Annotated[list[str], typer.Argument(metavar="NAME", help="Runs in the folder, or paths of runs.")],
    output_dir: Annotated[
        str, typer.Option("-o", "--output-dir", metavar="DIR", help="The folder that the runs are in.")
    ] = "runs",
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Remove runs and everything that wisesr wrote into them; your own files in them stay.

    Example: wisesr runs remove photos-wise photos-wise-2
    """
    from pathlib import Path

    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener
    from wisesr_cli.errors import UsageError
    from wisesr_cli.run.removal import megabytes, runs_to_remove
    from wisesr_cli.text import counted, joined, visible

    listener = TerminalListener(quiet=quiet)
    found = runs_to_remove(names, Path(output_dir), listener)
    if not yes:
        what = f"{counted(len(found), 'run')} ({megabytes(found)}): {joined(run.path for run in found)}"
        if not sys.stdin.isatty():
            raise UsageError(
                f"would remove {what}, but cannot ask, as standard input is not a terminal: confirm with --yes"
            )
        if not typer.confirm(f"Remove {what}?", err=True):
            listener.note("nothing was removed")
            return
    for row in api.remove_runs([run.path for run in found], Path(), listener=listener):
        listener.note(f"removed: {visible(row.path)}, {row.bytes / 1e6:,.1f} MB")
