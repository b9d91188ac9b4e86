"""`wisesr check`."""

from __future__ import annotations

from typing import Annotated

import typer

from wisesr_cli.cli import options

SHEET = "near-duplicates.png"

app = options.new_app()


@app.command()
def check(
    source: Annotated[str, typer.Argument(help="A YAML config, an image folder, or a table of labels.")],
    settings: options.SetOptions = None,
    data: options.DataFolder = None,
    image_size: options.ImageSize = None,
    weights: options.Weights = None,
    near_duplicates: Annotated[
        bool,
        typer.Option(
            "--near-duplicates", help="Look for re-encoded, resized and mirrored copies across splits and labels."
        ),
    ] = False,
    sheet: Annotated[
        str | None, typer.Option("--sheet", metavar="FILE", help=f"A PNG that shows them; {SHEET} by default.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing sheet.")] = False,
    output: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Check a config and its images without training: PASS, WARN and FAIL rows.

    Every image is decoded completely. Exit code 3 when a row says FAIL. Example: wisesr check photos
    """
    named = options.named(locals())
    from wisesr_cli import api
    from wisesr_cli.data.tables import check_grid, check_paths_grid
    from wisesr_cli.display.terminal import TerminalListener, show_result
    from wisesr_cli.errors import DataError

    listener = TerminalListener(quiet=quiet, verbose=verbose)
    result = api.check(
        source,
        options.overrides(settings, **named),
        near_duplicates=near_duplicates,
        sheet=sheet or (SHEET if near_duplicates else None),
        overwrite=overwrite,
        listener=listener,
    )
    paths = check_paths_grid(result, limit=None if verbose else 5)
    show_result(
        output,
        grids=[check_grid(result), *([paths] if paths.rows else [])],
        header=("level", "code", "message", "count"),
        rows=[(row.level, row.code, row.message, row.count) for row in result.findings],
        value=result.to_json(),
        limit=None,
    )
    if result.status == "fail":
        raise DataError("the check failed: see the FAIL rows")
    looked_at = ("--near-duplicates", "--overwrite", "-v", "--verbose")
    listener.note(f"next: {options.command_without('--sheet', '--format', flags=looked_at, command='train')}")
