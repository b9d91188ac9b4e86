"""`wisesr predict`."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Annotated, Literal

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def predict(
    run: Annotated[str, typer.Argument(help="A run directory, or its best.keras.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Images, folders (recursive), globs, or - for paths on standard input.")
    ] = None,
    from_file: Annotated[str | None, typer.Option("--from-file", metavar="LIST", help="A file with paths.")] = None,
    null_separated: Annotated[bool, typer.Option("--null", help="Paths that are read end in NUL.")] = False,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Labels per image.")] = 5,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0, max=1, help="Below it the label stays empty.")
    ] = 0.0,
    coverage: options.Coverage = None,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per step.")] = 32,
    output_format: Annotated[
        Literal["table", "json", "jsonl", "csv", "markdown"], typer.Option("--format", help="Output format.")
    ] = "table",
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Write there, whole or not at all.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted output file.")] = False,
    explain: Annotated[
        str | None,
        typer.Option("--explain", metavar="DIR", help="Also write there why: a picture per image (starts Keras)."),
    ] = None,
    show: options.Show = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when an image cannot be read.")] = False,
    pixel_limit: options.PixelLimit = None,
    device: options.DeviceChoice = "auto",
    precision: options.Precision = None,
    image_size: options.OtherImageSize = None,
    engine: Annotated[
        Literal["auto", "litert", "keras", "ray"],
        typer.Option(
            "--engine", help="What runs the model; auto is LiteRT on the CPU, else Keras; ray: on many machines."
        ),
    ] = "auto",
    shard: Annotated[
        str | None, typer.Option("--shard", metavar="I/N", help="Label part I, from 0, of N equal parts of the inputs.")
    ] = None,
    ray_address: Annotated[
        str | None,
        typer.Option(
            "--ray-address",
            metavar="ADDRESS",
            help="A Ray cluster: HOST:PORT or auto; default RAY_ADDRESS, else a new one.",
        ),
    ] = None,
    ray_workers: Annotated[
        int | None, typer.Option("--ray-workers", min=1, metavar="N", help="Ray workers; default one per CPU, or GPU.")
    ] = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Label images with a run: a record per image, in order.

    Example: find photos -name '*.jpg' -print0 | wisesr predict runs/photos-wise - --null --format jsonl
    """
    arguments = locals()
    from wisesr_cli.errors import UsageError

    if not inputs and from_file is None:
        raise UsageError("nothing to label: give images, folders, globs, - or --from-file LIST")
    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener
    from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
    from wisesr_cli.prediction.output import Renderer
    from wisesr_cli.text import counted, visible

    # A bar would stand between the records on the same screen.
    listener = TerminalListener(quiet=quiet, verbose=verbose, bars=output is not None or not sys.stdout.isatty())
    screen = options.screen(listener) if show else None
    hint = "the records so far were written" if output is None else "go on with the same command and --resume"
    renderer = Renderer(output_format, sys.stdout)
    with stop_on_signals(StopRequest(hint)) as stop:
        asked = options.fields_of(api.predict, arguments)
        with closing(api.predict(**asked, screen=screen, stop=stop, listener=listener)) as records:
            for record in records:
                if output is None:
                    renderer.write(record)
                    sys.stdout.flush()
        if output is None:
            renderer.end()
    tally = records.tally
    code = tally.exit_code(strict=strict)
    if tally.unreadable:
        listener.warn(tally.complaint)
    elif output is not None and tally.records:
        listener.note(f"{counted(tally.records, 'image')} labelled: {visible(output)}")
    raise typer.Exit(code)
