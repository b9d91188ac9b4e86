"""Writes the record of an exported model (class names, sizes, versions) as its format allows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wisesr_cli.exporting.conversion import Form
from wisesr_cli.exporting.tflite_metadata import with_metadata
from wisesr_cli.images.preparation import RGB
from wisesr_cli.model_files.archive import append_model_info
from wisesr_cli.model_files.info import MODEL_INFO, ModelInfo
from wisesr_cli.run.names import LABELS, SAVED_MODEL_EXTRAS
from wisesr_cli.text import visible

# In the zip after a LiteRT model: TensorFlow's writer adds a user's labels.txt, and refuses a name already in the zip.
PACKED_LABELS = "wisesr-labels.txt"
LAYOUTS = {"nhwc": "batch, height, width, {}", "nchw": "batch, {}, height, width"}
CHANNELS = {1: "grey", RGB: "RGB"}
OUTPUTS = {
    "logits": "logits; the {} of logits / temperature gives probabilities",
    "probabilities": "probabilities, the temperature applied",
}


def record_of(info: ModelInfo, form: Form) -> dict[str, Any]:
    """Return the record of an exported model, for any format."""
    return {
        **info.to_json(),
        "input": {
            "layout": LAYOUTS[form.layout].format(channels_text(info.preparation.channels)),
            "range": [0, 255],
            "type": "float32",
        },
        "output": OUTPUTS[form.output].format("sigmoid" if info.is_multilabel else "softmax"),
        "quantize": form.quantize,
    }


def channels_text(channels: int) -> str:
    """Describe the channels of pixels: `RGB`, `grey`, `4 bands`."""
    return CHANNELS.get(channels, f"{channels} bands")


def labels_text(class_names: Sequence[str]) -> str:
    """Return a line per class name, in index order, escaping what would break a line or is not UTF-8."""
    return "".join(f"{visible(name)}\n" for name in class_names)


def thresholds_text(thresholds: Sequence[float]) -> str:
    """Return a line per class, in index order: the lowest score at which its label is given."""
    return "".join(f"{threshold!r}\n" for threshold in thresholds)


def describe_keras(path: Path, info: ModelInfo, form: Form) -> None:
    """Add the record to the archive, as training does; Keras ignores it."""
    append_model_info(path, info)


def describe_onnx(path: Path, info: ModelInfo, form: Form) -> None:
    """Add the fields of the record, each as JSON, to the metadata that ONNX Runtime shows."""
    import onnx

    model = onnx.load(path)
    onnx.helper.set_model_props(model, {name: json.dumps(value) for name, value in record_of(info, form).items()})
    onnx.save(model, path)


def describe_litert(path: Path, info: ModelInfo, form: Form) -> None:
    """Add the standard metadata, with the labels and the record in its zip."""
    files, is_softmax = _members(info, form, PACKED_LABELS), form.output == "probabilities"
    channels = channels_text(info.preparation.channels)
    described = with_metadata(path.read_bytes(), PACKED_LABELS, files, channels=channels, probabilities=is_softmax)
    path.write_bytes(described)


def describe_saved_model(path: Path, info: ModelInfo, form: Form) -> None:
    """Write the record and the labels into the folder that TensorFlow reserves for other programs."""
    folder = path / SAVED_MODEL_EXTRAS
    folder.mkdir()
    for name, text in _members(info, form, LABELS).items():
        (folder / name).write_text(text, encoding="utf-8", newline="")


def _members(info: ModelInfo, form: Form, labels: str) -> dict[str, str]:
    record: dict[str, Any] = record_of(info, form)
    return {MODEL_INFO: json.dumps(record, indent=1), labels: labels_text(info.class_names)}
