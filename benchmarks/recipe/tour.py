"""Walks the tour of docs/tour.md on the pictures of `wisesr demo`, and writes what it saw beside every command.

    python -m benchmarks.recipe.tour [--write]

Of what a command printed, the first place is shown that fits its pattern in `SHOWN`, and the seconds that it took.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measuring import plain_environment
from benchmarks.pages import DOCS
from wisesr_cli.machine.files import write_text

PAGE = DOCS / "tour.md"
MARK = "#> "
LONGEST = 116  # characters of a line
# The beginning of a command, and a pattern of what is shown, or of a group in it; the first row that fits decides.
SHOWN = (
    ("wisesr demo", "Demo: .*"),
    ("wisesr check .*--near-duplicates", "(?:PASS|WARN) +near-duplicates +(.*)"),
    ("wisesr check", "PASS +classes +.*"),
    ("wisesr init", "written: .*"),
    ("wisesr (train|evaluate)(?!.*json)", "PASS +(top-1 accuracy .*?\\))"),
    ("wisesr evaluate", '"top1_accuracy": [0-9.]+'),
    ("wisesr predict .*--sort-into", ".* images copied.*"),
    ("wisesr predict .*-o", ".* images labelled.*"),
    ("wisesr predict", "demo/[^ ]+ +[a-z]+ +[0-9.]+ %"),
    ("find", "path,label,score.*"),
    ("wisesr compare", "wise against gap: .*"),
    ("wisesr (explain|export)", "written to .*"),
    ("wisesr summarize", " wise  .*"),
    ("wisesr config show", "schema_version: .*"),
    ("wisesr config schema", "{"),
    ("wisesr doctor", "PASS +memory .*"),
)


@dataclass(frozen=True)
class Step:
    """A command of the tour, how it ended, what it wrote, and what the page shows of it."""

    command: str
    returncode: int
    output: str
    seconds: float

    @property
    def shown(self) -> str:
        """The line beside the command."""
        pattern = next(pattern for begin, pattern in SHOWN if re.match(begin, self.command))
        found = re.search(pattern, self.output)
        line = " ".join(found[found.re.groups].split()) if found else ""
        text = f"{MARK}{max(1, round(self.seconds))} s: {line}"
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def block(page: str) -> str:
    """Return the tour as it stands in the page."""
    found = re.search(r"<!-- tour -->\n```bash\n(.*?)```", page, re.DOTALL)
    if found is None:
        raise SystemExit("error: docs/tour.md has no tour")
    return found.group(1)


def commands(tour: str) -> list[str]:
    """Return what is typed."""
    return [line for line in tour.splitlines() if line and not line.startswith("#")]


def walk(folder: Path, tour: str) -> Iterator[Step]:
    """Run the demo in an empty folder, then every command of the tour."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    variables = {**plain_environment(), "PATH": path, "WISESR_CACHE_DIR": str(folder / "cache"), "COLUMNS": "200"}
    for command in ("wisesr demo", *commands(tour)):
        started = time.perf_counter()
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            env=variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        yield Step(command, done.returncode, done.stdout, time.perf_counter() - started)


def with_shown(tour: str, steps: dict[str, Step]) -> str:
    """Return the tour with a line of every command's output below it, in place of those of before."""
    lines = []
    for line in tour.splitlines():
        if not line.startswith(MARK.strip()):
            lines.append(line)
        if line in steps:
            lines.append(steps[line].shown)
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Walk the tour, print it with what was seen, and write it into the page where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="into docs/tour.md")
    parser.add_argument("--all", action="store_true", help="print everything that the commands wrote")
    arguments = parser.parse_args()
    page = PAGE.read_text(encoding="utf-8")
    tour, steps = block(page), {}
    with tempfile.TemporaryDirectory(prefix="wisesr-tour-") as folder:
        for step in walk(Path(folder), tour):
            steps[step.command] = step
            print(f"{step.command}\n{step.output if arguments.all else step.shown}", flush=True)
            if step.returncode:
                raise SystemExit(f"error: ended with {step.returncode}:\n{step.output[-3000:]}")
    print(f"{sum(step.seconds for step in steps.values()) / 60:.1f} minutes")
    if arguments.write:
        write_text(PAGE, page.replace(tour, with_shown(tour, steps)))


if __name__ == "__main__":
    main()
