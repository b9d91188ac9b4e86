"""Options shared by several commands, and their translation into config values."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from wisesr_cli.config.reader import Override
    from wisesr_cli.display.terminal import TerminalListener
    from wisesr_cli.explanation.screen import Screen
    from wisesr_cli.listening import Listener
    from wisesr_cli.results.evaluation import LabelIssues

SetOptions = Annotated[
    list[str] | None, typer.Option("-s", "--set", metavar="KEY=VALUE", help="Set any key of the config; repeatable.")
]
DataFolder = Annotated[
    str | None, typer.Option("--data", metavar="FOLDER", help="Image folder or table of labels; overrides the config.")
]
OutputDir = Annotated[str | None, typer.Option("-o", "--output-dir", metavar="DIR", help="Folder for run directories.")]
RunName = Annotated[str | None, typer.Option("--name", help="Name of the run directory.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Random seed.")]
Epochs = Annotated[int | None, typer.Option("--epochs", help="Passes over the training images.")]
BatchSize = Annotated[int | None, typer.Option("-b", "--batch-size", help="Images per step.")]
ImageSize = Annotated[
    str | None, typer.Option("--image-size", metavar="SIZE", help="Image size: 224, or height x width as in 224x320.")
]
OtherImageSize = Annotated[
    str | None,
    typer.Option("--image-size", metavar="SIZE", help="Image size other than in training: 288, or 224x320."),
]


def _backbones() -> list[str]:
    from wisesr_cli.models.backbones import BACKBONES

    return list(BACKBONES)


BackboneName = Annotated[
    str | None,
    typer.Option("--backbone", help="A keras.applications name, or compact.", autocompletion=_backbones),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="WEIGHTS",
        help="Initial weights of the backbone: auto, imagenet, none, FILE or RUN.",
        autocompletion=lambda: ["auto", "imagenet", "none"],
    ),
]
HeadName = Annotated[
    str | None,
    typer.Option(
        "--head",
        help="gap, gmp, depthwise, wise, flatten or fc; also as wise:paper (as published) or wise:pooling=valid.",
        autocompletion=lambda: ["gap", "gmp", "depthwise", "wise", "wise:paper", "flatten", "fc"],
    ),
]
Freeze = Annotated[
    Literal["backbone", "none"] | None,
    typer.Option(
        "--freeze",
        help="One phase: backbone trains the head only, on images as they are unless --augment is given.",
    ),
]
Augment = Annotated[
    Literal["none", "light", "paper"] | None, typer.Option("--augment", help="Augmentation of training images.")
]
Optimizer = Annotated[Literal["sgd", "adam", "adamw"] | None, typer.Option("--optimizer", help="The optimizer.")]
Schedule = Annotated[
    Literal["constant", "cosine", "exponential"] | None,
    typer.Option("--schedule", help="Learning rate schedule."),
]
Dropout = Annotated[float | None, typer.Option("--dropout", help="Dropout rate before the classifier layer.")]
LearningRate = Annotated[float | None, typer.Option("--learning-rate", "--lr", help="Base learning rate.")]
Precision = Annotated[
    Literal["float32", "mixed_float16", "mixed_bfloat16"] | None, typer.Option("--precision", help="Numeric precision.")
]
DeviceChoice = Annotated[
    Literal["auto", "cpu", "gpu"], typer.Option("--device", help="Device; gpu fails when there is none.")
]
EngineChoice = Annotated[
    Literal["auto", "litert", "keras"],
    typer.Option("--engine", help="Inference engine; auto: LiteRT on the CPU, else Keras."),
]
Show = Annotated[bool, typer.Option("--show", help="Show small pictures, on a terminal with colours and UTF-8.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Show warnings and results only.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Show long tables in full.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
FailUnder = Annotated[
    list[str] | None,
    typer.Option(
        "--fail-under", metavar="METRIC=VALUE", help="Exit with 7 if a metric misses this threshold; repeatable."
    ),
]
Coverage = Annotated[
    float | None,
    typer.Option(
        "--coverage",
        metavar="FRACTION",
        help="Give sets of labels that contain the true class this often, such as 0.9; withhold unsure single labels.",
    ),
]
PixelLimit = Annotated[
    int | None,
    typer.Option("--pixel-limit", metavar="N", min=1, help="Refuse images with more pixels (width times height)."),
]
TableFormat = Annotated[Literal["table", "json", "csv", "markdown"], typer.Option("--format", help="Output format.")]

Trackers = Annotated[
    list[str] | None,
    typer.Option("--tracker", metavar="NAME", help="Log to an experiment tracker, mlflow or wandb; repeatable."),
]

FROZEN_EPOCHS = 20
FROZEN_LEARNING_RATE = 1e-2  # a head alone allows larger steps than a network

NAMED_OPTIONS: dict[str, tuple[str, ...]] = {
    "data": ("data", "dir"),
    "output-dir": ("output_dir",),
    "name": ("name",),
    "seed": ("seed",),
    "epochs": ("train", "epochs"),
    "batch-size": ("train", "batch_size"),
    "image-size": ("data", "image_size"),
    "backbone": ("model", "backbone"),
    "weights": ("model", "weights"),
    "head": ("model", "head", "name"),
    "dropout": ("model", "head", "dropout"),
    "augment": ("augment",),
    "freeze": ("train", "phases"),
    "optimizer": ("train", "optimizer", "name"),
    "schedule": ("train", "schedule", "name"),
    "learning-rate": ("train", "optimizer", "learning_rate"),
    "precision": ("train", "precision"),
    "tracker": ("train", "trackers"),
}


class Group(TyperGroup):
    """A command with subcommands, such as `config`."""

    default: str | None = None
    """The command to run if none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Insert the default command if arguments start with none, unless one was probably misspelt."""
        from wisesr_cli.text import nearest

        names = self.list_commands(ctx)
        is_named = bool(args) and args[0] in {*names, "-h", "--help"}
        is_misspelt = bool(args) and bool(nearest(args[0], names)) and not os.path.lexists(args[0])
        if self.default is not None and not is_named and not is_misspelt:
            args = [self.default, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or suggest the one that was probably meant, or else list all."""
        from wisesr_cli.text import joined, nearest

        names = self.list_commands(ctx)
        if args and not args[0].startswith("-") and args[0] not in names:
            meant = nearest(args[0], names) or f" Allowed: {joined(names)}."
            ctx.fail(f"no command is called '{args[0]}'.{meant}")
        return super().resolve_command(ctx, args)


def screen(listener: TerminalListener) -> Screen:
    """Return the screen that shows pictures on a listener's terminal, for `--show`."""
    from wisesr_cli.explanation.screen import Screen

    return Screen(listener)


def new_app(group: type[Group] = Group) -> typer.Typer:
    """Return the Typer app of one command, or of a group of them."""
    return typer.Typer(cls=group, add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)


def fields_of(verb: Callable[..., Any], arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command that a function of `api` accepts, except those that are None."""
    taken = signature(verb).parameters
    return {name: value for name, value in arguments.items() if name in taken and value is not None}


def named(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of a command that are named options of the config."""
    return {name: value for name, value in arguments.items() if name.replace("_", "-") in NAMED_OPTIONS}


def overrides(settings: Sequence[str] | None, **named: Any) -> list[Override]:
    """Return the command line's config overrides: `--set` first, then named options, which take precedence."""
    from wisesr_cli.config.reader import Override, head_overrides, parse_set

    result = [parse_set(text) for text in settings or ()]
    for option, value in named.items():
        name = option.replace("_", "-")
        if name == "head" and value is not None:
            result += head_overrides(value, "--head")
        elif value is not None:
            given = _phases(value, named, result) if name == "freeze" else value
            result.append(Override(NAMED_OPTIONS[name], given, f"--{name}"))
    return result


def _phases(freeze: str, named: Mapping[str, Any], before: Sequence[Override]) -> list[dict[str, Any]]:
    """Return the single phase for `--freeze`, as long as `--epochs` if given.

    Not augmented by default: a head alone was not seen to gain from it, and it needs the feature maps of every view.
    """
    phase: dict[str, Any] = {"epochs": named.get("epochs") or FROZEN_EPOCHS, "freeze": freeze}
    if freeze == "backbone" and named.get("learning_rate") is None:
        phase["learning_rate"] = FROZEN_LEARNING_RATE
    is_augmented = named.get("augment") is not None or any(override.path[0] == "augment" for override in before)
    if freeze == "backbone" and not is_augmented:
        phase["augment"] = "none"
    return [phase]


def say_label_issues(issues: LabelIssues, listener: Listener) -> None:
    """Name the files that list the labels likely to be wrong."""
    listener.note(f"all {issues.examples:,} labels, most likely wrong first: {issues.table}")
    if issues.sheet is None:
        listener.note("no label looks wrong")
    else:
        listener.note(f"contact sheet of those that look wrong: {issues.sheet}")


def say_hidden(hidden: int, listener: Listener) -> None:
    """Name the command that shows the omitted rows of a table, if any."""
    if hidden:
        listener.note(f"{hidden:,} rows are not shown; to see all: {command_without(add=['-v'])}")


def command_without(
    *dropped: str, flags: Sequence[str] = (), add: Sequence[str] = (), command: str | None = None
) -> str:
    """Return the command line of this process without some options and their values, and without some flags.

    `command`: replaces the command of this process.
    """
    words, arguments = ["wisesr"], iter(sys.argv[1:])
    if command is not None:
        words.append(command)
        next(arguments, None)
    for argument in arguments:
        option, equals, _ = argument.partition("=")
        if option in dropped:
            if not equals:
                next(arguments, None)
        elif argument not in flags:
            words.append(argument)
    return shlex.join([*words, *add])
