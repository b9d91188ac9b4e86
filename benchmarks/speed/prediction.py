"""How long does it take to label one photo, and a folder of them?

    python -m benchmarks.speed.prediction [--quick]

The model is a MobileNetV2 at 224 x 224 pixels with the GAP head and random weights; the head is GAP so that plain Keras
can load the file. All figures are for whole processes, from start to end, as users experience them: `wisesr predict`
against a Keras script (load_model, image_dataset_from_directory, model.predict), and against a script that runs the
same model on ONNX Runtime and decodes with Pillow in threads (`pip install '.[benchmark]'`). Photos: those of
shared/data if available, copied until there are enough, else generated (400 x 534, JPEG).
"""

from __future__ import annotations

import importlib.util
import itertools
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.measuring import Answer, Question, Settings, alternate, main, run_process, wisesr_command

ONE_PHOTO = Question("predict one photo, whole process", "Keras script", "seconds", reach=0.10, aim=0.05)
FOLDER = Question("predict a folder of {} photos", "Keras script", "images/s", reach=3.0, aim=6.0)
ON_ONNX = Question("predict a folder of {} photos", "ONNX Runtime, Pillow in threads", "images/s", reach=0.9, aim=1.1)

PHOTOS, QUICK_PHOTOS = 1000, 100
BASELINES = Path(__file__).parent / "baselines"
ONNX_PACKAGES = ("onnxruntime", "onnx", "tf2onnx")

MAKE_RUN = """
import sys
from pathlib import Path
import keras, numpy as np
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.machine import keras_start
keras_start.start("cpu")
from wisesr_cli.exporting.best_litert import to_litert
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.models.build import build_classifier
from wisesr_cli.model_files.archive import append_model_info, check_model
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.run.run import litert_path
path, formats = Path(sys.argv[1]), sys.argv[2:]
keras.utils.set_random_seed(0)
config = ModelConfig(backbone="MobileNetV2", head={"name": "gap"})
model = build_classifier(config, image_size=(224, 224), classes=10, steps_per_epoch=1).model
for seed in range(20):  # statistics of batch norm with which outputs vary
    model(np.random.default_rng(seed).integers(0, 256, (8, 224, 224, 3)).astype("float32"), training=True)
model.save(path)
names = tuple(f"class {number}" for number in range(10))
append_model_info(path, ModelInfo(names, (224, 224), Preparation(), BACKGROUND, "MobileNetV2", "gap", 1, {}))
if "onnx" in formats:
    model.export(path.with_suffix(".onnx"), format="onnx", verbose=False)
engine = KerasEngine(check_model(path))
converted = to_litert(engine, litert_path(path))
converted.path.write_bytes(converted.to_bytes(path))
"""


def measure(settings: Settings) -> Iterator[Answer]:
    """Make a model and photos, then time processes alternately."""
    count = QUICK_PHOTOS if settings.quick else PHOTOS
    has_onnx = all(importlib.util.find_spec(package) for package in ONNX_PACKAGES)
    model = settings.folder / "best.keras"
    run_process([sys.executable, "-c", MAKE_RUN, str(model), *(["onnx"] if has_onnx else [])])
    photos = make_photos(settings, count)
    one = min(photos.iterdir())
    yield ask(ONE_PHOTO, model, one, "predict_keras.py", model, settings)
    yield ask(counted(FOLDER, count), model, photos, "predict_keras.py", model, settings, images=count)
    if has_onnx:
        yield ask(
            counted(ON_ONNX, count),
            model,
            photos,
            "predict_onnx.py",
            model.with_suffix(".onnx"),
            settings,
            images=count,
        )
    else:
        print("skipped: ONNX Runtime; install it with: pip install '.[benchmark]'", file=sys.stderr)


def counted(question: Question, count: int) -> Question:
    return Question(question.name.format(f"{count:,}"), question.baseline, question.unit, question.reach, question.aim)


def ask(
    question: Question, model: Path, path: Path, script: str, baseline: Path, settings: Settings, *, images: int = 0
) -> Answer:
    """Time `wisesr predict` and a script alternately on a photo or a folder: seconds, or images per second."""
    ours = [wisesr_command(), "predict", str(model), str(path), "--format", "jsonl", "--quiet"]
    theirs = [sys.executable, str(BASELINES / script), str(baseline), str(path)]

    def figure(command: list[str]) -> float:
        seconds = run_process(command, environment={"CUDA_VISIBLE_DEVICES": "-1"}).seconds
        return images / seconds if images else seconds

    for command in (ours, theirs):
        figure(command)  # warm-up: the first time, files are read from the disk
    return Answer(question, *alternate(lambda: figure(ours), lambda: figure(theirs), repetitions=settings.repetitions))


def make_photos(settings: Settings, count: int) -> Path:
    """Return a folder of `count` photos: real ones, some of them repeated, or generated ones."""
    folder = settings.folder / "photos"
    folder.mkdir()
    sources = sorted(settings.images.glob("*/*.jpg")) if settings.images else made_photos(settings.folder / "made")
    for number, source in zip(range(count), itertools.cycle(sources), strict=False):
        shutil.copy(source, folder / f"{number:06}.jpg")
    return folder


def made_photos(folder: Path) -> list[Path]:
    """Return a few smooth pictures with noise, which take as long to decode as photos of the same size."""
    folder.mkdir()
    paths = [folder / f"{number}.jpg" for number in range(20)]
    for number, path in enumerate(paths):
        noise = np.random.default_rng(number).integers(0, 256, (67, 50, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((400, 534), Image.Resampling.BICUBIC).save(path, quality=90)
    return paths


if __name__ == "__main__":
    main(__doc__, measure)
