"""Runs exported models, each with the runtime that its users have.

To add a runtime: a function that returns a runner for a file, and the format's row in `export.FORMATS`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from wisesr_cli.engines.keras import numpy_logits
from wisesr_cli.exporting.agreement import Numbers, Pixels, RunModel, in_whole_batches
from wisesr_cli.exporting.conversion import INPUT, PLAIN, Form
from wisesr_cli.machine import keras_start
from wisesr_cli.model_files.architecture import objects_in
from wisesr_cli.model_files.archive import read_config

SMALLEST = np.finfo(np.float32).tiny  # lower limit of a probability before its logarithm is taken


def open_keras(path: Path, form: Form = PLAIN) -> RunModel:
    """Return a runner for a `.keras` file of stock layers; `ValueError` if it has other layers."""
    import keras

    names = [part.get("module") for part in objects_in(read_config(path))]
    packages = {name.partition(".")[0] for name in names if isinstance(name, str)}
    if foreign := sorted(packages - {"builtins", "keras"}):
        raise ValueError(f"it needs {', '.join(foreign)}")
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda pixels: numpy_logits(model, pixels)


def open_onnx(path: Path, form: Form = PLAIN) -> RunModel:
    """Return a runner for an ONNX file: ONNX Runtime, on the CPU."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(pixels: Pixels) -> Numbers:
        given = pixels if form.layout == "nhwc" else pixels.transpose(0, 3, 1, 2)
        logits: Numbers = session.run(None, {INPUT: given.astype(np.float32)})[0]
        return logits

    return run


def open_litert(path: Path, form: Form = PLAIN) -> RunModel:
    """Return a runner for a LiteRT file: ai-edge-litert, on any batch, or in batches of its fixed size.

    It turns probabilities into their logarithms, which are logits, too, and those of each label alone into log-odds.
    """
    from ai_edge_litert.interpreter import Interpreter

    with keras_start.quiet_stderr():
        interpreter = Interpreter(model_path=str(path))
        (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def scores_of(pixels: Pixels) -> Numbers:
        interpreter.set_tensor(given["index"], pixels.astype(np.float32))
        interpreter.invoke()
        scores: Numbers = interpreter.get_tensor(wanted["index"])
        if form.output == "logits":
            return scores
        found = np.log(np.maximum(scores, SMALLEST))
        return found - np.log(np.maximum(1 - scores, SMALLEST)) if form.multilabel else found

    def allocate() -> None:
        with keras_start.quiet_stderr():
            interpreter.allocate_tensors()

    def run(pixels: Pixels) -> Numbers:
        interpreter.resize_tensor_input(given["index"], pixels.shape)
        allocate()
        return scores_of(pixels)

    def run_in_parts(pixels: Pixels) -> Numbers:
        parts = [scores_of(pixels[rows]) for rows in in_whole_batches(len(pixels), form.batch or 1)]
        return np.concatenate(parts)[: len(pixels)]

    if form.batch is None:
        return run
    allocate()
    return run_in_parts


def open_saved_model(path: Path, form: Form = PLAIN) -> RunModel:
    """Return a runner for a SavedModel: TensorFlow, given pixels alternately as float32 and as uint8."""
    with keras_start.quiet_stderr():
        model = keras_start.load_tensorflow().saved_model.load(str(path))
    by_turns = [("serve", np.float32), ("serve_uint8", np.uint8)]

    def run(pixels: Pixels) -> Numbers:
        by_turns.reverse()
        name, dtype = by_turns[0]
        logits: Numbers = getattr(model, name)(pixels.astype(dtype)).numpy()  # `model` keeps the variables alive
        return logits

    return run
