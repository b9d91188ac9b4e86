"""The text of a report: run, model and data, what the figures do not show, and the run's own files.

Paths are shortened to their last component: a report is made to be passed on, and the path of a home folder reveals
more than its reader needs. The run's own files keep the full paths.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from wisesr_cli.config.schema import dump_yaml
from wisesr_cli.data.index import DatasetIndex
from wisesr_cli.engines.choose import EngineName
from wisesr_cli.errors import RunError
from wisesr_cli.evaluation.evaluate import Evaluated, Subject
from wisesr_cli.images.color import bands_text
from wisesr_cli.images.preparation import RGB, Preparation, range_text
from wisesr_cli.report.records import DataTable
from wisesr_cli.results.evaluation import Evaluation, Metrics, Verdict
from wisesr_cli.results.training import EpochResult
from wisesr_cli.run.names import CONFIG, ENVIRONMENT, HISTORY, SPLITS
from wisesr_cli.run.run import Run
from wisesr_cli.text import counted, visible

MOST_NAMED = 5  # unreadable images
FEW_EXAMPLES = 30  # of a class: its recall then has a 95 % interval of 35 points, if half are right
_FOLDERS = re.compile(r"(?:^|(?<==))/(?:.*/)?(?=[^/]+/?$)", re.DOTALL)
_ENGINES: dict[EngineName, str] = {"litert": "LiteRT", "keras": "Keras"}
_RESIZED = {"squash": "squashed to it, whatever their shape", "crop": "cut to its shape", "pad": "padded to its shape"}

Value = TypeVar("Value")


@dataclass
class RunFiles:
    """What a run directory holds besides its model; `left_out` says what is missing, and why."""

    history: tuple[EpochResult, ...] = ()
    config: str = ""
    environment: str = ""
    splits: dict[str, tuple[int, ...]] = field(default_factory=dict)  # images per class
    left_out: list[str] = field(default_factory=list)


def read_run_files(evaluated: Evaluated) -> RunFiles:
    """Return the content of a run's files, and note which are missing or damaged."""
    run, found = evaluated.run.run, RunFiles()
    if not run.is_complete:
        found.left_out.append("Learning curves, config, environment: the model file is not in a run directory")
        return found

    def read(name: str, function: Callable[[], Value], default: Value) -> Value:
        try:
            return function()
        except RunError as error:
            found.left_out.append(f"{name}: {shorten_path(str(error), run)}")
            return default

    found.history = read(f"Learning curves ({HISTORY})", run.read_history, ())
    found.config = read(f"Config ({CONFIG})", lambda: dump_yaml(without_folders(run.load_config().to_dict())), "")
    found.environment = read(
        f"Environment ({ENVIRONMENT})",
        lambda: json.dumps(without_folders(run.read_environment()), indent=1, ensure_ascii=False),
        "",
    )
    found.splits = read(f"Images per split ({SPLITS})", lambda: _count_splits(run, evaluated.info.class_names), {})
    return found


def _count_splits(run: Run, class_names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    rows = run.read_splits()
    run.check_splits(class_names, rows)
    labels = {name: label for label, name in enumerate(class_names)}
    counts: dict[str, list[int]] = {}
    for _, name, split in rows:
        counts.setdefault(split, [0] * len(class_names))[labels[name]] += 1
    return {split: tuple(numbers) for split, numbers in counts.items()}


def without_folders(value: Any) -> Any:
    """Return plain values with every absolute path in them, also after `name=`, shortened to its last component."""
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_folders(item) for item in value]
    return _FOLDERS.sub("\u2026/", value) if isinstance(value, str) else value


def shorten_path(message: str, run: Run) -> str:
    """Return a message about a file of the run without the run's path."""
    return message.replace(f"{visible(run.path)}/", "")


def verdict_of(evaluated: Evaluated) -> tuple[Verdict, ...]:
    """Return the verdict, with the folders above the run removed from its commands."""
    folder = f"{evaluated.run.run.path.parent}/"
    return tuple(
        replace(row, command=row.command.replace(folder, "\u2026/")) if row.command and folder[0] == "/" else row
        for row in evaluated.evaluation.metrics.verdict
    )


def data_table(evaluated: Evaluated, files: RunFiles) -> DataTable:
    """Return the image counts of every class in the run's splits and in the evaluated folder."""
    columns = dict(files.splits)
    subject = evaluated.subject
    if subject.title not in columns:
        columns[subject.title] = tuple(subject.index.counts(subject.split).tolist())
    return DataTable(tuple(columns), tuple(columns.values()), subject.title)


def describe(evaluated: Evaluated) -> Iterator[tuple[str, str]]:
    """Yield what was evaluated on what, as pairs of name and text."""
    info, index, evaluation = evaluated.info, evaluated.subject.index, evaluated.evaluation
    height, width = info.image_size
    versions = (f"{name} {info.versions[name]}" for name in ("wisesr", "keras", "tensorflow") if name in info.versions)
    yield "Model", f"{info.backbone}, head {info.head}, {counted(len(info.class_names), 'class', 'classes')}"
    yield "Trained", f"weights of epoch {info.epoch}; {', '.join(versions)}"
    rest = "" if evaluated.subject.image_size is None else "; the model was trained at another size"
    yield "Images seen at", f"{height} x {width} pixels (height x width), {_RESIZED[info.preparation.resize]}{rest}"
    if info.preparation.channels != RGB:
        yield "Channels", _channels(info.preparation)
    if (low_high := info.preparation.value_range) is not None:
        yield "Values seen", f"{range_text(low_high)} of images of more than 8 bits become 0 to 255"
    if info.temperature == 1:
        yield "Scores", "the softmax of the logits"
    else:
        yield "Scores", f"calibrated: the softmax of the logits divided by {info.temperature:.3g}"
    engine = f"{_ENGINES[evaluated.engine]} in {evaluated.request.precision}"
    yield "Evaluated on", f"{evaluated.subject.title}: {counted(evaluation.metrics.examples, 'image')}, by {engine}"
    yield "Unreadable", _unreadable(index, evaluation)
    if index.ignored:
        yield "Ignored", ", ".join(f"{count:,} x {kind}" for kind, count in sorted(index.ignored.items()))


def _channels(preparation: Preparation) -> str:
    if not preparation.has_bands:
        return "one, grey"
    return f"{preparation.channels} bands; pictures show {bands_text((), preparation.channels)}"


def _unreadable(index: DatasetIndex, evaluation: Evaluation) -> str:
    """Return how many images were unreadable, and name the first of those that the folder's scan found."""
    count = evaluation.unreadable + len(index.unreadable)
    if not count:
        return "none"
    named = (f"{path}: {reason}" for path, reason in index.unreadable[:MOST_NAMED])
    return "; ".join([f"{counted(count, 'image')} skipped", *named])


def cautions(metrics: Metrics, subject: Subject) -> Iterator[str]:
    """Yield what a reader should know before trusting the figures."""
    if metrics.interval is None:
        return
    yield "The interval does not cover training again with another seed, nor images of another kind."
    support = np.array([row.support for row in metrics.per_class])
    if subject.is_own and subject.split == "validation":
        yield "The best epoch was chosen on these images: on new ones expect somewhat less."
    if subject.is_own and subject.split == "train":
        yield "The model was trained on these images: the figures say how well it remembers, not how well it will do."
    few, none = int(np.sum((support > 0) & (support < FEW_EXAMPLES))), int(np.sum(support == 0))
    if few:
        classes = counted(few, "class has", "classes have")
        yield f"{classes} fewer than {FEW_EXAMPLES} images here: the figures of a single class are rough."
    if none:
        yield f"{counted(none, 'class has', 'classes have')} no image here: the means over classes exclude them."
