"""Converts a run's best model for LiteRT at the end of its training; `litert` describes the file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

from wisesr_cli.engines.engine import padded_logits
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.engines.litert import LiteRtEngine, LiteRtModel, UnusableError, read_litert
from wisesr_cli.errors import DataError, RunError
from wisesr_cli.exporting.agreement import EXACT, Images, compare, sample
from wisesr_cli.exporting.conversion import ConversionError, convert, missing_tensorflow
from wisesr_cli.listening import Listener
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.files import replacing
from wisesr_cli.run.names import LITERT
from wisesr_cli.run.run import Run
from wisesr_cli.text import visible

COMPARED = 16  # images


def keep_litert(run: Run, engine: KerasEngine, images: Images, *, batch_size: int, listener: Listener) -> None:
    """Convert the best model of a run (whose lock is held) for LiteRT; warn when that is impossible.

    Both are compared on `images`. Raises `MachineError` when the file cannot be written.
    """
    if reason := missing_tensorflow():
        listener.note(f"no {LITERT}: {reason}")
        return
    listener.note(f"writing {LITERT}, which predicts without TensorFlow")
    try:
        model = LiteRtModel(run.litert, engine.info, to_litert(engine))
        _check_agreement(engine, LiteRtEngine(model), images, batch_size)
    except (ConversionError, UnusableError, DataError, RunError, MemoryError) as error:
        reason = str(error) or "not enough memory"
        listener.warn(f"no {LITERT}: {reason}; predict and evaluate run {run.best.name}")
        return
    with replacing(run.litert) as temporary:
        temporary.write_bytes(model.to_bytes(run.best))


def has_litert(run: Run) -> bool:
    """Return whether a run has its best model for LiteRT; one converted from another model is removed."""
    try:
        read_litert(run.litert, run.best)
    except UnusableError:
        run.forget_litert()
        return False
    return True


def to_litert(engine: KerasEngine) -> bytes:
    """Return a model converted for LiteRT, in float32, for any batch size; `ConversionError` when that fails."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, LITERT)
            convert(engine.model, "litert", target)
            return target.read_bytes()
    except OSError as error:  # from the folder for temporary files, not the run
        raise ConversionError(f"the model cannot be converted for LiteRT: {visible(error)}") from error


def _check_agreement(engine: KerasEngine, converted: LiteRtEngine, images: Images, batch_size: int) -> None:
    """Raise a `ConversionError` unless both give the same probabilities to images from all over a split."""
    keras_start.full_float32()  # training in mixed precision left it as it was
    pixels = images.batch(np.array(sample(range(len(images)), min(COMPARED, batch_size))))
    found = compare(padded_logits(engine, pixels, batch_size), converted.logits(pixels)).probability_difference
    if not found <= EXACT:
        raise ConversionError(f"the model for LiteRT gives other probabilities: they differ by {found:.1e}")
