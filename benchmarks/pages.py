"""Writes pages of docs/ for benchmarks: the text between marks, the figures stored next to the pages, the machine."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.measuring import figure
from wisesr_cli.machine.files import write_text
from wisesr_cli.machine.keras_start import package_versions
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.text import counted

REPOSITORY = Path(__file__).resolve().parents[1]
DOCS = REPOSITORY / "docs"


def write_between_marks(page: Path, writer: str, contents: Mapping[str, str]) -> None:
    """Replace the text between the marks of a page; `writer` is the module that its marks name.

    Raises:
        SystemExit: the page lacks one of the marks.
    """
    text = page.read_text(encoding="utf-8")
    for mark, content in contents.items():
        begin, end = f"<!-- {mark}: written by {writer} -->\n", f"<!-- end of {mark} -->"
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"error: {page.name} has no marks '{begin.strip()}' and '{end}'")
        text = f"{before}{begin}\n{content}\n{end}{after}"
    write_text(page, text)


def read_figures(file: Path) -> dict[str, Any]:
    """Return the stored figures, by name; none if there is no file yet."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}


def keep_figures(file: Path, name: str, figures: Any, *, order: Sequence[str]) -> None:
    """Store figures in the file under a name, keeping those of other names, except names that are not in `order`."""
    kept = {**read_figures(file), name: figures}
    text = json.dumps({key: kept[key] for key in order if key in kept}, indent=1)
    write_text(file, f"{text}\n")


def machine() -> str:
    """Return a description of this machine, as far as it affects the figures."""
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
