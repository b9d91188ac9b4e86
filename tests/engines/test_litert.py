"""best.tflite agrees with best.keras, is used only with the model that it was made from, and needs no TensorFlow."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import QUICK, CommandLine, Trained, command, loaded_after
from predictions import stopping_after
from run_states import load_engine

from wisesr_cli import api
from wisesr_cli.engines import litert
from wisesr_cli.engines.litert import LiteRtEngine, LiteRtModel, UnusableError, read_litert
from wisesr_cli.errors import RunError, UsageError
from wisesr_cli.evaluation.probabilities import softmax
from wisesr_cli.exporting import best_litert, conversion
from wisesr_cli.machine.installation import install_line
from wisesr_cli.run.run import Run

pytestmark = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras converts on TensorFlow")


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Run:
    """Return a copy of the run that a test may modify."""
    return Run(trained.copy_to(tmp_path / "run"))


def noise(count: int, side: int = 32) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def rewritten(run: Run, change: Callable[[dict[str, Any]], None], content: bytes | None = None) -> None:
    """Rewrite best.tflite with another model, if given, and a matching record edited by `change`."""
    model = read_litert(run.litert, run.best)
    content = model.content if content is None else content
    whole = LiteRtModel(run.litert, model.info, content).to_bytes(run.best)
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        record = json.loads(archive.read("wisesr.json"))
    change(record)
    tail = io.BytesIO()
    with zipfile.ZipFile(tail, "w") as archive:
        archive.writestr("wisesr.json", json.dumps(record))
    run.litert.write_bytes(content + tail.getvalue())


def test_finished_training_writes_a_litert_model_with_the_same_probabilities(trained: Trained) -> None:
    run = Run(trained.run)
    engine, converted = load_engine(run.path), LiteRtEngine(read_litert(run.litert, run.best))
    pixels = noise(40)
    exact = softmax(engine.logits(pixels))
    assert np.ptp(exact, axis=0).max() > 0.01
    np.testing.assert_allclose(softmax(converted.logits(pixels)), exact, rtol=0, atol=1e-5)
    assert converted.info == engine.info


def test_image_gets_bit_identical_logits_alone_in_any_batch_and_in_any_thread(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = read_litert(Run(trained.run).litert, Run(trained.run).best)
    pixels, engine = noise(33), LiteRtEngine(model)
    expected = np.concatenate([engine.logits(pixels[row : row + 1]) for row in range(33)])
    assert np.array_equal(engine.logits(pixels), expected)
    assert np.array_equal(engine.logits(pixels[::-1])[::-1], expected)
    monkeypatch.setattr(litert, "MOST_COPIES_BYTES", 1)  # as for a model too large for several copies
    assert np.array_equal(LiteRtEngine(model).logits(pixels), expected)


def test_predict_with_litert_imports_no_heavy_package_and_names_the_engine(trained: Trained, tmp_path: Path) -> None:
    photos = trained.photos / "test"
    code, loaded, said = loaded_after(command("predict", str(trained.run / "best.keras"), str(photos)), tmp_path)
    assert code == 0, said
    assert "ai_edge_litert" in loaded
    assert not loaded & {"tensorflow", "keras", "jax", "h5py", "matplotlib", "tensorboard", "yaml"}
    first, second, *_ = said.splitlines()  # LiteRT itself prints nothing
    assert first.startswith("device: CPU: ")
    assert second.rstrip() == "Labels"  # heading of their counts
    assert "LiteRT runs best.tflite" in said


@pytest.mark.parametrize("command", ["predict", "evaluate"])
def test_keras_runs_a_changed_best_model_with_a_note_of_the_reason(
    command: str, run: Run, trained: Trained, wisesr: CommandLine
) -> None:
    with run.best.open("ab") as file:
        file.write(b"\n")
    line = (command, run.path, *([trained.photos / "test"] if command == "predict" else []))
    answer = wisesr(*line).worked()
    assert answer.err.count("engine: Keras, as best.tflite was made from another best.keras\n") == 1
    assert "LiteRT" not in answer.err
    answer = wisesr(*line, "--engine", "litert")
    assert (answer.code, answer.out) == (4, "")
    assert "--engine litert: best.tflite was made from another best.keras; use --engine keras" in answer.error


@pytest.mark.parametrize(
    ("options", "code", "reason"),
    [
        (["--device", "gpu"], 2, "LiteRT computes on the CPU, and --device gpu was given"),
        (["--precision", "mixed_bfloat16"], 2, "LiteRT computes in float32, and --precision mixed_bfloat16 was given"),
    ],
)
def test_unsupported_by_litert_is_a_usage_error_if_requested_else_keras_runs(
    options: list[str], code: int, reason: str, trained: Trained, wisesr: CommandLine
) -> None:
    line = ("predict", trained.run, trained.photos / "test", *options)
    answer = wisesr(*line, "--engine", "litert")
    assert (answer.code, answer.out) == (code, "")
    assert answer.error == f"wisesr: --engine litert: {reason}"
    assert f"engine: Keras, as {reason}\n" in wisesr(*line).err


def test_litert_without_its_file_or_package_is_an_error_if_requested(
    run: Run, trained: Trained, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = trained.photos / "test"
    monkeypatch.setitem(__import__("sys").modules, "ai_edge_litert.interpreter", None)
    answer = wisesr("predict", run.path, photos, "--engine", "litert")
    assert (answer.code, answer.out) == (5, "")
    assert answer.error.endswith(f"ai-edge-litert is not installed; install it with: {install_line('ai-edge-litert')}")
    answer = wisesr("predict", run.path, photos).worked()
    assert "engine: Keras, as ai-edge-litert is not installed" in answer.err
    run.litert.unlink()
    wisesr("predict", run.path, photos, "--engine", "litert").failed(4, "there is no best.tflite next to best.keras")


def test_evaluate_gives_the_same_metrics_with_both_engines(run: Run, wisesr: CommandLine) -> None:
    found = {
        engine: wisesr("evaluate", run.path, "--engine", engine, "--format", "json") for engine in ("litert", "keras")
    }
    assert "LiteRT runs best.tflite" in found["litert"].err
    values, expected = (
        {name: value for name, value in answer.data.items() if isinstance(value, float)} for answer in found.values()
    )
    assert values == pytest.approx(expected, abs=1e-5)
    assert found["litert"].data["confusion_matrix"] == found["keras"].data["confusion_matrix"]


@pytest.mark.reliability(42)
def test_prediction_resumes_only_on_the_engine_it_started_with(
    run: Run, trained: Trained, tmp_path: Path, wisesr: CommandLine
) -> None:
    line = ("predict", run.path, trained.photos / "test", "--format", "jsonl", "-b", "4", "-o")
    assert wisesr(*line, tmp_path / "whole").code == 0
    with stopping_after(7):
        assert wisesr(*line, tmp_path / "out").code == 130
    wisesr(*line, tmp_path / "out", "--resume", "--engine", "keras").failed(4, "engine was litert ", " and is keras")
    assert wisesr(*line, tmp_path / "out", "--resume").code == 0
    assert (tmp_path / "out").read_bytes() == (tmp_path / "whole").read_bytes()


@pytest.mark.reliability(36)
def test_damaged_file_is_rejected(run: Run) -> None:
    whole, keras_bytes = run.litert.read_bytes(), run.best.stat().st_size
    model = read_litert(run.litert, run.best)
    middle = len(model.content) // 2
    far = struct.pack("<I", 0x7FFFFFFF)
    damaged = {
        "empty": b"",
        "cut": whole[:-1],
        "half": whole[:middle],
        "a bit": whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :],
        "the model alone": model.content,
        "the record alone": whole[len(model.content) :],
        "a record that points elsewhere": whole[:-22] + whole[-22:].replace(whole[-6:-2], far),
        "as large as a disk": whole + bytes(2 * keras_bytes + litert.SPARE_BYTES),
    }
    taken = []
    for name, content in damaged.items():
        run.litert.write_bytes(content)
        with suppress(UnusableError):
            read_litert(run.litert, run.best)
            taken.append(name)
    assert taken == []


@pytest.mark.reliability(36)
def test_invalid_record_is_rejected(run: Run) -> None:
    whole = run.litert.read_bytes()
    changes: list[Callable[[dict[str, Any]], object]] = [
        lambda record: record.pop("keras"),
        lambda record: record.update(keras=5),
        lambda record: record.update(litert=None),
        lambda record: record["litert"].update(bytes=1e400),
        lambda record: record["litert"].update(bytes=-1),
        lambda record: record["keras"].update(sha256="0" * 64),
        lambda record: record["keras"].update(bytes=1),
        lambda record: record.update(class_names="abc"),
        lambda record: record.update(image_size=[10**9, 1]),
    ]
    for change in changes:
        run.litert.write_bytes(whole)
        rewritten(run, change)  # type: ignore[arg-type]
        with pytest.raises(UnusableError):
            read_litert(run.litert, run.best)
    run.litert.write_bytes(whole)
    rewritten(run, lambda record: None)
    assert read_litert(run.litert, run.best)  # only the changes above cause the rejections


@pytest.mark.reliability(36)
def test_record_of_an_empty_model_is_rejected(run: Run) -> None:
    rewritten(run, lambda record: None, b"")
    with pytest.raises(UnusableError, match=r"best\.tflite is damaged"):
        read_litert(run.litert, run.best)


@pytest.mark.reliability(36)
def test_file_larger_than_any_litert_model_is_not_read(run: Run) -> None:
    for path in (run.best, run.litert):  # a large best.keras permits a large best.tflite
        with path.open("r+b") as file:
            file.truncate(litert.MOST_BYTES + 1)  # a sparse file: takes no space on the disk
    with pytest.raises(UnusableError, match=r"best\.tflite is larger than a model for LiteRT can be"):
        read_litert(run.litert, run.best)


def test_interpreter_that_does_not_fit_in_memory_is_an_error_that_names_the_file(
    trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = LiteRtEngine(read_litert(Run(trained.run).litert, Run(trained.run).best))

    def refuse() -> Any:
        raise RuntimeError("failed to\n allocate")

    monkeypatch.setattr(engine._logits, "_interpreter", refuse)
    engine._logits._idle.clear()  # as if all existing interpreters were busy
    with pytest.raises(RunError, match=r"best\.tflite: the model cannot be run: failed to allocate"):
        engine.logits(noise(1))


def test_keras_runs_if_litert_cannot_list_the_operators_of_a_model(
    run: Run, trained: Trained, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    monkeypatch.delattr(Interpreter, "_get_ops_details")
    answer = wisesr("predict", run.path, trained.photos / "test").worked()
    assert "engine: Keras, as LiteRT does not accept best.tflite" in answer.err


def test_unknown_engine_is_a_usage_error_in_the_python_api(trained: Trained) -> None:
    with pytest.raises(UsageError, match=r"engine 'keros' is not one of auto, litert, keras"):
        api.predict(trained.run, [trained.photos], engine="keros")  # type: ignore[arg-type]


@pytest.mark.reliability(36)
@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (lambda pixels: keras.layers.Dense(4)(keras.layers.GlobalAveragePooling2D()(pixels)), "outputs"),
        (lambda pixels: keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(keras.ops.sin(pixels))), "operat"),
        (lambda pixels: keras.ops.cast(keras.layers.GlobalAveragePooling2D()(pixels), "int32"), "outputs"),
    ],
)
def test_litert_does_not_run_a_model_that_wisesr_does_not_build(
    build: Callable[[Any], Any], reason: str, run: Run, tmp_path: Path, trained: Trained, wisesr: CommandLine
) -> None:
    pixels = keras.Input((32, 32, 3))
    conversion.write_litert(keras.Model(pixels, build(pixels)), tmp_path / "odd.tflite")
    rewritten(run, lambda record: None, (tmp_path / "odd.tflite").read_bytes())
    with pytest.raises(UnusableError, match=f"{reason}.* that no model of wisesr has"):
        LiteRtEngine(read_litert(run.litert, run.best))
    answer = wisesr("predict", run.path, trained.photos / "test").worked()
    assert "that no model of wisesr has" in answer.err
    assert "LiteRT runs" not in answer.err


def test_failed_or_inaccurate_conversion_is_a_warning_and_writes_no_file(
    tmp_path: Path, trained: Trained, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(trained.copy_to(tmp_path / "runs" / "tiny"))
    line = ("train", trained.photos, *QUICK, "--epochs", "2", "-o", tmp_path / "runs", "--name", "tiny", "--resume")

    def refuse(model: object, target: Path, quantize: str | None, examples: object) -> None:
        raise RuntimeError("cannot\n convert\x1b[31m")

    def fail(engine: LiteRtEngine, pixels: Any) -> Any:
        raise RunError("the model cannot be run")

    def others(engine: LiteRtEngine, pixels: Any) -> Any:
        return logits(engine, pixels) + np.linspace(0, 1e-3, 3, dtype=np.float32)

    logits = LiteRtEngine.logits
    for change, reason in (
        (lambda patch: patch.setitem(conversion.WRITERS, "litert", refuse), "to LiteRT: cannot convert\\x1b[31m;"),
        (lambda patch: patch.setattr(LiteRtEngine, "logits", others), "the LiteRT model gives different probabilities"),
        (lambda patch: patch.setattr(LiteRtEngine, "logits", fail), "the model cannot be run"),
    ):
        run.litert.unlink()
        with monkeypatch.context() as patch:
            change(patch)
            answer = wisesr(*line)
        assert answer.code == 0, answer.err
        assert answer.err.count("no best.tflite") == 1
        assert reason in answer.err
        run.litert.touch()
    wisesr(*line).worked()  # an empty file is replaced
    assert read_litert(run.litert, run.best).info.epoch == 2


def test_training_without_tensorflow_notes_that_no_file_is_written(
    tmp_path: Path, trained: Trained, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(trained.copy_to(tmp_path / "runs" / "tiny"))
    run.litert.unlink()
    monkeypatch.setattr(conversion, "find_spec", lambda name: None)
    line = ("train", trained.photos, *QUICK, "--epochs", "2", "-o", tmp_path / "runs", "--name", "tiny", "--resume")
    answer = wisesr(*line).worked()
    assert "no best.tflite: converting models to LiteRT needs TensorFlow, which is not installed\n" in answer.err
    assert not run.litert.exists()


@pytest.mark.slow
def test_separate_process_converts_the_model_if_keras_runs_on_jax(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, expected = load_engine(run.path), read_litert(run.litert, run.best)
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    converted = best_litert.to_litert(engine, run.litert)
    assert np.array_equal(LiteRtEngine(converted).logits(noise(5)), LiteRtEngine(expected).logits(noise(5)))
    monkeypatch.setattr(conversion, "_PROGRAM", "raise SystemExit('no\\x1b model')")
    with pytest.raises(conversion.ConversionError, match=r"cannot be converted to LiteRT: no\\x1b model"):
        best_litert.to_litert(engine, run.litert)


@pytest.mark.slow
def test_resumed_training_never_keeps_the_litert_model_of_an_earlier_best_epoch(
    tmp_path: Path, trained: Trained, wisesr: CommandLine
) -> None:
    run = Run(trained.copy_to(tmp_path / "runs" / "tiny"))
    line = ("train", trained.photos, *QUICK, "-o", tmp_path / "runs", "--name", "tiny")
    before = run.litert.read_bytes()
    answer = wisesr(*line, "--epochs", "2", "--resume")
    assert run.litert.read_bytes() == before  # nothing was left to do
    answer = wisesr(*line, "--epochs", "6", "--resume", "--max-steps", "3").worked()
    assert "writing best.tflite" not in answer.err
    is_old = run.best.read_bytes() == (trained.run / "best.keras").read_bytes()
    assert run.litert.exists() == is_old
    assert wisesr(*line, "--epochs", "2", "--overwrite", "--max-steps", "1").code == 0
    assert not run.litert.exists()
    answer = wisesr(*line, "--epochs", "2", "--resume")
    assert "writing best.tflite, which predicts without TensorFlow" in answer.err
    assert read_litert(run.litert, run.best)
