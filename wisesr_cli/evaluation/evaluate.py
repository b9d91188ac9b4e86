"""Evaluates a run on labelled images, and writes the results into the run. No Keras here: an engine runs the model."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.data.dataset import scan_folder_for_evaluation
from wisesr_cli.data.index import DatasetIndex, Labels, index_from_rows
from wisesr_cli.data.listing.manifest_formats import is_manifest
from wisesr_cli.data.pixels import DecodedImages, open_pixels
from wisesr_cli.data.settings import LABEL_SEPARATOR
from wisesr_cli.data.survey import find_layout
from wisesr_cli.engines.choose import EngineName, choose_engine
from wisesr_cli.engines.engine import Engine, padded_logits
from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.evaluation.card import update_card
from wisesr_cli.evaluation.coverage import NO_COVERAGE, coverage_of, measure
from wisesr_cli.evaluation.folder import evaluation_folder, free_name
from wisesr_cli.evaluation.label_issues import JudgedLabels, put_probabilities, write_label_issues
from wisesr_cli.evaluation.metrics import Answers, answers_of, compute_metrics
from wisesr_cli.evaluation.multilabel import multilabel_metrics
from wisesr_cli.evaluation.output import Scored, ScoredLabels, draw_evaluation, evaluation_of, write_evaluation
from wisesr_cli.evaluation.probabilities import Floats
from wisesr_cli.evaluation.verdict import Training, training_of, with_verdict
from wisesr_cli.listening import Listener
from wisesr_cli.machine.large_arrays import large_array, release
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.models.image_sizes import ImageSize
from wisesr_cli.requests import EvaluateRequest
from wisesr_cli.results.evaluation import AnyEvaluation, Evaluation, LabelIssues
from wisesr_cli.run.located import Located, images_root, locate
from wisesr_cli.run.names import REPORT
from wisesr_cli.run.run import Run
from wisesr_cli.run.written import Written
from wisesr_cli.text import joined, size_text, visible

LONGEST_NAME = 200  # bytes of a folder's name; file systems allow 255, and a prefix and a suffix are added


@dataclass(frozen=True)
class Subject:
    """The labelled images that a run is evaluated on: one split of an index, and the name of its results."""

    index: DatasetIndex
    split: str
    name: str
    is_own: bool  # a split of the run itself; a folder may have the same name
    image_size: ImageSize | None = None  # if it differs from that of training
    other_name: str | None = None  # of its results, if the name is taken by those of other images

    @property
    def results_name(self) -> str:
        """The name of its results: `test`, or `test-288x288` at an image size other than that of training."""
        own = self.name if self.image_size is None else f"{self.name}-{size_text(self.image_size)}"
        return self.other_name or own

    @property
    def source(self) -> str:
        """The source of its results: a split of the run, or the folder or manifest."""
        return f"split {self.split}" if self.is_own else f"folder {os.path.realpath(self.index.folders[self.split])}"

    @property
    def title(self) -> str:
        """Its name in a report: `test`, or `folder test`, or `labels test`."""
        if self.is_own:
            return self.name
        return f"{'folder' if self.index.folders[self.split] == self.index.root else 'labels'} {self.name}"


@dataclass(frozen=True)
class Evaluated:
    """An evaluation with all its inputs, for code that writes more about it."""

    request: EvaluateRequest
    run: Located
    subject: Subject
    info: ModelInfo
    engine: EngineName
    pixel_limit: int
    evaluation: Evaluation
    paths: tuple[str, ...]  # of the readable images of the subject, relative to its index's root
    answers: Answers  # one per path
    logits: Floats  # (images, classes)

    def path_of(self, relative: str) -> str:
        """Return the path of an image of the subject."""
        return f"{self.subject.index.root.rstrip('/')}/{relative}"


def evaluate(request: EvaluateRequest, write_beside: Callable[[Evaluated, Path], None] | None = None) -> AnyEvaluation:
    """Evaluate a run on labelled images; write metrics, tables and plots into the run.

    `write_beside` writes additional files into the evaluation's folder. Raises `WisesrError` when the run, the split or
    the images cannot be used.
    """
    run, listener = locate(request.run, request.listener), request.listener
    chosen = choose_engine(
        run,
        request.engine,
        device=request.device,
        precision=request.precision,
        image_size=request.image_size,
        listener=listener,
    )
    on_error, pixel_limit = request.on_error or run.data.on_error, request.pixel_limit or run.data.pixel_limit
    subject = choose_subject(
        run,
        split=request.split,
        data=request.data,
        class_names=chosen.info.class_names,
        on_error=on_error,
        pixel_limit=pixel_limit,
        channels=chosen.info.preparation.channels,
        is_multilabel=chosen.info.is_multilabel,
        listener=listener,
    )
    subject = _named(replace(subject, image_size=chosen.image_size), run.run, listener)
    if chosen.info.is_multilabel:
        _refuse_for_several_labels(request, write_beside)
    coverage = None
    if request.coverage is not None:
        coverage = coverage_of(run, request.coverage, precision=request.precision, image_size=chosen.image_size)
        listener.note(str(coverage))
        if subject.is_own and subject.split == "validation":
            listener.warn("coverage was fitted on these images, so measuring it on them proves nothing; use others")
    with evaluation_folder(run.run, subject.results_name) as output:
        engine = chosen.start(listener)
        if engine.info.class_names != subject.index.class_names:
            raise RunError(f"{visible(run.given)}: the classes of the model file are not those of the run")
        run_on = partial(_run_on, engine, request=request, on_error=on_error, pixel_limit=pixel_limit)
        outputs = run_on(subject)
        paths, logits = outputs.paths, outputs.logits
        scored = scored_logits(logits, outputs.labels, engine.info)
        if coverage is not None and isinstance(scored, Scored):
            measured = measure(coverage, logits, outputs.labels, engine.info.temperature)
            scored = replace(scored, metrics=replace(scored.metrics, coverage=measured))
        training = _training_behind(run, subject, scored.metrics.top1_accuracy, engine.info.epoch)
        scored = with_verdict(scored, training)
        evaluation = evaluation_of(scored, paths, str(output), subject.results_name, outputs.unreadable)
        Written(run.run.path).add_source(output, subject.source)
        write_evaluation(output, scored, paths)
        if request.label_issues and isinstance(evaluation, Evaluation):
            others = map(run_on, _others_to_doubt(subject, request, listener))
            issues = _doubt_labels(output, [outputs, *others], engine.info, pixel_limit)
            evaluation = replace(evaluation, label_issues=issues)
        draw_evaluation(run.run.plots, evaluation, listener)
        if run.is_complete:
            update_card(run.run, engine.info, listener)
        if write_beside is not None and isinstance(scored, Scored) and isinstance(evaluation, Evaluation):
            common = (request, run, subject, engine.info, chosen.name, pixel_limit, evaluation)
            write_beside(Evaluated(*common, paths, scored.answers, logits), output)
        elif (output / REPORT).exists():
            listener.note(f"{output / REPORT} is from an earlier evaluation; --report rewrites it")
        return evaluation


def _refuse_for_several_labels(request: EvaluateRequest, write_beside: object) -> None:
    """Raise a `UsageError` for options that require a single label per image."""
    asked = {
        "--coverage": request.coverage is not None and NO_COVERAGE,
        "--label-issues": request.label_issues and "it checks the one label of an image",
        "--report": write_beside is not None and "its pages sort images by the one label they got",
    }
    for option, reason in asked.items():
        if reason:
            raise UsageError(
                f"{option} is for models that give an image one label, and this one may give several: {reason}"
            )


@dataclass(frozen=True)
class _Outputs:
    """The readable images of a subject, their labels, and the model's logits for them."""

    subject: Subject
    paths: tuple[str, ...]
    labels: Labels  # as in a `Split`
    logits: Floats  # (images, classes)

    @property
    def unreadable(self) -> int:
        """How many images could not be read."""
        return len(self.subject.index.splits[self.subject.split]) - len(self.paths)


def _run_on(engine: Engine, subject: Subject, *, request: EvaluateRequest, on_error: str, pixel_limit: int) -> _Outputs:
    """Run a model on all images of a subject."""
    split = subject.index.splits[subject.split]
    pixels = open_pixels(
        subject.index.absolute(subject.split),
        image_size=engine.info.image_size,
        preparation=engine.info.preparation,
        cache="none",
        on_error="skip" if on_error == "skip" else "fail",
        pixel_limit=pixel_limit,
        listener=request.listener,
    )
    with closing(pixels):
        rows = np.arange(len(pixels))
        logits = logits_of(engine, pixels, rows, batch_size=request.batch_size, listener=request.listener)
    return _Outputs(
        subject, tuple(split.paths[position] for position in pixels.kept), split.labels[pixels.kept], logits
    )


def _others_to_doubt(subject: Subject, request: EvaluateRequest, listener: Listener) -> list[Subject]:
    """Return what else to check labels in: the run's other held-out split, unless images were named."""
    if subject.is_own and subject.split == "train":
        listener.warn(
            "the model was trained on these labels and may have memorized wrong ones: `wisesr compare "
            "--folds 5 --label-issues` checks them with models that were not"
        )
    if request.split is not None or not subject.is_own:
        return []
    others = [name for name in ("test", "validation") if name in subject.index.splits and name != subject.split]
    return [replace(subject, split=name, name=name) for name in others]


def _doubt_labels(output: Path, parts: Sequence[_Outputs], info: ModelInfo, pixel_limit: int) -> LabelIssues:
    """Find the labels of some images that are likely wrong, and write them."""
    probabilities = large_array((sum(len(part.paths) for part in parts), len(info.class_names)))
    end = 0
    for part in parts:
        start, end = end, end + len(part.paths)
        put_probabilities(probabilities[start:end], part.logits, info.temperature)
    judged = JudgedLabels(
        root=parts[0].subject.index.root,
        paths=[path for part in parts for path in part.paths],
        splits=[part.subject.split for part in parts for _ in part.paths],
        labels=np.concatenate([part.labels for part in parts]),
        probabilities=probabilities,
    )
    return write_label_issues(output, judged, info.class_names, preparation=info.preparation, pixel_limit=pixel_limit)


def evaluate_pixels(
    engine: Engine,
    pixels: DecodedImages,
    labels: Labels,
    *,
    batch_size: int,
    listener: Listener,
    chosen: NDArray[np.int64] | None = None,
) -> Scored | ScoredLabels:
    """Evaluate a model on images with labels as in a `Split`; only on those at `chosen`, unless it is None."""
    rows = np.arange(len(pixels)) if chosen is None else chosen
    return scored_logits(
        logits_of(engine, pixels, rows, batch_size=batch_size, listener=listener), labels[rows], engine.info
    )


def logits_of(
    engine: Engine, pixels: DecodedImages, rows: NDArray[np.int64], *, batch_size: int, listener: Listener
) -> NDArray[np.float32]:
    """Return the logits of a model for the images at `rows`, float32 (rows, classes)."""
    logits = large_array((len(rows), len(engine.info.class_names)))
    with listener.progress("evaluating", len(rows)) as progress:
        for start in range(0, len(rows), batch_size):
            some = rows[start : start + batch_size]
            logits[start : start + len(some)] = padded_logits(engine, pixels.batch(some), batch_size)
            progress.advance(len(some))
            release(logits)
    return logits


def scored_logits(logits: NDArray[np.float32], labels: Labels, info: ModelInfo) -> Scored | ScoredLabels:
    """Return the metrics of a model's logits (examples, classes) for labels, at its temperature."""
    if info.is_multilabel:
        return ScoredLabels(*multilabel_metrics(logits, labels, info), info)
    metrics = compute_metrics(logits, labels, info.class_names, info.temperature)
    return Scored(metrics, answers_of(logits, labels, info.temperature))


def choose_subject(
    run: Located,
    *,
    split: str | None,
    data: str | Path | None,
    class_names: Sequence[str],
    on_error: str,
    pixel_limit: int,
    channels: int,
    is_multilabel: bool = False,
    listener: Listener,
) -> Subject:
    """Return the images to evaluate on: a folder or manifest, a split of the run, or by default test, else validation.

    `class_names` are those of the model, which a folder must have.

    Raises:
        UsageError: both are given, the run lacks the split, or it has no images.
        RunError: a lone model file without a folder.
    """
    if split is not None and data is not None:
        raise UsageError("--split and --data exclude each other")
    if data is not None:
        root = images_root(Path(data)) if is_manifest(data) else None
        index = scan_folder_for_evaluation(
            data,
            class_names,
            on_error=on_error,
            pixel_limit=pixel_limit,
            channels=channels,
            root=root,
            separator=run.data.label_separator or (LABEL_SEPARATOR if is_multilabel else None),
            listener=listener,
        )
        name = _name_of(data)
        return Subject(index, "test", name, is_own=False)
    where = visible(run.given)
    if not run.is_complete:
        raise RunError(f"{where}: a model file without its run directory has no splits; give --data FOLDER")
    own_root = _data_root(run)
    own_names, rows = run.run.read_classes(), run.run.read_splits()
    run.run.check_splits(own_names, rows, run.data.label_separator)
    index = index_from_rows(own_root, own_names, rows, run.data.label_separator)
    available = [name for name in ("test", "validation", "train") if name in index.splits]
    chosen = split or next((name for name in available if name != "train"), None)
    if chosen is None:
        raise UsageError(f"{where}: the run has no test or validation split; give --data FOLDER")
    if chosen not in available:
        raise UsageError(f"{where}: the run has no {visible(chosen)} split; it has {joined(available)}")
    return Subject(index, chosen, chosen, is_own=True)


def _named(subject: Subject, run: Run, listener: Listener) -> Subject:
    """Return the subject; if its results' name is already used by others, they get another one, and a note."""
    name = free_name(run, subject.results_name, subject.source)
    if name == subject.results_name:
        return subject
    taken = run.evaluation_dir(subject.results_name).name
    listener.note(f"{taken} holds results of other images, or other files: writing to evaluate-{name}")
    return replace(subject, other_name=name)


def _name_of(folder: str | Path) -> str:
    """Return the name of the results for a folder or manifest: its own, cut to a length that file systems allow."""
    path = Path(os.path.abspath(folder))  # noqa: PTH100  (unlike Path.absolute, it resolves `..`)
    name = (path.stem if is_manifest(path) else path.name) or "root"
    while len(os.fsencode(name)) > LONGEST_NAME:
        name = name[:-1]
    return name


def _data_root(run: Located) -> str:
    data, where = run.data, visible(run.run.path)
    folder = data.dir or data.source
    if folder is None:
        raise UsageError(f"{where}: the run has no images of its own yet; give --data FOLDER")
    if not folder.exists():
        raise RunError(f"{where}: its images are no longer at {visible(folder)}; give --data FOLDER")
    if data.manifest is not None and data.dir is not None:
        return str(data.dir)  # the run has the labels itself
    return find_layout(data).root


def _training_behind(run: Located, subject: Subject, accuracy: float | None, epoch: int) -> Training | None:
    """Return what is known about the training of the model that was evaluated on a subject."""
    training = training_of(run, epoch)
    if training is None or not (subject.is_own and subject.split == "train"):
        return training
    return replace(training, train_accuracy=accuracy)
