"""The recorded state of a comparison's trainings, so that a finished one is never repeated. No Keras.

`trainings.json` is rewritten whenever a training begins or ends. If a training is killed in between, its record is
incomplete, but never wrong: the training is resumed, which does nothing if it was done.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as checked

from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.machine.files import read_text
from wisesr_cli.run.names import TRAININGS
from wisesr_cli.run.progress import Circumstances, circumstances_from_json
from wisesr_cli.run.records import MOST_JSON_BYTES, write_json
from wisesr_cli.text import counted, visible

WAY_OUT = "start over under another --name"


@checked(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class TrainingRecord:
    """What is known of one training.

    `schedules`: the numbers of epochs requested, in order. `accuracies`: after every epoch, on the images that
    `curves_of` names. `error`: why it has no result; `is_done`: trained to the end and evaluated. Metrics are those of
    the evaluated images; `evaluation` is the run's folder with the result for each image, unless it is the usual one of
    the split.
    """

    schedules: tuple[int, ...] = ()
    is_done: bool = False
    error: str | None = None
    best_epoch: int | None = None
    accuracies: tuple[float, ...] = ()
    curves_of: Literal["validation", "training"] = "validation"
    epoch_seconds: tuple[float, ...] = ()
    top1_accuracy: float | None = None
    macro_f1: float | None = None
    evaluation: str | None = None
    head_parameters: int = 0
    total_parameters: int = 0
    feature_map: tuple[int, int, int] = (0, 0, 0)

    def __post_init__(self) -> None:
        known = (self.schedules, self.accuracies, self.epoch_seconds, self.head_parameters, self.total_parameters)
        if self.is_done and not all(known):
            raise ValueError("a training that is done lacks its figures")
        if self.evaluation is not None and Path(self.evaluation).name != self.evaluation:
            raise ValueError("an evaluation is a folder of the run")

    def is_finished(self, epochs: int) -> bool:
        """Return whether nothing is left to do for this many epochs."""
        return self.is_done and self.schedules[-1:] == (epochs,)


@dataclass
class ComparisonState:
    """What must stay the same in a comparison, the number of epochs, and a record per training, by its run's name."""

    path: Path
    circumstances: Circumstances
    epochs: int
    trainings: dict[str, TrainingRecord] = field(default_factory=dict)

    def record(self, run: str) -> TrainingRecord:
        """Return what is known of a training."""
        return self.trainings.get(run, TrainingRecord())

    def put(self, run: str, record: TrainingRecord) -> None:
        """Record what is known of a training, and write it to the disk."""
        self.trainings[run] = record
        self.write()

    def write(self) -> None:
        """Write the whole state."""
        values = {
            "circumstances": self.circumstances.to_json(),
            "epochs": self.epochs,
            "trainings": {run: asdict(record) for run, record in self.trainings.items()},
        }
        write_json(self.path, values)

    def extend_to(self, epochs: int) -> None:
        """Set the number of epochs of every training; raises a `UsageError` if it was higher before."""
        if epochs < self.epochs:
            raise UsageError(
                f"the comparison in {visible(self.path.parent)} has {counted(self.epochs, 'epoch')}; it can be "
                f"extended, but not cut to {epochs}; {WAY_OUT}"
            )
        self.epochs = epochs


def read_comparison_state(folder: Path) -> ComparisonState:
    """Return the stored state of a comparison; raises a `RunError` if damaged or from another version."""
    path = folder / TRAININGS
    try:
        values: Any = json.loads(read_text(path, MOST_JSON_BYTES))
        if not isinstance(values, dict) or values.keys() != {"circumstances", "epochs", "trainings"}:
            raise ValueError("not written by a comparison")
        records = TypeAdapter(dict[str, TrainingRecord]).validate_python(values["trainings"])
        epochs = TypeAdapter(int).validate_python(values["epochs"])
        found = values["circumstances"]
        if not isinstance(found, dict) or found.keys() != {item.name for item in fields(Circumstances)}:
            raise ValueError("it was written by another version")
        return ComparisonState(path, circumstances_from_json(found), epochs, records)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise RunError(f"{visible(path)}: damaged: {visible(place)}: {first['msg']}; {WAY_OUT}") from None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error)}; {WAY_OUT}") from None
