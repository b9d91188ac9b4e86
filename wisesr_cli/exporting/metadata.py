"""Writes the record of an exported model (class names, sizes, versions) as its format allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wisesr_cli.exporting.conversion import Quantization
from wisesr_cli.model_files.appended import with_members
from wisesr_cli.model_files.archive import append_model_info
from wisesr_cli.model_files.info import MODEL_INFO, ModelInfo
from wisesr_cli.run.names import LABELS, SAVED_MODEL_EXTRAS
from wisesr_cli.text import visible


def record_of(info: ModelInfo, quantize: str | None) -> dict[str, Any]:
    """Return the record of an exported model, for any format."""
    return {
        **info.to_json(),
        "input": {"layout": "batch, height, width, RGB", "range": [0, 255], "type": "float32"},
        "output": "logits; their softmax gives probabilities",
        "quantize": quantize,
    }


def labels_text(class_names: Sequence[str]) -> str:
    """Return a line per class name, in index order; what would break a line or is not UTF-8 is escaped."""
    return "".join(f"{visible(name)}\n" for name in class_names)


def describe_keras(path: Path, info: ModelInfo, quantize: Quantization | None) -> None:
    """Add the record to the archive, as training does; Keras does not look at it."""
    append_model_info(path, info)


def describe_onnx(path: Path, info: ModelInfo, quantize: Quantization | None) -> None:
    """Add the fields of the record to the metadata, each as JSON, which ONNX Runtime shows."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in record_of(info, quantize).items()})
    onnx.save(model, path)


def describe_litert(path: Path, info: ModelInfo, quantize: Quantization | None) -> None:
    """Append a zip with the record and the labels, as LiteRT's own metadata does."""
    content = path.read_bytes()
    path.write_bytes(with_members(content, _members(info, quantize)))


def describe_saved_model(path: Path, info: ModelInfo, quantize: Quantization | None) -> None:
    """Write the record and the labels into the folder that TensorFlow leaves to others."""
    folder = path / SAVED_MODEL_EXTRAS
    folder.mkdir()
    for name, text in _members(info, quantize).items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def _members(info: ModelInfo, quantize: Quantization | None) -> dict[str, str]:
    record: dict[str, Any] = record_of(info, quantize)
    return {MODEL_INFO: json.dumps(record, indent=1), LABELS: labels_text(info.class_names)}
