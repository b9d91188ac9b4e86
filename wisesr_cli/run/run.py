"""Reads and writes run directories. No Keras. `run.names` has the file names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, get_args

from wisesr_cli.errors import ConfigError, DataError, RunError
from wisesr_cli.machine.files import naming, remove, write_text
from wisesr_cli.machine.locks import Lock
from wisesr_cli.model_files.info import BEST
from wisesr_cli.run.names import (
    CALIBRATION,
    CLASSES,
    CONFIG,
    ENVIRONMENT,
    HISTORY,
    LITERT,
    LOCK,
    METRICS,
    PLOTS,
    SPLITS,
    STATE,
    TENSORBOARD,
    UPGRADED,
)
from wisesr_cli.run.records import read_json, read_rows, refuse_link_outside, write_json, write_rows
from wisesr_cli.run.written import Written
from wisesr_cli.text import first_line, visible

if TYPE_CHECKING:
    from wisesr_cli.config.schema import Config
    from wisesr_cli.results.training import EpochResult


@dataclass(frozen=True)
class Run:
    """A run directory; `lock` is held while it trains."""

    path: Path
    held: Lock | None = field(default=None, compare=False)

    def check_place(self) -> None:
        """Raise a `MachineError` if the run in training was moved or removed."""
        if self.held is not None:
            self.held.check()

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def config_path(self) -> Path:
        """The resolved config."""
        return self.path / CONFIG

    @property
    def is_complete(self) -> bool:
        """Whether it has the files written before the first step."""
        # Unlike Path.is_file, false also where the system cannot look: a name too long, a folder without permission.
        return all(os.path.isfile(self.path / name) for name in (CONFIG, CLASSES))  # noqa: PTH113

    @property
    def best(self) -> Path:
        """The best model so far."""
        return self.path / BEST

    @property
    def upgraded(self) -> Path:
        """The model that `wisesr upgrade` made; only its runs have one."""
        return self.path / UPGRADED

    @property
    def litert(self) -> Path:
        """The best model in LiteRT format, for prediction without TensorFlow."""
        return litert_path(self.best)

    @property
    def state(self) -> Path:
        """The folder that resuming reads."""
        return self.path / STATE

    @property
    def lock(self) -> Path:
        """The file locked while training runs."""
        return self.path / LOCK

    @property
    def plots(self) -> Path:
        """The folder of pictures."""
        return self.path / PLOTS

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's logs."""
        return self.path / TENSORBOARD

    def evaluation_dir(self, split: str) -> Path:
        """The folder for the evaluation of a split or of a folder of that name."""
        return self.path / f"evaluate-{split}"

    def load_config(self) -> Config:
        """Return the resolved config of the run; `RunError` when it is damaged."""
        from wisesr_cli.config.reader import load_config

        refuse_link_outside(self.config_path)
        try:
            return load_config(self.config_path, of_run=True).config
        except ConfigError as error:
            raise RunError(
                f"{first_line(error)}; the run's own config is damaged: restore it, or train again"
            ) from None
        except DataError:
            raise RunError(
                f"{visible(self.config_path)}: the run's own config is missing: restore it, or train again"
            ) from None

    def write_start(
        self,
        config: Config,
        class_names: Sequence[str],
        splits: Iterable[tuple[str, str, str]],
        environment: dict[str, Any],
    ) -> None:
        """Write what is known before the first step: config, classes, splits and environment."""
        self.write_examples(class_names, splits)
        Written(self.path).begin()  # after the classes, without which a folder with a file is not a run
        self.write_config(config)
        write_json(self.path / ENVIRONMENT, environment)

    def write_examples(self, class_names: Sequence[str], splits: Iterable[tuple[str, str, str]]) -> None:
        """Write the classes, which mark the folder as a run, and the split of every image."""
        write_json(self.path / CLASSES, list(class_names))
        write_rows(self.path / SPLITS, ("path", "label", "split"), splits)

    def write_config(self, config: Config) -> None:
        """Write the resolved config, so that `wisesr train` on it repeats the run."""
        write_text(self.config_path, stored_config(config).to_yaml())

    def read_classes(self) -> tuple[str, ...]:
        """Return the class names in index order."""
        names = read_json(self.path / CLASSES)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RunError(f"{visible(self.path / CLASSES)}: damaged: not a list of class names")
        return tuple(names)

    def read_splits(self) -> list[tuple[str, str, str]]:
        """Return path (relative to the data folder), label and split of every example; `RunError` when damaged."""
        return [(path, label, split) for path, label, split in read_rows(self.path / SPLITS, 3)]

    def check_splits(
        self, class_names: Sequence[str], rows: Iterable[tuple[str, str, str]], separator: str | None = None
    ) -> None:
        """Raise a `RunError` for a row of splits.csv that is not an example of this run; `separator` divides labels."""
        from wisesr_cli.data.settings import SplitName, parse_labels

        known = frozenset(class_names)
        for number, (path, label, split) in enumerate(rows, start=2):
            outside = PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
            labels = (label,) if separator is None else parse_labels(label, separator)
            if outside or not known.issuperset(labels) or split not in get_args(SplitName):
                raise RunError(f"{visible(self.path / SPLITS)}:{number}: damaged: not an example of this run")

    def forget_litert(self) -> None:
        """Remove the LiteRT model, before the best model is replaced."""
        with naming(self.litert):
            remove(self.litert)

    def forget_best(self) -> None:
        """Remove everything derived from the best model, before that is replaced."""
        self.forget_litert()
        for name in (METRICS, CALIBRATION):
            with naming(self.path / name):
                remove(self.path / name)

    def write_history(self, history: Iterable[EpochResult]) -> None:
        """Write a row per finished epoch; numbers read back exactly."""
        from wisesr_cli.results.training import EpochResult

        names = tuple(field.name for field in fields(EpochResult))
        rows = (["" if value is None else repr(value) for value in asdict(row).values()] for row in history)
        write_rows(self.path / HISTORY, names, rows)

    def read_history(self) -> tuple[EpochResult, ...]:
        """Return a row per finished epoch, in order; `RunError` when the file is missing or damaged."""
        from wisesr_cli.results.training import EpochResult

        columns = fields(EpochResult)
        rows = read_rows(self.path / HISTORY, len(columns))
        try:
            values = [
                [_number(cell, str(column.type)) for column, cell in zip(columns, row, strict=True)] for row in rows
            ]
        except ValueError as error:
            raise RunError(f"{visible(self.path / HISTORY)}: damaged: {visible(error)}") from None
        return tuple(EpochResult(*row) for row in values)  # type: ignore[arg-type]

    def read_environment(self) -> dict[str, Any]:
        """Return versions, device and command line of the training; `RunError` when missing or damaged."""
        values = read_json(self.path / ENVIRONMENT)
        if not isinstance(values, dict):
            raise RunError(f"{visible(self.path / ENVIRONMENT)}: damaged: not a mapping")
        return values


def _number(cell: str, kind: str) -> float | None:
    """Return the number in a cell of a column of this type; an empty cell is None if the type allows it."""
    if not cell and kind.endswith("None"):
        return None
    return int(cell) if kind == "int" else float(cell)


def litert_path(model: Path) -> Path:
    """Return the path of the model for prediction without TensorFlow, next to the model file."""
    return model.with_suffix(Path(LITERT).suffix)


def stored_config(config: Config) -> Config:
    """Return the config as stored in a run: without a name and with absolute paths, so that it repeats the run."""
    output_dir = Path(config.output_dir).expanduser().absolute()
    return config.model_copy(update={"name": None, "output_dir": output_dir})
