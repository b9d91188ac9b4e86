"""Interfaces for reporting progress, to a terminal or not at all (`Silent`). Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from wisesr_cli.results.training import EpochResult


@dataclass(frozen=True)
class TrainingPlan:
    """The plan of a training: its data, its model, its device, and warnings.

    `origin` says where the backbone's weights came from; None: random ones. `head_start` describes the origin of the
    head's weights, or why saved ones were not used; None: new ones.
    `scaling` says how pixels are scaled, and how that is known; `trained` what every phase trains.
    """

    run_dir: str
    device: str
    class_names: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]  # split -> images per class
    images: dict[str, int]  # split -> images, each of which may have several labels
    image_size: tuple[int, int]
    backbone: str
    origin: str | None
    feature_map: tuple[int, int, int]
    head: str
    backbone_parameters: int
    head_parameters: int
    epochs: int
    steps_per_epoch: int
    warnings: tuple[str, ...]
    head_start: str | None = None
    scaling: str = ""
    trained: tuple[str, ...] = ()


class Progress(Protocol):
    """Progress of a long operation; `terminal.Bar` shows it, `Silent` does not."""

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more of the announced total as done."""

    def describe(self, label: str) -> None:
        """Set the current activity."""


class Listener(Protocol):
    """Receives messages of long operations. Texts are plain: the listener escapes them."""

    def note(self, message: str) -> None:
        """Report information."""

    def warn(self, message: str) -> None:
        """Report a warning."""

    def progress(self, label: str, total: int | None) -> Any:
        """Return a context manager that gives a `Progress` for `total` steps (None: unknown)."""


class Silent:
    """A `TrainingListener` that shows nothing, for use as a library."""

    def note(self, message: str) -> None:
        """Do nothing."""

    def warn(self, message: str) -> None:
        """Do nothing."""

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Progress]:
        """Return a progress that is not shown."""
        yield self

    def advance(self, steps: int = 1) -> None:
        """Do nothing."""

    def describe(self, label: str) -> None:
        """Do nothing."""

    def prepared(self, plan: TrainingPlan) -> None:
        """Do nothing."""

    def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
        """Do nothing."""


class TrainingListener(Listener, Protocol):
    """Also receives the stages of a training."""

    def prepared(self, plan: TrainingPlan) -> None:
        """Called before the first step, when data and model are ready."""

    def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
        """Called after each of `total` epochs."""
