"""Command lines of trainings that take a second or two, and the files they write."""

from __future__ import annotations

from pathlib import Path

from command_line import QUICK, Trained, snapshot


def line(photos: Path, runs: Path, *more: object, epochs: int = 2, name: str = "tiny") -> list[object]:
    return ["train", photos, *QUICK, "--epochs", epochs, "-o", runs, "--name", name, *more]


def resumed(trained: Trained, run: Path, *more: object, epochs: int = 3) -> list[object]:
    return line(trained.photos, run.parent, "--resume", *more, epochs=epochs)


def files_of(run: Path) -> dict[str, bytes]:
    """Return the content of every file of a run except its lock."""
    return {name: content for name, content in snapshot(run).items() if name != ".lock"}
