"""AVIF, JPEG 2000 and HEIC: decoded as by their libraries, rejected if truncated, HEIC only with its library."""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

import numpy as np
import pillow_heif
import pytest
from hostile_images import ORIENTATION, encoded
from image_references import difference, reason, reference
from PIL import Image

from wisesr_cli.data.listing.folders import ignored_message
from wisesr_cli.errors import ImageError
from wisesr_cli.images import decoding, formats, supported
from wisesr_cli.images.decoding import decode_image, read_header
from wisesr_cli.machine.installation import install_line

pillow_heif.register_heif_opener()
ROWS, COLUMNS = np.mgrid[0:60, 0:82]
PICTURE = np.stack([ROWS * 4, COLUMNS * 3, (ROWS * COLUMNS) // 20], axis=-1).astype(np.uint8)
KINDS: dict[str, tuple[str, dict[str, object]]] = {
    "AVIF": ("AVIF", {"quality": 90}),
    "JPEG 2000": ("JPEG2000", {}),
    "JPEG 2000 codestream": ("JPEG2000", {"no_jp2": True}),
    "HEIC": ("HEIF", {"quality": 90}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
def test_pixels_match_the_library(kind: str, mode: str) -> None:
    name, options = KINDS[kind]
    data = encoded(Image.fromarray(PICTURE).convert(mode), name, **options)
    assert formats.format_of(data[: formats.PREFIX_BYTES]) == name
    assert np.array_equal(decode_image(data, image_size=None), reference(data))
    assert difference(decode_image(data, image_size=None), reference(encoded(Image.open(io.BytesIO(data)), "PNG"))) == 0
    header = read_header(io.BytesIO(data))
    assert (header.format, header.width, header.height, header.animated) == (name, 82, 60, False)
    assert decode_image(data, image_size=(30, 41)).shape == (30, 41, 3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.reliability(9)
def test_file_truncated_anywhere_is_rejected(kind: str) -> None:
    name, options = KINDS[kind]
    data = encoded(PICTURE, name, **options)
    said = Counter(reason(data[:length]) for length in range(len(data) - 1, 0, -max(1, len(data) // 60)))
    shown = kind.removesuffix(" codestream")
    allowed = {f"truncated {shown}", "not an image", "not a supported format"}
    assert set(said) <= allowed
    assert said.most_common(1)[0][0].startswith("truncated")


@pytest.mark.parametrize("name", ["AVIF", "HEIF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright(name: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(PICTURE, name, quality=90, exif=exif.tobytes())
    upright = Image.new("RGB", (82, 60))
    upright.putdata([tuple(color) for color in PICTURE.reshape(-1, 3).tolist()])
    upright.getexif()[ORIENTATION] = orientation
    expected = reference(encoded(PICTURE, "PNG", exif=exif.tobytes()))
    assert difference(decode_image(data, image_size=None), expected) < 4
    header = read_header(data)
    assert (header.height, header.width) == expected.shape[:2]


def test_16_bit_jpeg_2000_is_read_as_deep() -> None:
    values = (ROWS * 500 + COLUMNS * 100).astype(np.uint16)
    data = encoded(values, "JPEG2000")
    assert read_header(data).bits == 16
    assert np.array_equal(decode_image(data, image_size=None)[..., 0], values >> 8)


@pytest.mark.parametrize("kind", KINDS)
def test_pixel_limit_is_enforced(kind: str) -> None:
    name, options = KINDS[kind]
    with pytest.raises(ImageError, match="over the pixel limit of 4,000 pixels"):
        decode_image(encoded(PICTURE, name, **options), image_size=(8, 8), pixel_limit=4_000)


def test_heic_without_its_library_is_reported_with_the_install_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "a.heic"
    path.write_bytes(encoded(PICTURE, "HEIF"))
    assert decode_image(path, image_size=(8, 8)).shape == (8, 8, 3)
    monkeypatch.setattr(decoding, "reads_heic", lambda: False)
    assert reason(path) == f"reading HEIC needs pillow-heif; install it with: {install_line('heic')}"
    assert ".heic" in supported.SUFFIXES
    assert ignored_message(Counter({".heic": 2})).endswith(f"2 .heic; to read HEIC: {install_line('heic')}")


def test_generic_brand_is_resolved_by_its_compatible_brands() -> None:
    start = b"\0\0\0\x1cftypmif1\0\0\0\0mif1"
    assert formats.format_of(start + b"avifmiaf") == "AVIF"
    assert formats.format_of(start + b"heicmiaf") == "HEIF"
    assert formats.format_of(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2") is None
