"""The metadata of a LiteRT model, in the format of TensorFlow's metadata writer, which MediaPipe and others read.

A FlatBuffer of the schema `metadata_schema.fbs` ("M001") is stored as a buffer of the model: how the input is scaled,
and which file names the classes. That file is in a zip after the model. The smallest package that can write it is
FlatBuffers' own, which LiteRT needs anyway: TensorFlow's ended with Python 3.11, MediaPipe's brings OpenCV.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wisesr_cli.model_files.appended import with_members

FIELD, IDENTIFIER = "TFLITE_METADATA", b"M001"
OLDEST_PARSER = "1.0.0"  # of the schema: the first one has everything used here
# Values of the schema's enumerations and unions.
_COLORS = {"RGB": 1, "grey": 2}  # the schema has no name for others; their content is features
_FEATURES, _IMAGE, _NORMALIZATION, _AXIS_LABELS = 1, 2, 1, 2


def with_metadata(
    content: bytes, labels: str, files: Mapping[str, str], *, channels: str, probabilities: bool
) -> bytes:
    """Return a LiteRT model with its metadata, followed by a zip of its files.

    Args:
        labels: the name of the one of `files` (name to text) that has a class name per line, in index order.
        channels: what the channels of the pixels are: `RGB`, `grey`, or others in words.
        probabilities: whether the output is probabilities, from 0 to 1, or logits.
    """
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.convert_bytearray_to_object(bytearray(content))
    buffer, entry = schema.BufferT(), schema.MetadataT()
    others = [name for name in files if name != labels]
    metadata = _metadata(labels, others, channels=channels, probabilities=probabilities)
    buffer.data = np.frombuffer(metadata, np.uint8)
    entry.name, entry.buffer = FIELD, len(model.buffers)
    model.buffers.append(buffer)
    model.metadata = [*(model.metadata or ()), entry]
    return with_members(bytes(flatbuffer_utils.convert_object_to_bytearray(model)), dict(files))


def _metadata(labels: str, others: Sequence[str], *, channels: str, probabilities: bool) -> bytes:
    """Return a `ModelMetadata` of one input, unscaled pixels of 0 to 255, and one output, a score per class."""
    import flatbuffers  # LiteRT depends on it

    builder = flatbuffers.Builder()
    write = _Tables(builder)
    normalization = write.table({0: write.numbers([0.0]), 1: write.numbers([1.0])})  # mean, deviation
    unit = write.table({1: normalization}, {0: _NORMALIZATION})
    color = _COLORS.get(channels)
    properties = write.table({}) if color is None else write.table({}, {0: color})
    content = write.table({1: properties}, {0: _FEATURES if color is None else _IMAGE})
    pixels = write.table(
        {
            0: write.text("image"),
            1: write.text(f"{channels}, 0 to 255; scaled inside"),
            3: content,
            4: write.tables([unit]),
            5: write.table({0: write.numbers([255.0]), 1: write.numbers([0.0])}),  # largest, smallest
        }
    )
    names = write.table({0: write.text(labels)}, {2: _AXIS_LABELS})
    scores = {0: write.text("probability" if probabilities else "logits"), 6: write.tables([names])}
    if probabilities:
        scores[5] = write.table({0: write.numbers([1.0]), 1: write.numbers([0.0])})
    graph = write.table({2: write.tables([pixels]), 3: write.tables([write.table(scores)])})
    attached = [write.table({0: write.text(name)}) for name in others]
    root = {0: write.text("image classifier"), 3: write.tables([graph]), 7: write.text(OLDEST_PARSER)}
    if attached:
        root[6] = write.tables(attached)
    builder.Finish(write.table(root), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


class _Tables:
    """Writes the parts of a FlatBuffer, inner ones first; each method returns an offset."""

    def __init__(self, builder: Any) -> None:
        self._builder = builder

    def table(self, offsets: Mapping[int, int], values: Mapping[int, int] | None = None) -> int:
        """Write a table of fields by number: offsets of parts written before, and enumeration values of one byte."""
        values = values or {}
        self._builder.StartObject(max((*offsets, *values), default=-1) + 1)
        for field, offset in offsets.items():
            self._builder.PrependUOffsetTRelativeSlot(field, offset, 0)
        for field, value in values.items():
            self._builder.PrependUint8Slot(field, value, 0)
        return int(self._builder.EndObject())

    def tables(self, offsets: Sequence[int]) -> int:
        """Write a vector of tables."""
        self._builder.StartVector(4, len(offsets), 4)
        for offset in reversed(offsets):
            self._builder.PrependUOffsetTRelative(offset)
        return int(self._builder.EndVector())

    def numbers(self, values: Sequence[float]) -> int:
        """Write a vector of float32."""
        return int(self._builder.CreateNumpyVector(np.array(values, np.float32)))

    def text(self, value: str) -> int:
        """Write a string."""
        return int(self._builder.CreateString(value))
