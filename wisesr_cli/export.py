"""Writes a trained model in other formats, and makes sure that each says the same as the model it was made from.

To add a format: a function that gives its bytes or writes its folder, and the engine that runs the result in `engines`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from wisesr_cli import runtime
from wisesr_cli.engines import KerasEngine, padded_logits
from wisesr_cli.errors import DataError, RunError
from wisesr_cli.files import replacing
from wisesr_cli.litert import LiteRtEngine, LiteRtModel, UnusableError, read_litert
from wisesr_cli.metrics import softmax
from wisesr_cli.pipeline import DecodedImages
from wisesr_cli.results import Listener
from wisesr_cli.run_files import LITERT
from wisesr_cli.runs import Run
from wisesr_cli.text import visible

MOST_DIFFERENCE = 1e-5  # of probabilities
COMPARED = 16  # images
SECONDS = 3600  # for a process of its own; the largest backbone takes minutes

_PROGRAM = """
import json, sys
from pathlib import Path
sys.path[:] = json.loads(sys.argv[1])
from wisesr_cli import export, runtime
runtime.start("cpu")
from wisesr_cli.loading import load_model
export.write_litert(load_model(Path(sys.argv[2]), runs=True), Path(sys.argv[3]))
"""


class ExportError(Exception):
    """Why a model was not written in another format; the text is the bare reason."""


def keep_litert(run: Run, engine: KerasEngine, images: DecodedImages, *, batch_size: int, listener: Listener) -> None:
    """Write the best model of a run for LiteRT, too; where that cannot be done, a warning says so.

    Args:
        run: the run, whose lock is held.
        engine: its best model.
        images: what both are compared on.
        batch_size: images that the engine computes at a time.
        listener: who is told what happens.

    Raises:
        MachineError: it cannot be written.
    """
    if reason := _without_tensorflow():
        listener.note(f"no {LITERT}: {reason}")
        return
    listener.note(f"writing {LITERT}, which predicts without TensorFlow")
    try:
        model = LiteRtModel(run.litert, engine.info, to_litert(engine))
        _check_agreement(engine, LiteRtEngine(model), images, batch_size)
    except (ExportError, UnusableError, DataError, RunError, MemoryError) as error:
        reason = str(error) or "not enough memory"
        listener.warn(f"no {LITERT}: {reason}; predict and evaluate run {run.best.name}")
        return
    with replacing(run.litert) as temporary:
        temporary.write_bytes(model.to_bytes(run.best))


def has_litert(run: Run) -> bool:
    """Return whether a run has its best model for LiteRT; one that was made from another model is taken away."""
    try:
        read_litert(run.litert, run.best)
    except UnusableError:
        run.forget_litert()
        return False
    return True


def _without_tensorflow() -> str | None:
    """Return why nothing can be converted here, where TensorFlow is absent."""
    if find_spec("tensorflow") is None:
        return "TensorFlow converts models for LiteRT, and is not installed"
    return None


def to_litert(engine: KerasEngine) -> bytes:
    """Return a model as LiteRT runs it, in float32 and for batches of any size.

    Raises:
        ExportError: it cannot be converted.
    """
    try:
        with tempfile.TemporaryDirectory() as folder:
            target = Path(folder, LITERT)
            if runtime.backend_name() == "tensorflow":
                write_litert(engine.model, target)
            else:
                _convert_apart(engine.path, target)
            return target.read_bytes()
    except ExportError:
        raise
    except Exception as error:  # TensorFlow raises whatever it likes
        reason = visible(" ".join(str(error).split())[:300] or type(error).__name__)
        raise ExportError(f"the model cannot be converted for LiteRT: {reason}") from error


def write_litert(model: object, target: Path) -> None:
    """Convert a Keras model; the converter's messages are for its authors."""
    with runtime.quiet_stderr():
        model.export(target, format="litert", verbose=False)  # type: ignore[attr-defined]


def _convert_apart(path: Path, target: Path) -> None:
    """Convert a model file in a process that runs Keras on TensorFlow: on JAX, Keras cannot."""
    search = json.dumps([entry for entry in sys.path if entry])
    command = [sys.executable, "-I", "-c", _PROGRAM, search, str(path), str(target)]
    variables = {**os.environ, "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(command, env=variables, capture_output=True, timeout=SECONDS, check=False)
    if done.returncode:
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise ExportError(f"the model cannot be converted for LiteRT: {visible(last[:300])}")


def _check_agreement(engine: KerasEngine, converted: LiteRtEngine, images: DecodedImages, batch_size: int) -> None:
    """Raise an `ExportError` unless both give the same probabilities to images from all over a split."""
    count = min(COMPARED, batch_size, len(images))
    runtime.full_float32()  # training in mixed precision left it as it was
    pixels = images.batch(np.linspace(0, len(images) - 1, count).round().astype(np.int64))
    exact, found = (softmax(logits) for logits in (padded_logits(engine, pixels, batch_size), converted.logits(pixels)))
    difference = float(np.abs(exact - found).max())
    if not difference <= MOST_DIFFERENCE:
        raise ExportError(f"the model for LiteRT gives other probabilities: they differ by {difference:.1e}")
