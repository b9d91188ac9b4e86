"""Judges a run on labelled images, and writes what came out beside the run. No Keras here: an engine runs the model."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.data.dataset import DatasetIndex, index_from_rows, scan_folder_for_evaluation
from wisesr_cli.data.pixels import DecodedImages, open_pixels
from wisesr_cli.data.settings import DataConfig, SplitName
from wisesr_cli.data.survey import find_layout
from wisesr_cli.display.plots import plot_confusion_matrix, plot_reliability
from wisesr_cli.engines.engine import Engine, padded_logits
from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.evaluation.folder import evaluation_folder
from wisesr_cli.evaluation.metrics import compute_metrics, most_confused, reliability_bins, softmax, worst_mistakes
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.model_files.info_file import read_model_info
from wisesr_cli.models.image_sizes import ImageSize
from wisesr_cli.results import Evaluation, Listener, Metrics
from wisesr_cli.run.names import (
    CONFUSION_MATRIX,
    CONFUSION_PICTURE,
    METRICS,
    PER_CLASS,
    PREDICTIONS,
    RELIABILITY_PICTURE,
)
from wisesr_cli.run.records import write_json, write_rows
from wisesr_cli.run.run import Run, model_path, open_run
from wisesr_cli.text import joined, size_text, visible

LONGEST_NAME = 200  # bytes of a folder's name; a file system takes 255, and some are put before and behind it


@dataclass(frozen=True)
class Judged:
    """The metrics of some examples, with the probabilities that they come from."""

    metrics: Metrics
    probabilities: NDArray[np.float64]  # (examples, classes)


@dataclass(frozen=True)
class Answers:
    """What a model answered to the images of a subject that could be read, in the order of its index."""

    paths: tuple[str, ...]  # relative to the index's root
    labels: NDArray[np.int64]  # (examples,)
    probabilities: NDArray[np.float64]  # (examples, classes)


@dataclass(frozen=True)
class Subject:
    """The labelled images that a run is judged on: one split of an index, and the name of its results."""

    index: DatasetIndex
    split: str
    name: str
    is_own: bool  # a split of the run itself; a folder may be called as one
    image_size: ImageSize | None = None  # where it is not the one that the model was trained at

    @property
    def results_name(self) -> str:
        """What its results are called: `test`, or `test-288x288` at another image size than that of the training."""
        return self.name if self.image_size is None else f"{self.name}-{size_text(self.image_size)}"

    @property
    def title(self) -> str:
        """What a reader is told was judged on: `test`, or `folder test`."""
        return self.name if self.is_own else f"folder {self.name}"


def evaluate_pixels(
    engine: Engine, pixels: DecodedImages, labels: NDArray[np.int64], *, batch_size: int, listener: Listener
) -> Judged:
    """Return the metrics of a model on images with labels, int64 (examples,)."""
    logits = np.empty((len(pixels), len(engine.info.class_names)), np.float32)
    with listener.progress("evaluating", len(pixels)) as progress:
        for start in range(0, len(pixels), batch_size):
            chosen = np.arange(start, min(start + batch_size, len(pixels)))
            logits[chosen] = padded_logits(engine, pixels.batch(chosen), batch_size)
            progress.advance(len(chosen))
    return Judged(compute_metrics(logits, labels, engine.info.class_names), softmax(logits))


def choose_subject(
    run_path: str | Path,
    *,
    split: str | None,
    data: str | Path | None,
    on_error: str,
    pixel_limit: int = PIXEL_LIMIT,
    listener: Listener,
) -> Subject:
    """Return what to judge on: a folder, a split of the run, or by default its test split, else validation.

    Raises:
        UsageError: both are given, or the run lacks the split, or has no images.
        RunError: a lone model file without a folder.
    """
    if split is not None and data is not None:
        raise UsageError("--split and --data exclude each other")
    if data is not None:
        class_names = _class_names(run_path)
        index = scan_folder_for_evaluation(
            data, class_names, on_error=on_error, pixel_limit=pixel_limit, listener=listener
        )
        name = _name_of(data)
        if name in get_args(SplitName):
            listener.warn(f"evaluate-{name} may hold results of the run's own {name} split: they are replaced")
        return Subject(index, "test", name, is_own=False)
    if Path(run_path).is_file() and not Run(Path(run_path).parent).is_complete:
        raise RunError(f"{visible(run_path)}: a model file without its run directory has no splits; give --data FOLDER")
    run = open_run(run_path)
    root = _data_root(run)
    class_names, rows = run.read_classes(), run.read_splits()
    run.check_splits(class_names, rows)
    index = index_from_rows(root, class_names, rows)
    available = [name for name in ("test", "validation", "train") if name in index.splits]
    if split is None:
        chosen = next((name for name in available if name != "train"), None)
        if chosen is None:
            raise UsageError(f"{visible(run_path)}: the run has no test or validation split; give --data FOLDER")
        return Subject(index, chosen, chosen, is_own=True)
    if split not in available:
        raise UsageError(f"{visible(run_path)}: the run has no {visible(split)} split; it has {joined(available)}")
    return Subject(index, split, split, is_own=True)


def _name_of(folder: str | Path) -> str:
    """Return what the results on a folder are called: its name, cut when no file could be called after it."""
    name = Path(os.path.abspath(folder)).name or "root"  # noqa: PTH100  (unlike Path.absolute, it resolves `..`)
    while len(os.fsencode(name)) > LONGEST_NAME:
        name = name[:-1]
    return name


def data_settings(run_path: str | Path) -> DataConfig:
    """Return the run's settings about images; the defaults for a model file without its run directory."""
    run = _run_of(run_path)
    return run.load_config().data if run.is_complete else DataConfig()


def output_folder(run_path: str | Path, subject: Subject) -> AbstractContextManager[Path]:
    """Give the folder that the evaluation of a subject is written to; see `folder.evaluation_folder`."""
    return evaluation_folder(_run_of(run_path), subject.results_name)


def _run_of(run_path: str | Path) -> Run:
    """Return the run directory itself, or the folder of a model file."""
    path = Path(run_path)
    return Run(path.parent if path.is_file() else path)


def _class_names(run_path: str | Path) -> tuple[str, ...]:
    return read_model_info(model_path(run_path)).class_names


def _data_root(run: Run) -> str:
    data = run.load_config().data
    folder = data.dir or data.train_dir
    if folder is None:
        raise UsageError(f"{visible(run.path)}: the run has no images of its own yet; give --data FOLDER")
    if not folder.is_dir():
        raise RunError(f"{visible(run.path)}: its images are no longer at {visible(folder)}; give --data FOLDER")
    return find_layout(data).root


def evaluate(
    run_path: str | Path,
    engine: Engine,
    subject: Subject,
    *,
    batch_size: int,
    on_error: str,
    pixel_limit: int = PIXEL_LIMIT,
    output: Path,
    listener: Listener,
) -> tuple[Evaluation, Answers]:
    """Judge a model on a subject and write metrics and tables into the folder `output`, and plots beside it.

    Beside the evaluation, return the answers to single images that it comes from.

    Raises:
        DataError: images cannot be read and `on_error` is not `skip`.
        RunError: the model's classes are not those of the images.
    """
    if engine.info.class_names != subject.index.class_names:
        raise RunError(f"{visible(run_path)}: the model file has other classes than the run")
    paths = subject.index.absolute(subject.split)
    pixels = open_pixels(
        paths,
        image_size=engine.info.image_size,
        resize=engine.info.resize,
        cache="none",
        on_error="skip" if on_error == "skip" else "fail",
        pixel_limit=pixel_limit,
        listener=listener,
    )
    with closing(pixels):
        labels = subject.index.splits[subject.split].labels[pixels.kept]
        judged = evaluate_pixels(engine, pixels, labels, batch_size=batch_size, listener=listener)
        shown_paths = tuple(subject.index.splits[subject.split].paths[position] for position in pixels.kept)
    evaluation = Evaluation(
        split=subject.results_name,
        metrics=judged.metrics,
        most_confused=most_confused(judged.metrics),
        worst_mistakes=worst_mistakes(shown_paths, labels, judged.probabilities, engine.info.class_names),
        reliability=reliability_bins(judged.probabilities, labels),
        output_dir=str(output),
        unreadable=len(paths) - len(pixels),
    )
    answers = Answers(shown_paths, labels, judged.probabilities)
    _write(output, evaluation, answers)
    return evaluation, answers


def _write(output: Path, evaluation: Evaluation, answers: Answers) -> None:
    metrics = evaluation.metrics
    write_json(output / METRICS, metrics.to_json())
    write_rows(
        output / PER_CLASS,
        ("label", "support", "precision", "recall", "f1"),
        ((row.label, str(row.support), *map(_cell, (row.precision, row.recall, row.f1))) for row in metrics.per_class),
    )
    write_rows(
        output / CONFUSION_MATRIX,
        ("truth", *metrics.classes),
        ((name, *map(str, row)) for name, row in zip(metrics.classes, metrics.confusion_matrix, strict=True)),
    )
    probabilities, predicted = answers.probabilities, answers.probabilities.argmax(axis=1)
    write_rows(
        output / PREDICTIONS,
        ("path", "truth", "predicted", "score", "truth_score", "correct"),
        (
            (
                path,
                metrics.classes[truth],
                metrics.classes[guess],
                repr(float(row[guess])),
                repr(float(row[truth])),
                str(truth == guess).lower(),
            )
            for path, truth, guess, row in zip(answers.paths, answers.labels, predicted, probabilities, strict=True)
        ),
    )
    plots = Run(output.parent).plots
    plot_confusion_matrix(metrics, plots / CONFUSION_PICTURE.format(evaluation.split))
    plot_reliability(evaluation.reliability, metrics.ece, plots / RELIABILITY_PICTURE.format(evaluation.split))


def _cell(value: float | None) -> str:
    return "" if value is None else repr(value)
