"""A saved model omits default arguments, and so loads in earlier releases of Keras, with the same outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from installing import install_or_skip

from wisesr_cli.exporting.stock_layers import with_stock_layers
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.architecture import objects_in
from wisesr_cli.model_files.archive import CONFIG, check_model, read_model_info
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.model_files.loading import load_model
from wisesr_cli.model_files.saving import OLDEST_KERAS, save_model
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.settings import ModelConfig

RELEASES = (f"{OLDEST_KERAS}.1", "3.6.0", "3.9.2", "3.12.0", "3.14.0")
FAMILIES = (
    *("compact", "ConvNeXtTiny", "DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "InceptionV3", "MobileNet"),
    *("MobileNetV2", "MobileNetV3Small", "NASNetMobile", "ResNet50V2", "VGG16", "Xception"),
)
SIDE = 96
LOADER = """
import sys, jax, keras, numpy as np
for path in sys.argv[1:]:
    model = keras.models.load_model(path, compile=False)
    logits = jax.jit(lambda pixels: model(pixels, training=False))(np.load(path + ".pixels.npy"))
    expected = np.load(path + ".logits.npy")
    print(keras.__version__, np.abs(logits - expected).max() / np.abs(expected).max(), flush=True)
"""


def classifier(backbone: str, head: str = "wise", side: int = SIDE) -> Any:
    config = ModelConfig(backbone=backbone, weights=None, head={"name": head})
    return build_classifier(config, image_size=(side, side), classes=3).model


def test_a_saved_model_reloads_identically_and_omits_default_arguments(tmp_path: Path) -> None:
    path, model = tmp_path / "model.keras", classifier("compact", side=32)
    info = ModelInfo(("a", "b", "c"), (32, 32), Preparation(), BACKGROUND, "compact", "wise", 1, {})
    save_model(model, path, info)
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]
    assert read_model_info(path) == info
    loaded = load_model(check_model(path))
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    assert np.array_equal(np.asarray(loaded(pixels)), np.asarray(model(pixels)))
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    with zipfile.ZipFile(path) as archive:
        options = [part["config"] for part in objects_in(json.loads(archive.read(CONFIG))) if "config" in part]
    names = {name for option in options if isinstance(option, dict) for name in option}
    assert {"units", "filters", "offset", "grid_size"} <= names
    assert names.isdisjoint({"quantization_config", "lora_alpha", "renorm", "input_axes"})


def test_non_default_arguments_are_kept(tmp_path: Path) -> None:
    given = keras.Input((8, 8, 3))
    layer = keras.layers.Conv2D(4, 3, use_bias=False, padding="same", kernel_initializer=keras.initializers.HeNormal(3))
    model = keras.Model(given, keras.layers.BatchNormalization(momentum=0.5, scale=False)(layer(given)))
    save_model(model, tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())


def test_a_full_disk_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: Any, target: Any, length: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    with pytest.raises(OSError, match="No space left"):
        save_model(classifier("compact_small", side=32), tmp_path / "model.keras")
    assert not list(tmp_path.glob("*-whole.keras"))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_oldest_supported_keras_release_loads_exports_and_best_models(tmp_path: Path) -> None:
    compare_in_release(RELEASES[0], write_stock_files(tmp_path, ("compact", "EfficientNetV2B0")), tmp_path)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("release", RELEASES)
def test_earlier_releases_of_keras_load_stock_models_of_every_family(
    release: str, stock_files: list[Path], tmp_path: Path
) -> None:
    compare_in_release(release, stock_files, tmp_path)


def compare_in_release(release: str, files: list[Path], folder: Path) -> None:
    """Install a release of Keras, load the files in it on JAX, and compare their logits."""
    target = folder / "installed"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target), f"keras=={release}"]
    install_or_skip(f"keras {release}", install)
    variables = {**os.environ, "PYTHONPATH": str(target), "KERAS_BACKEND": "jax"}
    command = [sys.executable, "-c", LOADER, *map(str, files)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=570, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert [version for version, _ in rows] == [release] * len(files)
    assert max(float(difference) for _, difference in rows) < 1e-4


@pytest.fixture(scope="module")
def stock_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_stock_files(tmp_path_factory.mktemp("stock"), FAMILIES)


def write_stock_files(folder: Path, backbones: Sequence[str]) -> list[Path]:
    """Write models of stock layers, exports and a `best.keras`, each with its pixels and logits."""
    files = []
    pixels = np.random.default_rng(0).uniform(0, 255, (2, SIDE, SIDE, 3)).astype("float32")
    models = {name: with_stock_layers(classifier(name)) for name in backbones} | {"best": classifier("compact", "gap")}
    for name, model in models.items():
        path = folder / f"{name}.keras"
        save_model(model, path)
        np.save(f"{path}.pixels.npy", pixels)
        np.save(f"{path}.logits.npy", np.asarray(model(pixels, training=False)))
        files.append(path)
    return files
