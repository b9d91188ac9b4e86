"""Copies are found after common changes, and merely similar pictures are not reported as copies."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from drawn_pictures import draw_picture
from image_folders import Data
from PIL import Image, ImageDraw, ImageOps

from benchmarks.copies.near_duplicates import COPIES, save_copy
from benchmarks.measuring import PHOTOS
from wisesr_cli.data.copies import search
from wisesr_cli.data.copies.descriptors import SIDE, Descriptors, are_copies, coarse, correlations
from wisesr_cli.data.inspection import Copies, inspect_data
from wisesr_cli.listening import Silent
from wisesr_cli.results.images import Finding


def findings(root: Path, **options: object) -> dict[str, Finding]:
    found = inspect_data(Data(dir=root, **options), seed=0, listener=Silent(), copies=Copies())
    assert all(finding.message.isprintable() for finding in found)
    return {finding.code: finding for finding in found}


def near_duplicates(root: Path) -> Finding:
    found = findings(root)["near-duplicates"]
    assert found.pairs is not None
    assert found.level == ("warn" if found.pairs else "pass")
    assert found.count == len(found.pairs)
    assert found.paths == tuple(sorted({path for pair in found.pairs for path in pair}))
    return found


def save(picture: Image.Image, *places: Path) -> None:
    for path in places:
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.save(path)


def described(pictures: list[Image.Image]) -> Descriptors:
    found = Descriptors.empty(len(pictures))
    for position, picture in enumerate(pictures):
        assert found.put(position, np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return found


# Copies


@pytest.mark.parametrize("kind", COPIES)
def test_every_copy_in_another_split_is_found_and_nothing_else(tmp_path: Path, kind: str) -> None:
    expected = set()
    for number in range(20):
        picture, split, label = draw_picture(number), ("validation", "test")[number % 2], "ab"[number % 3 == 0]
        save(picture, tmp_path / "train" / label / f"{number:02}.png")
        copy = save_copy(picture, kind, tmp_path / split / label, f"copy{number:02}")
        save(draw_picture(100 + number), tmp_path / split / "ab"[number % 4 == 0] / f"{number:02}.png")
        expected.add(tuple(sorted((f"train/{label}/{number:02}.png", copy.relative_to(tmp_path).as_posix()))))
    assert set(near_duplicates(tmp_path).pairs) == expected


def test_copies_under_two_labels_are_found_and_those_in_one_class_and_split_ignored(tmp_path: Path) -> None:
    for number in range(3):
        save(draw_picture(number), tmp_path / "train/a" / f"{number}.png")
        save(draw_picture(10 + number), tmp_path / "train/b" / f"{number}.png")
    save_copy(draw_picture(0), "mirrored", tmp_path / "train/b", "copy")
    save_copy(draw_picture(1), "JPEG, quality 50", tmp_path / "train/a", "harmless")
    save(draw_picture(20), tmp_path / "validation/a/0.png")
    save(draw_picture(21), tmp_path / "validation/b/0.png")
    found = near_duplicates(tmp_path)
    assert found.pairs == (("train/a/0.png", "train/b/copy.jpg"),)
    assert found.message.startswith(
        "1 pair looks like a copy (re-encoded, resized or mirrored) in two splits or under two labels: "
        "train/a/0.png (train, a) ~ train/b/copy.jpg (train, b); look at them, and remove one of each, "
    )


def test_copies_that_the_validation_split_would_separate_are_found(tmp_path: Path) -> None:
    for number in range(6):
        save(draw_picture(number), tmp_path / "a" / f"{number}.png")
        save_copy(draw_picture(50), "resized by 0.5" if number % 2 else "resized by 2", tmp_path / "b", str(number))
    pairs = near_duplicates(tmp_path).pairs
    assert {path for pair in pairs for path in pair} <= {f"b/{number}.jpg" for number in range(6)}
    assert pairs


def test_identical_files_are_reported_only_as_duplicates(tmp_path: Path) -> None:
    for number in range(3):
        save(draw_picture(number), tmp_path / "train/a" / f"{number}.png", tmp_path / "validation/b" / f"{number}.png")
        save(draw_picture(10 + number), tmp_path / "train/b" / f"{number}.png")
        save(draw_picture(20 + number), tmp_path / "validation/a" / f"{number}.png")
    save_copy(draw_picture(1), "JPEG, quality 75", tmp_path / "validation/a", "copy")
    assert findings(tmp_path)["duplicates"].count == 3
    assert near_duplicates(tmp_path).pairs == (
        ("train/a/1.png", "validation/a/copy.jpg"),
        ("validation/a/copy.jpg", "validation/b/1.png"),
    )


def test_duplicates_row_suggests_near_duplicates_unless_the_option_is_given(tmp_path: Path) -> None:
    for number in range(10):
        save(draw_picture(number), tmp_path / "ab"[number % 2] / f"{number}.png")
    found = {each.code: each for each in inspect_data(Data(dir=tmp_path), seed=0, listener=Silent())}
    assert found["duplicates"].message == (
        "no two equal files are in different splits or under different labels; "
        "--near-duplicates looks for copies that were "
        "re-encoded, resized or mirrored"
    )
    assert "near-duplicates" not in found
    message = findings(tmp_path)["duplicates"].message
    assert message == "no two equal files are in different splits or under different labels"
    assert findings(tmp_path)["near-duplicates"].message == (
        "10 pictures compared: none looks like a copy of one in another split or under another label"
    )


# Similar, uniform, small and unreadable pictures


def a_form(number: int) -> Image.Image:
    """Return a form: the same lines on every page, with different entries."""
    draws = np.random.default_rng(number)
    page = Image.new("RGB", (310, 440), "white")
    canvas = ImageDraw.Draw(page)
    canvas.rectangle((20, 15, 290, 35), fill="navy")
    for y in range(50, 400, 30):
        canvas.rectangle((95, y, 280, y + 15), outline="black")
        canvas.rectangle((25, y + 4, 25 + 50, y + 10), fill="grey")
        canvas.rectangle((100, y + 4, 100 + draws.integers(10, 170), y + 10), fill="black")
    return page


def an_xray(number: int) -> Image.Image:
    """Return a chest X-ray: the same two lungs, with different shades."""
    draws = np.random.default_rng(number)
    y, x = np.mgrid[:256, :256] / 256.0

    def blob(down: float, across: float, height: float, width: float) -> np.ndarray:
        return np.exp(-(((y - down) / height) ** 2) - ((x - across) / width) ** 2)

    shades = 190 * blob(0.5, 0.5, 0.7, 0.55) + 50 * blob(0.5, 0.5, 0.5, 0.05)
    for side in (0.3, 0.7):
        down, across = draws.normal((0.45, side), 0.02)
        shades -= 90 * blob(down, across, 0.28 * draws.normal(1, 0.06), 0.12 * draws.normal(1, 0.06))
    shades += 40 * blob(draws.uniform(0.3, 0.6), draws.uniform(0.25, 0.75), 0.08, 0.08)
    return Image.fromarray((shades + draws.normal(0, 6, shades.shape)).clip(0, 255).astype(np.uint8)).convert("RGB")


def a_texture(number: int) -> Image.Image:
    noise = np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((256, 256), Image.Resampling.NEAREST)


def a_shirt(number: int) -> Image.Image:
    """Return the same shirt in a different colour of the same brightness."""
    shirt = Image.new("RGB", (120, 150), "white")
    hue = Image.new("HSV", (1, 1), (number * 6, 160, 160)).convert("RGB").getpixel((0, 0))
    assert isinstance(hue, tuple)
    hue = tuple(round(level * 110 / (0.299 * hue[0] + 0.587 * hue[1] + 0.114 * hue[2])) for level in hue)
    canvas = ImageDraw.Draw(shirt)
    canvas.polygon(
        [(35, 20), (85, 20), (115, 50), (95, 65), (88, 55), (88, 135), (32, 135), (32, 55), (5, 50)], fill=hue
    )
    canvas.line((60, 20, 60, 135), fill="black")
    return shirt


@pytest.mark.parametrize("draw", [a_form, an_xray, a_texture])
def test_similar_pictures_are_not_reported_as_copies(tmp_path: Path, draw: Callable[[int], Image.Image]) -> None:
    for number in range(40):
        save(draw(number), tmp_path / ("train", "validation")[number % 2] / "ab"[number % 4 > 1] / f"{number}.png")
    copy = save_copy(draw(0), "resized by 0.5", tmp_path / "validation/a", "copy")
    assert near_duplicates(tmp_path).pairs == (("train/a/0.png", copy.relative_to(tmp_path).as_posix()),)


def test_same_shape_is_a_copy_only_in_the_same_colour(tmp_path: Path) -> None:
    for number in range(2):
        save(a_shirt(20 * number), tmp_path / ("train", "validation")[number] / "ab"[number] / "shirt.png")
    save(draw_picture(0), tmp_path / "train/b/0.png")
    save(draw_picture(1), tmp_path / "validation/a/0.png")
    assert near_duplicates(tmp_path).pairs == ()
    save_copy(a_shirt(0), "JPEG, quality 50", tmp_path / "validation/a", "copy")
    assert near_duplicates(tmp_path).pairs == (("train/a/shirt.png", "validation/a/copy.jpg"),)


def test_uniform_pictures_are_counted_and_never_paired(tmp_path: Path) -> None:
    y, x = np.mgrid[:128, :128] / 128
    plain = {
        "white": np.full((128, 128), 255.0),
        "black": np.zeros((128, 128)),
        "grey": np.full((128, 128), 120.0),
        "noise": 120 + np.random.default_rng(0).normal(0, 10, (128, 128)),
        "shade": 150 - 40 * ((x - 0.5) ** 2 + (y - 0.5) ** 2),
        "ramp": 120 + 20 * x,
    }
    for number, (name, values) in enumerate(plain.items()):
        picture = Image.fromarray(values.clip(0, 255).astype(np.uint8))
        for split in ("train", "validation"):
            save(picture, tmp_path / split / "ab"[number % 2] / f"{name}.jpg")
            save(draw_picture(number + 50 * (split == "train")), tmp_path / split / "a" / f"{number}.png")
    found = findings(tmp_path)
    assert found["near-duplicates"].pairs == ()
    row = found["uniform-images"]
    assert (row.level, row.count) == ("warn", 12)
    assert {Path(path).stem for path in row.paths} == plain.keys()
    assert row.message.startswith("12 nearly uniform pictures, too plain to be compared: train/a/grey.jpg, ")


def test_nothing_is_compared_if_all_pictures_are_uniform(tmp_path: Path) -> None:
    for number in range(4):
        save(
            Image.new("RGB", (40, 40), (number, 0, 0)),
            tmp_path / "a" / f"{number}.png",
            tmp_path / "b" / f"{number}.png",
        )
    row = near_duplicates(tmp_path)
    assert (row.level, row.pairs) == ("pass", ())
    assert row.message.startswith("0 pictures compared")


def test_small_pictures_whose_copies_may_be_missed_are_counted(tmp_path: Path) -> None:
    for number in range(10):
        save(draw_picture(number, size=(63 + number % 2, 64)), tmp_path / "ab"[number < 5] / f"{number}.png")
    assert near_duplicates(tmp_path).message == (
        "10 pictures compared: none looks like a copy of one in another split or under another label; of the 5 with a "
        "side of less than 64 pixels, copies may be missed"
    )


def test_unreadable_image_is_reported_only_as_unreadable(tmp_path: Path) -> None:
    for number in range(10):
        save(draw_picture(number), tmp_path / "ab"[number % 2] / f"{number}.png")
    file = tmp_path / "a" / "0.png"
    file.write_bytes(file.read_bytes()[:-3000])
    found = findings(tmp_path)
    assert found["unreadable-images"].paths == ("a/0.png",)
    assert "9 pictures compared" in found["near-duplicates"].message
    assert "uniform-images" not in found


# The search


def test_blockwise_search_matches_a_naive_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 16)
    monkeypatch.setattr(search, "_PAIRS", 3)
    originals = [draw_picture(number, size=(64, 64)) for number in range(40)]
    pictures = described([*originals, *map(ImageOps.mirror, originals[::3]), *originals[::4]])
    count = len(pictures.edges)
    draws = np.random.default_rng(0)
    places, same = draws.integers(0, 3, count), draws.integers(-1, 20, count)
    slow = [
        (first, second)
        for first in range(count)
        for second in range(first + 1, count)
        if places[first] != places[second]
        and not (same[first] == same[second] >= 0)
        and are_copies(pictures.taken(np.array([first])), pictures.taken(np.array([second])))[0]
    ]
    assert len(slow) > 10
    assert search.find_pairs(pictures, places, same, Silent()).tolist() == [list(pair) for pair in slow]


def test_lowest_frequencies_yield_upper_bounds_of_correlations() -> None:
    edges = described([draw_picture(number, size=(64, 64)) for number in range(60)]).edges
    lowest = coarse(edges)
    slack = correlations(lowest, lowest) - correlations(edges, edges)
    assert slack.min() > -0.001
    assert lowest.shape[1] < edges.shape[1] / 3


def test_many_copies_of_one_picture_yield_few_pairs_that_include_each_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BLOCK", 16)
    pictures = described([draw_picture(0)] * 60)
    pairs = search.find_pairs(pictures, np.arange(60) % 2, np.full(60, -1), Silent())
    assert set(pairs.ravel().tolist()) == set(range(60))
    assert len(pairs) <= 60 * search.MOST_PARTNERS
    assert (pairs[:, 0] % 2 != pairs[:, 1] % 2).all()


# Photos


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="needs the photos of clothing")
def test_no_two_of_965_photos_are_reported_as_copies_but_their_copies_are(tmp_path: Path) -> None:
    shutil.copytree(PHOTOS, tmp_path / "photos", ignore=shutil.ignore_patterns("LICENSE"))
    found = near_duplicates(tmp_path / "photos")
    assert (found.pairs, found.message[:22]) == ((), "965 pictures compared:")
    originals = sorted((PHOTOS / "train").rglob("*.jpg"))[::25]
    for number, path in enumerate(originals):
        kind = list(COPIES)[number % len(COPIES)]
        with Image.open(path) as photo:
            save_copy(photo.convert("RGB"), kind, tmp_path / "photos/test" / path.parent.name, f"copy{number}")
    assert len(near_duplicates(tmp_path / "photos").pairs) == len(originals) == 24
