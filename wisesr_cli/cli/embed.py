"""`wisesr embed`."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def embed(
    run: Annotated[str, typer.Argument(help="A run directory, its best.keras, or latest.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Images, folders (recursive), globs, or - for paths on standard input.")
    ] = None,
    output: Annotated[
        str | None,
        typer.Option("-o", "--output", metavar="FILE", help="A .npz or .parquet file; it appears once complete."),
    ] = None,
    from_file: Annotated[str | None, typer.Option("--from-file", metavar="LIST", help="A file with paths.")] = None,
    null_separated: Annotated[bool, typer.Option("--null", help="Paths in the list end in NUL.")] = False,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per step.")] = 32,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted output file.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when an image cannot be read.")] = False,
    pixel_limit: options.PixelLimit = None,
    device: options.DeviceChoice = "auto",
    image_size: options.OtherImageSize = None,
    engine: options.EngineChoice = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Compute the feature vectors of images, the input of the classifier layer: a row per image, in order.

    Example: wisesr embed runs/photos-wise photos -o vectors.npz
    """
    arguments = locals()
    from wisesr_cli.errors import UsageError

    if output is None:
        raise UsageError("no output file: give -o FILE.npz or -o FILE.parquet")
    if not inputs and from_file is None:
        raise UsageError("nothing to embed: give images, folders, globs, - or --from-file LIST")
    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener
    from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
    from wisesr_cli.text import counted, visible

    listener, length = TerminalListener(quiet=quiet, verbose=verbose), 0
    with stop_on_signals(StopRequest("repeat the command with --resume")) as stop:
        asked = options.fields_of(api.embed, arguments)
        with closing(api.embed(**asked, stop=stop, listener=listener)) as records:
            for record in records:
                length = len(record.vector or ()) or length
    tally = records.tally
    if length:
        images = counted(tally.records, "image")
        listener.note(f"{images} embedded, each in {counted(length, 'number')}: {visible(output)}")
    code = tally.exit_code(strict=strict)
    if tally.unreadable:
        listener.warn(tally.complaint)
    raise typer.Exit(code)
