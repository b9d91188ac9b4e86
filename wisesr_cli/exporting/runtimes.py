"""Runs exported models, each by the runtime that its users have, and compares what they say with the run.

To add a runtime: a function that gives what runs a file, and the format's row in `export.FORMATS`.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.engines.keras import numpy_logits
from wisesr_cli.evaluation.metrics import softmax
from wisesr_cli.exporting.conversion import INPUT
from wisesr_cli.machine import keras_start

Pixels = NDArray[np.uint8]
Numbers = NDArray[np.float32]
RunModel = Callable[[Pixels], Numbers]  # (batch, height, width, 3) -> logits (batch, classes)

BATCH = 16  # images; the first one is computed alone, so that other sizes of a batch are tried, too

# Both compute in float32, in another order: that has come to 1e-6 of a probability, and never to 1e-5. What goes wrong
# in a conversion (the order of channels, a scaling, a layer) moves probabilities by far more than 1e-4. Two of them
# that are each within it have another order only where they were closer than twice of it: a tie.
MOST_DIFFERENCE = 1e-4  # of probabilities
MOST_LOGIT_DIFFERENCE = 1e-3  # of the largest logit, or of 1: probabilities hide more where a network is sure of itself
LEAST_SPREAD = 10  # times what logits may differ by; below, the right answers to other images would pass, too
LEAST_AGREEMENT = 0.5  # of a quantized model with the run; below, it is no longer the same model


def open_keras(path: Path) -> RunModel:
    """Return what runs a `.keras` file of stock layers.

    Raises:
        ValueError: something in it is not of Keras itself.
    """
    import keras

    if foreign := sorted(_modules(path) - {"keras"}):
        raise ValueError(f"it needs {', '.join(foreign)}")
    model = keras.models.load_model(path, compile=False, safe_mode=True)
    return lambda pixels: numpy_logits(model, pixels)


def _modules(path: Path) -> set[str]:
    """Return the packages that the classes in a `.keras` file come from."""
    with zipfile.ZipFile(path) as archive:
        waiting, found = [json.loads(archive.read("config.json"))], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
            if isinstance(value.get("module"), str):
                found.add(value["module"].partition(".")[0])
        elif isinstance(value, list):
            waiting += value
    return found - {"builtins"}


def open_onnx(path: Path) -> RunModel:
    """Return what runs an ONNX file: ONNX Runtime, on the CPU."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])

    def run(pixels: Pixels) -> Numbers:
        logits: Numbers = session.run(None, {INPUT: pixels.astype(np.float32)})[0]
        return logits

    return run


def open_litert(path: Path) -> RunModel:
    """Return what runs a LiteRT file: ai-edge-litert, a batch at a time."""
    from ai_edge_litert.interpreter import Interpreter

    with keras_start.quiet_stderr():
        interpreter = Interpreter(model_path=str(path))
        (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()

    def run(pixels: Pixels) -> Numbers:
        interpreter.resize_tensor_input(given["index"], pixels.shape)
        with keras_start.quiet_stderr():
            interpreter.allocate_tensors()
        interpreter.set_tensor(given["index"], pixels.astype(np.float32))
        interpreter.invoke()
        logits: Numbers = interpreter.get_tensor(wanted["index"])
        return logits

    return run


def open_saved_model(path: Path) -> RunModel:
    """Return what runs a SavedModel: TensorFlow, which is given the pixels as float32 and as uint8 by turns."""
    with keras_start.quiet_stderr():
        model = keras_start.load_tensorflow().saved_model.load(str(path))
    by_turns = [("serve", np.float32), ("serve_uint8", np.uint8)]

    def run(pixels: Pixels) -> Numbers:
        by_turns.reverse()
        name, dtype = by_turns[0]
        logits: Numbers = getattr(model, name)(pixels.astype(dtype)).numpy()  # `model` holds the variables
        return logits

    return run


def logits_in_batches(run: RunModel, pixels: Pixels) -> Numbers:
    """Return the logits of images (examples, classes): of the first one alone, then of batches."""
    bounds = [0, *range(1, len(pixels), BATCH), len(pixels)]
    parts = [pixels[start:end] for start, end in pairwise(bounds) if end > start]
    return np.concatenate([np.asarray(run(part), np.float32) for part in parts])


@dataclass(frozen=True)
class Agreement:
    """How far a model's answers are from those of the run, at most, and how often the best label is the same."""

    images: int
    probability_difference: float
    logit_difference: float
    top1_agreement: float


def compare(exact: Numbers, found: Numbers) -> Agreement:
    """Return how logits (examples, classes) agree with those of the run; NaN differs by NaN."""
    with np.errstate(invalid="ignore"):  # a broken model may give infinite numbers
        return Agreement(
            images=len(exact),
            probability_difference=float(np.abs(softmax(exact) - softmax(found)).max()),
            logit_difference=float(np.abs(exact - found).max()),
            top1_agreement=float((exact.argmax(axis=1) == found.argmax(axis=1)).mean()),
        )


def objection(agreement: Agreement, exact: Numbers, *, quantized: bool) -> str | None:
    """Return why a model must not be kept, None where it may.

    A quantized model is another one: what it costs is said, and it is kept unless it is broken.
    """
    if not np.isfinite(agreement.logit_difference):
        return "it gives numbers that are not finite"
    if quantized:
        if agreement.top1_agreement < LEAST_AGREEMENT:
            return f"it agrees with the run on {100 * agreement.top1_agreement:.0f} % of the images only"
        return None
    if not agreement.probability_difference <= MOST_DIFFERENCE:
        return f"its probabilities differ by {agreement.probability_difference:.1e}; allowed are {MOST_DIFFERENCE:.0e}"
    most = _most_logit_difference(exact)
    if not agreement.logit_difference <= most:
        return f"its logits differ by {agreement.logit_difference:.1e}; allowed are {most:.1e}"
    return None


def doubt(exact: Numbers) -> str | None:
    """Return why images prove little of an export: the run gives all of them nearly the same logits."""
    spread = float(np.ptp(exact, axis=0).max())
    if spread >= LEAST_SPREAD * _most_logit_difference(exact):
        return None
    images = (
        "a single image is" if len(exact) == 1 else f"{len(exact):,} images whose logits differ by {spread:.1e} are"
    )
    return f"{images} compared, which the run does not tell apart: a wrong export could pass"


def _most_logit_difference(exact: Numbers) -> float:
    return MOST_LOGIT_DIFFERENCE * max(1.0, float(np.abs(exact).max()))
