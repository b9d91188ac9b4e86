"""A run is evaluated by class name, in float32, and the printed metrics are those written."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import CommandLine, Trained, make_photo, make_photos, rows_of, snapshot
from permissions import permissions_hold
from PIL import Image


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """Return a copy of the run that a test may write to."""
    return trained.copy_to(tmp_path / "run")


@pytest.fixture
def test_photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "fresh", 4, first_seed=500)


def test_the_test_split_is_the_default_and_another_can_be_chosen(wisesr: CommandLine, run: Path) -> None:
    assert wisesr("evaluate", run, "--format", "json").data["examples"] == 15
    assert (run / "evaluate-test").is_dir()
    train = wisesr("evaluate", run, "--split", "train", "--format", "json")
    assert train.data["examples"] == 36
    assert wisesr("evaluate", run, "--split", "validation", "--format", "json").data["examples"] == 15


def test_validation_is_evaluated_if_a_run_has_no_test_split(wisesr: CommandLine, run: Path, trained: Trained) -> None:
    rows = (run / "splits.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "splits.csv").write_text(
        "".join(row for row in rows if not row.rstrip().endswith(",test")), encoding="utf-8"
    )
    wisesr("evaluate", run, "--format", "json").worked()
    assert (run / "evaluate-validation").is_dir()
    assert not (run / "evaluate-test").exists()
    wisesr("evaluate", run, "--split", "test").failed(2, "validation")


def test_metrics_json_matches_what_was_printed(wisesr: CommandLine, run: Path, test_photos: Path) -> None:
    for folder, line in (("evaluate-test", []), ("evaluate-fresh", ["--data", test_photos])):
        answer = wisesr("evaluate", run, *line, "--format", "json").worked()
        assert json.loads((run / folder / "metrics.json").read_text(encoding="utf-8")) == answer.data


def test_evaluating_validation_reproduces_the_metrics_of_training(wisesr: CommandLine, run: Path) -> None:
    answer = wisesr("evaluate", run, "--split", "validation", "--format", "json")
    trained = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert list(trained) == list(answer.data)
    for name in ("examples", "top1_accuracy", "macro_f1", "classes", "confusion_matrix"):
        assert trained[name] == answer.data[name]
    assert trained["log_loss"] == pytest.approx(answer.data["log_loss"], abs=1e-5)


def test_every_file_of_an_evaluation_agrees_with_the_metrics(wisesr: CommandLine, run: Path) -> None:
    data = wisesr("evaluate", run, "--format", "json").data
    folder = run / "evaluate-test"
    assert {path.name for path in folder.iterdir()} >= {
        "metrics.json",
        "per_class.csv",
        "confusion_matrix.csv",
        "predictions.csv",
    }
    assert not list(run.rglob(".wisesr-*"))
    per_class = rows_of(folder / "per_class.csv")
    assert [row["label"] for row in per_class] == data["classes"]
    assert [float(row["recall"]) for row in per_class] == [row["recall"] for row in data["per_class"]]
    matrix = list(csv.reader((folder / "confusion_matrix.csv").open(encoding="utf-8")))
    assert matrix[0] == ["truth", *data["classes"]]
    assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == data["confusion_matrix"]
    predictions = rows_of(folder / "predictions.csv")
    assert len(predictions) == data["examples"]
    right = [row["truth"] == row["predicted"] for row in predictions]
    assert [row["correct"] == "true" for row in predictions] == right
    assert np.mean(right) == data["top1_accuracy"]
    loss = -np.log([float(row["truth_score"]) for row in predictions]).mean()
    assert loss == pytest.approx(data["log_loss"], abs=1e-9)
    for name in ("confusion_matrix-test.png", "reliability-test.png"):
        with Image.open(run / "plots" / name) as image:
            image.load()


def test_evaluate_and_predict_agree_on_every_image(wisesr: CommandLine, run: Path, trained: Trained) -> None:
    assert wisesr("evaluate", run).code == 0
    rows = rows_of(run / "evaluate-test" / "predictions.csv")
    predicted = wisesr("predict", run, trained.photos / "test", "--format", "json").data
    assert [Path(row["path"]).name for row in rows] == [Path(record["path"]).name for record in predicted]
    assert [row["predicted"] for row in rows] == [record["label"] for record in predicted]
    assert [float(row["score"]) for row in rows] == pytest.approx([record["score"] for record in predicted], abs=1e-5)


def test_classes_are_matched_by_name_and_not_by_position(wisesr: CommandLine, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "swapped"
    for name, label in (("blue", 2), ("green", 1), ("red", 0)):  # blue images labelled red, and red ones blue
        for number in range(3):
            make_photo(folder / name / f"{number}.png", label, 800 + number)
    data = wisesr("evaluate", run, "--data", folder, "--format", "json").data
    assert data["confusion_matrix"] == [[0, 0, 3], [0, 3, 0], [3, 0, 0]]
    only = wisesr("evaluate", run, "--data", make_photos(tmp_path / "only", 3, classes=("red",)), "--format", "json")
    assert only.data["confusion_matrix"] == [[0, 0, 0], [0, 0, 0], [0, 0, 3]]


def test_a_lone_model_file_can_predict_and_be_evaluated_on_a_folder(
    wisesr: CommandLine, trained: Trained, run: Path, test_photos: Path, tmp_path: Path
) -> None:
    lone = tmp_path / "elsewhere" / "model.keras"
    lone.parent.mkdir()
    shutil.copy(trained.run / "best.keras", lone)
    whole = wisesr("predict", run, test_photos, "--engine", "keras", "--format", "json")
    assert wisesr("predict", lone, test_photos, "--format", "json").data == whole.data
    answer = wisesr("evaluate", lone, "--data", test_photos, "--format", "json").worked()
    by_run = wisesr("evaluate", run, "--data", test_photos, "--engine", "keras", "--format", "json")
    assert answer.data == by_run.data
    assert json.loads((lone.parent / "evaluate-fresh" / "metrics.json").read_text(encoding="utf-8")) == answer.data


def test_evaluating_a_lone_model_file_without_a_folder_exits_with_4(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    shutil.copy(trained.run / "best.keras", tmp_path / "model.keras")
    wisesr("evaluate", tmp_path / "model.keras").failed(4)


def test_the_best_model_of_a_run_is_evaluated_like_the_run(wisesr: CommandLine, run: Path) -> None:
    by_file = wisesr("evaluate", run / "best.keras", "--format", "json").worked()
    assert by_file.data == wisesr("evaluate", run, "--format", "json").data


@pytest.mark.reliability(44)
def test_batch_size_changes_no_metric(wisesr: CommandLine, run: Path) -> None:
    answers = [wisesr("evaluate", run, "-b", size, "--format", "json").data for size in (7, 32)]
    for answer in answers[1:]:
        assert answer["confusion_matrix"] == answers[0]["confusion_matrix"]
        assert answer["log_loss"] == pytest.approx(answers[0]["log_loss"], abs=1e-5)


def test_top_k_and_min_score_shape_the_record(wisesr: CommandLine, trained: Trained) -> None:
    photo = trained.photos / "test" / "red" / "00.png"
    whole = wisesr("predict", trained.run, photo, "--format", "json").data[0]
    assert len(whole["top"]) == 3
    short = wisesr("predict", trained.run, photo, "--top-k", "1", "--format", "json").data[0]
    assert short["top"] == whole["top"][:1]
    unsure = wisesr("predict", trained.run, photo, "--min-score", "1", "--format", "json").data[0]
    assert unsure["label"] is None
    assert unsure["score"] == whole["score"]
    assert unsure["top"] == whole["top"]


def test_an_unreadable_image_fails_an_evaluation_or_is_skipped_on_request(
    wisesr: CommandLine, run: Path, test_photos: Path
) -> None:
    (test_photos / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    answer = wisesr("evaluate", run, "--data", test_photos, "--format", "json").refused(3, "broken.png")
    answer = wisesr("evaluate", run, "--data", test_photos, "--on-error", "skip", "--format", "json").worked()
    assert answer.data["examples"] == 12
    assert "1 " in answer.err


def test_a_second_evaluation_replaces_the_first(wisesr: CommandLine, run: Path) -> None:
    assert wisesr("evaluate", run).code == 0
    first = snapshot(run / "evaluate-test")
    (run / "evaluate-test" / "mine.txt").write_text("a note", encoding="utf-8")
    assert wisesr("evaluate", run).code == 0
    assert snapshot(run / "evaluate-test") == {**first, "mine.txt": b"a note"}


def test_moved_images_exit_with_4_and_a_suggestion(wisesr: CommandLine, run: Path) -> None:
    config = (run / "config.yaml").read_text(encoding="utf-8")
    line = next(line for line in config.splitlines() if line.strip().startswith("dir: "))
    (run / "config.yaml").write_text(config.replace(line, "  dir: /nowhere/photos"), encoding="utf-8")
    wisesr("evaluate", run).failed(4, "--data FOLDER")


def test_the_python_functions_match_the_commands(wisesr: CommandLine, run: Path, trained: Trained) -> None:
    import wisesr_cli

    photo = trained.photos / "test" / "red" / "00.png"
    evaluation = wisesr_cli.evaluate(run)
    assert json.loads(json.dumps(evaluation.metrics.to_json())) == wisesr("evaluate", run, "--format", "json").data
    records = [json.loads(json.dumps(record.to_json())) for record in wisesr_cli.predict(run, [photo])]
    assert records == wisesr("predict", run, photo, "--format", "json").data
    assert wisesr_cli.load_config(run).model.backbone == "compact_small"


def test_mixed_precision_changes_the_arithmetic_but_hardly_the_logits(trained: Trained) -> None:
    from run_states import load_engine

    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    exact, coarse = load_engine(trained.run), load_engine(trained.run, "mixed_bfloat16")
    assert {layer.compute_dtype for layer in exact.model.layers} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in coarse.model.layers}
    assert coarse.model.output.dtype == "float32"
    difference = np.abs(exact.logits(pixels) - coarse.logits(pixels)).max()
    assert 0 < difference < 0.2


@pytest.mark.parametrize(
    ("name", "is_folder"),
    [
        ("evaluate-test", False),
        ("plots", False),
        ("evaluate-test/predictions.csv", True),
        ("plots/reliability-test.png", True),
    ],
)
def test_an_obstructed_output_exits_with_4_before_tensorflow_starts(
    wisesr: CommandLine, run: Path, name: str, is_folder: bool
) -> None:
    if is_folder:
        (run / name).mkdir(parents=True)
    else:
        shutil.rmtree(run / name, ignore_errors=True)
        (run / name).write_bytes(b"mine")
    answer = wisesr("evaluate", run).refused(4, f"{name}: is a {'folder' if is_folder else 'file'}")
    assert "device" not in answer.err
    assert (run / name).is_dir() if is_folder else (run / name).read_bytes() == b"mine"


@pytest.mark.parametrize("closed", [".", "evaluate-test", "plots"])
def test_an_unwritable_output_exits_with_5_before_tensorflow_starts(
    wisesr: CommandLine, run: Path, closed: str
) -> None:
    (run / closed).mkdir(exist_ok=True)
    (run / closed).chmod(0o500)
    with permissions_hold():
        answer = wisesr("evaluate", run)
    (run / closed).chmod(0o700)
    assert (answer.code, answer.out) == (5, "")
    assert f"{'evaluate-test' if closed == '.' else closed}: permission denied" in answer.error
    assert "device" not in answer.err


def test_a_failed_evaluation_leaves_no_folder(wisesr: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = sorted(run.rglob("*"))

    def fail(*arguments: object, **options: object) -> None:
        assert (run / "evaluate-test").is_dir()
        raise MemoryError

    monkeypatch.setattr("wisesr_cli.evaluation.evaluate.logits_of", fail)
    assert wisesr("evaluate", run).code == 5
    assert sorted(run.rglob("*")) == before
