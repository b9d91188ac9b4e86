"""Arranges exports as model servers expect them: a folder per model, a folder per version, and their description.

    triton/photos-wise/config.pbtxt            NVIDIA Triton: --model-repository=triton
    triton/photos-wise/labels.txt
    triton/photos-wise/1/model.onnx            or 1/model.savedmodel/

    tf-serving/photos-wise/1/saved_model.pb    TensorFlow Serving: --model_base_path=$PWD/tf-serving/photos-wise

The exported files are linked or copied. To add a server: a function that arranges exports, and a row in `SERVERS`.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wisesr_cli.errors import UsageError
from wisesr_cli.exporting.conversion import FormatName
from wisesr_cli.exporting.metadata import labels_text
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.results.models import ExportedModel
from wisesr_cli.run.names import EXPORTED_MODELS, LABELS
from wisesr_cli.text import joined

VERSION = "1"
MOST_BATCH = 64  # images that Triton may put into one batch
ONNX_FILE, SAVED_MODEL_FOLDER = "model.onnx", "model.savedmodel"  # the names that Triton looks for

CONFIG = """\
name: "{name}"
{platform}
max_batch_size: {batch}
input [
  {{
    name: "{given}"
    data_type: TYPE_FP32
    dims: [ {dims} ]
  }}
]
output [
  {{
    name: "{wanted}"
    data_type: TYPE_FP32
    dims: [ {classes} ]
    label_filename: "labels.txt"
  }}
]
dynamic_batching {{ }}
"""


@dataclass(frozen=True)
class Server:
    """A model server: its name, its supported formats, best first, and a function that arranges an export for it."""

    title: str
    formats: tuple[FormatName, ...]
    arrange: Callable[[Path, Path, ExportedModel, ModelInfo], None]


def check_layout(layout: str, formats: Sequence[FormatName], *, resizes: bool) -> None:
    """Raise a `UsageError` if a server supports none of the formats, or no model that resizes images."""
    if layout == "plain":
        return
    server = SERVERS[layout]
    if not set(server.formats) & set(formats):
        best = server.formats[0]
        raise UsageError(f"--layout {layout}: {server.title} takes {joined(server.formats)}: add --to {best}")
    if resizes and layout == "triton":
        raise UsageError("--layout triton: Triton only batches images of the same size; leave out --resize inside")


def arrange(layout: str, folder: Path, rows: Sequence[ExportedModel], info: ModelInfo, name: str) -> None:
    """Arrange an export in `folder`, where the exported files of `rows` are, below `folder`/`layout`/`name`."""
    server = SERVERS[layout]
    by_format = {row.format: row for row in rows if row.quantize is None}
    row = next(by_format[name] for name in server.formats if name in by_format)
    place = folder / layout / model_name(name)
    place.mkdir(parents=True)
    server.arrange(folder, place, row, info)


def model_name(name: str) -> str:
    """Return the name of a model on a server: of letters, digits, dash and underscore only."""
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-") or "model"


def _arrange_triton(folder: Path, place: Path, row: ExportedModel, info: ModelInfo) -> None:
    height, width = info.image_size
    channels = info.preparation.channels
    sides = (channels, height, width) if row.layout == "nchw" else (height, width, channels)
    is_onnx = row.format == "onnx"
    given, wanted = ("pixels", "logits") if is_onnx else ("pixels", "output_0")
    text = CONFIG.format(
        name=place.name,
        platform='backend: "onnxruntime"' if is_onnx else 'platform: "tensorflow_savedmodel"',
        batch=MOST_BATCH,
        given=given,
        wanted=wanted,
        dims=", ".join(map(str, sides)),
        classes=len(info.class_names),
    )
    (place / "config.pbtxt").write_text(text, encoding="utf-8")
    (place / LABELS).write_text(labels_text(info.class_names), encoding="utf-8", newline="")
    (place / VERSION).mkdir()
    _link(folder / row.file, place / VERSION / (ONNX_FILE if is_onnx else SAVED_MODEL_FOLDER))


def _arrange_tf_serving(folder: Path, place: Path, row: ExportedModel, info: ModelInfo) -> None:
    _link(folder / row.file, place / VERSION)


def _link(source: Path, target: Path) -> None:
    """Hard-link a file, or all files of a folder; copy if the disk has no links."""
    if source.is_dir():
        shutil.copytree(source, target, copy_function=_link_file)
    else:
        _link_file(str(source), str(target))


def _link_file(source: str, target: str) -> None:
    with suppress(OSError):
        os.link(source, target)
        return
    shutil.copyfile(source, target)


SERVERS: dict[str, Server] = {
    "triton": Server("NVIDIA Triton", ("onnx", "saved_model"), _arrange_triton),
    "tf-serving": Server("TensorFlow Serving", ("saved_model",), _arrange_tf_serving),
}
assert {*(name for server in SERVERS.values() for name in server.formats)} <= {name for name, _ in EXPORTED_MODELS}
