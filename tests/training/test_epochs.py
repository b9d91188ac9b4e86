"""The best epoch and early stopping, on made-up epochs."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from wisesr_cli.config.schema import Config
from wisesr_cli.errors import DataError
from wisesr_cli.listening import Silent
from wisesr_cli.machine.stopping import StopRequest
from wisesr_cli.run.progress import Progress
from wisesr_cli.run.run import Run
from wisesr_cli.training.devices.distribution import ALONE
from wisesr_cli.training.epochs import EpochKeeper, TrainingStopped
from wisesr_cli.training.train import Limits


def make_keeper(folder: Path, settings: dict[str, Any]) -> tuple[EpochKeeper, list[int]]:
    """Return the keeper of a fake training, and the list of epochs whose model it saves."""
    saved: list[int] = []
    trainer: Any = SimpleNamespace(
        config=Config.model_validate({"train": {"epochs": 50, **settings}, "data": {"dir": folder}}),
        progress=Progress(),
        steps_per_epoch=1,
        learning_rate=lambda epoch: 0.1,
        averaged=nullcontext,
        save_best=lambda path, epoch: saved.append(epoch),
        write_state=lambda path: None,
        is_at_full_size=True,
        distribution=ALONE,
    )
    tracking: Any = SimpleNamespace(report_epochs=lambda: None)
    limits = Limits(StopRequest(), 0.0)
    return EpochKeeper(trainer, Run(folder), tracking, limits=limits, listener=Silent()), saved


def feed(keeper: EpochKeeper, epochs: list[tuple[float, float]]) -> None:
    for number, (accuracy, loss) in enumerate(epochs):
        logs = {"loss": loss, "top1_accuracy": 0.5, "val_loss": loss, "val_top1_accuracy": accuracy}
        keeper.on_epoch_end(number, logs)


@pytest.mark.parametrize(
    ("best_by", "saved_epochs"),
    [
        ("top1_accuracy", [1, 3, 5]),  # higher accuracy; then equal accuracy with a lower loss
        ("loss", [1, 2, 5]),
    ],
)
def test_best_epoch_follows_best_by_and_loss_breaks_ties_in_accuracy(
    tmp_path: Path, best_by: str, saved_epochs: list[int]
) -> None:
    keeper, saved = make_keeper(tmp_path, {"best_by": best_by})
    feed(keeper, [(0.5, 1.0), (0.4, 0.7), (0.6, 0.9), (0.6, 0.9), (0.6, 0.6), (0.6, 0.65)])
    assert saved == saved_epochs
    assert keeper.trainer.progress.best_epoch == saved_epochs[-1]


@pytest.mark.parametrize(
    ("options", "stops_after"),
    [
        ({"monitor": "val_loss", "patience": 2}, 4),
        ({"monitor": "val_loss", "patience": 3}, None),
        ({"monitor": "val_loss", "patience": 2, "min_delta": 0.15}, 3),
        ({"monitor": "val_top1_accuracy", "patience": 2}, 3),
    ],
)
def test_early_stopping_stops_when_the_monitored_value_stops_improving(
    tmp_path: Path, options: dict[str, Any], stops_after: int | None
) -> None:
    keeper, _ = make_keeper(tmp_path, {"early_stopping": options})
    epochs = [(0.5, 1.0), (0.5, 0.9), (0.5, 0.95), (0.6, 0.91), (0.7, 0.5)]
    if stops_after is None:
        feed(keeper, epochs)
        return
    with pytest.raises(TrainingStopped, match=f"early stopping: {options['monitor']} did not improve for 2 epochs"):
        feed(keeper, epochs)
    progress = keeper.trainer.progress
    assert progress.epoch == stops_after
    assert progress.finished  # nothing is left to do


def test_early_stopping_patience_starts_anew_in_each_phase(tmp_path: Path) -> None:
    keeper, _ = make_keeper(tmp_path, {"early_stopping": {"monitor": "val_loss", "patience": 3}})
    keeper.begin_phase(1, 0)
    feed(keeper, [(0.5, 0.5), (0.5, 0.9), (0.5, 0.9)])
    assert keeper.trainer.progress.stopping_wait == 2
    keeper.begin_phase(2, 3)
    feed(keeper, [(0.5, 0.8), (0.5, 0.7)])  # the first would be the last if the earlier wait counted
    keeper.begin_phase(2, 3)  # resuming within the phase keeps its wait
    assert keeper.trainer.progress.stopping_wait == 2
    with pytest.raises(TrainingStopped, match="early stopping: val_loss did not improve for 3 epochs"):
        feed(keeper, [(0.5, 0.6)])
    assert keeper.trainer.progress.stopping_best == -0.5  # still that of the first phase


def test_non_finite_validation_loss_is_an_error_and_keeps_the_earlier_epoch(tmp_path: Path) -> None:
    keeper, saved = make_keeper(tmp_path, {})
    with pytest.raises(DataError, match="validation loss became nan at the end of epoch 2"):
        feed(keeper, [(0.5, 1.0), (0.9, float("nan"))])
    assert saved == [1]
