"""The README of an export states how often labels agree if another library resizes, as measured."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Trained, make_splits
from numpy.typing import NDArray
from PIL import Image, ImageOps

import wisesr_cli
from wisesr_cli.exporting import resizing
from wisesr_cli.exporting.agreement import compare
from wisesr_cli.exporting.readme import RESIZING
from wisesr_cli.exporting.resizing import LIBRARIES, PILLOW, calls_for, nearness
from wisesr_cli.images.geometry import RESIZERS

ROW = re.compile(
    r"^\| (\S+: \S+, BILINEAR|\S+resize, \S+) \| +(\d+) \| +([0-9.]+) % \| +([0-9.e+-]+) \|$", re.MULTILINE
)


def smooth(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    """Return noise-free pixels (height, width, 3), which every filter shrinks alike."""
    few = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(few).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize("rule", sorted(RESIZERS))
def test_the_measured_pillow_resizing_is_that_of_the_snippets(rule: str) -> None:
    assert set(PILLOW) == set(RESIZERS)
    pixels = smooth(70, 90)
    expression = RESIZING[rule].format(height=24, width=40, background=(255, 255, 255))
    names = {"image": Image.fromarray(pixels), "Image": Image, "ImageOps": ImageOps}
    np.testing.assert_array_equal(PILLOW[rule].resize(pixels, (24, 40)), np.asarray(eval(expression, names)))


@pytest.mark.parametrize("name", sorted(LIBRARIES))
def test_every_library_is_close_on_noise_free_pixels(name: str) -> None:
    library = LIBRARIES[name]
    if not library.can_be_imported():
        pytest.skip(f"{name} is not installed: {library.install}")
    pixels = smooth(97, 61)
    expected = RESIZERS["squash"](pixels, (32, 24), (0, 0, 61, 97))
    found = np.asarray(library.resize(pixels, (32, 24)))
    assert found.shape == expected.shape
    assert np.abs(found - expected.astype(float)).mean() < 1.5


def test_a_missing_or_broken_library_is_not_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    absent = resizing.Library("no_such_library", "", "", PILLOW["squash"].resize)
    assert not absent.can_be_imported()

    def broken(name: str) -> Any:
        raise OSError("libGL.so.1: cannot open shared object file")

    monkeypatch.setattr(resizing, "import_module", broken)
    assert not LIBRARIES["OpenCV"].can_be_imported()
    assert "OpenCV" not in resizing.at_hand()


def test_only_pillow_is_measured_if_images_are_cropped_or_padded() -> None:
    assert len(calls_for("squash", ["Pillow", "TensorFlow"])) == 2
    for rule in ("crop", "pad"):
        assert list(calls_for(rule, ["Pillow", "TensorFlow"])) == [PILLOW[rule].call]


def test_the_agreement_compares_the_run_with_itself_on_both_resized_images() -> None:
    wholes = [smooth(50, 40, seed) for seed in range(5)]
    read = [RESIZERS["squash"](whole, (8, 8), (0, 0, 40, 50)) for whole in wholes]

    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return pixels.astype(np.float32).mean(axis=(1, 2)) / 20

    def upside_down(whole: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
        return 255 - PILLOW["squash"].resize(whole, size)  # type: ignore[no-any-return]

    def pairs() -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
        yield from zip(wholes, read, strict=True)

    near, far = nearness(run, pairs(), (8, 8), {"near": PILLOW["squash"].resize, "far": upside_down})
    assert (near.call, near.agreement.images, near.agreement.top1_agreement) == ("near", 5, 1.0)
    expected = np.stack([upside_down(whole, (8, 8)) for whole in wholes])
    assert far.agreement == compare(run(np.stack(read)), run(expected))
    assert far.agreement.top1_agreement < 0.5


def test_the_readme_of_an_export_shows_the_measurements(trained: Trained, tmp_path: Path) -> None:
    photos = make_splits(tmp_path / "photos", train=1, validation=3, test=1)
    for path in photos.rglob("*.png"):
        Image.open(path).resize((61, 97), Image.Resampling.BICUBIC).save(path)
    wisesr_cli.export(trained.run, "keras", data=photos / "validation", output_dir=tmp_path / "exports")
    rows = ROW.findall((tmp_path / "exports" / "README.md").read_text(encoding="utf-8").replace("\\", ""))
    assert [call for call, *_ in rows] == list(calls_for("squash", resizing.at_hand()))
    for _, images, same, largest in rows:
        assert (images, same) == ("9", "100.0")
        assert 0 < float(largest) < 0.1
