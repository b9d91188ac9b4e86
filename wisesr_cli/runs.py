"""Run directories: the names of their files, how they are made, and how they are read. No Keras.

Only this module knows what the files of a run directory are called.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from itertools import chain, count
from pathlib import Path, PurePosixPath
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any, get_args

from wisesr_cli.errors import ConfigError, MachineError, RunError, UsageError
from wisesr_cli.files import TEMPORARY_PREFIX, make_folder, naming, read_text, remove, replacing, write_text
from wisesr_cli.guard import alone_in
from wisesr_cli.text import csv_cell, parse_csv_cell, visible

if TYPE_CHECKING:  # `predict` looks for a model here, and needs no config, which takes a tenth of a second
    from wisesr_cli.config import Config
    from wisesr_cli.results import EpochResult, Metrics

BEST = "best.keras"
LITERT = "best.tflite"
CONFIG = "config.yaml"
CLASSES = "classes.json"
SPLITS = "splits.csv"
ENVIRONMENT = "environment.json"
HISTORY = "history.csv"
METRICS = "metrics.json"
STATE = "state"
PLOTS = "plots"
TENSORBOARD = "tensorboard"
LOCK = ".lock"

MOST_TABLE_BYTES = 1 << 30  # splits.csv of ten million images
MOST_JSON_BYTES = 1 << 26

# In the folder of an evaluation, beside its metrics.
PER_CLASS = "per_class.csv"
CONFUSION_MATRIX = "confusion_matrix.csv"
PREDICTIONS = "predictions.csv"
EVALUATION_FILES = (METRICS, PER_CLASS, CONFUSION_MATRIX, PREDICTIONS)
REPORT = "report.html"  # only where it was asked for

# In the folder of explanations, `EXPLAIN` unless another one is given.
EXPLAIN = "explain"
CONTRIBUTIONS = "contributions.npz"
EXPLANATIONS = "explanations.json"
EXPLANATIONS_TABLE = "explanations.csv"
EXPLAINED_PICTURE = "image-{:05}-{}.png"  # number and name of the image
EXPLAINED_SHEET = "contact_sheet-{:03}.png"
WEIGHTS_PICTURE = "weights.png"
WEIGHTS_NUMBERS = "weights.npz"
EXPLAINED_PATTERNS = (f"image-{'[0-9]' * 5}*-*.png", f"contact_sheet-{'[0-9]' * 3}*.png")
EXPLANATION_FILES = (CONTRIBUTIONS, EXPLANATIONS, EXPLANATIONS_TABLE, WEIGHTS_PICTURE, WEIGHTS_NUMBERS)

# In the folder of a comparison, beside a run directory for every head and seed; the first with its first training.
TRAININGS = "trainings.json"
COMPARISON = "comparison.json"
COMPARISON_TABLE = "comparison.csv"
COMPARISON_TEXT = "comparison.md"
COMPARISON_FILES = (COMPARISON, COMPARISON_TABLE, COMPARISON_TEXT)
ACCURACY_PICTURE = "accuracy.png"

# In the folder of plots. Those with a gap, for what was evaluated, come with each evaluation.
LEARNING_CURVES = "learning_curves.png"
CONFUSION_PICTURE = "confusion_matrix-{}.png"
RELIABILITY_PICTURE = "reliability-{}.png"
EVALUATION_PICTURES = (CONFUSION_PICTURE, RELIABILITY_PICTURE)

_LEFTOVERS = tuple(f"{folder}{TEMPORARY_PREFIX}*" for folder in ("", f"{PLOTS}/", f"{EXPLAIN}/", "evaluate-*/"))

# What `--overwrite` takes away; whatever else lies in a run directory is the user's. The classes go last: with them a
# folder is known to be a run, in which another process may take away what a killed one did not come to.
_OUR_STATES = (f"{STATE}/epoch-{'[0-9]' * 6}*", f"{STATE}/{TEMPORARY_PREFIX}*")
_OUR_FILES = (
    *(f"{PLOTS}/{name}" for name in (LEARNING_CURVES, *(name.format("*") for name in EVALUATION_PICTURES))),
    f"{TENSORBOARD}/**/events.out.tfevents.*",
    *(f"evaluate-*/{name}" for name in (*EVALUATION_FILES, REPORT)),
    *(f"{EXPLAIN}/{name}" for name in (*EXPLANATION_FILES, *EXPLAINED_PATTERNS)),
    *(LITERT, BEST, CONFIG, SPLITS, ENVIRONMENT, HISTORY, METRICS, CLASSES),
)
_OUR_FOLDERS = (STATE, PLOTS, f"{TENSORBOARD}/*", TENSORBOARD, EXPLAIN, "evaluate-*")


@dataclass(frozen=True)
class Run:
    """A run directory."""

    path: Path

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
        """Whether it has what a training writes before its first step."""
        # Unlike Path.is_file, false also where the system cannot look: a name too long, a folder without permission.
        return all(os.path.isfile(self.path / name) for name in (CONFIG, CLASSES))  # noqa: PTH113

    @property
    def best(self) -> Path:
        """The best model so far."""
        return self.path / BEST

    @property
    def litert(self) -> Path:
        """The best model once more, for prediction without TensorFlow."""
        return litert_path(self.best)

    @property
    def state(self) -> Path:
        """The folder that resuming reads."""
        return self.path / STATE

    @property
    def lock(self) -> Path:
        """The file that a running training holds."""
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
        """Return the resolved config of the run.

        Raises:
            RunError: it is damaged.
        """
        from wisesr_cli.config_reader import load_config

        try:
            return load_config(self.config_path).config
        except ConfigError as error:
            reason = str(error).splitlines()[0]
            raise RunError(f"{reason}; the run's own config is damaged: put it back, or train anew") from None

    def write_start(
        self,
        config: Config,
        class_names: Sequence[str],
        splits: Iterable[tuple[str, str, str]],
        environment: dict[str, Any],
    ) -> None:
        """Write what is known before the first step: config, classes, splits and environment."""
        self.write_examples(class_names, splits)
        self.write_config(config)
        write_json(self.path / ENVIRONMENT, environment)

    def write_examples(self, class_names: Sequence[str], splits: Iterable[tuple[str, str, str]]) -> None:
        """Write the classes, which make the folder a run's, and which image is in which split."""
        write_json(self.path / CLASSES, list(class_names))
        write_rows(self.path / SPLITS, ("path", "label", "split"), splits)

    def write_config(self, config: Config) -> None:
        """Write the resolved config, so that `wisesr train` on it repeats the run."""
        write_text(self.config_path, stored_config(config).to_yaml())

    def read_classes(self) -> tuple[str, ...]:
        """Return the class names in index order."""
        names = _read_json(self.path / CLASSES)
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise RunError(f"{visible(self.path / CLASSES)}: damaged: not a list of class names")
        return tuple(names)

    def read_splits(self) -> list[tuple[str, str, str]]:
        """Return path (relative to the data folder), label and split of every example.

        Raises:
            RunError: the file is missing or damaged.
        """
        return [(path, label, split) for path, label, split in read_rows(self.path / SPLITS, 3)]

    def check_splits(self, class_names: Sequence[str], rows: Iterable[tuple[str, str, str]]) -> None:
        """Raise a `RunError` when a row of splits.csv is no example of this run."""
        from wisesr_cli.config import SplitName

        known = frozenset(class_names)
        for number, (path, label, split) in enumerate(rows, start=2):
            outside = PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts
            if outside or label not in known or split not in get_args(SplitName):
                raise RunError(f"{visible(self.path / SPLITS)}:{number}: damaged: not an example of this run")

    def forget_litert(self) -> None:
        """Take away the model for prediction without TensorFlow, which is about to be that of another epoch."""
        _remove(self.litert)

    def write_history(self, history: Iterable[EpochResult]) -> None:
        """Write a row per finished epoch; numbers are written so that they read back exactly."""
        from wisesr_cli.results import EpochResult

        names = tuple(field.name for field in fields(EpochResult))
        rows = (["" if value is None else repr(value) for value in asdict(row).values()] for row in history)
        write_rows(self.path / HISTORY, names, rows)

    def read_history(self) -> tuple[EpochResult, ...]:
        """Return a row per finished epoch, in order.

        Raises:
            RunError: the file is missing or damaged.
        """
        from wisesr_cli.results import EpochResult

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
        """Return what the training ran on: versions, device, command line.

        Raises:
            RunError: the file is missing or damaged.
        """
        values = _read_json(self.path / ENVIRONMENT)
        if not isinstance(values, dict):
            raise RunError(f"{visible(self.path / ENVIRONMENT)}: damaged: not a mapping")
        return values

    def write_metrics(self, metrics: Metrics) -> None:
        """Write the metrics of the best epoch."""
        write_json(self.path / METRICS, metrics.to_json())


def _number(cell: str, kind: str) -> float | None:
    """Return what a cell of a column of that type holds; an empty one is None where there may be none."""
    if not cell and kind.endswith("None"):
        return None
    return int(cell) if kind == "int" else float(cell)


def open_run(path: str | Path) -> Run:
    """Return the run directory at `path`, or the one that a `best.keras` lies in.

    Raises:
        RunError: it is not a run directory; the message says what is there and what to type.
    """
    folder = Path(path)
    folder = folder.parent if folder.is_file() else folder
    if not folder.is_dir():
        raise RunError(f"{visible(path)}: no such run directory; wisesr train makes one")
    run = Run(folder)
    if not run.is_complete:
        raise RunError(
            f"{visible(path)}: not a run directory: it has no {CONFIG} and {CLASSES}; wisesr train makes one"
        )
    return run


def config_source(source: str | Path | None) -> str | Path | None:
    """Return the config of a run directory, or what was given when it is none.

    Raises:
        RunError: the config of the run is damaged.
    """
    if source is None or not str(source):
        return source
    path = Path(source)
    run = Run(path.parent if path.suffix == ".keras" and path.is_file() else path)
    if not run.is_complete:
        return source
    run.load_config()
    return run.config_path


def model_path(run: str | Path) -> Path:
    """Return the model file of a run directory, or the `.keras` file itself.

    Raises:
        RunError: there is none.
    """
    path = Path(run)
    if path.is_file():
        if path.suffix != ".keras":
            raise RunError(f"{visible(run)}: neither a run directory nor a .keras file")
        return path
    best = open_run(path).best
    if not best.is_file():
        raise RunError(f"{visible(run)}: no {BEST} yet: no epoch has finished; go on with wisesr train --resume")
    return best


def litert_path(model: Path) -> Path:
    """Return where the same model for prediction without TensorFlow lies: beside the model file."""
    return model.with_suffix(Path(LITERT).suffix)


def weights_file(source: str) -> Path:
    """Return the file that `model.weights` names: itself, or the best model of a run directory.

    Raises:
        RunError: there is none.
    """
    path = Path(source) / BEST if Path(source).is_dir() else Path(source)
    if not path.is_file():
        raise RunError(
            f"model.weights: {visible(path)}: no such file; allowed: imagenet, a weights or .keras file, a run"
        )
    return path


@dataclass(frozen=True)
class Start:
    """Where a training writes, and whether it goes on with what is there or finds the name free."""

    run: Run
    resumed: bool
    is_new: bool = False


def choose_run(config: Config, default_name: str, *, resume: bool, overwrite: bool) -> Start:
    """Return the run directory to train in, without writing anything yet.

    Raises:
        UsageError: the name was given and is taken, or the folder holds something else.
    """
    if resume and overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    parent = Path(config.output_dir).expanduser()
    check_output_folder(parent)
    if config.name is not None:
        run = Run(parent / config.name)
        if not _taken(run.path):
            return Start(run, resumed=False, is_new=True)
        if not run.path.is_dir():
            raise UsageError(f"{visible(run.path)} is not a folder; give another --name")
        if not (run.path / CLASSES).is_file() and not (resume and run.state.is_dir()):  # resuming writes them again
            raise UsageError(f"{visible(run.path)} holds something that is no run; give another --name")
        if resume or overwrite:
            return Start(run, resumed=resume)
        raise UsageError(
            f"{visible(run.path)} exists; give another --name, go on with --resume, or start anew with --overwrite"
        )
    if (resume or overwrite) and (newest := _newest(parent, default_name, CONFIG)) is not None:
        return Start(Run(newest), resumed=resume)
    return Start(Run(_free_folder(parent, default_name)), resumed=False, is_new=True)


def choose_comparison(config: Config, default_name: str, *, resume: bool) -> Start:
    """Return the folder for a comparison, without writing anything yet; its lock and its plots are where a run's are.

    Raises:
        UsageError: the name was given and is taken, or the folder holds something else.
    """
    parent = Path(config.output_dir).expanduser()
    check_output_folder(parent)
    if config.name is None:
        newest = _newest(parent, default_name, TRAININGS) if resume else None
        if newest is not None:
            return Start(Run(newest), resumed=True)
        return Start(Run(_free_folder(parent, default_name)), resumed=False, is_new=True)
    path = parent / config.name
    if not _taken(path):
        return Start(Run(path), resumed=False, is_new=True)
    if not (path / TRAININGS).is_file():
        raise UsageError(f"{visible(path)} holds something that is no comparison; give another --name")
    if not resume:
        raise UsageError(f"{visible(path)} exists; give another --name, or go on with --resume")
    return Start(Run(path), resumed=True)


def _free_folder(parent: Path, default_name: str) -> Path:
    names = chain((default_name,), (f"{default_name}-{number}" for number in count(2)))
    return next(parent / name for name in names if not _taken(parent / name))


def check_still_new(start: Start) -> None:
    """Raise a `MachineError` when a run was made where there was none; to be called with its lock held."""
    if start.is_new and _taken(start.run.path):
        raise MachineError(f"{visible(start.run.path)}: was made by another wisesr meanwhile; repeat the command")


def _newest(parent: Path, default_name: str, mark: str) -> Path | None:
    """Return the folder whose file `mark` is the newest among `default_name`, `default_name`-2, and so on."""
    pattern = re.compile(re.escape(default_name) + r"(-([2-9]|[1-9]\d+))?")
    folders = sorted(parent.iterdir()) if parent.is_dir() else []
    marked = [path for path in folders if pattern.fullmatch(path.name) and (path / mark).is_file()]
    return max(marked, key=lambda path: (path / mark).stat().st_mtime_ns, default=None)


def check_output_folder(folder: Path) -> None:
    """Check that a folder is there or can be made in the one above it.

    Raises:
        UsageError: a file stands in its place.
        MachineError: the folder above it is missing: a typo, or a disk that is not there.
    """
    with naming(folder):
        blocked = next((path for path in (folder, *folder.parents) if path.exists() and not path.is_dir()), None)
        is_missing = not folder.absolute().parent.exists()
    if blocked is not None:
        raise UsageError(f"{visible(blocked)} is a file; the output directory must be a folder")
    if is_missing:
        raise MachineError(
            f"{visible(folder.absolute().parent)}: no such folder; make it first, or give another --output-dir"
        )


def _taken(path: Path) -> bool:
    """Return whether there is more at `path` than what a training killed before its first file left there."""
    if not path.is_dir():
        return path.exists() or path.is_symlink()
    with suppress(FileNotFoundError):  # taken away by another process meanwhile
        return any(entry.name != LOCK and not entry.name.startswith(TEMPORARY_PREFIX) for entry in path.iterdir())
    return False


def prepare_folder(run: Run, *, overwrite: bool) -> None:
    """Make the run directory; with `overwrite`, take away what an earlier run wrote there, and nothing else."""
    make_folder(run.path)
    with naming(run.path):
        if overwrite:
            for pattern in (*_OUR_STATES, *_OUR_FILES):
                for path in sorted(run.path.glob(pattern)):
                    _remove(path)
            for folder in sorted((path for pattern in _OUR_FOLDERS for path in run.path.glob(pattern)), reverse=True):
                _remove_if_empty(folder)
        for leftover in (path for pattern in _LEFTOVERS for path in run.path.glob(pattern)):
            _remove(leftover)


def check_kinds(run: Run) -> None:
    """Raise a `RunError` when a folder lies where a file of the run should be, or a file in place of a folder."""
    _check_kinds(
        files=(path for pattern in (*_OUR_FILES, LOCK) for path in sorted(run.path.glob(pattern))),
        folders=(run.state, run.plots, run.tensorboard),
    )


def check_comparison_kinds(folder: Run) -> None:
    """Raise a `RunError` when a folder lies where a file of a comparison should be, or a file in place of a folder."""
    pictures = [folder.plots / name for name in (ACCURACY_PICTURE, LEARNING_CURVES)]
    names = (TRAININGS, *COMPARISON_FILES, LOCK)
    _check_kinds(files=[*(folder.path / name for name in names), *pictures], folders=(folder.plots,))


def _check_kinds(*, files: Iterable[Path], folders: Iterable[Path]) -> None:
    for folder in folders:
        if folder.is_symlink():
            raise RunError(f"{visible(folder)}: is a link; nothing is written through it: take it away")
        if folder.exists() and not folder.is_dir():
            raise RunError(f"{visible(folder)}: is a file; a run has a folder there: take it away")
    for path in files:
        if path.is_dir():
            raise RunError(f"{visible(path)}: is a folder; a run has a file there: take it away")


@contextmanager
def evaluation_folder(run: Run, name: str) -> Iterator[Path]:
    """Give the folder for an evaluation, having made sure that everything can be written there and into the plots.

    A folder that was made here and is empty when the block fails is taken away.

    Raises:
        RunError: a file lies where a folder should be, or a folder in place of a file.
        MachineError: nobody may write there.
    """
    folder, plots = run.evaluation_dir(name), run.plots
    pictures = [plots / picture.format(name) for picture in EVALUATION_PICTURES]
    with naming(folder):
        files = [folder / file for file in (*EVALUATION_FILES, REPORT)]
        _check_kinds(files=[*files, *pictures], folders=(folder, plots))
        made = [path for path in (folder, plots) if not path.exists()]
    try:
        for path in (folder, plots):
            make_folder(path)
            with naming(path), TemporaryFile(prefix=TEMPORARY_PREFIX, dir=path):
                pass  # it can be written
        yield folder
    except BaseException:
        for path in made:
            _remove_if_empty(path)
        raise


@contextmanager
def explanation_folder(model: Path, given: str | None, option: str) -> Iterator[Path]:
    """Give the folder for explanations, beside the model file unless one is given, having made sure of writing there.

    `option` is the one that gives it, for an error. A folder that was made here and is empty when the block fails is
    taken away.

    Raises:
        UsageError: a file lies in its place.
        RunError: a folder lies in place of a file in it, or the one beside the model is a link.
        MachineError: nobody may write there, another process does, or the folder above it is missing.
    """
    if given == "":
        raise UsageError(f"{option} is empty; it takes a folder")
    folder = model.parent / EXPLAIN if given is None else Path(given)
    check_output_folder(folder)
    with naming(folder):
        _check_kinds(files=[folder / name for name in EXPLANATION_FILES], folders=(folder,) if given is None else ())
        is_new = not folder.exists()
    try:
        make_folder(folder)
        with alone_in(folder):
            with naming(folder), TemporaryFile(prefix=TEMPORARY_PREFIX, dir=folder):  # it can be written
                for leftover in sorted(folder.glob(f"{TEMPORARY_PREFIX}*.png")):  # of a process that was killed
                    leftover.unlink(missing_ok=True)
            yield folder
    except BaseException:
        if is_new:
            _remove_if_empty(folder)
        raise


@contextmanager
def forget_if_empty(run: Run) -> Iterator[None]:
    """Take the run directory away when the block, which holds its lock, fails before anything was written into it."""
    try:
        yield
    except BaseException:
        if not _taken(run.path):
            with suppress(OSError):  # what the block failed for is what counts
                run.lock.unlink()
            _remove_if_empty(run.path)
        raise


def _remove(path: Path) -> None:
    with naming(path):
        remove(path)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # the user's files are in it, or it is no folder
        folder.rmdir()


def stored_config(config: Config) -> Config:
    """Return the config as a run keeps it: without a name and with absolute paths, so that it repeats the run."""
    output_dir = Path(config.output_dir).expanduser().absolute()
    return config.model_copy(update={"name": None, "output_dir": output_dir})


def write_json(path: Path, value: Any) -> None:
    """Write JSON as a whole; values that are not finite are a bug."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_rows(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file as a whole, with cells that no spreadsheet takes for a formula."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([csv_cell(cell) for cell in header])
        writer.writerows([csv_cell(cell) for cell in row] for row in rows)


def read_rows(path: Path, columns: int) -> list[list[str]]:
    """Return the rows of a CSV file that `write_rows` wrote, without the header.

    Raises:
        RunError: the file is missing, or a row has another number of columns.
    """
    try:
        text = read_text(path, MOST_TABLE_BYTES)
    except (OSError, ValueError) as error:
        raise RunError(f"{visible(path)}: cannot be read: {visible(error)}") from None
    try:
        rows = [[parse_csv_cell(cell) for cell in row] for row in csv.reader(io.StringIO(text))][1:]
    except csv.Error as error:
        raise RunError(f"{visible(path)}: damaged: {visible(error)}") from None
    for number, row in enumerate(rows, start=2):
        if len(row) != columns:
            raise RunError(f"{visible(path)}:{number}: damaged: {len(row)} columns, expected {columns}")
    return rows


def _read_json(path: Path) -> Any:
    try:
        return json.loads(read_text(path, MOST_JSON_BYTES))
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{visible(path)}: cannot be read: {visible(error)}") from None
