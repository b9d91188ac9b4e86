"""Installs packages for a single test; if that fails, the test is skipped with the reason."""

from __future__ import annotations

import subprocess

import pytest

SECONDS = 300


def install_or_skip(what: str, command: list[str]) -> None:
    """Run a command that installs `what`; skip the test if it fails or takes too long, as on a slow network."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except subprocess.TimeoutExpired:
        pytest.skip(f"{what} was not installed within {SECONDS} s")
    if done.returncode:
        pytest.skip(f"{what} cannot be installed: {done.stderr.strip()[-200:]}")
