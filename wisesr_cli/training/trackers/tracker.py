"""What an experiment tracker is told of a training, and what it must offer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["finished", "stopped", "failed"]  # stopped: by a limit or a signal; resuming goes on with it


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker is told of a training at its start.

    `name`: that of the run directory; `group`: that of the comparison it belongs to; `settings`: the resolved config,
    flat, as JSON knows it; `tags`: what it runs on.
    """

    name: str
    group: str | None
    settings: Mapping[str, Any]
    tags: Mapping[str, str]


class Tracker(Protocol):
    """A run that is open in a tracker. Every method may raise whatever the tracker's library does.

    `id`: what the run is found again by; `where`: a sentence that says how to look at it.
    """

    id: str
    where: str

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Keep numbers of an epoch, from 1."""

    def log_best(self, values: Mapping[str, float]) -> None:
        """Keep numbers of the best epoch."""

    def keep_file(self, path: Path) -> None:
        """Keep a copy of a small file."""

    def keep_model(self, path: Path) -> None:
        """Keep a copy of the model file."""

    def end(self, status: Status) -> None:
        """Close the run, having sent what is left."""
