"""Makes the list of modules in CONTRIBUTING.md; `python tests/support/package_tree.py` rewrites it.

The folders are in the order of the layers in pyproject.toml, each with the sentence of its `__init__`; below it are
its modules, each with the first sentence of its docstring.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "wisesr_cli"
TARGET = REPOSITORY / "CONTRIBUTING.md"
BEGIN, END = "<!-- modules: written by tests/support/package_tree.py -->\n", "<!-- end of modules -->"


def rows() -> list[str]:
    """Return the rows of the package from the top down, as in the import contract on its layers."""
    settings = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    (contract,) = (each for each in settings["tool"]["importlinter"]["contracts"] if each["type"] == "layers")
    return list(contract["layers"])


def sentence_of(path: Path) -> str:
    """Return the first sentence of the docstring of a module, or of a folder's `__init__`."""
    file = path / "__init__.py" if path.is_dir() else path
    text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]


def lines() -> Iterator[str]:
    """Yield the lines of the list."""
    for row in rows():
        names = re.split(r" [|:] ", row)
        for name in names:
            others = [f"`{other}`" for other in names if other != name and "|" in row]  # `:` separates modules
            beside = f", beside {' and '.join(others)}" if others else ""  # that may import one another
            folder = PACKAGE / name
            yield from lines_of(folder if folder.is_dir() else folder.with_suffix(".py"), beside=beside)


def lines_of(path: Path, *, indent: str = "", beside: str = "") -> Iterator[str]:
    """Yield the line of a folder or module, and those of the contents of a folder."""
    yield f"{indent}- `{path.name}{'/' if path.is_dir() else ''}`{beside}: {sentence_of(path)}"
    if path.is_dir():
        inside = [each for each in path.iterdir() if each.suffix == ".py" or (each / "__init__.py").exists()]
        for each in sorted(inside, key=lambda each: (each.is_dir(), each.name)):
            if each.name != "__init__.py":
                yield from lines_of(each, indent=f"{indent}  ")


def document() -> str:
    """Return CONTRIBUTING.md with the current list."""
    before, begin, rest = TARGET.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    assert end, f"{TARGET.name} lacks the marks {BEGIN.strip()} and {END}"
    return f"{before}{begin}\n" + "".join(f"{line}\n" for line in lines()) + f"\n{end}{after}"


if __name__ == "__main__":
    TARGET.write_text(document(), encoding="utf-8")
