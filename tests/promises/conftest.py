from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import QUICK, CommandLine, Trained, snapshot
from folder_commands import Commands


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """Return a copy of a finished run, which tests may write to."""
    return trained.copy_to(tmp_path / "runs" / "tiny")


@pytest.fixture
def commands(wisesr: CommandLine, run: Path, tmp_path: Path) -> Commands:
    """Return the commands that read an image folder, each as a function of the folder."""
    output = tmp_path / "out"
    return {
        "train": lambda folder: wisesr("train", folder, *QUICK, "--epochs", "1", "-o", output),
        "check": lambda folder: wisesr("check", folder, "--image-size", "32"),
        "init": lambda folder: wisesr("init", folder, "-o", tmp_path / "config.yaml", "--overwrite"),
        "evaluate": lambda folder: wisesr("evaluate", run, "--data", folder),
        "predict": lambda folder: wisesr("predict", run, folder, "--format", "jsonl"),
    }


@pytest.fixture
def untouched(run: Path, tmp_path: Path) -> Iterator[None]:
    """Check that a failing command changes no finished file and leaves no run."""
    before = snapshot(run)
    yield
    assert snapshot(run) == before
    assert not (tmp_path / "out").exists() or not any((tmp_path / "out").iterdir())
    assert not (tmp_path / "config.yaml").exists()
