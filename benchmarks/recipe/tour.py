"""Runs the tour of docs/tour.md on the pictures of `wisesr demo`, and writes a line of output below every command.

    python -m benchmarks.recipe.tour [--write]

The line has the seconds that the command took, and the first match in its output of its pattern in `SHOWN`.
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
# The start of a command, and a pattern for the part to show (its last group, if any); the first matching row counts.
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
    """A command of the tour, its exit code, its output, and its duration."""

    command: str
    returncode: int
    output: str
    seconds: float

    @property
    def shown(self) -> str:
        """The line below the command."""
        pattern = next(pattern for begin, pattern in SHOWN if re.match(begin, self.command))
        found = re.search(pattern, self.output)
        line = " ".join(found[found.re.groups].split()) if found else ""
        text = f"{MARK}{max(1, round(self.seconds))} s: {line}"
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]} ..."


def block(page: str) -> str:
    """Return the tour's code block from the page."""
    found = re.search(r"<!-- tour -->\n```bash\n(.*?)```", page, re.DOTALL)
    if found is None:
        raise SystemExit("error: docs/tour.md has no tour")
    return found.group(1)


def commands(tour: str) -> list[str]:
    """Return the commands that are typed."""
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
    """Return the tour with a line of output below every command, replacing the earlier ones."""
    lines = []
    for line in tour.splitlines():
        if not line.startswith(MARK.strip()):
            lines.append(line)
        if line in steps:
            lines.append(steps[line].shown)
    return "".join(f"{line}\n" for line in lines)


def main() -> None:
    """Run the tour, print it with the output, and on request write it into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the output into docs/tour.md")
    parser.add_argument("--all", action="store_true", help="print the full output of the commands")
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
