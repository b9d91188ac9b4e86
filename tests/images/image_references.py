"""Two test pictures, Pillow's reading of a file, and the decoder's reason for rejecting one."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

from wisesr_cli.errors import ImageError
from wisesr_cli.images.decoding import decode_image

ROWS, COLUMNS = np.mgrid[0:120, 0:160]
SMOOTH = np.stack([COLUMNS, ROWS * 2, (ROWS + COLUMNS) // 2], axis=-1).astype(np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (120, 160, 3), dtype=np.uint8)


def reference(data: bytes) -> np.ndarray:
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(int) - other.astype(int)).mean())


def reason(source: object, **options: object) -> str:
    with pytest.raises(ImageError) as caught:
        decode_image(source, image_size=None, **options)
    return str(caught.value)
