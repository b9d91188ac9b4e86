"""What images may do to the commands: nothing but a record, a row, or one line that names the file (lines 1 to 11)."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import CLASSES, QUICK, Answer, CommandLine, Trained, fresh, make_photos
from hostile_images import (
    FORMATS,
    ORIENTATION,
    SOUND,
    big_png,
    chunk,
    encoded,
    hostile_images,
    photo,
    rle_bmp,
    write_hostile_images,
)
from image_folders import Heard
from PIL import Image, ImageFile, ImageOps

from wisesr_cli import api
from wisesr_cli.data.settings import DataConfig
from wisesr_cli.images import decoding
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.training.display import TrainingDisplay

Seen = Callable[[str], None]

HINT = "data.pixel_limit or --pixel-limit raises it"
OVER_THE_LIMIT = f"over the pixel limit of 100,000,000 pixels (14000x14000); {HINT}"
CUT = {
    f"cut at {percent} %.{suffix}": (
        (content := encoded(photo(size=(120, 90)), name))[: len(content) * percent // 100],
        f"truncated {'WebP' if name == 'WEBP' else name}",
    )
    for suffix, name in FORMATS.items()
    for percent in (50, 99)
}
UNSUPPORTED = {
    "page.pdf.jpg": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "drawing.eps.png": encoded(photo(), "EPS"),
    "drawing.svg.jpg": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "icon.ico.png": encoded(photo(size=(64, 64)), "ICO"),
    "photo.jp2.jpg": encoded(photo(), "JPEG2000"),
    "layers.psd.tif": b"8BPS\0\1" + bytes(30),
    "photo.heic.jpg": b"\0\0\0\x18ftypheic\0\0\0\0",
    "floats.pfm.ppm": b"Pf\n1 1\n-1.0\n" + bytes(4),
}


@pytest.fixture(autouse=True)
def _empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Give class folders of 18 sound images."""
    return make_photos(tmp_path / "photos", 6)


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of every file in a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def train(wisesr: CommandLine, photos: Path, *more: object) -> Answer:
    return wisesr("train", photos, *QUICK, "-o", "runs", "--name", "new", *more)


def finding(answer: Answer, code: str) -> dict[str, Any]:
    """Return the row of `check --format json` with this code."""
    (row,) = (row for row in answer.data["findings"] if row["code"] == code)
    return dict(row)


def lines_with(words: str, answer: Answer) -> list[str]:
    return [line for line in answer.err.splitlines() if words in line]


def records(answer: Answer) -> list[dict[str, Any]]:
    return [json.loads(line) for line in answer.out.splitlines()]


def assert_bad_everywhere(wisesr: CommandLine, trained: Trained, photos: Path, bad: Path, reason: str) -> str:
    """Assert what every command makes of one bad file among sound ones; return what train said."""
    before = snapshot(trained.run)
    answer = train(wisesr, photos)
    assert answer.code == 3
    assert f"1 unreadable image: {bad.relative_to(photos)}: {reason}" in answer.error.replace(f"{photos}/", "")
    assert "data.on_error=skip" in answer.error
    assert not lines_with("epoch 1/", answer)
    assert not Path("runs", "new", "best.keras").exists()

    checked = wisesr("check", photos, "--image-size", "32", "--format", "json")
    assert checked.code == 3
    assert checked.error
    row = finding(checked, "unreadable-images")
    assert (row["level"], row["count"], row["paths"]) == ("fail", 1, [str(bad.relative_to(photos))])
    assert reason in row["message"]

    evaluated = wisesr("evaluate", trained.run, "--data", photos)
    assert (evaluated.code, evaluated.out) == (3, "")
    assert f"{bad.name}: {reason}" in evaluated.error

    predicted = wisesr("predict", trained.run, photos, "--format", "jsonl")
    assert predicted.code == 6
    assert [row["path"] for row in records(predicted)] == sorted(str(path) for path in photos.rglob("*.*"))
    assert [row["path"] for row in records(predicted) if row["error"]] == [str(bad)]
    (record,) = (row for row in records(predicted) if row["error"])
    assert (record["label"], record["score"], record["top"], record["error"]) == (None, None, [], reason)
    assert lines_with("1 of 19 images could not be read", predicted)
    assert snapshot(trained.run) == before
    return f"train {answer.code}, check FAIL {checked.code}, evaluate {evaluated.code}, predict {predicted.code}"


# 1 to 4: empty, text, cut, too large


@pytest.mark.reliability(1)
def test_an_empty_file_is_named_before_the_first_epoch(
    wisesr: CommandLine, trained: Trained, photos: Path, seen: Seen
) -> None:
    bad = photos / "red" / "empty.jpg"
    bad.write_bytes(b"")
    seen(f"empty file: {assert_bad_everywhere(wisesr, trained, photos, bad, 'empty file')}")


@pytest.mark.reliability(1)
def test_with_skip_an_empty_file_is_listed_and_left_out(wisesr: CommandLine, photos: Path, seen: Seen) -> None:
    (photos / "red" / "empty.jpg").write_bytes(b"")
    answer = train(wisesr, photos, "--epochs", 1, "-s", "data.on_error=skip")
    assert answer.code == 0
    assert lines_with("warning: 1 unreadable image left out: red/empty.jpg: empty file", answer)
    rows = list(csv.DictReader(io.StringIO(Path("runs/new/splits.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 18
    assert not [row for row in rows if "empty" in row["path"]]
    seen(f"skip: exit {answer.code}, 18 of 19 files in splits.csv")


@pytest.mark.reliability(2)
@pytest.mark.parametrize("content", [b"Just some text.\n" * 100, b"\n", b'{"a": 1}', b"BMW is a car. P3 is none."])
def test_text_named_as_an_image_is_not_an_image(
    content: bytes, wisesr: CommandLine, trained: Trained, photos: Path, seen: Seen
) -> None:
    bad = photos / "green" / "text.jpg"
    bad.write_bytes(content)
    seen(f"not an image: {assert_bad_everywhere(wisesr, trained, photos, bad, 'not an image')}")


@pytest.mark.reliability(3)
@pytest.mark.parametrize("name", CUT)
def test_a_cut_file_is_truncated_never_filled(
    name: str, wisesr: CommandLine, trained: Trained, photos: Path, seen: Seen
) -> None:
    content, reason = CUT[name]
    bad = photos / "blue" / name
    bad.write_bytes(content)
    seen(f"{reason}: {assert_bad_everywhere(wisesr, trained, photos, bad, reason)}")


@pytest.mark.reliability(4)
def test_a_bomb_is_refused_by_every_command(wisesr: CommandLine, trained: Trained, photos: Path, seen: Seen) -> None:
    bad = photos / "red" / "bomb.png"
    bad.write_bytes(big_png(14000, 14000, bits=1, colour_type=0, channels=1))
    seen(f"{OVER_THE_LIMIT}: {assert_bad_everywhere(wisesr, trained, photos, bad, OVER_THE_LIMIT)}")


CHECK_AND_TELL_MEMORY = (
    "import atexit, pathlib, sys\n"
    "status = lambda: pathlib.Path('/proc/self/status').read_text()\n"
    "peak = lambda: [line.split()[1] for line in status().splitlines() if line.startswith('VmHWM')][0]\n"
    "atexit.register(lambda: pathlib.Path('peak').write_text(peak()))\n"
    "from wisesr_cli.__main__ import main\n"
    "main()"
)


@pytest.mark.reliability(4)
def test_a_bomb_takes_less_than_500_megabytes_in_a_fresh_process(tmp_path: Path, photos: Path, seen: Seen) -> None:
    def peak_megabytes() -> int:
        answer = fresh("check", photos, "--image-size", "32", cwd=tmp_path, program=("-c", CHECK_AND_TELL_MEMORY))
        assert answer.code == (3 if bad.exists() else 0)
        assert (OVER_THE_LIMIT in " ".join(answer.out.split())) == bad.exists()
        return int((tmp_path / "peak").read_text(encoding="ascii")) // 1024

    bad = photos / "red" / "bomb.png"
    without = peak_megabytes()
    bad.write_bytes(big_png(14000, 14000, colour_type=0, channels=1))
    assert 180_000 < bad.stat().st_size < 200_000
    grown = peak_megabytes() - without
    assert grown < 500
    seen(f"check of a PNG of {bad.stat().st_size:,} bytes: {grown} MB more than without it")


@pytest.mark.reliability(4)
def test_the_pixel_limit_is_a_setting_and_an_option(
    wisesr: CommandLine, trained: Trained, photos: Path, seen: Seen
) -> None:
    large = photos / "red" / "large.png"  # 40 x 30, the others are 32 x 32
    large.write_bytes(encoded(photo(size=(40, 30)), "PNG"))
    reason = f"over the pixel limit of 1,100 pixels (40x30); {HINT}"
    below, above = ("-s", "data.pixel_limit=1100"), ("-s", "data.pixel_limit=1200")

    assert reason in train(wisesr, photos, *below).error
    assert reason in finding(wisesr("check", photos, *below, "--format", "json"), "unreadable-images")["message"]
    assert reason in wisesr("evaluate", trained.run, "--data", photos, "--pixel-limit", 1100).error
    answer = wisesr("predict", trained.run, photos, "--pixel-limit", 1100, "--format", "jsonl")
    assert (answer.code, [row["path"] for row in records(answer) if row["error"] == reason]) == (6, [str(large)])

    assert train(wisesr, photos, *above, "--epochs", 1).code == 0
    assert wisesr("check", photos, *above, "--format", "json").code == 0
    assert wisesr("evaluate", trained.run, "--data", photos, "--pixel-limit", 1200, "--format", "json").code == 0
    assert wisesr("predict", trained.run, photos, "--pixel-limit", 1200).code == 0

    rows = csv.DictReader(io.StringIO(Path("runs/new/splits.csv").read_text(encoding="utf-8")))
    split = next(row["split"] for row in rows if row["path"].endswith("large.png"))
    assert wisesr("evaluate", "runs/new", "--split", split, "--format", "json").code == 0  # the run's own limit
    refused = wisesr("evaluate", "runs/new", "--split", split, "--pixel-limit", 1100)
    assert refused.code == 3
    assert reason in refused.error
    assert wisesr("predict", trained.run, photos, "--pixel-limit", 0).code == 2
    seen(f"limit of 1,100: {reason}; of 1,200: every command 0")


@pytest.mark.reliability(4)
@pytest.mark.parametrize("cache", ["none", "memory", "disk"])
def test_what_was_found_under_one_pixel_limit_is_not_believed_under_another(
    cache: str, wisesr: CommandLine, photos: Path, seen: Seen
) -> None:
    (photos / "red" / "large.png").write_bytes(encoded(photo(size=(40, 30)), "PNG"))
    codes = []
    for number, limit in enumerate((1200, 1100, 1200)):
        settings = ("-s", f"data.pixel_limit={limit}", "-s", f"data.cache={cache}")
        line = ("train", photos, *QUICK, *settings, "--epochs", 1, "-o", "runs", "--name", f"run{number}")
        codes.append(wisesr(*line).code)
    assert codes == [0, 3, 0]
    seen(f"cache {cache}: limits 1,200, 1,100, 1,200 give {codes}")


def test_the_setting_and_the_decoder_have_one_default() -> None:
    assert DataConfig().pixel_limit == PIXEL_LIMIT


# 5: orientation


def turned(image: Image.Image, orientation: int, format_name: str) -> bytes:
    """Return a file that shows `image` when it is turned as its Exif says."""
    inverse = {6: 8, 8: 6}.get(orientation, orientation)
    exif = Image.Exif()
    exif[ORIENTATION] = inverse
    stored = image.copy()
    stored.getexif()[ORIENTATION] = inverse
    stored = ImageOps.exif_transpose(stored)
    exif[ORIENTATION] = orientation
    options = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}.get(format_name, {})
    return encoded(stored, format_name, exif=exif, **options)


def upright(content: bytes) -> bytes:
    """Return what Pillow makes of a turned file, as a PNG without Exif."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    return encoded(Image.fromarray(np.asarray(image.convert("RGB"))), "PNG")


@pytest.fixture
def turned_and_upright(tmp_path: Path) -> tuple[Path, Path]:
    """Give two folders of the same pictures: turned eight ways in four formats, and upright."""
    folders = tmp_path / "turned", tmp_path / "upright"
    for number, (label, orientation) in enumerate((label, value) for label in CLASSES for value in range(1, 9)):
        pixels = np.asarray(photo(size=(44, 36), seed=number)).copy()
        pixels[:10, :20, CLASSES.index(label)] = 255  # tells up from down, left from right, and the class
        for suffix in ("jpg", "png", "webp", "tif"):
            content = turned(Image.fromarray(pixels), orientation, FORMATS[suffix])
            for folder, stored in zip(folders, (content, upright(content)), strict=True):
                (folder / label).mkdir(parents=True, exist_ok=True)
                (folder / label / f"{orientation}-{suffix}.png").write_bytes(stored)
            assert np.abs(np.asarray(Image.open(io.BytesIO(upright(content)))).astype(int) - pixels).mean() < 8
    return folders


@pytest.mark.reliability(5)
def test_turned_images_are_predicted_as_the_upright_ones(
    wisesr: CommandLine, trained: Trained, turned_and_upright: tuple[Path, Path], seen: Seen
) -> None:
    answers = [records(wisesr("predict", trained.run, folder, "--format", "jsonl")) for folder in turned_and_upright]
    assert len(answers[0]) == 3 * 8 * 4
    assert len({row["score"] for row in answers[0]}) > 40  # the pictures are not all alike
    for one, other in zip(*answers, strict=True):
        assert Path(one["path"]).name == Path(other["path"]).name
        assert {**one, "path": ""} == {**other, "path": ""}
    seen("predict: 96 turned JPEG, PNG, WebP and TIFF files have the records of the upright ones")


@pytest.mark.reliability(5)
def test_turned_images_are_judged_as_the_upright_ones(
    wisesr: CommandLine, trained: Trained, turned_and_upright: tuple[Path, Path], tmp_path: Path, seen: Seen
) -> None:
    run = trained.copy_to(tmp_path / "run")
    answers = [wisesr("evaluate", run, "--data", folder, "--format", "json") for folder in turned_and_upright]
    assert [answer.code for answer in answers] == [0, 0]
    assert answers[0].data == answers[1].data
    assert answers[0].data["examples"] == 96
    seen("evaluate: the same metrics, to the last digit")


@pytest.mark.reliability(5)
def test_turned_images_are_explained_as_the_upright_ones(
    wisesr: CommandLine, trained: Trained, turned_and_upright: tuple[Path, Path], tmp_path: Path, seen: Seen
) -> None:
    line = ("--format", "json", "--pictures", "5")
    turned, upright = (
        wisesr("explain", trained.run, folder, "-o", tmp_path / str(number), *line)
        for number, folder in enumerate(turned_and_upright)
    )
    assert (turned.code, upright.code) == (0, 0)
    assert len(turned.data["rows"]) == 96
    for one, other in zip(turned.data["rows"], upright.data["rows"], strict=True):
        assert Path(one["path"]).name == Path(other["path"]).name
        assert {**one, "path": ""} == {**other, "path": ""}
    pictures = [sorted((tmp_path / number).glob("*.png")) for number in "01"]
    assert len(pictures[0]) == 5 + 4  # a sheet for every 24 images
    for one, other in zip(*pictures, strict=True):
        assert (one.name, one.read_bytes()) == (other.name, other.read_bytes())
    seen("explain: 96 turned files have the maps, the pictures and the sheets of the upright ones")


@pytest.mark.reliability(5)
def test_turned_images_train_the_same_network(
    wisesr: CommandLine, turned_and_upright: tuple[Path, Path], seen: Seen
) -> None:
    histories = []
    for folder in turned_and_upright:
        line = ("train", folder, *QUICK, "--epochs", 2, "-o", "runs", "--name", folder.name)
        assert wisesr(*line).code == 0
        histories.append(history(Path("runs", folder.name)))
    assert histories[0] == histories[1]
    assert len(histories[0]) == 2
    seen(f"train: the same history, loss {histories[0][-1]['loss']}")


def history(run: Path) -> list[dict[str, str]]:
    """Return the rows of history.csv without the clocks."""
    rows = csv.DictReader(io.StringIO((run / "history.csv").read_text(encoding="utf-8")))
    return [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in rows]


# 6: colour


def bitfield_bmp(rgb: np.ndarray) -> bytes:
    """Return a BMP of 32 bits whose masks say where the colours are, in an unusual order."""
    height, width = rgb.shape[:2]
    values = rgb.astype(np.uint32)
    packed = (values[..., 0] << 24 | values[..., 1] << 16 | values[..., 2] << 8).astype("<u4")
    start = 14 + 40 + 12
    header = struct.pack("<IiiHHIIiiII", 40, width, -height, 1, 32, 3, packed.nbytes, 0, 0, 0, 0)
    masks = struct.pack("<3I", 0xFF000000, 0xFF0000, 0xFF00)
    return b"BM" + struct.pack("<IHHI", start + packed.nbytes, 0, 0, start) + header + masks + packed.tobytes()


def grey_16(format_name: str) -> tuple[bytes, np.ndarray]:
    """Return a ramp of 16 bits over 32 x 32 pixels, and the 256 levels that it becomes."""
    ramp = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    return encoded(Image.fromarray(ramp), format_name), np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2)


def over_white(image: Image.Image) -> np.ndarray:
    """Return an image with transparency laid over white, computed with fractions."""
    values = np.asarray(image.convert("RGBA")).astype(float)
    share = values[..., 3:] / 255
    return np.rint(values[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def coloured() -> dict[str, tuple[bytes, np.ndarray]]:
    """Return a 32 x 32 file for every kind of colour, with the RGB that the documentation promises."""
    rgb = photo(size=(32, 32))
    cases: dict[str, tuple[bytes, np.ndarray]] = {}
    for name, mode, format_name in (
        ("cmyk.jpg", "CMYK", "JPEG"),
        ("cmyk.tif", "CMYK", "TIFF"),
        ("grey.png", "L", "PNG"),
        ("grey.jpg", "L", "JPEG"),
        ("one-bit.png", "1", "PNG"),
        ("palette.png", "P", "PNG"),
        ("palette.gif", "P", "GIF"),
        ("palette.bmp", "P", "BMP"),
        ("ycbcr.tif", "YCbCr", "TIFF"),
    ):
        content = encoded(rgb.convert(mode), format_name)
        cases[name] = content, np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    shade = Image.fromarray(np.tile(np.arange(32, dtype=np.uint8) * 8, (32, 1)))
    for mode, name in (("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "TIFF"), ("RGBA", "WEBP")):
        image = rgb.convert(mode)
        image.putalpha(shade)
        options = {"lossless": True, "exact": True} if name == "WEBP" else {}
        cases[f"{mode}.{name.lower()}"] = encoded(image, name, **options), over_white(image)
    cases["16 bits.png"], cases["16 bits.tif"] = grey_16("PNG"), grey_16("TIFF")
    cases["bitfields.bmp"] = bitfield_bmp(np.asarray(rgb)), np.asarray(rgb)
    return cases


@pytest.mark.reliability(6)
def test_every_kind_of_colour_is_predicted_as_its_documented_rgb(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, seen: Seen
) -> None:
    cases = coloured()
    for name, (content, rgb) in cases.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.rgb.png").write_bytes(encoded(Image.fromarray(rgb), "PNG"))
    names = [*cases, *(f"{name}.rgb.png" for name in cases)]
    answer = wisesr("predict", trained.run, *names, "--format", "jsonl")
    assert answer.code == 0
    rows = {row["path"]: row for row in records(answer)}
    differences = []
    for name in cases:
        ours, documented = (
            {top["label"]: top["score"] for top in rows[key]["top"]} for key in (name, f"{name}.rgb.png")
        )
        differences.append(max(abs(ours[label] - documented[label]) for label in documented))
        # Where alpha is rounded differently, a channel may be one of 255 away.
        assert differences[-1] < (1e-2 if "A." in name else 1e-6), name
    seen(f"{len(cases)} kinds: scores at most {max(differences):.1g} from those of the documented RGB")


@pytest.mark.reliability(6)
@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_ramp_of_16_bits_keeps_its_256_levels_in_predict(
    suffix: str, wisesr: CommandLine, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    content, expected = grey_16(FORMATS[suffix])
    (tmp_path / f"ramp.{suffix}").write_bytes(content)
    batches: list[np.ndarray] = []
    decode = decoding.decode_with_header

    def keep(*arguments: Any, **options: Any) -> Any:
        pixels, header = decode(*arguments, **options)
        batches.append(pixels)
        return pixels, header

    monkeypatch.setattr(decoding, "decode_with_header", keep)
    assert wisesr("predict", trained.run, f"ramp.{suffix}", "--format", "jsonl").code == 0
    assert np.array_equal(batches[0], expected)
    levels = len(np.unique(batches[0]))
    assert levels == 256
    seen(f"16-bit ramp .{suffix}: {levels} levels reach the network")


# 7 and 8: animated, misnamed, ignored


@pytest.fixture
def odd_photos(tmp_path: Path) -> Path:
    """Give class folders with four films, five WebP files named .jpg, and seven files that are no images by name."""
    folder = make_photos(tmp_path / "odd", 4)
    for number, (suffix, name) in enumerate({"gif": "GIF", "png": "PNG", "webp": "WEBP", "tif": "TIFF"}.items()):
        frames = [photo(size=(32, 32), seed=10 * number + frame) for frame in range(3)]
        options = {"lossless": True} if name == "WEBP" else {}
        content = encoded(frames[0], name, save_all=True, append_images=frames[1:], **options)
        (folder / CLASSES[number % 3] / f"film.{suffix}").write_bytes(content)
        still = Image.open(io.BytesIO(content)).convert("RGB")  # the first frame, with the colours of the format
        (tmp_path / f"still-{number}.png").write_bytes(encoded(still, "PNG"))
    for number in range(5):
        (folder / "red" / f"webp{number}.jpg").write_bytes(encoded(photo(size=(32, 32), seed=number + 90), "WEBP"))
    for number in range(6):
        (folder / "blue" / f"notes{number}.txt").write_bytes(b"text")
    (folder / "blue" / "raw.cr2").write_bytes(b"II*\0" + bytes(50))
    return folder


FILMS = "4 animated or many-page images: only the first frame is used: "
MISNAMED = "5 files read by content, not by suffix: "
IGNORED = "7 files ignored: 6 .txt, 1 .cr2"


@pytest.mark.reliability(7, 8)
@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_films_wrong_suffixes_and_other_files_are_counted_once(
    command: str, wisesr: CommandLine, trained: Trained, odd_photos: Path, tmp_path: Path, seen: Seen
) -> None:
    run = trained.copy_to(tmp_path / "run")
    lines: dict[str, tuple[object, ...]] = {
        "train": ("train", odd_photos, *QUICK, "--epochs", 1, "-o", "runs"),
        "evaluate": ("evaluate", run, "--data", odd_photos),
        "predict": ("predict", run, odd_photos, "--format", "jsonl"),
    }
    answer = wisesr(*lines[command])
    assert answer.code == 0
    (films,) = lines_with("animated", answer)
    assert films.startswith(f"warning: {FILMS}")
    assert films.count("film.") == 3
    (misnamed,) = lines_with("by content", answer)
    assert misnamed.startswith(MISNAMED)
    assert "webp0.jpg, " in misnamed
    assert lines_with("files ignored", answer) == [IGNORED]
    seen(f"{command}: {FILMS}..., {MISNAMED}..., {IGNORED}")


@pytest.mark.reliability(7, 8)
def test_check_has_a_row_for_films_wrong_suffixes_and_other_files(
    wisesr: CommandLine, odd_photos: Path, seen: Seen
) -> None:
    answer = wisesr("check", odd_photos, "--image-size", "32", "--format", "json")
    assert answer.code == 0
    rows = {code: finding(answer, code) for code in ("animated", "wrong-suffix", "ignored-files")}
    assert [(row["level"], row["count"]) for row in rows.values()] == [("warn", 4), ("warn", 5), ("pass", 7)]
    assert len(rows["animated"]["paths"]) == 4
    assert IGNORED in rows["ignored-files"]["message"]
    seen("check: WARN 4 animated, WARN 5 wrong-suffix, PASS 7 ignored-files")


@pytest.mark.reliability(7)
def test_a_film_is_predicted_as_its_first_frame(
    wisesr: CommandLine, trained: Trained, odd_photos: Path, tmp_path: Path, seen: Seen
) -> None:
    films = [path for suffix in ("gif", "png", "webp", "tif") for path in odd_photos.rglob(f"film.{suffix}")]
    stills = [tmp_path / f"still-{number}.png" for number in range(4)]
    answer = wisesr("predict", trained.run, *films, *stills, "--format", "jsonl")
    tops = [row["top"] for row in records(answer)]
    for film, still in zip(tops[:4], tops[4:], strict=True):
        assert [top["label"] for top in film] == [top["label"] for top in still]
        assert [top["score"] for top in film] == pytest.approx([top["score"] for top in still], abs=1e-6)
    seen("animated GIF, PNG, WebP and TIFF: the scores of the first frame")


@pytest.mark.reliability(7, 8)
def test_the_python_function_tells_its_listener_at_the_end(trained: Trained, odd_photos: Path) -> None:
    heard = Heard()
    records_of = api.predict(trained.run, [odd_photos], listener=heard)
    next(records_of)
    assert heard.warnings == []
    assert len(list(records_of)) == 3 * 4 + 4 + 5 - 1
    assert [line.partition(":")[0] + ": " for line in heard.warnings] == [FILMS.partition(":")[0] + ": "]
    assert [line for line in heard.notes if line.startswith((MISNAMED, IGNORED))] == heard.notes[1:]
    assert len(heard.notes) == 3


@pytest.mark.reliability(8)
def test_webp_named_jpg_is_predicted_as_what_it_is(wisesr: CommandLine, trained: Trained, tmp_path: Path) -> None:
    content = encoded(photo(size=(32, 32)), "WEBP")
    for name in ("a.jpg", "a.webp"):
        (tmp_path / name).write_bytes(content)
    answer = wisesr("predict", trained.run, "a.jpg", "a.webp", "--format", "jsonl")
    one, other = records(answer)
    assert one["top"] == other["top"]
    assert lines_with("by content", answer) == ["1 file read by content, not by suffix: a.jpg"]


# 9: formats and decoders


@pytest.mark.reliability(9)
@pytest.mark.parametrize("name", UNSUPPORTED)
def test_other_formats_are_not_supported_and_start_no_program(
    name: str,
    wisesr: CommandLine,
    trained: Trained,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("gs", "gswin32c", "gswin64c", "djpeg", "inkscape", "rsvg-convert", "convert", "magick"):
        (programs / program).write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n", encoding="ascii")
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    bad = photos / "green" / name
    bad.write_bytes(UNSUPPORTED[name])
    said = assert_bad_everywhere(wisesr, trained, photos, bad, "not a supported format")
    assert not (tmp_path / "started").exists()
    seen(f"{name}: not a supported format: {said}; no program started")


RAISED = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, NotImplementedError, RecursionError, IndexError, KeyError),
    *(ZeroDivisionError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError, MemoryError),
)


@pytest.mark.reliability(9)
@pytest.mark.parametrize("method", ["load", "open"])
@pytest.mark.parametrize("raised", RAISED, ids=lambda error: error.__name__)
def test_whatever_a_decoder_raises_is_an_error_of_the_file(
    raised: type[Exception],
    method: str,
    wisesr: CommandLine,
    trained: Trained,
    photos: Path,
    monkeypatch: pytest.MonkeyPatch,
    seen: Seen,
) -> None:
    bad = photos / "green" / "odd.bmp"
    bad.write_bytes(encoded(photo(size=(13, 11)), "BMP"))
    load, opened = ImageFile.ImageFile.load, Image.open

    def fail_to_load(self: ImageFile.ImageFile) -> object:
        if self.size == (13, 11):
            raise raised("inner words")
        return load(self)

    def fail_to_open(file: Any, **options: Any) -> Image.Image:
        image = opened(file, **options)
        if image.size == (13, 11):
            raise raised("inner words")
        return image

    if method == "load":
        monkeypatch.setattr(ImageFile.ImageFile, "load", fail_to_load)
    else:
        monkeypatch.setattr(Image, "open", fail_to_open)
    reason = {MemoryError: "not enough memory to decode it"}.get(raised, "damaged BMP")
    if (raised, method) == (Image.DecompressionBombError, "open"):
        reason = f"over the pixel limit of 100,000,000 pixels; {HINT}"
    seen(f"{raised.__name__}: {reason}: {assert_bad_everywhere(wisesr, trained, photos, bad, reason)}")


# 10: gone or damaged after the scan


@pytest.mark.reliability(10)
@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_a_file_harmed_during_training_is_named_and_the_run_goes_on_once_it_is_back(
    harm: str, wisesr: CommandLine, photos: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    line = ("train", photos, *QUICK, "--epochs", 3, "-s", "data.cache=none", "-o", "runs")
    assert wisesr(*line, "--name", "whole").code == 0
    victim = photos / next(row["path"] for row in split_rows(Path("runs/whole")) if row["split"] == "train")
    content, status, kept = victim.read_bytes(), victim.stat(), {}
    epoch_finished = TrainingDisplay.epoch_finished

    def harm_after_the_first_epoch(self: TrainingDisplay, row: Any, **options: Any) -> None:
        epoch_finished(self, row, **options)
        if row.epoch == 1:
            kept.update(snapshot(Path("runs/harmed")))
            victim.unlink() if harm == "gone" else victim.write_bytes(content[:100])

    with monkeypatch.context() as patch:
        patch.setattr(TrainingDisplay, "epoch_finished", harm_after_the_first_epoch)
        answer = wisesr(*line, "--name", "harmed")
    assert answer.code == 3
    reason = {"gone": "no such file", "cut": "truncated PNG"}[harm]
    assert f"{victim}: {reason}; it could be read when the run started" in answer.error
    after = snapshot(Path("runs/harmed"))
    names = [name for name in kept if name == "best.keras" or name.startswith("state/") or name == "history.csv"]
    assert len(names) > 2
    assert {name: after.get(name) for name in names} == {name: kept[name] for name in names}

    victim.write_bytes(content)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert wisesr(*line, "--name", "harmed", "--resume").code == 0
    assert history(Path("runs/harmed")) == history(Path("runs/whole"))
    seen(f"{harm} in epoch 2: exit 3, {reason}; state and best.keras as after epoch 1; resumed to the same history")


@pytest.mark.reliability(10)
def test_a_file_gone_since_training_is_named_by_evaluate_and_gets_a_record_from_predict(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, seen: Seen
) -> None:
    photos = shutil.copytree(trained.photos, tmp_path / "photos")
    assert wisesr("train", photos, *QUICK, "--epochs", 1, "-o", "runs", "--name", "new").code == 0
    victim = photos / "test" / "red" / "00.png"
    victim.unlink()
    before = snapshot(Path("runs/new"))
    answer = wisesr("evaluate", "runs/new")
    assert answer.code == 3
    assert f"{victim}: no such file" in answer.error
    assert snapshot(Path("runs/new")) == before
    predicted = wisesr("predict", "runs/new", victim, photos / "test" / "red" / "01.png", "--format", "jsonl")
    assert (predicted.code, [row["error"] for row in records(predicted)]) == (6, ["no such file", None])
    seen("gone since training: evaluate 3, predict 6")


def split_rows(run: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO((run / "splits.csv").read_text(encoding="utf-8"))))


# 11: a thousand


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hostile_images(tmp_path_factory.mktemp("thousand") / "odd")


MAIN_AND_TELL_MEMORY = CHECK_AND_TELL_MEMORY
OUR_LINES = re.compile(
    r"(device|run directory|next|wisesr|warning): .*|epoch 1/1 .*|      wisesr predict .*"
    r"|\d+ files read by content, not by suffix: .*|[\d,]+ image.* labelled.*"
)


def run_on_all(folder: Path, *arguments: object) -> tuple[Answer, int]:
    """Run a command in a fresh process; return its answer and its peak of memory in megabytes."""
    answer = fresh(*arguments, cwd=folder, program=("-c", MAIN_AND_TELL_MEMORY))
    assert "Traceback" not in answer.err
    assert "\x1b" not in answer.out + answer.err
    return answer, int((folder / "peak").read_text(encoding="ascii")) // 1024


def test_the_thousand_are_a_thousand_and_always_the_same() -> None:
    files = hostile_images()
    assert len(files) >= 1000
    assert files == hostile_images()


@pytest.mark.reliability(11)
def test_a_thousand_odd_images_give_a_record_each_in_order(
    trained: Trained, thousand: list[Path], tmp_path: Path, seen: Seen
) -> None:
    answer, megabytes = run_on_all(tmp_path, "predict", trained.run, thousand[0].parent, "--format", "jsonl")
    rows = records(answer)
    assert answer.code == 6
    assert [row["path"] for row in rows] == [str(path) for path in thousand]
    unreadable = [row for row in rows if row["error"] is not None]
    assert all((row["label"], row["score"], row["top"]) == (None, None, []) for row in unreadable)
    assert all(row["label"] in CLASSES and len(row["top"]) == 3 for row in rows if row["error"] is None)
    assert not [row for row in unreadable if Path(row["path"]).name.startswith(SOUND)]
    assert not [line for line in answer.err.splitlines() if not OUR_LINES.fullmatch(line)]
    assert lines_with(f"{len(unreadable):,} of {len(rows):,} images could not be read", answer)
    assert megabytes < 4000
    seen(f"predict: {len(rows):,} records in order, {len(unreadable)} with an error, exit 6, peak {megabytes:,} MB")


def spread_over_classes(thousand: list[Path], folder: Path) -> Path:
    make_photos(folder, 6)
    for number, path in enumerate(thousand):
        shutil.copy(path, folder / CLASSES[number % 3])
    return folder


@pytest.mark.slow
@pytest.mark.reliability(11)
def test_a_thousand_odd_images_among_others_are_listed_by_check_and_left_out_by_train(
    wisesr: CommandLine, trained: Trained, thousand: list[Path], tmp_path: Path, seen: Seen
) -> None:
    predicted = records(wisesr("predict", trained.run, thousand[0].parent, "--format", "jsonl"))
    bad = {Path(row["path"]).name for row in predicted if row["error"]}
    folder = spread_over_classes(thousand, tmp_path / "photos")

    checked, check_megabytes = run_on_all(tmp_path, "check", folder, "--image-size", "32", "--format", "json")
    assert checked.code == 3
    row = finding(checked, "unreadable-images")
    assert (row["level"], row["count"]) == ("fail", len(bad))
    assert {Path(path).name for path in row["paths"]} == bad
    assert checked.err.splitlines() == ["wisesr: the check failed: see the FAIL rows"]

    refused = fresh("train", folder, *QUICK, "-o", "runs", cwd=tmp_path)
    assert refused.code == 3
    assert "unreadable images: " in refused.error

    line = ("train", folder, *QUICK, "--epochs", 1, "-q", "-s", "data.on_error=skip", "-o", "runs", "--name", "new")
    answer, train_megabytes = run_on_all(tmp_path, *line)
    assert answer.code == 0
    assert not [line for line in answer.err.splitlines() if not OUR_LINES.fullmatch(line)]
    counts = [int(match[1]) for match in re.finditer(r"(\d+) unreadable images? left out: ", answer.err)]
    assert sum(counts) == len(bad)
    used = {Path(row["path"]).name for row in split_rows(tmp_path / "runs" / "new")}
    assert not used & bad
    assert len(used) == len(thousand) - len(bad) + 6  # the sound ones have six names in three folders
    assert max(check_megabytes, train_megabytes) < 4000
    seen(
        f"check: FAIL {row['count']}, exit 3, peak {check_megabytes:,} MB; train: {refused.code}; with skip: exit 0, "
        f"{sum(counts)} left out, peak {train_megabytes:,} MB"
    )


def test_damaged_tiff_prints_nothing_in_a_fresh_process(trained: Trained, thousand: list[Path], tmp_path: Path) -> None:
    damaged = [path for path in thousand if path.name.startswith(("odd-tiff", "cut")) and path.suffix == ".tif"]
    assert len(damaged) > 150
    answer = fresh("predict", trained.run, *damaged, "--format", "jsonl", "-q", cwd=tmp_path)
    assert answer.code == 6
    assert not [line for line in answer.err.splitlines() if not OUR_LINES.fullmatch(line)]


def test_a_run_length_bmp_with_skips_is_whole(wisesr: CommandLine, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "skips.bmp").write_bytes(rle_bmp(4, 4, b"\4\1\0\2\0\2\4\1\0\1"))
    assert wisesr("predict", trained.run, "skips.bmp").code == 0


def test_a_chunk_of_an_unknown_kind_does_not_cost_the_image(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    content = encoded(photo(), "PNG")
    (tmp_path / "odd.png").write_bytes(content[:33] + chunk(b"abCd", b"x") * 100 + content[33:])
    assert wisesr("predict", trained.run, "odd.png").code == 0
