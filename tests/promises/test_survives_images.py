"""Intact images in every command, however they are stored, and a thousand odd ones (promises 5 to 8 and 11)."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from command_line import CLASSES, QUICK, Answer, CommandLine, Trained, fresh, make_photos, rows_of, with_peak
from hostile_images import (
    FORMATS,
    ORIENTATION,
    SOUND,
    chunk,
    encoded,
    hostile_images,
    photo,
    rle_bmp,
    write_hostile_images,
)
from image_folders import Heard
from PIL import Image, ImageOps
from reliability import Seen
from run_states import read_history

from wisesr_cli import api

pytestmark = pytest.mark.usefixtures("empty_folder")

# 5: orientation


def turned(image: Image.Image, orientation: int, format_name: str) -> bytes:
    """Return a file that shows `image` once its Exif orientation is applied."""
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
    """Return a rotated file as Pillow decodes it, as a PNG without Exif."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(content)))
    return encoded(Image.fromarray(np.asarray(image.convert("RGB"))), "PNG")


@pytest.fixture
def rotated_and_upright(tmp_path: Path) -> tuple[Path, Path]:
    """Return two folders of the same pictures: in eight orientations and four formats, and upright."""
    folders = tmp_path / "turned", tmp_path / "upright"
    for number, (label, orientation) in enumerate((label, value) for label in CLASSES for value in range(1, 9)):
        pixels = np.asarray(photo(size=(44, 36), seed=number)).copy()
        pixels[:10, :20, CLASSES.index(label)] = 255  # distinguishes orientation and class
        for suffix in ("jpg", "png", "webp", "tif"):
            content = turned(Image.fromarray(pixels), orientation, FORMATS[suffix])
            for folder, stored in zip(folders, (content, upright(content)), strict=True):
                (folder / label).mkdir(parents=True, exist_ok=True)
                (folder / label / f"{orientation}-{suffix}.png").write_bytes(stored)
            assert np.abs(np.asarray(Image.open(io.BytesIO(upright(content)))).astype(int) - pixels).mean() < 8
    return folders


@pytest.mark.reliability(5)
def test_images_with_exif_orientation_are_predicted_like_upright_ones(
    wisesr: CommandLine, trained: Trained, rotated_and_upright: tuple[Path, Path], seen: Seen
) -> None:
    answers = [wisesr("predict", trained.run, folder, "--format", "jsonl").records for folder in rotated_and_upright]
    assert len(answers[0]) == 3 * 8 * 4
    assert len({row["score"] for row in answers[0]}) > 40  # the pictures are not all alike
    for one, other in zip(*answers, strict=True):
        assert Path(one["path"]).name == Path(other["path"]).name
        assert {**one, "path": ""} == {**other, "path": ""}
    seen("predict: 96 rotated JPEG, PNG, WebP and TIFF files have the same records as the upright ones")


@pytest.mark.slow
@pytest.mark.reliability(5)
def test_images_with_exif_orientation_are_evaluated_and_trained_on_like_upright_ones(
    wisesr: CommandLine, trained: Trained, rotated_and_upright: tuple[Path, Path], tmp_path: Path, seen: Seen
) -> None:
    run = trained.copy_to(tmp_path / "run")
    answers = [wisesr("evaluate", run, "--data", folder, "--format", "json") for folder in rotated_and_upright]
    assert [answer.code for answer in answers] == [0, 0]
    assert answers[0].data == answers[1].data
    assert answers[0].data["examples"] == 96
    seen("evaluate: the same metrics, to the last digit")
    for folder in rotated_and_upright:
        assert wisesr("train", folder, *QUICK, "--epochs", 2, "-o", "runs", "--name", folder.name).code == 0
    turned, upright = (read_history(Path("runs", folder.name)) for folder in rotated_and_upright)
    assert turned == upright
    assert len(turned) == 2
    seen(f"train: the same history, loss {turned[-1]['loss']}")


@pytest.mark.reliability(5)
def test_images_with_exif_orientation_are_explained_like_upright_ones(
    wisesr: CommandLine, trained: Trained, rotated_and_upright: tuple[Path, Path], tmp_path: Path, seen: Seen
) -> None:
    line = ("--format", "json", "--pictures", "5")
    turned, upright = (
        wisesr("explain", trained.run, folder, "-o", tmp_path / str(number), *line)
        for number, folder in enumerate(rotated_and_upright)
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
    seen("explain: 96 rotated files have the same maps, pictures and sheets as the upright ones")


# 6: colour


def grey_16(format_name: str) -> tuple[bytes, np.ndarray]:
    """Return a 16-bit ramp over 32 x 32 pixels, and the 256 levels that it becomes."""
    ramp = np.arange(1024, dtype=np.uint16).reshape(32, 32) * 64
    return encoded(Image.fromarray(ramp), format_name), np.repeat((ramp >> 8).astype(np.uint8)[..., None], 3, axis=2)


def over_white(image: Image.Image) -> np.ndarray:
    """Return an image with transparency composited over white in floating point."""
    values = np.asarray(image.convert("RGBA")).astype(float)
    share = values[..., 3:] / 255
    return np.rint(values[..., :3] * share + 255 * (1 - share)).astype(np.uint8)


def coloured() -> dict[str, tuple[bytes, np.ndarray]]:
    """Return a 32 x 32 file for every colour mode, with the RGB values that the documentation promises."""
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
    return cases


@pytest.mark.reliability(6)
def test_every_colour_mode_becomes_its_documented_rgb(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, seen: Seen
) -> None:
    cases = coloured()
    for name, (content, rgb) in cases.items():
        (tmp_path / name).write_bytes(content)
        (tmp_path / f"{name}.rgb.png").write_bytes(encoded(Image.fromarray(rgb), "PNG"))
    names = [*cases, *(f"{name}.rgb.png" for name in cases)]
    answer = wisesr("predict", trained.run, *names, "--format", "jsonl").worked()
    rows = {row["path"]: row for row in answer.records}
    differences = []
    for name in cases:
        ours, documented = (
            {top["label"]: top["score"] for top in rows[key]["top"]} for key in (name, f"{name}.rgb.png")
        )
        differences.append(max(abs(ours[label] - documented[label]) for label in documented))
        # Alpha may be rounded differently, which moves a channel by one level of 255.
        assert differences[-1] < (1e-2 if "A." in name else 1e-6), name
    seen(f"{len(cases)} colour modes: scores within {max(differences):.1g} of those of the documented RGB")


# 7 and 8: animated, misnamed, ignored


@pytest.fixture
def odd_photos(tmp_path: Path) -> Path:
    """Return class folders with four animations, five WebP files named .jpg, and seven files of other suffixes."""
    folder = make_photos(tmp_path / "odd", 4)
    for number, (suffix, name) in enumerate({"gif": "GIF", "png": "PNG", "webp": "WEBP", "tif": "TIFF"}.items()):
        frames = [photo(size=(32, 32), seed=10 * number + frame) for frame in range(3)]
        options = {"lossless": True} if name == "WEBP" else {}
        content = encoded(frames[0], name, save_all=True, append_images=frames[1:], **options)
        (folder / CLASSES[number % 3] / f"film.{suffix}").write_bytes(content)
    for number in range(5):
        (folder / "red" / f"webp{number}.jpg").write_bytes(encoded(photo(size=(32, 32), seed=number + 90), "WEBP"))
    for number in range(6):
        (folder / "blue" / f"notes{number}.txt").write_bytes(b"text")
    (folder / "blue" / "raw.cr2").write_bytes(b"II*\0" + bytes(50))
    return folder


FILMS = "4 animated or multi-page images: only the first frame is used: "
MISNAMED = "5 files read by content, not by suffix: "
IGNORED = "7 files ignored: 6 .txt, 1 .cr2"


@pytest.mark.reliability(7, 8)
@pytest.mark.parametrize("command", ["train", "evaluate", "predict"])
def test_animations_wrong_suffixes_and_other_files_are_counted_once(
    command: str, wisesr: CommandLine, trained: Trained, odd_photos: Path, tmp_path: Path, seen: Seen
) -> None:
    run = trained.copy_to(tmp_path / "run")
    lines: dict[str, tuple[object, ...]] = {
        "train": ("train", odd_photos, *QUICK, "--epochs", 1, "-o", "runs"),
        "evaluate": ("evaluate", run, "--data", odd_photos),
        "predict": ("predict", run, odd_photos, "--format", "jsonl"),
    }
    answer = wisesr(*lines[command]).worked()
    (films,) = answer.said("animated")
    assert films.startswith(f"warning: {FILMS}")
    assert films.count("film.") == 3
    (misnamed,) = answer.said("by content")
    assert misnamed.startswith(MISNAMED)
    assert "webp0.jpg, " in misnamed
    assert answer.said("files ignored") == [IGNORED]
    seen(f"{command}: {FILMS}..., {MISNAMED}..., {IGNORED}")


@pytest.mark.reliability(7, 8)
def test_check_lists_animations_wrong_suffixes_and_ignored_files(
    wisesr: CommandLine, odd_photos: Path, seen: Seen
) -> None:
    answer = wisesr("check", odd_photos, "--image-size", "32", "--format", "json").worked()
    rows = {code: answer.finding(code) for code in ("animated", "wrong-suffix", "ignored-files")}
    assert [(row["level"], row["count"]) for row in rows.values()] == [("warn", 4), ("warn", 5), ("warn", 7)]
    assert len(rows["animated"]["paths"]) == 4
    assert IGNORED in rows["ignored-files"]["message"]
    seen("check: WARN 4 animated, WARN 5 wrong-suffix, WARN 7 ignored-files")


@pytest.mark.reliability(7, 8)
def test_the_python_function_reports_to_its_listener_at_the_end(trained: Trained, odd_photos: Path) -> None:
    heard = Heard()
    records_of = api.predict(trained.run, [odd_photos], listener=heard)
    next(records_of)
    assert heard.warnings == []
    assert len(list(records_of)) == 3 * 4 + 4 + 5 - 1
    assert [line.partition(":")[0] + ": " for line in heard.warnings] == [FILMS.partition(":")[0] + ": "]
    assert [line for line in heard.notes if line.startswith((MISNAMED, IGNORED))] == heard.notes[1:]
    assert len(heard.notes) == 3


@pytest.mark.reliability(8)
def test_webp_named_jpg_is_predicted_like_webp(wisesr: CommandLine, trained: Trained, tmp_path: Path) -> None:
    content = encoded(photo(size=(32, 32)), "WEBP")
    for name in ("a.jpg", "a.webp"):
        (tmp_path / name).write_bytes(content)
    answer = wisesr("predict", trained.run, "a.jpg", "a.webp", "--format", "jsonl")
    one, other = answer.records
    assert one["top"] == other["top"]
    assert answer.said("by content") == ["1 file read by content, not by suffix: a.jpg"]


# 11: a thousand odd images


@pytest.fixture(scope="module")
def thousand(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return write_hostile_images(tmp_path_factory.mktemp("thousand") / "odd")


OUR_LINES = re.compile(
    r"(device|run directory|next|wisesr|warning): .*|epoch 1/1 .*|      wisesr predict .*"
    r"|Labels *|[ ─]*| (label|blue|green|red|\(unreadable\)) .*[\d,]+.* %? *| label +images +share *"
    r"|\d+ files read by content, not by suffix: .*|[\d,]+ image.* labelled.*|labelling: .* left"
)


def run_on_all(folder: Path, *arguments: object) -> tuple[Answer, int]:
    """Run a command in a fresh process, check for tracebacks and raw escapes, and return its peak memory, too."""
    answer, megabytes = with_peak(folder, *arguments)
    assert "Traceback" not in answer.err
    assert "\x1b" not in answer.out + answer.err
    return answer, megabytes


def test_hostile_images_are_at_least_a_thousand_and_reproducible() -> None:
    files = hostile_images()
    assert len(files) >= 1000
    assert files == hostile_images.__wrapped__()


@pytest.mark.reliability(11)
def test_each_of_a_thousand_odd_images_gets_a_record(
    trained: Trained, thousand: list[Path], tmp_path: Path, seen: Seen
) -> None:
    answer, megabytes = run_on_all(tmp_path, "predict", trained.run, thousand[0].parent, "--format", "jsonl")
    rows = answer.records
    assert answer.code == 6
    assert [row["path"] for row in rows] == [str(path) for path in thousand]
    unreadable = [row for row in rows if row["error"] is not None]
    assert all((row["label"], row["score"], row["top"]) == (None, None, []) for row in unreadable)
    assert all(row["label"] in CLASSES and len(row["top"]) == 3 for row in rows if row["error"] is None)
    assert not [row for row in unreadable if Path(row["path"]).name.startswith(SOUND)]
    assert not [line for line in answer.err.splitlines() if not OUR_LINES.fullmatch(line)]
    assert answer.said(f"{len(unreadable):,} of {len(rows):,} images could not be read")
    assert megabytes < 4000
    seen(f"predict: {len(rows):,} records in order, {len(unreadable)} with an error, exit 6, peak {megabytes:,} MB")


def spread_over_classes(thousand: list[Path], folder: Path) -> Path:
    make_photos(folder, 6)
    for number, path in enumerate(thousand):
        shutil.copy(path, folder / CLASSES[number % 3])
    return folder


@pytest.mark.slow
@pytest.mark.reliability(11)
def test_unreadable_images_among_a_thousand_are_listed_by_check_and_skipped_by_train(
    wisesr: CommandLine, trained: Trained, thousand: list[Path], tmp_path: Path, seen: Seen
) -> None:
    predicted = wisesr("predict", trained.run, thousand[0].parent, "--format", "jsonl").records
    bad = {Path(row["path"]).name for row in predicted if row["error"]}
    folder = spread_over_classes(thousand, tmp_path / "photos")

    checked, check_megabytes = run_on_all(tmp_path, "check", folder, "--image-size", "32", "--format", "json")
    assert checked.code == 3
    row = checked.finding("unreadable-images")
    assert (row["level"], row["count"]) == ("fail", len(bad))
    assert {Path(path).name for path in row["paths"]} == bad
    assert checked.err.splitlines() == ["wisesr: the check failed: see the FAIL rows"]

    refused = fresh("train", folder, *QUICK, "-o", "runs", cwd=tmp_path).failed(3, "unreadable images: ")

    line = ("train", folder, *QUICK, "--epochs", 1, "-q", "-s", "data.on_error=skip", "-o", "runs", "--name", "new")
    answer, train_megabytes = run_on_all(tmp_path, *line)
    assert answer.code == 0
    assert not [line for line in answer.err.splitlines() if not OUR_LINES.fullmatch(line)]
    counts = [int(match[1]) for match in re.finditer(r"(\d+) unreadable images? skipped: ", answer.err)]
    assert sum(counts) == len(bad)
    used = {Path(row["path"]).name for row in rows_of(tmp_path / "runs" / "new" / "splits.csv")}
    assert not used & bad
    assert len(used) == len(thousand) - len(bad) + 6  # the added images have six names in three folders
    assert max(check_megabytes, train_megabytes) < 4000
    seen(
        f"check: FAIL {row['count']}, exit 3, peak {check_megabytes:,} MB; train: {refused.code}; with skip: exit 0, "
        f"{sum(counts)} skipped, peak {train_megabytes:,} MB"
    )


def test_damaged_tiff_prints_nothing_in_a_fresh_process(trained: Trained, thousand: list[Path], tmp_path: Path) -> None:
    damaged = [path for path in thousand if path.name.startswith(("odd-tiff", "cut")) and path.suffix == ".tif"]
    assert len(damaged) > 150
    answer = fresh("predict", trained.run, *damaged, "--format", "jsonl", "-q", cwd=tmp_path)
    assert answer.code == 6
    assert not [line for line in answer.err.splitlines() if not OUR_LINES.fullmatch(line)]


def test_bmp_skips_and_unknown_png_chunks_do_not_make_an_image_unreadable(
    wisesr: CommandLine, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "skips.bmp").write_bytes(rle_bmp(4, 4, b"\4\1\0\2\0\2\4\1\0\1"))
    content = encoded(photo(), "PNG")
    (tmp_path / "odd.png").write_bytes(content[:33] + chunk(b"abCd", b"x") * 100 + content[33:])
    assert wisesr("predict", trained.run, "skips.bmp", "odd.png").code == 0
