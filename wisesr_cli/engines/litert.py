"""Reads, checks and runs best.tflite, the best model for prediction without TensorFlow.

The file is a LiteRT model followed by a zip. The zip's only member has the model's record, the identity of the model
file that it was converted from, and which tensor holds the feature vector; `unzip -p best.tflite wisesr.json` shows it.
No Keras.
"""

from __future__ import annotations

import json
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256 as new_sha256
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import MachineError, RunError, WisesrError
from wisesr_cli.machine.files import sha256
from wisesr_cli.machine.installation import install_line
from wisesr_cli.machine.keras_start import Device, has_nvidia_driver, processor, quiet_stderr
from wisesr_cli.machine.stopping import signals_held
from wisesr_cli.machine.threads import worker_count
from wisesr_cli.model_files.appended import read_member, with_members
from wisesr_cli.model_files.info import MODEL_INFO, ModelInfo, parse_model_info
from wisesr_cli.text import on_one_line, visible

PACKAGE = "ai-edge-litert"
MOST_BYTES = 2 << 30  # of a file; offsets in a LiteRT model have 31 bits
MOST_RECORD_BYTES = 4 << 20  # of the zip after the model; most of it is class names
MOST_RATIO, SPARE_BYTES = 2, 16 << 20  # position weights of small tiles take more space here than in the model file
MOST_NUMBERS = 1 << 26  # in an operator's output for one image: 256 MiB, as VGG16 at 1024 pixels
MOST_COPIES_BYTES = 1 << 29  # of weights: every image computed in parallel needs a copy

# The operators of wisesr's backbones and heads. None of them calls another graph or keeps state.
OPERATORS = {
    *("ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "GATHER", "GELU"),
    *("HARD_SWISH", "LOGISTIC", "MAX_POOL_2D", "MEAN", "MUL", "NEG", "PACK", "PAD", "REDUCE_MAX"),
    *("REDUCE_PROD", "RELU", "RELU6", "RESHAPE", "RSQRT", "SHAPE", "SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM"),
    # The activations of hidden layers.
    *("ABS", "DIV", "ELU", "EXP", "GREATER", "LEAKY_RELU", "LOG", "PRELU", "SELECT_V2", "TANH"),
}


class UnusableError(Exception):
    """LiteRT cannot run a model; the text is just the reason.

    `kind` is the error to raise when no other engine may run the model.
    """

    def __init__(self, reason: str, kind: type[WisesrError] = RunError) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class LiteRtModel:
    """A LiteRT model in memory: the path of its file, its record, and the model itself.

    `features`: the index of the tensor that is the classifier layer's input; None if unknown.
    """

    path: Path
    info: ModelInfo
    content: bytes
    features: int | None = None

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 of the model, without the appended zip."""
        return new_sha256(self.content).hexdigest()

    def to_bytes(self, model_file: Path) -> bytes:
        """Return the content of its file, for a model converted from `model_file`."""
        record = {
            **self.info.to_json(),
            "keras": {"bytes": model_file.stat().st_size, "sha256": sha256(model_file)},
            "litert": {"bytes": len(self.content), "sha256": self.sha256, "features": self.features},
        }
        return with_members(self.content, {MODEL_INFO: json.dumps(record, indent=1)})


def read_litert(path: Path, model_file: Path) -> LiteRtModel:
    """Return the LiteRT model at `path`, which must have been converted from the current `model_file`.

    Raises an `UnusableError` if it is missing, damaged, or converted from another model file.
    """
    content, keras_bytes = _read(path, model_file)
    try:
        record = read_member(content[-MOST_RECORD_BYTES:], MODEL_INFO)
        values = json.loads(record)
        info = parse_model_info(record, path)
        keras, litert = (dict(values[name]) for name in ("keras", "litert"))
        size = int(litert["bytes"])
        if keras["bytes"] != keras_bytes or keras["sha256"] != sha256(model_file):
            raise UnusableError(f"{visible(path.name)} was made from another {visible(model_file.name)}")
        features = litert.get("features")  # older files have none
        model = LiteRtModel(path, info, content[:size], None if features is None else int(features))
        if not size or len(model.content) != size or model.sha256 != litert["sha256"]:
            raise UnusableError(f"{visible(path.name)} is damaged")
    except OSError as error:
        raise UnusableError(f"{visible(path.name)}: {visible(error.strerror or error)}") from None
    except (RunError, ArithmeticError, KeyError, TypeError, ValueError, RecursionError):
        raise UnusableError(f"{visible(path.name)} has no complete record of its model") from None
    return model


def _read(path: Path, model_file: Path) -> tuple[bytes, int]:
    """Return the bytes of a file, and the size of the model file; refuse a file that is far larger than that."""
    try:
        if not path.is_file():
            raise UnusableError(f"there is no {visible(path.name)} next to {visible(model_file.name)}")
        size, keras_bytes = path.stat().st_size, model_file.stat().st_size
        if size > MOST_RATIO * keras_bytes + SPARE_BYTES:
            raise UnusableError(f"{visible(path.name)} is far larger than {visible(model_file.name)}")
        if size > MOST_BYTES:
            raise UnusableError(f"{visible(path.name)} is larger than a model for LiteRT can be")
        with path.open("rb") as file:
            return file.read(size), keras_bytes
    except OSError as error:
        raise UnusableError(f"{visible(path.name)}: {visible(error.strerror or error)}") from None


class LiteRtEngine:
    """Runs a LiteRT model on the CPU, with several images in parallel, each computed alone.

    An image computed alone gives the same bits whatever the other images are, and takes less processor time than in a
    batch, whose layers exceed the processor's caches.

    Raises an `UnusableError` if LiteRT is not installed or rejects the model, or the model is not one of wisesr.
    """

    full_batches = False

    def __init__(self, model: LiteRtModel) -> None:
        self.model, self.info = model, model.info
        self._logits = _Interpreters(model, model.content, len(model.info.class_names))

    @property
    def device(self) -> Device:
        """The device, and the reason for it."""
        hint = "; --device gpu computes on the GPU" if has_nvidia_driver() else ""
        return Device("cpu", processor(), f"LiteRT runs {visible(self.model.path.name)}{hint}")

    def logits(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return float32 (batch, classes) for uint8 pixels (batch, height, width, channels).

        Raises:
            RunError: the model cannot compute them, although it loaded.
            MemoryError: an image does not fit.
        """
        return self._logits.compute(pixels)

    def features(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the input of the classifier layer, float32 (batch, features).

        Raises as `logits` and `check_features` do.
        """
        return self._features.compute(pixels)

    def check_features(self) -> None:
        """Raise an `UnusableError` unless the model can give the input of its classifier layer."""
        self._features  # noqa: B018

    @cached_property
    def _features(self) -> _Interpreters:
        name, tensor = visible(self.model.path.name), self.model.features
        if tensor is None:
            raise UnusableError(f"{name} was written by an earlier wisesr and does not give feature vectors")
        interpreter = self._logits.first
        shapes = {detail["index"]: _signature(detail) for detail in interpreter.get_tensor_details()}
        computed = {int(index) for operator in interpreter._get_ops_details() for index in operator["outputs"]}
        kind, shape = shapes.get(tensor, ("", ()))
        if tensor not in computed or kind != "float32" or len(shape) != 2 or shape[0] != -1 or shape[1] < 1:
            raise UnusableError(f"{name} names a tensor that is not a feature vector")
        return _Interpreters(self.model, _with_output(self.model.content, tensor), shape[1])


class _Interpreters:
    """Interpreters of a LiteRT model with one output, float32 (batch, `width`): one for each thread that computes."""

    def __init__(self, model: LiteRtModel, content: bytes, width: int) -> None:
        self.model, self.content, self.width = model, content, width
        at_once = max(1, min(worker_count(), MOST_COPIES_BYTES // len(content)))
        self._at_once, self._threads = at_once, worker_count() // at_once
        self._idle: deque[Any] = deque()
        self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="litert")
        with quiet_stderr():
            self.first = self._first_interpreter()
        self._idle.append(self.first)

    def compute(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the output for uint8 pixels (batch, height, width, channels)."""
        result = np.empty((len(pixels), self.width), np.float32)
        step = max(1, len(pixels) // (4 * self._at_once))
        parts = [slice(start, start + step) for start in range(0, len(pixels), step)]
        computing = map if len(parts) == 1 else self._pool.map
        with signals_held():
            for rows, found in zip(parts, computing(self._compute, (pixels[rows] for rows in parts)), strict=True):
                result[rows] = found
        return result

    def _compute(self, pixels: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Return the rows of a few images; may run in any thread."""
        try:
            try:
                interpreter = self._idle.pop()
            except IndexError:  # all others are in use by other threads
                interpreter = self._interpreter()
            found = [_run(interpreter, image) for image in pixels]
        except MemoryError:
            raise
        except Exception as error:  # LiteRT raises exceptions of any type
            raise RunError(f"{visible(self.model.path)}: the model cannot be run: {on_one_line(error)}") from error
        self._idle.append(interpreter)
        return found

    def _first_interpreter(self) -> Any:
        try:
            return self._interpreter()
        except ImportError as error:
            reason = f"{PACKAGE} is not installed; install it with: {install_line(PACKAGE)}"
            if not isinstance(error, ModuleNotFoundError):
                reason = f"{PACKAGE} cannot be loaded: {on_one_line(error, whole=True)}; reinstall it"
            raise UnusableError(reason, MachineError) from None
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:  # also from untested LiteRT versions
            raise UnusableError(
                f"LiteRT does not accept {visible(self.model.path.name)}: {on_one_line(error)}"
            ) from None

    def _interpreter(self) -> Any:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=self.content, num_threads=self._threads)
        self._check(interpreter)
        interpreter.allocate_tensors()
        return interpreter

    def _check(self, interpreter: Any) -> None:
        """Raise an `UnusableError` unless a model has the shapes and operators of a wisesr model.

        LiteRT is too trusting for files from elsewhere. Sizes are those that the file declares.
        """
        most = max(MOST_NUMBERS, len(self.content) // 4)
        found = {
            "inputs": [_signature(tensor) for tensor in interpreter.get_input_details()],
            "outputs": [_signature(tensor) for tensor in interpreter.get_output_details()],
            "graphs": interpreter.num_subgraphs(),
            "operators": {operator["op_name"] for operator in interpreter._get_ops_details()} - OPERATORS,
            "sizes": [size for size in map(_numbers, interpreter.get_tensor_details()) if not 0 <= size <= most],
        }
        expected = {
            "inputs": [("float32", (-1, *self.model.info.image_size, self.model.info.preparation.channels))],
            "outputs": [("float32", (-1, self.width))],
            "graphs": 1,
            "operators": set(),
            "sizes": [],
        }
        if odd := [name for name in expected if found[name] != expected[name]]:
            name, values = visible(self.model.path.name), visible(found[odd[0]])
            raise UnusableError(f"{name} has {odd[0]} that no model of wisesr has: {values}")


def _signature(tensor: dict[str, Any]) -> tuple[str, tuple[int, ...]]:
    """Return the type and shape of a tensor, with -1 for variable sides."""
    return np.dtype(tensor["dtype"]).name, tuple(int(side) for side in tensor["shape_signature"])


def _numbers(tensor: dict[str, Any]) -> int:
    """Return the number of values that a tensor has for one image."""
    return prod(int(side) for side in tensor["shape"])


def _with_output(content: bytes, tensor: int) -> bytes:
    """Return a single-output LiteRT model with another tensor as its output."""
    from ai_edge_litert import schema_py_generated as schema

    copy = bytearray(content)
    schema.Model.GetRootAs(copy).Subgraphs(0).OutputsAsNumpy()[0] = tensor  # a view of the bytes themselves
    return bytes(copy)


def _run(interpreter: Any, image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the output for one image, float32 (width,)."""
    (given,), (wanted,) = interpreter.get_input_details(), interpreter.get_output_details()
    interpreter.tensor(given["index"])()[0] = image  # uint8 becomes float32 on the way
    interpreter.invoke()
    row: NDArray[np.float32] = interpreter.get_tensor(wanted["index"])[0]
    return row
