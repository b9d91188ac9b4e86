"""How closely do other libraries match the resizing of wisesr (that of Pillow), for users of an exported model?

    python -m benchmarks.pixels.other_libraries FOLDER_OF_PHOTOS

The mean absolute difference over an image (of 255) from `resize: squash`, for whole photos that are shrunk; then the
mean and maximum over the photos. The calls are those of `wisesr_cli/exporting/resizing.py`, for which the README of an
export says how often labels are the same, and the libraries' defaults, which skip pixels. Missing libraries are named.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wisesr_cli.display.grid import Grid, numbers, texts, to_markdown
from wisesr_cli.exporting.resizing import LIBRARIES
from wisesr_cli.images import geometry
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.machine import keras_start

SIZES = (64, 128, 224)
MOST_PHOTOS = 100

Pixels = npt.NDArray[np.uint8]
Resize = Callable[[Pixels, tuple[int, int]], npt.NDArray[Any]]


def calls() -> dict[str, Resize]:
    """Return functions that resize an image (height, width, 3) to a size (height, width), as users call them."""
    keras_start.start("cpu")
    found: dict[str, Resize] = {}
    for name, library in LIBRARIES.items():
        if not library.can_be_imported():
            print(f"{name} cannot be imported: {library.install}", file=sys.stderr)
            continue
        found[library.call] = library.resize
        if name in DEFAULTS:
            found[f"{name}, by default"] = DEFAULTS[name]
    return found


def _default_of_tensorflow(image: Pixels, size: tuple[int, int]) -> npt.NDArray[Any]:
    return np.asarray(keras_start.load_tensorflow().image.resize(image, size))


def _default_of_opencv(image: Pixels, size: tuple[int, int]) -> npt.NDArray[Any]:
    cv2: Any = import_module("cv2")
    return np.asarray(cv2.resize(image, size[::-1]))


DEFAULTS: dict[str, Resize] = {"TensorFlow": _default_of_tensorflow, "OpenCV": _default_of_opencv}


def main() -> None:
    """Print the table."""
    folders = [argument for argument in sys.argv[1:] if argument != "--quick"]
    photos = [path for folder in folders for path in sorted(Path(folder).rglob("*.jpg"))]
    images = [
        decode_image(path.read_bytes(), image_size=None) for path in photos[:: max(1, len(photos) // MOST_PHOTOS)]
    ]
    if not images:
        draws = np.random.default_rng(0)
        images = [draws.integers(0, 256, (600, 800, 3), dtype=np.uint8)]
    rows = []
    for name, resize in calls().items():
        cells = []
        for size in SIZES:
            differences = [_difference(image, size, resize) for image in images if min(image.shape[:2]) >= size]
            cells.append(f"{np.mean(differences):.2f} (largest {max(differences):.2f})" if differences else "-")
        rows.append((name, *cells))
    columns = (*texts("resized by"), *numbers(*(f"at {size} px" for size in SIZES)))
    print(to_markdown(Grid(f"difference from wisesr, {len(images)} photos", columns, tuple(rows))))


def _difference(image: Pixels, size: int, resize: Resize) -> float:
    height, width = image.shape[:2]
    expected = geometry.RESIZERS["squash"](image, (size, size), (0, 0, width, height))
    return float(np.abs(expected.astype(float) - resize(image, (size, size)).astype(float)).mean())


if __name__ == "__main__":
    main()
