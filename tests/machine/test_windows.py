"""On Windows the program says what to do, in place of a traceback."""

from __future__ import annotations

import importlib
import sys

import pytest

from wisesr_cli import __main__ as program
from wisesr_cli.errors import MachineError
from wisesr_cli.machine import locks


def test_the_program_names_wsl_and_ends_with_5(
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


def test_from_python_it_is_the_same_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "fcntl", None)
    monkeypatch.delitem(sys.modules, locks.__name__)
    with pytest.raises(MachineError, match="use WSL"):
        importlib.import_module(locks.__name__)
