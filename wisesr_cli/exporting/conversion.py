"""Writes Keras models in other formats. TensorFlow converts, in a separate process where Keras runs on JAX.

To add a format: a function that writes a model to a path, and a row in `WRITERS`.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wisesr_cli.errors import machine_error
from wisesr_cli.exporting.agreement import in_whole_batches
from wisesr_cli.machine import keras_start
from wisesr_cli.model_files.saving import save_model
from wisesr_cli.text import on_one_line

FormatName = Literal["keras", "onnx", "litert", "saved_model"]
Quantization = Literal["int8", "float16"]
Layout = Literal["nhwc", "nchw"]
Output = Literal["logits", "probabilities"]
Resize = Literal["outside", "inside"]
Pixels = NDArray[np.uint8]

TITLES: dict[str, str] = {"keras": "Keras", "onnx": "ONNX", "litert": "LiteRT", "saved_model": "a SavedModel"}
INPUT, OUTPUT = "pixels", "logits"  # their names in ONNX
RESIZED = "resized_pixels"
ONNX_OPSET = 15  # of 2021: has everything the layers here need, and every runtime since reads it
RESIZING_OPSET = 18  # of 2022: the first with antialiasing
FULL = "No space left on device"
SECONDS = 3600  # limit for a separate process; the largest backbone takes minutes

_PROGRAM = """
import json, sys
from pathlib import Path
sys.path[:] = json.loads(sys.argv[1])
from wisesr_cli.exporting import conversion
from wisesr_cli.machine import keras_start
keras_start.start("cpu")
import keras
import numpy as np
import wisesr_cli.layers
name, source, target, form, examples = sys.argv[2:]
model = keras.models.load_model(source, compile=False)
pixels = np.load(examples, allow_pickle=False) if examples else None
conversion.WRITERS[name](model, Path(target), conversion.Form(**json.loads(form)), pixels)
"""


@dataclass(frozen=True)
class Form:
    """The inputs and outputs of an export, where a format leaves a choice.

    Attributes:
        quantize: how LiteRT stores numbers: `float16` weights, or `int8` weights and activations.
        output: what the model returns; always logits, except in LiteRT.
        layout: of the pixels; always `nhwc` (batch, height, width, channels), except in ONNX.
        batch: the fixed batch size of a LiteRT model; None for any.
        resize: whether the model resizes images of any size, or takes them at its size.
        temperature: what logits are divided by to give probabilities.
        multilabel: whether probabilities are for each label alone, as an image may have several.
    """

    quantize: Quantization | None = None
    output: Output = "logits"
    layout: Layout = "nhwc"
    batch: int | None = None
    resize: Resize = "outside"
    temperature: float = 1.0
    multilabel: bool = False


PLAIN = Form()


class ConversionError(Exception):
    """A model could not be converted; the text is the bare reason."""


def missing_tensorflow() -> str | None:
    """Return why nothing can be converted, None if TensorFlow is installed."""
    if find_spec("tensorflow") is None:
        return "converting models to LiteRT needs TensorFlow, which is not installed"
    return None


def convert(model: Any, name: FormatName, target: Path, form: Form = PLAIN, examples: Pixels | None = None) -> None:
    """Convert a Keras model that maps float32 pixels (batch, height, width, channels) to logits (batch, classes).

    `target` does not exist yet. `examples`, images (examples, height, width, channels), calibrate int8.

    Raises:
        ConversionError: it cannot be converted.
        OSError: it cannot be written.
    """
    try:
        if keras_start.backend_name() == "tensorflow" or name == "keras":
            WRITERS[name](model, target, form, examples)
        else:
            _convert_apart(model, name, target, form, examples)
    except MemoryError:
        raise
    except Exception as error:  # TensorFlow raises exceptions of any type
        if FULL in str(error):  # TensorFlow and HDF5 wrap it in other text
            raise OSError(errno.ENOSPC, FULL, str(target)) from error
        if isinstance(error, OSError) and machine_error(error) is not None:
            raise
        raise ConversionError(f"the model cannot be converted to {TITLES[name]}: {on_one_line(error)}") from error


def write_keras(model: Any, target: Path, form: Form = PLAIN, examples: Pixels | None = None) -> None:
    """Save a model as a `.keras` archive."""
    save_model(_resizing(model) if form.resize == "inside" else model, target)


def write_onnx(model: Any, target: Path, form: Form = PLAIN, examples: Pixels | None = None) -> None:
    """Convert a model to ONNX, and give its input, output and batch dimension the names that readers expect."""
    import onnx

    is_resizing = form.resize == "inside"
    if form.layout == "nchw" and not is_resizing:
        model = _channels_first(model)
    with keras_start.quiet_stderr(), warnings.catch_warnings(action="ignore"), _plain_statistics(model):
        model(np.zeros((1, *model.input_shape[1:]), np.float32), training=False)  # required before a conversion
        _teach_erfc()
        opset = RESIZING_OPSET if is_resizing else ONNX_OPSET
        model.export(target, format="onnx", verbose=False, opset_version=opset)
    converted = onnx.load(target)
    _rename(converted.graph, converted.graph.input[0].name, RESIZED if is_resizing else INPUT)
    if is_resizing:
        _resize_in_front(converted.graph, model.input_shape[1:], form.layout)
    _rename(converted.graph, converted.graph.output[0].name, OUTPUT)
    for value in (*converted.graph.input, *converted.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.checker.check_model(converted)
    onnx.save(converted, target)


def _resizing(model: Any) -> Any:
    """Return a model that takes images of any size, and resizes them with antialiasing, as `resize: squash` does.

    Pixels are rounded, as there; 13 of 100 differ by 1, because wisesr also rounds in between.
    """
    import keras

    pixels = keras.Input((None, None, model.input_shape[-1]))
    resized = keras.ops.image.resize(pixels, model.input_shape[1:3], antialias=True)
    return keras.Model(pixels, model(keras.ops.round(resized)))


def _resize_in_front(graph: Any, shape: tuple[int, int, int], layout: Layout) -> None:
    """Put the same in front of an ONNX graph whose input is called `RESIZED`; `shape` is that of one image."""
    from onnx import TensorProto, helper

    *size, channels = shape
    graph.initializer.append(helper.make_tensor("size", TensorProto.INT64, [2], size))
    how = {"mode": "linear", "coordinate_transformation_mode": "half_pixel", "antialias": 1, "exclude_outside": 1}
    nodes = [
        helper.make_node("Transpose", [INPUT], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Resize", ["channels_first", "", "", "size"], ["small"], axes=[2, 3], **how),
        helper.make_node("Round", ["small"], ["rounded"]),
        helper.make_node("Transpose", ["rounded"], [RESIZED], perm=[0, 2, 3, 1]),
    ]
    sides: list[int | str] = ["height", "width"]
    if layout == "nchw":
        nodes = nodes[1:]
        nodes[0].input[0] = INPUT
    given = ["batch", *sides, channels] if layout == "nhwc" else ["batch", channels, *sides]
    for node in reversed(nodes):
        graph.node.insert(0, node)
    graph.input.pop()
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, given))


def _channels_first(model: Any) -> Any:
    """Return a model that takes pixels (batch, channels, height, width)."""
    import keras

    height, width, channels = model.input_shape[1:]
    pixels = keras.Input((channels, height, width))
    return keras.Model(pixels, model(keras.layers.Permute((2, 3, 1))(pixels)))


@contextmanager
def _plain_statistics(model: Any) -> Iterator[None]:
    """Store given statistics of normalization layers as NumPy arrays, which become constants of a graph.

    Tensors would be captured from outside the graph and appear as inputs of the ONNX file.
    """
    import keras

    from wisesr_cli.model_files.loading import layers_of

    layers = [layer for layer in layers_of(model) if isinstance(layer, keras.layers.Normalization)]
    before = [(layer.mean, layer.variance) for layer in layers]
    try:
        for layer, (mean, variance) in zip(layers, before, strict=True):
            layer.mean, layer.variance = np.asarray(mean), np.asarray(variance)
        yield
    finally:
        for layer, (mean, variance) in zip(layers, before, strict=True):
            layer.mean, layer.variance = mean, variance


@lru_cache
def _teach_erfc() -> None:
    """Teach tf2onnx `Erfc`, TensorFlow's form of ConvNeXt's GELU, as 1 minus `Erf`, which ONNX has."""
    from tf2onnx.handler import tf_op

    class Erfc:
        @classmethod
        def version_9(cls, context: Any, node: Any, **kwargs: Any) -> None:
            given, names, shapes, types = node.input[0], node.output, node.output_shapes, node.output_dtypes
            context.remove_node(node.name)
            error = context.make_node("Erf", [given], shapes=shapes, dtypes=types)
            one = context.make_const(f"{node.name}_one", np.float32(1))
            rest = [one.output[0], error.output[0]]
            context.make_node("Sub", rest, name=node.name, outputs=names, shapes=shapes, dtypes=types)

    tf_op("Erfc")(Erfc)


def _rename(graph: Any, old: str, new: str) -> None:
    """Rename a value of an ONNX graph everywhere."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        value.name = new if value.name == old else value.name
    for node in graph.node:
        for names in (node.input, node.output):
            names[:] = [new if name == old else name for name in names]


def write_litert(model: Any, target: Path, form: Form = PLAIN, examples: Pixels | None = None) -> None:
    """Convert a model for LiteRT, without the converter's messages.

    Only a function and the variables are passed to the converter. Keras' own export passes the whole model, which takes
    twice the time for the same operators and numbers; weights as constants would take gigabytes in large models.
    """
    tensorflow = keras_start.load_tensorflow()

    def serve(pixels: Any) -> Any:
        logits = model(pixels, training=False)
        if form.output == "logits":
            return logits
        return (tensorflow.sigmoid if form.multilabel else tensorflow.nn.softmax)(logits / form.temperature)

    spec = tensorflow.TensorSpec((form.batch, *model.input_shape[1:]), tensorflow.float32, name=INPUT)
    with keras_start.quiet_stderr():
        owner = tensorflow.Module()
        owner.weights = [variable.value for variable in model.weights]
        owner.serve = tensorflow.function(serve, input_signature=[spec], autograph=False)
        function = owner.serve.get_concrete_function()
        converter = tensorflow.lite.TFLiteConverter.from_concrete_functions([function], owner)
        _quantize(converter, form, examples)
        target.write_bytes(converter.convert())


def _quantize(converter: Any, form: Form, examples: Pixels | None) -> None:
    """Set how a converter stores numbers; inputs and outputs stay float32."""
    if form.quantize is None:
        return
    tensorflow = keras_start.load_tensorflow()
    lite = tensorflow.lite
    converter.optimizations = [lite.Optimize.DEFAULT]
    if form.quantize == "float16":
        converter.target_spec.supported_types = [tensorflow.float16]
        return
    assert examples is not None
    batches = [examples[rows] for rows in in_whole_batches(len(examples), form.batch or 1)]
    converter.representative_dataset = lambda: ([batch.astype(np.float32)] for batch in batches)
    converter.target_spec.supported_ops = [lite.OpsSet.TFLITE_BUILTINS_INT8]


def write_saved_model(model: Any, target: Path, form: Form = PLAIN, examples: Pixels | None = None) -> None:
    """Write a SavedModel with `serve` for float32 pixels and `serve_uint8` for uint8 pixels."""
    import keras

    if form.resize == "inside":
        model = _resizing(model)

    def serve_uint8(pixels: Any) -> Any:
        return model(keras.ops.cast(pixels, "float32"), training=False)

    archive = keras.export.ExportArchive()  # given the model itself, it would write every variable twice
    endpoints: dict[str, tuple[Callable[..., Any], str]] = {
        "serve": (functools.partial(model.__call__, training=False), "float32"),
        "serve_uint8": (serve_uint8, "uint8"),
    }
    with keras_start.quiet_stderr():
        for name, (function, dtype) in endpoints.items():
            shape = (None, *model.input_shape[1:])
            archive.add_endpoint(name, function, [keras.InputSpec(dtype=dtype, shape=shape, name=INPUT)])
        archive.write_out(target, verbose=False)


def _convert_apart(model: Any, name: str, target: Path, form: Form, examples: Pixels | None) -> None:
    """Convert a model in a separate process that runs Keras on TensorFlow, as Keras on JAX cannot convert.

    Raises `RuntimeError` with the last line of the traceback when that fails.
    """
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        source, array = Path(folder, "model.keras"), Path(folder, "examples.npy")
        write_keras(model, source)
        if examples is not None:
            np.save(array, examples)
        search = json.dumps([entry for entry in sys.path if entry])
        form_text = json.dumps(asdict(form))
        words = (name, str(source), str(target.absolute()), form_text, "" if examples is None else str(array))
        command = [sys.executable, "-I", "-c", _PROGRAM, search, *words]
        variables = {**os.environ, "KERAS_BACKEND": "tensorflow"}
        done = subprocess.run(command, env=variables, capture_output=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])


Writer = Callable[[Any, Path, Form, Pixels | None], None]

WRITERS: dict[str, Writer] = {
    "keras": write_keras,
    "onnx": write_onnx,
    "litert": write_litert,
    "saved_model": write_saved_model,
}
