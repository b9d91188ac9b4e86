"""`wisesr export`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="A run directory, its best.keras, or latest.")],
    to: Annotated[
        list[str] | None,
        typer.Option("--to", metavar="FORMAT", help="keras, onnx, litert or saved_model; comma-separated or repeated."),
    ] = None,
    quantize: Annotated[
        Literal["int8", "float16"] | None,
        typer.Option("--quantize", help="Quantize, for LiteRT only; the cost in accuracy is reported."),
    ] = None,
    logits: Annotated[
        bool,
        typer.Option("--logits", help="Export logits from LiteRT instead of probabilities; other formats always do."),
    ] = False,
    fixed_batch: Annotated[
        int | None,
        typer.Option("--fixed-batch", min=1, metavar="N", help="LiteRT takes N images at a time; default: any."),
    ] = None,
    pixel_layout: Annotated[
        Literal["nhwc", "nchw"],
        typer.Option("--pixel-layout", help="Input layout for ONNX; nchw for OpenCV and TensorRT."),
    ] = "nhwc",
    layout: Annotated[
        Literal["plain", "triton", "tf-serving"],
        typer.Option("--layout", help="Also arrange the export for a model server: triton or tf-serving."),
    ] = "plain",
    resize: Annotated[
        Literal["outside", "inside"],
        typer.Option("--resize", help="inside: the model resizes images of any size itself; not for LiteRT."),
    ] = "outside",
    image_size: options.ImageSize = None,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", metavar="FOLDER", help="Compare on these labelled images; default: the run's validation images."
        ),
    ] = None,
    output_dir: Annotated[
        str | None, typer.Option("-o", "--output-dir", metavar="DIR", help="Folder for exports; default: RUN/export.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace earlier exports.")] = False,
    device: options.DeviceChoice = "auto",
    output: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Write the best model in other formats, each reloaded by its own runtime and compared with the run.

    Class names, image size and pixel scaling are included; a README shows how to use each without wisesr.
    Examples:

    wisesr export runs/photos-wise --to onnx,litert

    wisesr export runs/photos-wise --to litert --quantize int8
    """
    arguments = {**locals(), "to": to or ()}
    from wisesr_cli import api
    from wisesr_cli.display.terminal import LONG_TABLE, TerminalListener, show_result
    from wisesr_cli.exporting.tables import EXPORT_HEADER, export_grid, export_rows
    from wisesr_cli.run.names import EXPORT_EXTRAS, EXPORT_README

    listener = TerminalListener(quiet=quiet, verbose=verbose)
    result = api.export(**options.fields_of(api.export, arguments), listener=listener)
    show_result(
        output,
        grids=[export_grid(result)],
        header=EXPORT_HEADER,
        rows=export_rows(result),
        value=result.to_json(),
        limit=None if verbose else LONG_TABLE,
    )
    names = [row.file for row in result.rows]
    names += [name for name in EXPORT_EXTRAS if Path(result.output_dir, name).exists()]
    listener.note(f"written to {result.output_dir}: {', '.join(names)}")
    if layout != "plain":
        listener.note(f"for the server, the same files: {result.output_dir}/{layout}")
    listener.note(f"next: try the examples in {result.output_dir}/{EXPORT_README}, from that folder")
