"""MediaPipe and TensorFlow's metadata writer accept a LiteRT export unchanged; each is installed for its test."""

from __future__ import annotations

import json
import subprocess
import sys
import venv
from pathlib import Path

import keras
import pytest
from command_line import Trained
from installing import install_or_skip

import wisesr_cli

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow converts"),
]

CLASSIFY = """
import json, sys
import mediapipe
from mediapipe.tasks import python as tasks
from mediapipe.tasks.python import vision

model, *photos = sys.argv[1:]
options = vision.ImageClassifierOptions(base_options=tasks.BaseOptions(model_asset_path=model))
found = []
with vision.ImageClassifier.create_from_options(options) as classifier:
    for photo in photos:
        categories = classifier.classify(mediapipe.Image.create_from_file(photo)).classifications[0].categories
        best = max(categories, key=lambda category: category.score)
        found.append((best.category_name, best.score, sum(category.score for category in categories)))
print(json.dumps(found))
"""
WRITE = """
import sys
from tflite_support import metadata
from tflite_support.metadata_writers import image_classifier, writer_utils

model, labels, target = sys.argv[1:]
content = writer_utils.load_file(model)
shown = metadata.MetadataDisplayer.with_model_buffer(content)
print(shown.get_packed_associated_file_list(), shown.get_metadata_json())
writer = image_classifier.MetadataWriter.create_for_inference(content, [0.0], [1.0], [labels])
writer_utils.save_file(writer.populate(), target)
"""


def environment_with(folder: Path, *packages: str) -> Path:
    """Return the Python of a new virtual environment with these packages, or skip the test."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install_or_skip(packages[0], [str(python), "-m", "pip", "install", "-q", *packages])
    return python


def run(python: Path, program: str, *arguments: object) -> str:
    command = [str(python), "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_mediapipe_gives_the_labels_of_predict(trained: Trained, tmp_path: Path) -> None:
    python = environment_with(tmp_path / "mediapipe", "mediapipe==1.2.3")
    imported = subprocess.run([python, "-c", "import mediapipe"], capture_output=True, text=True, check=False)
    if imported.returncode:  # for example, because a graphics library is missing
        pytest.skip(f"mediapipe cannot be imported: {imported.stderr.strip()[-200:]}")
    folder = tmp_path / "exports"
    wisesr_cli.export(trained.run, "litert", output_dir=folder)
    wisesr_cli.export(trained.run, "litert", quantize="int8", output_dir=folder)
    photos = sorted((trained.photos / "test").rglob("*.png"))
    expected = list(wisesr_cli.predict(trained.run, photos))
    assert len({record.label for record in expected}) > 1
    for name, most in (("model.tflite", 1e-4), ("model-int8.tflite", 0.1)):
        found = json.loads(run(python, CLASSIFY, folder / name, *photos).splitlines()[-1])
        assert [label for label, _, _ in found] == [record.label for record in expected]
        for (_, score, total), record in zip(found, expected, strict=True):
            assert (score, total) == (pytest.approx(record.score, abs=most), pytest.approx(1, abs=most))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="tflite-support ends with Python 3.11")
def test_the_tensorflow_metadata_writer_reads_and_extends_the_metadata(trained: Trained, tmp_path: Path) -> None:
    python = environment_with(tmp_path / "writer", "tflite-support==0.4.4", "numpy<2")
    wisesr_cli.export(trained.run, "litert", output_dir=tmp_path)
    shown = run(python, WRITE, tmp_path / "model.tflite", tmp_path / "labels.txt", tmp_path / "again.tflite")
    assert shown.startswith("['wisesr.json', 'wisesr-labels.txt']")
    (graph,) = json.loads(shown.partition("] ")[2])["subgraph_metadata"]
    (given,), (wanted,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    assert given["content"]["content_properties"] == {"color_space": "RGB"}
    assert given["process_units"][0]["options"] == {"mean": [0.0], "std": [1.0]}
    assert wanted["name"] == "probability"
    assert wanted["associated_files"] == [{"name": "wisesr-labels.txt", "type": "TENSOR_AXIS_LABELS"}]
    assert b"labels.txt" in (tmp_path / "again.tflite").read_bytes()
