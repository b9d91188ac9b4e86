"""Grey and multi-band images in every command: trained, evaluated, predicted, explained, exported and rejected."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import keras
import numpy as np
import pytest
from banded import STORED, make_bands, tiff
from command_line import CommandLine, Trained, fresh, train_apart
from PIL import Image

from wisesr_cli.data.disk_cache import pixels_key
from wisesr_cli.data.verified import file_keys
from wisesr_cli.explanation.pictures import shown_photo
from wisesr_cli.images.color import shown
from wisesr_cli.images.decoding import DECODER_VERSION, decode_image
from wisesr_cli.images.preparation import Preparation
from wisesr_cli.model_files.archive import read_model_info
from wisesr_cli.run.run import Run

BANDS, GREY = ("-s", "data.channels=4"), ("-s", "data.channels=1")
LONG = ("--epochs", "10", "-b", "8", "--lr", "3e-3")
on_tensorflow = pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="TensorFlow converts")


@pytest.fixture(scope="module")
def four(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run on images of four bands, the last of which tells the classes apart."""
    folder = tmp_path_factory.mktemp("four")
    return train_apart(folder / "runs", make_bands(folder / "four", bands=4, count=32), *BANDS, *LONG)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """Return a run on grey images."""
    folder = tmp_path_factory.mktemp("grey")
    return train_apart(folder / "runs", make_bands(folder / "grey", bands=1, count=32), *GREY, *LONG)


def first(trained: Trained, label: str = "upper") -> Path:
    return sorted((trained.photos / label).iterdir())[0]


@pytest.mark.parametrize("kind", ["four", "grey"])
def test_training_learns_from_a_single_informative_band(kind: str, request: pytest.FixtureRequest) -> None:
    trained = request.getfixturevalue(kind)
    assert json.loads((trained.run / "metrics.json").read_text())["top1_accuracy"] == 1.0


def test_run_records_its_channels_with_their_ranges_and_statistics(four: Trained) -> None:
    data = Run(four.run).load_config().data
    # Values reach 2,999 (12 bits) in three bands and 400 (9 bits) in the last one.
    assert data.value_range == ((0.0, 4095.0),) * 3 + ((0.0, 511.0),)
    info = read_model_info(four.run / "best.keras")
    assert (info.preparation.channels, info.preparation.value_range) == (4, data.value_range)
    assert len(data.statistics) == 4
    pixels = np.stack(
        [
            decode_image(four.photos / path, image_size=(32, 32), preparation=data.preparation)
            for path, _, split in Run(four.run).read_splits()
            if split == "train"
        ]
    ).astype(np.float64)
    expected = np.stack([pixels.mean((0, 1, 2)), pixels.std((0, 1, 2))], axis=-1)
    np.testing.assert_allclose(np.array(data.statistics), expected, atol=1e-3)


def test_engines_agree_on_multi_band_and_grey_images(four: Trained, grey: Trained, wisesr: CommandLine) -> None:
    for trained in (four, grey):
        images = [first(trained), first(trained, "lower")]
        scores = []
        for engine in ("litert", "keras") if keras.backend.backend() == "tensorflow" else ("keras",):
            answer = wisesr("predict", trained.run, *images, "--engine", engine, "--format", "jsonl").worked()
            assert [record["label"] for record in answer.records] == ["upper", "lower"]
            scores.append([record["score"] for record in answer.records])
        np.testing.assert_allclose(scores[0], scores[-1], atol=1e-5)


@pytest.mark.slow
def test_jax_predicts_bands_like_tensorflow_and_trains_on_them(four: Trained, tmp_path: Path) -> None:
    backend = {"KERAS_BACKEND": "jax"}
    line = ["predict", four.run, first(four), first(four, "lower"), "--engine", "keras", "--format", "jsonl"]
    found = [fresh(*line, cwd=tmp_path, variables=variables).worked() for variables in ({}, backend)]
    scores = [[record["score"] for record in answer.records] for answer in found]
    np.testing.assert_allclose(*scores, atol=1e-5)
    fresh("train", four.photos, *BANDS, "--backbone", "MobileNetV3Small", "--weights", "none", "--image-size", 32,
          "--dry-run", cwd=tmp_path, variables=backend).worked()  # fmt: skip


def test_every_command_rejects_a_file_with_another_number_of_channels_by_name(
    four: Trained, wisesr: CommandLine, tmp_path: Path
) -> None:
    photos = make_bands(tmp_path / "photos", bands=4, count=6)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(photos / "upper" / "rgb.png")
    (photos / "lower" / "five.tif").write_bytes(tiff(np.ones((32, 32, 5), np.uint16), **STORED["planes"]))
    said = "lower/five.tif: has 5 channels, not 4 (data.channels)", "upper/rgb.png: has 3 channels, not 4"
    names = "--name", "x", "-o", tmp_path / "runs", "--backbone", "compact_small", "--image-size", 32
    wisesr("train", photos, *BANDS, *names, "--epochs", 1).refused(3, *said, "data.on_error=skip")
    finding = wisesr("check", photos, *BANDS, "--format", "json").finding("unreadable-images")
    assert (finding["level"], finding["count"]) == ("fail", 2)
    assert all(words in finding["message"] for words in said)
    skipping = wisesr("train", photos, *BANDS, *names, "--dry-run", "-s", "data.on_error=skip").worked()
    assert all(words in skipping.err for words in said)
    wisesr("evaluate", four.run, "--data", photos).refused(3, *said)
    kept = wisesr("evaluate", four.run, "--data", photos, "--on-error", "skip", "--format", "json").worked()
    assert kept.data["examples"] == 12
    for command in ("predict", "explain"):
        where = ("-o", tmp_path / "explained") if command == "explain" else ()
        answer = wisesr(command, four.run, photos / "upper" / "rgb.png", first(four), *where, "--format", "json")
        assert answer.code == 6
        assert "rgb.png" in answer.out + answer.err
        assert "has 3 channels, not 4 (data.channels)" in answer.out + answer.err


def test_grey_model_rejects_colour_images_and_rgb_accepts_grey_ones(
    grey: Trained, wisesr: CommandLine, tmp_path: Path
) -> None:
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(tmp_path / "rgb.jpg")
    answer = wisesr("predict", grey.run, tmp_path / "rgb.jpg", "--format", "json").failed(3)
    assert answer.data[0]["error"] == "has 3 channels, not 1 (data.channels)"
    wisesr("check", grey.photos, "--format", "json").worked()


def test_near_duplicates_are_found_among_multi_band_images(wisesr: CommandLine, tmp_path: Path) -> None:
    photos = make_bands(tmp_path / "photos", bands=4, count=3, side=96)
    rows = np.linspace(0, 250, 96)[:, None] + 60 * np.sin(np.arange(96) / 9)
    values = np.clip(np.stack([rows, rows.T, rows[::-1], rows], -1), 0, 255).astype(np.uint8)
    for label, options in (("upper", STORED["planes"]), ("lower", STORED["strips"])):
        (photos / label / "copy.tif").write_bytes(tiff(values, **options))
    sheet = tmp_path / "copies.png"
    answer = wisesr("check", photos, *BANDS, "--near-duplicates", "--sheet", sheet, "--format", "json")
    assert answer.finding("near-duplicates")["pairs"] == [["lower/copy.tif", "upper/copy.tif"]]
    assert Image.open(sheet).mode == "RGB"


def test_explanation_image_shows_the_chosen_bands(four: Trained, wisesr: CommandLine, tmp_path: Path) -> None:
    image, folder = first(four), tmp_path / "explained"
    answer = wisesr("explain", four.run, image, "-o", folder, "--bands", "4,2,1", "--format", "json").worked()
    (row,) = (row for row in answer.data["rows"] if row["label"] == "upper")
    assert row["sum"] + row["bias"] == pytest.approx(row["logit"], abs=1e-4)
    (picture,) = folder.glob("image-*.png")
    info = read_model_info(four.run / "best.keras")
    pixels = decode_image(image, image_size=(32, 32), preparation=info.preparation)
    photo = np.asarray(shown_photo(str(image), info, bands=(4, 2, 1)))
    np.testing.assert_array_equal(photo[7::14, 7::14], shown(pixels, (4, 2, 1)))  # 448 pixels show 32
    drawn = np.asarray(Image.open(picture).convert("RGB"))
    places = np.lib.stride_tricks.sliding_window_view(drawn[:, 16:464], 448, axis=0).transpose(0, 3, 1, 2)
    assert min(np.abs(place.astype(int) - photo).mean() for place in places) < 8  # present, except for the drawn box
    for given, said in (("5", "the model sees bands 1 to 4"), ("1,2", "one band, shown as grey, or three")):
        wisesr("explain", four.run, image, "-o", folder, "--bands", given).refused(2, "--bands", said)


def test_report_shows_images_and_names_the_bands(
    four: Trained, grey: Trained, wisesr: CommandLine, tmp_path: Path
) -> None:
    for trained, said in ((four, "4 bands; pictures show bands 1, 2, 3"), (grey, "one, grey")):
        run = trained.copy_to(tmp_path / trained.photos.name)
        wisesr("evaluate", run, "--report").worked()
        (report,) = run.glob("evaluate-*/report.html")
        page = report.read_text(encoding="utf-8")
        assert said in page
        assert "data:image/webp" in page


@on_tensorflow
@pytest.mark.parametrize("kind", ["four", "grey"])
def test_exports_agree_with_the_model_and_describe_their_channels(
    kind: str, request: pytest.FixtureRequest, wisesr: CommandLine, tmp_path: Path
) -> None:
    trained = request.getfixturevalue(kind)
    words = {"four": "4 bands", "grey": "grey"}[kind]
    answer = wisesr("export", trained.run, "--to", "onnx,litert,keras", "-o", tmp_path / "x", "--format", "json")
    assert {row["top1_agreement"] for row in answer.worked().data["rows"]} == {1.0}
    import onnx

    model = onnx.load(tmp_path / "x" / "model.onnx")
    properties = {entry.key: json.loads(entry.value) for entry in model.metadata_props}
    count = 4 if kind == "four" else 1
    assert properties["input"]["layout"] == f"batch, height, width, {words}"
    assert (properties["channels"], model.graph.input[0].type.tensor_type.shape.dim[3].dim_value) == (count, count)
    readme = (tmp_path / "x" / "README.md").read_text()
    assert f"(batch, 32, 32, {count}), {words} in 0..255" in readme
    line = "--to", "onnx", "--pixel-layout", "nchw", "--resize", "inside", "-o", tmp_path / "y", "--format", "json"
    (row,) = wisesr("export", trained.run, *line).worked().data["rows"]
    assert (row["layout"], row["resize"], row["top1_agreement"]) == ("nchw", "inside", 1.0)
    (given,) = onnx.load(tmp_path / "y" / "model.onnx").graph.input
    assert given.type.tensor_type.shape.dim[1].dim_value == count


@pytest.mark.parametrize("channels", [1, 4])
def test_upgraded_run_has_the_channels_of_its_classifier(channels: int, wisesr: CommandLine, tmp_path: Path) -> None:
    inputs = keras.Input((32, 32, channels))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=4, activation="relu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    keras.Model(inputs, keras.layers.Dense(2, activation="softmax", bias_initializer="normal")(x)).save(
        tmp_path / "model.keras"
    )
    photos = make_bands(tmp_path / "photos", bands=channels, count=4)
    for number, given in enumerate(((), ("--data", photos, "-s", "data.value_range=full"))):
        run = tmp_path / f"run{number}"
        options = "--name", run.name, "-o", tmp_path, *given
        wisesr("upgrade", tmp_path / "model.keras", *options).worked()
        assert Run(run).load_config().data.channels == channels
        assert read_model_info(run / "best.keras").preparation.channels == channels


def test_multi_band_run_resumes_with_its_measured_statistics(
    four: Trained, wisesr: CommandLine, tmp_path: Path
) -> None:
    names = "--name", "run", "-o", tmp_path, "--backbone", "compact_small", "--image-size", 32, *BANDS
    wisesr("train", four.photos, *names, "--epochs", 2, "--max-steps", 3).worked()
    before = Run(tmp_path / "run").load_config().data
    wisesr("train", four.photos, *names, "--epochs", 2, "--resume").worked()
    assert Run(tmp_path / "run").load_config().data == before
    assert before.statistics != "auto"
    wisesr("train", four.photos, *names, "--epochs", 3, "--resume", "-s", "data.channels=2").refused(
        2, "data.channels is 2"
    )


def test_parameter_count_follows_the_channels_of_the_first_convolution(wisesr: CommandLine) -> None:
    line = "summarize", "--backbone", "compact_small", "--head", "gap", "--image-size", 32, "--format", "json"
    rows = [wisesr(*line, "-s", f"data.channels={channels}").worked().data["rows"][0] for channels in (3, 1, 5)]
    kernel = 4 * 4 * 24  # per channel
    parameters = [row["backbone_parameters"] - rows[0]["backbone_parameters"] for row in rows]
    assert parameters == [0, -2 * kernel, 2 * kernel]


def test_cache_keys_differ_by_channels_and_stay_the_same_for_rgb(tmp_path: Path) -> None:
    path = str(tmp_path / "a.png")
    Image.fromarray(np.zeros((4, 4, 3), np.uint8)).save(path)
    keys = file_keys([path])
    kinds = [Preparation(channels=channels) for channels in (3, 1, 4)]
    assert len({pixels_key(keys, (8, 8), preparation) for preparation in kinds}) == 3
    assert len({int(file_keys([path], channels=preparation.channels)[0]) for preparation in kinds}) == 3
    text = f"{DECODER_VERSION} (8, 8) Preparation(resize='squash', value_range=None, color='as_is')"
    digest = hashlib.blake2b(text.encode(), digest_size=16)
    digest.update(keys.tobytes())
    assert pixels_key(keys, (8, 8), Preparation()) == digest.hexdigest()
