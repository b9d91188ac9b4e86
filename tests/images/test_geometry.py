"""Resizing matches Pillow's antialiased bilinear filter, whichever library computes it."""

from __future__ import annotations

import importlib
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hostile_images import ORIENTATION, encoded
from image_references import NOISE, SMOOTH, difference, reference
from PIL import Image, ImageOps

from benchmarks.pixels import scaled_decoding
from wisesr_cli.data.disk_cache import pixels_key
from wisesr_cli.images import geometry, resizing
from wisesr_cli.images.color import BACKGROUND
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.images.geometry import RESIZERS, Box, Pixels
from wisesr_cli.images.preparation import Preparation

NEEDS_CYKOOZ = pytest.mark.skipif(resizing.cykooz_resizer is None, reason="cykooz-resizer has no wheel here")
RANDOM = np.random.default_rng(0)
SHAPES = [
    ((1, 1), (224, 96)),
    ((400, 533), (224, 224)),
    ((533, 400), (96, 64)),
    ((2, 3), (300, 1)),
    ((5, 3000), (7, 7)),
]


def noise(height: int, width: int) -> Pixels:
    return RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8)


def squashed(pixels: Pixels, size: tuple[int, int], box: Box | None = None) -> Pixels:
    return RESIZERS["squash"](pixels, size, box or (0, 0, pixels.shape[1], pixels.shape[0]))


@pytest.mark.parametrize(("given", "wanted"), SHAPES)
@pytest.mark.parametrize("cut", [0.0, 0.375])
@pytest.mark.parametrize(
    "resized", [pytest.param(resizing.resized_by_cykooz, marks=NEEDS_CYKOOZ), resizing.resized_by_pillow]
)
def test_resizing_matches_pillow_up_to_rounding(
    given: tuple[int, int], wanted: tuple[int, int], cut: float, resized: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resizing, "resized", resized)
    pixels = noise(*given)
    box = (cut, cut / 2, given[1] - cut, given[0] - cut / 4)
    expected = Image.fromarray(pixels).resize(wanted[::-1], Image.Resampling.BILINEAR, box=box)
    assert abs(squashed(pixels, wanted, box).astype(int) - np.asarray(expected)).max() <= 1


@NEEDS_CYKOOZ
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("resize", RESIZERS)
def test_pillow_fallback_matches_cykooz_to_within_1(
    channels: int, resize: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = np.random.default_rng(channels).integers(0, 256, (61, 83, channels), dtype=np.uint8)[:, ::-1]
    both = []
    for resized in (resizing.resized_by_cykooz, resizing.resized_by_pillow):
        monkeypatch.setattr(resizing, "resized", resized)
        both.append(RESIZERS[resize](pixels, (40, 30), (0.5, 0, 82.25, 61)))
    assert both[0].shape == both[1].shape == (40, 30, channels)
    assert both[1].flags.writeable
    assert abs(both[0].astype(int) - both[1]).max() <= 1


@NEEDS_CYKOOZ
def test_pillow_is_used_without_cykooz_and_has_its_own_pixel_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    keys, chosen = np.array([1], np.uint64), resizing.resized
    before = pixels_key(keys, (8, 8), Preparation())
    monkeypatch.setitem(sys.modules, "cykooz_resizer", None)
    try:
        importlib.reload(resizing)
        assert resizing.resizer_name() == "Pillow"
        assert pixels_key(keys, (8, 8), Preparation()) != before
        assert squashed(noise(20, 30), (8, 8)).shape == (8, 8, 3)
    finally:
        monkeypatch.undo()
        importlib.reload(resizing)
    assert resizing.resizer_name() == "cykooz-resizer"
    assert resizing.resized.__name__ == chosen.__name__
    assert pixels_key(keys, (8, 8), Preparation()) == before


def test_threads_resize_to_the_same_pixels() -> None:
    images = [noise(120 + number, 90) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pixels: squashed(pixels, (64, 64)), images))
    assert all(np.array_equal(squashed(one, (64, 64)), other) for one, other in zip(images, together, strict=True))


@pytest.mark.parametrize("name", list(RESIZERS))
@pytest.mark.parametrize(("given", "wanted"), SHAPES)
def test_every_resizer_returns_the_requested_size(name: str, given: tuple[int, int], wanted: tuple[int, int]) -> None:
    resized = RESIZERS[name](noise(*given), wanted, (0, 0, given[1] - 0.5, given[0] - 0.25))
    assert (resized.shape, resized.dtype) == ((*wanted, 3), np.uint8)
    assert resized.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("resize", geometry.RESIZERS)
@pytest.mark.parametrize("size", [(64, 48), (49, 80)])
def test_large_rotated_jpeg_is_resized_like_the_full_decode(
    orientation: int, resize: str, size: tuple[int, int]
) -> None:
    rows, columns = np.mgrid[0:603, 0:805]
    waves = np.stack([128 + 120 * np.sin(rows / 9), 128 + 120 * np.cos(columns / 7), columns % 256], -1)
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(waves.astype(np.uint8), "JPEG", quality=92, exif=exif)
    assert (
        difference(
            decode_image(data, image_size=size, preparation=Preparation(resize)), resized(reference(data), size, resize)
        )
        < 2
    )


def resized(pixels: np.ndarray, size: tuple[int, int], resize: str) -> np.ndarray:
    image, (height, width) = Image.fromarray(pixels), size
    if resize == "squash":
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    elif resize == "crop":
        image = ImageOps.fit(image, (width, height), Image.Resampling.BILINEAR)
    else:
        image = ImageOps.pad(image, (width, height), Image.Resampling.BILINEAR, color=BACKGROUND)
    return np.asarray(image)


@pytest.mark.parametrize("resize", geometry.RESIZERS)
@pytest.mark.parametrize("pixels", [NOISE, SMOOTH, np.tile(NOISE, (6, 6, 1)), NOISE[:, :3], NOISE[:5]])
@pytest.mark.parametrize("size", [(32, 32), (17, 90), (90, 17), (200, 300)])
def test_resizing_agrees_with_the_plain_reference(resize: str, pixels: np.ndarray, size: tuple[int, int]) -> None:
    data = encoded(pixels, "PNG")
    assert (
        difference(decode_image(data, image_size=size, preparation=Preparation(resize)), resized(pixels, size, resize))
        < 2
    )


def test_pad_adds_background_around_the_whole_image_and_crop_keeps_the_centre() -> None:
    decoded = decode_image(
        encoded(np.zeros((10, 20, 3), np.uint8), "PNG"), image_size=(20, 20), preparation=Preparation("pad")
    )
    assert [set(rows.ravel()) for rows in np.split(decoded, [5, 15])] == [{255}, {0}, {255}]
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 200
    assert (decode_image(encoded(pixels, "PNG"), image_size=(10, 10), preparation=Preparation("crop")) == 200).all()


@pytest.mark.parametrize("period", [2, 2.5, 3, 5, 8, 10])
def test_scaled_decoding_of_fine_lines_differs_by_no_more_than_documented(period: float) -> None:
    for side, size in ((640, 160), (640, 64), (640, 32), (800, 96), (1000, 224)):
        content = scaled_decoding.lines(side, 0, period, sharp=True)
        whole = decode_image(content, image_size=None)
        assert scaled_decoding.difference(content, whole, size) < 20
