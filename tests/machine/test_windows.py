"""On Windows, the program says what to do instead of printing a traceback."""

from __future__ import annotations

import importlib
import sys

import pytest

from wisesr_cli import __main__ as program
from wisesr_cli.errors import MachineError
from wisesr_cli.machine import locks


def test_the_program_recommends_wsl_and_exits_with_5(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.setattr(sys, "argv", ["wisesr", "--version"])
    with pytest.raises(SystemExit) as stopped:
        program.main()
    assert stopped.value.code == 5
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("wisesr: wisesr runs on Linux and macOS; on Windows, use WSL: `wsl --install`")


def test_importing_from_python_recommends_wsl_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delitem(sys.modules, locks.__name__)
    with pytest.raises(MachineError, match="use WSL"):
        importlib.import_module(locks.__name__)
