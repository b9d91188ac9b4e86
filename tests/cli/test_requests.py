"""What is typed reaches the request: arguments of a command are fields of its request, or about showing alone."""

from __future__ import annotations

import importlib
from inspect import Parameter, signature
from typing import Any

import pytest

from wisesr_cli import api
from wisesr_cli.cli import options

SHOWN = {"output", "output_format", "quiet", "verbose", "debug", "show"}
NAMED = {name.replace("-", "_") for name in options.NAMED_OPTIONS}
VERBS: dict[str, tuple[Any, set[str]]] = {
    # command: its function of `api`, and what else the command does with an argument
    "evaluate": (api.evaluate, {"fail_under"}),
    "predict": (api.predict, {"strict"}),
    "embed": (api.embed, {"strict"}),
    "explain": (api.explain, {"weights"}),
    "export": (api.export, set()),
    "upgrade": (api.upgrade, NAMED | {"preprocessing"}),
    "compare": (api.compare, NAMED),
    "summarize": (api.summarize, set()),
}


def parameters_of(command: str) -> dict[str, Parameter]:
    module = importlib.import_module(f"wisesr_cli.cli.{command}")
    return dict(signature(getattr(module, command)).parameters)


@pytest.mark.parametrize("command", VERBS)
def test_every_argument_of_a_command_is_a_field_of_its_request_or_is_about_showing(command: str) -> None:
    verb, others = VERBS[command]
    assert parameters_of(command).keys() - signature(verb).parameters.keys() <= SHOWN | others


@pytest.mark.parametrize("command", VERBS)
def test_what_is_not_typed_has_the_default_of_the_request(command: str) -> None:
    fields = signature(VERBS[command][0]).parameters
    typed = {name: parameter.default for name, parameter in parameters_of(command).items() if name in fields}
    differing = {name for name, default in typed.items() if default not in (None, fields[name].default)}
    # What is required; what is for standard output; "3" as it is typed.
    assert differing <= {"run", "source", "model", "output_format", "seeds"}


def test_a_field_that_is_misspelt_is_refused() -> None:
    with pytest.raises(TypeError, match="top_q"):
        api.predict("run", ["photo.jpg"], top_q=3)  # type: ignore[call-arg]
