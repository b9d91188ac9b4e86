"""Exported models agree with the run in every format, and their snippets need no wisesr."""

from __future__ import annotations

import json
import math
import re
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import CLASSES, CommandLine, Trained, fresh, make_splits
from PIL import Image, ImageOps
from run_states import load_engine

import wisesr_cli
from wisesr_cli.evaluation.probabilities import softmax
from wisesr_cli.exporting import agreement, conversion, export, runtimes
from wisesr_cli.exporting.agreement import compare, logits_in_batches, objection
from wisesr_cli.exporting.metadata import PACKED_LABELS, labels_text
from wisesr_cli.exporting.readme import RESIZING, readme, snippet
from wisesr_cli.images.geometry import RESIZERS
from wisesr_cli.machine import keras_start
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.model_files.saving import replace_model_info
from wisesr_cli.results.models import ExportedModel, Exports
from wisesr_cli.results.streams import Prediction
from wisesr_cli.run.folders import prepare_folder
from wisesr_cli.run.names import EXPORTED_MODELS
from wisesr_cli.run.run import Run
from wisesr_cli.run.written import Written

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow converts")

# A program that starts with this cannot import wisesr.
ALONE = "import runpy, sys\nsys.modules['wisesr_cli'] = None\n"
SNIPPETS = re.compile(r"^## (\S+)\n.*?```python\n(.*?)```", re.DOTALL | re.MULTILINE)


def check_snippets(folder: Path, photo: Path, expected: Prediction) -> None:
    """Check that every snippet in a folder's README, run as it is, labels a photo as expected."""
    found = SNIPPETS.findall((folder / "README.md").read_text(encoding="utf-8"))
    assert found
    for name, program in found:
        path = folder.parent / f"{name}.py"
        path.write_text(program, encoding="utf-8")
        label, score = fresh(photo, cwd=folder, home=folder.parent, program=(str(path),)).worked().out.split()
        assert (label, float(score)) == (expected.label, pytest.approx(expected.score, abs=1e-4))


@pytest.fixture(scope="module")
def exports(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Exports:
    """Export every format, with its metadata, to one folder."""
    folder = tmp_path_factory.mktemp("exports")
    whole = wisesr_cli.export(trained.run, ["keras", "onnx", "litert", "saved_model"], output_dir=folder)
    small = wisesr_cli.export(trained.run, "litert", quantize="int8", output_dir=folder)
    return Exports(str(folder), (*whole.rows, *small.rows))


def opened(row: ExportedModel, folder: Path) -> agreement.RunModel:
    form = conversion.Form(row.quantize, row.output, row.layout, row.batch)  # type: ignore[arg-type]
    return export.FORMATS[row.format].open(folder / row.file, form)


def noise(count: int, side: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def test_every_format_gives_the_probabilities_of_the_run_for_any_batch_size(exports: Exports, trained: Trained) -> None:
    engine, pixels = load_engine(trained.run), noise(21)
    exact = softmax(engine.logits(pixels))
    assert np.ptp(exact, axis=0).max() > 0.05
    for row in exports.rows:
        model = opened(row, Path(exports.output_dir))
        for count in (1, 4, 21):
            found = softmax(model(pixels[:count]))
            np.testing.assert_allclose(found, exact[:count], rtol=0, atol=1e-4 if row.quantize is None else 0.1)


def test_means_of_a_normalization_layer_are_not_inputs_of_the_onnx_file(tmp_path: Path) -> None:
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


def test_every_row_states_what_was_compared(exports: Exports) -> None:
    for row in exports.rows:
        assert (row.compared_on, row.compared_images) == ("the validation split", 15)
        assert row.top1_agreement == 1.0
        assert (row.max_probability_difference <= 1e-4) == (row.quantize is None)
        assert row.bytes == sum(
            path.stat().st_size
            for path in (Path(exports.output_dir, row.file), *Path(exports.output_dir, row.file).rglob("*"))
            if path.is_file()
        )


def test_every_format_contains_class_names_and_preprocessing(exports: Exports, trained: Trained) -> None:
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
    assert zipfile.ZipFile(folder / "model.tflite").read(PACKED_LABELS).decode().splitlines() == list(CLASSES)
    names = [(value.name, value.type.tensor_type.shape.dim[0].dim_param) for value in converted.graph.input]
    assert names == [("pixels", "batch")]
    assert [value.name for value in converted.graph.output] == ["logits"]


def test_the_readme_snippets_label_a_photo_without_wisesr(exports: Exports, trained: Trained) -> None:
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
        quiet = {"TF_CPP_MIN_LOG_LEVEL": "3"}
        answer = fresh(cwd=folder, home=folder.parent, program=("-I", "-c", program), variables=quiet).worked()
        lines = answer.out.splitlines()
        assert len(lines) == len(names)
        for name, line in zip(names, lines, strict=True):
            label, score = line.split()
            assert label == expected.label
            assert float(score) == pytest.approx(expected.score, abs=0.05 if "int8" in name else 1e-4)


def test_logits_fixed_batch_and_channels_first_are_exported_on_request(trained: Trained, tmp_path: Path) -> None:
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    found = wisesr_cli.export(
        trained.run, ["onnx", "litert"], logits=True, fixed_batch=4, pixel_layout="nchw", output_dir=tmp_path
    )
    onnx, litert = found.rows
    assert (onnx.output, onnx.layout, onnx.batch) == ("logits", "nchw", None)
    assert (litert.output, litert.layout, litert.batch) == ("logits", "nhwc", 4)
    (given,) = onnxruntime.InferenceSession(tmp_path / onnx.file).get_inputs()
    assert (given.name, given.shape) == ("pixels", ["batch", 3, 32, 32])
    with keras_start.quiet_stderr():
        (given,) = Interpreter(str(tmp_path / litert.file)).get_input_details()
    assert given["shape_signature"].tolist() == [4, 32, 32, 3]
    pixels = noise(6)
    exact = load_engine(trained.run).logits(pixels)
    for row in found.rows:
        np.testing.assert_allclose(opened(row, tmp_path)(pixels), exact, rtol=0, atol=1e-4)
    photo = sorted((trained.photos / "test" / "green").iterdir())[0]
    (expected,) = wisesr_cli.predict(trained.run, [photo])
    check_snippets(tmp_path, photo, expected)


def test_a_temperature_applies_to_probabilities_metadata_and_snippets(trained: Trained, tmp_path: Path) -> None:
    run, photo = trained.copy_to(tmp_path / "run"), sorted((trained.photos / "test" / "green").iterdir())[0]
    (before,) = wisesr_cli.predict(run, [photo])
    replace_model_info(run / "best.keras", replace(read_model_info(run / "best.keras"), temperature=2.5))
    (expected,) = wisesr_cli.predict(run, [photo])
    assert before.score is not None
    assert expected.score is not None
    assert expected.score < before.score - 0.01
    folder = tmp_path / "exports"
    found = wisesr_cli.export(run, ["onnx", "litert"], output_dir=folder)
    onnx, litert = (opened(row, folder) for row in found.rows)
    pixels = noise(6)
    np.testing.assert_allclose(np.exp(litert(pixels)), softmax(onnx(pixels), 2.5), atol=1e-5)
    with zipfile.ZipFile(folder / "model.tflite") as packed:
        assert json.loads(packed.read("wisesr.json"))["temperature"] == 2.5
    check_snippets(folder, photo, expected)


@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
def test_resizing_inside_the_model_matches_wisesr_for_any_image_size(
    trained: Trained, tmp_path: Path, layout: str
) -> None:
    photos = make_splits(tmp_path / "photos", train=1, validation=3, test=1)
    for path in photos.rglob("*.png"):
        Image.open(path).resize((61, 97), Image.Resampling.BICUBIC).save(path)
    found = wisesr_cli.export(
        trained.run,
        ["keras", "onnx", "saved_model"],
        resize="inside",
        pixel_layout=layout,
        data=photos / "validation",
        output_dir=tmp_path / "exports",
    )
    assert {row.resize for row in found.rows} == {"inside"}
    pixels = np.random.default_rng(0).integers(0, 256, (1, 97, 61, 3), dtype=np.uint8)
    pixels[0, :50] //= 3
    small = RESIZERS["squash"](pixels[0], (32, 32), (0, 0, 61, 97))
    exact = softmax(load_engine(trained.run).logits(small[None]))
    for row in found.rows:
        assert row.top1_agreement == 1.0
        assert row.max_probability_difference < 0.02
        np.testing.assert_allclose(softmax(opened(row, tmp_path / "exports")(pixels)), exact, atol=0.02)
    photo = sorted((photos / "validation" / "green").iterdir())[0]
    (expected,) = wisesr_cli.predict(trained.run, [photo])
    snippets = SNIPPETS.findall((tmp_path / "exports" / "README.md").read_text(encoding="utf-8"))
    program = dict(snippets)["model.onnx"]
    assert "resize" not in program
    (tmp_path / "label.py").write_text(program, encoding="utf-8")
    answer = fresh(photo, cwd=tmp_path / "exports", home=tmp_path, program=(str(tmp_path / "label.py"),)).worked()
    assert answer.out.split()[0] == expected.label


def test_a_litert_model_contains_tensorflow_lite_metadata(exports: Exports) -> None:
    folder = Path(exports.output_dir)
    for name in ("model.tflite", "model-int8.tflite"):
        assert (folder / name).read_bytes().count(b"TFLITE_METADATA") == 1
        with zipfile.ZipFile(folder / name) as archive:
            assert archive.namelist() == ["wisesr.json", PACKED_LABELS]
            assert {member.compress_type for member in archive.infolist()} == {zipfile.ZIP_STORED}


@pytest.mark.parametrize("rule", sorted(RESIZERS))
def test_the_snippets_resize_like_the_run(rule: str) -> None:
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
def test_odd_class_names_are_escaped_in_text_and_exact_in_the_metadata(
    exports: Exports, tmp_path: Path, trained: Trained
) -> None:
    names = ("a\nb", "[/red]|`", "\u202e\x1b[31m", "caf\udce9", "grün ", "x\u2028y")
    lines = labels_text(names).encode("utf-8").decode("utf-8").splitlines()
    assert lines == ["a\\nb", "[/red]|`", "\\u202e\\x1b[31m", "caf\\udce9", "grün ", "x\\u2028y"]
    info = replace(read_model_info(trained.run / "best.keras"), class_names=names, head="a|\x1b[31m`")
    row = ExportedModel("keras", "model.keras", None, 1, "x", 1, 0.0, 0.0, 1.0)
    text = readme(info, [row])
    assert "\x1b" not in text
    assert "a\\|\\\\x1b\\[31m\\`" in text
    path = tmp_path / "model.tflite"
    shutil.copy(Path(exports.output_dir, "model.tflite"), path)
    export.FORMATS["litert"].describe(path, info, conversion.PLAIN)
    assert tuple(json.loads(zipfile.ZipFile(path).read("wisesr.json"))["class_names"]) == names


def test_a_quantized_model_reports_its_accuracy_loss_and_is_rejected_if_broken(
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


def numbers_in(path: Path) -> dict[str, set[str]]:
    """Return the types of all inputs and outputs of a LiteRT model's operators, by operator name."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    with keras_start.quiet_stderr():
        whole = Interpreter(str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES)
    types = {tensor["index"]: np.dtype(tensor["dtype"]).name for tensor in whole.get_tensor_details()}
    found: dict[str, set[str]] = {}
    for operator in whole._get_ops_details():
        used = {types[index] for index in (*operator["inputs"], *operator["outputs"]) if index in types}
        found.setdefault(operator["op_name"], set()).update(used)
    return found


def test_a_quantized_model_stores_and_computes_in_low_precision(exports: Exports, tmp_path: Path) -> None:
    folder = Path(exports.output_dir)
    computing = {
        name: types for name, types in numbers_in(folder / "model-int8.tflite").items() if "QUANTIZE" not in name
    }
    assert {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"} < set(computing)
    assert set().union(*computing.values()) == {"int8", "int32"}  # biases and shapes have 32 bits
    pixels = keras.Input((4, 4, 3))
    model = keras.Model(pixels, keras.layers.Conv2D(256, 3)(pixels))
    conversion.write_litert(model, tmp_path / "whole.tflite")
    conversion.write_litert(model, tmp_path / "half.tflite", conversion.Form("float16"))
    assert numbers_in(tmp_path / "half.tflite")["DEQUANTIZE"] == {"float16", "float32"}
    sizes = [(tmp_path / f"{name}.tflite").stat().st_size for name in ("half", "whole")]
    assert sizes[0] < 0.7 * sizes[1]


def test_wrong_logits_are_detected_even_if_probabilities_hide_them() -> None:
    exact = np.float32([[0, 60], [55, 0]])
    assert objection(compare(exact, exact * np.float32(1.01)), exact, quantized=False) is not None
    assert objection(compare(exact, exact + np.float32(1e-5)), exact, quantized=False) is None


def test_images_that_the_run_cannot_distinguish_are_reported_as_weak_evidence() -> None:
    alike = np.float32([[0.5, -0.5], [0.5001, -0.5]])
    assert objection(compare(alike, alike[::-1]), alike, quantized=False) is None  # a different model would pass
    assert "logits differ by 1.0e-04" in (agreement.doubt(alike) or "")
    assert agreement.doubt(alike[:1]) is not None
    assert agreement.doubt(alike * np.float32([[1], [1.1]])) is None
    assert agreement.doubt(np.float32([[900, 0], [902, 0]])) is not None


def test_the_first_image_runs_alone_and_batches_cover_all_images() -> None:
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


def test_overwriting_a_run_removes_its_exports_and_nothing_else(exports: Exports, tmp_path: Path) -> None:
    run = Run(tmp_path / "run")
    shutil.copytree(exports.output_dir, run.path / "export")
    written = Written(run.path)
    written.begin()
    written.add(run.path / "export")
    (run.path / "export" / "notes.txt").write_text("mine")
    prepare_folder(run, overwrite=True)
    assert [path.name for path in run.path.rglob("*")] == ["export", "notes.txt"]


def test_the_table_and_the_csv_name_every_export(
    exports: Exports, trained: Trained, wisesr: CommandLine, tmp_path: Path
) -> None:
    from wisesr_cli.display.grid import to_markdown
    from wisesr_cli.exporting.tables import export_grid, export_rows

    text = to_markdown(export_grid(exports))
    for row in exports.rows:
        assert row.file.replace("_", "\\_") in text
    assert [row[1] for row in export_rows(exports)] == [row.file for row in exports.rows]
    assert export_grid(exports).rows[-1][-2:] == ("100.0 %", "0.0") or exports.rows[-1].run_top1_accuracy != 1.0
    answer = wisesr("export", trained.copy_to(tmp_path / "run"), "--to", "keras", "-q")
    assert answer.err == ""
    assert "model.keras" in answer.out


def test_a_snippet_is_short_and_compiles(trained: Trained) -> None:
    info = read_model_info(trained.run / "best.keras")
    for (name, quantize), file in EXPORTED_MODELS.items():
        row = ExportedModel(name, file, quantize, 1, "x", 1, 0.0, 0.0, 1.0)
        lines = [line for line in snippet(info, row).splitlines() if line]
        assert len(lines) <= 13
        assert max(map(len, lines)) <= 120
        compile("\n".join(lines), file, "exec")
