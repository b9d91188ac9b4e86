"""`wisesr evaluate`."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer

from . import options

app = options.new_app()


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run directory, or its best.keras.")],
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option("--split", help="A split of the run; default: test when there is one, else validation."),
    ] = None,
    data: Annotated[str | None, typer.Option("--data", metavar="FOLDER", help="Judge on another image folder.")] = None,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per step.")] = 32,
    on_error: Annotated[
        Literal["fail", "skip"] | None, typer.Option("--on-error", help="Unreadable images; default: as the run did.")
    ] = None,
    fail_under: options.FailUnder = None,
    device: options.DeviceChoice = "auto",
    precision: options.Precision = None,
    output: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Judge a run on labelled images: metrics, confused classes, worst mistakes; tables, CSV, JSON and plots.

    Example: wisesr evaluate runs/photos-wise --fail-under top1_accuracy=0.9
    """
    from .. import runtime
    from ..metrics import check_gates, parse_gate
    from ..report import LONG_TABLE, TerminalListener, show_result
    from ..runs import model_path
    from ..tables import evaluation_grids, metrics_rows

    gates = [parse_gate(gate) for gate in fail_under or ()]
    listener = TerminalListener(quiet=quiet, verbose=verbose)
    path = model_path(run)
    from ..evaluation import choose_subject, error_rule
    from ..evaluation import evaluate as judge

    rule = on_error or error_rule(run)
    subject = choose_subject(run, split=split, data=data, on_error=rule, listener=listener)
    listener.note(f"device: {runtime.start(device, precision=precision or 'float32')}")
    from ..engines import load_engine

    result = judge(run, load_engine(path), subject, batch_size=batch_size, on_error=rule, listener=listener)
    show_result(
        output,
        grids=evaluation_grids(result),
        header=("metric", "value"),
        rows=metrics_rows(result.metrics),
        value=result.metrics.to_json(),
        limit=None if verbose else LONG_TABLE,
    )
    if result.unreadable:
        listener.warn(f"{result.unreadable:,} images could not be read and count nowhere")
    listener.note(f"written to {result.output_dir}: metrics.json, per_class.csv, confusion_matrix.csv, predictions.csv")
    listener.note(f"pictures beside it, in plots: confusion_matrix-{result.split}.png, reliability-{result.split}.png")
    sys.stdout.flush()
    check_gates(result.metrics, gates)
