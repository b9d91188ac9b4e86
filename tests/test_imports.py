"""What is not needed is not imported: help and mistakes are answered at once; imports go down only."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import REPOSITORY, environment, make_photos

import wisesr_cli

PACKAGE = REPOSITORY / "wisesr_cli"
HEAVY = ("tensorflow", "keras", "jax", "numpy", "pydantic", "yaml", "rich", "PIL", "matplotlib")
KERAS = ("tensorflow", "keras", "jax", "matplotlib")

# The bottom first. A module imports only from layers below its own, or from its own where that makes no circle.
LAYERS = (
    {"backbone_sizes", "text"},
    {
        "agreement",
        "allowed",
        "caches",
        "cluster",
        "connection",
        "errors",
        "files",
        "flops",
        "forwarding",
        "hdf5",
        "ordering",
        "meeting",
        "parallel",
        "results",
        "shares",
        "signatures",
        "valueless",
        "watchdog",
    },
    {
        "backbone_table",
        "channel",
        "devices",
        "distribution",
        "isolation",
        "model_config",
        "model_info",
        "options",
        "guard",
        "runtime",
        "color",
        "metrics",
        "report",
        "yaml_reader",
        "index",
        "plots",
        "bootstrap",
        "comparison_plots",
        "comparison_progress",
        "comparison_tables",
        "export_tables",
        "conclusions",
        "overlays",
        "report_charts",
        "report_records",
        "report_tables",
        "contribution_arrays",
        "attribution",
        "resampling",
        "receptive_field",
        "shards",
        "mlflow_tracker",
        "trackers",
        "wandb_tracker",
    },
    {
        "archive",
        "harbour",
        "litert",
        "opening",
        "ordinary",
        "pillow_setup",
        "panels",
        "refusals",
        "resizing",
        "upright",
    },
    {"gates", "heads", "backbones", "schedules", "images", "journal", "run_files", "tables", "splits", "state"},
    {
        "config",
        "folders",
        "image_sizes",
        "model_file",
        "verified",
        "duplicates",
        "scan",
        "display",
        "output",
        "terminal_picture",
    },
    {"config_errors", "pixel_cache", "oddities", "survey", "resume", "alike"},
    {"comparison", "config_reader", "inspection"},
    {"comparison_figures", "comparison_files", "comparison_state", "dataset", "runs", "run_folders"},
    {
        "checking",
        "explanation_pictures",
        "own_pictures",
        "pipeline",
        "position_weights",
        "starter",
        "examples",
        "conversion",
        "engines",
        "families",
        "made_images",
        "upgrade_classes",
        "upgrade_tables",
        "export_folder",
        "augmentation",
        "layers",
        "mirrored",
        "optimizers",
        "diagnosis",
        "sharded",
    },
    {"loading", "stock_layers", "best_litert", "exported"},
    {"weights", "other_size", "rebuilding", "saved", "surgery", "folding"},
    {"model", "evaluation", "explaining", "prediction", "training"},
    {"ray_session", "ray_worker"},
    {"ray_prediction"},
    {
        "trainer",
        "comparing",
        "epochs",
        "explanation_folder",
        "explanation_output",
        "export_images",
        "export_metadata",
        "export_readme",
        "exporting",
        "illustrating",
        "labelling",
        "report_content",
        "report_facts",
        "report_page",
        "report_pictures",
        "prediction_pictures",
        "report_selection",
        "summary",
        "weights_output",
    },
    {"tracking"},
    {"fitting"},
    {"upgrading"},
    {"upgrade_run"},
    {"api"},
    {"demo"},
    {"cli", "commands"},
    {"__main__"},
)
WITH_KERAS = {
    "augmentation",
    "epochs",
    "layers",
    "loading",
    "mirrored",
    "model",
    "optimizers",
    "other_size",
    "stock_layers",
    "rebuilding",
    "saved",
    "sharded",
    "tracking",
    "trainer",
    "upgrading",
    "valueless",
    "weights",
}  # at their top
WITHOUT_NUMPY = {"cli", "errors", "files", "guard", "options", "report", "results", "runtime", "tables", "text"}
WITHOUT_NUMPY |= {"cluster", "config_reader", "summary"}
STANDARD_LIBRARY_ONLY = {"backbone_sizes", "errors", "files", "guard", "results", "runtime", "signatures", "text"}
STANDARD_LIBRARY_ONLY |= {"agreement", "cluster", "connection", "forwarding", "watchdog"}


def module_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


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


def own_imports(path: Path, *, top: bool = True) -> set[str]:
    """Return the modules of the package that a file imports."""
    modules = {module_of(file) for file in FILES}
    names = {name.split(".")[1] for name in imports_of(path, top=top) if name.startswith("wisesr_cli.")}
    return names & modules - {"__init__"}


def loaded_after(code: str, folder: Path) -> tuple[int, set[str], str]:
    """Return exit code, loaded packages and standard error of a fresh process."""
    program = (
        f"import atexit, sys, json\natexit.register(lambda: print('LOADED', json.dumps(sorted(sys.modules))))\n{code}"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=folder,
        env=environment(folder),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    last = next(line for line in reversed(done.stdout.splitlines()) if line.startswith("LOADED "))
    return done.returncode, {name.partition(".")[0] for name in json.loads(last[7:])}, done.stderr


def command(*words: str) -> str:
    return f"sys.argv = ['wisesr', *{list(words)!r}]\nfrom wisesr_cli.__main__ import main\nmain()"


@pytest.mark.parametrize("words", [["--help"], ["--version"], []])
def test_help_and_version_load_nothing_heavy(words: list[str], tmp_path: Path) -> None:
    code, loaded, err = loaded_after(command(*words), tmp_path)
    assert code == (0 if words and words[0].startswith("--") else 2), err
    assert not loaded & set(HEAVY)


def test_help_builds_no_options_of_the_commands_that_it_lists(tmp_path: Path) -> None:
    asked = "assert run(['--help']) == 0\nassert not [name for name in sys.modules if 'wisesr_cli.commands' in name]"
    code, _, err = loaded_after(f"from wisesr_cli.cli import run\n{asked}", tmp_path)
    assert code == 0, err


def test_an_unknown_command_is_answered_without_anything_heavy(tmp_path: Path) -> None:
    code, loaded, _ = loaded_after(command("tarin"), tmp_path)
    assert code == 2
    assert not loaded & set(HEAVY) - {"pydantic"}


def test_the_help_of_a_command_loads_nothing_heavy(tmp_path: Path) -> None:
    from wisesr_cli.cli import COMMANDS

    code, loaded, err = loaded_after(
        "from wisesr_cli.cli import run\nfor name in " + repr(list(COMMANDS)) + ": assert run([name, '--help']) == 0",
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


def test_every_module_has_a_layer() -> None:
    placed = [name for layer in LAYERS for name in layer]
    assert sorted(placed) == sorted(set(placed))
    assert set(placed) == {module_of(path) for path in FILES} - {"__init__"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    layer_of = {name: number for number, layer in enumerate(LAYERS) for name in layer}
    module = module_of(path)
    if module == "__init__":
        return
    for imported in own_imports(path) - {module}:
        assert layer_of[imported] <= layer_of[module], f"{module} imports {imported}, which is above it"


def test_no_imports_at_the_top_make_a_circle() -> None:
    graph = {module_of(path): own_imports(path) for path in FILES if path.parent == PACKAGE}
    done: set[str] = set()
    while rest := {name: needed - done for name, needed in graph.items() if name not in done}:
        ready = {name for name, needed in rest.items() if not needed - {name}}
        assert ready, f"a circle among {sorted(rest)}"
        done |= ready


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_tensorflow_is_imported_in_runtime_only(path: Path) -> None:
    names = {name.partition(".")[0] for name in imports_of(path, top=False)}
    calls = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and "import" in ast.unparse(node.func) and node.args
    ]
    if module_of(path) != "runtime":
        assert not names & {"tensorflow", "jax", "torch"}
        assert not [call for call in calls if "tensorflow" in call or "jax" in call or "backend" in call]


def test_keras_is_imported_at_the_top_of_few_modules_only() -> None:
    with_keras = {
        module_of(path) for path in FILES if "keras" in {name.partition(".")[0] for name in imports_of(path, top=True)}
    }
    assert with_keras == WITH_KERAS


@pytest.mark.parametrize("name", sorted(STANDARD_LIBRARY_ONLY))
def test_the_modules_at_the_bottom_need_the_standard_library_only(name: str) -> None:
    outside = {imported.partition(".")[0] for imported in imports_of(PACKAGE / f"{name}.py", top=True)}
    assert outside - {"wisesr_cli"} <= sys.stdlib_module_names


@pytest.mark.parametrize("name", sorted(WITHOUT_NUMPY))
def test_what_is_loaded_for_every_command_needs_no_numpy(name: str) -> None:
    seen, waiting = set(), {name}
    while waiting:
        module = waiting.pop()
        seen.add(module)
        names = {imported.partition(".")[0] for imported in imports_of(PACKAGE / f"{module}.py", top=True)}
        assert not names & {"numpy", "keras", "tensorflow"}, module
        waiting |= own_imports(PACKAGE / f"{module}.py") - seen


def test_no_command_module_imports_work_at_its_top() -> None:
    for path in sorted((PACKAGE / "commands").glob("*.py")):
        names = {name.partition(".")[0] for name in imports_of(path, top=True)}
        assert names <= {"typer", "wisesr_cli", *sys.stdlib_module_names}, path
        assert own_imports(path) <= {"commands"}, path


def test_only_images_decodes_images() -> None:
    for path in FILES:
        if module_of(path) not in {"images", "export_readme"}:  # the latter shows others how to
            assert "Image.open(" not in path.read_text(encoding="utf-8"), path


def test_no_module_takes_the_name_of_a_function_of_the_package() -> None:
    modules = {path.stem for path in PACKAGE.glob("*.py")}
    assert not modules & set(wisesr_cli.__all__)  # once imported, the module would be in the function's place
