"""Multi-band TIFF files in every storage layout, and folders of them whose class shows only in one band."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

# Options of tifffile for each storage layout; all result in the same pixels.
STORED: dict[str, dict[str, object]] = {
    "samples": {"planarconfig": "contig"},
    "planes": {"planarconfig": "separate"},
    "pages": {},
    "tiles": {"planarconfig": "contig", "tile": (16, 16)},
    "tiles of planes": {"planarconfig": "separate", "tile": (16, 16), "compression": "zlib"},
    "strips": {"planarconfig": "contig", "rowsperstrip": 7, "compression": "lzw", "predictor": True},
    "big": {"planarconfig": "contig", "bigtiff": True, "compression": "zstd"},
    "big-endian": {"planarconfig": "separate", "byteorder": ">", "compression": "packbits"},
    "lzma": {"planarconfig": "contig", "compression": "lzma", "predictor": True},
}


def tiff(pixels: np.ndarray, photometric: str = "minisblack", **options: object) -> bytes:
    """Return a TIFF of pixels (height, width, channels), stored as pages unless options say otherwise."""
    import tifffile

    file = io.BytesIO()
    stored = pixels if photometric == "rgb" or options.get("planarconfig") == "contig" else pixels.transpose(2, 0, 1)
    tifffile.imwrite(file, stored, photometric=photometric, metadata=None, **options)
    return file.getvalue()


def make_bands(folder: Path, *, bands: int, count: int = 16, side: int = 32) -> Path:
    """Make class folders `upper` and `lower` of uint16 images, whose class shows only in a square in the last band.

    The layouts of `STORED` alternate; a single band is an 8-bit PNG.
    """
    draws = np.random.default_rng(bands)
    for label, first in (("lower", side - 10), ("upper", 2)):
        (folder / label).mkdir(parents=True)
        for number in range(count):
            values = draws.integers(200, 3000, (side, side, bands)).astype(np.uint16)
            values[..., -1] //= 20
            column = draws.integers(0, side - 8)
            values[first : first + 8, column : column + 8, -1] = 400
            if bands == 1:
                Image.fromarray((values[..., 0] // 2).astype(np.uint8)).save(folder / label / f"{number}.png")
            else:
                options = list(STORED.values())[number % len(STORED)]
                (folder / label / f"{number}.tif").write_bytes(tiff(values, **options))
    return folder
