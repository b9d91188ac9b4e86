"""`wisesr train`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wisesr_cli.cli import options

if TYPE_CHECKING:
    from wisesr_cli.evaluation.gates import Gate
    from wisesr_cli.results.training import TrainingResult
    from wisesr_cli.training.display import TrainingDisplay

app = options.new_app()


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(help="A YAML config, an image folder, a table of labels or, with --resume, a run."),
    ],
    settings: options.SetOptions = None,
    data: options.DataFolder = None,
    output_dir: options.OutputDir = None,
    name: options.RunName = None,
    seed: options.Seed = None,
    epochs: options.Epochs = None,
    batch_size: options.BatchSize = None,
    image_size: options.ImageSize = None,
    backbone: options.BackboneName = None,
    weights: options.Weights = None,
    head: options.HeadName = None,
    dropout: options.Dropout = None,
    freeze: options.Freeze = None,
    augment: options.Augment = None,
    optimizer: options.Optimizer = None,
    schedule: options.Schedule = None,
    learning_rate: options.LearningRate = None,
    precision: options.Precision = None,
    tracker: options.Trackers = None,
    device: options.DeviceChoice = "auto",
    resume: Annotated[bool, typer.Option("--resume", help="Resume the run of this name.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over in the run of this name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="One step, save and reload, then stop.")] = False,
    max_steps: Annotated[int | None, typer.Option("--max-steps", min=1, help="Stop after this many steps.")] = None,
    time_limit: Annotated[
        float | None, typer.Option("--time-limit", min=0, metavar="SECONDS", help="Stop after this many seconds.")
    ] = None,
    coordinator: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", envvar="WISESR_COORDINATOR", help="Where process 0 of several listens; auto asks JAX."
        ),
    ] = None,
    num_processes: Annotated[
        int | None, typer.Option(min=1, envvar="WISESR_NUM_PROCESSES", help="How many processes train together.")
    ] = None,
    process_id: Annotated[
        int | None, typer.Option(min=0, envvar="WISESR_PROCESS_ID", help="Which of them this is, from 0.")
    ] = None,
    fail_under: options.FailUnder = None,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    debug: options.Debug = False,
) -> None:
    """Train a classifier from a YAML config, an image folder or a table of labels.

    An image folder has class folders, or train/, validation/ and test/ with class folders. A table of labels (.csv,
    .tsv, .jsonl, .parquet) has the columns path and label, and, optionally, split, group and weight. Example:

    wisesr train photos --backbone MobileNetV2 --epochs 20
    """
    named = options.named(locals())
    from wisesr_cli.processes.launch import find_cluster
    from wisesr_cli.run.located import load_training

    cluster = find_cluster(coordinator, num_processes, process_id)
    gates: list[Gate] = []
    if fail_under:  # only then import metrics, so that mistakes in the config show sooner
        from wisesr_cli.evaluation.gates import parse_gate

        gates = [parse_gate(text) for text in fail_under]
    overrides = options.overrides(settings, **named)
    loaded = load_training(source, overrides, resume=resume, overwrite=overwrite)
    from wisesr_cli import api
    from wisesr_cli.training.display import TrainingDisplay
    from wisesr_cli.training.train import TrainingOptions

    display = TrainingDisplay(quiet=quiet, verbose=verbose)
    for note in loaded.notes if cluster is None or cluster.process == 0 else ():
        display.note(note)
    result = api.train(
        loaded,
        options=TrainingOptions(
            resume=resume,
            overwrite=overwrite,
            dry_run=dry_run,
            max_steps=max_steps,
            time_limit_seconds=time_limit,
            device=device,
            cluster=cluster,
        ),
        listener=display,
    )
    if cluster is not None and cluster.process != 0:  # the main process shows the result
        return
    _show(result, display, dry_run=dry_run)
    if gates and not dry_run:
        from wisesr_cli.evaluation.gates import check_gates

        check_gates(result.metrics, gates)


def _show(result: TrainingResult, display: TrainingDisplay, *, dry_run: bool) -> None:
    from wisesr_cli.display.terminal import show_grid
    from wisesr_cli.evaluation.tables import verdict_grid
    from wisesr_cli.training.tables import training_grid

    if dry_run:
        display.note(f"to train: {options.command_without(flags=('--dry-run',))}")
        return
    show_grid(training_grid(result))
    if result.metrics is not None:
        show_grid(verdict_grid(result.metrics))
    sys.stdout.flush()
    run = shlex.quote(result.run_dir)
    if result.stopped:
        display.note(f"stopped: {result.stopped}")
    elif result.epochs_done_now == 0:
        display.note("nothing left to do: all epochs are done; give a larger --epochs to train further")
    if not result.finished:
        display.note(f"to resume: {_resume_command(result.run_dir)}")
    if result.best_epoch is not None:
        display.note(f"next: wisesr evaluate {run}" + ("" if display.can_be_judged else " --data FOLDER"))
        display.note(f"      wisesr predict {run} IMAGE")


def _resume_command(run_dir: str) -> str:
    flags, add = ("--overwrite", "--resume"), ["--name", Path(run_dir).name, "--resume"]
    return options.command_without("--max-steps", "--time-limit", "--name", flags=flags, add=add)
