"""Runs at the end of every training step and epoch: checks, records, checkpoints and stops."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import keras

from wisesr_cli.errors import NotFiniteError
from wisesr_cli.listening import TrainingListener
from wisesr_cli.machine.stopping import Limits, interrupted
from wisesr_cli.results.training import EpochResult
from wisesr_cli.run.run import Run
from wisesr_cli.training.trackers.tracking import Tracking

if TYPE_CHECKING:
    from wisesr_cli.training.trainer import Trainer


class TrainingStopped(Exception):  # noqa: N818  (not an error: training stopped as requested)
    """Ends training here; unlike Keras' `stop_training`, without another validation."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class EpochKeeper(keras.callbacks.Callback):
    """Sets the random state of an epoch, checks every step, and writes the epoch's results.

    The state is written before the best model, so that the model can be recovered from it.
    """

    def __init__(
        self, trainer: Trainer, run: Run, tracking: Tracking, *, limits: Limits, listener: TrainingListener
    ) -> None:
        super().__init__()
        self.trainer, self.run, self.tracking, self.limits, self.listener = trainer, run, tracking, limits, listener
        self.channel = trainer.distribution.channel
        self.phase, self.first_epoch_of_phase = 1, 0
        self.steps_done = 0
        self.label, self.is_compiled = "", False
        self.unchecked: tuple[int, Any] | None = None  # a step, and its loss, which may still be pending
        self.epoch_started = 0.0
        self._show()

    def close(self) -> None:
        """End the display."""
        self.display.__exit__(None, None, None)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Remove the progress bar while something else shows one."""
        self.close()
        yield
        self._show()

    def _show(self) -> None:
        remaining = self.trainer.config.train.epochs - self.trainer.progress.epoch
        self.display = self.listener.progress("training", remaining * self.trainer.steps_per_epoch)
        self.bar = self.display.__enter__()

    def begin_phase(self, number: int, first_epoch: int) -> None:
        """Set the current phase and its first epoch (from 0); early stopping waits anew in each phase."""
        self.phase, self.first_epoch_of_phase = number, first_epoch
        if self.trainer.progress.epoch == first_epoch:
            self.trainer.progress.stopping_wait = 0
        self.is_compiled = False

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Write a state before the first epoch, so that training can be resumed at any time."""
        if self.trainer.progress.epoch == 0:
            self._write_state()

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Set the epoch's random state, which depends on seed and epoch only."""
        features = self.trainer.features
        if features is not None and not features.has(epoch):
            with self.paused(), self.limits.stop.at_once():
                features.compute(epoch, self.listener)
        self.trainer.slow_down(
            self.trainer.config.phases[self.phase - 1], self.trainer.progress.history[self.first_epoch_of_phase :]
        )
        self.trainer.begin_epoch(epoch)
        self.epoch_started = time.monotonic()
        self.label = f"epoch {epoch + 1}/{self.trainer.config.train.epochs}"
        # The first step of a phase traces and compiles, which takes many times longer than a step.
        self.bar.describe(self.label if self.is_compiled else "compiling the training step, 10 to 60 s")

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Check the previous step's loss, and whether to stop.

        Reading a loss waits for its step; reading the previous one keeps the GPU busy with the current step.
        """
        self.steps_done += 1
        if not self.is_compiled:
            self.is_compiled = True
            self.bar.describe(self.label)
        self.bar.advance()
        self._check_loss()
        self.unchecked = batch + 1, (logs or {}).get("loss", 0.0)
        if batch + 1 == self.trainer.steps_per_epoch:
            self._check_loss()
        reason = self._agreed_stop("the state is that of the last complete epoch; continue with --resume")
        if self.limits.max_steps is not None and self.steps_done >= self.limits.max_steps:
            self._stop_unless_epoch_ends(batch, f"{self.steps_done} steps were requested")
        if reason is not None:
            self._stop_unless_epoch_ends(batch, reason)

    def _agreed_stop(self, hint: str) -> str | None:
        """Return the reason to stop after this step, or None; all processes stop after the same step.

        Raises `Interrupted` if this or another process received a signal.
        """
        limit = self.limits.time_limit_seconds
        wanted: dict[str, int | str] | None = None
        if self.limits.stop.signal_number is not None:
            wanted = {"signal": int(self.limits.stop.signal_number)}
        elif self.channel.is_main and limit is not None and time.monotonic() - self.limits.started >= limit:
            wanted = {"time": f"the time limit of {limit:g} seconds"}
        agreed = self.channel.stop_after(self.steps_done, wanted)
        if agreed is None:
            return None
        if "signal" in agreed:
            raise interrupted(int(agreed["signal"]), hint)
        return str(agreed["time"])

    def _check_loss(self) -> None:
        if self.unchecked is None:
            return
        (step, value), self.unchecked = self.unchecked, None
        if not math.isfinite(loss := float(value)):
            epoch = self.trainer.progress.epoch + 1
            raise _not_finite("training loss", loss, f"step {step} of epoch {epoch}")

    def _stop_unless_epoch_ends(self, batch: int, reason: str) -> None:
        """Stop, unless this is the epoch's last step, after which only validation remains."""
        if batch + 1 < self.trainer.steps_per_epoch:
            self._check_loss()
            raise TrainingStopped(reason)

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Swap in the averaged weights, if any, for validation."""
        self.trainer.swap_averages()

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Swap the trained weights back in."""
        self.trainer.swap_averages()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch, keep the best model, write the state, and decide whether to continue."""
        # All processes decide from bit-identical numbers.
        row = EpochResult(**self.channel.from_main(asdict(self._row(epoch, logs or {}))))
        if row.val_loss is not None and not math.isfinite(row.val_loss):
            raise _not_finite("validation loss", row.val_loss, f"the end of epoch {row.epoch}")
        progress = self.trainer.progress
        is_best = self._is_best(row)
        progress.history.append(row)
        stops = self._stops_early(row)
        if stops or progress.epoch == self.trainer.config.train.epochs:
            progress.finished = True
        self._write_state()
        if self.channel.is_main:
            if is_best:
                self.run.forget_best()
                with self.trainer.averaged():
                    self.trainer.save_best(self.run.best, row.epoch)
            self.run.write_history(progress.history)
        self.tracking.report_epochs()
        self.listener.epoch_finished(row, is_best=is_best, total=self.trainer.config.train.epochs)
        reason = self._agreed_stop("continue with --resume")
        if stops:
            raise TrainingStopped(f"early stopping: {stops}")
        self._check_limits_after_epoch(reason)

    def _write_state(self) -> None:
        if self.channel.is_main:
            self.run.check_place()
            self.trainer.write_state(self.run.state)

    def _check_limits_after_epoch(self, reason: str | None) -> None:
        if self.trainer.progress.epoch == self.trainer.config.train.epochs:
            return
        limits = self.limits
        if limits.max_steps is not None and self.steps_done >= limits.max_steps:
            raise TrainingStopped(f"{self.steps_done} steps were requested")
        if reason is not None:
            raise TrainingStopped(reason)

    def _row(self, epoch: int, logs: dict[str, Any]) -> EpochResult:
        def value(name: str) -> float | None:
            return float(logs[name]) if name in logs else None

        return EpochResult(
            epoch=epoch + 1,
            phase=self.phase,
            learning_rate=self.trainer.learning_rate(epoch - self.first_epoch_of_phase),
            loss=float(logs["loss"]),
            top1_accuracy=float(logs["top1_accuracy"]),
            val_loss=value("val_loss"),
            val_top1_accuracy=value("val_top1_accuracy"),
            epoch_seconds=time.monotonic() - self.epoch_started,
        )

    def _is_best(self, row: EpochResult) -> bool:
        """Record and return whether this epoch is the best so far; without validation, the last one is."""
        progress = self.trainer.progress
        rank = _rank(row, self.trainer.config.train.best_by)
        if rank and progress.best_rank and rank <= progress.best_rank:
            return False
        if row.val_loss is None and not self.trainer.weights_are_finite():
            raise _not_finite("weights", math.nan, f"the end of epoch {row.epoch}")
        if not self.trainer.is_at_full_size:
            return False
        progress.best_epoch, progress.best_rank = row.epoch, rank
        return True

    def _stops_early(self, row: EpochResult) -> str | None:
        """Return the reason for early stopping after this epoch, or None."""
        options, progress = self.trainer.config.train.early_stopping, self.trainer.progress
        if options is None or not self.trainer.is_at_full_size:
            return None
        value = getattr(row, options.monitor)
        assert value is not None, "checked before training"
        gain = value if options.monitor.endswith("accuracy") else -value
        if progress.stopping_best is None or gain > progress.stopping_best + options.min_delta:
            progress.stopping_best, progress.stopping_wait = gain, 0
            return None
        progress.stopping_wait += 1
        if progress.stopping_wait < options.patience:
            return None
        return f"{options.monitor} did not improve for {progress.stopping_wait} epochs"


def _rank(row: EpochResult, best_by: str) -> tuple[float, ...]:
    if row.val_loss is None or row.val_top1_accuracy is None:
        return ()
    if best_by == "loss":
        return -row.val_loss, row.val_top1_accuracy
    return row.val_top1_accuracy, -row.val_loss


def _not_finite(what: str, value: float, where: str) -> NotFiniteError:
    return NotFiniteError(
        f"the {what} became {value} at {where}; what earlier epochs wrote is kept. Try a smaller --learning-rate, "
        "a longer train.schedule.warmup_epochs, or --precision float32"
    )
