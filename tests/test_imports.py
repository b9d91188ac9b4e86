"""Imports are lazy, so that help and usage errors are immediate, and only lower layers are imported."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import HEAVY, KERAS, REPOSITORY, command, loaded_after, make_photos

import wisesr_cli

PACKAGE = REPOSITORY / "wisesr_cli"

FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path: Path, *, top: bool) -> set[str]:
    """Return the modules that a file imports, at its top (except in `TYPE_CHECKING` blocks) or anywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = _top_nodes(tree.body) if top else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def _top_nodes(body: list[ast.stmt]) -> list[ast.stmt]:
    found: list[ast.stmt] = []
    for node in body:
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append(node)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" not in ast.unparse(node.test):
            found += _top_nodes(node.body) + _top_nodes(node.orelse)
        elif isinstance(node, ast.Try):
            found += _top_nodes(node.body) + _top_nodes([s for handler in node.handlers for s in handler.body])
        elif isinstance(node, ast.With):
            found += _top_nodes(node.body)
    return found


WORKING = {*KERAS} - {"matplotlib"}  # Matplotlib only draws, and may be loaded
PREPOOL = "prepool.yaml:3: model.head.prepool is not an option of the head 'wise'. Did you mean 'pre_pool'?"
SEDE = "sede.yaml:2: sede is not a key of a config. Did you mean 'seed'?"

# Arguments, exit code, packages that must not be loaded, and the line on standard error if it is specified.
ANSWERED_WITHOUT: list[tuple[str, int, set[str], str | None]] = [
    *((words, code, {*HEAVY}, None) for words, code in (("--help", 0), ("--version", 0), ("", 2))),
    ("tarin", 2, {*HEAVY} - {"pydantic"}, None),
    *((f"{words} prepool.yaml", 2, {*KERAS}, PREPOOL) for words in ("train", "check", "config show", "summarize")),
    ("train sede.yaml", 2, {*KERAS, "numpy", "PIL", "rich", "h5py"}, SEDE),
    *(
        (f"summarize {words}", 0, {*KERAS, "numpy", "PIL"}, "")
        for words in ("--backbone all", "sound.yaml --device cpu")
    ),
    ("summarize photos", 0, {*KERAS}, ""),  # the images are counted
    *((words, 4, WORKING, None) for words in ("evaluate nowhere", "predict nowhere photos")),
    ("train photos --fail-under x=1", 2, WORKING, None),
    *((f"{words} photos", 0, {*KERAS}, None) for words in ("check", "config show", "init")),
    *((f"compare photos {words}", 2, {*KERAS}, None) for words in ("--heads gap,wiise", "--seeds x", "-s sede=3")),
]


@pytest.mark.parametrize(
    ("words", "code", "absent", "said"), ANSWERED_WITHOUT, ids=[row[0] for row in ANSWERED_WITHOUT]
)
def test_a_command_loads_nothing_unneeded(
    words: str, code: int, absent: set[str], said: str | None, tmp_path: Path
) -> None:
    make_photos(tmp_path / "photos", 4)
    for name, text in (
        ("prepool", "schema_version: 1\nmodel:\n  head: {name: wise, prepool: 2}\n"),
        ("sede", "schema_version: 1\nsede: 3\n"),
        ("sound", "model: {backbone: Xception}\n"),
    ):
        (tmp_path / f"{name}.yaml").write_text(text, encoding="utf-8")
    found, loaded, err = loaded_after(command(*words.split()), tmp_path)
    assert found == code, err
    assert not loaded & absent
    assert said is None or err == (said and f"wisesr: {said}\n")


def test_help_loads_nothing_heavy_and_the_command_list_imports_no_command(tmp_path: Path) -> None:
    program = """
from wisesr_cli.cli.main import COMMANDS, run
assert run(['--help']) == 0
commands = {name.rpartition('.')[2] for name in sys.modules if name.startswith('wisesr_cli.cli.')}
assert not commands & set(COMMANDS)
for name in COMMANDS: assert run([name, '--help']) == 0
"""
    code, loaded, err = loaded_after(program, tmp_path)
    assert code == 0, err
    assert not loaded & set(HEAVY) - {"pydantic"}  # Typer looks for it when options are declared


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    code, loaded, err = loaded_after("import wisesr_cli", tmp_path)
    assert code == 0, err
    assert not loaded & {*HEAVY, "typer"}


def test_the_import_contracts_hold() -> None:
    """The contracts are at the end of pyproject.toml; `lint-imports` reports what breaks them."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=REPOSITORY, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stdout


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_backends_are_imported_only_where_keras_is_started(path: Path) -> None:
    names = {name.partition(".")[0] for name in imports_of(path, top=False)}
    calls = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and "import" in ast.unparse(node.func) and node.args
    ]
    if name_of(path) != "machine/keras_start.py":
        assert not names & {"tensorflow", "jax", "torch"}
        assert not [call for call in calls if "tensorflow" in call or "jax" in call or "backend" in call]


def test_command_modules_import_only_options_at_their_top() -> None:
    for path in sorted((PACKAGE / "cli").rglob("*.py")):
        names = imports_of(path, top=True)
        assert {name.partition(".")[0] for name in names} <= {"typer", "wisesr_cli", *sys.stdlib_module_names}, path
        if path.name not in {"main.py", "options.py"}:
            assert {name for name in names if name.startswith("wisesr_cli")} <= {"wisesr_cli.cli.options"}, path


def test_only_the_decoding_module_opens_images() -> None:
    for path in FILES:
        if name_of(path) not in {"images/decoding.py", "exporting/readme.py"}:  # the latter holds snippets for users
            assert "Image.open(" not in path.read_text(encoding="utf-8"), path


def test_an_init_file_is_only_a_docstring() -> None:
    for path in sorted(PACKAGE.rglob("__init__.py")):
        if path.parent != PACKAGE:
            (sentence,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert ast.unparse(sentence).startswith(("'", '"')), path


def test_no_module_shadows_a_function_of_the_package() -> None:
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(wisesr_cli.__all__)  # importing such a module would replace the function
