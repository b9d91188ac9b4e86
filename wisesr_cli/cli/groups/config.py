"""`wisesr config show` and `wisesr config schema`."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from wisesr_cli.cli import options

app = options.new_app()


@app.callback()
def config() -> None:
    """Show the resolved config, or the JSON Schema for editors."""


@app.command()
def show(
    source: Annotated[
        str | None, typer.Argument(help="A YAML config, an image folder, a table of labels, or a run directory.")
    ] = None,
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
    output: Annotated[Literal["yaml", "json"], typer.Option("--format", help="Output format.")] = "yaml",
    debug: options.Debug = False,
) -> None:
    """Show every setting as it will be used: defaults, the file, --set and named options together."""
    named = options.named(locals())
    from wisesr_cli import api
    from wisesr_cli.display.grid import to_json
    from wisesr_cli.display.terminal import TerminalListener, write_output

    resolved = api.load_config(source, options.overrides(settings, **named), listener=TerminalListener())
    write_output(resolved.to_yaml() if output == "yaml" else to_json(resolved.to_dict()) + "\n")


@app.command()
def schema(debug: options.Debug = False) -> None:
    """Show the JSON Schema of the config, for editors that complete and check YAML."""
    import json

    from wisesr_cli import api
    from wisesr_cli.display.terminal import write_output

    write_output(json.dumps(api.config_schema(), indent=2) + "\n")
