"""`wisesr explain`, `predict --explain` and `--show`: the files they write, and how odd inputs are handled."""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import KERAS, CommandLine, Trained, command, loaded_after, make_photo, rows_of, snapshot
from PIL import Image
from reliability import Seen

import wisesr_cli
from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.explanation import folder as explanation_folder
from wisesr_cli.explanation import own_pictures
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.results.streams import Explanation
from wisesr_cli.run.folders import prepare_folder
from wisesr_cli.run.run import Run

NUMBERS = {"contributions.npz", "explanations.csv", "explanations.json"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in the test's own folder, where `photos` holds three images."""
    monkeypatch.chdir(tmp_path)
    for label, name in enumerate(("b", "g", "r")):
        make_photo(tmp_path / "photos" / f"{name}.png", label, 7)
    return tmp_path


def names(folder: str | Path) -> set[str]:
    return {path.name for path in Path(folder).iterdir()}


def sums_are_right(rows: list[dict[str, Any]]) -> bool:
    return all(
        abs(sum(map(sum, row["map"])) - row["sum"]) < 1e-6 and abs(row["sum"] + row["bias"] - row["logit"]) < 1e-5
        for row in rows
    )


def test_map_and_bias_of_every_row_add_up_to_the_logit(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr("explain", trained.run, "photos", "-o", "out", "--format", "json", "-q")
    assert (answer.code, answer.err) == (0, "")
    rows = answer.data["rows"]
    assert [row["path"] for row in rows] == ["photos/b.png", "photos/g.png", "photos/r.png"]
    assert all(set(row) == {"path", "label", "logit", "bias", "map", "sum"} for row in rows)
    assert sums_are_right(rows)
    predicted = wisesr("predict", trained.run, "photos", "--format", "json").data
    assert [row["label"] for row in rows] == [record["label"] for record in predicted]
    assert "not on pixels" in answer.data["statement"]
    assert answer.data["receptive_field"]["image_size"] == [32, 32]
    assert json.loads(Path("out/explanations.json").read_text(encoding="utf-8")) == answer.data


def test_the_folder_holds_a_picture_per_image_a_sheet_and_the_numbers(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr("explain", trained.run, "photos", "-o", "out", "--class", "red", "--class", "blue").worked()
    pictures = {"image-00001-b.png", "image-00002-g.png", "image-00003-r.png"}
    assert names("out") == {*pictures, "contact_sheet-001.png", *NUMBERS}
    assert "exact on the feature map" in answer.err
    assert "3 pictures, 1 contact sheet" in answer.err
    with np.load("out/contributions.npz", allow_pickle=False) as arrays:
        assert arrays["paths"].tolist() == ["photos/b.png", "photos/g.png", "photos/r.png"]
        assert arrays["class_names"].tolist() == ["blue", "green", "red"]
        assert arrays["asked_labels"].tolist() == [2, 0]
        assert arrays["asked_maps"].shape[:2] == (3, 2)
        for kind in ("predicted", "runner_up", "decision", "asked"):
            sums = arrays[f"{kind}_maps"].sum(axis=(-2, -1)) + arrays[f"{kind}_biases"]
            np.testing.assert_allclose(sums, arrays[f"{kind}_logits"], atol=1e-5)
        difference = arrays["predicted_maps"] - arrays["runner_up_maps"]
        np.testing.assert_allclose(arrays["decision_maps"], difference, atol=1e-12)
        rows = json.loads(Path("out/explanations.json").read_text(encoding="utf-8"))["rows"]
        assert [row["label"] for row in rows] == ["red", "blue"] * 3
        np.testing.assert_array_equal(np.array([row["map"] for row in rows]), np.concatenate(arrays["asked_maps"]))
    for name in pictures:
        with Image.open(Path("out", name)) as picture:
            assert picture.width > 4 * 448  # the photo, two classes, the decision
            assert picture.info["Software"] == "wisesr"


@pytest.mark.parametrize("chosen", ["table", "csv", "markdown"])
def test_tables_show_class_logit_and_strongest_position(wisesr: CommandLine, trained: Trained, chosen: str) -> None:
    answer = wisesr("explain", trained.run, "photos", "-o", "out", "--format", chosen, "--class", "red").worked()
    if chosen != "csv":
        assert answer.out.count("photos/") == answer.out.count(" red ") == 3
        return
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    for row, explanation in zip(rows, wisesr_cli.explain(trained.run, ["photos"], classes=["red"]), strict=True):
        (asked,) = explanation.asked
        values = np.array(asked.map)
        assert (row["path"], row["label"]) == (explanation.path, "red")
        assert float(row["logit"]) == asked.logit
        assert (row["score"] == "") == (explanation.predicted.label != "red")
        assert abs(values[int(row["strongest_row"]), int(row["strongest_column"])]) == np.abs(values).max()
        others = {best.label: best for best in (explanation.predicted, explanation.runner_up)}
        assert float(row["difference"]) == asked.logit - others[row["strongest_other"]].logit
    assert Path("out/explanations.csv").read_text(encoding="utf-8") == answer.out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["RUN", "photos", "--class", "gren"], 2, "the model has no class 'gren'. Did you mean 'green'?"),
        (["RUN", "photos", "--class", "\x1b[31m"], 2, "no class '\\x1b[31m'. It has blue, green, red."),
        (["RUN"], 2, "nothing to explain: give images"),
        (["RUN", "photos", "--weights"], 2, "give no images"),
        (["RUN", "photos", "-o", "photos/b.png"], 2, "photos/b.png is a file"),
        (["RUN", "photos", "-o", ""], 2, "-o is empty"),
        (["RUN", "photos", "-o", "no/where/at/all"], 5, "no such folder"),
        (["nowhere", "photos"], 4, "no such run directory"),
    ],
)
def test_mistakes_are_reported_before_keras_is_imported(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    words = [str(trained.run) if word == "RUN" else word for word in words]
    wisesr("explain", *words).failed(code, said)
    if "gren" in words or "nowhere" in words:
        found, loaded, _ = loaded_after(command("explain", *words), tmp_path)
        assert found == code
        assert not loaded & set(KERAS) - {"matplotlib"}


def test_an_unreadable_image_is_named_and_the_others_are_explained(wisesr: CommandLine, trained: Trained) -> None:
    Path("photos/c\x1b.png").write_bytes(b"no image")
    answer = wisesr("explain", trained.run, "photos", "-o", "out", "--format", "json")
    assert answer.code == 6
    assert len(answer.data["rows"]) == 3
    assert "photos/c\\x1b.png: not an image" in answer.err
    assert "1 of 4 images could not be read" in answer.err
    assert {"image-00001-b.png", "image-00003-g.png"} <= names("out")  # numbered like the inputs
    rows = rows_of(Path("out/explanations.csv"))
    assert [row["error"] for row in rows] == ["", "not an image", "", ""]


def test_nothing_is_left_behind_if_no_image_can_be_read(wisesr: CommandLine, trained: Trained) -> None:
    Path("bad.png").write_bytes(b"no image")
    answer = wisesr("explain", trained.run, "bad.png", "missing.png", "-o", "out", "--format", "json")
    assert answer.code == 3
    assert answer.data["rows"] == []
    assert "2 of 2 images could not be read" in answer.error
    assert not Path("out").exists()
    assert wisesr("explain", trained.run, "photos/*.nothing", "-o", "out").code == 3
    assert not Path("out").exists()


def test_a_rerun_removes_its_own_pictures_and_nothing_else(wisesr: CommandLine, trained: Trained) -> None:
    Path("photos/out").mkdir()
    mine = shutil.copy("photos/b.png", "photos/out/image-00007-mine.png")
    sheet = shutil.copy("photos/b.png", "photos/out/contact_sheet-002.png")
    assert wisesr("explain", trained.run, "photos", "-o", "photos/out").code == 0
    assert "image-00003-r.png" in names("photos/out")
    Path("photos/r.png").unlink()
    answer = wisesr("explain", trained.run, "photos", "-o", "photos/out", "--format", "json")
    # The user's own files, regardless of their names, and none of our pictures.
    assert [row["path"] for row in answer.data["rows"]] == ["photos/b.png", "photos/g.png", str(sheet), str(mine)]
    pictures = {"image-00001-b.png", "image-00002-g.png", "image-00003-contact_sheet-002.png"}
    pictures |= {"image-00004-image-00007-mine.png", "contact_sheet-001.png"}
    assert names("photos/out") == {*pictures, *NUMBERS, Path(mine).name, Path(sheet).name}
    assert Path(mine).read_bytes() == Path(sheet).read_bytes() == Path("photos/b.png").read_bytes()


@pytest.mark.parametrize("words", [("explain", "-o"), ("predict", "--explain")])
def test_a_rerun_without_readable_images_changes_nothing(
    wisesr: CommandLine, trained: Trained, words: tuple[str, str]
) -> None:
    Path("bad.png").write_bytes(b"no image")
    name, option = words
    assert wisesr(name, trained.run, "photos", option, "out").code == 0
    before = snapshot(Path("out"))
    assert wisesr(name, trained.run, "bad.png", option, "out").code == 3
    assert snapshot(Path("out")) == before


@pytest.mark.parametrize("words", [("explain", "-o"), ("predict", "--explain")])
@pytest.mark.parametrize("place", ["image-00001-b.png", "contact_sheet-001.png"])
def test_a_picture_not_drawn_by_wisesr_is_kept(
    wisesr: CommandLine, trained: Trained, words: tuple[str, str], place: str
) -> None:
    name, option = words
    Path("out").mkdir()
    mine = Path(shutil.copy("photos/r.png", Path("out", place)))
    answer = wisesr(name, trained.run, "photos", option, "out")
    assert mine.read_bytes() == Path("photos/r.png").read_bytes()
    if words[0] == "explain" or place.startswith("image"):
        assert answer.code == 2
        assert f"out/{place}: was not drawn by wisesr, and is not replaced" in answer.error


@pytest.mark.parametrize(
    "words", [("explain", "photos", "-o"), ("explain", "--weights", "-o"), ("predict", "photos", "--explain")]
)
def test_two_processes_never_share_a_folder(wisesr: CommandLine, trained: Trained, words: tuple[str, ...]) -> None:
    Path("out").mkdir()
    name, *rest = words
    with alone_in(Path("out")):
        answer = wisesr(name, trained.run, *rest, "out")
    assert answer.code == 5
    assert "out: in use by another wisesr" in answer.error
    assert names("out") == set()


def test_overwriting_a_run_removes_its_explanations_and_nothing_else(wisesr: CommandLine, trained: Trained) -> None:
    run = trained.copy_to(Path("run"))
    assert wisesr("explain", run, "photos").code == 0
    assert wisesr("explain", run, "--weights").code == 0
    Path(run, "explain", "notes.txt").write_text("mine", encoding="utf-8")
    prepare_folder(Run(run), overwrite=True)
    assert names(run / "explain") == {"notes.txt"}


def test_images_with_odd_or_equal_names_get_separate_pictures(wisesr: CommandLine, trained: Trained) -> None:
    odd = "..", "..a", "[red]:cat:", "x\x1b[2J\n\u202ey", "\udcff", "名前", "n" * 240, "-o", "%s {0}"
    paths = [Path(f"folder {number}", f"{name}.png") for number, name in enumerate(odd)]
    for path in paths:
        make_photo(Path("made.png"), 1, 3)
        path.parent.mkdir()
        Path("made.png").replace(path)
    answer = wisesr("explain", trained.run, *paths, Path("photos/b.png"), Path("photos/./b.png"), "-o", "out").worked()
    assert "\x1b" not in answer.out + answer.err
    pictures = sorted(name for name in names("out") if name.startswith("image-"))
    assert len(pictures) == len(odd) + 2
    assert all(picture.isprintable() and len(os.fsencode(picture)) < 120 for picture in pictures)
    with np.load("out/contributions.npz") as arrays:
        assert arrays["paths"].tolist()[: len(odd)] == list(map(str, paths))


def test_contact_sheets_are_split_and_pictures_are_limited(
    wisesr: CommandLine, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explanation_folder, "TILES", 2)
    answer = wisesr("explain", trained.run, "photos", "-o", "out", "--pictures", "1")
    assert names("out") == {"image-00001-b.png", "contact_sheet-001.png", "contact_sheet-002.png", *NUMBERS}
    assert "1 picture of 3 images; --pictures N draws more" in answer.err
    answer = wisesr("explain", trained.run, "photos/b.png", "-o", "out", "--pictures", "0")
    assert names("out") == NUMBERS


def test_a_lone_model_file_has_its_explanations_beside_it(wisesr: CommandLine, trained: Trained) -> None:
    shutil.copy(trained.run / "best.keras", "lone.keras")
    assert wisesr("explain", "lone.keras", "photos/b.png").code == 0
    assert names("explain") == {"image-00001-b.png", *NUMBERS}


def test_ctrl_c_leaves_only_complete_pictures(
    wisesr: CommandLine, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = own_pictures.write_picture

    def stopped_after_the_second(picture: Image.Image, path: Path) -> None:
        write(picture, path)
        if path.name.startswith("image-00002"):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(own_pictures, "write_picture", stopped_after_the_second)
    wisesr("explain", trained.run, "photos", "-o", "out").failed(130, "the pictures so far are in out")
    assert names("out") == {"image-00001-b.png", "image-00002-g.png"}


@pytest.mark.reliability(44)
def test_maps_do_not_depend_on_batch_size_or_neighbours(wisesr: CommandLine, trained: Trained, seen: Seen) -> None:
    Path("broken.png").write_bytes(b"no image")

    def maps(*words: object) -> dict[str, tuple[float, np.ndarray]]:
        rows = wisesr("explain", trained.run, *words, "-o", "out", "--pictures", "0", "--format", "json").data["rows"]
        return {Path(row["path"]).name: (row["logit"], np.array(row["map"])) for row in rows}

    photos = sorted((trained.photos / "test" / "red").iterdir())
    expected = maps(*photos)
    changes = []
    for words in ((*photos, "-b", "2"), (*photos[::-1], "-b", "1"), (photos[0], "broken.png", *photos[1:], "-b", "3")):
        for name, (logit, found) in maps(*words).items():
            changes += [abs(logit - expected[name][0]), np.abs(found - expected[name][1]).max()]
    assert max(changes) <= 1e-5
    seen(f"explain: largest change in a logit or contribution: {max(changes):.1e}")


@pytest.mark.reliability(44)
def test_explanations_are_computed_in_float32_with_tf32_off(wisesr: CommandLine, trained: Trained) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    line = ("explain", trained.run, "photos", "-o", "out", "--format", "json")
    exact = wisesr(*line).data
    assert wisesr("predict", trained.run, "photos", "--engine", "keras", "--precision", "mixed_bfloat16").code == 0
    tensorflow.config.experimental.enable_tensor_float_32_execution(True)  # as other code might do in between
    assert wisesr(*line).data == exact
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()


def test_the_api_returns_records(trained: Trained) -> None:
    Path("broken.png").write_bytes(b"no image")
    first, second = wisesr_cli.explain(trained.run, [Path("photos/b.png"), "broken.png"], classes=["green"])
    assert isinstance(first, Explanation)
    assert (first.error, second.error) == (None, "not an image")
    assert [row.label for row in first.asked] == ["green"]
    assert sums_are_right([row for record in (first,) for row in record.to_json()])
    assert first.decision is not None
    with pytest.raises(UsageError, match="no class 'pink'"):
        wisesr_cli.explain(trained.run, ["photos"], classes=["pink"])


def test_the_weights_of_a_head_are_shown_without_an_image(wisesr: CommandLine, trained: Trained) -> None:
    answer = wisesr("explain", trained.run, "--weights", "-o", "out", "--class", "red", "--format", "json").worked()
    assert names("out") == {"weights.png", "weights.npz"}
    average, of_class, *channels = answer.data["rows"]
    assert (average["label"], average["channel"]) == (None, None)
    assert (of_class["label"], of_class["channel"]) == ("red", None)
    import keras

    import wisesr_cli.layers  # noqa: F401  (registers them)

    model = keras.models.load_model(trained.run / "best.keras")
    pooling, classifier = model.layers[-2:]
    with np.load("out/weights.npz", allow_pickle=False) as arrays:
        assert arrays["class_names"].tolist() == ["red"]
        height, width, depth = arrays["weights"].shape
        np.testing.assert_allclose(average["map"], arrays["weights"].mean(axis=2), rtol=1e-6)
        # A feature map of ones gives, for each channel, the sum of its position weights plus the bias.
        ones = np.asarray(pooling(np.ones((1, height, width, depth), np.float32)))[0]
        zeros = np.asarray(pooling(np.zeros((1, height, width, depth), np.float32)))[0]
        np.testing.assert_allclose(arrays["weights"].sum(axis=(0, 1)), ones - zeros, atol=1e-5)
        for row in channels:
            np.testing.assert_allclose(row["map"], arrays["weights"][:, :, row["channel"]])
            assert row["classifier_weight"] == pytest.approx(float(classifier.kernel[row["channel"], 2]))
    strengths = [row["strength"] for row in channels]
    assert strengths == sorted(strengths, reverse=True)


@pytest.mark.parametrize("chosen", ["table", "csv", "markdown"])
def test_weights_are_printed_in_every_format(wisesr: CommandLine, trained: Trained, chosen: str) -> None:
    answer = wisesr("explain", trained.run, "--weights", "-o", "out", "--format", chosen, "--verbose").worked()
    assert answer.out.count("green") == 9  # its mean and eight channels
    assert "position weights of the head 'wise'" in answer.err


def test_predict_explains_its_records_without_changing_them(wisesr: CommandLine, trained: Trained) -> None:
    Path("photos/c.png").write_bytes(b"no image")
    line = ("predict", trained.run, "photos", "--format", "jsonl")
    plain, explained = wisesr(*line), wisesr(*line, "--explain", "why")
    assert (plain.code, explained.code) == (6, 6)
    assert explained.out == plain.out
    assert names("why") == {"image-00001-b.png", "image-00003-g.png", "image-00004-r.png"}
    assert "not on pixels" in explained.err
    assert wisesr(*line, "--explain", "photos/b.png").code == 2
    assert wisesr(*line, "--explain", "").code == 2


def test_predict_stopped_by_a_full_disk_has_a_picture_per_record_and_can_be_resumed(
    wisesr: CommandLine, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = ("predict", trained.run, "photos", "-o", "out.jsonl", "--format", "jsonl", "--explain", "why")
    write = own_pictures.write_picture

    def full_at_the_third(picture: Image.Image, path: Path) -> None:
        if path.name.startswith("image-00003"):
            raise MachineError("the disk is full")
        write(picture, path)

    with monkeypatch.context() as patch:
        patch.setattr(own_pictures, "write_picture", full_at_the_third)
        assert wisesr(*line).code == 5
    Path("why/.wisesr-123456789abc.png").write_bytes(b"of a process that was killed")
    before = {name: Path("why", name).stat().st_mtime_ns for name in names("why") if name.startswith("image")}
    assert set(before) == {"image-00001-b.png", "image-00002-g.png"}
    answer = wisesr(*line, "--resume").worked()
    assert "2 records found in the journal" in answer.err
    assert names("why") == {*before, "image-00003-r.png"}
    assert all(Path("why", name).stat().st_mtime_ns == moment for name, moment in before.items())
    assert (
        Path("out.jsonl").read_text(encoding="utf-8")
        == wisesr("predict", trained.run, "photos", "--format", "jsonl").out
    )


@pytest.mark.parametrize(
    "words", [("predict", "photos"), ("explain", "photos", "-o", "out"), ("explain", "--weights", "-o", "out")]
)
def test_show_warns_if_the_terminal_cannot_show_pictures(
    wisesr: CommandLine, trained: Trained, words: tuple[str, ...]
) -> None:
    name, *rest = words
    line = (name, trained.run, *rest, "--format", "json")
    plain, shown = wisesr(*line), wisesr(*line, "--show")
    assert shown.out == plain.out
    assert shown.err.count("--show: this terminal cannot show pictures") == 1
