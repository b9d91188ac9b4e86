"""The commands that meet an image folder, and how they refuse one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from command_line import Answer

Command = Callable[[Path], Answer]
Commands = dict[str, Command]

# The commands that look into an image folder before anything else can go wrong.
TRAINING_COMMANDS = ("train", "check", "init")


def refusal(answer: Answer) -> str:
    """Return what a command refuses a folder with: its error, or the rows of a check."""
    assert answer.code == 3, answer.err
    if "the check failed" not in answer.error:
        return answer.error
    assert "FAIL" in answer.out
    return answer.out
