from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from image_folders import Data, make_folder, make_image
from PIL import Image

from wisesr_cli.data.inspection import inspect_data
from wisesr_cli.data.oddities import animated_message, misnamed_message
from wisesr_cli.listening import Progress, Silent
from wisesr_cli.results.images import CheckResult, Finding


def findings(root: Path, **options: object) -> dict[str, Finding]:
    found = inspect_data(Data(dir=root, **options), seed=0, listener=Silent())
    assert all(finding.message.isprintable() for finding in found)
    return {finding.code: finding for finding in found}


def test_a_sound_folder_passes(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 10, "train/b": 10, "validation/a": 50, "validation/b": 50})
    found = findings(tmp_path)
    assert CheckResult(tuple(found.values())).status == "pass"
    assert "2 classes (a 10, b 10); images: train 20, validation 100" in found["classes"].message


def test_small_classes_and_small_splits_trigger_warnings(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 10, "train/b": 9, "validation/a": 99, "test/a": 50, "test/b": 50})
    (tmp_path / "validation" / "b").mkdir()
    found = findings(tmp_path)
    assert found["few-images"].level == found["small-split"].level == "warn"
    assert found["few-images"].message.startswith("1 class has fewer than 10 images to train on: b;")
    assert found["small-split"].message.startswith(
        "99 validation images: an accuracy of 80 % on them is only known to within 8 "
    )


@pytest.mark.parametrize("is_there", [True, False])
def test_class_without_images_in_validation_or_test_triggers_a_warning(tmp_path: Path, is_there: bool) -> None:
    make_folder(tmp_path, {"train/a": 10, "train/b": 10, "train/c": 10, "validation/a": 5, "test/a": 5, "test/b": 5})
    if is_there:
        for folder in ("validation/b", "validation/c", "test/c"):
            (tmp_path / folder).mkdir()
    found = inspect_data(Data(dir=tmp_path), seed=0, listener=Silent())
    rows = [(finding.level, finding.message) for finding in found if finding.code == "class-without-images"]
    assert rows == [
        ("warn", "validation: no image of b, c: a support of 0"),
        ("warn", "test: no image of c: a support of 0"),
    ]
    assert "fail" not in {finding.level for finding in found}


@pytest.mark.parametrize(("suffix", "level"), [("JXL", "warn"), ("psd", "warn"), ("dcm", "warn"), ("txt", "pass")])
def test_ignored_files_trigger_a_warning_only_if_they_are_images(tmp_path: Path, suffix: str, level: str) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / f"x.{suffix}").touch()
    finding = findings(tmp_path)["ignored-files"]
    assert (finding.level, finding.message) == (level, f"1 file ignored: 1 .{suffix.lower()}")


@pytest.mark.parametrize(("on_error", "level"), [("fail", "fail"), ("skip", "warn")])
def test_truncated_images_are_reported_with_other_unreadable_ones(on_error: str, level: str, tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 5, "b": 5})
    (tmp_path / "a" / "zero.jpg").write_bytes(b"")
    whole = make_image(tmp_path / "b" / "whole.png", seed=90).read_bytes()
    (tmp_path / "b" / "cut.png").write_bytes(whole[: len(whole) // 2])
    for _ in range(2):
        finding = findings(tmp_path, on_error=on_error)["unreadable-images"]
        assert (finding.level, finding.count) == (level, 2)
        assert finding.paths == ("a/zero.jpg", "b/cut.png")
        assert "b/cut.png: truncated PNG" in finding.message


def test_tenfold_imbalance_triggers_a_warning(tmp_path: Path) -> None:
    make_folder(tmp_path / "nine", {"a": 18, "b": 2})
    make_folder(tmp_path / "ten", {"a": 20, "b": 2})
    assert "imbalance" not in findings(tmp_path / "nine")
    assert findings(tmp_path / "ten")["imbalance"].level == "warn"


def test_all_class_problems_are_listed(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/Cat": 2, "train/cat": 2, "train/empty": 0, "val/cat": 2, "val/new": 2})
    found = findings(tmp_path)
    assert {code for code, finding in found.items() if finding.level == "fail"} >= {
        "class-names",
        "class-folder",
        "unknown-class",
    }


def test_one_class_and_a_class_too_small_to_split_fail(tmp_path: Path) -> None:
    make_folder(tmp_path / "one", {"a": 3})
    make_folder(tmp_path / "small", {"a": 3, "b": 1})
    assert findings(tmp_path / "one")["one-class"].level == "fail"
    assert findings(tmp_path / "small")["validation"].level == "fail"
    assert "b (1)" in findings(tmp_path / "small")["validation"].message


def test_unusual_images_are_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    Image.new("RGB", (30, 30), (9, 9, 9)).save(tmp_path / "a" / "webp.jpg", format="WEBP")
    Image.new("RGBA", (30, 30), (9, 9, 9, 9)).save(tmp_path / "a" / "alpha.png")
    Image.fromarray(np.full((30, 30), 999, np.uint16)).save(tmp_path / "a" / "deep.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 30), (1, 2, 3)).save(tmp_path / "b" / "turned.jpg", exif=exif)
    frames = [Image.new("RGB", (30, 30), (value, 0, 0)) for value in (10, 200)]
    frames[0].save(tmp_path / "b" / "film.gif", save_all=True, append_images=frames[1:])
    (tmp_path / "b" / "notes.txt").write_bytes(b"x")
    found = findings(tmp_path)
    assert found["wrong-suffix"].paths == ("a/webp.jpg",)
    assert found["alpha"].paths == ("a/alpha.png",)
    assert found["deep"].paths == ("a/deep.png",)
    assert found["animated"].paths == ("b/film.gif",)
    assert found["animated"].level == "warn"
    assert found["animated"].message == animated_message(1, ["b/film.gif"])
    assert found["wrong-suffix"].message == misnamed_message(1, ["a/webp.jpg"])
    assert found["orientation"].count == 1
    assert found["ignored-files"].count == 1


def test_images_far_smaller_than_the_image_size_trigger_a_warning(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})  # 24 x 20
    assert "small-images" not in findings(tmp_path, image_size=(32, 32))
    assert findings(tmp_path, image_size=(64, 64))["small-images"].count == 6


def test_duplicates_that_the_split_would_separate_fail(tmp_path: Path) -> None:
    for number in range(8):
        make_image(tmp_path / "a" / f"{number}.png", 1)
        make_image(tmp_path / "b" / f"{number}.png", 10 + number)
    found = findings(tmp_path)["duplicates"]
    assert found.level == "fail"
    assert "in two splits" in found.message


def test_class_whose_images_are_all_unreadable_fails_even_if_they_are_skipped(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 0, "c": 2})
    (tmp_path / "b" / "zero.jpg").write_bytes(b"")
    found = findings(tmp_path, on_error="skip", validation_split=0.0)
    assert found["unreadable-images"].level == "warn"
    assert found["class-without-images"].level == "fail"
    assert found["class-without-images"].message == "1 class without a readable image: b"


@pytest.mark.parametrize("stage", ["looking at images", "decoding images"])
def test_interrupt_leaves_no_thread_behind(stage: str, tmp_path: Path) -> None:
    class Stopping(Silent):
        @contextmanager
        def progress(self, label: str, total: int | None) -> Iterator[Progress]:
            self.stage = label
            yield self

        def advance(self, steps: int = 1) -> None:
            if self.stage == stage and steps:  # the scan first reports known images, here none
                raise KeyboardInterrupt

    make_folder(tmp_path, {"a": 40, "b": 40})
    with pytest.raises(KeyboardInterrupt) as caught:
        inspect_data(Data(dir=tmp_path), seed=0, listener=Stopping())
    assert caught.value.__traceback__ is not None  # holding it keeps the frames and their objects alive
    assert [thread.name for thread in threading.enumerate() if thread.name.startswith("wisesr")] == []
