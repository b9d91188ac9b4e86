"""Values of more than 8 bits, scaled over their full depth or a given range."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from wisesr_cli.errors import ImageError
from wisesr_cli.images.decoding import decode_image, read_header, read_values
from wisesr_cli.images.preparation import Preparation

WIDE = (1_000.0, 3_000.0)
PNG_KINDS = {0: 1, 2: 3, 4: 2, 6: 4}  # colour type -> channels
RNG = np.random.default_rng(3)


def png16(values: np.ndarray, kind: int, transparent: tuple[int, ...] = ()) -> bytes:
    """Return a 16-bit PNG of values (height, width, channels)."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    key = chunk(b"tRNS", struct.pack(f">{len(transparent)}H", *transparent)) if transparent else b""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + key + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def tiff(values: np.ndarray, *, white_is_zero: bool = False, order: str = "<") -> bytes:
    """Return a one-band TIFF with the dtype of `values`."""
    height, width = values.shape
    data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    kind = {"u": 1, "i": 2, "f": 3}[values.dtype.kind]
    tags = [(256, width), (257, height), (258, values.itemsize * 8), (259, 1), (262, 0 if white_is_zero else 1)]
    tags += [(273, 8), (277, 1), (278, height), (279, len(data)), (339, kind)]
    entries = b"".join(
        struct.pack(
            order + "HHII" if tag in (273, 279) else order + "HHIHH",
            *((tag, 4, 1, value) if tag in (273, 279) else (tag, 3, 1, value, 0)),
        )
        for tag, value in tags
    )
    mark = b"II" if order == "<" else b"MM"
    return (
        mark
        + struct.pack(order + "HI", 42, 8 + len(data))
        + data
        + struct.pack(order + "H", len(tags))
        + entries
        + bytes(4)
    )


def expected(values: np.ndarray, low: float, high: float) -> np.ndarray:
    factor = 255.0 / (high - low)
    return np.rint(np.clip((np.nan_to_num(values.astype(np.float64), nan=low) - low) * factor, 0, 255))


def levels(data: bytes, value_range: tuple[float, float] | None = None) -> np.ndarray:
    return decode_image(data, image_size=None, preparation=Preparation(value_range=value_range)).astype(int)


@pytest.mark.parametrize("kind", PNG_KINDS)
@pytest.mark.reliability(56)
def test_range_uses_both_bytes_of_a_16_bit_png(kind: int) -> None:
    values = RNG.integers(0, 4096, (11, 7, PNG_KINDS[kind]))
    if kind in (4, 6):
        values[..., -1] = 65535
    data = png16(values, kind)
    colors = values[..., :3] if kind in (2, 6) else values[..., :1].repeat(3, axis=-1)
    assert np.array_equal(levels(data, WIDE), expected(colors, *WIDE))
    assert np.array_equal(levels(data), colors >> 8)
    found = read_values(data, pixel_limit=10**6)
    assert found is not None
    assert np.array_equal(found.stored.reshape(11, 7, -1)[..., 0], values[..., 0])
    assert read_header(data).bits == 16


def test_16_bit_transparency_is_applied_with_a_range() -> None:
    values = RNG.integers(1_000, 3_000, (6, 5, 4))
    values[..., 3] = 65535
    values[0, :, 3] = 0
    assert (levels(png16(values, 6), WIDE)[0] == 255).all()
    colored = values[..., :3].copy()
    colored[2, 2] = (1500, 1600, 1700)
    shown = levels(png16(colored, 2, (1500, 1600, 1700)), WIDE)
    assert (shown[2, 2] == 255).all()
    assert np.array_equal(shown[3], expected(colored[3], *WIDE))
    grey = RNG.integers(1_000, 3_000, (6, 5, 1))
    grey[1, 1] = 2_222
    assert (levels(png16(grey, 0, (2_222,)), WIDE)[grey[..., 0] == 2_222] == 255).all()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", ["u2", "i2", "i4", "u4", "f4", "i1"])
@pytest.mark.reliability(56)
def test_range_applies_to_every_type_of_tiff(kind: str, order: str) -> None:
    low, high = (-100, 100) if kind == "i1" else (-1_000, 3_000) if kind[0] != "u" else (200, 3_000)
    values = (RNG.random((9, 8)) * (high - low) + low).astype(kind)
    value_range = (low / 2, high / 2)
    if (kind, order) == ("u4", ">"):
        with pytest.raises(ImageError, match=r"not supported .whole numbers of 32 bits, big-endian"):
            levels(tiff(values, order=order))
        return
    shown = levels(tiff(values, order=order), value_range)
    assert np.array_equal(shown[..., 0], expected(values, *value_range))
    assert np.array_equal(shown[..., 0], shown[..., 2])


def test_integers_beyond_the_signed_range_are_white() -> None:
    values = np.array([[0, 2**31 + 5, 2**32 - 1, 30_000]], np.uint32)
    assert levels(tiff(values))[0, :, 0].tolist() == [0, 255, 255, 30_000 >> 8]
    assert levels(tiff(values), (0.0, 2.0**32 - 1))[0, :, 0].tolist() == [0, 128, 255, 0]


def test_signed_bytes_are_scaled_by_value_and_negative_ones_are_black() -> None:
    values = np.array([[-128, -1, 0, 1, 64, 127]], np.int8)
    assert levels(tiff(values))[0, :, 0].tolist() == [0, 0, 0, 2, 128, 254]
    assert levels(tiff(values), (-128.0, 127.0))[0, :, 0].tolist() == [0, 127, 128, 129, 192, 255]
    assert read_header(tiff(values)).bits == 16


def test_nan_is_black_and_infinities_are_clipped_to_the_range() -> None:
    values = np.array([[np.nan, -np.inf, np.inf, 2_000]], np.float32)
    assert levels(tiff(values), WIDE)[0, :, 0].tolist() == [0, 0, 255, 128]


def test_range_does_not_affect_8_bit_images() -> None:
    pixels = RNG.integers(0, 256, (20, 20, 3)).astype(np.uint8)
    for format_name, mode in (
        ("PNG", "RGB"),
        ("PNG", "L"),
        ("PNG", "P"),
        ("JPEG", "RGB"),
        ("TIFF", "RGB"),
        ("WEBP", "RGB"),
    ):
        file = io.BytesIO()
        Image.fromarray(pixels).convert(mode).save(file, format_name)
        assert np.array_equal(levels(file.getvalue(), WIDE), levels(file.getvalue()))
        assert read_values(file.getvalue(), pixel_limit=10**6) is None
