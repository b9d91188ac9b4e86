"""CONTRIBUTING.md lists every module, and what its tables mention exists."""

from __future__ import annotations

import re
from pathlib import Path

import package_tree
import pytest
from command_line import REPOSITORY

MODULES = sorted(path for path in package_tree.PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)
TEXT = package_tree.TARGET.read_text(encoding="utf-8")
TABLES = TEXT.partition("<!-- words:")[0]  # the table of phrases to avoid names no files
ROWS = [row for row in re.findall(r"^\| (.+) \|$", TABLES, re.MULTILINE) if "`" in row]


def test_the_list_of_modules_matches_their_docstrings() -> None:
    assert package_tree.document() == TEXT, "write it anew: python tests/support/package_tree.py"


def test_the_list_contains_every_folder_and_module() -> None:
    listed = sum(line.lstrip().startswith("- `") for line in package_tree.lines())
    assert listed == len(MODULES) - 1  # the `__init__.py` of the package itself is not listed


def test_every_module_docstring_starts_with_a_one_line_sentence() -> None:
    found = {path: package_tree.sentence_of(path) for path in MODULES}
    assert not [path for path, sentence in found.items() if not sentence.endswith(".") or "\n" in sentence]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.partition(" |")[0])
def test_files_in_a_row_exist_and_contain_the_names_it_mentions(row: str) -> None:
    quoted = re.findall(r"`(?:python )?([^` ]+|-m [^`]+)`", row.partition(" | ")[2])
    found = {name: path for name in quoted if (path := path_of(name)) is not None}
    text = "".join(path.read_text(encoding="utf-8") for path in found.values() if path.is_file())
    others = [name for name in quoted if name not in found]
    assert found
    assert not [name for name in others if not name.isidentifier() and not name.startswith(("--", "keras."))]
    assert not [name for name in others if name.isidentifier() and not re.search(rf"\b{name}\b", text)]


def path_of(name: str) -> Path | None:
    """Return the file or folder that a row names, relative to the package or the repository, or as `-m MODULE`."""
    if name.startswith("-m "):
        module = name.split()[1].replace(".", "/")
        name = f"{module}.py" if not (REPOSITORY / module).is_dir() else f"{module}/__main__.py"
    return next((path for path in (package_tree.PACKAGE / name, REPOSITORY / name) if path.exists()), None)
