"""Which private names of Keras and other libraries are used: a release may change any of them without a word.

One more or one less is a row in `PRIVATE`, and stands in pyproject.toml beside the bound of its library.
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
    """Return the class of functional models, which Keras does not name to others."""
    pixels = keras.Input((2,))
    return type(keras.Model(pixels, keras.layers.ReLU()(pixels)))


# By file and name: what has it, and the parameters that are counted on.
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
    """Give the names that a module gives to functions, classes, attributes and variables of its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.attr if isinstance(node, ast.Attribute) else node.id


def keras_classes() -> set[str]:
    """Return the names of the package's classes that derive from one of Keras."""
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
    """Return the private names that are used and not our own, and those of Keras that are overridden, by file."""
    own = {name for tree in TREES.values() for name in own_names(tree)}
    derived, of_keras = keras_classes(), {name for base in KERAS_BASES for name in dir(base)}
    found = set()
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and node.attr not in own:
                found.add((file, node.attr))
            elif isinstance(node, ast.ClassDef) and node.name in derived:
                found |= {(file, name) for name in own_names(node) if is_private(name) and name in of_keras}
    return {(file, name) for file, name in found if name != "_exit"}  # of `os`, which documents it


def test_the_private_names_that_are_used_are_those_of_the_table() -> None:
    expected = {*PRIVATE, *JAX}
    if keras.backend.backend() != "tensorflow":
        expected -= {("training/devices/mirrored.py", "_maybe_symbolic_build")}  # a method of that backend
    assert private_names() == expected


@pytest.mark.parametrize(("file", "name"), PRIVATE)
def test_a_private_name_is_there_and_takes_what_is_counted_on(file: str, name: str) -> None:
    owner, parameters = PRIVATE[file, name]
    if owner() is keras.Model and keras.backend.backend() != "tensorflow":
        pytest.skip("a method of the TensorFlow backend")
    assert list(inspect.signature(getattr(owner(), name)).parameters) == ["self", *parameters]


def test_jax_keeps_what_several_processes_use_of_it() -> None:
    pytest.importorskip("jax")
    from jax._src import clusters, distributed

    detect = clusters.ClusterEnv.auto_detect_unset_distributed_params
    assert len(inspect.signature(detect).parameters) == 6
    assert {"client", "initialize_preemption_sync_manager"} <= set(dir(distributed.global_state))


def test_keras_and_jax_are_bounded_and_the_private_names_stand_beside_the_bounds() -> None:
    content = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(content)["project"]
    for line in (*project["dependencies"], *project["optional-dependencies"]["jax"]):
        needed = Requirement(line)
        if needed.name in {"keras", "jax"}:
            assert {limit.operator for limit in needed.specifier} == {">=", "<"}
            assert needed.name == "jax" or version("keras") in needed.specifier
    assert [name for _, name in {*PRIVATE, *JAX} if name not in content] == []
