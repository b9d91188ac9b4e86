"""Writes docs/scale.md: the computed tables of `communication`, and the figures that `weak_scaling` measured.

The figures are stored in docs/scale.json, with the machine that they were measured on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measuring import Answer, table
from benchmarks.pages import DOCS, machine, write_between_marks
from benchmarks.scale.communication import tables
from wisesr_cli.display.grid import to_markdown

DOCUMENT = DOCS / "scale.md"
FIGURES = DOCUMENT.with_suffix(".json")


def keep(figures: list[dict[str, Any]], *, load: float) -> None:
    """Store the figures in the file, with the current machine and the load on it before the measurement."""
    kept = {"machine": machine(), "measured": time.strftime("%Y-%m-%d"), "load": load, "figures": figures}
    FIGURES.write_text(f"{json.dumps(kept, indent=1)}\n", encoding="utf-8")


def write_document() -> None:
    """Replace the text between the marks of the document."""
    contents = {mark: content() for mark, content in CONTENTS.items()}
    write_between_marks(DOCUMENT, "benchmarks.scale.weak_scaling", contents)


def communication() -> str:
    """Return the computed tables of what is exchanged."""
    return "\n".join(tables())


def weak_scaling() -> str:
    """Return the measured table, and the machine that it was measured on."""
    kept = json.loads(FIGURES.read_text(encoding="utf-8"))
    answers = [Answer.from_json(values) for values in kept["figures"]]
    notes = list(dict.fromkeys(answer.note for answer in answers))
    busy = f"Load average before the start: {kept['load']:.1f}"
    where = f"Measured on {kept['machine']}; {kept['measured']}. {busy}."
    return "\n".join((to_markdown(table(answers)), *(f"{note}.\n" for note in notes), where, ""))


CONTENTS: dict[str, Callable[[], str]] = {"communication": communication, "weak scaling": weak_scaling}
