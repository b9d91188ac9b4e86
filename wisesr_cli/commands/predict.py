"""`wisesr predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wisesr_cli.commands import options

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
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 3 when an image cannot be read.")] = False,
    device: options.DeviceChoice = "auto",
    precision: options.Precision = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Label images with a run: a record per image, in order.

    Example: find photos -name '*.jpg' -print0 | wisesr predict runs/photos-wise - --null --format jsonl
    """
    from wisesr_cli.errors import UsageError
    from wisesr_cli.runs import model_path
    from wisesr_cli.text import counted

    if not inputs and from_file is None:
        raise UsageError("nothing to label: give images, folders, globs, - or --from-file LIST")
    path = model_path(run)
    from wisesr_cli import runtime
    from wisesr_cli.files import sha256
    from wisesr_cli.output import JournalHeader, open_output
    from wisesr_cli.prediction import find_inputs, not_empty
    from wisesr_cli.report import TerminalListener
    from wisesr_cli.results import Silent

    listener = TerminalListener(quiet=quiet, verbose=verbose)
    arithmetic = precision or "float32"
    chosen = {"top_k": top_k, "min_score": min_score, "precision": arithmetic}
    output_to = open_output(
        output, output_file, JournalHeader(sha256(path), chosen), overwrite=overwrite, resume=resume
    )
    given = list(inputs or ())
    once_only = "-" in given or (from_file is not None and not Path(from_file).is_file())  # pipes are read once
    total = None if once_only else sum(1 for _ in find_inputs(given, from_file=from_file, null_separated=null))
    paths = not_empty(find_inputs(given, from_file=from_file, null_separated=null))
    listener.note(f"device: {runtime.start(device, precision=arithmetic)}")
    from wisesr_cli.engines import load_engine
    from wisesr_cli.prediction import predict_paths

    engine = load_engine(path, arithmetic)
    bar = listener.progress("labelling", total) if output_to.leaves_terminal_free else Silent().progress("", None)
    with output_to, bar as progress:
        remaining = output_to.skip_done(paths)
        for record in predict_paths(engine, remaining, top_k=top_k, min_score=min_score, batch_size=batch_size):
            output_to.write(record)
            progress.advance()
        output_to.finish()
    tally = output_to.tally
    code = tally.exit_code(strict=strict)
    if tally.unreadable:
        listener.warn(f"{tally.unreadable:,} of {counted(tally.records, 'image')} could not be read")
    elif output_file is not None:
        listener.note(f"{counted(tally.records, 'image')} labelled: {output_file}")
    raise typer.Exit(code)
