from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings
from reliability import Row, Seen, all_as_promised, collect_rows, print_rows

if TYPE_CHECKING:
    from command_line import CommandLine, Trained


# The same examples on every machine, and no limit on time: how fast a machine draws them is not a property of the code.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the reports of tests say which lines of `reliability.LINES` they show."""
    for item in items:
        item.user_properties += [("line", line) for mark in item.iter_markers("reliability") for line in mark.args]


def pytest_collection_finish() -> None:
    """Leave the million objects of what the tests import out of every garbage collection, as the program does.

    Each of them is a second, and Keras' `clear_session` is one.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print a row per line when the lines were asked for."""
    if config.option.markexpr == "reliability":
        print_rows(_rows(terminalreporter))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Let a line without a test that passed be a failure, when all lines were asked for."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    whole = session.config.option.markexpr == "reliability" and not session.config.option.keyword
    if whole and exitstatus == 0 and not all_as_promised(_rows(reporter)):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _rows(reporter: Any) -> dict[int, Row]:
    outcomes = ("passed", "failed", "error", "skipped")
    reports = [report for outcome in outcomes for report in reporter.stats.get(outcome, ())]
    return collect_rows(report for report in reports if isinstance(report, pytest.TestReport))


@pytest.fixture
def seen(request: pytest.FixtureRequest) -> Seen:
    """Give a function that notes what a test of a line saw, for the table."""
    return lambda text: request.node.user_properties.append(("seen", text))


@pytest.fixture(autouse=True)
def caches_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep every test's caches apart, and out of the user's home."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("WISESR_CACHE_DIR", str(folder))
    monkeypatch.setenv("KERAS_HOME", str(folder / "keras"))  # weights, too
    monkeypatch.delenv("WISESR_WEIGHTS", raising=False)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test reach a server for weights; one that has a server of its own names it."""
    monkeypatch.setattr("wisesr_cli.models.at_hand.is_reachable", lambda url: False)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the test's own folder the current one."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


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

    return train_small(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give class folders of 18 small images, which tests leave as they are."""
    from command_line import make_photos

    return make_photos(tmp_path_factory.mktemp("photos") / "photos", 6)
