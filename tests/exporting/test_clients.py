"""Third-party runtimes, each in a process without wisesr, give the labels of `wisesr predict`."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

import keras
import pytest
from command_line import Trained
from installing import install_or_skip

import wisesr_cli
from benchmarks.exports import clients
from benchmarks.exports.clients import CLIENTS, AbsentError, Places, labels_by
from wisesr_cli.model_files.archive import read_model_info

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow converts")
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")


@pytest.fixture(scope="module")
def exports(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    wisesr_cli.export(trained.run, ["litert", "onnx"], output_dir=folder / clients.PLAIN)
    return folder


@pytest.fixture(scope="module")
def photos(trained: Trained) -> list[Path]:
    return sorted((trained.photos / "test").rglob("*.png"))


@pytest.fixture(scope="module")
def pixels(trained: Trained, exports: Path, photos: list[Path]) -> list[Path]:
    return clients.write_pixels(trained.run, photos, exports)


@pytest.fixture(scope="module")
def expected(trained: Trained, photos: list[Path]) -> list[int]:
    names = read_model_info(trained.run / "best.keras").class_names
    labels = [names.index(str(record.label)) for record in wisesr_cli.predict(trained.run, photos)]
    assert len(set(labels)) > 1
    return labels


def test_runtimes_match_predict_and_missing_ones_are_listed_with_an_install_command(
    exports: Path, pixels: list[Path], expected: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = {name: CLIENTS[name] for name in ("LiteRT", "ONNX Runtime", "onnxruntime-web, in Node", "Keras")}
    monkeypatch.setattr(clients, "CLIENTS", chosen)
    rows = clients.rows_of(exports, pixels, expected, Places(node=tmp_path))
    all_of_them = f"{len(expected)} of {len(expected)}"
    assert rows[:2] == [
        ("LiteRT", "model.tflite", all_of_them, all_of_them),
        ("ONNX Runtime", "model.onnx", all_of_them, all_of_them),
    ]
    assert rows[2][2] == "not installed: npm install onnxruntime-web"
    assert rows[3][2] == "not installed: pip install keras tensorflow"  # this export does not exist


@pytest.mark.skipif(find_spec("openvino") is not None, reason="OpenVINO is installed")
def test_a_runtime_found_in_none_of_the_pythons_is_absent(exports: Path, pixels: list[Path]) -> None:
    with pytest.raises(AbsentError):
        labels_by(CLIENTS["OpenVINO"], exports, pixels[0], Places((sys.executable, "/no/python")))


def test_a_failing_runtime_aborts_the_benchmark_and_is_named(exports: Path, pixels: list[Path]) -> None:
    broken = exports / "broken.onnx"
    broken.write_bytes(b"no model")
    client = clients.Client("onnxruntime", broken.name, "pip install onnxruntime")
    with pytest.raises(SystemExit, match=r"onnxruntime failed on broken\.onnx"):
        labels_by(client, exports, pixels[0], Places())


@pytest.mark.slow
@needs_node
def test_onnxruntime_web_gives_the_labels_of_predict(
    exports: Path, pixels: list[Path], expected: list[int], tmp_path: Path
) -> None:
    install_or_skip("onnxruntime-web", ["npm", "install", "--prefix", str(tmp_path), "onnxruntime-web@1.30.0"])
    found = labels_by(CLIENTS["onnxruntime-web, in Node"], exports, pixels[0], Places(node=tmp_path))
    assert found == expected


def test_the_page_has_a_row_for_every_runtime() -> None:
    page = clients.DOCUMENT.read_text(encoding="utf-8")
    table = page.partition("<!-- clients: ")[2].partition("<!-- end of clients -->")[0]
    rows = [line.split(" | ")[0].removeprefix("| ").replace("\\", "") for line in table.splitlines() if " of " in line]
    assert [row for row in rows if row in CLIENTS] == list(CLIENTS)
