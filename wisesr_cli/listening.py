"""Whom long work tells what happens: a person at a terminal, or nobody (`Silent`). Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from wisesr_cli.results import EpochResult


@dataclass(frozen=True)
class TrainingPlan:
    """What a training is about to do: its data, its model, its device, and what to look into before waiting.

    `head_start` says where the head's weights come from, or why not from where they might; None: it starts anew.
    """

    run_dir: str
    device: str
    class_names: tuple[str, ...]
    counts: dict[str, tuple[int, ...]]  # split -> images per class
    image_size: tuple[int, int]
    backbone: str
    loaded_tensors: int | None
    feature_map: tuple[int, int, int]
    head: str
    backbone_parameters: int
    head_parameters: int
    epochs: int
    steps_per_epoch: int
    warnings: tuple[str, ...]
    head_start: str | None = None


class Progress(Protocol):
    """How long work reports that it goes on; `terminal.Bar` shows it, `Silent` does not."""

    def advance(self, steps: int = 1) -> None:
        """Count `steps` more of the announced total as done."""

    def describe(self, label: str) -> None:
        """Say what is being done now."""


class Listener(Protocol):
    """Whom long work tells what happens. Every text is plain: the listener makes it safe for its reader."""

    def note(self, message: str) -> None:
        """Say something a user wants to know."""

    def warn(self, message: str) -> None:
        """Say something a user should look into."""

    def progress(self, label: str, total: int | None) -> Any:
        """Return a context manager that gives a `Progress` for `total` steps (None: not known)."""


class Silent:
    """A `TrainingListener` that shows nothing, for use as a library."""

    def note(self, message: str) -> None:
        """Do nothing."""

    def warn(self, message: str) -> None:
        """Do nothing."""

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Progress]:
        """Give a progress that is not shown."""
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
    """Whom a training also tells of its stages."""

    def prepared(self, plan: TrainingPlan) -> None:
        """Hear that data and model are ready, before the first step."""

    def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
        """Hear of a finished epoch, of `total`."""
