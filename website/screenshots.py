"""Makes the terminal screenshots for the pages: real commands on the pictures of `wisesr demo`, as SVG.

    python -m website.screenshots [NAME ...]

The commands of `SHOTS` are run in order in an empty folder, each on its own terminal, and the screen at the end of each
is drawn. With names, only those screenshots are written, but the commands before them are run, too.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fcntl import ioctl
from io import StringIO
from pathlib import Path
from termios import TIOCSWINSZ

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from wisesr_cli.machine.files import write_text

FOLDER = Path(__file__).parents[1] / "docs" / "screenshots"
# A font that a browser would fetch; the reader's own fixed-width font is used instead.
FONTS = re.compile(r"\s*@font-face \{.*?\}(?=\n)|Fira Code,? ?", re.DOTALL)
CONTROL = re.compile(r"\r\n|\r|\n|\x1b\[\d*A|\x1b\[\d?K|\x1b\[\?\d+[hl]")


@dataclass(frozen=True)
class Shot:
    """A command, its terminal's width in characters, and whether it is quick and has the same output everywhere.

    `since` is text in the first line to draw, if the output before it is too long.
    """

    command: str
    width: int = 110
    since: str = ""
    is_quick: bool = False


SHOTS = {
    "mistake": Shot("wisesr config show -s model.head.prepool=2", is_quick=True),
    "summarize": Shot("wisesr summarize --head all --classes 70", is_quick=True),
    "demo": Shot("wisesr demo", since="Demo: "),
    "check": Shot("wisesr check demo/harbour.yaml"),
    "train": Shot("wisesr train demo/harbour.yaml -s data.validation_split=0.2"),
    "evaluate": Shot("wisesr evaluate latest", width=120),
    "predict": Shot("wisesr predict latest demo/harbour/test/nw --sort uncertain"),
}


def screen(written: str) -> Iterator[str]:
    """Yield the lines that a terminal shows after this output: erased lines are gone, colours are kept."""
    lines, row, end = [""], 0, 0
    for found in (*CONTROL.finditer(written), None):
        lines[row] += written[end : found.start() if found else None]
        if found is None:
            break
        mark, end = found[0], found.end()
        if mark.endswith("A"):
            row = max(0, row - int(mark[2:-1] or 1))
        elif mark.endswith("K"):
            lines[row] = ""
        elif mark.endswith("\n"):
            row += 1
            lines += [""] if row == len(lines) else []
    yield from (line.rstrip() for line in lines)


def run(shot: Shot, folder: Path) -> str:
    """Run a command on a terminal, and return everything that it wrote."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 50, shot.width, 0, 0))
    variables = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")}
    variables |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "WISESR_CACHE_DIR": str(folder / "cache")}
    words = [sys.executable, "-m", "wisesr_cli", *shot.command.split()[1:]]
    process = subprocess.Popen(words, cwd=folder, env=variables, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    written = bytearray()
    while True:
        try:
            part = os.read(ours, 1 << 16)
        except OSError:  # on Linux, this means that the other end is closed
            break
        if not part:
            break
        written += part
    os.close(ours)
    process.wait()
    return written.decode("utf-8", "replace").replace(f"{folder}/", "")


def draw(shot: Shot, written: str, name: str) -> str:
    """Return an SVG of a command with its output below."""
    lines = list(screen(written))
    while lines and not lines[-1]:
        lines.pop()
    if shot.since:
        first = next(number for number, line in enumerate(lines) if shot.since in line)
        lines = ["...", *lines[first:]]
    console = Console(record=True, width=shot.width, file=StringIO(), force_terminal=True, color_system="truecolor")
    console.print(Text("$ ", style="bold green") + Text(shot.command, style="bold"))
    for line in lines:
        console.print(Text.from_ansi(line), overflow="fold")
    return FONTS.sub("", console.export_svg(title="", theme=MONOKAI, unique_id=name))


def main(names: Sequence[str]) -> None:
    """Make the screenshots with these names, or all if none are given."""
    last = max((list(SHOTS).index(name) for name in names), default=len(SHOTS) - 1)
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="wisesr-screenshots-") as folder:
        for name, shot in list(SHOTS.items())[: last + 1]:
            if names and name not in names and shot.is_quick:
                continue
            written = run(shot, Path(folder))
            print(f"{shot.command}: {len(written):,} characters", flush=True)
            if not names or name in names:
                write_text(FOLDER / f"{name}.svg", draw(shot, written, name) + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", choices=[*SHOTS, []], metavar="NAME")
    main(parser.parse_args().names)
