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


# The same examples on every machine, and no deadline: how fast they are drawn is not a property of the code.
settings.register_profile("repeatable", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("repeatable")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Record in test reports which lines of `reliability.LINES` each test covers."""
    for item in items:
        item.user_properties += [("line", line) for mark in item.iter_markers("reliability") for line in mark.args]


def pytest_collection_finish() -> None:
    """Exclude the million objects of imported modules from garbage collection, as the program does.

    Otherwise each collection takes a second, including the one in Keras' `clear_session`.
    """
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print a row per line if the reliability tests were selected."""
    if config.option.markexpr == "reliability":
        print_rows(_rows(terminalreporter))


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Fail the session if a line has no passed test, unless only some lines were selected."""
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
    """Return a function that records what a test of a line observed, for the table."""
    return lambda text: request.node.user_properties.append(("seen", text))


@pytest.fixture(autouse=True)
def caches_of_this_test(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test its own caches, outside the user's home."""
    folder = tmp_path_factory.mktemp("caches")
    monkeypatch.setenv("WISESR_CACHE_DIR", str(folder))
    monkeypatch.setenv("KERAS_HOME", str(folder / "keras"))  # for weights
    monkeypatch.delenv("WISESR_WEIGHTS", raising=False)
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep tests from reaching a server for weights; tests with their own server restore `is_reachable`."""
    monkeypatch.setattr("wisesr_cli.models.at_hand.is_reachable", lambda url: False)


@pytest.fixture
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the test's temporary folder the current directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True, scope="module")
def release_models() -> Iterator[None]:
    """Release the models that Keras holds after each module, so that the whole suite needs little memory."""
    yield
    if "keras" in sys.modules:
        sys.modules["keras"].utils.clear_session(free_memory=True)


@pytest.fixture
def wisesr(capsys: pytest.CaptureFixture[str]) -> CommandLine:
    """Return a function that runs a command line in this process."""
    from command_line import CommandLine

    return CommandLine(capsys)


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a small finished run; tests that write to it copy it first."""
    from command_line import train_small

    return train_small(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return class folders with 18 small images, which tests must not change."""
    from command_line import make_photos

    return make_photos(tmp_path_factory.mktemp("photos") / "photos", 6)
