"""The command line: the lazily imported commands, and the translation of errors into exit codes.

To add a command, add a row to `COMMANDS` and a module of that name next to this one, with a Typer `app`; a command with
subcommands goes into `groups/` and `GROUPS`.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import typer
from typer.core import TyperGroup

from wisesr_cli.cli import topics, words
from wisesr_cli.errors import INTERRUPTED, PIPE_CLOSED, ConfigError, WisesrError, is_short_of_memory, machine_error
from wisesr_cli.text import nearest, visible

COMMANDS: dict[str, str] = {
    "demo": "Make a small image folder, train the GAP and the Wise head on it, compare and explain them.",
    "init": "Write a commented config for an image folder or a table of labels.",
    "check": "Check a config and its images without training.",
    "train": "Train a classifier from a YAML config, an image folder or a table of labels.",
    "evaluate": "Evaluate a run on labelled images.",
    "predict": "Label images with a run.",
    "embed": "Compute feature vectors of images, for search and clustering.",
    "explain": "Show exactly which positions of the feature map contribute to a logit.",
    "compare": "Train several heads over several seeds, and compare accuracy, spread and cost.",
    "export": "Write the model as ONNX, LiteRT, SavedModel or plain Keras, each compared with the run.",
    "upgrade": "Turn a Keras classifier that ends in global average pooling into a run with the same outputs.",
    "runs": "Show the runs in a folder, or remove some.",
    "weights": "Show, fetch and add the ImageNet weights that backbones start from.",
    "summarize": "Show parameters, FLOPs and sizes per backbone and head.",
    "config": "Show the resolved config, or the JSON Schema for editors.",
    "doctor": "Check this machine: versions, devices, folders, one real training step.",
}

GROUPS = ("config", "runs", "weights")


class LazyGroup(TyperGroup):
    """A group whose commands are imported when they are called; `--help` imports none of them."""

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names in the order of `COMMANDS`."""
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one command."""
        if cmd_name not in COMMANDS:
            return None
        folder = "groups." if cmd_name in GROUPS else ""
        module = importlib.import_module(f"wisesr_cli.cli.{folder}{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        return command

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Treat `help COMMAND` as `COMMAND --help` and `version` as `--version`; show a text for `help TOPIC`."""
        if args[:1] == ["help"]:
            if args[1:2] and args[1] not in COMMANDS and not args[1].startswith("-"):
                self._show_topic(ctx, args[1])
            args = [*args[1:], "--help"]
        return super().parse_args(ctx, ["--version"] if args == ["version"] else args)

    def _show_topic(self, ctx: Any, name: str) -> None:
        if name not in topics.TOPICS:
            meant = nearest(name, [*COMMANDS, *topics.TOPICS]) or " `wisesr help` lists both."
            ctx.fail(f"no command or topic is called '{name}'.{meant}")
        topics.show(name)
        ctx.exit()

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find a command, or suggest the one that was probably meant."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            ctx.fail(f"no command is called '{args[0]}'.{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands from their one-line help."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Topics, shown by `wisesr help TOPIC`"):
            formatter.write_dl(list(topics.TOPICS.items()))


NO_ROOM = "not enough memory to load the libraries or to start their threads: give this process more (ulimit -v, -u)"

app = typer.Typer(
    cls=LazyGroup,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},  # inherited by every command
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from wisesr_cli.version import __version__

        typer.echo(f"wisesr {__version__}")
        raise typer.Exit


@app.callback()
def wisesr(
    version: bool = typer.Option(
        False, "--version", help="Show the version and exit.", callback=_show_version, is_eager=True
    ),
) -> None:
    """Train, evaluate, explain and ship image classifiers that keep what global average pooling throws away.

    Start with `wisesr demo`, or with a folder of images: `wisesr init FOLDER`.
    """


def run(arguments: Sequence[str]) -> int:
    """Run a command line and return its exit code; show errors on standard error, one line each."""
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):  # file names that are not UTF-8 are made printable
        if (reconfigure := getattr(stream, "reconfigure", None)) is not None:
            reconfigure(errors="backslashreplace")
    try:
        code = typer.main.get_command(app).main(list(arguments), prog_name="wisesr", standalone_mode=False)
        sys.stdout.flush()
        if code == INTERRUPTED:  # Typer's silent answer to Ctrl-C
            return _fail("stopped", INTERRUPTED, debug)
        return code if isinstance(code, int) else 0
    except ConfigError as error:  # the only error with several lines, one per mistake
        return _fail(str(error), error.exit_code, debug, lines=str(error).split("\n"))
    except WisesrError as error:
        return _fail(str(error), error.exit_code, debug)
    except typer.TyperException as error:
        return _show_usage_error(error, debug)
    except (KeyboardInterrupt, typer.Abort):
        return _fail("stopped", INTERRUPTED, debug)
    except BrokenPipeError:
        return _drop_output()
    except SystemExit as stop:  # Typer turns a closed pipe into an exit with 1
        if not isinstance(stop.__context__, BrokenPipeError):
            raise
        return _drop_output()
    except MemoryError as error:
        return _fail(f"not enough memory: {error or 'a smaller --batch-size or --image-size may help'}", 5, debug)
    except (ImportError, RuntimeError) as error:
        if not is_short_of_memory(error):
            raise
        return _fail(NO_ROOM, 5, debug)
    except OSError as error:
        if is_short_of_memory(error):
            return _fail(NO_ROOM, 5, debug)
        if error.errno == errno.EBADF and error.filename is None:
            _drop_output()
            return _fail("standard output is closed: output is lost", 5, debug)
        translated = machine_error(error)
        if translated is None:
            raise
        _drop_output()
        return _fail(str(translated), translated.exit_code, debug)


def _drop_output() -> int:
    """Discard buffered output that nobody can read any more; return the exit code of a closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with suppress(OSError):  # not a file: the program runs inside another program
        os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
    return PIPE_CLOSED


def _fail(message: str, code: int, debug: bool, *, lines: Sequence[str] = ()) -> int:
    for line in lines or (message,):
        print(f"wisesr: {visible(line)}", file=sys.stderr)
    if debug:
        _print_traceback()
    return code


def _print_traceback(error: BaseException | None = None) -> None:
    """Show the traceback of an error, with names in its messages escaped."""
    import traceback

    lines = "".join(traceback.format_exception(error or sys.exception())).split("\n")
    print("\n".join(visible(line) for line in lines), file=sys.stderr, end="")


def show_bug(kind: type[BaseException], error: BaseException, trace: Any) -> None:
    """Show the traceback of an unexpected exception; Python's own hook would show names unescaped."""
    _print_traceback(error)


def _show_usage_error(error: Any, debug: bool) -> int:
    context = getattr(error, "ctx", None)
    message = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message)
        return 2
    where = context.command_path if context is not None else "wisesr"
    if meant := words.translation(error):
        message = meant
    return _fail(f"{visible(message)} See '{where} --help'.", error.exit_code, debug)
