"""`wisesr explain`."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Annotated

import typer

from wisesr_cli.cli import options

if TYPE_CHECKING:
    from wisesr_cli.explanation.weights_output import LearnedWeights
    from wisesr_cli.listening import Listener

app = options.new_app()


@app.command()
def explain(
    run: Annotated[str, typer.Argument(help="A run directory, its best.keras, or latest.")],
    inputs: Annotated[
        list[str] | None, typer.Argument(help="Images, folders (recursive), globs, or - for paths on standard input.")
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME", help="Explain this class instead of the predicted one; repeatable."),
    ] = None,
    bands: Annotated[
        str, typer.Option("--bands", metavar="3,2,1", help="Bands to show as red, green, blue, or one as grey.")
    ] = "",
    weights: Annotated[
        bool, typer.Option("--weights", help="Show the head's learned position weights instead; takes no image.")
    ] = False,
    output_dir: Annotated[
        str | None, typer.Option("-o", "--output-dir", metavar="DIR", help="Folder for pictures; default: RUN/explain.")
    ] = None,
    from_file: Annotated[str | None, typer.Option("--from-file", metavar="LIST", help="A file with paths.")] = None,
    null_separated: Annotated[bool, typer.Option("--null", help="Paths in the list end in NUL.")] = False,
    pictures: Annotated[
        int, typer.Option("--pictures", metavar="N", min=0, help="Maximum number of images with their own picture.")
    ] = 1000,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per step.")] = 32,
    output_format: options.TableFormat = "table",
    show: options.Show = False,
    pixel_limit: options.PixelLimit = None,
    device: options.DeviceChoice = "auto",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Show exactly which positions of the feature map contribute to a logit: pictures, sheets, arrays, JSON and CSV.

    Orange speaks for the class, blue against it; sum and bias add up to the logit. Examples:

    wisesr explain runs/photos-wise photo.jpg --class dress

    wisesr explain runs/photos-wise --weights
    """
    arguments = locals()
    from wisesr_cli.errors import UsageError

    if weights and (inputs or from_file is not None):
        raise UsageError("--weights shows the head, which is the same for all images: give no images")
    if not weights and not inputs and from_file is None:
        raise UsageError("nothing to explain: give images, folders, globs, -, --from-file LIST, or --weights")
    from wisesr_cli import api
    from wisesr_cli.display.terminal import LONG_TABLE, TerminalListener
    from wisesr_cli.explanation.output import ExplanationWriter
    from wisesr_cli.machine.stopping import StopRequest, stop_on_signals

    # A progress bar would appear between records on the same screen; a table is drawn after it is gone.
    bars = output_format in ("table", "markdown") or not sys.stdout.isatty()
    listener = TerminalListener(quiet=quiet, verbose=verbose, bars=bars)
    screen, limit = options.screen(listener) if show else None, None if verbose else LONG_TABLE
    with stop_on_signals(StopRequest("nothing was written")) as stop:
        if weights:
            asked = options.fields_of(api.position_weights, arguments)
            learned = api.position_weights(**asked, write=True, screen=screen, stop=stop, listener=listener)
            _show_weights(learned, output_format, limit, listener)
            return
        asked = options.fields_of(api.explain, arguments)
        with closing(api.explain(**asked, write=True, screen=screen, stop=stop, listener=listener)) as explanations:
            writer = ExplanationWriter(output_format, sys.stdout, explanations, limit=limit)
            for explanation in explanations:
                writer.write(explanation)
            writer.end()
            options.say_hidden(writer.hidden, listener)
    tally = explanations.tally
    if tally.unreadable:
        listener.warn(tally.complaint)
    raise typer.Exit(tally.exit_code(strict=False))


def _show_weights(learned: LearnedWeights, chosen: str, limit: int | None, listener: Listener) -> None:
    from wisesr_cli.display.terminal import hidden_rows, show_result
    from wisesr_cli.explanation.weights_output import HEADER, weights_grid

    rows = [row.cells() for row in learned.rows]
    show_result(
        chosen, grids=[weights_grid(learned.rows)], header=HEADER, rows=rows, value=learned.to_json(), limit=limit
    )
    options.say_hidden(hidden_rows(len(rows), limit if chosen == "table" else None), listener)
