"""Runs the benchmarks and writes their tables into docs/performance.md.

    python -m benchmarks.speed.performance                 # all of them; about an hour on 2 cores
    python -m benchmarks.speed.performance startup scan    # these two; the other rows stay as they were measured
    python -m benchmarks.speed.performance --write-only    # only rewrites the tables

The figures are stored in docs/performance.json, each with the machine that it was measured on. To add a benchmark: a
module next to this one that calls `measuring.main`, and its name in `SCRIPTS`.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.measuring import Answer, plain_environment, table
from benchmarks.pages import DOCS, REPOSITORY, keep_figures, machine, read_figures, write_between_marks
from wisesr_cli.display.grid import to_markdown

DOCUMENT = DOCS / "performance.md"
FIGURES = DOCUMENT.with_suffix(".json")

# In the order of the table.
SCRIPTS = (
    "startup",
    "summary",
    "prediction",
    "weighting",
    "training_step",
    "images",
    "epochs",
    "frozen",
    "first_step",
    "scan",
    "memory",
)
# Modules that produce whole tables.
TABLES = {"scale": "benchmarks.scale.growth", "classes": "benchmarks.scale.classes"}


def main() -> None:
    """Run the requested benchmarks, store the figures, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join((*SCRIPTS, *TABLES))}; default: all")
    parser.add_argument("--repetitions", type=int, help="repetitions of each side")
    parser.add_argument("--write-only", action="store_true", help="only rewrite the tables")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*SCRIPTS, *TABLES}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    for name in () if arguments.write_only else arguments.names or (*SCRIPTS, *TABLES):
        keep(name, measured(name, arguments.repetitions))
        write_document()
    write_document()


def measured(name: str, repetitions: int | None) -> Any:
    """Run one script and return the figures that it wrote."""
    print(f"== {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        more = ["--repetitions", str(repetitions)] if repetitions and name in SCRIPTS else []
        module = TABLES.get(name, f"benchmarks.speed.{name}")
        command = [sys.executable, "-m", module, "--json", str(file), *more]
        subprocess.run(command, check=True, cwd=REPOSITORY, env=plain_environment(), stdout=subprocess.DEVNULL)
        return json.loads(file.read_text(encoding="utf-8"))


def keep(name: str, figures: Any) -> None:
    """Store the figures of a script in the file, with the current machine."""
    kept = {"machine": machine(), "measured": time.strftime("%Y-%m-%d"), "figures": figures}
    keep_figures(FIGURES, name, kept, order=(*SCRIPTS, *TABLES))


def write_document() -> None:
    """Replace the text between the marks of the document."""
    write_between_marks(DOCUMENT, "benchmarks.speed.performance", {"ratios": ratios(), "tables": tables()})


def ratios() -> str:
    """Return the table of all ratios, the notes on them, and where they were measured."""
    kept = {name: record for name, record in read_figures(FIGURES).items() if name in SCRIPTS}
    answers = [Answer.from_json(values) for record in kept.values() for values in record["figures"]]
    notes = "".join(f"- {answer.question.name}: {answer.note}\n" for answer in answers if answer.note)
    return "\n".join(part for part in (to_markdown(table(answers)), notes, _machines(kept)) if part)


def tables() -> str:
    """Return the tables of the scripts that produce whole ones, and where they were measured."""
    kept = {name: record for name, record in read_figures(FIGURES).items() if name in TABLES}
    return "\n".join([*(record["figures"]["markdown"] for record in kept.values()), _machines(kept)])


def _machines(kept: dict[str, Any]) -> str:
    where: dict[str, list[str]] = {}
    for name, record in kept.items():
        where.setdefault(f"{record['machine']}; {record['measured']}", []).append(name)
    return "".join(f"Measured on {place}: {', '.join(names)}.\n" for place, names in where.items())


if __name__ == "__main__":
    main()
