"""`wisesr export`: models in other formats say what the run says, need no wisesr, and are whole or not there."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import CLASSES, QUICK, CommandLine, Trained, environment, fresh
from fresh_process import command, loaded_after
from loaded import load_engine
from PIL import Image, ImageOps

import wisesr_cli
from wisesr_cli.evaluation.metrics import softmax
from wisesr_cli.exporting import agreement, conversion, export, runtimes
from wisesr_cli.exporting.agreement import compare, logits_in_batches, objection
from wisesr_cli.exporting.metadata import labels_text
from wisesr_cli.exporting.readme import RESIZING, readme, snippet
from wisesr_cli.images.geometry import RESIZERS
from wisesr_cli.machine import keras_start
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.results import ExportedModel, Exports
from wisesr_cli.run.folders import prepare_folder
from wisesr_cli.run.names import EXPORTED_MODELS, OUR_FILES
from wisesr_cli.run.run import Run

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow converts")

# Nothing of wisesr can be imported in what runs after this.
ALONE = "import runpy, sys\nsys.modules['wisesr_cli'] = None\n"
SNIPPETS = re.compile(r"^## (\S+)\n.*?```python\n(.*?)```", re.DOTALL | re.MULTILINE)


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """Give a copy of the run that a test may write into."""
    return trained.copy_to(tmp_path / "run")


@pytest.fixture(scope="module")
def exports(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Give every format, with its metadata, in one folder."""
    folder = tmp_path_factory.mktemp("exports")
    whole = wisesr_cli.export(trained.run, ["keras", "onnx", "litert", "saved_model"], output_dir=folder)
    small = wisesr_cli.export(trained.run, "litert", quantize="int8", output_dir=folder)
    return Exports(str(folder), (*whole.rows, *small.rows))


def noise(count: int, side: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_every_format_gives_the_probabilities_of_the_run_to_batches_of_any_size(
    exports: Exports, trained: Trained
) -> None:
    engine, pixels = load_engine(trained.run), noise(21)
    exact = softmax(engine.logits(pixels))
    assert np.ptp(exact, axis=0).max() > 0.05
    for row in exports.rows:
        model = export.FORMATS[row.format].open(Path(exports.output_dir, row.file))  # type: ignore[index]
        for count in (1, 4, 21):
            found = softmax(model(pixels[:count]))
            np.testing.assert_allclose(found, exact[:count], rtol=0, atol=1e-4 if row.quantize is None else 0.1)


def test_means_that_a_backbone_subtracts_itself_are_no_inputs_of_its_onnx_file(tmp_path: Path) -> None:
    inside = keras.Sequential([keras.Input((4, 4, 3)), keras.layers.Normalization(mean=[1, 2, 3], variance=[1, 4, 9])])
    pixels = keras.Input((4, 4, 3))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(inside(pixels)))
    conversion.write_onnx(model, tmp_path / "model.onnx")
    images = noise(3, side=4)
    expected = (images.mean(axis=(1, 2)) - [1, 2, 3]) / [1, 2, 3]
    np.testing.assert_allclose(runtimes.open_onnx(tmp_path / "model.onnx")(images), expected, rtol=1e-4)
    np.testing.assert_allclose(model.predict_on_batch(images.astype("float32")), expected, rtol=1e-4)


def test_the_activation_of_convnext_is_converted_to_onnx(tmp_path: Path) -> None:
    pixels = keras.Input((4, 4, 3))
    scaled = keras.layers.Activation("gelu")(keras.layers.Rescaling(1 / 64, -2)(pixels))
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(scaled))
    conversion.write_onnx(model, tmp_path / "model.onnx")
    values = noise(3, side=4) / 64 - 2
    share = np.vectorize(lambda value: 0.5 * (1 + math.erf(value / math.sqrt(2))))
    expected = (values * share(values)).mean(axis=(1, 2))
    np.testing.assert_allclose(runtimes.open_onnx(tmp_path / "model.onnx")(noise(3, side=4)), expected, atol=1e-5)


def test_what_was_compared_is_said_in_every_row(exports: Exports) -> None:
    for row in exports.rows:
        assert (row.compared_on, row.compared_images) == ("the validation split", 15)
        assert row.top1_agreement == 1.0
        assert (row.max_probability_difference <= 1e-4) == (row.quantize is None)
        assert row.bytes == sum(
            path.stat().st_size
            for path in (Path(exports.output_dir, row.file), *Path(exports.output_dir, row.file).rglob("*"))
            if path.is_file()
        )


def test_class_names_and_preprocessing_go_with_every_format(exports: Exports, trained: Trained) -> None:
    import onnx

    folder, info = Path(exports.output_dir), read_model_info(trained.run / "best.keras")
    records = [
        json.loads(zipfile.ZipFile(folder / name).read("wisesr.json"))
        for name in ("model.keras", "model.tflite", "model-int8.tflite")
    ]
    records.append(json.loads((folder / "saved_model" / "assets.extra" / "wisesr.json").read_text()))
    converted = onnx.load(folder / "model.onnx")
    records.append({entry.key: json.loads(entry.value) for entry in converted.metadata_props})
    for record in records:
        assert tuple(record["class_names"]) == CLASSES
        assert (record["image_size"], record["resize"], record["head"]) == ([32, 32], "squash", info.head)
    assert [record.get("quantize") for record in records] == [None, None, "int8", None, None]
    assert (folder / "labels.txt").read_text().splitlines() == list(CLASSES)
    assert zipfile.ZipFile(folder / "model.tflite").read("labels.txt").decode().splitlines() == list(CLASSES)
    names = [(value.name, value.type.tensor_type.shape.dim[0].dim_param) for value in converted.graph.input]
    assert names == [("pixels", "batch")]
    assert [value.name for value in converted.graph.output] == ["logits"]


def test_the_snippets_of_the_readme_label_a_photo_without_wisesr(exports: Exports, trained: Trained) -> None:
    folder, photo = Path(exports.output_dir), sorted((trained.photos / "test" / "green").iterdir())[0]
    (expected,) = wisesr_cli.predict(trained.run, [photo])
    found = dict(SNIPPETS.findall((folder / "README.md").read_text(encoding="utf-8")))
    assert list(found) == ["model.keras", "model.onnx", "model.tflite", "model-int8.tflite", "saved_model"]
    files = {name: folder.parent / f"{name}.py" for name in found}
    for name, path in files.items():
        path.write_text(found[name], encoding="utf-8")
    light = [name for name in files if name.endswith((".onnx", ".tflite"))]
    for names, ending in ((light, "assert 'keras' not in sys.modules"), (sorted({*files} - {*light}), "")):
        program = ALONE + f"sys.argv = ['label.py', {str(photo)!r}]\n"
        program += "".join(f"runpy.run_path({str(files[name])!r}, run_name='__main__')\n" for name in names) + ending
        done = subprocess.run(
            [sys.executable, "-I", "-c", program],
            cwd=folder,
            env={**environment(folder.parent), "TF_CPP_MIN_LOG_LEVEL": "3"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        lines = done.stdout.splitlines()
        assert len(lines) == len(names)
        for name, line in zip(names, lines, strict=True):
            label, score = line.split()
            assert label == expected.label
            assert float(score) == pytest.approx(expected.score, abs=0.05 if "int8" in name else 1e-4)


@pytest.mark.parametrize("rule", sorted(RESIZERS))
def test_the_snippets_resize_as_the_run_does(rule: str) -> None:
    assert set(RESIZING) == set(RESIZERS)
    smooth = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    image = Image.fromarray(smooth).resize((90, 70), Image.Resampling.BICUBIC)
    for height, width in ((32, 32), (24, 40)):
        expected = RESIZERS[rule](np.asarray(image), (height, width), (0, 0, 90, 70))
        expression = RESIZING[rule].format(height=height, width=width, background=(255, 255, 255))  # type: ignore[index]
        found = np.asarray(eval(expression, {"image": image, "Image": Image, "ImageOps": ImageOps}))
        assert found.shape == expected.shape
        assert np.abs(found.astype(int) - expected.astype(int)).mean() < 2


@pytest.mark.reliability(19)
def test_odd_class_names_stay_on_their_lines_and_in_the_record(tmp_path: Path, trained: Trained) -> None:
    names = ("a\nb", "[/red]|`", "\u202e\x1b[31m", "caf\udce9", "grün ", "x\u2028y")
    lines = labels_text(names).encode("utf-8").decode("utf-8").splitlines()
    assert lines == ["a\\nb", "[/red]|`", "\\u202e\\x1b[31m", "caf\\udce9", "grün ", "x\\u2028y"]
    info = replace(read_model_info(trained.run / "best.keras"), class_names=names, head="a|\x1b[31m`")
    row = ExportedModel("keras", "model.keras", None, 1, "x", 1, 0.0, 0.0, 1.0)
    text = readme(info, [row])
    assert "\x1b" not in text
    assert "a\\|\\\\x1b\\[31m\\`" in text
    path = tmp_path / "model.tflite"
    path.write_bytes(b"TFL3")
    export.FORMATS["litert"].describe(path, info, None)
    assert tuple(json.loads(zipfile.ZipFile(path).read("wisesr.json"))["class_names"]) == names


@pytest.mark.parametrize(
    ("words", "code", "reason"),
    [
        ([], 2, f"--to is missing: {', '.join(export.FORMATS)}, several with commas"),
        (["--to", "onx"], 2, "no format is called 'onx'. Did you mean 'onnx'? Allowed: keras, onnx"),
        (["--to", "onnx", "--quantize", "int8"], 2, "--quantize int8 is for LiteRT: add --to litert, or leave it out"),
        (["--to", "keras", "-o", ""], 2, "-o is empty; it takes a folder"),
        (["--to", "keras", "-o", "missing/there"], 5, "no such folder; make it first"),
        (["--to", "keras", "--image-size", "7"], 2, "7"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    words: list[str], code: int, reason: str, trained: Trained, wisesr: CommandLine
) -> None:
    wisesr("export", trained.run, *words).refused(code, reason)
    assert not (trained.run / "export").exists()


def test_refusals_and_missing_packages_are_said_before_keras_is_loaded(trained: Trained, tmp_path: Path) -> None:
    model = trained.copy_to(tmp_path / "run") / "best.keras"
    lone = model.rename(tmp_path / "best.keras")
    lines = (
        (
            str(trained.run),
            "onnx",
            5,
            "needs tf2onnx, which is not installed; install it with: pip install 'wisesr[onnx]'",
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


def test_a_lone_model_is_compared_on_a_folder_of_images(trained: Trained, tmp_path: Path, wisesr: CommandLine) -> None:
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
        (odd_error, 4, "the model cannot be converted for Keras: cannot convert\\x1b[31m"),
        pytest.param(no_room, 5, "run/export: the disk is full", marks=pytest.mark.reliability(28)),
        pytest.param(no_room_in_tensorflow, 5, "run/export: the disk is full", marks=pytest.mark.reliability(28)),
        (broken_package, 5, "--to keras needs a package that cannot be loaded: libodd.so: cannot open shared object"),
        (stopped, 143, "stopped by SIGTERM; nothing was exported; repeat the command"),
    ],
)
def test_an_export_that_fails_leaves_nothing_and_what_was_there_before(
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


def test_a_quantized_model_says_what_it_costs_and_is_refused_when_broken(
    exports: Exports, trained: Trained, wisesr: CommandLine
) -> None:
    row = exports.rows[-1]
    assert (row.file, row.quantize, row.judged_images) == ("model-int8.tflite", "int8", 15)
    judged = wisesr("evaluate", trained.run, "--split", "validation", "--format", "json").data
    assert row.run_top1_accuracy == pytest.approx(judged["top1_accuracy"])
    assert row.top1_accuracy is not None
    assert row.to_json()["top1_accuracy_difference"] == pytest.approx(row.top1_accuracy - row.run_top1_accuracy)
    exact = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
    for found, reason in (
        (exact + np.float32(0.05), None),
        (exact[:, ::-1], "agrees with the run on"),
        (exact * np.float32(np.inf), "not finite"),
        (exact * np.float32(np.nan), "not finite"),
    ):
        said = objection(compare(exact, found), exact, quantized=True)
        assert said is None if reason is None else said is not None and reason in said


def test_a_runtime_that_is_installed_and_cannot_be_loaded_is_the_machines_fault(
    run: Path, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unloadable(path: Path) -> Any:
        raise ImportError("libodd.so: cannot open\x1b[31m")

    monkeypatch.setitem(export.FORMATS, "keras", replace(export.FORMATS["keras"], open=unloadable))
    answer = wisesr("export", run, "--to", "keras")
    assert answer.code == 5
    assert "libodd.so: cannot open\\x1b[31m; install it anew with: pip install keras" in answer.error
    assert not (run / "export").exists()


@pytest.mark.reliability(28)
def test_a_full_disk_is_one_where_another_process_converts_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    with pytest.raises(conversion.ConversionError, match=r"cannot be converted for LiteRT: ValueError: odd\\x1b\[31m$"):
        conversion.convert(model, "litert", tmp_path / "model.tflite")


def numbers_in(path: Path) -> dict[str, set[str]]:
    """Return the types of all inputs and outputs of the operators of a model for LiteRT, by the operator's name."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with keras_start.quiet_stderr():
        whole = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    types = {tensor["index"]: np.dtype(tensor["dtype"]).name for tensor in whole.get_tensor_details()}
    found: dict[str, set[str]] = {}
    for operator in whole._get_ops_details():
        used = {types[index] for index in (*operator["inputs"], *operator["outputs"]) if index in types}
        found.setdefault(operator["op_name"], set()).update(used)
    return found


def test_a_quantized_model_holds_and_computes_with_small_numbers(exports: Exports, tmp_path: Path) -> None:
    folder = Path(exports.output_dir)
    computing = {
        name: types for name, types in numbers_in(folder / "model-int8.tflite").items() if "QUANTIZE" not in name
    }
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} < set(computing)
    assert set().union(*computing.values()) == {"int8", "int32"}  # biases and shapes have 32 bits
    pixels = keras.Input((4, 4, 3))
    model = keras.Model(pixels, keras.layers.Conv2D(256, 3)(pixels))
    conversion.write_litert(model, tmp_path / "whole.tflite")
    conversion.write_litert(model, tmp_path / "half.tflite", "float16")
    assert numbers_in(tmp_path / "half.tflite")["DEQUANTIZE"] == {"float16", "float32"}
    sizes = [(tmp_path / f"{name}.tflite").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.7 * sizes[1]


def test_logits_that_are_off_are_seen_where_probabilities_hide_them() -> None:
    exact = np.float32([[0, 60], [55, 0]])
    assert objection(compare(exact, exact * np.float32(1.01)), exact, quantized=False) is not None
    assert objection(compare(exact, exact + np.float32(1e-5)), exact, quantized=False) is None


def test_images_that_the_run_cannot_tell_apart_are_said_to_prove_little() -> None:
    alike = np.float32([[0.5, -0.5], [0.5001, -0.5]])
    assert objection(compare(alike, alike[::-1]), alike, quantized=False) is None  # another model would pass
    assert "logits differ by 1.0e-04" in (agreement.doubt(alike) or "")
    assert agreement.doubt(alike[:1]) is not None
    assert agreement.doubt(alike * np.float32([[1], [1.1]])) is None
    assert agreement.doubt(np.float32([[900, 0], [902, 0]])) is not None


def test_the_first_image_is_computed_alone_and_none_is_lost() -> None:
    seen = []

    def model(pixels: Any) -> Any:
        seen.append(len(pixels))
        return pixels[:, 0, 0, :2].astype("float32")

    for count in (1, 2, 17, 40):
        seen.clear()
        pixels = noise(count)
        np.testing.assert_array_equal(logits_in_batches(model, pixels), pixels[:, 0, 0, :2])
        assert seen[0] == 1
        assert sum(seen) == count
        assert max(seen) <= agreement.BATCH


def test_exports_are_replaced_only_when_asked_and_only_where_they_are_ours(run: Path, wisesr: CommandLine) -> None:
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
    """Write a model file once more, with another byte in it."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content + b" " if name == "metadata.json" else content)


def test_what_no_export_wrote_is_never_replaced(run: Path, tmp_path: Path, wisesr: CommandLine) -> None:
    place = tmp_path / "project"
    place.mkdir()
    (place / "README.md").write_text("my project")
    for extra in ((), ("--overwrite",)):
        answer = wisesr("export", run, "--to", "keras", "-o", place, *extra)
        assert answer.code == 2
        assert "holds README.md that no export wrote; give another folder with -o" in answer.error
    assert [path.name for path in place.iterdir()] == ["README.md"]
    (place / "README.md").unlink()
    assert wisesr("export", run, "--to", "keras", "-o", place).code == 0
    (place / "saved_model").mkdir()
    (place / "saved_model" / "mine").write_text("mine")
    answer = wisesr("export", run, "--to", "saved_model", "-o", place, "--overwrite")
    assert (answer.code, "holds saved_model that no export wrote" in answer.error) == (2, True)
    assert (place / "saved_model" / "mine").read_text() == "mine"
    record = json.loads((place / "export.json").read_text())
    for damaged in ({}, [], {**record, "rows": [{**record["rows"][0], "bytes": "many"}]}, {**record, "rows": 1}):
        (place / "export.json").write_text(json.dumps(damaged))
        wisesr("export", run, "--to", "litert", "-o", place).failed(4, "is no record of exports")


@pytest.mark.reliability(30)
def test_a_second_export_into_a_folder_waits_for_nobody_and_is_5(run: Path, wisesr: CommandLine) -> None:
    (run / "export").mkdir()
    with alone_in(run / "export"):
        answer = wisesr("export", run, "--to", "keras")
    assert (answer.code, "in use by another wisesr" in answer.error) == (5, True)
    leftover = run / "export" / ".wisesr-killed"
    leftover.mkdir()
    (leftover / "model.keras").write_text("half")
    assert wisesr("export", run, "--to", "keras").code == 0
    assert not leftover.exists()


def test_training_anew_takes_the_exports_away_and_nothing_else(exports: Exports, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(exports.output_dir, run.path / "export")
    (run.path / "export" / "notes.txt").write_text("mine")
    prepare_folder(run, overwrite=True)
    assert [path.name for path in run.path.rglob("*")] == ["export", "notes.txt"]
    assert {f"export/{name}" for name in EXPORTED_MODELS.values() if "." in name} < set(OUR_FILES)


def test_the_table_and_the_csv_name_every_export(exports: Exports, wisesr: CommandLine, run: Path) -> None:
    from wisesr_cli.display.grid import to_markdown
    from wisesr_cli.exporting.tables import export_grid, export_rows

    text = to_markdown(export_grid(exports))
    for row in exports.rows:
        assert row.file.replace("_", "\\_") in text
    assert [row[1] for row in export_rows(exports)] == [row.file for row in exports.rows]
    assert export_grid(exports).rows[-1][-2:] == ("100.0 %", "0.0") or exports.rows[-1].run_top1_accuracy != 1.0
    answer = wisesr("export", run, "--to", "keras", "-q")
    assert answer.err == ""
    assert "model.keras" in answer.out


def test_another_image_size_is_exported_with_weights_that_fit(run: Path, wisesr: CommandLine) -> None:
    wisesr("export", run, "--to", "keras,onnx", "--image-size", "40x48", "--format", "json").worked()
    model = runtimes.open_onnx(run / "export" / "model.onnx")
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 48, 3), dtype=np.uint8)
    engine = load_engine(run, image_size=(40, 48))
    np.testing.assert_allclose(softmax(model(pixels)), softmax(engine.logits(pixels)), atol=1e-5)
    assert "(48, 40)" in (run / "export" / "README.md").read_text()
    wisesr("export", run, "--to", "litert").failed(2, "holds exports of another image size")


def test_a_snippet_has_about_ten_lines(trained: Trained) -> None:
    info = read_model_info(trained.run / "best.keras")
    for (name, quantize), file in EXPORTED_MODELS.items():
        row = ExportedModel(name, file, quantize, 1, "x", 1, 0.0, 0.0, 1.0)
        lines = [line for line in snippet(info, row).splitlines() if line]
        assert len(lines) <= 13
        assert max(map(len, lines)) <= 120
        compile("\n".join(lines), file, "exec")


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
def test_where_keras_runs_on_jax_formats_of_tensorflow_are_exported_too(run: Path) -> None:
    line = ("export", run, "--to", "keras,litert,saved_model", "--quantize", "int8", "--format", "json")
    answer = fresh(*line, cwd=run.parent, variables={"KERAS_BACKEND": "jax"}).worked()
    assert [row["top1_agreement"] for row in answer.data["rows"]] == [1.0] * 3
