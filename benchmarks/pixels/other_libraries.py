"""How near do other libraries come to the resizing of wisesr, which Pillow's is, for whoever runs an exported model?

    python -m benchmarks.pixels.other_libraries FOLDER_OF_PHOTOS

Means over an image of the absolute difference, of 255, from `resize: squash`, whole photos that are shrunk;
then over the photos, and the largest. OpenCV is measured where it is installed: pip install opencv-python-headless.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from wisesr_cli.display.grid import Grid, numbers, texts, to_markdown
from wisesr_cli.images import geometry
from wisesr_cli.images.decoding import decode_image
from wisesr_cli.machine import keras_start

SIZES = (64, 128, 224)
MOST_PHOTOS = 100

Pixels = npt.NDArray[np.uint8]
Resize = Callable[[Pixels, int], npt.NDArray[Any]]


def libraries() -> dict[str, Resize]:
    """Return functions that resize an image (height, width, 3) to a square, by the call that users write."""
    keras_start.start("cpu")
    tensorflow = keras_start.load_tensorflow()

    def of_tensorflow(image: Pixels, size: int, **options: Any) -> npt.NDArray[Any]:
        return np.asarray(tensorflow.image.resize(image, (size, size), **options))

    found: dict[str, Resize] = {
        "Pillow, BILINEAR": lambda image, size: np.asarray(
            Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
        ),
        "TensorFlow, antialias=True": lambda image, size: of_tensorflow(image, size, antialias=True),
        "TensorFlow": of_tensorflow,
    }
    if find_spec("cv2") is None:
        print("OpenCV is not installed: pip install opencv-python-headless", file=sys.stderr)
        return found
    cv2: Any = import_module("cv2")
    found["OpenCV, INTER_AREA"] = lambda image, size: cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA)
    found["OpenCV"] = lambda image, size: cv2.resize(image, (size, size))
    return found


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
    for name, resize in libraries().items():
        cells = []
        for size in SIZES:
            differences = [_difference(image, size, resize) for image in images if min(image.shape[:2]) >= size]
            cells.append(f"{np.mean(differences):.2f} (largest {max(differences):.2f})" if differences else "-")
        rows.append((name, *cells))
    columns = (*texts("library"), *numbers(*(f"at {size} px" for size in SIZES)))
    print(to_markdown(Grid(f"difference from wisesr, {len(images)} photos", columns, tuple(rows))))


def _difference(image: Pixels, size: int, resize: Resize) -> float:
    height, width = image.shape[:2]
    expected = geometry.RESIZERS["squash"](image, (size, size), (0, 0, width, height))
    return float(np.abs(expected.astype(float) - resize(image, size).astype(float)).mean())


if __name__ == "__main__":
    main()
