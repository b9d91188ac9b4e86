"""Arguments of a command reach its request: each is a field of it or only affects the display."""

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
    # command: its function in `api`, and the arguments that the command handles itself
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
def test_every_argument_is_a_field_of_the_request_or_only_affects_the_display(command: str) -> None:
    verb, others = VERBS[command]
    assert parameters_of(command).keys() - signature(verb).parameters.keys() <= SHOWN | others


@pytest.mark.parametrize("command", VERBS)
def test_omitted_arguments_have_the_defaults_of_the_request(command: str) -> None:
    fields = signature(VERBS[command][0]).parameters
    typed = {name: parameter.default for name, parameter in parameters_of(command).items() if name in fields}
    differing = {name for name, default in typed.items() if default not in (None, fields[name].default)}
    # Required arguments; the format for standard output; "3", as typed.
    assert differing <= {"run", "source", "model", "output_format", "seeds"}


def test_a_misspelt_field_raises_a_type_error() -> None:
    with pytest.raises(TypeError, match="top_q"):
        api.predict("run", ["photo.jpg"], top_q=3)  # type: ignore[call-arg]
