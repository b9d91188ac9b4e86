"""The private names of Keras and other libraries that are used; a release may change any of them without notice.

Each has a row in `PRIVATE` and is named in pyproject.toml beside the version bound of its library.
"""

from __future__ import annotations

import ast
import inspect
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import keras
import pytest
from ai_edge_litert.interpreter import Interpreter
from command_line import REPOSITORY
from packaging.requirements import Requirement

PACKAGE = REPOSITORY / "wisesr_cli"
TREES = {
    path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")
}


def functional() -> Any:
    """Return the class of functional models, which Keras does not export."""
    pixels = keras.Input((2,))
    return type(keras.Model(pixels, keras.layers.ReLU()(pixels)))


# (file, name) -> the object that has it, and the parameters that are relied on.
PRIVATE: dict[tuple[str, str], tuple[Callable[[], Any], list[str]]] = {
    ("training/devices/mirrored.py", "_maybe_symbolic_build"): (lambda: keras.Model, ["iterator", "data_batch"]),
    ("explanation/receptive_field.py", "_run_through_graph"): (functional, ["inputs", "operation_fn", "call_fn"]),
    ("engines/litert.py", "_get_ops_details"): (lambda: Interpreter, []),
}
JAX = {("machine/keras_start.py", "_src"), ("processes/launch.py", "_src")}
KERAS_BASES = (
    *(keras.Model, keras.Sequential, keras.layers.Layer, keras.Operation, keras.utils.PyDataset),
    *(keras.optimizers.Optimizer, keras.optimizers.LossScaleOptimizer, keras.optimizers.schedules.LearningRateSchedule),
    *(keras.callbacks.Callback, keras.initializers.Initializer, keras.constraints.Constraint),
)


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(tree: ast.AST) -> Iterator[str]:
    """Yield the names of the functions, classes, attributes and variables that a module defines."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.attr if isinstance(node, ast.Attribute) else node.id


def keras_classes() -> set[str]:
    """Return the names of the package's classes that derive from a Keras class."""
    bases = {
        node.name: {ast.unparse(base) for base in node.bases}
        for tree in TREES.values()
        for node in ast.walk(tree)
        if isinstance(node, ast.ClassDef)
    }
    found: set[str] = set()
    while (
        more := {name for name, of in bases.items() if any(base.startswith("keras.") or base in found for base in of)}
        - found
    ):
        found |= more
    return found


def private_names() -> set[tuple[str, str]]:
    """Return (file, name) of private names that are used but not ours, and of those of Keras that are overridden."""
    own = {name for tree in TREES.values() for name in own_names(tree)}
    derived, of_keras = keras_classes(), {name for base in KERAS_BASES for name in dir(base)}
    found = set()
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                found.add((file, node.attr))
            elif isinstance(node, ast.ClassDef) and node.name in derived:
                found |= {(file, name) for name in own_names(node) if is_private(name) and name in of_keras}
    return {(file, name) for file, name in found if name != "_exit"}  # `os._exit` is documented


def test_the_private_names_in_use_match_the_table() -> None:
    expected = {*PRIVATE, *JAX}
    if keras.backend.backend() != "tensorflow":
        expected -= {("training/devices/mirrored.py", "_maybe_symbolic_build")}  # a method of the TensorFlow backend
    assert private_names() == expected


@pytest.mark.parametrize(("file", "name"), PRIVATE)
def test_a_private_name_exists_and_has_the_expected_parameters(file: str, name: str) -> None:
    owner, parameters = PRIVATE[file, name]
    if owner() is keras.Model and keras.backend.backend() != "tensorflow":
        pytest.skip("a method of the TensorFlow backend")
    assert list(inspect.signature(getattr(owner(), name)).parameters) == ["self", *parameters]


def test_the_jax_internals_for_several_processes_still_exist() -> None:
    pytest.importorskip("jax")
    from jax._src import clusters, distributed

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    assert len(inspect.signature(detect).parameters) == 6
    assert {"client", "initialize_preemption_sync_manager"} <= set(dir(distributed.global_state))


def test_keras_and_jax_have_version_bounds_and_pyproject_lists_private_names() -> None:
    content = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(content)["project"]
    for line in (*project["dependencies"], *project["optional-dependencies"]["jax"]):
        needed = Requirement(line)
        if needed.name in {"keras", "jax"}:
            assert {limit.operator for limit in needed.specifier} == {">=", "<"}
            assert needed.name == "jax" or version("keras") in needed.specifier
    assert [name for _, name in {*PRIVATE, *JAX} if name not in content] == []
