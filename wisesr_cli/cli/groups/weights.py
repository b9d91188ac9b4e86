"""`wisesr weights list`, `fetch`, `add` and `path`."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from wisesr_cli.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wisesr_cli.pretrained.records import PretrainedWeights

app = options.new_app()

Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")]


@app.callback()
def weights() -> None:
    """Show, fetch and add the ImageNet weights that backbones start from.

    They are searched for in `model.weights_dir`, then in the folder of WISESR_WEIGHTS, then in Keras' cache.
    """


@app.command("list")
def list_(output: options.TableFormat = "table", debug: options.Debug = False) -> None:
    """Show which backbones have weights, which of them are on this machine, their size, licence and checksum."""
    from wisesr_cli import api

    _show(api.list_weights(), output)


@app.command()
def fetch(
    backbones: Annotated[list[str], typer.Argument(metavar="BACKBONE...", help="keras.applications names.")],
    output_dir: Annotated[
        str | None,
        typer.Option("-o", "--output-dir", metavar="FOLDER", help="Folder to carry over; default: Keras' cache."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Download weights into Keras' cache, or into a folder for a machine without a network, to `add` there.

    Example: wisesr weights fetch MobileNetV2 -o usb
    """
    arguments = locals()
    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener

    listener = TerminalListener(quiet=quiet)
    for row in api.fetch_weights(**options.fields_of(api.fetch_weights, arguments), listener=listener):
        listener.note(f"{row.backbone}: {row.path} (licence: {row.licence})")
        if output_dir is not None:
            listener.note(f"on the other machine: wisesr weights add {row.backbone} {shlex.quote(str(row.path))}")


@app.command()
def add(
    backbone: Annotated[str, typer.Argument(metavar="BACKBONE", help="A keras.applications name.")],
    file: Annotated[str, typer.Argument(metavar="FILE", help="A .h5, .weights.h5 or .keras file, or a run.")],
    overwrite: Overwrite = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Copy weights into the folder of WISESR_WEIGHTS, else into Keras' cache: Keras' release, or any that fit.

    Example: wisesr weights add MobileNetV2 usb/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5
    """
    arguments = locals()
    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener

    listener = TerminalListener(quiet=quiet)
    row = api.add_weights(**options.fields_of(api.add_weights, arguments), listener=listener)
    listener.note(f"{row.backbone}: {row.path}, origin: {row.origin}")
    listener.note(f"next: wisesr train PHOTOS --backbone {row.backbone}")


@app.command()
def path(
    backbone: Annotated[str | None, typer.Argument(metavar="BACKBONE", help="A keras.applications name.")] = None,
    debug: options.Debug = False,
) -> None:
    """Show the folders searched for weights, or the file of one backbone; exit code 4 if it has none."""
    from wisesr_cli import api
    from wisesr_cli.display.terminal import write_output

    write_output("".join(f"{each}\n" for each in api.weights_paths(backbone)))


def _show(rows: Sequence[PretrainedWeights], output: str) -> None:
    from dataclasses import asdict

    from wisesr_cli.display.terminal import show_result
    from wisesr_cli.pretrained.tables import HEADER, weights_grid

    show_result(
        output,
        grids=[weights_grid(rows)],
        header=HEADER,
        rows=[list(asdict(row).values()) for row in rows],
        value=[asdict(row) for row in rows],
        limit=None,
    )
