"""Interrupts work at a chosen moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from wisesr_cli.prediction import output


@contextmanager
def stopping_after(count: int) -> Iterator[None]:
    """Let a prediction into a file stop, as from the keyboard, when so many more records were written."""
    write, written = output.FileOutput.write, 0

    def write_or_stop(self: output.FileOutput, record: Any) -> None:
        nonlocal written
        if written == count:
            raise KeyboardInterrupt
        written += 1
        write(self, record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output.FileOutput, "write", write_or_stop)
        yield
