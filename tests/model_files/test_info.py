"""The record in a model file reads back exactly, and any damage to it is a run error."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import h5py
import pytest

from wisesr_cli.errors import RunError
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.archive import append_model_info, read_model_info
from wisesr_cli.model_files.info import ModelInfo

INFO = ModelInfo(
    ("cat", "d\udcff"), (96, 128), Preparation("pad"), BACKGROUND, "compact", "wise", 3, {"keras": "3.15.1"}
)


def write_archive(path: Path, record: str | None = None) -> None:
    """Write a minimal archive with the members of a model."""
    weights = io.BytesIO()
    h5py.File(weights, "w").close()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        archive.writestr("model.weights.h5", weights.getvalue())
        if record is not None:
            archive.writestr("wisesr.json", record)


def test_a_model_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "best.keras"
    write_archive(path)
    with pytest.raises(RunError, match="not a model of wisesr train"):
        read_model_info(path)
    append_model_info(path, INFO)
    assert read_model_info(path) == INFO


def test_damage_to_a_model_file_raises_nothing_but_run_errors(tmp_path: Path) -> None:
    path = tmp_path / "best.keras"
    write_archive(path, json.dumps(INFO.to_json()))
    content = path.read_bytes()
    for position in range(len(content)):
        for bit in (1, 8, 128):
            changed = bytearray(content)
            changed[position] ^= bit
            path.write_bytes(bytes(changed))
            try:
                read_model_info(path)
            except RunError:
                continue
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(RunError, match=r"best\.keras"):
            read_model_info(path)


def with_value(**values: object) -> str:
    return json.dumps({**INFO.to_json(), **values})


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{}", "5", '{"class_names": 5}', "[" * 50_000, "x"),
        with_value(image_size=[1]),
        with_value(image_size=[99_999, 9]),
        with_value(image_size=[0, 9]),
        with_value(resize="melt"),
        with_value(color="cmyk"),
        *(with_value(value_range=wrong) for wrong in ([1], [2, 1], [0, float("inf")], "0 to 5", [True, 5], 5)),
        with_value(class_names=[["x"]]),
        with_value(background=[0, 0, 0]),
        with_value(epoch=float("inf")),
        with_value(image_size=[float("inf"), 3]),
        with_value(image_size=[3.5, 3]),
        with_value(class_names="abc"),
        with_value(class_names=["a", "a"]),
    ],
)
def test_a_nonsensical_model_record_is_a_run_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "best.keras"
    write_archive(path, text)
    with pytest.raises(RunError, match=r"best\.keras"):
        read_model_info(path)
