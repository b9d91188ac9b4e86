"""Shows the topics of `wisesr help`: pages of the documentation, in `topics/`, as plain text.

To add one, add a Markdown file to `topics/`, a row to `TOPICS`, and an entry to `mkdocs.yml`. A page contains only
headings, paragraphs, lists of one level, tables and code blocks.
"""

from __future__ import annotations

import os
import re
import shutil
import textwrap
from collections.abc import Iterator
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "topics"
WIDEST = 100  # characters of a line
INDENT = "    "

TOPICS = {
    "few-photos": "What to do with a hundred photos.",
    "large-photos": "Small things in large photos: image size, memory and speed.",
    "medical": "Scans of 12 or 16 bits, and patients that must not be split.",
    "imbalance": "Classes with very different numbers of images.",
    "labels": "Labels from a table instead of folders; which labels are wrong.",
    "multilabel": "Images with several labels.",
    "offline": "A machine without a network.",
    "many-images": "100,000 classes or images, and millions.",
    "many-machines": "Training and labelling on several devices and machines.",
    "heads": "Which head to choose, and how to find out.",
    "scores": "What a score says: calibration, sets of labels, what to look at first.",
    "files": "What a run directory holds, and the fields of JSON and CSV.",
    "troubleshooting": "No network, HEIC, overfitting, out of memory, no GPU, NaN, resume refused.",
    "exit-codes": "What the program's exit codes mean.",
}


def show(name: str) -> None:
    """Show a topic: in the pager on a terminal, else on standard output."""
    import pydoc

    os.environ.setdefault("LESS", "FRX")  # like git: no pager for what fits on the screen
    width = min(WIDEST, shutil.get_terminal_size((WIDEST, 24)).columns)
    pydoc.pager(plain((FOLDER / f"{name}.md").read_text(encoding="utf-8"), width))


def plain(markdown: str, width: int) -> str:
    """Return a page as text for a terminal, its paragraphs filled to `width` characters."""
    blocks = []
    for number, part in enumerate(re.split(r"^```.*\n", markdown, flags=re.MULTILINE)):
        if number % 2:
            blocks.append(textwrap.indent(part.rstrip(), INDENT))
        else:
            blocks += [text for block in re.split(r"\n{2,}", part.strip()) for text in _block(block, width)]
    return "\n\n".join(blocks) + "\n"


def _block(block: str, width: int) -> Iterator[str]:
    """Yield a heading, a paragraph, a list or a table as text."""
    if block.startswith("#"):
        yield _unmarked(block.lstrip("# ")).upper()
    elif block.startswith("|"):
        titles, _, *rows = (re.split(r" *(?<!\\)\| *", line)[1:-1] for line in block.split("\n"))
        yield "\n".join(_row(row, titles, width) for row in rows)
    elif block.startswith("- "):
        items = re.split(r"^- ", block, flags=re.MULTILINE)[1:]
        yield "\n".join(_filled(item, width, first="- ", rest="  ") for item in items)
    elif block:
        yield _filled(block, width)


def _row(cells: list[str], titles: list[str], width: int) -> str:
    """Return a row of a table: its first cell, and below it the others, with their titles where needed."""
    first = 1 if titles[0] == "" else 2  # the second column of a table explains the first, unless it has no title
    others = [f"{title}: {cell}" for title, cell in zip(titles[first:], cells[first:], strict=False)]
    rest = [_filled(cell, width, first=INDENT, rest=INDENT) for cell in (*cells[1:first], *others)]
    return "\n".join([_unmarked(cells[0]), *rest])


def _filled(text: str, width: int, *, first: str = "", rest: str = "") -> str:
    return textwrap.fill(
        _unmarked(" ".join(text.split())),
        width,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _unmarked(text: str) -> str:
    """Return text without Markdown markup; links become their text, plus the address if external."""
    text = re.sub(r"\[([^\]]+)\]\((https?:[^)]+)\)", r"\1 (\2)", text)
    text = re.sub(r"\[([^\]]+)\]\([^)]+\)", r"\1", text)
    return text.replace("**", "").replace("\\|", "|")
