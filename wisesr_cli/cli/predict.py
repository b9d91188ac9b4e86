"""`wisesr predict`."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Annotated, Any, Literal

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
    null: Annotated[bool, typer.Option("--null", help="Paths that are read end in NUL.")] = False,
    top_k: Annotated[int, typer.Option("--top-k", min=1, help="Labels per image.")] = 5,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0, max=1, help="Below it the label stays empty.")
    ] = 0.0,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per step.")] = 32,
    output: Annotated[
        Literal["table", "json", "jsonl", "csv", "markdown"], typer.Option("--format", help="Output format.")
    ] = "table",
    output_file: Annotated[
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
    from wisesr_cli.errors import UsageError

    if not inputs and from_file is None:
        raise UsageError("nothing to label: give images, folders, globs, - or --from-file LIST")
    from wisesr_cli.data.shards import parse_shard
    from wisesr_cli.display.terminal import TerminalListener
    from wisesr_cli.explanation.place import explanation_folder
    from wisesr_cli.images.decoding import PIXEL_LIMIT
    from wisesr_cli.prediction.pictures import Pictures
    from wisesr_cli.prediction.predict import Request, label
    from wisesr_cli.run.run import model_path
    from wisesr_cli.text import counted, visible

    listener = TerminalListener(quiet=quiet, verbose=verbose)
    request = Request(
        run=run,
        inputs=tuple(inputs or ()),
        from_file=from_file,
        null_separated=null,
        top_k=top_k,
        min_score=min_score,
        batch_size=batch_size,
        pixel_limit=pixel_limit or PIXEL_LIMIT,
        device=device,
        precision=precision or "float32",
        image_size=None if image_size is None else _image_size(image_size),
        engine=engine,
        shard=None if shard is None else parse_shard(shard),
        ray_address=ray_address,
        ray_workers=ray_workers,
    )
    with nullcontext() if explain is None else explanation_folder(model_path(run), explain, "--explain") as folder:
        pictures = Pictures(folder, _screen(listener) if show else None) if folder or show else None
        tally = label(
            request,
            chosen=output,
            file=output_file,
            overwrite=overwrite,
            resume=resume,
            pictures=pictures,
            listener=listener,
        )
    code = tally.exit_code(strict=strict)
    if tally.unreadable:
        listener.warn(tally.complaint)
    elif output_file is not None and tally.records:
        listener.note(f"{counted(tally.records, 'image')} labelled: {visible(output_file)}")
    raise typer.Exit(code)


def _image_size(text: str) -> tuple[int, int]:
    from wisesr_cli.config.reader import parse_image_size  # with YAML, which labelling has no other use for

    return parse_image_size(text)


def _screen(listener: Any) -> Any:
    from wisesr_cli.explanation.screen import Screen

    return Screen(listener)
