"""How much a JPEG decoded at a fraction of its size differs from a full decode, resized: line patterns and photos.

    python -m benchmarks.pixels.scaled_decoding [FOLDER_OF_PHOTOS]

Differences are mean absolute differences over an image, of 255.
"""

from __future__ import annotations

import io
import sys
from itertools import product
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from wisesr_cli.display.grid import Grid, numbers, to_markdown
from wisesr_cli.images import geometry
from wisesr_cli.images.decoding import decode_image

SIDES, ANGLES, SIZES = (640, 800, 1000), (0, 30, 45), (32, 64, 96, 128, 160, 224)
PERIODS = (2, 2.5, 3, 4, 5, 6, 7, 8, 10, 12, 16, 24)  # pixels
MOST_PHOTOS = 100


def lines(side: int, angle: float, period: float, *, sharp: bool) -> bytes:
    """Return a JPEG of black and white lines."""
    rows, columns = np.mgrid[0:side, 0:side]
    phase = (columns * np.cos(np.radians(angle)) + rows * np.sin(np.radians(angle))) / period
    waves = (np.floor(phase * 2) % 2) * 255 if sharp else (np.sin(phase * 2 * np.pi) + 1) * 127.5
    file = io.BytesIO()
    Image.fromarray(waves.astype(np.uint8)).save(file, "JPEG", quality=92)
    return file.getvalue()


def difference(content: bytes, whole: npt.NDArray[np.uint8], size: int) -> float:
    """Return the mean difference of an image from its full decode, resized."""
    height, width = whole.shape[:2]
    expected = geometry.RESIZERS["squash"](whole, (size, size), (0, 0, width, height))
    decoded = decode_image(content, image_size=(size, size))
    return float(np.abs(decoded.astype(int) - expected.astype(int)).mean())


def main() -> None:
    """Print the largest differences for each period, and those of photos."""
    largest = dict.fromkeys(PERIODS, 0.0)
    tried = 0
    for side, angle, period, sharp in product(SIDES, ANGLES, PERIODS, (True, False)):
        content = lines(side, angle, period, sharp=sharp)
        whole = decode_image(content, image_size=None)
        for size in (size for size in SIZES if side >= 4 * size):  # others are decoded in full
            largest[period] = max(largest[period], difference(content, whole, size))
            tried += 1
    rows = tuple((f"{period:g}", f"{value:.1f}") for period, value in largest.items())
    title = f"{tried} line patterns decoded at a fraction"
    print(to_markdown(Grid(title, numbers("period in pixels", "largest mean difference of 255"), rows)))
    if folders := [argument for argument in sys.argv[1:] if argument != "--quick"]:
        photos = sorted(path for path in Path(folders[0]).rglob("*") if path.suffix.lower() in {".jpg", ".jpeg"})
        photos = photos[:: max(1, len(photos) // MOST_PHOTOS)]
        found = []
        for path in photos:
            content = path.read_bytes()
            whole = decode_image(content, image_size=None)
            found += [difference(content, whole, size) for size in SIZES if min(whole.shape[:2]) >= 4 * size]
        print(f"{len(found)} decodings of {len(photos)} photos: mean {np.mean(found):.2f}, largest {max(found):.2f}")


if __name__ == "__main__":
    main()
