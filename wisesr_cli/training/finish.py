"""Ends a training: calibrates and evaluates the best model, draws the curves, converts the model for LiteRT."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.data.index import Labels
from wisesr_cli.data.pixels import epoch_order
from wisesr_cli.display.plots import plot_learning_curves
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.evaluation.calibration import Calibration, calibrate
from wisesr_cli.evaluation.card import update_card
from wisesr_cli.evaluation.coverage import write_scores
from wisesr_cli.evaluation.evaluate import evaluate_pixels, logits_of, scored_logits
from wisesr_cli.evaluation.output import Scored
from wisesr_cli.evaluation.probabilities import probabilities_of
from wisesr_cli.evaluation.thresholds import describe_thresholds, fit_thresholds
from wisesr_cli.evaluation.verdict import Training, with_verdict
from wisesr_cli.exporting.best_litert import has_litert, keep_litert
from wisesr_cli.listening import Listener, TrainingListener
from wisesr_cli.machine.files import make_folder
from wisesr_cli.model_files.archive import check_model
from wisesr_cli.model_files.saving import replace_model_info
from wisesr_cli.results.evaluation import Metrics, MultilabelMetrics
from wisesr_cli.results.training import TrainingResult
from wisesr_cli.run.names import LEARNING_CURVES, METRICS
from wisesr_cli.run.records import write_json
from wisesr_cli.run.run import Run
from wisesr_cli.training.trainer import Trainer

SAMPLED_IMAGES = 256  # training images to also evaluate on if a model falls behind


def finish(
    trainer: Trainer, run: Run, epochs_done_now: int, stopped: str | None, listener: TrainingListener
) -> TrainingResult:
    """Evaluate the best model, draw the curves, convert the model once training is complete, and return the result."""
    run.check_place()
    progress, metrics = trainer.progress, None
    engine = KerasEngine(check_model(run.best)) if progress.best_epoch is not None else None
    if engine is not None:
        trainer.examples.open_at(engine.info.image_size, listener)
    if engine is not None and (metrics := _metrics(trainer, run, engine, listener)) is not None:
        write_json(run.path / METRICS, metrics.to_json())
    if progress.history:
        make_folder(run.plots, inside=run.path)
        plot_learning_curves(progress.history, run.plots / LEARNING_CURVES)
    result = result_of(trainer, run, epochs_done_now, stopped, metrics)
    if engine is not None:
        update_card(run, engine.info, listener)
    if engine is not None and result.finished and not has_litert(run):
        trainer.release()  # converting takes several times the memory of the weights
        images = trainer.examples.validation or trainer.examples.train
        keep_litert(run, engine, images, batch_size=trainer.config.train.batch_size, listener=listener)
    return result


def result_of(
    trainer: Trainer,
    run: Run,
    epochs_done_now: int,
    stopped: str | None,
    metrics: Metrics | MultilabelMetrics | None,
) -> TrainingResult:
    """Return the result of a training; `metrics` are those of its best model."""
    return TrainingResult(
        run_dir=str(run.path),
        history=tuple(trainer.progress.history),
        best_epoch=trainer.progress.best_epoch,
        metrics=metrics,
        parameters=trainer.parameters,
        head_parameters=trainer.head_parameters,
        epochs_done_now=epochs_done_now,
        stopped=stopped,
        finished=trainer.progress.finished or trainer.progress.epoch >= trainer.config.train.epochs,
    )


def _metrics(trainer: Trainer, run: Run, engine: KerasEngine, listener: Listener) -> Metrics | MultilabelMetrics | None:
    """Return the validation metrics of the best model with their verdict, or None without validation images."""
    examples, batch_size = trainer.examples, trainer.config.train.batch_size
    if examples.validation is None:
        return None
    labels, every = examples.labels("validation"), np.arange(len(examples.validation))
    logits = logits_of(engine, examples.validation, every, batch_size=batch_size, listener=listener)
    _calibrate(trainer, run, engine, logits, labels, listener)
    scored = scored_logits(logits, labels, engine.info)
    if isinstance(scored, Scored):
        write_scores(run, scored.answers, engine.info)
    counts = tuple(examples.index.counts("train").tolist())
    progress = trainer.progress
    training = Training(
        str(run.path), trainer.config, tuple(progress.history), progress.best_epoch, counts, len(examples.train)
    )
    if training.falls_behind(scored.metrics):
        chosen = epoch_order(len(examples.train), seed=trainer.config.seed, epoch=0)[:SAMPLED_IMAGES]
        on_training = evaluate_pixels(
            engine, examples.train, examples.labels("train"), batch_size=batch_size, listener=listener, chosen=chosen
        )
        training = replace(training, train_accuracy=on_training.metrics.top1_accuracy)
    return with_verdict(scored, training).metrics


def _calibrate(
    trainer: Trainer,
    run: Run,
    engine: KerasEngine,
    logits: NDArray[np.float32],
    labels: Labels,
    listener: Listener,
) -> None:
    """Fit the temperature of the best model to its validation logits, and write it to the model file.

    If images may have several labels, also fit the threshold of each label.
    """
    found = Calibration()
    if trainer.config.train.calibration == "auto":
        found = calibrate(logits, labels, seed=trainer.config.seed)
        listener.note(f"scores: {found}")
    decided = replace(engine.info, temperature=found.temperature)
    if decided.is_multilabel:
        decided = replace(decided, thresholds=fit_thresholds(probabilities_of(logits, decided), labels))
        listener.note(f"thresholds of labels: {describe_thresholds(decided.thresholds, labels)}")
    if decided != engine.info:
        engine.info = decided
        replace_model_info(run.best, engine.info)
