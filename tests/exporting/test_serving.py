"""Exports for model servers: folders and names follow the servers' rules, and outputs are the same."""

from __future__ import annotations

import re
from pathlib import Path

import keras
import numpy as np
import pytest
from command_line import CommandLine, Trained

from wisesr_cli.exporting.serving import model_name

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow converts")


def field(text: str, block: str, name: str) -> str:
    """Return the value of a field in a block of config.pbtxt."""
    inside = re.search(rf"^{block} \[(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert inside is not None
    found = re.search(rf"^ +{name}: (.+)$", inside[1], re.MULTILINE)
    assert found is not None
    return found[1].strip('"')


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_a_triton_repository_describes_its_onnx_model(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, layout: str
) -> None:
    import onnxruntime

    answer = wisesr(
        *("export", trained.run, "--to", "onnx", "--layout", "triton", "--pixel-layout", layout, "-o", tmp_path)
    )
    assert answer.code == 0, answer.err
    (model,) = (tmp_path / "triton").iterdir()
    assert {str(path.relative_to(model)) for path in model.rglob("*") if path.is_file()} == {
        *("config.pbtxt", "labels.txt", "1/model.onnx")
    }
    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    assert f'name: "{model.name}"' in text
    session = onnxruntime.InferenceSession(model / "1" / "model.onnx")
    (given,), (wanted,) = session.get_inputs(), session.get_outputs()
    assert (field(text, "input", "name"), field(text, "output", "name")) == (given.name, wanted.name)
    assert field(text, "input", "dims") == f"[ {', '.join(map(str, given.shape[1:]))} ]"
    assert field(text, "output", "dims") == f"[ {wanted.shape[1]} ]"
    assert (model / "labels.txt").read_bytes() == (tmp_path / "labels.txt").read_bytes()


def test_a_tensorflow_serving_export_has_a_version_with_a_signature(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    import tensorflow

    line = ("export", trained.run, "--to", "saved_model", "--layout", "tf-serving", "-o", tmp_path)
    assert wisesr(*line).code == 0
    (model,) = (tmp_path / "tf-serving").iterdir()
    assert [path.name for path in model.iterdir()] == ["1"]
    loaded = tensorflow.saved_model.load(str(model / "1"))
    plain = tensorflow.saved_model.load(str(tmp_path / "saved_model"))
    (spec,) = loaded.signatures["serving_default"].structured_input_signature[1].values()
    pixels = np.random.default_rng(0).integers(0, 256, (2, *spec.shape[1:])).astype(np.float32)
    served = loaded.signatures["serving_default"](pixels=tensorflow.constant(pixels))["output_0"].numpy()
    np.testing.assert_array_equal(served, plain.serve(pixels).numpy())
    again = wisesr(*line)
    assert (again.code, "exists; replace it with --overwrite" in again.error) == (2, True)
    assert wisesr(*line, "--overwrite").code == 0


def test_a_folder_not_written_by_an_export_is_not_replaced(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "triton").mkdir()
    (tmp_path / "triton" / "mine.txt").write_text("mine", encoding="utf-8")
    answer = wisesr("export", trained.run, "--to", "onnx", "--layout", "triton", "-o", tmp_path, "--overwrite")
    assert (answer.code, "holds triton" in answer.error) == (2, True)
    assert (tmp_path / "triton" / "mine.txt").read_text(encoding="utf-8") == "mine"


def test_server_folders_are_never_stale_and_need_overwrite_to_be_replaced(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    line = ("export", trained.run, "--layout", "triton", "-o", tmp_path)
    wisesr(*line, "--to", "onnx").worked()
    other = wisesr(*line, "--to", "saved_model")
    assert (other.code, "triton exists; replace it with --overwrite" in other.error) == (2, True)
    again = wisesr(
        "export", trained.run, "--to", "onnx", "--image-size", "40x40", "-o", tmp_path, "--overwrite"
    ).worked()
    assert again.said("exports of an earlier model removed: triton")
    assert (tmp_path / "model.onnx").exists()
    assert not (tmp_path / "triton").exists()


@pytest.mark.parametrize(
    ("name", "expected"), [("photos-wise", "photos-wise"), ("a b/c.keras", "a-b-c-keras"), ("…", "model")]
)
def test_model_names_on_servers_are_sanitized(name: str, expected: str) -> None:
    assert model_name(name) == expected
