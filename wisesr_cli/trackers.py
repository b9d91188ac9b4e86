"""Experiment trackers: what a training tells them, and whether they are installed. No Keras, and no tracker at the top.

To add one: a module with a class that has what `Tracker` says, a row in `TRACKERS`, its name in `TrackerName`, and an
extra of its name in pyproject.toml. `tracking` drives them, and sees to it that none of them ends a training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

from wisesr_cli.errors import MachineError

TrackerName = Literal["mlflow", "wandb"]
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


@dataclass(frozen=True)
class TrackerRow:
    """A tracker: its name for people, the packages it needs, and what begins a run or goes on with the one of an id."""

    title: str
    packages: tuple[str, ...]
    open: Callable[[TrackedRun, str | None], Tracker]


def _open_mlflow(run: TrackedRun, known: str | None) -> Tracker:
    from wisesr_cli.mlflow_tracker import MlflowTracker

    return MlflowTracker(run, known)


def _open_wandb(run: TrackedRun, known: str | None) -> Tracker:
    from wisesr_cli.wandb_tracker import WandbTracker

    return WandbTracker(run, known)


TRACKERS: dict[str, TrackerRow] = {
    "mlflow": TrackerRow("MLflow", ("mlflow",), _open_mlflow),
    "wandb": TrackerRow("Weights & Biases", ("wandb",), _open_wandb),
}


def check_trackers(names: Iterable[str]) -> None:
    """Raise a `MachineError` for a tracker that is not installed."""
    for name in names:
        if any(find_spec(package) is None for package in TRACKERS[name].packages):
            raise MachineError(
                f"{TRACKERS[name].title} is not installed; install it with: pip install 'wisesr[{name}]'"
            )
