"""Images are resized as Pillow's antialiased bilinear filter does it, whatever library computes it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from wisesr_cli.images.geometry import RESIZERS, Box, Pixels

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
def test_resizing_is_pillows_but_for_rounding(given: tuple[int, int], wanted: tuple[int, int], cut: float) -> None:
    pixels = noise(*given)
    box = (cut, cut / 2, given[1] - cut, given[0] - cut / 4)
    expected = Image.fromarray(pixels).resize(wanted[::-1], Image.Resampling.BILINEAR, box=box)
    assert abs(squashed(pixels, wanted, box).astype(int) - np.asarray(expected)).max() <= 1


def test_threads_resize_to_the_same_pixels() -> None:
    images = [noise(120 + number, 90) for number in range(40)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda pixels: squashed(pixels, (64, 64)), images))
    assert all(np.array_equal(squashed(one, (64, 64)), other) for one, other in zip(images, together, strict=True))


@pytest.mark.parametrize("name", list(RESIZERS))
@pytest.mark.parametrize(("given", "wanted"), SHAPES)
def test_every_way_gives_the_size_that_is_wanted(name: str, given: tuple[int, int], wanted: tuple[int, int]) -> None:
    resized = RESIZERS[name](noise(*given), wanted, (0, 0, given[1] - 0.5, given[0] - 0.25))
    assert (resized.shape, resized.dtype) == ((*wanted, 3), np.uint8)
    assert resized.flags.writeable
