"""`wisesr explain`, `predict --explain` and `--show`: what is written, where, and what odd inputs come to."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CommandLine, Trained, make_photo, rows_of, snapshot
from fresh_process import KERAS, command, loaded_after
from PIL import Image
from rich.console import Console

import wisesr_cli
from wisesr_cli.display.terminal import TerminalListener
from wisesr_cli.errors import MachineError, UsageError
from wisesr_cli.explanation import folder as explanation_folder
from wisesr_cli.explanation import own_pictures
from wisesr_cli.explanation.explain import show_decision
from wisesr_cli.explanation.own_pictures import picture_name
from wisesr_cli.explanation.pictures import shown_photo, with_box
from wisesr_cli.explanation.receptive_field import ReceptiveField
from wisesr_cli.explanation.screen import Screen
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.machine.locks import alone_in
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.prediction import pictures as prediction_pictures
from wisesr_cli.results import Contribution, Explanation, Prediction
from wisesr_cli.run.folders import prepare_folder
from wisesr_cli.run.run import Run

Seen = Callable[[str], None]
NUMBERS = {"contributions.npz", "explanations.csv", "explanations.json"}


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in a folder of the test's own, in which `photos` holds three images."""
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


def test_rows_hold_maps_whose_sum_and_bias_is_the_logit(wisesr: CommandLine, trained: Trained) -> None:
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
def test_tables_name_class_logit_and_strongest_position(wisesr: CommandLine, trained: Trained, chosen: str) -> None:
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
        (["RUN", "photos", "--weights"], 2, "leave the images out"),
        (["RUN", "photos", "-o", "photos/b.png"], 2, "photos/b.png is a file"),
        (["RUN", "photos", "-o", ""], 2, "-o is empty"),
        (["RUN", "photos", "-o", "no/where/at/all"], 5, "no such folder"),
        (["nowhere", "photos"], 4, "no such run directory"),
    ],
)
def test_mistakes_are_answered_before_keras_is_imported(
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
    assert {"image-00001-b.png", "image-00003-g.png"} <= names("out")  # numbers are those of the inputs
    rows = rows_of(Path("out/explanations.csv"))
    assert [row["error"] for row in rows] == ["", "not an image", "", ""]


def test_where_no_image_can_be_read_nothing_is_left(wisesr: CommandLine, trained: Trained) -> None:
    Path("bad.png").write_bytes(b"no image")
    answer = wisesr("explain", trained.run, "bad.png", "missing.png", "-o", "out", "--format", "json")
    assert answer.code == 3
    assert answer.data["rows"] == []
    assert "2 of 2 images could not be read" in answer.error
    assert not Path("out").exists()
    assert wisesr("explain", trained.run, "photos/*.nothing", "-o", "out").code == 3
    assert not Path("out").exists()


def test_a_rerun_takes_its_own_pictures_away_and_nothing_else(wisesr: CommandLine, trained: Trained) -> None:
    Path("photos/out").mkdir()
    mine = shutil.copy("photos/b.png", "photos/out/image-00007-mine.png")
    sheet = shutil.copy("photos/b.png", "photos/out/contact_sheet-002.png")
    assert wisesr("explain", trained.run, "photos", "-o", "photos/out").code == 0
    assert "image-00003-r.png" in names("photos/out")
    Path("photos/r.png").unlink()
    answer = wisesr("explain", trained.run, "photos", "-o", "photos/out", "--format", "json")
    # The user's own, whatever they are called, and none of our pictures.
    assert [row["path"] for row in answer.data["rows"]] == ["photos/b.png", "photos/g.png", str(sheet), str(mine)]
    pictures = {"image-00001-b.png", "image-00002-g.png", "image-00003-contact_sheet-002.png"}
    pictures |= {"image-00004-image-00007-mine.png", "contact_sheet-001.png"}
    assert names("photos/out") == {*pictures, *NUMBERS, Path(mine).name, Path(sheet).name}
    assert Path(mine).read_bytes() == Path(sheet).read_bytes() == Path("photos/b.png").read_bytes()


@pytest.mark.parametrize("words", [("explain", "-o"), ("predict", "--explain")])
def test_a_rerun_that_reads_nothing_leaves_all(wisesr: CommandLine, trained: Trained, words: tuple[str, str]) -> None:
    Path("bad.png").write_bytes(b"no image")
    name, option = words
    assert wisesr(name, trained.run, "photos", option, "out").code == 0
    before = snapshot(Path("out"))
    assert wisesr(name, trained.run, "bad.png", option, "out").code == 3
    assert snapshot(Path("out")) == before


@pytest.mark.parametrize("words", [("explain", "-o"), ("predict", "--explain")])
@pytest.mark.parametrize("place", ["image-00001-b.png", "contact_sheet-001.png"])
def test_a_picture_not_ours_stays(wisesr: CommandLine, trained: Trained, words: tuple[str, str], place: str) -> None:
    name, option = words
    Path("out").mkdir()
    mine = Path(shutil.copy("photos/r.png", Path("out", place)))
    answer = wisesr(name, trained.run, "photos", option, "out")
    assert mine.read_bytes() == Path("photos/r.png").read_bytes()
    if words[0] == "explain" or place.startswith("image"):
        assert answer.code == 2
        assert f"out/{place}: is no picture of wisesr and is not replaced" in answer.error


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


def test_overwriting_a_run_takes_its_explanations_away_and_nothing_else(wisesr: CommandLine, trained: Trained) -> None:
    run = trained.copy_to(Path("run"))
    assert wisesr("explain", run, "photos").code == 0
    assert wisesr("explain", run, "--weights").code == 0
    Path(run, "explain", "notes.txt").write_text("mine", encoding="utf-8")
    prepare_folder(Run(run), overwrite=True)
    assert names(run / "explain") == {"notes.txt"}


def test_images_of_the_same_name_have_pictures_of_their_own(wisesr: CommandLine, trained: Trained) -> None:
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


@pytest.mark.parametrize("path", ["/", ".", "..", "../..", "x/../y.png", "a" * 300, "\0", "", "a\\b.png", "con.png"])
def test_the_name_of_a_picture_is_one_file_in_its_folder(path: str) -> None:
    name = picture_name(3, path)
    assert name.startswith("image-00003-")
    assert Path(name).name == name
    assert len(os.fsencode(name)) < 120
    assert "\0" not in name


def test_sheets_fill_and_pictures_are_limited(
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


def test_ctrl_c_leaves_whole_pictures(wisesr: CommandLine, trained: Trained, monkeypatch: pytest.MonkeyPatch) -> None:
    write = own_pictures.write_picture

    def stopped_after_the_second(picture: Image.Image, path: Path) -> None:
        write(picture, path)
        if path.name.startswith("image-00002"):
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(own_pictures, "write_picture", stopped_after_the_second)
    wisesr("explain", trained.run, "photos", "-o", "out").failed(130, "the pictures so far are in out")
    assert names("out") == {"image-00001-b.png", "image-00002-g.png"}


class Unwritable(io.StringIO):
    """Standard output whose reader went away, or whose disk is full."""

    def __init__(self, error: int) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise OSError(self.error, os.strerror(self.error))


@pytest.mark.reliability(43)
@pytest.mark.parametrize(("error", "code"), [(errno.EPIPE, 141), (errno.ENOSPC, 5)])
@pytest.mark.parametrize("chosen", ["csv", "table"])
def test_a_reader_that_goes_away_is_silent_and_a_full_disk_is_named(
    trained: Trained,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    error: int,
    code: int,
    chosen: str,
) -> None:
    from wisesr_cli.cli.main import run

    monkeypatch.setattr(sys, "stdout", Unwritable(error))
    assert run(["explain", str(trained.run), "photos", "-o", "out", "--format", chosen, "-q"]) == code
    said = capfd.readouterr().err
    assert said == "" if code == 141 else said.startswith("wisesr: the disk is full")
    assert all(name.endswith(".png") for name in names("out"))


@pytest.mark.reliability(44)
def test_batch_size_and_neighbours_change_no_map(wisesr: CommandLine, trained: Trained, seen: Seen) -> None:
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
    seen(f"explain: largest change of a logit or a contribution: {max(changes):.1e}")


@pytest.mark.reliability(44)
def test_explanations_are_in_float32_with_tf32_off(wisesr: CommandLine, trained: Trained) -> None:
    tensorflow = pytest.importorskip("tensorflow")
    line = ("explain", trained.run, "photos", "-o", "out", "--format", "json")
    exact = wisesr(*line).data
    assert wisesr("predict", trained.run, "photos", "--engine", "keras", "--precision", "mixed_bfloat16").code == 0
    tensorflow.config.experimental.enable_tensor_float_32_execution(True)  # whatever somebody else did meanwhile
    assert wisesr(*line).data == exact
    assert not tensorflow.config.experimental.tensor_float_32_execution_enabled()


def test_python_gets_records(trained: Trained) -> None:
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
        # A feature map of ones has, for each channel, the sum of its position weights, and the bias.
        ones = np.asarray(pooling(np.ones((1, height, width, depth), np.float32)))[0]
        zeros = np.asarray(pooling(np.zeros((1, height, width, depth), np.float32)))[0]
        np.testing.assert_allclose(arrays["weights"].sum(axis=(0, 1)), ones - zeros, atol=1e-5)
        for row in channels:
            np.testing.assert_allclose(row["map"], arrays["weights"][:, :, row["channel"]])
            assert row["classifier_weight"] == pytest.approx(float(classifier.kernel[row["channel"], 2]))
    strengths = [row["strength"] for row in channels]
    assert strengths == sorted(strengths, reverse=True)


@pytest.mark.parametrize("chosen", ["table", "csv", "markdown"])
def test_weights_come_in_every_format(wisesr: CommandLine, trained: Trained, chosen: str) -> None:
    answer = wisesr("explain", trained.run, "--weights", "-o", "out", "--format", chosen, "--verbose").worked()
    assert answer.out.count("green") == 9  # its mean and eight channels
    assert "position weights of the head 'wise'" in answer.err


def test_predict_explains_beside_its_records_and_changes_none(wisesr: CommandLine, trained: Trained) -> None:
    Path("photos/c.png").write_bytes(b"no image")
    line = ("predict", trained.run, "photos", "--format", "jsonl")
    plain, explained = wisesr(*line), wisesr(*line, "--explain", "why")
    assert (plain.code, explained.code) == (6, 6)
    assert explained.out == plain.out
    assert names("why") == {"image-00001-b.png", "image-00003-g.png", "image-00004-r.png"}
    assert "not on pixels" in explained.err
    assert wisesr(*line, "--explain", "photos/b.png").code == 2
    assert wisesr(*line, "--explain", "").code == 2


def test_an_interrupted_predict_has_a_picture_for_every_record_and_goes_on(
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
def test_a_terminal_without_pictures_says_so(wisesr: CommandLine, trained: Trained, words: tuple[str, ...]) -> None:
    name, *rest = words
    line = (name, trained.run, *rest, "--format", "json")
    plain, shown = wisesr(*line), wisesr(*line, "--show")
    assert shown.out == plain.out
    assert shown.err.count("--show: this terminal shows no pictures") == 1


def screen(width: int = 120, *, colors: bool = True) -> tuple[Screen, io.StringIO]:
    """Return a screen and what was written on it."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    listener = TerminalListener()
    listener.console = Console(
        file=stream, force_terminal=True, width=width, color_system="truecolor" if colors else None, markup=False
    )
    return Screen(listener), stream


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()


@pytest.mark.parametrize(("width", "across"), [(120, 98), (60, 48), (20, 19)])
def test_a_terminal_shows_photo_and_map_in_half_blocks(width: int, across: int) -> None:
    shown, stream = screen(width)
    photo = Image.new("RGB", (64, 64), (10, 20, 30))
    shown.show(photo, "name\x1b[2J.png: red", Contribution("red", 0.0, 0.0, ((1.0, -1.0), (0.0, 0.5)), 0.5))
    lines = written(stream).splitlines()
    assert "name\\x1b[2J.png: red" in lines[-1]
    assert len(lines) - 1 == min(24, round(across / 2) if across < 48 else 24)
    blocks = lines[0].count("▄")
    assert blocks == (across - 2 if across == 98 else across)
    if across == 98:
        assert "48;2;10;20;30" in lines[0]


def test_a_terminal_shows_all_of_a_map_with_more_positions_than_it_has_pixels() -> None:
    shown, stream = screen(60)
    row = (-1.0,) * 75 + (1.0,) * 25
    shown.show(Image.new("RGB", (64, 64), "white"), "", Contribution("red", 0.0, 0.0, (row,) * 100, 0.0))
    line = written(stream).splitlines()[0]
    assert line.count("▄") == 48
    reds = [int(red) for red in re.findall(r"48;2;(\d+);", line)]
    assert reds[0] < 64 < 128 < reds[-1]  # blue at the left end, orange at the right


def test_a_terminal_shows_what_predict_and_explain_say_of_an_image(trained: Trained) -> None:
    shown, stream = screen()
    record = Prediction("photos/b.png", "blue", 0.9)
    prediction_pictures.to_screen(shown, read_model_info(trained.run / "best.keras"), 10**6)(1, record)
    (explanation,) = wisesr_cli.explain(trained.run, ["photos/b.png"])
    show_decision(shown, Image.new("RGB", (32, 32)), explanation)
    captions = [line for line in written(stream).splitlines() if "photos/b.png" in line]
    assert captions[0] == "photos/b.png: blue 90.0 %"
    assert captions[1].startswith("photos/b.png: blue ")
    assert f", not {explanation.runner_up.label}" in captions[1]


def test_a_terminal_without_colours_is_shown_nothing() -> None:
    shown, stream = screen(colors=False)
    shown.show(Image.new("RGB", (8, 8)), "caption")
    assert "caption" not in written(stream)


@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
@pytest.mark.parametrize("size", [(700, 500), (300, 900), (30, 50)])
def test_positions_of_the_shown_photo_are_the_models(trained: Trained, resize: str, size: tuple[int, int]) -> None:
    from dataclasses import replace

    info = replace(read_model_info(trained.run / "best.keras"), resize=resize, image_size=(48, 64))
    coarse = np.random.default_rng(0).integers(0, 256, (5, 4, 3), dtype=np.uint8)
    Image.fromarray(coarse).resize((size[1], size[0]), Image.Resampling.NEAREST).save("photo.png")
    shown = shown_photo("photo.png", info)
    assert shown.size == (448, 336)
    seen = decode_image("photo.png", image_size=(48, 64), resize=info.resize)
    small = np.asarray(shown.resize((64, 48), Image.Resampling.BOX)).astype(float)
    difference = np.abs(small - seen).mean()
    shifted = [np.abs(np.roll(small, pixels, axis) - seen).mean() for pixels in (-3, 3) for axis in (0, 1)]
    assert 2 * difference < min(shifted)


@pytest.mark.parametrize("side", [16, 300, 4000])
def test_the_box_holds_all_that_a_position_sees_however_little_that_is(side: int) -> None:
    seen = tuple((max(0, 4 * place - 4), min(side, 4 * place + 8)) for place in range(side // 4))
    field = ReceptiveField((side, side), seen, seen, (12, 12), (4, 4))
    photo = Image.new("RGB", (96, 96), "grey")
    for place in (0, side // 8, side // 4 - 1):
        drawn = np.argwhere((np.asarray(with_box(photo, field, place, place)) == 0).all(axis=2))
        first, end = seen[place][0] * 96 / side, seen[place][1] * 96 / side
        assert (drawn.min(axis=0) <= np.ceil(first)).all()
        assert (drawn.max(axis=0) >= np.floor(end) - 1).all()
        assert (np.ptp(drawn, axis=0) <= max(4, end - first)).all()


def test_a_small_image_is_shown_with_its_pixels_sharp(trained: Trained) -> None:
    info = read_model_info(trained.run / "best.keras")
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("small.png")
    shown = np.asarray(shown_photo("small.png", info))
    np.testing.assert_array_equal(shown, np.repeat(np.repeat(pixels, 14, axis=0), 14, axis=1))
