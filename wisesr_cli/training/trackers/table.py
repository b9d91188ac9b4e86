"""The supported experiment trackers, and whether they are installed. Imports neither Keras nor a tracker.

To add one: a module with a class that implements `Tracker`, a row in `TRACKERS`, its name in `TrackerName`, and an
extra of its name in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from wisesr_cli.errors import MachineError
from wisesr_cli.machine.installation import install_line
from wisesr_cli.training.trackers.tracker import TrackedRun, Tracker


@dataclass(frozen=True)
class TrackerRow:
    """A tracker: its displayed name, required packages, and what creates a run or resumes the one with an id."""

    title: str
    packages: tuple[str, ...]
    open: Callable[[TrackedRun, str | None], Tracker]


def _open_mlflow(run: TrackedRun, known: str | None) -> Tracker:
    from wisesr_cli.training.trackers.mlflow import MlflowTracker

    return MlflowTracker(run, known)


def _open_wandb(run: TrackedRun, known: str | None) -> Tracker:
    from wisesr_cli.training.trackers.wandb import WandbTracker

    return WandbTracker(run, known)


TRACKERS: dict[str, TrackerRow] = {
    "mlflow": TrackerRow("MLflow", ("mlflow",), _open_mlflow),
    "wandb": TrackerRow("Weights & Biases", ("wandb",), _open_wandb),
}


def check_trackers(names: Iterable[str]) -> None:
    """Raise a `MachineError` for a tracker that is not installed."""
    for name in names:
        if any(find_spec(package) is None for package in TRACKERS[name].packages):
            raise MachineError(f"{TRACKERS[name].title} is not installed; install it with: {install_line(name)}")
