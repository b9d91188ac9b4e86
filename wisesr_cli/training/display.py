"""Shows training on the terminal: first data and model, then a bar with the remaining time and a line per epoch."""

from __future__ import annotations

from wisesr_cli.display.terminal import TerminalListener
from wisesr_cli.listening import TrainingPlan
from wisesr_cli.results.training import EpochResult
from wisesr_cli.training.tables import data_grid, epoch_line, model_grid


class TrainingDisplay(TerminalListener):
    """A `listening.TrainingListener` that writes readable text to standard error."""

    can_be_judged = True  # whether there are held-out images

    def prepared(self, plan: TrainingPlan) -> None:
        """Show data, model, device, run directory and warnings."""
        self.can_be_judged = len(plan.counts) > 1
        self.grid(data_grid(plan))
        self.grid(model_grid(plan))
        self.note(f"device: {plan.device}")
        self.note(f"run directory: {plan.run_dir}")
        for warning in plan.warnings:
            self.warn(warning)

    def epoch_finished(self, row: EpochResult, *, is_best: bool, total: int) -> None:
        """Show a finished epoch as a line."""
        self.note(epoch_line(row, total=total, is_best=is_best))
