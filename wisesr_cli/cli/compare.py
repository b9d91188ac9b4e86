"""`wisesr compare`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wisesr_cli.cli import options

if TYPE_CHECKING:
    from wisesr_cli.listening import Listener
    from wisesr_cli.results.training import Comparison

app = options.new_app()


@app.command()
def compare(
    source: Annotated[str, typer.Argument(help="A YAML config, an image folder, or a table of labels.")],
    heads: Annotated[
        str, typer.Option("--heads", metavar="HEADS", help="Comma-separated, with options as in wise:pooling=valid.")
    ] = "gap,wise,flatten",
    seeds: Annotated[
        str | None,
        typer.Option(
            "--seeds",
            metavar="N",
            help="How many (3 means 0, 1, 2), or which ones, as in 0,5,7. Default: 3; 1 with --folds.",
        ),
    ] = None,
    folds: Annotated[
        int | None,
        typer.Option(
            "--folds", metavar="K", help="Cross-validate: hold out each of K parts of the training images once."
        ),
    ] = None,
    label_issues: Annotated[
        bool,
        typer.Option("--label-issues", help="With --folds: list labels that are likely wrong, with a contact sheet."),
    ] = False,
    settings: options.SetOptions = None,
    data: options.DataFolder = None,
    output_dir: options.OutputDir = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the comparison's folder.")] = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    image_size: options.ImageSize = None,
    backbone: options.BackboneName = None,
    weights: options.Weights = None,
    freeze: options.Freeze = None,
    augment: options.Augment = None,
    learning_rate: options.LearningRate = None,
    precision: options.Precision = None,
    tracker: options.Trackers = None,
    device: options.DeviceChoice = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Resume the comparison of this name.")] = False,
    output: options.TableFormat = "table",
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Train several heads over several seeds, all else equal, and compare them with mean, spread and cost.

    The heads are compared to the first one, in pairs of the same seed. With --resume, you may request more
    heads, seeds or epochs than before. Example:

    wisesr compare photos --heads gap,wise,flatten --seeds 5 --epochs 20

    With --folds, every training image is evaluated once, by models that have not seen it.
    """
    arguments = locals()
    arguments["settings"] = options.overrides(settings, **options.named(arguments))
    from wisesr_cli import api
    from wisesr_cli.display.terminal import TerminalListener
    from wisesr_cli.errors import Interrupted

    listener = TerminalListener(quiet=quiet, verbose=verbose)
    try:
        comparison = api.compare(**options.fields_of(api.compare, arguments), listener=listener)
    except Interrupted as interrupted:
        if interrupted.run_name is not None:
            listener.note(f"to resume: {_resume_command(interrupted.run_name)}")
        raise
    _show(comparison, output)
    _say_what_next(comparison, listener)
    _fail_on_missing(comparison)


def _show(comparison: Comparison, chosen: str) -> None:
    from wisesr_cli.comparison import tables
    from wisesr_cli.display.terminal import show_result, write_output
    from wisesr_cli.evaluation.tables import label_issues_grid

    if chosen == "markdown":
        write_output(tables.comparison_markdown(comparison))
        return
    doubted = [] if comparison.label_issues is None else [label_issues_grid(comparison.label_issues)]
    show_result(
        chosen,
        grids=[*tables.comparison_grids(comparison), *doubted, tables.conclusions_grid(comparison)],
        header=tables.CSV_HEADER,
        rows=tables.comparison_rows(comparison),
        value=comparison.to_json(),
        limit=None,
    )


def _resume_command(name: str, *, seeds: str | None = None) -> str:
    """Return the command line that resumes this comparison by name."""
    dropped = ("--name",) if seeds is None else ("--name", "--seeds")
    more = [] if seeds is None else ["--seeds", seeds]
    return options.command_without(*dropped, flags=("--resume",), add=(*more, "--name", name, "--resume"))


def _say_what_next(comparison: Comparison, listener: Listener) -> None:
    from wisesr_cli.comparison.conclusions import ENOUGH_SEEDS, more_seeds
    from wisesr_cli.run.names import ACCURACY_PICTURE, COMPARISON_FILES, FOLDS_FILES, LEARNING_CURVES, PLOTS

    folder = Path(comparison.output_dir)
    files: tuple[str, ...] = COMPARISON_FILES
    if comparison.folds is not None:
        files = (*files, *FOLDS_FILES)
    pictures = ", ".join(f"{PLOTS}/{name}" for name in (ACCURACY_PICTURE, LEARNING_CURVES))
    runs = [item.run for item in comparison.trainings if item.best_epoch is not None]
    listener.note(f"written to {folder}: {', '.join(files)}" + (f", {pictures}" if runs else ""))
    if comparison.label_issues is not None:
        options.say_label_issues(comparison.label_issues, listener)
        listener.note(f"after correcting labels: {options.command_without('--name', flags=('--resume',))}")
    if not runs:
        return
    run = shlex.quote(str(folder / runs[-1]))
    seeds = [item.seed for item in comparison.trainings]
    if comparison.folds is None and len({*seeds}) < ENOUGH_SEEDS:
        listener.note(f"more seeds: {_resume_command(folder.name, seeds=more_seeds(seeds))}")
    if comparison.folds is not None and comparison.label_issues is None:
        again = options.command_without("--name", flags=("--resume",), add=("--name", folder.name, "--resume"))
        listener.note(f"labels that are likely wrong: {again} --label-issues")
    listener.note(f"next: wisesr evaluate {run} --report")
    listener.note(f"      wisesr explain {run} IMAGE")


def _fail_on_missing(comparison: Comparison) -> None:
    """Raise a `DataError` if trainings failed; called after everything else was shown."""
    from wisesr_cli.comparison.plan import training_title
    from wisesr_cli.errors import DataError
    from wisesr_cli.text import counted

    failed = [item for item in comparison.trainings if item.error is not None]
    if failed:
        count = f"{counted(len(failed), 'training')} of {len(comparison.trainings)}"
        first = training_title(failed[0].head, failed[0].seed, failed[0].fold)
        raise DataError(f"{count} skipped: {first}: {failed[0].error}")
