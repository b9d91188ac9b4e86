"""`wisesr summarize`."""

from __future__ import annotations

from typing import Annotated

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def summarize(
    source: Annotated[
        str | None, typer.Argument(help="A YAML config, an image folder, a table of labels, or a run directory.")
    ] = None,
    backbones: Annotated[
        list[str] | None, typer.Option("--backbone", help="A keras.applications name, compact, or all; repeatable.")
    ] = None,
    heads: Annotated[
        list[str] | None,
        typer.Option("--head", help="A head, also as wise:pooling=valid, or all (the default); repeatable."),
    ] = None,
    classes: Annotated[int | None, typer.Option("--classes", min=2, help="Number of classes.")] = None,
    image_sizes: Annotated[
        list[str] | None, typer.Option("--image-size", metavar="SIZE", help="224 or 224x320; repeatable.")
    ] = None,
    settings: options.SetOptions = None,
    latency: Annotated[bool, typer.Option("--latency", help="Also time one image through each model.")] = False,
    device: options.DeviceChoice = "auto",
    output: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Show parameters, FLOPs and sizes per backbone and head, side by side.

    Without SOURCE: MobileNetV2, all heads, 10 classes, 224 pixels. Several backbones share one table, which
    shows for which of them there are ImageNet weights. Examples:

    wisesr summarize --backbone Xception --classes 70

    wisesr summarize --backbone all --head gap --head wise
    """
    arguments = {**locals(), "settings": options.overrides(settings)}
    from wisesr_cli import api
    from wisesr_cli.comparison.costs_tables import summary_grids, summary_header, summary_rows
    from wisesr_cli.display.terminal import TerminalListener, show_result

    listener = TerminalListener(quiet=quiet, verbose=verbose)
    summary = api.summarize(**options.fields_of(api.summarize, arguments), listener=listener)
    show_result(
        output,
        grids=summary_grids(summary),
        header=summary_header(summary),
        rows=summary_rows(summary),
        value=summary.to_json(),
        limit=None,
    )
    for note in summary.notes:
        listener.note(note)
