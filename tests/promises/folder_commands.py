"""The commands that read an image folder, and how they reject one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from command_line import Answer

Command = Callable[[Path], Answer]
Commands = dict[str, Command]

# The commands that read the image folder before anything else can fail.
TRAINING_COMMANDS = ("train", "check", "init")


def refusal(answer: Answer) -> str:
    """Return how a command rejects a folder: its error, or the rows of a check."""
    assert answer.code == 3, answer.err
    if "the check failed" not in answer.error:
        return answer.error
    assert "FAIL" in answer.out
    return answer.out
