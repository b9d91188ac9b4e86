"""A run is judged by class names, in float32, and what is printed is what is written."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import CLASSES, CommandLine, Trained, make_photo, make_photos
from permissions import permissions_hold
from PIL import Image


@pytest.fixture
def run(trained: Trained, tmp_path: Path) -> Path:
    """Give a copy of the run that a test may write into."""
    return trained.copy_to(tmp_path / "run")


@pytest.fixture
def test_photos(tmp_path: Path) -> Path:
    return make_photos(tmp_path / "fresh", 4, first_seed=500)


def scores(answer_data: list[dict[str, object]]) -> np.ndarray:
    """Return the scores of predictions as float64 (images, classes), classes by name."""
    rows = [{top["label"]: top["score"] for top in row["top"]} for row in answer_data]  # type: ignore[attr-defined]
    return np.array([[row[name] for name in CLASSES] for row in rows])


def test_the_test_split_is_the_default_and_a_split_can_be_chosen(wisesr: CommandLine, run: Path) -> None:
    assert wisesr("evaluate", run, "--format", "json").data["examples"] == 15
    assert (run / "evaluate-test").is_dir()
    train = wisesr("evaluate", run, "--split", "train", "--format", "json")
    assert train.data["examples"] == 36
    assert wisesr("evaluate", run, "--split", "validation", "--format", "json").data["examples"] == 15


def test_validation_is_the_default_without_a_test_split_and_a_split_the_run_lacks_is_2(
    wisesr: CommandLine, run: Path, trained: Trained
) -> None:
    rows = (run / "splits.csv").read_text(encoding="utf-8").splitlines(keepends=True)
    (run / "splits.csv").write_text(
        "".join(row for row in rows if not row.rstrip().endswith(",test")), encoding="utf-8"
    )
    answer = wisesr("evaluate", run, "--format", "json")
    assert answer.code == 0
    assert (run / "evaluate-validation").is_dir()
    assert not (run / "evaluate-test").exists()
    answer = wisesr("evaluate", run, "--split", "test")
    assert answer.code == 2
    assert "validation" in answer.error


def test_metrics_json_is_what_was_printed(wisesr: CommandLine, run: Path, test_photos: Path) -> None:
    for folder, line in (("evaluate-test", []), ("evaluate-fresh", ["--data", test_photos])):
        answer = wisesr("evaluate", run, *line, "--format", "json")
        assert answer.code == 0
        assert json.loads((run / folder / "metrics.json").read_text(encoding="utf-8")) == answer.data


def test_an_evaluation_of_validation_repeats_the_metrics_of_the_training(wisesr: CommandLine, run: Path) -> None:
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
    per_class = list(csv.DictReader((folder / "per_class.csv").open(encoding="utf-8")))
    assert [row["label"] for row in per_class] == data["classes"]
    assert [float(row["recall"]) for row in per_class] == [row["recall"] for row in data["per_class"]]
    matrix = list(csv.reader((folder / "confusion_matrix.csv").open(encoding="utf-8")))
    assert matrix[0] == ["truth", *data["classes"]]
    assert [[int(cell) for cell in row[1:]] for row in matrix[1:]] == data["confusion_matrix"]
    predictions = list(csv.DictReader((folder / "predictions.csv").open(encoding="utf-8")))
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
    rows = list(csv.DictReader((run / "evaluate-test" / "predictions.csv").open(encoding="utf-8")))
    predicted = wisesr("predict", run, trained.photos / "test", "--format", "json").data
    assert [Path(row["path"]).name for row in rows] == [Path(record["path"]).name for record in predicted]
    assert [row["predicted"] for row in rows] == [record["label"] for record in predicted]
    assert [float(row["score"]) for row in rows] == pytest.approx([record["score"] for record in predicted], abs=1e-5)


def test_a_folder_that_lacks_a_class_shows_support_0(wisesr: CommandLine, run: Path, test_photos: Path) -> None:
    shutil.rmtree(test_photos / "green")
    answer = wisesr("evaluate", run, "--data", test_photos, "--format", "json")
    assert answer.code == 0
    assert answer.data["classes"] == list(CLASSES)
    assert [row["support"] for row in answer.data["per_class"]] == [4, 0, 4]
    assert answer.data["per_class"][1]["recall"] is None
    assert answer.data["balanced_accuracy"] == np.mean([answer.data["per_class"][label]["recall"] for label in (0, 2)])


def test_a_folder_with_an_unknown_class_is_3_and_names_it(wisesr: CommandLine, run: Path, test_photos: Path) -> None:
    make_photo(test_photos / "violet" / "a.png", 0, 1)
    answer = wisesr("evaluate", run, "--data", test_photos, "--format", "json")
    assert (answer.code, answer.out) == (3, "")
    assert "violet" in answer.error
    assert not (run / "evaluate-fresh").exists()


def test_the_order_of_the_folders_on_the_disk_changes_nothing(wisesr: CommandLine, run: Path, tmp_path: Path) -> None:
    answers = []
    for number, order in enumerate((CLASSES, CLASSES[::-1])):
        folder = tmp_path / f"order{number}" / "photos"
        for name in order:
            make_photos(folder, 3, first_seed=700, classes=(name,))
        answers.append(wisesr("evaluate", run, "--data", folder, "--format", "json"))
    assert answers[0].out == answers[1].out


def test_classes_are_matched_by_name_and_not_by_position(wisesr: CommandLine, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "swapped"
    for name, label in (("blue", 2), ("green", 1), ("red", 0)):  # blue images called red, and red ones blue
        for number in range(3):
            make_photo(folder / name / f"{number}.png", label, 800 + number)
    data = wisesr("evaluate", run, "--data", folder, "--format", "json").data
    assert data["confusion_matrix"] == [[0, 0, 3], [0, 3, 0], [3, 0, 0]]
    only = wisesr("evaluate", run, "--data", make_photos(tmp_path / "only", 3, classes=("red",)), "--format", "json")
    assert only.data["confusion_matrix"] == [[0, 0, 0], [0, 0, 0], [0, 0, 3]]


def test_a_lone_model_file_predicts_and_is_judged_on_a_folder(
    wisesr: CommandLine, trained: Trained, run: Path, test_photos: Path, tmp_path: Path
) -> None:
    lone = tmp_path / "elsewhere" / "model.keras"
    lone.parent.mkdir()
    shutil.copy(trained.run / "best.keras", lone)
    whole = wisesr("predict", run, test_photos, "--engine", "keras", "--format", "json")
    assert wisesr("predict", lone, test_photos, "--format", "json").data == whole.data
    answer = wisesr("evaluate", lone, "--data", test_photos, "--format", "json")
    assert answer.code == 0
    by_run = wisesr("evaluate", run, "--data", test_photos, "--engine", "keras", "--format", "json")
    assert answer.data == by_run.data
    assert json.loads((lone.parent / "evaluate-fresh" / "metrics.json").read_text(encoding="utf-8")) == answer.data


def test_a_lone_model_file_without_a_folder_is_4(wisesr: CommandLine, trained: Trained, tmp_path: Path) -> None:
    shutil.copy(trained.run / "best.keras", tmp_path / "model.keras")
    answer = wisesr("evaluate", tmp_path / "model.keras")
    assert answer.code == 4
    assert answer.error


def test_the_best_model_of_a_run_is_the_run(wisesr: CommandLine, run: Path) -> None:
    by_file = wisesr("evaluate", run / "best.keras", "--format", "json")
    assert by_file.code == 0
    assert by_file.data == wisesr("evaluate", run, "--format", "json").data


@pytest.mark.reliability(44)
@pytest.mark.parametrize("batch_size", [1, 2, 7, 32, 64])
def test_batch_size_and_neighbours_change_no_score(
    wisesr: CommandLine, trained: Trained, batch_size: int, tmp_path: Path
) -> None:
    photos = trained.photos / "test"
    files = [str(path) for path in sorted(photos.rglob("*.png"))]
    expected = scores(wisesr("predict", trained.run, *files, "--format", "json").data)
    found = scores(wisesr("predict", trained.run, *files, "-b", batch_size, "--format", "json").data)
    assert np.abs(found - expected).max() <= 1e-5
    dark = make_photo(tmp_path / "dark.png", 0, 0)
    Image.new("RGB", (32, 32)).save(dark)
    among = [path for file in files for path in (dark, file)]
    found = scores(wisesr("predict", trained.run, *among, "-b", batch_size, "--format", "json").data)[1::2]
    assert np.abs(found - expected).max() <= 1e-5


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


def test_unusual_images_are_labelled_as_their_plain_copies(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    photo = trained.photos / "test" / "red" / "00.png"
    plain = Image.open(photo).convert("RGB")
    plain.convert("RGBA").save(tmp_path / "alpha.png")
    plain.save(tmp_path / "tiff.tif")
    plain.save(tmp_path / "bitmap.bmp")
    plain.save(tmp_path / "lossless.webp", lossless=True)
    plain.save(tmp_path / "wrong-name.jpg", format="PNG")
    turned = plain.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save(tmp_path / "turned.png", exif=exif)
    grey = plain.convert("L")
    grey.save(tmp_path / "z-grey.png")
    grey.convert("RGB").save(tmp_path / "z-grey-rgb.png")
    deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    deep.save(tmp_path / "z-grey16.png")
    expected = scores(wisesr("predict", trained.run, photo, "--format", "json").data)[0]
    answer = wisesr("predict", trained.run, tmp_path, "--format", "json")
    assert answer.code == 0
    found = dict(zip([Path(row["path"]).name for row in answer.data], scores(answer.data), strict=True))
    for name in ("alpha.png", "tiff.tif", "bitmap.bmp", "lossless.webp", "wrong-name.jpg", "turned.png"):
        assert found[name] == pytest.approx(expected, abs=1e-5), name
    for name in ("z-grey.png", "z-grey16.png"):
        assert found[name] == pytest.approx(found["z-grey-rgb.png"], abs=1e-5), name
    assert len(answer.data) == 9


def test_images_of_any_size_are_labelled(wisesr: CommandLine, trained: Trained, tmp_path: Path) -> None:
    for number, size in enumerate(((1, 1), (1, 500), (500, 1), (33, 31), (300, 200))):
        make_photo(tmp_path / "sizes" / f"{number}.png", 2, number, size=size)
    answer = wisesr("predict", trained.run, tmp_path / "sizes", "--format", "json")
    assert answer.code == 0
    assert [row["error"] for row in answer.data] == [None] * 5
    assert [row["label"] for row in answer.data[3:]] == ["red", "red"]


def test_an_unreadable_image_fails_an_evaluation_unless_it_is_to_be_skipped(
    wisesr: CommandLine, run: Path, test_photos: Path
) -> None:
    (test_photos / "red" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    answer = wisesr("evaluate", run, "--data", test_photos, "--format", "json")
    assert (answer.code, answer.out) == (3, "")
    assert "broken.png" in answer.error
    answer = wisesr("evaluate", run, "--data", test_photos, "--on-error", "skip", "--format", "json")
    assert answer.code == 0
    assert answer.data["examples"] == 12
    assert "1 " in answer.err


def test_a_second_evaluation_replaces_the_first(wisesr: CommandLine, run: Path) -> None:
    assert wisesr("evaluate", run).code == 0
    first = {path.name: path.read_bytes() for path in (run / "evaluate-test").iterdir()}
    (run / "evaluate-test" / "mine.txt").write_text("a note", encoding="utf-8")
    assert wisesr("evaluate", run).code == 0
    assert {path.name: path.read_bytes() for path in (run / "evaluate-test").iterdir()} == {
        **first,
        "mine.txt": b"a note",
    }


def test_images_that_have_moved_are_4_with_what_to_give(wisesr: CommandLine, run: Path) -> None:
    config = (run / "config.yaml").read_text(encoding="utf-8")
    line = next(line for line in config.splitlines() if line.strip().startswith("dir: "))
    (run / "config.yaml").write_text(config.replace(line, "  dir: /nowhere/photos"), encoding="utf-8")
    answer = wisesr("evaluate", run)
    assert answer.code == 4
    assert "--data FOLDER" in answer.error


def test_the_python_functions_do_what_the_commands_do(wisesr: CommandLine, run: Path, trained: Trained) -> None:
    import wisesr_cli

    photo = trained.photos / "test" / "red" / "00.png"
    evaluation = wisesr_cli.evaluate(run)
    assert json.loads(json.dumps(evaluation.metrics.to_json())) == wisesr("evaluate", run, "--format", "json").data
    records = [json.loads(json.dumps(record.to_json())) for record in wisesr_cli.predict(run, [photo])]
    assert records == wisesr("predict", run, photo, "--format", "json").data
    assert wisesr_cli.load_config(run).model.backbone == "compact_small"


def test_mixed_precision_changes_the_arithmetic_and_hardly_the_scores(trained: Trained) -> None:
    from loaded import load_engine

    pixels = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), dtype=np.uint8)
    exact, coarse = load_engine(trained.run), load_engine(trained.run, "mixed_bfloat16")
    assert {layer.compute_dtype for layer in exact.model.layers} == {"float32"}
    assert "bfloat16" in {layer.compute_dtype for layer in coarse.model.layers}
    assert coarse.model.output.dtype == "float32"
    difference = np.abs(exact.logits(pixels) - coarse.logits(pixels)).max()
    assert 0 < difference < 0.2


@pytest.mark.parametrize("name", ["evaluate-test", "plots"])
def test_a_file_where_an_evaluation_has_a_folder_is_4_before_tensorflow_starts(
    wisesr: CommandLine, run: Path, name: str
) -> None:
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).write_bytes(b"mine")
    answer = wisesr("evaluate", run)
    assert (answer.code, answer.out) == (4, "")
    assert f"{name}: is a file" in answer.error
    assert "device" not in answer.err
    assert (run / name).read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["evaluate-test/predictions.csv", "plots/reliability-test.png"])
def test_a_folder_where_an_evaluation_has_a_file_is_4_before_tensorflow_starts(
    wisesr: CommandLine, run: Path, name: str
) -> None:
    (run / name).mkdir(parents=True)
    answer = wisesr("evaluate", run)
    assert (answer.code, answer.out) == (4, "")
    assert f"{name}: is a folder" in answer.error
    assert "device" not in answer.err


@pytest.mark.parametrize("closed", [".", "evaluate-test", "plots"])
def test_an_evaluation_that_may_not_write_is_5_before_tensorflow_starts(
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


def test_an_evaluation_that_fails_leaves_no_empty_folder(
    wisesr: CommandLine, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = sorted(run.rglob("*"))

    def fail(*arguments: object, **options: object) -> None:
        assert (run / "evaluate-test").is_dir()
        raise MemoryError

    monkeypatch.setattr("wisesr_cli.evaluation.evaluate.evaluate_pixels", fail)
    assert wisesr("evaluate", run).code == 5
    assert sorted(run.rglob("*")) == before
