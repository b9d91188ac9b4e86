"""`wisesr export`: exported models agree with the run, need no wisesr, and are written completely or not at all."""

from __future__ import annotations

import errno
import json
import os
import signal
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import QUICK, CommandLine, Trained, command, fresh, loaded_after
from run_states import load_engine

from wisesr_cli.evaluation.probabilities import softmax
from wisesr_cli.exporting import conversion, export, runtimes
from wisesr_cli.machine.installation import install_line
from wisesr_cli.machine.locks import alone_in

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow converts")


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may write to."""
    return trained.copy_to(tmp_path / "run")


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ([], 2, f"--to is missing: {', '.join(export.FORMATS)}, or several separated by commas"),
        (["--to", "onx"], 2, "no format is called 'onx'. Did you mean 'onnx'? Allowed: keras, onnx"),
        (["--to", "onnx", "--quantize", "int8"], 2, "--quantize int8 is for LiteRT: add --to litert, or leave it out"),
        (["--to", "onnx", "--logits"], 2, "--logits is for LiteRT: add --to litert, or leave it out"),
        (["--to", "onnx", "--fixed-batch", 3], 2, "--fixed-batch 3 is for LiteRT: add --to litert, or leave it out"),
        (["--to", "litert", "--resize", "inside"], 2, "--resize inside: LiteRT has no resizing with antialiasing"),
        (["--to", "litert", "--pixel-layout", "nchw"], 2, "--pixel-layout nchw is for ONNX: add --to onnx, or leave"),
        (["--to", "litert", "--layout", "triton"], 2, "NVIDIA Triton takes onnx, saved_model: add --to onnx"),
        (["--to", "onnx", "--layout", "tf-serving"], 2, "TensorFlow Serving takes saved_model: add --to saved_model"),
        (["--to", "keras", "-o", ""], 2, "-o is empty; it takes a folder"),
        (["--to", "keras", "-o", "missing/there"], 5, "no such folder; create it first"),
        (["--to", "keras", "--image-size", "7"], 2, "7"),
    ],
)
def test_an_invalid_request_is_rejected_in_one_line(
    words: list[str], code: int, reason: str, trained: Trained, wisesr: CommandLine
) -> None:
    wisesr("export", trained.run, *words).refused(code, reason)
    assert not (trained.run / "export").exists()


def test_invalid_requests_and_missing_packages_are_reported_before_keras_is_loaded(
    trained: Trained, tmp_path: Path
) -> None:
    model = trained.copy_to(tmp_path / "run") / "best.keras"
    lone = model.rename(tmp_path / "best.keras")
    lines = (
        (
            str(trained.run),
            "onnx",
            5,
            f"needs tf2onnx, which is not installed; install it with: {install_line('onnx')}",
        ),
        (
            str(lone),
            "keras",
            2,
            "a model file without its run directory has no images to compare exports on; give --data",
        ),
        (str(tmp_path / "run"), "keras", 4, "best.keras"),
    )
    for run, name, code, reason in lines:
        program = "import importlib.util as u\nfind = u.find_spec\n"
        program += "u.find_spec = lambda name, *rest: None if name == 'tf2onnx' else find(name, *rest)\n"
        found, loaded, err = loaded_after(program + command("export", run, "--to", name), tmp_path)
        assert found == code, err
        assert reason in err.splitlines()[-1]
        assert not loaded & {"tensorflow", "keras", "jax"}


def test_a_model_file_without_its_run_is_compared_on_a_folder_of_images(
    trained: Trained, tmp_path: Path, wisesr: CommandLine
) -> None:
    model = trained.copy_to(tmp_path / "run") / "best.keras"
    lone = model.rename(tmp_path / "best.keras")
    answer = wisesr("export", lone, "--to", "keras", "--data", trained.photos / "test", "--format", "json").worked()
    (row,) = answer.data["rows"]
    assert (row["file"], row["compared_on"], row["compared_images"]) == ("model.keras", "the folder test", 15)
    assert "warning" not in answer.err
    assert sorted(path.name for path in (tmp_path / "export").iterdir()) == [
        *("README.md", "export.json", "labels.txt", "model.keras")
    ]
    keras.models.load_model(tmp_path / "export" / "model.keras")


def wrong_weights(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    weights = model.get_weights()
    model.set_weights([*weights[:-1], weights[-1] + np.float32([0, 0, 0.01])])
    model.save(target)


def not_finite(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    model.set_weights([weight * np.float32(np.nan) for weight in model.get_weights()])
    model.save(target)


def our_layers(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    from wisesr_cli.layers import PositionWeightedPooling2D

    pixels = keras.Input((32, 32, 3))
    keras.Model(pixels, PositionWeightedPooling2D((2, 2))(pixels)).save(target)


def other_shape(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    pixels = keras.Input((16, 32, 3))
    keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels)).save(target)


def no_room(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    target.write_bytes(b"half")
    raise OSError(errno.ENOSPC, "No space left on device", str(target))


def no_room_in_tensorflow(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    raise RuntimeError("RESOURCE_EXHAUSTED: variables.data; No space left on device")


def odd_error(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    raise ValueError("cannot\n convert\x1b[31m")


def broken_package(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    raise ImportError("libodd.so: cannot open\nshared object file")


def stopped(model: Any, target: Path, quantize: str | None, examples: object) -> None:
    target.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("write", "code", "reason"),
    [
        (wrong_weights, 4, "model.keras: its probabilities differ by"),
        (not_finite, 4, "model.keras: it gives numbers that are not finite"),
        (our_layers, 4, "model.keras: cannot be loaded again: it needs wisesr_cli"),
        (other_shape, 4, "model.keras: its runtime cannot run it"),
        (odd_error, 4, "the model cannot be converted to Keras: cannot convert\\x1b[31m"),
        pytest.param(no_room, 5, "run/export: the disk is full", marks=pytest.mark.reliability(28)),
        pytest.param(no_room_in_tensorflow, 5, "run/export: the disk is full", marks=pytest.mark.reliability(28)),
        (broken_package, 5, "--to keras needs a package that cannot be loaded: libodd.so: cannot open shared object"),
        (stopped, 143, "stopped by SIGTERM; nothing was exported; repeat the command"),
    ],
)
def test_a_failed_export_leaves_nothing_behind_and_keeps_earlier_exports(
    write: Any, code: int, reason: str, run: Path, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(run.rglob("*"))
    with monkeypatch.context() as patch:
        patch.setitem(conversion.WRITERS, "keras", write)
        wisesr("export", run, "--to", "keras").refused(code, reason)
        assert sorted(run.rglob("*")) == before
    if write is not wrong_weights:
        return
    assert wisesr("export", run, "--to", "keras").code == 0
    kept = {path: path.read_bytes() for path in (run / "export").iterdir()}
    monkeypatch.setitem(conversion.WRITERS, "keras", write)
    assert wisesr("export", run, "--to", "keras", "--overwrite").code == 4
    assert {path: path.read_bytes() for path in (run / "export").iterdir()} == kept


def test_an_installed_runtime_that_cannot_be_loaded_exits_with_5(
    run: Path, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unloadable(path: Path, form: conversion.Form) -> Any:
        raise ImportError("libodd.so: cannot open\x1b[31m")

    monkeypatch.setitem(export.FORMATS, "keras", replace(export.FORMATS["keras"], open=unloadable))
    answer = wisesr("export", run, "--to", "keras")
    assert answer.code == 5
    assert f"libodd.so: cannot open\\x1b[31m; reinstall it with: {install_line('keras')}" in answer.error
    assert not (run / "export").exists()


@pytest.mark.reliability(28)
def test_a_full_disk_is_recognized_if_another_process_converts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = keras.Input((4, 4, 3))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(pixels))
    last = f"ResourceExhaustedError: {'/long' * 100}/variables.data; {conversion.FULL}"
    monkeypatch.setattr(
        conversion, "_PROGRAM", f"import sys; print('progress', {last!r}, sep='\\n', file=sys.stderr); sys.exit(1)"
    )
    monkeypatch.setattr("wisesr_cli.machine.keras_start.backend_name", lambda: "jax")
    with pytest.raises(OSError, match=conversion.FULL) as caught:
        conversion.convert(model, "litert", tmp_path / "model.tflite")
    assert caught.value.errno == errno.ENOSPC
    monkeypatch.setattr(conversion, "_PROGRAM", "raise ValueError('odd\\x1b[31m')")
    with pytest.raises(conversion.ConversionError, match=r"cannot be converted to LiteRT: ValueError: odd\\x1b\[31m$"):
        conversion.convert(model, "litert", tmp_path / "model.tflite")


def test_exports_are_replaced_only_with_overwrite_and_other_files_stay(run: Path, wisesr: CommandLine) -> None:
    folder = run / "export"
    line = ("export", run, "--to", "keras")
    assert wisesr(*line).code == 0
    (folder / "notes.txt").write_text("mine")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    wisesr(*line).failed(2, "model.keras exists; replace it with --overwrite")
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    assert wisesr(*line, "--overwrite").code == 0
    wisesr("export", run, "--to", "litert", "--overwrite").worked()
    assert "## model.keras" in (folder / "README.md").read_text()
    assert "## model.tflite" in (folder / "README.md").read_text()
    assert [row["file"] for row in json.loads((folder / "export.json").read_text())["rows"]] == [
        *("model.keras", "model.tflite")
    ]
    save_again(run / "best.keras")
    wisesr(*line).failed(2, "holds exports of another model; replace them with --overwrite")
    assert wisesr(*line, "--overwrite").code == 0
    assert not (folder / "model.tflite").exists()
    assert (folder / "notes.txt").read_text() == "mine"


def save_again(path: Path) -> None:
    """Rewrite a model file with one more byte in it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content + b" " if name == "metadata.json" else content)


def test_files_not_written_by_an_export_are_never_replaced(run: Path, tmp_path: Path, wisesr: CommandLine) -> None:
    place = tmp_path / "project"
    place.mkdir()
    (place / "README.md").write_text("my project")
    for extra in ((), ("--overwrite",)):
        answer = wisesr("export", run, "--to", "keras", "-o", place, *extra)
        assert answer.code == 2
        assert (
            "holds README.md, not written by an export, or changed since; give another folder with -o" in answer.error
        )
    assert [path.name for path in place.iterdir()] == ["README.md"]
    (place / "README.md").unlink()
    assert wisesr("export", run, "--to", "keras", "-o", place).code == 0
    (place / "saved_model").mkdir()
    (place / "saved_model" / "mine").write_text("mine")
    answer = wisesr("export", run, "--to", "saved_model", "-o", place, "--overwrite")
    assert (answer.code, "holds saved_model, not written by an export" in answer.error) == (2, True)
    assert (place / "saved_model" / "mine").read_text() == "mine"
    record = json.loads((place / "export.json").read_text())
    for damaged in ({}, [], {**record, "rows": [{**record["rows"][0], "bytes": "many"}]}, {**record, "rows": 1}):
        (place / "export.json").write_text(json.dumps(damaged))
        wisesr("export", run, "--to", "litert", "-o", place).failed(4, "is not a record of exports")


@pytest.mark.reliability(30)
def test_a_concurrent_export_to_the_same_folder_exits_with_5_without_waiting(run: Path, wisesr: CommandLine) -> None:
    (run / "export").mkdir()
    with alone_in(run / "export"):
        answer = wisesr("export", run, "--to", "keras")
    assert (answer.code, "in use by another wisesr" in answer.error) == (5, True)
    leftover = run / "export" / ".wisesr-killed"
    leftover.mkdir()
    (leftover / "model.keras").write_text("half")
    assert wisesr("export", run, "--to", "keras").code == 0
    assert not leftover.exists()


def test_an_export_at_another_image_size_adapts_the_weights(run: Path, wisesr: CommandLine) -> None:
    wisesr("export", run, "--to", "keras,onnx", "--image-size", "40x48", "--format", "json").worked()
    model = runtimes.open_onnx(run / "export" / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
    engine = load_engine(run, image_size=(40, 48))
    np.testing.assert_allclose(softmax(model(pixels)), softmax(engine.logits(pixels)), atol=1e-5)
    assert "(48, 40)" in (run / "export" / "README.md").read_text()
    wisesr("export", run, "--to", "litert").failed(2, "holds exports of another image size")


@pytest.mark.slow
@pytest.mark.parametrize("head", ["gap", "gmp", "depthwise", "wise", "flatten", "fc"])
def test_every_head_is_exported_in_every_format(
    head: str, tmp_path: Path, trained: Trained, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wisesr_cli.models.heads.FC_UNITS", 64)
    settings = {
        "wise": ["-s", "model.head.constraint=unit_sum"],
        "flatten": ["-s", "model.head.pre_pool=2", "-s", "model.preprocessing=caffe"],
    }.get(head, ["-s", "train.precision=mixed_bfloat16"])
    line = ("train", trained.photos, *QUICK, "--epochs", "1", "-o", tmp_path, "--name", head, "--head", head)
    assert wisesr(*line, "--image-size", "40x56", *settings).code == 0
    answer = wisesr("export", tmp_path / head, "--to", "keras,onnx,litert,saved_model", "--format", "json").worked()
    assert len(answer.data["rows"]) == 4


@pytest.mark.slow
def test_tensorflow_formats_can_be_exported_with_the_jax_backend(run: Path) -> None:
    line = ("export", run, "--to", "keras,litert,saved_model", "--quantize", "int8", "--format", "json")
    answer = fresh(*line, cwd=run.parent, variables={"KERAS_BACKEND": "jax"}).worked()
    assert [row["top1_agreement"] for row in answer.data["rows"]] == [1.0] * 3
