from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from command_line import CommandLine, Trained


# The same examples on every machine, and no limit on time: how fast a machine draws them is no property of the code.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def caches_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's caches apart, and out of the user's home."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("WISESR_CACHE_DIR", str(folder))
    return folder


@pytest.fixture(autouse=True, scope="module")
def models_are_let_go() -> Iterator[None]:
    """Free what Keras remembers of a module's models, so that the whole suite fits in little memory."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session(free_memory=True)


@pytest.fixture
def wisesr(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Give a function that runs a command line in this process."""
    from command_line import CommandLine

    return CommandLine(capsys)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Give a small finished run; tests that write into it copy it first."""
    from command_line import train_small

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WISESR_CACHE_DIR", str(tmp_path_factory.mktemp("caches")))
        return train_small(tmp_path_factory.mktemp("trained"))
