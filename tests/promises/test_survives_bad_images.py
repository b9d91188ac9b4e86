"""Unreadable images in every command: a record, a row, or one line that names the file (promises 1 to 4, 9, 10)."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command_line import QUICK, Answer, CommandLine, Trained, make_photos, rows_of, snapshot, with_peak
from hostile_images import FORMATS, big_png, encoded, photo
from PIL import Image, ImageFile
from reliability import Seen
from run_states import read_history

from wisesr_cli.data.settings import DataConfig
from wisesr_cli.images.decoding import PIXEL_LIMIT
from wisesr_cli.images.supported import SHOWN_NAMES
from wisesr_cli.training.display import TrainingDisplay

pytestmark = pytest.mark.usefixtures("empty_folder")

HINT = "data.pixel_limit or --pixel-limit raises the limit"
OVER_THE_LIMIT = f"over the pixel limit of 100,000,000 pixels (14000x14000); {HINT}"
CUT = {
    f"cut at {percent} %.{suffix}": (
        (content := encoded(photo(size=(120, 90)), name))[: len(content) * percent // 100],
        f"truncated {SHOWN_NAMES.get(name, name)}",
    )
    for suffix, name in FORMATS.items()
    for percent in (50, 99)
}
UNSUPPORTED = {
    "page.pdf.jpg": b"%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\nendobj\n",
    "drawing.eps.png": encoded(photo(), "EPS"),
    "drawing.svg.jpg": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "icon.ico.png": encoded(photo(size=(64, 64)), "ICO"),
    "photo.jxl.jpg": b"\xff\x0a" + bytes(50),
    "layers.psd.tif": b"8BPS\0\1" + bytes(30),
    "film.mp4.jpg": b"\0\0\0\x18ftypisom\0\0\0\0",
    "floats.pfm.ppm": b"Pf\n1 1\n-1.0\n" + bytes(4),
}


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Return class folders with 18 intact images."""
    return make_photos(tmp_path / "photos", 6)


def train(wisesr: CommandLine, photos: Path, *more: object) -> Answer:
    return wisesr("train", photos, *QUICK, "-o", "runs", "--name", "new", *more)


def assert_bad_everywhere(wisesr: CommandLine, trained: Trained, photos: Path, bad: Path, reason: str) -> str:
    """Assert how every command handles one bad file among intact ones; return their exit codes as text."""
    before = snapshot(trained.run)
    answer = train(wisesr, photos)
    assert answer.code == 3
    assert f"1 unreadable image: {bad.relative_to(photos)}: {reason}" in answer.error.replace(f"{photos}/", "")
    assert "data.on_error=skip" in answer.error
    assert not answer.said("epoch 1/")
    assert not Path("runs", "new", "best.keras").exists()

    checked = wisesr("check", photos, "--image-size", "32", "--format", "json").failed(3)
    assert checked.data["status"] == "fail"
    row = checked.finding("unreadable-images")
    assert (row["level"], row["count"], row["paths"]) == ("fail", 1, [str(bad.relative_to(photos))])
    assert reason in row["message"]

    evaluated = wisesr("evaluate", trained.run, "--data", photos).refused(3, f"{bad.name}: {reason}")

    predicted = wisesr("predict", trained.run, photos, "--format", "jsonl")
    assert predicted.code == 6
    assert [row["path"] for row in predicted.records] == sorted(str(path) for path in photos.rglob("*.*"))
    assert [row["path"] for row in predicted.records if row["error"]] == [str(bad)]
    (record,) = (row for row in predicted.records if row["error"])
    assert (record["label"], record["score"], record["top"], record["error"]) == (None, None, [], reason)
    assert predicted.said("1 of 19 images could not be read")
    assert snapshot(trained.run) == before
    return f"train {answer.code}, check FAIL {checked.code}, evaluate {evaluated.code}, predict {predicted.code}"


# 1 to 4: empty, text, cut, too large


def bad(line: int, name: str, content: bytes | Callable[[], bytes], reason: str) -> Any:
    return pytest.param(name, content, reason, marks=pytest.mark.reliability(line), id=f"{line} {name}")


TEXTS = (b"Just some text.\n" * 100, b"\n", b'{"a": 1}', b"BMW is a car. P3 is none.")
BAD = [
    bad(1, "empty.jpg", b"", "empty file"),
    *(bad(2, f"text{number}.jpg", content, "not an image") for number, content in enumerate(TEXTS)),
    *(bad(3, name, content, reason) for name, (content, reason) in CUT.items()),
    bad(4, "bomb.png", lambda: big_png(14000, 14000, bits=1, colour_type=0, channels=1), OVER_THE_LIMIT),
    *(bad(9, name, content, "not a supported format") for name, content in UNSUPPORTED.items()),
]


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put programs that decoders might start first in the path; return the file that any of them creates."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for program in ("gs", "gswin32c", "gswin64c", "djpeg", "inkscape", "rsvg-convert", "convert", "magick"):
        (programs / program).write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n", encoding="ascii")
        (programs / program).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    return tmp_path / "started"


@pytest.mark.parametrize(("name", "content", "reason"), BAD)
def test_a_bad_file_is_named_by_every_command_and_starts_no_program(
    name: str, content: Any, reason: str, wisesr: CommandLine, trained: Trained, photos: Path, started: Path, seen: Seen
) -> None:
    path = photos / "green" / name
    path.write_bytes(content() if callable(content) else content)
    seen(f"{reason}: {assert_bad_everywhere(wisesr, trained, photos, path, reason)}")
    assert not started.exists()


@pytest.mark.reliability(1)
def test_on_error_skip_reports_an_empty_file_and_leaves_it_out(wisesr: CommandLine, photos: Path, seen: Seen) -> None:
    (photos / "red" / "empty.jpg").write_bytes(b"")
    answer = train(wisesr, photos, "--epochs", 1, "-s", "data.on_error=skip").worked()
    assert answer.said("warning: 1 unreadable image skipped: red/empty.jpg: empty file")
    rows = rows_of(Path("runs/new/splits.csv"))
    assert len(rows) == 18
    assert not [row for row in rows if "empty" in row["path"]]
    seen(f"skip: exit {answer.code}, 18 of 19 files in splits.csv")


@pytest.mark.reliability(4)
def test_checking_a_decompression_bomb_takes_less_than_500_megabytes(tmp_path: Path, photos: Path, seen: Seen) -> None:
    def peak_megabytes() -> int:
        answer, megabytes = with_peak(tmp_path, "check", photos, "--image-size", "32")
        assert answer.code == (3 if bad.exists() else 0)
        assert (OVER_THE_LIMIT in " ".join(answer.out.split())) == bad.exists()
        return megabytes

    bad = photos / "red" / "bomb.png"
    without = peak_megabytes()
    bad.write_bytes(big_png(14000, 14000, colour_type=0, channels=1))
    assert 180_000 < bad.stat().st_size < 200_000
    grown = peak_megabytes() - without
    assert grown < 500
    seen(f"check of a PNG of {bad.stat().st_size:,} bytes: {grown} MB more than without it")


@pytest.mark.reliability(4)
def test_the_pixel_limit_can_be_set(wisesr: CommandLine, trained: Trained, photos: Path, seen: Seen) -> None:
    large = photos / "red" / "large.png"  # 40 x 30, the others are 32 x 32
    large.write_bytes(encoded(photo(size=(40, 30)), "PNG"))
    reason = f"over the pixel limit of 1,100 pixels (40x30); {HINT}"
    below, above = ("-s", "data.pixel_limit=1100"), ("-s", "data.pixel_limit=1200")

    assert reason in train(wisesr, photos, *below).error
    assert reason in wisesr("check", photos, *below, "--format", "json").finding("unreadable-images")["message"]
    assert reason in wisesr("evaluate", trained.run, "--data", photos, "--pixel-limit", 1100).error
    answer = wisesr("predict", trained.run, photos, "--pixel-limit", 1100, "--format", "jsonl")
    assert (answer.code, [row["path"] for row in answer.records if row["error"] == reason]) == (6, [str(large)])

    assert train(wisesr, photos, *above, "--epochs", 1).code == 0
    assert wisesr("check", photos, *above, "--format", "json").code == 0
    assert wisesr("evaluate", trained.run, "--data", photos, "--pixel-limit", 1200, "--format", "json").code == 0
    assert wisesr("predict", trained.run, photos, "--pixel-limit", 1200).code == 0

    rows = rows_of(Path("runs/new/splits.csv"))
    split = next(row["split"] for row in rows if row["path"].endswith("large.png"))
    assert wisesr("evaluate", "runs/new", "--split", split, "--format", "json").code == 0  # the run's own limit
    wisesr("evaluate", "runs/new", "--split", split, "--pixel-limit", 1100).failed(3, reason)
    assert wisesr("predict", trained.run, photos, "--pixel-limit", 0).code == 2
    seen(f"limit of 1,100: {reason}; of 1,200: every command 0")


@pytest.mark.reliability(4)
@pytest.mark.parametrize(
    "cache", [pytest.param("none", marks=pytest.mark.slow), pytest.param("memory", marks=pytest.mark.slow), "disk"]
)
def test_a_changed_pixel_limit_takes_effect_whatever_the_cache(
    cache: str, wisesr: CommandLine, photos: Path, seen: Seen
) -> None:
    (photos / "red" / "large.png").write_bytes(encoded(photo(size=(40, 30)), "PNG"))
    codes = []
    for number, limit in enumerate((1200, 1100, 1200)):
        settings = ("-s", f"data.pixel_limit={limit}", "-s", f"data.cache={cache}")
        line = ("train", photos, *QUICK, *settings, "--epochs", 1, "-o", "runs", "--name", f"run{number}")
        codes.append(wisesr(*line).code)
    assert codes == [0, 3, 0]
    seen(f"cache {cache}: limits 1,200, 1,100, 1,200: exit {codes}")


def test_the_setting_and_the_decoder_share_one_default() -> None:
    assert DataConfig().pixel_limit == PIXEL_LIMIT


# 9: formats and decoders


RAISED = (
    *(OSError, ValueError, SyntaxError, EOFError, TypeError, NotImplementedError, RecursionError, IndexError, KeyError),
    *(ZeroDivisionError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError, MemoryError),
)


@pytest.mark.reliability(9)
@pytest.mark.parametrize("method", ["load", "open"])
@pytest.mark.parametrize("raised", RAISED, ids=lambda error: error.__name__)
def test_any_exception_in_a_decoder_is_an_error_of_the_file(
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
@pytest.mark.parametrize("harm", [pytest.param("gone", marks=pytest.mark.slow), "cut"])
def test_a_file_damaged_during_training_is_named_and_the_run_resumes_once_restored(
    harm: str, wisesr: CommandLine, photos: Path, monkeypatch: pytest.MonkeyPatch, seen: Seen
) -> None:
    line = ("train", photos, *QUICK, "--epochs", 3, "-s", "data.cache=none", "-o", "runs")
    assert wisesr(*line, "--name", "whole").code == 0
    victim = photos / next(row["path"] for row in rows_of(Path("runs/whole/splits.csv")) if row["split"] == "train")
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
    assert read_history(Path("runs/harmed")) == read_history(Path("runs/whole"))
    seen(f"{harm} in epoch 2: exit 3, {reason}; state and best.keras as after epoch 1; resumed to the same history")


@pytest.mark.reliability(10)
def test_evaluate_and_predict_report_a_file_deleted_since_training(
    wisesr: CommandLine, trained: Trained, tmp_path: Path, seen: Seen
) -> None:
    photos = shutil.copytree(trained.photos, tmp_path / "photos")
    assert wisesr("train", photos, *QUICK, "--epochs", 1, "-o", "runs", "--name", "new").code == 0
    victim = photos / "test" / "red" / "00.png"
    victim.unlink()
    before = snapshot(Path("runs/new"))
    wisesr("evaluate", "runs/new").failed(3, f"{victim}: no such file")
    assert snapshot(Path("runs/new")) == before
    predicted = wisesr("predict", "runs/new", victim, photos / "test" / "red" / "01.png", "--format", "jsonl")
    assert (predicted.code, [row["error"] for row in predicted.records]) == (6, ["no such file", None])
    seen("deleted since training: evaluate exit 3, predict exit 6")
