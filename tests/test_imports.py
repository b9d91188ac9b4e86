"""What is not needed is not imported: help and mistakes are answered at once; imports go down only."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import REPOSITORY, make_photos
from fresh_process import HEAVY, KERAS, command, loaded_after

import wisesr_cli

PACKAGE = REPOSITORY / "wisesr_cli"

FILES = sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def imports_of(path: Path, *, top: bool) -> set[str]:
    """Return the modules that a file imports: at its top (`TYPE_CHECKING` blocks left out), or anywhere."""
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


@pytest.mark.parametrize("words", [["--help"], ["--version"], []])
def test_help_and_version_load_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code, loaded, err = loaded_after(command(*words), tmp_path)
    assert code == (0 if words and words[0].startswith("--") else 2), err
    assert not loaded & set(HEAVY)


def test_help_builds_no_options_of_the_commands_that_it_lists(tmp_path: Path) -> None:
    asked = "assert run(['--help']) == 0\nloaded = {name.removeprefix('wisesr_cli.cli.') for name in sys.modules}\n"
    asked += "assert not loaded & set(COMMANDS)"
    code, _, err = loaded_after(f"from wisesr_cli.cli.main import COMMANDS, run\n{asked}", tmp_path)
    assert code == 0, err


def test_an_unknown_command_is_answered_without_anything_heavy(tmp_path: Path) -> None:
    code, loaded, _ = loaded_after(command("tarin"), tmp_path)
    assert code == 2
    assert not loaded & set(HEAVY) - {"pydantic"}


def test_the_help_of_a_command_loads_nothing_heavy(tmp_path: Path) -> None:
    from wisesr_cli.cli.main import COMMANDS

    code, loaded, err = loaded_after(
        "from wisesr_cli.cli.main import run\nfor name in "
        + repr(list(COMMANDS))
        + ": assert run([name, '--help']) == 0",
        tmp_path,
    )
    assert code == 0, err
    assert not loaded & set(HEAVY) - {"pydantic"}  # Typer looks at it where options are declared


def test_importing_the_package_loads_nothing_heavy(tmp_path: Path) -> None:
    code, loaded, err = loaded_after("import wisesr_cli", tmp_path)
    assert code == 0, err
    assert not loaded & {*HEAVY, "typer"}


@pytest.mark.parametrize("words", [["train"], ["check"], ["config", "show"], ["summarize"]])
def test_a_typo_in_a_config_is_2_without_keras(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        "schema_version: 1\nmodel:\n  head: {name: wise, prepool: 2}\n", encoding="utf-8"
    )
    code, loaded, err = loaded_after(command(*words, "config.yaml"), tmp_path)
    assert code == 2
    assert err == (
        "wisesr: config.yaml:3: model.head.prepool is not an option of the head 'wise'. Did you mean 'pre_pool'?\n"
    )
    assert not loaded & set(KERAS)


def test_a_typo_in_the_config_of_a_training_needs_no_numpy(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("schema_version: 1\nsede: 3\n", encoding="utf-8")
    code, loaded, err = loaded_after(command("train", "config.yaml"), tmp_path)
    assert (code, err) == (2, "wisesr: config.yaml:2: sede is not a key of a config. Did you mean 'seed'?\n")
    assert not loaded & {*KERAS, "numpy", "PIL", "rich", "h5py"}


@pytest.mark.parametrize("words", [["--backbone", "all"], ["photos"], ["config.yaml", "--device", "cpu"]])
def test_summarize_never_loads_keras(words: list[str], tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 1)
    (tmp_path / "config.yaml").write_text("model: {backbone: Xception}\n", encoding="utf-8")
    code, loaded, err = loaded_after(command("summarize", *words), tmp_path)
    assert (code, err) == (0, "")
    assert not loaded & {*KERAS, *(() if "photos" in words else ("numpy", "PIL"))}  # photos are counted


def test_a_run_that_is_none_and_a_gate_that_is_none_are_answered_without_keras(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 2)
    for words, expected in (
        (["evaluate", "nowhere"], 4),
        (["predict", "nowhere", "photos"], 4),
        (["train", "photos", "--fail-under", "x=1"], 2),
    ):
        code, loaded, err = loaded_after(command(*words), tmp_path)
        assert code == expected, err
        assert not loaded & set(KERAS) - {"matplotlib"}


@pytest.mark.parametrize("words", [["check", "photos"], ["config", "show", "photos"], ["init", "photos"]])
def test_looking_at_images_and_configs_never_loads_keras(words: list[str], tmp_path: Path) -> None:
    make_photos(tmp_path / "photos", 4)
    code, loaded, err = loaded_after(command(*words), tmp_path)
    assert code == 0, err
    assert not loaded & set(KERAS)


def test_the_contracts_about_imports_hold() -> None:
    """What imports what is written at the end of pyproject.toml; `lint-imports` says what breaks it."""
    program = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([program], cwd=REPOSITORY, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_backend_is_imported_where_keras_is_started_only(path: Path) -> None:
    names = {name.partition(".")[0] for name in imports_of(path, top=False)}
    calls = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and "import" in ast.unparse(node.func) and node.args
    ]
    if name_of(path) != "machine/keras_start.py":
        assert not names & {"tensorflow", "jax", "torch"}
        assert not [call for call in calls if "tensorflow" in call or "jax" in call or "backend" in call]


def test_no_command_module_imports_work_at_its_top() -> None:
    for path in sorted((PACKAGE / "cli").glob("*.py")):
        names = imports_of(path, top=True)
        assert {name.partition(".")[0] for name in names} <= {"typer", "wisesr_cli", *sys.stdlib_module_names}, path
        if path.name not in {"main.py", "options.py"}:
            assert {name for name in names if name.startswith("wisesr_cli")} <= {"wisesr_cli.cli.options"}, path


def test_only_images_decodes_images() -> None:
    for path in FILES:
        if name_of(path) not in {"images/decoding.py", "exporting/readme.py"}:  # the latter shows others how to
            assert "Image.open(" not in path.read_text(encoding="utf-8"), path


def test_an_init_is_a_sentence_without_imports() -> None:
    for path in sorted(PACKAGE.rglob("__init__.py")):
        if path.parent != PACKAGE:
            (sentence,) = ast.parse(path.read_text(encoding="utf-8")).body
            assert ast.unparse(sentence).startswith(("'", '"')), path


def test_no_module_takes_the_name_of_a_function_of_the_package() -> None:
    modules = {path.stem for path in PACKAGE.iterdir()}
    assert not modules & set(wisesr_cli.__all__)  # once imported, the module would be in the function's place
