"""How often do other runtimes of exported models give the labels of `wisesr predict`?

    python -m benchmarks.exports.clients --run RUN [--photos FOLDER]
    python -m benchmarks.exports.clients --weights-dir FOLDER [--photos FOLDER]   # MobileNet, a head trained in minutes

The run is exported in every format, and every runtime labels all photos of `--photos` in a separate process without
wisesr: once from the pixels that wisesr reads, so that only runtimes differ, and once from photos opened and resized by
Pillow, as the README of the export says. Runtimes are searched for in this Python, in those of `--python`, and in the
`node_modules` of the folder `--node`; a missing one is reported with its install command. `--write` puts the table into
docs/exports.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

import wisesr_cli
from benchmarks.measuring import PHOTOS, plain_environment
from benchmarks.pages import DOCS, machine, write_between_marks
from wisesr_cli.display.grid import Grid, numbers, texts, to_markdown
from wisesr_cli.exporting.resizing import PILLOW
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.model_files.info import BEST
from wisesr_cli.text import counted

DOCUMENT = DOCS / "exports.md"
PROGRAMS = Path(__file__).parent / "programs"
ABSENT = 3  # exit code of the programs if a runtime is not installed
SECONDS = 1800  # for a runtime and all photos
PLAIN, CHANNELS_FIRST, GRAPH = "exports", "nchw", "tfjs"  # folders of exports
GRAPH_MODEL = 'tensorflowjs "ydf<0.12"'  # the latest ydf needs a different protobuf from TensorFlow.js' converter

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Client:
    """A runtime: its name in the program, the model that it takes, and its install command."""

    runtime: str
    model: str
    install: str

    @property
    def is_for_node(self) -> bool:
        """Whether it runs in Node rather than in Python."""
        return self.install.startswith("npm")


@dataclass(frozen=True)
class Places:
    """Where to search for runtimes."""

    pythons: Sequence[str] = (sys.executable,)
    node: Path = field(default_factory=Path.cwd)


class AbsentError(Exception):
    """A runtime is not installed."""


def labels_by(client: Client, exports: Path, pixels: Path, places: Places) -> list[int]:
    """Return the label of each image in a file of pixels; raises an `AbsentError` if the runtime is not installed."""
    arguments = [client.runtime, str((exports / client.model).absolute()), str(pixels.absolute())]
    if client.is_for_node:
        commands = [["node", str(PROGRAMS / "label.cjs"), *arguments]]
    else:
        commands = [[python, "-I", str(PROGRAMS / "label.py"), *arguments] for python in places.pythons]
    for command in commands:
        try:
            done = subprocess.run(
                command,
                cwd=places.node,
                env=plain_environment({"CUDA_VISIBLE_DEVICES": "-1"}),
                capture_output=True,
                text=True,
                timeout=SECONDS,
                check=False,
            )
        except FileNotFoundError:  # no Node
            continue
        if done.returncode == 0:
            return list(json.loads(done.stdout.splitlines()[-1]))
        if done.returncode != ABSENT:
            raise SystemExit(f"error: {client.runtime} failed on {client.model}:\n{done.stderr[-2000:]}")
    raise AbsentError


def export_all(run: Path, folder: Path, converter: str) -> None:
    """Export a run in every form that a client takes; the graph model only if its converter is installed."""
    plain = folder / PLAIN
    wisesr_cli.export(run, ["keras", "onnx", "litert", "saved_model"], output_dir=plain)
    wisesr_cli.export(run, "litert", quantize="int8", output_dir=plain)
    wisesr_cli.export(run, "onnx", pixel_layout="nchw", output_dir=folder / CHANNELS_FIRST)
    options = ["--input_format=tf_saved_model", "--output_format=tfjs_graph_model", "--signature_name=serve"]
    try:
        command = [converter, *options, str(plain / "saved_model"), str(folder / GRAPH)]
        done = subprocess.run(command, env=plain_environment(), capture_output=True, text=True, check=False)
    except FileNotFoundError:
        print(f"{converter} is not installed: pip install {GRAPH_MODEL}", file=sys.stderr)
        return
    if done.returncode:
        print(f"{converter} failed: {done.stderr[-1000:]}", file=sys.stderr)


def trained(photos: Path, weights: Path | None, folder: Path) -> Path:
    """Return a run with a head trained on MobileNet's feature maps or, without weights, a tiny network."""
    settings: dict[str, Any] = {"output_dir": str(folder), "name": "run"}
    if weights is None:
        settings |= {"model.backbone": "compact_small", "data.image_size": 32, "train.epochs": 1}
    else:
        settings |= {"model.backbone": "MobileNet", "data.image_size": 224, "model.weights_dir": str(weights)}
        settings |= {"model.weights": "imagenet", "train.phases": [{"epochs": 8, "freeze": "backbone"}]}
    return Path(wisesr_cli.train(photos, settings).run_dir)


def write_pixels(run: Path, photos: Sequence[Path], folder: Path) -> list[Path]:
    """Write the pixels of photos, uint8 (images, height, width, 3), as wisesr reads them and as the README says."""
    info = read_model_info(run / BEST)
    resize = PILLOW[info.preparation.resize].resize
    by_wisesr = [decode_image(path, image_size=info.image_size, preparation=info.preparation) for path in photos]
    by_pillow = [resize(_opened(path), info.image_size) for path in photos]
    files = [folder / "by_wisesr.npy", folder / "by_pillow.npy"]
    for file, images in zip(files, (by_wisesr, by_pillow), strict=True):
        np.save(file, np.stack(images))
    return files


def _opened(path: Path) -> Pixels:
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def rows_of(exports: Path, pixels: Sequence[Path], expected: Sequence[int], places: Places) -> list[tuple[str, ...]]:
    """Return a row for each client: for each file of pixels, how many labels agree with `wisesr predict`."""
    rows = []
    for name, client in CLIENTS.items():
        try:
            if not (exports / client.model).exists():
                raise AbsentError
            found = [labels_by(client, exports, file, places) for file in pixels]
        except AbsentError:
            cells = tuple(f"not installed: {client.install}" for _ in pixels)
        else:
            same = [sum(a == b for a, b in zip(labels, expected, strict=True)) for labels in found]
            cells = tuple(f"{count} of {len(expected)}" for count in same)
        rows.append((name, client.model.partition("/")[2] or client.model, *cells))
        print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
    return rows


def main() -> None:
    """Train if no run is given, export, label, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, help="a run directory; without one, a run is trained")
    parser.add_argument("--data", type=Path, default=PHOTOS, help="has train/, validation/ and test/, to train on")
    parser.add_argument("--photos", type=Path, help="photos to label; default: test/ of --data")
    parser.add_argument("--weights-dir", type=Path, help="folder with MobileNet's ImageNet weights, to train with")
    parser.add_argument(
        "--python", type=Path, action="append", default=[], help="another Python with runtimes; may be repeated"
    )
    parser.add_argument("--node", type=Path, default=Path.cwd(), help="a folder with node_modules; default: this one")
    parser.add_argument("--converter", default="tensorflowjs_converter", help=f"the program of {GRAPH_MODEL}")
    parser.add_argument("--quick", action="store_true", help="a tiny network for MobileNet, to show that it runs")
    parser.add_argument("--write", action="store_true", help="write the table into docs/exports.md")
    arguments = parser.parse_args()
    if arguments.run is None and arguments.weights_dir is None and not arguments.quick:
        parser.error("give --run RUN or --weights-dir FOLDER")
    pythons = (sys.executable, *(str(path.absolute()) for path in arguments.python))
    places = Places(pythons, arguments.node.absolute())
    photos = sorted(path for path in (arguments.photos or arguments.data / "test").rglob("*.*") if path.is_file())
    if not photos:
        parser.error("there are no photos in the folder; give --photos FOLDER")
    with tempfile.TemporaryDirectory(prefix="wisesr-benchmark-") as name:
        folder = Path(name)
        weights = None if arguments.quick else arguments.weights_dir
        run = arguments.run or trained(arguments.data, weights, folder)
        names = read_model_info(run / BEST).class_names
        expected = [names.index(str(record.label)) for record in wisesr_cli.predict(run, photos)]
        export_all(run, folder, arguments.converter)
        rows = rows_of(folder, write_pixels(run, photos, folder), expected, places)
    table = to_markdown(table_of(rows))
    print(table, end="")
    if arguments.write:
        content = f"{table}\n{counted(len(photos), 'photo')}; measured on {machine()}.\n"
        write_between_marks(DOCUMENT, "benchmarks.exports.clients", {"clients": content})


def table_of(rows: Sequence[tuple[str, ...]]) -> Grid:
    """Return the table of how many labels agree with `wisesr predict`."""
    columns = (*texts("runtime", "file"), *numbers("pixels of wisesr", "pixels of Pillow"))
    return Grid("", columns, tuple(rows))


PIP_OPENVINO = "pip install openvino"

CLIENTS: dict[str, Client] = {
    "Keras": Client("keras", f"{PLAIN}/model.keras", "pip install keras tensorflow"),
    "tf.saved_model": Client("saved_model", f"{PLAIN}/saved_model", "pip install tensorflow"),
    "LiteRT": Client("litert", f"{PLAIN}/model.tflite", "pip install ai-edge-litert"),
    "LiteRT, int8": Client("litert", f"{PLAIN}/model-int8.tflite", "pip install ai-edge-litert"),
    "MediaPipe": Client("mediapipe", f"{PLAIN}/model.tflite", "pip install mediapipe"),
    "ONNX Runtime": Client("onnxruntime", f"{PLAIN}/model.onnx", "pip install onnxruntime"),
    "onnxruntime-web, in Node": Client("onnxruntime_web", f"{PLAIN}/model.onnx", "npm install onnxruntime-web"),
    "OpenCV's dnn": Client("opencv", f"{CHANNELS_FIRST}/model.onnx", "pip install opencv-python-headless"),
    "OpenVINO": Client("openvino", f"{PLAIN}/model.onnx", PIP_OPENVINO),
    "OpenVINO, INFERENCE_PRECISION_HINT f32": Client("openvino_float32", f"{PLAIN}/model.onnx", PIP_OPENVINO),
    "TensorFlow.js, graph model, in Node": Client(
        "tfjs", GRAPH, f"npm install @tensorflow/tfjs @tensorflow/tfjs-backend-wasm; pip install {GRAPH_MODEL}"
    ),
}

if __name__ == "__main__":
    main()
