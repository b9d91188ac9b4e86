"""Damaged metadata never makes a picture unreadable, and a file is read alike at every size."""

from __future__ import annotations

import io
import zlib

import numpy as np
import pytest
from hostile_images import chunk
from PIL import Image

from wisesr_cli.errors import ImageError
from wisesr_cli.images.color import Pixels
from wisesr_cli.images.decoding import decode_image, read_header
from wisesr_cli.images.preparation import Preparation

PIXELS = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
UNPACKS = zlib.compress(b"x" * 3_000_000)
CHUNKS = {
    b"tEXt": b"a\0" + b"y" * 2_000_000,
    b"zTXt": b"a\0\0" + UNPACKS,
    b"iTXt": b"a\0\1\0\0\0" + UNPACKS,
    b"iCCP": b"icc\0\0" + UNPACKS,
    b"eXIf": b"no exif",
    b"acTL": b"\0",
    b"gAMA": b"",
    b"pHYs": b"1",
    b"tIME": b"",
    b"xxXx": b"of nobody",
}


def written(mode: str, format_name: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(file, format_name)
    return file.getvalue()


def shown(content: bytes) -> Pixels:
    return decode_image(content, image_size=None)


@pytest.mark.reliability(53)
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "1", "I;16"])
@pytest.mark.parametrize("kind", CHUNKS)
def test_ancillary_chunks_of_a_png_never_make_it_unreadable(mode: str, kind: bytes) -> None:
    plain = written(mode)
    before_end = plain.index(b"IEND") - 4
    for body in (CHUNKS[kind], b"", b"\xff" * 50):
        for whole in (chunk(kind, body), chunk(kind, body)[:-4] + b"abcd"):  # with a valid and an invalid checksum
            for place in (33, before_end):
                content = plain[:place] + whole + plain[place:]
                assert np.array_equal(shown(content), shown(plain)), (body[:9], place)
                assert read_header(content)[1:3] == (50, 40)


SEGMENTS = (
    b"", b"JFIF\0", b"Exif\0\0", b"Exif\0\0" + b"\xff" * 40, b"Exif\0\0II*\0\x08\0\0\0\xff\xff" + b"z" * 60,
    b"ICC_PROFILE\0", b"ICC_PROFILE\0\1\1garbage", b"ICC_PROFILE\0\5\2" + b"g" * 60, b"MPF\0",
    b"MPF\0II*\0\x08\0\0\0\xff\xff", b"Adobe", b"Photoshop 3.0\0", b"Photoshop 3.0\x008BIM\x03\xed\0\0\xff\xff\xff\xff",
    b"http://ns.adobe.com/xap/1.0/\0<x", b"FPXR\0" + b"q" * 20, b"q" * 60_000,
)  # fmt: skip


@pytest.mark.reliability(53)
@pytest.mark.parametrize("marker", [*range(0xE0, 0xF0), 0xFE])
def test_metadata_segments_of_a_jpeg_never_make_it_unreadable(marker: int) -> None:
    plain = written("RGB", "JPEG")
    for body in SEGMENTS:
        segment = b"\xff" + bytes([marker]) + (len(body) + 2).to_bytes(2) + body
        content = plain[:2] + segment + plain[2:]
        assert np.array_equal(shown(content), shown(plain)), body[:30]
        assert read_header(content)[1:3] == (50, 40)


@pytest.mark.parametrize("format_name", ["PNG", "JPEG"])
def test_truncated_picture_is_rejected_despite_metadata_before_it(format_name: str) -> None:
    plain = written("RGBA" if format_name == "PNG" else "RGB", format_name)
    beside = chunk(b"iTXt", b"a\0\1\0\0\0" + UNPACKS) if format_name == "PNG" else b"\xff\xeeAdobe"[:2] + b"\0\7Adobe"
    place = 33 if format_name == "PNG" else 2
    content = plain[:place] + beside + plain[place : len(plain) // 2]
    with pytest.raises(ImageError, match=f"truncated {format_name}"):
        shown(content)


def lossless_jpeg(rows: list[list[int]]) -> bytes:
    """Return a lossless JPEG (SOF3, predictor 1) of grey levels that differ from their left neighbour by 1 at most."""
    bits = ""
    for number, row in enumerate(rows):
        before = rows[number - 1][0] if number else 128
        for level in row:
            bits += {0: "0", 1: "101", -1: "100"}[level - before]
            before = level
    bits += "1" * (-len(bits) % 8)
    data = bytes(int(bits[start : start + 8], 2) for start in range(0, len(bits), 8)).replace(b"\xff", b"\xff\0")
    frame = b"\xff\xc3\0\x0b\x08" + len(rows).to_bytes(2) + len(rows[0]).to_bytes(2) + b"\1\1\x11\0"
    table = b"\xff\xc4\0\x15\0" + bytes([1, 1, *[0] * 14]) + b"\0\1"
    return b"\xff\xd8" + frame + table + b"\xff\xda\0\x08\1\1\0\1\0\0" + data + b"\xff\xd9"


@pytest.mark.reliability(54)
@pytest.mark.parametrize("side", [1, 8, 31, 64, 100, 200])
@pytest.mark.parametrize("resize", ["squash", "crop", "pad"])
def test_a_lossless_jpeg_is_read_at_every_size(side: int, resize: str) -> None:
    wave = [128, 129, 130, 130, 129, 128, 127, 126, 126, 127]
    rows = [[wave[(x + y) % 10] for x in range(180)] for y in range(120)]
    content = lossless_jpeg(rows)
    assert np.array_equal(shown(content)[..., 0], np.array(rows))
    picture = Image.fromarray(np.array(rows, np.uint8))
    file = io.BytesIO()
    picture.save(file, "PNG")
    size = (side, side)
    expected = decode_image(file.getvalue(), image_size=size, preparation=Preparation(resize))  # type: ignore[arg-type]
    assert np.array_equal(decode_image(content, image_size=size, preparation=Preparation(resize)), expected)  # type: ignore[arg-type]
