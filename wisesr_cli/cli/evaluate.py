"""`wisesr evaluate`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wisesr_cli.cli import options

if TYPE_CHECKING:
    from wisesr_cli.listening import Listener

app = options.new_app()


@app.command()
def evaluate(
    run: Annotated[str, typer.Argument(help="A run directory, its best.keras, or latest.")],
    split: Annotated[
        Literal["train", "validation", "test"] | None,
        typer.Option("--split", help="A split of the run; default: test when there is one, else validation."),
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", metavar="FOLDER", help="Evaluate on other images: a folder, or a table of labels."),
    ] = None,
    batch_size: Annotated[int, typer.Option("-b", "--batch-size", min=1, help="Images per step.")] = 32,
    on_error: Annotated[
        Literal["fail", "skip"] | None, typer.Option("--on-error", help="Unreadable images; default: as in the run.")
    ] = None,
    pixel_limit: options.PixelLimit = None,
    coverage: options.Coverage = None,
    label_issues: Annotated[
        bool, typer.Option("--label-issues", help="Also list labels that are likely wrong, with a contact sheet.")
    ] = False,
    report: Annotated[
        bool, typer.Option("--report", help="Also write report.html: one file with pictures and contribution maps.")
    ] = False,
    fail_under: options.FailUnder = None,
    device: options.DeviceChoice = "auto",
    precision: options.Precision = None,
    image_size: options.OtherImageSize = None,
    engine: options.EngineChoice = "auto",
    output: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Evaluate a run on labelled images: metrics, confused classes, worst mistakes; tables, CSV, JSON and plots.

    Example: wisesr evaluate runs/photos-wise --fail-under top1_accuracy=0.9
    """
    arguments = locals()
    from wisesr_cli import api
    from wisesr_cli.display.plots import can_draw
    from wisesr_cli.display.terminal import LONG_TABLE, TerminalListener, show_result
    from wisesr_cli.evaluation.gates import check_gates, parse_gate
    from wisesr_cli.evaluation.tables import evaluation_grids, metrics_rows
    from wisesr_cli.results.evaluation import Evaluation
    from wisesr_cli.run.names import EVALUATION_FILES, EVALUATION_PICTURES, PLOTS, REPORT

    gates = [parse_gate(gate) for gate in fail_under or ()]
    listener = TerminalListener(quiet=quiet, verbose=verbose)
    result = api.evaluate(**options.fields_of(api.evaluate, arguments), listener=listener)
    show_result(
        output,
        grids=evaluation_grids(result),
        header=("metric", "value"),
        rows=metrics_rows(result.metrics),
        value=result.metrics.to_json(),
        limit=None if verbose else LONG_TABLE,
    )
    if result.unreadable:
        listener.warn(f"{result.unreadable:,} images could not be read and are not counted")
    output_dir = Path(result.output_dir)
    files = [name for name in EVALUATION_FILES if (output_dir / name).exists()]
    names = (name.format(result.split) for name in EVALUATION_PICTURES)
    pictures = [name for name in names if (output_dir.parent / PLOTS / name).exists()]
    listener.note(f"written to {result.output_dir}: {', '.join(files)}")
    if can_draw():
        listener.note(f"pictures next to it, in {PLOTS}: {', '.join(pictures)}")
    if isinstance(result, Evaluation) and result.label_issues is not None:
        options.say_label_issues(result.label_issues, listener)
        _say_how_to_doubt_the_rest(Path(result.output_dir).parent, listener)
    if report:
        listener.note(f"report, to open in a browser or e-mail: {result.output_dir}/{REPORT}")
    elif can_draw():  # the report can be drawn, too
        listener.note(f"next: {options.command_without(add=('--report',))}")
    sys.stdout.flush()
    check_gates(result.metrics, gates)


def _say_how_to_doubt_the_rest(folder: Path, listener: Listener) -> None:
    """Name the command that checks the labels of the training images, if the run knows them."""
    from wisesr_cli.run.run import Run

    run = Run(folder)
    if run.is_complete:
        head = run.load_config().model.head.name
        source = shlex.quote(str(run.config_path))
        listener.note(f"labels of training images: wisesr compare {source} --heads {head} --folds 5 --label-issues")
