"""`wisesr doctor`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def doctor(
    output_dir: Annotated[
        str, typer.Option("-o", "--output-dir", metavar="DIR", help="Folder for run directories.")
    ] = "runs",
    device: options.DeviceChoice = "auto",
    output: Annotated[Literal["table", "json"], typer.Option("--format", help="Output format.")] = "table",
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Check this machine: versions, devices and why there is no GPU, writable folders, one real training step."""
    from wisesr_cli import api
    from wisesr_cli.data.tables import check_grid
    from wisesr_cli.display.terminal import TerminalListener, show_result
    from wisesr_cli.errors import MachineError

    result = api.doctor(output_dir, device=device, listener=TerminalListener(quiet=quiet))
    show_result(output, grids=[check_grid(result)], header=(), rows=(), value=result.to_json(), limit=None)
    if result.status == "fail":
        raise MachineError("this machine cannot train yet: see the FAIL rows")
