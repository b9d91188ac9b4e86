"""Converts a run's best model for LiteRT at the end of its training; `engines/litert.py` describes the file."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from wisesr_cli.engines.engine import padded_logits
from wisesr_cli.engines.keras import KerasEngine, classified, classifier_input
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

    Both models are compared on `images`. Raises `MachineError` when the file cannot be written.
    """
    if reason := missing_tensorflow():
        listener.note(f"no {LITERT}: {reason}")
        return
    listener.note(f"writing {LITERT}, which predicts without TensorFlow")
    try:
        model = to_litert(engine, run.litert)
        model = _compared(engine, model, images, batch_size)
    except (ConversionError, UnusableError, DataError, RunError, MemoryError) as error:
        reason = str(error) or "not enough memory"
        listener.warn(f"no {LITERT}: {reason}; predict and evaluate run {run.best.name}")
        return
    with replacing(run.litert) as temporary:
        temporary.write_bytes(model.to_bytes(run.best))


def has_litert(run: Run) -> bool:
    """Return whether a run has a LiteRT copy of its best model; a copy of another model is removed."""
    try:
        read_litert(run.litert, run.best)
    except UnusableError:
        run.forget_litert()
        return False
    return True


def to_litert(engine: KerasEngine, path: Path) -> LiteRtModel:
    """Return a model converted for LiteRT, in float32, for any batch size; `ConversionError` when that fails.

    The feature vector is an output during the conversion; otherwise the converter would fold what the head adds to it
    into the classifier layer, and no tensor would hold it.
    """
    import keras

    outputs = [engine.model.outputs[0], classifier_input(engine.model)]
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, LITERT)
            convert(keras.Model(engine.model.inputs, outputs), "litert", target)
            content, features = _without_second_output(target.read_bytes())
    except OSError as error:  # in the temporary folder, not in the run
        raise ConversionError(f"the model cannot be converted to LiteRT: {visible(error)}") from error
    return LiteRtModel(path, engine.info, content, features)


def _without_second_output(content: bytes) -> tuple[bytes, int]:
    """Return a LiteRT model without its second output, and the index of that output's tensor."""
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    (signature,) = model.signatureDefs
    first, second = sorted(signature.outputs, key=lambda output: output.name)  # output_0, output_1
    signature.outputs, model.subgraphs[0].outputs = [first], [first.tensorIndex]
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model)), int(second.tensorIndex)


def _compared(engine: KerasEngine, model: LiteRtModel, images: Images, batch_size: int) -> LiteRtModel:
    """Return the converted model, without its features if its classifier layer does not turn them into its logits.

    Raises a `ConversionError` unless both models give the same probabilities for images from all over a split.
    """
    converted = LiteRtEngine(model)
    keras_start.full_float32()  # training in mixed precision leaves TF32 on
    pixels = images.batch(np.array(sample(range(len(images)), min(COMPARED, batch_size))))
    logits = converted.logits(pixels)
    several = engine.info.is_multilabel
    found = compare(padded_logits(engine, pixels, batch_size), logits, multilabel=several).probability_difference
    if not found <= EXACT:
        raise ConversionError(f"the LiteRT model gives different probabilities: they differ by {found:.1e}")
    try:
        again = classified(engine.model, converted.features(pixels))
    except UnusableError:
        return replace(model, features=None)
    difference = compare(again, logits, multilabel=several).probability_difference
    return model if difference <= EXACT else replace(model, features=None)
