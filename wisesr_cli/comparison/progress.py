"""One progress display for all trainings of a comparison, instead of one for each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager

from wisesr_cli.listening import Listener, Progress, Silent, TrainingPlan
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.text import counted

STEPS = "training"  # the label under which a training reports its steps


class WarnsOnce:
    """A `listening.Listener` that passes every warning on once, as all trainings warn about the same images."""

    def __init__(self, listener: Listener) -> None:
        self.listener = listener
        self._warned: set[str] = set()

    def note(self, message: str) -> None:
        """Pass it on."""
        self.listener.note(message)

    def warn(self, message: str) -> None:
        """Pass it on, unless it was already."""
        if message not in self._warned:
            self._warned.add(message)
            self.listener.warn(message)

    def progress(self, label: str, total: int | None) -> AbstractContextManager[Progress]:
        """Pass it on."""
        shown: AbstractContextManager[Progress] = self.listener.progress(label, total)
        return shown


class CombinedProgress(Silent):
    """A `listening.TrainingListener` for many trainings: one bar over all their steps, and every warning once.

    It shows no notes or epochs: the comparison reports what is worth a line once, and the bar names the epoch.
    `trainings` is the number of those left to do; `stop` is checked at every step of the work between them.
    """

    def __init__(self, listener: Listener, *, trainings: int, epochs: int, stop: StopRequest) -> None:
        self.listener, self.trainings, self.epochs, self.stop = WarnsOnce(listener), trainings, epochs, stop
        self.plan: TrainingPlan | None = None
        self.bar: Progress | None = None
        self.title = ""
        self._number = self._steps = 0
        self._stack = ExitStack()

    def start(self, title: str) -> None:
        """Note which training comes next."""
        self._number += 1
        self.title = f"{title} ({self._number} of {self.trainings})"
        self.describe("preparing")

    def finish(self) -> None:
        """Count the steps that the training did not need because it stopped early or was resumed."""
        if self.bar is not None and self.plan is not None:
            self.advance(self._number * self.epochs * self.plan.steps_per_epoch - self._steps)

    def close(self) -> None:
        """End the display."""
        self._stack.close()

    def warn(self, message: str) -> None:
        """Pass on once what every training warns about."""
        self.listener.warn(message)

    def prepared(self, plan: TrainingPlan) -> None:
        """Start the bar at the first training, as the number of steps is now known."""
        if self.plan is None:
            images = ", ".join(f"{sum(counts):,} {split}" for split, counts in plan.counts.items())
            self.listener.note(f"device: {plan.device}")
            self.listener.note(f"images: {images}; {counted(len(plan.class_names), 'class', 'classes')}")
            total = self.trainings * self.epochs * plan.steps_per_epoch
            self.bar = self._stack.enter_context(self.listener.progress(self.title, total))
        self.plan = plan
        for warning in plan.warnings:
            self.warn(warning)

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[Progress]:
        """Show a part of a training, or of the work between two trainings, in the common display."""
        if self.bar is None:
            with self.listener.progress(f"{self.title}: {label}", total) as own:
                yield own
            return
        self.describe(label)
        yield self if label == STEPS else _Between(self)

    def advance(self, steps: int = 1) -> None:
        """Count steps of the training as done."""
        self._steps += steps
        if self.bar is not None and steps > 0:
            self.bar.advance(steps)

    def describe(self, label: str) -> None:
        """Show what the training is doing now."""
        if self.bar is not None:
            self.bar.describe(f"{self.title}: {label}")


class _Between(Silent):
    """The progress of work between trainings: it is not counted, but checks for a request to stop."""

    def __init__(self, combined: CombinedProgress) -> None:
        self.combined = combined

    def advance(self, steps: int = 1) -> None:
        self.combined.stop.check("continue with --resume")
