"""User-facing texts contain none of the phrases that CONTRIBUTING.md says to avoid."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import REPOSITORY

PAGES = (
    *("README.md", "SECURITY.md"),
    *(
        path.relative_to(REPOSITORY).as_posix()
        for folder in ("docs", "wisesr_cli/topics")
        for path in sorted((REPOSITORY / folder).glob("*.md"))
    ),
)
MODULES = sorted((REPOSITORY / "wisesr_cli").rglob("*.py"))


def avoided() -> list[str]:
    """Return the phrases in the left column of the table."""
    text = (REPOSITORY / "CONTRIBUTING.md").read_text(encoding="utf-8")
    table = text.partition("<!-- words:")[2].partition("<!-- end of words -->")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| ")][1:]
    return [phrase for row in rows for phrase in re.findall(r"`([^`]+)`", row)]


PHRASES = avoided()
FOUND = re.compile(
    r"\b(" + "|".join(re.escape(phrase).replace(r"\ ", r"\s+") for phrase in PHRASES) + r")\b", re.IGNORECASE
)


def texts_of(module: Path) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module that are not docstrings: messages, help texts and descriptions of settings."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.lineno, node.value


def test_the_table_of_phrases_is_parsed() -> None:
    assert len(PHRASES) > 15
    assert "start anew" in PHRASES
    assert FOUND.search("Then Start\nanew, please") is not None


@pytest.mark.parametrize("page", PAGES)
def test_no_page_has_a_phrase_to_avoid(page: str) -> None:
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    lines = [f"{page}:{text.count(chr(10), 0, found.start()) + 1}: {found.group()}" for found in FOUND.finditer(text)]
    assert not lines


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(REPOSITORY / "wisesr_cli")))
def test_no_message_has_a_phrase_to_avoid(module: Path) -> None:
    assert not [f"{line}: {found.group()}" for line, text in texts_of(module) if (found := FOUND.search(text))]
