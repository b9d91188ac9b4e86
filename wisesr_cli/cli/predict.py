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
    run: Annotated[str, typer.Argument(help="A run directory, its best.keras, or latest.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Images, folders (recursive), globs, or - for paths on standard input.")
    ] = None,
    from_file: Annotated[str | None, typer.Option("--from-file", metavar="LIST", help="A file with paths.")] = None,
    null_separated: Annotated[bool, typer.Option("--null", help="Paths in the list end in NUL.")] = False,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Labels per image.")] = 5,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0, max=1, help="Leave the label empty below this score.")
    ] = 0.0,
    coverage: options.Coverage = None,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also give the probability of every class; not in tables.")
    ] = False,
    sort: Annotated[
        Literal["uncertain", "path", "label", "score"] | None,
        typer.Option("--sort", help="Sort the records, which then come after the last image."),
    ] = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="uncertain=N",
            help="Only the N images with the smallest margin between the best two labels.",
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per step.")] = 32,
    output_format: Annotated[
        Literal["table", "json", "jsonl", "csv", "markdown", "parquet"] | None,
        typer.Option("--format", help="Output format; default: from the suffix of -o, else table."),
    ] = None,
    output: Annotated[
        str | None, typer.Option("-o", "--output", metavar="FILE", help="Output file; it appears once complete.")
    ] = None,
    sheet: Annotated[
        str | None, typer.Option("--sheet", metavar="FILE", help="A PNG of the first images in the output.")
    ] = None,
    sort_into: Annotated[
        str | None,
        typer.Option(
            "--sort-into",
            metavar="DIR",
            help="Copy the images into this folder, one subfolder per label; unsure/ for those without one.",
        ),
    ] = None,
    sort_into_by: Annotated[
        Literal["copy", "link", "move"], typer.Option("--sort-into-by", help="Link or move them there instead.")
    ] = "copy",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing output file or sheet.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Resume an interrupted output, or sorting.")] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            "--explain", metavar="DIR", help="Also draw what decided each label, into this folder (starts Keras)."
        ),
    ] = None,
    show: options.Show = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when an image cannot be read.")] = False,
    pixel_limit: options.PixelLimit = None,
    device: options.DeviceChoice = "auto",
    precision: options.Precision = None,
    image_size: options.OtherImageSize = None,
    engine: Annotated[
        Literal["auto", "litert", "keras", "ray"],
        typer.Option("--engine", help="Inference engine; auto: LiteRT on the CPU, else Keras; ray: on many machines."),
    ] = "auto",
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Label only part I (from 0) of N equal parts of the inputs."),
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
    from wisesr_cli.display.terminal import LONG_TABLE, TerminalListener
    from wisesr_cli.machine.stopping import StopRequest, stop_on_signals
    from wisesr_cli.prediction.formats import Renderer, chosen_format
    from wisesr_cli.text import counted, visible

    shown = None if output is not None else chosen_format(None, output_format, probabilities=probabilities)
    # A progress bar would appear between records on the same screen.
    limit = LONG_TABLE if shown == "table" and not verbose else None
    is_late = sort is not None or only is not None or limit is not None
    bars = output is not None or is_late or not sys.stdout.isatty()
    listener = TerminalListener(quiet=quiet, verbose=verbose, bars=bars)
    screen = options.screen(listener) if show else None
    with stop_on_signals(StopRequest(_hint(output, sort_into, is_late=is_late))) as stop:
        asked = options.fields_of(api.predict, arguments)
        with closing(api.predict(**asked, screen=screen, stop=stop, listener=listener)) as records:
            renderer = None if shown is None else Renderer(shown, sys.stdout, records.layout, limit=limit)
            given = 0
            for record in records:
                given += 1
                if renderer is not None:
                    renderer.write(record)
                    sys.stdout.flush()
        if renderer is not None:
            renderer.end()
            options.say_hidden(renderer.hidden, listener)
    tally = records.tally
    if tally.records > 1:
        listener.grid(tally.grid())
    code = tally.exit_code(strict=strict)
    if tally.unreadable:
        listener.warn(tally.complaint)
    elif output is not None and tally.records:
        chosen = f", {given:,} of them given" if only is not None else ""
        listener.note(f"{counted(tally.records, 'image')} labelled{chosen}: {visible(output)}")
    raise typer.Exit(code)


def _hint(output: str | None, sort_into: str | None, *, is_late: bool) -> str:
    if output is not None or sort_into is not None:
        return "repeat the command with --resume"
    return "no record was written yet: they come after the last image" if is_late else "the records so far were written"
