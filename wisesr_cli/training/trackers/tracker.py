"""The interface of experiment trackers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

Status = Literal["finished", "stopped", "failed"]  # stopped: by a limit or a signal; can be resumed


@dataclass(frozen=True)
class TrackedRun:
    """What a tracker records at the start of a training.

    `name`: of the run directory; `group`: of its comparison; `settings`: the resolved config, flat, with JSON values;
    `tags`: versions, device and backend.
    """

    name: str
    group: str | None
    settings: Mapping[str, Any]
    tags: Mapping[str, str]


class Tracker(Protocol):
    """An open run in a tracker. Every method may raise any exception of the tracker's library.

    `id`: identifies the run when it is resumed; `where`: how to view it.
    """

    id: str
    where: str

    def log(self, values: Mapping[str, float], epoch: int) -> None:
        """Log numbers of an epoch, from 1."""

    def log_best(self, values: Mapping[str, float]) -> None:
        """Log numbers of the best epoch."""

    def keep_file(self, path: Path) -> None:
        """Upload a small file."""

    def keep_model(self, path: Path) -> None:
        """Upload the model file."""

    def end(self, status: Status) -> None:
        """Send pending data and close the run."""
