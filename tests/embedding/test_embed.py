"""`wisesr embed` writes the classifier layer's inputs in order, resumed or not, without TensorFlow if possible."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from command_line import CommandLine, Trained, command, fresh, loaded_after, make_photos
from PIL import Image
from predictions import spread, start, wait_until

from wisesr_cli import api
from wisesr_cli.embedding import output
from wisesr_cli.engines.keras import KerasEngine
from wisesr_cli.engines.litert import LiteRtEngine, UnusableError, read_litert
from wisesr_cli.errors import RunError
from wisesr_cli.exporting.best_litert import to_litert
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.machine.installation import install_line
from wisesr_cli.model_files.archive import append_model_info, check_model
from wisesr_cli.model_files.info import ModelInfo
from wisesr_cli.models.build import build_classifier
from wisesr_cli.models.settings import ModelConfig
from wisesr_cli.results.streams import Embedding
from wisesr_cli.run.run import litert_path

on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="Keras converts on TensorFlow")

HEADS: dict[str, dict[str, Any]] = {
    **{name: {"name": name} for name in ("gap", "gmp", "wise", "depthwise", "flatten", "fc")},
    "hidden": {"name": "wise", "hidden": [{"units": 7, "activation": "gelu"}]},
    "as many as classes": {"name": "gap", "hidden": [{"units": 3, "norm": "layer", "activation": "linear"}]},
}
QUICK = ("gap", "wise", "as many as classes")


def arrays(path: Path) -> dict[str, Any]:
    with np.load(path) as stored:
        return dict(stored.items())


def make_model(file: Path, head: dict[str, Any]) -> None:
    """Write a model with random weights, and its LiteRT version beside it."""
    config = ModelConfig(backbone="compact_small", head=head, weights="none")
    model = build_classifier(config, image_size=(32, 32), classes=3, steps_per_epoch=1).model
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign_add(random.normal(0, 0.1, variable.shape))
    model.save(file)
    info = ModelInfo(("a", "b", "c"), (32, 32), Preparation(), BACKGROUND, "compact_small", str(head["name"]), 1, {})
    append_model_info(file, info)
    converted = to_litert(KerasEngine(check_model(file)), litert_path(file))
    converted.path.write_bytes(converted.to_bytes(file))


def keras_features(file: Path, paths: list[Path]) -> np.ndarray[Any, Any]:
    """Return the input of the last layer, computed one image at a time by a model loaded with Keras."""
    model = keras.models.load_model(file)
    last = keras.Model(model.inputs, model.layers[-1].input)
    return np.concatenate([last([np.asarray(Image.open(path), "float32")[None]], training=False) for path in paths])


@pytest.fixture
def tiny(trained: Trained, tmp_path: Path) -> Path:
    return trained.copy_to(tmp_path / "tiny")


@on_tensorflow
@pytest.mark.parametrize(
    "head", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in HEADS]
)
def test_vectors_are_the_inputs_of_the_classifier_layer_with_either_engine(
    head: str, photos: Path, tmp_path: Path, wisesr: CommandLine
) -> None:
    model = tmp_path / "best.keras"
    make_model(model, HEADS[head])
    paths = sorted(photos.rglob("*.png"))
    expected = keras_features(model, paths)
    assert np.ptp(expected, axis=0).max() > 0.01
    for engine in ("litert", "keras"):
        file = tmp_path / f"{engine}.npz"
        wisesr("embed", model, photos, "--engine", engine, "-o", file, "-b", "4").worked()
        found = arrays(file)
        assert found["paths"].tolist() == [str(path) for path in paths]
        assert found["vectors"].dtype == np.float32
        scale = max(1, np.abs(expected).max())
        np.testing.assert_allclose(found["vectors"] / scale, expected / scale, rtol=0, atol=1e-5)


def test_the_classifier_layer_maps_vectors_to_the_predicted_scores(trained: Trained) -> None:
    record = next(api.embed(trained.run, [next((trained.photos / "test").rglob("*.png"))]))
    model = keras.models.load_model(trained.run / "best.keras")
    kernel, bias = model.layers[-1].get_weights()
    logits = np.asarray(record.vector) @ kernel + bias
    prediction = next(api.predict(trained.run, [record.path], top_k=3))
    temperature = read_litert(trained.run / "best.tflite", trained.run / "best.keras").info.temperature
    scores = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
    assert max(scores) == pytest.approx(prediction.score, abs=1e-5)


@on_tensorflow
def test_embed_with_litert_loads_no_tensorflow(trained: Trained, tmp_path: Path) -> None:
    words = ("embed", str(trained.run), str(trained.photos / "test"), "-o", "v.npz")
    code, loaded, said = loaded_after(command(*words), tmp_path)
    assert code == 0, said
    assert "ai_edge_litert" in loaded
    assert not loaded & {"tensorflow", "keras", "jax", "matplotlib", "pyarrow"}
    assert "LiteRT runs best.tflite" in said
    assert arrays(tmp_path / "v.npz")["vectors"].shape == (15, 64)


@on_tensorflow
def test_a_litert_model_without_usable_features_falls_back_to_keras_with_a_note(
    trained: Trained, tiny: Path, tmp_path: Path, wisesr: CommandLine
) -> None:
    model = read_litert(tiny / "best.tflite", tiny / "best.keras")
    for features, reason in ((None, "earlier wisesr"), (0, "not a feature vector"), (10**6, "not a feature vector")):
        object.__setattr__(model, "features", features)
        (tiny / "best.tflite").write_bytes(model.to_bytes(tiny / "best.keras"))
        with pytest.raises(UnusableError, match=reason):
            LiteRtEngine(read_litert(tiny / "best.tflite", tiny / "best.keras")).check_features()
    line = ("embed", tiny, trained.photos / "test", "-o", tmp_path / "v.npz")
    wisesr(*line, "--engine", "litert").refused(4, "not a feature vector")
    answer = wisesr(*line).worked()
    assert answer.said("engine: Keras, as best.tflite names a tensor that is not a feature vector")
    assert arrays(tmp_path / "v.npz")["vectors"].shape == (15, 64)


def test_an_unreadable_image_keeps_its_row_with_the_reason(tiny: Path, photos: Path, tmp_path: Path) -> None:
    folder = make_photos(tmp_path / "photos", 2, classes=("blue",))
    (folder / "blue" / "00b.png").write_bytes(b"no image")
    *_, last = records = list(api.embed(tiny, [folder], output=str(tmp_path / "v.npz")))
    found = arrays(tmp_path / "v.npz")
    assert [record.error is None for record in records] == [True, False, True]
    assert found["errors"].tolist() == ["", records[1].error, ""]
    assert np.isnan(found["vectors"][1]).all()
    assert found["vectors"][2].tolist() == list(last.vector or ())
    assert found["paths"].tolist() == [record.path for record in records]


@pytest.mark.parametrize(
    ("names", "options", "code"), [(["bad", "good"], [], 6), (["bad", "good"], ["--strict"], 3), (["bad"], [], 3)]
)
def test_unreadable_images_give_the_same_exit_codes_as_in_predict(
    tiny: Path, tmp_path: Path, wisesr: CommandLine, names: list[str], options: list[str], code: int
) -> None:
    make_photos(tmp_path / "good", 1, classes=("blue",))
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"no image")
    answer = wisesr("embed", tiny, *(tmp_path / name for name in names), "-o", tmp_path / "v.npz", *options)
    assert (answer.code, answer.out) == (code, "")
    assert "x.png: " in answer.err
    assert "could not be read" in answer.err


def test_parquet_has_the_same_rows(tiny: Path, tmp_path: Path, wisesr: CommandLine) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    folder = make_photos(tmp_path / "photos", 3, classes=("blue",))
    (folder / "blue" / "00b.png").write_bytes(b"no image")
    (folder / "blue" / os.fsdecode(b"\xff.png")).write_bytes((folder / "blue" / "00.png").read_bytes())
    assert wisesr("embed", tiny, folder, "-o", tmp_path / "v.parquet").code == 6
    assert wisesr("embed", tiny, folder, "-o", tmp_path / "v.npz").code == 6
    rows, found = parquet.read_table(tmp_path / "v.parquet").to_pylist(), arrays(tmp_path / "v.npz")
    assert [row["path"] for row in rows][:-1] == found["paths"].tolist()[:-1]
    assert rows[-1]["path"].endswith("\\udcff.png")
    assert found["paths"][-1].endswith("\udcff.png")
    assert [row["error"] or "" for row in rows] == found["errors"].tolist()
    assert rows[1]["vector"] is None
    vectors = [row["vector"] for row in rows if row["vector"] is not None]
    assert np.array_equal(np.asarray(vectors, np.float32), found["vectors"][found["errors"] == ""])


def test_parquet_without_pyarrow_exits_with_5_and_the_install_command_at_once(
    wisesr: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    line = ("embed", "nowhere", "x.png", "-o", tmp_path / "v.parquet")
    wisesr(*line).refused(5, install_line("parquet"))


def test_paths_are_read_from_a_list_and_from_standard_input(
    tiny: Path, photos: Path, tmp_path: Path, wisesr: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = sorted(map(str, photos.rglob("*.png")))[::-1]
    (tmp_path / "list").write_text("\n".join(paths), encoding="utf-8")
    wisesr("embed", tiny, "--from-file", tmp_path / "list", "-o", tmp_path / "a.npz").worked()
    typed = io.TextIOWrapper(io.BytesIO("\0".join(paths).encode()), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    wisesr("embed", tiny, "-", "--null", "-o", tmp_path / "b.npz").worked()
    first, second = arrays(tmp_path / "a.npz"), arrays(tmp_path / "b.npz")
    assert first["paths"].tolist() == paths
    assert all(np.array_equal(first[name], second[name]) for name in ("paths", "vectors", "errors"))


@on_tensorflow
@pytest.mark.parametrize("engine", ["litert", pytest.param("keras", marks=pytest.mark.slow)])
def test_embed_killed_and_resumed_gives_the_same_vectors(tiny: Path, tmp_path: Path, engine: str) -> None:
    folder = spread(tmp_path / "many", 3000, unreadable=30)
    line = ("embed", tiny, folder, "--engine", engine, "-b", "8", "-q", "-o")
    whole = tmp_path / "whole.npz"
    assert start(*line, whole, cwd=tmp_path).wait(timeout=200) == 6
    killed, journal = tmp_path / "killed.npz", tmp_path / "killed.npz.partial"
    process = start(*line, killed, cwd=tmp_path)
    assert wait_until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 20, process)
    process.kill()
    process.wait()
    assert not killed.exists()
    done = journal.read_bytes().count(b"\n") - 2
    assert 0 < done < 3000
    resumed = fresh(*line[:-2], "--resume", "-o", killed, cwd=tmp_path)
    assert resumed.code == 6, resumed.err
    assert "found in the journal" in resumed.err
    assert not journal.exists()
    first, second = arrays(whole), arrays(killed)
    assert len(first["paths"]) == 3000
    assert all(np.array_equal(first[name], second[name], equal_nan=name == "vectors") for name in first)


def test_an_existing_output_exits_with_2_unless_resumed_or_overwritten(
    tiny: Path, photos: Path, tmp_path: Path, wisesr: CommandLine
) -> None:
    line = ("embed", tiny, photos, "-o", tmp_path / "v.npz")
    wisesr(*line).worked()
    before = (tmp_path / "v.npz").read_bytes()
    wisesr(*line).refused(2, "exists; replace it with --overwrite")
    answer = wisesr(*line, "--resume").worked()
    assert "nothing to resume" in answer.err
    assert (tmp_path / "v.npz").read_bytes() == before
    wisesr(*line, "--overwrite").worked()


def test_resume_with_other_options_inputs_or_another_commands_journal_is_rejected(
    tiny: Path, photos: Path, tmp_path: Path, wisesr: CommandLine
) -> None:
    file = str(tmp_path / "v.npz")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output.VectorsFile, "finish", lambda self: None)
        records = list(api.embed(tiny, [photos], output=file))
    assert len(records) == 18
    wisesr("embed", tiny, photos, "-o", file, "--resume", "-b", "7").refused(4, "batch_size was 32 and is 7")
    wisesr("predict", tiny, photos, "-o", file, "--resume", "--format", "jsonl").refused(
        4, "was written with other options"
    )
    with pytest.raises(RunError, match="the inputs have changed"):
        api.embed(tiny, [photos / "red"], output=file, resume=True)
    assert list(api.embed(tiny, [photos], output=file, resume=True)) == []
    assert arrays(Path(file))["vectors"].tolist() == [list(record.vector or ()) for record in records]


def test_records_in_a_journal_are_read_back_bit_for_bit() -> None:
    numbers = np.array([0.1, -0.0, 1e-45, 3.4e38, 1 / 3], np.float32)
    for record in (Embedding("a", tuple(numbers.tolist())), Embedding("b\udcff", None, "no such file")):
        assert output.VectorsFile.form.decode(output.VectorsFile.form.encode(record)) == record


def test_memory_does_not_grow_with_the_number_of_images(tiny: Path, tmp_path: Path) -> None:
    from command_line import with_peak

    peaks = []
    for count in (200, 4000):
        folder = spread(tmp_path / f"{count}", count)
        answer, peak = with_peak(tmp_path, "embed", tiny, folder, "-q", "-o", tmp_path / f"{count}.npz")
        assert answer.code == 0, answer.err
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 25, peaks
