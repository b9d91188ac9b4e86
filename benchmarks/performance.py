"""Runs the benchmarks and writes their tables into docs/performance.md.

    python benchmarks/performance.py                    # all of them; about an hour on 2 cores
    python benchmarks/performance.py startup scan       # these two; the other rows stay as they were measured
    python benchmarks/performance.py --write-only       # only writes the tables anew

The figures are kept in docs/performance.json, each with the machine that it was measured on. To add a benchmark: a
script that calls `measuring.main`, and its name in `SCRIPTS`.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from measuring import Answer, figure, plain_environment, table

from wisesr_cli.display.grid import to_markdown
from wisesr_cli.machine.keras_start import package_versions
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.text import counted

HERE = Path(__file__).resolve().parent
DOCUMENT = HERE.parent / "docs" / "performance.md"
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
    "first_step",
    "scan",
    "memory",
)
TABLES = ("scale",)  # give whole tables of their own


def main() -> None:
    """Measure what was asked for, keep the figures, and write the document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join((*SCRIPTS, *TABLES))}; default: all")
    parser.add_argument("--repetitions", type=int, help="of each side")
    parser.add_argument("--write-only", action="store_true", help="measure nothing")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - {*SCRIPTS, *TABLES}:
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    for name in () if arguments.write_only else arguments.names or (*SCRIPTS, *TABLES):
        keep(name, measured(name, arguments.repetitions))
        write_document()
    write_document()


def measured(name: str, repetitions: int | None) -> Any:
    """Run one script and return what it wrote."""
    print(f"== {name}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "figures.json"
        more = ["--repetitions", str(repetitions)] if repetitions and name in SCRIPTS else []
        command = [sys.executable, str(HERE / f"{name}.py"), "--json", str(file), *more]
        subprocess.run(command, check=True, env=plain_environment(), stdout=subprocess.DEVNULL)
        return json.loads(file.read_text(encoding="utf-8"))


def keep(name: str, figures: Any) -> None:
    """Put the figures of a script into the file, with the machine of this moment."""
    kept = stored()
    kept[name] = {"machine": machine(), "measured": time.strftime("%Y-%m-%d"), "figures": figures}
    text = json.dumps({key: kept[key] for key in (*SCRIPTS, *TABLES) if key in kept}, indent=1)
    FIGURES.write_text(f"{text}\n", encoding="utf-8")


def stored() -> dict[str, Any]:
    """Return all figures that are known, by the name of their script."""
    return json.loads(FIGURES.read_text(encoding="utf-8")) if FIGURES.exists() else {}


def machine() -> str:
    """Return what decides the figures of this machine."""
    versions = package_versions()
    libraries = ", ".join(f"{name} {versions[name]}" for name in ("tensorflow", "keras", "pillow") if name in versions)
    memory = figure(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30)
    cores = counted(worker_count(), "core")
    return f"{_processor()}, {cores}, {memory} GiB; Python {platform.python_version()}, {libraries}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def write_document() -> None:
    """Replace what stands between the marks of the document."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for mark, content in (("ratios", ratios()), ("tables", tables())):
        begin, end = f"<!-- {mark}: written by benchmarks/performance.py -->\n", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{content}\n{end}{after}"
    DOCUMENT.write_text(text, encoding="utf-8")


def ratios() -> str:
    """Return the table of all ratios, the notes on them, and where they were measured."""
    kept = {name: record for name, record in stored().items() if name in SCRIPTS}
    answers = [Answer.from_json(values) for record in kept.values() for values in record["figures"]]
    notes = "".join(f"- {answer.question.name}: {answer.note}\n" for answer in answers if answer.note)
    return "\n".join(part for part in (to_markdown(table(answers)), notes, _machines(kept)) if part)


def tables() -> str:
    """Return the tables of the scripts that give whole ones, and where they were measured."""
    kept = {name: record for name, record in stored().items() if name in TABLES}
    return "\n".join([*(record["figures"]["markdown"] for record in kept.values()), _machines(kept)])


def _machines(kept: dict[str, Any]) -> str:
    where: dict[str, list[str]] = {}
    for name, record in kept.items():
        where.setdefault(f"{record['machine']}; {record['measured']}", []).append(name)
    return "".join(f"Measured on {place}: {', '.join(names)}.\n" for place, names in where.items())


if __name__ == "__main__":
    main()
